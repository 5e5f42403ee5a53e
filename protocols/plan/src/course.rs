//! The course of an append: which repairs are on the wire how long after its first symbol could leave.

use parhelion_plugin::{Exposure, Structure};

use crate::situation::Terms;

/// One more repair index covers every symbol of the append.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// What of the append the channel may take then.
    pub(crate) exposure: Exposure,
    /// Numbers of indices that may have left before the flush that sent the others, besides none; the exposure for each
    /// counts as well.
    before_flush: [u32; 4],
    /// Seconds until then, on average over the places of the append in its groups.
    pub(crate) expected: f64,
    /// And at the worst place.
    pub(crate) latest: f64,
}

impl Step {
    /// All that the exposure can be, of which the worst counts.
    pub(crate) fn exposures(&self, structure: &Structure) -> impl Iterator<Item = Exposure> {
        let first = self.exposure;
        let group_max = group(structure, u32::MAX);
        let others =
            self.before_flush.into_iter().filter(|&before| before > 0).map(move |before| {
                match first.flushed & u64::MAX.checked_shl(before).unwrap_or(0) {
                    0 => Exposure::steady(first.symbols, first.coverage, group_max),
                    flushed => Exposure { flushed, group_max, ..first },
                }
            });
        std::iter::once(self.exposure).chain(others)
    }
}

/// The steps of an append behind which the queue is empty: its own flush covers it. The first step is that of the bare
/// symbols.
pub(crate) fn lone(structure: &Structure, flush_pause: u32, terms: &Terms) -> Vec<Step> {
    let symbols = terms.symbols;
    let sent = f64::from(symbols) * terms.packet + terms.site_exit;
    let flush = Flush::new(structure, flush_pause, symbols, terms);
    // Regular repairs of a window leave within the append, too.
    let before_flush = match structure {
        Structure::Window { r, c, .. } => {
            let regular = (f64::from(symbols) * f64::from(*c) / f64::from((*r).max(1))).ceil() as u32;
            [regular, regular / 2, 0, 0]
        }
        _ => [0; 4],
    };
    let covered = |index: usize, coverage: u64| {
        let at = sent + terms.flush_delay + flush.sent(index);
        let group_max = match structure {
            Structure::Layered { interleaves, .. } => {
                group(structure, symbols.div_ceil(narrowest(interleaves)))
            }
            Structure::Block { depth, .. } => group(structure, symbols.div_ceil((*depth).max(1))),
            _ => group(structure, symbols),
        };
        let exposure = Exposure { symbols, coverage, group_max, ..flush.exposure(structure, coverage) };
        Step { exposure, before_flush, expected: at, latest: at }
    };
    steps(structure, terms, sent, covered)
}

/// The steps of an append in a stream: later symbols end its groups, or a flush does because they take too long.
pub(crate) fn streamed(structure: &Structure, flush_pause: u32, stream: &Stream, terms: &Terms) -> Vec<Step> {
    let symbols = terms.symbols;
    // Repairs of what went before leave in between.
    let sent = f64::from(symbols) * terms.packet * (1.0 + stream.overhead) + terms.site_exit;
    let places = places(structure, symbols);
    let before_flush = match structure {
        // About half is the worst: neither the regular ones nor the flush have enough.
        Structure::Window { indices, .. } => [5, 6, 7, 8].map(|twelfths| indices * twelfths / 12),
        _ => [0; 4],
    };
    let flush = stream.flush.map(|Flushes { shortest, run, every }| {
        // Short runs are the riskier ones, long ones take longer.
        let [short, long] = [shortest, run].map(|run| Flush::new(structure, flush_pause, run, terms));
        (short, long, every)
    });
    let covered = |index: usize, coverage: u64| {
        let place = places.get(index).copied().unwrap_or_default();
        let behind = place.packets * terms.packet;
        let (mut expected, mut latest) = (place.expected / stream.rate, place.latest / stream.rate);
        if latest > 0.0 {
            // The symbol that ends a group comes with an append of its own, at any place of it.
            let rest = (f64::from(symbols - 1) / stream.rate).min(terms.flush_delay);
            (expected, latest) = (expected + rest / 2.0, latest + rest);
        }
        let steady = Exposure::steady(symbols, coverage, group(structure, u32::MAX));
        let exposure = match &flush {
            None => steady,
            Some((short, long, every)) => {
                if latest > terms.flush_age {
                    // A flush comes at no particular place of the run. What it sends puts off the symbols that would have
                    // ended the group otherwise.
                    expected = (every / 2.0).min(expected) + long.sent(index);
                    latest = every.min(latest) + long.sent(index);
                }
                Exposure {
                    symbols,
                    coverage,
                    group_max: steady.group_max,
                    ..short.exposure(structure, coverage)
                }
            }
        };
        Step { exposure, before_flush, expected: sent + expected + behind, latest: sent + latest + behind }
    };
    steps(structure, terms, sent, covered)
}

/// The bare symbols, then one index after the other in the order in which they leave.
fn steps(structure: &Structure, terms: &Terms, sent: f64, covered: impl Fn(usize, u64) -> Step) -> Vec<Step> {
    let bare = Exposure::steady(terms.symbols, 0, 0);
    let mut all = vec![Step { exposure: bare, before_flush: [0; 4], expected: sent, latest: sent }];
    let (mut expected, mut latest) = (sent, sent);
    for index in 0..structure.repairs_per_symbol().min(u64::BITS) as usize {
        let mut step = covered(index, u64::MAX >> (63 - index));
        // An index counts once those before it do.
        (expected, latest) = (expected.max(step.expected), latest.max(step.latest));
        (step.expected, step.latest) = (expected, latest);
        all.push(step);
    }
    all
}

/// What a stream is to a code: whether its groups end by themselves, and what it costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    /// Source symbols per second that get through.
    rate: f64,
    /// Whether the traffic and its repairs have room on the line, after slowing down as much as it may.
    pub(crate) fits: bool,
    /// Repair symbols per source symbol.
    pub(crate) overhead: f64,
    /// If groups take too long to end by themselves.
    flush: Option<Flushes>,
}

/// The flushes of a stream.
#[derive(Clone, Copy, Debug)]
struct Flushes {
    /// Fewest source symbols between two of them.
    shortest: u32,
    /// And as many as leave room for the repairs.
    run: u32,
    /// Seconds that these take.
    every: f64,
}

impl Stream {
    pub(crate) fn new(structure: &Structure, terms: &Terms) -> Self {
        let steady = structure.overhead();
        let rate = terms.rate.min(terms.capacity / (1.0 + steady)).max(f64::MIN_POSITIVE);
        let fits = terms.rate_min * (1.0 + steady) <= terms.capacity;
        let stream = Self { rate, fits, overhead: steady, flush: None };
        let slowest = places(structure, terms.symbols).iter().map(|place| place.latest).fold(0.0, f64::max);
        // What fills the line leaves no silence in which to flush.
        if terms.rate * (1.0 + steady) >= terms.capacity || slowest <= rate * terms.flush_age {
            return stream;
        }
        let shortest = ((rate * terms.flush_age) as u32).max(terms.symbols);
        // While what a flush sends has no room, symbols queue and put the next one off.
        let spare = terms.capacity / rate - 1.0;
        let mut run = f64::from(shortest);
        while flushed_repairs(structure, run) > spare * run && run < RUN_MAX {
            run *= 1.25;
        }
        let overhead = (flushed_repairs(structure, run) / run).max(steady);
        let every = (run / rate).max(terms.flush_age);
        Self { overhead, flush: Some(Flushes { shortest, run: run as u32, every }), ..stream }
    }

    /// Whether flushes cover it, and not the symbols that follow.
    pub(crate) fn is_flushed(&self) -> bool {
        self.flush.is_some()
    }
}

/// Source symbols between flushes beyond which there are as good as none.
const RUN_MAX: f64 = 1e7;

/// Repair symbols of `run` source symbols between two flushes, those of the latter included; on average over where groups
/// end.
pub(crate) fn flushed_repairs(structure: &Structure, run: f64) -> f64 {
    match structure {
        Structure::None => 0.0,
        Structure::Repetition { copies, .. } => run * f64::from(*copies),
        Structure::Block { r, c, depth } => {
            let (c, depth) = (f64::from(*c), f64::from((*depth).max(1)));
            let all = f64::from((*r).max(1)) * depth;
            let rest = run % all;
            (run / all).floor() * c * depth + rest.ceil().min(depth) * c
        }
        Structure::Layered { r, interleaves, .. } => {
            // Each symbol ends its group with probability 1 / r; the lanes whose last symbol did not are cut short.
            let ends = 1.0 / f64::from((*r).max(1));
            interleaves.iter().map(|&i| run * ends + run.min(f64::from(i)) * (1.0 - ends)).sum()
        }
        Structure::Window { r, c, indices, .. } => {
            run / f64::from((*r).max(1)) * f64::from(*c) + f64::from(*indices)
        }
        Structure::Other { repairs, per, .. } => {
            f64::from(*repairs) * (run / f64::from((*per).max(1))).ceil()
        }
    }
}

/// A flush behind a number of source symbols.
struct Flush {
    run: u32,
    /// Packet times between indices, as far as they are made.
    pause: u32,
    /// Seconds of a packet.
    packet: f64,
    /// By index: repairs up to the last one of it.
    until: Vec<u64>,
}

impl Flush {
    fn new(structure: &Structure, flush_pause: u32, run: u32, terms: &Terms) -> Self {
        let count = |index: u32| match structure {
            Structure::None => 0,
            Structure::Repetition { spacing, .. } => run.min(spacing.saturating_mul(index + 1)),
            Structure::Block { r, depth, .. } => match run % r.saturating_mul(*depth).max(1) {
                0 => *depth,
                rest => rest.min(*depth),
            },
            Structure::Layered { interleaves, .. } => {
                interleaves.get(index as usize).map_or(0, |&interleave| run.min(interleave))
            }
            Structure::Window { .. } | Structure::Other { .. } => 1,
        };
        let until = (0..structure.repairs_per_symbol().min(u64::BITS)).scan(0_u64, |sum, index| {
            *sum += u64::from(count(index));
            Some(*sum)
        });
        let is_worth = terms.packet > 0.0 && structure.gains_by_pauses();
        let pause = if is_worth { flush_pause } else { 0 };
        Self { run, pause, packet: terms.packet, until: until.collect() }
    }

    /// Seconds from the beginning of the flush until all it has of this index and those before is on the wire.
    fn sent(&self, index: usize) -> f64 {
        let repairs = self.until.get(index).copied().unwrap_or(0) as f64;
        (repairs + index as f64 * f64::from(self.pause)) * self.packet
    }

    /// The part of an exposure that tells of flushes.
    fn exposure(&self, structure: &Structure, coverage: u64) -> Exposure {
        let flush_run = self.run.min(structure.flush_run_max());
        Exposure { flushed: coverage, flush_run, flush_pause: self.pause, ..Exposure::steady(1, coverage, 0) }
    }
}

/// Where the repairs of one index leave in a stream that goes on.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Source symbols behind the last one of the append, on average.
    expected: f64,
    /// And at most.
    latest: f64,
    /// Packets behind the last of these symbols, up to and with the repair.
    packets: f64,
}

/// By repair index, for an append of `symbols`.
fn places(structure: &Structure, symbols: u32) -> Vec<Place> {
    let indices = 0..structure.repairs_per_symbol().min(u64::BITS);
    match structure {
        Structure::None => Vec::new(),
        Structure::Repetition { spacing, .. } => {
            let at = |index: u32| f64::from(index + 1) * f64::from(*spacing);
            indices.map(|index| Place { expected: at(index), latest: at(index), packets: 1.0 }).collect()
        }
        Structure::Block { r, depth, .. } => {
            // All blocks that take turns end together, and their repairs leave row by row.
            let rest = f64::from((*r).max(1)) * f64::from(*depth) - 1.0;
            let row = |index: u32| f64::from(index + 1) * f64::from(*depth);
            indices.map(|index| Place { expected: rest / 2.0, latest: rest, packets: row(index) }).collect()
        }
        Structure::Layered { r, interleaves, delayed } => {
            let others = f64::from((*r).max(1)) - 1.0;
            let place = |&interleave: &u32| {
                // Lanes are staggered: the append waits for the last of those that it has a symbol in.
                let lanes = f64::from(symbols.min(interleave));
                let width = f64::from(interleave);
                let delay = f64::from(*delayed);
                Place {
                    expected: width * (others * lanes / (lanes + 1.0) + delay),
                    latest: width * (others + delay),
                    packets: 1.0,
                }
            };
            interleaves.iter().map(place).collect()
        }
        Structure::Window { r, c, .. } => {
            // Spread evenly over the r symbols, and at no particular place behind the append.
            let apart = f64::from((*r).max(1)) / f64::from((*c).max(1));
            let place = |index: u32| {
                let latest = (f64::from(index + 1) * apart).ceil();
                Place { expected: (latest - apart / 2.0).max(0.0), latest, packets: 1.0 }
            };
            indices.map(place).collect()
        }
        Structure::Other { span, .. } => {
            let span = f64::from(*span);
            indices.map(|_| Place { expected: span, latest: span, packets: 1.0 }).collect()
        }
    }
}

/// Most source symbols that a repair includes if a lane of the narrowest kind has `symbols`.
fn group(structure: &Structure, symbols: u32) -> u32 {
    match structure {
        Structure::None => 0,
        Structure::Repetition { .. } => 1,
        Structure::Block { r, .. } | Structure::Layered { r, .. } => symbols.min(*r),
        Structure::Window { window, .. } => symbols.min(*window),
        Structure::Other { span, .. } => *span,
    }
}

fn narrowest(interleaves: &[u32]) -> u32 {
    interleaves.first().copied().unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::situation::Situation;

    const LAYERED: [u32; 3] = [1, 23, 101];

    fn layered() -> Structure {
        Structure::Layered { r: 8, interleaves: LAYERED.to_vec(), delayed: true }
    }

    /// A line of a thousand packets per second, and as many bytes per packet.
    fn terms(symbols_per_second: f64) -> Terms {
        use std::time::Duration;
        Terms::new(&Situation {
            line_bytes_per_second: 1_000_000,
            packet_bytes: 1000,
            symbols_per_second,
            symbol_data_bytes: 1000,
            append_bytes: 4000,
            site_exit: Duration::ZERO,
            lone_share: 0.5,
            flush_delay: Duration::from_millis(10),
            flush_age: Duration::from_millis(40),
            ..Situation::default()
        })
    }

    fn close(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-9 * expected.max(1.0), "{value} is not {expected}");
    }

    #[test]
    fn a_lone_append_has_its_repairs_layer_by_layer() {
        // Four symbols, 10 ms of silence, one repair, a pause of 16, four repairs, a pause, four repairs.
        let steps = lone(&layered(), 16, &terms(100.0));
        let times: Vec<f64> = steps.iter().map(|step| (step.latest * 1000.0).round()).collect();
        assert_eq!(times, [4.0, 15.0, 35.0, 55.0]);
        let full =
            Exposure { symbols: 4, coverage: 7, group_max: 4, flushed: 7, flush_run: 4, flush_pause: 16 };
        assert_eq!(steps[3].exposure, full);
        assert_eq!(steps[0].exposure, Exposure::steady(4, 0, 0));
        close(flushed_repairs(&layered(), 4.0), 0.5 + 0.875 + 4.0 + 4.0);
        // A block code makes no pauses.
        let block = Structure::Block { r: 8, c: 3, depth: 2 };
        let steps = lone(&block, 16, &terms(100.0));
        close(steps[3].latest, 0.020);
        assert_eq!((steps[3].exposure.group_max, steps[3].exposure.flush_pause), (2, 0));
    }

    #[test]
    fn a_busy_stream_ends_groups_by_itself() {
        let terms = terms(728.0);
        let structure = layered();
        let stream = Stream::new(&structure, &terms);
        assert!(!stream.fits && stream.flush.is_none());
        close(stream.rate, 1000.0 / 1.375);
        let steps = streamed(&structure, 16, &stream, &terms);
        assert_eq!(steps[2].exposure, Exposure::steady(4, 0b11, 8));
        // Seven more symbols of each lane, and the delay.
        let sent = 4.0 * 0.001 * 1.375;
        let rest = 3.0 / stream.rate;
        close(steps[3].latest, sent + 8.0 * 101.0 / stream.rate + rest + 0.001);
        close(steps[1].expected, sent + 4.5 / stream.rate + rest / 2.0 + 0.001);
        // It may be slowed down by that little.
        assert!(Stream::new(&structure, &Terms { rate_min: 720.0, ..terms }).fits);
    }

    #[test]
    fn a_light_stream_is_flushed_by_age() {
        let terms = terms(200.0);
        let structure = layered();
        let stream = Stream::new(&structure, &terms);
        // Eight symbols in 40 ms: 1.875 + 8 + 8 repairs; the line has room for 4 per symbol.
        let Flushes { shortest, run, every } = stream.flush.unwrap();
        assert_eq!((shortest, run), (8, 8));
        close(every, 0.04);
        close(stream.overhead, 17.875 / 8.0);
        let steps = streamed(&structure, 2, &stream, &terms);
        let sent = 0.004 * (1.0 + stream.overhead);
        close(steps[3].latest, sent + 0.040 + 0.001 * (1.0 + 8.0 + 8.0 + 4.0) + 0.001);
        assert_eq!((steps[3].exposure.flushed, steps[3].exposure.flush_run), (7, 8));
        // Where there is no room, flushes become rarer, and there is the overhead of the room at most.
        let fuller = Stream::new(&structure, &Terms { rate: 600.0, ..terms.clone() });
        assert!(
            fuller.flush.unwrap().every > 0.04
                && fuller.overhead <= 1.0 / 0.6 - 1.0
                && fuller.overhead > 0.375
        );
        // Narrow groups need no flush.
        let narrow = Structure::Layered { r: 4, interleaves: vec![1], delayed: true };
        assert!(Stream::new(&narrow, &terms).flush.is_none());
    }

    #[test]
    fn blocks_leave_row_by_row() {
        let block = Structure::Block { r: 8, c: 2, depth: 5 };
        let terms = terms(1000.0);
        let stream = Stream::new(&block, &terms);
        let steps = streamed(&block, 0, &stream, &terms);
        close(steps[2].latest, 0.004 * 1.25 + 39.0 / 800.0 + 3.0 / 800.0 + 0.010);
        close(flushed_repairs(&block, 43.0), 10.0 + 6.0);
        close(flushed_repairs(&block, 80.0), 20.0);
    }
}

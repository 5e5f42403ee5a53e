//! Sliding windows: a queue of unknowns, served by repairs.
//!
//! Let a lost source symbol be an unknown, and a repair that arrived an equation. What counts is how many equations are
//! lacking: one more with each loss, one less with each equation, never below zero. A lost symbol is known when the count
//! has been zero since, and the append is lost if that did not happen until the crash. So the state is the count, the
//! channel, and whether a symbol of the append is pending; every packet is one step of it.
//!
//! # Why the count is enough
//! Repairs of a stream include all symbols of the window in front of them. Let the count be zero now, for the first time
//! since it began at zero, or with `n` for the `n` symbols that were lost in the window before that. Suppose some
//! unknowns lacked an equation: as the unknowns that a repair includes follow each other, there would be an oldest part of
//! them, up to a symbol `y`, that has fewer equations than unknowns until `y` leaves the window. Without it, more
//! equations than unknowns are left behind it, none of which includes any of it; with the largest such part gone, no other
//! one is left (Hall's theorem, for neighbours that are intervals). So whatever is still in the window is known. A symbol of an
//! append here is: the repairs that count here include it.
//!
//! That is the rank if no equation depends on others by chance. Among repairs that include the same lost symbols the code
//! rules that out ([`Structure::Window`](parhelion_plugin::Structure::Window)); among others it happens, to random factors once in 256
//! times and to those of `sliding-window` less often. Here one in [`DEPENDENT`] is taken to be lost on these grounds.
//!
//! # Two situations
//! - *Steady*: the stream goes on, regular repairs leave behind the append, and new symbols that may be lost between
//!   them. Before it, the symbols of one window have no repairs at all, then come some, up to [`STREAM`], with repairs:
//!   what the count is then bounds what it is in an endless stream.
//! - *Flushed*: a flush has sent equations about the symbols that lacked some, and no older ones: a block code of these
//!   symbols. More repairs may have left before; they are not counted on.
//!
//! The place of the append among the regular repairs is not known: the figure is that of the worst one. Pauses of a flush may be
//! longer than is known, which can be worse where several of its repairs are needed: the figure is that of the worst
//! longer one.

use parhelion_plugin::Exposure;

use crate::chain::{Chain, Matrix, Pair, any_of, columns, dot};
use crate::flush::gcd;
use crate::lacking::Lacking;

/// A code of this structure, made fit to be computed with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Regular repairs for each `r` source symbols, spread evenly.
    r: u32,
    c: u32,
    window: u32,
    indices: u32,
}

/// Of the equations that include different unknowns, one in so many is taken to be dependent on the others.
const DEPENDENT: f64 = 128.0;

/// Symbols up to the end of the append whose repairs are counted, at least.
const STREAM: u32 = 192;

/// Counts of lacking equations that are told apart before an append; from there on it does not come down again.
const COUNTS: usize = 40;

/// Steps that the placements of an append in a stream may take. Longer appends are cut in parts.
const STEPS_MAX: u32 = 600;

/// Codes with larger figures, which no field of 256 elements has, are priced as if bare.
const WINDOW_MAX: u32 = 1024;
const INDICES_MAX: u32 = 64;

impl Shape {
    /// The shape, unless it is none that can be computed with.
    pub(crate) fn new(r: u32, c: u32, window: u32, indices: u32) -> Option<Self> {
        let is_sane = (1..=WINDOW_MAX).contains(&r)
            && (1..=WINDOW_MAX).contains(&c)
            && (1..=WINDOW_MAX).contains(&window)
            && (1..=INDICES_MAX).contains(&indices);
        let common = gcd(r.into(), c.into()) as u32;
        is_sane.then(|| Self { r: r / common, c: c / common, window, indices })
    }

    /// Regular repairs that leave behind the symbol at `place` of each `r`.
    fn behind(self, place: u32) -> u32 {
        (place + 1) * self.c / self.r - place * self.c / self.r
    }

    /// Newest symbols that lack regular repairs: at least, and at most.
    fn lacking(self) -> (u32, u32) {
        let lacking = |last: u32| {
            let mut repairs = 0;
            let is_lacking = |&back: &u32| {
                repairs += self.behind((last + self.r - back % self.r) % self.r);
                repairs < self.indices
            };
            (0..self.window).take_while(is_lacking).count() as u32
        };
        let each = || (0..self.r).map(lacking);
        (each().min().unwrap_or(0), each().max().unwrap_or(0))
    }
}

/// Bound on P(some of the append's symbols is lost for good). `exposure.coverage` has bits of the code alone.
pub(crate) fn append_risk(chain: &Chain, shape: Shape, exposure: &Exposure) -> f64 {
    let symbols = exposure.symbols.max(1);
    let repairs = exposure.repairs();
    let flushed = (exposure.coverage & exposure.flushed).count_ones();
    if flushed == 0 {
        return steady(chain, shape, symbols, repairs, exposure.group_max);
    }
    // The newest symbols are in the flush, the others have their regular repairs. Survivals are positively associated.
    let (least, most) = shape.lacking();
    let mut figure = flush(chain, shape, symbols.min(most).max(1), most, flushed, exposure);
    if symbols > least.max(1) {
        let others = steady(chain, shape, symbols - least, repairs, exposure.group_max);
        figure += others * (1.0 - figure);
    }
    // Or by the regular repairs alone.
    match repairs - flushed {
        0 => figure,
        regular => figure.min(steady(chain, shape, symbols, regular, exposure.group_max)),
    }
}

/// In a stream that goes on until `repairs` repairs have left behind the append.
fn steady(chain: &Chain, shape: Shape, symbols: u32, repairs: u32, group_max: u32) -> f64 {
    // Parts that are pending no longer than their symbols are in the window, and take no longer than they may.
    let tail = shape.indices * shape.r / shape.c + shape.r;
    let held = shape.window.saturating_sub(tail).clamp(1, STREAM);
    let longest = (STEPS_MAX / shape.r).saturating_sub(tail).clamp(1, held);
    let part = symbols.min(longest);
    let stream = Stream { chain, shape, step: chain.over(1), repairs };
    let mut figure = stream.behind_a_window(part);
    if group_max < shape.window {
        // The stream has just begun. No repair of the append includes more symbols than that.
        figure = figure.min(stream.behind(part, group_max.saturating_sub(part)));
    }
    any_of(figure, f64::from(symbols.div_ceil(part)))
}

struct Stream<'a> {
    chain: &'a Chain,
    shape: Shape,
    step: Matrix,
    repairs: u32,
}

impl Stream<'_> {
    /// Behind a window of symbols whose repairs do not count, and others whose repairs do.
    fn behind_a_window(&self, symbols: u32) -> f64 {
        let (r, window) = (self.shape.r, self.shape.window);
        let counts = (self.repairs as usize + 1).max(COUNTS);
        let mut lacking = Lacking::new(self.chain, counts);
        let start = window.div_ceil(r) * r - window;
        for place in start..start + window {
            lacking.source(self.chain, &self.step, false);
            self.unused(&mut lacking, place % r);
        }
        // However long the append is, it ends at the same distance from there.
        let ends = STREAM.div_ceil(r) * r;
        let starts = ends + 1 - symbols;
        let mut worst = 0.0_f64;
        for place in 0..starts + r {
            if place >= starts {
                worst = worst.max(self.finish(lacking.clone(), place % r, symbols, true));
            }
            lacking.source(self.chain, &self.step, false);
            self.regular(&mut lacking, place % r, u32::MAX);
        }
        worst
    }

    /// Behind so many symbols, with repairs that count behind the append alone.
    fn behind(&self, symbols: u32, others: u32) -> f64 {
        let r = self.shape.r;
        let at = |first: u32| {
            let mut lacking = Lacking::new(self.chain, self.repairs as usize + 1);
            for place in first..first + others {
                lacking.source(self.chain, &self.step, false);
                self.unused(&mut lacking, place % r);
            }
            self.finish(lacking, (first + others) % r, symbols, false)
        };
        (0..r).map(at).fold(0.0, f64::max)
    }

    /// The append, from place `first` on, and what leaves behind it.
    fn finish(&self, mut lacking: Lacking, first: u32, symbols: u32, counts: bool) -> f64 {
        let r = self.shape.r;
        let last = first + symbols - 1;
        for place in first..last {
            lacking.source(self.chain, &self.step, true);
            if counts {
                self.regular(&mut lacking, place % r, u32::MAX);
            } else {
                self.unused(&mut lacking, place % r);
            }
        }
        lacking.source(self.chain, &self.step, true);
        lacking.forget_clear();
        let mut left = self.repairs;
        let mut place = last;
        loop {
            left -= self.regular(&mut lacking, place % r, left);
            if left == 0 {
                return lacking.pending();
            }
            place += 1;
            lacking.source(self.chain, &self.step, false);
        }
    }

    /// The regular repairs behind a symbol, but at most so many; how many.
    fn regular(&self, lacking: &mut Lacking, place: u32, most: u32) -> u32 {
        let repairs = self.shape.behind(place).min(most);
        (0..repairs).for_each(|_| lacking.repair(self.chain, &self.step, 1.0 / DEPENDENT));
        repairs
    }

    /// The regular repairs behind a symbol, where they only take their slots.
    fn unused(&self, lacking: &mut Lacking, place: u32) {
        (0..self.shape.behind(place)).for_each(|_| lacking.pass(&self.step));
    }
}

/// The newest symbols of an append, behind others that may be in the same flush, of which `sent` repairs have left.
fn flush(chain: &Chain, shape: Shape, symbols: u32, most: u32, sent: u32, exposure: &Exposure) -> f64 {
    let step = chain.over(1);
    // A run that is not told may have been of any length.
    let run = if exposure.flush_run > 0 { exposure.flush_run.min(most) } else { most };
    let others = exposure.group_max.min(run).saturating_sub(symbols);
    let counts = sent as usize + 1;
    // What is lacking when the repairs begin, by the place of the first symbol.
    let lacking = |first: u32| {
        let mut lacking = Lacking::new(chain, counts);
        for n in 0..others + symbols {
            lacking.source(chain, &step, n >= others);
            (0..shape.behind((first + n) % shape.r)).for_each(|_| lacking.pass(&step));
        }
        lacking
    };
    let before: Vec<Lacking> = (0..shape.r).map(lacking).collect();
    let mut worst = 0.0_f64;
    let is_over = |&pause: &u32| chain.stays_bad(i64::from(pause)) < BURST_LEFT;
    for pause in pauses(exposure.flush_pause, is_over) {
        let over = chain.over(pause + 1);
        let unsolved = unsolved(chain, &over, sent);
        let figure = |lacking: &Lacking| lacking.expect(&unsolved);
        worst = worst.max(before.iter().map(figure).fold(0.0, f64::max));
    }
    worst
}

/// Where no more of a burst is left, longer pauses change nothing.
const BURST_LEFT: f64 = 1e-12;

/// The pauses that may be meant by `least`: its like and longer ones, two to an octave, up to one that `is_over` any burst.
fn pauses(least: u32, is_over: impl Fn(&u32) -> bool) -> impl Iterator<Item = u32> {
    let octaves = (1..=16).flat_map(|octave| [1 << octave, 3 << (octave - 1)]);
    let steps: Vec<u32> = [0, 1].into_iter().chain(octaves).collect();
    let last = steps.iter().position(is_over).unwrap_or(steps.len() - 1);
    let first = steps.partition_point(|&pause| pause <= least).saturating_sub(1);
    steps.into_iter().take(last + 1).skip(first.min(last))
}

/// By the count of what is lacking: P(so many repairs do not make up for it | state before the first), each `over` from the next.
fn unsolved(chain: &Chain, over: &Matrix, repairs: u32) -> Vec<Pair> {
    let received = chain.received(over);
    let lost = chain.lost(over);
    let mut unsolved = vec![[1.0; 2]; repairs as usize + 2];
    unsolved[0] = [0.0; 2];
    for _ in 0..repairs {
        for count in (1..unsolved.len()).rev() {
            let [good, bad] = columns(&received, unsolved[count - 1]);
            unsolved[count] = [good, bad + dot(lost, unsolved[count])];
        }
    }
    let last = unsolved.len() - 1;
    unsolved[last] = [1.0; 2];
    unsolved
}

#[cfg(test)]
mod tests {
    use super::*;
    use parhelion_plugin::Channel;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    fn chain(channel: &Channel) -> Chain {
        Chain::new(channel)
    }

    fn default() -> Shape {
        Shape::new(8, 3, 128, 6).unwrap()
    }

    #[test]
    fn repairs_are_spread_evenly() {
        let shape = default();
        assert_eq!((0..8).map(|place| shape.behind(place)).collect::<Vec<_>>(), [0, 0, 1, 0, 0, 1, 0, 1]);
        // Sixteen symbols have six repairs; behind the last of them, one symbol less lacks some.
        assert_eq!(shape.lacking(), (13, 15));
        assert_eq!(Shape::new(8, 4, 128, 2).unwrap().lacking(), (2, 3));
        assert_eq!(Shape::new(4, 4, 100, 1).unwrap().lacking(), (0, 0));
    }

    #[test]
    fn a_flush_of_the_append_alone_is_a_block() {
        // R1 of (8,3): loss model, section 3.2. In none of the places but one does a regular repair come between.
        let channel = Channel::independent(0.0, 0.999);
        let channel = chain(&Channel { good_to_bad: 0.01, bad_to_good: 0.2, loss_in_bad: 1.0, ..channel });
        let shape = Shape::new(64, 1, 128, 3).unwrap();
        let alone = Exposure { flushed: 7, flush_run: 8, ..Exposure::steady(8, 7, 8) };
        let figure = append_risk(&channel, shape, &alone);
        assert!((5.95046e-2..5.95046e-2 * 1.05).contains(&figure), "{figure:e}");
        // Symbols that were not flushed before compete; pauses keep repairs out of the burst.
        let behind = append_risk(&channel, shape, &Exposure { flush_run: 30, group_max: 30, ..alone });
        assert!(behind > 1.05 * figure, "{behind:e}");
        let paused = append_risk(&channel, shape, &Exposure { flush_pause: 16, ..alone });
        assert!(paused < 0.9 * figure, "{paused:e}");
    }

    #[test]
    fn pauses_are_never_taken_for_longer_ones() {
        let never = |_: &u32| false;
        assert_eq!(pauses(0, never).take(8).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 6, 8, 12]);
        assert_eq!(pauses(17, never).take(2).collect::<Vec<_>>(), [16, 24]);
        assert_eq!(pauses(5, |&pause| pause >= 12).collect::<Vec<_>>(), [4, 6, 8, 12]);
        assert_eq!(pauses(u32::MAX, |&pause| pause >= 12).collect::<Vec<_>>(), [12]);
        assert_eq!(pauses(u32::MAX, never).collect::<Vec<_>>(), [98_304]);
    }

    /// Share of appends of `symbols` that are pending when `repairs` repairs have left behind them, in an endless stream, by
    /// the place of the first symbol: the queue, packet by packet.
    fn played(channel: &Channel, symbols: u64, repairs: u32, place: u64, appends: u32) -> f64 {
        let mut rng = SmallRng::seed_from_u64(17);
        let (mut bad, mut lacking, mut pending) = (false, 0_u32, 0);
        let mut loses = || {
            let lost = bad && rng.random_bool(channel.loss_in_bad);
            bad ^= rng.random_bool(if bad { channel.bad_to_good } else { channel.good_to_bad });
            lost
        };
        // One append in each 64 symbols, and whether it is pending.
        let (mut left, mut is_pending) = (0, false);
        for symbol in 0..u64::from(appends) * 64 {
            let at = symbol % 64;
            if at == 0 {
                (left, is_pending) = (repairs, false);
            }
            let lost = loses();
            lacking += u32::from(lost);
            is_pending |= lost && (place..place + symbols).contains(&at);
            for _ in symbol * 3 / 8..(symbol + 1) * 3 / 8 {
                lacking = lacking.saturating_sub(u32::from(!loses()));
                is_pending &= lacking > 0;
                if at >= place + symbols - 1 && left > 0 {
                    left -= 1;
                    pending += u32::from(left == 0 && is_pending);
                }
            }
        }
        f64::from(pending) / f64::from(appends)
    }

    #[test]
    fn a_stream_agrees_with_the_queue() {
        for (channel, symbols, repairs) in [
            (Channel::bursty(0.05, 2.0, 0.999), 1, 3),
            (Channel::bursty(0.02, 5.0, 0.999), 4, 6),
            (Channel::bursty(0.02, 20.0, 0.999), 4, 6),
            (
                Channel {
                    good_to_bad: 0.005,
                    bad_to_good: 0.1,
                    loss_in_bad: 0.6,
                    ..Channel::independent(0.03, 0.999)
                },
                9,
                2,
            ),
        ] {
            let figure = steady(&chain(&channel), default(), symbols, repairs, 128);
            let appends = 150_000;
            let seen = |place| played(&channel, u64::from(symbols), repairs, place, appends);
            let worst = (0..8).map(seen).fold(0.0, f64::max);
            // Those of one burst fail together.
            let sigma = (figure * (1.0 + 0.1 / channel.bad_to_good) / f64::from(appends)).sqrt();
            println!("{symbols} symbols, {repairs} repairs: seen {worst:.3e}, figure {figure:.3e}");
            assert!(worst < figure + 4.0 * sigma, "{channel:?}: {worst:e} above {figure:e}");
            assert!(figure < 1.1 * worst + 4.0 * sigma, "{channel:?}: {figure:e} for {worst:e}");
        }
    }

    #[test]
    fn sizes_that_no_code_has_are_refused() {
        for (r, c, window, indices) in
            [(0, 3, 128, 6), (8, 0, 128, 6), (8, 3, 0, 6), (8, 3, 128, 0), (8, 3, 2000, 6), (8, 3, 128, 65)]
        {
            assert!(Shape::new(r, c, window, indices).is_none());
        }
    }
}

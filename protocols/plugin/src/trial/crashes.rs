//! Crashes that show a given exposure.

use std::ops::Range;

use crate::chosen::Code;
use crate::code::Structure;
use crate::conformance::SplitMix64;
use crate::model::Exposure;
use crate::trial::wire::{Recorder, SYMBOL_BYTES, Target, Wire};

/// Draws wires on which the link would report an exposure of the append; see the [module](crate::trial) for what it
/// leaves open.
#[derive(Clone, Debug)]
pub struct Crashes {
    code: Code,
    exposure: Exposure,
    target: Target,
    /// Source symbols after which the phase of the code is the same again, as far as it is told apart.
    cycle: u64,
    /// Source symbols between the first one of a group and its last repair.
    span: u64,
    /// Source symbols of a stream that come before what matters.
    history: u64,
}

/// Largest append that is played, in source symbols. Of a larger one the parts can be priced, and added up.
pub const SYMBOLS_MAX: u32 = 1024;

/// Parts of the cycle that are told apart, at most.
const PLACES_MAX: u64 = 4;

/// The same for block codes.
const BLOCK_PLACES_MAX: u64 = 8;

/// Rhythms of traffic that are tried until one shows the exposure.
const TRIES: u32 = 48;

/// A rhythm of traffic.
#[derive(Clone, Debug)]
struct Rhythm {
    /// Id of the first source symbol.
    first: u64,
    /// A stream, and a flush behind it; 0 for neither.
    former: u64,
    /// Then symbols before the append.
    before: u64,
    /// Then the append. Where it is flushed, so often within it, 0 for never.
    every: u64,
    /// Then so many symbols, and a flush. Without: as many as it takes.
    after: Option<u64>,
}

impl Crashes {
    /// Crashes of a sender with `code` at the moment when the link reports `exposure`, or what dominates it: an append
    /// of at most [`SYMBOLS_MAX`] symbols, and what [`Crashes::exposure`] says.
    #[must_use]
    pub fn new(code: &Code, exposure: &Exposure) -> Self {
        let structure = code.structure();
        let exposure = told_apart(structure, exposure);
        let span = structure.span_symbols().max(1);
        let (cycle, spans) = match *structure {
            Structure::None | Structure::Repetition { .. } => (1, 2),
            Structure::Block { r, depth, .. } => (u64::from(r) * u64::from(depth), 2),
            Structure::Layered { r, .. } => (u64::from(r), 2),
            // Unknown symbols compete for longer where repairs overlap.
            Structure::Window { r, .. } => (u64::from(r), 4),
            Structure::Other { per, .. } => (u64::from(per), 4),
        };
        let cycle = cycle.max(1);
        let target = Target {
            coverage: exposure.coverage,
            by_count: takes_turns(structure),
            flush_pause: exposure.flush_pause,
            flush_run_max: structure.flush_run_max(),
        };
        let history = (spans * span).next_multiple_of(cycle);
        Self { code: code.clone(), exposure, target, cycle, span, history }
    }

    /// The exposure without what is not told apart; equal for exposures that are priced alike.
    #[must_use]
    pub fn exposure(&self) -> &Exposure {
        &self.exposure
    }

    /// Cases that are told apart: parts of the cycle of the code in which the append can begin, each of about the same
    /// length, and for some codes whether a stream came before. An append that is always in the same case is as much
    /// at risk as this case is: a bound is over the worst.
    #[must_use]
    pub fn places(&self) -> u32 {
        let kinds = if self.hides_the_run() { 2 } else { 1 };
        self.phases() as u32 * kinds
    }

    /// A wire with an append in case `place`. None where the exposure cannot be that of such an
    /// append, or the code breaks its promises.
    ///
    /// Wires with a higher `number` have higher ids, with enough between that one decoder can play them in turn.
    #[must_use]
    pub fn wire(&self, place: u32, number: u32, random: &mut SplitMix64) -> Option<Wire> {
        if self.exposure.coverage == 0 || place >= self.places() {
            return None;
        }
        let mut dominating = None;
        for _ in 0..TRIES {
            let Some(rhythm) = self.rhythm(place, number, random) else { continue };
            let Some(wire) = self.record(&rhythm) else { continue };
            match self.compare(wire.exposure()) {
                Shows::TheExposure => return Some(wire),
                Shows::Worse => dominating = dominating.or(Some(wire)),
                Shows::Other => {}
            }
        }
        dominating
    }

    /// Parts of the cycle.
    fn phases(&self) -> u64 {
        // Where a block begins is what matters to it; other codes have many phases, of which this is one.
        self.cycle.min(if self.is_block() { BLOCK_PLACES_MAX } else { PLACES_MAX })
    }

    /// Whether repairs reach across flushes, and yet the exposure does not tell how many symbols came since the former
    /// flush: places are then those of an append alone, and those of one behind a stream.
    fn hides_the_run(&self) -> bool {
        let reaches = matches!(self.code.structure(), Structure::Window { .. } | Structure::Other { .. });
        reaches && self.exposure.flushed != 0 && self.exposure.flush_run >= self.target.flush_run_max
    }

    /// A rhythm that may show the exposure; none where it is plain that it does not.
    fn rhythm(&self, place: u32, number: u32, random: &mut SplitMix64) -> Option<Rhythm> {
        let offset = self.offset(place, random);
        // A multiple of the cycle, so that the ids tell the phase as well as their number does.
        let room = self.forgets();
        let start = (u64::from(number) * 4 * room + below(room, random)).next_multiple_of(self.cycle);
        if self.exposure.flushed == 0 {
            let before = self.history + offset;
            return Some(Rhythm { first: start, former: 0, before, every: 0, after: None });
        }
        let (run, longest) = (u64::from(self.exposure.flush_run), u64::from(self.target.flush_run_max));
        if run < longest {
            return Some(self.short_run(start, offset, random));
        }
        if let Structure::Block { r, depth, .. } = *self.code.structure() {
            return self.cut_blocks(start, offset, u64::from(r), u64::from(depth.max(1)), random);
        }
        let after = if random.chance(0.5) { 0 } else { log_uniform(self.span, random) };
        let least = longest.saturating_sub(u64::from(self.exposure.symbols) + after);
        let kind = match (self.hides_the_run(), u64::from(place) < self.phases()) {
            (true, true) => 0,
            (true, false) => 2,
            (false, _) => random.below(3),
        };
        let before = match kind {
            0 => least,
            1 => least + log_uniform(self.span, random),
            _ => least.max(self.history),
        };
        let before = before.saturating_sub(offset).next_multiple_of(self.cycle) + offset;
        Some(Rhythm { first: start, former: self.former(before), before, every: 0, after: Some(after) })
    }

    /// The run is known: the append ends with it, or a few symbols earlier.
    fn short_run(&self, start: u64, offset: u64, random: &mut SplitMix64) -> Rhythm {
        let (run, symbols) = (u64::from(self.exposure.flush_run), u64::from(self.exposure.symbols));
        let (after, every) = match run.checked_sub(symbols) {
            None => (0, run),
            Some(0) => (0, 0),
            Some(_) if random.chance(0.5) => (0, 0),
            Some(others) => (below(others + 1, random), 0),
        };
        let before = run.saturating_sub(symbols + after);
        let former = self.former(before);
        let first = start + (offset + self.cycle - (former + before) % self.cycle) % self.cycle;
        Rhythm { first, former, before, every, after: Some(after) }
    }

    /// A flush that leaves blocks of the size that they had, and the append in them.
    fn cut_blocks(
        &self,
        start: u64,
        offset: u64,
        r: u64,
        depth: u64,
        random: &mut SplitMix64,
    ) -> Option<Rhythm> {
        let (symbols, group) = (u64::from(self.exposure.symbols), u64::from(self.exposure.group_max));
        let rhythm =
            |before, every, after| Rhythm { first: start, former: 0, before, every, after: Some(after) };
        if group < r && symbols > group * depth {
            // Several flushes cut it.
            return (offset == 0).then(|| rhythm(0, group * depth, 0));
        }
        let end = offset + symbols;
        // Symbols of the last round of blocks, of which at least one is the append's, and not all come.
        let (least, most) = if end <= self.cycle {
            ((group - 1) * depth + 1, (group * depth).min(self.cycle - 1))
        } else if group == r {
            (1, self.cycle - 1)
        } else {
            return None;
        };
        let used = (end - 1) % self.cycle + 1;
        let after = least.saturating_sub(used)..(most + 1).checked_sub(used)?;
        if after.is_empty() {
            return None;
        }
        let after = match random.below(3) {
            0 => after.start,
            1 => after.start + log_uniform(after.end - after.start - 1, random),
            _ => after.start + below(after.end - after.start, random),
        };
        Some(rhythm(offset, 0, after))
    }

    /// Symbols of a stream, and a flush, before a run that is short. They matter where repairs reach across flushes.
    fn former(&self, before: u64) -> u64 {
        let reaches = matches!(self.code.structure(), Structure::Window { .. } | Structure::Other { .. });
        if reaches && before < self.history { self.history } else { 0 }
    }

    /// A place in the part of the cycle.
    fn offset(&self, place: u32, random: &mut SplitMix64) -> u64 {
        let phases = self.phases();
        let part = |phase: u64| phase * self.cycle / phases;
        let phase = u64::from(place) % phases;
        let (start, end) = (part(phase), part(phase + 1));
        start + below(end - start, random)
    }

    /// Ids after which nothing of a wire plays a part any more.
    fn forgets(&self) -> u64 {
        let window = self.code.structure().window_symbols().unwrap_or(0) as u64;
        let longest = 2 * (self.history + self.span + self.cycle) + u64::from(SYMBOLS_MAX);
        window.max(longest)
    }

    fn record(&self, rhythm: &Rhythm) -> Option<Wire> {
        let mut encoder = self.code.encoder(SYMBOL_BYTES).ok()?;
        let encoder = encoder.as_mut();
        let symbols = u64::from(self.exposure.symbols);
        let start = rhythm.first + rhythm.former + rhythm.before;
        let ids: Range<u64> = start..start + symbols;
        let mut recorder = Recorder::new(rhythm.first, ids, self.target);
        if rhythm.former > 0 {
            (0..rhythm.former).for_each(|_| recorder.source(encoder));
            recorder.flush(encoder);
        }
        (0..rhythm.before).for_each(|_| recorder.source(encoder));
        for sent in 1..=symbols {
            recorder.source(encoder);
            // The last run takes what would be too few for one more; blocks would be too long.
            let rest = if self.is_block() { 1 } else { rhythm.every };
            if rhythm.every > 0 && sent % rhythm.every == 0 && symbols - sent >= rest {
                recorder.flush(encoder);
            }
        }
        match rhythm.after {
            Some(after) => {
                (0..after).for_each(|_| recorder.source(encoder));
                recorder.flush(encoder);
            }
            None => {
                let limit = 2 * self.span + self.cycle;
                let mut sent = 0;
                while !recorder.has_crashed() && sent < limit {
                    recorder.source(encoder);
                    sent += 1;
                }
            }
        }
        if encoder.fault().is_some() {
            return None;
        }
        recorder.finish()
    }

    fn is_block(&self) -> bool {
        matches!(self.code.structure(), Structure::Block { .. })
    }

    fn compare(&self, shown: &Exposure) -> Shows {
        let shown = told_apart(self.code.structure(), shown);
        let wanted = &self.exposure;
        if shown == *wanted {
            return Shows::TheExposure;
        }
        // The size of blocks can be had exactly, and larger ones would cost too much.
        let is_worse = shown.flushed & wanted.flushed == wanted.flushed
            && shown.group_max == wanted.group_max
            && (wanted.flushed == 0 || shown.flush_run <= wanted.flush_run);
        if is_worse { Shows::Worse } else { Shows::Other }
    }
}

enum Shows {
    TheExposure,
    /// As much as it, or less protection.
    Worse,
    Other,
}

/// The exposure in the form in which those are equal that trials price alike; see [`Crashes::exposure`].
#[must_use]
pub fn told_apart(structure: &Structure, exposure: &Exposure) -> Exposure {
    let by_count = takes_turns(structure);
    let lowest = |set: u64| match set.count_ones() {
        64 => u64::MAX,
        n => (1 << n) - 1,
    };
    let coverage = exposure.coverage & structure.full_coverage();
    let flushed = exposure.flushed & coverage;
    let (coverage, flushed) =
        if by_count { (lowest(coverage), lowest(flushed)) } else { (coverage, flushed) };
    let symbols = exposure.symbols.clamp(1, SYMBOLS_MAX);
    if flushed == 0 {
        return Exposure::steady(symbols, coverage, 0);
    }
    let group_max = match *structure {
        Structure::Block { r, .. } => exposure.group_max.clamp(1, r.max(1)),
        _ => 0,
    };
    let flush_run = exposure.flush_run.clamp(1, structure.flush_run_max());
    Exposure { symbols, coverage, group_max, flushed, flush_run, flush_pause: exposure.flush_pause }
}

/// Whether repairs take the indices in turn, so that only the number of those that left matters.
fn takes_turns(structure: &Structure) -> bool {
    matches!(structure, Structure::Window { .. })
}

fn below(bound: u64, random: &mut SplitMix64) -> u64 {
    random.below(usize::try_from(bound).unwrap_or(usize::MAX)) as u64
}

/// From 0 to `most`, each order of magnitude as likely as the next.
fn log_uniform(most: u64, random: &mut SplitMix64) -> u64 {
    let unit = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    ((unit * ((most + 1) as f64).ln()).exp() as u64).saturating_sub(1).min(most)
}

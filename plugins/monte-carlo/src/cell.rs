//! What is simulated: questions, rounded to the worse so that they come again.

use parhelion_plugin::trial::{SYMBOLS_MAX, told_apart};
use parhelion_plugin::{Channel, Code, Exposure, Structure};

use crate::chain::{BAD_TO_GOOD_MIN, GOOD_TO_BAD_MIN};

/// One question for a simulation.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The code in force.
    pub code: Code,
    /// The exposure, rounded to one that is no less at risk.
    pub exposure: Exposure,
    /// The channel, rounded to one that loses no less.
    pub channel: Channel,
    /// Probability with which all the bounds of the simulation together may fail: half of what those of the channel may.
    pub delta: f64,
    /// Decides every number that is drawn; the same for the same question, wherever it is asked.
    pub seed: u64,
}

/// A channel on the grid. Bounds are rounded to the next of eight steps per factor of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GridChannel {
    good_to_bad: i16,
    /// How long bursts are; see [`burst_steps`].
    burst: i16,
    loss_in_bad: i16,
    confidence: i16,
}

/// Grid steps per factor of two of a transition probability: a step raises a risk that takes four of them by 40 %.
const STEPS: f64 = 8.0;

/// Steps of P(lost | bad).
const LOSS_STEPS: f64 = 16.0;

/// Bits of `1 - confidence`, at most.
const CONFIDENCE_BITS_MAX: f64 = 40.0;

/// Keeps a value that lies on the grid where it is.
const SLACK: f64 = 1e-9;

impl GridChannel {
    /// The nearest point of the grid at which every bound is at least as bad.
    pub(crate) fn above(channel: &Channel) -> Self {
        let or = |value: f64, if_none: f64| if value.is_nan() { if_none } else { value };
        let good_to_bad = or(channel.good_to_bad, 1.0).clamp(GOOD_TO_BAD_MIN, 1.0);
        let bad_to_good = or(channel.bad_to_good, 0.0).clamp(BAD_TO_GOOD_MIN, 1.0);
        let loss = or(channel.loss_in_bad, 1.0).clamp(0.0, 1.0);
        let doubt = (1.0 - or(channel.confidence, 1.0)).clamp(0.0, 0.5);
        Self {
            good_to_bad: (STEPS * good_to_bad.log2() - SLACK).ceil() as i16,
            burst: burst_steps(bad_to_good),
            loss_in_bad: (LOSS_STEPS * loss - SLACK).ceil().max(1.0) as i16,
            confidence: (-doubt.log2() - SLACK).ceil().min(CONFIDENCE_BITS_MAX) as i16,
        }
    }

    /// Whether no bound is better than that of the other.
    pub(crate) fn dominates(&self, other: &Self) -> bool {
        self.good_to_bad >= other.good_to_bad
            && self.burst >= other.burst
            && self.loss_in_bad >= other.loss_in_bad
            && self.confidence >= other.confidence
    }

    fn channel(&self) -> Channel {
        let power = |steps: i16| (f64::from(steps) / STEPS).exp2().min(1.0);
        let good_to_bad = power(self.good_to_bad);
        let bad_to_good =
            if self.burst > 0 { power(-self.burst - HALF) } else { 1.0 - power(self.burst - HALF) };
        let loss_in_bad = f64::from(self.loss_in_bad) / LOSS_STEPS;
        Channel {
            good_to_bad,
            bad_to_good,
            loss_in_bad,
            loss: loss_in_bad * good_to_bad / (good_to_bad + bad_to_good),
            confidence: 1.0 - self.doubt(),
            packets_per_second: 0.0,
        }
    }

    fn doubt(&self) -> f64 {
        (-f64::from(self.confidence)).exp2()
    }

    /// The question on the grid; `exposure` comes from [`coarse`].
    pub(crate) fn cell(&self, code: &Code, exposure: &Exposure) -> Cell {
        let seed = fingerprint(format!("{code} {exposure:?} {self:?}").as_bytes());
        Cell {
            code: code.clone(),
            exposure: *exposure,
            channel: self.channel(),
            delta: 0.5 * self.doubt(),
            seed,
        }
    }
}

/// Steps of the length of bursts, rounded up: of P(bad to good) where that is below one half, and of 1 less that where
/// bursts are short, so that independent losses are not taken for anything like bursts. 0 is one half.
fn burst_steps(bad_to_good: f64) -> i16 {
    if bad_to_good < 0.5 {
        (-STEPS * bad_to_good.log2() - SLACK).ceil() as i16 - HALF
    } else {
        let stays = (1.0 - bad_to_good).max(GOOD_TO_BAD_MIN);
        ((STEPS * stays.log2() - SLACK).ceil() as i16 + HALF).min(0)
    }
}

/// Steps from 1 to one half.
const HALF: i16 = STEPS as i16;

/// An exposure that is no less at risk, from a set small enough that exposures come again: sizes of appends in steps of
/// an eighth to a quarter, runs and pauses rounded down.
pub(crate) fn coarse(structure: &Structure, exposure: &Exposure) -> Exposure {
    let exposure = told_apart(structure, exposure);
    let symbols = round_up(exposure.symbols).min(SYMBOLS_MAX);
    if exposure.flushed == 0 {
        return Exposure { symbols, ..exposure };
    }
    let run = exposure.flush_run;
    // An append within one run, or within blocks of the size they have, stays within.
    let symbols = if exposure.symbols <= run { symbols.min(run) } else { symbols };
    let symbols = match *structure {
        Structure::Block { depth, .. } if exposure.symbols <= exposure.group_max.saturating_mul(depth) => {
            symbols.min(exposure.group_max.saturating_mul(depth))
        }
        _ => symbols,
    };
    // Shorter runs are worse, but for a sliding window, whose flush includes less then: and its runs are few.
    let is_kept = run >= structure.flush_run_max() || matches!(structure, Structure::Window { .. });
    let flush_run = if is_kept { run } else { round_down(run).max(symbols.min(run)) };
    let flush_pause = exposure.flush_pause.checked_ilog2().map_or(0, |bits| 1 << bits);
    Exposure { symbols, flush_run, flush_pause, ..exposure }
}

/// The next number of at most four significant bits.
fn round_up(n: u32) -> u32 {
    let unit = n.checked_ilog2().map_or(0, |bits| bits.saturating_sub(3));
    n.div_ceil(1 << unit) << unit
}

fn round_down(n: u32) -> u32 {
    let unit = n.checked_ilog2().map_or(0, |bits| bits.saturating_sub(3));
    n >> unit << unit
}

/// FNV-1a: the same on every machine and in every run.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_never_better_and_little_worse() {
        for (good_to_bad, burst, loss_in_bad) in
            [(1e-5, 2.0, 1.0), (3e-4, 7.3, 0.61), (0.02, 1.02, 0.99), (0.3, 1.6, 0.99), (0.0, 1e9, 0.0)]
        {
            let given = Channel {
                good_to_bad,
                bad_to_good: 1.0 / burst,
                loss_in_bad,
                ..Channel::independent(0.0, 0.999)
            };
            let grid = GridChannel::above(&given);
            let rounded = grid.channel();
            assert!(rounded.good_to_bad >= given.good_to_bad * (1.0 - 1e-9));
            let (stays, stayed) = (1.0 - rounded.bad_to_good, 1.0 - given.bad_to_good.max(BAD_TO_GOOD_MIN));
            assert!(stays >= stayed * (1.0 - 1e-9), "{stays} for {stayed}");
            assert!(stays <= 1.1 * stayed || rounded.bad_to_good * 1.1 >= given.bad_to_good.min(0.5));
            assert!(rounded.loss_in_bad >= given.loss_in_bad && rounded.confidence >= given.confidence);
            assert!(rounded.good_to_bad <= 1.1 * given.good_to_bad.max(GOOD_TO_BAD_MIN));
            // A point of the grid is its own.
            assert_eq!(GridChannel::above(&rounded), grid);
        }
        let nothing = Channel { good_to_bad: f64::NAN, ..Channel::independent(f64::NAN, f64::NAN) };
        let worst = GridChannel::above(&nothing);
        assert!(worst.dominates(&GridChannel::above(&Channel::bursty(0.3, 50.0, 0.9999))));
    }

    #[test]
    fn coarse_exposures_are_no_less_at_risk() {
        let layered = Structure::Layered { r: 8, interleaves: vec![1, 23, 101], delayed: true };
        for symbols in 1..1500 {
            for run in [1, 3, 9, 17, 50, 101, 400] {
                let given = Exposure {
                    flushed: 0b111,
                    flush_run: run,
                    flush_pause: 19,
                    ..Exposure::steady(symbols, 0b111, 8)
                };
                let coarse = coarse(&layered, &given);
                let run = run.min(101);
                assert!(coarse.symbols >= symbols.min(1024) && coarse.symbols <= symbols + symbols / 8 + 1);
                assert!(coarse.flush_run <= run && (run > 101 || coarse.flush_run > run / 2));
                assert_eq!(coarse.flush_pause, 16);
                assert_eq!(symbols <= run, coarse.symbols <= coarse.flush_run, "{symbols} in {run}");
            }
        }
    }
}

//! The simulation of one cell.

use parhelion_plugin::conformance::SplitMix64;
use parhelion_plugin::trial::{Crashes, Player};

use crate::cell::Cell;
use crate::chain::Chain;
use crate::sampler::{Drawn, EVEN, Mixture, NATURAL_MIN, Prepared, Sampler, TILT_MIN, TILTS};
use crate::table::{Findings, Simulation};
use crate::tally::Tally;

/// Plays crashes with tilted channels, each place by itself, and bounds the risk of the worst.
///
/// First some crashes tell which tilts make failures, and the mixture is adapted to them; they count for nothing else.
/// Then every place is looked at, and from then on the one with the highest bound, at growing numbers of trials. A
/// bound is told at each look; all looks at all places share the doubt of the cell evenly, so all of them hold together.
#[derive(Clone, Copy, Debug, Default)]
pub struct CrashSimulation;

/// What is known of a cell.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rounds of trials so far; part of the seed of the next.
    rounds: u64,
    pilots: u32,
    /// Crashes of the pilot under way.
    piloted: u64,
    mixture: Option<Mixture>,
    /// Weights of failures in the pilot, by tilt.
    shares: Mixture,
    places: Vec<Place>,
    crashes: u64,
    lost: u64,
}

#[derive(Clone, Debug, Default)]
struct Place {
    tally: Tally,
    /// Looks taken.
    looks: u32,
    bound: Option<f64>,
    /// No append that begins here shows the exposure.
    is_impossible: bool,
}

/// Crashes by which the mixture is adapted, twice.
const PILOT_CRASHES: u64 = 1024;

/// How often the mixture is adapted.
const PILOTS: u32 = 2;

/// Trials in a place at the first look; each later one has four times as many.
const FIRST_LOOK: u64 = 1024;

/// Looks at a place: the last is at a million trials.
const LOOKS: u32 = 6;

/// Wires that are encoded for a round of trials.
const WIRES: u32 = 8;

/// Draws of a wire without success after which no append can begin in the place.
const WIRES_IN_VAIN: u32 = 3;

/// Trials on each of them: so many for all alike, and as many again for those that have more at risk.
const WIRE_TRIALS: u64 = 8;

/// Work of a piece, in the measure of [`Player::work`]: some ten milliseconds.
const PIECE_WORK: u64 = 400_000;

/// Work of drawing one crash, in the same measure.
const CRASH_WORK: u64 = 300;

/// A bound so near to the estimate is good enough.
const GOOD_ENOUGH: f64 = 1.25;

impl Simulation for CrashSimulation {
    type Progress = Progress;

    fn simulate(&self, cell: &Cell, progress: &mut Progress) -> Findings {
        let crashes = Crashes::new(&cell.code, &cell.exposure);
        let Ok(mut player) = Player::new(&cell.code) else {
            // A code that makes no decoder saves nothing.
            return Findings { bound: Some(1.0), is_done: true, ..Findings::default() };
        };
        if progress.places.is_empty() {
            progress.places = vec![Place::default(); crashes.places() as usize];
        }
        let mut sampler = Sampler::new(Chain::new(&cell.channel));
        let mut encoded = 0;
        let before = progress.crashes;
        loop {
            if progress.pilots < PILOTS {
                encoded += progress.pilot(cell, &crashes, &mut sampler, &mut player);
            } else if let Some(place) = progress.next_place() {
                encoded += progress.round(cell, &crashes, place, &mut sampler, &mut player);
            } else {
                return progress.findings(true);
            }
            let drawn = CRASH_WORK * (progress.crashes - before);
            if player.work() + sampler.steps() + drawn + encoded > PIECE_WORK {
                return progress.findings(false);
            }
        }
    }
}

impl Progress {
    /// The place to look at: first all of them, then the worst. None if more trials would change little.
    fn next_place(&self) -> Option<usize> {
        let possible = || self.places.iter().enumerate().filter(|(_, place)| !place.is_impossible);
        if let Some((at, _)) = possible().find(|(_, place)| place.looks == 0) {
            return Some(at);
        }
        let (at, worst) = possible()
            .max_by(|(_, a), (_, b)| a.bound.partial_cmp(&b.bound).unwrap_or(std::cmp::Ordering::Equal))?;
        let is_good = worst.bound.is_some_and(|bound| bound <= GOOD_ENOUGH * worst.tally.mean());
        (worst.looks < LOOKS && !is_good).then_some(at)
    }

    fn findings(&self, is_done: bool) -> Findings {
        let possible = || self.places.iter().filter(|place| !place.is_impossible);
        let all = possible().next().is_some() && possible().all(|place| place.bound.is_some());
        let bound = all.then(|| possible().filter_map(|place| place.bound).fold(0.0, f64::max));
        Findings {
            bound,
            is_done,
            stage: possible().map(|place| place.looks).max().unwrap_or(0),
            crashes: self.crashes,
            lost: self.lost,
        }
    }

    /// A part of the pilot; the work of encoding.
    fn pilot(&mut self, cell: &Cell, crashes: &Crashes, sampler: &mut Sampler, player: &mut Player) -> u64 {
        let mut random = self.random(cell);
        let mixture = self.mixture.unwrap_or(EVEN);
        let mut wires = Vec::with_capacity(WIRES as usize);
        for number in 0..WIRES {
            let place = random.below(self.places.len()) as u32;
            wires.extend(crashes.wire(place, number, &mut random).map(|wire| sampler.prepare(wire)));
        }
        for _ in 0..WIRE_TRIALS {
            for wire in &wires {
                let (drawn, weight) = trial(wire, &mixture, sampler, player, &mut random);
                self.crashes += 1;
                if weight.is_normal() {
                    let shares = self.shares.iter_mut().zip(drawn.shares);
                    shares.for_each(|(sum, share)| *sum += weight * share);
                }
            }
        }
        // Also where no wire came of it: an exposure that is hardly ever shown must come to an end.
        self.piloted += u64::from(WIRES) * WIRE_TRIALS;
        if self.piloted >= PILOT_CRASHES {
            self.adapt();
        }
        wires.iter().map(|wire| wire.wire.work()).sum()
    }

    /// Takes the shares that make what was seen most likely (Cappe et al. 2008), with some for what was not.
    fn adapt(&mut self) {
        let total: f64 = self.shares.iter().sum();
        if total.is_normal() {
            let left = 1.0 - NATURAL_MIN - (TILTS - 1) as f64 * TILT_MIN;
            let mut mixture = self.shares.map(|share| TILT_MIN + left * share / total);
            mixture[0] += NATURAL_MIN - TILT_MIN;
            self.mixture = Some(mixture);
        }
        self.shares = Mixture::default();
        self.piloted = 0;
        self.pilots += 1;
    }

    /// Trials in one place, up to the next look; the work of encoding.
    fn round(
        &mut self,
        cell: &Cell,
        crashes: &Crashes,
        place: usize,
        sampler: &mut Sampler,
        player: &mut Player,
    ) -> u64 {
        let mut random = self.random(cell);
        let mixture = self.mixture.unwrap_or(EVEN);
        let mut wires = Vec::with_capacity(WIRES as usize);
        for number in 0..WIRES {
            if number == WIRES_IN_VAIN && wires.is_empty() {
                break;
            }
            wires.extend(crashes.wire(place as u32, number, &mut random).map(|wire| sampler.prepare(wire)));
        }
        let Place { tally, looks, bound, is_impossible } = &mut self.places[place];
        if wires.is_empty() {
            *is_impossible = tally.trials == 0;
            *looks = LOOKS;
            return PIECE_WORK / 16;
        }
        // The most that a wire's trials count for: twice their number, where half of them go to others.
        let weight_max = 2.0 * sampler.weight_max(cell.exposure.symbols as usize, &mixture);
        let trials = shares_of_trials(&wires);
        let mean = trials.iter().sum::<u64>() as f64 / wires.len() as f64;
        let mut batches = vec![Tally::default(); wires.len()];
        // In turn, so that one decoder serves all.
        for turn in 0..trials.iter().copied().max().unwrap_or(0) {
            for ((wire, batch), &trials) in wires.iter().zip(&mut batches).zip(&trials) {
                if turn >= trials {
                    continue;
                }
                let (_, weight) = trial(wire, &mixture, sampler, player, &mut random);
                batch.trial();
                if weight > 0.0 {
                    batch.failure(weight * mean / trials as f64, weight_max);
                }
            }
        }
        for batch in &batches {
            tally.add_batch(batch);
            self.crashes += batch.trials;
            self.lost += batch.failures;
        }
        if tally.trials >= FIRST_LOOK << (2 * *looks) {
            let delta = cell.delta / (f64::from(crashes.places() * LOOKS));
            let now = tally.upper(weight_max, delta);
            *bound = Some(bound.map_or(now, |before| before.min(now)));
            *looks += 1;
        }
        wires.iter().map(|wire| wire.wire.work()).sum()
    }

    fn random(&mut self, cell: &Cell) -> SplitMix64 {
        self.rounds += 1;
        SplitMix64::new(cell.seed ^ SplitMix64::new(self.rounds).next_u64())
    }
}

/// Plays one crash; the weight is 0 if the symbol that was lost for it came back.
fn trial(
    wire: &Prepared,
    mixture: &Mixture,
    sampler: &mut Sampler,
    player: &mut Player,
    random: &mut SplitMix64,
) -> (Drawn, f64) {
    let drawn = sampler.draw(wire, mixture, random);
    if player.play(&wire.wire, sampler.losses()) == 0 || !player.is_missing(drawn.symbol) {
        return (drawn, 0.0);
    }
    let missing = (0..wire.wire.symbols()).filter(|&symbol| player.is_missing(symbol));
    let chance: f64 = missing.map(|symbol| wire.chance(symbol)).sum();
    (drawn, sampler.loss() * drawn.likelihood / chance)
}

/// How many trials each wire gets: half of them go to all alike, the others to those with more at risk.
fn shares_of_trials(wires: &[Prepared]) -> Vec<u64> {
    let core: f64 = wires.iter().map(|wire| wire.core).sum();
    let more = (wires.len() as u64 * WIRE_TRIALS) as f64;
    let share = |wire: &Prepared| if core > 0.0 { wire.core / core } else { 1.0 / wires.len() as f64 };
    wires.iter().map(|wire| WIRE_TRIALS + (more * share(wire)) as u64).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parhelion_code_layered_interleaving::LayeredInterleaving;
    use parhelion_code_reed_solomon::ReedSolomon;
    use parhelion_plugin::{Channel, Code, ErasureCode, Exposure};

    use super::*;

    /// Mean weight and its error, over wires that all get the same trials.
    fn mean(code: &Code, channel: &Channel, mixture: &Mixture, wires: u32) -> (f64, f64) {
        let crashes = Crashes::new(code, &Exposure::steady(4, 0b111, 8));
        let mut sampler = Sampler::new(Chain::new(channel));
        let mut player = Player::new(code).unwrap();
        let mut random = SplitMix64::new(7);
        let (mut sum, mut squares) = (0.0, 0.0);
        for number in 0..wires {
            let wire = sampler.prepare(crashes.wire(number % crashes.places(), number, &mut random).unwrap());
            let weights = (0..32).map(|_| trial(&wire, mixture, &mut sampler, &mut player, &mut random).1);
            let weight = weights.sum::<f64>() / 32.0;
            (sum, squares) = (sum + weight, squares + weight * weight);
        }
        let n = f64::from(wires);
        (sum / n, (squares - sum * sum / n).sqrt() / n)
    }

    #[test]
    fn tilted_channels_have_the_mean_of_the_channel() {
        let mut natural = Mixture::default();
        natural[0] = 1.0;
        let elliott = Channel { loss_in_bad: 0.4, ..Channel::bursty(0.1, 8.0, 0.999) };
        let codes: [(Arc<dyn ErasureCode>, &str); 2] = [
            (Arc::new(ReedSolomon), "r=8 c=3 depth=1"),
            (Arc::new(LayeredInterleaving), "r=8 interleaves=1:11:41 delayed=1"),
        ];
        for (family, parameters) in codes {
            let code = Code::new(family, &parameters.parse().unwrap()).unwrap();
            for channel in [Channel::independent(0.08, 0.999), Channel::bursty(0.05, 4.0, 0.999), elliott] {
                let (tilted, tilted_error) = mean(&code, &channel, &EVEN, 1500);
                let (plain, plain_error) = mean(&code, &channel, &natural, 1500);
                println!("{code}: {tilted:.3e} +- {tilted_error:.0e}, {plain:.3e} +- {plain_error:.0e}");
                assert!(
                    (tilted - plain).abs() < 4.5 * tilted_error.hypot(plain_error),
                    "{code}: {tilted:e}, {plain:e}"
                );
                assert!(plain > 5.0 * plain_error, "{code}: {plain:e} +- {plain_error:e} tells nothing");
            }
        }
    }
}

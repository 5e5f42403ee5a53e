//! Crashes while a trace loses something.

use std::sync::Arc;

use parhelion_model_monte_carlo::{Cell, Chain, Findings, Simulation, binomial};
use parhelion_plugin::conformance::SplitMix64;
use parhelion_plugin::trial::{Crashes, Losses, Player, Wire};

use crate::recording::Trace;

/// Bounds P(the append is lost, and the trace loses a packet within the slots of the crash), for a crash at a random
/// offset of the traces.
///
/// How often the trace loses something in so many slots is counted, not sampled. Among these offsets crashes are played
/// with what the trace loses there and what the channel loses besides.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    pub(crate) traces: Arc<[Trace]>,
}

/// What is known of a cell.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    rounds: u64,
    /// Slots of the longest wire, rounded up; no wire of the cell may be longer.
    slots: u64,
    places: Vec<Place>,
    crashes: u64,
    lost: u64,
}

#[derive(Clone, Debug, Default)]
struct Place {
    trials: u64,
    failures: u64,
    looks: u32,
    bound: Option<f64>,
    is_impossible: bool,
}

/// Wires by which the slots of a cell are measured, in each place.
const WIRES_MEASURED: u32 = 4;

/// Wires that are encoded for a round of trials.
const WIRES: u32 = 4;

/// Trials on each of them.
const WIRE_TRIALS: u64 = 64;

/// Draws of a wire without success after which no append can begin in the place.
const WIRES_IN_VAIN: u32 = 2;

/// Trials in a place at the first look; each later one has four times as many.
const FIRST_LOOK: u64 = 2048;

/// Looks at a place: the last is at two million trials.
const LOOKS: u32 = 6;

/// Work of a piece, in the measure of [`Player::work`]: some ten milliseconds.
const PIECE_WORK: u64 = 400_000;

/// A bound so near to the estimate is good enough.
const GOOD_ENOUGH: f64 = 1.25;

impl Simulation for Replay {
    type Progress = Progress;

    fn simulate(&self, cell: &Cell, progress: &mut Progress) -> Findings {
        let crashes = Crashes::new(&cell.code, &cell.exposure);
        let Ok(mut player) = Player::new(&cell.code) else {
            return Findings { bound: Some(1.0), is_done: true, ..Findings::default() };
        };
        if progress.places.is_empty() {
            progress.measure(cell, &crashes);
        }
        let dirty = Offsets::new(&self.traces, progress.slots);
        let chain = Chain::new(&cell.channel);
        let mut work = dirty.ends.len() as u64 / 4;
        loop {
            let Some(place) = progress.next_place(dirty.share()) else { return progress.findings(true) };
            work += progress.round(cell, &crashes, place, &dirty, &chain, &mut player);
            if work > PIECE_WORK {
                return progress.findings(false);
            }
        }
    }
}

impl Progress {
    fn measure(&mut self, cell: &Cell, crashes: &Crashes) {
        let mut random = self.random(cell);
        self.places = vec![Place::default(); crashes.places() as usize];
        let slots = (0..crashes.places())
            .flat_map(|place| (0..WIRES_MEASURED).map(move |number| (place, number)))
            .filter_map(|(place, number)| crashes.wire(place, number, &mut random))
            .map(|wire| wire.slots() as u64)
            .max();
        let slots = slots.unwrap_or(1);
        self.slots = slots + slots / 4;
    }

    /// First all places, then the worst. None if more trials would change little.
    fn next_place(&self, dirty: f64) -> Option<usize> {
        let possible = || self.places.iter().enumerate().filter(|(_, place)| !place.is_impossible);
        if let Some((at, _)) = possible().find(|(_, place)| place.looks == 0) {
            return Some(at);
        }
        let by_bound =
            |a: &Place, b: &Place| a.bound.partial_cmp(&b.bound).unwrap_or(std::cmp::Ordering::Equal);
        let (at, worst) = possible().max_by(|(_, a), (_, b)| by_bound(a, b))?;
        let estimate = dirty * worst.failures as f64 / worst.trials.max(1) as f64;
        let is_good = worst.bound.is_some_and(|bound| bound <= GOOD_ENOUGH * estimate);
        (worst.looks < LOOKS && !is_good).then_some(at)
    }

    fn findings(&self, is_done: bool) -> Findings {
        let possible = || self.places.iter().filter(|place| !place.is_impossible);
        let all = possible().next().is_some() && possible().all(|place| place.bound.is_some());
        Findings {
            bound: all.then(|| possible().filter_map(|place| place.bound).fold(0.0, f64::max)),
            is_done,
            stage: possible().map(|place| place.looks).max().unwrap_or(0),
            crashes: self.crashes,
            lost: self.lost,
        }
    }

    /// Trials in one place, up to the next look; the work.
    fn round(
        &mut self,
        cell: &Cell,
        crashes: &Crashes,
        place: usize,
        dirty: &Offsets,
        chain: &Chain,
        player: &mut Player,
    ) -> u64 {
        let mut random = self.random(cell);
        let mut wires: Vec<Wire> = Vec::with_capacity(WIRES as usize);
        for number in 0..WIRES {
            if number == WIRES_IN_VAIN && wires.is_empty() {
                break;
            }
            wires.extend(crashes.wire(place as u32, number, &mut random));
        }
        let Place { trials, failures, looks, bound, is_impossible } = &mut self.places[place];
        if wires.is_empty() {
            *is_impossible = *trials == 0;
            *looks = LOOKS;
            return PIECE_WORK / 16;
        }
        let before = player.work();
        let mut losses = Losses::default();
        let mut slots = 0;
        for _ in 0..if dirty.share() > 0.0 { WIRE_TRIALS } else { 0 } {
            for wire in &wires {
                losses.clear(wire.slots());
                chain.pass(&mut losses, &mut random);
                dirty.replay(&mut losses, &mut random);
                *trials += 1;
                // A wire longer than was measured is not counted on.
                let is_lost = wire.slots() as u64 > dirty.slots || player.is_lost(wire, &losses);
                *failures += u64::from(is_lost);
                self.crashes += 1;
                self.lost += u64::from(is_lost);
                slots += wire.slots() as u64 / 64;
            }
        }
        if dirty.share() == 0.0 {
            *bound = Some(0.0);
            *looks = LOOKS;
        } else if *trials >= FIRST_LOOK << (2 * *looks) {
            let delta = cell.delta / f64::from(crashes.places() * LOOKS);
            let now = dirty.share() * binomial::upper(*failures, *trials, delta);
            *bound = Some(bound.map_or(now, |before| before.min(now)));
            *looks += 1;
        }
        let encoded: u64 = wires.iter().map(Wire::work).sum();
        encoded + slots + player.work() - before
    }

    fn random(&mut self, cell: &Cell) -> SplitMix64 {
        self.rounds += 1;
        SplitMix64::new(cell.seed ^ SplitMix64::new(self.rounds).next_u64().rotate_left(32))
    }
}

/// The offsets of all traces at which one of so many slots is lost. Each trace begins anew behind its end.
#[derive(Debug)]
struct Offsets<'a> {
    traces: &'a [Trace],
    slots: u64,
    packets: u64,
    /// Ways to lose: runs of offsets, each up to the end of a run of losses. Sums of their lengths.
    ends: Vec<u64>,
    /// Of each: the trace, and the run of losses in it.
    runs: Vec<(u32, u32)>,
}

impl<'a> Offsets<'a> {
    fn new(traces: &'a [Trace], slots: u64) -> Self {
        let mut offsets = Self { traces, slots, packets: 0, ends: Vec::new(), runs: Vec::new() };
        let mut sum = 0;
        for (number, trace) in (0..).zip(traces) {
            offsets.packets += trace.packets();
            let runs = trace.runs();
            // What is received before the first loss follows on what is received behind the last one.
            let tail = if runs.len() % 2 == 1 { runs.last().copied().map_or(0, u64::from) } else { 0 };
            for (run, pair) in runs.chunks_exact(2).enumerate() {
                let (received, lost) = (u64::from(pair[0]), u64::from(pair[1]));
                let before = received + if run == 0 { tail } else { 0 };
                sum += lost + before.min(slots.saturating_sub(1));
                offsets.ends.push(sum);
                offsets.runs.push((number, 2 * run as u32 + 1));
            }
        }
        offsets
    }

    /// Share of the offsets.
    fn share(&self) -> f64 {
        self.ends.last().map_or(0.0, |&dirty| dirty as f64 / self.packets.max(1) as f64).min(1.0)
    }

    /// Adds the losses behind one of these offsets, at random.
    fn replay(&self, losses: &mut Losses, random: &mut SplitMix64) {
        let Some(&dirty) = self.ends.last().filter(|&&dirty| dirty > 0) else { return };
        let pick = random.below(usize::try_from(dirty).unwrap_or(usize::MAX)) as u64;
        let at = self.ends.partition_point(|&end| end <= pick);
        let (trace, run) = self.runs[at];
        // So far before the end of its losses.
        let back = self.ends[at] - pick;
        let runs = self.traces[trace as usize].runs();
        let lost = u64::from(runs[run as usize]);
        let mut slot = back.saturating_sub(lost);
        let mut left = back.min(lost);
        let mut run = run as usize;
        let slots = losses.slots() as u64;
        while slot < slots {
            losses.insert_run(slot as usize..(slot + left).min(slots) as usize);
            slot += left;
            // The next run that was received, round the end of the trace, and the losses behind it.
            let mut received = 0;
            loop {
                run = (run + 1) % runs.len();
                if run % 2 == 1 {
                    break;
                }
                received += u64::from(runs[run]);
            }
            left = u64::from(runs[run]);
            slot += received;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every offset of the traces, by hand.
    fn windows(traces: &[Trace], slots: usize) -> Vec<Vec<usize>> {
        let mut all = Vec::new();
        for trace in traces {
            let bits: Vec<bool> = trace.losses().collect();
            for offset in 0..bits.len() {
                all.push((0..slots).filter(|slot| bits[(offset + slot) % bits.len()]).collect());
            }
        }
        all
    }

    #[test]
    fn offsets_are_those_with_losses_each_as_likely() {
        let trace = |text: &str| Trace::from_losses(text.chars().map(|bit| bit == '1'));
        for texts in [
            vec!["0000000110000000001000"],
            vec!["1100000000100000", "000000"],
            vec!["01", "1", "0000000000000000000000000001"],
        ] {
            let traces: Vec<Trace> = texts.into_iter().map(trace).collect();
            for slots in [1, 2, 5, 9, 30] {
                let windows = windows(&traces, slots);
                let dirty: Vec<_> = windows.iter().filter(|lost| !lost.is_empty()).collect();
                let offsets = Offsets::new(&traces, slots as u64);
                let share = dirty.len() as f64 / windows.len() as f64;
                assert!(
                    (offsets.share() - share).abs() < 1e-12,
                    "{slots} of {traces:?}: {}",
                    offsets.share()
                );
                let mut random = SplitMix64::new(3);
                let mut losses = Losses::default();
                let draws = 200 * dirty.len();
                let mut counts = std::collections::HashMap::new();
                for _ in 0..draws {
                    losses.clear(slots);
                    offsets.replay(&mut losses, &mut random);
                    *counts.entry(losses.iter().collect::<Vec<_>>()).or_insert(0) += 1;
                }
                for window in &dirty {
                    let expected = 200.0 * dirty.iter().filter(|other| other == &window).count() as f64;
                    let seen = f64::from(counts.get(*window).copied().unwrap_or(0));
                    assert!(
                        (seen - expected).abs() < 6.0 * expected.sqrt(),
                        "{window:?}: {seen}, not {expected}"
                    );
                }
                assert!(counts.keys().all(|lost| dirty.contains(&lost)));
            }
        }
    }
}

//! Answers that were simulated, and the questions that still wait.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use parhelion_plugin::{Channel, Code, Exposure};

use crate::cell::{Cell, GridChannel, coarse};

/// How a question is answered, piece by piece.
pub trait Simulation: Send + Sync + Debug {
    /// What is known so far of one question.
    type Progress: Default + Send + Debug;

    /// Does a piece of the work, some milliseconds of it.
    fn simulate(&self, cell: &Cell, progress: &mut Self::Progress) -> Findings;
}

/// Where a simulation stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Findings {
    /// The bound that follows, if there is one already.
    pub bound: Option<f64>,
    /// Whether more work would change little.
    pub is_done: bool,
    /// How much precision was reached: what has less goes first.
    pub stage: u32,
    /// Crashes that were simulated.
    pub crashes: u64,
    /// Of those, with the append lost.
    pub lost: u64,
}

/// Remembers answers, keeps a queue of questions, and has both bounded.
///
/// An answer holds for every question that it dominates: a channel that gets better keeps the figure that it had until
/// the better one is there. Questions are answered in the order of the precision reached, the most recent first.
/// Locks are held for look-ups only, never while something is simulated.
#[derive(Debug)]
pub struct Table<S: Simulation> {
    simulation: S,
    state: Mutex<State<S::Progress>>,
    edition: AtomicU64,
}

#[derive(Debug)]
struct State<P> {
    /// The codes that are told apart by number, by last use.
    codes: Vec<(u32, Code)>,
    next_code: u32,
    shelves: HashMap<(u32, Exposure), Vec<Slot<P>>>,
    slots: usize,
    /// Counts questions.
    asked: u64,
    /// Counts pieces of work.
    pieces: u64,
}

/// One question.
#[derive(Debug)]
struct Slot<P> {
    channel: GridChannel,
    /// None while a thread works on it.
    progress: Option<P>,
    findings: Findings,
    /// When it was asked last, in questions and in pieces of work.
    asked: u64,
    asked_at_piece: u64,
}

/// Questions that are remembered; with what is known of it, one takes some 6 KiB.
pub const CELLS_MAX: usize = 1024;

/// Of those, without any answer.
pub const QUEUE_MAX: usize = 64;

/// Codes that are remembered.
const CODES_MAX: usize = 16;

/// Pieces of work after which a question that nobody asks any more is left alone.
const PIECES_WANTED: u64 = 2000;

/// An answer is told anew when it falls at least by this factor.
const WORTH_TELLING: f64 = 0.95;

impl<S: Simulation> Table<S> {
    /// An empty table.
    pub fn new(simulation: S) -> Self {
        let state =
            State { codes: Vec::new(), next_code: 0, shelves: HashMap::new(), slots: 0, asked: 0, pieces: 0 };
        Self { simulation, state: Mutex::new(state), edition: AtomicU64::new(0) }
    }

    /// The best figure there is for the question, if any; it is queued otherwise, and while it can get better.
    pub fn ask(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> Option<f64> {
        let exposure = coarse(code.structure(), exposure);
        let channel = GridChannel::above(channel);
        let mut state = self.lock();
        let number = state.number(code);
        state.asked += 1;
        let (asked, asked_at_piece) = (state.asked, state.pieces);
        let shelf = state.shelves.entry((number, exposure)).or_default();
        let mut best: Option<f64> = None;
        let mut is_known = false;
        for slot in shelf.iter_mut() {
            if slot.channel.dominates(&channel)
                && let Some(bound) = slot.findings.bound
            {
                best = Some(best.map_or(bound, |best| best.min(bound)));
            }
            if slot.channel == channel {
                is_known = true;
                (slot.asked, slot.asked_at_piece) = (asked, asked_at_piece);
            }
        }
        if !is_known {
            let progress = Some(S::Progress::default());
            shelf.push(Slot { channel, progress, findings: Findings::default(), asked, asked_at_piece });
            state.slots += 1;
            state.forget();
        }
        best
    }

    /// Simulates a piece of what is wanted most; whether there is more.
    pub fn work(&self) -> bool {
        let Some((key, channel, code, mut progress)) = self.lock().take() else { return false };
        let cell = channel.cell(&code, &key.1);
        let findings = self.simulation.simulate(&cell, &mut progress);
        let mut state = self.lock();
        state.pieces += 1;
        let slot =
            state.shelves.get_mut(&key).and_then(|shelf| shelf.iter_mut().find(|s| s.channel == channel));
        if let Some(slot) = slot {
            // What was told stays true: each look has its own share of the doubt.
            let before = slot.findings.bound;
            let bound = match (before, findings.bound) {
                (Some(before), Some(now)) => Some(before.min(now)),
                (before, now) => before.or(now),
            };
            slot.findings = Findings { bound, ..findings };
            slot.progress = Some(progress);
            let is_news = match (before, bound) {
                (Some(before), Some(now)) => now < WORTH_TELLING * before,
                (None, now) => now.is_some(),
                (Some(_), None) => false,
            };
            if is_news {
                self.edition.fetch_add(1, Ordering::Relaxed);
            }
        }
        state.next().is_some()
    }

    /// Rises when an answer has become better.
    pub fn edition(&self) -> u64 {
        self.edition.load(Ordering::Relaxed)
    }

    /// What is known of exactly this question; none if it was never asked, or is forgotten.
    pub fn findings(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> Option<Findings> {
        let exposure = coarse(code.structure(), exposure);
        let channel = GridChannel::above(channel);
        let state = self.lock();
        let number = state.codes.iter().find(|(_, known)| known == code)?.0;
        let shelf = state.shelves.get(&(number, exposure))?;
        shelf.iter().find(|slot| slot.channel == channel).map(|slot| slot.findings)
    }

    /// Questions that are remembered.
    pub fn len(&self) -> usize {
        self.lock().slots
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State<S::Progress>> {
        // Each change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a question is.
type Key = (u32, Exposure);

impl<P> State<P> {
    fn number(&mut self, code: &Code) -> u32 {
        if let Some(at) = self.codes.iter().rposition(|(_, known)| known == code) {
            return self.codes[at].0;
        }
        if self.codes.len() == CODES_MAX {
            let (gone, _) = self.codes.remove(0);
            self.shelves.retain(|&(number, _), _| number != gone);
            self.slots = self.shelves.values().map(Vec::len).sum();
        }
        let number = self.next_code;
        self.next_code = self.next_code.wrapping_add(1);
        self.codes.push((number, code.clone()));
        number
    }

    /// Forgets the oldest questions if there are too many, or too many without an answer.
    fn forget(&mut self) {
        let waiting = |slot: &Slot<P>| slot.findings.bound.is_none();
        let slots =
            || self.shelves.iter().flat_map(|(key, shelf)| shelf.iter().map(move |slot| (*key, slot)));
        let oldest = if self.slots > CELLS_MAX {
            slots().min_by_key(|(_, slot)| slot.asked)
        } else if slots().filter(|(_, slot)| waiting(slot)).count() > QUEUE_MAX {
            slots().filter(|(_, slot)| waiting(slot)).min_by_key(|(_, slot)| slot.asked)
        } else {
            None
        };
        let Some((key, asked)) = oldest.map(|(key, slot)| (key, slot.asked)) else { return };
        if let Some(shelf) = self.shelves.get_mut(&key) {
            shelf.retain(|slot| slot.asked != asked);
            if shelf.is_empty() {
                self.shelves.remove(&key);
            }
            self.slots -= 1;
        }
    }

    /// The question that is to be worked on: the least precise, the most recent.
    fn next(&self) -> Option<(Key, GridChannel)> {
        let wanted = |slot: &Slot<P>| {
            !slot.findings.is_done
                && slot.progress.is_some()
                && self.pieces - slot.asked_at_piece <= PIECES_WANTED
        };
        self.shelves
            .iter()
            .flat_map(|(key, shelf)| shelf.iter().map(move |slot| (*key, slot)))
            .filter(|(_, slot)| wanted(slot))
            .min_by_key(|(_, slot)| (slot.findings.stage, Reverse(slot.asked)))
            .map(|(key, slot)| (key, slot.channel))
    }

    fn take(&mut self) -> Option<(Key, GridChannel, Code, P)> {
        let (key, channel) = self.next()?;
        let slot = self.shelves.get_mut(&key)?.iter_mut().find(|slot| slot.channel == channel)?;
        let progress = slot.progress.take()?;
        let code = self.codes.iter().find(|(number, _)| *number == key.0)?.1.clone();
        Some((key, channel, code, progress))
    }
}

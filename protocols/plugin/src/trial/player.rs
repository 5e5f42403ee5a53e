//! The receiving site after the crash.

use crate::chosen::Code;
use crate::code::{Decoder, RecoveredSink};
use crate::parameters::ParameterError;
use crate::trial::losses::Losses;
use crate::trial::wire::{SYMBOL_BYTES, Slot, Wire, content};

/// Gives a real decoder what is left of a [`Wire`], and tells whether the append is complete.
///
/// Only what bears on the append is given: its lost symbols, the repairs that arrived of them, all that these
/// include, and so on with each lost symbol found that way. Everything else holds no equation with an unknown symbol
/// of these, provided that the covers of repairs are true, which the conformance kit checks; and a decoder that is
/// given less never rebuilds more, so a code that breaks this is priced too high, never too low.
///
/// One decoder plays wires of ascending ids. When ids go back, it is made anew: play each of a number of wires in turn,
/// again and again, and nothing else is allocated.
pub struct Player {
    code: Code,
    decoder: Option<Box<dyn Decoder>>,
    /// Id behind the newest one that the decoder has seen.
    next: u64,
    /// Ids after which the decoder has forgotten everything.
    forgets: u64,
    /// Slots to give to the decoder.
    relevant: Losses,
    /// Lost symbols whose repairs are still to be looked at, and those that were found.
    unknown: Vec<u32>,
    /// By source symbol and by repair: the trial in which it was found last.
    sources_seen: Vec<u32>,
    repairs_seen: Vec<u32>,
    trial: u32,
    have: Have,
    work: u64,
    is_thorough: bool,
}

impl std::fmt::Debug for Player {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Player").field("code", &self.code).finish_non_exhaustive()
    }
}

impl Player {
    /// A player of wires of `code`.
    ///
    /// # Errors
    /// The code makes no decoder, as [`ErasureCode::decoder`](crate::ErasureCode::decoder).
    pub fn new(code: &Code) -> Result<Self, ParameterError> {
        Ok(Self {
            decoder: Some(code.decoder(SYMBOL_BYTES)?),
            code: code.clone(),
            next: 0,
            forgets: 2 * code.structure().window_symbols().unwrap_or(0) as u64,
            relevant: Losses::default(),
            unknown: Vec::new(),
            sources_seen: Vec::new(),
            repairs_seen: Vec::new(),
            trial: 0,
            have: Have::default(),
            work: 0,
            is_thorough: false,
        })
    }

    /// A player that gives the decoder every packet that arrives: many times slower, and it trusts no cover.
    ///
    /// # Errors
    /// As [`Player::new`].
    pub fn thorough(code: &Code) -> Result<Self, ParameterError> {
        Ok(Self { is_thorough: true, ..Self::new(code)? })
    }

    /// Whether a symbol of the append neither arrives nor is rebuilt when these slots are lost. A decoder that breaks
    /// loses it.
    pub fn is_lost(&mut self, wire: &Wire, losses: &Losses) -> bool {
        self.play(wire, losses) > 0
    }

    /// How many symbols of the append neither arrive nor are rebuilt; [`is_missing`](Self::is_missing) tells which.
    pub fn play(&mut self, wire: &Wire, losses: &Losses) -> usize {
        self.begin(wire);
        for source in wire.append() {
            if losses.contains(wire.source_slot(source)) {
                self.sources_seen[source] = self.trial;
                self.unknown.push(source as u32);
            }
        }
        self.have.begin(wire, &self.unknown);
        if self.unknown.is_empty() {
            return 0;
        }
        if self.is_thorough {
            (0..wire.slots())
                .filter(|&slot| !losses.contains(slot))
                .for_each(|slot| self.relevant.insert(slot));
        } else {
            let mut looked = 0;
            while let Some(&source) = self.unknown.get(looked) {
                self.look_at_repairs(wire, losses, source as usize);
                looked += 1;
            }
        }
        self.give(wire);
        self.have.missing
    }

    /// Whether the append's symbol `n` was missing for good in the last trial.
    #[must_use]
    pub fn is_missing(&self, n: usize) -> bool {
        self.have.lacks.get(n).is_some_and(|&lacks| lacks)
    }

    /// What decoders had to do so far, for callers that have no clock: one for each source symbol that they were given, and
    /// one for each that a repair includes. Some ten nanoseconds each.
    #[must_use]
    pub fn work(&self) -> u64 {
        self.work
    }

    fn begin(&mut self, wire: &Wire) {
        self.unknown.clear();
        self.relevant.clear(wire.slots());
        let (sources, repairs) = ((wire.next_id() - wire.first) as usize, wire.repairs.len());
        if self.trial == u32::MAX || self.sources_seen.len() < sources || self.repairs_seen.len() < repairs {
            let (sources, repairs) =
                (sources.max(self.sources_seen.len()), repairs.max(self.repairs_seen.len()));
            self.sources_seen.clear();
            self.sources_seen.resize(sources, 0);
            self.repairs_seen.clear();
            self.repairs_seen.resize(repairs, 0);
            self.trial = 0;
        }
        self.trial += 1;
    }

    /// Notes what is to be given because `source` is lost.
    fn look_at_repairs(&mut self, wire: &Wire, losses: &Losses, source: usize) {
        for &number in wire.protecting(source) {
            let repair = &wire.repairs[number as usize];
            if !repair.counts || losses.contains(repair.slot as usize) {
                continue;
            }
            if std::mem::replace(&mut self.repairs_seen[number as usize], self.trial) == self.trial {
                continue;
            }
            self.relevant.insert(repair.slot as usize);
            for member in wire.members(repair.head.cover) {
                let slot = wire.source_slot(member);
                if !losses.contains(slot) {
                    self.relevant.insert(slot);
                } else if std::mem::replace(&mut self.sources_seen[member], self.trial) != self.trial {
                    self.unknown.push(member as u32);
                }
            }
        }
    }

    /// Gives the decoder the relevant packets in wire order, until nothing of the append is missing.
    fn give(&mut self, wire: &Wire) {
        if wire.first < self.next.saturating_add(self.forgets) || self.decoder.is_none() {
            self.decoder = self.code.decoder(SYMBOL_BYTES).ok();
        }
        self.next = wire.next_id();
        let Some(decoder) = self.decoder.as_mut() else { return };
        for slot in self.relevant.iter() {
            match wire.slot(slot) {
                Slot::Nothing => {}
                Slot::Source(source) => {
                    self.work += 1;
                    let id = wire.first + u64::from(source);
                    decoder.source(id, &content(id), &mut self.have);
                }
                Slot::Repair(number) if !wire.repairs[number as usize].counts => {}
                Slot::Repair(number) => {
                    let repair = &wire.repairs[number as usize];
                    self.work += 1 + u64::from(repair.head.cover.count);
                    // A refusal of what its own encoder made leaves the symbol missing, if it matters.
                    let _ = decoder.repair(repair.head, wire.payload(repair), &mut self.have);
                }
            }
            if self.have.missing == 0 {
                return;
            }
        }
        if decoder.fault().is_some() {
            self.decoder = None;
        }
    }
}

/// Which symbols of the append are missing.
#[derive(Debug, Default)]
struct Have {
    first: u64,
    /// By symbol of the append, from `first` on.
    lacks: Vec<bool>,
    missing: usize,
}

impl Have {
    fn begin(&mut self, wire: &Wire, lost: &[u32]) {
        let append = wire.append();
        self.first = wire.first + append.start as u64;
        self.lacks.clear();
        self.lacks.resize(append.len(), false);
        for &source in lost {
            self.lacks[source as usize - append.start] = true;
        }
        self.missing = lost.len();
    }
}

impl RecoveredSink for Have {
    fn recovered(&mut self, id: u64, payload: &[u8]) {
        // What is wrong is not recovered.
        if payload.strip_prefix(&content(id)).is_none_or(|padding| padding.iter().any(|&byte| byte != 0)) {
            return;
        }
        let at = id.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(lacks) = at.and_then(|at| self.lacks.get_mut(at))
            && std::mem::replace(lacks, false)
        {
            self.missing -= 1;
        }
    }
}

//! What is on the wire when the sender dies.

use std::ops::Range;

use crate::code::{Cover, Encoder, RepairHead, RepairSink};
use crate::conformance::SplitMix64;
use crate::model::Exposure;

/// Source symbols, repairs and empty slots in wire order, up to the crash.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Id of the first source symbol.
    pub(super) first: u64,
    /// Slot of each source symbol.
    sources: Vec<u32>,
    /// The append, as positions in `sources`.
    append: Range<usize>,
    pub(super) repairs: Vec<Repair>,
    slots: Vec<Slot>,
    /// The repairs that include a source symbol: `protects[starts[s]..starts[s + 1]]`.
    starts: Vec<u32>,
    protects: Vec<u32>,
    bytes: Vec<u8>,
    exposure: Exposure,
}

/// What a slot carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Nothing,
    /// The source symbol at this position.
    Source(u32),
    /// The repair with this number.
    Repair(u32),
}

#[derive(Clone, Debug)]
pub(super) struct Repair {
    pub(super) head: RepairHead,
    pub(super) slot: u32,
    bytes: Range<u32>,
    /// Whether it may be counted on: it is no repair of the append beyond its coverage.
    pub(super) counts: bool,
}

/// A slot whose loss takes a way to rebuild a given symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Related {
    /// The slot.
    pub slot: usize,
    /// Whether it carries a repair of the symbol; otherwise another source symbol that such a repair includes.
    pub is_repair: bool,
}

/// Bytes of a symbol in a trial.
pub(super) const SYMBOL_BYTES: usize = 8;

/// The content of a source symbol.
pub(super) fn content(id: u64) -> [u8; SYMBOL_BYTES] {
    SplitMix64::new(id).next_u64().to_le_bytes()
}

impl Wire {
    /// Number of slots, from the first source symbol to the last packet before the crash.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// What it took to encode it, in the measure of [`Player::work`](crate::trial::Player::work).
    #[must_use]
    pub fn work(&self) -> u64 {
        4 * self.slots.len() as u64 + self.protects.len() as u64
    }

    /// Source symbols of the append.
    #[must_use]
    pub fn symbols(&self) -> usize {
        self.append.len()
    }

    /// Slot of the append's symbol `n`; the first one has number 0.
    ///
    /// # Panics
    /// There is no such symbol.
    #[must_use]
    pub fn symbol_slot(&self, n: usize) -> usize {
        assert!(n < self.append.len(), "the append has {} symbols, not one at {n}", self.append.len());
        self.sources[self.append.start + n] as usize
    }

    /// Whether the slot carries a packet; in the others the flush pauses.
    #[must_use]
    pub fn is_packet(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|&slot| slot != Slot::Nothing)
    }

    /// What the link would report of the append at the crash.
    #[must_use]
    pub fn exposure(&self) -> &Exposure {
        &self.exposure
    }

    /// Appends to `out` the slots that matter most to the append's symbol `n`, ascending: its repairs, and the other
    /// source symbols that they include.
    pub fn related(&self, n: usize, out: &mut Vec<Related>) {
        let start = out.len();
        let own = self.symbol_slot(n);
        for &repair in self.protecting(self.append.start + n) {
            let repair = &self.repairs[repair as usize];
            if !repair.counts {
                continue;
            }
            out.push(Related { slot: repair.slot as usize, is_repair: true });
            let others = self.members(repair.head.cover).map(|member| self.sources[member] as usize);
            out.extend(others.filter(|&slot| slot != own).map(|slot| Related { slot, is_repair: false }));
        }
        out[start..].sort_unstable();
        // A source symbol can be in several repairs.
        let mut kept = start;
        for n in start..out.len() {
            if kept == start || out[kept - 1].slot != out[n].slot {
                out[kept] = out[n];
                kept += 1;
            }
        }
        out.truncate(kept);
    }

    pub(super) fn append(&self) -> Range<usize> {
        self.append.clone()
    }

    pub(super) fn slot(&self, slot: usize) -> Slot {
        self.slots[slot]
    }

    pub(super) fn source_slot(&self, source: usize) -> usize {
        self.sources[source] as usize
    }

    /// Numbers of the repairs that include a source symbol.
    pub(super) fn protecting(&self, source: usize) -> &[u32] {
        &self.protects[self.starts[source] as usize..self.starts[source + 1] as usize]
    }

    /// Positions of the source symbols of a cover; those that were never sent are left out.
    pub(super) fn members(&self, cover: Cover) -> impl Iterator<Item = usize> + use<> {
        members(cover, self.first..self.first + self.sources.len() as u64)
    }

    pub(super) fn payload(&self, repair: &Repair) -> &[u8] {
        &self.bytes[repair.bytes.start as usize..repair.bytes.end as usize]
    }

    pub(super) fn next_id(&self) -> u64 {
        self.first + self.sources.len() as u64
    }
}

/// Positions, within `sent`, of the ids of a cover that are in it.
fn members(cover: Cover, sent: Range<u64>) -> impl Iterator<Item = usize> {
    let Range { start, end } = sent;
    (0..u64::from(cover.count))
        .map_while(move |k| cover.first.checked_add(k * u64::from(cover.stride)))
        .filter(move |&id| start <= id && id < end)
        .map(move |id| (id - start) as usize)
}

/// Sends what an encoder gives, and watches the coverage of the append as a link does.
pub(super) struct Recorder {
    wire: Wire,
    ids: Range<u64>,
    target: Target,
    /// Indices that cover each symbol of the append.
    masks: Vec<u64>,
    /// By index: symbols of the append that it covers.
    covered: [u32; 64],
    /// Source symbols since the last flush.
    run: u64,
    flushing: Option<u32>,
    flushed: Vec<(RepairHead, Range<u32>)>,
    crashed: bool,
}

/// When the sender dies: as soon as the append has its coverage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) coverage: u64,
    /// Any indices, as many as in `coverage`: where repairs take the indices in turn.
    pub(super) by_count: bool,
    pub(super) flush_pause: u32,
    pub(super) flush_run_max: u32,
}

impl Recorder {
    pub(super) fn new(first: u64, ids: Range<u64>, target: Target) -> Self {
        let symbols = (ids.end - ids.start) as usize;
        let append = (ids.start - first) as usize..(ids.end - first) as usize;
        let exposure = Exposure::steady(symbols as u32, 0, 0);
        Self {
            wire: Wire {
                first,
                sources: Vec::new(),
                append,
                repairs: Vec::new(),
                slots: Vec::new(),
                starts: Vec::new(),
                protects: Vec::new(),
                bytes: Vec::new(),
                exposure,
            },
            ids,
            target,
            masks: vec![0; symbols],
            covered: [0; 64],
            run: 0,
            flushing: None,
            flushed: Vec::new(),
            crashed: false,
        }
    }

    /// Sends the next source symbol.
    pub(super) fn source(&mut self, encoder: &mut dyn Encoder) {
        if self.crashed {
            return;
        }
        let id = self.wire.next_id();
        let slot = self.wire.slots.len() as u32;
        self.wire.slots.push(Slot::Source(self.wire.sources.len() as u32));
        self.wire.sources.push(slot);
        self.run += 1;
        encoder.source(id, &content(id), self);
    }

    /// Sends what covers the symbols so far, one index after the other with pauses, as a link does.
    pub(super) fn flush(&mut self, encoder: &mut dyn Encoder) {
        let run = u32::try_from(self.run).unwrap_or(u32::MAX).min(self.target.flush_run_max);
        self.run = 0;
        self.flushing = Some(run);
        encoder.flush(self);
        self.flushing = None;
        let mut flushed = std::mem::take(&mut self.flushed);
        flushed.sort_by_key(|(head, _)| head.index);
        let mut former = None;
        for (head, bytes) in flushed.drain(..) {
            if former.replace(head.index).is_some_and(|former| former != head.index) && !self.crashed {
                let pause = self.target.flush_pause as usize;
                self.wire.slots.resize(self.wire.slots.len() + pause, Slot::Nothing);
            }
            self.send(head, bytes, Some(run));
        }
        self.flushed = flushed;
    }

    /// Whether the append has all its coverage: nothing is sent any more.
    pub(super) fn has_crashed(&self) -> bool {
        self.crashed
    }

    /// What was sent, if the append got its coverage.
    pub(super) fn finish(self) -> Option<Wire> {
        let Self { mut wire, crashed, .. } = self;
        if !crashed {
            return None;
        }
        let sent = wire.first..wire.next_id();
        let sources = wire.sources.len();
        wire.starts = vec![0; sources + 1];
        for repair in &wire.repairs {
            members(repair.head.cover, sent.clone()).for_each(|member| wire.starts[member + 1] += 1);
        }
        for source in 0..sources {
            wire.starts[source + 1] += wire.starts[source];
        }
        let mut next = wire.starts.clone();
        wire.protects = vec![0; wire.starts[sources] as usize];
        for (number, repair) in wire.repairs.iter().enumerate() {
            for member in members(repair.head.cover, sent.clone()) {
                wire.protects[next[member] as usize] = number as u32;
                next[member] += 1;
            }
        }
        Some(wire)
    }

    fn send(&mut self, head: RepairHead, bytes: Range<u32>, flush_run: Option<u32>) {
        if self.crashed {
            return;
        }
        let slot = self.wire.slots.len() as u32;
        self.wire.slots.push(Slot::Repair(self.wire.repairs.len() as u32));
        let bit = 1_u64.checked_shl(u32::from(head.index)).unwrap_or(0);
        let beyond = !self.target.by_count && self.target.coverage & bit == 0;
        let covers = members(head.cover, self.ids.clone()).next().is_some();
        self.wire.repairs.push(Repair { head, slot, bytes, counts: !(beyond && covers) });
        if covers {
            self.cover(head, bit, flush_run);
        }
    }

    /// The account that a link keeps of a record.
    fn cover(&mut self, head: RepairHead, bit: u64, flush_run: Option<u32>) {
        let exposure = &mut self.wire.exposure;
        for symbol in members(head.cover, self.ids.clone()) {
            if bit == 0 || self.masks[symbol] & bit != 0 {
                continue;
            }
            self.masks[symbol] |= bit;
            // Repairs that do not count are not what the exposure tells of.
            if self.target.by_count || self.target.coverage & bit != 0 {
                exposure.group_max = exposure.group_max.max(u32::from(head.cover.count));
                if let Some(run) = flush_run {
                    let is_first = exposure.flushed == 0;
                    exposure.flush_run = if is_first { run } else { exposure.flush_run.min(run) };
                    exposure.flush_pause = self.target.flush_pause;
                    exposure.flushed |= bit;
                }
            }
            let covered = &mut self.covered[usize::from(head.index)];
            *covered += 1;
            if *covered == exposure.symbols {
                exposure.coverage |= bit;
            }
        }
        let Target { coverage, by_count, .. } = self.target;
        self.crashed = if by_count {
            exposure.coverage.count_ones() >= coverage.count_ones()
        } else {
            exposure.coverage & coverage == coverage
        };
        if self.crashed {
            exposure.flushed &= exposure.coverage;
        }
    }
}

impl RepairSink for Recorder {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        if self.crashed {
            return;
        }
        let start = self.wire.bytes.len() as u32;
        self.wire.bytes.extend_from_slice(payload);
        let bytes = start..self.wire.bytes.len() as u32;
        match self.flushing {
            Some(_) => self.flushed.push((head, bytes)),
            None => self.send(head, bytes, None),
        }
    }
}

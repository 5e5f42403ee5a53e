//! Records that the sender holds until the mirror has confirmed them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use parhelion_plugin::Exposure;
use parhelion_types::RecordKey;

/// Records by key and by slot, and the queues of those that are not cut into symbols yet.
///
/// A record whose coverage somebody waits for goes before those that nobody waits for, and takes along what
/// waits before it in its log, on which its prefix risk depends. Every eighth turn belongs to the others, so that
/// they are never starved.
///
/// Invariants:
/// - A slot is named together with the session number of its record, so a slot that is used again is never
///   taken for its former record.
/// - Numbers are given when a record is first cut: they have no gaps, though a waiting record may be
///   confirmed, and dropped, before its turn.
/// - A record whose symbols are in flight stays until it is confirmed *and* all its symbols have arrived:
///   the receiver asks for a lost symbol even if the mirror has the record by other means.
#[derive(Debug, Default)]
pub(crate) struct Records {
    slots: Vec<Option<Record>>,
    free: Vec<u32>,
    by_key: BTreeMap<RecordKey, u32>,
    /// Records that are waited for, and what they take along.
    awaited: VecDeque<RecordKey>,
    /// All others; some are in `awaited` by now.
    others: VecDeque<RecordKey>,
    /// Records in a row that were waited for while others were not.
    awaited_run: u32,
    waiting: usize,
    next_number: u64,
    held_bytes: usize,
    queued_bytes: usize,
    /// Records whose exposure has changed since it was told.
    changed: VecDeque<RecordRef>,
}

/// Where a record is, and which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordRef {
    pub(crate) slot: u32,
    pub(crate) number: u64,
}

/// Symbols of a record that the receiver is known to lack, though they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lack {
    pub(crate) missing: u32,
    /// Of those, with another copy on the wire.
    pub(crate) on_wire: u32,
}

/// A record on its way.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) key: RecordKey,
    pub(crate) bytes: Bytes,
    /// Number in the session, once cut.
    pub(crate) number: Option<u64>,
    /// Source symbols that it is cut into.
    pub(crate) symbols: u32,
    /// Whether somebody waits for its coverage.
    pub(crate) is_awaited: bool,
    /// Of those, cut.
    pub(crate) cut: u32,
    /// Of those, beyond the site's edge.
    pub(crate) departed: u32,
    /// Of those, at the receiver.
    pub(crate) arrived: u32,
    lack: Lack,
    /// The code that protects it.
    pub(crate) epoch: u32,
    /// Set of repair indices that is complete coverage with that code.
    pub(crate) full: u64,
    /// By repair index: how many of its symbols that repair covers.
    covered: Box<[u32]>,
    coverage: u64,
    group_max: u32,
    /// Repair indices that some symbol of it got from a flush.
    flushed: u64,
    /// The shortest run of source symbols that such a flush ended; 0 for none.
    flush_run: u32,
    /// The shortest pause of such a flush, in packet times; 0 for none.
    flush_pause: u32,
    confirmed: bool,
    /// Waits in the queue of events.
    is_changed: bool,
}

impl Records {
    /// Bytes held, as counted against the buffer.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Bytes that are not cut into symbols yet.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether any record waits to be cut.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// What a record of `bytes` counts against the buffer.
    pub(crate) fn cost(bytes: usize) -> usize {
        bytes.max(RECORD_COST_MIN)
    }

    pub(crate) fn contains(&self, key: RecordKey) -> bool {
        self.by_key.contains_key(&key)
    }

    /// Queues a record that is cut into `symbols`.
    pub(crate) fn push(&mut self, key: RecordKey, bytes: Bytes, symbols: u32, is_awaited: bool) {
        self.held_bytes += Self::cost(bytes.len());
        self.queued_bytes += bytes.len();
        let record = Record {
            key,
            bytes,
            number: None,
            symbols,
            is_awaited,
            cut: 0,
            departed: 0,
            arrived: 0,
            lack: Lack::default(),
            epoch: 0,
            full: 0,
            covered: Box::default(),
            coverage: 0,
            group_max: 0,
            flushed: 0,
            flush_run: 0,
            flush_pause: 0,
            confirmed: false,
            is_changed: false,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(record);
                slot
            }
            None => {
                self.slots.push(Some(record));
                (self.slots.len() - 1) as u32
            }
        };
        self.by_key.insert(key, slot);
        self.waiting += 1;
        if is_awaited {
            self.take_along(key);
            self.awaited.push_back(key);
        } else {
            self.others.push_back(key);
        }
    }

    /// Moves what waits in the log before `end` to the records that are waited for.
    fn take_along(&mut self, end: RecordKey) {
        let first = RecordKey { log: end.log, number: 0 };
        let waits = |slot: u32| {
            let record = self.slots.get(slot as usize).and_then(Option::as_ref);
            record.is_some_and(|record| record.number.is_none() && !record.is_awaited)
        };
        // Newest first: what is cut or waited for already ends it, as do the records before that.
        let along = self.by_key.range(first..end).rev().map_while(|(&key, &slot)| waits(slot).then_some(key));
        let along: Vec<RecordKey> = along.collect();
        for key in along.into_iter().rev() {
            if let Some(record) = self.by_key.get(&key).and_then(|&slot| self.slots[slot as usize].as_mut()) {
                record.is_awaited = true;
            }
            self.awaited.push_back(key);
        }
    }

    /// The next key in turn, and whether it is waited for; it may be of a record that is gone or cut.
    fn next_key(&mut self) -> Option<(RecordKey, bool)> {
        let is_others_turn = self.awaited.is_empty() || self.awaited_run >= AWAITED_RUN_MAX;
        let other = if is_others_turn { self.others.pop_front() } else { None };
        other.map(|key| (key, false)).or_else(|| self.awaited.pop_front().map(|key| (key, true)))
    }

    /// The next waiting record, under the code of `epoch` with `repairs` indices.
    pub(crate) fn start(&mut self, epoch: u32, full: u64, repairs: u32) -> Option<RecordRef> {
        while let Some((key, is_awaited)) = self.next_key() {
            // Confirmed while it waited, or sent again after that and already cut.
            let Some(&slot) = self.by_key.get(&key) else { continue };
            let Some(record) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { continue };
            if record.number.is_some() {
                continue;
            }
            let number = self.next_number;
            self.next_number += 1;
            self.waiting -= 1;
            self.awaited_run = if is_awaited { self.awaited_run.saturating_add(1) } else { 0 };
            record.number = Some(number);
            record.epoch = epoch;
            record.full = full;
            record.covered = vec![0; repairs as usize].into_boxed_slice();
            return Some(RecordRef { slot, number });
        }
        None
    }

    pub(crate) fn get(&self, at: RecordRef) -> Option<&Record> {
        self.slots.get(at.slot as usize)?.as_ref().filter(|record| record.number == Some(at.number))
    }

    pub(crate) fn get_mut(&mut self, at: RecordRef) -> Option<&mut Record> {
        self.slots.get_mut(at.slot as usize)?.as_mut().filter(|record| record.number == Some(at.number))
    }

    /// `bytes` of a record were cut off the queue.
    pub(crate) fn note_cut(&mut self, bytes: usize) {
        self.queued_bytes -= bytes;
    }

    /// Every record of the log below `end.number` is durable at the mirror.
    pub(crate) fn confirm(&mut self, end: RecordKey) {
        let first = RecordKey { log: end.log, number: 0 };
        while let Some((&key, &slot)) = self.by_key.range(first..end).next() {
            // Out of the index at once, so that a confirmation costs no more than what it confirms.
            self.by_key.remove(&key);
            let Some(record) = self.slots[slot as usize].as_mut() else { continue };
            record.confirmed = true;
            if record.number.is_none() {
                self.waiting -= 1;
                self.queued_bytes -= record.bytes.len();
                self.free(slot);
            } else if record.is_done() {
                self.free(slot);
            }
        }
    }

    /// One more symbol of the record is at the receiver.
    pub(crate) fn arrived(&mut self, at: RecordRef) {
        let Some(record) = self.get_mut(at) else { return };
        record.arrived += 1;
        if record.is_done() {
            self.free(at.slot);
        }
    }

    /// One of the record's symbols was found missing, was sent again, or has arrived: what it adds to the
    /// record's lack changes from `before` to `now`.
    pub(crate) fn note_lack(&mut self, at: RecordRef, before: Lack, now: Lack) {
        let Some(record) = self.get_mut(at).filter(|_| before != now) else { return };
        record.lack.missing = record.lack.missing - before.missing + now.missing;
        record.lack.on_wire = record.lack.on_wire - before.on_wire + now.on_wire;
        self.mark_changed(at);
    }

    /// Queues the record to be told of, once.
    pub(crate) fn mark_changed(&mut self, at: RecordRef) {
        if self.get_mut(at).is_some_and(|record| !std::mem::replace(&mut record.is_changed, true)) {
            self.changed.push_back(at);
        }
    }

    /// The next record whose exposure has changed. One that is gone is confirmed, and needs none.
    pub(crate) fn poll_changed(&mut self) -> Option<&Record> {
        while let Some(at) = self.changed.pop_front() {
            if let Some(record) = self.get_mut(at) {
                record.is_changed = false;
                return self.get(at);
            }
        }
        None
    }

    fn free(&mut self, slot: u32) {
        if let Some(record) = self.slots[slot as usize].take() {
            self.held_bytes -= Self::cost(record.bytes.len());
            self.free.push(slot);
        }
    }
}

impl Record {
    /// A repair with `index` over `count` symbols covers one more symbol; whether the coverage rose.
    /// `flush`: the one that sent it had so many source symbols and pauses of so many packet times.
    pub(crate) fn cover(&mut self, index: u8, count: u16, flush: Option<(u32, u32)>) -> bool {
        self.group_max = self.group_max.max(u32::from(count));
        let Some(covered) = self.covered.get_mut(usize::from(index)) else { return false };
        if let Some((run, pause)) = flush {
            let is_first = self.flushed == 0;
            self.flush_run = if is_first { run } else { self.flush_run.min(run) };
            self.flush_pause = if is_first { pause } else { self.flush_pause.min(pause) };
            self.flushed |= 1 << index;
        }
        *covered += 1;
        if *covered < self.symbols {
            return false;
        }
        self.coverage |= 1 << index;
        true
    }

    /// What of it the channel may yet take, and the repairs against that.
    ///
    /// Once a symbol is known to be missing, its repairs have failed, and those of its neighbours have met the same
    /// bad spell. So none counts until nothing is missing any more: what has not arrived is as good as bare.
    pub(crate) fn exposure(&self) -> Exposure {
        let Self { symbols, coverage, group_max, flushed, flush_run, flush_pause, .. } = *self;
        if self.lack.missing > 0 {
            return Exposure::steady(symbols - self.arrived, 0, 0);
        }
        Exposure { symbols, coverage, group_max, flushed, flush_run, flush_pause }
    }

    /// Whether every source symbol has left the site, and of each one that is missing another copy.
    pub(crate) fn is_sent(&self) -> bool {
        self.departed == self.symbols && self.lack.on_wire == self.lack.missing
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.is_sent() && self.coverage & self.full == self.full
    }

    fn is_done(&self) -> bool {
        self.confirmed && self.arrived == self.symbols
    }
}

/// Turns in a row for records that are waited for, while others wait.
const AWAITED_RUN_MAX: u32 = 7;

/// Keeps the state beside small records within a few times the buffer.
const RECORD_COST_MIN: usize = 64;

//! Source symbols in flight.

use std::collections::VecDeque;

use parhelion_plugin::RepairHead;
use parhelion_types::Time;

use crate::records::{Lack, RecordRef};

/// The sender's symbols by id, from the oldest that still matters to the newest.
///
/// Both ids are monotone, and neither passes `next`.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    ring: VecDeque<Symbol>,
    base: u64,
    /// Every symbol below it has repairs for complete coverage, on the wire or queued.
    promise_floor: u64,
}

/// One source symbol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    pub(crate) record: RecordRef,
    /// Position in its record, in symbols.
    pub(crate) position: u32,
    /// Has left the site.
    pub(crate) departed: bool,
    /// Is at the receiver.
    pub(crate) arrived: bool,
    /// Was sent more than once.
    pub(crate) resent: bool,
    /// Waits to be sent again.
    pub(crate) queued: bool,
    /// The receiver lacks it, as a report says, and it has not arrived since.
    pub(crate) is_missing: bool,
    /// A copy that may yet arrive has left the site.
    pub(crate) copy_on_wire: bool,
    pub(crate) first_sent: Time,
    pub(crate) last_sent: Time,
    /// Indices of the repairs that fired.
    promised: u64,
    /// Indices of the repairs that have left the site.
    coverage: u64,
}

impl Symbols {
    /// Id of the next symbol.
    pub(crate) fn next(&self) -> u64 {
        self.base + self.ring.len() as u64
    }

    /// Id of the oldest symbol held.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn push(&mut self, record: RecordRef, position: u32, now: Time) {
        self.ring.push_back(Symbol {
            record,
            position,
            departed: false,
            arrived: false,
            resent: false,
            queued: false,
            is_missing: false,
            copy_on_wire: false,
            first_sent: now,
            last_sent: now,
            promised: 0,
            coverage: 0,
        });
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Symbol> {
        self.ring.get(usize::try_from(id.checked_sub(self.base)?).ok()?)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Symbol> {
        self.ring.get_mut(usize::try_from(id.checked_sub(self.base)?).ok()?)
    }

    /// A repair fired: its symbols will be covered by it.
    pub(crate) fn promise(&mut self, head: RepairHead) {
        let bit = bit(head.index);
        for id in head.cover.ids() {
            if let Some(symbol) = self.get_mut(id) {
                symbol.promised |= bit;
            }
        }
    }

    /// Moves past the symbols whose repairs have all fired, `full` being the indices that takes.
    pub(crate) fn advance_promises(&mut self, full: u64) {
        self.promise_floor = self.promise_floor.max(self.base);
        while self.get(self.promise_floor).is_some_and(|symbol| symbol.promised & full == full) {
            self.promise_floor += 1;
        }
    }

    /// A flush fired all that was outstanding.
    pub(crate) fn promise_all(&mut self) {
        self.promise_floor = self.next();
    }

    /// The oldest symbol that waits for a repair to fire.
    pub(crate) fn oldest_unpromised(&self) -> Option<&Symbol> {
        self.get(self.promise_floor.max(self.base))
    }

    /// Id of that symbol, or of the next one.
    pub(crate) fn oldest_unpromised_id(&self) -> u64 {
        self.promise_floor.max(self.base)
    }

    /// Frees the oldest symbols for as long as `is_done`.
    pub(crate) fn release(&mut self, mut is_done: impl FnMut(&Symbol) -> bool) {
        while self.ring.pop_front_if(|symbol| is_done(symbol)).is_some() {
            self.base += 1;
        }
    }
}

impl Symbol {
    /// The repair of `index` has left the site; whether that is new.
    pub(crate) fn cover(&mut self, index: u8) -> bool {
        let before = self.coverage;
        self.coverage |= bit(index);
        self.coverage != before
    }

    pub(crate) fn is_covered(&self, full: u64) -> bool {
        self.coverage & full == full
    }

    /// What it adds to its record's account of missing symbols.
    pub(crate) fn lack(&self) -> Lack {
        let missing = u32::from(self.is_missing);
        Lack { missing, on_wire: missing * u32::from(self.copy_on_wire) }
    }
}

/// An index that no coverage set holds counts for nothing.
fn bit(index: u8) -> u64 {
    1_u64.checked_shl(u32::from(index)).unwrap_or(0)
}

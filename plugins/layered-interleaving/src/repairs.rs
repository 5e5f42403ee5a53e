//! Repair symbols that wait for more of their group.

use parhelion_plugin::{Cover, RepairHead};

use crate::xor;

/// Names a repair in the store.
pub(crate) type Slot = u32;

/// The repair symbols that lack two or more source symbols of their group.
///
/// Invariants:
/// - What is stored of a repair is the XOR of the symbols it lacks: those that are held were taken out.
/// - `waiting[layer][id % window]` names a repair exactly if that repair is of that layer and lacks `id`. An id
///   is in one group per layer, so one name is enough.
/// - Space is made once. When it is used up, the repair that ends first goes: the most likely to be beyond help.
pub(crate) struct Repairs {
    symbol_bytes: usize,
    window: u64,
    /// `symbol_bytes` for each repair.
    sums: Vec<u8>,
    entries: Vec<Entry>,
    free: Vec<Slot>,
    waiting: Vec<Vec<Slot>>,
}

#[derive(Clone, Copy)]
struct Entry {
    head: RepairHead,
    length: usize,
    /// Symbols of the group that are not held; 0 for a free entry.
    missing: u16,
}

const NOBODY: Slot = Slot::MAX;

impl Repairs {
    pub fn new(layers: usize, capacity: usize, window: usize, symbol_bytes: usize) -> Self {
        let nothing = RepairHead { cover: Cover { first: 0, stride: 1, count: 0 }, index: 0 };
        Self {
            symbol_bytes,
            window: window as u64,
            sums: vec![0; capacity * symbol_bytes],
            entries: vec![Entry { head: nothing, length: 0, missing: 0 }; capacity],
            free: (0..capacity as Slot).rev().collect(),
            waiting: vec![vec![NOBODY; window]; layers],
        }
    }

    /// The repair of `layer` that lacks `id`.
    pub fn waiting(&self, layer: usize, id: u64) -> Option<Slot> {
        Some(self.waiting[layer][self.at(id)]).filter(|&slot| slot != NOBODY)
    }

    pub fn head(&self, slot: Slot) -> RepairHead {
        self.entries[slot as usize].head
    }

    pub fn missing(&self, slot: Slot) -> u16 {
        self.entries[slot as usize].missing
    }

    /// The XOR of the symbols that the repair lacks.
    pub fn sum(&self, slot: Slot) -> &[u8] {
        let start = slot as usize * self.symbol_bytes;
        &self.sums[start..start + self.entries[slot as usize].length]
    }

    /// Stores a repair that lacks `lacking`, two or more; the rest of its group must be taken out with
    /// [`Repairs::take_out`] afterwards.
    pub fn insert(&mut self, head: RepairHead, payload: &[u8], lacking: impl Iterator<Item = u64>) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| self.evict());
        let start = slot as usize * self.symbol_bytes;
        self.sums[start..start + payload.len()].copy_from_slice(payload);
        let mut missing = 0;
        for id in lacking {
            let at = self.at(id);
            self.waiting[usize::from(head.index)][at] = slot;
            missing += 1;
        }
        self.entries[slot as usize] = Entry { head, length: payload.len(), missing };
        slot
    }

    /// Takes a held symbol of the group out of the sum; false if it is longer than the repair, which then cannot
    /// be a repair of it.
    pub fn take_out(&mut self, slot: Slot, symbol: &[u8]) -> bool {
        let (start, length) = (slot as usize * self.symbol_bytes, self.entries[slot as usize].length);
        if symbol.len() > length {
            return false;
        }
        xor::add(&mut self.sums[start..start + length], length, symbol);
        true
    }

    /// The repair lacks `id` no longer.
    pub fn arrived(&mut self, slot: Slot, id: u64) {
        let at = self.at(id);
        let entry = &mut self.entries[slot as usize];
        self.waiting[usize::from(entry.head.index)][at] = NOBODY;
        entry.missing -= 1;
    }

    /// Frees the repair.
    pub fn remove(&mut self, slot: Slot) {
        let RepairHead { cover, index } = self.head(slot);
        for id in cover.ids() {
            let at = self.at(id);
            let name = &mut self.waiting[usize::from(index)][at];
            if *name == slot {
                *name = NOBODY;
            }
        }
        self.entries[slot as usize].missing = 0;
        self.free.push(slot);
    }

    /// Frees everything.
    pub fn clear(&mut self) {
        self.waiting.iter_mut().for_each(|layer| layer.fill(NOBODY));
        self.entries.iter_mut().for_each(|entry| entry.missing = 0);
        self.free.clear();
        self.free.extend((0..self.entries.len() as Slot).rev());
    }

    /// A slot where none is free.
    fn evict(&mut self) -> Slot {
        let oldest = (0..self.entries.len() as Slot).min_by_key(|&slot| self.head(slot).cover.last());
        self.remove(oldest.unwrap_or(0));
        self.free.pop().unwrap_or(0)
    }

    fn at(&self, id: u64) -> usize {
        // The window is a power of two.
        (id & (self.window - 1)) as usize
    }
}

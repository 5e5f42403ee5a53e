//! The receiving side: a window of symbols, and peeling.

use parhelion_plugin::{Decoder, RecoveredSink, RepairHead, SymbolError};

use crate::repairs::{Repairs, Slot};
use crate::schedule::Schedule;
use crate::xor;

/// Rebuilds lost symbols from XORs that lack one symbol, until none is left (Maelstrom's decoder).
///
/// Invariants:
/// - The symbols `floor..floor + window` have a place in the ring, at `id % window`; older ones are forgotten.
///   The window moves forward only.
/// - No stored repair lacks fewer than two symbols when a call returns.
/// - A rebuilt symbol is kept without the zeros at its end: its own length is not known, and it must not
///   appear longer than the repairs that include it.
pub(crate) struct LayeredDecoder {
    layers: Vec<Schedule>,
    symbol_bytes: usize,
    window: u64,
    floor: u64,
    started: bool,
    /// Below it nothing is reported.
    wanted: u64,
    /// `symbol_bytes` for each place of the ring.
    payloads: Vec<u8>,
    lengths: Vec<usize>,
    repairs: Repairs,
    /// A repair that lacks one symbol, while that symbol is worked out.
    scratch: Vec<u8>,
    /// Symbols that were just rebuilt and may complete other groups.
    news: Vec<u64>,
}

/// In `lengths`: the symbol is not held.
const ABSENT: usize = usize::MAX;

/// Repairs that can wait, per symbol of the window and layer: groups are mostly of `r`, but flushes make
/// smaller ones.
const WAITING_GROUP_SYMBOLS: usize = 4;

impl LayeredDecoder {
    pub fn new(layers: Vec<Schedule>, window: usize, symbol_bytes: usize) -> Self {
        let capacity = layers.len() * window / WAITING_GROUP_SYMBOLS;
        Self {
            repairs: Repairs::new(layers.len(), capacity, window, symbol_bytes),
            layers,
            symbol_bytes,
            window: window as u64,
            floor: 0,
            started: false,
            wanted: 0,
            payloads: vec![0; window * symbol_bytes],
            lengths: vec![ABSENT; window],
            scratch: vec![0; symbol_bytes],
            news: Vec::with_capacity(window),
        }
    }

    fn at(&self, id: u64) -> usize {
        // The window is a power of two.
        (id & (self.window - 1)) as usize
    }

    fn held(&self, id: u64) -> bool {
        self.lengths[self.at(id)] != ABSENT
    }

    fn symbol(&self, id: u64) -> &[u8] {
        let at = self.at(id);
        let start = at * self.symbol_bytes;
        &self.payloads[start..start + self.lengths[at]]
    }

    fn keep(&mut self, id: u64, payload: &[u8]) {
        let at = self.at(id);
        let start = at * self.symbol_bytes;
        self.payloads[start..start + payload.len()].copy_from_slice(payload);
        self.lengths[at] = payload.len();
    }

    /// Moves the window so that it holds `id`, and forgets what falls out of it.
    fn reach(&mut self, id: u64) {
        if !self.started {
            // Half a window is left for symbols that the first one overtook.
            self.started = true;
            self.floor = id.saturating_sub(self.window / 2);
        }
        if id < self.floor || id - self.floor < self.window {
            return;
        }
        let floor = id - (self.window - 1);
        if floor - self.floor >= self.window {
            self.lengths.fill(ABSENT);
            self.repairs.clear();
        } else {
            for gone in self.floor..floor {
                let at = self.at(gone);
                if self.lengths[at] == ABSENT {
                    for layer in 0..self.layers.len() {
                        if let Some(slot) = self.repairs.waiting(layer, gone) {
                            self.repairs.remove(slot);
                        }
                    }
                }
                self.lengths[at] = ABSENT;
            }
        }
        self.floor = floor;
    }

    /// A symbol is held that was not: takes it out of the repairs that lack it, and so on with each symbol
    /// that this rebuilds.
    fn peel(&mut self, id: u64, out: &mut dyn RecoveredSink) {
        self.news.push(id);
        while let Some(id) = self.news.pop() {
            for layer in 0..self.layers.len() {
                if let Some(slot) = self.repairs.waiting(layer, id) {
                    self.advance(slot, id, out);
                }
            }
        }
    }

    /// The symbol `id`, which the repair lacked, is held.
    fn advance(&mut self, slot: Slot, id: u64, out: &mut dyn RecoveredSink) {
        let at = self.at(id);
        let start = at * self.symbol_bytes;
        if !self.repairs.take_out(slot, &self.payloads[start..start + self.lengths[at]]) {
            // Not a repair of this symbol, whatever its head says.
            self.repairs.remove(slot);
            return;
        }
        self.repairs.arrived(slot, id);
        if self.repairs.missing(slot) > 1 {
            return;
        }
        let last = self.repairs.head(slot).cover.ids().find(|&id| !self.held(id));
        let sum = self.repairs.sum(slot);
        let length = sum.len();
        self.scratch[..length].copy_from_slice(sum);
        self.repairs.remove(slot);
        if let Some(last) = last {
            self.rebuilt(last, length, out);
        }
    }

    /// The first `length` bytes of the scratch buffer are the symbol `id`.
    fn rebuilt(&mut self, id: u64, length: usize, out: &mut dyn RecoveredSink) {
        let scratch = std::mem::take(&mut self.scratch);
        let payload = &scratch[..length];
        if id >= self.wanted {
            out.recovered(id, payload);
        }
        let end = payload.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        self.keep(id, &payload[..end]);
        self.scratch = scratch;
        self.news.push(id);
    }

    /// Whether an encoder with these parameters writes this head.
    fn fits(&self, head: RepairHead) -> bool {
        let RepairHead { cover, index } = head;
        self.layers.get(usize::from(index)).is_some_and(|layer| {
            u64::from(cover.stride) == layer.interleave() && layer.allows(cover.first, cover.count)
        })
    }
}

impl Decoder for LayeredDecoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RecoveredSink) {
        self.reach(id);
        if id < self.floor || payload.len() > self.symbol_bytes || self.held(id) {
            return;
        }
        self.keep(id, payload);
        self.peel(id, out);
    }

    fn repair(
        &mut self,
        head: RepairHead,
        payload: &[u8],
        out: &mut dyn RecoveredSink,
    ) -> Result<(), SymbolError> {
        if payload.is_empty() || payload.len() > self.symbol_bytes {
            return Err(SymbolError::Length { bytes: payload.len(), max: self.symbol_bytes });
        }
        if !self.fits(head) {
            return Err(SymbolError::Head(head));
        }
        let cover = head.cover;
        if cover.last() < self.floor.max(self.wanted) {
            return Ok(());
        }
        // The group may end ahead of the window when everything since was lost.
        self.reach(cover.last());
        if cover.first < self.floor {
            return Err(SymbolError::Window(head));
        }
        let longest =
            cover.ids().filter(|&id| self.held(id)).map(|id| self.symbol(id).len()).max().unwrap_or(0);
        if longest > payload.len() {
            return Err(SymbolError::Inconsistent { bytes: payload.len(), group: longest });
        }
        let layer = usize::from(head.index);
        let mut lacking = cover.ids().filter(|&id| !self.held(id));
        let (Some(one), another) = (lacking.next(), lacking.next()) else { return Ok(()) };
        if cover.ids().any(|id| self.repairs.waiting(layer, id).is_some()) {
            // The same repair a second time; a true encoder makes no other one with these symbols.
            return Ok(());
        }
        if another.is_some() {
            let (lengths, mask) = (&self.lengths, self.window - 1);
            let lacking = cover.ids().filter(|&id| lengths[(id & mask) as usize] == ABSENT);
            let slot = self.repairs.insert(head, payload, lacking);
            for id in cover.ids().filter(|&id| lengths[(id & mask) as usize] != ABSENT) {
                let at = (id & mask) as usize;
                let start = at * self.symbol_bytes;
                self.repairs.take_out(slot, &self.payloads[start..start + lengths[at]]);
            }
            return Ok(());
        }
        self.scratch[..payload.len()].copy_from_slice(payload);
        for id in cover.ids().filter(|&id| id != one) {
            let at = (id & (self.window - 1)) as usize;
            let start = at * self.symbol_bytes;
            xor::add(&mut self.scratch, payload.len(), &self.payloads[start..start + self.lengths[at]]);
        }
        self.rebuilt(one, payload.len(), out);
        if let Some(id) = self.news.pop() {
            self.peel(id, out);
        }
        Ok(())
    }

    fn expire(&mut self, id: u64) {
        self.wanted = self.wanted.max(id);
    }
}

//! The receiving side: a window of symbols, and peeling.

use parhelion_plugin::{Decoder, Forgotten, RecoveredSink, RepairHead, SymbolError, Window};

use crate::repairs::{Repairs, Slot};
use crate::schedule::Schedule;
use crate::xor;

/// Rebuilds lost symbols from XORs that lack one symbol, until none is left (Maelstrom's decoder).
///
/// Invariant: no stored repair lacks fewer than two symbols when a call returns.
pub(crate) struct LayeredDecoder {
    layers: Vec<Schedule>,
    window: Window,
    repairs: Repairs,
    /// A repair that lacks one symbol, while that symbol is worked out.
    scratch: Vec<u8>,
    /// Symbols that were just rebuilt and may complete other groups.
    news: Vec<u64>,
}

/// Repairs that can wait, per symbol of the window and layer: groups are mostly of `r`, but flushes make
/// smaller ones.
const WAITING_GROUP_SYMBOLS: usize = 4;

impl LayeredDecoder {
    pub fn new(layers: Vec<Schedule>, window: usize, symbol_bytes: usize) -> Self {
        let capacity = layers.len() * window / WAITING_GROUP_SYMBOLS;
        Self {
            repairs: Repairs::new(layers.len(), capacity, window, symbol_bytes),
            layers,
            window: Window::new(window, symbol_bytes),
            scratch: vec![0; symbol_bytes],
            news: Vec::with_capacity(window),
        }
    }

    /// Moves the window so that it holds `id`, and forgets the repairs of what falls out of it.
    fn reach(&mut self, id: u64) {
        match self.window.reach(id) {
            Forgotten::All => self.repairs.clear(),
            Forgotten::Ids(gone) => {
                for id in gone {
                    for layer in 0..self.layers.len() {
                        if let Some(slot) = self.repairs.waiting(layer, id) {
                            self.repairs.remove(slot);
                        }
                    }
                }
            }
        }
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
        if !self.repairs.take_out(slot, self.window.symbol(id)) {
            // Not a repair of this symbol, whatever its head says.
            self.repairs.remove(slot);
            return;
        }
        self.repairs.arrived(slot, id);
        if self.repairs.missing(slot) > 1 {
            return;
        }
        // Of those it lacked: the group may have begun behind the window, where places belong to other ids by now.
        let RepairHead { cover, index } = self.repairs.head(slot);
        let lacked = |id: u64| self.repairs.waiting(usize::from(index), id) == Some(slot);
        let last = cover.ids().find(|&id| lacked(id) && !self.window.holds(id));
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
        let sum = &self.scratch[..length];
        if let Some(payload) = self.window.rebuild(id, length, |space| space.copy_from_slice(sum)) {
            out.recovered(id, payload);
        }
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
        if self.window.keep(id, payload) {
            self.peel(id, out);
        }
    }

    fn repair(
        &mut self,
        head: RepairHead,
        payload: &[u8],
        out: &mut dyn RecoveredSink,
    ) -> Result<(), SymbolError> {
        self.window.check_length(payload)?;
        if !self.fits(head) {
            return Err(SymbolError::Head(head));
        }
        let cover = head.cover;
        if self.window.is_past(cover) {
            return Ok(());
        }
        // The group may end ahead of the window when everything since was lost.
        self.reach(cover.last());
        self.window.check_group(head, payload)?;
        let Self { window, repairs, scratch, .. } = self;
        let mut lacking = cover.ids().filter(|&id| !window.holds(id));
        let (Some(one), another) = (lacking.next(), lacking.next()) else { return Ok(()) };
        if cover.ids().any(|id| repairs.waiting(usize::from(head.index), id).is_some()) {
            // The same repair a second time; a true encoder makes no other one with these symbols.
            return Ok(());
        }
        if another.is_some() {
            let slot = repairs.insert(head, payload, cover.ids().filter(|&id| !window.holds(id)));
            for id in cover.ids().filter(|&id| window.holds(id)) {
                repairs.take_out(slot, window.symbol(id));
            }
            return Ok(());
        }
        scratch[..payload.len()].copy_from_slice(payload);
        for id in cover.ids().filter(|&id| id != one) {
            xor::add(scratch, payload.len(), window.symbol(id));
        }
        self.rebuilt(one, payload.len(), out);
        if let Some(id) = self.news.pop() {
            self.peel(id, out);
        }
        Ok(())
    }

    fn expire(&mut self, id: u64) {
        self.window.expire(id);
    }
}

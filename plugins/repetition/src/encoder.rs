//! The sending side: a ring of symbols that still have copies to send.

use parhelion_plugin::{Cover, Encoder, RepairHead, RepairSink};

/// Sends copy `k` of a symbol `k * spacing` symbols after it.
///
/// Invariant: exactly the symbols `first..next` have copies outstanding or were sent within the last
/// `copies * spacing` ids; their payloads are in the ring at `id % slots`.
pub(crate) struct RepetitionEncoder {
    copies: u32,
    spacing: u64,
    symbol_bytes: usize,
    slots: u64,
    payloads: Vec<u8>,
    lengths: Vec<usize>,
    first: u64,
    next: u64,
    started: bool,
}

impl RepetitionEncoder {
    pub fn new(copies: u32, spacing: u32, symbol_bytes: usize) -> Self {
        let slots = copies as usize * spacing as usize + 1;
        Self {
            copies,
            spacing: u64::from(spacing),
            symbol_bytes,
            slots: slots as u64,
            payloads: vec![0; slots * symbol_bytes],
            lengths: vec![0; slots],
            first: 0,
            next: 0,
            started: false,
        }
    }

    fn emit(&self, id: u64, copy: u32, out: &mut dyn RepairSink) {
        let slot = (id % self.slots) as usize;
        let start = slot * self.symbol_bytes;
        let head = RepairHead { cover: Cover { first: id, stride: 1, count: 1 }, index: (copy - 1) as u8 };
        out.repair(head, &self.payloads[start..start + self.lengths[slot]]);
    }
}

impl Encoder for RepetitionEncoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RepairSink) {
        assert!(payload.len() <= self.symbol_bytes, "symbol {id} has {} bytes", payload.len());
        assert!(!self.started || id == self.next, "symbol {id} follows {}", self.next.wrapping_sub(1));
        if !self.started {
            (self.started, self.first) = (true, id);
        }
        let slot = (id % self.slots) as usize;
        let start = slot * self.symbol_bytes;
        self.payloads[start..start + payload.len()].copy_from_slice(payload);
        // A repair symbol has at least one byte; an empty symbol is repeated as one zero.
        self.payloads[start + payload.len()..start + self.symbol_bytes]
            .iter_mut()
            .take(1)
            .for_each(|b| *b = 0);
        self.lengths[slot] = payload.len().max(1);
        self.next = id.wrapping_add(1);
        for copy in 1..=self.copies {
            match id.checked_sub(u64::from(copy) * self.spacing) {
                Some(due) if due >= self.first => self.emit(due, copy, out),
                _ => break,
            }
        }
    }

    fn flush(&mut self, out: &mut dyn RepairSink) {
        if !self.started {
            return;
        }
        let Some(last) = self.next.checked_sub(1) else { return };
        let oldest = self.first.max(last.saturating_sub(self.slots - 1));
        for copy in 1..=self.copies {
            // Copy `copy` of everything older left in its turn.
            let outstanding = last.saturating_sub((u64::from(copy) * self.spacing) - 1).max(oldest);
            for id in outstanding..self.next {
                self.emit(id, copy, out);
            }
        }
        self.first = self.next;
    }
}

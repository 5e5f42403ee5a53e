//! The receiving side: which ids of the window are there.

use parhelion_plugin::{Decoder, RecoveredSink, RepairHead, SymbolError};

/// Reports each symbol whose copy comes before the symbol itself.
///
/// Invariant: `seen` holds one flag for each id of `floor..floor + seen.len()`, at `id % seen.len()`.
pub(crate) struct RepetitionDecoder {
    copies: u32,
    symbol_bytes: usize,
    seen: Vec<bool>,
    floor: u64,
    started: bool,
    wanted: u64,
}

impl RepetitionDecoder {
    pub fn new(copies: u32, window: usize, symbol_bytes: usize) -> Self {
        Self { copies, symbol_bytes, seen: vec![false; window], floor: 0, started: false, wanted: 0 }
    }

    /// Marks `id` as here; whether it is news. Ids behind the window are not.
    fn mark(&mut self, id: u64) -> bool {
        let window = self.seen.len() as u64;
        if !self.started {
            // Half a window is left for symbols that the first one overtook.
            self.started = true;
            self.floor = id.saturating_sub(window / 2);
        }
        let Some(ahead) = id.checked_sub(self.floor) else { return false };
        if ahead >= window {
            let floor = id - (window - 1);
            if floor - self.floor >= window {
                self.seen.fill(false);
            } else {
                for gone in self.floor..floor {
                    self.seen[(gone % window) as usize] = false;
                }
            }
            self.floor = floor;
        }
        !std::mem::replace(&mut self.seen[(id % window) as usize], true)
    }
}

impl Decoder for RepetitionDecoder {
    fn source(&mut self, id: u64, _payload: &[u8], _out: &mut dyn RecoveredSink) {
        self.mark(id);
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
        if head.cover.count != 1 || head.cover.stride != 1 || u32::from(head.index) >= self.copies {
            return Err(SymbolError::Head(head));
        }
        let id = head.cover.first;
        if id >= self.wanted && self.mark(id) {
            out.recovered(id, payload);
        }
        Ok(())
    }

    fn expire(&mut self, id: u64) {
        self.wanted = self.wanted.max(id);
    }
}

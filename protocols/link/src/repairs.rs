//! Repair symbols that fired and wait for their slot on the wire.

use std::collections::VecDeque;

use parhelion_plugin::{RepairHead, RepairSink};

/// A queue of repair symbols. Its content is bounded by the code: what one source symbol or one flush
/// fires, since repairs go before new source symbols. Buffers are used again.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    queue: VecDeque<Repair>,
    spare: Vec<Vec<u8>>,
    epoch: u32,
}

#[derive(Debug)]
struct Repair {
    head: RepairHead,
    epoch: u32,
    payload: Vec<u8>,
}

impl Repairs {
    /// Symbols that fire from now on belong to the code of `epoch`.
    pub(crate) fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The heads behind the first `skip`, in the order in which they fired.
    pub(crate) fn heads(&self, skip: usize) -> impl Iterator<Item = RepairHead> {
        self.queue.iter().skip(skip).map(|repair| repair.head)
    }

    /// The next head with its code's epoch; its payload is appended to `out` behind room for a header.
    pub(crate) fn pop(&mut self, header_bytes: usize, out: &mut Vec<u8>) -> Option<(RepairHead, u32)> {
        let Repair { head, epoch, payload } = self.queue.pop_front()?;
        out.resize(out.len() + header_bytes, 0);
        out.extend_from_slice(&payload);
        if self.spare.len() < SPARE_MAX {
            self.spare.push(payload);
        }
        Some((head, epoch))
    }
}

impl RepairSink for Repairs {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(payload);
        self.queue.push_back(Repair { head, epoch: self.epoch, payload: buffer });
    }
}

/// A flush of the default code, (1, 11, 101) interleaves, fires at most 113 symbols.
const SPARE_MAX: usize = 128;

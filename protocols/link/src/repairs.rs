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
    flush_run: Option<u32>,
}

/// A repair symbol that is about to leave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fired {
    pub(crate) head: RepairHead,
    /// Its code.
    pub(crate) epoch: u32,
    /// Source symbols behind the flush before, if a flush fired it.
    pub(crate) flush_run: Option<u32>,
}

#[derive(Debug)]
struct Repair {
    fired: Fired,
    payload: Vec<u8>,
}

impl Repairs {
    /// Symbols that fire from now on belong to the code of `epoch`.
    pub(crate) fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// Symbols that fire from now on come from a flush behind so many source symbols, or from the groups
    /// that end by themselves.
    pub(crate) fn set_flush_run(&mut self, flush_run: Option<u32>) {
        self.flush_run = flush_run;
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The heads behind the first `skip`, in the order in which they fired.
    pub(crate) fn heads(&self, skip: usize) -> impl Iterator<Item = RepairHead> {
        self.queue.iter().skip(skip).map(|repair| repair.fired.head)
    }

    /// The next repair symbol; its payload is appended to `out` behind room for a header.
    pub(crate) fn pop(&mut self, header_bytes: usize, out: &mut Vec<u8>) -> Option<Fired> {
        let Repair { fired, payload } = self.queue.pop_front()?;
        out.resize(out.len() + header_bytes, 0);
        out.extend_from_slice(&payload);
        if self.spare.len() < SPARE_MAX {
            self.spare.push(payload);
        }
        Some(fired)
    }
}

impl RepairSink for Repairs {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(payload);
        let fired = Fired { head, epoch: self.epoch, flush_run: self.flush_run };
        self.queue.push_back(Repair { fired, payload: buffer });
    }
}

/// A flush of the default code, (1, 11, 101) interleaves, fires at most 113 symbols.
const SPARE_MAX: usize = 128;

//! Repair symbols that fired and wait for their slot on the wire.

use std::collections::VecDeque;

use parhelion_plugin::{RepairHead, RepairSink};
use parhelion_types::Time;

/// Queues of repair symbols. Their content is bounded by the code: what one source symbol fires, since
/// repairs go before new source symbols, and what flushes fire, each of which waits for its pauses. Buffers
/// are used again.
///
/// A flush sends what it has of one repair index, pauses, and goes on with the next: a burst of losses that
/// takes an append and its first repairs must not take the others too. What fires meanwhile does not wait.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    /// Of groups that ended by themselves.
    queue: VecDeque<Repair>,
    /// Of flushes, oldest first.
    flushes: VecDeque<Flush>,
    spare: Vec<Vec<u8>>,
    epoch: u32,
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
struct Flush {
    repairs: VecDeque<Repair>,
    /// When the first of them may leave.
    due: Time,
}

#[derive(Debug)]
struct Repair {
    fired: Fired,
    payload: Vec<u8>,
}

/// Takes what a flush fires.
pub(crate) struct Flushing<'a> {
    repairs: &'a mut Repairs,
    flush: VecDeque<Repair>,
    flush_run: u32,
}

impl Repairs {
    /// Symbols that fire from now on belong to the code of `epoch`.
    pub(crate) fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// Begins a flush behind `flush_run` source symbols.
    pub(crate) fn flush(&mut self, flush_run: u32) -> Flushing<'_> {
        Flushing { repairs: self, flush: VecDeque::new(), flush_run }
    }

    /// Symbols of groups that ended by themselves.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// When the next one may leave; the past means now.
    pub(crate) fn due(&self) -> Option<Time> {
        if !self.queue.is_empty() {
            return Some(Time::ZERO);
        }
        self.flushes.iter().map(|flush| flush.due).min()
    }

    /// The heads behind the first `skip` of groups that ended by themselves, in the order in which they fired.
    pub(crate) fn heads(&self, skip: usize) -> impl Iterator<Item = RepairHead> {
        self.queue.iter().skip(skip).map(|repair| repair.fired.head)
    }

    /// The next repair symbol that may leave; its payload is appended to `out` behind room for a header. If it
    /// ends what its flush has of one index, the next index has to wait until `resume`.
    pub(crate) fn pop(
        &mut self,
        now: Time,
        resume: Time,
        header_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Option<Fired> {
        let Repair { fired, payload } = match self.queue.pop_front() {
            Some(repair) => repair,
            None => self.pop_flushed(now, resume)?,
        };
        out.resize(out.len() + header_bytes, 0);
        out.extend_from_slice(&payload);
        if self.spare.len() < SPARE_MAX {
            self.spare.push(payload);
        }
        Some(fired)
    }

    fn pop_flushed(&mut self, now: Time, resume: Time) -> Option<Repair> {
        let at = self.flushes.iter().position(|flush| flush.due <= now)?;
        let flush = &mut self.flushes[at];
        let repair = flush.repairs.pop_front()?;
        match flush.repairs.front() {
            Some(next) if next.fired.head.index != repair.fired.head.index => flush.due = resume,
            Some(_) => {}
            None => drop(self.flushes.remove(at)),
        }
        Some(repair)
    }

    fn buffer(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(payload);
        buffer
    }
}

impl RepairSink for Repairs {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        let payload = self.buffer(payload);
        let fired = Fired { head, epoch: self.epoch, flush_run: None };
        self.queue.push_back(Repair { fired, payload });
    }
}

impl Flushing<'_> {
    /// Ends the flush; `told` gets the heads of what it fired.
    pub(crate) fn end(mut self, mut told: impl FnMut(RepairHead)) {
        self.flush.iter().for_each(|repair| told(repair.fired.head));
        // One index after the other, each in the order of the code.
        self.flush.make_contiguous().sort_by_key(|repair| repair.fired.head.index);
        if !self.flush.is_empty() {
            self.repairs.flushes.push_back(Flush { repairs: self.flush, due: Time::ZERO });
        }
    }
}

impl RepairSink for Flushing<'_> {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        let payload = self.repairs.buffer(payload);
        let fired = Fired { head, epoch: self.repairs.epoch, flush_run: Some(self.flush_run) };
        self.flush.push_back(Repair { fired, payload });
    }
}

/// A flush of the default code, (1, 23, 101) interleaves, fires at most 125 symbols.
const SPARE_MAX: usize = 128;

//! What goes to the store, in order, also when the store's queue is full.
//!
//! Credits keep a primary's records below the queue's limit. A mirror cannot be kept so by them: what a session sends
//! again comes above the link's limit, a gap that closes sets free all that waited behind it, and both limits are set
//! apart. A record that the store refused and the next one of its log that it took would leave a hole, which fails the
//! log. So what is refused waits here, everything that comes later waits behind it, and the bytes count as pending for
//! the link, which is what bounds them.

use std::collections::VecDeque;
use std::sync::Arc;

use parhelion_log::Tail;
use parhelion_types::LogId;

use crate::store::{Store, StoreError, WriteRequest};

/// The way to a store's queue.
#[derive(Debug)]
pub(crate) struct DeferredWrites {
    store: Arc<Store>,
    waiting: VecDeque<Deferred>,
    bytes: usize,
}

#[derive(Debug)]
enum Deferred {
    Write(WriteRequest),
    Rewind { log: LogId, tail: Tail },
}

impl DeferredWrites {
    /// The way to this store. Nobody else may write to it.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, waiting: VecDeque::new(), bytes: 0 }
    }

    /// Queues a record for the disk, now or when there is room.
    pub fn write(&mut self, request: WriteRequest) {
        let refused = if self.waiting.is_empty() { self.store.offer(request) } else { Some(request) };
        if let Some(request) = refused {
            self.bytes += bytes_of(&request);
            self.waiting.push_back(Deferred::Write(request));
        }
    }

    /// Cuts a log back, behind what was written before.
    ///
    /// # Errors
    /// The store's writer has ended.
    pub fn rewind(&mut self, log: LogId, tail: Tail) -> Result<(), StoreError> {
        if self.waiting.is_empty() {
            return self.store.rewind(log, tail);
        }
        self.waiting.push_back(Deferred::Rewind { log, tail });
        Ok(())
    }

    /// Gives the store what it has room for. To be called whenever it reports something: as long as anything waits here,
    /// the store has records that it will report on.
    pub fn hand_on(&mut self) {
        while let Some(next) = self.waiting.pop_front() {
            match next {
                Deferred::Write(request) => {
                    let bytes = bytes_of(&request);
                    if let Some(request) = self.store.offer(request) {
                        self.waiting.push_front(Deferred::Write(request));
                        return;
                    }
                    self.bytes -= bytes;
                }
                Deferred::Rewind { log, tail } => {
                    if let Err(error) = self.store.rewind(log, tail) {
                        tracing::error!(%log, %error, "log could not be cut back");
                    }
                }
            }
        }
    }

    /// Forgets what waits for a log that can be written no more.
    pub fn forget(&mut self, failed: LogId) {
        self.waiting.retain(|deferred| match deferred {
            Deferred::Write(request) => request.record.header.log != failed,
            Deferred::Rewind { log, .. } => *log != failed,
        });
        let writes = self.waiting.iter().filter_map(|deferred| match deferred {
            Deferred::Write(request) => Some(bytes_of(request)),
            Deferred::Rewind { .. } => None,
        });
        self.bytes = writes.sum();
    }

    /// Bytes of records that are not durable: those that wait here, and those in the store's queue.
    pub fn pending_bytes(&self) -> usize {
        self.bytes + self.store.queued_bytes()
    }
}

fn bytes_of(request: &WriteRequest) -> usize {
    request.record.header.stored_bytes() as usize
}

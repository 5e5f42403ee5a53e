//! Appends on their way from the front ends to the storage actor.
//!
//! What arrives with one packet, or with several at once, is many appends of many tasks. Sent one by one, the first
//! would wake the actor's thread, which takes a system call, and would be written and synced alone while the others
//! are still being read. So they cross together, when the sending thread has nothing else to do at once.

use std::sync::{Arc, Mutex, PoisonError};

use actix::Addr;

use crate::actor::StorageActor;
use crate::request::{Request, Requests};

/// Where appends are handed to. Clones share it.
#[derive(Clone)]
pub struct RequestBatches {
    storage: Addr<StorageActor>,
    waiting: Arc<Mutex<Vec<Request>>>,
}

impl RequestBatches {
    /// Batches for this actor.
    #[must_use]
    pub fn new(storage: Addr<StorageActor>) -> Self {
        Self { storage, waiting: Arc::default() }
    }

    /// Hands a request over, together with all that come before the current runtime has run what is ready. The
    /// byte credits of the requests bound how many those are.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn send(&self, request: Request) {
        let is_first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(request);
            waiting.len() == 1
        };
        if is_first {
            let handing_on = HandingOn(self.clone());
            tokio::spawn(async move {
                let _handing_on = handing_on;
                // Comes back when the other tasks that are ready have run, and sockets were looked at once.
                tokio::task::yield_now().await;
            });
        }
    }

    fn hand_on(&self) {
        let batch = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.storage.do_send(Requests(batch));
    }
}

/// Hands a batch on when it is dropped: also where the runtime that was to do it ends, because other threads rely
/// on it.
struct HandingOn(RequestBatches);

impl Drop for HandingOn {
    fn drop(&mut self) {
        self.0.hand_on();
    }
}

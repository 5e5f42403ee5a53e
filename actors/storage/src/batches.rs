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
    tell: Arc<dyn Fn(Vec<Request>) + Send + Sync>,
    waiting: Arc<Mutex<Vec<Request>>>,
}

impl RequestBatches {
    /// Batches for this actor.
    #[must_use]
    pub fn new(storage: Addr<StorageActor>) -> Self {
        Self::telling(move |batch| storage.do_send(Requests(batch)))
    }

    fn telling(tell: impl Fn(Vec<Request>) + Send + Sync + 'static) -> Self {
        Self { tell: Arc::new(tell), waiting: Arc::default() }
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
        (self.tell)(batch);
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

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    fn batches() -> (RequestBatches, mpsc::UnboundedReceiver<usize>) {
        let (told, sizes) = mpsc::unbounded_channel();
        // A test that has seen enough drops its end.
        let tell = move |batch: Vec<Request>| told.send(batch.len()).unwrap_or_default();
        (RequestBatches::telling(tell), sizes)
    }

    fn request() -> Request {
        Request::Status { answer: oneshot::channel().0 }
    }

    #[tokio::test]
    async fn what_is_ready_together_crosses_together() {
        let (batches, mut sizes) = batches();
        for _ in 0..5 {
            let batches = batches.clone();
            tokio::spawn(async move { batches.send(request()) });
        }
        assert_eq!(sizes.recv().await, Some(5));
        batches.send(request());
        assert_eq!(sizes.recv().await, Some(1));
    }

    #[test]
    fn what_a_runtime_leaves_behind_is_handed_on() {
        let (batches, mut sizes) = batches();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            batches.send(request());
            batches.send(request());
        });
        assert!(sizes.try_recv().is_err());
        drop(runtime);
        assert_eq!(sizes.try_recv(), Ok(2));
    }
}

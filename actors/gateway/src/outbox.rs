//! What a connected storage node is yet to be told. Bounded: the driver never waits for a node, so a node that
//! takes nothing is put out.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

/// Where the gateway puts what a storage node is to be told.
pub(crate) struct Outbox<T> {
    queue: mpsc::Sender<T>,
    overflow: Arc<Notify>,
}

/// Most messages that wait. Records are bounded by their bytes; this bounds the small things beside them, some
/// ten seconds of them at full rate.
const MESSAGES_MAX: usize = 65_536;

impl<T> Outbox<T> {
    /// An empty outbox, its other end, and what tells that it has overflowed.
    pub(crate) fn new() -> (Self, mpsc::Receiver<T>, Arc<Notify>) {
        let (queue, rest) = mpsc::channel(MESSAGES_MAX);
        let overflow = Arc::new(Notify::new());
        (Self { queue, overflow: overflow.clone() }, rest, overflow)
    }

    /// Never waits. What does not fit is lost, and the connection with it.
    pub(crate) fn send(&self, message: T) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(message) {
            self.overflow.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_outbox_that_nobody_empties_overflows() {
        let (outbox, mut rest, overflow) = Outbox::new();
        for n in 0..=MESSAGES_MAX {
            outbox.send(n);
        }
        overflow.notified().await;
        assert_eq!(rest.recv().await, Some(0));
    }
}

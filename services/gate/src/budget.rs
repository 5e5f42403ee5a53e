//! Bytes that a front end may hold.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound on the bytes of requests or answers that a front end holds. Clones share it.
///
/// Who reads from a client enters first, so a full budget becomes backpressure on the client. The storage
/// actor has a gate of its own behind it; this one bounds what has not got that far.
#[derive(Clone, Debug)]
pub struct Budget {
    free: Arc<Semaphore>,
    capacity: u32,
}

/// Bytes taken from a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Held {
    permit: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of `bytes` bytes, capped to what a semaphore counts.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let capacity = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        let capacity = capacity.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self { free: Arc::new(Semaphore::new(capacity as usize)), capacity }
    }

    /// Waits until `bytes` fit, in order of arrival. More than the whole budget passes alone.
    pub async fn enter(&self, bytes: usize) -> Held {
        let cost = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.capacity);
        let permit = self.free.clone().acquire_many_owned(cost).await;
        Held { permit: permit.expect("a budget never closes its semaphore") }
    }

    /// Bytes held now.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        (self.capacity as usize).saturating_sub(self.free.available_permits())
    }
}

impl Held {
    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let surplus = self.permit.num_permits().saturating_sub(bytes);
        drop(self.permit.split(surplus));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_is_held_is_bounded_and_given_back() {
        let budget = Budget::new(100);
        let mut first = budget.enter(60).await;
        assert!(budget.enter(60).now_or_never().is_none());
        first.shrink(10);
        assert_eq!(budget.held_bytes(), 10);
        first.shrink(50);
        assert_eq!(budget.held_bytes(), 10);
        let second = budget.enter(60).await;
        drop((first, second));
        let large = budget.enter(1000).await;
        assert_eq!(budget.held_bytes(), 100);
        drop(large);
        assert_eq!(budget.held_bytes(), 0);
    }
}

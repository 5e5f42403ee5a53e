//! Byte credits: backpressure for everything that carries bulk data.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound, in bytes, on what is under way through one edge of the actor graph.
///
/// The sender takes a [`Credit`] before it enqueues, the credit travels in the message, and dropping it
/// after processing gives the bytes back.
#[derive(Clone, Debug)]
pub struct Gate {
    free: Arc<Semaphore>,
    capacity: u32,
}

/// Bytes taken from a [`Gate`]; given back when dropped.
#[derive(Debug)]
pub struct Credit {
    _permit: OwnedSemaphorePermit,
}

impl Gate {
    /// A gate for at most `bytes` bytes, capped at 4 GiB.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let capacity = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        Self { free: Arc::new(Semaphore::new(capacity as usize)), capacity }
    }

    /// Waits until `bytes` fit. A message larger than the gate passes alone, when nothing else is under way.
    pub async fn enter(&self, bytes: usize) -> Credit {
        let permit = self.free.clone().acquire_many_owned(self.cost(bytes)).await;
        Credit { _permit: permit.expect("the gate never closes its semaphore") }
    }

    /// Takes credit at once, or not at all.
    #[must_use]
    pub fn try_enter(&self, bytes: usize) -> Option<Credit> {
        let permit = self.free.clone().try_acquire_many_owned(self.cost(bytes)).ok()?;
        Some(Credit { _permit: permit })
    }

    /// Bytes under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.capacity as usize - self.free.available_permits()
    }

    fn cost(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credits_bound_what_is_under_way() {
        let gate = Gate::new(100);
        let first = gate.enter(60).await;
        assert!(gate.try_enter(60).is_none());
        assert_eq!(gate.in_flight(), 60);
        drop(first);
        let large = gate.enter(1000).await;
        assert_eq!(gate.in_flight(), 100);
        assert!(gate.try_enter(1).is_none());
        drop(large);
        assert_eq!(gate.in_flight(), 0);
    }
}

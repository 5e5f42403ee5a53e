//! Byte credits: backpressure for everything that carries bulk data.
//!
//! Who takes bytes in enters a [`Budget`] first, so a full one becomes backpressure on whoever sends them. The
//! [`Credit`] travels with the bytes, from task to task and from thread to thread, shrinks as they are let go, and
//! gives back the rest when it is dropped. Apart from the runtime of actors, because front ends and clients use it too.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound, in bytes, on what is held or under way. Clones share it.
#[derive(Clone, Debug)]
pub struct Budget {
    free: Arc<Semaphore>,
    capacity: u32,
}

/// Bytes taken from a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Credit {
    permit: OwnedSemaphorePermit,
}

const _: () = assert!(Semaphore::MAX_PERMITS as u64 >= Budget::BYTES_MAX, "for 64-bit machines");

impl Budget {
    /// Largest budget: a byte less than 4 GiB, which is what a semaphore gives out at a time.
    pub const BYTES_MAX: u64 = u32::MAX as u64;

    /// A budget of `bytes` bytes, at least one and at most [`Budget::BYTES_MAX`].
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let capacity = bytes.clamp(1, Self::BYTES_MAX) as u32;
        Self { free: Arc::new(Semaphore::new(capacity as usize)), capacity }
    }

    /// Waits until `bytes` fit, in order of arrival. More than the whole budget passes alone.
    pub async fn enter(&self, bytes: usize) -> Credit {
        let permit = self.free.clone().acquire_many_owned(self.cost(bytes)).await;
        Credit { permit: permit.expect("a budget never closes its semaphore") }
    }

    /// Takes `bytes` at once, or not at all.
    #[must_use]
    pub fn try_enter(&self, bytes: usize) -> Option<Credit> {
        let permit = self.free.clone().try_acquire_many_owned(self.cost(bytes)).ok()?;
        Some(Credit { permit })
    }

    /// Bytes held now.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        (self.capacity as usize).saturating_sub(self.free.available_permits())
    }

    fn cost(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.capacity)
    }
}

impl Credit {
    /// Bytes that it stands for.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.permit.num_permits()
    }

    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        drop(self.take_beyond(bytes));
    }

    /// Takes all but `bytes` away, as a credit of its own.
    #[must_use = "what is dropped is given back"]
    pub fn take_beyond(&mut self, bytes: usize) -> Self {
        let surplus = self.bytes().saturating_sub(bytes);
        Self { permit: self.permit.split(surplus).expect("it has that many") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_held_is_bounded_and_given_back() {
        let budget = Budget::new(100);
        let mut first = budget.enter(60).await;
        assert!(budget.try_enter(60).is_none());
        first.shrink(10);
        assert_eq!(budget.held_bytes(), 10);
        first.shrink(50);
        assert_eq!((first.bytes(), budget.held_bytes()), (10, 10));
        let second = budget.enter(60).await;
        drop((first, second));
        let large = budget.enter(1000).await;
        assert_eq!((large.bytes(), budget.held_bytes()), (100, 100));
        assert!(budget.try_enter(1).is_none());
        let mut waiting = tokio::spawn(async move { budget.enter(30).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(large);
        assert_eq!((&mut waiting).await.unwrap().bytes(), 30);
    }

    #[test]
    fn a_part_goes_its_own_way() {
        let budget = Budget::new(100);
        let mut whole = budget.try_enter(70).unwrap();
        let part = whole.take_beyond(20);
        assert_eq!((whole.bytes(), part.bytes(), budget.held_bytes()), (20, 50, 70));
        assert_eq!(whole.take_beyond(30).bytes(), 0);
        drop(part);
        assert_eq!(budget.held_bytes(), 20);
        drop(whole);
        assert_eq!(budget.held_bytes(), 0);
    }
}

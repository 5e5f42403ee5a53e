//! The two clocks of a process, read in one place.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parhelion_types::{SourceTime, Time};

use crate::fault::wall_back;

/// Reads both clocks. One per process, shared.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    newest_wall: AtomicU64,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        // Not zero: cores may subtract a little from `now`.
        Self { start: Instant::now() - std::time::Duration::from_secs(1), newest_wall: AtomicU64::new(0) }
    }

    /// Monotonic time.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Wall time. Never goes back within a process: a record is never stamped before an earlier one, even
    /// when the machine's clock is set back.
    #[must_use]
    pub fn wall(&self) -> SourceTime {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = since_epoch.saturating_sub(wall_back()).as_micros();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        SourceTime(self.newest_wall.fetch_max(now, Ordering::Relaxed).max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_does_not_go_back() {
        let clock = Clock::start();
        clock.newest_wall.store(u64::MAX - 1, Ordering::Relaxed);
        assert_eq!(clock.wall(), SourceTime(u64::MAX - 1));
        assert!(clock.now() > Time::ZERO);
    }
}

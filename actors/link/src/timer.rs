//! Time for a driver: one monotonic clock, and wake-ups finer than tokio's millisecond wheel.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use parhelion_types::Time;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// The driver's clock: quinn wants [`Instant`], the link core wants [`Time`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        // A start in the past keeps "a while ago" representable in a process that has just begun.
        let now = Instant::now();
        Self { start: now.checked_sub(Duration::from_secs(3600)).unwrap_or(now) }
    }

    /// Now, on both scales.
    pub(crate) fn now(&self) -> (Instant, Time) {
        let instant = Instant::now();
        (instant, self.time(instant))
    }

    pub(crate) fn time(&self, instant: Instant) -> Time {
        Time::ZERO + instant.saturating_duration_since(self.start)
    }
}

/// One alarm on the kernel's high-resolution timers: it wakes the driver within tens of microseconds,
/// which pacing needs; tokio's own timers round up to a millisecond.
#[derive(Debug)]
pub(crate) struct Alarm {
    fd: AsyncFd<OwnedFd>,
    armed: Option<Time>,
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: the `AsyncFd` owns the descriptor, which stays open and the same until it is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }?;
        Ok(Self { fd, armed: None })
    }

    /// Sets the alarm to `deadline`, in place of any earlier one. A deadline that has passed rings at once.
    pub(crate) fn set(&mut self, now: Time, deadline: Time) -> io::Result<()> {
        if self.armed == Some(deadline) {
            return Ok(());
        }
        // Zero would disarm the timer.
        let wait = deadline.since(now).max(Duration::from_nanos(1));
        let value = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        self.armed = Some(deadline);
        Ok(())
    }

    /// Waits until the alarm rings. Dropping the future loses nothing.
    pub(crate) async fn rung(&mut self) {
        loop {
            // Registration fails only while the runtime shuts down, and then this task ends with it.
            let Ok(mut guard) = self.fd.readable().await else { return std::future::pending().await };
            let mut count = [0; 8];
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut count)?)) {
                Ok(_) => {
                    self.armed = None;
                    return;
                }
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_rings_sooner_than_a_millisecond_wheel_could() {
        let clock = Clock::new();
        let mut alarm = Alarm::new().unwrap();
        let mut waits = Vec::new();
        for _ in 0..50 {
            let (_, now) = clock.now();
            alarm.set(now, now + Duration::from_micros(200)).unwrap();
            alarm.rung().await;
            waits.push(clock.now().1.since(now));
        }
        waits.sort_unstable();
        assert!(waits[0] >= Duration::from_micros(200), "rang early: {:?}", waits[0]);
        assert!(waits[25] < Duration::from_millis(1), "median {:?}", waits[25]);
    }

    #[tokio::test]
    async fn a_later_deadline_replaces_an_earlier_one() {
        let clock = Clock::new();
        let mut alarm = Alarm::new().unwrap();
        let (_, now) = clock.now();
        alarm.set(now, now + Duration::from_millis(1)).unwrap();
        alarm.set(now, now + Duration::from_millis(20)).unwrap();
        alarm.rung().await;
        assert!(clock.now().1.since(now) >= Duration::from_millis(20));
        alarm.set(now, now).unwrap();
        tokio::time::timeout(Duration::from_secs(1), alarm.rung()).await.unwrap();
    }
}

//! The clock that parent and emulator share.

use std::num::NonZeroU64;
use std::time::Duration;

use parhelion_types::Time;
use rustix::thread::{clock_nanosleep_relative, set_current_timer_slack};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Now on `CLOCK_MONOTONIC`, which is one clock for all processes of a machine (and the one behind
/// [`std::time::Instant`]): a time taken in the parent means the same in the emulator.
#[must_use]
pub fn monotonic_now() -> Time {
    let now = clock_gettime(ClockId::Monotonic);
    // The kernel keeps both fields non-negative for this clock, and 2^64 ns are 584 years.
    Time::from_nanos(
        u64::try_from(now.tv_sec).unwrap_or(0).saturating_mul(NANOS_PER_SECOND)
            + u64::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// How long to sleep from `now` to `until`, for `ppoll`.
pub(crate) fn sleep_span(now: Time, until: Time) -> Timespec {
    let span = until.since(now);
    Timespec {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}

/// Sleeps for what is left of a busy thread's turn that began at `begin`, so that packets share wake-ups: under
/// load one of those costs several times what a packet does.
pub(crate) fn finish_turn(begin: Time) {
    // A signal may end the sleep early, which costs a wake-up and nothing else.
    let _ = clock_nanosleep_relative(ClockId::Monotonic, &sleep_span(monotonic_now(), begin + TURN_PERIOD));
}

/// Lets the calling thread's sleeps end when they should: the default slack of 50 us would be half of a turn.
pub(crate) fn sharpen_timers() {
    if let Err(error) = set_current_timer_slack(NonZeroU64::new(1)) {
        tracing::debug!(%error, "timers of the link emulator keep their default slack");
    }
}

/// How often a busy thread wakes up, and so how late a packet may be taken in or handed on: 1 % of a delay of
/// 10 ms. An idle thread wakes at once.
const TURN_PERIOD: Duration = Duration::from_micros(100);

const NANOS_PER_SECOND: u64 = 1_000_000_000;

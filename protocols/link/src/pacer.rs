//! When the next datagram may leave.

use std::time::Duration;

use parhelion_types::Time;

/// A token bucket, kept as the time at which it would be full again (GCRA, ITU-T I.371): exact to the
/// byte over any span, no timer of its own.
///
/// After a pause `burst` datagrams may leave at once, then one per datagram time. A caller that wakes up
/// late while datagrams wait catches up, so that the rate holds on average; what it may catch up on is
/// bounded by [`CATCH_UP`], and never more than `burst` datagrams leave at one instant.
#[derive(Debug)]
pub(crate) struct Pacer {
    rate: u64,
    burst: usize,
    /// The burst less one datagram, as time on the wire.
    tolerance: Duration,
    /// When all that was released would have left at `rate`.
    drained: Time,
    /// Part of a nanosecond that `drained` lacks, in units of `1 / rate`.
    remainder: u64,
    instant: Option<Time>,
    released: usize,
    waiting: bool,
}

impl Pacer {
    /// A pacer for `rate` bytes per second, 0 for any number of bytes, and bursts of `burst` datagrams of
    /// `datagram_bytes`.
    pub(crate) fn new(rate: u64, burst: usize, datagram_bytes: usize) -> Self {
        let burst_bytes = (burst.saturating_sub(1) as u64).saturating_mul(datagram_bytes as u64);
        let nanos = u128::from(burst_bytes) * NANOS / u128::from(rate.max(1));
        Self {
            rate,
            burst,
            tolerance: Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)),
            drained: Time::ZERO,
            remainder: 0,
            instant: None,
            released: 0,
            waiting: false,
        }
    }

    /// When the next datagram may leave; the past means now.
    pub(crate) fn next_slot(&self) -> Time {
        let by_rate = if self.rate == 0 { Time::ZERO } else { self.drained - self.tolerance };
        match self.instant {
            Some(instant) if self.released >= self.burst => by_rate.max(instant + Duration::from_nanos(1)),
            _ => by_rate,
        }
    }

    /// When the line will have carried all that was released.
    pub(crate) fn drained(&self) -> Time {
        self.drained
    }

    /// A datagram of `bytes`, overhead included, leaves now.
    pub(crate) fn release(&mut self, now: Time, bytes: usize) {
        if self.instant != Some(now) {
            self.instant = Some(now);
            self.released = 0;
        }
        self.released += 1;
        if self.rate == 0 {
            return;
        }
        let earliest = if self.waiting { now - CATCH_UP } else { now };
        let total = bytes as u128 * NANOS + u128::from(self.remainder);
        let nanos = u64::try_from(total / u128::from(self.rate)).unwrap_or(u64::MAX);
        self.remainder = (total % u128::from(self.rate)) as u64;
        self.drained = self.drained.max(earliest) + Duration::from_nanos(nanos);
        self.waiting = true;
    }

    /// Nothing waits to be sent: the time until something does earns no credit.
    pub(crate) fn idle(&mut self) {
        self.waiting = false;
    }
}

/// What a late wake-up may make up for. A timer wakes a thread some tens of microseconds late; on a busy
/// machine a thread waits for its turn for one or two ticks of the scheduler, 4 ms each. What is not made up
/// for is lost for good: a line that is meant to be full would never be. The burst that follows is as long
/// as the pause, which the queue of any provisioned line takes.
const CATCH_UP: Duration = Duration::from_millis(8);

const NANOS: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: Duration = Duration::from_nanos(50);

    fn run(pacer: &mut Pacer, bytes: usize, datagrams: usize, late: Duration) -> Vec<Time> {
        let mut now = Time::from_nanos(1_000_000);
        let mut times = Vec::new();
        while times.len() < datagrams {
            while times.len() < datagrams && pacer.next_slot() <= now {
                pacer.release(now, bytes);
                times.push(now);
            }
            // A pause is slept through and ends late; the next instant comes with the next turn.
            let slot = pacer.next_slot();
            now = if slot > now + TURN { slot + late } else { now + TURN };
        }
        times
    }

    #[test]
    fn a_burst_then_one_datagram_per_slot() {
        // 1000 bytes at 100 MB/s take 10 us.
        let times = run(&mut Pacer::new(100_000_000, 4, 1000), 1000, 6, Duration::ZERO);
        let gaps: Vec<_> = times.windows(2).map(|w| w[1].since(w[0]).as_micros()).collect();
        assert_eq!(gaps, [0, 0, 0, 10, 10]);
    }

    #[test]
    fn the_rate_is_exact_over_many_datagrams() {
        // 1000 bytes at 3 GB/s take 333.33 ns: the third of a nanosecond must not be lost.
        let times = run(&mut Pacer::new(3_000_000_000, 1, 1000), 1000, 30_001, Duration::ZERO);
        assert_eq!(times[30_000].since(times[0]), Duration::from_millis(10));
    }

    #[test]
    fn late_wake_ups_do_not_lower_the_rate_nor_widen_a_burst() {
        let late = Duration::from_micros(150);
        let times = run(&mut Pacer::new(100_000_000, 4, 1000), 1000, 10_000, late);
        // Each wake-up finds its slot 150 us late and 16 datagrams due; four leave at one instant.
        let span = times[9_999].since(times[0]).as_micros();
        let mut widest = 0;
        for start in 0..times.len() {
            widest = widest.max(times[start..].iter().take_while(|t| **t == times[start]).count());
        }
        assert_eq!(widest, 4);
        assert!((99_900..=100_200).contains(&span), "{span} us for 100 ms of data");
    }

    #[test]
    fn a_pause_earns_one_burst_only() {
        let mut pacer = Pacer::new(100_000_000, 4, 1000);
        let mut now = Time::from_nanos(0);
        for _ in 0..4 {
            pacer.release(now, 1000);
        }
        pacer.idle();
        now = now + Duration::from_secs(1);
        let mut released = 0;
        while pacer.next_slot() <= now {
            pacer.release(now, 1000);
            released += 1;
        }
        assert_eq!(released, 4);
        assert_eq!(pacer.next_slot(), now + Duration::from_micros(10));
    }

    #[test]
    fn an_unpaced_link_releases_a_burst_per_instant() {
        let mut pacer = Pacer::new(0, 2, 1000);
        let now = Time::from_nanos(5);
        pacer.release(now, 1000);
        assert!(pacer.next_slot() <= now);
        pacer.release(now, 1000);
        assert_eq!(pacer.next_slot(), Time::from_nanos(6));
    }
}

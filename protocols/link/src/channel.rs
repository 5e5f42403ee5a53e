//! What the channel does to datagrams, before any repair.

use std::time::Duration;

use parhelion_types::Time;
use parhelion_wire::link::ChannelCountsV1;

use crate::runs::Runs;

/// Decides for every wire number whether its datagram was received or lost, in the order of wire numbers,
/// and counts the transitions (loss model, section 3.5).
///
/// A number that is missing counts as lost when the first number behind it is `reorder_delay` old.
///
/// # Losses that lie apart in time
/// The chain that is fitted to these counts moves by packet times of the link. How long its bad state lasts is told by
/// datagrams that follow each other at the link's rate; a light sender's lie further apart. There a run of
/// losses counts as the packet times from one end of it to the other, for it may have been one long outage, and
/// a single loss tells nothing of how soon it was over: its end is not counted. Both err towards longer bursts.
#[derive(Debug)]
pub(crate) struct Channel {
    reorder_delay: Duration,
    /// Zero: not known, and every datagram is taken to follow its predecessor at once.
    packet_time: Duration,
    wire: Runs,
    counts: ChannelCountsV1,
    /// The last two fates, the older first: whether lost.
    last: [Option<bool>; 2],
    /// Lost datagrams since the last one that was received.
    run: u64,
    /// Packet times between two of them, at least 1.
    spacing: f64,
}

/// What a wire number says of its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The first of its number.
    InTime,
    /// The number was settled before: it was given up, or this is a copy.
    Late,
    /// A copy.
    Duplicate,
}

impl Channel {
    pub(crate) fn new(reorder_delay: Duration, packet_time: Duration) -> Self {
        Self {
            reorder_delay,
            packet_time,
            wire: Runs::new(0),
            counts: ChannelCountsV1::default(),
            last: [None; 2],
            run: 0,
            spacing: 1.0,
        }
    }

    /// A datagram came. Its number has 48 bits, so that sums of numbers never overflow.
    pub(crate) fn arrived(&mut self, wire_number: u64, now: Time) -> Arrival {
        self.settle(now);
        if wire_number < self.wire.floor() {
            return Arrival::Late;
        }
        if !self.wire.insert(wire_number, now) {
            return Arrival::Duplicate;
        }
        self.settle(now);
        Arrival::InTime
    }

    /// Decides what `now` decides.
    pub(crate) fn settle(&mut self, now: Time) {
        loop {
            let received = self.wire.absorb();
            self.received(received);
            let Some(gap) = self.wire.first_gap() else { return };
            if gap.since + self.reorder_delay > now && self.wire.len() <= RUNS_MAX {
                return;
            }
            self.lost(gap.end - gap.start, gap.since.since(self.wire.before()));
            self.wire.skip_first_gap();
        }
    }

    /// When the next number is settled without further datagrams.
    pub(crate) fn next(&self) -> Option<Time> {
        self.wire.first_gap().map(|gap| gap.since + self.reorder_delay)
    }

    pub(crate) fn counts(&self) -> ChannelCountsV1 {
        self.counts
    }

    fn received(&mut self, count: u64) {
        if count == 0 {
            return;
        }
        if self.run > 0 {
            let class = (self.run.ilog2() as usize).min(self.counts.runs.len() - 1);
            self.counts.runs[class] = self.counts.runs[class].saturating_add(1);
            if self.run == 1 && self.spacing > NEIGHBOURS_SPACING_MAX {
                self.last = [None; 2];
            }
            self.run = 0;
        }
        self.step(false);
        self.counts.n00 += count - 1;
        self.counts.settled += count;
        if count > 1 {
            self.last = [Some(false); 2];
        }
    }

    /// `span`: from the datagram before the run to the one behind it.
    fn lost(&mut self, count: u64, span: Duration) {
        self.run += count;
        self.spacing = match self.packet_time.as_secs_f64() {
            0.0 => 1.0,
            packet_time => (span.as_secs_f64() / (self.run + 1) as f64 / packet_time).max(1.0),
        };
        self.step(true);
        if count > 1 {
            self.step(true);
            // At least `count - 1`, and no more than time has packet times for.
            let lasted = ((count - 1) as f64 * self.spacing).round() as u64;
            self.counts.n11 += lasted - 1;
            self.counts.n111 += lasted - 1;
        }
        self.counts.settled += count;
        self.counts.lost += count;
    }

    /// One transition, and the triple it completes.
    fn step(&mut self, is_lost: bool) {
        match (self.last[1], is_lost) {
            (Some(false), false) => self.counts.n00 += 1,
            (Some(false), true) => self.counts.n01 += 1,
            (Some(true), false) => self.counts.n10 += 1,
            (Some(true), true) => self.counts.n11 += 1,
            (None, _) => {}
        }
        match (self.last, is_lost) {
            ([Some(true), Some(false)], true) => self.counts.n101 += 1,
            ([Some(true), Some(true)], true) => self.counts.n111 += 1,
            _ => {}
        }
        self.last = [self.last[1], Some(is_lost)];
    }
}

/// Datagrams up to this many packet times apart are neighbours: what leaves at the link's rate arrives a
/// little early or late.
const NEIGHBOURS_SPACING_MAX: f64 = 2.0;

/// Most runs between gaps that may still be reordering: what half of the datagrams lost at a million per
/// second leave in 100 ms. Above it the oldest gap is settled at once.
const RUNS_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REORDER: Duration = Duration::from_nanos(20);

    /// The same counts, from the full list of fates.
    fn count(fates: &[bool]) -> ChannelCountsV1 {
        let mut counts = ChannelCountsV1 { settled: fates.len() as u64, ..Default::default() };
        counts.lost = fates.iter().filter(|lost| **lost).count() as u64;
        for pair in fates.windows(2) {
            match pair {
                [false, false] => counts.n00 += 1,
                [false, true] => counts.n01 += 1,
                [true, false] => counts.n10 += 1,
                _ => counts.n11 += 1,
            }
        }
        counts.n101 = fates.windows(3).filter(|w| **w == [true, false, true]).count() as u64;
        counts.n111 = fates.windows(3).filter(|w| **w == [true, true, true]).count() as u64;
        let mut run = 0_u64;
        for &lost in fates {
            if lost {
                run += 1;
            } else if run > 0 {
                counts.runs[run.ilog2() as usize] += 1;
                run = 0;
            }
        }
        counts
    }

    proptest! {
        #[test]
        fn the_counters_are_those_of_a_list_of_fates(
            steps in prop::collection::vec((0u64..12, 0u64..12, 0u64..8), 0..200)
        ) {
            // Numbers mostly rise, skip, or fall behind; time goes on by a few nanoseconds each.
            let mut channel = Channel::new(REORDER, Duration::ZERO);
            let (mut now, mut newest) = (0, 0_u64);
            let mut arrivals: Vec<(u64, u64)> = Vec::new();
            for (skip, back, wait) in steps {
                now += wait;
                let number = if skip == 11 { newest.saturating_sub(back) } else { newest + skip / 2 };
                newest = newest.max(number + 1);
                channel.arrived(number, Time::from_nanos(now));
                arrivals.push((number, now));
            }
            now += 7;
            channel.settle(Time::from_nanos(now));

            // By definition: number n is lost if it did not come before the first number behind it was 20 ns old.
            let mut fates = Vec::new();
            for n in 0..newest {
                let behind = arrivals.iter().filter(|(m, _)| *m > n).map(|(_, t)| *t).min();
                let own = arrivals.iter().find(|(m, _)| *m == n).map(|(_, t)| *t);
                let given_up = behind.map(|t| t + REORDER.as_nanos() as u64);
                match (own, given_up) {
                    (Some(own), Some(given_up)) if own < given_up => fates.push(false),
                    (Some(_), None) => fates.push(false),
                    (_, Some(given_up)) if given_up <= now => fates.push(true),
                    _ => break,
                }
            }
            prop_assert_eq!(channel.counts(), count(&fates));
        }
    }

    #[test]
    fn a_long_outage_is_one_run() {
        let mut channel = Channel::new(REORDER, Duration::ZERO);
        channel.arrived(0, Time::from_nanos(1));
        channel.arrived(1 << 40, Time::from_nanos(2));
        channel.settle(Time::from_nanos(30));
        let counts = channel.counts();
        assert_eq!((counts.settled, counts.lost), ((1 << 40) + 1, (1 << 40) - 1));
        assert_eq!((counts.n01, counts.n10, counts.runs[15]), (1, 1, 1));
        assert_eq!(channel.next(), None);
        assert_eq!(channel.arrived(5, Time::from_nanos(31)), Arrival::Late);
    }

    #[test]
    fn losses_that_lie_apart_in_time_are_no_short_bursts() {
        let packet = Duration::from_nanos(10);
        let counts = |lost: std::ops::Range<u64>, spacing: u64| {
            let mut channel = Channel::new(REORDER, packet);
            for n in (0..10).filter(|n| !lost.contains(n)) {
                channel.arrived(n, Time::from_nanos(100 + n * spacing));
            }
            channel.settle(Time::from_nanos(1_000_000));
            let counts = channel.counts();
            assert_eq!((counts.settled, counts.lost, counts.n01), (10, lost.end - lost.start, 1));
            (counts.n10, counts.n11)
        };
        // At the link's rate, a little faster or slower, losses are what they seem.
        for spacing in [5, 10, 14] {
            assert_eq!(counts(4..5, spacing), (1, 0));
            assert_eq!(counts(4..7, spacing).0, 1);
        }
        assert_eq!(counts(4..7, 10), (1, 2));
        // At a fifth of it three losses in a row lasted ten packet times, and one proves nothing.
        assert_eq!(counts(4..7, 50), (1, 10));
        assert_eq!(counts(4..5, 50), (0, 0));
    }

    #[test]
    fn gaps_are_bounded_whatever_comes() {
        let mut channel = Channel::new(Duration::from_secs(3600), Duration::ZERO);
        for n in 0..2 * RUNS_MAX as u64 {
            channel.arrived(2 * n, Time::ZERO);
        }
        assert!(channel.wire.len() <= RUNS_MAX + 1);
        assert!(channel.counts().lost > 0);
    }
}

//! What the channel does to datagrams, before any repair.

use std::time::Duration;

use parhelion_types::Time;
use parhelion_wire::link::ChannelCountsV1;

use crate::runs::Runs;

/// Decides for every wire number whether its datagram was received or lost, in the order of wire numbers,
/// and counts the transitions (loss model, section 3.5).
///
/// A number that is missing counts as lost when the first number behind it is `reorder_delay` old.
#[derive(Debug)]
pub(crate) struct Channel {
    reorder_delay: Duration,
    wire: Runs,
    counts: ChannelCountsV1,
    /// The last two fates, the older first: whether lost.
    last: [Option<bool>; 2],
    /// Lost datagrams since the last one that was received.
    run: u64,
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
    pub(crate) fn new(reorder_delay: Duration) -> Self {
        Self {
            reorder_delay,
            wire: Runs::new(0),
            counts: ChannelCountsV1::default(),
            last: [None; 2],
            run: 0,
        }
    }

    /// A datagram came. Its number is below [`WIRE_NUMBER_MAX`].
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
            self.lost(gap.end - gap.start);
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
            self.run = 0;
        }
        self.step(false);
        self.counts.n00 += count - 1;
        self.counts.settled += count;
        if count > 1 {
            self.last = [Some(false); 2];
        }
    }

    fn lost(&mut self, count: u64) {
        self.run += count;
        self.step(true);
        if count > 1 {
            self.step(true);
            self.counts.n11 += count - 2;
            self.counts.n111 += count - 2;
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

/// Wire numbers are below it: sums of them never overflow, and no session ever gets there.
pub(crate) const WIRE_NUMBER_MAX: u64 = 1 << 62;

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
            let mut channel = Channel::new(REORDER);
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
        let mut channel = Channel::new(REORDER);
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
    fn gaps_are_bounded_whatever_comes() {
        let mut channel = Channel::new(Duration::from_secs(3600));
        for n in 0..2 * RUNS_MAX as u64 {
            channel.arrived(2 * n, Time::ZERO);
        }
        assert!(channel.wire.len() <= RUNS_MAX + 1);
        assert!(channel.counts().lost > 0);
    }
}

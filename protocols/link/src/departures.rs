//! Datagrams between the encoder and the edge of the site.

use std::collections::VecDeque;
use std::time::Duration;

use parhelion_plugin::RepairHead;
use parhelion_types::Time;

/// Follows every datagram from [`push`](Self::push), in the order of wire numbers, until it has left the
/// site: first the host, as the driver tells, then what lies between the network card and the long line.
#[derive(Debug)]
pub(crate) struct Departures {
    site_exit_delay: Duration,
    /// Wire number of the first datagram in `host`.
    first: u64,
    host: VecDeque<Departure>,
    site: VecDeque<(Time, Departure)>,
}

/// What a datagram carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    Source(u64),
    Repair {
        head: RepairHead,
        /// Source symbols behind the flush before, if a flush fired it.
        flush_run: Option<u32>,
    },
    /// A copy of this source symbol, which was sent before.
    Resent(u64),
}

impl Departures {
    pub(crate) fn new(site_exit_delay: Duration) -> Self {
        Self { site_exit_delay, first: 0, host: VecDeque::new(), site: VecDeque::new() }
    }

    /// Takes the next datagram; returns its wire number.
    pub(crate) fn push(&mut self, departure: Departure) -> u64 {
        self.host.push_back(departure);
        self.first + self.host.len() as u64 - 1
    }

    /// Every datagram below `wire_number` has left the host.
    pub(crate) fn left_host(&mut self, now: Time, wire_number: u64) {
        let count = wire_number.saturating_sub(self.first).min(self.host.len() as u64);
        self.first += count;
        let due = now + self.site_exit_delay;
        self.site.extend(self.host.drain(..count as usize).map(|departure| (due, departure)));
    }

    /// When the next datagram will have left the site.
    pub(crate) fn next(&self) -> Option<Time> {
        self.site.front().map(|(due, _)| *due)
    }

    /// The next datagram that has left the site.
    pub(crate) fn pop(&mut self, now: Time) -> Option<Departure> {
        self.site.pop_front_if(|(due, _)| *due <= now).map(|(_, departure)| departure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_departs_after_the_host_and_after_the_site() {
        let mut departures = Departures::new(Duration::from_nanos(10));
        assert_eq!(departures.push(Departure::Source(7)), 0);
        assert_eq!(departures.push(Departure::Resent(3)), 1);
        assert_eq!(departures.push(Departure::Source(8)), 2);
        departures.left_host(Time::from_nanos(100), 2);
        assert_eq!(departures.pop(Time::from_nanos(109)), None);
        assert_eq!(departures.next(), Some(Time::from_nanos(110)));
        assert_eq!(departures.pop(Time::from_nanos(110)), Some(Departure::Source(7)));
        assert_eq!(departures.pop(Time::from_nanos(110)), Some(Departure::Resent(3)));
        assert_eq!(departures.pop(Time::from_nanos(110)), None);
        // More than was sent cannot leave, and wire numbers go on.
        departures.left_host(Time::from_nanos(200), u64::MAX);
        assert_eq!(departures.push(Departure::Resent(3)), 3);
        assert_eq!(departures.pop(Time::from_nanos(210)), Some(Departure::Source(8)));
        assert_eq!(departures.pop(Time::from_nanos(300)), None);
    }
}

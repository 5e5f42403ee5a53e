//! What the receiver has, what it lacks, and what is sent again.

use std::collections::VecDeque;
use std::time::Duration;

use parhelion_types::Time;

use crate::records::{RecordRef, Records};
use crate::round_trip::RoundTrip;
use crate::symbols::Symbols;

/// Turns reports into arrivals and requests, and notices when no report can tell of the newest symbols.
#[derive(Debug)]
pub(crate) struct Retransmission {
    /// Symbols to send again, oldest request first.
    queue: VecDeque<u64>,
    /// Below it every symbol has arrived or is in `missing`; monotone.
    settled: u64,
    /// Symbols below `settled` that had not arrived when last heard of, ascending.
    missing: Vec<u64>,
    /// Takes turns with `missing`.
    still_missing: Vec<u64>,
    round_trip: RoundTrip,
    /// Last new source symbol, sign of progress or probe.
    last_activity: Time,
    /// Probes since the last sign of progress.
    probes: u32,
}

impl Retransmission {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            queue: VecDeque::new(),
            settled: 0,
            missing: Vec::new(),
            still_missing: Vec::new(),
            round_trip: RoundTrip::default(),
            last_activity: now,
            probes: 0,
        }
    }

    /// The receiver has every symbol below `settled`, save those in the runs of `missing`.
    pub(crate) fn handle_report(
        &mut self,
        now: Time,
        settled: u64,
        missing: &[(u64, u32)],
        symbols: &mut Symbols,
        records: &mut Records,
    ) {
        if !are_ascending(missing) {
            return;
        }
        let settled = settled.min(symbols.next());
        let before = (self.settled, self.missing.len());
        let mut runs = RunCursor { runs: missing };
        for &id in &self.missing {
            if id >= settled || runs.contains(id) {
                self.still_missing.push(id);
            } else {
                arrive(id, symbols, records);
            }
        }
        for id in self.settled..settled {
            if runs.contains(id) {
                self.still_missing.push(id);
            } else {
                arrive(id, symbols, records);
            }
        }
        std::mem::swap(&mut self.missing, &mut self.still_missing);
        self.still_missing.clear();
        if settled > self.settled {
            self.settled = settled;
            // A symbol that was sent twice does not tell which copy was answered (Karn's rule).
            if let Some(newest) = symbols.get(settled - 1).filter(|symbol| symbol.arrived && !symbol.resent) {
                self.round_trip.sample(now.since(newest.first_sent));
            }
        }
        if (self.settled, self.missing.len()) != before {
            self.last_activity = now;
            self.probes = 0;
        }
        self.request(now, missing, symbols, records);
    }

    /// A source symbol leaves for the first time.
    pub(crate) fn note_source(&mut self, now: Time) {
        self.last_activity = now;
    }

    /// Queues the newest symbols when nothing was heard of them for too long; whether it did.
    pub(crate) fn probe(&mut self, now: Time, symbols: &mut Symbols) -> bool {
        if self.probe_due(symbols).is_none_or(|due| due > now) {
            return false;
        }
        let next = symbols.next();
        for id in self.settled.max(next.saturating_sub(PROBE_SYMBOLS))..next {
            if let Some(symbol) = symbols.get_mut(id).filter(|symbol| !symbol.queued) {
                symbol.queued = true;
                self.queue.push_back(id);
            }
        }
        self.last_activity = now;
        self.probes += 1;
        true
    }

    /// When the next probe is due.
    pub(crate) fn probe_due(&self, symbols: &Symbols) -> Option<Time> {
        let wait = self.round_trip.timeout().saturating_mul(1 << self.probes.min(PROBE_DOUBLINGS_MAX));
        (self.settled < symbols.next()).then(|| self.last_activity + wait)
    }

    /// Whether anything waits to be sent again.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next symbol to send again, with its record and its position in it.
    pub(crate) fn pop(&mut self, now: Time, symbols: &mut Symbols) -> Option<(u64, RecordRef, u32)> {
        while let Some(id) = self.queue.pop_front() {
            // It may have arrived since, and even be forgotten.
            let Some(symbol) = symbols.get_mut(id) else { continue };
            symbol.queued = false;
            if !symbol.arrived {
                (symbol.resent, symbol.last_sent) = (true, now);
                return Some((id, symbol.record, symbol.position));
            }
        }
        None
    }

    /// Smoothed time from sending a symbol to the report that settles it.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip.smoothed()
    }

    /// Notes what is listed as missing, and queues it unless a later copy of it is on its way.
    fn request(&mut self, now: Time, missing: &[(u64, u32)], symbols: &mut Symbols, records: &mut Records) {
        let may_queue = self.queue.len() < QUEUE_MIN;
        let patience = self.round_trip.timeout();
        let known = symbols.base()..symbols.next();
        for &(first, count) in missing {
            let end = first.saturating_add(u64::from(count)).min(known.end);
            for id in first.max(known.start)..end {
                let Some(symbol) = symbols.get_mut(id) else { break };
                // The receiver found a gap, so the first copy is lost, however young it is.
                if symbol.arrived {
                    continue;
                }
                let is_on_its_way = symbol.resent && symbol.last_sent + patience > now;
                let before = symbol.lack();
                symbol.is_missing = true;
                symbol.copy_on_wire &= is_on_its_way;
                records.note_lack(symbol.record, before, symbol.lack());
                if may_queue && !symbol.queued && !is_on_its_way {
                    symbol.queued = true;
                    self.queue.push_back(id);
                }
            }
        }
    }
}

fn arrive(id: u64, symbols: &mut Symbols, records: &mut Records) {
    let Some(symbol) = symbols.get_mut(id) else { return };
    if !std::mem::replace(&mut symbol.arrived, true) {
        let before = symbol.lack();
        symbol.is_missing = false;
        records.note_lack(symbol.record, before, symbol.lack());
        records.arrived(symbol.record);
    }
}

/// Looks ids up in runs, both ascending.
struct RunCursor<'a> {
    runs: &'a [(u64, u32)],
}

impl RunCursor<'_> {
    fn contains(&mut self, id: u64) -> bool {
        while let Some((&(first, count), rest)) = self.runs.split_first() {
            if id < first.saturating_add(u64::from(count)) {
                return first <= id;
            }
            self.runs = rest;
        }
        false
    }
}

/// Whether runs are ascending and apart, as a receiver writes them.
fn are_ascending(runs: &[(u64, u32)]) -> bool {
    runs.windows(2).all(|pair| pair[0].0.saturating_add(u64::from(pair[0].1)) <= pair[1].0)
}

/// The last symbol, and one before it should that be lost again.
const PROBE_SYMBOLS: u64 = 2;

/// Probes end up 64 time-outs apart.
const PROBE_DOUBLINGS_MAX: u32 = 6;

/// With this many symbols still to be sent again, a report adds none: after an outage each lists
/// everything.
const QUEUE_MIN: usize = 1024;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parhelion_types::RecordKey;

    use super::*;

    /// One record of `count` symbols, all of them sent.
    fn in_flight(count: u32) -> (Retransmission, Symbols, Records) {
        let (mut symbols, mut records) = (Symbols::default(), Records::default());
        records.push(RecordKey::default(), Bytes::from_static(b"record"), count, true);
        let at = records.start(0, 0, 0).unwrap();
        for position in 0..count {
            symbols.push(at, position, at_millis(u64::from(position)));
        }
        (Retransmission::new(Time::ZERO), symbols, records)
    }

    fn at_millis(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn drain(retransmission: &mut Retransmission, now: Time, symbols: &mut Symbols) -> Vec<u64> {
        std::iter::from_fn(|| retransmission.pop(now, symbols)).map(|(id, ..)| id).collect()
    }

    #[test]
    fn what_is_settled_and_not_listed_has_arrived() {
        let (mut retransmission, mut symbols, mut records) = in_flight(10);
        retransmission.handle_report(at_millis(50), 8, &[(2, 3), (9, 1)], &mut symbols, &mut records);
        let arrived: Vec<u64> = (0..10).filter(|id| symbols.get(*id).unwrap().arrived).collect();
        assert_eq!(arrived, [0, 1, 5, 6, 7]);
        assert_eq!(drain(&mut retransmission, at_millis(50), &mut symbols), [2, 3, 4, 9]);
        // A report from before, and one whose runs are out of order, change nothing.
        retransmission.handle_report(at_millis(51), 3, &[(2, 1)], &mut symbols, &mut records);
        retransmission.handle_report(at_millis(51), 10, &[(9, 1), (2, 3)], &mut symbols, &mut records);
        assert!(!symbols.get(3).unwrap().arrived);
        // A gap that was listed and is not any more is filled.
        retransmission.handle_report(at_millis(52), 8, &[(4, 1)], &mut symbols, &mut records);
        let missing: Vec<u64> = (0..10).filter(|id| !symbols.get(*id).unwrap().arrived).collect();
        assert_eq!(missing, [4, 8, 9]);
    }

    #[test]
    fn a_copy_on_its_way_is_given_a_round_trip() {
        let (mut retransmission, mut symbols, mut records) = in_flight(4);
        let mut report = |now, retransmission: &mut Retransmission, symbols: &mut Symbols| {
            retransmission.handle_report(now, 4, &[(1, 1)], symbols, &mut records);
            drain(retransmission, now, symbols)
        };
        // Symbol 3 was sent at 3 ms and is settled at 43 ms: a round trip of 40 ms, a time-out of 120 ms.
        assert_eq!(report(at_millis(43), &mut retransmission, &mut symbols), [1]);
        assert_eq!(report(at_millis(100), &mut retransmission, &mut symbols), [0; 0]);
        assert_eq!(report(at_millis(162), &mut retransmission, &mut symbols), [0; 0]);
        assert_eq!(report(at_millis(163), &mut retransmission, &mut symbols), [1]);
    }

    #[test]
    fn probes_of_a_silent_tail_grow_apart() {
        let (mut retransmission, mut symbols, mut records) = in_flight(5);
        let mut probes = Vec::new();
        for millis in 0..16_000 {
            if retransmission.probe(at_millis(millis), &mut symbols) {
                probes.push(millis);
                assert_eq!(drain(&mut retransmission, at_millis(millis), &mut symbols), [3, 4]);
            }
        }
        assert_eq!(probes, [1000, 3000, 7000, 15_000]);
        retransmission.handle_report(at_millis(16_000), 4, &[], &mut symbols, &mut records);
        assert_eq!(retransmission.probe_due(&symbols), Some(at_millis(17_000)));
        retransmission.handle_report(at_millis(16_001), 5, &[], &mut symbols, &mut records);
        assert_eq!(retransmission.probe_due(&symbols), None);
    }
}

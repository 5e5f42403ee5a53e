//! When the mirror reports, and which logs a report names.
//!
//! Reports travel as datagrams and are never sent again, so each one stands for itself: a log that advanced
//! is named in the next few reports, and after that every log of the session is named again now and then,
//! so that no loss lasts.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use parhelion_types::Time;
use parhelion_wire::link::{ArchivedLogMarkV1, ChannelCountsV1, LogMarkV1, ReportV1};
use parhelion_wire::{WireError, frame};

/// The reports of one session.
#[derive(Debug)]
pub(crate) struct Reporter {
    session: u64,
    number: u64,
    intervals: Intervals,
    marks: BTreeMap<u32, Marked>,
    /// Logs that advanced lately: those whose `reports` is not 0, each once.
    fresh: VecDeque<u32>,
    /// Of those, the ones that no report has named yet.
    unnamed: usize,
    /// The log from which naming goes on when there is room.
    next_log: u32,
    last: Time,
    is_first: bool,
    is_traffic: bool,
    datagram_bytes_max: usize,
}

/// How far a log has come.
#[derive(Debug)]
struct Marked {
    mark: LogMarkV1,
    /// Reports that shall still name it because it advanced.
    reports: u32,
}

/// Times between reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intervals {
    /// While traffic flows.
    pub(crate) busy: Duration,
    /// While none does.
    pub(crate) idle: Duration,
    /// At least, when a log advances.
    pub(crate) min: Duration,
}

/// Reports that name a log which advanced.
const FRESH_REPORTS: u32 = 4;
/// Bytes of a report without any marks or missing runs, rounded up.
const REPORT_BYTES: usize = 32 + 256;
const MARK_BYTES: usize = size_of::<ArchivedLogMarkV1>();
/// Bytes of one missing run: first symbol and length.
const RUN_BYTES: usize = 8 + 4;
/// Most runs in a report, however large the datagram; the rest follows in the next one.
const RUNS_MAX: usize = 64;
/// Most logs in a report.
const MARKS_MAX: usize = 32;

impl Reporter {
    pub(crate) fn new(session: u64, now: Time, intervals: Intervals, datagram_bytes_max: usize) -> Self {
        Self {
            session,
            number: 0,
            intervals,
            marks: BTreeMap::new(),
            fresh: VecDeque::new(),
            unnamed: 0,
            next_log: 0,
            last: now,
            is_first: true,
            is_traffic: false,
            datagram_bytes_max,
        }
    }

    /// A log advanced. A mark that is behind a known one changes nothing.
    pub(crate) fn advance(&mut self, mark: LogMarkV1) {
        let marked = match self.marks.entry(mark.log) {
            Entry::Vacant(entry) => entry.insert(Marked { mark, reports: 0 }),
            Entry::Occupied(entry) => {
                let known = entry.get().mark;
                if mark.records <= known.records && mark.epoch <= known.epoch {
                    return;
                }
                entry.into_mut()
            }
        };
        marked.mark = mark;
        if marked.reports == 0 {
            self.fresh.push_back(mark.log);
        }
        if marked.reports != FRESH_REPORTS {
            marked.reports = FRESH_REPORTS;
            self.unnamed += 1;
        }
    }

    /// Datagrams arrived.
    pub(crate) fn note_traffic(&mut self) {
        self.is_traffic = true;
    }

    /// When the next report is due.
    pub(crate) fn due(&self) -> Time {
        let Intervals { busy, idle, min } = self.intervals;
        let wait = if self.unnamed > 0 || self.is_first {
            min
        } else if self.is_traffic {
            busy
        } else {
            idle
        };
        self.last + wait
    }

    /// Writes the report that is due.
    pub(crate) fn report(
        &mut self,
        now: Time,
        channel: ChannelCountsV1,
        settled_symbols: u64,
        missing: &[(u64, u32)],
    ) -> Result<Bytes, WireError> {
        let room = self.datagram_bytes_max.saturating_sub(REPORT_BYTES);
        // Half of the room for each, so that neither starves the other.
        let runs_max = (room / 2 / RUN_BYTES).min(RUNS_MAX);
        // The sender takes what is below `settled_symbols` and not listed as arrived: do not claim more than is
        // listed.
        let settled_symbols =
            missing.get(runs_max).map_or(settled_symbols, |&(first, _)| settled_symbols.min(first));
        let missing = &missing[..missing.len().min(runs_max)];
        let marks_max = ((room - missing.len() * RUN_BYTES) / MARK_BYTES).min(MARKS_MAX);
        let logs = self.take_marks(marks_max);
        self.number += 1;
        self.last = now;
        self.is_first = false;
        self.is_traffic = false;
        let report = ReportV1 {
            session: self.session,
            number: self.number,
            channel,
            settled_symbols,
            missing: missing.to_vec(),
            logs,
        };
        frame(&report, b"", 0)
    }

    fn take_marks(&mut self, max: usize) -> Vec<LogMarkV1> {
        let mut logs: Vec<LogMarkV1> = Vec::with_capacity(max);
        for _ in 0..self.fresh.len().min(max) {
            let Some(log) = self.fresh.pop_front() else { break };
            let Some(marked) = self.marks.get_mut(&log) else { continue };
            logs.push(marked.mark);
            if marked.reports == FRESH_REPORTS {
                self.unnamed -= 1;
            }
            marked.reports -= 1;
            if marked.reports > 0 {
                self.fresh.push_back(log);
            }
        }
        let named = logs.len();
        for _ in named..max.min(self.marks.len()) {
            let next = self.marks.range(self.next_log..).next().or_else(|| self.marks.iter().next());
            let Some((&log, marked)) = next else { break };
            self.next_log = log.wrapping_add(1);
            if !logs.iter().any(|known| known.log == log) {
                logs.push(marked.mark);
            }
        }
        logs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use parhelion_wire::{Checked, ENVELOPE_BYTES, Envelope};

    use super::*;
    use crate::session::mark;

    const INTERVALS: Intervals = Intervals {
        busy: Duration::from_millis(5),
        idle: Duration::from_millis(50),
        min: Duration::from_millis(1),
    };

    fn log_mark(log: u32, records: u64) -> LogMarkV1 {
        LogMarkV1 { log, epoch: 1, records, segment: 0, offset: 0 }
    }

    fn report(reporter: &mut Reporter, now: Time, missing: &[(u64, u32)]) -> (Bytes, Checked<ReportV1>) {
        let bytes = reporter.report(now, ChannelCountsV1::default(), 1 << 40, missing).unwrap();
        let envelope = Envelope::parse(&bytes).unwrap();
        let (body, _) = envelope.split(bytes.slice(ENVELOPE_BYTES..)).unwrap();
        let checked = Checked::parse(&envelope, body).unwrap();
        (bytes, checked)
    }

    #[test]
    fn news_hurries_and_silence_slows() {
        let start = Time::from_nanos(1);
        let mut reporter = Reporter::new(1, start, INTERVALS, 1400);
        assert_eq!(reporter.due(), start + INTERVALS.min, "the first report is news");
        let now = start + INTERVALS.min;
        report(&mut reporter, now, &[]);
        assert_eq!(reporter.due(), now + INTERVALS.idle);
        reporter.note_traffic();
        assert_eq!(reporter.due(), now + INTERVALS.busy);
        reporter.advance(log_mark(3, 1));
        assert_eq!(reporter.due(), now + INTERVALS.min);
        report(&mut reporter, now, &[]);
        reporter.advance(log_mark(3, 1));
        assert_eq!(reporter.due(), now + INTERVALS.idle, "an old mark is no news");
    }

    #[test]
    fn reports_fit_and_name_every_log_again_and_again() {
        let mut reporter = Reporter::new(1, Time::ZERO, INTERVALS, 1200);
        for log in 0..500 {
            reporter.advance(log_mark(log, u64::from(log) + 1));
        }
        let missing: Vec<(u64, u32)> = (0..1000).map(|n| (n * 10, 1)).collect();
        // The first round, and another one as if every report of the first had been lost.
        for _ in 0..2 {
            let mut named = BTreeSet::new();
            for _ in 0..200 {
                let (bytes, checked) = report(&mut reporter, Time::ZERO, &missing);
                assert!(bytes.len() <= 1200, "{}", bytes.len());
                let listed = checked.get().missing.len();
                assert!((1..missing.len()).contains(&listed));
                // What the report has no room for must not look as if it had arrived.
                assert_eq!(checked.get().settled_symbols.to_native(), missing[listed].0);
                named.extend(checked.get().logs.iter().map(|archived| {
                    let mark = mark(archived);
                    assert_eq!(mark.records, u64::from(mark.log) + 1);
                    mark.log
                }));
            }
            assert_eq!(named.len(), 500);
        }
    }
}

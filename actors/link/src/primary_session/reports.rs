//! What the primary learns from the mirror's reports.

use std::collections::hash_map::Entry;

use bytes::Bytes;
use parhelion_types::{LogId, RecordKey, Time};
use parhelion_wire::link::ReportV1;
use parhelion_wire::{Checked, ENVELOPE_BYTES, Envelope, WireError};

use super::{PrimarySession, Records};
use crate::interface::LinkEvent;
use crate::session::mark;

impl PrimarySession {
    /// A report, or something that is none.
    pub(super) fn handle_report(&mut self, now: Time, datagram: &Bytes) -> Result<(), WireError> {
        let envelope = Envelope::parse(datagram)?;
        let (body, _) = envelope.split(datagram.slice(ENVELOPE_BYTES..))?;
        let report = Checked::<ReportV1>::parse(&envelope, body)?;
        let report = report.get();
        if report.session.to_native() != self.id {
            return Err(WireError::Invalid { what: "session of a report" });
        }
        let number = report.number.to_native();
        if self.report.is_some_and(|last| number <= last) {
            return Ok(());
        }
        self.report = Some(number);
        self.stats.reports.add(1);
        let mut advanced = Vec::new();
        for mark in report.logs.iter().map(mark) {
            match self.marks.entry(mark.log) {
                Entry::Occupied(mut known) => {
                    let known = known.get_mut();
                    if mark.records <= known.records && mark.epoch <= known.epoch {
                        continue;
                    }
                    *known = mark;
                }
                Entry::Vacant(entry) => {
                    entry.insert(mark);
                }
            }
            advanced.push(mark);
        }
        if let Records::Quic(bulk) = &mut self.records {
            let missing: Vec<(u64, u32)> =
                report.missing.iter().map(|run| (run.0.to_native(), run.1.to_native())).collect();
            bulk.sender.handle_report(now, report.settled_symbols.to_native(), &missing);
            for mark in &advanced {
                let log = LogId(mark.log);
                match mark.is_refused() {
                    true => bulk.forget_log(log),
                    false => bulk.sender.handle_confirmed(RecordKey { log, number: mark.records }),
                }
            }
            let counts = (&report.channel).into();
            self.tally.count(&self.stats, &counts);
            self.telemetry = Some(counts);
        }
        if !advanced.is_empty() {
            self.events.push(LinkEvent::Mirrored(advanced));
        }
        Ok(())
    }
}

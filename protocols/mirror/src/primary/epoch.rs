//! The site's epoch, written into its logs: a mirror of this site knows the epoch from records, and may be promoted in turn.

use std::collections::BTreeSet;

use parhelion_log::{FreePayload, RecordFields, RecordKind};
use parhelion_types::{LogId, SourceTime, Time};

use super::Primary;
use crate::input::Effect;

/// Epoch records that are on their way to the disk at once. Each log is synced by itself, and appends wait meanwhile.
const AT_ONCE: usize = 16;

/// Logs in which no record tells of this site's epoch, because it was promoted and nothing was appended since.
#[derive(Debug, Default)]
pub(super) struct OlderLogs {
    /// Nothing of the epoch is on its way to the disk.
    pub(super) due: BTreeSet<LogId>,
    /// The record of the epoch is.
    under_way: BTreeSet<LogId>,
    /// When the session began, by the wall clock.
    pub(super) time: SourceTime,
}

impl Primary {
    /// Writes an empty freeing into each log that needs it, a few at a time: the record of the epoch. There is time until a
    /// mirror is there to hear of it.
    pub(super) fn write_epoch(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if !self.is_linked() || !self.older.under_way.is_empty() {
            return;
        }
        let payload = FreePayload { appends: Vec::new() }.to_bytes();
        while self.older.under_way.len() < AT_ONCE
            && let Some(id) = self.older.due.pop_first()
        {
            if self.logs.get(&id).is_some_and(|log| log.refusal.is_none()) {
                self.older.under_way.insert(id);
                let fields =
                    RecordFields { kind: RecordKind::Free, time: self.older.time, ..RecordFields::default() };
                self.place(now, id, fields, &payload, effects);
            }
        }
    }

    /// What was written of a log is on the disk, or never will be.
    pub(super) fn epoch_settled(&mut self, now: Time, id: LogId, effects: &mut Vec<Effect>) {
        if self.older.under_way.remove(&id) {
            self.write_epoch(now, effects);
        }
    }
}

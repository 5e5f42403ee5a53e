//! The backlog: what the mirror lacks, read from the log and sent as there is room in the link's buffer.

use std::time::Duration;

use parhelion_log::Record;
use parhelion_types::{LogId, Time};

use super::Primary;
use crate::feed::{Class, Feed, Reading};
use crate::input::{Backlog, Effect, Event};
use crate::log_state::{LogState, announce};

/// Bytes that one read of the log for catching up returns at most, but for a single record.
const BACKLOG_READ_BYTES_MAX: usize = 4 << 20;

/// Pause before a log that could not be read is read again. It doubles with every failure in a row.
const READ_PAUSE_MIN: Duration = Duration::from_secs(1);

/// Longest such pause: that long after the disk was mended, the mirror is fed again.
const READ_PAUSE_MAX: Duration = Duration::from_secs(60);

impl Primary {
    /// Feeds all logs that are behind, first the one that has waited longest: room is scarce, and no log may take all of
    /// it for ever.
    pub(super) fn pump_all(&mut self, effects: &mut Vec<Effect>) {
        let is_behind = |log: &LogState| matches!(log.feed, Feed::CatchUp { .. });
        let behind = self.logs.iter().filter(|(_, log)| is_behind(log));
        let mut behind: Vec<(u64, LogId)> = behind.map(|(&id, log)| (log.fed, id)).collect();
        behind.sort_unstable();
        for (_, id) in behind {
            self.pump(id, effects);
        }
    }

    /// Feeds a log that is behind: from the store what is durable, from memory what is not yet.
    pub(super) fn pump(&mut self, id: LogId, effects: &mut Vec<Effect>) {
        let session = self.session;
        let Some(log) = self.logs.get_mut(&id) else { return };
        let Feed::CatchUp { mut number, mut address, reading: Reading::Idle } = log.feed else { return };
        if log.durable == 0 {
            // Nothing of a log is sent before its creation is durable; see `create`.
            return;
        }
        let awaited_below = log.awaited_below();
        let class = |number| Class::of(number < awaited_below);
        if number < log.durable {
            let class = class(number);
            let room = self.buffer.room(class);
            // Reading in large pieces only: waiting for room costs less than many small reads.
            if room >= self.buffer.share_min() {
                let bytes_max = room.min(BACKLOG_READ_BYTES_MAX).max(log.read_bytes_min);
                log.in_flight.ask(&mut self.buffer, class, bytes_max);
                self.feeds += 1;
                log.fed = self.feeds;
                effects.push(Effect::ReadBacklog { log: id, from: address, bytes_max, session });
                log.feed = Feed::CatchUp { number, address, reading: Reading::UnderWay(class) };
            }
            return;
        }
        let from = log.unwritten.iter().position(|(_, n)| *n >= number).unwrap_or(log.unwritten.len());
        let records: Vec<Record> =
            log.unwritten.iter().skip(from).map(|(record, _)| record.clone()).collect();
        for record in records {
            let class = class(record.header.number);
            if record.bytes().len() > self.buffer.room(class) {
                log.feed = Feed::CatchUp { number, address, reading: Reading::Idle };
                return;
            }
            effects.push(announce(&record));
            let ledger = (&mut self.ledger, self.pricer.generation());
            log.send(&record, class, &mut self.buffer, ledger, effects);
            number = record.header.number + 1;
            address = record.header.next_address();
        }
        log.feed = Feed::Live;
        effects.push(Effect::Event(Event::CaughtUp { log: id }));
    }

    /// Takes the answer to [`Effect::ReadBacklog`].
    pub(super) fn backlog(
        &mut self,
        now: Time,
        id: LogId,
        session: u64,
        read: Backlog,
        effects: &mut Vec<Effect>,
    ) {
        if session != self.session {
            return;
        }
        let Some(log) = self.logs.get_mut(&id) else { return };
        let Feed::CatchUp { number, address, reading: Reading::UnderWay(class) } = log.feed else { return };
        log.in_flight.answered(&mut self.buffer);
        log.feed = Feed::CatchUp { number, address, reading: Reading::Idle };
        match read {
            Backlog::Records(records) => self.send_backlog(id, class, records, effects),
            Backlog::Larger(bytes) => log.read_bytes_min = bytes,
            Backlog::Unavailable(reason) => {
                let pause = (log.read_pause * 2).clamp(READ_PAUSE_MIN, READ_PAUSE_MAX);
                log.read_pause = pause;
                log.feed = Feed::CatchUp { number, address, reading: Reading::Paused };
                self.pauses.insert((now + pause, id));
                effects.push(Effect::Event(Event::BacklogFailed { log: id, reason, pause: Some(pause) }));
            }
            Backlog::Damaged(reason) => log.stop_feed(id, reason, effects),
        }
        self.pump_all(effects);
    }

    /// Sends what was read in room of the class `asked`.
    fn send_backlog(&mut self, id: LogId, asked: Class, records: Vec<Record>, effects: &mut Vec<Effect>) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        let Feed::CatchUp { mut number, mut address, .. } = log.feed else { return };
        (log.read_bytes_min, log.read_pause) = (0, Duration::ZERO);
        if records.is_empty() {
            let reason = format!("no record at {address}, where record {number} should be");
            return log.stop_feed(id, reason, effects);
        }
        let awaited_below = log.awaited_below();
        for record in records {
            if record.header.number != number {
                let found = record.header.number;
                let reason = format!("record {found} at {address}, where record {number} should be");
                return log.stop_feed(id, reason, effects);
            }
            if number >= log.durable {
                break;
            }
            let class = Class::of(number < awaited_below);
            // Room was asked for in the class of the first one, as it was then; another has room of its own, or none.
            if class != asked && record.bytes().len() > self.buffer.room(class) {
                break;
            }
            effects.push(announce(&record));
            let ledger = (&mut self.ledger, self.pricer.generation());
            log.send(&record, class, &mut self.buffer, ledger, effects);
            number += 1;
            address = record.header.next_address();
        }
        log.feed = Feed::CatchUp { number, address, reading: Reading::Idle };
    }

    /// Reads the logs again whose pauses are over.
    pub(super) fn end_pauses(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let mut is_over = false;
        while let Some(&(at, id)) = self.pauses.first() {
            if at > now {
                break;
            }
            self.pauses.pop_first();
            is_over = true;
            if let Some(LogState { feed: Feed::CatchUp { reading, .. }, .. }) = self.logs.get_mut(&id)
                && *reading == Reading::Paused
            {
                *reading = Reading::Idle;
            }
        }
        if is_over {
            self.pump_all(effects);
        }
    }
}

//! One log at its primary.

use std::collections::VecDeque;
use std::time::Duration;

use parhelion_log::{ActiveMap, Record, Tail};
use parhelion_plugin::Structure;
use parhelion_risk::{CodeGeneration, Ledger, Progress, WireState};
use parhelion_types::{Degrade, Durability, Epoch, Error, LogAddress, LogId, RecordKey, Risk, Time};
use parhelion_wire::link::{LogMarkV1, LogTailV1};

use crate::feed::{Class, Feed, InFlight, LinkBuffer, Reading};
use crate::input::{Effect, Event, LogStatus, Reply, Token};
use crate::path::{Stage, StageKind};
use crate::pending::{Pending, Seen};
use crate::requests::Requests;

#[derive(Debug)]
pub(crate) struct LogState {
    pub name: String,
    pub degrade: Degrade,
    pub tail: Tail,
    /// The end as it was when a process first began with the log since the mirror was compared with it: what the mirror
    /// has beyond it came from an earlier process, which lost it. None once the mirror has been compared.
    pub recovered: Option<Tail>,
    pub active: ActiveMap,
    pub requests: Requests,
    pub durable: u64,
    pub announced: u64,
    /// First record number of this session that was announced as it was appended.
    pub announcing_from: u64,
    pub mirrored: LogMark,
    pub feed: Feed,
    /// When it was last read from to feed the mirror, counted over all logs: who waited longest goes first.
    pub fed: u64,
    /// Bytes that the next read must be allowed to return, because its first record has so many; zero if that is not known.
    pub read_bytes_min: usize,
    /// The last pause before another attempt to read; zero since a read has succeeded.
    pub read_pause: Duration,
    pub in_flight: InFlight,
    /// Records that are written and not yet durable: the log cannot be asked for them.
    pub unwritten: VecDeque<(Record, u64)>,
    /// Answers that wait for durability alone: creations and frees.
    pub waiting_durable: VecDeque<(u64, Token, Reply)>,
    pub pending: VecDeque<Pending>,
    pub lag_samples: VecDeque<(u64, Time)>,
    pub refusal: Option<Error>,
    /// The epoch of the other site, once it was promoted.
    pub fenced_by: Option<u32>,
    /// Whether it took no records from the start: behind its tail there may be more, at this site too.
    pub is_damaged: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogMark {
    pub records: u64,
    pub address: LogAddress,
}

impl LogState {
    pub fn new(name: String, degrade: Degrade, tail: Tail, requests_max: usize) -> Self {
        Self {
            name,
            degrade,
            durable: tail.next_number(),
            recovered: Some(tail),
            tail,
            active: ActiveMap::default(),
            requests: Requests::new(requests_max),
            announced: 0,
            announcing_from: u64::MAX,
            mirrored: LogMark::default(),
            feed: Feed::Off,
            fed: 0,
            read_bytes_min: 0,
            read_pause: Duration::ZERO,
            in_flight: InFlight::default(),
            unwritten: VecDeque::new(),
            waiting_durable: VecDeque::new(),
            pending: VecDeque::new(),
            lag_samples: VecDeque::new(),
            refusal: None,
            fenced_by: None,
            is_damaged: false,
        }
    }

    /// Address of the record that was placed last.
    pub fn last_address(&self) -> LogAddress {
        self.unwritten.back().map(|(record, _)| record.header.address).unwrap_or_default()
    }

    pub fn send(
        &mut self,
        record: &Record,
        class: Class,
        buffer: &mut LinkBuffer,
        (ledger, generation): (&mut Ledger, CodeGeneration),
        effects: &mut Vec<Effect>,
    ) {
        let key = record.header.key();
        ledger.insert(key, generation);
        self.in_flight.push(buffer, key.number, class, record.bytes().len());
        let is_awaited = record.header.durability == Durability::Network;
        effects.push(Effect::Send { key, record: record.bytes(), is_awaited });
    }

    /// Records below this number are awaited: somebody waits until the last of them has left this site or is at the
    /// other one, and it is worth nothing without those before it.
    pub fn awaited_below(&self) -> u64 {
        let awaited = self.pending.iter().filter(|pending| pending.asked > Durability::Local);
        awaited.map(|pending| pending.number + 1).max().unwrap_or(0)
    }

    /// Joins a session: compares what the mirror has with what is here.
    ///
    /// A mirror that has more than this site by what was at most in flight has what this site had sent and
    /// not yet stored when it died. Nobody was told of it, for an acknowledgement needs a local sync.
    pub fn join(
        &mut self,
        id: LogId,
        mark: Option<&LogMarkV1>,
        (segment_bytes, in_flight_bytes_max): (u32, usize),
        buffer: &mut LinkBuffer,
        effects: &mut Vec<Effect>,
    ) -> Option<LogTailV1> {
        let (records, address) = mark.map_or((0, Tail::first_address()), |mark| {
            (mark.records, LogAddress::new(mark.segment, mark.offset))
        });
        let here = self.tail.next_number();
        if mark.is_some_and(LogMarkV1::is_refused) {
            self.refused_by_mirror(id, buffer, effects);
            return None;
        }
        if self.is_damaged {
            self.join_damaged(records, address);
            return None;
        }
        let common = self.recovered.map_or(here, |recovered| recovered.next_number());
        if records > common {
            let rewind = self.rewind(address, segment_bytes, in_flight_bytes_max);
            effects.push(Effect::Event(match rewind {
                Some(_) => Event::Ahead { log: id, mirror: records, here: common },
                None => Event::Diverged { log: id, mirror: records, here: common },
            }));
            return rewind.map(|tail| tail_message(id, tail));
        }
        self.recovered = None;
        self.mirrored = LogMark { records, address };
        self.announced = records;
        self.announcing_from = here;
        self.trim_lag_samples();
        if records == here && self.unwritten.is_empty() {
            self.feed = Feed::Live;
        } else {
            self.catch_up(records, address);
        }
        None
    }

    /// The other site was promoted: takes no records any more, and feeds it none.
    pub fn fence(
        &mut self,
        epoch: Epoch,
        fenced: &Error,
        buffer: &mut LinkBuffer,
        effects: &mut Vec<Effect>,
    ) {
        for pending in self.pending.drain(..) {
            effects.push(Effect::Reply { token: pending.token, reply: Err(fenced.clone()) });
        }
        self.refusal = Some(fenced.clone());
        self.fenced_by = Some(epoch.0);
        self.feed = Feed::Off;
        self.in_flight.clear(buffer);
    }

    /// Joins a session although the log is damaged here: what is whole is fed. That the mirror has more is
    /// no reason to cut it back: it has what was lost here.
    fn join_damaged(&mut self, records: u64, address: LogAddress) {
        let here = self.tail.next_number();
        self.announced = here;
        self.announcing_from = here;
        if records < here {
            self.mirrored = LogMark { records, address };
            self.catch_up(records, address);
        } else {
            self.mirrored = LogMark { records: here, address: self.tail.next_address() };
            self.feed = Feed::Off;
        }
    }

    /// Feeds the mirror from the log from a record on.
    pub fn catch_up(&mut self, number: u64, address: LogAddress) {
        (self.read_bytes_min, self.read_pause) = (0, Duration::ZERO);
        self.feed = Feed::CatchUp { number, address, reading: Reading::Idle };
    }

    /// Feeds the log no more in this session.
    pub fn refused_by_mirror(&mut self, id: LogId, buffer: &mut LinkBuffer, effects: &mut Vec<Effect>) {
        if self.feed != Feed::Refused {
            self.feed = Feed::Refused;
            effects.push(Effect::Event(Event::Refused { log: id }));
        }
        self.in_flight.clear(buffer);
    }

    /// Where to cut the mirror's log back to, if what it has beyond that can have been in flight when this
    /// site died.
    fn rewind(&self, address: LogAddress, segment_bytes: u32, in_flight_bytes_max: usize) -> Option<Tail> {
        // Nothing that this process created was ever sent before it was durable: a mirror that has something
        // under the number of a log without records has another log.
        let tail = self.recovered.filter(|tail| tail.next_number() > 0)?;
        let here = position(tail.next_address(), segment_bytes);
        // Segment ends that records did not fill count too; one segment allows for them.
        let plausible = in_flight_bytes_max as u64 + u64::from(segment_bytes);
        (position(address, segment_bytes).saturating_sub(here) <= plausible).then_some(tail)
    }

    pub fn stop_feed(&mut self, id: LogId, reason: String, effects: &mut Vec<Effect>) {
        self.feed = Feed::Off;
        effects.push(Effect::Event(Event::BacklogFailed { log: id, reason, pause: None }));
    }

    /// Drops the samples of records that the mirror has, but for the last one before the first it lacks.
    pub fn trim_lag_samples(&mut self) {
        while self.lag_samples.get(1).is_some_and(|&(number, _)| number <= self.mirrored.records) {
            self.lag_samples.pop_front();
        }
    }

    /// What is known of the pending append at index `at`.
    pub fn progress(
        &self,
        id: LogId,
        at: usize,
        linked: bool,
        ledger: &mut Ledger,
    ) -> (Progress, Option<WireState>) {
        let number = self.pending[at].number;
        let mirrored = number < self.mirrored.records;
        // What was sent of a log that the mirror refuses is lost with this site, whatever covers it.
        let risks = match self.feed {
            Feed::Refused => None,
            _ => ledger.risk(RecordKey { log: id, number }),
        };
        let (own, prefix) = match risks {
            _ if mirrored => (Risk::NONE, Risk::NONE),
            Some(risks) => (risks.own, risks.prefix),
            None => (Risk::CERTAIN, Risk::CERTAIN),
        };
        let wire = risks.and_then(|risks| risks.wire);
        let progress = Progress {
            durable: number < self.durable,
            linked,
            // A record from before the session is announced when its turn comes; it is known by name, or
            // was acknowledged by another rule.
            announced: number < self.announcing_from || number < self.announced,
            complete: wire.is_some_and(|wire| wire.complete),
            own,
            prefix,
            mirrored,
        };
        (progress, wire)
    }

    /// Adds what has newly happened to the pending append at index `at` to its path, if somebody wants it.
    pub fn note_stages(
        &mut self,
        at: usize,
        now: Time,
        progress: &Progress,
        wire: Option<WireState>,
        structure: &Structure,
    ) {
        let pending = &mut self.pending[at];
        if pending.path.is_none() {
            return;
        }
        let sent = wire.is_some_and(|wire| wire.sent);
        let repairs = wire.map_or(0, |wire| wire.exposure.repairs());
        let stage = |kind, note: &str| Stage {
            repairs,
            repairs_full: structure.repairs_per_symbol(),
            own: progress.own,
            prefix: progress.prefix,
            ..Stage::plain(kind, now, note)
        };
        let seen = pending.seen;
        let announced = pending.number < self.announced;
        let mut stages = Vec::new();
        if announced && !seen.announced {
            stages.push(stage(StageKind::Announced, "the announcement is on the wire"));
        }
        if sent && !seen.sent {
            let symbols = wire.map_or(0, |wire| wire.exposure.symbols);
            let left = match symbols {
                1 => "1 source symbol has left the site".to_owned(),
                _ => format!("{symbols} source symbols have left the site"),
            };
            stages.push(stage(StageKind::Sent, &left));
        }
        if repairs > seen.repairs {
            stages.push(stage(StageKind::Covered, "repairs for every symbol have left the site"));
        }
        if progress.durable && !seen.durable {
            stages.push(stage(StageKind::Durable, "synced to this site's disk"));
        }
        if progress.mirrored && !seen.mirrored {
            stages.push(stage(StageKind::Mirrored, "synced to the mirror's disk and confirmed"));
        }
        for stage in stages {
            pending.tell(stage);
        }
        pending.seen = Seen {
            announced: announced || seen.announced,
            sent: sent || seen.sent,
            repairs: repairs.max(seen.repairs),
            durable: progress.durable || seen.durable,
            mirrored: progress.mirrored || seen.mirrored,
        };
    }

    pub fn status(&self, id: LogId, segment_bytes: u32) -> LogStatus {
        let end = self.tail.next_address();
        let behind = self.fenced_by.is_none() && self.mirrored.records < self.tail.next_number();
        LogStatus {
            log: id,
            name: self.name.clone(),
            degrade: self.degrade,
            epoch: self.tail.epoch().0,
            records: self.tail.next_number(),
            durable: self.durable,
            mirrored: self.mirrored.records,
            end,
            lag_bytes: if behind { lag_of(end, self.mirrored.address, segment_bytes) } else { 0 },
            oldest_unmirrored: if behind { self.lag_samples.front().map(|&(_, time)| time) } else { None },
            waiting: self.pending.len(),
            freed: self.active.freed(),
            feed: match self.feed {
                Feed::Off => "off",
                Feed::Refused => "refused",
                Feed::Live => "live",
                Feed::CatchUp { .. } if !self.read_pause.is_zero() => "unreadable",
                Feed::CatchUp { .. } => "catching up",
            },
            refusal: self.refusal.clone(),
            fenced_by: self.fenced_by,
        }
    }
}

/// Bytes from the start of a log to an address, unused segment ends included.
fn position(address: LogAddress, segment_bytes: u32) -> u64 {
    u64::from(address.segment.0) * u64::from(segment_bytes) + u64::from(address.offset)
}

fn lag_of(end: LogAddress, mirrored: LogAddress, segment_bytes: u32) -> u64 {
    position(end, segment_bytes).saturating_sub(position(mirrored, segment_bytes))
}

fn tail_message(id: LogId, tail: Tail) -> LogTailV1 {
    let end = tail.next_address();
    LogTailV1 {
        log: id.0,
        epoch: tail.epoch().0,
        records: tail.next_number(),
        segment: end.segment.0,
        offset: end.offset,
        chain: tail.chain(),
    }
}

/// The effect that announces a record.
pub(crate) fn announce(record: &Record) -> Effect {
    let header = &record.header;
    Effect::Announce { key: header.key(), announcement: header.announcement() }
}

//! A link in simulated time: the real sender and the real receiver, a line between them that loses packets, and reports.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use parhelion_link::{Receiver, Report, Sender, SenderEvent, TransmitKind};
use parhelion_plugin::ParameterError;
use parhelion_risk::{ChannelCounts, WireState};
use parhelion_types::{LogId, RecordKey, Time};

use crate::line::Line;
use crate::loss::Loss;
use crate::policy::Choice;

/// Both ends of a link and all that is between them.
///
/// The line is first in, first out. So when the last datagram that had left the primary's site at some instant has come
/// to the mirror, and nothing behind it has, the mirror is exactly what it would be if the site had died at that instant:
/// what the sender did later is all behind. Disasters are read off that way, as many as one likes from one link, and
/// [`kill`](Self::kill) shows that they are the real ones.
pub struct Link {
    line: Line,
    sender: Sender,
    receiver: Receiver,
    loss: Box<dyn Loss>,
    now: Time,
    /// When the line will have carried all that was handed to it.
    free: Time,
    /// Wire numbers with the time at which the line will have carried them.
    carried: VecDeque<(Time, u64)>,
    flying: VecDeque<(Time, Vec<u8>)>,
    reports: VecDeque<News>,
    changes: VecDeque<(Time, CodeChange)>,
    next_report: Time,
    /// Datagrams came since the last report.
    is_busy: bool,
    at_mirror: BTreeMap<LogId, Log>,
    altered: u64,
    is_dead: bool,
    figures: WireFigures,
    /// Buffers of datagrams that came, to be used again.
    spare: Vec<Vec<u8>>,
}

struct CodeChange {
    epoch: u32,
    first_symbol: u64,
    choice: Choice,
}

/// A report on its way back.
struct News {
    arrival: Time,
    report: Report,
    /// By log: all records below are durable at the mirror.
    durable: Vec<(LogId, u64)>,
}

/// Records of one log that the mirror has.
#[derive(Debug, Default)]
struct Log {
    /// All below are there.
    durable: u64,
    /// Those above, ascending.
    ahead: VecDeque<u64>,
}

/// What the primary learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Happening {
    /// Of the link: what of a record is on the wire.
    Coverage(RecordKey, WireState),
    /// Of the mirror: what the line has done to packets.
    Counts(ChannelCounts),
    /// Of the mirror: it has all records of a log below that number.
    Mirrored(LogId, u64),
}

/// What the line carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireFigures {
    /// Datagrams.
    pub packets: u64,
    /// Of those, lost.
    pub lost: u64,
    /// Bytes of all datagrams, with headers.
    pub bytes: u64,
    /// Of those, bytes of source symbols that were sent for the first time.
    pub source_bytes: u64,
}

impl Link {
    /// A session that begins at `now`.
    ///
    /// # Errors
    /// Parameters of the code that the link does not accept.
    pub fn new(line: Line, choice: &Choice, loss: Box<dyn Loss>, now: Time) -> Result<Self, ParameterError> {
        let Choice { code, flush_pause } = choice;
        Ok(Self {
            sender: Sender::new(line.sender(*flush_pause), code, now)?,
            receiver: Receiver::new(line.receiver(code.structure(), *flush_pause), 0, 0, code, now)?,
            line,
            loss,
            now,
            free: now,
            carried: VecDeque::new(),
            flying: VecDeque::new(),
            reports: VecDeque::new(),
            changes: VecDeque::new(),
            next_report: now,
            is_busy: false,
            at_mirror: BTreeMap::new(),
            altered: 0,
            is_dead: false,
            figures: WireFigures::default(),
            spare: Vec::new(),
        })
    }

    /// Hands a record of `bytes` bytes to the link; what is in it follows from its key.
    ///
    /// # Errors
    /// The link's buffer is full: the load is more than the line carries.
    pub fn send(&mut self, key: RecordKey, bytes: usize) -> Result<(), parhelion_link::Full> {
        self.sender.send(self.now, key, content(key, bytes))
    }

    /// Protects further records by another code. The mirror hears of it a latency later.
    ///
    /// # Errors
    /// Parameters of the code that the link does not accept.
    pub fn change(&mut self, choice: &Choice) -> Result<(), ParameterError> {
        let change = self.sender.change_code(self.now, &choice.code)?;
        self.sender.set_flush_pause(choice.flush_pause);
        let change =
            CodeChange { epoch: change.epoch, first_symbol: change.first_symbol, choice: choice.clone() };
        self.changes.push_back((self.now + self.line.latency, change));
        Ok(())
    }

    /// The site dies now: what has not left it never will.
    pub fn kill(&mut self) {
        self.is_dead = true;
        // What has left the network card and not the site dies with it.
        self.flying.retain(|(arrival, _)| *arrival <= self.now + self.line.latency);
        self.carried.clear();
        self.changes.retain(|(arrival, _)| *arrival <= self.now + self.line.latency);
    }

    /// When something happens next.
    #[must_use]
    pub fn next(&self) -> Time {
        let arrival = self.flying.front().map(|(at, _)| *at);
        let change = self.changes.front().map(|(at, _)| *at);
        let mirror = [arrival, change, Some(self.next_report)];
        let primary = match self.is_dead {
            true => [None; 3],
            false => [
                self.sender.poll_timeout(),
                self.carried.front().map(|(at, _)| *at),
                self.reports.front().map(|news| news.arrival),
            ],
        };
        let next = mirror.into_iter().chain(primary).flatten().min().unwrap_or(self.next_report);
        // Time passes between two turns of any driver.
        next.max(self.now + Duration::from_nanos(1))
    }

    /// It is `now`, which is not beyond [`next`](Self::next): does what is due, and tells what the primary learns by it.
    ///
    /// # Errors
    /// The mirror refuses a code that the primary accepted.
    pub fn advance(&mut self, now: Time, out: &mut Vec<Happening>) -> Result<(), ParameterError> {
        self.now = now;
        while let Some((_, change)) = self.changes.pop_front_if(|(at, _)| *at <= now) {
            let Choice { code, flush_pause } = &change.choice;
            self.receiver.add_code(change.epoch, change.first_symbol, code)?;
            self.receiver.set_repair_delay(self.line.repair_delay(code.structure(), *flush_pause));
        }
        while let Some((_, datagram)) = self.flying.pop_front_if(|(at, _)| *at <= now) {
            self.arrive(datagram);
        }
        if self.next_report <= now {
            self.report();
        }
        if !self.is_dead {
            self.primary(out);
        }
        Ok(())
    }

    /// Records of `log` that the mirror has without a gap, from the first on.
    #[must_use]
    pub fn durable(&self, log: LogId) -> u64 {
        self.at_mirror.get(&log).map_or(0, |log| log.durable)
    }

    /// Records that came to the mirror with other bytes than were sent.
    #[must_use]
    pub fn altered(&self) -> u64 {
        self.altered
    }

    /// What the line carried since the session began.
    #[must_use]
    pub fn figures(&self) -> WireFigures {
        self.figures
    }

    fn arrive(&mut self, datagram: Vec<u8>) {
        self.is_busy = true;
        // Whatever is wrong with a datagram of our own sender shows in what the mirror lacks.
        if self.receiver.handle_datagram(self.now, &datagram).is_err() {
            self.altered += 1;
        }
        self.spare.push(datagram);
        while let Some(record) = self.receiver.poll_record() {
            match key_of(&record).filter(|key| content(*key, record.len()) == record) {
                Some(key) => self.at_mirror.entry(key.log).or_default().take(key.number),
                None => self.altered += 1,
            }
        }
    }

    fn report(&mut self) {
        let interval = if self.is_busy { self.line.report_interval } else { self.line.report_interval_idle };
        self.is_busy = false;
        self.next_report = self.now + interval;
        let report = self.receiver.report(self.now);
        let durable = self.at_mirror.iter().map(|(log, at)| (*log, at.durable)).collect();
        self.reports.push_back(News { arrival: self.now + self.line.latency, report, durable });
    }

    fn primary(&mut self, out: &mut Vec<Happening>) {
        let now = self.now;
        while let Some((_, number)) = self.carried.pop_front_if(|(at, _)| *at <= now) {
            self.sender.handle_on_wire(now, number + 1);
        }
        let mut mirrored = Vec::new();
        while let Some(News { report, durable, .. }) = self.reports.pop_front_if(|news| news.arrival <= now) {
            self.sender.handle_report(now, report.settled_symbols, &report.missing);
            for &(log, number) in &durable {
                self.sender.handle_confirmed(RecordKey { log, number });
            }
            out.push(Happening::Counts(counts(&report)));
            mirrored = durable;
        }
        let mut datagram = self.spare.pop().unwrap_or_default();
        datagram.clear();
        while let Some(transmit) = self.sender.poll_transmit(now, &mut datagram) {
            self.carry(transmit.wire_number, transmit.kind, datagram);
            datagram = self.spare.pop().unwrap_or_default();
            datagram.clear();
        }
        self.spare.push(datagram);
        while let Some(SenderEvent::Coverage { key, exposure, sent, complete }) = self.sender.poll_event() {
            out.push(Happening::Coverage(key, WireState { exposure, sent, complete }));
        }
        out.extend(mirrored.into_iter().map(|(log, number)| Happening::Mirrored(log, number)));
    }

    fn carry(&mut self, wire_number: u64, kind: TransmitKind, datagram: Vec<u8>) {
        self.free = self.free.max(self.now) + self.line.carries(datagram.len());
        self.carried.push_back((self.free, wire_number));
        self.figures.packets += 1;
        self.figures.bytes += datagram.len() as u64;
        if kind == TransmitKind::Source {
            self.figures.source_bytes += datagram.len() as u64;
        }
        if self.loss.takes(self.free) {
            self.figures.lost += 1;
            self.spare.push(datagram);
        } else {
            let left = self.free + self.line.site_exit_delay;
            self.flying.push_back((left + self.line.latency, datagram));
        }
    }
}

impl Log {
    fn take(&mut self, number: u64) {
        if number != self.durable {
            if let Err(at) = self.ahead.binary_search(&number) {
                self.ahead.insert(at, number);
            }
            return;
        }
        self.durable += 1;
        while self.ahead.pop_front_if(|ahead| *ahead == self.durable).is_some() {
            self.durable += 1;
        }
    }
}

/// The bytes of a record: its key, and numbers that follow from it.
fn content(key: RecordKey, bytes: usize) -> Bytes {
    let mut record = Vec::with_capacity(bytes.max(KEY_BYTES) + 8);
    record.extend_from_slice(&key.log.0.to_le_bytes());
    record.extend_from_slice(&key.number.to_le_bytes());
    let mut state = key.number ^ u64::from(key.log.0) << 48;
    while record.len() < bytes {
        state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_add(0x1234_5677);
        record.extend_from_slice(&state.to_le_bytes());
    }
    record.truncate(bytes.max(KEY_BYTES));
    record.into()
}

fn key_of(record: &[u8]) -> Option<RecordKey> {
    let (log, rest) = record.split_first_chunk()?;
    let (number, _) = rest.split_first_chunk()?;
    Some(RecordKey { log: LogId(u32::from_le_bytes(*log)), number: u64::from_le_bytes(*number) })
}

/// Bytes that tell which record it is; the smallest record.
pub(crate) const KEY_BYTES: usize = 12;

fn counts(report: &Report) -> ChannelCounts {
    let counts = &report.counts;
    ChannelCounts {
        settled: counts.settled,
        lost: counts.lost,
        n00: counts.n00,
        n01: counts.n01,
        n10: counts.n10,
        n11: counts.n11,
        n101: counts.n101,
        n111: counts.n111,
    }
}

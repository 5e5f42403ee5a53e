//! Two ends of a link and an unkind network between them, in memory and in made-up time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_none::NoCode;
use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_code_repetition::Repetition;
use parhelion_link::{
    Receiver, ReceiverConfig, Report, Sender, SenderConfig, SenderEvent, Transmit, TransmitKind,
};
use parhelion_plugin::{Code, ErasureCode, Exposure};
use parhelion_types::{LogId, RecordKey, Time};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

pub fn code(family: impl ErasureCode + 'static, parameters: &str) -> Code {
    Code::new(Arc::new(family), &parameters.parse().unwrap()).unwrap()
}

pub fn no_code() -> Code {
    code(NoCode, "")
}

pub fn layered() -> Code {
    code(LayeredInterleaving, "r=8 interleaves=1:11:101 delayed=1")
}

/// Codes of every structure.
pub fn codes() -> Vec<Code> {
    vec![
        no_code(),
        code(Repetition, "copies=2 spacing=5"),
        layered(),
        code(LayeredInterleaving, "r=4 interleaves=1:5 delayed=0"),
        code(ReedSolomon, "r=8 c=3 depth=1"),
        code(ReedSolomon, "r=8 c=3 depth=6"),
    ]
}

/// What the network does.
#[derive(Clone, Copy)]
pub struct Path {
    /// One way.
    pub latency: Duration,
    /// Added to the latency of single datagrams, evenly from zero: reordering.
    pub jitter: Duration,
    /// Mean share of datagrams lost.
    pub loss: f64,
    /// Mean length of loss bursts in datagrams.
    pub burst: f64,
    pub duplicates: f64,
    pub report_loss: f64,
    pub report_interval: Duration,
}

pub const CLEAN: Path = Path {
    latency: Duration::from_millis(20),
    jitter: Duration::ZERO,
    loss: 0.0,
    burst: 1.0,
    duplicates: 0.0,
    report_loss: 0.0,
    report_interval: Duration::from_millis(5),
};

pub const UNKIND: Path = Path {
    jitter: Duration::from_micros(300),
    loss: 0.02,
    burst: 3.0,
    duplicates: 0.01,
    report_loss: 0.05,
    ..CLEAN
};

/// 1200-byte datagrams at 100 Mb/s, about 10 000 per second.
pub fn sender_config() -> SenderConfig {
    SenderConfig {
        symbol_bytes: 1168,
        buffer_bytes_max: 64 << 20,
        rate_bytes_per_second: 12_500_000,
        per_datagram_overhead: 60,
        burst_datagrams_max: 8,
        flush_delay: Duration::from_millis(1),
        flush_pause: 0,
        site_exit_delay: Duration::from_micros(50),
    }
}

pub fn receiver_config() -> ReceiverConfig {
    ReceiverConfig {
        symbol_bytes: 1168,
        record_bytes_max: 1 << 20,
        pending_bytes_max: 64 << 20,
        reorder_delay: Duration::from_millis(2),
        repair_delay: Duration::from_millis(20),
        packet_time: Duration::ZERO,
    }
}

/// What a record's coverage was when it changed.
#[derive(Clone, Copy, Debug)]
pub struct Coverage {
    pub at: Time,
    pub exposure: Exposure,
    pub sent: bool,
    pub complete: bool,
}

pub struct Network {
    pub now: Time,
    pub sender: Sender,
    pub receiver: Receiver,
    pub path: Path,
    /// Datagrams to lose, by wire number, besides those of the path.
    pub lose: BTreeSet<u64>,
    /// All datagrams and reports sent in between are lost.
    pub outages: Vec<(Time, Time)>,
    pub sent: Vec<(RecordKey, Bytes, Time)>,
    pub delivered: BTreeMap<RecordKey, (Bytes, Time)>,
    pub coverage: BTreeMap<RecordKey, Vec<Coverage>>,
    /// Every datagram that was sent: what it was and whether the network lost it.
    pub datagrams: Vec<(Transmit, bool, Time)>,
    pub reports: u64,
    rng: SmallRng,
    is_bad: bool,
    flying: BinaryHeap<Reverse<(Time, u64, Vec<u8>)>>,
    flying_reports: BinaryHeap<Reverse<(Time, u64)>>,
    report_bodies: BTreeMap<u64, Report>,
    next_report: Time,
    durable: BTreeMap<LogId, u64>,
    order: u64,
}

impl Network {
    pub fn new(path: Path, sender: SenderConfig, receiver: ReceiverConfig, code: &Code, seed: u64) -> Self {
        let now = Time::from_nanos(1_000_000_000);
        Self {
            now,
            sender: Sender::new(sender, code, now).unwrap(),
            receiver: Receiver::new(receiver, 0, 0, code, now).unwrap(),
            path,
            lose: BTreeSet::new(),
            outages: vec![],
            sent: vec![],
            delivered: BTreeMap::new(),
            coverage: BTreeMap::new(),
            datagrams: vec![],
            reports: 0,
            rng: SmallRng::seed_from_u64(seed),
            is_bad: false,
            flying: BinaryHeap::new(),
            flying_reports: BinaryHeap::new(),
            report_bodies: BTreeMap::new(),
            next_report: now,
            durable: BTreeMap::new(),
            order: 0,
        }
    }

    pub fn key(log: u32, number: u64) -> RecordKey {
        RecordKey { log: LogId(log), number }
    }

    /// Sends a record of random bytes that begin with its key.
    pub fn send(&mut self, key: RecordKey, bytes: usize) {
        let mut record = vec![0; bytes.max(12)];
        self.rng.fill_bytes(&mut record);
        record[..4].copy_from_slice(&key.log.0.to_le_bytes());
        record[4..12].copy_from_slice(&key.number.to_le_bytes());
        let record = Bytes::from(record);
        self.sender.send(self.now, key, record.clone()).unwrap();
        self.sent.push((key, record, self.now));
    }

    /// Changes the code at both ends; the news reaches the receiver a latency later than it could.
    pub fn change_code(&mut self, code: &Code) -> u64 {
        let change = self.sender.change_code(self.now, code).unwrap();
        self.receiver.add_code(change.epoch, change.first_symbol, code).unwrap();
        change.first_symbol
    }

    /// Runs until `end`, or until every record is delivered and confirmed; whether the latter.
    pub fn run_until(&mut self, end: Time) -> bool {
        loop {
            self.turn();
            if self.is_settled() {
                return true;
            }
            let next = [
                self.sender.poll_timeout(),
                self.receiver.poll_timeout(),
                self.flying.peek().map(|Reverse((at, ..))| *at),
                self.flying_reports.peek().map(|Reverse((at, _))| *at),
                Some(self.next_report),
            ];
            let next = next.into_iter().flatten().min().unwrap();
            if next > end {
                self.now = end;
                return false;
            }
            // Time passes between two turns of any driver.
            self.now = next.max(self.now + Duration::from_nanos(1));
        }
    }

    pub fn run_for(&mut self, span: Duration) -> bool {
        self.run_until(self.now + span)
    }

    /// Whether all records are delivered, and the sender knows.
    pub fn is_settled(&self) -> bool {
        self.delivered.len() == self.sent.len() && self.sender.buffered_bytes() == 0
    }

    pub fn assert_delivered(&self) {
        assert_eq!(self.delivered.len(), self.sent.len(), "records delivered");
        for (key, record, _) in &self.sent {
            assert!(self.delivered[key].0 == *record, "record {key:?} changed on the way");
        }
        assert_eq!(self.sender.buffered_bytes(), 0);
        assert_eq!(self.sender.queued_bytes(), 0);
        assert_eq!(self.receiver.pending_bytes(), 0);
    }

    pub fn lost(&self) -> u64 {
        self.datagrams.iter().filter(|(_, lost, _)| *lost).count() as u64
    }

    pub fn count(&self, kind: TransmitKind) -> u64 {
        self.datagrams.iter().filter(|(transmit, ..)| transmit.kind == kind).count() as u64
    }

    fn turn(&mut self) {
        while self.flying.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
            let Reverse((_, _, datagram)) = self.flying.pop().unwrap();
            self.receiver.handle_datagram(self.now, &datagram).unwrap();
            self.take_records();
        }
        if self.receiver.poll_timeout().is_some_and(|due| due <= self.now) {
            self.receiver.handle_timeout(self.now);
        }
        if self.next_report <= self.now {
            self.next_report = self.now + self.path.report_interval;
            let report = self.receiver.report(self.now);
            assert!(report.missing.len() <= parhelion_link::MISSING_RUNS_MAX);
            if !self.is_out() && !self.rng.random_bool(self.path.report_loss) {
                self.order += 1;
                self.flying_reports.push(Reverse((self.now + self.path.latency, self.order)));
                self.report_bodies.insert(self.order, report);
            }
        }
        while self.flying_reports.peek().is_some_and(|Reverse((at, _))| *at <= self.now) {
            let Reverse((_, number)) = self.flying_reports.pop().unwrap();
            let report = self.report_bodies.remove(&number).unwrap();
            self.reports += 1;
            self.sender.handle_report(self.now, report.settled_symbols, &report.missing);
            for (&log, &number) in &self.durable {
                self.sender.handle_confirmed(RecordKey { log, number });
            }
        }
        let mut datagram = Vec::new();
        while let Some(transmit) = self.sender.poll_transmit(self.now, &mut datagram) {
            assert_eq!(transmit.wire_number, self.datagrams.len() as u64);
            self.sender.handle_on_wire(self.now, transmit.wire_number + 1);
            self.carry(transmit, std::mem::take(&mut datagram));
        }
        assert!(datagram.is_empty(), "nothing was sent, and yet written");
        while let Some(SenderEvent::Coverage { key, exposure, sent, complete }) = self.sender.poll_event() {
            self.coverage.entry(key).or_default().push(Coverage { at: self.now, exposure, sent, complete });
        }
    }

    fn carry(&mut self, transmit: Transmit, datagram: Vec<u8>) {
        let Path { loss, burst, latency, jitter, duplicates, .. } = self.path;
        if loss > 0.0 {
            // Gilbert's channel: everything is lost in the bad state.
            let flip = if self.is_bad { 1.0 / burst } else { loss / (1.0 - loss) / burst };
            self.is_bad ^= self.rng.random_bool(flip);
        }
        let is_lost = self.is_bad || self.is_out() || self.lose.contains(&transmit.wire_number);
        self.datagrams.push((transmit, is_lost, self.now));
        if is_lost {
            return;
        }
        let copies = 1 + usize::from(self.rng.random_bool(duplicates));
        for _ in 0..copies {
            let jitter = Duration::from_nanos(self.rng.random_range(0..=jitter.as_nanos() as u64));
            self.order += 1;
            self.flying.push(Reverse((self.now + latency + jitter, self.order, datagram.clone())));
        }
    }

    fn is_out(&self) -> bool {
        self.outages.iter().any(|(from, to)| (*from..*to).contains(&self.now))
    }

    fn take_records(&mut self) {
        while let Some(record) = self.receiver.poll_record() {
            let log = u32::from_le_bytes(record[..4].try_into().unwrap());
            let number = u64::from_le_bytes(record[4..12].try_into().unwrap());
            let key = Self::key(log, number);
            assert!(self.delivered.insert(key, (record, self.now)).is_none(), "record {key:?} came twice");
            let durable = self.durable.entry(key.log).or_default();
            while self.delivered.contains_key(&RecordKey { log: key.log, number: *durable }) {
                *durable += 1;
            }
        }
    }
}

//! Bulk datagrams: a real sender, a line that the script rules, and the receiver with its decoders.
//!
//! Promises: a receiver never panics and stays within its limits, whatever comes; as long as the line only loses,
//! delays, reorders and repeats datagrams, each record comes out once, as it went in, and in the end all do.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use parhelion_link::{MISSING_RUNS_MAX, Receiver, ReceiverConfig, Report, Sender, SenderConfig};
use parhelion_plugin::Code;
use parhelion_plugin_host::Catalogue;
use parhelion_types::{LogId, RecordKey, Time};
use parhelion_wire::{
    Datagram, DatagramKind, NUMBER_BITS, REPAIR_HEADER_BYTES, SYMBOL_PREFIX_BYTES, SymbolPrefix,
};

use crate::Script;

const SYMBOL_BYTES: usize = 64;
const RECORD_BYTES_MAX: usize = 1024;
const PENDING_BYTES_MAX: usize = 4096;
/// What a receiver counts for a partial record beside its bytes; `Receiver` promises one more record on top.
const PARTIAL_SLACK: usize = 256;
/// Steps of one script: a fuzzer finds short scripts first, and long ones are slow.
const STEPS_MAX: usize = 256;
/// Bursts that one step may send.
const BURSTS_MAX: usize = 64;
const LOG: LogId = LogId(0);

/// Codes that a script may choose: every plugin, with groups small enough to fill.
const CODES: [(&str, &str); 8] = [
    ("none", ""),
    ("repetition", "copies=2 spacing=3"),
    ("layered-interleaving", "r=4 interleaves=1:3 delayed=0"),
    ("layered-interleaving", "r=3 interleaves=1:2:5 delayed=1"),
    ("layered-interleaving", "r=1 interleaves=1 delayed=0"),
    ("reed-solomon", "r=4 c=2"),
    ("reed-solomon", "r=3 c=2 depth=2"),
    ("reed-solomon", "r=1 c=3"),
];

struct Bed {
    catalogue: Catalogue,
    now: Time,
    sender: Sender,
    receiver: Receiver,
    wire: VecDeque<Vec<u8>>,
    /// Datagrams that the sender has made.
    sent: u64,
    records: Vec<Bytes>,
    /// Record numbers by their bytes, of those that have not come out.
    awaited: BTreeMap<Bytes, u64>,
    arrived: Vec<bool>,
    /// Whether something came that no sender sent. What comes out then may be anything.
    is_forged: bool,
    settled: u64,
}

pub(super) fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let mut bed = Bed::new(script.u8());
    for _ in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        bed.step(&mut script);
    }
    if !bed.is_forged {
        bed.finish();
    }
}

fn code(catalogue: &Catalogue, choice: u8) -> Code {
    let (name, parameters) = CODES[usize::from(choice) % CODES.len()];
    let family = catalogue.code(name).expect("it is built in");
    Code::new(family, &parameters.parse().expect("they are well-formed")).expect("they are in range")
}

impl Bed {
    fn new(choice: u8) -> Self {
        let catalogue = Catalogue::built_in();
        let now = Time::from_nanos(1);
        let sender_config = SenderConfig {
            symbol_bytes: SYMBOL_BYTES,
            buffer_bytes_max: 64 << 10,
            rate_bytes_per_second: 0,
            per_datagram_overhead: 60,
            burst_datagrams_max: 8,
            flush_delay: Duration::from_millis(1),
            flush_pause: 2,
            site_exit_delay: Duration::from_micros(500),
        };
        let receiver_config = ReceiverConfig {
            symbol_bytes: SYMBOL_BYTES,
            record_bytes_max: RECORD_BYTES_MAX,
            pending_bytes_max: PENDING_BYTES_MAX,
            reorder_delay: Duration::from_millis(2),
            repair_delay: Duration::from_millis(5),
            packet_time: Duration::from_micros(u64::from(choice / 32)),
        };
        let code = code(&catalogue, choice);
        let sender = Sender::new(sender_config, &code, now);
        let receiver = Receiver::new(receiver_config, 0, 0, &code, now);
        Self {
            catalogue,
            now,
            sender: sender.expect("the settings are in range"),
            receiver: receiver.expect("the settings are in range"),
            wire: VecDeque::new(),
            sent: 0,
            records: Vec::new(),
            awaited: BTreeMap::new(),
            arrived: Vec::new(),
            is_forged: false,
            settled: 0,
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.u8() % 16 {
            0 => self.send(usize::from(script.u16()), false),
            1 => self.send(usize::from(script.u8()), true),
            2 | 3 => self.pump(),
            4 | 5 => self.deliver_next(),
            6 => drop(self.wire.pop_front()),
            7 => self.wire.rotate_left(1.min(self.wire.len())),
            8 => {
                // A copy: the network repeated it.
                let copy = self.wire.front().cloned();
                self.wire.extend(copy);
            }
            9 => self.damage(script),
            10 => {
                let bytes = script.bytes(SYMBOL_BYTES + REPAIR_HEADER_BYTES + 8).to_vec();
                self.forge(&bytes);
            }
            11 => self.forge_source(script),
            12 => self.forge_repair(script),
            13 => self.wait(Duration::from_micros(u64::from(script.u16()) * 10)),
            14 => self.report(),
            _ => self.change_code(script.u8()),
        }
    }

    fn send(&mut self, bytes: usize, lazily: bool) {
        let number = self.records.len() as u64;
        // Records differ, so that one that comes out is known; every byte depends on its place.
        let mut record: Vec<u8> =
            (0..bytes % (RECORD_BYTES_MAX - 8)).map(|k| (number as usize + 7 * k) as u8).collect();
        record.extend_from_slice(&number.to_le_bytes());
        let (key, record) = (RecordKey { log: LOG, number }, Bytes::from(record));
        let sent = match lazily {
            true => self.sender.send_lazily(self.now, key, record.clone()),
            false => self.sender.send(self.now, key, record.clone()),
        };
        if sent.is_ok() {
            self.awaited.insert(record.clone(), number);
            self.records.push(record);
            self.arrived.push(false);
        }
    }

    /// Puts on the wire what is due. The sender never lets more than one burst go at one instant.
    fn pump(&mut self) {
        let mut bytes = Vec::new();
        for _ in 0..BURSTS_MAX {
            while let Some(transmit) = self.sender.poll_transmit(self.now, &mut bytes) {
                assert_eq!(transmit.wire_number, self.sent, "wire numbers are consecutive");
                self.sent += 1;
                self.wire.push_back(std::mem::take(&mut bytes));
            }
            let next = self.now + Duration::from_nanos(1);
            if self.sender.poll_timeout().is_none_or(|due| due > next) {
                break;
            }
            self.now = next;
        }
        self.sender.handle_on_wire(self.now, self.sent);
        while self.sender.poll_event().is_some() {}
    }

    fn deliver_next(&mut self) {
        let Some(datagram) = self.wire.pop_front() else { return };
        let taken = self.receiver.handle_datagram(self.now, &datagram);
        assert!(taken.is_ok() || self.is_forged, "a datagram as it was sent is refused: {taken:?}");
        self.take_records();
    }

    fn take_records(&mut self) {
        while let Some(record) = self.receiver.poll_record() {
            assert!(record.len() <= RECORD_BYTES_MAX, "a record of {} bytes", record.len());
            match self.awaited.remove(&record) {
                Some(number) => self.arrived[number as usize] = true,
                None => assert!(self.is_forged, "a record that was not sent, or came before: {record:?}"),
            }
        }
        let pending = self.receiver.pending_bytes();
        let limit = PENDING_BYTES_MAX + RECORD_BYTES_MAX + PARTIAL_SLACK;
        assert!(pending <= limit, "{pending} bytes of records are held, and {limit} are allowed");
    }

    /// Changes bytes of the next datagram. What the checksum of a symbol covers is mended, so that it arrives.
    fn damage(&mut self, script: &mut Script<'_>) {
        let (at, change, mend) = (usize::from(script.u16()), script.u8(), script.u8() % 2 == 1);
        let Some(mut datagram) = self.wire.pop_front() else { return };
        let at = at % datagram.len();
        datagram[at] ^= change;
        let header_bytes = Datagram::parse(&datagram).map(|(header, _)| header.kind.header_bytes());
        if let Ok(header_bytes) = header_bytes
            && mend
            && at >= header_bytes
        {
            let symbol = datagram.split_off(header_bytes);
            let mut fields = Script::new(&symbol);
            let record = u64::from(fields.u32()) | u64::from(fields.u16()) << 32;
            let (offset, length) = (fields.u32(), fields.u16());
            let data = symbol.get(SYMBOL_PREFIX_BYTES..).unwrap_or_default();
            let data = &data[..data.len().min(usize::from(length % (1 << 15)))];
            let prefix = SymbolPrefix { record, offset, length: data.len() as u16, last: length >> 15 == 1 };
            prefix.write(data, &mut datagram);
        }
        self.forge(&datagram);
    }

    fn forge(&mut self, datagram: &[u8]) {
        self.is_forged = true;
        // Whether it is refused is the receiver's business.
        let _ = self.receiver.handle_datagram(self.now, datagram);
        self.take_records();
    }

    /// A source symbol that a peer made up, with a checksum that fits.
    fn forge_source(&mut self, script: &mut Script<'_>) {
        let id = script.near(self.settled) % (1 << NUMBER_BITS);
        let kind = match script.u8() % 2 {
            0 => DatagramKind::Source { id },
            _ => DatagramKind::Resent { id },
        };
        let mut datagram = self.header(script, kind);
        let record = script.near(self.records.len() as u64) % (1 << NUMBER_BITS);
        let offset = script.near(0) as u32;
        let (last, data) = (script.u8() % 2 == 1, script.bytes(SYMBOL_BYTES));
        SymbolPrefix { record, offset, length: data.len() as u16, last }.write(data, &mut datagram);
        self.forge(&datagram);
    }

    /// A repair symbol that a peer made up.
    fn forge_repair(&mut self, script: &mut Script<'_>) {
        let first = script.near(self.settled) % (1 << NUMBER_BITS);
        let kind = DatagramKind::Repair {
            first,
            stride: (script.near(1) as u16).max(1),
            count: (script.near(1) as u16).max(1),
            index: script.u8(),
        };
        let mut datagram = self.header(script, kind);
        datagram.extend_from_slice(script.bytes(SYMBOL_BYTES + 8));
        self.forge(&datagram);
    }

    fn header(&self, script: &mut Script<'_>, kind: DatagramKind) -> Vec<u8> {
        let mut bytes = vec![0; kind.header_bytes()];
        let wire_number = script.near(self.sent) % (1 << NUMBER_BITS);
        let code_epoch = script.near(0) as u32;
        Datagram { path: 0, code_epoch, wire_number, kind }.write(&mut bytes);
        bytes
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now + span;
        if self.receiver.poll_timeout().is_some_and(|due| due <= self.now) {
            self.receiver.handle_timeout(self.now);
        }
    }

    fn report(&mut self) {
        let Report { counts, settled_symbols, missing } = self.receiver.report(self.now);
        assert!(
            settled_symbols >= self.settled || self.is_forged,
            "what was settled is not settled any more"
        );
        self.settled = settled_symbols;
        assert!(missing.len() <= MISSING_RUNS_MAX);
        let mut end = 0;
        for &(first, count) in &missing {
            assert!(count > 0 && (end == 0 || first > end), "runs ascend and do not touch: {missing:?}");
            end = first + u64::from(count);
        }
        assert!(counts.lost <= counts.settled && counts.n111 <= counts.n11, "{counts:?}");
        // Pairs of losses are counted by the time that they took, all others one by one.
        assert!(
            counts.n00 + counts.n01 + counts.n10 <= counts.settled,
            "more pairs than datagrams: {counts:?}"
        );
        if !self.is_forged {
            self.sender.handle_report(self.now, settled_symbols, &missing);
            let number = self.arrived.iter().take_while(|arrived| **arrived).count() as u64;
            self.sender.handle_confirmed(RecordKey { log: LOG, number });
        }
    }

    /// Both ends change the code, as `ChangeCode` on the control stream makes them.
    fn change_code(&mut self, choice: u8) {
        let code = code(&self.catalogue, choice);
        // Both refuse where too many codes have symbols in flight; the mirror then ends the session.
        let Ok(next) = self.sender.change_code(self.now, &code) else { return };
        if self.receiver.add_code(next.epoch, next.first_symbol, &code).is_err() {
            self.is_forged = true;
        }
        self.take_records();
    }

    /// The line is good from here on: everything comes out.
    fn finish(&mut self) {
        for round in 0..200 {
            if self.awaited.is_empty() {
                return;
            }
            // A sender that measured a long round trip asks for patience.
            self.wait(Duration::from_millis(20 << (round / 16)));
            self.pump();
            while !self.wire.is_empty() {
                self.deliver_next();
            }
            self.report();
        }
        let (sent, report) = (self.sender.stats(), self.receiver.report(self.now));
        panic!("records {:?} never came: {sent:?}, {report:?}", self.awaited.values());
    }
}

pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    const NAMES: [&str; CODES.len()] = [
        "none",
        "repetition",
        "layered",
        "layered-delayed",
        "layered-single",
        "reed-solomon",
        "reed-solomon-deep",
        "reed-solomon-single",
    ];
    let losing = |code: usize| {
        let mut script = vec![code as u8];
        for round in 0..4_u8 {
            // Two records, sent; of their datagrams one is lost and one comes late, in turns; then a report.
            script.extend([0, 200, round, 1, 90, 13, 200, 0, 2]);
            script.extend([4, 4, 6, 4, 7, 4, 4, 8, 4, 4, 4, 4, 6, 4, 4, 4, 4, 4]);
            script.extend([13, 0, 2, 2, 4, 4, 4, 4, 14]);
        }
        script.extend([15, (code + 1) as u8, 0, 120, 1, 2, 4, 4, 6, 4, 4]);
        script
    };
    let mut seeds: Vec<_> = NAMES.iter().enumerate().map(|(code, name)| (*name, losing(code))).collect();
    let mut forging = vec![2, 0, 200, 0, 2, 4, 9, 40, 0, 1, 1, 9, 33, 0, 255, 0];
    forging.extend([11, 70, 0, 70, 64, 64, 64, 1, 3, 0, b'a', b'b', b'c']);
    forging.extend([12, 64, 65, 67, 0, 72, 64, 4, 0, 1, 2, 3, 4]);
    forging.extend([12, 240, 0, 240, 0, 64, 240, 0, 1, 64, 64, 2, 0, 9, 9, 14]);
    seeds.push(("forged", forging));
    seeds
}

//! Messages of the critical lane, and records over TCP: what one site believes of the other.
//!
//! Every message goes through its envelope and its check, and then to the cores that a node hands it to: the mirror's
//! receiver and replica, the primary's sender, log states and estimator. A peer that holds a link certificate may
//! be wrong or taken over, so any values are tried.
//!
//! Promises: no message panics a core; a replica writes each log without a gap; an estimate is a probability.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use parhelion_link::{Receiver, ReceiverConfig, Sender, SenderConfig};
use parhelion_log::{ActiveMap, CreatePayload, Record, RecordFields, RecordKind, Tail};
use parhelion_mirror::{
    Append, Effect, Input, Primary, PrimaryConfig, PrimaryLog, Replica, ReplicaEffect, ReplicaInput,
};
use parhelion_plugin::{Channel, Code, Parameters};
use parhelion_plugin_host::Catalogue;
use parhelion_risk::{Assumption, ChannelCounts, ChannelEstimator, Pricer};
use parhelion_types::{
    AppendRequest, Degrade, Durability, Epoch, LogAddress, LogId, RecordKey, RequestId, Risk, SiteId,
    SourceTime, Time, TraceContext,
};
use parhelion_wire::link::{
    AnnounceV1, ArchivedCodeV1, ArchivedHelloV1, ArchivedLogMarkV1, ChangeCodeV1, ChannelCountsV1, CodeV1,
    HelloV1, LogMarkV1, LogTailV1, RecordV1, RefusalV1, ReportV1, RewindV1, WelcomeV1,
};
use parhelion_wire::{Announcement, Checked, Envelope, Message, frame};

use crate::frames::Frames;

const LOG: LogId = LogId(3);
const SEGMENT_BYTES: u32 = 32 << 20;
const RECORDS: usize = 4;
const SYMBOL_BYTES: usize = 64;
const TOKEN: u64 = 9;

/// Both sites, each with the same few records of one log.
struct Bed {
    catalogue: Catalogue,
    now: Time,
    receiver: Option<Receiver>,
    replica: Replica,
    /// Next record number that the replica may write, by log.
    written: BTreeMap<LogId, u64>,
    sender: Sender,
    primary: Primary,
    estimator: ChannelEstimator,
}

pub(super) fn run(input: &[u8]) {
    let mut bed = Bed::new();
    for (envelope, body, payload) in Frames::split(input) {
        bed.take(&envelope, body, payload);
    }
    bed.finish();
}

/// The first records of a log, as its primary places them.
fn records() -> (Vec<Record>, Tail) {
    let mut tail = Tail::new(LOG);
    let payload = CreatePayload { degrade: Degrade::Block, name: "orders".to_owned() }.to_bytes();
    let fields = RecordFields { kind: RecordKind::Create, ..RecordFields::default() };
    let mut records = vec![tail.place(fields, &payload, SEGMENT_BYTES).0];
    for number in 1..RECORDS {
        let fields = RecordFields { request: RequestId(number as u128), ..RecordFields::default() };
        records.push(tail.place(fields, &[number as u8; 100], SEGMENT_BYTES).0);
    }
    (records, tail)
}

impl Bed {
    fn new() -> Self {
        let catalogue = Catalogue::built_in();
        let now = Time::from_nanos(1);
        let (records, tail) = records();
        let log = || PrimaryLog {
            log: LOG,
            name: "orders".to_owned(),
            degrade: Degrade::Block,
            tail,
            common: tail,
            active: ActiveMap::default(),
            requests: Vec::new(),
            newest: SourceTime::default(),
            refusal: None,
        };
        let code = |name: &str| {
            Code::new(catalogue.code(name).expect("it is built in"), &Parameters::new())
                .expect("defaults fit")
        };
        let sender_config = SenderConfig {
            symbol_bytes: SYMBOL_BYTES,
            buffer_bytes_max: 64 << 10,
            rate_bytes_per_second: 0,
            per_datagram_overhead: 60,
            burst_datagrams_max: 8,
            flush_delay: Duration::from_millis(1),
            flush_pause: 2,
            site_exit_delay: Duration::ZERO,
        };
        let mut sender = Sender::new(sender_config, &code("layered-interleaving"), now)
            .expect("the settings are in range");
        for record in &records {
            sender.send(now, record.header.key(), record.bytes()).expect("there is room for a few records");
        }
        let mut bytes = Vec::new();
        while sender.poll_transmit(now, &mut bytes).is_some() {}
        let primary_config = PrimaryConfig {
            segment_bytes: SEGMENT_BYTES,
            link_buffer_bytes_max: 64 << 10,
            deadline: Duration::from_secs(10),
            requests_max: 100,
            epoch: Epoch(0),
            seen: Epoch(0),
            has_mirror: true,
        };
        let model = catalogue.model("iid-bound").expect("it is built in");
        let pricer = Pricer::new(model, code("none"), vec![Channel::independent(1e-3, 0.999)]);
        Self {
            catalogue,
            now,
            receiver: None,
            replica: Replica::new(SiteId(2), Epoch(0), vec![log()]),
            written: BTreeMap::from([(LOG, RECORDS as u64)]),
            sender,
            primary: Primary::new(primary_config, pricer, vec![log()]),
            estimator: ChannelEstimator::new(Assumption::default()),
        }
    }

    /// One message, as the site that it is for takes it.
    fn take(&mut self, envelope: &Envelope, body: Bytes, payload: Bytes) {
        self.now = self.now + Duration::from_millis(5);
        match envelope.kind {
            HelloV1::KIND => {
                if let Ok(hello) = Checked::<HelloV1>::parse(envelope, body) {
                    self.hello(hello.get());
                }
            }
            ChangeCodeV1::KIND => {
                if let Ok(change) = Checked::<ChangeCodeV1>::parse(envelope, body) {
                    self.change_code(&change.get().code);
                }
            }
            WelcomeV1::KIND => {
                if let Ok(welcome) = Checked::<WelcomeV1>::parse(envelope, body) {
                    self.link_up(welcome.get().logs.iter().map(mark).collect());
                }
            }
            RefusalV1::KIND => {
                if let Ok(refusal) = Checked::<RefusalV1>::parse(envelope, body) {
                    let _ = refusal.get().message.as_str().to_owned();
                    self.step(Input::LinkDown);
                }
            }
            RewindV1::KIND => {
                if let Ok(rewind) = Checked::<RewindV1>::parse(envelope, body) {
                    let tail = |tail: &parhelion_wire::link::ArchivedLogTailV1| LogTailV1 {
                        log: tail.log.to_native(),
                        epoch: tail.epoch.to_native(),
                        records: tail.records.to_native(),
                        segment: tail.segment.to_native(),
                        offset: tail.offset.to_native(),
                        chain: tail.chain.to_native(),
                    };
                    self.replicate(ReplicaInput::Rewind(rewind.get().logs.iter().map(tail).collect()));
                }
            }
            AnnounceV1::KIND => {
                if Checked::<AnnounceV1>::parse(envelope, body).is_ok()
                    && let Some(batch) = Announcement::parse_batch(&payload)
                {
                    self.replicate(ReplicaInput::Announced(batch.collect()));
                }
            }
            ReportV1::KIND => {
                if let Ok(report) = Checked::<ReportV1>::parse(envelope, body) {
                    self.report(&report);
                }
            }
            RecordV1::KIND if Checked::<RecordV1>::parse(envelope, body).is_ok() => {
                self.replicate(ReplicaInput::Records(vec![payload]));
            }
            _ => {}
        }
    }

    fn code(&self, asked: &ArchivedCodeV1) -> Option<Code> {
        let parameters = asked.parameters.parse::<Parameters>().ok()?;
        Code::new(self.catalogue.code(&asked.name).ok()?, &parameters).ok()
    }

    fn hello(&mut self, hello: &ArchivedHelloV1) {
        let asked = &hello.code;
        let packet_time = Duration::from_nanos(hello.packet_nanos.to_native().into());
        let pause = packet_time.saturating_mul(hello.flush_pause.to_native().saturating_add(1));
        let config = ReceiverConfig {
            symbol_bytes: asked.symbol_bytes.to_native() as usize,
            record_bytes_max: 1 << 20,
            pending_bytes_max: 1 << 20,
            reorder_delay: Duration::from_millis(2),
            repair_delay: Duration::from_millis(5) + pause,
            packet_time,
        };
        let Some(code) = self.code(asked) else { return };
        let (epoch, first) = (asked.epoch.to_native(), asked.first_symbol.to_native());
        self.receiver = Receiver::new(config, epoch, first, &code, self.now).ok();
        self.replicate(ReplicaInput::Hello { token: TOKEN });
        self.probe(epoch, first);
    }

    fn change_code(&mut self, asked: &ArchivedCodeV1) {
        let Some(code) = self.code(asked) else { return };
        let Some(receiver) = &mut self.receiver else { return };
        let (epoch, first) = (asked.epoch.to_native(), asked.first_symbol.to_native());
        // A refusal ends the session.
        if receiver.add_code(epoch, first, &code).is_err() {
            self.receiver = None;
        }
        self.probe(epoch, first);
    }

    /// One symbol and one repair where the peer says that its code begins.
    fn probe(&mut self, code_epoch: u32, id: u64) {
        use parhelion_wire::{Datagram, DatagramKind, NUMBER_BITS, SymbolPrefix};
        let Some(receiver) = &mut self.receiver else { return };
        // A hello has 64 bits for it, a datagram fewer.
        let id = id % (1 << NUMBER_BITS);
        let prefix = SymbolPrefix { record: 0, offset: 0, length: 1, last: true };
        let kinds =
            [DatagramKind::Source { id }, DatagramKind::Repair { first: id, stride: 1, count: 1, index: 0 }];
        for (wire_number, kind) in (0..).zip(kinds) {
            let mut datagram = vec![0; kind.header_bytes()];
            Datagram { path: 0, code_epoch, wire_number, kind }.write(&mut datagram);
            prefix.write(b"x", &mut datagram);
            let _ = receiver.handle_datagram(self.now, &datagram);
        }
        while receiver.poll_record().is_some() {}
        let _ = receiver.report(self.now);
    }

    fn report(&mut self, report: &Checked<ReportV1>) {
        let report = report.get();
        let missing: Vec<(u64, u32)> =
            report.missing.iter().map(|run| (run.0.to_native(), run.1.to_native())).collect();
        let marks: Vec<LogMarkV1> = report.logs.iter().map(mark).collect();
        self.sender.handle_report(self.now, report.settled_symbols.to_native(), &missing);
        for mark in &marks {
            self.sender.handle_confirmed(RecordKey { log: LogId(mark.log), number: mark.records });
        }
        let mut bytes = Vec::new();
        for _ in 0..1000 {
            if self.sender.poll_transmit(self.now, &mut bytes).is_none() {
                break;
            }
            bytes.clear();
        }
        let channel = &report.channel;
        let counts = ChannelCounts {
            settled: channel.settled.to_native(),
            lost: channel.lost.to_native(),
            n00: channel.n00.to_native(),
            n01: channel.n01.to_native(),
            n10: channel.n10.to_native(),
            n11: channel.n11.to_native(),
            n101: channel.n101.to_native(),
            n111: channel.n111.to_native(),
        };
        self.estimator.handle_report(self.now, report.session.to_native(), counts);
        let channels = self.estimator.channels(self.now);
        for channel in &channels {
            for (name, probability) in [("loss", channel.loss), ("burst's end", channel.bad_to_good)] {
                assert!((0.0..=1.0).contains(&probability), "{name} is {probability} after {counts:?}");
            }
        }
        self.step(Input::Channels(channels));
        self.step(Input::Mirrored(marks));
    }

    fn link_up(&mut self, marks: Vec<LogMarkV1>) {
        let family = self.catalogue.code("reed-solomon").expect("it is built in");
        let code = Code::new(family, &"r=4 c=2".parse().expect("it is well-formed")).expect("it is in range");
        self.step(Input::LinkUp { time: SourceTime(5), marks, code });
        self.step(Input::Append(Append {
            token: TOKEN,
            asked: AppendRequest {
                log: LOG,
                payload: Bytes::from_static(b"bytes"),
                durability: Durability::Remote,
                max_risk: Risk::bound(1e-6),
                deadline: None,
                request: RequestId::NONE,
                explain: true,
                trace: TraceContext::default(),
            },
            time: SourceTime(2),
        }));
        let records = self.primary.log(LOG).map_or(0, |log| log.records);
        self.step(Input::Durable { log: LOG, records });
    }

    fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.primary.step(self.now, input, &mut effects);
        for effect in &effects {
            // The figures of an acknowledgement are made for people and metrics too.
            if let Effect::Reply { reply, .. } = effect {
                let _ = format!("{reply:?}");
            }
        }
        assert_eq!(self.primary.logs().map(|log| log.log).collect::<Vec<_>>(), [LOG]);
    }

    fn replicate(&mut self, input: ReplicaInput) {
        let mut effects = Vec::new();
        self.replica.step(input, &mut effects);
        let mut durable = Vec::new();
        for effect in effects {
            match effect {
                ReplicaEffect::Write { record, .. } => {
                    let key = record.header.key();
                    let next = self.written.entry(key.log).or_default();
                    assert_eq!(key.number, *next, "log {} is written with a gap", key.log);
                    *next += 1;
                    durable.push((key, record.header.next_address()));
                }
                ReplicaEffect::Rewind { log, tail } => {
                    let next = self.written.entry(log).or_default();
                    assert!(tail.next_number() < *next, "log {log} is cut back to more than it had");
                    *next = tail.next_number();
                }
                _ => {}
            }
        }
        for (RecordKey { log, number }, end) in durable {
            let mut effects = Vec::new();
            self.replica.step(ReplicaInput::Durable { log, records: number + 1, end }, &mut effects);
        }
        for log in self.replica.logs() {
            assert_eq!(self.written.get(&log.log).copied().unwrap_or(0), log.applied, "log {}", log.log);
        }
    }

    /// Whatever came, both sites can still be asked, and the mirror promoted.
    fn finish(mut self) {
        self.step(Input::Timeout);
        self.step(Input::LinkDown);
        let mut effects = Vec::new();
        self.replica.step(ReplicaInput::Promote { token: TOKEN, dry_run: false }, &mut effects);
        let epoch = effects.iter().find_map(|effect| match effect {
            ReplicaEffect::Promoted { promotion, .. } => Some(promotion.epoch),
            _ => None,
        });
        let epoch = epoch.expect("a promotion is answered");
        for log in self.replica.take_logs() {
            assert!(log.tail.epoch() < epoch, "what is written from now on outranks what there is");
        }
    }
}

fn mark(archived: &ArchivedLogMarkV1) -> LogMarkV1 {
    LogMarkV1 {
        log: archived.log.to_native(),
        epoch: archived.epoch.to_native(),
        records: archived.records.to_native(),
        segment: archived.segment.to_native(),
        offset: archived.offset.to_native(),
    }
}

pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    const SESSION: u64 = 7;
    fn bytes(framed: Result<Bytes, parhelion_wire::WireError>, payload: &[u8]) -> Vec<u8> {
        [&framed.expect("it is within the limits"), payload].concat()
    }
    let (_, mut tail) = records();
    let end = tail.next_address();
    let mark = LogMarkV1 { log: LOG.0, epoch: 0, records: 2, segment: 0, offset: end.offset };
    let code = |epoch, first_symbol, name: &str, parameters: &str| CodeV1 {
        epoch,
        first_symbol,
        name: name.to_owned(),
        version: 1,
        parameters: parameters.to_owned(),
        symbol_bytes: 1200,
    };
    let hello = |first_symbol| {
        let hello = HelloV1 {
            site: 1,
            session: SESSION,
            code: code(0, first_symbol, "reed-solomon", "r=8 c=3"),
            tcp: false,
            packet_nanos: 12_000,
            flush_pause: 4,
        };
        bytes(frame(&hello, b"", 0), b"")
    };
    // A link driver once added a window to it.
    let beyond_all_symbols = hello(u64::MAX - 5);
    let hello = hello(0);
    let layered = code(1, 40, "layered-interleaving", "r=4 interleaves=1:3");
    let change = bytes(frame(&ChangeCodeV1 { code: layered, flush_pause: 9 }, b"", 0), b"");
    let welcome = bytes(frame(&WelcomeV1 { site: 2, session: SESSION, logs: vec![mark] }, b"", 0), b"");
    let refusal = bytes(frame(&RefusalV1 { kind: 4, message: "promoted; go there".to_owned() }, b"", 0), b"");
    let tail_message = LogTailV1 { log: LOG.0, epoch: 0, records: 2, segment: 0, offset: 64, chain: 5 };
    let rewind = |epoch| {
        let logs = vec![LogTailV1 { epoch, ..tail_message }];
        bytes(frame(&RewindV1 { session: SESSION, logs }, b"", 0), b"")
    };
    let announcement = Announcement {
        log: LOG,
        address: LogAddress::new(0, end.offset),
        length: 5,
        epoch: Epoch(0),
        digest: 1,
        request: RequestId(2),
    };
    let announced = announcement.to_bytes();
    let announce = bytes(frame(&AnnounceV1 { session: SESSION, number: 0 }, &announced, 0), &announced);
    let channel = ChannelCountsV1 { settled: 100, lost: 2, n00: 95, n01: 2, n10: 2, ..Default::default() };
    let report = bytes(
        frame(
            &ReportV1 {
                session: SESSION,
                number: 1,
                channel,
                settled_symbols: 6,
                missing: vec![(1, 2), (5, 1)],
                logs: vec![LogMarkV1 { records: 3, ..mark }],
            },
            b"",
            0,
        ),
        b"",
    );
    let (next, _) = tail.place(RecordFields::default(), b"bytes", SEGMENT_BYTES);
    let record = bytes(frame(&RecordV1 { session: SESSION }, &next.bytes(), 0), &next.bytes());
    let session = [hello.clone(), welcome.clone(), announce.clone(), record.clone(), report.clone()].concat();
    vec![
        ("hello", hello.clone()),
        ("hello-beyond-all-symbols", beyond_all_symbols),
        ("change-code", [hello, change].concat()),
        ("welcome", welcome),
        ("refusal", refusal),
        ("rewind", rewind(0)),
        ("rewind-last-epoch", rewind(u32::MAX)),
        ("announce", announce),
        ("report", report),
        ("record", record),
        ("session", session),
    ]
}

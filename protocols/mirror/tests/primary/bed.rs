//! A primary and what it is asked, one input at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_none::NoCode;
use parhelion_log::{ActiveMap, CreatePayload, Record, RecordFields, RecordKind, Tail};
use parhelion_mirror::{Append, Covered, Effect, Input, Primary, PrimaryConfig, PrimaryLog, Reply, Token};
use parhelion_model_iid_bound::IidBound;
use parhelion_plugin::{Channel, Code, Exposure, Parameters};
use parhelion_risk::Pricer;
use parhelion_types::{
    AppendRequest, Degrade, Durability, Epoch, Error, LogAddress, LogId, RecordKey, RequestId, Risk,
    SourceTime, Time, TraceContext,
};
use parhelion_wire::link::LogMarkV1;

pub const LOG: LogId = LogId(0);
pub const SEGMENT_BYTES: u32 = 32 << 20;
pub const LAYERED: [u32; 3] = [1, 11, 41];

pub struct Bed {
    pub primary: Primary,
    pub now: Time,
    token: Token,
}

impl Bed {
    /// A process that finds one log with one record on disk.
    pub fn new(degrade: Degrade) -> Self {
        Self::with(degrade, 1, None)
    }

    /// A process that finds one log with that many records, a creation and appends.
    pub fn with(degrade: Degrade, records: u64, refusal: Option<Error>) -> Self {
        Self::start(config(), degrade, (records, records), refusal)
    }

    /// A process that finds one log with `records` records, of which the mirror had no more than `common` when a process
    /// was last sure.
    pub fn start(
        config: PrimaryConfig,
        degrade: Degrade,
        (common, records): (u64, u64),
        refusal: Option<Error>,
    ) -> Self {
        Self::of(config, vec![recovered(LOG, degrade, (common, records), refusal)])
    }

    /// A process that finds these logs.
    pub fn of(config: PrimaryConfig, logs: Vec<PrimaryLog>) -> Self {
        Self { primary: Primary::new(config, pricer(), logs), now: Time::from_nanos(1), token: 0 }
    }

    pub fn token(&mut self) -> Token {
        self.token += 1;
        self.token
    }

    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.primary.step(self.now, input, &mut effects);
        effects
    }

    pub fn append(&mut self, durability: Durability, bytes: usize, request: u128) -> Vec<Effect> {
        self.append_to(LOG, durability, bytes, request)
    }

    pub fn append_to(
        &mut self,
        log: LogId,
        durability: Durability,
        bytes: usize,
        request: u128,
    ) -> Vec<Effect> {
        let token = self.token();
        self.step(Input::Append(Append {
            token,
            asked: AppendRequest {
                log,
                payload: Bytes::from(vec![7; bytes]),
                durability,
                max_risk: Risk::asked(1e-6).unwrap(),
                deadline: Some(Duration::from_secs(1)),
                request: RequestId(request),
                explain: true,
                trace: TraceContext::default(),
            },
            time: SourceTime(2),
        }))
    }

    pub fn durable(&mut self, records: u64) -> Vec<Effect> {
        self.step(Input::Durable { log: LOG, records })
    }

    pub fn up(&mut self, records: u64) -> Vec<Effect> {
        let end = self.primary.log(LOG).unwrap().end;
        let marks = if records == 0 { vec![] } else { vec![mark(records, end, 0)] };
        self.step(Input::LinkUp { time: SourceTime(5), marks, code: layered() })
    }

    pub fn announced(&mut self, number: u64) -> Vec<Effect> {
        self.step(Input::Announced(vec![RecordKey { log: LOG, number }]))
    }

    pub fn covered(&mut self, number: u64, coverage: u64) -> Vec<Effect> {
        let exposure = Exposure::steady(3, coverage, 8);
        let key = RecordKey { log: LOG, number };
        let complete = coverage == 0b111;
        self.step(Input::Coverage(vec![Covered { key, exposure, sent: true, complete }]))
    }
}

pub fn config() -> PrimaryConfig {
    PrimaryConfig {
        segment_bytes: SEGMENT_BYTES,
        link_buffer_bytes_max: 64 << 10,
        deadline: Duration::from_secs(10),
        requests_max: 100,
        epoch: Epoch(0),
        seen: Epoch(0),
        has_mirror: true,
    }
}

pub fn layered() -> Code {
    let parameters = Parameters::new().with("interleaves", &LAYERED).with("delayed", &[0]);
    Code::new(Arc::new(LayeredInterleaving), &parameters).unwrap()
}

pub fn no_code() -> Code {
    Code::new(Arc::new(NoCode), &Parameters::new()).unwrap()
}

pub fn pricer() -> Pricer {
    Pricer::new(Arc::new(IidBound), no_code(), vec![Channel::independent(1e-3, 0.999)])
}

pub fn mark(records: u64, end: LogAddress, epoch: u32) -> LogMarkV1 {
    LogMarkV1 { log: LOG.0, epoch, records, segment: end.segment.0, offset: end.offset }
}

pub fn record(effects: &[Effect]) -> &Record {
    effects
        .iter()
        .find_map(|effect| match effect {
            Effect::Write { record, .. } => Some(record),
            _ => None,
        })
        .expect("a record is written")
}

pub fn acked(effects: &[Effect]) -> Option<&parhelion_mirror::Acked> {
    effects.iter().find_map(|effect| match effect {
        Effect::Reply { reply: Ok(Reply::Acked(acked)), .. } => Some(&**acked),
        _ => None,
    })
}

/// A log with `records` records, of which the mirror had no more than `common` when a process was last sure.
pub fn recovered(
    log: LogId,
    degrade: Degrade,
    (common, records): (u64, u64),
    refusal: Option<Error>,
) -> PrimaryLog {
    let mut tail = Tail::new(log);
    let fields = RecordFields { kind: RecordKind::Create, ..RecordFields::default() };
    let payload = CreatePayload { degrade, name: "orders".to_owned() }.to_bytes();
    tail.place(fields, &payload, SEGMENT_BYTES);
    let mut ends = vec![tail];
    for _ in 1..records {
        tail.place(RecordFields::default(), &[7; 100], SEGMENT_BYTES);
        ends.push(tail);
    }
    PrimaryLog {
        log,
        name: "orders".to_owned(),
        degrade,
        tail,
        common: ends[common as usize - 1],
        active: ActiveMap::default(),
        requests: Vec::new(),
        newest: SourceTime(1),
        refusal,
    }
}

/// A session whose mirror says this of its logs. That they were compared is left out.
pub fn up_with(bed: &mut Bed, marks: Vec<LogMarkV1>) -> Vec<Effect> {
    let mut effects = compared_with(bed, marks);
    effects.retain(|effect| !matches!(effect, Effect::Reconciled(_)));
    effects
}

/// As [`up_with`], with all effects.
pub fn compared_with(bed: &mut Bed, marks: Vec<LogMarkV1>) -> Vec<Effect> {
    bed.step(Input::LinkUp { time: SourceTime(5), marks, code: no_code() })
}

pub fn create(token: Token, log: LogId, name: &str) -> Input {
    let (name, request, time) = (name.to_owned(), RequestId(u128::from(token)), SourceTime(1));
    Input::Create { token, log, name, degrade: Degrade::Fail, request, time }
}

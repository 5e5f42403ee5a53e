//! A site in memory, without a mirror: real logs, real request ids, no disk. Front ends are tested on it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use parhelion_gate::backend::Later;
use parhelion_gate::{
    AppendRequest, Appended, Backend, CodeRequest, CreateRequest, Credit, Entry, EntryKind, LogDigest,
    LogState, Promotion, ReadRecord, Stage, Stretch,
};
use parhelion_types::{
    Degrade, Durability, Epoch, Error, ErrorKind, LogAddress, LogId, RequestId, Risk, SourceTime,
};
use parhelion_wire::crc32c;
use std::sync::Mutex;
use tokio::sync::watch;

/// The site.
pub struct MemorySite {
    logs: Mutex<BTreeMap<u32, MemoryLog>>,
    /// `remote` appends wait until this is true.
    mirror: watch::Sender<bool>,
    /// How many appends are still to be refused as busy.
    pub busy: AtomicU32,
    /// Appends that were asked for, refused ones included.
    pub asked: AtomicUsize,
}

struct MemoryLog {
    name: String,
    degrade: Degrade,
    create: RequestId,
    records: Vec<Record>,
    end: u32,
    requests: HashMap<RequestId, LogAddress>,
    freed: u64,
}

struct Record {
    entry: Entry,
    payload: Bytes,
}

/// The name of a code that the site does not know.
pub const UNKNOWN_CODE: &str = "unknown";
/// The name of a log whose creation panics, to see what that costs.
pub const PANIC: &str = "panic";

impl MemorySite {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            logs: Mutex::default(),
            mirror: watch::Sender::new(true),
            busy: AtomicU32::new(0),
            asked: AtomicUsize::new(0),
        })
    }

    /// Lets `remote` appends pass, or makes them wait.
    pub fn set_mirror(&self, up: bool) {
        self.mirror.send_replace(up);
    }

    /// Appends in a log, freed ones included.
    pub fn appends(&self, log: LogId) -> usize {
        self.with(log, |log| Ok(log.records.len() - 1)).unwrap_or(0)
    }

    fn with<T>(&self, log: LogId, f: impl FnOnce(&mut MemoryLog) -> Result<T, Error>) -> Result<T, Error> {
        let mut logs = self.logs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        f(logs
            .get_mut(&log.0)
            .ok_or_else(|| Error::not_found(format!("log {log} does not exist; create it first")))?)
    }

    fn state(log: u32, it: &MemoryLog) -> LogState {
        LogState {
            log: LogId(log),
            name: it.name.clone(),
            epoch: Epoch(1),
            degrade: it.degrade,
            records: it.records.len() as u64,
            bytes: u64::from(it.end),
            end: LogAddress::new(0, it.end),
            mirrored_records: 0,
            refusal: None,
            freed: it.freed,
        }
    }
}

impl MemoryLog {
    fn push(&mut self, kind: EntryKind, payload: Bytes, request: RequestId) -> LogAddress {
        let address = LogAddress::new(0, self.end);
        let entry = Entry {
            address,
            kind,
            length: payload.len() as u32,
            digest: crc32c(&payload),
            request,
            time: SourceTime(1_700_000_000_000_000 + u64::from(self.end)),
            freed: false,
        };
        // A record has a header, so no two records start at one address.
        self.end += 64 + payload.len() as u32;
        self.records.push(Record { entry, payload });
        address
    }

    fn append(&mut self, log: LogId, address: LogAddress) -> Result<&mut Record, Error> {
        let found = self.records.iter_mut().find(|record| record.entry.address == address);
        found.filter(|record| record.entry.kind == EntryKind::Append).ok_or_else(|| {
            Error::not_found(format!(
                "log {log} has no append at {address}; give an address that an append was given"
            ))
        })
    }
}

impl Backend for MemorySite {
    fn create(&self, request: CreateRequest) -> Later<'_, LogId> {
        async move {
            assert_ne!(request.name, PANIC);
            let mut logs = self.logs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if let Some((log, existing)) = logs.iter().find(|(_, log)| log.name == request.name) {
                return if existing.create == request.request && !request.request.is_none() {
                    Ok(LogId(*log))
                } else {
                    Err(Error::invalid(format!(
                        "log {:?} exists as log {log}; choose another name",
                        request.name
                    )))
                };
            }
            let number = logs.len() as u32 + 1;
            let mut log = MemoryLog {
                name: request.name,
                degrade: request.degrade,
                create: request.request,
                records: Vec::new(),
                end: 0,
                requests: HashMap::new(),
                freed: 0,
            };
            log.push(EntryKind::Create, Bytes::new(), request.request);
            logs.insert(number, log);
            Ok(LogId(number))
        }
        .boxed()
    }

    /// Keeps the bytes, and so their credit, until the answer.
    fn append(&self, request: AppendRequest, credit: Credit) -> Later<'_, Appended> {
        async move {
            let _credit = credit;
            self.asked.fetch_add(1, Ordering::SeqCst);
            let take = |left: u32| left.checked_sub(1);
            if self.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                return Err(Error::new(ErrorKind::Busy, "the site is full; try again after a pause"));
            }
            let AppendRequest { log, payload, durability, request, explain, .. } = request;
            let (address, duplicate) = self.with(log, |log| {
                if let Some(address) = log.requests.get(&request).filter(|_| !request.is_none()) {
                    return Ok((*address, true));
                }
                let address = log.push(EntryKind::Append, payload, request);
                log.requests.insert(request, address);
                Ok((address, false))
            })?;
            if durability == Durability::Remote {
                let mut mirror = self.mirror.subscribe();
                let up = mirror.wait_for(|up| *up).await;
                up.map_err(|_| Error::unavailable("the site is gone; try again"))?;
            }
            let stage = Stage {
                stage: "durable".to_owned(),
                after: std::time::Duration::from_micros(5),
                repairs: 0,
                repairs_full: 0,
                own_risk: Risk::CERTAIN,
                prefix_risk: Risk::CERTAIN,
                note: "in memory".to_owned(),
            };
            Ok(Appended {
                log,
                address,
                reached: durability,
                degraded: false,
                duplicate,
                own_risk: Risk::CERTAIN,
                prefix_risk: Risk::CERTAIN,
                confidence: 1.0,
                model: "none".to_owned(),
                code: "none".to_owned(),
                epoch: Epoch(1),
                path: if explain { vec![stage] } else { Vec::new() },
            })
        }
        .boxed()
    }

    fn read(&self, log: LogId, address: LogAddress) -> Later<'_, ReadRecord> {
        async move {
            self.with(log, |it| {
                let Record { entry, payload } = it.append(log, address)?;
                if entry.freed {
                    return Err(Error::not_found(format!(
                        "append {address} of log {log} was freed; read another"
                    )));
                }
                Ok(ReadRecord { payload: payload.clone(), digest: entry.digest, time: entry.time })
            })
        }
        .boxed()
    }

    fn free(&self, log: LogId, address: LogAddress) -> Later<'_, ()> {
        async move {
            self.with(log, |it| {
                let record = it.append(log, address)?;
                if !std::mem::replace(&mut record.entry.freed, true) {
                    it.freed += 1;
                    it.push(EntryKind::Free, Bytes::new(), RequestId::NONE);
                }
                Ok(())
            })
        }
        .boxed()
    }

    fn list(&self, from: LogId, count: usize) -> Later<'_, Vec<LogState>> {
        async move {
            let logs = self.logs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            Ok(logs.range(from.0..).take(count).map(|(log, it)| Self::state(*log, it)).collect())
        }
        .boxed()
    }

    fn stat(&self, log: LogId) -> Later<'_, LogState> {
        async move { self.with(log, |it| Ok(Self::state(log.0, it))) }.boxed()
    }

    fn scan(&self, log: LogId, from: LogAddress, count: usize) -> Later<'_, Stretch> {
        async move {
            self.with(log, |log| {
                let mut records =
                    log.records.iter().map(|record| record.entry).skip_while(|e| e.address < from);
                let entries = records.by_ref().take(count).collect();
                let next = records.next().map_or(LogAddress::new(0, log.end), |entry| entry.address);
                Ok(Stretch { entries, next })
            })
        }
        .boxed()
    }

    fn status(&self) -> Later<'_, serde_json::Value> {
        async move {
            let logs = self.logs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).len();
            Ok(serde_json::json!({ "site": 1, "logs": logs }))
        }
        .boxed()
    }

    fn promote(&self, _dry_run: bool) -> Later<'_, Promotion> {
        async move {
            let logs = self.logs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).len() as u32;
            Ok(Promotion { epoch: Epoch(2), logs, ..Promotion::default() })
        }
        .boxed()
    }

    fn change_code(&self, request: CodeRequest) -> Later<'_, String> {
        async move {
            let CodeRequest { name, parameters } = request;
            if name == UNKNOWN_CODE {
                return Err(Error::invalid(format!(
                    "change code: {name:?} is not known here; use reed-solomon"
                )));
            }
            Ok(format!("{name} {parameters}"))
        }
        .boxed()
    }

    fn digest(&self, log: LogId, until: LogAddress) -> Later<'_, LogDigest> {
        async move {
            self.with(log, |log| {
                let mut hasher = blake3::Hasher::new();
                let (mut records, mut bytes) = (0, 0);
                for record in log.records.iter().take_while(|record| record.entry.address < until) {
                    hasher.update(&record.payload);
                    records += 1;
                    bytes += record.payload.len() as u64;
                }
                Ok(LogDigest { digest: *hasher.finalize().as_bytes(), records, bytes })
            })
        }
        .boxed()
    }
}

//! Stores on temporary directories, and logs whose every byte follows from log and record number.

// Each test binary uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use parhelion_log::{CreatePayload, FreePayload, KnownRequest, Record, RecordFields, RecordKind, Tail};
use parhelion_storage::store::{
    Damage, RecoveredLog, Store, StoreConfig, StoreError, StoreEvent, WriteRequest,
};
use parhelion_types::{Degrade, LogAddress, LogId, RequestId, SegmentId, SourceTime};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

pub const SEGMENT_BYTES: u32 = 64 << 10;

/// Request ids that a store keeps for each log.
const REQUESTS_MAX: usize = 1000;

pub fn config(directory: &Path) -> StoreConfig {
    StoreConfig {
        directories: vec![directory.to_owned()],
        segment_bytes: SEGMENT_BYTES,
        queue_bytes_max: 64 << 20,
        requests_max: REQUESTS_MAX,
        spares: 2,
    }
}

/// An open store with what it reports.
pub struct Opened {
    pub store: Store,
    pub logs: Vec<RecoveredLog>,
    pub events: Receiver<StoreEvent>,
}

pub fn open_with(config: StoreConfig) -> Result<Opened, StoreError> {
    let (send, events) = mpsc::channel();
    let tell = move |event| {
        // A test that has seen enough drops its end.
        let _ = send.send(event);
    };
    let (store, logs) = Store::open(config, Arc::new(tell))?;
    Ok(Opened { store, logs, events })
}

pub fn open(directory: &Path) -> Result<Opened, StoreError> {
    open_with(config(directory))
}

impl Opened {
    pub fn event(&self) -> StoreEvent {
        self.events.recv_timeout(Duration::from_secs(60)).expect("the store reports what it did")
    }

    /// Waits until the log's records below `count` are durable.
    pub fn until(&self, log: &Log) {
        loop {
            match self.event() {
                StoreEvent::Durable { logs, .. } => {
                    if logs.iter().any(|d| d.log == log.id && d.number + 1 == log.tail.next_number()) {
                        return;
                    }
                }
                // Of a log that had failed, and not of this one.
                StoreEvent::Discarded => {}
                other => panic!("not durable: {other:?}"),
            }
        }
    }

    /// Appends records and waits for them.
    pub fn append(&self, log: &mut Log, count: u64) {
        for _ in 0..count {
            let request = log.next();
            self.store.append(request).unwrap();
        }
        self.until(log);
    }

    pub fn all(&self, log: LogId) -> Result<Vec<Record>, StoreError> {
        let mut records: Vec<Record> = Vec::new();
        loop {
            let from = records.last().map_or(Tail::first_address(), |last| last.header.next_address());
            let more = self.store.read_from(log, from, 20_000)?;
            if more.is_empty() {
                return Ok(records);
            }
            records.extend(more);
        }
    }

    pub fn found(&self, log: LogId) -> &RecoveredLog {
        self.logs.iter().find(|found| found.log == log).expect("the log is recovered")
    }
}

/// A log as its only writer knows it. The same number and count give the same bytes in every process.
#[derive(Clone)]
pub struct Log {
    pub id: LogId,
    pub tail: Tail,
    pub records: Vec<Record>,
    segment_bytes: u32,
}

impl Log {
    pub fn new(id: u32) -> Self {
        Self::sized(id, SEGMENT_BYTES)
    }

    pub fn sized(id: u32, segment_bytes: u32) -> Self {
        Self { id: LogId(id), tail: Tail::new(LogId(id)), records: Vec::new(), segment_bytes }
    }

    /// The log after its first `count` records.
    pub fn after(id: u32, segment_bytes: u32, count: u64) -> Self {
        let mut log = Self::sized(id, segment_bytes);
        for _ in 0..count {
            log.next();
        }
        log
    }

    /// The next record: the creation, then mostly appends, and every tenth a freeing of the one before.
    pub fn next(&mut self) -> WriteRequest {
        let number = self.tail.next_number();
        let mut random = SmallRng::seed_from_u64(number << 32 | u64::from(self.id.0));
        let mut payload = vec![0; random.random_range(1..3000)];
        random.fill_bytes(&mut payload);
        let (kind, payload) = match number {
            0 => {
                let name = format!("log {}", self.id);
                (RecordKind::Create, CreatePayload { degrade: Degrade::Fail, name }.to_bytes())
            }
            n if n % 10 == 0 => {
                let freed = &self.records[number as usize - 1].header;
                let appends = vec![(freed.number, freed.address)];
                (RecordKind::Free, FreePayload { appends }.to_bytes())
            }
            _ => (RecordKind::Append, payload),
        };
        self.place(kind, &payload)
    }

    /// An append of that many bytes.
    pub fn bytes(&mut self, count: usize) -> WriteRequest {
        self.place(RecordKind::Append, &vec![7; count])
    }

    fn place(&mut self, kind: RecordKind, payload: &[u8]) -> WriteRequest {
        let number = self.tail.next_number();
        let fields = RecordFields {
            kind,
            time: SourceTime(1_000_000 + number),
            request: RequestId(u128::from(number) + 1),
            ..RecordFields::default()
        };
        let (record, opens_segment) = self.tail.place(fields, payload, self.segment_bytes);
        self.records.push(record.clone());
        WriteRequest { record, opens_segment }
    }

    /// The requests that a store should know.
    pub fn requests(&self) -> Vec<KnownRequest> {
        self.records.iter().filter_map(|record| KnownRequest::of(&record.header)).collect()
    }
}

/// Checks that the store has exactly these records, by every way of reading, and their facts.
pub fn assert_holds(opened: &Opened, log: &Log) {
    let found = opened.found(log.id);
    assert!(found.damage.is_none(), "{:?}", found.damage);
    assert_eq!(found.tail, log.tail);
    assert_eq!(found.name, format!("log {}", log.id));
    assert_eq!(found.degrade, Degrade::Fail);
    assert_eq!(found.created_by, RequestId(1));
    let requests = log.requests();
    let newest = &requests[requests.len().saturating_sub(REQUESTS_MAX)..];
    assert!(found.requests == newest, "{} requests; {} expected", found.requests.len(), newest.len());
    for record in &log.records {
        let number = record.header.number;
        let is_freed = (number + 1) % 10 == 0 && number + 1 < log.tail.next_number();
        assert_eq!(found.active.is_freed(number), is_freed, "record {number}");
    }
    assert_reads(opened, log);
}

/// Checks that the store shows exactly these records.
pub fn assert_reads(opened: &Opened, log: &Log) {
    assert!(opened.all(log.id).unwrap() == log.records, "the records of log {} differ", log.id);
    for record in &log.records {
        assert_eq!(&opened.store.read(log.id, record.header.address).unwrap(), record);
    }
}

/// A directory with one log of `count` records, closed.
pub fn filled(directory: &Path, count: u64) -> Log {
    let opened = open(directory).unwrap();
    let mut log = Log::new(0);
    opened.append(&mut log, count);
    log
}

pub fn segment(directory: &Path, log: LogId, segment: SegmentId) -> PathBuf {
    directory.join("logs").join(log.to_string()).join(format!("{:08}.seg", segment.0))
}

pub fn flip(path: &Path, at: u32) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Copies a flat directory in place of another.
pub fn copy_flat(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match fs::copy(entry.path(), to.join(entry.file_name())) {
            // RocksDB deletes a file once it has its successor.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
}

#[track_caller]
pub fn assert_corrupt(result: Result<impl Sized, StoreError>, address: LogAddress, path: &Path) -> String {
    let Err(error) = result else { panic!("no error; {address} is damaged") };
    let text = error.to_string();
    match error {
        StoreError::Corrupt(damage) => assert_names(&damage, address, path),
        other => panic!("{other}"),
    }
    text
}

/// Checks that the damage and its message name the place, the reason and the remedy.
#[track_caller]
fn assert_names(damage: &Damage, address: LogAddress, path: &Path) {
    let text = damage.to_string();
    assert_eq!(damage.address, address, "{text}");
    assert_eq!(damage.path, path, "{text}");
    assert!(!damage.reason.is_empty());
    for word in
        [path.display().to_string(), address.to_string(), damage.reason.clone(), "other site".to_owned()]
    {
        assert!(text.contains(&word), "no {word:?} in {text}");
    }
}

/// Opens the store and checks that log 0 is found damaged there, and is so again at the next start.
#[track_caller]
pub fn assert_damaged(home: &Path, address: LogAddress, path: &Path) -> Opened {
    let before = snapshot(&home.join("logs"));
    let check = || {
        let opened = open(home).unwrap();
        let found = opened.found(LogId(0));
        let damage =
            found.damage.as_ref().unwrap_or_else(|| panic!("{address} is damaged, and nobody says so"));
        assert_names(damage, address, path);
        assert!(found.readable_end >= found.tail.next_address());
        opened
    };
    drop(check());
    assert_eq!(snapshot(&home.join("logs")), before, "the files of a damaged log were changed");
    check()
}

/// Names and bytes of all files.
fn snapshot(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(snapshot(&path));
        } else {
            files.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    files.sort();
    files
}

// NOTE TO THE STORE'S DEVELOPER from the lead: read /tmp/store-findings.md now and mend all of it; remove this line.
//! The store: segments on disk, group commit, recovery, reads.
//!
//! One OS thread per data directory writes. It drains its queue into one batch, writes each log's records
//! with one system call where they are adjacent, syncs each file once, and only then reports them durable.
//! Reads come from any thread.
//!
//! ```text
//! <directory>/LOCK                       held while a node uses the directory
//! <directory>/logs/<log>/<segment>.seg   segment header, then records
//! <directory>/spare/<n>.seg              files of zeros, ready to become segments
//! <first directory>/catalogue/           RocksDB: checkpoints, the site's epoch
//! ```
//!
//! A synced write into blocks that were written before costs about half of one that appends or that fills
//! preallocated blocks, because the file system has nothing to journal; hence the spare files of zeros.

mod files;
mod lock;
mod reader;
mod recover;
mod writer;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use parhelion_log::{ActiveMap, Record, Tail};
use parhelion_types::{Degrade, LogAddress, LogId, RequestId};

use crate::catalogue::{Catalogue, CatalogueError};
use files::Spares;
use reader::Reader;
use writer::{Job, Writer};

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Data directories, each with its own writer; the first also holds the catalogue.
    pub directories: Vec<PathBuf>,
    /// Size of a segment file.
    pub segment_bytes: u32,
    /// Bytes that may wait for the disk; more are refused.
    pub queue_bytes_max: usize,
    /// Request ids kept per log.
    pub requests_max: usize,
    /// Files of zeros kept ready in each directory.
    pub spares: usize,
}

/// Told of what became durable, in batches, on a writer's thread.
pub type OnEvent = Arc<dyn Fn(StoreEvent) + Send + Sync>;

/// What a writer reports.
#[derive(Debug)]
pub enum StoreEvent {
    /// Records that are durable, with what the batch took.
    Durable {
        /// The highest of each log.
        logs: Vec<Durable>,
        /// Records in the batch.
        records: usize,
        /// Bytes in the batch.
        bytes: usize,
        /// Time of the syncs.
        sync: std::time::Duration,
    },
    /// The log can be written no more until the store is opened again: what the kernel did with a failed
    /// write is unknown, so nothing is tried again and no success is claimed.
    Failed {
        /// The log.
        log: LogId,
        /// Why.
        reason: String,
    },
}

/// The highest durable record of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// The log.
    pub log: LogId,
    /// The record's number.
    pub number: u64,
    /// Address behind it.
    pub end: LogAddress,
}

/// A record to store. Records of one log must come in order.
#[derive(Debug)]
pub struct WriteRequest {
    /// The record.
    pub record: Record,
    /// Whether it is the first of its segment.
    pub opens_segment: bool,
}

/// A log as it was found.
#[derive(Debug)]
pub struct RecoveredLog {
    /// The log.
    pub log: LogId,
    /// Its name.
    pub name: String,
    /// Its policy.
    pub degrade: Degrade,
    /// The request that created it.
    pub created_by: RequestId,
    /// Its end.
    pub tail: Tail,
    /// Which appends are freed.
    pub active: ActiveMap,
    /// Its newest requests: id, record number, address.
    pub requests: Vec<(RequestId, u64, LogAddress)>,
    /// Bytes of a record that was being written when the node died, and was never acknowledged.
    pub torn: bool,
}

/// A store that cannot be opened, or a record that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another node has the directory.
    #[error("data directory {} is in use by another process; stop that one or choose another directory", .0.display())]
    Locked(PathBuf),
    /// The directory cannot be used.
    #[error("data directory {}: {reason}; make it a writable directory or choose another", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// A file cannot be read or written.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// Stored bytes are damaged.
    #[error("log {log} is damaged at {address}, in {}: {reason}; restore it from the other site", path.display())]
    Corrupt {
        /// The log.
        log: LogId,
        /// Where.
        address: LogAddress,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is no such record.
    #[error("log {log} has no record at {address}; give an address that an append returned")]
    NoRecord {
        /// The log.
        log: LogId,
        /// Where.
        address: LogAddress,
    },
    /// The queue is full, or its writer has ended.
    #[error("the disk's queue of {0} bytes is full; retry after a pause")]
    Busy(usize),
    /// The catalogue cannot be used.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

/// Segments of a node's logs. Dropping it writes what is queued, syncs, and joins the writers.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    catalogue: Arc<Catalogue>,
    reader: Reader,
    queues: Vec<mpsc::Sender<Job>>,
    queued_bytes: Arc<AtomicUsize>,
    homes: Arc<Homes>,
    threads: Vec<JoinHandle<()>>,
    _locks: Vec<lock::DirectoryLock>,
}

/// Which directory each log lives in.
#[derive(Debug)]
pub(crate) struct Homes {
    directories: Vec<PathBuf>,
    known: Mutex<HashMap<LogId, usize>>,
}

impl Homes {
    /// Index of the log's directory; a new log gets one by its number.
    fn index(&self, log: LogId) -> usize {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *known.entry(log).or_insert(log.0 as usize % self.directories.len())
    }

    fn directory(&self, log: LogId) -> &Path {
        &self.directories[self.index(log)]
    }
}

impl Store {
    /// Locks the directories, recovers every log, and starts the writers.
    ///
    /// # Errors
    /// A directory is locked or unusable, or a log is damaged in its middle.
    pub fn open(config: StoreConfig, on_event: OnEvent) -> Result<(Self, Vec<RecoveredLog>), StoreError> {
        let mut locks = Vec::new();
        for directory in &config.directories {
            locks.push(lock::DirectoryLock::take(directory)?);
        }
        let catalogue = Arc::new(Catalogue::open(&config.directories[0].join("catalogue"))?);
        let mut known = HashMap::new();
        let mut recovered = Vec::new();
        for (index, directory) in config.directories.iter().enumerate() {
            for log in recover::logs_in(directory)? {
                known.insert(log, index);
                if let Some(state) = recover::recover(directory, log, &catalogue, config.requests_max)? {
                    recovered.push(state);
                }
            }
        }
        recovered.sort_by_key(|log| log.log);
        let homes = Arc::new(Homes { directories: config.directories.clone(), known: Mutex::new(known) });
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let mut queues = Vec::new();
        let mut threads = Vec::new();
        for (index, directory) in config.directories.iter().enumerate() {
            let spares = Spares::start(directory.clone(), config.segment_bytes, config.spares)?;
            let (queue, jobs) = mpsc::channel();
            let here = |log: &&RecoveredLog| homes.index(log.log) == index;
            let writer = Writer::new(
                directory.clone(),
                config.requests_max,
                catalogue.clone(),
                spares,
                recovered.iter().filter(here),
                on_event.clone(),
                queued_bytes.clone(),
            );
            let name = format!("store-{index}");
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn(move || writer.run(&jobs))
                .map_err(|reason| StoreError::Directory { path: directory.clone(), reason })?;
            queues.push(queue);
            threads.push(thread);
        }
        let reader = Reader::new(homes.clone());
        let store = Self { config, catalogue, reader, queues, queued_bytes, homes, threads, _locks: locks };
        Ok((store, recovered))
    }

    /// Queues a record for the disk.
    ///
    /// # Errors
    /// The queue is full. Callers that hold byte credits below the queue's limit never see it.
    pub fn append(&self, request: WriteRequest) -> Result<(), StoreError> {
        let bytes = request.record.header.record_bytes();
        let max = self.config.queue_bytes_max;
        if self.queued_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes > max {
            self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
            return Err(StoreError::Busy(max));
        }
        let index = self.homes.index(request.record.header.log);
        self.queues[index].send(Job::Write(request)).map_err(|_| StoreError::Busy(max))
    }

    /// Reads the record at an address.
    ///
    /// # Errors
    /// No record starts there, or it is damaged.
    pub fn read(&self, log: LogId, address: LogAddress) -> Result<Record, StoreError> {
        self.reader.read(log, address)
    }

    /// Reads records in log order from an address on, up to `bytes_max` bytes but at least one record.
    /// Empty at the end of the log.
    ///
    /// # Errors
    /// A record is damaged, or a file cannot be read.
    pub fn read_from(
        &self,
        log: LogId,
        address: LogAddress,
        bytes_max: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.reader.read_from(log, address, bytes_max)
    }

    /// Bytes that wait for the disk.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Acquire)
    }

    /// The site's durable facts.
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for queue in &self.queues {
            // A writer that has ended has written everything.
            let _ = queue.send(Job::Stop);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

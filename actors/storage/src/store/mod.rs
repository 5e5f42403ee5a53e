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
//! <directory>/cut/<log>-<number>/        what was cut off a mirror's log, kept for people
//! <first directory>/catalogue/           RocksDB: checkpoints, durable counts, the site's epoch
//! <first directory>/promotion            what the site's promotion found, see [`crate::finding`]
//! ```
//!
//! A synced write into blocks that were written before costs about half of one that appends or that fills
//! preallocated blocks, because the file system has nothing to journal; hence the spare files of zeros. They, and
//! the records of segments made from them, go past the page cache where the file system has direct writes.

mod cut;
mod files;
mod homes;
mod lock;
mod reader;
mod recover;
mod segment_file;
mod spares;
mod writer;

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use parhelion_log::{ActiveMap, KnownRequest, Record, Tail};
use parhelion_mirror::Backlog;
use parhelion_types::{Degrade, LogAddress, LogId, RequestId, SourceTime};

use crate::catalogue::{Catalogue, CatalogueError};
pub(crate) use files::sync_directory;
use homes::Homes;
use reader::Reader;
use spares::Spares;
use writer::{Job, Shared, Writer};

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
    /// A batch left the queue and nothing of it was written, because its logs had failed: there is room again.
    Discarded,
    /// The log was cut back ([`Store::rewind`]), durably.
    Rewound {
        /// The log.
        log: LogId,
        /// Number of its next record.
        number: u64,
        /// Which appends are freed now.
        active: ActiveMap,
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
    /// Its newest requests.
    pub requests: Vec<KnownRequest>,
    /// When its newest record was accepted; zero where recovery looked at none.
    pub newest: SourceTime,
    /// Bytes of a record that was being written when the node died, and was never acknowledged.
    pub torn: bool,
    /// What is wrong with it. It takes no records then: `tail` is where its whole part ends, and what can be
    /// read behind that lies before `readable_end`. Nothing of its files was changed.
    pub damage: Option<Damage>,
    /// Address behind the last record that can be read; the tail's, unless the log is damaged.
    pub readable_end: LogAddress,
}

/// Stored bytes that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "log {log} is damaged at {address}, in {}: {reason}; restore it from the other site: with this node stopped, \
     put that site's file of the same name in its place. Or, at a primary, promote the other site",
    path.display()
)]
pub struct Damage {
    /// The log.
    pub log: LogId,
    /// Where.
    pub address: LogAddress,
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: String,
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
    #[error(transparent)]
    Corrupt(Damage),
    /// Durable logs are in none of the data directories, and one of those is empty.
    #[error(
        "log {log} had {count} durable records and no data directory has it, and {} holds no log at all; is a disk \
         not mounted there?",
        path.display()
    )]
    NotMounted {
        /// One of the logs.
        log: LogId,
        /// How many records of it were durable at least.
        count: u64,
        /// The directory that is empty.
        path: PathBuf,
    },
    /// Two data directories have the same log.
    #[error("log {log} is in {} and in {}; remove the copy that is not right", paths[0].display(), paths[1].display())]
    Twice {
        /// The log.
        log: LogId,
        /// Both directories.
        paths: Box<[PathBuf; 2]>,
    },
    /// There is no such log.
    #[error("log {0} does not exist at this site; `parhelion log list` shows those that do")]
    NoLog(LogId),
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

impl StoreError {
    /// Whether the same request may succeed later with nothing done about it, or after an operator has mended the
    /// disk: a file that could not be opened or read, a full queue. Damage stays, and so does a record that is not
    /// there.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::File { .. } | Self::Directory { .. } | Self::Busy(_) | Self::Catalogue(_) => true,
            Self::Corrupt(_)
            | Self::NoLog(_)
            | Self::NoRecord { .. }
            | Self::Locked(_)
            | Self::NotMounted { .. }
            | Self::Twice { .. } => false,
        }
    }
}

/// Segments of a node's logs. Dropping it writes what is queued, syncs, and joins the writers.
#[derive(Debug)]
pub struct Store {
    home: PathBuf,
    catalogue: Arc<Catalogue>,
    reader: Arc<Reader>,
    queues: Vec<mpsc::Sender<Job>>,
    queued_bytes: Arc<AtomicUsize>,
    queue_bytes_max: usize,
    homes: Arc<Homes>,
    threads: Vec<JoinHandle<()>>,
    _locks: Vec<lock::DirectoryLock>,
}

impl Store {
    /// Locks the directories, recovers every log, and starts the writers.
    ///
    /// # Errors
    /// A directory is locked, unusable or not mounted. A damaged log is none: it is found as such, and all
    /// others are served.
    pub fn open(config: StoreConfig, on_event: OnEvent) -> Result<(Self, Vec<RecoveredLog>), StoreError> {
        let Some(first) = config.directories.first() else {
            let reason = io::Error::new(io::ErrorKind::InvalidInput, "no data directory is configured");
            return Err(StoreError::Directory { path: PathBuf::new(), reason });
        };
        let mut locks = Vec::new();
        for directory in &config.directories {
            locks.push(lock::DirectoryLock::take(directory)?);
        }
        let catalogue = Arc::new(Catalogue::open(&first.join("catalogue"))?);
        sync_directory(first).map_err(|reason| StoreError::Directory { path: first.clone(), reason })?;
        let (found, recovered) = Self::recover(&config, &catalogue)?;
        let homes = Arc::new(Homes::new(config.directories.clone(), found, &recovered));
        let reader = Arc::new(Reader::new(homes.clone()));
        let shared = Shared {
            catalogue: catalogue.clone(),
            homes: homes.clone(),
            reader: reader.clone(),
            queued_bytes: Arc::new(AtomicUsize::new(0)),
            requests_max: config.requests_max,
            on_event,
        };
        let mut store = Self {
            home: first.clone(),
            catalogue,
            reader,
            queued_bytes: shared.queued_bytes.clone(),
            queue_bytes_max: config.queue_bytes_max,
            queues: Vec::new(),
            homes,
            threads: Vec::new(),
            _locks: locks,
        };
        for (index, directory) in config.directories.iter().enumerate() {
            let spares = Spares::start(directory, config.segment_bytes, config.spares)?;
            let here = recovered.iter().filter(|log| store.homes.index(log.log) == index);
            let writer = Writer::new(directory.clone(), spares, here, shared.clone());
            let (queue, jobs) = mpsc::channel();
            let thread = std::thread::Builder::new()
                .name(format!("store-{index}"))
                .spawn(move || run(writer, &jobs))
                .map_err(|reason| StoreError::Directory { path: directory.clone(), reason })?;
            store.queues.push(queue);
            store.threads.push(thread);
        }
        Ok((store, recovered))
    }

    /// Where each log was found, and its state; the catalogue is brought up to date.
    fn recover(
        config: &StoreConfig,
        catalogue: &Catalogue,
    ) -> Result<(HashMap<LogId, usize>, Vec<RecoveredLog>), StoreError> {
        let mut found = HashMap::new();
        let mut recovered = Vec::new();
        for (index, directory) in config.directories.iter().enumerate() {
            for log in recover::logs_in(directory)? {
                let Some(state) = recover::recover(directory, log, catalogue, config.requests_max)? else {
                    continue;
                };
                if let Some(other) = found.insert(log, index) {
                    let path = |index: usize| files::log_directory(&config.directories[index], log);
                    return Err(StoreError::Twice { log, paths: Box::new([path(other), path(index)]) });
                }
                recovered.push(state);
            }
        }
        let lost = catalogue.durable_logs()?.into_iter().filter(|(log, _)| !found.contains_key(log));
        let lost: Vec<(LogId, u64)> = lost.collect();
        let is_unused = |index: &usize| !found.values().any(|at| at == index);
        let unused: Vec<usize> = (0..config.directories.len()).filter(is_unused).collect();
        for (log, count) in lost {
            let index = log.0 as usize % config.directories.len();
            // A directory that is not mounted must not look like a site without those logs. The log's own one is
            // named where it is empty; it may lie elsewhere, if directories were added since.
            if let Some(first) = unused.first() {
                let empty = if unused.contains(&index) { &index } else { first };
                let path = config.directories[*empty].clone();
                return Err(StoreError::NotMounted { log, count, path });
            }
            found.insert(log, index);
            recovered.push(recover::lost(&config.directories[index], log, count));
        }
        recovered.sort_by_key(|log| log.log);
        // What is known of a damaged log must not be forgotten: its loss would pass for a torn write.
        let whole = recovered.iter().filter(|log| log.damage.is_none());
        catalogue.put_durable(whole.map(|log| (log.log, log.tail.next_number())))?;
        Ok((found, recovered))
    }

    /// Queues a record for the disk.
    ///
    /// # Errors
    /// The queue is full. A log whose record was refused fails with its next record, unless the refused one is queued
    /// again before it.
    pub fn append(&self, request: WriteRequest) -> Result<(), StoreError> {
        match self.offer(request) {
            None => Ok(()),
            Some(_) => Err(StoreError::Busy(self.queue_bytes_max)),
        }
    }

    /// Queues a record for the disk, or gives it back if the queue is full. An empty queue takes a record of any size.
    pub(crate) fn offer(&self, request: WriteRequest) -> Option<WriteRequest> {
        let bytes = request.record.header.stored_bytes() as usize;
        let before = self.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        if before > 0 && before.saturating_add(bytes) > self.queue_bytes_max {
            self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
            return Some(request);
        }
        let index = self.homes.index(request.record.header.log);
        let sent = self.queues[index].send(Job::Write(request));
        let Err(mpsc::SendError(Job::Write(request))) = sent else { return None };
        // The writer has ended, and with it the process.
        self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        Some(request)
    }

    /// Cuts a log back to `tail`, in order with the writes. What is cut off is kept aside in the
    /// directory's `cut`; [`StoreEvent::Rewound`] tells when it is done.
    ///
    /// # Errors
    /// The writer has ended.
    pub fn rewind(&self, log: LogId, tail: Tail) -> Result<(), StoreError> {
        let index = self.homes.index(log);
        let busy = |_| StoreError::Busy(self.queue_bytes_max);
        self.queues[index].send(Job::Rewind { log, tail }).map_err(busy)
    }

    /// Reads the record at an address.
    ///
    /// # Errors
    /// No durable record starts there, or it is damaged.
    pub fn read(&self, log: LogId, address: LogAddress) -> Result<Record, StoreError> {
        self.reader.read(log, address)
    }

    /// Reads durable records in log order from an address on, up to `bytes_max` bytes (8 KiB at least) and
    /// at least one record. Empty at the end of the log. The records keep at most twice their size in memory, and what is
    /// read in vain is less than one record in each segment.
    ///
    /// # Errors
    /// A record is damaged, none starts at the address, or a file cannot be read ([`StoreError::is_transient`]).
    pub fn read_from(
        &self,
        log: LogId,
        address: LogAddress,
        bytes_max: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.reader.read_from(log, address, bytes_max)
    }

    /// As [`Store::read_from`], but for the limit: a first record that alone has more than `bytes_max` bytes is not read,
    /// only its size is told.
    #[must_use]
    pub fn read_backlog(&self, log: LogId, address: LogAddress, bytes_max: usize) -> Backlog {
        self.reader.read_backlog(log, address, bytes_max).unwrap_or_else(|error| match error.is_transient() {
            true => Backlog::Unavailable(error.to_string()),
            false => Backlog::Damaged(error.to_string()),
        })
    }

    /// Bytes that wait for the disk.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Acquire)
    }

    /// The first data directory, which also has what is not about one log.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
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
            // Refused only by a writer that has ended, and that one has written everything.
            let _ = queue.send(Job::Stop);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A writer's thread. Appends wait for it, so its panic ends the process: a restart finds every record that
/// was acknowledged, and a process that lived on would keep its clients waiting for ever.
fn run(writer: Writer, jobs: &mpsc::Receiver<Job>) {
    if catch_unwind(AssertUnwindSafe(|| writer.run(jobs))).is_err() {
        tracing::error!("a writer of the store panicked; ending the process, a restart recovers every log");
        std::process::abort();
    }
}

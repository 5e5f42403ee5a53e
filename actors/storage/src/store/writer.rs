//! The writer's thread: one batch, one sync per file, one report.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use parhelion_log::{ActiveMap, Record, SegmentHeader, Tail};
use parhelion_types::LogId;

use super::cut::cut;
use super::files::{OpenFiles, create_segment, segment_path};
use super::homes::Homes;
use super::reader::Reader;
use super::recover::recover;
use super::segment_file::{SegmentFile, Staging};
use super::spares::Spares;
use super::{Durable, OnEvent, RecoveredLog, StoreError, StoreEvent, WriteRequest};
use crate::catalogue::{Catalogue, Checkpoint};

/// Bytes at which a batch is full: enough to amortise a sync, few enough that the first of them is not
/// kept waiting.
pub(crate) const BATCH_BYTES_MAX: usize = 8 << 20;

#[derive(Debug)]
pub(crate) enum Job {
    Write(WriteRequest),
    Rewind { log: LogId, tail: Tail },
    Stop,
}

/// What the writers of a store share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub catalogue: Arc<Catalogue>,
    pub homes: Arc<Homes>,
    pub reader: Arc<Reader>,
    pub queued_bytes: Arc<AtomicUsize>,
    pub requests_max: usize,
    pub on_event: OnEvent,
}

pub(crate) struct Writer {
    directory: PathBuf,
    spares: Spares,
    shared: Shared,
    logs: HashMap<LogId, Log>,
    files: OpenFiles,
    staging: Staging,
    failed: HashSet<LogId>,
}

struct Log {
    /// Where the next record must be. Checked here again, because a record that the queue refused would
    /// leave a hole, and what follows a hole is lost.
    tail: Tail,
    /// State at the end of what was written, to be the next segment's checkpoint.
    state: Checkpoint,
    /// Checkpoint of a segment that has no durable record yet.
    checkpoint: Option<Vec<u8>>,
}

impl Writer {
    pub fn new<'a>(
        directory: PathBuf,
        spares: Spares,
        logs: impl Iterator<Item = &'a RecoveredLog>,
        shared: Shared,
    ) -> Self {
        let (damaged, whole): (Vec<_>, Vec<_>) = logs.partition(|log| log.damage.is_some());
        let failed = damaged.iter().map(|log| log.log).collect();
        let logs = whole
            .into_iter()
            .map(|log| (log.log, Log { tail: log.tail, state: Checkpoint::of(log), checkpoint: None }))
            .collect();
        let (files, staging) = (OpenFiles::default(), Staging::default());
        Self { directory, spares, shared, logs, files, staging, failed }
    }

    /// Writes until told to stop, or until nobody can queue any more.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        let mut batch = Vec::new();
        while let Ok(job) = jobs.recv() {
            let mut bytes = 0;
            let mut stop = false;
            let mut rewind = None;
            let mut next = Some(job);
            while let Some(job) = next {
                match job {
                    Job::Write(request) => {
                        bytes += request.record.header.stored_bytes() as usize;
                        batch.push(request);
                    }
                    Job::Rewind { log, tail } => rewind = Some((log, tail)),
                    Job::Stop => stop = true,
                }
                next = if bytes < BATCH_BYTES_MAX && !stop && rewind.is_none() {
                    jobs.try_recv().ok()
                } else {
                    None
                };
            }
            if !batch.is_empty() {
                self.commit(&mut batch, bytes);
            }
            if let Some((log, tail)) = rewind {
                self.rewind(log, tail);
            }
            if stop {
                return;
            }
        }
    }

    fn rewind(&mut self, log: LogId, tail: Tail) {
        let event = match self.cut(log, tail) {
            Ok(active) => StoreEvent::Rewound { log, number: tail.next_number(), active },
            Err(error) => {
                self.fail(log);
                StoreEvent::Failed { log, reason: format!("it could not be cut back: {error}") }
            }
        };
        (self.shared.on_event)(event);
    }

    /// Cuts a log back, and finds its state there as a restart would: which of its appends are freed.
    fn cut(&mut self, id: LogId, tail: Tail) -> Result<ActiveMap, StoreError> {
        let refused = |reason: &str| {
            let path = segment_path(&self.directory, id, tail.next_address().segment);
            Err(StoreError::File { path, reason: io::Error::other(reason.to_owned()) })
        };
        let Some(log) = self.logs.get(&id) else {
            return refused("the log is unknown, or a write to it failed");
        };
        if tail.next_number() >= log.tail.next_number() {
            return match tail.next_number() == log.tail.next_number() && tail.chain() == log.tail.chain() {
                true => Ok(log.state.active.clone()),
                false => refused("the log ends before the cut"),
            };
        }
        self.files.close(id);
        self.logs.remove(&id);
        self.shared.homes.cut(id, tail.next_address());
        let Shared { catalogue, requests_max, .. } = &self.shared;
        cut(&self.directory, id, tail, catalogue)?;
        self.shared.reader.forget(id);
        let Some(found) = recover(&self.directory, id, catalogue, *requests_max)? else {
            return Ok(ActiveMap::default());
        };
        if let Some(damage) = found.damage {
            return Err(StoreError::Corrupt(damage));
        }
        self.logs.insert(id, Log { tail, state: Checkpoint::of(&found), checkpoint: None });
        Ok(found.active)
    }

    /// Takes no more writes of the log.
    fn fail(&mut self, log: LogId) {
        self.failed.insert(log);
        self.files.close(log);
        self.logs.remove(&log);
    }

    fn commit(&mut self, batch: &mut Vec<WriteRequest>, queued_bytes: usize) {
        // Records of one log stay in order; logs take turns in the order of their numbers.
        batch.sort_by_key(|request| request.record.header.log);
        let mut durable = Vec::new();
        let (mut records, mut bytes, mut sync) = (0, 0, Duration::ZERO);
        for run in batch.chunk_by(|a, b| a.record.header.log == b.record.header.log) {
            let log = run[0].record.header.log;
            if self.failed.contains(&log) {
                continue;
            }
            match self.write_log(log, run, &mut sync) {
                Ok(last) => {
                    durable.push(last);
                    records += run.len();
                    bytes += run.iter().map(|request| request.record.header.record_bytes()).sum::<usize>();
                }
                Err(error) => {
                    self.fail(log);
                    (self.shared.on_event)(StoreEvent::Failed { log, reason: error.to_string() });
                }
            }
        }
        batch.clear();
        // Before the report, so that whoever hears of it finds room in the queue.
        self.shared.queued_bytes.fetch_sub(queued_bytes, Ordering::AcqRel);
        if durable.is_empty() {
            return (self.shared.on_event)(StoreEvent::Discarded);
        }
        let counts = durable.iter().map(|last| (last.log, last.number + 1));
        if let Err(error) = self.shared.catalogue.put_durable(counts) {
            tracing::warn!(%error, "no durable counts; the next start may take damage for a torn write");
        }
        self.shared.homes.extend(&durable);
        (self.shared.on_event)(StoreEvent::Durable { logs: durable, records, bytes, sync });
    }

    /// Writes and syncs one log's share of a batch.
    fn write_log(&mut self, id: LogId, run: &[WriteRequest], sync: &mut Duration) -> io::Result<Durable> {
        let mut from = 0;
        for (at, request) in run.iter().enumerate() {
            let log = self.logs.entry(id).or_insert_with(|| Log {
                tail: Tail::new(id),
                state: Checkpoint::start(),
                checkpoint: None,
            });
            let opens = log.tail.accept(&request.record.header).map_err(io::Error::other)?;
            if opens != request.opens_segment {
                return Err(io::Error::other("the record's place and its request disagree"));
            }
            if opens {
                self.write_run(id, &run[from..at], sync)?;
                self.open_segment(id, &request.record)?;
                from = at;
            }
        }
        self.write_run(id, &run[from..], sync)?;
        let header = &run[run.len() - 1].record.header;
        Ok(Durable { log: id, number: header.number, end: header.next_address() })
    }

    /// Writes adjacent records of one segment with as few calls as possible, and syncs the file.
    fn write_run(&mut self, id: LogId, run: &[WriteRequest], sync: &mut Duration) -> io::Result<()> {
        let Some(first) = run.first() else { return Ok(()) };
        if self.files.get(id).is_none() {
            let path = segment_path(&self.directory, id, first.record.header.address.segment);
            self.files.put(id, SegmentFile::open(&path)?);
        }
        let never_begun = || io::Error::other("the log was never begun");
        let file = self.files.get(id).ok_or_else(never_begun)?;
        let log = self.logs.get_mut(&id).ok_or_else(never_begun)?;
        let records: Vec<_> = run.iter().map(|request| request.record.bytes()).collect();
        file.write(&records, first.record.header.address.offset, &mut self.staging)?;
        for request in run {
            log.state.note(&request.record, self.shared.requests_max);
        }
        let start = Instant::now();
        file.sync()?;
        *sync += start.elapsed();
        if let Some(checkpoint) = log.checkpoint.take()
            && let Err(error) = self.shared.catalogue.put_checkpoint(id, &checkpoint)
        {
            tracing::warn!(log = %id, %error, "no checkpoint; the next start will scan more");
        }
        Ok(())
    }

    fn open_segment(&mut self, id: LogId, first: &Record) -> io::Result<()> {
        let header = &first.header;
        let segment = SegmentHeader {
            log: id,
            segment: header.address.segment,
            first_number: header.number,
            chain: header.previous,
        };
        if header.number == 0
            && let Err(error) = self.shared.catalogue.begin_log(id)
        {
            tracing::warn!(log = %id, %error, "the catalogue does not know a new log");
        }
        let file = create_segment(&self.directory, &self.spares, &segment)?;
        self.files.put(id, file);
        if let Some(log) = self.logs.get_mut(&id) {
            log.state.begin_segment(&segment);
            log.checkpoint = Some(log.state.to_bytes());
        }
        Ok(())
    }
}

//! The writer's thread: one batch, one sync per file, one report.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use parhelion_log::{Record, SegmentHeader};
use parhelion_types::{LogAddress, LogId};

use super::files::{Spares, segment_path};
use super::{Durable, OnEvent, RecoveredLog, StoreEvent, WriteRequest};
use crate::catalogue::{Catalogue, Checkpoint};

/// Bytes of one batch: enough to amortise a sync, few enough that the first of them is not kept waiting.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Slices of one write; the kernel takes no more than 1024.
const SLICES_MAX: usize = 1024;

const PADDING: [u8; 8] = [0; 8];

#[derive(Debug)]
pub(crate) enum Job {
    Write(WriteRequest),
    Stop,
}

pub(crate) struct Writer {
    directory: PathBuf,
    requests_max: usize,
    catalogue: Arc<Catalogue>,
    spares: Spares,
    logs: HashMap<LogId, Log>,
    failed: HashSet<LogId>,
    on_event: OnEvent,
    queued_bytes: Arc<AtomicUsize>,
}

struct Log {
    file: Option<File>,
    /// State at the end of what was written, to be the next segment's checkpoint.
    state: Checkpoint,
}

impl Writer {
    pub fn new<'a>(
        directory: PathBuf,
        requests_max: usize,
        catalogue: Arc<Catalogue>,
        spares: Spares,
        logs: impl Iterator<Item = &'a RecoveredLog>,
        on_event: OnEvent,
        queued_bytes: Arc<AtomicUsize>,
    ) -> Self {
        let logs = logs.map(|log| (log.log, Log { file: None, state: Checkpoint::of(log) })).collect();
        let failed = HashSet::new();
        Self { directory, requests_max, catalogue, spares, logs, failed, on_event, queued_bytes }
    }

    /// Writes until told to stop, or until nobody can queue any more.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        let mut batch = Vec::new();
        while let Ok(job) = jobs.recv() {
            let mut bytes = 0;
            let mut stop = false;
            let mut next = Some(job);
            while let Some(job) = next {
                match job {
                    Job::Write(request) => {
                        bytes += request.record.header.record_bytes();
                        batch.push(request);
                    }
                    Job::Stop => stop = true,
                }
                next = if bytes < BATCH_BYTES_MAX && !stop { jobs.try_recv().ok() } else { None };
            }
            if !batch.is_empty() {
                self.commit(&mut batch, bytes);
                self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
            }
            if stop {
                return;
            }
        }
    }

    fn commit(&mut self, batch: &mut Vec<WriteRequest>, bytes: usize) {
        let records = batch.len();
        // Records of one log stay in order; logs take turns in the order of their first record.
        batch.sort_by_key(|request| request.record.header.log);
        let mut durable = Vec::new();
        let mut sync = Duration::ZERO;
        for run in batch.chunk_by(|a, b| a.record.header.log == b.record.header.log) {
            let log = run[0].record.header.log;
            if self.failed.contains(&log) {
                continue;
            }
            match self.write_log(log, run, &mut sync) {
                Ok(last) => durable.push(last),
                Err(error) => {
                    self.failed.insert(log);
                    (self.on_event)(StoreEvent::Failed { log, reason: error.to_string() });
                }
            }
        }
        batch.clear();
        if !durable.is_empty() {
            (self.on_event)(StoreEvent::Durable { logs: durable, records, bytes, sync });
        }
    }

    /// Writes and syncs one log's share of a batch.
    fn write_log(&mut self, id: LogId, run: &[WriteRequest], sync: &mut Duration) -> io::Result<Durable> {
        let mut from = 0;
        for at in 0..run.len() {
            if run[at].opens_segment {
                self.write_run(id, &run[from..at], sync)?;
                self.open_segment(id, &run[at].record)?;
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
        let log = self.logs.get_mut(&id).ok_or_else(|| io::Error::other("the log was never begun"))?;
        let file = match &mut log.file {
            Some(file) => file,
            none => {
                let path = segment_path(&self.directory, id, first.record.header.address.segment);
                none.insert(File::options().read(true).write(true).open(path)?)
            }
        };
        for piece in run.chunks(SLICES_MAX / 2) {
            let bytes: Vec<_> = piece.iter().map(|request| request.record.bytes()).collect();
            let mut slices = Vec::with_capacity(bytes.len() * 2);
            for bytes in &bytes {
                slices.push(IoSlice::new(bytes));
                slices.push(IoSlice::new(&PADDING[..bytes.len().next_multiple_of(8) - bytes.len()]));
            }
            write_all_vectored_at(file, &mut slices, piece[0].record.header.address)?;
            for request in piece {
                log.state.note(&request.record, self.requests_max);
            }
        }
        let start = Instant::now();
        file.sync_data()?;
        *sync += start.elapsed();
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
        let file = self.spares.open_segment(&self.directory, &segment)?;
        let requests_max = self.requests_max;
        let log = self
            .logs
            .entry(id)
            .or_insert_with(|| Log { file: None, state: Checkpoint::start(id, requests_max) });
        log.file = Some(file);
        log.state.begin_segment(&segment);
        if let Err(error) = self.catalogue.put_checkpoint(id, &log.state) {
            tracing::warn!(log = %id, %error, "no checkpoint; the next start will scan more");
        }
        Ok(())
    }
}

/// Writes all slices from `address` on, however often the kernel takes only a part.
fn write_all_vectored_at(file: &File, slices: &mut [IoSlice<'_>], address: LogAddress) -> io::Result<()> {
    let mut slices = slices;
    let mut offset = u64::from(address.offset);
    while !slices.is_empty() {
        match rustix::io::pwritev(file.as_fd(), slices, offset) {
            Ok(0) => {
                if slices.iter().all(|slice| slice.is_empty()) {
                    return Ok(());
                }
                return Err(io::ErrorKind::WriteZero.into());
            }
            Ok(count) => {
                offset += count as u64;
                IoSlice::advance_slices(&mut slices, count);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

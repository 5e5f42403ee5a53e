//! Finding the end of every log again.
//!
//! A checkpoint in the catalogue says how a segment began: number, chain, epoch, freed appends, requests.
//! From there every record is read and checked; without one, the scan starts at the log's first record.
//!
//! What a crash can leave is dropped: a last segment without any record, and behind the last whole record
//! the remains of one batch that was never synced. Everything else that is not as it should be is damage:
//! a segment that is missing, a sealed one that does not end where the next begins, a record that is broken
//! although the catalogue knows that it was durable, or although more follows it than one batch holds.
//!
//! A damaged log is found as such, with its files as they are: it takes no records, what can be read of it is
//! read, and the node serves all others.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parhelion_log::{CreatePayload, Record, RecordHeader, RecordKind, Scan, ScanEnd, SegmentHeader, Tail};
use parhelion_types::limits::APPEND_BYTES_MAX;
use parhelion_types::{Degrade, LogAddress, LogId, RequestId, SegmentId, SourceTime};
use rustix::io::Errno;

use super::files::{log_directory, segment_path, segments_of, sync_directory};
use super::writer::BATCH_BYTES_MAX;
use super::{Damage, RecoveredLog, StoreError};
use crate::catalogue::{Catalogue, Checkpoint};

/// Most bytes that one batch writes to a segment: the record that fills it may be the largest.
const TORN_BYTES_MAX: usize = BATCH_BYTES_MAX + APPEND_BYTES_MAX + 4096;

/// Logs that have a directory here.
pub(crate) fn logs_in(directory: &Path) -> Result<Vec<LogId>, StoreError> {
    let path = directory.join("logs");
    let unusable = |reason| StoreError::Directory { path: path.clone(), reason };
    super::files::create_directory(&path).map_err(unusable)?;
    let mut logs = Vec::new();
    for entry in fs::read_dir(&path).map_err(unusable)? {
        let name = entry.map_err(unusable)?.file_name();
        let Some(name) = name.to_str() else { continue };
        logs.extend(name.parse::<LogId>().ok().filter(|log| log.to_string() == name));
    }
    logs.sort_unstable();
    Ok(logs)
}

/// Recovers one log; none where not even its creation is whole, which nobody was told of.
///
/// What it returns is durable: a process that was killed may have written records without a sync.
pub(crate) fn recover(
    directory: &Path,
    log: LogId,
    catalogue: &Catalogue,
    requests_max: usize,
) -> Result<Option<RecoveredLog>, StoreError> {
    let checkpoint = catalogue.checkpoint(log)?;
    let known = catalogue.durable(log)?;
    // A checkpoint is written when its segment has a durable record.
    let begun = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.number.saturating_add(1));
    let recovery =
        Recovery { directory, log, durable: known.unwrap_or(0).max(begun), known: known.is_some() };
    let mut progress = Progress::new(log, checkpoint.clone().unwrap_or_else(Checkpoint::start));
    match recovery.run(checkpoint, requests_max, &mut progress) {
        Ok(Some(torn)) => Ok(Some(progress.finish(log, torn))),
        Ok(None) => Ok(None),
        Err(StoreError::Corrupt(damage)) => Ok(Some(recovery.salvage(progress, damage, requests_max))),
        // A disk that has lost sectors has not lost all of its logs.
        Err(StoreError::File { path, reason }) if reason.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
            let address = progress.tail.next_address();
            let damage = Damage { log, address, path, reason: reason.to_string() };
            Ok(Some(recovery.salvage(progress, damage, requests_max)))
        }
        Err(error) => Err(error),
    }
}

/// A log that the catalogue knows and that has no files any more.
pub(crate) fn lost(directory: &Path, log: LogId, count: u64) -> RecoveredLog {
    let reason = format!("{count} records were durable and the log has no files in any data directory");
    let damage = Damage { log, address: Tail::first_address(), path: log_directory(directory, log), reason };
    let progress = Progress::new(log, Checkpoint::start());
    RecoveredLog { damage: Some(damage), ..progress.finish(log, false) }
}

/// What recovery has found so far: all of the log, or its whole part.
struct Progress {
    creation: Option<(CreatePayload, RequestId)>,
    state: Checkpoint,
    tail: Tail,
    newest: SourceTime,
}

impl Progress {
    fn new(log: LogId, state: Checkpoint) -> Self {
        Self { creation: None, tail: state.tail(log), state, newest: SourceTime::default() }
    }

    fn note(&mut self, record: &Record, requests_max: usize) {
        self.state.note(record, requests_max);
        self.newest = self.newest.max(record.header.time);
    }

    fn finish(self, log: LogId, torn: bool) -> RecoveredLog {
        let Self { creation, state, tail, newest } = self;
        let (name, degrade, created_by) = match creation {
            Some((create, request)) => (create.name, create.degrade, request),
            None => (String::new(), Degrade::default(), RequestId::NONE),
        };
        RecoveredLog {
            log,
            name,
            degrade,
            created_by,
            tail,
            active: state.active,
            requests: state.requests.into_iter().collect(),
            newest,
            torn,
            damage: None,
            readable_end: tail.next_address(),
        }
    }
}

/// One log's recovery.
struct Recovery<'a> {
    directory: &'a Path,
    log: LogId,
    /// Records that were durable, as far as the catalogue knows.
    durable: u64,
    /// Whether the catalogue knows the log. Where it does not, no damage is taken for a torn write.
    known: bool,
}

impl Recovery<'_> {
    /// Finds the log's end; whether a torn batch lay behind it. None where there is no log.
    fn run(
        &self,
        checkpoint: Option<Checkpoint>,
        requests_max: usize,
        progress: &mut Progress,
    ) -> Result<Option<bool>, StoreError> {
        let mut segments = segments_of(self.directory, self.log)?;
        for (number, &segment) in (0..).map(SegmentId).zip(&segments) {
            if segment != number {
                return Err(self.corrupt(start_of(number), "the segment is missing".to_owned()));
            }
        }
        let unbegun = self.unbegun(&segments)?;
        segments.truncate(unbegun.map_or(segments.len(), |segment| segment.0 as usize));
        let Some(&last) = segments.last() else {
            return match (self.durable, unbegun) {
                (0, None) => Ok(None),
                (0, Some(segment)) => self.remove(segment).map(|()| None),
                _ => Err(self.corrupt(start_of(SegmentId(0)), self.lost(0))),
            };
        };
        let Some(creation) = self.creation(last)? else { return Ok(None) };
        progress.creation = Some(creation);
        let start = self.start(checkpoint, last)?;
        (progress.tail, progress.state) = (start.tail(self.log), start);
        let requests = &mut progress.state.requests;
        requests.drain(..requests.len().saturating_sub(requests_max));
        let mut torn = unbegun.is_some();
        for segment in (progress.state.segment.0..=last.0).map(SegmentId) {
            let before = progress.tail;
            let tail = if segment == before.next_address().segment { before } else { before.opened(segment) };
            let bytes = self.read(segment)?;
            let mut scan = Scan::new(bytes.clone(), tail);
            for (record, _) in scan.by_ref() {
                progress.note(&record, requests_max);
            }
            progress.tail = scan.tail();
            if segment < last {
                self.sealed(&scan, segment.next())?;
                continue;
            }
            torn |= self.settle(&scan, &bytes)?;
            if progress.tail.next_number() == before.next_number() && before.next_address().segment < segment
            {
                // Its first batch was never synced: the log ends in the segment before.
                self.remove(segment)?;
                progress.tail = before;
            }
        }
        if let Some(segment) = unbegun {
            self.remove(segment)?;
        }
        self.sync(progress.tail.next_address().segment)?;
        Ok(Some(torn))
    }

    /// A damaged log, as much of it as is there. Records behind the damage are read, never continued: the
    /// chain to them is broken.
    fn salvage(&self, mut progress: Progress, damage: Damage, requests_max: usize) -> RecoveredLog {
        let log = self.log;
        let segments = segments_of(self.directory, log).unwrap_or_default();
        let end = progress.tail.next_address();
        // A checkpoint counts the records of earlier segments without looking at them.
        if !(0..end.segment.0).all(|segment| segments.contains(&SegmentId(segment))) {
            let epoch = progress.tail.epoch();
            progress.tail = Tail::new(log);
            progress.tail.promote(epoch);
        }
        let mut readable_end = progress.tail.next_address();
        for segment in segments.into_iter().filter(|&segment| segment >= end.segment) {
            // What cannot be read at all is not salvaged.
            let Ok(bytes) = self.read(segment) else { continue };
            let first = if segment == end.segment { end } else { Tail::first_address() };
            let mut at = first.offset as usize;
            while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
                let here = LogAddress { segment, offset: u32::try_from(at).unwrap_or(u32::MAX) };
                let header = RecordHeader::parse(rest).ok();
                let Some(header) = header.filter(|header| (header.log, header.address) == (log, here)) else {
                    at += 8;
                    continue;
                };
                let record = bytes
                    .get(at..at + header.record_bytes())
                    .map(|_| bytes.slice(at..at + header.record_bytes()));
                if let Some(Ok(record)) = record.map(Record::parse) {
                    progress.note(&record, requests_max);
                    // The epoch fences others, whatever became of the records before.
                    progress.tail.promote(header.epoch);
                }
                readable_end = readable_end.max(header.next_address());
                at = header.next_address().offset as usize;
            }
        }
        RecoveredLog { damage: Some(damage), readable_end, ..progress.finish(log, false) }
    }

    /// The last segment, where it was being created when the node died: it holds no record, and the log
    /// ends in the one before it.
    fn unbegun(&self, segments: &[SegmentId]) -> Result<Option<SegmentId>, StoreError> {
        let Some(&last) = segments.last() else { return Ok(None) };
        let bytes = self.read(last)?;
        match SegmentHeader::parse(&bytes) {
            Ok(_) => Ok(None),
            // The header is durable before the first record is written.
            Err(error) if holds_record(&bytes) => Err(self.corrupt(start_of(last), error.to_string())),
            Err(_) => Ok(Some(last)),
        }
    }

    fn remove(&self, segment: SegmentId) -> Result<(), StoreError> {
        let path = self.path(segment);
        fs::remove_file(&path)
            .and_then(|()| sync_directory(&log_directory(self.directory, self.log)))
            .map_err(|reason| StoreError::File { path, reason })
    }

    /// What the log's first record says; none where it was never whole, and the segment is removed.
    fn creation(&self, last: SegmentId) -> Result<Option<(CreatePayload, RequestId)>, StoreError> {
        let at = Tail::first_address();
        let segment = at.segment;
        self.header(segment)?;
        let path = self.path(segment);
        let read = |bytes| read_prefix(&path, bytes);
        let file_error = |reason| StoreError::File { path: path.clone(), reason };
        let start = at.offset as usize;
        let first = read(start + 4096).map_err(file_error)?;
        let header = first.get(start..).map(RecordHeader::parse);
        let record = match header {
            Some(Ok(header)) => {
                let bytes = read(start + header.record_bytes()).map_err(file_error)?;
                bytes.get(start..).map_or_else(
                    || Err("the file is too short".to_owned()),
                    |_| Record::parse(bytes.slice(start..)).map_err(|error| error.to_string()),
                )
            }
            Some(Err(error)) => Err(error.to_string()),
            None => Err("the file is too short".to_owned()),
        };
        match record {
            Ok(record) => {
                let kind = record.header.kind;
                Tail::new(self.log)
                    .accept(&record.header)
                    .map_err(|error| self.corrupt(at, error.to_string()))?;
                if kind != RecordKind::Create {
                    return Err(self.corrupt(at, "the log does not begin with its creation".to_owned()));
                }
                let payload = CreatePayload::parse(&record.payload())
                    .map_err(|error| self.corrupt(at, error.to_string()))?;
                Ok(Some((payload, record.header.request)))
            }
            Err(reason) if self.durable > 0 || last != segment => Err(self.corrupt(at, reason)),
            Err(_) => {
                let bytes = self.read(segment)?;
                let mut scan = Scan::new(bytes.clone(), Tail::new(self.log));
                let _ = scan.by_ref().count();
                self.settle(&scan, &bytes)?;
                self.remove(segment)?;
                Ok(None)
            }
        }
    }

    /// Where the scan starts: at the checkpoint, where it is of this log's files.
    fn start(&self, checkpoint: Option<Checkpoint>, last: SegmentId) -> Result<Checkpoint, StoreError> {
        let Some(checkpoint) = checkpoint else { return Ok(Checkpoint::start()) };
        if checkpoint.segment > last {
            return Err(self.corrupt(start_of(checkpoint.segment), "the segment is missing".to_owned()));
        }
        let header = self.header(checkpoint.segment)?;
        if (header.first_number, header.chain) == (checkpoint.number, checkpoint.chain) {
            return Ok(checkpoint);
        }
        tracing::warn!(log = %self.log, segment = %checkpoint.segment, "the checkpoint is not of this log's files; scanning all of it");
        Ok(Checkpoint::start())
    }

    /// Judges the end of the last segment, and wipes what a torn batch left there. True where it was torn.
    fn settle(&self, scan: &Scan, bytes: &[u8]) -> Result<bool, StoreError> {
        let tail = scan.tail();
        let end = tail.next_address();
        let damage = match scan.end() {
            Some(ScanEnd::Corrupt { reason, .. }) => Some(reason.clone()),
            _ => None,
        };
        if tail.next_number() < self.durable {
            let lost = self.lost(tail.next_number());
            return Err(self.corrupt(end, damage.map_or(lost.clone(), |damage| format!("{lost}: {damage}"))));
        }
        let start = bytes.len().min(end.offset as usize);
        let left = bytes[start..].iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        if left > TORN_BYTES_MAX || (damage.is_some() && !self.known) {
            let reason = damage.unwrap_or_else(|| format!("{left} bytes that are no records"));
            return Err(self.corrupt(end, reason));
        }
        if left > 0 {
            let path = self.path(end.segment);
            // Chains alone would hide it, but later scans look for records that follow damage.
            File::options()
                .write(true)
                .open(&path)
                .and_then(|file| {
                    file.write_all_at(&vec![0; left], start as u64).and_then(|()| file.sync_data())
                })
                .map_err(|reason| StoreError::File { path, reason })?;
        }
        Ok(left > 0)
    }

    /// Checks that a sealed segment ends where the next one says.
    fn sealed(&self, scan: &Scan, next: SegmentId) -> Result<(), StoreError> {
        let header = self.header(next)?;
        let tail = scan.tail();
        if (header.first_number, header.chain) == (tail.next_number(), tail.chain()) {
            return Ok(());
        }
        let reason = match scan.end() {
            Some(ScanEnd::Corrupt { reason, .. }) => reason.clone(),
            _ => format!(
                "segment {next} continues with record {}; this one ends before record {}",
                header.first_number,
                tail.next_number()
            ),
        };
        Err(self.corrupt(tail.next_address(), reason))
    }

    /// The header of a segment that must have one.
    fn header(&self, segment: SegmentId) -> Result<SegmentHeader, StoreError> {
        let path = self.path(segment);
        let bytes =
            read_prefix(&path, 4096).map_err(|reason| StoreError::File { path: path.clone(), reason })?;
        let header = SegmentHeader::parse(&bytes)
            .map_err(|error| self.corrupt(start_of(segment), error.to_string()))?;
        if (header.log, header.segment) != (self.log, segment) {
            let reason = format!("this is segment {} of log {}", header.segment, header.log);
            return Err(self.corrupt(start_of(segment), reason));
        }
        Ok(header)
    }

    /// Makes durable what was found.
    fn sync(&self, last: SegmentId) -> Result<(), StoreError> {
        let path = self.path(last);
        File::open(&path)
            .and_then(|file| file.sync_all())
            .and_then(|()| sync_directory(&log_directory(self.directory, self.log)))
            .map_err(|reason| StoreError::File { path, reason })
    }

    fn read(&self, segment: SegmentId) -> Result<Bytes, StoreError> {
        let path = self.path(segment);
        fs::read(&path).map(Bytes::from).map_err(|reason| StoreError::File { path, reason })
    }

    fn path(&self, segment: SegmentId) -> PathBuf {
        segment_path(self.directory, self.log, segment)
    }

    fn lost(&self, found: u64) -> String {
        format!("{} records were durable and only {found} are whole", self.durable)
    }

    fn corrupt(&self, address: LogAddress, reason: String) -> StoreError {
        StoreError::Corrupt(Damage { log: self.log, address, path: self.path(address.segment), reason })
    }
}

fn start_of(segment: SegmentId) -> LogAddress {
    LogAddress { segment, offset: 0 }
}

/// Whether any place of the file holds an intact record header.
fn holds_record(bytes: &[u8]) -> bool {
    let first = Tail::first_address().offset as usize;
    (first..bytes.len()).step_by(8).any(|at| RecordHeader::parse(&bytes[at..]).is_ok())
}

/// The first bytes of a file, as many as there are.
fn read_prefix(path: &Path, bytes: usize) -> io::Result<Bytes> {
    use std::io::Read;
    let mut prefix = Vec::new();
    File::open(path)?.take(bytes as u64).read_to_end(&mut prefix)?;
    Ok(prefix.into())
}

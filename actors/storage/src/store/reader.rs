//! Reads, from any thread. Only what is durable is shown.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use parhelion_log::{RECORD_HEADER_BYTES, Record, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, Tail};
use parhelion_mirror::Backlog;
use parhelion_types::{Epoch, LogAddress, LogId, SegmentId};
use rustix::io::Errno;

use super::files::segment_path;
use super::homes::Homes;
use super::{Damage, StoreError};

/// Files kept open.
const OPEN_FILES_MAX: usize = 256;

/// Bytes of the first read: header and payload of a small append in one system call.
const FIRST_READ_BYTES: usize = 8 << 10;

#[derive(Debug)]
pub(crate) struct Reader {
    homes: Arc<Homes>,
    open: Mutex<HashMap<(LogId, SegmentId), Arc<File>>>,
}

/// What a record must continue: its number and the checksum of the header before it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    number: u64,
    chain: u32,
}

/// Consecutive bytes of a segment.
struct Piece {
    bytes: Bytes,
    start: LogAddress,
    /// Whether no more of the segment can be read behind them.
    is_whole_rest: bool,
}

/// What a piece had.
enum Taken {
    /// All of it are records, and the log ends there, or the next record needs another piece.
    All,
    /// Its first record alone needs more, and none was read before.
    Larger(RecordHeader),
    /// Records until there is none, although the log goes on: why.
    Until(String),
}

impl Reader {
    pub fn new(homes: Arc<Homes>) -> Self {
        Self { homes, open: Mutex::new(HashMap::new()) }
    }

    pub fn read(&self, log: LogId, address: LogAddress) -> Result<Record, StoreError> {
        let no_record = StoreError::NoRecord { log, address };
        match self.homes.end(log) {
            Some(end) if address < end && may_hold_record(address) => {}
            // What the end of a damaged log took with it was there once.
            Some(end) if address >= end => {
                return Err(self.homes.damage(log).cloned().map_or(no_record, StoreError::Corrupt));
            }
            Some(_) => return Err(no_record),
            None => return Err(StoreError::NoLog(log)),
        }
        let Some(file) = self.file(log, address.segment)? else {
            return Err(self.corrupt(log, start_of(address.segment), "the segment is missing"));
        };
        let first = self.read_at(log, address, &file, FIRST_READ_BYTES)?;
        let header = match header_at(&first, log, address) {
            Ok(header) => header,
            // Damage, unless no record starts here: the records before tell.
            Err(reason) => {
                let place = self.place_of(log, address, &file)?;
                return Err(match self.opens_with(log, address.segment.next(), place)? {
                    true => no_record,
                    false => self.corrupt(log, address, &reason),
                });
            }
        };
        let wanted = header.record_bytes();
        let bytes = if wanted <= first.len() {
            first.slice(..wanted)
        } else {
            self.read_at(log, address, &file, wanted)?
        };
        Record::parse(bytes).map_err(|error| self.corrupt(log, address, &error.to_string()))
    }

    /// As [`Store::read_from`](super::Store::read_from).
    pub fn read_from(
        &self,
        log: LogId,
        address: LogAddress,
        bytes_max: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        if let Some(larger) = self.collect(log, address, bytes_max, &mut records)? {
            records.push(self.read(log, larger.address)?);
        }
        Ok(records)
    }

    /// As [`Store::read_backlog`](super::Store::read_backlog), with its errors.
    pub fn read_backlog(
        &self,
        log: LogId,
        address: LogAddress,
        bytes_max: usize,
    ) -> Result<Backlog, StoreError> {
        let mut records = Vec::new();
        Ok(match self.collect(log, address, bytes_max, &mut records)? {
            Some(larger) => Backlog::Larger(larger.record_bytes()),
            None => Backlog::Records(records),
        })
    }

    /// Reads records in log order until there are enough, or one is damaged. The header of the first one, if that alone
    /// is too large.
    fn collect(
        &self,
        log: LogId,
        address: LogAddress,
        bytes_max: usize,
        records: &mut Vec<Record>,
    ) -> Result<Option<RecordHeader>, StoreError> {
        match self.collect_pieces(log, address, bytes_max, records) {
            // What comes before is whole; whoever goes on from there is told.
            Err(StoreError::Corrupt(_) | StoreError::File { .. }) if !records.is_empty() => Ok(None),
            result => result,
        }
    }

    fn collect_pieces(
        &self,
        log: LogId,
        mut address: LogAddress,
        bytes_max: usize,
        records: &mut Vec<Record>,
    ) -> Result<Option<RecordHeader>, StoreError> {
        let Some(end) = self.homes.end(log) else { return Ok(None) };
        if address < end && !may_hold_record(address) {
            return Err(StoreError::NoRecord { log, address });
        }
        let mut left = bytes_max.max(FIRST_READ_BYTES);
        while address < end && left >= RECORD_HEADER_BYTES {
            let Some(file) = self.file(log, address.segment)? else {
                return Err(self.corrupt(log, start_of(address.segment), "the segment is missing"));
            };
            // Behind the end of the log there are zeros, or records that are not durable.
            let wanted = match address.segment == end.segment {
                true => left.min((end.offset - address.offset) as usize),
                false => left,
            };
            let bytes = self.read_at(log, address, &file, wanted)?;
            let first = records.len();
            let piece = Piece { is_whole_rest: bytes.len() < left, start: address, bytes };
            let taken = self.take(log, &piece, end, records);
            keep_alone(records.get_mut(first..).unwrap_or_default(), piece.bytes.len());
            let damage = match taken? {
                Taken::All => return Ok(None),
                Taken::Larger(header) => return Ok(Some(header)),
                Taken::Until(damage) => damage,
            };
            if let Some(last) = records[first..].last() {
                address = last.header.next_address();
            }
            // The log goes on, but not here: either the segment is used up, or this is damage.
            let place = match records.last() {
                Some(last) => place_behind(last),
                None => self.place_of(log, address, &file)?,
            };
            if !self.opens_with(log, address.segment.next(), place)? {
                return Err(self.corrupt(log, address, &damage));
            }
            left = left.saturating_sub((address.offset - piece.start.offset) as usize);
            address = LogAddress { segment: address.segment.next(), offset: SEGMENT_HEADER_BYTES };
        }
        Ok(None)
    }

    /// Takes the records of a piece.
    fn take(
        &self,
        log: LogId,
        piece: &Piece,
        end: LogAddress,
        records: &mut Vec<Record>,
    ) -> Result<Taken, StoreError> {
        let (bytes, mut address) = (&piece.bytes, piece.start);
        let mut at = 0;
        while address < end {
            if bytes.len() - at < RECORD_HEADER_BYTES && !piece.is_whole_rest {
                return Ok(Taken::All);
            }
            let header = match header_at(&bytes[at..], log, address) {
                Ok(header) => header,
                Err(reason) => return Ok(Taken::Until(reason)),
            };
            if let Some(last) = records.last()
                && place_behind(last) != place_at(&header)
            {
                // Whoever went on from here would find a whole record and notice nothing.
                records.clear();
                return Err(self.corrupt(log, address, "the record does not continue the one before"));
            }
            if at + header.record_bytes() > bytes.len() {
                if piece.is_whole_rest {
                    return Err(self.corrupt(log, address, "the file ends within the record"));
                }
                return Ok(if records.is_empty() { Taken::Larger(header) } else { Taken::All });
            }
            let record = Record::parse(bytes.slice(at..at + header.record_bytes()))
                .map_err(|error| self.corrupt(log, address, &error.to_string()))?;
            at = (at + header.stored_bytes() as usize).min(bytes.len());
            address = header.next_address();
            records.push(record);
        }
        Ok(Taken::All)
    }

    /// Closes the log's files, of which some have been moved aside.
    pub fn forget(&self, log: LogId) {
        self.lock().retain(|(of, _), _| *of != log);
    }

    /// What a record at `address` would continue, found by walking the segment's headers.
    fn place_of(&self, log: LogId, address: LogAddress, file: &File) -> Result<Place, StoreError> {
        let segment = address.segment;
        let first = self.read_at(log, start_of(segment), file, SEGMENT_HEADER_BYTES as usize)?;
        let header = SegmentHeader::parse(&first)
            .map_err(|error| self.corrupt(log, start_of(segment), &error.to_string()))?;
        let mut tail = Tail::at_segment(log, segment, header.first_number, header.chain, Epoch(0));
        loop {
            let at = tail.next_address();
            if at == address {
                return Ok(Place { number: tail.next_number(), chain: tail.chain() });
            }
            if at > address {
                return Err(StoreError::NoRecord { log, address });
            }
            let bytes = self.read_at(log, at, file, RECORD_HEADER_BYTES)?;
            let walked = header_at(&bytes, log, at)
                .and_then(|header| tail.accept(&header).map_err(|error| error.to_string()));
            if let Err(reason) = walked {
                let place = Place { number: tail.next_number(), chain: tail.chain() };
                return Err(match self.opens_with(log, segment.next(), place)? {
                    true => StoreError::NoRecord { log, address },
                    false => self.corrupt(log, at, &reason),
                });
            }
        }
    }

    /// Whether a segment begins at a place of the log.
    fn opens_with(&self, log: LogId, segment: SegmentId, place: Place) -> Result<bool, StoreError> {
        let Some(file) = self.file(log, segment)? else { return Ok(false) };
        let bytes = self.read_at(log, start_of(segment), &file, SEGMENT_HEADER_BYTES as usize)?;
        let header = SegmentHeader::parse(&bytes)
            .map_err(|error| self.corrupt(log, start_of(segment), &error.to_string()))?;
        let opens = Place { number: header.first_number, chain: header.chain };
        Ok((header.log, header.segment) == (log, segment) && opens == place)
    }

    fn file(&self, log: LogId, segment: SegmentId) -> Result<Option<Arc<File>>, StoreError> {
        let mut open = self.lock();
        if let Some(file) = open.get(&(log, segment)) {
            return Ok(Some(file.clone()));
        }
        let path = segment_path(self.homes.directory(log), log, segment);
        let mut opened = File::open(&path);
        if opened.as_ref().is_err_and(is_out_of_files) {
            // The files kept open here are for speed alone.
            open.clear();
            opened = File::open(&path);
        }
        let file = match opened {
            Ok(file) => Arc::new(file),
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => {
                // Without the directory of all logs the file system may be away, and may come back.
                let directory = self.homes.directory(log);
                return match directory.join("logs").exists() {
                    true => Ok(None),
                    false => Err(StoreError::Directory { path: directory.to_owned(), reason }),
                };
            }
            Err(reason) => return Err(StoreError::File { path, reason }),
        };
        if open.len() >= OPEN_FILES_MAX {
            open.clear();
        }
        open.insert((log, segment), file.clone());
        Ok(Some(file))
    }

    /// Up to `bytes_max` bytes from an address; fewer at the end of the file.
    fn read_at(
        &self,
        log: LogId,
        address: LogAddress,
        file: &File,
        bytes_max: usize,
    ) -> Result<Bytes, StoreError> {
        let mut bytes = vec![0; bytes_max];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], u64::from(address.offset) + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(reason) => {
                    // Another attempt opens it anew: what was opened may be of a file system that is gone.
                    self.lock().remove(&(log, address.segment));
                    let path = segment_path(self.homes.directory(log), log, address.segment);
                    return Err(StoreError::File { path, reason });
                }
            }
        }
        bytes.truncate(filled);
        // At the end of a file. Does nothing where all was filled.
        bytes.shrink_to_fit();
        Ok(bytes.into())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(LogId, SegmentId), Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn corrupt(&self, log: LogId, address: LogAddress, reason: &str) -> StoreError {
        let path = segment_path(self.homes.directory(log), log, address.segment);
        StoreError::Corrupt(Damage { log, address, path, reason: reason.to_owned() })
    }
}

/// Gives records that use less than half of the piece they were read with memory of their own: they live until the mirror
/// has them, and are counted by their own size.
fn keep_alone(records: &mut [Record], piece_bytes: usize) {
    let used: usize = records.iter().map(|record| record.bytes().len()).sum();
    if used >= piece_bytes / 2 {
        return;
    }
    for record in records {
        // It was parsed before, so it parses.
        if let Ok(copy) = Record::parse(Bytes::copy_from_slice(&record.bytes())) {
            *record = copy;
        }
    }
}

/// Whether the process or the system has as many files open as it may.
fn is_out_of_files(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    errno == Some(Errno::MFILE.raw_os_error()) || errno == Some(Errno::NFILE.raw_os_error())
}

/// Whether a record may start at the address at all.
fn may_hold_record(address: LogAddress) -> bool {
    address.offset >= SEGMENT_HEADER_BYTES && address.offset.is_multiple_of(8)
}

fn start_of(segment: SegmentId) -> LogAddress {
    LogAddress { segment, offset: 0 }
}

/// The intact header of the record that lies where it says.
fn header_at(bytes: &[u8], log: LogId, address: LogAddress) -> Result<RecordHeader, String> {
    let header = RecordHeader::parse(bytes).map_err(|error| error.to_string())?;
    if (header.log, header.address) == (log, address) {
        return Ok(header);
    }
    Err(format!("this is a record of log {} at {}", header.log, header.address))
}

fn place_at(header: &RecordHeader) -> Place {
    Place { number: header.number, chain: header.previous }
}

fn place_behind(record: &Record) -> Place {
    Place { number: record.header.number.wrapping_add(1), chain: record.header.checksum }
}

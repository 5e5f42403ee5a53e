//! Reads, from any thread.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parhelion_log::{RECORD_HEADER_BYTES, Record, RecordHeader, SEGMENT_HEADER_BYTES};
use parhelion_types::{LogAddress, LogId, SegmentId};

use super::files::segment_path;
use super::{Homes, StoreError};

/// Files kept open.
const OPEN_FILES_MAX: usize = 256;

/// Bytes of the first read: header and payload of a small append in one system call.
const FIRST_READ_BYTES: usize = 8 << 10;

#[derive(Debug)]
pub(crate) struct Reader {
    homes: Arc<Homes>,
    open: Mutex<HashMap<(LogId, SegmentId), Arc<File>>>,
}

impl Reader {
    pub fn new(homes: Arc<Homes>) -> Self {
        Self { homes, open: Mutex::new(HashMap::new()) }
    }

    pub fn read(&self, log: LogId, address: LogAddress) -> Result<Record, StoreError> {
        let missing = || StoreError::NoRecord { log, address };
        let file = self.file(log, address.segment)?.ok_or_else(missing)?;
        let first = self.read_at(log, address, &file, FIRST_READ_BYTES)?;
        let header = match RecordHeader::parse(&first) {
            Ok(header) if header.log == log && header.address == address => header,
            // An address in the middle of a record, or behind the end, is the caller's mistake; damage in
            // a header cannot be told from it.
            _ => return Err(missing()),
        };
        let wanted = header.record_bytes();
        let bytes = if wanted <= first.len() {
            first.slice(..wanted)
        } else {
            self.read_at(log, address, &file, wanted)?
        };
        Record::parse(bytes).map_err(|error| self.corrupt(log, address, &error.to_string()))
    }

    pub fn read_from(
        &self,
        log: LogId,
        mut address: LogAddress,
        bytes_max: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        let mut left = bytes_max.max(FIRST_READ_BYTES);
        while left > 0 {
            let Some(file) = self.file(log, address.segment)? else { break };
            let bytes = self.read_at(log, address, &file, left)?;
            let mut at = 0;
            let before = records.len();
            let mut cut = false;
            while let Ok(header) = RecordHeader::parse(&bytes[at..]) {
                if header.log != log || header.address != address {
                    break;
                }
                if at + header.record_bytes() > bytes.len() {
                    cut = true;
                    break;
                }
                let record = Record::parse(bytes.slice(at..at + header.record_bytes()))
                    .map_err(|error| self.corrupt(log, address, &error.to_string()))?;
                at = (at + header.stored_bytes() as usize).min(bytes.len());
                address = header.next_address();
                records.push(record);
            }
            left = left.saturating_sub(at);
            if cut && records.is_empty() {
                return self.read(log, address).map(|record| vec![record]);
            }
            if cut {
                break;
            }
            if records.len() == before || at < bytes.len() {
                // The segment is used up, or the log ends here: another segment tells which.
                let next = LogAddress { segment: address.segment.next(), offset: SEGMENT_HEADER_BYTES };
                if self.file(log, next.segment)?.is_none() {
                    break;
                }
                address = next;
            }
        }
        Ok(records)
    }

    fn file(&self, log: LogId, segment: SegmentId) -> Result<Option<Arc<File>>, StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&(log, segment)) {
            return Ok(Some(file.clone()));
        }
        let path = segment_path(self.homes.directory(log), log, segment);
        let file = match File::open(&path) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
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
        let mut bytes = vec![0; bytes_max.max(RECORD_HEADER_BYTES)];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], u64::from(address.offset) + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(reason) => {
                    let path = segment_path(self.homes.directory(log), log, address.segment);
                    return Err(StoreError::File { path, reason });
                }
            }
        }
        bytes.truncate(filled);
        Ok(bytes.into())
    }

    fn corrupt(&self, log: LogId, address: LogAddress, reason: &str) -> StoreError {
        let path = segment_path(self.homes.directory(log), log, address.segment);
        StoreError::Corrupt { log, address, path, reason: reason.to_owned() }
    }
}

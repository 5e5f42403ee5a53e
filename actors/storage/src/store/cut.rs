//! Cutting a log back: a mirror that is ahead of a primary which lost unsynced records in a crash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parhelion_log::{Scan, SegmentHeader, Tail};
use parhelion_types::{Epoch, LogId};

use super::files::{create_directory, log_directory, segment_path, segments_of, sync_directory};
use super::{Damage, StoreError};
use crate::catalogue::Catalogue;

/// Makes `tail` the durable end of the log's files. What is cut off is kept in the directory's `cut`.
///
/// The last step alone ends the log at the cut. A crash before it leaves a log that ends later, between
/// two records, and the primary asks again.
pub(crate) fn cut(directory: &Path, log: LogId, tail: Tail, catalogue: &Catalogue) -> Result<(), StoreError> {
    let end = tail.next_address();
    let path = segment_path(directory, log, end.segment);
    let file_error = |reason| StoreError::File { path: path.clone(), reason };
    let bytes = Bytes::from(fs::read(&path).map_err(file_error)?);
    if !ends_a_record(&bytes, log, tail) {
        let reason = format!("record {} of the other site does not follow here", tail.next_number());
        return Err(StoreError::Corrupt(Damage { log, address: end, path, reason }));
    }
    let aside = aside(directory, log, tail);
    let aside_error = |reason| StoreError::Directory { path: aside.clone(), reason };
    create_directory(&aside).map_err(aside_error)?;
    keep(&aside.join("records"), &bytes[end.offset as usize..]).map_err(aside_error)?;
    // From here on the records beyond the cut count as lost on purpose.
    catalogue.cut(log, tail.next_number())?;
    let segments = segments_of(directory, log)?;
    for segment in segments.into_iter().rev().filter(|&segment| segment > end.segment) {
        let from = segment_path(directory, log, segment);
        // The last one first, so that a crash leaves no gap.
        fs::rename(&from, aside.join(from.file_name().unwrap_or_default())).map_err(aside_error)?;
        sync_directory(&log_directory(directory, log)).map_err(file_error)?;
    }
    sync_directory(&aside).map_err(aside_error)?;
    let file = File::options().write(true).open(&path).map_err(file_error)?;
    file.set_len(u64::from(end.offset)).and_then(|()| file.sync_all()).map_err(file_error)
}

/// Whether a record of the segment, or its header, ends exactly at the tail.
fn ends_a_record(bytes: &Bytes, log: LogId, tail: Tail) -> bool {
    let Ok(header) = SegmentHeader::parse(bytes) else { return false };
    if (header.log, header.segment) != (log, tail.next_address().segment) {
        return false;
    }
    let start = Tail::at_segment(log, header.segment, header.first_number, header.chain, Epoch(0));
    let mut scan = Scan::new(bytes.clone(), start);
    while scan.tail().next_number() < tail.next_number() && scan.next().is_some() {}
    let found = scan.tail();
    (found.next_number(), found.next_address(), found.chain())
        == (tail.next_number(), tail.next_address(), tail.chain())
}

/// A directory that no earlier cut has used.
fn aside(directory: &Path, log: LogId, tail: Tail) -> PathBuf {
    let home = directory.join("cut");
    let name = format!("{log}-{}", tail.next_number());
    let first = home.join(&name);
    let later = (1u32..).map(|n| home.join(format!("{name}.{n}")));
    std::iter::once(first).chain(later).find(|path| !path.exists()).unwrap_or(home)
}

fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let mut file = File::create_new(path)?;
    file.write_all(&bytes[..used])?;
    file.sync_all()
}

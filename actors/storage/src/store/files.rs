//! Segment files: where they are, how they come to be, which are open.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use parhelion_log::SegmentHeader;
use parhelion_types::{LogId, SegmentId};

use super::StoreError;
use super::segment_file::SegmentFile;
use super::spares::Spares;

/// Files that a writer keeps open: few enough for many logs under a common limit of 1024 descriptors.
const OPEN_FILES_MAX: usize = 128;

/// Directory of a log.
pub(crate) fn log_directory(directory: &Path, log: LogId) -> PathBuf {
    directory.join("logs").join(log.to_string())
}

/// File of a segment.
pub(crate) fn segment_path(directory: &Path, log: LogId, segment: SegmentId) -> PathBuf {
    log_directory(directory, log).join(segment_name(segment))
}

fn segment_name(segment: SegmentId) -> String {
    format!("{:08}.seg", segment.0)
}

/// Segments of a log, ascending.
pub(crate) fn segments_of(directory: &Path, log: LogId) -> Result<Vec<SegmentId>, StoreError> {
    let path = log_directory(directory, log);
    let unreadable = |reason| StoreError::File { path: path.clone(), reason };
    let mut segments = Vec::new();
    for entry in fs::read_dir(&path).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let number = name.strip_suffix(".seg").and_then(|number| number.parse().ok()).map(SegmentId);
        segments.extend(number.filter(|&segment| segment_name(segment) == name));
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes a directory, and those above it that are absent, each durable in its parent.
pub(crate) fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return fs::create_dir(directory),
    };
    create_directory(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !directory.is_dir() => Err(error),
        _ => sync_directory(parent),
    }
}

/// Makes the file of a new segment durable, with its header and its name, and opens it.
///
/// Recovery removes what a torn creation left, so a file that exists holds records: it is never touched.
pub(crate) fn create_segment(
    directory: &Path,
    spares: &Spares,
    header: &SegmentHeader,
) -> io::Result<SegmentFile> {
    let path = segment_path(directory, header.log, header.segment);
    let home = log_directory(directory, header.log);
    create_directory(&home)?;
    if header.segment.0 == 0 {
        // The log's directory may be there already, from a run that died before its entry was durable.
        sync_directory(&directory.join("logs"))?;
    }
    if path.try_exists()? {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists", path.display())));
    }
    // The first segment of a log grows as it is written: most logs of a site with many are small.
    let spare = if header.segment.0 > 0 { spares.take() } else { None };
    let file = match spare {
        Some(spare) => {
            fs::rename(spare, &path)?;
            SegmentFile::open(&path)?
        }
        None => SegmentFile::create(&path)?,
    };
    // No record is written before the header and the name are durable: a file without a header holds none.
    file.begin(&header.to_bytes())?;
    sync_directory(&home)?;
    Ok(file)
}

/// The files that a writer has open, one per log; the one that was used longest ago makes room.
///
/// Every write is synced before the next job, so that closing a file loses no error.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    files: HashMap<LogId, (SegmentFile, u64)>,
    uses: u64,
}

impl OpenFiles {
    /// The log's file.
    pub fn get(&mut self, log: LogId) -> Option<&mut SegmentFile> {
        self.uses += 1;
        let (file, used) = self.files.get_mut(&log)?;
        *used = self.uses;
        Some(file)
    }

    /// Keeps the log's file, in place of an earlier one.
    pub fn put(&mut self, log: LogId, file: SegmentFile) {
        self.uses += 1;
        if self.files.len() >= OPEN_FILES_MAX && !self.files.contains_key(&log) {
            let oldest = self.files.iter().min_by_key(|(_, (_, used))| *used).map(|(log, _)| *log);
            oldest.map(|log| self.files.remove(&log));
        }
        self.files.insert(log, (file, self.uses));
    }

    /// Closes the log's file.
    pub fn close(&mut self, log: LogId) {
        self.files.remove(&log);
    }
}

//! Segment files: where they are, and how they come to be.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};

use parhelion_log::SegmentHeader;
use parhelion_types::{LogId, SegmentId};

use super::StoreError;

/// Bytes written at once when a file is filled with zeros.
const ZEROS_BYTES: usize = 1 << 20;

/// Directory of a log.
pub(crate) fn log_directory(directory: &Path, log: LogId) -> PathBuf {
    directory.join("logs").join(log.to_string())
}

/// File of a segment.
pub(crate) fn segment_path(directory: &Path, log: LogId, segment: SegmentId) -> PathBuf {
    log_directory(directory, log).join(format!("{:08}.seg", segment.0))
}

/// Segments of a log, ascending.
pub(crate) fn segments_of(directory: &Path, log: LogId) -> Result<Vec<SegmentId>, StoreError> {
    let path = log_directory(directory, log);
    let unreadable = |reason| StoreError::File { path: path.clone(), reason };
    let mut segments = Vec::new();
    for entry in fs::read_dir(&path).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|n| n.parse().ok());
        segments.extend(number.map(SegmentId));
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Makes the entry of `path` in its directory durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Keeps files of zeros ready, so that a new segment's blocks have been written once before.
#[derive(Debug)]
pub(crate) struct Spares {
    ready: Receiver<PathBuf>,
}

impl Spares {
    /// Starts the thread that fills `count` files ahead; 0 for none.
    pub fn start(directory: PathBuf, bytes: u32, count: usize) -> Result<Self, StoreError> {
        let home = directory.join("spare");
        let unusable = |reason| StoreError::Directory { path: home.clone(), reason };
        // A spare of an earlier run may be half filled: it is not worth finding out.
        match fs::remove_dir_all(&home) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error)),
            _ => fs::create_dir_all(&home).map_err(unusable)?,
        }
        let (send, ready) = mpsc::sync_channel(count.saturating_sub(1));
        if count > 0 {
            let fill = move || fill(&home, bytes, &send);
            std::thread::Builder::new()
                .name("store-spares".to_owned())
                .spawn(fill)
                .map_err(|reason| StoreError::Directory { path: directory, reason })?;
        }
        Ok(Self { ready })
    }

    /// Makes the file of a new segment durable, with its header, and opens it.
    pub fn open_segment(&self, directory: &Path, header: &SegmentHeader) -> io::Result<File> {
        let path = segment_path(directory, header.log, header.segment);
        let home = log_directory(directory, header.log);
        if !home.exists() {
            fs::create_dir_all(&home)?;
            sync_directory(&directory.join("logs"))?;
            sync_directory(directory)?;
        }
        // The first segment of a log grows as it is written: most logs of a site with many are small.
        let spare = if header.segment.0 > 0 { self.ready.try_recv().ok() } else { None };
        if let Some(spare) = spare {
            fs::rename(spare, &path)?;
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        file.write_all_at(&header.to_bytes(), 0)?;
        file.sync_data()?;
        sync_directory(&home)?;
        Ok(file)
    }
}

/// Fills one file after another; the channel's bound makes it wait.
fn fill(home: &Path, bytes: u32, ready: &SyncSender<PathBuf>) {
    for n in 0u64.. {
        let path = home.join(format!("{n}.seg"));
        if let Err(error) = fill_one(&path, bytes) {
            tracing::warn!(path = %path.display(), %error, "no spare segment; new segments will be slower");
            let _ = fs::remove_file(&path);
            return;
        }
        if ready.send(path).is_err() {
            return;
        }
    }
}

fn fill_one(path: &Path, bytes: u32) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).open(path)?;
    let zeros = vec![0; ZEROS_BYTES];
    let mut left = bytes as usize;
    while left > 0 {
        let piece = left.min(zeros.len());
        file.write_all(&zeros[..piece])?;
        left -= piece;
    }
    file.sync_all()
}

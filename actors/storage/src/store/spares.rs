//! Files of zeros, kept ready so that a new segment's blocks have been written once before.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::StoreError;
use super::segment_file::{BLOCK_BYTES, Staging, open_direct};

/// Bytes written at once when a file is filled.
const PIECE_BYTES: usize = 1 << 20;

/// After each piece the disk is left to others for this part of the time that it took.
const PAUSE_PART: f64 = 0.5;

/// The spare files of one data directory, and the thread that fills them.
///
/// Dropping it joins the thread: one that lived on could fill a file that the next store has made a segment.
#[derive(Debug)]
pub(crate) struct Spares {
    ready: Option<Receiver<PathBuf>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Spares {
    /// Starts the thread that fills `count` files ahead; 0 for none.
    pub fn start(directory: &Path, bytes: u32, count: usize) -> Result<Self, StoreError> {
        let home = directory.join("spare");
        let unusable = |reason| StoreError::Directory { path: home.clone(), reason };
        // A spare of an earlier run may be half filled: it is not worth finding out.
        match fs::remove_dir_all(&home) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error)),
            _ => fs::create_dir_all(&home).map_err(unusable)?,
        }
        let stop = Arc::new(AtomicBool::new(false));
        if count == 0 {
            return Ok(Self { ready: None, stop, thread: None });
        }
        let (send, ready) = mpsc::sync_channel(count - 1);
        let fill = Fill { home: home.clone(), bytes, ready: send, stop: stop.clone() };
        let thread = std::thread::Builder::new()
            .name("store-spares".to_owned())
            .spawn(move || fill.run())
            .map_err(unusable)?;
        Ok(Self { ready: Some(ready), stop, thread: Some(thread) })
    }

    /// A file of zeros, durable but for its name; none where none is ready.
    pub fn take(&self) -> Option<PathBuf> {
        self.ready.as_ref()?.try_recv().ok()
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.ready = None;
        if let Some(thread) = self.thread.take() {
            // It reports its own failures, and none of them harms a segment.
            let _ = thread.join();
        }
    }
}

struct Fill {
    home: PathBuf,
    bytes: u32,
    ready: SyncSender<PathBuf>,
    stop: Arc<AtomicBool>,
}

impl Fill {
    /// Fills one file after another; the channel's bound makes it wait.
    fn run(self) {
        for n in 0u64.. {
            let path = self.home.join(format!("{n}.seg"));
            match self.fill(&path) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "no spare segment; new segments will be slower");
                    let _ = fs::remove_file(&path);
                    return;
                }
            }
            if self.ready.send(path).is_err() {
                return;
            }
        }
    }

    /// Writes one file; false where it was told to stop.
    ///
    /// Past the page cache, where the file system allows it: the writer does the same with the segment that the
    /// file becomes, and zeros that nobody reads would push out what is read.
    fn fill(&self, path: &Path) -> io::Result<bool> {
        let cached = File::options().write(true).create_new(true).open(path)?;
        let mut direct = open_direct(path, OFlags::WRONLY);
        let mut staging = Staging::default();
        let zeros = &staging.aligned()[..PIECE_BYTES];
        let mut at = 0;
        while at < u64::from(self.bytes) {
            if self.stop.load(Ordering::Acquire) {
                return Ok(false);
            }
            let begun = Instant::now();
            let left = u64::from(self.bytes) - at;
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
            let whole = piece / BLOCK_BYTES * BLOCK_BYTES;
            let wrote =
                direct.as_ref().filter(|_| whole > 0).map(|file| file.write_all_at(&zeros[..whole], at));
            match wrote {
                Some(Ok(())) => at += whole as u64,
                Some(Err(error)) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    direct = None
                }
                Some(Err(error)) => return Err(error),
                None => {
                    cached.write_all_at(&zeros[..piece], at)?;
                    at += piece as u64;
                }
            }
            std::thread::sleep(begun.elapsed().mul_f64(PAUSE_PART));
        }
        cached.sync_all()?;
        Ok(true)
    }
}

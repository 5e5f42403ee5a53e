//! Files of zeros, kept ready so that a new segment's blocks have been written once before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;

use super::StoreError;

/// Bytes written at once when a file is filled.
const PIECE_BYTES: usize = 1 << 20;

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
    fn fill(&self, path: &Path) -> io::Result<bool> {
        let mut file = File::options().write(true).create_new(true).open(path)?;
        let zeros = vec![0; PIECE_BYTES];
        let mut left = self.bytes as usize;
        while left > 0 {
            if self.stop.load(Ordering::Acquire) {
                return Ok(false);
            }
            let piece = left.min(zeros.len());
            file.write_all(&zeros[..piece])?;
            left -= piece;
        }
        file.sync_all()?;
        Ok(true)
    }
}

//! One node per data directory.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::StoreError;
use super::files::create_directory;

/// Held while a node uses a directory; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Creates the directory where it is absent, and locks it.
    pub fn take(directory: &Path) -> Result<Self, StoreError> {
        let unusable = |reason: io::Error| StoreError::Directory { path: directory.to_owned(), reason };
        create_directory(directory).map_err(unusable)?;
        let path = directory.join("LOCK");
        let file = File::options().create(true).truncate(false).write(true).open(path).map_err(unusable)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked(directory.to_owned())),
            Err(error) => Err(unusable(error.into())),
        }
    }
}

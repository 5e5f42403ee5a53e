//! Where each log lives, and how far it is durable.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use parhelion_types::{LogAddress, LogId};

use super::{Damage, Durable, RecoveredLog};

/// Directory and durable end of every log, shared by writers and readers.
#[derive(Debug)]
pub(crate) struct Homes {
    directories: Vec<PathBuf>,
    found: HashMap<LogId, usize>,
    ends: Mutex<HashMap<LogId, LogAddress>>,
    damaged: HashMap<LogId, Damage>,
}

impl Homes {
    /// Logs where they were found; a new one gets a directory by its number.
    pub fn new(directories: Vec<PathBuf>, found: HashMap<LogId, usize>, logs: &[RecoveredLog]) -> Self {
        let ends = logs.iter().map(|log| (log.log, log.readable_end)).collect();
        let damaged = logs.iter().filter_map(|log| Some((log.log, log.damage.clone()?))).collect();
        Self { directories, found, ends: Mutex::new(ends), damaged }
    }

    /// What recovery found wrong with the log, if anything.
    pub fn damage(&self, log: LogId) -> Option<&Damage> {
        self.damaged.get(&log)
    }

    /// Index of the log's directory.
    pub fn index(&self, log: LogId) -> usize {
        self.found.get(&log).copied().unwrap_or(log.0 as usize % self.directories.len())
    }

    /// The log's directory.
    pub fn directory(&self, log: LogId) -> &Path {
        &self.directories[self.index(log)]
    }

    /// Address behind the last durable record that can be read; none where the log has none.
    pub fn end(&self, log: LogId) -> Option<LogAddress> {
        self.ends().get(&log).copied()
    }

    /// Takes note of what became durable.
    pub fn extend(&self, durable: &[Durable]) {
        let mut ends = self.ends();
        ends.extend(durable.iter().map(|durable| (durable.log, durable.end)));
    }

    /// Takes note that a log is being cut back.
    pub fn cut(&self, log: LogId, end: LogAddress) {
        self.ends().insert(log, end);
    }

    fn ends(&self) -> MutexGuard<'_, HashMap<LogId, LogAddress>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

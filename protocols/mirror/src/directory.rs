//! The metadata server's table: which logs exist, by name and number (SMFS section 4.2, `create`).

use std::collections::BTreeMap;

use parhelion_types::limits::{LOG_NAME_BYTES_MAX, LOGS_MAX};
use parhelion_types::{Error, LogId, RequestId};

/// Names and numbers of a site's logs.
#[derive(Debug, Default)]
pub struct Directory {
    by_name: BTreeMap<String, Entry>,
    names: BTreeMap<LogId, String>,
    next: u32,
}

#[derive(Debug)]
struct Entry {
    log: LogId,
    request: RequestId,
}

/// Why a log cannot be created.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// Empty, too long, or not printable.
    #[error("log name {0:?} is not usable: give 1 to {LOG_NAME_BYTES_MAX} bytes without control characters")]
    Name(String),
    /// The name is taken.
    #[error("log {name:?} exists already, as log {log}; append to that one or choose another name")]
    Exists {
        /// The name.
        name: String,
        /// Who has it.
        log: LogId,
    },
    /// The site is full.
    #[error("this site holds {LOGS_MAX} logs, its limit; create the log at another site")]
    Full,
}

impl From<DirectoryError> for Error {
    fn from(error: DirectoryError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl Directory {
    /// Learns of a log that exists: from disk, or from the primary. One whose name is not known, because its
    /// creation is damaged, keeps its number and takes no name. A number has one name: the one learned last.
    pub fn learn(&mut self, log: LogId, name: &str, request: RequestId) {
        self.next = self.next.max(log.0.saturating_add(1));
        if let Some(former) = self.names.remove(&log)
            && self.by_name.get(&former).is_some_and(|entry| entry.log == log)
        {
            self.by_name.remove(&former);
        }
        if !name.is_empty() {
            self.names.insert(log, name.to_owned());
            self.by_name.insert(name.to_owned(), Entry { log, request });
        }
    }

    /// Chooses the number of a new log. A repeated request gets the number it got before.
    ///
    /// # Errors
    /// The name is unusable or taken, or the site is full.
    pub fn create(&mut self, name: &str, request: RequestId) -> Result<(LogId, bool), DirectoryError> {
        if name.is_empty() || name.len() > LOG_NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(DirectoryError::Name(name.chars().take(64).collect()));
        }
        if let Some(entry) = self.by_name.get(name) {
            return if !request.is_none() && entry.request == request {
                Ok((entry.log, false))
            } else {
                Err(DirectoryError::Exists { name: name.to_owned(), log: entry.log })
            };
        }
        // Numbers are never used again, and the last of them has no successor.
        if self.by_name.len() >= LOGS_MAX || self.next == u32::MAX {
            return Err(DirectoryError::Full);
        }
        let log = LogId(self.next);
        self.learn(log, name, request);
        Ok((log, true))
    }

    /// Gives the name back: the log could not be created. Its number is not used again.
    pub fn forget(&mut self, name: &str) {
        if let Some(entry) = self.by_name.remove(name) {
            self.names.remove(&entry.log);
        }
    }

    /// How many logs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_numbers_are_never_reused() {
        let mut directory = Directory::default();
        directory.learn(LogId(6), "old", RequestId::NONE);
        assert_eq!(directory.create("new", RequestId(1)), Ok((LogId(7), true)));
        assert_eq!(directory.create("new", RequestId(1)), Ok((LogId(7), false)));
        let taken = directory.create("new", RequestId(2)).unwrap_err();
        assert_eq!(
            taken.to_string(),
            "log \"new\" exists already, as log 7; append to that one or choose another name"
        );
        assert!(directory.create("old", RequestId::NONE).is_err());
        directory.forget("new");
        assert_eq!(directory.create("new", RequestId(3)), Ok((LogId(8), true)));
        directory.learn(LogId(20), "", RequestId::NONE);
        assert_eq!(directory.create("behind a log without a name", RequestId(4)), Ok((LogId(21), true)));
        directory.learn(LogId(21), "renamed", RequestId(5));
        assert_eq!(directory.create("behind a log without a name", RequestId(6)), Ok((LogId(22), true)));
        for bad in ["", "a\nb", &"x".repeat(256)] {
            assert!(matches!(directory.create(bad, RequestId(9)), Err(DirectoryError::Name(_))));
        }
    }

    #[test]
    fn the_last_number_is_never_given() {
        let mut directory = Directory::default();
        directory.learn(LogId(u32::MAX), "crafted", RequestId::NONE);
        assert_eq!(directory.create("orders", RequestId(1)), Err(DirectoryError::Full));
    }
}

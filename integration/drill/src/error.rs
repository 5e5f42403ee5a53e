//! Why a drill could not be carried out. A drill that loses data is not an error but a result.

use std::io;
use std::path::PathBuf;

use parhelion_wan::WanError;

/// Why a drill could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// An option is out of its range.
    #[error("drill option {what} = {value} is wrong: {remedy}")]
    Option {
        /// The option.
        what: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        remedy: String,
    },
    /// The nodes of the drill could not start with their settings.
    #[error("the nodes of this drill could not start: {problems}; these settings come from --code and --set")]
    Settings {
        /// What is wrong with them, each with its remedy.
        problems: String,
    },
    /// The input has nothing to append.
    #[error("--input {path}: {reason}; name a directory with files that can be read")]
    Input {
        /// The directory.
        path: PathBuf,
        /// Why nothing comes of it.
        reason: String,
    },
    /// A file or directory of the drill could not be used.
    #[error("{doing} {path} failed: {source}; check that the disk has room and the directory is writable")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A record of the writers is not what was written.
    #[error(
        "{path}: record {index} of the acknowledgements is damaged; the disk or the drill is at fault, run it again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which record, from 0.
        index: u64,
    },
    /// A process of the drill did not do its part.
    #[error("{what}: {reason}; its log is {log}")]
    Process {
        /// Which process.
        what: String,
        /// What it did or did not do.
        reason: String,
        /// Where it wrote its standard error.
        log: PathBuf,
    },
    /// A node refused what the drill asked for.
    #[error("{doing}: {source}")]
    Node {
        /// What was asked.
        doing: &'static str,
        /// The node's words.
        source: parhelion_types::Error,
    },
    /// The emulated link failed.
    #[error(transparent)]
    Wan(#[from] WanError),
    /// Signals cannot be listened for.
    #[error(
        "listening for signals failed: {0}; the machine is short of threads or open files, run the drill again later"
    )]
    Signals(#[source] io::Error),
    /// A signal stopped the drill before its end.
    #[error("the drill was stopped by a signal before its last disaster, and has no result; run it again")]
    Stopped,
    /// The report could not be drawn.
    #[error("drawing the report failed: {0}; run again without --report, the figures are unaffected")]
    Report(String),
}

impl DrillError {
    /// Turns an I/O error on `path` into a [`DrillError::File`].
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }
}

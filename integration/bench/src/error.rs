//! Why a benchmark could not be carried out. A missed goal is no error.

use std::io;
use std::path::PathBuf;

use parhelion_drill::DrillError;
use parhelion_types::Error;
use parhelion_wan::WanError;

/// Why a benchmark could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The nodes' executable is missing.
    #[error("{0} is not there: build it with `cargo build --release -p parhelion`, or use `make bench`")]
    NoBinary(PathBuf),
    /// A file, directory or other thing of the system could not be used.
    #[error("{doing} {what} failed: {source}; check that the disk has room and the directory is writable")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        what: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A node refused what was asked of it.
    #[error("{doing}: {source}")]
    Node {
        /// What was asked.
        doing: &'static str,
        /// The node's words.
        source: Error,
    },
    /// A figure cannot be taken, because what it is computed from is missing or zero.
    #[error("{what} cannot be measured: {reason}")]
    Figure {
        /// The figure.
        what: &'static str,
        /// Why, and what would help.
        reason: String,
    },
    /// A process did not do its part.
    #[error(transparent)]
    Process(#[from] DrillError),
    /// The emulated link failed.
    #[error(transparent)]
    Wan(#[from] WanError),
}

impl BenchError {
    /// Turns an I/O error on `what` into a [`BenchError::File`].
    pub(crate) fn file(doing: &'static str, what: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::File { doing, what, source }
    }

    /// Turns a node's refusal into a [`BenchError::Node`].
    pub(crate) fn node(doing: &'static str) -> impl FnOnce(Error) -> Self {
        move |source| Self::Node { doing, source }
    }
}

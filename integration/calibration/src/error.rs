//! Why a calibration could not be carried out. A promise that does not hold is not an error but a result.

use std::io;
use std::path::PathBuf;

use parhelion_plugin::ParameterError;

use crate::life::LifeError;

/// Why a calibration could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// A code of the grid is none.
    #[error("a code of the grid: {0}")]
    Code(#[from] ParameterError),
    /// A link of the grid broke.
    #[error("code {code} on channel {channel:?}: {source}")]
    Life {
        /// The channel.
        channel: String,
        /// The code.
        code: String,
        /// What happened.
        source: LifeError,
    },
    /// Nothing is left of the grid.
    #[error("no {what} has {filter:?} in its name; `--list` shows what there is")]
    Filter {
        /// Channel or code.
        what: &'static str,
        /// What was asked for.
        filter: String,
    },
    /// A value that cannot be.
    #[error("{what} is {value}; give {range}")]
    Value {
        /// Which.
        what: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        range: &'static str,
    },
    /// The report could not be written.
    #[error("writing {path} failed: {source}; check that the directory is writable and the disk has room")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A figure could not be drawn.
    #[error("drawing the reliability diagram failed: {0}")]
    Drawing(String),
}

//! What can go wrong around the emulated link.

use std::io;

use thiserror::Error;

/// Why the emulated link could not be set up, steered or kept running.
#[derive(Debug, Error)]
pub enum WanError {
    /// A figure of the configuration is out of its range.
    #[error("link parameter {name} = {value} is invalid: {reason}")]
    Invalid {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it, and what would be right.
        reason: &'static str,
    },
    /// The machine does not allow namespaces or TUN devices to this process.
    #[error(
        "the packet form needs {what}, and the system refused: {source}; {remedy}, or use the relay form"
    )]
    NotAllowed {
        /// What was asked for.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
        /// What would make it allowed.
        remedy: &'static str,
    },
    /// A system call failed that should not.
    #[error("{doing} failed: {source}")]
    System {
        /// What was being done.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The other end of the control channel said something unexpected, or nothing.
    #[error("control channel of the link emulator: {reason}")]
    Control {
        /// What, and what to do about it.
        reason: String,
    },
    /// The emulator refused a request.
    #[error("the link emulator refused: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
}

impl WanError {
    /// Turns an I/O error met while `doing` something into a [`WanError::System`].
    pub(crate) fn system<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        let doing = doing.into();
        move |source| Self::System { doing, source: source.into() }
    }
}

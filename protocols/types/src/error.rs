//! The error every front end shows: a kind that says what the caller must do, and a message that
//! names the thing, the reason and the remedy.

use std::fmt;

/// What the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A bounded buffer is full: try again after a pause.
    Busy,
    /// The service is shutting down: go to another node.
    Closed,
    /// Stored bytes do not match their checksum: repair them from the other site.
    Corrupt,
    /// A newer primary exists: go to it. Nothing was written.
    Fenced,
    /// The caller's certificate does not allow it: use one that does.
    Forbidden,
    /// The request is wrong: mend it, a retry will not help.
    Invalid,
    /// What the request names is not here: name something else. Nothing was changed.
    NotFound,
    /// The promise cannot be kept now: try again with the same request id.
    Unavailable,
    /// This node or version cannot do that.
    Unsupported,
    /// A fault of ours: report it.
    Internal,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Busy,
        Self::Closed,
        Self::Corrupt,
        Self::Fenced,
        Self::Forbidden,
        Self::Invalid,
        Self::NotFound,
        Self::Unavailable,
        Self::Unsupported,
        Self::Internal,
    ];

    /// The kind's name in messages, metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Closed => "closed",
            Self::Corrupt => "corrupt",
            Self::Fenced => "fenced",
            Self::Forbidden => "forbidden",
            Self::Invalid => "invalid",
            Self::NotFound => "not-found",
            Self::Unavailable => "unavailable",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        }
    }

    /// The kind's number on the wire. Never used again for another kind.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Busy => 1,
            Self::Closed => 2,
            Self::Corrupt => 3,
            Self::Fenced => 4,
            Self::Invalid => 5,
            Self::Unavailable => 6,
            Self::Unsupported => 7,
            Self::Internal => 8,
            Self::NotFound => 9,
            Self::Forbidden => 10,
        }
    }

    /// The kind with that number. An unknown number, from a newer release, is `Internal`: it is shown with its
    /// message and never retried. So a kind that asks for a retry cannot be added without a new message version.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        Self::ALL.into_iter().find(|kind| kind.code() == code).unwrap_or(Self::Internal)
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::Closed | Self::Unavailable)
    }
}

/// An error as the caller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An error of `kind`. The message names the thing, the reason and the remedy.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A request that must be mended.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Something that is not here.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Something that the caller's certificate does not allow.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, message)
    }

    /// A fault of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// A promise that cannot be kept now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// What the caller must do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The thing, the reason and the remedy.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn kinds_survive_the_wire() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.code()), kind);
        }
        let numbers: BTreeSet<u8> = ErrorKind::ALL.into_iter().map(ErrorKind::code).collect();
        assert_eq!(numbers, (1..=10).collect());
    }

    /// What a client of an earlier release makes of a kind that it does not know: an error, and no retry.
    #[test]
    fn an_unknown_kind_is_not_retried() {
        for code in [0, 11, 200, 255] {
            assert_eq!(ErrorKind::from_code(code), ErrorKind::Internal);
        }
        assert!(!ErrorKind::Internal.is_retryable());
        // The first release knew the numbers up to 8; what came later must be no reason to retry.
        assert!(ErrorKind::ALL.into_iter().filter(|kind| kind.code() > 8).all(|kind| !kind.is_retryable()));
    }
}

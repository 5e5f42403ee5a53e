//! What is asked of an append.

use std::time::Duration;

use bytes::Bytes;

use crate::limits::APPEND_BYTES_MAX;
use crate::{Durability, Error, LogId, RequestId, Risk, TraceContext};

/// Asks for an append, from the client to the storage server.
#[derive(Clone, Debug, PartialEq)]
pub struct AppendRequest {
    /// The log.
    pub log: LogId,
    /// The bytes.
    pub payload: Bytes,
    /// When to acknowledge.
    pub durability: Durability,
    /// Largest acceptable prefix risk at the network level.
    pub max_risk: Risk,
    /// When the log's degrade policy applies.
    pub deadline: Option<Duration>,
    /// Makes a retry safe.
    pub request: RequestId,
    /// Whether the safety path is wanted in the acknowledgement.
    pub explain: bool,
    /// The client's trace.
    pub trace: TraceContext,
}

impl AppendRequest {
    /// Checks what needs no knowledge of the node.
    ///
    /// # Errors
    /// `Invalid`: there are no bytes, or too many.
    pub fn check(&self) -> Result<(), Error> {
        let Self { log, payload, .. } = self;
        if payload.is_empty() {
            return Err(Error::invalid(format!("append to log {log}: it is empty; give at least one byte")));
        }
        if payload.len() > APPEND_BYTES_MAX {
            return Err(Self::too_long(*log, payload.len()));
        }
        Ok(())
    }

    /// The error for an append of `bytes` bytes, which is more than any append may have.
    #[must_use]
    pub fn too_long(log: LogId, bytes: usize) -> Error {
        Error::invalid(format!(
            "append to log {log}: {bytes} bytes are over the limit of {APPEND_BYTES_MAX}; split it into several appends"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_cannot_be_are_refused_with_a_remedy() {
        let append = |bytes: usize| {
            AppendRequest {
                log: LogId(7),
                payload: vec![0; bytes].into(),
                durability: Durability::Local,
                max_risk: Risk::CERTAIN,
                deadline: None,
                request: RequestId::NONE,
                explain: false,
                trace: TraceContext::default(),
            }
            .check()
        };
        assert_eq!(append(1), Ok(()));
        assert_eq!(append(APPEND_BYTES_MAX), Ok(()));
        assert!(append(0).unwrap_err().message().contains("log 7"));
        assert!(append(APPEND_BYTES_MAX + 1).unwrap_err().message().contains("split it"));
    }
}

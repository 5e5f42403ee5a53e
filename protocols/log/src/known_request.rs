//! What a log remembers of an append that its client has named.

use parhelion_types::{LogAddress, RequestId};
use parhelion_wire::crc32c;

use crate::record::{RecordHeader, RecordKind};

/// A stored append by its request id: what a second try is answered from, and held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownRequest {
    /// The client's name for the append.
    pub request: RequestId,
    /// The record's number in the log.
    pub number: u64,
    /// Where it is.
    pub address: LogAddress,
    /// Bytes of the append.
    pub length: u32,
    /// CRC-32C of the append.
    pub digest: u32,
}

impl KnownRequest {
    /// What is to be remembered of a record; `None` if it is no append, or has no request id.
    #[must_use]
    pub fn of(header: &RecordHeader) -> Option<Self> {
        let &RecordHeader { kind, request, number, address, length, digest, .. } = header;
        (kind == RecordKind::Append && !request.is_none()).then_some(Self {
            request,
            number,
            address,
            length,
            digest,
        })
    }

    /// Whether `payload` is what was stored, so that it may be answered as a second try.
    #[must_use]
    pub fn is_of(&self, payload: &[u8]) -> bool {
        self.length as usize == payload.len() && self.digest == crc32c(payload)
    }
}

//! The record: how a log stores a creation, an append or a freeing. Its bytes are the same at both sites.
//!
//! ```text
//!   0  magic u32       4  version u16     6  kind u8   7  level u8   8  log u32
//!  12  segment u32    16  offset u32     20  length u32
//!  24  number u64     32  time u64       40  epoch u32      44  flags u32
//!  48  request u128   64  trace u128     80  span u64
//!  88  digest u32     92  previous u32   96  checksum u32  100  reserved u32
//! 104  payload, `length` bytes; then zeros up to a multiple of 8, which are not part of the record
//! ```
//!
//! `digest` is the CRC-32C of the payload, `checksum` of the header before it, and `previous` repeats the
//! checksum of the record before. The chain makes a record meaningful at one place only: bytes that a
//! recycled file or a fenced primary left behind never continue a log.

use bytes::Bytes;
use parhelion_types::limits::APPEND_BYTES_MAX;
use parhelion_types::{Durability, Epoch, LogAddress, LogId, RecordKey, RequestId, SourceTime, TraceContext};
use parhelion_wire::{Announcement, crc32c};

use crate::fields::{Reader, Writer};

/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 104;

const MAGIC: u32 = u32::from_le_bytes(*b"PREC");
const VERSION: u16 = 1;
const CHECKSUM_AT: usize = 96;
const SAMPLED: u32 = 1;
/// Records start at multiples of this.
const ALIGN: u32 = 8;
const _: () = assert!((RECORD_HEADER_BYTES as u32).is_multiple_of(ALIGN));

/// What a record does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordKind {
    /// Creates the log: record 0 of every log.
    Create,
    /// Holds an append's bytes.
    #[default]
    Append,
    /// Frees appends.
    Free,
}

impl RecordKind {
    /// The kind's number on disk and on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Create => 1,
            Self::Append => 2,
            Self::Free => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Create, Self::Append, Self::Free].into_iter().find(|kind| kind.code() == code)
    }
}

/// What the writer of a record chooses; the log's tail adds the rest.
#[derive(Clone, Copy, Debug)]
pub struct RecordFields {
    /// What the record does.
    pub kind: RecordKind,
    /// The level that was asked for.
    pub durability: Durability,
    /// When the primary accepted it.
    pub time: SourceTime,
    /// The client's name for it.
    pub request: RequestId,
    /// The trace it belongs to.
    pub trace: TraceContext,
}

impl Default for RecordFields {
    fn default() -> Self {
        Self {
            kind: RecordKind::Append,
            durability: Durability::Local,
            time: SourceTime::default(),
            request: RequestId::NONE,
            trace: TraceContext::default(),
        }
    }
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecordHeader {
    /// What the record does.
    pub kind: RecordKind,
    /// The level that was asked for.
    pub durability: Durability,
    /// The log.
    pub log: LogId,
    /// Where the record is, at both sites.
    pub address: LogAddress,
    /// Bytes of the payload.
    pub length: u32,
    /// The record's number in the log, from 0.
    pub number: u64,
    /// When the primary accepted it.
    pub time: SourceTime,
    /// Epoch of the primary that placed it.
    pub epoch: Epoch,
    /// The client's name for it.
    pub request: RequestId,
    /// The trace it belongs to.
    pub trace: TraceContext,
    /// CRC-32C of the payload.
    pub digest: u32,
    /// Checksum of the header of the record before; 0 for record 0.
    pub previous: u32,
    /// Checksum of this header.
    pub checksum: u32,
}

impl RecordHeader {
    /// Log and number.
    #[must_use]
    pub fn key(&self) -> RecordKey {
        RecordKey { log: self.log, number: self.number }
    }

    /// What runs ahead of the record, so that it is known by name wherever it may be lost.
    #[must_use]
    pub fn announcement(&self) -> Announcement {
        Announcement {
            log: self.log,
            address: self.address,
            length: self.length,
            epoch: self.epoch,
            digest: self.digest,
            request: self.request,
        }
    }

    /// Bytes of header and payload.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.length as usize
    }

    /// Bytes that the record takes in its segment.
    #[must_use]
    pub fn stored_bytes(&self) -> u32 {
        stored_bytes(self.length)
    }

    /// Address behind the record. The record there may still start in the next segment.
    #[must_use]
    pub fn next_address(&self) -> LogAddress {
        LogAddress { offset: self.address.offset.saturating_add(self.stored_bytes()), ..self.address }
    }

    /// Reads and checks a header; says nothing of the payload. Number, segment and epoch have successors.
    ///
    /// # Errors
    /// Short, foreign, of another version, damaged, or with a field that no writer writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES).ok_or(RecordError::Short { bytes: bytes.len() })?;
        let mut reader = Reader::new(bytes);
        let (magic, version) = (reader.u32(), reader.u16());
        if magic != MAGIC {
            return Err(RecordError::Magic(magic));
        }
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let (kind, level) = (reader.u8(), reader.u8());
        let log = LogId(reader.u32());
        let address = LogAddress::new(reader.u32(), reader.u32());
        let (length, number, time) = (reader.u32(), reader.u64(), SourceTime(reader.u64()));
        let (epoch, flags) = (Epoch(reader.u32()), reader.u32());
        let request = RequestId(reader.u128());
        let (trace, span) = (reader.u128(), reader.u64());
        let (digest, previous, checksum) = (reader.u32(), reader.u32(), reader.u32());
        if crc32c(&bytes[..CHECKSUM_AT]) != checksum {
            return Err(RecordError::Header);
        }
        let kind = RecordKind::from_code(kind).ok_or(RecordError::Field("kind"))?;
        let durability = Durability::from_code(level).ok_or(RecordError::Field("durability"))?;
        if flags & !SAMPLED != 0 || reader.u32() != 0 {
            return Err(RecordError::Field("flags"));
        }
        if length as usize > APPEND_BYTES_MAX {
            return Err(RecordError::Field("length"));
        }
        // The largest value of each leaves no room for a successor: who holds a header may add one to any.
        let exhausted = [
            ("number", number == u64::MAX),
            ("segment", address.segment.0 == u32::MAX),
            ("epoch", epoch.0 == u32::MAX),
        ];
        if let Some((field, _)) = exhausted.into_iter().find(|(_, is_exhausted)| *is_exhausted) {
            return Err(RecordError::Field(field));
        }
        let trace = TraceContext { trace, span, sampled: flags == SAMPLED };
        Ok(Self {
            kind,
            durability,
            log,
            address,
            length,
            number,
            time,
            epoch,
            request,
            trace,
            digest,
            previous,
            checksum,
        })
    }

    /// Writes the header and sets its checksum.
    fn write(&mut self, bytes: &mut [u8]) {
        let mut writer = Writer::new(bytes);
        writer.u32(MAGIC);
        writer.u16(VERSION);
        writer.u8(self.kind.code());
        writer.u8(self.durability.code());
        writer.u32(self.log.0);
        writer.u32(self.address.segment.0);
        writer.u32(self.address.offset);
        writer.u32(self.length);
        writer.u64(self.number);
        writer.u64(self.time.0);
        writer.u32(self.epoch.0);
        writer.u32(if self.trace.sampled { SAMPLED } else { 0 });
        writer.u128(self.request.0);
        writer.u128(self.trace.trace);
        writer.u64(self.trace.span);
        writer.u32(self.digest);
        writer.u32(self.previous);
        self.checksum = crc32c(&bytes[..CHECKSUM_AT]);
        Writer::new(&mut bytes[CHECKSUM_AT..]).u32(self.checksum);
    }
}

/// Bytes that a record with that much payload takes in its segment.
#[must_use]
pub fn stored_bytes(length: u32) -> u32 {
    (RECORD_HEADER_BYTES as u32).saturating_add(length).saturating_add(ALIGN - 1) / ALIGN * ALIGN
}

/// A whole record: the header, and header and payload as they are stored and sent.
#[derive(Clone, PartialEq)]
pub struct Record {
    /// The fixed part.
    pub header: RecordHeader,
    bytes: Bytes,
}

impl Record {
    /// Lays a record out. One allocation; the payload is copied once, here.
    ///
    /// The caller has checked that the payload is within [`APPEND_BYTES_MAX`].
    #[must_use]
    pub(crate) fn build(mut header: RecordHeader, payload: &[u8]) -> Self {
        header.length = u32::try_from(payload.len()).expect("payloads are limited far below 4 GiB");
        header.digest = crc32c(payload);
        let mut bytes = Vec::with_capacity(RECORD_HEADER_BYTES + payload.len());
        bytes.resize(RECORD_HEADER_BYTES, 0);
        header.write(&mut bytes);
        bytes.extend_from_slice(payload);
        Self { header, bytes: bytes.into() }
    }

    /// Reads a record that is exactly `bytes`, and checks all of it.
    ///
    /// # Errors
    /// As [`RecordHeader::parse`], and where the payload is short, long or damaged.
    pub fn parse(bytes: Bytes) -> Result<Self, RecordError> {
        let header = RecordHeader::parse(&bytes)?;
        if bytes.len() != header.record_bytes() {
            return Err(RecordError::Length { bytes: bytes.len(), expected: header.record_bytes() });
        }
        if crc32c(&bytes[RECORD_HEADER_BYTES..]) != header.digest {
            return Err(RecordError::Payload);
        }
        Ok(Self { header, bytes })
    }

    /// Header and payload.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The payload, shared.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(RECORD_HEADER_BYTES..)
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Record").field(&self.header).finish()
    }
}

/// Bytes that are no record, or a damaged one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than a header.
    #[error("{bytes} bytes are too few for a record header of {RECORD_HEADER_BYTES}")]
    Short {
        /// What is there.
        bytes: usize,
    },
    /// No record starts here.
    #[error("no record: magic {0:#010x}")]
    Magic(u32),
    /// Written by a version that this one cannot read.
    #[error("record version {0} is not known; a newer release wrote it")]
    Version(u16),
    /// The header was changed.
    #[error("checksum of the record header does not match")]
    Header,
    /// The payload was changed.
    #[error("checksum of the record payload does not match")]
    Payload,
    /// A field that no writer writes.
    #[error("record field {0} is invalid")]
    Field(&'static str),
    /// More or fewer bytes than the header says.
    #[error("record of {bytes} bytes; its header says {expected}")]
    Length {
        /// What is there.
        bytes: usize,
        /// What should be.
        expected: usize,
    },
}

//! The log's formats: records, segments, and the rules by which one record follows another.
//!
//! A log is a sequence of [`Record`]s in segments. A [`Tail`] is the end of a log: the primary *places*
//! records with it, the mirror *accepts* them, and recovery *scans* them, so that both sites and every
//! restart agree on what the log is. Nothing here does I/O.

mod active;
mod fields;
mod known_request;
mod payload;
mod record;
mod scan;
mod segment;
mod tail;

pub use active::ActiveMap;
pub use known_request::KnownRequest;
pub use payload::{CreatePayload, FreePayload};
pub use record::{
    RECORD_HEADER_BYTES, Record, RecordError, RecordFields, RecordHeader, RecordKind, stored_bytes,
};
pub use scan::{Scan, ScanEnd};
pub use segment::{SEGMENT_HEADER_BYTES, SegmentError, SegmentHeader};
pub use tail::{Misplaced, Tail};

//! The header of a segment file.
//!
//! ```text
//!   0  magic u32    4  version u16   6  reserved u16    8  log u32    12  segment u32
//!  16  first record number u64      24  chain u32      28  checksum u32 (of bytes 0..28)
//!  32  zeros up to 64, where the first record starts
//! ```
//!
//! `chain` is the checksum of the record header before the first record, so that a segment can be scanned
//! on its own. The header is small: records of 4 KiB and more gain nothing from a whole block of padding.

use parhelion_types::{LogId, SegmentId};
use parhelion_wire::crc32c;

use crate::fields::{Reader, Writer};

/// Bytes of the header; the first record starts behind it.
pub const SEGMENT_HEADER_BYTES: u32 = 64;

const MAGIC: u32 = u32::from_le_bytes(*b"PSEG");
const VERSION: u16 = 1;
const CHECKSUM_AT: usize = 28;

/// What a segment file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log.
    pub log: LogId,
    /// The segment.
    pub segment: SegmentId,
    /// Number of its first record.
    pub first_number: u64,
    /// Checksum of the record header before its first record; 0 for the first segment.
    pub chain: u32,
}

/// Bytes that are no segment header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Too few bytes.
    #[error("{0} bytes are too few for a segment header of {SEGMENT_HEADER_BYTES}")]
    Short(usize),
    /// Not a segment file, or one that was never begun.
    #[error("no segment header: magic {0:#010x}")]
    Magic(u32),
    /// Written by a version that this one cannot read.
    #[error("segment version {0} is not known; a newer release wrote it")]
    Version(u16),
    /// The header was changed.
    #[error("checksum of the segment header does not match")]
    Checksum,
    /// A field that no writer writes: the largest number or segment has no successor.
    #[error("segment header field {0} is invalid")]
    Field(&'static str),
}

impl SegmentHeader {
    /// The bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        let mut writer = Writer::new(&mut bytes);
        writer.u32(MAGIC);
        writer.u16(VERSION);
        writer.u16(0);
        writer.u32(self.log.0);
        writer.u32(self.segment.0);
        writer.u64(self.first_number);
        writer.u32(self.chain);
        let checksum = crc32c(&bytes[..CHECKSUM_AT]);
        Writer::new(&mut bytes[CHECKSUM_AT..]).u32(checksum);
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// Short, foreign, of another version, damaged, or with a field that no writer writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, SegmentError> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES as usize).ok_or(SegmentError::Short(bytes.len()))?;
        let mut reader = Reader::new(bytes);
        let (magic, version) = (reader.u32(), reader.u16());
        if magic != MAGIC {
            return Err(SegmentError::Magic(magic));
        }
        if version != VERSION {
            return Err(SegmentError::Version(version));
        }
        let _reserved = reader.u16();
        let header = Self {
            log: LogId(reader.u32()),
            segment: SegmentId(reader.u32()),
            first_number: reader.u64(),
            chain: reader.u32(),
        };
        if reader.u32() != crc32c(&bytes[..CHECKSUM_AT]) {
            return Err(SegmentError::Checksum);
        }
        if header.segment.0 == u32::MAX {
            return Err(SegmentError::Field("segment"));
        }
        if header.first_number == u64::MAX {
            return Err(SegmentError::Field("first record number"));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_a_successor_are_refused() {
        let header = SegmentHeader { log: LogId(1), segment: SegmentId(2), first_number: 3, chain: 4 };
        for crafted in [
            SegmentHeader { segment: SegmentId(u32::MAX), ..header },
            SegmentHeader { first_number: u64::MAX, ..header },
        ] {
            let parsed = SegmentHeader::parse(&crafted.to_bytes());
            assert!(matches!(parsed, Err(SegmentError::Field(_))), "{parsed:?}");
        }
    }

    #[test]
    fn the_layout_is_frozen() {
        let header =
            SegmentHeader { log: LogId(0x0102), segment: SegmentId(0x0304), first_number: 5, chain: 6 };
        let bytes = header.to_bytes();
        assert_eq!(
            bytes[..28],
            [b'P', b'S', b'E', b'G', 1, 0, 0, 0, 2, 1, 0, 0, 4, 3, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0]
        );
        assert_eq!(SegmentHeader::parse(&bytes), Ok(header));
        for at in 0..32 {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert!(SegmentHeader::parse(&damaged).is_err(), "byte {at}");
        }
    }
}

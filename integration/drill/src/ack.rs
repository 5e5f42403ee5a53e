//! What a writer notes down of every acknowledgement.
//!
//! ```text
//!   0 sent ns u64 │ acked ns u64 │ request u128 │ own risk f64 │ prefix risk f64
//!  48 log u32 │ segment u32 │ offset u32 │ length u32 │ CRC-32C u32 │ writer u32
//!  72 reached u8 │ degraded u8 │ duplicate u8 │ zero u8 │ zero u32 │ sequence u64
//!  88 BLAKE3 [u8; 32] │ zero u32 │ CRC-32C of the 124 bytes before u32
//! ```
//! Times are those of `CLOCK_MONOTONIC`, one clock for all processes of the drill. The digests are those
//! of the bytes that the writer sent: what the mirror has must match them, whatever the primary says.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use parhelion_types::{Durability, LogAddress, LogId, RequestId, SegmentId};
use parhelion_wire::crc32c;

use crate::error::DrillError;

/// Bytes of one record.
pub const ACK_BYTES: usize = 128;

/// One acknowledgement, as the writer received it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ack {
    /// When the append was sent, nanoseconds on `CLOCK_MONOTONIC`.
    pub sent_nanos: u64,
    /// When its acknowledgement was there, nanoseconds on `CLOCK_MONOTONIC`.
    pub acked_nanos: u64,
    /// The append's name: run, writer and sequence.
    pub request: RequestId,
    /// The risk promised for this append.
    pub own_risk: f64,
    /// The risk promised for this append and all before it.
    pub prefix_risk: f64,
    /// The log.
    pub log: LogId,
    /// Where in the log.
    pub address: LogAddress,
    /// Bytes of the append.
    pub length: u32,
    /// CRC-32C of the bytes sent.
    pub crc: u32,
    /// BLAKE3 of the bytes sent.
    pub blake3: [u8; 32],
    /// Which writer.
    pub writer: u32,
    /// Which of its appends.
    pub sequence: u64,
    /// The level that was reached.
    pub reached: Durability,
    /// Whether the level is lower than asked.
    pub degraded: bool,
    /// Whether the append was sent more than once.
    pub duplicate: bool,
}

impl Ack {
    /// The name of the append number `sequence` of `writer` in run number `run`.
    #[must_use]
    pub fn request(run: u64, writer: u32, sequence: u64) -> RequestId {
        // Runs count from 1 here, so that no name is zero, which would mean "none".
        RequestId(
            (u128::from(run) + 1) << 80 | u128::from(writer) << 48 | u128::from(sequence & SEQUENCE_MAX),
        )
    }

    /// The writer that a name belongs to, if it is a name of run number `run`.
    #[must_use]
    pub fn writer_of(run: u64, request: RequestId) -> Option<u32> {
        let writer = u32::try_from(request.0 >> 48 & u128::from(u32::MAX)).ok()?;
        (request.0 >> 80 == u128::from(run) + 1).then_some(writer)
    }

    /// The record.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ACK_BYTES] {
        let mut out = Vec::with_capacity(ACK_BYTES);
        out.extend_from_slice(&self.sent_nanos.to_le_bytes());
        out.extend_from_slice(&self.acked_nanos.to_le_bytes());
        out.extend_from_slice(&self.request.0.to_le_bytes());
        out.extend_from_slice(&self.own_risk.to_le_bytes());
        out.extend_from_slice(&self.prefix_risk.to_le_bytes());
        for number in [
            self.log.0,
            self.address.segment.0,
            self.address.offset,
            self.length,
            self.crc,
            self.writer,
            u32::from_le_bytes([self.reached.code(), u8::from(self.degraded), u8::from(self.duplicate), 0]),
            0,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.blake3);
        out.extend_from_slice(&0_u32.to_le_bytes());
        let mut record = [0; ACK_BYTES];
        record[..CHECKSUM_AT].copy_from_slice(&out);
        record[CHECKSUM_AT..].copy_from_slice(&crc32c(&out).to_le_bytes());
        record
    }

    /// Reads a record; `None` when its checksum or a field is wrong.
    #[must_use]
    pub fn from_bytes(record: &[u8; ACK_BYTES]) -> Option<Self> {
        let (body, checksum) = record.split_at(CHECKSUM_AT);
        if checksum != crc32c(body).to_le_bytes() {
            return None;
        }
        let mut fields = Fields(body);
        let ack = Self {
            sent_nanos: u64::from_le_bytes(fields.next()?),
            acked_nanos: u64::from_le_bytes(fields.next()?),
            request: RequestId(u128::from_le_bytes(fields.next()?)),
            own_risk: f64::from_le_bytes(fields.next()?),
            prefix_risk: f64::from_le_bytes(fields.next()?),
            log: LogId(u32::from_le_bytes(fields.next()?)),
            address: LogAddress {
                segment: SegmentId(u32::from_le_bytes(fields.next()?)),
                offset: u32::from_le_bytes(fields.next()?),
            },
            length: u32::from_le_bytes(fields.next()?),
            crc: u32::from_le_bytes(fields.next()?),
            writer: u32::from_le_bytes(fields.next()?),
            reached: Durability::Local,
            degraded: false,
            duplicate: false,
            sequence: 0,
            blake3: [0; 32],
        };
        let [reached, degraded, duplicate, _, ..]: [u8; 8] = fields.next()?;
        Some(Self {
            reached: Durability::from_code(reached)?,
            degraded: degraded == 1,
            duplicate: duplicate == 1,
            sequence: u64::from_le_bytes(fields.next()?),
            blake3: fields.next()?,
            ..ack
        })
    }

    /// From sending to acknowledgement, in nanoseconds.
    #[must_use]
    pub fn latency_nanos(&self) -> u64 {
        self.acked_nanos.saturating_sub(self.sent_nanos)
    }

    /// Reads all records of a file, in the order they were written.
    ///
    /// # Errors
    /// The file cannot be read or a record is damaged or cut short.
    pub fn read_all(path: &Path) -> Result<Vec<Self>, DrillError> {
        let file = File::open(path).map_err(DrillError::file("opening", path))?;
        let length = file.metadata().map_err(DrillError::file("reading", path))?.len();
        let mut input = BufReader::with_capacity(1 << 20, file);
        let mut acks = Vec::new();
        let mut record = [0; ACK_BYTES];
        for index in 0..length.div_ceil(ACK_BYTES as u64) {
            input.read_exact(&mut record).map_err(DrillError::file("reading", path))?;
            let damaged = || DrillError::Damaged { path: path.to_owned(), index };
            acks.push(Self::from_bytes(&record).ok_or_else(damaged)?);
        }
        Ok(acks)
    }
}

const CHECKSUM_AT: usize = ACK_BYTES - 4;
const SEQUENCE_MAX: u64 = (1 << 48) - 1;

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn next<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An acknowledgement of append `sequence`, sent at `sent_nanos`, at an address that grows with it.
    pub(crate) fn ack(sequence: u64, sent_nanos: u64) -> Ack {
        let number = u32::try_from(sequence).unwrap();
        Ack {
            sent_nanos,
            acked_nanos: sent_nanos + 1_000_000,
            request: Ack::request(1, 2, sequence),
            own_risk: 1e-9,
            prefix_risk: 1e-8,
            log: LogId(1),
            address: LogAddress::new(0, 64 + number * 4200),
            length: 4096,
            crc: 0xdead_0000 | number,
            blake3: [7; 32],
            writer: 2,
            sequence,
            reached: Durability::Network,
            degraded: false,
            duplicate: false,
        }
    }

    #[test]
    fn records_survive_and_damage_is_noticed() {
        let original = Ack { degraded: true, reached: Durability::Remote, ..ack(5, 77) };
        let bytes = original.to_bytes();
        assert_eq!(Ack::from_bytes(&bytes), Some(original));
        for at in 0..ACK_BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 4;
            assert_eq!(Ack::from_bytes(&damaged), None, "byte {at}");
        }
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("acks");
        let bytes = [ack(0, 1).to_bytes(), ack(1, 2).to_bytes()].concat();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Ack::read_all(&path).unwrap(), [ack(0, 1), ack(1, 2)]);
        std::fs::write(&path, &bytes[..200]).unwrap();
        assert!(Ack::read_all(&path).is_err());
    }

    #[test]
    fn names_are_unique_and_never_none() {
        let names =
            [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (u64::from(u32::MAX), u32::MAX, SEQUENCE_MAX)]
                .map(|(run, writer, sequence)| Ack::request(run, writer, sequence));
        for (index, name) in names.iter().enumerate() {
            assert!(!name.is_none());
            let (run, writer) = [(0, 0), (0, 0), (0, 1), (1, 0), (u64::from(u32::MAX), u32::MAX)][index];
            assert_eq!(Ack::writer_of(run, *name), Some(writer));
            assert_eq!(Ack::writer_of(run + 1, *name), None);
            assert!(!names[..index].contains(name));
        }
    }
}

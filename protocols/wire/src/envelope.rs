//! The frame around every message: a fixed prelude, an rkyv body, and bulk bytes beside it.
//!
//! ```text
//!  0           4          6             8          12             16           20              24                32
//! ┌───────────┬──────────┬─────────────┬──────────┬──────────────┬────────────┬───────────────┬─────────────────┐
//! │ magic u32 │ kind u16 │ version u16 │ body u32 │ payload  u32 │ body   crc │ payload   crc │ correlation u64 │
//! └───────────┴──────────┴─────────────┴──────────┴──────────────┴────────────┴───────────────┴─────────────────┘
//! then `body` bytes of rkyv archive, then `payload` raw bytes
//! ```
//!
//! rkyv finds an archive's root from the end of the slice and checks structure, not integrity; hence the
//! exact lengths, the checksums and one frozen Rust type per kind and version. Bodies are read in place.

use std::marker::PhantomData;

use bytes::Bytes;
use parhelion_types::limits::{APPEND_BYTES_MAX, MESSAGE_BYTES_MAX};
use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::BoxedError;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Portable, Serialize};

use crate::bytes_at::{crc32c, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};

/// Bytes of the prelude.
pub const ENVELOPE_BYTES: usize = CORRELATION_AT + 8;

/// Largest payload of a frame: a record, which is the largest append behind a record header.
pub const PAYLOAD_BYTES_MAX: usize = APPEND_BYTES_MAX + (4 << 10);

/// "PHEL", read as a little-endian number.
const MAGIC: u32 = u32::from_le_bytes(*b"PHEL");
const KIND_AT: usize = 4;
const VERSION_AT: usize = KIND_AT + 2;
const BODY_AT: usize = VERSION_AT + 2;
const PAYLOAD_AT: usize = BODY_AT + 4;
const BODY_CRC_AT: usize = PAYLOAD_AT + 4;
const PAYLOAD_CRC_AT: usize = BODY_CRC_AT + 4;
const CORRELATION_AT: usize = PAYLOAD_CRC_AT + 4;
const _: () = assert!(ENVELOPE_BYTES == 32);

/// Bytes from outside that are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than the format needs.
    #[error("{what} of {bytes} bytes; at least {min} are needed")]
    Short {
        /// The format.
        what: &'static str,
        /// What came.
        bytes: usize,
        /// What it takes.
        min: usize,
    },
    /// More bytes than the limit allows.
    #[error("{what} of {bytes} bytes is over the limit of {max}")]
    Long {
        /// The format.
        what: &'static str,
        /// What was announced.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Not a Parhelion frame.
    #[error("not a Parhelion frame: magic {0:#010x}")]
    Magic(u32),
    /// The bytes changed on the way.
    #[error("checksum of the {what} does not match")]
    Checksum {
        /// The format.
        what: &'static str,
    },
    /// A message this version does not speak.
    #[error(
        "message kind {kind} version {version} is not known here; the other side is newer or no Parhelion node"
    )]
    Version {
        /// The kind.
        kind: u16,
        /// The version.
        version: u16,
    },
    /// A field that no writer writes.
    #[error("{what} is invalid")]
    Invalid {
        /// The field.
        what: &'static str,
    },
    /// The archive does not hold together.
    #[error("message kind {kind} is malformed: {reason}")]
    Structure {
        /// The kind.
        kind: u16,
        /// rkyv's finding.
        reason: String,
    },
}

/// A message body: one frozen type per kind and version.
pub trait Message: Archive {
    /// Number of the message.
    const KIND: u16;
    /// Number of this layout of it.
    const VERSION: u16 = 1;
}

/// The prelude of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Which message.
    pub kind: u16,
    /// Which layout of it.
    pub version: u16,
    /// Bytes of the archive.
    pub body_bytes: u32,
    /// Raw bytes after the archive.
    pub payload_bytes: u32,
    /// CRC-32C of the archive.
    pub body_crc: u32,
    /// CRC-32C of the raw bytes.
    pub payload_crc: u32,
    /// Joins an answer to its question.
    pub correlation: u64,
}

impl Envelope {
    /// The 32 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ENVELOPE_BYTES] {
        let mut bytes = [0; ENVELOPE_BYTES];
        put_u32(&mut bytes, 0, MAGIC);
        put_u16(&mut bytes, KIND_AT, self.kind);
        put_u16(&mut bytes, VERSION_AT, self.version);
        put_u32(&mut bytes, BODY_AT, self.body_bytes);
        put_u32(&mut bytes, PAYLOAD_AT, self.payload_bytes);
        put_u32(&mut bytes, BODY_CRC_AT, self.body_crc);
        put_u32(&mut bytes, PAYLOAD_CRC_AT, self.payload_crc);
        put_u64(&mut bytes, CORRELATION_AT, self.correlation);
        bytes
    }

    /// Reads a prelude and checks its limits; the caller may then allocate what it announces.
    ///
    /// # Errors
    /// Short, foreign, or over a limit.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() < ENVELOPE_BYTES {
            return Err(WireError::Short { what: "frame", bytes: bytes.len(), min: ENVELOPE_BYTES });
        }
        let magic = u32_at(bytes, 0);
        if magic != MAGIC {
            return Err(WireError::Magic(magic));
        }
        let envelope = Self {
            kind: u16_at(bytes, KIND_AT),
            version: u16_at(bytes, VERSION_AT),
            body_bytes: u32_at(bytes, BODY_AT),
            payload_bytes: u32_at(bytes, PAYLOAD_AT),
            body_crc: u32_at(bytes, BODY_CRC_AT),
            payload_crc: u32_at(bytes, PAYLOAD_CRC_AT),
            correlation: u64_at(bytes, CORRELATION_AT),
        };
        let over = |what, bytes: u32, max: usize| {
            if bytes as usize > max {
                Err(WireError::Long { what, bytes: bytes as usize, max })
            } else {
                Ok(())
            }
        };
        over("message body", envelope.body_bytes, MESSAGE_BYTES_MAX)?;
        over("message payload", envelope.payload_bytes, PAYLOAD_BYTES_MAX)?;
        Ok(envelope)
    }

    /// Bytes that follow the prelude.
    #[must_use]
    pub fn rest_bytes(&self) -> usize {
        self.body_bytes as usize + self.payload_bytes as usize
    }

    /// Splits what followed the prelude into body and payload and checks both checksums.
    ///
    /// # Errors
    /// The length is not exactly what the prelude announced, or a checksum does not match.
    pub fn split(&self, mut rest: Bytes) -> Result<(Bytes, Bytes), WireError> {
        if rest.len() != self.rest_bytes() {
            return Err(WireError::Short { what: "frame", bytes: rest.len(), min: self.rest_bytes() });
        }
        let payload = rest.split_off(self.body_bytes as usize);
        if crc32c(&rest) != self.body_crc {
            return Err(WireError::Checksum { what: "message body" });
        }
        if crc32c(&payload) != self.payload_crc {
            return Err(WireError::Checksum { what: "message payload" });
        }
        Ok((rest, payload))
    }
}

/// A body that was checked once and is read in place from then on.
pub struct Checked<T> {
    body: Bytes,
    message: PhantomData<fn() -> T>,
}

impl<T> Checked<T>
where
    T: Message,
    T::Archived: Portable + for<'a> CheckBytes<HighValidator<'a, BoxedError>>,
{
    /// Checks that `body` is a `T`.
    ///
    /// # Errors
    /// The envelope names another message or version, or the archive does not hold together.
    pub fn parse(envelope: &Envelope, body: Bytes) -> Result<Self, WireError> {
        if (envelope.kind, envelope.version) != (T::KIND, T::VERSION) {
            return Err(WireError::Version { kind: envelope.kind, version: envelope.version });
        }
        rkyv::access::<T::Archived, BoxedError>(&body)
            .map_err(|error| WireError::Structure { kind: T::KIND, reason: error.to_string() })?;
        Ok(Self { body, message: PhantomData })
    }

    /// The message, in place.
    #[must_use]
    pub fn get(&self) -> &T::Archived {
        // SAFETY: `parse` validated exactly these bytes as `T::Archived`. The workspace pins rkyv's
        // `unaligned` format, so any address will do; `Bytes` never changes under a shared reference.
        unsafe { rkyv::access_unchecked::<T::Archived>(&self.body) }
    }
}

impl<T> Clone for Checked<T> {
    fn clone(&self) -> Self {
        Self { body: self.body.clone(), message: PhantomData }
    }
}

/// The archive of `message`.
///
/// # Errors
/// Never for the messages of this crate: they hold plain values. The signature is rkyv's.
pub fn encode_body<T>(message: &T) -> Result<AlignedVec, WireError>
where
    T: Message + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, BoxedError>>,
{
    rkyv::to_bytes::<BoxedError>(message)
        .map_err(|error| WireError::Structure { kind: T::KIND, reason: error.to_string() })
}

/// Prelude and body of a frame; send the payload right behind them, without copying it.
///
/// # Errors
/// Body or payload are over their limits.
pub fn frame<T>(message: &T, payload: &[u8], correlation: u64) -> Result<Bytes, WireError>
where
    T: Message + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, BoxedError>>,
{
    let body = encode_body(message)?;
    let length = |what, bytes: usize, max: usize| {
        if bytes > max { Err(WireError::Long { what, bytes, max }) } else { Ok(bytes as u32) }
    };
    let envelope = Envelope {
        kind: T::KIND,
        version: T::VERSION,
        body_bytes: length("message body", body.len(), MESSAGE_BYTES_MAX)?,
        payload_bytes: length("message payload", payload.len(), PAYLOAD_BYTES_MAX)?,
        body_crc: crc32c(&body),
        payload_crc: crc32c(payload),
        correlation,
    };
    let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + body.len());
    bytes.extend_from_slice(&envelope.to_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::client::FailureV1;

    fn failure() -> FailureV1 {
        FailureV1 { kind: 5, message: "log 7 does not exist; create it first".to_owned() }
    }

    fn parse(bytes: &[u8]) -> Result<(Checked<FailureV1>, Bytes), WireError> {
        let envelope = Envelope::parse(bytes)?;
        let (body, payload) = envelope.split(Bytes::copy_from_slice(&bytes[ENVELOPE_BYTES..]))?;
        Ok((Checked::parse(&envelope, body)?, payload))
    }

    #[test]
    fn a_message_survives_the_wire() {
        let mut bytes = frame(&failure(), b"payload", 9).unwrap().to_vec();
        bytes.extend_from_slice(b"payload");
        let (message, payload) = parse(&bytes).unwrap();
        assert_eq!(message.get().message, "log 7 does not exist; create it first");
        assert_eq!(message.get().kind, 5);
        assert_eq!(&payload[..], b"payload");
        assert_eq!(Envelope::parse(&bytes).unwrap().correlation, 9);
    }

    #[test]
    fn limits_are_checked_before_anything_is_allocated() {
        let mut bytes = frame(&failure(), b"", 0).unwrap().to_vec();
        put_u32(&mut bytes, PAYLOAD_AT, u32::MAX);
        assert!(matches!(Envelope::parse(&bytes), Err(WireError::Long { what: "message payload", .. })));
        put_u32(&mut bytes, PAYLOAD_AT, 0);
        put_u32(&mut bytes, BODY_AT, u32::MAX);
        assert!(matches!(Envelope::parse(&bytes), Err(WireError::Long { what: "message body", .. })));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed(bit in 0usize..400) {
            let mut bytes = frame(&failure(), b"payload", 9).unwrap().to_vec();
            bytes.extend_from_slice(b"payload");
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            // The correlation is the caller's business: an answer to no question is dropped.
            if !(CORRELATION_AT..ENVELOPE_BYTES).contains(&(bit / 8)) {
                prop_assert!(parse(&bytes).is_err());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}

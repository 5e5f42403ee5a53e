//! Frames from a fuzzer's bytes, with lengths and checksums mended.

use bytes::Bytes;
use parhelion_wire::{ENVELOPE_BYTES, Envelope, crc32c};

/// Splits an input into frames as a stream of them would be, whatever their lengths and checksums say.
///
/// What is read of a prelude is its kind, version, body length and correlation. A length beyond the input is cut to
/// what is there. The last frame's payload is as long as the input.
pub(crate) struct Frames {
    rest: Bytes,
}

/// Most frames of one input.
const FRAMES_MAX: usize = 64;

impl Frames {
    pub(crate) fn split(input: &[u8]) -> impl Iterator<Item = (Envelope, Bytes, Bytes)> {
        Self { rest: Bytes::copy_from_slice(input) }.take(FRAMES_MAX)
    }
}

impl Iterator for Frames {
    type Item = (Envelope, Bytes, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.len() < ENVELOPE_BYTES {
            return None;
        }
        let prelude = self.rest.split_to(ENVELOPE_BYTES);
        // As a node reads it, where it can be read so.
        if let Ok(envelope) = Envelope::parse(&prelude) {
            let _ = envelope.split(self.rest.slice(..envelope.rest_bytes().min(self.rest.len())));
        }
        let field =
            |at: usize| u32::from_le_bytes([prelude[at], prelude[at + 1], prelude[at + 2], prelude[at + 3]]);
        let take = |bytes: u32, rest: &mut Bytes| rest.split_to((bytes as usize).min(rest.len()));
        let body = take(field(8), &mut self.rest);
        let payload = take(field(12), &mut self.rest);
        let mended = Envelope {
            kind: u16::from_le_bytes([prelude[4], prelude[5]]),
            version: u16::from_le_bytes([prelude[6], prelude[7]]),
            body_bytes: body.len() as u32,
            payload_bytes: payload.len() as u32,
            body_crc: crc32c(&body),
            payload_crc: crc32c(&payload),
            correlation: u64::from(field(24)) | u64::from(field(28)) << 32,
        };
        let envelope = Envelope::parse(&mended.to_bytes()).ok()?;
        assert_eq!(envelope, mended, "a prelude is read as it was written");
        let (body, payload) =
            envelope.split([body, payload].concat().into()).expect("a mended frame is whole");
        Some((envelope, body, payload))
    }
}

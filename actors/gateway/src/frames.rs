//! Messages on the stream: cut from the bytes that arrive, gathered into few writes.

use bytes::{Bytes, BytesMut};
use parhelion_wire::{Checked, ENVELOPE_BYTES, Envelope, Message, WireError, frame};
use quinn::{RecvStream, SendStream};
use rkyv::Portable;
use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::BoxedError;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;

use crate::error::SiteError;

/// A whole message, checked but for its structure.
pub(crate) struct Frame {
    pub(crate) envelope: Envelope,
    pub(crate) body: Bytes,
    pub(crate) payload: Bytes,
}

/// Cuts messages from a stream of bytes.
#[derive(Default)]
pub(crate) struct FrameParser {
    incoming: BytesMut,
}

/// Messages from a stream.
pub(crate) struct FrameReader {
    stream: RecvStream,
    parser: FrameParser,
}

/// Messages that will be written at one go.
#[derive(Default)]
pub(crate) struct FrameBatch {
    small: BytesMut,
    chunks: Vec<Bytes>,
}

/// Messages to a stream.
pub(crate) struct FrameWriter {
    stream: SendStream,
    /// What the next flush writes.
    pub(crate) batch: FrameBatch,
}

/// Bytes taken from the stream at one go.
const READ_BYTES_MAX: usize = 256 << 10;
/// Payloads up to this size are copied behind their message: a chunk of its own costs more.
const COPY_BYTES_MAX: usize = 512;

impl Frame {
    /// Whether it is an `M`, of whatever version.
    pub(crate) fn is<M: Message>(&self) -> bool {
        self.envelope.kind == M::KIND
    }

    /// The message, checked.
    pub(crate) fn read<M>(&self) -> Result<Checked<M>, WireError>
    where
        M: Message,
        M::Archived: Portable + for<'a> CheckBytes<HighValidator<'a, BoxedError>>,
    {
        Checked::parse(&self.envelope, self.body.clone())
    }

    /// Why it is refused here.
    pub(crate) fn out_of_place(&self) -> WireError {
        WireError::Version { kind: self.envelope.kind, version: self.envelope.version }
    }
}

impl FrameParser {
    /// Takes bytes of the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
    }

    /// The next whole message, if it is here.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, WireError> {
        if self.incoming.len() < ENVELOPE_BYTES {
            return Ok(None);
        }
        let envelope = Envelope::parse(&self.incoming)?;
        let bytes = ENVELOPE_BYTES + envelope.rest_bytes();
        if self.incoming.len() < bytes {
            // Once, for the whole of it; its size is within the limits.
            self.incoming.reserve(bytes - self.incoming.len());
            return Ok(None);
        }
        let message = self.incoming.split_to(bytes).freeze();
        let (body, payload) = envelope.split(message.slice(ENVELOPE_BYTES..))?;
        Ok(Some(Frame { envelope, body, payload }))
    }

    /// Bytes held for what is yet to come.
    pub(crate) fn held_bytes(&self) -> usize {
        self.incoming.capacity()
    }
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, parser: FrameParser::default() }
    }

    /// Waits for the next message. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Frame, SiteError> {
        loop {
            if let Some(frame) = self.parser.next()? {
                return Ok(frame);
            }
            let chunk = self.stream.read_chunk(READ_BYTES_MAX, true).await?.ok_or(SiteError::Ended)?;
            self.parser.push(&chunk.bytes);
        }
    }

    /// The next message, if it is here.
    pub(crate) fn try_next(&mut self) -> Result<Option<Frame>, SiteError> {
        Ok(self.parser.next()?)
    }
}

impl FrameBatch {
    /// Adds a message. Large payloads are not copied.
    pub(crate) fn push<M>(&mut self, message: &M, payload: Bytes, correlation: u64) -> Result<(), WireError>
    where
        M: Message + for<'a> rkyv::Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, BoxedError>>,
    {
        let head = frame(message, &payload, correlation)?;
        self.small.extend_from_slice(&head);
        if payload.len() <= COPY_BYTES_MAX {
            self.small.extend_from_slice(&payload);
        } else {
            self.chunks.push(self.small.split().freeze());
            self.chunks.push(payload);
        }
        Ok(())
    }

    /// What was added, as it goes over the wire.
    fn chunks(&mut self) -> &mut Vec<Bytes> {
        if !self.small.is_empty() {
            self.chunks.push(self.small.split().freeze());
        }
        &mut self.chunks
    }

    /// What was added, in one piece.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.chunks().concat()
    }
}

impl FrameWriter {
    pub(crate) fn new(stream: SendStream) -> Self {
        Self { stream, batch: FrameBatch::default() }
    }

    /// Writes the batch.
    pub(crate) async fn flush(&mut self) -> Result<(), SiteError> {
        let chunks = self.batch.chunks();
        self.stream.write_all_chunks(chunks).await?;
        chunks.clear();
        Ok(())
    }

    /// Says that nothing follows.
    pub(crate) fn finish(&mut self) {
        // Fails only where the stream was reset, which its reader notices.
        let _ = self.stream.finish();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What `batch` looks like to its reader.
    pub(crate) fn sent(batch: &mut FrameBatch) -> Vec<Frame> {
        let mut parser = FrameParser::default();
        parser.push(&std::mem::take(batch.chunks()).concat());
        std::iter::from_fn(|| parser.next().unwrap()).collect()
    }
}

//! Messages on the control stream of the critical lane.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use parhelion_wire::{ENVELOPE_BYTES, Envelope, WireError};
use quinn_proto::{Connection, ReadError, StreamId, WriteError};

/// One end of the control stream: messages in, messages out, and what of them waits.
#[derive(Debug)]
pub(crate) struct ControlStream {
    id: StreamId,
    incoming: BytesMut,
    outgoing: VecDeque<Bytes>,
}

/// Why the control stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("the control stream ended; the peer is restarting or at fault")]
    Ended,
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Bytes taken from the stream at one go.
const READ_BYTES_MAX: usize = 64 << 10;

impl ControlStream {
    pub(crate) fn new(id: StreamId) -> Self {
        Self { id, incoming: BytesMut::new(), outgoing: VecDeque::new() }
    }

    pub(crate) fn id(&self) -> StreamId {
        self.id
    }

    /// Queues a message; [`ControlStream::flush`] writes it.
    pub(crate) fn send(&mut self, message: Bytes) {
        self.outgoing.push_back(message);
    }

    /// Writes as much as flow control allows.
    pub(crate) fn flush(&mut self, connection: &mut Connection) -> Result<(), ControlError> {
        while let Some(message) = self.outgoing.front_mut() {
            match connection.send_stream(self.id).write(message) {
                Ok(written) => {
                    message.advance(written);
                    if message.is_empty() {
                        self.outgoing.pop_front();
                    }
                }
                Err(WriteError::Blocked) => break,
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => return Err(ControlError::Ended),
            }
        }
        Ok(())
    }

    /// The next whole message: envelope and body. A message of this stream has no payload.
    pub(crate) fn receive(
        &mut self,
        connection: &mut Connection,
    ) -> Result<Option<(Envelope, Bytes)>, ControlError> {
        loop {
            if self.incoming.len() >= ENVELOPE_BYTES {
                let envelope = Envelope::parse(&self.incoming)?;
                if envelope.payload_bytes != 0 {
                    return Err(WireError::Invalid { what: "payload of a control message" }.into());
                }
                let bytes = ENVELOPE_BYTES + envelope.rest_bytes();
                if self.incoming.len() >= bytes {
                    let mut message = self.incoming.split_to(bytes).freeze();
                    message.advance(ENVELOPE_BYTES);
                    let (body, _) = envelope.split(message)?;
                    return Ok(Some((envelope, body)));
                }
            }
            let mut stream = connection.recv_stream(self.id);
            let Ok(mut chunks) = stream.read(true) else { return Err(ControlError::Ended) };
            let next = chunks.next(READ_BYTES_MAX);
            // Whatever this makes sendable goes out with the lane's next flush.
            let _ = chunks.finalize();
            match next {
                Ok(Some(chunk)) => self.incoming.extend_from_slice(&chunk.bytes),
                Err(ReadError::Blocked) => return Ok(None),
                Ok(None) | Err(ReadError::Reset(_)) => return Err(ControlError::Ended),
            }
        }
    }
}

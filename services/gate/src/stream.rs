//! Frames on a QUIC stream, for both ends.

use bytes::{Bytes, BytesMut};
use parhelion_wire::{ENVELOPE_BYTES, Envelope, WireError};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::sync::mpsc;

/// What ends a stream of frames.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The other side sent something that is no frame, or one over a limit. Nothing after it can be read.
    #[error("{error}")]
    Frame {
        /// What is wrong.
        error: WireError,
        /// The frame's correlation, if it is a frame.
        correlation: u64,
    },
    /// The stream ended within a frame, or the frame took too long.
    #[error("the stream ended within a frame, or the frame took too long")]
    Torn,
    /// The connection or the stream is gone.
    #[error("{0}")]
    Lost(#[from] ReadError),
}

/// Frames that come on a stream.
///
/// Takes from QUIC what has arrived in the pieces in which it arrived, each under one lock of the connection,
/// however many frames it holds. A frame is copied out of them into memory of its own: a piece keeps all packets
/// alive that the kernel delivered with it, which is more than a frame is counted for.
#[derive(Debug)]
pub struct Frames {
    stream: RecvStream,
    piece: Bytes,
}

/// A frame to be written, with what is given back once it is.
#[derive(Debug)]
pub struct Outgoing<T> {
    /// Prelude and body.
    pub head: Bytes,
    /// Raw bytes behind them.
    pub payload: Bytes,
    /// Dropped when QUIC has taken the frame.
    pub held: T,
}

/// Most frames written at one go.
const BATCH_FRAMES: usize = 64;

/// No limit to a piece: it is at most what one packet carries.
const PIECE_BYTES_MAX: usize = usize::MAX;

impl Frames {
    /// The frames of a stream.
    #[must_use]
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, piece: Bytes::new() }
    }

    /// Reads the prelude of the next frame; none if the other side is done. Dropping the future loses the
    /// place in the stream.
    ///
    /// # Errors
    /// The connection is gone, or what came is no frame.
    pub async fn envelope(&mut self) -> Result<Option<Envelope>, StreamError> {
        let mut prelude = [0; ENVELOPE_BYTES];
        let mut have = 0;
        while have < ENVELOPE_BYTES {
            match self.take(ENVELOPE_BYTES - have).await {
                Ok(piece) => {
                    prelude[have..have + piece.len()].copy_from_slice(&piece);
                    have += piece.len();
                }
                Err(StreamError::Torn) if have == 0 => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        match Envelope::parse(&prelude) {
            Ok(envelope) => Ok(Some(envelope)),
            Err(error) => {
                // The correlation is the prelude's last field; it lets a frame over a limit be answered.
                let mut last = [0; 8];
                last.copy_from_slice(&prelude[ENVELOPE_BYTES - 8..]);
                let correlation =
                    if matches!(error, WireError::Long { .. }) { u64::from_le_bytes(last) } else { 0 };
                Err(StreamError::Frame { error, correlation })
            }
        }
    }

    /// Reads body and payload behind a prelude, into one allocation of their size.
    ///
    /// # Errors
    /// The connection is gone, or a checksum does not match.
    pub async fn rest(&mut self, envelope: &Envelope) -> Result<(Bytes, Bytes), StreamError> {
        let bytes = envelope.rest_bytes();
        let mut rest = BytesMut::with_capacity(bytes);
        while rest.len() < bytes {
            let piece = self.take(bytes - rest.len()).await?;
            rest.extend_from_slice(&piece);
        }
        envelope
            .split(rest.freeze())
            .map_err(|error| StreamError::Frame { error, correlation: envelope.correlation })
    }

    /// At least one and at most `bytes` bytes of what has arrived.
    async fn take(&mut self, bytes: usize) -> Result<Bytes, StreamError> {
        if self.piece.is_empty() {
            let chunk = self.stream.read_chunk(PIECE_BYTES_MAX, true).await?;
            self.piece = chunk.ok_or(StreamError::Torn)?.bytes;
        }
        Ok(self.piece.split_to(bytes.min(self.piece.len())))
    }
}

/// Writes frames in the order of the queue until it closes, then finishes the stream and gives it back.
///
/// # Errors
/// The connection is gone, or the other side stopped reading.
pub async fn write_frames<T>(
    mut stream: SendStream,
    mut queue: mpsc::Receiver<Outgoing<T>>,
) -> Result<SendStream, WriteError> {
    let mut batch = Vec::with_capacity(BATCH_FRAMES);
    let mut chunks = Vec::with_capacity(2 * BATCH_FRAMES);
    while queue.recv_many(&mut batch, BATCH_FRAMES).await > 0 {
        for outgoing in &mut batch {
            chunks.push(std::mem::take(&mut outgoing.head));
            if !outgoing.payload.is_empty() {
                chunks.push(std::mem::take(&mut outgoing.payload));
            }
        }
        stream.write_all_chunks(&mut chunks).await?;
        chunks.clear();
        batch.clear();
    }
    // Fails only if the stream was reset, which `stopped` will tell whoever asks.
    let _ = stream.finish();
    Ok(stream)
}

//! Frames on a QUIC stream, for both ends.

use bytes::{Bytes, BytesMut};
use parhelion_wire::{ENVELOPE_BYTES, Envelope, WireError};
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};
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

/// Reads the prelude of the next frame; none if the other side is done.
///
/// # Errors
/// The connection is gone, or what came is no frame.
pub async fn read_envelope(stream: &mut RecvStream) -> Result<Option<Envelope>, StreamError> {
    let mut prelude = [0; ENVELOPE_BYTES];
    match stream.read_exact(&mut prelude).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(error.into()),
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

/// Reads body and payload behind a prelude, into one allocation of exactly their size.
///
/// # Errors
/// The connection is gone, or a checksum does not match.
pub async fn read_rest(stream: &mut RecvStream, envelope: &Envelope) -> Result<(Bytes, Bytes), StreamError> {
    let mut rest = BytesMut::zeroed(envelope.rest_bytes());
    stream.read_exact(&mut rest).await?;
    envelope
        .split(rest.freeze())
        .map_err(|error| StreamError::Frame { error, correlation: envelope.correlation })
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

impl From<ReadExactError> for StreamError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => Self::Torn,
            ReadExactError::ReadError(error) => Self::Lost(error),
        }
    }
}

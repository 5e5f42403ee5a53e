//! The channel between parent and emulator: one Unix stream socket, one JSON object per line.
//!
//! The parent's first line is [`Start`], with the TUN devices attached as ancillary data; the emulator
//! answers `Ready`. Then the parent sends requests and the emulator answers each, in order. When the
//! parent closes its end, or dies, the emulator stops.

use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Direction, Loss, RelayFlow, Side, TcpProgress, WanConfig, WanCounters, WanError};

/// The parent's first line: what to emulate.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "snake_case")]
pub(crate) enum Start {
    /// Between the two TUN devices that come with the line, site A's first.
    Packet {
        /// The link.
        wan: WanConfig,
    },
    /// Between ports.
    Relay {
        /// The link.
        wan: WanConfig,
        /// The ports.
        flows: Vec<RelayFlow>,
    },
}

/// What the parent asks for.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Change the loss of one direction, or of both.
    SetLoss { direction: Option<Direction>, loss: Loss },
    /// Cut the fibre at the end of `side`.
    Cut { side: Side, at_nanos: u64 },
    /// Cut it, and lose what it holds.
    Partition { at_nanos: u64 },
    /// Join it again.
    Heal,
    /// Read the counters.
    Counters,
    /// Tell how far the bytes of TCP connections came.
    TcpProgress { direction: Direction },
    /// End the emulator.
    Stop,
}

/// What the emulator answers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(crate) enum Reply {
    /// Packets are carried from now on. The relay form lists where it listens, in the order of its flows.
    Ready { addresses: Vec<SocketAddr> },
    /// Done, with effect from this moment on `CLOCK_MONOTONIC`.
    Done { at_nanos: u64 },
    /// The counters.
    Counters(Box<WanCounters>),
    /// The connections of the direction asked for.
    TcpProgress { streams: Vec<TcpProgress> },
    /// Not done.
    Failed { reason: String },
}

/// One end of the channel.
///
/// The emulator gets its end from the hidden subcommand's standard input: [`crate::run_emulator`].
#[derive(Debug)]
pub struct ControlSocket {
    stream: UnixStream,
    /// Bytes received beyond the last line.
    received: Vec<u8>,
    /// Descriptors received and not yet taken.
    descriptors: Vec<OwnedFd>,
}

impl ControlSocket {
    /// One end of a connected Unix stream socket.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new(), descriptors: Vec::new() }
    }

    /// How long [`ControlSocket::receive`] waits; for ever if `None`.
    pub(crate) fn set_timeout(&self, timeout: Option<Duration>) -> Result<(), WanError> {
        self.stream.set_read_timeout(timeout).map_err(WanError::system("setting the control timeout"))
    }

    /// Whether a whole line is here already, so that waiting for the socket to be readable would be wrong.
    pub(crate) fn has_line(&self) -> bool {
        self.received.contains(&b'\n')
    }

    /// Sends one line, and descriptors with its first byte.
    pub(crate) fn send<T: Serialize>(
        &mut self,
        line: &T,
        attached: &[BorrowedFd<'_>],
    ) -> Result<(), WanError> {
        let mut bytes = serde_json::to_vec(line)
            .map_err(|error| WanError::Control { reason: format!("a line cannot be written: {error}") })?;
        bytes.push(b'\n');
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !attached.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(attached)) {
            return Err(WanError::Control {
                reason: format!(
                    "{} descriptors do not fit one line: send at most {DESCRIPTORS_MAX}",
                    attached.len()
                ),
            });
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)
            .map_err(gone)?;
        self.stream.write_all(bytes.get(sent..).unwrap_or_default()).map_err(gone)
    }

    /// The next line; `None` if the other end has closed the channel.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WanError> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|error| WanError::Control {
                    reason: format!(
                        "line {:?} is not understood ({error}): parent and emulator must be the same binary",
                        String::from_utf8_lossy(&line)
                    ),
                });
            }
            if self.received.len() > LINE_BYTES_MAX {
                return Err(WanError::Control {
                    reason: format!("a line exceeds {LINE_BYTES_MAX} bytes: this is not a link emulator"),
                });
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    /// The descriptors that came with the lines received so far.
    pub(crate) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// Reads what there is. Zero bytes mean that the other end has closed.
    fn fill(&mut self) -> Result<usize, WanError> {
        let mut chunk = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let bytes = loop {
            let mut buffers = [IoSliceMut::new(&mut chunk)];
            match recvmsg(&self.stream, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => break message.bytes,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    return Err(WanError::Control {
                        reason: "no answer in time: the emulator hangs, or the machine is overloaded".into(),
                    });
                }
                Err(error) => return Err(gone(error)),
            }
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        self.received.extend_from_slice(chunk.get(..bytes).unwrap_or_default());
        Ok(bytes)
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn gone<E: Into<std::io::Error>>(error: E) -> WanError {
    WanError::Control { reason: format!("the other end is gone ({}): see its messages", error.into()) }
}

/// The two TUN devices.
const DESCRIPTORS_MAX: usize = 2;

/// Far above any line: a start with a thousand flows takes 150 kB.
const LINE_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LinkConfig, monotonic_now};

    fn pair() -> (ControlSocket, ControlSocket) {
        let (one, other) = UnixStream::pair().unwrap();
        (ControlSocket::new(one), ControlSocket::new(other))
    }

    #[test]
    fn lines_and_descriptors_cross() {
        let (mut parent, mut child) = pair();
        let file = std::fs::File::open("/dev/null").unwrap();
        let start = Start::Packet { wan: WanConfig::symmetric(u64::MAX, LinkConfig::default()) };
        parent.send(&start, &[file.as_fd(), file.as_fd()]).unwrap();
        let request = Request::Cut { side: Side::A, at_nanos: monotonic_now().as_nanos() };
        parent.send(&request, &[]).unwrap();
        assert_eq!(child.receive::<Start>().unwrap().unwrap(), start);
        assert_eq!(child.take_descriptors().len(), 2);
        assert_eq!(child.receive::<Request>().unwrap().unwrap(), request);
        let reply = Reply::Counters(Box::default());
        child.send(&reply, &[]).unwrap();
        assert_eq!(parent.receive::<Reply>().unwrap().unwrap(), reply);
        drop(child);
        assert!(parent.receive::<Reply>().unwrap().is_none(), "end of the channel");
    }

    #[test]
    fn nonsense_and_silence_are_errors() {
        let (mut parent, mut child) = pair();
        parent.stream.write_all(b"{\"request\":\"explode\"}\n").unwrap();
        let error = child.receive::<Request>().unwrap_err().to_string();
        assert!(error.contains("explode"), "{error}");
        child.set_timeout(Some(Duration::from_millis(5))).unwrap();
        let error = child.receive::<Request>().unwrap_err().to_string();
        assert!(error.contains("no answer in time"), "{error}");
        let flood = std::thread::spawn(move || {
            let _ = parent.stream.write_all(&vec![b'x'; LINE_BYTES_MAX + 8192]);
        });
        child.set_timeout(Some(Duration::from_secs(5))).unwrap();
        let error = child.receive::<Request>().unwrap_err().to_string();
        assert!(error.contains("exceeds"), "{error}");
        drop(child);
        flood.join().unwrap();
    }
}

//! One connection: questions out, answers in, joined by their correlation.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use parhelion_gate::quic::{CLOSE_DONE, CLOSE_PROTOCOL, CLOSE_REFUSED};
use parhelion_gate::stream::{Frames, Outgoing, StreamError, write_frames};
use parhelion_gate::tls::SERVER_NAME;
use parhelion_gate::{Answer, Question};
use parhelion_types::{Error, LogId};
use parhelion_wire::client::GiveUpV1;
use parhelion_wire::frame;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream};
use tokio::sync::{mpsc, oneshot};

/// A live connection, or one that was live. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connection,
    outgoing: mpsc::Sender<Outgoing<()>>,
    /// A stream of its own for what is given up: it must not wait behind questions that wait.
    given_up: mpsc::Sender<Outgoing<()>>,
    waiting: Arc<Waiting>,
}

/// Bytes that a connection has carried, QUIC's own included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// To the node.
    pub sent: u64,
    /// From the node.
    pub received: u64,
}

/// Why a connection is no more.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// It may be made again.
    #[error("{0}")]
    Gone(String),
    /// It would end in the same way again.
    #[error("{0}")]
    Refused(Error),
}

/// Calls that wait for their answers.
#[derive(Debug, Default)]
struct Waiting {
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    by_correlation: HashMap<u64, oneshot::Sender<Result<Answer, Error>>>,
    lost: Option<Lost>,
}

/// Questions that may wait for the writing task; their bytes are the callers'.
const QUESTIONS_QUEUED: usize = 64;
/// Appends given up that may wait for the writing task of their stream. One beyond costs the node what the append holds
/// until it is answered.
const GIVEN_UP_QUEUED: usize = 1024;
/// QUIC reports a TLS alert as this plus the alert's number (RFC 9001 section 4.8).
const CRYPTO_ERRORS: std::ops::Range<u64> = 0x100..0x200;
/// The alert no_application_protocol (RFC 7301 section 3.2): whoever listens there speaks something else.
const OTHER_PROTOCOL: u64 = 0x178;
/// Correlation of the question that proves a new connection.
const PROOF: u64 = 0;

impl Session {
    /// Connects, and makes sure that the node takes this client: TLS tells a client that it is connected before
    /// the node has seen its certificate, so only an answer proves it.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        config: ClientConfig,
        address: SocketAddr,
    ) -> Result<Self, Lost> {
        let connecting = endpoint.connect_with(config, address, SERVER_NAME);
        let connecting = connecting.map_err(|error| {
            Lost::Refused(Error::invalid(format!(
                "cannot connect to {address}: {error}; give another address"
            )))
        })?;
        let connection = connecting.await.map_err(|error| lost(address, &error))?;
        let (send, receive) = connection.open_bi().await.map_err(|error| lost(address, &error))?;
        // Seen by the node when something is written to it.
        let (second, _) = connection.open_bi().await.map_err(|error| lost(address, &error))?;
        let (outgoing, queue) = mpsc::channel(QUESTIONS_QUEUED);
        let (given_up, given_up_queue) = mpsc::channel(GIVEN_UP_QUEUED);
        let waiting = Arc::new(Waiting::default());
        // The reader notices what ends the connection; the writer's error would say the same.
        tokio::spawn(write_frames(send, queue));
        tokio::spawn(write_frames(second, given_up_queue));
        tokio::spawn(read_answers(connection.clone(), receive, waiting.clone()));
        let session = Self { connection, outgoing, given_up, waiting };
        // No log has this number, so the answer is short.
        let (head, payload) =
            Question::List { from: LogId(u32::MAX) }.to_frame(PROOF).map_err(Lost::Refused)?;
        session.ask(PROOF, head, payload, false).await?.map_err(Lost::Refused)?;
        Ok(session)
    }

    /// What it has carried.
    pub(crate) fn traffic(&self) -> Traffic {
        let stats = self.connection.stats();
        Traffic { sent: stats.udp_tx.bytes, received: stats.udp_rx.bytes }
    }

    /// Whether it can still be used, as far as known.
    pub(crate) fn is_live(&self) -> bool {
        self.waiting.lock().lost.is_none()
    }

    /// Asks, and waits for the answer as long as the connection lasts. May be dropped at any time. The node hears of it
    /// if that was an append, which may wait for very long.
    pub(crate) async fn ask(
        &self,
        correlation: u64,
        head: Bytes,
        payload: Bytes,
        is_append: bool,
    ) -> Result<Result<Answer, Error>, Lost> {
        let (answer, answered) = oneshot::channel();
        self.waiting.enter(correlation, answer)?;
        let _forget = Forget { session: self, correlation, is_append };
        // Fails when the writing task is gone; the reader finds out why and says so to all who wait.
        let _ = self.outgoing.send(Outgoing { head, payload, held: () }).await;
        match answered.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.waiting.reason()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.close(CLOSE_DONE, b"the client is done");
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        // Nothing panics while it holds the lock; what it guards is whole in any case.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, correlation: u64, answer: oneshot::Sender<Result<Answer, Error>>) -> Result<(), Lost> {
        let mut calls = self.lock();
        if let Some(lost) = &calls.lost {
            return Err(lost.clone());
        }
        calls.by_correlation.insert(correlation, answer);
        Ok(())
    }

    fn reason(&self) -> Lost {
        self.lock().lost.clone().unwrap_or_else(|| Lost::Gone("the connection ended".to_owned()))
    }

    /// Ends all calls.
    fn lose(&self, reason: Lost) {
        let mut calls = self.lock();
        calls.lost = Some(reason);
        calls.by_correlation.clear();
    }
}

/// Forgets a call when its future is done or dropped.
struct Forget<'a> {
    session: &'a Session,
    correlation: u64,
    is_append: bool,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let is_unanswered = self.session.waiting.lock().by_correlation.remove(&self.correlation).is_some();
        if is_unanswered
            && self.is_append
            && let Ok(head) = frame(&GiveUpV1 {}, &[], self.correlation)
        {
            // Best effort: see the channel's bound. A connection that is gone has given up everything.
            let _ = self.session.given_up.try_send(Outgoing { head, payload: Bytes::new(), held: () });
        }
    }
}

async fn read_answers(connection: Connection, receive: RecvStream, waiting: Arc<Waiting>) {
    let mut frames = Frames::new(receive);
    let address = connection.remote_address();
    let reason = loop {
        let frame = async {
            let Some(envelope) = frames.envelope().await? else { return Ok(None) };
            let (body, payload) = frames.rest(&envelope).await?;
            Ok::<_, StreamError>(Some((envelope.correlation, Answer::parse(&envelope, body, payload))))
        };
        match frame.await {
            Ok(Some((correlation, answer))) => {
                let call = waiting.lock().by_correlation.remove(&correlation);
                // A call that was given up has no one waiting.
                if let Some(call) = call {
                    let _ = call.send(answer);
                }
            }
            // The node finishes the stream when it stops, and says why when it closes the connection.
            Ok(None) => break Lost::Gone(format!("the node at {address} is stopping")),
            Err(StreamError::Frame { error, .. }) => {
                connection.close(CLOSE_PROTOCOL, error.to_string().as_bytes());
                let message =
                    format!("what {address} answers is not the protocol: {error}; check the address");
                break Lost::Refused(Error::internal(message));
            }
            Err(error) => {
                let closed = connection.close_reason();
                break closed.map_or_else(|| Lost::Gone(error.to_string()), |reason| lost(address, &reason));
            }
        }
    };
    tracing::debug!(%address, %reason, "connection lost");
    waiting.lose(reason);
}

/// Whether a connection that ended so should be made again.
fn lost(address: SocketAddr, error: &ConnectionError) -> Lost {
    let refused = |message: String| Lost::Refused(Error::forbidden(message));
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason);
            match close.error_code {
                CLOSE_REFUSED => refused(format!("the node at {address} refused this client: {reason}")),
                CLOSE_PROTOCOL => Lost::Refused(Error::internal(format!(
                    "the node at {address} did not understand this client: {reason}; use the same release at both ends"
                ))),
                _ => Lost::Gone(format!("the node at {address} closed the connection: {reason}")),
            }
        }
        ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == OTHER_PROTOCOL => {
            Lost::Refused(not_an_api(address))
        }
        ConnectionError::TransportError(error) if u64::from(error.code) == OTHER_PROTOCOL => {
            Lost::Refused(not_an_api(address))
        }
        ConnectionError::ConnectionClosed(close) if is_crypto(u64::from(close.error_code)) => {
            refused(format!(
                "the node at {address} refused this client's certificate: {}; use one that its authority has issued",
                String::from_utf8_lossy(&close.reason)
            ))
        }
        ConnectionError::TransportError(error) if is_crypto(u64::from(error.code)) => {
            Lost::Refused(Error::invalid(format!(
                "the certificate of the node at {address} cannot be trusted: {}; use the authority that issued it",
                error.reason
            )))
        }
        other => Lost::Gone(format!("no connection to {address}: {other}")),
    }
}

fn not_an_api(address: SocketAddr) -> Error {
    Error::invalid(format!(
        "what listens at {address} is no node's API, but another part of a node or something else; give the address of \
         api.listen"
    ))
}

fn is_crypto(code: u64) -> bool {
    CRYPTO_ERRORS.contains(&code)
}

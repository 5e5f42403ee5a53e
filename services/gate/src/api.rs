//! The QUIC front end for clients.
//!
//! One task reads a stream, one writes it, and every question has a task of its own between them. What is
//! held for clients is bounded, and the reading task stops at a bound, so that QUIC's flow control stops the
//! client:
//!
//! | what | bound | shared by |
//! | --- | --- | --- |
//! | connections | [`ApiConfig::connections_max`] | the node |
//! | bytes of questions: of appends until they are durable here, of others until they are answered | [`ApiConfig::in_flight`] | the node |
//! | questions that are not answered | [`ApiConfig::questions_max`] | a client's connection |
//! | bytes of answers that are not sent | [`ANSWER_BYTES_MAX`] | a connection |
//!
//! What a connection holds of its own bounds is entered first, so that a client that does not read its answers waits
//! with nothing of what is shared. Another node of the site asks for all its clients; its appends are bounded by what
//! it may pass on, and by what may wait here.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use parhelion_credit::{Budget, Credit};
use parhelion_types::limits::{APPEND_BYTES_MAX, WAITING_APPEND_BYTES};
use parhelion_types::{Error, ErrorKind, Role, SiteId};
use parhelion_wire::client::{AppendV1, GiveUpV1};
use parhelion_wire::{Envelope, Message};
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::answer::{Answer, ENTRIES_PAGE, LOGS_PAGE, failure_frame};
use crate::backend::Backend;
use crate::question::{Question, refused};
use crate::quic::{self, CLOSE_PROTOCOL, CLOSE_REFUSED, CLOSE_STOPPING};
use crate::stream::{Frames, Outgoing, StreamError, write_frames};
use crate::tls::{self, CLIENT_PROTOCOL, Identity, TlsError};

/// Bytes of answers that one connection may have waiting; a client that does not read its answers is not
/// asked for more questions.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
const _: () = assert!(ANSWER_BYTES_MAX > 2 * APPEND_BYTES_MAX);

/// How clients are served.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Bytes of questions that the node holds at most; share it with other front ends.
    pub in_flight: Budget,
    /// Questions of a client's connection that are under way at most.
    pub questions_max: usize,
    /// Connections at most.
    pub connections_max: usize,
    /// A client that is silent for this long is gone.
    pub idle_timeout: Duration,
}

/// A front end that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address cannot be had.
    #[error("API on {address}: {source}; choose another address, or stop what uses it")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate that cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A setting out of range.
    #[error("API idle timeout {0:?} is too long; give less than a year")]
    IdleTimeout(Duration),
}

/// The running front end. Dropping it closes every connection at once.
#[derive(Debug)]
pub struct Api {
    endpoint: Endpoint,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

/// A frame's bytes must all come within this time once its prelude has come: they are counted already.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection must be established within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions of another node's connection that are under way at most: more than it may pass on.
const NODE_QUESTIONS_MAX: usize = 1 << 20;
/// Appends given up that are remembered until they are read.
const GIVEN_UP_MAX: usize = 4096;
/// Largest question that is not worth counting.
const SMALL_QUESTION_BYTES: usize = 4 << 10;
/// How long a client that broke the protocol gets to take the reason.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Answers that may wait for the writing task; their bytes are bounded elsewhere.
const ANSWERS_QUEUED: usize = 64;

impl ApiConfig {
    /// Listens on `listen`, with 64 MiB in flight.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            in_flight: Budget::new(64 << 20),
            questions_max: 1024,
            connections_max: 1024,
            idle_timeout: Duration::from_secs(15),
        }
    }
}

impl Api {
    /// Starts to listen. Must be called within a tokio runtime; connections are served on it.
    ///
    /// # Errors
    /// The address cannot be bound, or the certificate cannot be used.
    pub fn start(
        config: ApiConfig,
        identity: &Identity,
        backend: Arc<dyn Backend>,
    ) -> Result<Self, ApiError> {
        Self::start_with(config, identity, Doors { clients: backend, nodes: None })
    }

    /// Starts to listen, for clients and for the other nodes of `site`. Nodes are answered by a backend of their
    /// own, `nodes`: what they ask has been routed already and must not be routed again.
    ///
    /// # Errors
    /// The address cannot be bound, or the certificate cannot be used.
    pub fn start_in_site(
        config: ApiConfig,
        identity: &Identity,
        clients: Arc<dyn Backend>,
        site: SiteId,
        nodes: Arc<dyn Backend>,
    ) -> Result<Self, ApiError> {
        Self::start_with(config, identity, Doors { clients, nodes: Some((site, nodes)) })
    }

    fn start_with(config: ApiConfig, identity: &Identity, doors: Doors) -> Result<Self, ApiError> {
        let mut server = ServerConfig::with_crypto(identity.quic_server(CLIENT_PROTOCOL)?);
        let transport = quic::transport(config.idle_timeout, None)
            .map_err(|_| ApiError::IdleTimeout(config.idle_timeout))?;
        server.transport_config(Arc::new(transport));
        let endpoint = quic::endpoint(config.listen, Some(server), Some(identity.secret()))
            .map_err(|source| ApiError::Bind { address: config.listen, source })?;
        let (stop, stopping) = watch::channel(false);
        let accepting = tokio::spawn(accept(endpoint.clone(), config, doors, stopping));
        Ok(Self { endpoint, stop, accepting })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Takes no more questions, answers those it has for at most `grace`, and closes all connections with a
    /// reason that makes clients come back.
    pub async fn stop(mut self, grace: Duration) {
        self.stop.send_replace(true);
        if timeout(grace, &mut self.accepting).await.is_err() {
            tracing::warn!(?grace, "some clients were not answered before the API stopped");
            self.accepting.abort();
        }
        self.endpoint.close(CLOSE_STOPPING, STOPPING.as_bytes());
        // The peers may be gone; their acknowledgements are not worth waiting for.
        let _ = timeout(FAREWELL_TIMEOUT, self.endpoint.wait_idle()).await;
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.accepting.abort();
        self.endpoint.close(CLOSE_STOPPING, STOPPING.as_bytes());
    }
}

const STOPPING: &str = "the node is stopping; connect again later";

/// Who answers whom.
#[derive(Clone)]
struct Doors {
    clients: Arc<dyn Backend>,
    /// The site whose nodes are let in, and who answers them.
    nodes: Option<(SiteId, Arc<dyn Backend>)>,
}

impl Doors {
    /// Who answers the owner of this certificate, and as whom; in words why nobody does.
    fn open(&self, certificate: &CertificateDer<'_>) -> Result<(Caller, Arc<dyn Backend>), String> {
        if let Some((site, nodes)) = &self.nodes
            && tls::peer_roles(certificate).iter().any(|role| role.is_node())
        {
            tls::require_site(certificate, *site)?;
            return Ok((Caller::Node, nodes.clone()));
        }
        let roles = tls::require_role(certificate, &[Role::Client, Role::Admin])?;
        let caller = if roles.contains(&Role::Admin) { Caller::Admin } else { Caller::Client };
        Ok((caller, self.clients.clone()))
    }
}

/// What a connection's streams share.
struct Session {
    backend: Arc<dyn Backend>,
    connection: Connection,
    caller: Caller,
    in_flight: Budget,
    questions: Arc<Semaphore>,
    answers: Budget,
    appends: Mutex<Appends>,
    stopping: watch::Receiver<bool>,
}

/// The appends of a connection, by correlation. They may wait for the other site for longer than anybody waits for them,
/// and a client says when it does not.
#[derive(Default)]
struct Appends {
    /// Under way, each with the way to end it.
    asked: HashMap<u64, oneshot::Sender<()>>,
    /// Given up before they were read, or when they had just been answered.
    given_up: BTreeSet<u64>,
}

/// Forgets an append when its task ends, however it ends.
struct AppendDone {
    session: Arc<Session>,
    correlation: u64,
}

impl Session {
    fn appends(&self) -> MutexGuard<'_, Appends> {
        // Nothing panics while it holds the lock.
        self.appends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an append that is to be asked for, and hands out what ends with its task and the word that it was given up;
    /// nothing if it has been already.
    fn begin_append(self: &Arc<Self>, correlation: u64) -> Option<(AppendDone, oneshot::Receiver<()>)> {
        let (tell, given_up) = oneshot::channel();
        let mut appends = self.appends();
        if appends.given_up.remove(&correlation) {
            return None;
        }
        appends.asked.insert(correlation, tell);
        Some((AppendDone { session: self.clone(), correlation }, given_up))
    }

    /// Nobody waits for an append any more.
    fn give_up(&self, correlation: u64) {
        let mut appends = self.appends();
        match appends.asked.remove(&correlation) {
            // Fails when it has just been answered.
            Some(append) => drop(append.send(())),
            None => {
                appends.given_up.insert(correlation);
                // Correlations rise, so this is the one that was answered rather than not read yet.
                if appends.given_up.len() > GIVEN_UP_MAX {
                    appends.given_up.pop_first();
                }
            }
        }
    }
}

impl Drop for AppendDone {
    fn drop(&mut self) {
        self.session.appends().asked.remove(&self.correlation);
    }
}

/// As whom a connection asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Client,
    Admin,
    /// Another node of the site; it has checked its own callers.
    Node,
}

impl Caller {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Admin => "admin",
            Self::Node => "node",
        }
    }
}

/// What an answer gives back once it is written.
type Owed = (Credit, OwnedSemaphorePermit);

async fn accept(endpoint: Endpoint, config: ApiConfig, doors: Doors, mut stopping: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            _ = stopping.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
        };
        let Some(incoming) = incoming else { break };
        let peer = incoming.remote_address();
        if connections.len() >= config.connections_max {
            tracing::warn!(%peer, max = config.connections_max, "client refused: too many connections");
            incoming.refuse();
        } else if connections.len() >= config.connections_max / 2 && !incoming.remote_address_validated() {
            // Under load a client first shows that it owns its address; one that may not retry has done so.
            let _ = incoming.retry();
        } else {
            connections.spawn(serve(incoming, config.clone(), doors.clone(), stopping.clone()));
        }
    }
    endpoint.set_server_config(None);
    while connections.join_next().await.is_some() {}
}

async fn serve(incoming: Incoming, config: ApiConfig, doors: Doors, mut stopping: watch::Receiver<bool>) {
    let peer = incoming.remote_address();
    let connection = match timeout(HANDSHAKE_TIMEOUT, incoming.into_future()).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::warn!(%peer, %error, "client refused: no handshake"),
        Err(_) => return tracing::warn!(%peer, "client refused: the handshake took too long"),
    };
    let (caller, backend) = match access(&connection, &doors) {
        Ok(access) => access,
        Err(reason) => {
            tracing::warn!(%peer, reason, "client refused: certificate");
            return connection.close(CLOSE_REFUSED, reason.as_bytes());
        }
    };
    tracing::debug!(%peer, caller = caller.name(), "client connected");
    let questions_max = match caller {
        Caller::Node => NODE_QUESTIONS_MAX,
        Caller::Client | Caller::Admin => config.questions_max.max(1),
    };
    let session = Arc::new(Session {
        backend,
        connection: connection.clone(),
        caller,
        in_flight: config.in_flight,
        questions: Arc::new(Semaphore::new(questions_max)),
        appends: Mutex::default(),
        answers: Budget::new(ANSWER_BYTES_MAX as u64),
        stopping: stopping.clone(),
    });
    let mut streams = JoinSet::new();
    let stopped = loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, receive)) => { streams.spawn(serve_stream(session.clone(), send, receive)); }
                Err(error) => {
                    tracing::debug!(%peer, %error, "client disconnected");
                    break false;
                }
            },
            _ = stopping.wait_for(|stop| *stop) => break true,
            Some(_) = streams.join_next() => {}
        }
    };
    if stopped {
        while streams.join_next().await.is_some() {}
        connection.close(CLOSE_STOPPING, STOPPING.as_bytes());
    }
}

/// Who is at the other end, and who answers it.
fn access(connection: &Connection, doors: &Doors) -> Result<(Caller, Arc<dyn Backend>), String> {
    let chain =
        connection.peer_identity().and_then(|identity| identity.downcast::<Vec<CertificateDer<'_>>>().ok());
    let certificate = chain.as_deref().and_then(|chain| chain.first());
    let certificate =
        certificate.ok_or("no certificate was shown; show one with the role client or admin")?;
    doors.open(certificate)
}

async fn serve_stream(session: Arc<Session>, send: SendStream, receive: RecvStream) {
    let (answers, queue) = mpsc::channel(ANSWERS_QUEUED);
    let writing = tokio::spawn(write_frames::<Owed>(send, queue));
    let mut asked = JoinSet::new();
    // Lives as long as the answers are written: dropping it would tell the client to stop.
    let mut frames = Frames::new(receive);
    let end = read_questions(&session, &mut frames, &answers, &mut asked).await;
    match &end {
        // The client is gone, and nobody waits for its answers.
        Err(error @ (StreamError::Lost(_) | StreamError::Torn)) => {
            return session.connection.close(CLOSE_PROTOCOL, error.to_string().as_bytes());
        }
        Err(StreamError::Frame { error, correlation }) => {
            let question = session.questions.clone().acquire_owned().await;
            let owed = (session.answers.enter(0).await, question.expect("questions are never closed"));
            answer(&answers, *correlation, Err(refused("frame", error)), owed).await;
        }
        Ok(()) => {}
    }
    while asked.join_next().await.is_some() {}
    drop(answers);
    // The stream must live until the client has all of it: closing the connection would cut it off.
    if let Ok(Ok(stream)) = writing.await {
        let _ = timeout(FAREWELL_TIMEOUT, stream.stopped()).await;
    }
    if let Err(StreamError::Frame { error, .. }) = end {
        let peer = session.connection.remote_address();
        tracing::warn!(%peer, %error, "client disconnected: it broke the protocol");
        session.connection.close(CLOSE_PROTOCOL, error.to_string().as_bytes());
    }
}

/// Reads questions and starts to answer them, until the client is done or the node stops.
async fn read_questions(
    session: &Arc<Session>,
    frames: &mut Frames,
    answers: &mpsc::Sender<Outgoing<Owed>>,
    asked: &mut JoinSet<()>,
) -> Result<(), StreamError> {
    let mut stopping = session.stopping.clone();
    loop {
        while asked.try_join_next().is_some() {}
        let envelope = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return Ok(()),
            envelope = frames.envelope() => envelope?,
        };
        let Some(envelope) = envelope else { return Ok(()) };
        let is_append = envelope.kind == AppendV1::KIND;
        let question = match envelope.kind {
            // Needs no place among those that it may be about.
            GiveUpV1::KIND => None,
            _ => Some(session.questions.clone().acquire_owned().await.expect("questions are never closed")),
        };
        let reserved = session.answers.enter(reserve(session, &envelope)).await;
        let credit = session.in_flight.enter(charge(&envelope)).await;
        let rest = timeout(FRAME_TIMEOUT, frames.rest(&envelope)).await;
        let (body, payload) = rest.unwrap_or(Err(StreamError::Torn))?;
        let Some(question) = question else {
            session.give_up(envelope.correlation);
            continue;
        };
        let owed = (reserved, question);
        match admit(session, &envelope, body, payload) {
            Ok(asking) => {
                let (own, answers) = (session.clone(), answers.clone());
                let asking = async move {
                    let result = ask_safely(&*own.backend, asking, credit).await;
                    answer(&answers, envelope.correlation, result, owed).await;
                };
                if !is_append {
                    asked.spawn(asking);
                } else if let Some((done, given_up)) = session.begin_append(envelope.correlation) {
                    asked.spawn(async move {
                        let _done = done;
                        tokio::select! {
                            biased;
                            () = asking => {}
                            Ok(()) = given_up => {}
                        }
                    });
                }
            }
            Err(error) => {
                drop(credit);
                answer(answers, envelope.correlation, Err(error), owed).await;
            }
        }
    }
}

/// Bytes to keep free for the answer. A node's appends are more than fit, and their answers short.
fn reserve(session: &Session, envelope: &Envelope) -> usize {
    match (envelope.kind, session.caller) {
        (GiveUpV1::KIND, _) | (AppendV1::KIND, Caller::Node) => 0,
        (kind, _) => Question::answer_bytes_max(kind),
    }
}

/// Bytes to count for a question. Small ones that are no appends are free (their number is bounded), so that a
/// node whose appends all wait can still be read and asked how it is.
fn charge(envelope: &Envelope) -> usize {
    match envelope.rest_bytes() {
        bytes if envelope.kind == AppendV1::KIND => bytes + WAITING_APPEND_BYTES,
        0..=SMALL_QUESTION_BYTES => 0,
        bytes => bytes,
    }
}

/// Reads a question and checks that this client may ask it.
fn admit(
    session: &Session,
    envelope: &Envelope,
    body: bytes::Bytes,
    payload: bytes::Bytes,
) -> Result<Question, Error> {
    let question = Question::parse(envelope, body, payload)?;
    if question.needs_node() && session.caller != Caller::Node {
        return Err(Error::forbidden(format!(
            "{}: only the nodes of a site ask this of each other; create the log instead",
            question.name()
        )));
    }
    if question.needs_admin() && session.caller == Caller::Client {
        return Err(Error::forbidden(format!(
            "{}: the certificate was issued for the role client, and this takes admin; use an admin's certificate",
            question.name()
        )));
    }
    Ok(question)
}

/// Asks the backend; a panic there costs this one answer.
async fn ask_safely(backend: &dyn Backend, question: Question, credit: Credit) -> Result<Answer, Error> {
    let name = question.name();
    AssertUnwindSafe(ask(backend, question, credit)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(question = name, "the backend panicked");
        Err(Error::internal(format!(
            "{name}: the node failed at it, and the outcome is unknown; see the node's log"
        )))
    })
}

/// Asks the backend. The credit of an append goes with its bytes; that of others is given back with the answer.
async fn ask(backend: &dyn Backend, question: Question, credit: Credit) -> Result<Answer, Error> {
    Ok(match question {
        Question::Create(create) => Answer::Created(backend.create(create).await?),
        Question::Place { log, create } => Answer::Created(backend.place(log, create).await?),
        Question::Append(append) => Answer::Appended(Box::new(backend.append(append, credit).await?)),
        Question::Read { log, address } => Answer::Record(backend.read(log, address).await?),
        Question::Free { log, address } => {
            backend.free(log, address).await?;
            Answer::Freed(log)
        }
        Question::List { from } => Answer::Logs(backend.list(from, LOGS_PAGE).await?),
        Question::Stat { log } => Answer::Logs(vec![backend.stat(log).await?]),
        Question::Scan { log, from, count } => {
            Answer::Entries(backend.scan(log, from, (count as usize).min(ENTRIES_PAGE)).await?)
        }
        Question::Status => Answer::Status(backend.status().await?),
        Question::Promote { dry_run } => Answer::Promoted(backend.promote(dry_run).await?),
        Question::ListMissing { log, from } => Answer::Promoted(backend.list_missing(log, from).await?),
        Question::Digest { log, until } => Answer::Digest(backend.digest(log, until).await?),
        Question::ChangeCode(code) => Answer::CodeChanged(backend.change_code(code).await?),
    })
}

/// Hands an answer to the writing task, which gives back what is owed.
async fn answer(
    answers: &mpsc::Sender<Outgoing<Owed>>,
    correlation: u64,
    result: Result<Answer, Error>,
    mut owed: Owed,
) {
    let frame = result.and_then(|answer| answer.to_frame(correlation));
    let frame = frame.or_else(|error| {
        if error.kind() == ErrorKind::Internal {
            tracing::error!(%error, "a client was answered with an internal error");
        }
        failure_frame(&error, correlation).map(|head| (head, bytes::Bytes::new()))
    });
    match frame {
        Ok((head, payload)) => {
            owed.0.shrink(head.len() + payload.len());
            // Fails when the client is gone.
            let _ = answers.send(Outgoing { head, payload, held: owed }).await;
        }
        Err(error) => tracing::error!(%error, "a client was not answered"),
    }
}

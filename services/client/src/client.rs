//! The client: calls that outlive connections.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parhelion_gate::backend::random_request;
use parhelion_gate::tls::CLIENT_PROTOCOL;
use parhelion_gate::{
    Answer, AppendRequest, Appended, CodeRequest, CreateRequest, LogDigest, LogState, Promotion, Question,
    ReadRecord, Stretch, quic,
};
use parhelion_types::{Degrade, Durability, Error, ErrorKind, LogAddress, LogId};
use quinn::Endpoint;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::config::{AppendOptions, ClientConfig};
use crate::session::{Lost, Session, Traffic};

/// A client of one node. Clones share its connection, and all calls may be made at the same time.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ClientConfig,
    quic: quinn::ClientConfig,
    endpoint: Endpoint,
    link: Mutex<Link>,
    next_correlation: AtomicU64,
}

/// The connection, and how attempts to make it have gone.
#[derive(Debug)]
struct Link {
    session: Option<Arc<Session>>,
    failures: u32,
    not_before: Instant,
}

/// Beyond an append's own deadline, the time for its answer to arrive.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);
/// Pause before an append that found the node busy is sent again; doubles.
const BUSY_PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest such pause.
const BUSY_PAUSE_MAX: Duration = Duration::from_millis(500);

impl Client {
    /// Connects to a node. Later, a connection that is lost is made again by itself.
    ///
    /// # Errors
    /// `Invalid`: the node refuses this client's certificate, or the node's cannot be trusted.
    /// `Unavailable`: there is no node at that address, or it does not answer in time.
    pub async fn connect(config: ClientConfig) -> Result<Self, Error> {
        let client = Self::new(config)?;
        client.session().await.map_err(|lost| match lost {
            Lost::Refused(error) => error,
            Lost::Gone(reason) => {
                Error::unavailable(format!("{reason}; check that a node's API listens there, and try again"))
            }
        })?;
        Ok(client)
    }

    /// A client that connects when it is asked for something. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `Invalid`: the certificate or a setting cannot be used. `Internal`: there is no socket.
    pub fn new(config: ClientConfig) -> Result<Self, Error> {
        let crypto = config
            .identity
            .quic_client(CLIENT_PROTOCOL)
            .map_err(|error| Error::invalid(error.to_string()))?;
        let transport = quic::transport(config.idle_timeout, Some(config.idle_timeout / 4))
            .map_err(|_| Error::invalid("the idle timeout is too long; give less than a year"))?;
        let mut quic = quinn::ClientConfig::new(crypto);
        quic.transport_config(Arc::new(transport));
        let any: SocketAddr = if config.address.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let endpoint = quic::endpoint(any, None, None).map_err(|error| {
            Error::internal(format!("no UDP socket: {error}; check the limits of this process"))
        })?;
        let link = Mutex::new(Link { session: None, failures: 0, not_before: Instant::now() });
        let next_correlation = AtomicU64::new(1);
        Ok(Self { inner: Arc::new(Inner { config, quic, endpoint, link, next_correlation }) })
    }

    /// Creates a log. Safe against lost answers: the creation has an id.
    ///
    /// # Errors
    /// `Invalid`: the name is taken or unusable. Else as for every call.
    pub async fn create(&self, name: impl Into<String>, degrade: Degrade) -> Result<LogId, Error> {
        let create = CreateRequest { name: name.into(), degrade, request: random_request() };
        create.check()?;
        self.create_as(create).await
    }

    /// Appends, and comes back when the append is as safe as asked. What is repeated is stored once.
    ///
    /// # Errors
    /// `Unavailable`: not as safe as asked by the deadline (policy `fail`), or no answer in time; the message has
    /// the request id with which another attempt is safe. `Fenced`: go to the log's new primary. `Invalid`: mend it.
    pub async fn append(
        &self,
        log: LogId,
        payload: impl Into<Bytes>,
        options: AppendOptions,
    ) -> Result<Appended, Error> {
        let AppendOptions { durability, max_risk, deadline, request, explain, trace, timeout } = options;
        let request = if request.is_none() { random_request() } else { request };
        let payload = payload.into();
        let append = AppendRequest { log, payload, durability, max_risk, deadline, request, explain, trace };
        append.check()?;
        let mut time = timeout.unwrap_or(self.inner.config.call_timeout);
        if let Some(deadline) = deadline {
            // The node speaks first when the append's own deadline passes.
            time = time.max(deadline.saturating_add(ANSWER_MARGIN));
        }
        match self.call_within(Question::Append(append), time).await? {
            Answer::Appended(appended) => Ok(*appended),
            other => Err(strange(&other)),
        }
    }

    /// Reads one append.
    ///
    /// # Errors
    /// `NotFound`: there is none at that address. `Corrupt`: read it at the other site.
    pub async fn read(&self, log: LogId, address: LogAddress) -> Result<ReadRecord, Error> {
        match self.call(Question::Read { log, address }).await? {
            Answer::Record(record) => {
                if parhelion_wire::crc32c(&record.payload) == record.digest {
                    Ok(record)
                } else {
                    let message = format!(
                        "append {address} of log {log} does not match its checksum; read it at the other site"
                    );
                    Err(Error::new(ErrorKind::Corrupt, message))
                }
            }
            other => Err(strange(&other)),
        }
    }

    /// Marks an append for cleaning, here and at the mirror.
    ///
    /// # Errors
    /// `NotFound`: there is no append at that address.
    pub async fn free(&self, log: LogId, address: LogAddress) -> Result<(), Error> {
        match self.call(Question::Free { log, address }).await? {
            Answer::Freed(_) => Ok(()),
            other => Err(strange(&other)),
        }
    }

    /// All logs, in order of their numbers.
    ///
    /// # Errors
    /// As for every call.
    pub async fn list(&self) -> Result<Vec<LogState>, Error> {
        let mut all: Vec<LogState> = Vec::new();
        let mut from = LogId(0);
        loop {
            let page = self.page(from).await?;
            // Pages may be of any size, so only an empty one is the last. Their numbers must rise, or this never ends.
            let Some(last) = page.last().map(|log| log.log).filter(|last| *last >= from) else {
                return Ok(all);
            };
            all.extend(page);
            let Some(next) = last.0.checked_add(1) else { return Ok(all) };
            from = LogId(next);
        }
    }

    /// Some logs from number `from` on, in order of their numbers; none if there are no more. No log has the
    /// largest number, so asking for that one shows whether the node answers.
    ///
    /// # Errors
    /// As for every call.
    pub async fn page(&self, from: LogId) -> Result<Vec<LogState>, Error> {
        match self.call(Question::List { from }).await? {
            Answer::Logs(page) => Ok(page),
            other => Err(strange(&other)),
        }
    }

    /// Creates a log at this node under a number that the site's metadata node has chosen. Takes a node's
    /// certificate: clients [create](Self::create).
    ///
    /// # Errors
    /// `Forbidden`: this client is no node. `Invalid`: the number is another log's. Else as for every call.
    pub async fn place(&self, log: LogId, create: CreateRequest) -> Result<LogId, Error> {
        match self.call(Question::Place { log, create }).await? {
            Answer::Created(log) => Ok(log),
            other => Err(strange(&other)),
        }
    }

    /// Creates a log for somebody else, who has named the request.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn create_as(&self, create: CreateRequest) -> Result<LogId, Error> {
        match self.call(Question::Create(create)).await? {
            Answer::Created(log) => Ok(log),
            other => Err(strange(&other)),
        }
    }

    /// The state of one log.
    ///
    /// # Errors
    /// `NotFound`: there is no such log.
    pub async fn stat(&self, log: LogId) -> Result<LogState, Error> {
        match self.call(Question::Stat { log }).await? {
            Answer::Logs(mut logs) if logs.len() == 1 => Ok(logs.swap_remove(0)),
            other => Err(strange(&other)),
        }
    }

    /// At most `count` records of a log, from `from` on; go on at [`Stretch::next`] until there are none.
    ///
    /// # Errors
    /// `NotFound`: there is no such log, or no record at `from`.
    pub async fn scan(&self, log: LogId, from: LogAddress, count: u32) -> Result<Stretch, Error> {
        match self.call(Question::Scan { log, from, count }).await? {
            Answer::Entries(stretch) => Ok(stretch),
            other => Err(strange(&other)),
        }
    }

    /// The state of the node: a document whose fields are in the operations manual.
    ///
    /// # Errors
    /// As for every call.
    pub async fn status(&self) -> Result<serde_json::Value, Error> {
        match self.call(Question::Status).await? {
            Answer::Status(document) => Ok(document),
            other => Err(strange(&other)),
        }
    }

    /// Makes this mirror writable under a new epoch. Takes an admin's certificate. Never repeated by itself. One that was
    /// promoted already says again what was found.
    ///
    /// # Errors
    /// `Forbidden`: this client is no admin. `Invalid`: the node is no mirror. `Unavailable`: the answer was lost; look at the
    /// node's status before another attempt.
    pub async fn promote(&self, dry_run: bool) -> Result<Promotion, Error> {
        match self.call(Question::Promote { dry_run }).await? {
            Answer::Promoted(promotion) => Ok(promotion),
            other => Err(strange(&other)),
        }
    }

    /// What the promotion of this site found, with the missing appends from a place on, in the order of their logs and
    /// addresses; as many as a message holds. No more follow when the list is empty. Takes an admin's certificate.
    ///
    /// # Errors
    /// `Forbidden`: this client is no admin. `NotFound`: the site was not promoted. `Corrupt`: what was found is damaged.
    pub async fn list_missing(&self, log: LogId, from: LogAddress) -> Result<Promotion, Error> {
        match self.call(Question::ListMissing { log, from }).await? {
            Answer::Promoted(promotion) => Ok(promotion),
            other => Err(strange(&other)),
        }
    }

    /// Changes the erasure code of the live link, until the node is started again. Answers with the code in force:
    /// name, version and parameters. Takes an admin's certificate.
    ///
    /// # Errors
    /// `Forbidden`: this client is no admin. `Invalid`: there is no such code, or it does not take these parameters.
    /// `Unsupported`: the node has no link that takes codes. `Unavailable`: the link is down.
    pub async fn change_code(
        &self,
        name: impl Into<String>,
        parameters: impl Into<String>,
    ) -> Result<String, Error> {
        let code = CodeRequest { name: name.into(), parameters: parameters.into() };
        code.check()?;
        match self.call(Question::ChangeCode(code)).await? {
            Answer::CodeChanged(code) => Ok(code),
            other => Err(strange(&other)),
        }
    }

    /// Digests the records of a log that start before `until`. Takes an admin's certificate.
    ///
    /// # Errors
    /// `Forbidden`: this client is no admin. `NotFound`: there is no such log.
    pub async fn digest(&self, log: LogId, until: LogAddress) -> Result<LogDigest, Error> {
        match self.call(Question::Digest { log, until }).await? {
            Answer::Digest(digest) => Ok(digest),
            other => Err(strange(&other)),
        }
    }

    /// Bytes of the connection that is up, if one is: to show how far a large call has come.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        // Who holds the lock is connecting, and nothing flows.
        let link = self.inner.link.try_lock().ok();
        link.and_then(|link| link.session.as_ref().map(|session| session.traffic())).unwrap_or_default()
    }

    /// Closes the connection and waits until the node knows. Calls under way fail.
    pub async fn close(self) {
        self.inner.endpoint.close(quic::CLOSE_DONE, b"the client is done");
        // A node that is gone need not know.
        let _ = timeout(Duration::from_secs(1), self.inner.endpoint.wait_idle()).await;
    }

    async fn call(&self, question: Question) -> Result<Answer, Error> {
        self.call_within(question, self.inner.config.call_timeout).await
    }

    /// Asks until there is an answer, on as many connections as it takes.
    async fn call_within(&self, question: Question, time: Duration) -> Result<Answer, Error> {
        let deadline = Instant::now() + time;
        let correlation = self.inner.next_correlation.fetch_add(1, Ordering::Relaxed);
        let (head, payload) = question.to_frame(correlation)?;
        let mut trouble = String::from("it does not answer");
        let mut busy_pause = BUSY_PAUSE_MIN;
        loop {
            let session = match timeout_at(deadline, self.session()).await {
                Err(_) => return Err(self.unreached(&question, time, &trouble)),
                Ok(Err(Lost::Refused(error))) => return Err(error),
                Ok(Err(Lost::Gone(reason))) => {
                    trouble = reason;
                    continue;
                }
                Ok(Ok(session)) => session,
            };
            let is_append = matches!(question, Question::Append(_));
            let asking = session.ask(correlation, head.clone(), payload.clone(), is_append);
            match timeout_at(deadline, asking).await {
                Err(_) => return Err(self.unanswered(&question, time)),
                Ok(Err(Lost::Refused(error))) => return Err(error),
                Ok(Err(Lost::Gone(reason))) => {
                    if !question.is_repeatable() {
                        return Err(Error::unavailable(format!(
                            "{}: the connection was lost before the answer ({reason}), and the outcome is unknown; \
                             look at the node's status before another attempt",
                            question.name()
                        )));
                    }
                    trouble = reason;
                }
                // Nothing was done, so any question may be asked again.
                Ok(Ok(Err(error))) if self.may_pass(&error) => {
                    if Instant::now() + busy_pause >= deadline {
                        return Err(error);
                    }
                    sleep(jittered(busy_pause)).await;
                    busy_pause = (busy_pause * 2).min(BUSY_PAUSE_MAX);
                }
                Ok(Ok(answer)) => return answer,
            }
        }
    }

    /// Whether what the node says may not hold a moment later.
    fn may_pass(&self, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::Busy => self.inner.config.repeat_busy,
            kind => kind == ErrorKind::Closed,
        }
    }

    /// The connection, made if need be. Of all calls that need one, one makes it and the others wait.
    async fn session(&self) -> Result<Arc<Session>, Lost> {
        let Inner { config, quic, endpoint, link, .. } = &*self.inner;
        let mut link = link.lock().await;
        if let Some(session) = link.session.as_ref().filter(|session| session.is_live()) {
            return Ok(session.clone());
        }
        link.session = None;
        sleep_until(link.not_before).await;
        let opening = Session::open(endpoint, quic.clone(), config.address);
        let opened = timeout(config.connect_timeout, opening).await.unwrap_or_else(|_| {
            let Self { inner } = self;
            Err(Lost::Gone(format!(
                "{} did not answer within {:?}",
                inner.config.address, config.connect_timeout
            )))
        });
        match opened {
            Ok(session) => {
                let session = Arc::new(session);
                link.session = Some(session.clone());
                link.failures = 0;
                Ok(session)
            }
            Err(lost) => {
                let pause =
                    config.backoff_min.saturating_mul(1 << link.failures.min(16)).min(config.backoff_max);
                link.failures = link.failures.saturating_add(1);
                link.not_before = Instant::now() + jittered(pause);
                tracing::debug!(%lost, ?pause, "could not connect");
                Err(lost)
            }
        }
    }

    /// There was no connection when the time was over.
    fn unreached(&self, question: &Question, time: Duration, trouble: &str) -> Error {
        let (name, address, remedy) = (question.name(), self.inner.config.address, remedy(question));
        Error::unavailable(format!("{name}: no answer from {address} within {time:?} ({trouble}); {remedy}"))
    }

    /// The node had the question when the time was over.
    fn unanswered(&self, question: &Question, time: Duration) -> Error {
        let (name, address, remedy) = (question.name(), self.inner.config.address, remedy(question));
        let cause = match question {
            Question::Append(append) if append.durability != Durability::Local => {
                "; with the degrade policy block an append waits for its level as long as it takes, for the mirror too"
            }
            _ => "",
        };
        Error::unavailable(format!(
            "{name}: the node at {address} was reached and has not answered within {time:?}{cause}; {remedy}"
        ))
    }
}

/// What to do about a question that was not answered in time.
fn remedy(question: &Question) -> String {
    match question {
        Question::Append(AppendRequest { request, .. }) => {
            format!("whether it was stored is unknown, so append it again with request id {request}")
        }
        Question::Create(_) | Question::Promote { dry_run: false } => {
            "the outcome is unknown, so look at the node before another attempt".to_owned()
        }
        _ => "try again".to_owned(),
    }
}

/// Between half of the pause and all of it, so that clients that lost one node do not return as one.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

fn strange(answer: &Answer) -> Error {
    let kind = match answer {
        Answer::Created(_) => "created",
        Answer::Appended(_) => "appended",
        Answer::Record(_) => "record",
        Answer::Freed(_) => "freed",
        Answer::Logs(_) => "logs",
        Answer::Entries(_) => "entries",
        Answer::Status(_) => "status",
        Answer::Promoted(_) => "promoted",
        Answer::Digest(_) => "digest",
        Answer::CodeChanged(_) => "code changed",
    };
    Error::internal(format!("the node answered another question ({kind}); use the same release at both ends"))
}

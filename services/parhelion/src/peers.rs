//! Other nodes of the site, as this one asks them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use parhelion_client::{AppendOptions, Client, ClientConfig, Identity};
use parhelion_gate::backend::Later;
use parhelion_gate::{
    AppendRequest, Appended, Backend, Budget, CodeRequest, CreateRequest, Credit, LogDigest, LogState,
    Promotion, ReadRecord, Stretch,
};
use parhelion_types::{Durability, Error, ErrorKind, LogAddress, LogId, NodeId, Role};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::output::Failure;
use crate::placement::Home;
use crate::settings::Settings;
use crate::storage::waiting_bytes_max;

/// Another node of the site. Connections to it are made again whenever they are lost.
///
/// It is asked all the time whether it is there. A question waits for a node that has just gone, because it may be
/// restarting; one that stays away costs each question no more than [`PATIENCE`], and soon nothing.
pub struct Peer {
    name: String,
    address: SocketAddr,
    /// For appends above the level `local`: the node reads questions of one connection in their order, and what it has no
    /// room for holds up those behind it.
    appends: Client,
    /// For appends at the level `local`.
    local: Client,
    /// For all else.
    control: Client,
    silence: watch::Receiver<Silence>,
    absences: Arc<AtomicU64>,
    /// What appends that wait for the other site may hold, at all other nodes together.
    passed_on: Budget,
    beat: JoinHandle<()>,
}

/// Since when a node does not answer, and what is known of it; nothing while it does.
type Silence = Option<(Instant, Arc<str>)>;

/// The nodes of the site, as far as this one has to know them.
pub struct Peers {
    /// The storage nodes in the order of the settings, with a connection to those that are others.
    storage: Vec<(NodeId, Option<Arc<Peer>>)>,
    /// The metadata node, if it is another one.
    pub metadata: Option<Arc<Peer>>,
    /// Every other node once.
    pub others: Vec<Other>,
}

/// Another node of the site.
pub struct Other {
    /// Its number, if the settings say it.
    pub node: Option<NodeId>,
    /// What the settings say that it does.
    pub roles: Vec<Role>,
    pub peer: Arc<Peer>,
}

/// How often a node is asked whether it is there.
const BEAT: Duration = Duration::from_millis(500);
/// A node that does not answer that for so long is away: far more than a busy one takes.
const BEAT_LIMIT: Duration = Duration::from_secs(2);
/// How long questions wait for a node that is away.
const PATIENCE: Duration = Duration::from_secs(5);
/// A connection without a word for this long is made anew.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// Who asks decides how long to wait; an append may wait for the other site for very long.
const CALL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

impl Peers {
    /// Begins to connect to all of them; certificates come from `identity`.
    pub fn connect(
        settings: &Settings,
        identity: impl Fn() -> Result<Identity, Failure>,
    ) -> Result<Self, Failure> {
        let mut known: Vec<(SocketAddr, Option<NodeId>, Vec<Role>)> = Vec::new();
        let here = NodeId(settings.node.node);
        for storage in settings.site.storage.iter().filter(|storage| storage.node != here) {
            known.push((storage.api, Some(storage.node), vec![Role::Storage]));
        }
        for (role, address) in [(Role::Metadata, &settings.site.metadata), (Role::Link, &settings.site.link)]
        {
            // Checked settings have an address here, or nothing.
            let Ok(address) = address.parse() else { continue };
            if settings.has(role) {
                continue;
            }
            match known.iter_mut().find(|(at, ..)| *at == address) {
                Some((.., roles)) => roles.push(role),
                None => known.push((address, None, vec![role])),
            }
        }
        let passed_on = Budget::new(waiting_bytes_max(settings));
        let mut others = Vec::new();
        for (address, node, roles) in known {
            let words: Vec<&str> = roles.iter().map(|role| role.name()).collect();
            let number = node.map_or_else(String::new, |node| format!(" {node}"));
            let name = format!("{} node{number}", words.join(" and "));
            let identities = [identity()?, identity()?, identity()?];
            let peer = Peer::new(name, address, identities, passed_on.clone())?;
            others.push(Other { node, roles, peer });
        }
        let with = |role: Role| others.iter().filter(move |other| other.roles.contains(&role));
        let metadata = with(Role::Metadata).map(|other| other.peer.clone()).next();
        let peer_of = |node| {
            let mut storage = with(Role::Storage);
            storage.find(|other| other.node == Some(node)).map(|other| other.peer.clone())
        };
        let storage = settings.storage_nodes().into_iter().map(|node| (node, peer_of(node))).collect();
        Ok(Self { storage, metadata, others })
    }

    /// The storage nodes; `here` is this one, if it is one of them.
    pub fn homes(&self, here: Option<Arc<dyn Backend>>) -> Vec<Home> {
        let home = |(node, peer): &(NodeId, Option<Arc<Peer>>)| {
            let backend: Option<Arc<dyn Backend>> = match peer {
                Some(peer) => Some(peer.clone()),
                None => here.clone(),
            };
            Some(Home { node: *node, backend: backend?, peer: peer.clone() })
        };
        self.storage.iter().filter_map(home).collect()
    }
}

impl Peer {
    /// The node that `name` describes, such as "storage node 3". Must be called within a runtime.
    ///
    /// # Errors
    /// The certificate cannot be used, or there is no socket.
    pub fn new(
        name: String,
        address: SocketAddr,
        identities: [Identity; 3],
        passed_on: Budget,
    ) -> Result<Arc<Self>, Error> {
        let client = |identity| {
            Client::new(ClientConfig {
                call_timeout: CALL_TIMEOUT,
                connect_timeout: BEAT_LIMIT,
                idle_timeout: IDLE_TIMEOUT,
                backoff_max: BEAT,
                // Whoever asked this node decides: an append that waits here for a place there would hold its bytes.
                repeat_busy: false,
                ..ClientConfig::new(address, identity)
            })
        };
        let [first, second, third] = identities;
        let (appends, local, control) = (client(first)?, client(second)?, client(third)?);
        let (say, silence) = watch::channel(Some((Instant::now(), Arc::from("it has not answered yet"))));
        let absences = Arc::new(AtomicU64::new(0));
        let beat = listen(format!("{name} at {address}"), control.clone(), say, absences.clone());
        Ok(Arc::new(Self {
            name,
            address,
            appends,
            local,
            control,
            silence,
            absences,
            passed_on,
            beat: tokio::spawn(beat),
        }))
    }

    /// How often it has gone away.
    pub fn absences(&self) -> u64 {
        self.absences.load(Ordering::Acquire)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks, and gives up when the node stays away.
    async fn ask<T>(&self, asking: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            answer = asking => answer,
            error = self.lost() => Err(error),
        }
    }

    /// Comes back when the node has been away for too long.
    async fn lost(&self) -> Error {
        let mut silence = self.silence.clone();
        loop {
            let now = silence.borrow_and_update().clone();
            let changed = match now {
                Some((since, reason)) => tokio::select! {
                    changed = silence.changed() => changed,
                    () = sleep_until(since + PATIENCE) => return self.away(&reason),
                },
                None => silence.changed().await,
            };
            if changed.is_err() {
                return self.away("nobody listens to it any more");
            }
        }
    }

    fn too_many_wait(&self, log: LogId, durability: Durability) -> Error {
        let message = format!(
            "append to log {log}: {} bytes of appends above the level local were passed on to other nodes and wait for \
             their answers, and no more are; this attempt stored nothing. Retry at level {durability} after a pause, \
             ask a node that has the log, or append at local",
            self.passed_on.held_bytes()
        );
        Error::new(ErrorKind::Busy, message)
    }

    fn away(&self, reason: &str) -> Error {
        Error::unavailable(format!(
            "{} at {} does not answer ({reason}); start it, and retry with the same request id",
            self.name, self.address
        ))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.beat.abort();
    }
}

/// Asks again and again whether the node is there.
async fn listen(node: String, client: Client, say: watch::Sender<Silence>, absences: Arc<AtomicU64>) {
    loop {
        // No log has this number, so the answer is short.
        let trouble = match timeout(BEAT_LIMIT, client.page(LogId(u32::MAX))).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.message().to_owned()),
            Err(_) => Some(format!("nothing was heard for {BEAT_LIMIT:?}")),
        };
        say.send_if_modified(|silence| match trouble {
            None => {
                let was_away = silence.take().is_some();
                if was_away {
                    tracing::info!("{node} answers");
                }
                was_away
            }
            Some(trouble) => {
                let since = silence.as_ref().map(|(since, _)| *since);
                if since.is_none() {
                    tracing::warn!(%trouble, "{node} does not answer");
                    absences.fetch_add(1, Ordering::AcqRel);
                }
                *silence = Some((since.unwrap_or_else(Instant::now), trouble.into()));
                true
            }
        });
        sleep(BEAT).await;
    }
}

impl Backend for Peer {
    fn create(&self, request: CreateRequest) -> Later<'_, LogId> {
        self.ask(self.control.create_as(request)).boxed()
    }

    fn place(&self, log: LogId, request: CreateRequest) -> Later<'_, LogId> {
        self.ask(self.control.place(log, request)).boxed()
    }

    fn append(&self, request: AppendRequest, credit: Credit) -> Later<'_, Appended> {
        let AppendRequest { log, payload, durability, max_risk, deadline, request, explain, trace } = request;
        let options =
            AppendOptions { durability, max_risk, deadline, request, explain, trace, timeout: None };
        let asking = async move {
            // The bytes are sent again when the connection is lost, so they and their credit are kept until the answer.
            if durability == Durability::Local {
                return self.local.append(log, payload, options).await;
            }
            let passed_on = self.passed_on.try_enter(credit.bytes());
            let _passed_on = passed_on.ok_or_else(|| self.too_many_wait(log, durability))?;
            self.appends.append(log, payload, options).await
        };
        self.ask(asking).boxed()
    }

    fn read(&self, log: LogId, address: LogAddress) -> Later<'_, ReadRecord> {
        self.ask(self.control.read(log, address)).boxed()
    }

    fn free(&self, log: LogId, address: LogAddress) -> Later<'_, ()> {
        self.ask(self.control.free(log, address)).boxed()
    }

    fn list(&self, from: LogId, count: usize) -> Later<'_, Vec<LogState>> {
        let asking = async move {
            let mut page = self.control.page(from).await?;
            page.truncate(count);
            Ok(page)
        };
        self.ask(asking).boxed()
    }

    fn stat(&self, log: LogId) -> Later<'_, LogState> {
        self.ask(self.control.stat(log)).boxed()
    }

    fn scan(&self, log: LogId, from: LogAddress, count: usize) -> Later<'_, Stretch> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.ask(self.control.scan(log, from, count)).boxed()
    }

    fn status(&self) -> Later<'_, Value> {
        self.ask(self.control.status()).boxed()
    }

    fn promote(&self, dry_run: bool) -> Later<'_, Promotion> {
        self.ask(self.control.promote(dry_run)).boxed()
    }

    fn list_missing(&self, log: LogId, from: LogAddress) -> Later<'_, Promotion> {
        self.ask(self.control.list_missing(log, from)).boxed()
    }

    fn change_code(&self, request: CodeRequest) -> Later<'_, String> {
        self.ask(self.control.change_code(request.name, request.parameters)).boxed()
    }

    fn digest(&self, log: LogId, until: LogAddress) -> Later<'_, LogDigest> {
        self.ask(self.control.digest(log, until)).boxed()
    }
}

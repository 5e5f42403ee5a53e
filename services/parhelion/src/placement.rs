//! The metadata role: where a new log goes, and under which number.

use std::sync::Arc;

use actix::Addr;
use futures_util::future::join_all;
use parhelion_gate::{Backend, CreateRequest, EntryKind};
use parhelion_log::Tail;
use parhelion_metadata::{Choice, CreateLog, ForgetLog, KnownLog, LearnAll, MetadataActor, Outdated};
use parhelion_types::{Error, ErrorKind, LogId, NodeId, RequestId};
use tokio::sync::Mutex;

use crate::logs::closed;
use crate::peers::Peer;

/// Creates logs: one at a time, each on the storage node with the fewest.
///
/// What exists is known by the storage nodes alone. They are asked for it before the first creation, and again
/// after each event that may have changed it unseen.
pub struct Placement {
    metadata: Addr<MetadataActor>,
    homes: Vec<Home>,
    /// Whether logs appear without being created here: at a mirror, by replication.
    is_mirror: bool,
    /// Absences of storage nodes that were known when the directory was last learned.
    learned: Mutex<u64>,
}

/// A storage node of the site.
#[derive(Clone)]
pub struct Home {
    pub node: NodeId,
    pub backend: Arc<dyn Backend>,
    /// The connection to it, unless it is this node.
    pub peer: Option<Arc<Peer>>,
}

/// Logs asked for at once when the directory is learned.
const PAGE: usize = parhelion_gate::answer::LOGS_PAGE;

impl Placement {
    pub fn new(metadata: Addr<MetadataActor>, homes: Vec<Home>, is_mirror: bool) -> Self {
        Self { metadata, homes, is_mirror, learned: Mutex::new(0) }
    }

    /// Creates a log somewhere in the site.
    ///
    /// # Errors
    /// `Invalid`: the name cannot be used or is taken. `Unavailable`: a storage node does not answer; the number of
    /// the new log could be one of its own.
    pub async fn create(&self, request: CreateRequest) -> Result<LogId, Error> {
        request.check()?;
        // One at a time: what one creation finds out must hold until it is done.
        let mut learned = self.learned.lock().await;
        let absences = self.absences();
        if self.is_mirror || *learned != absences {
            self.metadata.do_send(Outdated);
        } else {
            let answers = join_all(self.homes.iter().map(|home| home.backend.list(LogId(u32::MAX), 1))).await;
            self.require_all(&request.name, answers)?;
        }
        let mut choice = self.choose(&request).await?;
        if choice == Choice::Incomplete {
            self.learn_all(&request.name).await?;
            *learned = absences;
            choice = self.choose(&request).await?;
        }
        match choice {
            Choice::New { log, node } => {
                let name = request.name.clone();
                let placed = self.place(log, node, request).await;
                if placed.is_err() {
                    self.metadata.do_send(ForgetLog { name });
                }
                placed
            }
            // Whoever asked first may have gone before the log was durable, so nobody knows what became of it.
            Choice::Exists { log, node } => self.place(log, node, request).await,
            Choice::Taken { log, node, error } => {
                if self.creator(log, node).await? == request.request && !request.request.is_none() {
                    return Ok(log);
                }
                Err(error.into())
            }
            Choice::Refused(error) => Err(error.into()),
            Choice::Incomplete => Err(Error::internal(format!(
                "log {:?}: the metadata actor forgot what it was told; see the node's log",
                request.name
            ))),
        }
    }

    async fn choose(&self, request: &CreateRequest) -> Result<Choice, Error> {
        let create = CreateLog { name: request.name.clone(), request: request.request };
        self.metadata.send(create).await.map_err(|_| closed())
    }

    /// Has the node create the log, unless it has it, and waits until that is durable.
    async fn place(&self, log: LogId, node: NodeId, request: CreateRequest) -> Result<LogId, Error> {
        let placed = self.home(node)?.backend.place(log, request).await;
        if let Err(error) = &placed {
            tracing::warn!(%log, %node, %error, "log was not created");
            // In a site of one node nothing else can have appeared; else what became of it is asked for again.
            if self.homes.len() > 1 || self.homes.iter().any(|home| home.peer.is_some()) {
                self.metadata.do_send(Outdated);
            }
        }
        placed
    }

    /// Asks all storage nodes which logs there are.
    async fn learn_all(&self, name: &str) -> Result<(), Error> {
        let lists = self.require_all(name, join_all(self.homes.iter().map(list)).await)?;
        let logs: Vec<KnownLog> = lists.into_iter().flatten().collect();
        tracing::info!(logs = logs.len(), nodes = self.homes.len(), "learned which logs exist");
        self.metadata.send(LearnAll(logs)).await.map_err(|_| closed())
    }

    /// The answers, if all storage nodes gave one.
    fn require_all<T>(&self, name: &str, answers: Vec<Result<T, Error>>) -> Result<Vec<T>, Error> {
        let mut all = Vec::with_capacity(answers.len());
        for (home, answer) in self.homes.iter().zip(answers) {
            all.push(answer.map_err(|error| {
                Error::new(
                    if error.kind() == ErrorKind::Closed { ErrorKind::Closed } else { ErrorKind::Unavailable },
                    format!(
                        "log {name:?} was not created: {}. A new log needs all storage nodes of the site, because its \
                         number must be nobody else's; create it again when node {} is back",
                        error.message(),
                        home.node
                    ),
                )
            })?);
        }
        Ok(all)
    }

    /// The request that created a log, as its creation record says.
    async fn creator(&self, log: LogId, node: NodeId) -> Result<RequestId, Error> {
        let stretch = self.home(node)?.backend.scan(log, Tail::first_address(), 1).await?;
        let first = stretch.entries.first().filter(|entry| entry.kind == EntryKind::Create);
        Ok(first.map_or(RequestId::NONE, |entry| entry.request))
    }

    fn home(&self, node: NodeId) -> Result<&Home, Error> {
        let home = self.homes.iter().find(|home| home.node == node);
        home.ok_or_else(|| {
            Error::internal(format!("storage node {node} is not in site.storage; restart the node"))
        })
    }

    fn absences(&self) -> u64 {
        self.homes.iter().filter_map(|home| home.peer.as_ref()).map(|peer| peer.absences()).sum()
    }
}

/// All logs of a storage node.
async fn list(home: &Home) -> Result<Vec<KnownLog>, Error> {
    let mut logs = Vec::new();
    let mut from = LogId(0);
    loop {
        let page = home.backend.list(from, PAGE).await?;
        // Numbers must rise, or this never ends.
        let Some(last) = page.last().map(|log| log.log).filter(|last| *last >= from) else { return Ok(logs) };
        logs.extend(page.into_iter().map(|log| KnownLog {
            log: log.log,
            name: log.name,
            request: RequestId::NONE,
            node: home.node,
        }));
        let Some(next) = last.0.checked_add(1) else { return Ok(logs) };
        from = LogId(next);
    }
}

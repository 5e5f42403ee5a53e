//! The storage role: questions to the storage actor, reads from the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use actix::Addr;
use futures_util::FutureExt;
use parhelion_actor_runtime::Clock;
use parhelion_estimator::{Belief, LetPlan, PlannerActor, Planning};
use parhelion_gate::backend::Later;
use parhelion_gate::{
    AppendRequest, Appended, Backend, Budget, CodeRequest, CreateRequest, Credit, Entry, EntryKind,
    LogDigest, LogState, Missing, Promotion, ReadRecord, Stage, Stretch,
};
use parhelion_log::{RecordKind, Tail};
use parhelion_mirror::Acked;
use parhelion_plugin_host::Catalogue as Plugins;
use parhelion_storage::finding::{Finding, FindingHead};
use parhelion_storage::store::{Store, StoreError};
use parhelion_storage::{MirroringLatency, Request, RequestBatches, SiteStatus, StorageActor};
use parhelion_types::{Epoch, Error, ErrorKind, LogAddress, LogId, RequestId};
use parhelion_wire::Announcement;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::planner::AUTO;
use crate::status;

pub use parhelion_gate::answer::MISSING_MAX;

/// A link that does not answer a change of its code for so long is down.
const CODE_CHANGE_LIMIT: Duration = Duration::from_secs(5);
/// How long a changed code may take to be seen here.
const CODE_SEEN_LIMIT: Duration = Duration::from_secs(1);

/// Bytes of one read while a log is digested or scanned.
const READ_BYTES: usize = 4 << 20;
/// Shares of the records for which the status tells the mirroring latency.
const LATENCY_SHARES: [f64; 23] = [
    0.0, 0.001, 0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.975,
    0.99, 0.999, 0.9999, 1.0,
];

/// The logs of this node, by number, with name and creating request: what does not change about them.
#[derive(Clone, Debug, Default)]
pub struct OwnLogs(Arc<Mutex<BTreeMap<LogId, (String, RequestId)>>>);

impl OwnLogs {
    /// A log is here.
    pub fn learn(&self, log: LogId, name: String, request: RequestId) {
        self.lock().insert(log, (name, request));
    }

    /// Whether a log is here.
    pub fn has(&self, log: LogId) -> bool {
        self.lock().contains_key(&log)
    }

    /// The numbers of all.
    pub fn numbers(&self) -> Vec<LogId> {
        self.lock().keys().copied().collect()
    }

    /// All, with names and creating requests.
    pub fn all(&self) -> Vec<(LogId, String, RequestId)> {
        self.lock().iter().map(|(log, (name, request))| (*log, name.clone(), *request)).collect()
    }

    fn name(&self, log: LogId) -> Option<String> {
        self.lock().get(&log).map(|(name, _)| name.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<LogId, (String, RequestId)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where nothing can choose.
const NO_PLANNER: &str = "change code: only a primary's node that has the storage and the link to itself chooses by itself; name \
     a code and its parameters";

/// The logs of this node as front ends and other nodes use them.
pub struct LocalLogs {
    pub own: OwnLogs,
    pub segment_bytes: u32,
    pub storage: Addr<StorageActor>,
    /// The way to it for appends.
    pub appends: RequestBatches,
    pub store: Arc<Store>,
    /// What front ends take for the questions that they have taken in.
    pub in_flight: Budget,
    pub clock: Arc<Clock>,
    pub mirroring: MirroringLatency,
    /// What the estimator of a primary believes of the link; none at a site whose settings name no mirror.
    pub belief: Option<Arc<Mutex<Belief>>>,
    /// The codes and models of this node.
    pub plugins: Arc<Plugins>,
    /// What may choose the link's code, where this node has the link of a primary to itself.
    pub planner: OnceLock<PlannerRole>,
}

/// The planner, and what it does.
pub struct PlannerRole {
    pub actor: Addr<PlannerActor>,
    pub planning: Arc<Mutex<Planning>>,
}

impl LocalLogs {
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Error> {
        let (answer, wait) = oneshot::channel();
        // Bulk requests hold a credit already; the others are small and few.
        self.storage.do_send(request(answer));
        wait.await.map_err(|_| closed())
    }

    async fn site_status(&self) -> Result<SiteStatus, Error> {
        self.ask(|answer| Request::Status { answer }).await
    }

    async fn states(&self) -> Result<Vec<LogState>, Error> {
        let position = |end: LogAddress| {
            u64::from(end.segment.0) * u64::from(self.segment_bytes) + u64::from(end.offset)
        };
        Ok(match self.site_status().await? {
            SiteStatus::Primary { logs, .. } => logs
                .into_iter()
                .map(|log| LogState {
                    log: log.log,
                    name: log.name,
                    epoch: Epoch(log.epoch),
                    degrade: log.degrade,
                    records: log.records,
                    bytes: position(log.end),
                    end: log.end,
                    mirrored_records: log.mirrored,
                    freed: log.freed,
                    refusal: log.refusal.as_ref().map(Error::kind),
                })
                .collect(),
            SiteStatus::Mirror { logs } => logs
                .into_iter()
                .map(|log| LogState {
                    log: log.log,
                    name: log.name,
                    epoch: Epoch(log.epoch),
                    degrade: log.degrade,
                    records: log.durable,
                    bytes: position(log.end),
                    end: log.end,
                    mirrored_records: log.durable,
                    freed: log.freed,
                    refusal: log.refusal.as_ref().map(Error::kind),
                })
                .collect(),
        })
    }

    async fn stat_one(&self, log: LogId) -> Result<LogState, Error> {
        let states = self.states().await?;
        states.into_iter().find(|state| state.log == log).ok_or_else(|| unknown_log(log))
    }

    /// Runs a read of the store where blocking is allowed.
    async fn read_store<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || read(&store)).await {
            Ok(result) => result.map_err(store_error),
            Err(_) => Err(Error::internal("a read of the store failed; see the node's log")),
        }
    }

    async fn is_freed(&self, log: LogId, number: u64) -> Result<bool, Error> {
        self.ask(|answer| Request::IsFreed { log, number, answer }).await
    }

    fn was_promoted(&self) -> bool {
        self.store.catalogue().site().is_ok_and(|site| site.promoted)
    }

    /// The code that the link reports to use, while there is a session.
    async fn code_in_force(&self) -> Result<Option<String>, Error> {
        Ok(match self.site_status().await? {
            SiteStatus::Primary { linked: true, code, .. } => Some(code),
            _ => None,
        })
    }

    async fn change(&self, request: CodeRequest) -> Result<String, Error> {
        request.check()?;
        if let SiteStatus::Mirror { .. } = self.site_status().await? {
            let message = "change code: this site is a mirror, and the primary chooses the code; ask a node of the primary";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let down = || Error::unavailable("change code: the link is down; try again when it is up");
        let before = self.code_in_force().await?.ok_or_else(down)?;
        let CodeRequest { name, parameters } = request;
        if name == AUTO {
            let planner = self.planner.get().ok_or_else(|| Error::new(ErrorKind::Unsupported, NO_PLANNER))?;
            if !parameters.is_empty() {
                return Err(Error::invalid("change code: auto takes no parameters; leave them away"));
            }
            planner.actor.do_send(LetPlan(true));
            return Ok(before);
        }
        // The link's driver knows whether a code will do, and not which there are.
        self.plugins.code(&name).map_err(|error| Error::invalid(format!("change code: {error}")))?;
        if let Some(planner) = self.planner.get() {
            planner.actor.do_send(LetPlan(false));
        }
        let (done, told) = oneshot::channel();
        self.storage.do_send(Request::ChangeCode { name, parameters, flush_pause: None, done });
        let changed = tokio::time::timeout(CODE_CHANGE_LIMIT, told).await;
        match changed.ok().and_then(Result::ok) {
            Some(Ok(())) => {}
            None => return Err(down()),
            Some(Err(reason)) => {
                // The link's driver says in words what is wrong. Down since it was looked at, or a wrong request.
                let is_up = self.code_in_force().await?.is_some();
                return Err(if is_up { Error::invalid(format!("change code: {reason}")) } else { down() });
            }
        }
        // The link tells the storage actor a moment later. The same code again changes nothing to wait for.
        let seen_by = tokio::time::Instant::now() + CODE_SEEN_LIMIT;
        loop {
            let now = self.code_in_force().await?.ok_or_else(down)?;
            if now != before || tokio::time::Instant::now() >= seen_by {
                return Ok(now);
            }
            tokio::time::sleep(CODE_SEEN_LIMIT / 50).await;
        }
    }

    fn latency_status(&self) -> Value {
        let f = self.mirroring.figures();
        json!({
            "count": f.count, "min": f.min, "p50": f.p50, "p99": f.p99, "max": f.max, "mean": f.mean,
            "stddev": f.stddev, "quantiles": self.mirroring.quantiles(&LATENCY_SHARES),
        })
    }

    fn channel_status(&self) -> Value {
        let Some(belief) = &self.belief else { return Value::Null };
        let belief = belief.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let channel = |c: &parhelion_plugin::Channel| {
            json!({
                "loss": c.loss, "burst": 1.0 / c.bad_to_good.max(1e-9), "loss_in_bad": c.loss_in_bad,
                "confidence": c.confidence,
            })
        };
        let horizons: Vec<Value> = belief
            .horizons
            .iter()
            .map(|h| {
                json!({
                    "horizon": h.name, "packets": h.packets, "lost": h.lost, "bursts": h.bursts,
                    "counts": h.counts, "bounds": channel(&h.channel),
                })
            })
            .collect();
        json!({ "bounds": channel(&belief.bounds()), "horizons": horizons })
    }

    /// What chooses the code.
    fn planning_status(&self) -> Value {
        let Some(planner) = self.planner.get() else { return Value::Null };
        let planning = planner.planning.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({
            "on": planning.is_on, "changes": planning.changes, "waits": planning.waits, "last": planning.last,
        })
    }
}

impl Backend for LocalLogs {
    /// Never asked: who creates logs first chooses a number, and then places them.
    fn create(&self, request: CreateRequest) -> Later<'_, LogId> {
        let name = request.name;
        let message = format!("log {name:?}: a storage node chooses no numbers; ask the metadata node");
        std::future::ready(Err(Error::new(ErrorKind::Unsupported, message))).boxed()
    }

    fn place(&self, log: LogId, request: CreateRequest) -> Later<'_, LogId> {
        async move {
            request.check()?;
            let CreateRequest { name, degrade, request } = request;
            if let Some(other) = self.own.name(log).filter(|other| *other != name) {
                return Err(Error::unavailable(format!(
                    "log {name:?} cannot have the number {log}, which is that of log {other:?}: the metadata node has \
                     not heard of it; create the log again, with the same request id"
                )));
            }
            self.ask(|answer| Request::Create { log, name, degrade, request, answer }).await?
        }
        .boxed()
    }

    fn append(&self, append: AppendRequest, credit: Credit) -> Later<'_, Appended> {
        async move {
            append.check()?;
            let (answer, wait) = oneshot::channel();
            self.appends.send(Request::Append { append, credit, answer });
            let acked = wait.await.map_err(|_| closed())??;
            Ok(appended(&acked))
        }
        .boxed()
    }

    fn read(&self, log: LogId, address: LogAddress) -> Later<'_, ReadRecord> {
        async move {
            let record = self.read_store(move |store| store.read(log, address)).await?;
            let header = record.header;
            if header.kind != RecordKind::Append {
                return Err(no_append(log, address));
            }
            if self.is_freed(log, header.number).await? {
                return Err(Error::not_found(format!(
                    "the append at {address} of log {log} was freed, and what is freed is cleaned away; give the address of \
                     another one"
                )));
            }
            Ok(ReadRecord { payload: record.payload(), digest: header.digest, time: header.time })
        }
        .boxed()
    }

    fn free(&self, log: LogId, address: LogAddress) -> Later<'_, ()> {
        async move {
            let record = self.read_store(move |store| store.read(log, address)).await?;
            if record.header.kind != RecordKind::Append {
                return Err(no_append(log, address));
            }
            let number = record.header.number;
            self.ask(|answer| Request::Free { log, number, address, answer }).await?
        }
        .boxed()
    }

    fn list(&self, from: LogId, count: usize) -> Later<'_, Vec<LogState>> {
        async move {
            // No log has the last number; who asks for it only wants an answer.
            if from.0 == u32::MAX {
                return Ok(Vec::new());
            }
            let states = self.states().await?;
            Ok(states.into_iter().filter(|state| state.log >= from).take(count).collect())
        }
        .boxed()
    }

    fn stat(&self, log: LogId) -> Later<'_, LogState> {
        self.stat_one(log).boxed()
    }

    fn scan(&self, log: LogId, from: LogAddress, count: usize) -> Later<'_, Stretch> {
        async move {
            let state = self.stat_one(log).await?;
            let from = from.max(Tail::first_address());
            if from >= state.end {
                return Ok(Stretch { entries: Vec::new(), next: state.end });
            }
            let records = self.read_store(move |store| store.read_from(log, from, READ_BYTES)).await?;
            let mut stretch = Stretch { entries: Vec::new(), next: from };
            for record in records.into_iter().take(count) {
                let header = record.header;
                if header.address >= state.end {
                    break;
                }
                stretch.entries.push(Entry {
                    address: header.address,
                    kind: match header.kind {
                        RecordKind::Create => EntryKind::Create,
                        RecordKind::Append => EntryKind::Append,
                        RecordKind::Free => EntryKind::Free,
                    },
                    length: header.length,
                    digest: header.digest,
                    request: header.request,
                    time: header.time,
                    freed: header.kind == RecordKind::Append && self.is_freed(log, header.number).await?,
                });
                stretch.next = header.next_address();
            }
            Ok(stretch)
        }
        .boxed()
    }

    /// What the storage role adds to the node's status.
    fn status(&self) -> Later<'_, Value> {
        async move {
            let status = self.site_status().await?;
            Ok(json!({
                "is_primary": matches!(status, SiteStatus::Primary { .. }),
                "logs": status::of_node(&status, &self.clock, self.belief.is_some()),
                "channel": self.channel_status(),
                "planner": self.planning_status(),
                "queued_bytes": self.store.queued_bytes(),
                "in_flight_bytes": self.in_flight.held_bytes(),
                "mirroring_latency_micros": self.latency_status(),
            }))
        }
        .boxed()
    }

    fn promote(&self, dry_run: bool) -> Later<'_, Promotion> {
        async move {
            let found = match self.ask(|answer| Request::Promote { dry_run, answer }).await? {
                // The answer may have been lost.
                Err(_) if !dry_run && self.was_promoted() => {
                    return self.list_missing(LogId(0), LogAddress::default()).await;
                }
                found => found?,
            };
            Ok(Promotion {
                epoch: found.epoch,
                logs: u32::try_from(found.logs).unwrap_or(u32::MAX),
                missing: found.missing.iter().take(MISSING_MAX).map(missing).collect(),
                missing_count: found.missing.len() as u64 + found.unlisted,
                behind_gap_count: found.behind_gap.len() as u64,
            })
        }
        .boxed()
    }

    fn list_missing(&self, log: LogId, from: LogAddress) -> Later<'_, Promotion> {
        async move {
            if !self.was_promoted() {
                return Err(Error::not_found(
                    "this site was not promoted; `parhelion mirror promote --dry-run` says what would be missing",
                ));
            }
            let store = self.store.clone();
            let read = move || {
                let finding = Finding::open(store.home())?;
                let finding = finding.ok_or_else(|| {
                    let home = store.home().display();
                    Error::new(
                        ErrorKind::Corrupt,
                        format!("what the promotion found is not in {home} any more; restore the file from a backup"),
                    )
                })?;
                let FindingHead { epoch, logs, behind_gap, .. } = *finding.head();
                Ok(Promotion {
                    epoch,
                    logs,
                    missing: finding.page(log, from, MISSING_MAX)?.iter().map(missing).collect(),
                    missing_count: finding.head().missing(),
                    behind_gap_count: behind_gap,
                })
            };
            let read = tokio::task::spawn_blocking(read).await;
            read.unwrap_or_else(|_| Err(Error::internal("the finding cannot be read; see the node's log")))
        }
        .boxed()
    }

    fn change_code(&self, request: CodeRequest) -> Later<'_, String> {
        self.change(request).boxed()
    }

    fn digest(&self, log: LogId, until: LogAddress) -> Later<'_, LogDigest> {
        async move {
            let end = self.stat_one(log).await?.end.min(until);
            let mut hasher = blake3::Hasher::new();
            let (mut records, mut bytes) = (0, 0);
            let mut at = Tail::first_address();
            while at < end {
                let stretch = self.read_store(move |store| store.read_from(log, at, READ_BYTES)).await?;
                let before = at;
                for record in stretch {
                    if record.header.address >= end {
                        at = end;
                        break;
                    }
                    hasher.update(&record.bytes());
                    records += 1;
                    bytes += record.bytes().len() as u64;
                    at = record.header.next_address();
                }
                if at == before {
                    break;
                }
            }
            Ok(LogDigest { digest: *hasher.finalize().as_bytes(), records, bytes })
        }
        .boxed()
    }
}

fn appended(acked: &Acked) -> Appended {
    let stage = |stage: &parhelion_mirror::Stage| Stage {
        stage: stage.kind.name().to_owned(),
        after: stage.at.since(acked.accepted),
        repairs: stage.repairs,
        repairs_full: stage.repairs_full,
        own_risk: stage.own,
        prefix_risk: stage.prefix,
        note: stage.note.clone(),
    };
    Appended {
        log: acked.key.log,
        address: acked.address,
        reached: acked.reached,
        degraded: acked.degraded,
        duplicate: acked.duplicate,
        own_risk: acked.own,
        prefix_risk: acked.prefix,
        confidence: acked.confidence,
        model: acked.model.to_string(),
        code: acked.code.to_string(),
        epoch: acked.epoch,
        path: acked.path.iter().map(stage).collect(),
    }
}

fn missing(announced: &Announcement) -> Missing {
    let Announcement { log, address, length, digest, request, .. } = *announced;
    Missing { log, address, length, digest, request }
}

fn store_error(error: StoreError) -> Error {
    let kind = match &error {
        StoreError::NoLog(_) | StoreError::NoRecord { .. } => ErrorKind::NotFound,
        StoreError::Corrupt(damage) => {
            // Whoever asked may not be who can mend it.
            tracing::error!(%damage, "found while reading; the log is served, and is checked when the node starts");
            ErrorKind::Corrupt
        }
        StoreError::Busy(_) => ErrorKind::Busy,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, error.to_string())
}

fn no_append(log: LogId, address: LogAddress) -> Error {
    Error::not_found(format!(
        "log {log} has no append at {address}; the record there is the log's own; give an address that an append \
         returned"
    ))
}

/// Why there is nothing to be said about a log.
pub fn unknown_log(log: LogId) -> Error {
    Error::not_found(format!(
        "log {log} does not exist at this site; `parhelion log list` shows those that do"
    ))
}

/// Why an actor gives no answer.
pub fn closed() -> Error {
    Error::new(
        ErrorKind::Closed,
        "this node is shutting down; retry at another node, with the same request id",
    )
}

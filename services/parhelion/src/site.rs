//! A site of several nodes as clients of any of them see it: every question goes to the node that can answer it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use parhelion_gate::backend::Later;
use parhelion_gate::{
    AppendRequest, Appended, Backend, CodeRequest, CreateRequest, Credit, LogDigest, LogState, Promotion,
    ReadRecord, Stretch,
};
use parhelion_types::{Error, ErrorKind, LogAddress, LogId};
use serde_json::{Value, json};

use crate::backend::{NodeBackend, primary_already};
use crate::logs::{MISSING_MAX, OwnLogs, unknown_log};
use crate::peers::Peers;
use crate::placement::Home;
use crate::status;

/// A site of several nodes.
///
/// Which node has a log is what the nodes say: it is asked for once and remembered, and asked for again when the node
/// does not know the log any more.
pub struct SiteBackend {
    here: Arc<NodeBackend>,
    /// Logs of this node.
    own: OwnLogs,
    /// The storage nodes, this one among them if it is one.
    homes: Vec<Home>,
    peers: Peers,
    owners: RwLock<HashMap<LogId, usize>>,
}

impl SiteBackend {
    /// What clients of this node see: `homes` are all storage nodes, this one among them if it is one.
    pub fn new(here: Arc<NodeBackend>, homes: Vec<Home>, peers: Peers) -> Self {
        let own = here.logs.as_ref().map(|logs| logs.own.clone()).unwrap_or_default();
        Self { here, own, homes, peers, owners: RwLock::default() }
    }

    /// Hands a question to the storage node that has the log.
    fn route<'a, T, F>(&'a self, log: LogId, question: F) -> Later<'a, T>
    where
        T: Send + 'a,
        F: FnOnce(&'a dyn Backend) -> Later<'a, T> + Send + 'a,
    {
        if self.own.has(log) {
            return question(&*self.here);
        }
        async move {
            let owner = self.owner(log).await?;
            let answer = question(&*self.homes[owner].backend).await;
            if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
                // It may have another node by now: what a mirror lost may be fed to another one.
                self.owners.write().unwrap_or_else(PoisonError::into_inner).remove(&log);
            }
            answer
        }
        .boxed()
    }

    /// Which of the storage nodes has the log.
    async fn owner(&self, log: LogId) -> Result<usize, Error> {
        let known = self.owners.read().unwrap_or_else(PoisonError::into_inner).get(&log).copied();
        if let Some(owner) = known {
            return Ok(owner);
        }
        let ask = |n: usize| async move { (n, self.homes[n].backend.stat(log).await) };
        let mut answers: FuturesUnordered<_> = (0..self.homes.len()).map(ask).collect();
        let mut trouble = None;
        while let Some((n, answer)) = answers.next().await {
            match answer {
                Ok(_) => {
                    self.owners.write().unwrap_or_else(PoisonError::into_inner).insert(log, n);
                    return Ok(n);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => trouble = Some(error),
            }
        }
        Err(match trouble {
            None => unknown_log(log),
            Some(error) => Error::new(
                error.kind(),
                format!("log {log} is on none of the storage nodes that answer: {}", error.message()),
            ),
        })
    }

    /// Asks all storage nodes the same, and names the one that does not answer.
    async fn ask_all<'a, T>(
        &'a self,
        question: impl Fn(&'a dyn Backend) -> Later<'a, T>,
    ) -> Result<Vec<T>, Error> {
        let answers = join_all(self.homes.iter().map(|home| question(&*home.backend))).await;
        answers.into_iter().collect()
    }

    async fn site_status(&self) -> Result<Value, Error> {
        let here = self.here.status();
        let (here, others) =
            futures_util::join!(here, join_all(self.peers.others.iter().map(|other| other.peer.status())));
        let here = here?;
        let mut nodes = vec![json!({
            "node": here["node"], "roles": here["roles"], "address": self.here.about.address, "reachable": true,
            "status": here,
        })];
        for (other, answer) in self.peers.others.iter().zip(others) {
            let address = other.peer.address().to_string();
            nodes.push(match answer {
                Ok(status) => json!({
                    "node": status["node"], "roles": status["roles"], "address": address, "reachable": true,
                    "status": status,
                }),
                Err(error) => json!({
                    "node": other.node.map(|node| node.0), "roles": other.roles, "address": address,
                    "reachable": false, "reason": error.message(),
                }),
            });
        }
        nodes.sort_by_key(|node| node["node"].as_u64());
        Ok(merged(&here, nodes))
    }

    /// Promotes every storage node, or none if one of them does not answer. Those that were promoted before, whoever
    /// asked for it, say again what they found.
    async fn promote_site(&self, dry_run: bool) -> Result<Promotion, Error> {
        let (mut mirrors, mut promoted) = (Vec::new(), Vec::new());
        let states = self.ask_all(|home| home.status()).await.map_err(|error| nothing_changed(&error))?;
        for (home, state) in self.homes.iter().zip(states) {
            match state["duty"].as_str() {
                Some("mirror") => mirrors.push(home),
                Some("promoted") => promoted.push(home),
                _ => return Err(primary_already()),
            }
        }
        if dry_run && mirrors.is_empty() {
            return Err(primary_already());
        }
        let looks = join_all(mirrors.iter().map(|home| home.backend.promote(true))).await;
        let looks =
            looks.into_iter().collect::<Result<Vec<_>, _>>().map_err(|error| nothing_changed(&error))?;
        if dry_run {
            return Ok(together(looks.into_iter().chain(found_before(&promoted).await?)));
        }
        let answers = join_all(mirrors.iter().map(|home| home.backend.promote(false))).await;
        let mut done = Vec::new();
        let mut failed = Vec::new();
        for (home, answer) in mirrors.iter().zip(answers) {
            match answer {
                Ok(promotion) => done.push(promotion),
                Err(error) => failed.push(of_node(home, &error).message().to_owned()),
            }
        }
        if !failed.is_empty() {
            return Err(Error::unavailable(format!(
                "the site is not promoted as a whole: {}; its other storage nodes are. Promote it again, at any node: \
                 nothing is done twice, and all that is missing will be named",
                failed.join("; ")
            )));
        }
        Ok(together(done.into_iter().chain(found_before(&promoted).await?)))
    }

    /// The first missing appends of all nodes: each node names its first ones, so those of all are among them.
    async fn missing_of_site(&self, log: LogId, from: LogAddress) -> Result<Promotion, Error> {
        let pages = join_all(self.homes.iter().map(|home| home.backend.list_missing(log, from))).await;
        let pages =
            self.homes.iter().zip(pages).map(|(home, page)| page.map_err(|error| of_node(home, &error)));
        Ok(together(pages.collect::<Result<Vec<_>, _>>()?))
    }
}

impl Backend for SiteBackend {
    fn create(&self, request: CreateRequest) -> Later<'_, LogId> {
        match &self.peers.metadata {
            Some(metadata) => metadata.create(request),
            None => self.here.create(request),
        }
    }

    fn append(&self, request: AppendRequest, credit: Credit) -> Later<'_, Appended> {
        self.route(request.log, move |home| home.append(request, credit))
    }

    fn read(&self, log: LogId, address: LogAddress) -> Later<'_, ReadRecord> {
        self.route(log, move |home| home.read(log, address))
    }

    fn free(&self, log: LogId, address: LogAddress) -> Later<'_, ()> {
        self.route(log, move |home| home.free(log, address))
    }

    fn list(&self, from: LogId, count: usize) -> Later<'_, Vec<LogState>> {
        async move {
            // No log has the last number. Clients ask for it to see whether this node serves them, and it does,
            // whoever else is away.
            if from.0 == u32::MAX {
                return Ok(Vec::new());
            }
            // Each node names its first ones, so the first ones of all are among them.
            let lists = self.ask_all(|home| home.list(from, count)).await?;
            let mut logs: Vec<LogState> = lists.into_iter().flatten().collect();
            logs.sort_by_key(|state| state.log);
            logs.truncate(count);
            Ok(logs)
        }
        .boxed()
    }

    fn stat(&self, log: LogId) -> Later<'_, LogState> {
        self.route(log, move |home| home.stat(log))
    }

    fn scan(&self, log: LogId, from: LogAddress, count: usize) -> Later<'_, Stretch> {
        self.route(log, move |home| home.scan(log, from, count))
    }

    fn status(&self) -> Later<'_, Value> {
        self.site_status().boxed()
    }

    fn promote(&self, dry_run: bool) -> Later<'_, Promotion> {
        self.promote_site(dry_run).boxed()
    }

    fn list_missing(&self, log: LogId, from: LogAddress) -> Later<'_, Promotion> {
        self.missing_of_site(log, from).boxed()
    }

    /// Through any storage node: all of them share the one link, and are told of its code.
    fn change_code(&self, request: CodeRequest) -> Later<'_, String> {
        async move {
            let mut answer =
                Err(Error::unavailable("change code: the site has no storage node that answers; try again"));
            for home in &self.homes {
                answer = home.backend.change_code(request.clone()).await;
                if !answer.as_ref().is_err_and(|error| error.kind().is_retryable()) {
                    break;
                }
            }
            answer
        }
        .boxed()
    }

    fn digest(&self, log: LogId, until: LogAddress) -> Later<'_, LogDigest> {
        self.route(log, move |home| home.digest(log, until))
    }
}

/// The status of a site: as that of a single node, with the logs of all and the link of the link node, and beside it
/// each node's own without its logs.
fn merged(here: &Value, mut nodes: Vec<Value>) -> Value {
    let statuses: Vec<&Value> = nodes.iter().map(|node| &node["status"]).collect();
    let storage: Vec<&Value> = statuses.iter().copied().filter(|status| status["logs"].is_object()).collect();
    let logs = status::of_site(&storage);
    let mut duties: Vec<&str> = storage.iter().filter_map(|status| status["duty"].as_str()).collect();
    duties.dedup();
    let duty = match *duties {
        [duty] => duty,
        [] => here["duty"].as_str().unwrap_or_default(),
        _ => "partly promoted",
    };
    let first = |key: &str| statuses.iter().map(|status| &status[key]).find(|value| !value.is_null());
    let sum = |key: &str| storage.iter().filter_map(|status| status[key].as_u64()).sum::<u64>();
    let mut site = json!({
        "version": here["version"], "site": here["site"], "node": here["node"], "duty": duty, "logs": logs,
        "link": first("link"), "channel": first("channel"), "queued_bytes": sum("queued_bytes"),
        "in_flight_bytes": sum("in_flight_bytes"),
        "mirroring_latency_micros": first("mirroring_latency_micros"),
    });
    for node in &mut nodes {
        if let Some(logs) = node.pointer_mut("/status/logs").and_then(Value::as_object_mut) {
            logs.remove("logs");
        }
    }
    site["nodes"] = Value::Array(nodes);
    site
}

/// What nodes found that were promoted before.
async fn found_before(promoted: &[&Home]) -> Result<Vec<Promotion>, Error> {
    let first = (LogId(0), LogAddress::default());
    let found = join_all(promoted.iter().map(|home| home.backend.list_missing(first.0, first.1))).await;
    promoted.iter().zip(found).map(|(home, found)| found.map_err(|error| of_node(home, &error))).collect()
}

/// An error of one of the nodes.
fn of_node(home: &Home, error: &Error) -> Error {
    Error::new(error.kind(), format!("node {}: {}", home.node, error.message()))
}

/// What the nodes of a site found when they were promoted, as one finding.
fn together(all: impl IntoIterator<Item = Promotion>) -> Promotion {
    let mut site = Promotion::default();
    for one in all {
        site.epoch = site.epoch.max(one.epoch);
        site.logs = site.logs.saturating_add(one.logs);
        site.missing.extend(one.missing);
        site.missing_count += one.missing_count;
        site.behind_gap_count += one.behind_gap_count;
    }
    site.missing.sort_by_key(|missing| (missing.log, missing.address));
    site.missing.truncate(MISSING_MAX);
    site
}

fn nothing_changed(error: &Error) -> Error {
    Error::new(
        error.kind(),
        format!(
            "the site was not promoted, nothing was changed: {}. If the node is lost with its logs, take it out of \
             site.storage and restart the others",
            error.message()
        ),
    )
}

#[cfg(test)]
mod tests {
    use parhelion_gate::Missing;
    use parhelion_types::{Epoch, RequestId};

    use super::*;

    fn storage(node: u16, duty: &str, linked: bool, log: u32) -> Value {
        json!({
            "node": node, "reachable": true,
            "status": {
                "node": node, "duty": duty, "queued_bytes": 10,
                "logs": {
                    "linked": linked, "unconfirmed_bytes": 5, "totals": { "logs": 1 },
                    "logs": [{ "log": log, "name": "n" }],
                },
            },
        })
    }

    #[test]
    fn the_status_of_a_site_is_that_of_its_nodes() {
        let here = json!({ "node": 1, "site": 9, "duty": "primary", "link": { "up": 1 } });
        let link = json!({ "node": 1, "reachable": true, "status": here });
        let away = json!({ "node": 4, "reachable": false, "reason": "no answer" });
        let nodes = vec![link, storage(2, "primary", true, 7), storage(3, "primary", false, 4), away.clone()];
        let site = merged(&here, nodes);
        assert_eq!(site["site"], 9);
        assert_eq!(site["duty"], "primary");
        assert_eq!(site["link"]["up"], 1);
        assert_eq!(site["queued_bytes"], 20);
        assert_eq!(site["logs"]["linked"], false, "one of them is not");
        assert_eq!(site["logs"]["unconfirmed_bytes"], 10);
        let logs = site["logs"]["logs"].as_array().unwrap();
        assert_eq!(
            logs.iter().map(|log| (log["log"].as_u64(), log["node"].as_u64())).collect::<Vec<_>>(),
            [(Some(4), Some(3)), (Some(7), Some(2))]
        );
        assert_eq!(site["logs"]["totals"]["logs"], 2);
        assert_eq!(site["nodes"][1]["status"]["logs"]["totals"]["logs"], 1);
        assert!(site["nodes"][1]["status"]["logs"]["logs"].is_null(), "said once: {site}");
        assert_eq!(site["nodes"][3], away);
        let halves = merged(&here, vec![storage(2, "promoted", true, 7), storage(3, "mirror", true, 4)]);
        assert_eq!(halves["duty"], "partly promoted");
    }

    #[test]
    fn findings_of_the_nodes_are_one_finding() {
        let missing = |log: u32| Missing {
            log: LogId(log),
            address: LogAddress::new(0, 64),
            length: 1,
            digest: 2,
            request: RequestId(3),
        };
        let one = |epoch: u32, log: u32| Promotion {
            epoch: Epoch(epoch),
            logs: 2,
            missing: vec![missing(log)],
            missing_count: 4,
            behind_gap_count: 1,
        };
        let site = together([one(3, 8), one(2, 5)]);
        assert_eq!((site.epoch, site.logs, site.missing_count, site.behind_gap_count), (Epoch(3), 4, 8, 2));
        assert_eq!(site.missing, [missing(5), missing(8)]);
    }
}

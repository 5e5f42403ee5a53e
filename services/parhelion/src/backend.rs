//! What one node answers by itself: all there is to ask in a site of one node, and what nodes ask of each other.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use futures_util::FutureExt;
use parhelion_gate::backend::Later;
use parhelion_gate::{
    AppendRequest, Appended, Backend, CodeRequest, CreateRequest, Credit, LogDigest, LogState, Promotion,
    ReadRecord, Stretch,
};
use parhelion_types::{Error, ErrorKind, LogAddress, LogId, NodeId, Role, SiteId};
use serde_json::{Map, Value, json};

use crate::link::CurrentStats;
use crate::logs::LocalLogs;
use crate::placement::Placement;
use crate::settings::Duty;

/// A node as its front ends, or the other nodes of its site, see it. Asks nobody else but to place a new log.
pub struct NodeBackend {
    pub about: About,
    /// The storage role.
    pub logs: Option<Arc<LocalLogs>>,
    /// The metadata role.
    pub placement: Option<Arc<Placement>>,
    pub link: CurrentStats,
    /// What the settings say about the link, for status.
    pub line: Map<String, Value>,
}

/// Which node this is.
#[derive(Clone, Debug)]
pub struct About {
    pub site: SiteId,
    pub node: NodeId,
    pub roles: BTreeSet<Role>,
    pub duty: Duty,
    /// Where the settings of the site say that its API is.
    pub address: Option<SocketAddr>,
}

impl NodeBackend {
    fn logs(&self) -> Result<&LocalLogs, Error> {
        self.logs.as_deref().ok_or_else(|| self.lacks(Role::Storage))
    }

    fn lacks(&self, role: Role) -> Error {
        let About { site, node, .. } = self.about;
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "node {node} of site {site} has not the role {role}; check [site] in the settings of its nodes"
            ),
        )
    }

    /// Hands a question to the storage role, if the node has it.
    fn ask<'a, T: Send + 'a>(&'a self, question: impl FnOnce(&'a LocalLogs) -> Later<'a, T>) -> Later<'a, T> {
        match self.logs() {
            Ok(logs) => question(logs),
            Err(error) => std::future::ready(Err(error)).boxed(),
        }
    }
}

impl Backend for NodeBackend {
    fn create(&self, request: CreateRequest) -> Later<'_, LogId> {
        match &self.placement {
            Some(placement) => placement.create(request).boxed(),
            None => std::future::ready(Err(self.lacks(Role::Metadata))).boxed(),
        }
    }

    fn place(&self, log: LogId, request: CreateRequest) -> Later<'_, LogId> {
        self.ask(|logs| logs.place(log, request))
    }

    fn append(&self, request: AppendRequest, credit: Credit) -> Later<'_, Appended> {
        self.ask(|logs| logs.append(request, credit))
    }

    fn read(&self, log: LogId, address: LogAddress) -> Later<'_, ReadRecord> {
        self.ask(|logs| logs.read(log, address))
    }

    fn free(&self, log: LogId, address: LogAddress) -> Later<'_, ()> {
        self.ask(|logs| logs.free(log, address))
    }

    /// Nothing, from a node without the storage role: another node asks whether it is there.
    fn list(&self, from: LogId, count: usize) -> Later<'_, Vec<LogState>> {
        match &self.logs {
            Some(logs) => logs.list(from, count),
            None => std::future::ready(Ok(Vec::new())).boxed(),
        }
    }

    fn stat(&self, log: LogId) -> Later<'_, LogState> {
        self.ask(|logs| logs.stat(log))
    }

    fn scan(&self, log: LogId, from: LogAddress, count: usize) -> Later<'_, Stretch> {
        self.ask(|logs| logs.scan(log, from, count))
    }

    fn status(&self) -> Later<'_, Value> {
        async move {
            let About { site, node, roles, duty, .. } = &self.about;
            let mut document = Map::new();
            let mut tell = |key: &str, value: Value| drop(document.insert(key.to_owned(), value));
            tell("version", json!(env!("CARGO_PKG_VERSION")));
            tell("site", json!(site.0));
            tell("node", json!(node.0));
            tell("roles", json!(roles));
            let mut is_promoted = false;
            if let Some(logs) = &self.logs
                && let Value::Object(storage) = logs.status().await?
            {
                for (key, value) in storage {
                    match key.as_str() {
                        "is_primary" => is_promoted = *duty == Duty::Mirror && value == json!(true),
                        key => tell(key, value),
                    }
                }
            }
            tell("duty", if is_promoted { json!("promoted") } else { json!(duty) });
            if roles.contains(&Role::Link) {
                let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let figures = link.all().into_iter().map(|(name, value)| (name.to_owned(), json!(value)));
                tell("link", Value::Object(self.line.clone().into_iter().chain(figures).collect()));
            }
            Ok(Value::Object(document))
        }
        .boxed()
    }

    fn change_code(&self, request: CodeRequest) -> Later<'_, String> {
        self.ask(|logs| logs.change_code(request))
    }

    fn promote(&self, dry_run: bool) -> Later<'_, Promotion> {
        if self.about.duty != Duty::Mirror {
            return std::future::ready(Err(primary_already())).boxed();
        }
        self.ask(|logs| logs.promote(dry_run))
    }

    fn list_missing(&self, log: LogId, from: LogAddress) -> Later<'_, Promotion> {
        self.ask(|logs| logs.list_missing(log, from))
    }

    fn digest(&self, log: LogId, until: LogAddress) -> Later<'_, LogDigest> {
        self.ask(|logs| logs.digest(log, until))
    }
}

/// Why a site cannot be promoted.
pub fn primary_already() -> Error {
    Error::invalid("this site is a primary already; only a mirror can be promoted")
}

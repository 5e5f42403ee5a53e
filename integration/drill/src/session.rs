//! What the drill needs of the client library, in the drill's own words.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use parhelion_client::{AppendOptions, Client, ClientConfig, EntryKind, Identity};
use parhelion_types::{Degrade, Durability, Error, LogAddress, LogId, RequestId, Risk};

use crate::error::DrillError;

/// A connection to a node. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Session(Client);

/// One append of a writer.
#[derive(Clone, Debug)]
pub(crate) struct AppendRequest {
    pub log: LogId,
    pub bytes: Bytes,
    pub durability: Durability,
    pub max_risk: f64,
    pub request: RequestId,
}

/// What of an acknowledgement is written down.
#[derive(Clone, Debug)]
pub(crate) struct Acked {
    pub address: LogAddress,
    pub reached: Durability,
    pub degraded: bool,
    pub duplicate: bool,
    pub own_risk: f64,
    pub prefix_risk: f64,
}

/// One append, as a site shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub address: LogAddress,
    pub length: u32,
    pub crc: u32,
    pub request: RequestId,
}

/// What promotion found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promotion {
    pub epoch: u32,
    /// Appends that were announced and are not shown.
    pub missing: Vec<Missing>,
    pub missing_count: u64,
    pub behind_gap_count: u64,
}

/// One append that was announced and is not shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Missing {
    pub log: LogId,
    pub address: LogAddress,
    pub length: u32,
    pub crc: u32,
    pub request: RequestId,
}

impl Session {
    /// Connects as an application does.
    pub(crate) async fn client(api: SocketAddr, tls: &Path) -> Result<Self, DrillError> {
        Self::connect(api, tls, "client").await
    }

    /// Connects as the one who may promote.
    pub(crate) async fn admin(api: SocketAddr, tls: &Path) -> Result<Self, DrillError> {
        Self::connect(api, tls, "admin").await
    }

    async fn connect(api: SocketAddr, tls: &Path, name: &str) -> Result<Self, DrillError> {
        let identity = Identity::load_from(tls, name)
            .map_err(|error| refused("loading a certificate")(Error::invalid(error.to_string())))?;
        let client =
            Client::connect(ClientConfig::new(api, identity)).await.map_err(refused("connecting"))?;
        Ok(Self(client))
    }

    /// Creates a log whose appends wait as long as it takes: a drill degrades nothing.
    pub(crate) async fn create(&self, name: &str) -> Result<LogId, DrillError> {
        self.0.create(name, Degrade::Block).await.map_err(refused("creating a log"))
    }

    /// Appends once; what the client library repeats by itself goes by the same name.
    pub(crate) async fn append(&self, append: AppendRequest) -> Result<Acked, Error> {
        let options = AppendOptions {
            durability: append.durability,
            max_risk: Risk::bound(append.max_risk),
            request: append.request,
            ..AppendOptions::default()
        };
        let acked = self.0.append(append.log, append.bytes, options).await?;
        Ok(Acked {
            address: acked.address,
            reached: acked.reached,
            degraded: acked.degraded,
            duplicate: acked.duplicate,
            own_risk: acked.own_risk.probability(),
            prefix_risk: acked.prefix_risk.probability(),
        })
    }

    /// Makes the mirror writable.
    pub(crate) async fn promote(&self) -> Result<Promotion, DrillError> {
        let promotion = self.0.promote(false).await.map_err(refused("promoting the mirror"))?;
        Ok(Promotion {
            epoch: promotion.epoch.0,
            missing: promotion
                .missing
                .iter()
                .map(|one| Missing {
                    log: one.log,
                    address: one.address,
                    length: one.length,
                    crc: one.digest,
                    request: one.request,
                })
                .collect(),
            missing_count: promotion.missing_count,
            behind_gap_count: promotion.behind_gap_count,
        })
    }

    /// The node's status document.
    pub(crate) async fn status(&self) -> Result<serde_json::Value, DrillError> {
        self.0.status().await.map_err(refused("asking for the mirror's status"))
    }

    /// All logs of the node.
    pub(crate) async fn logs(&self) -> Result<Vec<LogId>, DrillError> {
        let logs = self.0.list().await.map_err(refused("listing logs"))?;
        Ok(logs.into_iter().map(|state| state.log).collect())
    }

    /// Every append of a log, freed ones excepted, in log order.
    pub(crate) async fn scan(&self, log: LogId) -> Result<Vec<Entry>, DrillError> {
        let mut all = Vec::new();
        let mut from = LogAddress::default();
        loop {
            let stretch = self.0.scan(log, from, SCAN_COUNT).await.map_err(refused("scanning a log"))?;
            // A node that names no later address would keep us here for ever.
            if stretch.entries.is_empty() || stretch.next <= from {
                return Ok(all);
            }
            let appends =
                stretch.entries.iter().filter(|entry| entry.kind == EntryKind::Append && !entry.freed);
            all.extend(appends.map(|entry| Entry {
                address: entry.address,
                length: entry.length,
                crc: entry.digest,
                request: entry.request,
            }));
            from = stretch.next;
        }
    }

    /// The bytes of one append.
    pub(crate) async fn read(&self, log: LogId, address: LogAddress) -> Result<Bytes, DrillError> {
        let record = self.0.read(log, address).await.map_err(refused("reading an append back"))?;
        Ok(record.payload)
    }
}

/// Entries asked for at once; the node may answer with fewer.
const SCAN_COUNT: u32 = 4096;

fn refused(doing: &'static str) -> impl FnOnce(Error) -> DrillError {
    move |source| DrillError::Node { doing, source }
}

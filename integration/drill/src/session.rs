//! What the drill needs of the client library, in the drill's own words.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use parhelion_types::{Durability, Error, LogAddress, LogId, RequestId};

use crate::error::DrillError;

#[derive(Clone, Debug)]
pub(crate) struct Session;

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
    /// Log, address and CRC-32C of appends that were announced and are not shown.
    pub missing: Vec<(LogId, LogAddress, u32)>,
    pub missing_count: u64,
    pub behind_gap_count: u64,
}

impl Session {
    pub(crate) async fn client(_api: SocketAddr, _tls: &Path) -> Result<Self, DrillError> {
        Ok(Self)
    }
    pub(crate) async fn admin(_api: SocketAddr, _tls: &Path) -> Result<Self, DrillError> {
        Ok(Self)
    }
    pub(crate) async fn create(&self, _name: &str, _request: RequestId) -> Result<LogId, DrillError> {
        Ok(LogId(1))
    }
    pub(crate) async fn append(&self, _append: AppendRequest) -> Result<Acked, Error> {
        Err(Error::internal(""))
    }
    pub(crate) async fn promote(&self) -> Result<Promotion, DrillError> {
        Ok(Promotion::default())
    }
    pub(crate) async fn status(&self) -> Result<serde_json::Value, DrillError> {
        Ok(serde_json::Value::Null)
    }
    pub(crate) async fn logs(&self) -> Result<Vec<LogId>, DrillError> {
        Ok(vec![])
    }
    pub(crate) async fn scan(&self, _log: LogId) -> Result<Vec<Entry>, DrillError> {
        Ok(vec![])
    }
    pub(crate) async fn read(&self, _log: LogId, _address: LogAddress) -> Result<Bytes, DrillError> {
        Ok(Bytes::new())
    }
}

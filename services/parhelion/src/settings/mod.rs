//! Settings of a node: plain data with defaults, profiles and units. What is built from them, such as
//! codes and models, is built in `node`.

mod layers;
mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use parhelion_types::Degrade;
use parhelion_types::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use serde::{Deserialize, Serialize};

pub use layers::{Effective, Layered, Profile, load};
pub use units::Rate;

/// All settings of a node. `profiles/defaults.toml` documents each field beside its default.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Settings {
    pub node: Node,
    pub tls: Tls,
    pub api: Api,
    pub http: Http,
    pub storage: Storage,
    pub mirror: Mirror,
    pub link: Link,
    pub risk: Risk,
    pub telemetry: Telemetry,
}

/// What a node does for its logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Duty {
    /// Accepts appends and mirrors them.
    Primary,
    /// Receives another site's appends.
    Mirror,
    /// Accepts appends, mirrors them nowhere.
    Single,
}

/// How records reach the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// QUIC datagrams with an erasure code.
    Quic,
    /// A TCP stream under TLS.
    Tcp,
}

/// Congestion control of the bulk lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// A leased line of known rate: loss does not slow it.
    Provisioned,
    /// QUIC's BBR.
    Bbr,
    /// QUIC's CUBIC.
    Cubic,
}

macro_rules! section {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, Serialize)]
        #[serde(deny_unknown_fields)]
        #[allow(missing_docs)]
        pub struct $name { $($(#[$attr])* pub $field: $ty,)* }
    )*};
}

section! {
    /// `[node]`
    Node {
        site: u16,
        node: u16,
        duty: Duty,
        data: PathBuf,
        #[serde(with = "humantime_serde")]
        drain: Duration,
    }
    /// `[tls]`
    Tls { directory: PathBuf }
    /// `[api]`
    Api { listen: SocketAddr, in_flight: ByteSize }
    /// `[http]`
    Http { listen: String, tls: bool, allow_remote_plaintext: bool }
    /// `[storage]`
    Storage { directories: Vec<PathBuf>, segment: ByteSize, queue: ByteSize }
    /// `[mirror]`
    Mirror {
        degrade: Degrade,
        #[serde(with = "humantime_serde")]
        deadline: Duration,
        requests: u32,
    }
    /// `[link]`
    Link {
        transport: Transport,
        peer_bulk: String,
        peer_critical: String,
        peer_tcp: String,
        listen_bulk: SocketAddr,
        listen_critical: SocketAddr,
        listen_tcp: SocketAddr,
        rate: Rate,
        share: f64,
        mtu: u16,
        congestion: Congestion,
        tcp_congestion: String,
        code: String,
        parameters: String,
        #[serde(with = "humantime_serde")]
        flush_delay: Duration,
        #[serde(with = "humantime_serde")]
        site_exit_delay: Duration,
        burst: usize,
        buffer: ByteSize,
        #[serde(with = "humantime_serde")]
        report_interval: Duration,
        #[serde(with = "humantime_serde")]
        idle_timeout: Duration,
    }
    /// `[risk]`
    Risk { model: String, confidence: f64, assumed_loss: f64, assumed_burst: f64 }
    /// `[telemetry]`
    Telemetry { log: String, json: bool, otlp: String, sample: f64 }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file of `--config` cannot be read.
    #[error("settings file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No such setting.
    #[error("unknown setting {key:?} (from: {origin}); the nearest known one is {nearest:?}")]
    Unknown {
        /// As given.
        key: String,
        /// The layer it came from.
        origin: String,
        /// What may have been meant.
        nearest: String,
    },
    /// A value of the wrong form.
    #[error("{reason}{origins}")]
    Value {
        /// What is wrong with it.
        reason: String,
        /// Where it came from.
        origins: String,
    },
    /// A value out of range, or values that do not fit each other.
    #[error("setting {key} is {value}: {reason}")]
    Range {
        /// `section.key`.
        key: &'static str,
        /// As given.
        value: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A `--set` word without `=`.
    #[error("--set {0:?}: write section.key=value")]
    Set(String),
    /// A layer that cannot be read.
    #[error(transparent)]
    Layer(#[from] config::ConfigError),
}

impl SettingsError {
    fn unknown(key: String, origin: &str, known: &[String]) -> Self {
        let nearest = known
            .iter()
            .max_by(|a, b| strsim::jaro_winkler(a, &key).total_cmp(&strsim::jaro_winkler(b, &key)))
            .cloned()
            .unwrap_or_default();
        Self::Unknown { key, origin: origin.to_owned(), nearest }
    }
}

impl Settings {
    /// Checks what types cannot: ranges, and values that must fit each other.
    pub fn check(&self) -> Result<(), SettingsError> {
        let range = |ok: bool, key, value: String, reason: &str| {
            if ok { Ok(()) } else { Err(SettingsError::Range { key, value, reason: reason.to_owned() }) }
        };
        let segment = self.storage.segment.as_u64();
        range(
            (u64::from(SEGMENT_BYTES_MIN)..=u64::from(SEGMENT_BYTES_MAX)).contains(&segment),
            "storage.segment",
            self.storage.segment.to_string(),
            &format!("give {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} bytes, so that the largest append fits"),
        )?;
        let probability = |p: f64| p > 0.0 && p < 1.0;
        let text = |number: f64| number.to_string();
        range(probability(self.risk.confidence), "risk.confidence", text(self.risk.confidence), "give a probability between 0 and 1, such as 0.999")?;
        range(probability(self.risk.assumed_loss), "risk.assumed_loss", text(self.risk.assumed_loss), "give a loss rate between 0 and 1, such as 1e-5")?;
        range(self.risk.assumed_burst >= 1.0, "risk.assumed_burst", text(self.risk.assumed_burst), "give a mean burst of at least 1 packet")?;
        range((0.0..=1.0).contains(&self.telemetry.sample), "telemetry.sample", text(self.telemetry.sample), "give a share between 0 and 1")?;
        range(self.link.share > 0.0 && self.link.share <= 1.0, "link.share", text(self.link.share), "give a share above 0 and at most 1")?;
        range((1280..=9200).contains(&self.link.mtu), "link.mtu", self.link.mtu.to_string(), "give 1280 to 9200 bytes")?;
        range((1..=64).contains(&self.link.burst), "link.burst", self.link.burst.to_string(), "give 1 to 64 datagrams")?;
        range(self.http.listen == "off" || self.http.listen.parse::<SocketAddr>().is_ok(), "http.listen", format!("{:?}", self.http.listen), "give an address such as 127.0.0.1:7480, or \"off\"")?;
        for (key, value) in [("link.peer_bulk", &self.link.peer_bulk), ("link.peer_critical", &self.link.peer_critical)] {
            range(self.node.duty != Duty::Primary || value.parse::<SocketAddr>().is_ok(), key, format!("{value:?}"), "a primary needs the mirror's address, such as 192.0.2.7:7411; for a site without a mirror use --profile single")?;
        }
        Ok(())
    }
}

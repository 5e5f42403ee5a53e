//! Settings of a node: plain data with defaults, profiles and units. What is built from them, such as
//! codes and models, is built in `node`.

mod layers;
mod site;
mod units;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use parhelion_gate::tls::is_host_name;
use parhelion_types::Role;
use parhelion_types::limits::{IN_FLIGHT_BYTES_MIN, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use serde::{Deserialize, Serialize};

pub use layers::{Effective, Layered, Profile, load};
pub use site::StorageNode;
pub use units::Rate;

/// All settings of a node. `profiles/defaults.toml` documents each field beside its default.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Settings {
    pub node: Node,
    pub site: Site,
    pub tls: Tls,
    pub api: Api,
    pub http: Http,
    pub storage: Storage,
    pub mirror: Mirror,
    pub link: Link,
    pub risk: Risk,
    pub plugins: Plugins,
    pub telemetry: Telemetry,
}

/// What a node does for its logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// QUIC datagrams with an erasure code.
    Quic,
    /// A TCP stream under TLS.
    Tcp,
}

/// Congestion control of the bulk lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// A leased line of known rate: loss does not slow it.
    Provisioned,
    /// QUIC's BBR.
    Bbr,
    /// QUIC's CUBIC.
    Cubic,
}

/// Reads words, and names the choices where a word is none of them.
macro_rules! choices {
    ($($name:ident { $($variant:ident = $word:literal),* })*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match String::deserialize(deserializer)?.as_str() {
                    $($word => Ok(Self::$variant),)*
                    other => Err(serde::de::Error::custom(format!(
                        "{other:?} is no choice; give one of: {}", [$($word),*].join(", ")
                    ))),
                }
            }
        }
    )*};
}

choices! {
    Duty { Primary = "primary", Mirror = "mirror", Single = "single" }
    Transport { Quic = "quic", Tcp = "tcp" }
    Congestion { Provisioned = "provisioned", Bbr = "bbr", Cubic = "cubic" }
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
        #[serde(deserialize_with = "site::roles")]
        roles: BTreeSet<Role>,
        data: PathBuf,
        #[serde(with = "humantime_serde")]
        drain: Duration,
    }
    /// `[site]`
    Site {
        #[serde(deserialize_with = "site::words")]
        storage: Vec<StorageNode>,
        metadata: String,
        link: String,
        gateway: String,
        listen: String,
    }
    /// `[tls]`
    Tls { directory: PathBuf, certificate: String }
    /// `[api]`
    Api { listen: SocketAddr, in_flight: ByteSize }
    /// `[http]`
    Http { listen: String, tls: bool, allow_remote_plaintext: bool }
    /// `[storage]`
    Storage {
        #[serde(deserialize_with = "site::paths")]
        directories: Vec<PathBuf>,
        segment: ByteSize,
        queue: ByteSize,
    }
    /// `[mirror]`
    Mirror {
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
        #[serde(deserialize_with = "site::words")]
        peer_names: Vec<String>,
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
        flush_pause: u32,
        #[serde(with = "humantime_serde")]
        site_exit_delay: Duration,
        pacing_burst: usize,
        buffer: ByteSize,
        #[serde(with = "humantime_serde")]
        report_interval: Duration,
        #[serde(with = "humantime_serde")]
        idle_timeout: Duration,
    }
    /// `[risk]`
    Risk { model: String, confidence: f64, assumed_loss: f64, assumed_burst: f64, traces: String }
    /// `[plugins]`
    Plugins { directory: String, libraries: bool }
    /// `[telemetry]`
    Telemetry { log: String, json: bool, otlp: String, sample: f64 }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file of `--config` cannot be read.
    #[error("settings file {}: {reason}; give a TOML file that can be read, or leave --config away", path.display())]
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
    #[error("setting {key} is {value:?}: {reason}")]
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
        let Self { node, api, http, storage, link, risk, telemetry, .. } = self;
        require(
            api.in_flight.as_u64() >= IN_FLIGHT_BYTES_MIN as u64,
            "api.in_flight",
            api.in_flight,
            &format!(
                "give at least {IN_FLIGHT_BYTES_MIN} bytes, so that the largest append fits beside those that wait"
            ),
        )?;
        let segments = u64::from(SEGMENT_BYTES_MIN)..=u64::from(SEGMENT_BYTES_MAX);
        require(
            segments.contains(&storage.segment.as_u64()),
            "storage.segment",
            storage.segment,
            &format!(
                "give {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} bytes, so that the largest append fits"
            ),
        )?;
        let probability = "give a probability between 0 and 1, such as 0.999";
        require(is_probability(risk.confidence), "risk.confidence", risk.confidence, probability)?;
        require(is_probability(risk.assumed_loss), "risk.assumed_loss", risk.assumed_loss, probability)?;
        let burst = risk.assumed_burst;
        require(burst >= 1.0, "risk.assumed_burst", burst, "give a mean burst of at least 1 packet")?;
        let share = (0.0..=1.0).contains(&telemetry.sample);
        require(share, "telemetry.sample", telemetry.sample, "give a share between 0 and 1")?;
        let share = link.share > 0.0 && link.share <= 1.0;
        require(share, "link.share", link.share, "give a share above 0 and at most 1")?;
        require((1280..=9200).contains(&link.mtu), "link.mtu", link.mtu, "give 1280 to 9200 bytes")?;
        let burst = link.pacing_burst;
        require((1..=64).contains(&burst), "link.pacing_burst", burst, "give 1 to 64 datagrams")?;
        let reason = "give DNS names or IP addresses, such as mirror.example.com, or nothing";
        let names = link.peer_names.iter().all(|name| is_host_name(name));
        require(names, "link.peer_names", link.peer_names.join(", "), reason)?;
        let listen = http.listen == "off" || http.listen.parse::<SocketAddr>().is_ok();
        require(listen, "http.listen", &http.listen, "give an address such as 127.0.0.1:7480, or \"off\"")?;
        for (key, peer) in [("link.peer_bulk", &link.peer_bulk), ("link.peer_critical", &link.peer_critical)]
        {
            let reason = "a primary needs the mirror's address, such as 192.0.2.7:7411; for a site without a \
                          mirror use --profile single";
            let needed = node.duty == Duty::Primary && self.has(Role::Link);
            require(!needed || peer.parse::<SocketAddr>().is_ok(), key, peer, reason)?;
        }
        let needed = node.duty == Duty::Primary && self.has(Role::Link) && link.transport == Transport::Tcp;
        let tcp = link.peer_tcp.is_empty() && !needed || link.peer_tcp.parse::<SocketAddr>().is_ok();
        let reason =
            "give the mirror's address, such as 192.0.2.7:7413; without link.transport=tcp it may be empty";
        require(tcp, "link.peer_tcp", &link.peer_tcp, reason)?;
        self.check_site()
    }

    /// Name of the node's certificate and key in `tls.directory`, without ending.
    pub fn certificate(&self) -> String {
        match self.tls.certificate.as_str() {
            "" => format!("node-{}", self.node.site),
            name => name.to_owned(),
        }
    }

    /// Where a storage node keeps segments; the first directory also holds its catalogue.
    pub fn data_directories(&self) -> Vec<PathBuf> {
        match self.storage.directories.as_slice() {
            [] => vec![self.node.data.join("store")],
            directories => directories.to_vec(),
        }
    }
}

fn require(
    holds: bool,
    key: &'static str,
    value: impl std::fmt::Display,
    reason: &str,
) -> Result<(), SettingsError> {
    if holds {
        return Ok(());
    }
    Err(SettingsError::Range { key, value: value.to_string(), reason: reason.to_owned() })
}

fn is_probability(value: f64) -> bool {
    value > 0.0 && value < 1.0
}

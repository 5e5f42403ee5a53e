//! Settings and components of the two drivers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parhelion_plugin::ErasureCode;
use parhelion_types::SiteId;
use parhelion_wire::{PAYLOAD_BYTES_MAX, REPAIR_HEADER_BYTES, SYMBOL_PREFIX_BYTES};
use quinn_proto::EndpointConfig;
use rustls::pki_types::CertificateDer;

/// Finds a code by its name, or by `name@version`.
pub type CodeLookup = Arc<dyn Fn(&str) -> Option<Arc<dyn ErasureCode>> + Send + Sync>;

/// Decides whether a peer with that certificate may be the other end of this link; says in words why not.
///
/// TLS has already checked that the certificate is valid; this check is about what it was issued for
/// ([`parhelion_types::Role::Link`]).
pub type PeerCheck = Arc<dyn Fn(&CertificateDer<'_>) -> Result<(), String> + Send + Sync>;

/// What carries records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Symbols and repairs in QUIC datagrams, with coverage and network-level durability.
    #[default]
    Quic,
    /// A TLS stream over TCP: the paper's modes without error correction (SMFS section 5.2). Only local and
    /// remote durability make sense over it, because the kernel buffers what is written.
    Tcp {
        /// Congestion control of the kernel, such as `reno`, `cubic` or `bbr`; the system's default if none.
        congestion: Option<String>,
    },
}

/// How the bulk lane shares its path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// Not at all: a leased line of known rate. The link paces at that rate; loss does not slow it.
    #[default]
    Provisioned,
    /// QUIC's BBR.
    Bbr,
    /// QUIC's CUBIC.
    Cubic,
}

/// What both lanes of both ends have in common.
#[derive(Clone, Debug)]
pub struct LaneConfig {
    /// Largest IP packet of the path in bytes, at least 1248. It is not discovered: a wrong figure is an error
    /// that is noticed at once, a changing one would move the symbol size under a running code.
    pub mtu: u16,
    /// Without a word from the peer for this long, the session is down.
    pub idle_timeout: Duration,
    /// Send buffer of a socket in bytes, as the kernel counts. What waits there is not on the wire, so
    /// keep it small.
    pub socket_send_bytes: usize,
    /// Receive buffer of a socket in bytes, as the kernel counts. It must bridge the longest pause of the
    /// driver's thread at full rate.
    pub socket_receive_bytes: usize,
}

/// Settings and components of the driver at the primary.
#[derive(Clone)]
pub struct PrimaryConfig {
    /// This site.
    pub site: SiteId,
    /// The name in the mirror's certificate.
    pub peer_name: String,
    /// The mirror's address for the critical lane.
    pub critical: SocketAddr,
    /// The mirror's address for the bulk lane.
    pub bulk: SocketAddr,
    /// The mirror's address for records over TCP.
    pub tcp: SocketAddr,
    /// Local address to connect from; unspecified leaves it to the system.
    pub bind: IpAddr,
    /// TLS with this node's certificate; the mirror demands one.
    pub tls: Arc<rustls::ClientConfig>,
    /// Whether the peer may be a mirror.
    pub verify_peer: PeerCheck,
    /// The codes of this node.
    pub codes: CodeLookup,
    /// What carries records.
    pub transport: Transport,
    /// How the bulk lane shares its path.
    pub congestion: Congestion,
    /// The code to begin with.
    pub code: String,
    /// Its parameters as text.
    pub parameters: String,
    /// Name of the code to go on with when the one in force breaks, with its default parameters.
    pub fallback: String,
    /// Sockets and timeouts.
    pub lane: LaneConfig,
    /// Rate of the bulk lane in bytes per second, IP headers included; 0 leaves it to congestion control.
    pub rate_bytes_per_second: u64,
    /// Bytes of records kept until the mirror confirms them.
    pub buffer_bytes_max: usize,
    /// Most datagrams that leave at one instant. A lost burst must not exceed what the code tolerates.
    pub burst_datagrams_max: usize,
    /// When nothing has been queued for this long, partial groups of the code are completed.
    pub flush_delay: Duration,
    /// Packet times between what such a completion sends of one repair index and of the next.
    pub flush_pause: u32,
    /// Time that a packet needs from the network card out of the site; coverage counts only after it.
    pub site_exit_delay: Duration,
    /// Copies of each announcement, at least 1.
    pub announce_copies: u32,
    /// Time between the copies of an announcement.
    pub announce_spacing: Duration,
    /// First pause before connecting again; it doubles with every failure.
    pub reconnect_min: Duration,
    /// Longest pause before connecting again.
    pub reconnect_max: Duration,
    /// How long to go on sending what is queued when told to close.
    pub drain_max: Duration,
}

/// Settings and components of the driver at the mirror.
#[derive(Clone)]
pub struct MirrorConfig {
    /// This site.
    pub site: SiteId,
    /// Where to listen for the critical lane.
    pub listen_critical: SocketAddr,
    /// Where to listen for the bulk lane.
    pub listen_bulk: SocketAddr,
    /// Where to listen for records over TCP, if at all.
    pub listen_tcp: Option<SocketAddr>,
    /// TLS with this node's certificate; it must demand one of the client.
    pub tls: Arc<rustls::ServerConfig>,
    /// Whether the peer may be a primary.
    pub verify_peer: PeerCheck,
    /// The codes of this node.
    pub codes: CodeLookup,
    /// Sockets and timeouts.
    pub lane: LaneConfig,
    /// Connection ids and reset tokens of the critical lane. With those of the process before it, a primary that has not
    /// missed that one yet is told at once that it is gone (RFC 9000 section 10.3).
    pub critical_endpoint: EndpointConfig,
    /// The same of the bulk lane. Tokens of one lane must be of no use on the other.
    pub bulk_endpoint: EndpointConfig,
    /// How long a gap in the wire numbers may be mere reordering.
    pub reorder_delay: Duration,
    /// How long a lost symbol may wait for repair before it is asked for again.
    pub repair_delay: Duration,
    /// Largest record, header included, in bytes.
    pub record_bytes_max: usize,
    /// Bytes of records that are being put together.
    pub partial_bytes_max: usize,
    /// Bytes of records delivered and not yet durable above which new data is dropped, and counted as
    /// dropped by this host. What was sent again or repairs a loss is still taken, up to four times this
    /// figure, because the oldest records wait for just that. Four times this figure must exceed the
    /// primary's `buffer_bytes_max`.
    pub pending_bytes_max: usize,
    /// Time between reports while traffic flows.
    pub report_interval: Duration,
    /// Time between reports while none does.
    pub report_interval_idle: Duration,
    /// Shortest time between reports, when a log advances.
    pub report_interval_min: Duration,
}

/// What QUIC adds to a datagram: header, packet number, frame, tag. Connection ids and numbers vary by a few bytes.
const QUIC_BYTES: u32 = 32;

impl LaneConfig {
    /// Bytes of a record that a source symbol carries on a path of this MTU, within a few.
    #[must_use]
    pub fn symbol_data_bytes(&self) -> u32 {
        let headers = QUIC_BYTES as usize + REPAIR_HEADER_BYTES + SYMBOL_PREFIX_BYTES;
        u32::from(self.payload_bytes()).saturating_sub(headers as u32)
    }

    /// UDP payload bytes of the largest packet: the MTU less the larger IP header and the UDP header.
    pub(crate) fn payload_bytes(&self) -> u16 {
        self.mtu.saturating_sub(IP_UDP_BYTES).max(QUIC_PAYLOAD_BYTES_MIN)
    }

    pub(crate) fn keep_alive(&self) -> Duration {
        self.idle_timeout / 4
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.mtu < QUIC_PAYLOAD_BYTES_MIN + IP_UDP_BYTES {
            return Err(format!(
                "an MTU of {} bytes is too small for QUIC; give at least {}",
                self.mtu,
                QUIC_PAYLOAD_BYTES_MIN + IP_UDP_BYTES
            ));
        }
        if self.idle_timeout < Duration::from_millis(40) || self.idle_timeout > Duration::from_secs(3600) {
            return Err(format!(
                "an idle timeout of {:?} is out of range; give 40ms to 1h",
                self.idle_timeout
            ));
        }
        Ok(())
    }
}

impl Default for LaneConfig {
    fn default() -> Self {
        Self {
            mtu: 1500,
            idle_timeout: Duration::from_secs(2),
            socket_send_bytes: 512 << 10,
            socket_receive_bytes: 64 << 20,
        }
    }
}

impl PrimaryConfig {
    /// Defaults for a link to the mirror at `address`: the three ports follow one another, critical lane,
    /// bulk lane, TCP. No code; sent as fast as the local interface takes it.
    #[must_use]
    pub fn new(
        site: SiteId,
        address: SocketAddr,
        peer_name: &str,
        tls: Arc<rustls::ClientConfig>,
        verify_peer: PeerCheck,
        codes: CodeLookup,
    ) -> Self {
        let bind = match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self {
            site,
            peer_name: peer_name.to_owned(),
            critical: address,
            bulk: next_port(address, 1),
            tcp: next_port(address, 2),
            bind,
            tls,
            verify_peer,
            codes,
            transport: Transport::Quic,
            congestion: Congestion::Provisioned,
            code: "none".to_owned(),
            parameters: String::new(),
            fallback: "none".to_owned(),
            lane: LaneConfig::default(),
            rate_bytes_per_second: 0,
            buffer_bytes_max: 64 << 20,
            burst_datagrams_max: 8,
            flush_delay: Duration::from_micros(200),
            flush_pause: 0,
            site_exit_delay: Duration::ZERO,
            announce_copies: 3,
            announce_spacing: Duration::from_millis(4),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(5),
            drain_max: Duration::from_secs(2),
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        self.lane.check()?;
        if self.burst_datagrams_max == 0 || self.announce_copies == 0 {
            return Err("burst_datagrams_max and announce_copies must be at least 1".to_owned());
        }
        Ok(())
    }
}

impl MirrorConfig {
    /// Defaults for a mirror that listens on `address` and the two ports behind it; three free ports if the
    /// port is 0.
    #[must_use]
    pub fn new(
        site: SiteId,
        address: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        verify_peer: PeerCheck,
        codes: CodeLookup,
    ) -> Self {
        Self {
            site,
            listen_critical: address,
            listen_bulk: next_port(address, 1),
            listen_tcp: Some(next_port(address, 2)),
            tls,
            verify_peer,
            codes,
            lane: LaneConfig::default(),
            critical_endpoint: EndpointConfig::default(),
            bulk_endpoint: EndpointConfig::default(),
            reorder_delay: Duration::from_millis(2),
            repair_delay: Duration::from_millis(10),
            record_bytes_max: PAYLOAD_BYTES_MAX,
            partial_bytes_max: 256 << 20,
            pending_bytes_max: 64 << 20,
            report_interval: Duration::from_millis(5),
            report_interval_idle: Duration::from_millis(50),
            report_interval_min: Duration::from_millis(1),
        }
    }
}

impl fmt::Debug for PrimaryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrimaryConfig")
            .field("site", &self.site)
            .field("critical", &self.critical)
            .field("transport", &self.transport)
            .field("code", &self.code)
            .field("parameters", &self.parameters)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for MirrorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorConfig")
            .field("site", &self.site)
            .field("listen_critical", &self.listen_critical)
            .finish_non_exhaustive()
    }
}

/// Bytes of IPv6 and UDP headers; with IPv4 twenty bytes stay unused, so that both families have one symbol
/// size.
pub(crate) const IP_UDP_BYTES: u16 = 40 + 8;

/// Smallest UDP payload that QUIC works with (RFC 9000, section 14).
const QUIC_PAYLOAD_BYTES_MIN: u16 = 1200;

/// The address `step` ports further; port 0, any free port, stays 0.
fn next_port(address: SocketAddr, step: u16) -> SocketAddr {
    let port = if address.port() == 0 { 0 } else { address.port().saturating_add(step) };
    SocketAddr::new(address.ip(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_named() {
        let ethernet = LaneConfig::default();
        assert_eq!(ethernet.payload_bytes(), 1452);
        assert_eq!(ethernet.check(), Ok(()));
        let dial_up = LaneConfig { mtu: 576, ..LaneConfig::default() };
        assert!(dial_up.check().unwrap_err().contains("give at least 1248"));
        let hasty = LaneConfig { idle_timeout: Duration::from_millis(1), ..LaneConfig::default() };
        assert!(hasty.check().is_err());
    }

    #[test]
    fn ports_follow_one_another() {
        let address: SocketAddr = "192.0.2.1:7000".parse().unwrap();
        assert_eq!(next_port(address, 2).port(), 7002);
        assert_eq!(next_port("192.0.2.1:0".parse().unwrap(), 2).port(), 0);
    }
}

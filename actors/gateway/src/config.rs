//! Settings and components of both ends of a connection within a site.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parhelion_link_driver::PeerCheck;
use parhelion_types::{NodeId, SiteId};
use quinn::EndpointConfig;

use crate::error::GatewayError;

/// A node that is silent for this long is gone. Within a site a round trip takes less than a millisecond.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings of the link node's listener for the site's storage nodes.
#[derive(Clone)]
pub struct SiteListenerConfig {
    /// This site.
    pub site: SiteId,
    /// This node.
    pub node: NodeId,
    /// Where to listen (UDP).
    pub listen: SocketAddr,
    /// TLS with this node's certificate; it must demand one of the client.
    pub tls: Arc<rustls::ServerConfig>,
    /// Whether the peer may be a storage node ([`parhelion_types::Role::Storage`]).
    pub verify_peer: PeerCheck,
    /// Without a word from a storage node for this long, it is gone.
    pub idle_timeout: Duration,
    /// The connection ids and reset tokens of the endpoint. With those of the process before it, storage nodes that have
    /// not missed that one yet are told at once that it is gone (RFC 9000 section 10.3).
    pub endpoint: EndpointConfig,
}

/// Settings of a storage node's connection to its site's link node.
#[derive(Clone)]
pub struct SiteLinkConfig {
    /// This site.
    pub site: SiteId,
    /// This node.
    pub node: NodeId,
    /// Where the link node listens (UDP).
    pub gateway: SocketAddr,
    /// The name in the link node's certificate.
    pub peer_name: String,
    /// Local address to connect from; unspecified leaves it to the system.
    pub bind: IpAddr,
    /// TLS with this node's certificate; the link node demands one.
    pub tls: Arc<rustls::ClientConfig>,
    /// Whether the peer may be a link node ([`parhelion_types::Role::Link`]).
    pub verify_peer: PeerCheck,
    /// Without a word from the link node for this long, it is gone.
    pub idle_timeout: Duration,
    /// First pause before connecting again; it doubles with every failure.
    pub reconnect_min: Duration,
    /// Longest pause before connecting again.
    pub reconnect_max: Duration,
}

impl SiteListenerConfig {
    /// Defaults for a listener on `listen`.
    #[must_use]
    pub fn new(
        site: SiteId,
        node: NodeId,
        listen: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        verify_peer: PeerCheck,
    ) -> Self {
        let endpoint = EndpointConfig::default();
        Self { site, node, listen, tls, verify_peer, idle_timeout: IDLE_TIMEOUT, endpoint }
    }
}

impl SiteLinkConfig {
    /// Defaults for a connection to the link node at `gateway`.
    #[must_use]
    pub fn new(
        site: SiteId,
        node: NodeId,
        gateway: SocketAddr,
        peer_name: &str,
        tls: Arc<rustls::ClientConfig>,
        verify_peer: PeerCheck,
    ) -> Self {
        let bind = match gateway {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self {
            site,
            node,
            gateway,
            peer_name: peer_name.to_owned(),
            bind,
            tls,
            verify_peer,
            idle_timeout: IDLE_TIMEOUT,
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_millis(500),
        }
    }

    pub(crate) fn check(&self) -> Result<(), GatewayError> {
        if self.reconnect_min.is_zero() || self.reconnect_min > self.reconnect_max {
            return Err(GatewayError::Settings(format!(
                "pauses of {:?} to {:?} before connecting again; give a first one above 0 and at most the longest",
                self.reconnect_min, self.reconnect_max
            )));
        }
        Ok(())
    }
}

impl fmt::Debug for SiteListenerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteListenerConfig")
            .field("site", &self.site)
            .field("node", &self.node)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SiteLinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteLinkConfig")
            .field("site", &self.site)
            .field("node", &self.node)
            .field("gateway", &self.gateway)
            .finish_non_exhaustive()
    }
}

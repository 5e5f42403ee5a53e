//! QUIC within a site: one connection per storage node, one stream on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parhelion_link_driver::PeerCheck;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use rustls::pki_types::CertificateDer;
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{GatewayError, SiteError};

/// Name of the protocol in the handshake.
const PROTOCOL: &[u8] = b"parhelion-site/1";

/// Close code: done, as told.
pub(crate) const CLOSE_DONE: VarInt = VarInt::from_u32(0);
/// Close code: this node does not serve that one; the reason says why.
pub(crate) const CLOSE_REFUSED: VarInt = VarInt::from_u32(1);
/// Close code: what came is not the protocol, or too much of it; the reason says what.
pub(crate) const CLOSE_PROTOCOL: VarInt = VarInt::from_u32(2);

/// Bytes of a stream that may be under way: 4 ms at 10 Gbit/s, more than a site is wide.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Asked of the kernel for both directions; it grants what `net.core.[rw]mem_max` allows.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Round-trip time that is assumed until it is measured. It decides how soon the first packet is sent again to a link node
/// that is being restarted: after 90 ms, then 180 ms and so on.
const INITIAL_RTT: Duration = Duration::from_millis(30);
/// Shortest and longest idle timeout that make sense.
const IDLE_TIMEOUT_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(600);

/// The listening end.
pub(crate) fn server(
    listen: SocketAddr,
    tls: &rustls::ServerConfig,
    idle: Duration,
    config: EndpointConfig,
) -> Result<Endpoint, GatewayError> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![PROTOCOL.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| GatewayError::Tls(error.to_string()))?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(transport(idle)?);
    endpoint(listen, config, Some(server))
}

/// The connecting end.
pub(crate) fn client(
    bind: SocketAddr,
    tls: &rustls::ClientConfig,
    idle: Duration,
) -> Result<Endpoint, GatewayError> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![PROTOCOL.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| GatewayError::Tls(error.to_string()))?;
    let mut client = ClientConfig::new(Arc::new(crypto));
    client.transport_config(transport(idle)?);
    let mut endpoint = endpoint(bind, EndpointConfig::default(), None)?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

/// Whether the peer may be at the other end.
pub(crate) fn verify(connection: &Connection, check: &PeerCheck) -> Result<(), SiteError> {
    let certificates = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .unwrap_or_default();
    let certificate =
        certificates.first().ok_or_else(|| SiteError::Refused("no certificate was shown".to_owned()))?;
    check(certificate).map_err(|reason| SiteError::Refused(format!("certificate refused: {reason}")))
}

fn transport(idle: Duration) -> Result<Arc<TransportConfig>, GatewayError> {
    if !IDLE_TIMEOUT_RANGE.contains(&idle) {
        return Err(GatewayError::Settings(format!(
            "an idle timeout of {idle:?} is out of range; give {:?} to {:?}",
            IDLE_TIMEOUT_RANGE.start(),
            IDLE_TIMEOUT_RANGE.end()
        )));
    }
    let timeout = IdleTimeout::try_from(idle).map_err(|error| GatewayError::Settings(error.to_string()))?;
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window((2 * STREAM_WINDOW_BYTES).into())
        .send_window(2 * u64::from(STREAM_WINDOW_BYTES))
        .send_fairness(false)
        .max_concurrent_bidi_streams(1u32.into())
        .max_concurrent_uni_streams(0u32.into())
        .datagram_receive_buffer_size(None)
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(Some(timeout))
        .keep_alive_interval(Some(idle / 4));
    Ok(Arc::new(transport))
}

fn endpoint(
    bind: SocketAddr,
    config: EndpointConfig,
    server: Option<ServerConfig>,
) -> Result<Endpoint, GatewayError> {
    let open = move || {
        let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, Some(Protocol::UDP))?;
        // Best effort: the kernel's limits hold, and smaller buffers cost throughput, not correctness.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        socket.bind(&bind.into())?;
        Endpoint::new(config, server, socket.into(), Arc::new(TokioRuntime))
    };
    open().map_err(|source| GatewayError::Socket { address: bind, source })
}

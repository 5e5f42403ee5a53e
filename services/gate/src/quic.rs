//! QUIC as clients and nodes use it with each other: windows, timeouts, sockets and close codes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use quinn::EndpointConfig;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{Endpoint, MtuDiscoveryConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};

/// Close code: the client is done.
pub const CLOSE_DONE: VarInt = VarInt::from_u32(0);
/// Close code: the node is stopping; connect again later.
pub const CLOSE_STOPPING: VarInt = VarInt::from_u32(1);
/// Close code: the certificate does not allow this; the reason says what would.
pub const CLOSE_REFUSED: VarInt = VarInt::from_u32(2);
/// Close code: what came is not the protocol; the reason says what is wrong with it.
pub const CLOSE_PROTOCOL: VarInt = VarInt::from_u32(3);

/// Bytes of one stream that may be under way. Holds more than 2 Gbit/s at 10 ms, and half the largest append.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Bytes of a connection that the receiver may have to buffer.
const CONNECTION_WINDOW_BYTES: u32 = 2 * STREAM_WINDOW_BYTES;
/// Streams that a client may have open; one is enough.
const STREAMS_MAX: u32 = 4;
/// Largest UDP payload that is probed for; the path decides what is used. quinn hands the kernel up to ten
/// packets in one send, and more than 65,507 bytes are refused without a word, to be sent again only after a
/// probe timeout: jumbo frames of 8952 bytes made bursts 25 to 60 ms late.
const UDP_PAYLOAD_BYTES_MAX: u16 = 6500;
const _: () = assert!(UDP_PAYLOAD_BYTES_MAX as usize * 10 <= 65_507);
/// Asked of the kernel for both directions; it grants what `net.core.[rw]mem_max` allows.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// The transport of both ends.
///
/// A peer that is silent for `idle` is gone; with `keep_alive`, a side that has nothing to say shows that it
/// is there.
///
/// # Errors
/// `idle` is longer than QUIC can say (about 4.6e18 milliseconds).
pub fn transport(
    idle: Duration,
    keep_alive: Option<Duration>,
) -> Result<TransportConfig, quinn::VarIntBoundsExceeded> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_BYTES_MAX);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .send_fairness(false)
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(0u32.into())
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(Some(idle.try_into()?))
        .keep_alive_interval(keep_alive);
    Ok(transport)
}

/// An endpoint on a socket of its own. A server is found by clients again after a crash if `secret` is
/// what it was before: it tells them at once that it has forgotten them (RFC 9000 section 10.3).
///
/// Must be called within a tokio runtime.
///
/// # Errors
/// The address cannot be bound.
pub fn endpoint(
    bind: SocketAddr,
    server: Option<ServerConfig>,
    secret: Option<&[u8]>,
) -> io::Result<Endpoint> {
    let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, Some(Protocol::UDP))?;
    // Best effort: the kernel's limits hold, and smaller buffers cost throughput, not correctness.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&bind.into())?;
    Endpoint::new(endpoint_config(secret)?, server, socket.into(), Arc::new(TokioRuntime))
}

/// The connection ids and reset tokens of an endpoint, as [`endpoint`] has them.
///
/// # Errors
/// None that a caller could cause.
pub fn endpoint_config(secret: Option<&[u8]>) -> io::Result<EndpointConfig> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(UDP_PAYLOAD_BYTES_MAX).map_err(io::Error::other)?;
    if let Some(secret) = secret {
        let key = blake3::derive_key("parhelion 2026 QUIC stateless reset", secret);
        // Packets of forgotten connections are recognised by their connection ids.
        let id = blake3::derive_key("parhelion 2026 QUIC connection id", secret);
        let mut seed = [0; 8];
        seed.copy_from_slice(&id[..8]);
        let seed = u64::from_le_bytes(seed);
        config.reset_key(Arc::new(ResetKey(key)));
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(seed)));
    }
    Ok(config)
}

/// Keyed BLAKE3 as the pseudorandom function behind stateless reset tokens.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        blake3::Hasher::new_keyed(&self.0).update(data).finalize_xof().fill(signature_out);
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // `blake3::Hash` compares in constant time.
        let ours = blake3::keyed_hash(&self.0, data);
        match <[u8; blake3::OUT_LEN]>::try_from(signature) {
            Ok(theirs) if ours == blake3::Hash::from_bytes(theirs) => Ok(()),
            _ => Err(CryptoError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_tokens_depend_on_secret_and_data() {
        let sign = |secret: &[u8; 32], data: &[u8]| {
            let mut out = [0; blake3::OUT_LEN];
            ResetKey(*secret).sign(data, &mut out);
            out
        };
        assert_eq!(sign(&[1; 32], b"a"), sign(&[1; 32], b"a"));
        assert_ne!(sign(&[1; 32], b"a"), sign(&[2; 32], b"a"));
        assert_ne!(sign(&[1; 32], b"a"), sign(&[1; 32], b"b"));
        assert!(ResetKey([1; 32]).verify(b"a", &sign(&[1; 32], b"a")).is_ok());
        assert!(ResetKey([1; 32]).verify(b"a", &sign(&[1; 32], b"b")).is_err());
        assert!(ResetKey([1; 32]).verify(b"a", b"short").is_err());
    }
}

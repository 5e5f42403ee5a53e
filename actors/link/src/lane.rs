//! One lane: a UDP socket, the QUIC connections on it, and what became of the packets.
//!
//! quinn-proto is driven directly, not through quinn, because the link must know when a datagram has left
//! this host, and because both lanes and the link core must take turns in one loop.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parhelion_types::Time;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, EcnCodepoint, Endpoint, EndpointConfig,
    EndpointEvent, Event, Incoming, ServerConfig, StreamEvent, Transmit, VarInt,
};
use rustls::pki_types::CertificateDer;

use crate::config::{Congestion, LaneConfig};
use crate::error::LinkError;
use crate::on_wire::OnWire;
use crate::timer::Clock;
use crate::transport::{CloseCode, LaneKind, transport};
use crate::udp::{Packets, ReceiveBuffers, Socket};

/// One lane.
pub(crate) struct Lane {
    kind: LaneKind,
    endpoint: Endpoint,
    connections: BTreeMap<ConnectionHandle, Connection>,
    events: VecDeque<(ConnectionHandle, LaneEvent)>,
    buffers: ReceiveBuffers,
    wire: Wire,
}

/// What happened to a connection.
#[derive(Debug)]
pub(crate) enum LaneEvent {
    /// The handshake is done; the peer's certificate, its own first.
    Connected(Vec<CertificateDer<'static>>),
    /// The peer opened a stream.
    Opened(Dir),
    /// The connection is no more.
    Lost(String),
}

/// The way out: packets that the kernel took, or has yet to take.
struct Wire {
    socket: Socket,
    bytes: Vec<u8>,
    waiting: Option<Waiting>,
    tracked: Option<(ConnectionHandle, OnWire)>,
    sends: u64,
    /// Since they were taken.
    sent: Sent,
    last_error: Option<io::ErrorKind>,
}

/// Packets that the kernel took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) packets: u64,
    /// Without UDP and IP.
    pub(crate) bytes: u64,
}

/// Packets in [`Wire::bytes`] that the kernel did not take yet.
struct Waiting {
    from: ConnectionHandle,
    transmit: Transmit,
    /// When to try again; none means when the socket becomes writable.
    retry: Option<Time>,
}

/// The kernel will never take these packets.
#[derive(Debug)]
struct TooLarge;

/// Most connections of one lane at the listening end, half-open ones included.
const CONNECTIONS_MAX: usize = 64;
/// From this many on, a client must first show that it owns its address.
const CONNECTIONS_UNVALIDATED_MAX: usize = CONNECTIONS_MAX / 2;
/// Pause after a send that failed for want of memory, a route or an interface.
const RETRY_PAUSE: Duration = Duration::from_millis(1);
/// A pending ICMP error fails one send that has nothing to do with it; the next one tells the truth.
const SEND_ATTEMPTS: usize = 2;

impl Lane {
    /// A lane for one outgoing connection.
    pub(crate) fn client(kind: LaneKind, bind: SocketAddr, config: &LaneConfig) -> Result<Self, LinkError> {
        Self::new(kind, bind, config, EndpointConfig::default(), None)
    }

    /// A lane that listens.
    pub(crate) fn server(
        kind: LaneKind,
        bind: SocketAddr,
        config: &LaneConfig,
        endpoint: &EndpointConfig,
        tls: &rustls::ServerConfig,
    ) -> Result<Self, LinkError> {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![kind.protocol().to_vec()];
        let crypto = QuicServerConfig::try_from(tls).map_err(LinkError::tls)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::new(transport(kind, Congestion::Provisioned, config)?));
        Self::new(kind, bind, config, endpoint.clone(), Some(Arc::new(server)))
    }

    fn new(
        kind: LaneKind,
        bind: SocketAddr,
        config: &LaneConfig,
        mut endpoint: EndpointConfig,
        server: Option<Arc<ServerConfig>>,
    ) -> Result<Self, LinkError> {
        let socket = Socket::bind(bind, kind.class(), config.socket_send_bytes, config.socket_receive_bytes)
            .map_err(|source| LinkError::Socket { what: kind.name(), address: bind, source })?;
        endpoint
            .max_udp_payload_size(config.payload_bytes().max(DEFAULT_PAYLOAD_BYTES_MAX))
            .map_err(|error| LinkError::Settings(error.to_string()))?;
        Ok(Self {
            kind,
            endpoint: Endpoint::new(Arc::new(endpoint), server, true, None),
            connections: BTreeMap::new(),
            events: VecDeque::new(),
            buffers: ReceiveBuffers::new(),
            wire: Wire {
                socket,
                bytes: Vec::new(),
                waiting: None,
                tracked: None,
                sends: 0,
                sent: Sent::default(),
                last_error: None,
            },
        })
    }

    pub(crate) fn local_address(&self) -> Result<SocketAddr, LinkError> {
        self.wire.socket.local_address().map_err(LinkError::Io)
    }

    /// Begins to connect. The datagrams of this connection are followed onto the wire.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        name: &str,
        tls: &rustls::ClientConfig,
        congestion: Congestion,
        config: &LaneConfig,
    ) -> Result<ConnectionHandle, LinkError> {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![self.kind.protocol().to_vec()];
        let crypto = QuicClientConfig::try_from(tls).map_err(LinkError::tls)?;
        let mut client = ClientConfig::new(Arc::new(crypto));
        client.transport_config(Arc::new(transport(self.kind, congestion, config)?));
        let (handle, connection) = self
            .endpoint
            .connect(now, client, remote, name)
            .map_err(|error| LinkError::Settings(format!("cannot connect to {remote}: {error}")))?;
        self.connections.insert(handle, connection);
        self.wire.tracked = Some((handle, OnWire::default()));
        Ok(handle)
    }

    /// The connection, unless it is gone.
    pub(crate) fn connection(&mut self, handle: ConnectionHandle) -> Option<&mut Connection> {
        self.connections.get_mut(&handle)
    }

    /// Closes a connection with a reason that the peer can show to people.
    pub(crate) fn close(&mut self, now: Instant, handle: ConnectionHandle, code: CloseCode, reason: &str) {
        if let Some(connection) = self.connections.get_mut(&handle) {
            connection.close(now, VarInt::from_u32(code as u32), Bytes::copy_from_slice(reason.as_bytes()));
        }
    }

    /// Receives one batch of packets; whether there may be more. Call [`Lane::poll_event`] and take the
    /// datagrams of each connection afterwards.
    pub(crate) fn receive(&mut self, now: Instant) -> bool {
        let count = match self.wire.socket.receive(&mut self.buffers) {
            Ok(count) => count,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    // A peer that is not there yet, or a route that is gone: timeouts deal with it.
                    self.wire.socket.discard_errors();
                }
                return false;
            }
        };
        for index in 0..count {
            let meta = self.buffers.metas[index];
            let mut packets = BytesMut::from(self.buffers.entry(index));
            let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
            while !packets.is_empty() {
                let packet = packets.split_to(meta.stride.clamp(1, packets.len()));
                let mut response = Vec::new();
                match self.endpoint.handle(now, meta.addr, meta.dst_ip, ecn, packet, &mut response) {
                    Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                        if let Some(connection) = self.connections.get_mut(&handle) {
                            connection.handle_event(event);
                        }
                    }
                    Some(DatagramEvent::NewConnection(incoming)) => self.accept(now, incoming),
                    Some(DatagramEvent::Response(transmit)) => self.wire.respond(&transmit, &response),
                    None => {}
                }
            }
        }
        self.settle();
        true
    }

    /// Serves timers that are due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for connection in self.connections.values_mut() {
            if connection.poll_timeout().is_some_and(|due| due <= now) {
                connection.handle_timeout(now);
            }
        }
        self.settle();
    }

    /// The next event of any connection.
    pub(crate) fn poll_event(&mut self) -> Option<(ConnectionHandle, LaneEvent)> {
        self.events.pop_front()
    }

    /// Hands one datagram to QUIC; [`Lane::flush`] sends it. Whether QUIC took it.
    pub(crate) fn send_datagram(&mut self, handle: ConnectionHandle, datagram: Bytes) -> bool {
        let Some(connection) = self.connections.get_mut(&handle) else { return false };
        if connection.datagrams().send(datagram, false).is_err() {
            return false;
        }
        if let Some((_, on_wire)) = self.wire.tracked.as_mut().filter(|(tracked, _)| *tracked == handle) {
            on_wire.hand_over();
        }
        true
    }

    /// Sends what the connections have to say, at most `burst` packets at one instant; whether the kernel
    /// took all of it.
    pub(crate) fn flush(&mut self, now: Instant, time: Time, burst: usize) -> bool {
        let mut refused = None;
        let took_all = match self.wire.retry(time) {
            Ok(took_all) => took_all,
            Err((handle, TooLarge)) => {
                refused = Some(handle);
                true
            }
        };
        if took_all {
            'all: for (&handle, connection) in &mut self.connections {
                let segments =
                    burst.min(self.wire.socket.segments_max(connection.current_mtu().into())).max(1);
                loop {
                    self.wire.bytes.clear();
                    let Some(transmit) = connection.poll_transmit(now, segments, &mut self.wire.bytes) else {
                        break;
                    };
                    if let Some((tracked, on_wire)) = &mut self.wire.tracked
                        && *tracked == handle
                    {
                        on_wire.set_packed(connection.stats().frame_tx.datagram);
                    }
                    match self.wire.send(time, handle, transmit) {
                        Ok(true) => {}
                        Ok(false) => break 'all,
                        Err(TooLarge) => {
                            refused = Some(handle);
                            break;
                        }
                    }
                }
            }
        }
        if let Some(handle) = refused {
            self.give_up(handle);
        }
        self.settle();
        self.wire.waiting.is_none()
    }

    /// Datagrams of the tracked connection that have left this host: all below this position.
    pub(crate) fn poll_left(&mut self, time: Time) -> u64 {
        let Some((_, on_wire)) = &mut self.wire.tracked else { return 0 };
        if on_wire.is_draining() {
            // A kernel that cannot say is taken to hold everything.
            on_wire.drain(time, self.wire.socket.queued_bytes().unwrap_or(u64::MAX));
        }
        on_wire.left()
    }

    /// Whether the kernel may still hold packets of the tracked connection.
    pub(crate) fn is_draining(&self) -> bool {
        self.wire.tracked.as_ref().is_some_and(|(_, on_wire)| on_wire.is_draining())
    }

    /// Whether QUIC and the kernel took everything that was handed over on the tracked connection.
    pub(crate) fn is_clear(&self) -> bool {
        self.wire.waiting.is_none()
            && self.wire.tracked.as_ref().is_none_or(|(_, on_wire)| on_wire.is_packed())
    }

    /// How long the kernel held the newest packets that left.
    pub(crate) fn lag(&self) -> Duration {
        self.wire.tracked.as_ref().map_or(Duration::ZERO, |(_, on_wire)| on_wire.lag())
    }

    /// System calls that sent packets.
    pub(crate) fn sends(&self) -> u64 {
        self.wire.sends
    }

    /// What was sent since this was asked last.
    pub(crate) fn take_sent(&mut self) -> Sent {
        std::mem::take(&mut self.wire.sent)
    }

    /// Packets the kernel dropped because this process did not read fast enough.
    pub(crate) fn kernel_drops(&self) -> u64 {
        self.wire.socket.kernel_drops()
    }

    /// When to call [`Lane::handle_timeout`], and then [`Lane::flush`], at the latest.
    pub(crate) fn poll_timeout(&mut self, clock: &Clock) -> Option<Time> {
        let timer = self.connections.values_mut().filter_map(Connection::poll_timeout).min();
        let retry = self.wire.waiting.as_ref().and_then(|waiting| waiting.retry);
        timer.map(|due| clock.time(due)).into_iter().chain(retry).min()
    }

    /// Whether packets wait until the socket becomes writable.
    pub(crate) fn is_blocked(&self) -> bool {
        self.wire.waiting.as_ref().is_some_and(|waiting| waiting.retry.is_none())
    }

    /// Waits until there are packets to receive, or until the kernel takes packets if some wait for that.
    pub(crate) async fn ready(&self) {
        tokio::select! {
            () = self.wire.socket.readable() => {}
            () = self.wire.socket.writable(), if self.is_blocked() => {}
        }
    }

    fn accept(&mut self, now: Instant, incoming: Incoming) {
        let mut response = Vec::new();
        let open = self.endpoint.open_connections();
        if open >= CONNECTIONS_MAX {
            let transmit = self.endpoint.refuse(incoming, &mut response);
            self.wire.respond(&transmit, &response);
        } else if open >= CONNECTIONS_UNVALIDATED_MAX && !incoming.remote_address_validated() {
            match self.endpoint.retry(incoming, &mut response) {
                Ok(transmit) => self.wire.respond(&transmit, &response),
                Err(error) => self.endpoint.ignore(error.into_incoming()),
            }
        } else {
            match self.endpoint.accept(incoming, now, &mut response, None) {
                Ok((handle, connection)) => {
                    self.connections.insert(handle, connection);
                }
                Err(error) => {
                    tracing::debug!(lane = self.kind.name(), error = %error.cause, "connection refused");
                    if let Some(transmit) = error.response {
                        self.wire.respond(&transmit, &response);
                    }
                }
            }
        }
    }

    /// Collects events, and passes what connections and endpoint have to tell each other.
    fn settle(&mut self) {
        let Self { endpoint, connections, events, .. } = self;
        connections.retain(|&handle, connection| {
            while let Some(event) = connection.poll() {
                let event = match event {
                    Event::Connected => LaneEvent::Connected(certificates(connection)),
                    Event::ConnectionLost { reason } => LaneEvent::Lost(reason.to_string()),
                    Event::Stream(StreamEvent::Opened { dir }) => LaneEvent::Opened(dir),
                    // Streams and datagrams are looked after in every turn.
                    _ => continue,
                };
                events.push_back((handle, event));
            }
            let mut drained = false;
            while let Some(event) = connection.poll_endpoint_events() {
                drained |= event.is_drained();
                if let Some(event) = endpoint.handle_event(handle, event) {
                    connection.handle_event(event);
                }
            }
            !drained
        });
    }

    /// Ends a connection whose packets the kernel will never take.
    fn give_up(&mut self, handle: ConnectionHandle) {
        if self.connections.remove(&handle).is_some() {
            self.endpoint.handle_event(handle, EndpointEvent::drained());
            let reason =
                "packets of the configured MTU do not fit the local interface; lower link.mtu at both sites";
            self.events.push_back((handle, LaneEvent::Lost(reason.to_owned())));
        }
    }
}

impl Wire {
    /// Sends packets that are in `bytes`; whether the kernel took them. If not, they wait.
    fn send(&mut self, now: Time, from: ConnectionHandle, transmit: Transmit) -> Result<bool, TooLarge> {
        let packets = Packets {
            destination: transmit.destination,
            source: transmit.src_ip,
            ecn: transmit.ecn.map_or(0, |ecn| ecn as u8),
            contents: &self.bytes[..transmit.size],
            segment: transmit.segment_size,
        };
        let mut retry = None;
        for _ in 0..SEND_ATTEMPTS {
            match self.socket.send(&packets) {
                Ok(calls) => {
                    self.sends += calls;
                    self.sent.packets +=
                        transmit.size.div_ceil(transmit.segment_size.unwrap_or(transmit.size).max(1)) as u64;
                    self.sent.bytes += transmit.size as u64;
                    self.last_error = None;
                    if let Some((tracked, on_wire)) = &mut self.tracked
                        && *tracked == from
                    {
                        on_wire.accept(now, transmit.size);
                    }
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    retry = None;
                    break;
                }
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Err(TooLarge),
                Err(error) => {
                    // The packets have not left, so they must not count as such: they wait.
                    self.socket.discard_errors();
                    retry = Some(now + RETRY_PAUSE);
                    if self.last_error.replace(error.kind()) != Some(error.kind()) {
                        tracing::debug!(%error, destination = %transmit.destination, "packets not sent; trying again");
                    }
                }
            }
        }
        self.waiting = Some(Waiting { from, transmit, retry });
        Ok(false)
    }

    /// Sends the packets that wait, if there are any and it is time; whether none wait any more.
    fn retry(&mut self, now: Time) -> Result<bool, (ConnectionHandle, TooLarge)> {
        let Some(waiting) = self.waiting.take() else { return Ok(true) };
        if waiting.retry.is_some_and(|retry| retry > now) {
            self.waiting = Some(waiting);
            return Ok(false);
        }
        self.send(now, waiting.from, waiting.transmit).map_err(|error| (waiting.from, error))
    }

    /// Sends an answer that belongs to no connection; if the kernel is busy the peer will ask again.
    fn respond(&self, transmit: &Transmit, bytes: &[u8]) {
        let _ = self.socket.send(&Packets {
            destination: transmit.destination,
            source: transmit.src_ip,
            ecn: 0,
            contents: &bytes[..transmit.size],
            segment: None,
        });
    }
}

/// What quinn itself offers to receive without being told.
const DEFAULT_PAYLOAD_BYTES_MAX: u16 = 1472;

fn certificates(connection: &Connection) -> Vec<CertificateDer<'static>> {
    connection
        .crypto_session()
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .map(|certificates| *certificates)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;

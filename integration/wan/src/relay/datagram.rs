//! A relayed UDP port: one socket towards the clients, and one per client towards the server, so that the
//! server tells its clients apart by address.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use parhelion_types::Time;
use rustix::event::PollFlags;
use socket2::SockRef;

use super::{BATCH_PARCELS, Content, Interest, Parcel, PeerId, SocketRole, Token};
use crate::lanes::Lanes;
use crate::{Class, Direction, RelayFlow, monotonic_now};

pub(super) struct DatagramPort {
    flow: RelayFlow,
    listener: UdpSocket,
    peers: HashMap<PeerId, Peer>,
    ids: HashMap<SocketAddr, PeerId>,
    next_id: PeerId,
}

struct Peer {
    client: SocketAddr,
    upstream: UdpSocket,
    used: Time,
}

impl DatagramPort {
    pub(super) fn open(flow: &RelayFlow) -> io::Result<Self> {
        let listener = UdpSocket::bind(flow.listen)?;
        prepare(&listener)?;
        Ok(Self { flow: flow.clone(), listener, peers: HashMap::new(), ids: HashMap::new(), next_id: 0 })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub(super) fn interests<'a>(&'a self, port: usize, interests: &mut Vec<Interest<'a>>) {
        let mut add = |socket, role| {
            interests.push(Interest { token: Token { port, socket: role }, socket, flags: PollFlags::IN });
        };
        add(self.listener.as_fd(), SocketRole::Listener);
        for (id, peer) in &self.peers {
            add(peer.upstream.as_fd(), SocketRole::Target(*id));
        }
    }

    pub(super) fn handle_ready(&mut self, lanes: &Lanes<Parcel>, token: Token) {
        let mut scratch = [0; DATAGRAM_BYTES_MAX];
        for _ in 0..BATCH_PARCELS {
            // A refused port at the far end comes back as an error of the next call; the error is that
            // packet's fate, and the socket goes on.
            let received = match token.socket {
                SocketRole::Listener => self.listener.recv_from(&mut scratch),
                SocketRole::Target(id) | SocketRole::Client(id) => match self.peers.get(&id) {
                    Some(peer) => peer.upstream.recv(&mut scratch).map(|bytes| (bytes, peer.client)),
                    None => return,
                },
            };
            let (bytes, client) = match received {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(_) => return,
            };
            let towards_target = matches!(token.socket, SocketRole::Listener);
            let direction = if towards_target { self.flow.from.outbound() } else { self.flow.from.inbound() };
            let Some(peer) = self.peer(client) else {
                lanes.lock(direction).timeliness.foreign += 1;
                continue;
            };
            let payload = scratch.get(..bytes).unwrap_or_default().to_vec();
            let parcel = Parcel { port: token.port, peer, content: Content::Datagram(payload) };
            let length = bytes as u32 + UDP_IPV4_HEADER_BYTES;
            lanes.lock(direction).link.offer(monotonic_now(), length, self.class(), parcel);
        }
    }

    pub(super) fn deliver(&mut self, direction: Direction, parcel: Parcel) -> bool {
        let Content::Datagram(payload) = parcel.content else { return false };
        let Some(peer) = self.peers.get(&parcel.peer) else { return false };
        let sent = if direction == self.flow.from.outbound() {
            peer.upstream.send(&payload)
        } else {
            self.listener.send_to(&payload, peer.client)
        };
        sent.is_ok()
    }

    fn class(&self) -> Class {
        self.flow.class
    }

    /// The flow of a client, old or new; the flow that was idle longest makes room for it. `None` if the
    /// system has no socket for it.
    fn peer(&mut self, client: SocketAddr) -> Option<PeerId> {
        let now = monotonic_now();
        if let Some(id) = self.ids.get(&client) {
            self.peers.get_mut(id)?.used = now;
            return Some(*id);
        }
        if self.peers.len() >= PEERS_MAX {
            let (idle, client) =
                self.peers.iter().min_by_key(|(_, peer)| peer.used).map(|(id, peer)| (*id, peer.client))?;
            self.peers.remove(&idle);
            self.ids.remove(&client);
        }
        let upstream = self.connect().ok()?;
        self.next_id += 1;
        self.ids.insert(client, self.next_id);
        self.peers.insert(self.next_id, Peer { client, upstream, used: now });
        Some(self.next_id)
    }

    fn connect(&self) -> io::Result<UdpSocket> {
        let any: SocketAddr = match self.flow.target {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let upstream = UdpSocket::bind(any)?;
        upstream.connect(self.flow.target)?;
        prepare(&upstream)?;
        Ok(upstream)
    }
}

/// Buffers for a burst that comes while the relay does something else; the system may grant less.
fn prepare(socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = SockRef::from(socket);
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)
}

const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Clients of one port that are told apart at a time.
const PEERS_MAX: usize = 1024;

const DATAGRAM_BYTES_MAX: usize = 65_536;

const UDP_IPV4_HEADER_BYTES: u32 = 28;

//! A relayed TCP port: delays what passes and holds it to the link's rate.
//!
//! Bytes carry their offset in the stream. A cut can take some of them; if the link is healed, the next
//! bytes to arrive do not fit, and the connection is closed at both ends rather than continued with a hole.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::event::PollFlags;
use socket2::{Domain, Protocol, Socket, Type};

use super::{BATCH_PARCELS, Content, Interest, Parcel, PeerId, SocketRole, Token};
use crate::lanes::Lanes;
use crate::{Direction, RelayFlow, Verdict, monotonic_now};

pub(super) struct StreamPort {
    flow: RelayFlow,
    listener: TcpListener,
    connections: HashMap<PeerId, Connection>,
    next_id: PeerId,
}

/// Two sockets and the two streams between them.
struct Connection {
    client: TcpStream,
    /// Opened when the news of the connection has crossed the link.
    target: Option<TcpStream>,
    to_target: Pipe,
    to_client: Pipe,
}

/// One stream: read from one socket, across the link, into the other.
#[derive(Default)]
struct Pipe {
    /// Bytes read from the source.
    read: u64,
    /// Bytes that have crossed the link.
    crossed: u64,
    /// What has crossed and does not fit the sink's socket buffer yet.
    arrived: VecDeque<u8>,
    /// The source has ended.
    ended: bool,
    /// The end has crossed the link.
    end_crossed: bool,
    /// The sink has been told.
    closed: bool,
}

/// The connection cannot go on.
struct Broken;

impl StreamPort {
    pub(super) fn open(flow: &RelayFlow) -> io::Result<Self> {
        let listener = TcpListener::bind(flow.listen)?;
        listener.set_nonblocking(true)?;
        Ok(Self { flow: flow.clone(), listener, connections: HashMap::new(), next_id: 0 })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// `room` tells, by direction, whether streams may be read.
    pub(super) fn interests<'a>(&'a self, port: usize, room: [bool; 2], interests: &mut Vec<Interest<'a>>) {
        let mut add = |role, socket, flags: PollFlags| {
            // A socket without interest is left out: `poll` would report its hang-up over and over.
            if !flags.is_empty() {
                interests.push(Interest { token: Token { port, socket: role }, socket, flags });
            }
        };
        add(SocketRole::Listener, self.listener.as_fd(), PollFlags::IN);
        let [out, back] = [self.flow.from.outbound(), self.flow.from.inbound()];
        for (id, connection) in &self.connections {
            let Connection { client, target, to_target, to_client } = connection;
            let flags = to_target.source_interest(room[out.index()]) | to_client.sink_interest();
            add(SocketRole::Client(*id), client.as_fd(), flags);
            if let Some(target) = target {
                let flags = to_client.source_interest(room[back.index()]) | to_target.sink_interest();
                add(SocketRole::Target(*id), target.as_fd(), flags);
            }
        }
    }

    pub(super) fn handle_ready(&mut self, lanes: &Lanes<Parcel>, token: Token, flags: PollFlags) {
        let (id, from_client) = match token.socket {
            SocketRole::Listener => return self.accept(lanes, token.port),
            SocketRole::Client(id) => (id, true),
            SocketRole::Target(id) => (id, false),
        };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let direction = if from_client { self.flow.from.outbound() } else { self.flow.from.inbound() };
        let class = self.flow.class;
        let offer = |length, content| {
            let parcel = Parcel { port: token.port, peer: id, content };
            let mut lane = lanes.lock(direction);
            match lane.link.offer_reliable(monotonic_now(), length, class, parcel) {
                Verdict::Accepted => Ok(()),
                Verdict::Dropped(_) => Err(Broken),
            }
        };
        let has_room = || {
            let mut lane = lanes.lock(direction);
            let now = monotonic_now();
            !lane.link.is_severed(now)
                && (lane.link.room(now, class) >= READ_BYTES_MAX || lane.link.next_departure().is_none())
        };
        if connection.handle_ready(from_client, flags, has_room, offer).is_err() || connection.is_finished() {
            self.connections.remove(&id);
        }
    }

    pub(super) fn deliver(&mut self, direction: Direction, parcel: Parcel) -> bool {
        let Some(connection) = self.connections.get_mut(&parcel.peer) else { return false };
        let towards_target = direction == self.flow.from.outbound();
        let delivered = match parcel.content {
            Content::Datagram(_) => return false,
            Content::Open => connect(self.flow.target).map_err(|_| Broken).map(|target| {
                connection.target = Some(target);
            }),
            Content::Bytes { offset, bytes } => connection.receive(towards_target, offset, &bytes, false),
            Content::End { offset } => connection.receive(towards_target, offset, &[], true),
        };
        if delivered.is_err() || connection.is_finished() {
            self.connections.remove(&parcel.peer);
        }
        delivered.is_ok()
    }

    fn accept(&mut self, lanes: &Lanes<Parcel>, port: usize) {
        while let Ok((client, _)) = self.listener.accept() {
            let direction = self.flow.from.outbound();
            if self.connections.len() >= CONNECTIONS_MAX || prepare(&client).is_err() {
                lanes.lock(direction).timeliness.foreign += 1;
                continue;
            }
            self.next_id += 1;
            let parcel = Parcel { port, peer: self.next_id, content: Content::Open };
            // On a cut link the news is lost, and the connection stays without an answer.
            let mut lane = lanes.lock(direction);
            lane.link.offer_reliable(monotonic_now(), TCP_IPV4_HEADER_BYTES, self.flow.class, parcel);
            drop(lane);
            self.connections.insert(self.next_id, Connection::new(client));
        }
    }
}

impl Connection {
    fn new(client: TcpStream) -> Self {
        Self { client, target: None, to_target: Pipe::default(), to_client: Pipe::default() }
    }

    fn handle_ready(
        &mut self,
        from_client: bool,
        flags: PollFlags,
        has_room: impl Fn() -> bool,
        offer: impl Fn(u32, Content) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let (Some(socket), source, sink) = (match from_client {
            true => (Some(&mut self.client), &mut self.to_target, &mut self.to_client),
            false => (self.target.as_mut(), &mut self.to_client, &mut self.to_target),
        }) else {
            return Ok(());
        };
        // An error or a hang-up is found by whichever of the two is tried.
        if flags.intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP) {
            sink.flush(socket)?;
        }
        if flags.intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP) {
            source.pull(socket, has_room, offer)?;
        }
        Ok(())
    }

    fn receive(&mut self, towards_target: bool, offset: u64, bytes: &[u8], end: bool) -> Result<(), Broken> {
        let (pipe, sink) = match towards_target {
            true => (&mut self.to_target, self.target.as_mut()),
            false => (&mut self.to_client, Some(&mut self.client)),
        };
        // Without a target the cut took the news of the connection.
        let sink = sink.ok_or(Broken)?;
        if offset != pipe.crossed {
            return Err(Broken);
        }
        pipe.crossed += bytes.len() as u64;
        pipe.end_crossed |= end;
        pipe.arrived.extend(bytes);
        pipe.flush(sink)
    }

    fn is_finished(&self) -> bool {
        self.to_target.closed && self.to_client.closed
    }
}

impl Pipe {
    fn source_interest(&self, room: bool) -> PollFlags {
        let open = room && !self.ended && self.held() < PIPE_BYTES_MAX;
        if open { PollFlags::IN } else { PollFlags::empty() }
    }

    fn sink_interest(&self) -> PollFlags {
        if self.arrived.is_empty() { PollFlags::empty() } else { PollFlags::OUT }
    }

    /// Bytes between the two sockets.
    fn held(&self) -> u64 {
        self.read - self.crossed + self.arrived.len() as u64
    }

    /// Reads from the source and puts it on the link, as segments of the usual size.
    fn pull(
        &mut self,
        source: &mut TcpStream,
        has_room: impl Fn() -> bool,
        offer: impl Fn(u32, Content) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let mut segment = [0; SEGMENT_BYTES];
        for _ in 0..BATCH_PARCELS {
            if self.ended || self.held() >= PIPE_BYTES_MAX || !has_room() {
                return Ok(());
            }
            match source.read(&mut segment) {
                Ok(0) => {
                    self.ended = true;
                    offer(TCP_IPV4_HEADER_BYTES, Content::End { offset: self.read })?;
                }
                Ok(length) => {
                    let bytes = segment.get(..length).unwrap_or_default().to_vec();
                    offer(
                        length as u32 + TCP_IPV4_HEADER_BYTES,
                        Content::Bytes { offset: self.read, bytes },
                    )?;
                    self.read += length as u64;
                }
                Err(error) if is_transient(&error) => return Ok(()),
                Err(_) => return Err(Broken),
            }
        }
        Ok(())
    }

    /// Writes what has arrived to the sink, as far as it takes it, and then the end.
    fn flush(&mut self, sink: &mut TcpStream) -> Result<(), Broken> {
        while !self.arrived.is_empty() {
            let (front, _) = self.arrived.as_slices();
            match sink.write(front) {
                Ok(0) => return Err(Broken),
                Ok(written) => drop(self.arrived.drain(..written)),
                Err(error) if is_transient(&error) => return Ok(()),
                Err(_) => return Err(Broken),
            }
        }
        if self.end_crossed && !self.closed {
            self.closed = true;
            // The sink may be gone already, which comes to the same.
            let _ = sink.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}

/// Begins a connection to the server; writes wait in the pipe until it stands.
fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&target.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let stream = TcpStream::from(socket);
    prepare(&stream)?;
    Ok(stream)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)
}

fn is_transient(error: &io::Error) -> bool {
    // A socket that is still connecting answers `NotConnected` to a read.
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected)
}

/// Payload of a full TCP segment with timestamps on an Ethernet.
const SEGMENT_BYTES: usize = 1448;

const TCP_IPV4_HEADER_BYTES: u32 = 52;

/// What the queue must have room for before a stream is read.
pub(super) const READ_BYTES_MAX: u64 = SEGMENT_BYTES as u64 + TCP_IPV4_HEADER_BYTES as u64;

/// Bytes of one stream between its two sockets, as a TCP window would bound them: 2.6 Gbit/s over 200 ms.
const PIPE_BYTES_MAX: u64 = 64 << 20;

/// Connections of one port at a time.
const CONNECTIONS_MAX: usize = 512;

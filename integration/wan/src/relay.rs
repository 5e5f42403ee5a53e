//! The relay form: ports that forward UDP and TCP across the modelled link. Needs no privilege.
//!
//! What it cannot do, being a program between two sockets: see DSCP or ECN (the port decides the class),
//! lose or reorder TCP segments (a stream is delayed and held to the rate, and a cut stalls it), or delay
//! TCP's own handshake with the relay (the connection across the link is opened one delay later).
//!
//! One thread runs all ports with `poll`, because the relay form serves tests and small drills. The length
//! of a packet is what it would be as an IPv4 packet, so that rates mean the same as in the packet form.

mod datagram;
mod stream;

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use parhelion_types::Time;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use self::datagram::DatagramPort;
use self::stream::StreamPort;
use crate::clock::{finish_turn, sharpen_timers, sleep_span};
use crate::control::Reply;
use crate::emulator::{StopSignal, serve_requests};
use crate::lanes::Lanes;
use crate::{
    Class, ControlSocket, Delivery, Direction, RelayFlow, Transport, WanConfig, WanError, monotonic_now,
};

/// Carries the given flows across the link and serves `control` meanwhile. Returns when the parent asks
/// for it or is gone. The first answer on `control` lists the addresses listened on.
///
/// # Errors
///
/// [`WanError::Invalid`] for figures out of range, [`WanError::System`] if a port cannot be opened.
pub fn run_relay(control: &mut ControlSocket, wan: &WanConfig, flows: &[RelayFlow]) -> Result<(), WanError> {
    let lanes = Lanes::new(wan)?;
    let stop = StopSignal::new()?;
    let ports = flows.iter().map(Port::open).collect::<Result<Vec<_>, _>>()?;
    let addresses = ports.iter().map(Port::address).collect::<Result<Vec<_>, _>>()?;
    std::thread::scope(|scope| {
        let (lanes, stop) = (&lanes, &stop);
        let relay = std::thread::Builder::new()
            .name("wan-relay".into())
            .spawn_scoped(scope, move || {
                // However this thread ends, a panic included, the process must not live on without it.
                let _guard = stop.on_drop();
                Relay { lanes, ports, due: Vec::new() }.run(stop)
            })
            .map_err(WanError::system("starting the relay thread"))?;
        let served = control
            .send(&Reply::Ready { addresses }, &[])
            .and_then(|()| serve_requests(control, lanes, stop));
        stop.set();
        relay.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        served
    })
}

struct Relay<'a> {
    lanes: &'a Lanes<Parcel>,
    ports: Vec<Port>,
    /// Arrived parcels, on their way out of the lock.
    due: Vec<Delivery<Parcel>>,
}

impl Relay<'_> {
    fn run(mut self, stop: &StopSignal) -> Result<(), WanError> {
        sharpen_timers();
        while !stop.is_set() {
            let begin = monotonic_now();
            let handed_on = Direction::BOTH.map(|direction| self.deliver(direction));
            let ready = self.wait(stop)?;
            for (token, flags) in &ready {
                if let Some(port) = self.ports.get_mut(token.port) {
                    port.handle_ready(self.lanes, *token, *flags);
                }
            }
            // Sockets that were ready may have more than was read; that waits for the next turn, too.
            if !ready.is_empty() || handed_on.iter().any(|count| *count > 0) {
                finish_turn(begin);
            }
        }
        Ok(())
    }

    /// Hands what has arrived to the sockets, up to a batch, and returns how much that was.
    fn deliver(&mut self, direction: Direction) -> usize {
        {
            let mut lane = self.lanes.lock(direction);
            let now = monotonic_now();
            while self.due.len() < BATCH_PARCELS
                && let Some(delivery) = lane.link.poll_delivery(now)
            {
                lane.timeliness.record(now.since(delivery.due));
                self.due.push(delivery);
            }
        }
        let (mut refused, count) = (0, self.due.len());
        for Delivery { payload, .. } in self.due.drain(..) {
            if let Some(port) = self.ports.get_mut(payload.port) {
                refused += u64::from(!port.deliver(direction, payload));
            }
        }
        if refused > 0 {
            self.lanes.lock(direction).timeliness.refused += refused;
        }
        count
    }

    /// Waits for sockets or for the next arrival, and returns the sockets that are ready.
    fn wait(&mut self, stop: &StopSignal) -> Result<Vec<(Token, PollFlags)>, WanError> {
        // A stream is read only while the queue has room, so a full queue pushes back on its sender as a
        // window would. While some stream waits for room, the loop wakes when the queue gets shorter.
        let mut until: Option<Time> = None;
        let mut room = [false; 2];
        for direction in Direction::BOTH {
            let mut lane = self.lanes.lock(direction);
            let now = monotonic_now();
            let link = &mut lane.link;
            let severed = link.is_severed(now);
            let departure = link.next_departure();
            let free = departure.is_none()
                || [Class::Expedited, Class::Bulk]
                    .iter()
                    .all(|class| link.room(now, *class) >= stream::READ_BYTES_MAX);
            room[direction.index()] = free && !severed;
            let retry = if free && !severed { None } else { departure.or(Some(now + GATE_RETRY)) };
            until = until.into_iter().chain(link.poll_timeout()).chain(retry).min();
        }
        let mut interests = vec![Interest { token: STOP_TOKEN, socket: stop.as_fd(), flags: PollFlags::IN }];
        for (index, port) in self.ports.iter().enumerate() {
            port.interests(index, room, &mut interests);
        }
        let mut ready: Vec<_> = interests
            .iter()
            .map(|interest| PollFd::from_borrowed_fd(interest.socket, interest.flags))
            .collect();
        let timeout = until.map(|until| sleep_span(monotonic_now(), until));
        match poll(&mut ready, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(WanError::system("waiting for relayed packets")(error)),
        }
        Ok(interests
            .iter()
            .zip(&ready)
            .filter(|(_, ready)| !ready.revents().is_empty())
            .map(|(interest, ready)| (interest.token, ready.revents()))
            .collect())
    }
}

/// A listening port, by transport.
enum Port {
    Datagram(DatagramPort),
    Stream(StreamPort),
}

impl Port {
    fn open(flow: &RelayFlow) -> Result<Self, WanError> {
        let doing = format!("opening relay port {} for {}", flow.listen, flow.target);
        match flow.transport {
            Transport::Udp => DatagramPort::open(flow).map(Self::Datagram),
            Transport::Tcp => StreamPort::open(flow).map(Self::Stream),
        }
        .map_err(WanError::system(doing))
    }

    fn address(&self) -> Result<SocketAddr, WanError> {
        match self {
            Self::Datagram(port) => port.address(),
            Self::Stream(port) => port.address(),
        }
        .map_err(WanError::system("reading the address of a relay port"))
    }

    fn interests<'a>(&'a self, port: usize, room: [bool; 2], interests: &mut Vec<Interest<'a>>) {
        match self {
            Self::Datagram(datagrams) => datagrams.interests(port, interests),
            Self::Stream(streams) => streams.interests(port, room, interests),
        }
    }

    fn handle_ready(&mut self, lanes: &Lanes<Parcel>, token: Token, flags: PollFlags) {
        match self {
            Self::Datagram(datagrams) => datagrams.handle_ready(lanes, token),
            Self::Stream(streams) => streams.handle_ready(lanes, token, flags),
        }
    }

    /// Returns whether the parcel reached a socket.
    fn deliver(&mut self, direction: Direction, parcel: Parcel) -> bool {
        match self {
            Self::Datagram(datagrams) => datagrams.deliver(direction, parcel),
            Self::Stream(streams) => streams.deliver(direction, parcel),
        }
    }
}

/// What crosses the link.
#[derive(Clone, Debug)]
struct Parcel {
    port: usize,
    peer: PeerId,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    /// One UDP payload.
    Datagram(Vec<u8>),
    /// A TCP connection begins.
    Open,
    /// Bytes of a TCP stream, from this offset on.
    Bytes { offset: u64, bytes: Vec<u8> },
    /// A TCP stream ends, at this offset.
    End { offset: u64 },
}

/// A client of a port; never reused, so that a late parcel cannot reach another client.
type PeerId = u64;

/// Which socket a readiness event is about.
#[derive(Clone, Copy, Debug)]
struct Token {
    port: usize,
    socket: SocketRole,
}

#[derive(Clone, Copy, Debug)]
enum SocketRole {
    /// The port's own.
    Listener,
    /// The client's end of a connection.
    Client(PeerId),
    /// The server's end of a flow or connection.
    Target(PeerId),
}

struct Interest<'a> {
    token: Token,
    socket: BorrowedFd<'a>,
    flags: PollFlags,
}

/// No port has this index; the loop looks at the signal itself.
const STOP_TOKEN: Token = Token { port: usize::MAX, socket: SocketRole::Listener };

/// Parcels handed on, or read from one socket, in one turn, so that no socket starves the others. At ten
/// thousand turns a second this allows 7 Gbit/s of full segments, which is more than one thread moves.
const BATCH_PARCELS: usize = 64;

/// How soon a stream that may not be read is looked at again while nothing leaves the queue: the link is
/// cut, and may be healed.
const GATE_RETRY: Duration = Duration::from_millis(20);

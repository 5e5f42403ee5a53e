//! Ports for nodes that are started again at the same address.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// The addresses of one node.
///
/// A node may choose its ports itself (port 0), but not when its peer or clients must find it again after a
/// restart: while it is down, the kernel could give the port to somebody else. These lie below the range that
/// Linux gives out by itself (`net.ipv4.ip_local_port_range`).
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// The API.
    pub api: SocketAddr,
    /// The link's bulk lane.
    pub bulk: SocketAddr,
    /// The link's critical lane.
    pub critical: SocketAddr,
    /// The link over TCP.
    pub tcp: SocketAddr,
}

const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;
/// Where this process looks next; processes start at different places.
static NEXT: AtomicU16 = AtomicU16::new(0);

impl Ports {
    /// Ports that are free now and that no other test of this process gets.
    #[must_use]
    pub fn reserve() -> Self {
        Self { api: reserve(), bulk: reserve(), critical: reserve(), tcp: reserve() }
    }
}

fn reserve() -> SocketAddr {
    let start = std::process::id() as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_mul(37).wrapping_add(step) % COUNT;
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        if UdpSocket::bind(any).is_ok() && TcpListener::bind(any).is_ok() {
            return SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        }
    }
    panic!("no free port from {FIRST} to {}", FIRST + COUNT);
}

//! A lane between two hosts, over a cable that the test holds.

use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::udp::ethernet::{Ethernet, FAR, NEAR, run_apart};

const NAME: &str = "parhelion.test";
const PORT: u16 = 7000;
const DATAGRAM_BYTES: usize = 1200;
/// Together well below what the kernel keeps for an unresolved neighbour (net.ipv4.neigh.*.unres_qlen_bytes).
const DATAGRAMS: u64 = 20;

/// Both ends of one connection.
struct Ends {
    ethernet: Ethernet,
    clock: Clock,
    primary: Lane,
    handle: ConnectionHandle,
    mirror: Lane,
    /// UDP packets that left the primary's host.
    packets: usize,
    /// Datagrams that reached the mirror.
    received: u64,
}

#[test]
fn what_the_kernel_holds_has_not_left() {
    run_apart("lane::tests::what_the_kernel_holds_has_not_left", |ethernet| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut ends = Ends::connect(ethernet).await;
            ends.send(0);
            ends.until(|ends| ends.left() == DATAGRAMS && ends.received == DATAGRAMS).await;

            // The kernel has to look for its neighbour again, and nobody answers.
            ends.ethernet.carries_arp = false;
            ends.ethernet.forget_far();
            let packets = ends.packets;
            ends.send(DATAGRAMS);
            // Less than the second after which it asks again.
            let held = Duration::from_millis(300);
            let begin = Instant::now();
            while begin.elapsed() < held {
                ends.turn().await;
                assert!(ends.primary.is_clear(), "QUIC and the kernel took all of it");
                assert_eq!(ends.left(), DATAGRAMS, "it is still in the kernel");
                assert!(ends.primary.is_draining());
                let queued = ends.primary.wire.socket.queued_bytes().unwrap();
                assert!(queued >= DATAGRAMS * DATAGRAM_BYTES as u64, "{queued} bytes are queued");
            }
            assert_eq!((ends.packets, ends.received), (packets, DATAGRAMS));

            ends.ethernet.carries_arp = true;
            ends.until(|ends| ends.left() == 2 * DATAGRAMS).await;
            // What has left is on the cable by now.
            ends.turn().await;
            assert!(ends.packets >= packets + DATAGRAMS as usize, "{} packets left", ends.packets - packets);
            assert!(ends.primary.lag() >= held, "{:?}", ends.primary.lag());
            ends.until(|ends| ends.received == 2 * DATAGRAMS).await;
        });
    });
}

impl Ends {
    async fn connect(ethernet: Ethernet) -> Self {
        // Longer than the kernel looks for a neighbour.
        let config = LaneConfig { idle_timeout: Duration::from_secs(30), ..LaneConfig::default() };
        let (client, server) = tls();
        let clock = Clock::new();
        let runtime = tokio::runtime::Handle::current();
        let mirror = ethernet.at_far(|| {
            let _guard = runtime.enter();
            let endpoint = EndpointConfig::default();
            Lane::server(LaneKind::Bulk, (FAR, PORT).into(), &config, &endpoint, &server).unwrap()
        });
        let mut primary = Lane::client(LaneKind::Bulk, (NEAR, 0).into(), &config).unwrap();
        let (now, _) = clock.now();
        let handle = primary
            .connect(now, (FAR, PORT).into(), NAME, &client, Congestion::Provisioned, &config)
            .unwrap();
        let mut ends = Self { ethernet, clock, primary, handle, mirror, packets: 0, received: 0 };
        ends.until(|ends| match ends.primary.poll_event() {
            Some((_, LaneEvent::Lost(reason))) => panic!("not connected: {reason}"),
            event => matches!(event, Some((_, LaneEvent::Connected(_)))),
        })
        .await;
        ends
    }

    /// Hands over datagrams, numbered from `first` on, and sends them.
    fn send(&mut self, first: u64) {
        for number in first..first + DATAGRAMS {
            let mut datagram = vec![0; DATAGRAM_BYTES];
            datagram[..8].copy_from_slice(&number.to_le_bytes());
            assert!(self.primary.send_datagram(self.handle, datagram.into()));
        }
        let (now, time) = self.clock.now();
        self.primary.flush(now, time, DATAGRAMS as usize);
    }

    fn left(&mut self) -> u64 {
        self.primary.poll_left(self.clock.now().1)
    }

    /// Serves both ends and the cable once, and waits for about a millisecond.
    async fn turn(&mut self) {
        for lane in [&mut self.primary, &mut self.mirror] {
            let (now, time) = self.clock.now();
            while lane.receive(now) {}
            lane.handle_timeout(now);
            lane.flush(now, time, DATAGRAMS as usize);
        }
        for connection in self.mirror.connections.values_mut() {
            while let Some(datagram) = connection.datagrams().recv() {
                assert_eq!(datagram[..8], self.received.to_le_bytes(), "one after the other");
                self.received += 1;
            }
        }
        self.packets += self.ethernet.carry();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn until(&mut self, mut is_done: impl FnMut(&mut Self) -> bool) {
        let begin = Instant::now();
        while !is_done(self) {
            assert!(begin.elapsed() < Duration::from_secs(20), "not done in 20 s");
            self.turn().await;
        }
    }
}

fn tls() -> (rustls::ClientConfig, rustls::ServerConfig) {
    let own = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    (client, server)
}

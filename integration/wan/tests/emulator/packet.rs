//! The packet form: ping, priority, loss and cut with UDP, and what loss does to TCP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use parhelion_wan::{
    Direction, Emulator, HostDrops, LinkConfig, Loss, Namespaces, Side, Tally, WanConfig, monotonic_now,
};
use socket2::SockRef;

use crate::{assert_about, emulate, receive_until_silent};

pub const TESTS: &[(&str, fn())] = &[
    ("packet::a_round_trip_takes_two_delays", a_round_trip_takes_two_delays),
    (
        "packet::the_device_waits_for_the_emulator_and_counts_what_it_drops",
        the_device_waits_for_the_emulator_and_counts_what_it_drops,
    ),
    ("packet::commands_run_at_their_site", commands_run_at_their_site),
    ("packet::the_seed_decides_which_packets_are_lost", the_seed_decides_which_packets_are_lost),
    ("packet::expedited_packets_overtake_a_full_queue", expedited_packets_overtake_a_full_queue),
    ("packet::a_cut_spares_what_propagates", a_cut_spares_what_propagates),
    ("packet::tcp_collapses_at_one_percent_loss", tcp_collapses_at_one_percent_loss),
    ("packet::tcp_bytes_are_followed_through_loss_and_cut", tcp_bytes_are_followed_through_loss_and_cut),
    ("packet::the_sites_outlive_an_emulator", the_sites_outlive_an_emulator),
];

/// Starts this binary as an echo server.
pub const ECHO: &str = "echo-server";

fn a_round_trip_takes_two_delays() {
    let (sites, emulator) = start(LinkConfig { delay: Duration::from_millis(20), ..LinkConfig::default() });
    let [a, b] = sockets(&sites);
    let mut spans = Vec::new();
    let mut buffer = [0; 64];
    for _ in 0..20 {
        let begin = Instant::now();
        a.send(b"ping").unwrap();
        b.recv(&mut buffer).unwrap();
        b.send(b"pong").unwrap();
        a.recv(&mut buffer).unwrap();
        spans.push(begin.elapsed());
    }
    spans.sort_unstable();
    println!("  round trip: least {:?}, median {:?}, most {:?}", spans[0], spans[10], spans[19]);
    assert_about("median round trip", spans[10], Duration::from_millis(40), Duration::from_millis(10));
    assert!(spans[0] >= Duration::from_millis(40), "never early: {:?}", spans[0]);
    let (counters, status) = emulator.stop().unwrap();
    assert!(status.success());
    assert_eq!(counters.a_to_b.link.bulk.delivered, Tally { packets: 20, bytes: 20 * 32 });
    assert_eq!(counters.b_to_a.link.bulk.delivered.packets, 20);
    println!("  handed on {:?} late on average", counters.a_to_b.timeliness.late_mean());
}

fn the_device_waits_for_the_emulator_and_counts_what_it_drops() {
    let sites = Namespaces::create().unwrap();
    let [a, b] = sockets(&sites);
    for _ in 0..15_000 {
        a.send(b"early").unwrap();
    }
    assert_eq!(sites.host_drops(Side::A).unwrap(), HostDrops::default(), "room for 20000 packets");
    for _ in 0..30_000 {
        let _ = a.send(b"too many");
    }
    assert!(sites.host_drops(Side::A).unwrap().sent > 0, "the device is full, and says so");
    // What was sent before the emulator started belongs to no run.
    let emulator = Emulator::spawn_packet(emulate(), &WanConfig::symmetric(1, LinkConfig::default()), &sites);
    a.send(b"now").unwrap();
    let mut buffer = [0; 16];
    let length = b.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"now");
    drop(emulator);
}

fn commands_run_at_their_site() {
    let (sites, _emulator) = start(LinkConfig { delay: Duration::from_millis(5), ..LinkConfig::default() });
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(ECHO).stdout(Stdio::piped()).stdin(Stdio::piped());
    sites.enter_command(&mut command, Side::B).unwrap();
    let mut server = command.spawn().unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let address = SocketAddr::new(Side::B.address(), port.trim().parse().unwrap());
    let begin = Instant::now();
    let mut stream = sites.within(Side::A, || TcpStream::connect(address)).unwrap().unwrap();
    stream.write_all(b"across").unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"across");
    assert_about("handshake and echo", begin.elapsed(), Duration::from_millis(20), Duration::from_millis(50));
    drop(stream);
    assert!(server.wait().unwrap().success());
}

/// The echo server: one connection, then it ends.
pub fn echo_server() -> Result<(), String> {
    let serve = || {
        let listener = TcpListener::bind((Side::B.address(), 0))?;
        println!("{}", listener.local_addr()?.port());
        let (mut stream, _) = listener.accept()?;
        let mut back = stream.try_clone()?;
        std::io::copy(&mut stream, &mut back)
    };
    serve().map(drop).map_err(|error: std::io::Error| error.to_string())
}

fn the_seed_decides_which_packets_are_lost() {
    let run = || {
        let link = LinkConfig {
            delay: Duration::from_millis(2),
            loss: Loss::bursty(0.1, 3.0),
            ..LinkConfig::default()
        };
        let (sites, mut emulator) = start(link);
        let [a, b] = sockets(&sites);
        let receiver = receive_until_silent(b, Duration::from_millis(300));
        for packet in 0..2000u32 {
            a.send(&packet.to_le_bytes()).unwrap();
            if packet % 50 == 49 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let arrived: Vec<u32> = receiver
            .join()
            .unwrap()
            .iter()
            .map(|packet| u32::from_le_bytes(packet.as_slice().try_into().unwrap()))
            .collect();
        let counters = emulator.counters().unwrap();
        assert_eq!(counters.a_to_b.link.bulk.lost.packets + arrived.len() as u64, 2000);
        assert_eq!(sites.host_drops(Side::A).unwrap(), HostDrops::default());
        arrived
    };
    let first = run();
    // Six standard deviations of the mean of 2000 packets in bursts of three.
    assert!((1600..2000).contains(&first.len()), "{} of 2000 arrived", first.len());
    assert_eq!(first, run(), "the same packets again");
}

fn expedited_packets_overtake_a_full_queue() {
    // 100 kB of queue are 80 ms at 10 Mbit/s.
    let link = LinkConfig {
        delay: Duration::from_millis(5),
        rate: Some(10_000_000),
        queue_bytes: 100_000,
        ..LinkConfig::default()
    };
    let (sites, mut emulator) = start(link);
    let [bulk, marked, sink] = [Side::A, Side::A, Side::B].map(|side| socket(&sites, side));
    SockRef::from(&marked).set_tos_v4(0xb8).unwrap();
    for source in [&bulk, &marked] {
        source.connect(sink.local_addr().unwrap()).unwrap();
    }
    for _ in 0..60 {
        bulk.send(&[0; 1000]).unwrap();
    }
    let begin = Instant::now();
    marked.send(b"first").unwrap();
    let mut buffer = [0; 1500];
    let mut before = 0;
    while sink.recv(&mut buffer).unwrap() != 5 {
        before += 1;
    }
    println!("  expedited after {:?}, {before} bulk packets before it", begin.elapsed());
    // Packets that were already on the fibre, for 5 ms, or on the line come first; 0.8 ms each.
    assert!(before <= 9, "{before} bulk packets came first");
    let counters = emulator.counters().unwrap();
    assert_eq!(counters.a_to_b.link.expedited.delivered.packets, 1);
}

fn a_cut_spares_what_propagates() {
    let link = LinkConfig { delay: Duration::from_millis(100), ..LinkConfig::default() };
    let (sites, mut emulator) = start(link);
    let [a, b] = sockets(&sites);
    for packet in 0..100u32 {
        a.send(&packet.to_le_bytes()).unwrap();
        b.send(&packet.to_le_bytes()).unwrap();
    }
    std::thread::sleep(Duration::from_millis(20));
    let asked = monotonic_now();
    let cut = emulator.cut(Side::A, asked).unwrap();
    assert!(cut >= asked && cut <= monotonic_now());
    for packet in 100..200u32 {
        a.send(&packet.to_le_bytes()).unwrap();
    }
    let count = |socket: &UdpSocket| {
        socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
        let mut buffer = [0; 4];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|_| u32::from_le_bytes(buffer))).collect()
    };
    let at_b: Vec<u32> = count(&b);
    assert_eq!(at_b, (0..100).collect::<Vec<_>>(), "stored in the network, and nothing after the cut");
    let at_a: Vec<u32> = count(&a);
    assert!(at_a.is_empty(), "nothing arrives at the cut end: {at_a:?}");
    let counters = emulator.counters().unwrap();
    let at_cut = counters.a_to_b.link.at_cut.unwrap();
    assert_eq!((at_cut.at_nanos, at_cut.propagating.packets), (cut.as_nanos(), 100));
    assert_eq!(counters.a_to_b.link.bulk.cut_dropped.packets, 100);
    assert_eq!(counters.b_to_a.link.bulk.cut_dropped.packets, 100);
    // Healed, the link carries again.
    emulator.heal().unwrap();
    a.send(&7u32.to_le_bytes()).unwrap();
    assert_eq!(count(&b), [7]);
}

fn tcp_collapses_at_one_percent_loss() {
    for congestion in ["reno", "cubic"] {
        let link = LinkConfig {
            delay: Duration::from_millis(10),
            rate: Some(200_000_000),
            queue_bytes: 1_000_000,
            ..LinkConfig::default()
        };
        let (sites, mut emulator) = start(link);
        let clean = tcp_bits_per_second(&sites, congestion, Duration::from_millis(1500));
        emulator.set_loss(None, Loss::independent(0.01)).unwrap();
        let lossy = tcp_bits_per_second(&sites, congestion, Duration::from_millis(1500));
        println!("  {congestion}: {:.0} Mbit/s clean, {:.1} Mbit/s at 1 % loss", clean / 1e6, lossy / 1e6);
        // Mathis et al.: 1.22 MSS / (RTT sqrt p) = 7 Mbit/s for Reno; slow start lifts a short run, and
        // CUBIC does somewhat better.
        assert!(clean > 80e6, "{congestion} without loss: {clean} bit/s");
        assert!(lossy < 30e6, "{congestion} at 1 % loss: {lossy} bit/s");
        assert_eq!(sites.host_drops(Side::A).unwrap().sent, 0, "all losses are the model's");
    }
}

/// What one TCP connection carries from A to B in `span`, handshake and slow start included.
fn tcp_bits_per_second(sites: &Namespaces, congestion: &str, span: Duration) -> f64 {
    let listener = sites.within(Side::B, || TcpListener::bind((Side::B.address(), 0))).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let begin = Instant::now();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (mut total, mut buffer) = (0u64, vec![0; 1 << 18]);
        while begin.elapsed() < span {
            total += stream.read(&mut buffer).unwrap_or(0) as u64;
        }
        total as f64 * 8.0 / span.as_secs_f64()
    });
    let mut stream = sites.within(Side::A, || TcpStream::connect(address)).unwrap().unwrap();
    SockRef::from(&stream).set_tcp_congestion(congestion.as_bytes()).unwrap();
    let data = vec![0; 1 << 16];
    // The receiver goes first.
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    while stream.write_all(&data).is_ok() && !receiver.is_finished() {}
    receiver.join().unwrap()
}

fn tcp_bytes_are_followed_through_loss_and_cut() {
    let (sites, mut emulator) =
        start(LinkConfig { delay: Duration::from_millis(20), rate: None, ..LinkConfig::default() });
    let listener = sites.within(Side::B, || TcpListener::bind((Side::B.address(), 0))).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let mut sender = sites.within(Side::A, || TcpStream::connect(address)).unwrap().unwrap();
    sender.set_nodelay(true).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut read = |expected: usize| {
        let (mut total, mut buffer) = (0, vec![0; 1 << 18]);
        while total < expected {
            match receiver.read(&mut buffer) {
                Ok(bytes) if bytes > 0 => total += bytes,
                _ => break,
            }
        }
        total as u64
    };
    sender.write_all(&vec![1; 300_000]).unwrap();
    assert_eq!(read(300_000), 300_000);
    let seen = emulator.tcp_progress(Direction::AToB).unwrap().remove(0);
    assert_eq!((seen.target, seen.left, seen.arrived), (address, 300_000, vec![(0, 300_000)]));
    // The other direction has a handshake and acknowledgements, and no bytes.
    assert!(emulator.tcp_progress(Direction::BToA).unwrap().iter().all(|one| one.left == 0));

    // Half of one window is lost, and nothing can be sent again before the cut.
    emulator.set_loss(None, Loss::independent(0.5)).unwrap();
    sender.write_all(&vec![2; 60_000]).unwrap();
    std::thread::sleep(Duration::from_millis(15));
    emulator.cut(Side::A, monotonic_now()).unwrap();
    sender.write_all(&vec![3; 10_000]).unwrap();
    let shown = 300_000 + read(60_000);
    let seen = emulator.tcp_progress(Direction::AToB).unwrap().remove(0);
    assert!(seen.left > 300_000 && seen.left <= 360_000, "{seen:?}");
    assert_eq!(
        seen.arrived[0],
        (0, shown),
        "what the receiver was shown is what arrived without a gap: {seen:?}"
    );
    let arrived: u64 = seen.arrived.iter().map(|range| range.1 - range.0).sum();
    assert!(
        arrived > shown && arrived < seen.left,
        "some arrived behind a gap, some did not arrive: {seen:?}"
    );
}

fn the_sites_outlive_an_emulator() {
    let (sites, emulator) = start(LinkConfig::default());
    let process = emulator.process_id();
    assert!(std::path::Path::new(&format!("/proc/{process}")).exists());
    drop(emulator);
    assert!(!std::path::Path::new(&format!("/proc/{process}")).exists(), "the emulator is reaped");
    // The sites can be joined again.
    let emulator = Emulator::spawn_packet(emulate(), &WanConfig::symmetric(2, LinkConfig::default()), &sites);
    let [a, b] = sockets(&sites);
    a.send(b"again").unwrap();
    assert_eq!(b.recv(&mut [0; 8]).unwrap(), 5);
    drop(emulator);
}

fn start(link: LinkConfig) -> (Namespaces, Emulator) {
    let sites = Namespaces::create().unwrap();
    let emulator = Emulator::spawn_packet(emulate(), &WanConfig::symmetric(1, link), &sites).unwrap();
    (sites, emulator)
}

/// A UDP socket at each site, connected to the other.
fn sockets(sites: &Namespaces) -> [UdpSocket; 2] {
    let sockets = Side::BOTH.map(|side| socket(sites, side));
    let [a, b] = &sockets;
    a.connect(b.local_addr().unwrap()).unwrap();
    b.connect(a.local_addr().unwrap()).unwrap();
    sockets
}

fn socket(sites: &Namespaces, side: Side) -> UdpSocket {
    let socket = sites.within(side, || UdpSocket::bind((side.address(), 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

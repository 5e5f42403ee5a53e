//! The relay form over loopback.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use parhelion_wan::{
    Class, Emulator, LinkConfig, Loss, RelayFlow, Side, Transport, WanConfig, WanError, monotonic_now,
};

use crate::{assert_about, emulate, receive_until_silent};

pub const TESTS: &[(&str, fn())] = &[
    ("relay::datagrams_are_delayed_and_find_their_way_back", datagrams_are_delayed_and_find_their_way_back),
    ("relay::datagrams_are_lost_as_configured", datagrams_are_lost_as_configured),
    ("relay::expedited_ports_overtake_bulk_ports", expedited_ports_overtake_bulk_ports),
    ("relay::streams_are_delayed_and_whole", streams_are_delayed_and_whole),
    ("relay::streams_are_held_to_the_rate", streams_are_held_to_the_rate),
    ("relay::a_cut_stalls_streams_and_healing_does_not_patch_them", a_cut_stalls_streams),
    ("relay::the_emulator_ends_with_its_parent", the_emulator_ends_with_its_parent),
    ("relay::bad_figures_and_ports_are_refused", bad_figures_and_ports_are_refused),
];

/// Starts this binary as a parent that only waits.
pub const HOLD: &str = "hold-emulator";

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn datagrams_are_delayed_and_find_their_way_back() {
    let server = udp();
    let emulator = start(
        LinkConfig { delay: Duration::from_millis(15), ..LinkConfig::default() },
        &[flow(Transport::Udp, server.local_addr().unwrap(), Class::Bulk)],
    );
    let clients = [udp(), udp()];
    let mut buffer = [0; 64];
    for (number, client) in clients.iter().enumerate() {
        client.connect(emulator.addresses()[0]).unwrap();
        let begin = Instant::now();
        client.send(&[number as u8]).unwrap();
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[0], number as u8);
        assert_about("one way", begin.elapsed(), Duration::from_millis(15), Duration::from_millis(30));
        server.send_to(&[number as u8 + 10], from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 1);
        assert_eq!(buffer[0], number as u8 + 10, "each client gets its own answer");
        assert_about("round trip", begin.elapsed(), Duration::from_millis(30), Duration::from_millis(50));
    }
}

fn datagrams_are_lost_as_configured() {
    let server = udp();
    let mut emulator = start(
        LinkConfig { delay: Duration::from_millis(1), ..LinkConfig::default() },
        &[flow(Transport::Udp, server.local_addr().unwrap(), Class::Bulk)],
    );
    let client = udp();
    client.connect(emulator.addresses()[0]).unwrap();
    for rate in [0.0, 0.2] {
        emulator.set_loss(None, Loss::independent(rate)).unwrap();
        let lost_before = emulator.counters().unwrap().a_to_b.link.bulk.lost.packets;
        let receiver = receive_until_silent(server.try_clone().unwrap(), Duration::from_millis(300));
        for packet in 0..2000 {
            client.send(&[0; 100]).unwrap();
            if packet % 40 == 39 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let arrived = receiver.join().unwrap().len() as u64;
        let counters = emulator.counters().unwrap().a_to_b;
        let lost = counters.link.bulk.lost.packets - lost_before;
        assert_eq!(arrived + lost, 2000, "nothing else loses packets: {counters:?}");
        // Five standard deviations of a binomial.
        assert!(
            lost.abs_diff((2000.0 * rate) as u64) <= (5.0 * (2000.0 * rate * 0.8).sqrt()) as u64,
            "{lost}"
        );
    }
}

fn expedited_ports_overtake_bulk_ports() {
    let server = udp();
    let target = server.local_addr().unwrap();
    let link = LinkConfig {
        delay: Duration::from_millis(2),
        rate: Some(10_000_000),
        queue_bytes: 100_000,
        ..LinkConfig::default()
    };
    let emulator = start(
        link,
        &[flow(Transport::Udp, target, Class::Bulk), flow(Transport::Udp, target, Class::Expedited)],
    );
    let client = udp();
    for _ in 0..60 {
        client.send_to(&[0; 1000], emulator.addresses()[0]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(2));
    client.send_to(b"first", emulator.addresses()[1]).unwrap();
    let (mut buffer, mut before) = ([0; 2000], 0);
    while server.recv(&mut buffer).unwrap() != 5 {
        before += 1;
    }
    assert!(before <= 12, "{before} of 60 bulk packets came before the expedited one");
}

fn streams_are_delayed_and_whole() {
    let (listener, target) = listen();
    let emulator = start(
        LinkConfig { delay: Duration::from_millis(10), ..LinkConfig::default() },
        &[flow(Transport::Tcp, target, Class::Bulk)],
    );
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    // Odd sizes, and more than socket buffers hold.
    let data: Vec<u8> = (0..3_000_001u32).map(|index| (index * 7 + index / 251) as u8).collect();
    let mut stream = TcpStream::connect(emulator.addresses()[0]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let begin = Instant::now();
    stream.write_all(&data).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    // Out and back, and 24 ms each way on the line.
    assert!(begin.elapsed() >= Duration::from_millis(2 * 10 + 2 * 24), "{:?}", begin.elapsed());
    assert!(back == data, "{} of {} bytes came back", back.len(), data.len());
    server.join().unwrap();
}

fn streams_are_held_to_the_rate() {
    let (listener, target) = listen();
    let link = LinkConfig {
        delay: Duration::from_millis(5),
        rate: Some(100_000_000),
        queue_bytes: 100_000,
        ..LinkConfig::default()
    };
    let mut emulator = start(link, &[flow(Transport::Tcp, target, Class::Bulk)]);
    let mut stream = TcpStream::connect(emulator.addresses()[0]).unwrap();
    let (mut sink, _) = listener.accept().unwrap();
    std::thread::spawn(move || while stream.write_all(&[0; 65536]).is_ok() {});
    let mut buffer = vec![0; 1 << 18];
    sink.read_exact(&mut buffer[..1]).unwrap();
    let (begin, mut total) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_secs(1) {
        total += sink.read(&mut buffer).unwrap();
    }
    let megabits = total as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e6;
    let counters = emulator.counters().unwrap();
    let processor = Duration::from_nanos(counters.cpu_nanos);
    println!("  {megabits:.1} Mbit/s of stream on a line of 100, {processor:?} of processor time");
    // Headers take 3.5 %.
    assert!((70.0..98.0).contains(&megabits), "{megabits} Mbit/s");
    assert_eq!(counters.a_to_b.link.bulk.queue_dropped.packets, 0, "a full queue pushes back");
}

fn a_cut_stalls_streams() {
    let (listener, target) = listen();
    let mut emulator = start(
        LinkConfig { delay: Duration::from_millis(50), ..LinkConfig::default() },
        &[flow(Transport::Tcp, target, Class::Bulk)],
    );
    let mut stream = TcpStream::connect(emulator.addresses()[0]).unwrap();
    let (mut sink, _) = listener.accept().unwrap();
    stream.write_all(b"stored in the network").unwrap();
    std::thread::sleep(Duration::from_millis(10));
    emulator.cut(Side::A, monotonic_now()).unwrap();
    stream.write_all(b"too late").unwrap();
    sink.write_all(b"answer").unwrap();
    let mut buffer = [0; 64];
    sink.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert_eq!(sink.read(&mut buffer).unwrap(), 21);
    assert_eq!(sink.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock, "stalled, not closed");
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(stream.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    // Nothing of this stream was on the link at the cut but what arrived: it goes on.
    emulator.heal().unwrap();
    assert_eq!(sink.read(&mut buffer).unwrap(), 8);
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(stream.read(&mut buffer).unwrap(), 6);
    // Now bytes are lost on the fibre: the stream may not continue with a hole.
    stream.write_all(b"lost").unwrap();
    std::thread::sleep(Duration::from_millis(10));
    emulator.partition(monotonic_now()).unwrap();
    emulator.heal().unwrap();
    stream.write_all(b"after the hole").unwrap();
    sink.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(
        matches!(sink.read(&mut buffer), Ok(0) | Err(_)),
        "closed: {:?}",
        String::from_utf8_lossy(&buffer)
    );
}

fn bad_figures_and_ports_are_refused() {
    let wan = WanConfig::symmetric(1, LinkConfig { rate: Some(0), ..LinkConfig::default() });
    let error = Emulator::spawn_relay(emulate(), &wan, &[]).unwrap_err();
    assert!(matches!(error, WanError::Invalid { name: "rate", .. }), "{error}");
    let (_holder, taken) = listen();
    let wan = WanConfig::symmetric(1, LinkConfig::default());
    let flow = RelayFlow { listen: taken, ..flow(Transport::Tcp, taken, Class::Bulk) };
    let error = Emulator::spawn_relay(emulate(), &wan, &[flow]).unwrap_err();
    assert!(matches!(&error, WanError::Refused { reason } if reason.contains("relay port")), "{error}");
    let mut emulator = start(LinkConfig::default(), &[]);
    let error = emulator.set_loss(None, Loss::independent(3.0)).unwrap_err();
    assert!(error.to_string().contains("loss rate = 3"), "{error}");
}

fn the_emulator_ends_with_its_parent() {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .arg(HOLD)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let emulator: u32 = line.trim().parse().unwrap();
    assert!(is_running(emulator));
    // No handler of the parent's runs.
    parent.kill().unwrap();
    parent.wait().unwrap();
    let begin = Instant::now();
    while is_running(emulator) {
        assert!(begin.elapsed() < Duration::from_secs(5), "emulator {emulator} outlives its parent");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The parent of the test above: holds an emulator until it is killed.
pub fn hold_emulator() -> Result<(), String> {
    let wan = WanConfig::symmetric(1, LinkConfig::default());
    let emulator = Emulator::spawn_relay(emulate(), &wan, &[]).map_err(|error| error.to_string())?;
    println!("{}", emulator.process_id());
    std::thread::sleep(Duration::from_secs(30));
    Err("nobody ended this process".into())
}

/// Whether a process exists and is no zombie.
fn is_running(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn start(link: LinkConfig, flows: &[RelayFlow]) -> Emulator {
    Emulator::spawn_relay(emulate(), &WanConfig::symmetric(5, link), flows).unwrap()
}

fn flow(transport: Transport, target: SocketAddr, class: Class) -> RelayFlow {
    RelayFlow { transport, from: Side::A, listen: LOOPBACK, target, class }
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind(LOOPBACK).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

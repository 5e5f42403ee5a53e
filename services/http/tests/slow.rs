//! Clients that are slow, on purpose or not: what they hold is bounded, and in time they hold nothing.

#[path = "../../gate/tests/memory/mod.rs"]
mod memory;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use memory::MemorySite;
use parhelion_gate::Budget;
use parhelion_http::{HttpConfig, HttpServer, Pace};
use parhelion_types::LogId;
use parhelion_types::limits::{APPEND_BYTES_MAX, WAITING_APPEND_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use wire::{Response, exchange, send};

/// What four of the largest appends take.
const FOUR_APPENDS: usize = 4 * (APPEND_BYTES_MAX + WAITING_APPEND_BYTES);
/// Short, so that a test need not wait.
const PATIENCE: Duration = Duration::from_millis(400);
/// High, so that what the kernel takes of an answer buys little time.
const RATE_MIN: u32 = 4 << 20;

struct Server {
    site: Arc<MemorySite>,
    in_flight: Budget,
    answers: Budget,
    server: HttpServer,
}

async fn start() -> (Server, SocketAddr) {
    let mut config = HttpConfig::new("127.0.0.1:0".parse().unwrap());
    config.pace = Pace { patience: PATIENCE, rate_min: RATE_MIN };
    config.in_flight = Budget::new(FOUR_APPENDS as u64);
    config.answers = Budget::new(2 * APPEND_BYTES_MAX as u64);
    let (in_flight, answers) = (config.in_flight.clone(), config.answers.clone());
    let site = MemorySite::new();
    let server = HttpServer::start(config, site.clone(), Arc::new(String::new)).unwrap();
    let to = server.local_address();
    let stream = TcpStream::connect(to).await.unwrap();
    let created = send(stream, "POST", "/v1/logs", &[], br#"{"name": "orders"}"#).await;
    assert_eq!(created.status, 201);
    (Server { site, in_flight, answers, server }, to)
}

fn head(framing: &str) -> Vec<u8> {
    format!("POST /v1/logs/1/appends HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{framing}\r\n\r\n")
        .into_bytes()
}

async fn append(to: SocketAddr, bytes: &[u8]) -> Response {
    send(TcpStream::connect(to).await.unwrap(), "POST", "/v1/logs/1/appends", &[], bytes).await
}

#[actix_web::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (server, to) = start().await;
    for framing in ["content-length: 100", "transfer-encoding: chunked"] {
        for part in [&b""[..], b"5\r\nhello\r\n"] {
            let start = Instant::now();
            let request = [head(framing), part.to_vec()].concat();
            let response = exchange(TcpStream::connect(to).await.unwrap(), &request).await;
            assert_eq!(response.status, 408, "{framing}");
            let (kind, message) = response.error();
            assert!(kind == "invalid" && message.contains("too slowly"), "{message}");
            assert!(start.elapsed() >= PATIENCE && start.elapsed() < 20 * PATIENCE, "{:?}", start.elapsed());
        }
    }
    // A head that does not come is nobody's.
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(b"POST /v1/lo").await.unwrap();
    assert_eq!(server.in_flight.held_bytes(), 0);
    assert_eq!(server.site.appends(LogId(1)), 0);
}

#[actix_web::test]
async fn a_body_may_take_its_time_if_it_flows() {
    let (server, to) = start().await;
    let mut stream = TcpStream::connect(to).await.unwrap();
    let part = vec![7; RATE_MIN as usize / 4];
    stream.write_all(&head(&format!("content-length: {}", 8 * part.len()))).await.unwrap();
    let begun = Instant::now();
    for _ in 0..8 {
        // Twice the slowest rate.
        tokio::time::sleep(Duration::from_millis(125)).await;
        stream.write_all(&part).await.unwrap();
    }
    assert!(begun.elapsed() > 2 * PATIENCE);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(server.in_flight.held_bytes(), 0);
}

#[actix_web::test]
async fn many_slow_writers_hold_what_is_allowed_and_then_nothing() {
    const CLIENTS: usize = 64;
    let (server, to) = start().await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let framing = if n % 2 == 0 {
            format!("content-length: {APPEND_BYTES_MAX}")
        } else {
            "transfer-encoding: chunked".to_owned()
        };
        stream.write_all(&head(&framing)).await.unwrap();
        clients.push(stream);
    }
    // A gibibyte is announced, four appends are let in.
    let begun = Instant::now();
    while server.in_flight.held_bytes() < FOUR_APPENDS {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{} bytes are held",
            server.in_flight.held_bytes()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(server.in_flight.held_bytes(), FOUR_APPENDS);
    // They cost the others time, and not the service.
    let others = join_all((0..4).map(|_| append(to, b"in between"))).await;
    assert!(others.iter().all(|response| response.status == 201));
    let ended = clients.into_iter().map(|mut stream| async move {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    });
    for answer in join_all(ended).await {
        assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(server.in_flight.held_bytes(), 0);
    assert_eq!(server.site.appends(LogId(1)), 4);
}

#[actix_web::test]
async fn many_slow_readers_hold_what_is_allowed_and_then_nothing() {
    const CLIENTS: usize = 8;
    let (server, to) = start().await;
    let bytes: Vec<u8> = (0..APPEND_BYTES_MAX as u32).map(|n| (n % 251) as u8).collect();
    let at = append(to, &bytes).await.header("location").unwrap().to_owned();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let socket = TcpSocket::new_v4().unwrap();
        // A small window: all that is sent stays with the server.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(to).await.unwrap();
        stream.write_all(format!("GET {at} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        clients.push(stream);
    }
    // Whoever reads gets all of it, in time.
    let stream = TcpStream::connect(to).await.unwrap();
    let read = send(stream, "GET", &at, &[], b"").await;
    assert!(read.status == 200 && read.body == bytes);
    let begun = Instant::now();
    while server.answers.held_bytes() > 0 {
        assert!(server.answers.held_bytes() <= 2 * APPEND_BYTES_MAX);
        assert!(begun.elapsed() < Duration::from_secs(120), "{} bytes are held", server.answers.held_bytes());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Nobody takes a part for the whole: the connection ends before the announced length.
    for mut stream in clients {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.len() < APPEND_BYTES_MAX, "{} bytes", answer.len());
    }
    server.server.stop().await;
}

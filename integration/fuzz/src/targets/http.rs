//! HTTP: bytes on a connection of the real server, with its routes, its limits and a site in memory behind it.
//!
//! Promises: no bytes panic a worker; every answer has a status of the API and, where it is an error, the API's form;
//! the server still serves the next connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use parhelion_http::{HttpConfig, HttpServer};

#[path = "../../../../services/gate/tests/memory/mod.rs"]
#[allow(missing_docs, reason = "the site that the front ends' own tests use")]
mod memory;

use memory::MemorySite;

/// Far longer than the server may think about a request of a few kilobytes, on a busy machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_BYTES_MAX: u64 = 16 << 20;

static SERVER: OnceLock<SocketAddr> = OnceLock::new();

/// The server's address; it runs on threads of its own for the life of the process.
fn server() -> SocketAddr {
    *SERVER.get_or_init(|| {
        let (tell, address) = mpsc::channel();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let mut config = HttpConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
                config.workers = 1;
                let server = HttpServer::start(config, MemorySite::new(), Arc::new(|| "# EOF\n".to_owned()));
                let server = server.expect("loopback has a free port");
                tell.send(server.local_address()).expect("somebody waits for it");
                std::future::pending::<()>().await;
            });
        });
        address.recv().expect("the server starts")
    })
}

pub(super) fn run(input: &[u8]) {
    let answer = ask(input).expect("loopback works");
    let mut rest = &answer[..];
    while let Some(status) = status(rest) {
        assert!(
            matches!(
                status,
                100 | 101 | 200 | 201 | 204 | 400 | 403 | 404 | 405 | 408 | 413 | 414 | 417 | 431 | 501 | 505
            ),
            "status {status} is none of the API's: {}",
            String::from_utf8_lossy(rest)
        );
        let Some(next) = find(&rest[1..], b"HTTP/1.") else { break };
        rest = &rest[1 + next..];
    }
}

/// Sends the bytes on a connection of their own, and reads until the server closes it.
fn ask(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server())?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    // Reset at the end: thousands of connections a second would use up the ports in TIME_WAIT.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    // A server that has seen enough may close before it has read all.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    match (&stream).take(ANSWER_BYTES_MAX).read_to_end(&mut answer) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            panic!("no end of the answer within {ANSWER_TIMEOUT:?}: {}", String::from_utf8_lossy(&answer))
        }
        _ => Ok(answer),
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.")?;
    std::str::from_utf8(line.get(2..5)?).ok()?.parse().ok()
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let request = |line: &str, headers: &str, body: &str| {
        let length =
            if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        format!("{line} HTTP/1.1\r\nhost: a\r\n{headers}{length}\r\n{body}").into_bytes()
    };
    let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    let append =
        "POST /v1/logs/1/appends?durability=remote&max_risk=1e-9&deadline=2s&request_id=ab&explain=true";
    let create = request("POST /v1/logs", "", r#"{"name": "orders", "degrade": "fail", "request_id": "1"}"#);
    let append = request(append, trace, "bytes");
    let chunked = request("POST /v1/logs/1/appends", "transfer-encoding: chunked\r\n", "").into_iter();
    let mut seeds = vec![
        ("list", request("GET /v1/logs?from=0&count=10", "", "")),
        ("stat", request("GET /v1/logs/1", "", "")),
        ("read", request("GET /v1/logs/1/appends/0:64", "", "")),
        ("free", request("DELETE /v1/logs/1/appends/0:64", "", "")),
        ("status", request("GET /v1/status", "", "")),
        ("metrics", request("GET /metrics", "connection: close\r\n", "")),
        ("page", request("GET /v1/logs", "origin: http://a\r\n", "")),
        ("wrong-method", request("PUT /v1/logs", "", "")),
        ("chunked", chunked.chain(*b"5\r\nbytes\r\n0\r\n\r\n").collect()),
        ("pipeline", [create.clone(), append.clone(), request("GET /v1/logs/1", "", "")].concat()),
        ("cut", append[..append.len() - 2].to_vec()),
        ("http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
    ];
    seeds.extend([("create", create), ("append", append)]);
    seeds
}

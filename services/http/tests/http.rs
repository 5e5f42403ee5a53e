//! The HTTP front end over real sockets.

#[path = "../../gate/tests/memory/mod.rs"]
mod memory;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use memory::MemorySite;
use parhelion_gate::pki::{self, InitOptions};
use parhelion_gate::tls::SERVER_NAME;
use parhelion_gate::{Budget, Identity};
use parhelion_http::{HttpConfig, HttpServer};
use parhelion_types::LogId;
use parhelion_types::limits::APPEND_BYTES_MAX;
use tokio::net::TcpStream;
use wire::{Response, exchange, send};

fn start(site: &Arc<MemorySite>, change: impl FnOnce(&mut HttpConfig)) -> HttpServer {
    let mut config = HttpConfig::new("127.0.0.1:0".parse().unwrap());
    config.workers = 1;
    change(&mut config);
    HttpServer::start(config, site.clone(), Arc::new(|| "# EOF\n".to_owned())).unwrap()
}

async fn ask(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> Response {
    send(TcpStream::connect(address).await.unwrap(), method, path, &[], body).await
}

#[actix_web::test]
async fn a_log_makes_its_round_trip() {
    let site = MemorySite::new();
    let server = start(&site, |_| {});
    let to = server.local_address();
    let created = ask(to, "POST", "/v1/logs", br#"{"name": "orders", "degrade": "fail"}"#).await;
    assert_eq!((created.status, &created.json()["log"]), (201, &1.into()));
    assert_eq!(created.header("location"), Some("/v1/logs/1"));

    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let path = "/v1/logs/1/appends?durability=remote&max_risk=1e-9&deadline=2s&request_id=ab&explain=true";
    let acked = ask(to, "POST", path, &bytes).await;
    assert_eq!(acked.status, 201, "{:?}", acked.json());
    let (ack, at) = (acked.json(), acked.header("location").unwrap().to_owned());
    assert_eq!((ack["reached"].as_str(), ack["duplicate"].as_bool()), (Some("remote"), Some(false)));
    assert_eq!(ack["path"][0]["stage"], "durable");
    let again = ask(to, "POST", path, &bytes).await.json();
    assert_eq!((&again["address"], again["duplicate"].as_bool()), (&ack["address"], Some(true)));

    let read = ask(to, "GET", &at, b"").await;
    assert_eq!(read.status, 200);
    assert!(read.body == bytes);
    assert_eq!(read.header("content-length"), Some("200000"));
    assert_eq!(
        read.header("parhelion-crc32c"),
        Some(format!("{:08x}", parhelion_wire::crc32c(&bytes)).as_str())
    );
    assert_eq!(ask(to, "DELETE", &at, b"").await.status, 204);
    assert_eq!(ask(to, "GET", &at, b"").await.status, 400);
    assert_eq!(ask(to, "GET", "/v1/logs/1", b"").await.json()["freed"], 1);
    for n in 2..5 {
        ask(to, "POST", "/v1/logs", format!("{{\"name\": \"log {n}\"}}").as_bytes()).await;
    }
    let page = ask(to, "GET", "/v1/logs?from=2&count=2", b"").await.json();
    assert_eq!((page["logs"].as_array().unwrap().len(), &page["next"]), (2, &4.into()));
    assert!(ask(to, "GET", "/v1/logs?from=4&count=2", b"").await.json()["next"].is_null());
    server.stop().await;
    assert!(TcpStream::connect(to).await.is_err());
}

#[actix_web::test]
async fn mistakes_are_answered_with_what_to_do() {
    let site = MemorySite::new();
    let server = start(&site, |_| {});
    let to = server.local_address();
    ask(to, "POST", "/v1/logs", br#"{"name": "orders"}"#).await;
    let cases: &[(&str, &str, &[u8], u16, &str)] = &[
        ("POST", "/v1/logs", b"not json", 400, "send JSON"),
        ("POST", "/v1/logs", br#"{"name": "x", "degrade": "maybe"}"#, 400, "block, degrade"),
        ("POST", "/v1/logs", br#"{"name": "x", "colour": 1}"#, 400, "colour"),
        ("POST", "/v1/logs", &[b' '; 20_000], 413, "over the limit"),
        ("POST", "/v1/logs/1/appends", b"", 400, "at least one byte"),
        ("POST", "/v1/logs/1/appends?durability=soon", b"x", 400, "local, network"),
        ("POST", "/v1/logs/1/appends?max_risk=0", b"x", 400, "1e-6"),
        ("POST", "/v1/logs/1/appends?deadline=soon", b"x", 400, "500ms"),
        ("POST", "/v1/logs/1/appends?request_id=xyz", b"x", 400, "hexadecimal"),
        ("POST", "/v1/logs/1/appends?durabilty=local", b"x", 400, "durabilty"),
        ("POST", "/v1/logs/9/appends", b"x", 400, "create it first"),
        ("GET", "/v1/logs/one", b"", 400, "no log's number"),
        ("GET", "/v1/logs/1/appends/here", b"", 400, "SEGMENT:OFFSET"),
        ("GET", "/v1/logs?count=0", b"", 400, "give 1 to 1024"),
        ("GET", "/v2", b"", 404, "/v1/openapi.json"),
        ("PUT", "/v1/logs", b"", 405, "only POST and GET"),
    ];
    for (method, path, body, status, part) in cases {
        let response = ask(to, method, path, body).await;
        let (kind, message) = response.error();
        assert_eq!((response.status, kind.as_str()), (*status, "invalid"), "{method} {path}: {message}");
        assert!(message.contains(part), "{method} {path}: {message:?} lacks {part:?}");
    }
    assert_eq!(ask(to, "PUT", "/v1/logs", b"").await.header("allow"), Some("POST, GET"));
    site.busy.store(1, Ordering::SeqCst);
    let busy = ask(to, "POST", "/v1/logs/1/appends", b"x").await;
    assert_eq!((busy.status, busy.header("retry-after")), (429, Some("1")));
    // A page in a browser.
    let stream = TcpStream::connect(to).await.unwrap();
    let page = send(stream, "POST", "/v1/logs/1/appends", &[("origin", "https://example.com")], b"x").await;
    assert_eq!(page.status, 403);
    assert_eq!(site.appends(LogId(1)), 0);
}

#[actix_web::test]
async fn bodies_over_the_limit_are_refused_however_they_come() {
    let site = MemorySite::new();
    let budget = Budget::new(64 << 20);
    let server = start(&site, |config| config.in_flight = budget.clone());
    let to = server.local_address();
    ask(to, "POST", "/v1/logs", br#"{"name": "orders"}"#).await;
    let largest = vec![1; APPEND_BYTES_MAX];
    assert_eq!(ask(to, "POST", "/v1/logs/1/appends", &largest).await.status, 201);

    let head = |framing: &str| {
        format!("POST /v1/logs/1/appends HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{framing}\r\n\r\n")
    };
    // Announced: refused before a byte of it is sent.
    let announced = head(&format!("content-length: {}", APPEND_BYTES_MAX + 1));
    let response = exchange(TcpStream::connect(to).await.unwrap(), announced.as_bytes()).await;
    assert_eq!(response.status, 413);
    assert!(response.error().1.contains("split it"));
    // Not announced: refused when the limit is passed.
    let mut chunked = head("transfer-encoding: chunked").into_bytes();
    for _ in 0..17 {
        chunked.extend_from_slice(b"100000\r\n");
        chunked.resize(chunked.len() + (1 << 20), 7);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let response = exchange(TcpStream::connect(to).await.unwrap(), &chunked).await;
    assert_eq!(response.status, 413);
    // Not announced and small: taken.
    let small = [head("transfer-encoding: chunked").as_bytes(), b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"].concat();
    let response = exchange(TcpStream::connect(to).await.unwrap(), &small).await;
    assert_eq!(response.status, 201);
    let at = response.header("location").unwrap();
    assert_eq!(ask(to, "GET", at, b"").await.body, b"abcde");
    assert_eq!(site.appends(LogId(1)), 2);
    assert_eq!(budget.held_bytes(), 0);
}

#[actix_web::test]
async fn with_tls_callers_are_known() {
    let pki = tempfile::tempdir().unwrap();
    pki::init(pki.path(), &InitOptions::default()).unwrap();
    let identity = |name: &str| Identity::load_from(pki.path(), name).unwrap();
    let site = MemorySite::new();
    let server = start(&site, |config| config.tls = Some(identity("node-1").server_config(&[]).unwrap()));
    let to = server.local_address();
    let ask = async |name: &str| {
        let connector =
            tokio_rustls::TlsConnector::from(Arc::new(identity(name).client_config(&[]).unwrap()));
        let tcp = TcpStream::connect(to).await.unwrap();
        let stream = connector.connect(SERVER_NAME.try_into().unwrap(), tcp).await.unwrap();
        send(stream, "GET", "/v1/logs", &[], b"").await
    };
    assert_eq!(ask("client").await.status, 200);
    assert_eq!(ask("admin").await.status, 200);
    let node = ask("node-2").await;
    assert_eq!(node.status, 403);
    assert!(node.error().1.contains("client or admin"), "{:?}", node.error());
}

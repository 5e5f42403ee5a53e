//! The HTTP front end over real sockets.

#[path = "../../gate/tests/memory/mod.rs"]
mod memory;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use memory::MemorySite;
use parhelion_gate::pki::{self, Authority, InitOptions, Subject};
use parhelion_gate::tls::SERVER_NAME;
use parhelion_gate::{Budget, Identity};
use parhelion_http::{HttpConfig, HttpServer, routes};
use parhelion_types::limits::APPEND_BYTES_MAX;
use parhelion_types::{LogId, Role};
use tokio::net::TcpStream;
use wire::{Response, exchange, send};

/// Names and values.
type Headers<'a> = &'a [(&'a str, &'a str)];

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
    assert_eq!(acked.header("parhelion-request-id"), ack["request_id"].as_str());
    assert_eq!(ack["request_id"], format!("{:032x}", 0xab));

    let read = ask(to, "GET", &at, b"").await;
    assert_eq!(read.status, 200);
    assert!(read.body == bytes);
    assert_eq!(read.header("content-length"), Some("200000"));
    assert_eq!(
        read.header("parhelion-crc32c"),
        Some(format!("{:08x}", parhelion_wire::crc32c(&bytes)).as_str())
    );
    assert_eq!(ask(to, "DELETE", &at, b"").await.status, 204);
    let gone = ask(to, "GET", &at, b"").await;
    assert_eq!((gone.status, gone.error().0.as_str()), (404, "not-found"));
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
        ("POST", "/v1/logs/9/appends", b"x", 404, "create it first"),
        ("GET", "/v1/logs/one", b"", 400, "no log's number"),
        ("GET", "/v1/logs/1/appends/here", b"", 400, "SEGMENT:OFFSET"),
        ("GET", "/v1/logs/9", b"", 404, "log 9"),
        ("GET", "/v1/logs/1/appends/7:7", b"", 404, "no append at 7:7"),
        ("DELETE", "/v1/logs/1/appends/7:7", b"", 404, "no append at 7:7"),
        ("GET", "/v1/logs?count=0", b"", 400, "give 1 to 1024"),
        ("PUT", "/v1/link/code", br#"{"name": "reed-solomon"}"#, 403, "http.tls"),
        ("GET", "/v2", b"", 404, "/v1/openapi.json"),
        ("PUT", "/v1/logs", b"", 405, "only POST and GET and HEAD"),
        ("DELETE", "/metrics", b"", 405, "only GET"),
    ];
    for (method, path, body, status, part) in cases {
        let response = ask(to, method, path, body).await;
        let (kind, message) = response.error();
        let expected = match status {
            403 => "forbidden",
            404 => "not-found",
            _ => "invalid",
        };
        assert_eq!((response.status, kind.as_str()), (*status, expected), "{method} {path}: {message}");
        assert!(message.contains(part), "{method} {path}: {message:?} lacks {part:?}");
    }
    assert_eq!(ask(to, "PUT", "/v1/logs", b"").await.header("allow"), Some("POST, GET, HEAD"));
    site.busy.store(1, Ordering::SeqCst);
    let busy = ask(to, "POST", "/v1/logs/1/appends", b"x").await;
    assert_eq!((busy.status, busy.header("retry-after")), (429, Some("1")));
    // What failed can be repeated under the id that the node made, and is stored once.
    let id = busy.header("parhelion-request-id").unwrap().to_owned();
    assert_eq!(busy.json()["error"]["request_id"], id.as_str());
    for duplicate in [false, true] {
        let again = ask(to, "POST", &format!("/v1/logs/1/appends?request_id={id}"), b"x").await;
        assert_eq!((again.status, &again.json()["duplicate"]), (201, &duplicate.into()));
        assert_eq!(again.header("parhelion-request-id"), Some(id.as_str()));
    }
    // A page in a browser.
    let stream = TcpStream::connect(to).await.unwrap();
    let page = send(stream, "POST", "/v1/logs/1/appends", &[("origin", "https://example.com")], b"x").await;
    assert_eq!((page.status, page.error().0.as_str()), (403, "forbidden"));
    assert_eq!(site.appends(LogId(1)), 1);
}

#[actix_web::test]
async fn what_can_be_got_has_a_head() {
    let site = MemorySite::new();
    let server = start(&site, |_| {});
    let to = server.local_address();
    ask(to, "POST", "/v1/logs", br#"{"name": "orders"}"#).await;
    let at =
        ask(to, "POST", "/v1/logs/1/appends", &[7; 100_000]).await.header("location").unwrap().to_owned();
    for path in ["/v1/logs", "/v1/logs/1", &at, "/v1/link", "/v1/status", "/v1/openapi.json", "/metrics"] {
        let (head, whole) = (ask(to, "HEAD", path, b"").await, ask(to, "GET", path, b"").await);
        assert_eq!((head.status, whole.status), (200, 200), "{path}");
        assert_eq!(head.header("content-type"), whole.header("content-type"), "{path}");
        assert_eq!(head.header("content-length"), whole.header("content-length"), "{path}");
        assert!(head.body.is_empty() && !whole.body.is_empty(), "{path}");
    }
    assert_eq!(ask(to, "HEAD", "/v1/logs/9", b"").await.status, 404);
    assert_eq!(ask(to, "HEAD", "/v1/logs/1/appends", b"").await.status, 405);
}

#[actix_web::test]
async fn bodies_of_another_kind_are_refused() {
    let site = MemorySite::new();
    let server = start(&site, |_| {});
    let to = server.local_address();
    let send = async |path: &str, headers: Headers<'_>, body: &[u8]| {
        send(TcpStream::connect(to).await.unwrap(), "POST", path, headers, body).await
    };
    let json = br#"{"name": "orders"}"#;
    let form = "application/x-www-form-urlencoded";
    let refused: &[(&str, Headers, &[u8], &str)] = &[
        ("/v1/logs", &[("content-type", form)], json, "application/json"),
        ("/v1/logs", &[("content-type", "text/plain; charset=utf-8")], json, "application/json"),
        ("/v1/logs", &[("content-encoding", "gzip")], json, "gzip"),
        ("/v1/logs/1/appends", &[("content-type", "multipart/form-data; boundary=x")], b"x", "--data-binary"),
        ("/v1/logs/1/appends", &[("content-encoding", "br")], b"x", "br"),
    ];
    for (path, headers, body, part) in refused {
        let response = send(path, headers, body).await;
        let (kind, message) = response.error();
        assert_eq!((response.status, kind.as_str()), (415, "invalid"), "{message}");
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(ask(to, "GET", "/v1/logs", b"").await.json()["logs"].as_array().unwrap().len(), 0);
    assert_eq!(
        send("/v1/logs", &[("content-type", "application/json; charset=utf-8")], json).await.status,
        201
    );
    // What `curl --data-binary` sends unless it is told otherwise.
    assert_eq!(send("/v1/logs/1/appends", &[("content-type", form)], b"x").await.status, 201);
    assert_eq!(send("/v1/logs/1/appends", &[("content-encoding", "identity")], b"x").await.status, 201);
}

#[actix_web::test]
async fn heads_over_the_limit_are_refused() {
    let site = MemorySite::new();
    let server = start(&site, |_| {});
    let to = server.local_address();
    let endless = "x".repeat(1 << 20);
    let heads = [
        format!("GET /v1/logs?{endless} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        format!("GET /v1/logs HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: {endless}\r\n\r\n"),
        format!("GET /v1/logs HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(10_000)),
        "nonsense\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n".to_owned(),
    ];
    for head in heads {
        let response = exchange(TcpStream::connect(to).await.unwrap(), head.as_bytes()).await;
        assert!(
            (400..500).contains(&response.status),
            "{} after {}",
            response.status,
            &head[..40.min(head.len())]
        );
    }
    assert_eq!(ask(to, "GET", "/v1/logs", b"").await.status, 200);
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

/// Every role against every path: what a certificate allows, and what it is told otherwise.
#[actix_web::test]
async fn with_tls_roles_decide() {
    let pki = tempfile::tempdir().unwrap();
    pki::init(pki.path(), &InitOptions::default()).unwrap();
    let authority = Authority::load(pki.path()).unwrap();
    let site = MemorySite::new();
    let node = Identity::load_from(pki.path(), "node-1").unwrap();
    let server = start(&site, |config| config.tls = Some(node.server_config(&[]).unwrap()));
    let to = server.local_address();
    let mut certificates: Vec<(&str, Vec<Role>)> =
        Role::ALL.iter().map(|role| (role.name(), vec![*role])).collect();
    certificates.extend([("both", vec![Role::Client, Role::Admin]), ("none", Vec::new())]);
    for (name, roles) in certificates {
        let name = format!("the-{name}");
        let subject = Subject { name: name.clone(), roles: roles.clone(), site: None, names: Vec::new() };
        authority.issue(&subject, Duration::from_secs(3600)).unwrap();
        let tls = Arc::new(Identity::load_from(pki.path(), &name).unwrap().client_config(&[]).unwrap());
        for (method, path) in routes() {
            let path = path.replace("{log}", "1").replace("{address}", "0:64");
            let body: &[u8] = match (method, path.as_str()) {
                ("POST", "/v1/logs") => br#"{"name": "orders", "request_id": "1"}"#,
                ("PUT", _) => br#"{"name": "reed-solomon"}"#,
                ("POST", _) => b"x",
                _ => b"",
            };
            let tcp = TcpStream::connect(to).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(tls.clone());
            let stream = connector.connect(SERVER_NAME.try_into().unwrap(), tcp).await.unwrap();
            let response = send(stream, method, &path, &[], body).await;
            let what = format!("{name}: {method} {path}: {}", String::from_utf8_lossy(&response.body));
            let needs: &[Role] = if method == "PUT" { &[Role::Admin] } else { &[Role::Client, Role::Admin] };
            if needs.iter().any(|role| roles.contains(role)) {
                assert!(response.status < 300 || response.status == 404, "{} {what}", response.status);
                continue;
            }
            assert_eq!((response.status, response.error().0.as_str()), (403, "forbidden"), "{what}");
            let message = response.error().1;
            let has = roles.first().map_or("no role".to_owned(), |role| format!("the role {role}"));
            assert!(
                message.contains(&has) && message.contains("admin") && message.contains("use "),
                "{what}"
            );
        }
    }
    // Only a client's and an admin's got through.
    assert_eq!(site.asked.load(Ordering::SeqCst), 3);
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

//! The HTTP API of real nodes: every answer is as the node's own description says, and over TLS a certificate decides.

#[path = "../../../../services/http/tests/description/mod.rs"]
mod description;
#[path = "../../../../services/http/tests/wire/mod.rs"]
mod wire;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use parhelion_client::Identity;
use parhelion_e2e::{At, Node, Pair, PairOptions, Tool, poll};
use parhelion_types::Durability;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

use self::description::{Operation, operations};
use self::wire::{Response, send};
use crate::SOON;

const LISTEN: (&str, &str) = ("http.listen", "127.0.0.1:0");

/// A node's HTTP port, and how to come in.
struct Door {
    address: SocketAddr,
    tls: Option<TlsConnector>,
}

impl Door {
    fn plain(node: &Node) -> Self {
        Self { address: node.ready().http.expect("it serves HTTP"), tls: None }
    }

    /// Over TLS, with the certificate of that name.
    fn with(node: &Node, pki: &Path, name: &str) -> Self {
        let config = Identity::load_from(pki, name).unwrap().client_config(&[b"http/1.1"]).unwrap();
        Self { tls: Some(Arc::new(config).into()), ..Self::plain(node) }
    }

    /// Over TLS, without a certificate.
    fn without_certificate(node: &Node, pki: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.join("ca.pem")).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { tls: Some(Arc::new(config).into()), ..Self::plain(node) }
    }

    async fn call(&self, operation: &Operation<'_>, instead: &[(&str, &str)]) -> Response {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        match &self.tls {
            None => operation.call(tcp, instead).await,
            // The name that a certificate of `pki init` has for this machine.
            Some(tls) => {
                operation
                    .call(tls.connect("localhost".try_into().unwrap(), tcp).await.unwrap(), instead)
                    .await
            }
        }
    }

    async fn ask(&self, method: &str, path: &str, body: &[u8]) -> Response {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        match &self.tls {
            None => send(tcp, method, path, &[], body).await,
            Some(tls) => {
                let stream = tls.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
                send(stream, method, path, &[], body).await
            }
        }
    }

    /// What comes of a connection that should not: everything that the node sends, as text, or why nothing came.
    async fn refusal(&self) -> String {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let request = b"GET /v1/logs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let mut answer = Vec::new();
        let end = match &self.tls {
            None => {
                let mut stream = tcp;
                stream.write_all(request).await.unwrap();
                stream.read_to_end(&mut answer).await
            }
            Some(tls) => match tls.connect("localhost".try_into().unwrap(), tcp).await {
                // In TLS 1.3 a client is done before the server has looked at its certificate.
                Ok(mut stream) => {
                    // It may be cut off already.
                    let _ = stream.write_all(request).await;
                    stream.read_to_end(&mut answer).await
                }
                Err(error) => Err(error),
            },
        };
        match end {
            Err(error) if answer.is_empty() => error.to_string(),
            _ => String::from_utf8_lossy(&answer).into_owned(),
        }
    }

    /// The description that the node serves.
    async fn description(&self) -> Value {
        self.ask("GET", "/v1/openapi.json", b"").await.json()
    }
}

/// Checks every GET of a node that has a log and an append in it: each is answered well, and as described.
pub(crate) async fn gets_are_as_described(node: &Node, log: &str, address: &str) {
    check_gets(&Door::plain(node), log, address).await;
}

async fn check_gets(door: &Door, log: &str, address: &str) {
    let document = door.description().await;
    let mut count = 0;
    for operation in operations(&document).iter().filter(|operation| operation.method == "get") {
        let response = door.call(operation, &[("log", log), ("address", address)]).await;
        assert_eq!(response.status, 200, "{}: {response:?}", operation.path);
        operation.check(&document, &response);
        count += 1;
    }
    assert!(count >= 7, "{count} paths that can be got");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_answer_as_their_own_description_says() {
    // What is for admins takes TLS: at the primary. Without it they are told so: at the mirror.
    let options = PairOptions::default().both(LISTEN.0, LISTEN.1).primary("http.tls", true);
    let mut pair = Pair::start(options).await;
    let here = Door::with(pair.primary.node(), &pair.pki, "admin");
    let there = Door::plain(pair.mirror.node());
    let document = here.description().await;
    assert_eq!(document, there.description().await);
    let operations = operations(&document);
    let find = |method: &str, path: &str| {
        let found = operations.iter().find(|it| (it.method, it.path) == (method, path));
        found.unwrap_or_else(|| panic!("{method} {path} is not described"))
    };

    // By its examples, on a log and an append as they come.
    let (mut log, mut address) = (String::new(), String::new());
    for operation in operations.iter().filter(|operation| operation.method != "delete") {
        let response = here.call(operation, &[("log", &log), ("address", &address)]).await;
        let what = format!("{} {}", operation.method, operation.path);
        assert!(response.status < 300, "{what}: {response:?}");
        operation.check(&document, &response);
        match (operation.method, operation.path) {
            ("post", "/v1/logs") => log = response.json()["log"].to_string(),
            ("post", _) => response.json()["address"].as_str().unwrap().clone_into(&mut address),
            ("get", "/v1/logs/{log}/appends/{address}") => assert_eq!(response.body, b"one order"),
            _ => {}
        }
    }
    // The safety path has other stages at each level.
    let append = find("post", "/v1/logs/{log}/appends");
    for (id, level) in ["1", "2", "3"].into_iter().zip(Durability::ALL) {
        let instead = [("log", &*log), ("durability", level.name()), ("max_risk", "1"), ("request_id", id)];
        let response = here.call(append, &instead).await;
        assert_eq!(response.status, 201, "{level}: {response:?}");
        append.check(&document, &response);
    }

    // What is not there, and what is no number.
    for operation in operations.iter().filter(|operation| operation.path.contains("{log}")) {
        for (log, status) in [("7", 404), ("seven", 400)] {
            let response = here.call(operation, &[("log", log), ("address", &address)]).await;
            assert_eq!(response.status, status, "{} {}", operation.method, operation.path);
            operation.check(&document, &response);
        }
    }
    for operation in operations.iter().filter(|operation| operation.path.contains("{address}")) {
        for (address, status) in [("7:8", 404), ("here", 400)] {
            let response = here.call(operation, &[("log", &log), ("address", address)]).await;
            assert_eq!(response.status, status, "{} {}", operation.method, operation.path);
            operation.check(&document, &response);
        }
    }

    // A mirror shows all and changes nothing.
    pair.mirrored().await;
    for operation in &operations {
        let response = there.call(operation, &[("log", &log), ("address", &address)]).await;
        let expected = match (operation.method, operation.path) {
            ("get", _) => 200,
            // The name is taken, by the log that came over the link.
            ("post", "/v1/logs") => 400,
            (_, "/v1/link/code") => 403,
            _ => 501,
        };
        assert_eq!(response.status, expected, "{} {}: {response:?}", operation.method, operation.path);
        operation.check(&document, &response);
    }

    let free = find("delete", "/v1/logs/{log}/appends/{address}");
    let response = here.call(free, &[("log", &log), ("address", &address)]).await;
    assert_eq!(response.status, 204, "{response:?}");
    free.check(&document, &response);
    let response = here.call(find("get", free.path), &[("log", &log), ("address", &address)]).await;
    assert_eq!((response.status, response.error().0.as_str()), (404, "not-found"));

    // Without its mirror, and as a site that was promoted.
    let appended = here.call(append, &[("log", &log), ("request_id", "77")]).await.json();
    let address = appended["address"].as_str().unwrap();
    pair.mirror.stop();
    poll("the link is down", SOON, || async {
        let status = here.ask("GET", "/v1/status", b"").await.json();
        (status["logs"]["linked"] == false).then_some(())
    })
    .await;
    check_gets(&here, &log, address).await;
    pair.primary.stop();
    pair.mirror.start();
    let there = Door::plain(pair.mirror.node());
    pair.admin(At::Mirror).await.promote(false).await.unwrap();
    check_gets(&there, &log, address).await;
    let response = there.call(append, &[("log", &log), ("durability", "local"), ("request_id", "78")]).await;
    assert_eq!(response.status, 201, "{response:?}");
    append.check(&document, &response);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_only_who_may_gets_an_answer() {
    let options = PairOptions::default().primary(LISTEN.0, LISTEN.1).primary("http.tls", true);
    let mut pair = Pair::start(options).await;
    let pki = pair.pki.clone();
    let node = pair.primary.node();
    let door = |name: &str| Door::with(node, &pki, name);
    let code = br#"{"name": "reed-solomon", "parameters": "r=4 c=2"}"#;

    // The right role.
    let created = door("client").ask("POST", "/v1/logs", br#"{"name": "orders"}"#).await;
    assert_eq!(created.status, 201, "{created:?}");
    let appended = door("client").ask("POST", "/v1/logs/0/appends?durability=remote", b"an order").await;
    assert_eq!(appended.status, 201, "{appended:?}");
    let read = door("admin").ask("GET", appended.header("location").unwrap(), b"").await;
    assert_eq!((read.status, read.body.as_slice()), (200, &b"an order"[..]));
    let changed = door("admin").ask("PUT", "/v1/link/code", code).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert!(changed.json()["code"].as_str().unwrap().starts_with("reed-solomon"), "{changed:?}");

    // The wrong one: a client is no admin, and the other site's node neither.
    let refused = |response: &Response, words: &[&str]| {
        let (kind, message) = response.error();
        assert_eq!((response.status, kind.as_str()), (403, "forbidden"), "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    refused(&door("client").ask("PUT", "/v1/link/code", code).await, &["the role client", "takes admin"]);
    for (method, path) in [("GET", "/v1/logs"), ("POST", "/v1/logs/0/appends"), ("GET", "/metrics")] {
        let response = door("node-2").ask(method, path, b"").await;
        refused(&response, &["the role", "storage", "takes client or admin"]);
    }

    // No certificate, one of somebody else's authority, and no TLS at all: nothing comes in.
    let refusal = Door::without_certificate(node, &pki).refusal().await;
    assert!(refusal.contains("CertificateRequired"), "{refusal:?}");
    let strange = pki.with_file_name("strange");
    let _ = Tool::new([Path::new("pki"), Path::new("init"), &strange]).run().done();
    std::fs::copy(pki.join("ca.pem"), strange.join("ca.pem")).unwrap();
    let refusal = Door::with(node, &strange, "admin").refusal().await;
    assert!(refusal.contains("UnknownCA") || refusal.contains("DecryptError"), "{refusal:?}");
    let refusal = Door::plain(node).refusal().await;
    assert!(!refusal.contains("HTTP/"), "{refusal:?}");
    assert_eq!(door("client").ask("GET", "/v1/logs/0", b"").await.json()["records"], 2);
}

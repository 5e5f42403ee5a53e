//! Walks `openapi.json` against the running server: every path and method answers as described, with its
//! examples as input, and nothing is served that is not described.

mod description;
#[path = "../../gate/tests/memory/mod.rs"]
mod memory;
mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;

use description::{operations, text};
use memory::MemorySite;
use parhelion_gate::Identity;
use parhelion_gate::pki::{self, InitOptions};
use parhelion_gate::tls::SERVER_NAME;
use parhelion_http::{HttpConfig, HttpServer, OPENAPI, routes};
use serde_json::Value;
use tokio::net::TcpStream;

/// A server over TLS, and an admin who asks: some of what is described takes that.
struct Described {
    server: HttpServer,
    tls: tokio_rustls::TlsConnector,
}

fn start() -> Described {
    let pki = tempfile::tempdir().unwrap();
    pki::init(pki.path(), &InitOptions::default()).unwrap();
    let identity = |name: &str| Identity::load_from(pki.path(), name).unwrap();
    let mut config = HttpConfig::new("127.0.0.1:0".parse().unwrap());
    config.workers = 1;
    config.tls = Some(identity("node-1").server_config(&[]).unwrap());
    let server = HttpServer::start(config, MemorySite::new(), Arc::new(|| "# EOF\n".to_owned())).unwrap();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(identity("admin").client_config(&[]).unwrap()));
    Described { server, tls }
}

impl Described {
    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.server.local_address()).await.unwrap();
        self.tls.connect(SERVER_NAME.try_into().unwrap(), tcp).await.unwrap()
    }
}

#[test]
fn what_is_served_is_described_and_the_reverse() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let operations = operations(&document);
    let described: BTreeSet<_> =
        operations.iter().map(|it| (it.method.to_uppercase(), it.path.to_owned())).collect();
    let served: BTreeSet<_> = routes().map(|(method, path)| (method.to_owned(), path.to_owned())).collect();
    assert_eq!(described, served);
    let ids: BTreeSet<_> = operations.iter().map(|it| it.value["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), served.len());
    for operation in &operations {
        let named: BTreeSet<_> =
            operation.parameters.iter().filter(|it| it["in"] == "path").map(|it| text(&it["name"])).collect();
        let in_path: BTreeSet<_> = operation
            .path
            .split('/')
            .filter_map(|part| Some(part.strip_prefix('{')?.strip_suffix('}')?.to_owned()))
            .collect();
        assert_eq!(named, in_path, "{}", operation.path);
    }
}

#[actix_web::test]
async fn every_example_is_answered_as_described() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let server = start();
    for operation in operations(&document) {
        let response = operation.call(server.connect().await, &[]).await;
        assert!(response.status < 300, "{} {}: {response:?}", operation.method, operation.path);
        operation.check(&document, &response);
    }
}

#[actix_web::test]
async fn errors_are_answered_as_described() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let server = start();
    for operation in operations(&document).iter().filter(|it| it.path.contains("{log}")) {
        for (log, status) in [("7", 404), ("seven", 400)] {
            let response = operation.call(server.connect().await, &[("log", log)]).await;
            assert_eq!(response.status, status, "{} {}", operation.method, operation.path);
            operation.check(&document, &response);
        }
    }
}

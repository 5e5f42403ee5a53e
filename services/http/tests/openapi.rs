//! Walks `openapi.json` against the running server: every path and method answers as described, with its
//! examples as input, and nothing is served that is not described.

#[path = "../../gate/tests/memory/mod.rs"]
mod memory;
mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;

use memory::MemorySite;
use parhelion_gate::Identity;
use parhelion_gate::pki::{self, InitOptions};
use parhelion_gate::tls::SERVER_NAME;
use parhelion_http::{HttpConfig, HttpServer, OPENAPI, routes};
use serde_json::{Map, Value};
use tokio::net::TcpStream;
use wire::{Response, send};

/// In this order, so that what is read was written and is freed last.
const METHODS: [&str; 4] = ["post", "put", "get", "delete"];

struct Operation<'a> {
    method: &'static str,
    path: &'a str,
    value: &'a Value,
    parameters: Vec<&'a Value>,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document["paths"].as_object().unwrap();
    let mut all = Vec::new();
    for method in METHODS {
        // Shorter paths first: a log is created before it is written.
        let mut paths: Vec<_> = paths.iter().filter(|(_, item)| item.get(method).is_some()).collect();
        paths.sort_by_key(|(path, _)| path.len());
        for (path, item) in paths {
            let value = &item[method];
            let lists = [item.get("parameters"), value.get("parameters")];
            let parameters = lists.into_iter().flatten().flat_map(|list| list.as_array().unwrap()).collect();
            all.push(Operation { method, path, value, parameters });
        }
    }
    all
}

impl Operation<'_> {
    /// The request made of the description's examples.
    async fn call(&self, to: &Described, log: Option<&str>) -> Response {
        let (mut path, mut query, mut headers) = (self.path.to_owned(), Vec::new(), Vec::new());
        for parameter in &self.parameters {
            let name = parameter["name"].as_str().unwrap();
            let Some(example) = parameter.get("example").map(text) else { continue };
            match parameter["in"].as_str().unwrap() {
                "path" => {
                    let value = log.filter(|_| name == "log").unwrap_or(&example).to_owned();
                    path = path.replace(&format!("{{{name}}}"), &value);
                }
                "query" => query.push(format!("{name}={example}")),
                "header" => headers.push((name, example)),
                place => panic!("parameter {name} in {place}"),
            }
        }
        if !query.is_empty() {
            path += &format!("?{}", query.join("&"));
        }
        let content = self.value.pointer("/requestBody/content").and_then(Value::as_object);
        let body = content.and_then(|content| content.values().next()).map(|media| text(&media["example"]));
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let stream = to.connect().await;
        let method = self.method.to_uppercase();
        send(stream, &method, &path, &headers, body.unwrap_or_default().as_bytes()).await
    }

    /// Checks a response against the description of its status.
    fn check(&self, document: &Value, response: &Response) {
        let what = format!("{} {} {}", self.method, self.path, response.status);
        let described = &self.value["responses"][response.status.to_string()];
        assert!(
            described.is_object(),
            "{what} is not described: {}",
            String::from_utf8_lossy(&response.body)
        );
        for (name, header) in described.get("headers").and_then(Value::as_object).unwrap_or(&Map::new()) {
            let value = response.header(name).unwrap_or_else(|| panic!("{what}: no header {name}"));
            let value =
                serde_json::from_str(value).ok().filter(Value::is_number).unwrap_or_else(|| value.into());
            if header["schema"]["type"] != "string" {
                validate(document, &header["schema"], &value, &format!("{what} {name}"));
            }
        }
        let Some(content) = described.get("content").and_then(Value::as_object) else {
            assert!(response.body.is_empty(), "{what}: a body that is not described");
            return;
        };
        let kind = response.header("content-type").unwrap_or_else(|| panic!("{what}: no content type"));
        let kind = kind.split(';').next().unwrap();
        let media = content.get(kind).unwrap_or_else(|| panic!("{what}: {kind} is not described"));
        if kind == "application/json" {
            validate(document, &media["schema"], &response.json(), &what);
        }
    }
}

fn text(example: &Value) -> String {
    example.as_str().map_or_else(|| example.to_string(), str::to_owned)
}

/// The part of JSON Schema that the description uses. Properties that are not described are errors.
fn validate(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = document.pointer(reference.trim_start_matches('#'));
        return validate(document, target.unwrap_or_else(|| panic!("{reference} leads nowhere")), value, at);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    let fits = |name: &&str| match *name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{at}: type {other}"),
    };
    assert!(types.iter().any(fits), "{at}: {value} is no {types:?}");
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
        assert!(allowed.contains(value), "{at}: {value} is none of {allowed:?}");
    }
    let number = value.as_f64().unwrap_or_default();
    assert!(schema["minimum"].as_f64().is_none_or(|min| number >= min), "{at}: {value} is too small");
    assert!(schema["maximum"].as_f64().is_none_or(|max| number <= max), "{at}: {value} is too large");
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        assert!(value.get(name.as_str().unwrap()).is_some(), "{at}: {name} is missing in {value}");
    }
    if let (Some(properties), Some(fields)) = (schema.get("properties"), value.as_object()) {
        for (name, field) in fields {
            let property = properties.get(name).unwrap_or_else(|| panic!("{at}: {name} is not described"));
            validate(document, property, field, &format!("{at}.{name}"));
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        validate(document, &schema["items"], item, &format!("{at}[{index}]"));
    }
}

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
        let response = operation.call(&server, None).await;
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
            let response = operation.call(&server, Some(log)).await;
            assert_eq!(response.status, status, "{} {}", operation.method, operation.path);
            operation.check(&document, &response);
        }
    }
}

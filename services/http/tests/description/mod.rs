//! What a description in OpenAPI says of each operation, how to call it by its examples, and whether an answer is as
//! described. The front end's tests use it on a site in memory, the end-to-end tests on real nodes.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};

use super::wire::{Response, send};

/// In this order, so that what is read was written and is freed last.
const METHODS: [&str; 4] = ["post", "put", "get", "delete"];

/// One method of one path.
pub struct Operation<'a> {
    pub method: &'static str,
    pub path: &'a str,
    pub value: &'a Value,
    pub parameters: Vec<&'a Value>,
}

/// All operations of a description.
pub fn operations(document: &Value) -> Vec<Operation<'_>> {
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
    /// The request made of the description's examples. `instead` names parameters with other values than these.
    pub async fn call(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        instead: &[(&str, &str)],
    ) -> Response {
        let (mut path, mut query, mut headers) = (self.path.to_owned(), Vec::new(), Vec::new());
        for parameter in &self.parameters {
            let name = parameter["name"].as_str().unwrap();
            let other = instead.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            let Some(value) = other.or_else(|| parameter.get("example").map(text)) else { continue };
            match parameter["in"].as_str().unwrap() {
                "path" => path = path.replace(&format!("{{{name}}}"), &value),
                "query" => query.push(format!("{name}={value}")),
                "header" => headers.push((name, value)),
                place => panic!("parameter {name} in {place}"),
            }
        }
        if !query.is_empty() {
            path += &format!("?{}", query.join("&"));
        }
        let content = self.value.pointer("/requestBody/content").and_then(Value::as_object);
        let body = content.and_then(|content| content.values().next()).map(|media| text(&media["example"]));
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let method = self.method.to_uppercase();
        send(stream, &method, &path, &headers, body.unwrap_or_default().as_bytes()).await
    }

    /// Checks a response against the description of its status.
    pub fn check(&self, document: &Value, response: &Response) {
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

/// An example as it stands in a path, a header or a body.
pub fn text(example: &Value) -> String {
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

//! An OTLP/HTTP collector that keeps what it receives.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;

/// Receives traces on a port of its own until the test ends.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<SeenSpan>>>,
}

/// A span, as far as tests look at it.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenSpan {
    /// Its name.
    pub name: String,
    /// The site of the process that sent it.
    pub site: Option<i64>,
    /// The trace.
    pub trace: Vec<u8>,
    /// Its own id.
    pub span: Vec<u8>,
    /// The id of its parent; empty if it has none.
    pub parent: Vec<u8>,
    /// Nanoseconds since the epoch, start and end.
    pub times: (u64, u64),
    /// Names of its events.
    pub events: Vec<String>,
    /// Attributes that are text or numbers.
    pub attributes: BTreeMap<String, String>,
}

/// More than any batch of the exporter.
const BODY_BYTES_MAX: usize = 16 << 20;
/// An exporter that keeps its connection open and silent for longer may connect again.
const SILENCE_MAX: Duration = Duration::from_secs(60);

impl Collector {
    /// Listens.
    ///
    /// # Panics
    /// No port is free.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let spans = Arc::new(Mutex::new(Vec::new()));
        let kept = spans.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || serve(&connection, &kept));
            }
        });
        Self { address, spans }
    }

    /// The address of a collector that is gone.
    ///
    /// # Panics
    /// No port is free.
    #[must_use]
    pub fn closed() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("http://{}", listener.local_addr().expect("it is bound"))
    }

    /// What to give as `telemetry.otlp`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans that came so far.
    #[must_use]
    pub fn spans(&self) -> Vec<SeenSpan> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers requests until the peer closes the connection.
fn serve(connection: &TcpStream, kept: &Mutex<Vec<SeenSpan>>) {
    let _ = connection.set_read_timeout(Some(SILENCE_MAX));
    let mut reader = BufReader::new(connection);
    while let Some((path, body)) = read_request(&mut reader) {
        if path == "/v1/traces" {
            let request = ExportTraceServiceRequest::decode(body.as_slice()).expect("traces are protobuf");
            kept.lock().unwrap_or_else(PoisonError::into_inner).extend(spans_of(&request));
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        let mut writer = connection;
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The path and the body of the next request.
fn read_request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&bytes| bytes > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|&bytes| bytes > 0)?;
        if header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
    assert!(length <= BODY_BYTES_MAX, "{length} bytes in one export");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, body))
}

fn spans_of(request: &ExportTraceServiceRequest) -> Vec<SeenSpan> {
    let mut seen = Vec::new();
    for resource in &request.resource_spans {
        let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
        let site = attributes.filter(|attribute| attribute.key == "parhelion.site").find_map(|attribute| {
            match attribute.value.as_ref()?.value {
                Some(Value::IntValue(site)) => Some(site),
                _ => None,
            }
        });
        for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
            seen.push(SeenSpan {
                name: span.name.clone(),
                site,
                trace: span.trace_id.clone(),
                span: span.span_id.clone(),
                parent: span.parent_span_id.clone(),
                times: (span.start_time_unix_nano, span.end_time_unix_nano),
                events: span.events.iter().map(|event| event.name.clone()).collect(),
                attributes: span
                    .attributes
                    .iter()
                    .filter_map(|a| Some((a.key.clone(), text_of(a.value.as_ref()?.value.as_ref()?)?)))
                    .collect(),
            });
        }
    }
    seen
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::StringValue(text) => Some(text.clone()),
        Value::BoolValue(flag) => Some(flag.to_string()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::DoubleValue(number) => Some(number.to_string()),
        _ => None,
    }
}

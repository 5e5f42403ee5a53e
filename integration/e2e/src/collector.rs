//! A collector of traces, and what it keeps of a span.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

/// An OTLP receiver that runs as a process of its own until it is dropped, and the spans that it has told of.
#[derive(Debug)]
pub struct Collector {
    process: Child,
    address: SocketAddr,
    spans: Arc<Mutex<Vec<SeenSpan>>>,
}

/// A span, as far as tests look at it. The receiver writes it as one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// What the receiver says first.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ready {
    listening: SocketAddr,
}

impl Collector {
    /// Starts `receiver`, the program `otlp-receiver` of this crate, on a port of its own.
    ///
    /// Call it from the test's own thread: the kernel kills the receiver when the thread that started it ends.
    ///
    /// # Panics
    /// It does not say where it listens.
    #[must_use]
    pub fn start(receiver: &Path) -> Self {
        let mut command = Command::new(receiver);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // SAFETY: between fork and exec only one system call is made, prctl, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut process = command.spawn().expect("the receiver starts");
        let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let first = lines.next().expect("the receiver says where it listens").expect("a pipe can be read");
        let Ready { listening } = serde_json::from_str(&first).expect("an address");
        let spans = Arc::new(Mutex::new(Vec::new()));
        let kept = spans.clone();
        std::thread::spawn(move || {
            for line in lines {
                let Ok(line) = line else { return };
                let span = serde_json::from_str(&line).expect("the receiver writes spans");
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(span);
            }
        });
        Self { process, address: listening, spans }
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

impl Drop for Collector {
    fn drop(&mut self) {
        // Both fail only if it has gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl SeenSpan {
    /// The spans of an export.
    #[must_use]
    pub fn all_of(export: &ExportTraceServiceRequest) -> Vec<Self> {
        let mut seen = Vec::new();
        for resource in &export.resource_spans {
            let site = resource.resource.iter().flat_map(|resource| &resource.attributes).find_map(site_of);
            for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                seen.push(Self {
                    name: span.name.clone(),
                    site,
                    trace: span.trace_id.clone(),
                    span: span.span_id.clone(),
                    parent: span.parent_span_id.clone(),
                    times: (span.start_time_unix_nano, span.end_time_unix_nano),
                    events: span.events.iter().map(|event| event.name.clone()).collect(),
                    attributes: span.attributes.iter().filter_map(text_of).collect(),
                });
            }
        }
        seen
    }
}

fn site_of(attribute: &KeyValue) -> Option<i64> {
    match attribute.value.as_ref()?.value {
        Some(Value::IntValue(site)) if attribute.key == "parhelion.site" => Some(site),
        _ => None,
    }
}

fn text_of(attribute: &KeyValue) -> Option<(String, String)> {
    let text = match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(flag) => flag.to_string(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        _ => return None,
    };
    Some((attribute.key.clone(), text))
}

//! A collector of traces and metrics, and what it keeps of them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, metric::Data, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

/// An OTLP receiver that runs as a process of its own until it is dropped, and what it has told of.
#[derive(Debug)]
pub struct Collector {
    process: Child,
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// What the receiver writes as one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Of a POST to `/v1/traces`.
    Span(SeenSpan),
    /// Of a POST to `/v1/metrics`.
    Metric(SeenMetric),
}

/// A span, as far as tests look at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenSpan {
    /// Its name.
    pub name: String,
    /// The site of the process that sent it.
    pub site: Option<i64>,
    /// The node of the process that sent it.
    pub node: Option<i64>,
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

/// A metric in one export of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenMetric {
    /// Its name.
    pub name: String,
    /// The site of the process that sent it.
    pub site: Option<i64>,
    /// Sum of its data points; of a histogram, how many values it has. Exports are cumulative.
    pub total: f64,
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
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        std::thread::spawn(move || {
            for line in lines {
                let Ok(line) = line else { return };
                let one = serde_json::from_str(&line).expect("the receiver writes spans and metrics");
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(one);
            }
        });
        Self { process, address: listening, seen }
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
        self.all(|seen| if let Seen::Span(span) = seen { Some(span) } else { None })
    }

    /// The metrics of all exports that came so far.
    #[must_use]
    pub fn metrics(&self) -> Vec<SeenMetric> {
        self.all(|seen| if let Seen::Metric(metric) = seen { Some(metric) } else { None })
    }

    fn all<T: Clone>(&self, of: impl Fn(&Seen) -> Option<&T>) -> Vec<T> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(of).cloned().collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // Both fail only if it has gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Seen {
    /// The spans of an export.
    #[must_use]
    pub fn spans(export: &ExportTraceServiceRequest) -> Vec<Self> {
        let mut seen = Vec::new();
        for resource in &export.resource_spans {
            for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                seen.push(Self::Span(SeenSpan {
                    name: span.name.clone(),
                    site: number(resource.resource.as_ref(), SITE),
                    node: number(resource.resource.as_ref(), NODE),
                    trace: span.trace_id.clone(),
                    span: span.span_id.clone(),
                    parent: span.parent_span_id.clone(),
                    times: (span.start_time_unix_nano, span.end_time_unix_nano),
                    events: span.events.iter().map(|event| event.name.clone()).collect(),
                    attributes: span.attributes.iter().filter_map(text_of).collect(),
                }));
            }
        }
        seen
    }

    /// The metrics of an export.
    #[must_use]
    pub fn metrics(export: &ExportMetricsServiceRequest) -> Vec<Self> {
        let mut seen = Vec::new();
        for resource in &export.resource_metrics {
            for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                let total = match &metric.data {
                    Some(Data::Sum(sum)) => sum.data_points.iter().map(value_of).sum(),
                    Some(Data::Gauge(gauge)) => gauge.data_points.iter().map(value_of).sum(),
                    Some(Data::Histogram(histogram)) => {
                        histogram.data_points.iter().map(|point| point.count as f64).sum()
                    }
                    // No kind that nodes declare: without it the name is not seen.
                    _ => continue,
                };
                let site = number(resource.resource.as_ref(), SITE);
                seen.push(Self::Metric(SeenMetric { name: metric.name.clone(), site, total }));
            }
        }
        seen
    }
}

const SITE: &str = "parhelion.site";
const NODE: &str = "parhelion.node";

/// An attribute of the process that sent an export.
fn number(resource: Option<&Resource>, key: &str) -> Option<i64> {
    let attribute = resource?.attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.as_ref()?.value {
        Some(Value::IntValue(number)) => Some(number),
        _ => None,
    }
}

fn value_of(point: &NumberDataPoint) -> f64 {
    match point.value {
        Some(number_data_point::Value::AsDouble(value)) => value,
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        None => 0.0,
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

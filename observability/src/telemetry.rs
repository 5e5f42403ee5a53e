//! Installs logs, traces and metric export for a process, once.

use std::io::IsTerminal;
use std::sync::mpsc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};
use parhelion_types::{NodeId, SiteId};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::metrics::Metrics;
use crate::trace::AppendTracer;

/// What to observe and where to send it.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// Name of the service, `parhelion` unless several share a collector.
    pub service: String,
    /// The site, an attribute of all that is exported.
    pub site: SiteId,
    /// The node, an attribute of all that is exported.
    pub node: NodeId,
    /// Which log lines are written: `warn`, or `info,parhelion_link=debug`.
    pub log_filter: String,
    /// Log lines as JSON objects instead of text.
    pub json: bool,
    /// Base address of an OTLP/HTTP collector, such as `http://127.0.0.1:4318`; none exports nothing.
    pub otlp_endpoint: Option<String>,
    /// Share of appends that are traced when the client does not decide, from 0 to 1.
    pub sample_ratio: f64,
}

/// Why telemetry could not be installed or flushed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter does not parse.
    #[error(
        "telemetry.log {filter:?} is no log filter ({reason}); write a level such as \"warn\", or \"info,parhelion_link=debug\""
    )]
    LogFilter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The endpoint is not one that can be exported to.
    #[error(
        "telemetry.otlp {0:?} is not usable; write http://HOST:PORT of an OTLP/HTTP collector, without TLS"
    )]
    Endpoint(String),
    /// The ratio is not one.
    #[error("telemetry.sample {0} is no share; write a number from 0 to 1")]
    SampleRatio(f64),
    /// An exporter could not be built.
    #[error("the OTLP exporter could not be built ({0}); check telemetry.otlp")]
    Exporter(#[from] ExporterBuildError),
    /// A subscriber is there already.
    #[error("telemetry was installed twice in one process ({0}); install it once, at the start")]
    Installed(String),
    /// Not everything reached the collector.
    #[error(
        "telemetry was not delivered completely ({0}); check that the collector of telemetry.otlp answers"
    )]
    Undelivered(String),
}

/// The installed telemetry of this process. Keep it until the end, then call [`Telemetry::shutdown`].
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    tracer: AppendTracer,
    export: Option<Export>,
}

impl Telemetry {
    /// Sends log lines to standard error and, with an endpoint, spans and metrics to a collector.
    ///
    /// A collector that is absent, slow or broken costs log lines about it and nothing else: exports run
    /// on threads of their own with bounded queues. Spans of `tracing` go out as well as append traces.
    ///
    /// # Errors
    /// The filter, endpoint or ratio is wrong, or telemetry was installed before.
    pub fn install(config: TelemetryConfig) -> Result<Self, TelemetryError> {
        let filter = log_filter(&config.log_filter)?;
        let export = Export::build(&config)?;
        let lines: Box<dyn Layer<Registry> + Send + Sync> = if config.json {
            tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).with_filter(filter).boxed()
        } else {
            tracing_subscriber::fmt::layer()
                .with_ansi(std::io::stderr().is_terminal())
                .with_writer(std::io::stderr)
                .with_filter(filter)
                .boxed()
        };
        let spans = export.as_ref().map(|export| {
            tracing_opentelemetry::layer().with_tracer(export.tracer()).with_filter(exported_targets())
        });
        tracing_subscriber::registry()
            .with(lines)
            .with(spans)
            .try_init()
            .map_err(|reason| TelemetryError::Installed(reason.to_string()))?;
        Ok(Self::from_export(export))
    }

    /// Telemetry that writes no log lines and exports nothing, for tests and tools.
    #[must_use]
    pub fn disabled() -> Self {
        Self::from_export(None)
    }

    /// The node's figures.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Draws append traces; one that does nothing when there is no collector.
    #[must_use]
    pub fn tracer(&self) -> &AppendTracer {
        &self.tracer
    }

    /// Sends what is queued. Blocks for `limit` at most: call it off the runtime.
    ///
    /// # Errors
    /// The collector did not take everything in time. Nothing else is affected.
    pub fn flush(&self, limit: Duration) -> Result<(), TelemetryError> {
        let Some(export) = self.export.clone() else { return Ok(()) };
        bounded(limit, move || {
            let spans = export.spans.force_flush();
            let metrics = export.metrics.force_flush();
            outcome([spans, metrics])
        })
    }

    /// Sends what is queued and ends the export. Blocks for `limit` at most: call it off the runtime.
    ///
    /// # Errors
    /// The collector did not take everything in time. What was not sent is dropped.
    pub fn shutdown(self, limit: Duration) -> Result<(), TelemetryError> {
        let Some(export) = self.export else { return Ok(()) };
        bounded(limit, move || {
            let spans = export.spans.shutdown_with_timeout(limit);
            let metrics = export.metrics.shutdown_with_timeout(limit);
            outcome([spans, metrics])
        })
    }

    fn from_export(export: Option<Export>) -> Self {
        let meter = export.as_ref().map(|export| export.metrics.meter(INSTRUMENTATION));
        let tracer = export.as_ref().map(Export::tracer);
        Self { metrics: Metrics::with_meter(meter), tracer: AppendTracer::new(tracer), export }
    }
}

const INSTRUMENTATION: &str = "parhelion";

/// One attempt to export takes this long at most; the queue waits meanwhile and then drops spans.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
const METRICS_INTERVAL: Duration = Duration::from_secs(10);
const SPANS_DELAY: Duration = Duration::from_secs(1);
/// Finished spans that wait for export; the next ones are dropped. About 1 KiB each.
const SPANS_QUEUED_MAX: usize = 16_384;
const SPANS_BATCH_MAX: usize = 1024;

/// Crates below the exporter: exporting their spans would make work out of that very export.
const EXPORTER_TARGETS: [&str; 6] =
    ["h2", "hyper", "hyper_util", "opentelemetry", "opentelemetry_sdk", "reqwest"];

#[derive(Clone, Debug)]
struct Export {
    spans: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

impl TelemetryConfig {
    /// Checks what [`Telemetry::install`] would refuse, and installs nothing.
    ///
    /// # Errors
    /// The filter, endpoint or ratio is wrong.
    pub fn check(&self) -> Result<(), TelemetryError> {
        log_filter(&self.log_filter)?;
        self.collector().map(drop)
    }

    /// The collector's address, if there is one.
    fn collector(&self) -> Result<Option<&str>, TelemetryError> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(TelemetryError::SampleRatio(self.sample_ratio));
        }
        let Some(endpoint) = &self.otlp_endpoint else { return Ok(None) };
        // The HTTP client is built without TLS; a collector runs beside the node or behind its own proxy.
        let base = endpoint.trim_end_matches('/');
        if base.strip_prefix("http://").is_none_or(str::is_empty) {
            return Err(TelemetryError::Endpoint(endpoint.clone()));
        }
        Ok(Some(base))
    }
}

impl Export {
    fn build(config: &TelemetryConfig) -> Result<Option<Self>, TelemetryError> {
        let Some(base) = config.collector()? else { return Ok(None) };
        let resource = Resource::builder()
            .with_service_name(config.service.clone())
            .with_attribute(KeyValue::new("parhelion.site", i64::from(config.site.0)))
            .with_attribute(KeyValue::new("parhelion.node", i64::from(config.node.0)))
            .build();

        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("{base}/v1/traces"))
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(SPANS_QUEUED_MAX)
            .with_max_export_batch_size(SPANS_BATCH_MAX)
            .with_scheduled_delay(SPANS_DELAY)
            .build();
        let spans = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio))))
            .with_resource(resource.clone())
            .build();

        let exporter = MetricExporter::builder()
            .with_http()
            .with_endpoint(format!("{base}/v1/metrics"))
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let metrics = SdkMeterProvider::builder()
            .with_reader(PeriodicReader::builder(exporter).with_interval(METRICS_INTERVAL).build())
            .with_resource(resource)
            .build();
        Ok(Some(Self { spans, metrics }))
    }

    fn tracer(&self) -> SdkTracer {
        self.spans.tracer(INSTRUMENTATION)
    }
}

fn log_filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    let mut filter = EnvFilter::try_new(text)
        .map_err(|error| TelemetryError::LogFilter { filter: text.to_owned(), reason: error.to_string() })?;
    for target in EXPORTER_TARGETS {
        // At debug level the exporter logs each request; who wants that names the target.
        if !text.contains(target) {
            let quiet = format!("{target}=warn");
            filter = filter.add_directive(quiet.parse().map_err(|_| TelemetryError::LogFilter {
                filter: quiet.clone(),
                reason: "built-in directive".to_owned(),
            })?);
        }
    }
    Ok(filter)
}

fn exported_targets() -> Targets {
    Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(EXPORTER_TARGETS.map(|target| (target, LevelFilter::OFF)))
}

/// Runs `work` on a thread of its own and waits for `limit` at most: the exporter's blocking client must
/// neither run nor be dropped inside an async runtime, and a dead collector must not hold the process.
fn bounded(
    limit: Duration,
    work: impl FnOnce() -> Result<(), TelemetryError> + Send + 'static,
) -> Result<(), TelemetryError> {
    let (done, result) = mpsc::channel();
    std::thread::Builder::new()
        .name("telemetry-flush".to_owned())
        .spawn(move || {
            // The receiver is gone only when the limit has passed.
            let _ = done.send(work());
        })
        .map_err(|error| TelemetryError::Undelivered(format!("no thread to send from: {error}")))?;
    result
        .recv_timeout(limit)
        .unwrap_or_else(|_| Err(TelemetryError::Undelivered(format!("not finished after {limit:?}"))))
}

fn outcome(results: [OTelSdkResult; 2]) -> Result<(), TelemetryError> {
    let reasons: Vec<String> =
        results.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    if reasons.is_empty() { Ok(()) } else { Err(TelemetryError::Undelivered(reasons.join("; "))) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Instant, SystemTime};

    use parhelion_types::{Durability, Risk, TraceContext};

    use super::*;
    use crate::trace::AppendTrace;

    fn config(endpoint: Option<String>) -> TelemetryConfig {
        TelemetryConfig {
            service: "parhelion-test".to_owned(),
            site: SiteId(3),
            node: NodeId(4),
            log_filter: "warn".to_owned(),
            json: false,
            otlp_endpoint: endpoint,
            sample_ratio: 1.0,
        }
    }

    fn exporting(endpoint: String) -> Telemetry {
        Telemetry::from_export(Export::build(&config(Some(endpoint))).unwrap())
    }

    fn record(telemetry: &Telemetry) {
        let now = SystemTime::now();
        let mut trace: AppendTrace = telemetry.tracer().append(TraceContext::default(), now);
        trace.acknowledged(now, Durability::Local, false, Risk::CERTAIN);
        telemetry.metrics().fsync.observe(0.001);
    }

    /// Reads one HTTP/1.1 request with a content length and answers 200.
    fn serve(mut stream: TcpStream) -> Vec<u8> {
        let mut request = Vec::new();
        let mut buffer = [0; 65536];
        loop {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the request ended early");
            request.extend_from_slice(&buffer[..read]);
            let Some(head_end) = request.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&request[..head_end]).to_lowercase();
            let (_, rest) = head.split_once("content-length: ").unwrap();
            let length: usize = rest.lines().next().unwrap().trim().parse().unwrap();
            if request.len() >= head_end + 4 + length {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .unwrap();
                return request;
            }
        }
    }

    fn contains(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    #[test]
    fn spans_and_metrics_reach_a_collector() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let collector = std::thread::spawn(move || {
            let mut bodies = Vec::new();
            while bodies.len() < 2 {
                bodies.push(serve(listener.accept().unwrap().0));
            }
            bodies
        });
        let telemetry = exporting(format!("http://{address}/"));
        record(&telemetry);
        telemetry.flush(Duration::from_secs(10)).unwrap();
        let bodies = collector.join().unwrap();
        let spans =
            bodies.iter().find(|body| body.starts_with(b"POST /v1/traces ")).expect("no spans were posted");
        for text in ["append.ack", "parhelion-test", "parhelion.site"] {
            assert!(contains(spans, text), "the posted spans lack {text}");
        }
        let metrics = bodies.iter().find(|body| body.starts_with(b"POST /v1/metrics ")).expect("no metrics");
        for text in ["parhelion_fsync_seconds", "parhelion_appends", "parhelion_lag_bytes"] {
            assert!(contains(metrics, text), "the posted metrics lack {text}");
        }
    }

    #[test]
    fn a_dead_collector_costs_bounded_time() {
        // A listener that never accepts: connections open and nothing answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let telemetry = exporting(format!("http://{}", listener.local_addr().unwrap()));
        record(&telemetry);
        let start = Instant::now();
        let error = telemetry.shutdown(Duration::from_millis(300)).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(2), "shutdown took {:?}", start.elapsed());
        assert!(error.to_string().contains("telemetry.otlp"));
    }

    #[test]
    fn wrong_settings_are_named() {
        let error = Export::build(&config(Some("https://collector:4318".to_owned()))).unwrap_err();
        assert!(error.to_string().starts_with("telemetry.otlp \"https://collector:4318\""), "{error}");
        assert!(error.to_string().contains("without TLS"), "{error}");
        assert!(Export::build(&config(Some("collector:4318".to_owned()))).is_err());
        for ratio in [-0.1, 1.1, f64::NAN] {
            let error = Export::build(&TelemetryConfig { sample_ratio: ratio, ..config(None) }).unwrap_err();
            assert!(matches!(error, TelemetryError::SampleRatio(_)));
        }
        let error = log_filter("parhelion=loud").unwrap_err();
        assert!(error.to_string().contains("parhelion=loud"), "{error}");
    }

    #[test]
    fn installing_twice_is_an_error_and_no_collector_is_none_needed() {
        let first = Telemetry::install(config(None)).unwrap();
        assert!(matches!(Telemetry::install(config(None)), Err(TelemetryError::Installed(_))));
        record(&first);
        first.flush(Duration::from_millis(1)).unwrap();
        first.shutdown(Duration::from_millis(1)).unwrap();
    }
}

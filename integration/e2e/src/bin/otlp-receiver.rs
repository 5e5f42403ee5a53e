//! An OTLP/HTTP receiver as a process of its own: it takes the traces and metrics that nodes export, and writes each span
//! and each metric as a line of JSON to standard output, in the form of [`Seen`]. The first line says where it listens:
//! `{"listening": "..."}`.
//!
//! It speaks what a collector speaks: `POST /v1/traces` and `POST /v1/metrics` with a protobuf body (OTLP 1.x, section
//! "OTLP/HTTP"). A body that is none is refused with status 400, which the exporter reports. Nodes export no logs, so
//! nothing takes them.

use std::io::{self, Write};
use std::sync::Mutex;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use parhelion_e2e::Seen;
use prost::Message;

const PROTOBUF: &str = "application/x-protobuf";
/// More than any batch of the exporter.
const BODY_BYTES_MAX: usize = 16 << 20;

#[actix_web::main]
async fn main() -> io::Result<()> {
    let server = HttpServer::new(|| {
        App::new()
            .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
            .route("/v1/traces", web::post().to(traces))
            .route("/v1/metrics", web::post().to(metrics))
    });
    let server = server.workers(1).bind(("127.0.0.1", 0))?;
    let address = server.addrs().first().copied().ok_or(io::ErrorKind::AddrNotAvailable)?;
    say(&[serde_json::json!({ "listening": address }).to_string()])?;
    server.run().await
}

async fn traces(request: HttpRequest, body: web::Bytes) -> HttpResponse {
    receive(&request, body, Seen::spans, &ExportTraceServiceResponse::default())
}

async fn metrics(request: HttpRequest, body: web::Bytes) -> HttpResponse {
    receive(&request, body, Seen::metrics, &ExportMetricsServiceResponse::default())
}

/// Takes an export, writes what is `seen` in it, and answers with `done`.
fn receive<Export: Message + Default>(
    request: &HttpRequest,
    body: web::Bytes,
    seen: impl Fn(&Export) -> Vec<Seen>,
    done: &impl Message,
) -> HttpResponse {
    if request.headers().get(CONTENT_TYPE).is_none_or(|found| found != PROTOBUF) {
        return HttpResponse::UnsupportedMediaType().body(format!("give {PROTOBUF}"));
    }
    let export = match Export::decode(body) {
        Ok(export) => export,
        Err(error) => return HttpResponse::BadRequest().body(format!("no OTLP export: {error}")),
    };
    let lines = seen(&export).iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
    match lines.map_err(io::Error::from).and_then(|lines| say(&lines)) {
        Ok(()) => HttpResponse::Ok().content_type(PROTOBUF).body(done.encode_to_vec()),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

/// Writes whole lines: requests are answered at the same time.
fn say(lines: &[String]) -> io::Result<()> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    let mut out = io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

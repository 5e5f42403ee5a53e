//! Paths, methods and what they do.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::body::SizedStream;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, Route, guard, web};
use bytes::Bytes;
use parhelion_gate::answer::LOGS_PAGE;
use parhelion_gate::backend::random_request;
use parhelion_gate::{AppendRequest, Backend, Budget, CodeRequest, CreateRequest, Credit, json};
use parhelion_types::limits::{APPEND_BYTES_MAX, WAITING_APPEND_BYTES};
use parhelion_types::{Degrade, Durability, Error, LogAddress, LogId, RequestId, Risk};
use serde::Deserialize;

use crate::body::{self, Accepted, Pace};
use crate::error::{Failure, REQUEST_HEADER};
use crate::server::{Caller, Metrics};
use crate::{reply, trace};

/// The description of this API (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("../openapi.json");

/// What all handlers share.
pub(crate) struct State {
    pub backend: Arc<dyn Backend>,
    pub metrics: Metrics,
    pub in_flight: Budget,
    pub answers: Budget,
    pub pace: Pace,
}

/// Largest JSON body: a log's name in escapes, and room.
const JSON_BYTES_MAX: usize = 16 << 10;
/// Header of a read: CRC-32C of the bytes, as stored, eight hexadecimal digits.
const DIGEST_HEADER: &str = "parhelion-crc32c";
/// Header of a read: when the primary accepted the append, microseconds since the Unix epoch.
const TIME_HEADER: &str = "parhelion-accepted-micros";
/// Risk of an append that does not say: one in a million.
const MAX_RISK_DEFAULT: f64 = 1e-6;
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Answered = Result<HttpResponse, Failure>;
type Shared = web::Data<State>;
/// Method, path, and what makes the route: actix wants a new one for each worker.
type Row = (&'static str, &'static str, fn() -> Route);

/// One row per path and method; a path of the description that is not here fails a test, and so does the reverse.
const ROUTES: &[Row] = &[
    ("POST", "/v1/logs", || web::post().to(create)),
    ("GET", "/v1/logs", || get().to(list)),
    ("GET", "/v1/logs/{log}", || get().to(stat)),
    ("POST", "/v1/logs/{log}/appends", || web::post().to(append)),
    ("GET", "/v1/logs/{log}/appends/{address}", || get().to(read)),
    ("DELETE", "/v1/logs/{log}/appends/{address}", || web::delete().to(free)),
    ("GET", "/v1/link", || get().to(link)),
    ("PUT", "/v1/link/code", || web::put().to(change_code)),
    ("GET", "/v1/status", || get().to(status)),
    ("GET", "/v1/openapi.json", || get().to(openapi)),
    ("GET", "/metrics", || get().to(metrics)),
];

/// Whatever can be got can be asked for by HEAD too (RFC 9110 section 9.1); the server leaves the body away.
fn get() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// Methods and paths that are served; HEAD goes with every GET.
pub fn routes() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROUTES.iter().map(|(method, path, _)| (*method, *path))
}

/// Registers all routes, and errors in the usual form for all else.
pub(crate) fn register(config: &mut web::ServiceConfig) {
    let mut resources = BTreeMap::new();
    for (_, path, route) in ROUTES {
        let resource = resources.remove(path).unwrap_or_else(|| web::resource(*path));
        resources.insert(path, resource.route(route()));
    }
    for resource in resources.into_values() {
        config.service(resource.default_service(web::to(wrong_method)));
    }
    config.default_service(web::to(wrong_path));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    name: String,
    #[serde(default)]
    degrade: Option<String>,
    #[serde(default)]
    request_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    #[serde(default)]
    from: u32,
    #[serde(default)]
    count: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppendQuery {
    durability: Option<String>,
    max_risk: Option<String>,
    deadline: Option<String>,
    request_id: Option<String>,
    #[serde(default)]
    explain: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeBody {
    name: String,
    #[serde(default)]
    parameters: String,
}

async fn create(state: Shared, request: HttpRequest, payload: web::Payload) -> Answered {
    let (body, _credit) = read_json::<CreateBody>(&request, payload, &state, r#"{"name": "orders"}"#).await?;
    let create = CreateRequest {
        name: body.name,
        degrade: optional("create: degrade", body.degrade.as_deref(), "give block, degrade or fail")?
            .unwrap_or(Degrade::Block),
        request: request_id("create", body.request_id.as_deref())?.unwrap_or(RequestId::NONE),
    };
    create.check()?;
    let log = state.backend.create(create).await?;
    Ok(HttpResponse::Created()
        .insert_header(("location", format!("/v1/logs/{log}")))
        .json(serde_json::json!({ "log": log.0 })))
}

async fn list(state: Shared, request: HttpRequest) -> Answered {
    let ListQuery { from, count } = query(&request)?;
    let count = count.unwrap_or(LOGS_PAGE);
    if !(1..=LOGS_PAGE).contains(&count) {
        return Err(Failure::invalid(format!("list: count is {count}; give 1 to {LOGS_PAGE}")));
    }
    let logs = state.backend.list(LogId(from), count).await?;
    let next = logs.last().filter(|_| logs.len() >= count).and_then(|last| last.log.0.checked_add(1));
    let logs: Vec<_> = logs.iter().map(json::log).collect();
    Ok(HttpResponse::Ok().json(serde_json::json!({ "logs": logs, "next": next })))
}

async fn stat(state: Shared, request: HttpRequest) -> Answered {
    let log = log_of(&request)?;
    Ok(HttpResponse::Ok().json(json::log(&state.backend.stat(log).await?)))
}

async fn append(state: Shared, request: HttpRequest, payload: web::Payload) -> Answered {
    let log = log_of(&request)?;
    let query: AppendQuery = query(&request)?;
    let max_risk =
        optional("append: max_risk", query.max_risk.as_deref(), "give a probability such as 1e-6")?;
    let deadline = query.deadline.as_deref().map(|text| {
        humantime::parse_duration(text).map_err(|error| {
            Failure::invalid(format!("append: deadline {text:?}: {error}; give a time such as 500ms"))
        })
    });
    let durability =
        optional("append: durability", query.durability.as_deref(), "give local, network or remote")?;
    let request_id = request_id("append", query.request_id.as_deref())?.unwrap_or_else(random_request);
    let deadline = deadline.transpose()?;
    let accepted = Accepted {
        limit: APPEND_BYTES_MAX,
        beside: WAITING_APPEND_BYTES,
        too_long: |bytes| AppendRequest::too_long(log, bytes),
        // A form's parts come with boundaries and headers between them: never what is meant to be stored.
        takes: |media| !media.starts_with("multipart/"),
        remedy: "send the bytes alone, as `curl --data-binary @FILE` does",
    };
    let (payload, credit) = body::read(&request, payload, &state, accepted).await?;
    let append = AppendRequest {
        log,
        payload,
        durability: durability.unwrap_or(Durability::Network),
        max_risk: max_risk.unwrap_or(Risk::bound(MAX_RISK_DEFAULT)),
        deadline,
        request: request_id,
        explain: query.explain,
        trace: trace::of(&request),
    };
    let appended = async {
        append.check()?;
        state.backend.append(append, credit).await
    };
    let appended = appended.await.map_err(|error| Failure::from(error).of_request(request_id))?;
    Ok(HttpResponse::Created()
        .insert_header((REQUEST_HEADER, request_id.to_string()))
        .insert_header(("location", format!("/v1/logs/{log}/appends/{}", appended.address)))
        .json(json::appended(&appended, request_id)))
}

async fn read(state: Shared, request: HttpRequest) -> Answered {
    let (log, address) = (log_of(&request)?, address_of(&request)?);
    // Charged as the largest until its size is known, and until it is sent or given up.
    let mut credit = state.answers.enter(APPEND_BYTES_MAX).await;
    let record = state.backend.read(log, address).await?;
    credit.shrink(record.payload.len());
    let length = record.payload.len() as u64;
    Ok(HttpResponse::Ok()
        .content_type("application/octet-stream")
        .insert_header((DIGEST_HEADER, format!("{:08x}", record.digest)))
        .insert_header((TIME_HEADER, record.time.0.to_string()))
        .body(SizedStream::new(length, reply::pieces(record.payload, credit, state.pace))))
}

async fn free(state: Shared, request: HttpRequest) -> Answered {
    let (log, address) = (log_of(&request)?, address_of(&request)?);
    state.backend.free(log, address).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn link(state: Shared) -> Answered {
    let status = state.backend.status().await?;
    let part = |name: &str| status.get(name).cloned().unwrap_or_default();
    Ok(HttpResponse::Ok().json(serde_json::json!({
        "linked": status.pointer("/logs/linked").cloned().unwrap_or_default(),
        "code": status.pointer("/logs/code").cloned().unwrap_or_default(),
        "link": part("link"),
        "channel": part("channel"),
    })))
}

async fn change_code(state: Shared, request: HttpRequest, payload: web::Payload) -> Answered {
    require_admin(&request, "change code")?;
    let example = r#"{"name": "reed-solomon", "parameters": "r=8 c=3"}"#;
    let (body, _credit) = read_json::<CodeBody>(&request, payload, &state, example).await?;
    let code = CodeRequest { name: body.name, parameters: body.parameters };
    code.check()?;
    let code = state.backend.change_code(code).await?;
    Ok(HttpResponse::Ok().json(serde_json::json!({ "code": code })))
}

/// Refuses all but admins. Plain HTTP shows no certificate, so nobody is one there.
fn require_admin(request: &HttpRequest, what: &str) -> Result<(), Failure> {
    let reason = match request.extensions().get::<Caller>() {
        Some(Caller::Admin) => return Ok(()),
        Some(Caller::Client) => {
            "the certificate was issued for the role client, and this takes admin; use an admin's"
        }
        _ => {
            "plain HTTP shows no certificate, and this takes an admin's; set http.tls = true, or use the command line"
        }
    };
    Err(Error::forbidden(format!("{what}: {reason}")).into())
}

async fn status(state: Shared) -> Answered {
    Ok(HttpResponse::Ok().json(state.backend.status().await?))
}

async fn openapi() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(OPENAPI)
}

async fn metrics(state: Shared) -> HttpResponse {
    HttpResponse::Ok().content_type(OPENMETRICS).body((state.metrics)())
}

async fn wrong_method(request: HttpRequest) -> Answered {
    let allowed: Vec<_> = routes()
        .filter(|(_, path)| request.match_pattern().as_deref() == Some(*path))
        .flat_map(|(method, _)| if method == "GET" { vec!["GET", "HEAD"] } else { vec![method] })
        .collect();
    let message =
        format!("{} {}: only {} is served there", request.method(), request.path(), allowed.join(" and "));
    let mut response = actix_web::ResponseError::error_response(&Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Error::invalid(message),
    ));
    if let Ok(allowed) = allowed.join(", ").parse() {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    Ok(response)
}

async fn wrong_path(request: HttpRequest) -> Answered {
    let message =
        format!("{} {}: nothing is served there; see /v1/openapi.json", request.method(), request.path());
    Err(Error::not_found(message).into())
}

/// Reads a small JSON document.
async fn read_json<T: for<'a> Deserialize<'a>>(
    request: &HttpRequest,
    payload: web::Payload,
    state: &State,
    example: &str,
) -> Result<(T, Credit), Failure> {
    let too_long = |bytes| {
        Error::invalid(format!(
            "the request's JSON of {bytes} bytes is over the limit of {JSON_BYTES_MAX}; shorten it"
        ))
    };
    let accepted = Accepted {
        limit: JSON_BYTES_MAX,
        beside: 0,
        too_long,
        takes: |media| media.is_empty() || media == "application/json" || media.ends_with("+json"),
        remedy: "send JSON under the header \"content-type: application/json\"",
    };
    let (body, credit): (Bytes, Credit) = body::read(request, payload, state, accepted).await?;
    let document = serde_json::from_slice(&body).map_err(|error| {
        Failure::invalid(format!("the request's JSON: {error}; send JSON such as {example}"))
    })?;
    Ok((document, credit))
}

fn log_of(request: &HttpRequest) -> Result<LogId, Failure> {
    let text = request.match_info().get("log").unwrap_or_default();
    text.parse().map_err(|_| Failure::invalid(format!("{text:?} is no log's number; give one such as 1")))
}

fn address_of(request: &HttpRequest) -> Result<LogAddress, Failure> {
    let text = request.match_info().get("address").unwrap_or_default();
    text.parse().map_err(|error: parhelion_types::ParseAddressError| Failure::invalid(error.to_string()))
}

fn query<T: for<'a> Deserialize<'a>>(request: &HttpRequest) -> Result<T, Failure> {
    web::Query::<T>::from_query(request.query_string()).map(web::Query::into_inner).map_err(|error| {
        Failure::invalid(format!("the query {:?}: {error}; see /v1/openapi.json", request.query_string()))
    })
}

fn optional<T>(what: &str, text: Option<&str>, remedy: &str) -> Result<Option<T>, Failure>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let parse =
        |text: &str| text.parse().map_err(|error| Failure::invalid(format!("{what}: {error}; {remedy}")));
    text.map(parse).transpose()
}

/// The id that a caller gave; zero is none.
fn request_id(what: &str, text: Option<&str>) -> Result<Option<RequestId>, Failure> {
    let id = optional(&format!("{what}: request_id"), text, "give up to 32 hexadecimal digits")?;
    Ok(id.filter(|id: &RequestId| !id.is_none()))
}

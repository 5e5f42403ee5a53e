//! Bodies of requests: read within a limit, counted before they are read.

use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, rt, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use parhelion_gate::Held;
use parhelion_types::Error;
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::Failure;
use crate::routes::State;

/// How slow a client may be: what is half sent is held in memory, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// A pause that is always allowed.
    pub patience: Duration,
    /// Beyond it, bytes per second on average since the body began.
    pub rate_min: u32,
}

/// How long a body that was given up is kept: longer than its answer takes to leave.
const KEPT_FOR: Duration = Duration::from_secs(2);

impl Pace {
    /// When a body that began at `start` has been too slow, after that many bytes.
    pub(crate) fn too_slow_at(self, start: Instant, bytes: usize) -> Instant {
        start + self.patience + Duration::from_secs_f64(bytes as f64 / f64::from(self.rate_min.max(1)))
    }
}

impl Default for Pace {
    /// Ten seconds, and a megabit per second.
    fn default() -> Self {
        Self { patience: Duration::from_secs(10), rate_min: 125_000 }
    }
}

/// What a body may be.
pub(crate) struct Accepted<'a, F: Fn(usize) -> Error> {
    /// Most bytes.
    pub limit: usize,
    /// Names the thing, given what is known of its length.
    pub too_long: F,
    /// Whether a content type will do; none was given if it is empty.
    pub takes: fn(&str) -> bool,
    /// What to send instead.
    pub remedy: &'a str,
}

/// Reads a body. Its bytes are taken from the node's budget before the first one is read.
pub(crate) async fn read<F: Fn(usize) -> Error>(
    request: &HttpRequest,
    mut payload: web::Payload,
    state: &State,
    accepted: Accepted<'_, F>,
) -> Result<(Bytes, Held), Failure> {
    let read = read_from(request, &mut payload, state, accepted).await;
    if read.is_err() {
        // A body that is dropped unread is read to its end by the server, for as long as the client likes. One that
        // is still there when the answer has left ends the connection.
        rt::spawn(async move {
            sleep(KEPT_FOR).await;
            drop(payload);
        });
    }
    read
}

async fn read_from<F: Fn(usize) -> Error>(
    request: &HttpRequest,
    payload: &mut web::Payload,
    state: &State,
    accepted: Accepted<'_, F>,
) -> Result<(Bytes, Held), Failure> {
    check_type(request, &accepted)?;
    let Accepted { limit, too_long, .. } = accepted;
    let too_long = |bytes| Failure::new(StatusCode::PAYLOAD_TOO_LARGE, too_long(bytes));
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if let Some(bytes) = announced.filter(|bytes| *bytes > limit) {
        return Err(too_long(bytes));
    }
    let mut held = state.in_flight.enter(announced.unwrap_or(limit)).await;
    let body = collect(payload, announced.unwrap_or_default(), limit, state.pace, &too_long).await?;
    held.shrink(body.len());
    Ok((body, held))
}

fn check_type<F: Fn(usize) -> Error>(
    request: &HttpRequest,
    accepted: &Accepted<'_, F>,
) -> Result<(), Failure> {
    let of = |name| request.headers().get(name).map_or("", |value| value.to_str().unwrap_or("unreadable"));
    let media = of(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    let encoding = of(header::CONTENT_ENCODING).trim();
    let message = if !(accepted.takes)(media) {
        format!("the request's body is {media}, which is not taken here; {}", accepted.remedy)
    } else if !matches!(encoding, "" | "identity") {
        // What is stored is what was sent: a digest over it must be the caller's.
        format!("the request's body has the content encoding {encoding}; send it without one")
    } else {
        return Ok(());
    };
    Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Error::invalid(message)))
}

async fn collect(
    payload: &mut web::Payload,
    announced: usize,
    limit: usize,
    pace: Pace,
    too_long: &impl Fn(usize) -> Failure,
) -> Result<Bytes, Failure> {
    let start = Instant::now();
    let mut body = BytesMut::with_capacity(announced);
    loop {
        let Ok(chunk) = timeout_at(pace.too_slow_at(start, body.len()), payload.next()).await else {
            let message = format!(
                "the request's body came too slowly: {} bytes in {:.1} s; send it at {} bytes per second or more",
                body.len(),
                start.elapsed().as_secs_f64(),
                pace.rate_min
            );
            return Err(Failure::new(StatusCode::REQUEST_TIMEOUT, Error::invalid(message)));
        };
        let Some(chunk) = chunk else { return Ok(body.freeze()) };
        let chunk = chunk.map_err(|error| {
            Failure::invalid(format!("the request's body is broken: {error}; send it again"))
        })?;
        if chunk.len() > limit - body.len() {
            return Err(too_long(body.len() + chunk.len()));
        }
        body.extend_from_slice(&chunk);
    }
}

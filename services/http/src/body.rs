//! Bodies of requests: taken piece by piece, within a limit, into the one buffer in which they are used.
//!
//! An append is stored whole or not at all, so its body ends in one buffer. What flows is the way there: the limit and
//! the budget are looked at before bytes are taken, each piece is copied into its place as it comes and let go, and TCP
//! stops a client that is ahead of the node. What is not taken yet is at most a piece.

use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, rt, web};
use bytes::Bytes;
use futures_util::StreamExt;
use parhelion_gate::Credit;
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
    /// Bytes that the request takes beside its body, until it is answered.
    pub beside: usize,
    /// Names the thing, given what is known of its length.
    pub too_long: F,
    /// Whether a content type will do; none was given if it is empty.
    pub takes: fn(&str) -> bool,
    /// What to send instead.
    pub remedy: &'a str,
}

/// Takes a body. Its bytes are taken from the node's budget before the first one is read: as many as are announced, or
/// as many as it may have. Taken as they come, two bodies could each wait for what the other holds.
pub(crate) async fn read<F: Fn(usize) -> Error>(
    request: &HttpRequest,
    mut payload: web::Payload,
    state: &State,
    accepted: Accepted<'_, F>,
) -> Result<(Bytes, Credit), Failure> {
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
) -> Result<(Bytes, Credit), Failure> {
    check_type(request, &accepted)?;
    let Accepted { limit, beside, too_long, .. } = accepted;
    let too_long = |bytes| Failure::new(StatusCode::PAYLOAD_TOO_LARGE, too_long(bytes));
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if let Some(bytes) = announced.filter(|bytes| *bytes > limit) {
        return Err(too_long(bytes));
    }
    let mut credit = state.in_flight.enter(announced.unwrap_or(limit) + beside).await;
    let body = Body { bytes: Vec::with_capacity(announced.unwrap_or_default()), limit };
    let body = collect(payload, body, state.pace, &too_long).await?;
    credit.shrink(body.len() + beside);
    Ok((body, credit))
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

/// What has come of a body, in a buffer that is never larger than the limit.
struct Body {
    bytes: Vec<u8>,
    limit: usize,
}

impl Body {
    /// Puts a piece into its place, unless the body is over its limit with it. A body of announced length finds its
    /// buffer large enough; one without grows by doubling.
    fn take(&mut self, piece: &[u8]) -> Result<(), usize> {
        let length = self.bytes.len() + piece.len();
        if length > self.limit {
            return Err(length);
        }
        if length > self.bytes.capacity() {
            let capacity = self.bytes.capacity().saturating_mul(2).clamp(length, self.limit);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

async fn collect(
    payload: &mut web::Payload,
    mut body: Body,
    pace: Pace,
    too_long: &impl Fn(usize) -> Failure,
) -> Result<Bytes, Failure> {
    let start = Instant::now();
    loop {
        let received = body.bytes.len();
        let Ok(piece) = timeout_at(pace.too_slow_at(start, received), payload.next()).await else {
            let message = format!(
                "the request's body came too slowly: {received} bytes in {:.1} s; send it at {} bytes per second or more",
                start.elapsed().as_secs_f64(),
                pace.rate_min
            );
            return Err(Failure::new(StatusCode::REQUEST_TIMEOUT, Error::invalid(message)));
        };
        let Some(piece) = piece else {
            // Of one that grew, what it has too much.
            body.bytes.shrink_to_fit();
            return Ok(body.bytes.into());
        };
        let piece = piece.map_err(|error| {
            Failure::invalid(format!("the request's body is broken: {error}; send it again"))
        })?;
        body.take(&piece).map_err(too_long)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_announced_length_has_one_buffer_from_the_first_piece_to_the_last() {
        let all: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let mut body = Body { bytes: Vec::with_capacity(all.len()), limit: 1 << 20 };
        let buffer = body.bytes.as_ptr();
        for piece in all.chunks(1460) {
            body.take(piece).unwrap();
        }
        body.bytes.shrink_to_fit();
        let bytes = Bytes::from(body.bytes);
        assert!(bytes == all);
        assert_eq!(bytes.as_ptr(), buffer);
    }

    #[test]
    fn a_body_of_unknown_length_grows_to_its_limit_and_no_further() {
        const LIMIT: usize = 100_000;
        let mut body = Body { bytes: Vec::new(), limit: LIMIT };
        for _ in 0..100 {
            body.take(&[7; 1000]).unwrap();
            assert!(body.bytes.capacity() <= LIMIT, "{} bytes", body.bytes.capacity());
        }
        assert_eq!(body.take(&[7]), Err(LIMIT + 1));
        assert_eq!(body.bytes.len(), LIMIT);
    }
}

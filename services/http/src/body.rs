//! Bodies of requests: read within a limit, counted before they are read.

use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use parhelion_gate::{Budget, Held};
use parhelion_types::Error;

use crate::error::Failure;

/// A body must have come within this time: its bytes are counted from the start.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads a body of at most `limit` bytes. `too_long` names the thing, given what is known of its length.
pub(crate) async fn read(
    request: &HttpRequest,
    payload: web::Payload,
    budget: &Budget,
    limit: usize,
    too_long: impl Fn(usize) -> Error,
) -> Result<(Bytes, Held), Failure> {
    let too_long = |bytes| Failure::new(StatusCode::PAYLOAD_TOO_LARGE, too_long(bytes));
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if let Some(bytes) = announced.filter(|bytes| *bytes > limit) {
        return Err(too_long(bytes));
    }
    let mut held = budget.enter(announced.unwrap_or(limit)).await;
    let read = collect(payload, announced.unwrap_or_default(), limit, &too_long);
    let body = tokio::time::timeout(BODY_TIMEOUT, read).await.unwrap_or_else(|_| {
        let message =
            format!("the request's body did not come within {BODY_TIMEOUT:?}; send it faster, or in parts");
        Err(Failure::new(StatusCode::REQUEST_TIMEOUT, Error::invalid(message)))
    })?;
    held.shrink(body.len());
    Ok((body, held))
}

async fn collect(
    mut payload: web::Payload,
    announced: usize,
    limit: usize,
    too_long: &impl Fn(usize) -> Failure,
) -> Result<Bytes, Failure> {
    let mut body = BytesMut::with_capacity(announced);
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| {
            Failure::invalid(format!("the request's body is broken: {error}; send it again"))
        })?;
        if chunk.len() > limit - body.len() {
            return Err(too_long(body.len() + chunk.len()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

//! Errors as HTTP shows them: `{"error":{"kind","message"}}` under a status that fits the kind.

use std::fmt;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use parhelion_types::{Error, ErrorKind};

/// An error with its status.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    error: Error,
}

/// When to come back after `busy` and `unavailable`, in seconds.
const RETRY_AFTER: &str = "1";

impl Failure {
    pub(crate) fn new(status: StatusCode, error: Error) -> Self {
        Self { status, error }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Error::invalid(message).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Busy => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Closed | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::Fenced => StatusCode::CONFLICT,
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(%error, "an HTTP request failed");
        }
        Self { status, error }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if self.error.kind().is_retryable() {
            response.insert_header((header::RETRY_AFTER, RETRY_AFTER));
        }
        let (kind, message) = (self.error.kind().name(), self.error.message());
        response.json(serde_json::json!({ "error": { "kind": kind, "message": message } }))
    }
}

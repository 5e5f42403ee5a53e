//! Errors as HTTP shows them: `{"error":{"kind","message"}}` under a status that fits the kind.

use std::fmt;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use parhelion_types::{Error, ErrorKind, RequestId};

/// An error with its status.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    error: Error,
    request: Option<RequestId>,
}

/// Header of the answer to an append, good or bad: the id with which repeating it is safe.
pub(crate) const REQUEST_HEADER: &str = "parhelion-request-id";

/// When to come back after `busy` and `unavailable`, in seconds.
const RETRY_AFTER: &str = "1";

impl Failure {
    pub(crate) fn new(status: StatusCode, error: Error) -> Self {
        Self { status, error, request: None }
    }

    /// An error that names the request, so that it can be repeated.
    pub(crate) fn of_request(self, request: RequestId) -> Self {
        Self { request: Some(request), ..self }
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
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(%error, "an HTTP request failed");
        }
        Self::new(status, error)
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
        let mut error = serde_json::json!({ "kind": kind, "message": message });
        if let Some(request) = self.request {
            response.insert_header((REQUEST_HEADER, request.to_string()));
            error["request_id"] = request.to_string().into();
        }
        response.json(serde_json::json!({ "error": error }))
    }
}

//! HTTP front end: the logs of a node for programs that speak HTTP and people who use `curl`.
//!
//! `openapi.json` in this crate describes every path; the node serves it at `/v1/openapi.json`, and a test
//! holds it against the running server. The requests are checked and answered by the same
//! [`Backend`](parhelion_gate::Backend) as those of the QUIC API.
//!
//! HTTP without TLS knows nobody, so it is for this machine only unless it is allowed explicitly. With TLS,
//! callers show a certificate with the role client or admin, as they do to the QUIC API.

mod body;
mod error;
mod reply;
mod routes;
mod server;
mod trace;

pub use body::Pace;
pub use routes::{OPENAPI, routes};
pub use server::{HttpConfig, HttpError, HttpServer, Metrics};

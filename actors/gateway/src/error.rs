//! Why a gateway's network side cannot start, and why a connection within a site ends.

use std::io;
use std::net::SocketAddr;

use parhelion_wire::WireError;
use quinn::{ConnectError, ConnectionError, ReadError, WriteError};

/// Why a listener or a remote link cannot start. Once it runs, trouble is told as events, and mended by
/// connecting again.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A socket could not be opened.
    #[error("cannot open the site's socket on {address}: {source}; free the address or give another one")]
    Socket {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS settings that QUIC cannot use.
    #[error("the site's TLS settings cannot be used: {0}; nodes of a site need TLS 1.3 with AES-128-GCM")]
    Tls(String),
    /// Settings that cannot work.
    #[error("the site's settings cannot be used: {0}")]
    Settings(String),
}

/// Why a connection within a site ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SiteError {
    /// The other node said what it should not.
    #[error("it sent what it should not: {0}")]
    Wire(#[from] WireError),
    /// The other node's certificate, site, duty or logs are wrong, or ours are for it.
    #[error("{0}")]
    Refused(String),
    /// The other node is done.
    #[error("it ended the stream")]
    Ended,
    /// The other node took too long.
    #[error("{0}")]
    Late(&'static str),
    /// No connection can be made that way.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// The connection is gone.
    #[error("{}", close_reason(.0))]
    Lost(#[from] ConnectionError),
}

impl From<ReadError> for SiteError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::Lost(error),
            _ => Self::Ended,
        }
    }
}

impl From<WriteError> for SiteError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::Lost(error),
            _ => Self::Ended,
        }
    }
}

/// In words: the other node's own, where it gave some.
fn close_reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        other => other.to_string(),
    }
}

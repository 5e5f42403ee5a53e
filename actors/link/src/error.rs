//! Why a driver cannot start.

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// Why a driver cannot start. Once it runs, trouble is told as events, and mended by connecting again.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A socket could not be opened.
    #[error(
        "cannot open the link's {what} socket on {address}: {source}; free the address or give another one"
    )]
    Socket {
        /// Which socket.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS settings that QUIC cannot use.
    #[error("the link's TLS settings cannot be used: {0}; the link needs TLS 1.3 with AES-128-GCM")]
    Tls(String),
    /// Settings that contradict each other.
    #[error("the link's settings cannot be used: {0}")]
    Settings(String),
    /// The system refused something that it should not.
    #[error("the link cannot start: {0}")]
    Io(#[from] io::Error),
}

impl LinkError {
    pub(crate) fn tls(error: impl fmt::Display) -> Self {
        Self::Tls(error.to_string())
    }
}

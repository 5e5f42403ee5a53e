//! The server: where it listens, who may call, how it stops.

use std::any::Any;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::body::BoxBody;
use actix_web::dev::{Extensions, ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::http::header;
use actix_web::middleware::{Next, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpMessage, ResponseError, web};
use parhelion_gate::{Backend, Budget, tls};
use parhelion_types::{Error, Role};

use crate::body::Pace;
use crate::error::Failure;
use crate::routes::{State, register};

/// Writes all metrics in OpenMetrics text. Called for each scrape.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// How HTTP is served.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// TLS that demands certificates, as [`Identity::server_config`](parhelion_gate::Identity::server_config) makes it.
    pub tls: Option<rustls::ServerConfig>,
    /// Allows plain HTTP, to anyone, on an address that other machines can reach.
    pub allow_remote_plaintext: bool,
    /// Bytes of requests that the node holds at most; share it with other front ends.
    pub in_flight: Budget,
    /// Bytes of answers that wait for their readers at most.
    pub answers: Budget,
    /// How slow a client may be.
    pub pace: Pace,
    /// Threads that serve.
    pub workers: usize,
}

/// A front end that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Other machines could read and write logs.
    #[error(
        "HTTP on {0}: other machines can reach this address, and plain HTTP neither hides nor authenticates anything; \
         set http.tls = true, or http.listen to an address of this machine such as 127.0.0.1:7480, \
         or http.allow_remote_plaintext = true where the network itself is trusted"
    )]
    Plaintext(SocketAddr),
    /// The address cannot be had.
    #[error("HTTP on {address}: {source}; choose another address, or stop what uses it")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// The running front end.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    handle: ServerHandle,
}

/// As whom a connection asks; in words why it may not.
struct Access(Result<Caller, String>);

/// As whom a connection asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Plain HTTP shows no certificate. Its address was checked when it was bound.
    Anyone,
    /// A certificate with the role client.
    Client,
    /// A certificate with the role admin.
    Admin,
}

/// A request's head must have come within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Seconds that requests get to end when the server stops.
const STOP_SECONDS: u64 = 10;
/// Connections of one worker at most.
const CONNECTIONS_MAX: usize = 512;
/// Bytes of answers that wait for their readers: four of the largest appends.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

impl HttpConfig {
    /// Plain HTTP on `listen`, which must be of this machine, with 64 MiB in flight.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            allow_remote_plaintext: false,
            in_flight: Budget::new(64 << 20),
            answers: Budget::new(ANSWER_BYTES_MAX),
            pace: Pace::default(),
            workers: 2,
        }
    }

    /// Checks that nothing is served to other machines by accident.
    ///
    /// # Errors
    /// Plain HTTP where other machines can reach it, and it is not allowed.
    pub fn check(&self) -> Result<(), HttpError> {
        let is_private = self.listen.ip().is_loopback() || self.tls.is_some() || self.allow_remote_plaintext;
        if is_private { Ok(()) } else { Err(HttpError::Plaintext(self.listen)) }
    }
}

impl HttpServer {
    /// Starts to listen. Must be called within an actix system or a tokio runtime; workers are threads of their own.
    ///
    /// # Errors
    /// The address is taken, or plain HTTP would be served to other machines.
    pub fn start(config: HttpConfig, backend: Arc<dyn Backend>, metrics: Metrics) -> Result<Self, HttpError> {
        config.check()?;
        let HttpConfig { listen, tls, in_flight, answers, pace, workers, .. } = config;
        let bind = |source| HttpError::Bind { address: listen, source };
        let listener = TcpListener::bind(listen).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let state = web::Data::new(State { backend, metrics, in_flight, answers, pace });
        let app = move || App::new().app_data(state.clone()).wrap(from_fn(check_access)).configure(register);
        let server = actix_web::HttpServer::new(app)
            .workers(workers.max(1))
            .max_connections(CONNECTIONS_MAX)
            .client_request_timeout(HEAD_TIMEOUT)
            // A client that has gone waits for nothing. Of one that only ends what it sends, nobody could tell.
            .h1_allow_half_closed(false)
            .shutdown_timeout(STOP_SECONDS)
            .disable_signals()
            .on_connect(see_certificate);
        let server = match tls {
            Some(tls) => server.listen_rustls_0_23(listener, tls),
            None => server.listen(listener),
        };
        let server = server.map_err(bind)?.run();
        let handle = server.handle();
        actix_web::rt::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%address, %error, "HTTP ended");
            }
        });
        Ok(Self { address, handle })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets requests end for some seconds, and stops.
    pub async fn stop(self) {
        self.handle.stop(true).await;
    }
}

/// Looks at a connection once, when it is made.
fn see_certificate(connection: &dyn Any, extensions: &mut Extensions) {
    let Some(stream) = connection.downcast_ref::<TlsStream<TcpStream>>() else {
        extensions.insert(Access(Ok(Caller::Anyone)));
        return;
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let access = match certificate {
        Some(certificate) => tls::require_role(certificate, &[Role::Client, Role::Admin])
            .map(|roles| if roles.contains(&Role::Admin) { Caller::Admin } else { Caller::Client }),
        None => Err("no certificate was shown; show one with the role client or admin".to_owned()),
    };
    if let Err(reason) = &access {
        tracing::warn!(reason, "HTTP client refused: certificate");
    }
    extensions.insert(Access(access));
}

async fn check_access(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let access = match request.conn_data::<Access>() {
        Some(Access(access)) => access.clone(),
        None => Err("the connection was not checked; report it".to_owned()),
    };
    // A page in a browser on this machine must not write logs behind its user's back.
    let is_page = request.headers().contains_key(header::ORIGIN);
    let access = access.and_then(|caller| {
        if is_page {
            Err("requests from web pages are not served; use a program".to_owned())
        } else {
            Ok(caller)
        }
    });
    match access {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.call(request).await
        }
        Err(reason) => {
            let failure = Failure::from(Error::forbidden(reason));
            Ok(request.into_response(failure.error_response()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_at_home_unless_allowed() {
        let check = |address: &str, allow_remote_plaintext| {
            HttpConfig { allow_remote_plaintext, ..HttpConfig::new(address.parse().unwrap()) }.check()
        };
        assert!(check("127.0.0.1:7480", false).is_ok());
        assert!(check("[::1]:7480", false).is_ok());
        for address in ["0.0.0.0:7480", "[::]:7480", "192.0.2.1:7480"] {
            let error = check(address, false).unwrap_err().to_string();
            for word in [address, "http.tls", "http.listen", "http.allow_remote_plaintext"] {
                assert!(error.contains(word), "no {word} in {error}");
            }
            assert!(check(address, true).is_ok());
        }
    }
}

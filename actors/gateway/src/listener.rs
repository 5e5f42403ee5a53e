//! The link node's listener for the storage nodes of its site.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parhelion_types::limits::LOGS_MAX;
use parhelion_types::{Error, LogId, NodeId};
use parhelion_wire::WireError;
use parhelion_wire::site::{SiteJoinV1, SiteJoinedV1};
use quinn::{Connection, Endpoint, Incoming};
use tokio::task::JoinSet;

use crate::config::SiteListenerConfig;
use crate::error::{GatewayError, SiteError};
use crate::frames::{Frame, FrameReader, FrameWriter};
use crate::mirror_gateway::MirrorGateway;
use crate::mirror_service::{MirrorHold, MirrorOutbox};
use crate::outbox::Outbox;
use crate::port::Place;
use crate::primary_gateway::PrimaryGateway;
use crate::primary_service::PrimaryOutbox;
use crate::site_link::{MIRROR_DUTY, PRIMARY_DUTY, duty_name};
use crate::transport::{CLOSE_DONE, CLOSE_PROTOCOL, CLOSE_REFUSED, server, verify};
use crate::{mirror_service, primary_service};

/// Accepts the storage nodes of a site, and joins them to its gateways.
pub struct SiteListener {
    endpoint: Endpoint,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    config: SiteListenerConfig,
    primary: Option<PrimaryGateway>,
    mirror: Option<MirrorGateway>,
}

/// What a storage node said of itself.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) site: u16,
    pub(crate) node: NodeId,
    pub(crate) duty: u8,
    pub(crate) logs: Vec<LogId>,
}

/// Why a node that takes nothing is put out.
pub(crate) const KEEPS_NOT_UP: &str =
    "this storage node does not keep up with what the link tells it; it may join again when it has room";
/// Most connections, half-open ones included; a site has far fewer storage nodes.
const CONNECTIONS_MAX: usize = 256;
/// From this many on, a node must first show that it owns its address.
const CONNECTIONS_UNVALIDATED_MAX: usize = CONNECTIONS_MAX / 2;
/// How long a connection may go without saying who it is.
const JOIN_MAX: Duration = Duration::from_secs(5);

impl SiteListener {
    /// Opens the socket. Call it inside the runtime that will run the listener. A gateway that is not given is
    /// a duty that this node does not serve.
    ///
    /// # Errors
    /// An address that is in use, or settings that cannot work.
    pub fn bind(
        config: SiteListenerConfig,
        primary: Option<PrimaryGateway>,
        mirror: Option<MirrorGateway>,
    ) -> Result<Self, GatewayError> {
        let endpoint = server(config.listen, &config.tls, config.idle_timeout, config.endpoint.clone())?;
        let address = endpoint
            .local_addr()
            .map_err(|source| GatewayError::Socket { address: config.listen, source })?;
        Ok(Self { endpoint, address, shared: Arc::new(Shared { config, primary, mirror }) })
    }

    /// Where it listens, the port filled in.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves storage nodes for ever. Dropping the future closes their connections; they connect again by
    /// themselves.
    pub async fn run(self) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => {
                        if let Some(incoming) = self.screen(incoming) {
                            connections.spawn(serve(incoming, self.shared.clone()));
                        }
                    }
                    // Only a closed endpoint accepts no more.
                    None => return,
                },
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "the task of a storage node's connection failed");
                    }
                }
            }
        }
    }

    /// Refuses what is too much.
    fn screen(&self, incoming: Incoming) -> Option<Incoming> {
        let open = self.endpoint.open_connections();
        if open >= CONNECTIONS_MAX {
            tracing::warn!(open, "a connection was refused: there are too many");
            incoming.refuse();
            return None;
        }
        if open >= CONNECTIONS_UNVALIDATED_MAX && incoming.may_retry() {
            if let Err(error) = incoming.retry() {
                error.into_incoming().ignore();
            }
            return None;
        }
        Some(incoming)
    }
}

impl Join {
    pub(crate) fn parse(frame: &Frame) -> Result<Self, WireError> {
        let join = frame.read::<SiteJoinV1>()?;
        let join = join.get();
        if join.logs.len() > LOGS_MAX {
            return Err(WireError::Long { what: "list of logs", bytes: join.logs.len(), max: LOGS_MAX });
        }
        Ok(Self {
            site: join.site.to_native(),
            node: NodeId(join.node.to_native()),
            duty: join.duty,
            logs: join.logs.iter().map(|log| LogId(log.to_native())).collect(),
        })
    }
}

impl Drop for SiteListener {
    fn drop(&mut self) {
        self.endpoint.close(CLOSE_DONE, b"the link node is stopping");
    }
}

async fn serve(incoming: Incoming, shared: Arc<Shared>) {
    let remote = incoming.remote_address();
    let connection = match incoming.accept() {
        Ok(connecting) => connecting.await,
        Err(error) => Err(error),
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(error) => {
            tracing::warn!(%remote, %error, "a connection from within the site failed");
            return;
        }
    };
    match serve_connection(&connection, &shared).await {
        Ok(()) => connection.close(CLOSE_DONE, b"left, as asked"),
        Err(error) => {
            tracing::warn!(%remote, %error, "a storage node's connection ended");
            let code = if matches!(error, SiteError::Wire(_)) { CLOSE_PROTOCOL } else { CLOSE_REFUSED };
            connection.close(code, error.to_string().as_bytes());
        }
    }
}

async fn serve_connection(connection: &Connection, shared: &Shared) -> Result<(), SiteError> {
    verify(connection, &shared.config.verify_peer)?;
    let greeting = async {
        let (send, receive) = connection.accept_bi().await?;
        let mut reader = FrameReader::new(receive);
        let join = Join::parse(&reader.next().await?)?;
        Ok::<_, SiteError>((FrameWriter::new(send), reader, join))
    };
    let (mut writer, reader, join) = tokio::time::timeout(JOIN_MAX, greeting)
        .await
        .unwrap_or(Err(SiteError::Late("this connection did not say who it is")))?;
    let SiteListenerConfig { site, node, .. } = shared.config;
    if join.site != site.0 {
        return Err(SiteError::Refused(format!(
            "storage node {} says that it is of site {}; this link node is of site {site}: correct the node's site \
             or the address of its link node",
            join.node, join.site
        )));
    }
    let joined = SiteJoinedV1 { site: site.0, node: node.0 };
    let refused = |error: Error| SiteError::Refused(error.message().to_owned());
    match (join.duty, &shared.primary, &shared.mirror) {
        (PRIMARY_DUTY, Some(gateway), _) => {
            let (outbox, told, overflow) = Outbox::new();
            let sink = Box::new(PrimaryOutbox(outbox));
            let port = gateway.join(join.node, Place::Remote, &join.logs, sink).map_err(refused)?;
            writer.batch.push(&joined, Bytes::new(), 0)?;
            writer.flush().await?;
            primary_service::serve(port, told, overflow, reader, writer).await
        }
        (MIRROR_DUTY, _, Some(gateway)) => {
            let (outbox, told, overflow) = Outbox::new();
            let pending = Arc::default();
            let sink = Box::new(MirrorOutbox { outbox, pending: Arc::clone(&pending) });
            let (commands, gone) = gateway.join(join.node, Place::Remote, sink).map_err(refused)?;
            writer.batch.push(&joined, Bytes::new(), 0)?;
            writer.flush().await?;
            let hold = MirrorHold { commands, gone, pending };
            mirror_service::serve(hold, told, overflow, reader, writer).await
        }
        (duty, ..) => Err(SiteError::Refused(format!(
            "storage node {} comes as a {}, which this link node does not serve; correct the node's profile or the \
             link node's",
            join.node,
            duty_name(duty)
        ))),
    }
}

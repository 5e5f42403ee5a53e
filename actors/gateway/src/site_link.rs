//! A storage node's way to its site's link node: connecting, joining, and when to try again.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use parhelion_wire::site::{SiteJoinV1, SiteJoinedV1};
use quinn::{Connection, Endpoint};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::config::SiteLinkConfig;
use crate::error::{GatewayError, SiteError};
use crate::frames::{FrameReader, FrameWriter};
use crate::transport::{CLOSE_DONE, CLOSE_PROTOCOL, CLOSE_REFUSED, client, verify};

/// A primary's storage node, in [`SiteJoinV1`].
pub(crate) const PRIMARY_DUTY: u8 = 0;
/// A mirror's storage node, in [`SiteJoinV1`].
pub(crate) const MIRROR_DUTY: u8 = 1;

/// How long a link node may take to read what it was sent before this node left.
pub(crate) const LEAVE_MAX: Duration = Duration::from_secs(2);
/// From the first packet to having joined.
const JOIN_MAX: Duration = Duration::from_secs(5);

/// How a connection ended.
pub(crate) enum End {
    /// As told.
    Closed,
    /// By a failure; connecting again may help.
    Failed { error: SiteError, lived: Duration },
}

/// The connecting half of a remote link.
pub(crate) struct SiteLink {
    config: SiteLinkConfig,
    endpoint: Endpoint,
    pause: Duration,
}

/// A connection on which this node has joined.
pub(crate) struct Joined {
    pub(crate) connection: Connection,
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
}

impl SiteLink {
    pub(crate) fn new(config: SiteLinkConfig) -> Result<Self, GatewayError> {
        config.check()?;
        let endpoint = client(SocketAddr::new(config.bind, 0), &config.tls, config.idle_timeout)?;
        Ok(Self { pause: config.reconnect_min, config, endpoint })
    }

    /// Connects and joins.
    pub(crate) async fn join(&self, duty: u8, logs: Vec<u32>) -> Result<Joined, SiteError> {
        let join = async {
            let connection = self.endpoint.connect(self.config.gateway, &self.config.peer_name)?.await?;
            if let Err(error) = verify(&connection, &self.config.verify_peer) {
                connection.close(CLOSE_REFUSED, error.to_string().as_bytes());
                return Err(SiteError::Refused(format!("the link node's {error}")));
            }
            let (send, receive) = connection.open_bi().await?;
            let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(receive));
            let join = SiteJoinV1 { site: self.config.site.0, node: self.config.node.0, duty, logs };
            writer.batch.push(&join, Bytes::new(), 0)?;
            writer.flush().await?;
            let joined = reader.next().await?.read::<SiteJoinedV1>()?;
            tracing::info!(gateway = %self.config.gateway, node = joined.get().node.to_native(), "joined the link node");
            Ok(Joined { connection, reader, writer })
        };
        let late = SiteError::Late("it does not answer; start it, or let its UDP port through");
        tokio::time::timeout(JOIN_MAX, join).await.unwrap_or(Err(late))
    }

    /// How long to wait before the next attempt, and why, in words for the storage actor.
    pub(crate) fn retry(&mut self, error: &SiteError, lived: Duration) -> (Duration, String) {
        // A connection that held counts as a success; one that fails at once again does not, however far it got.
        if lived > self.config.reconnect_max {
            self.pause = self.config.reconnect_min;
        }
        // Half of it at random, so that many nodes do not come back at one instant.
        let wait = self.pause.mul_f64(StdRng::from_os_rng().random_range(0.5..1.0));
        self.pause = (self.pause * 2).min(self.config.reconnect_max);
        let gateway = self.config.gateway;
        tracing::warn!(%gateway, %error, ?wait, "not joined to the link node");
        let reason = format!(
            "not joined to the site's link node at {gateway}: {error}; connecting again in {} ms",
            wait.as_millis()
        );
        (wait, reason)
    }

    /// Ends a connection that failed.
    pub(crate) fn abandon(connection: &Connection, error: &SiteError) {
        let code = if matches!(error, SiteError::Wire(_)) { CLOSE_PROTOCOL } else { CLOSE_DONE };
        connection.close(code, error.to_string().as_bytes());
    }

    /// Lets what was said last reach the link node.
    pub(crate) async fn settle(&self) {
        // Beyond it the link node notices by itself.
        let _ = tokio::time::timeout(LEAVE_MAX, self.endpoint.wait_idle()).await;
    }
}

/// For people.
pub(crate) fn duty_name(duty: u8) -> &'static str {
    match duty {
        PRIMARY_DUTY => "primary",
        MIRROR_DUTY => "mirror",
        _ => "node of an unknown duty",
    }
}

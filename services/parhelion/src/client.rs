//! Connections of the command-line tools.

use parhelion_client::{Client, ClientConfig, Identity};

use crate::cli::ServerArgs;
use crate::output::Failure;

/// As whom a tool talks to a node.
#[derive(Clone, Copy, Debug)]
pub enum As {
    /// Creates, appends, reads.
    Client,
    /// Promotes, digests.
    Admin,
}

/// Connects to the node that the arguments name.
pub async fn connect(server: &ServerArgs, role: As) -> Result<Client, Failure> {
    let name = match role {
        As::Client => "client",
        As::Admin => "admin",
    };
    let identity = Identity::load_from(&server.pki, name).map_err(Failure::new)?;
    Ok(Client::connect(ClientConfig::new(server.address, identity)).await?)
}

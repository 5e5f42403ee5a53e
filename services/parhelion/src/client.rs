//! Connections of the command-line tools.

use parhelion_client::{Client, ClientConfig, Identity};

use crate::cli::ServerArgs;
use crate::output::Failure;

/// As whom a tool talks to a node.
#[derive(Clone, Copy, Debug)]
pub enum As {
    /// Creates, appends, reads.
    Client,
    /// Promotes, digests, changes codes.
    Admin,
}

/// Connects to the node that the arguments name.
pub async fn connect(server: &ServerArgs, role: As) -> Result<Client, Failure> {
    connect_with(server, role, |_| {}).await
}

/// Connects with other settings than the usual ones.
pub async fn connect_with(
    server: &ServerArgs,
    role: As,
    change: impl FnOnce(&mut ClientConfig),
) -> Result<Client, Failure> {
    let name = match role {
        As::Client => "client",
        As::Admin => "admin",
    };
    let name = server.certificate.as_deref().unwrap_or(name);
    let identity = Identity::load_from(&server.pki, name).map_err(Failure::new)?;
    let mut config = ClientConfig::new(server.address, identity);
    change(&mut config);
    Ok(Client::connect(config).await?)
}

//! The certificate of this node, as its settings name it.

use std::time::SystemTime;

use parhelion_gate::{Identity, TlsError};
use parhelion_types::SiteId;

use crate::settings::Settings;

/// Loads it with its key and the authority, and finds what would keep the node from serving with it: a key of another
/// certificate, another site, a role too few.
///
/// One that peers refuse today, because it has expired, is none of this: the node may be asked over plain HTTP, and
/// its peers say what is wrong. [`check`] finds that too.
pub fn load(settings: &Settings) -> Result<Identity, TlsError> {
    let identity = Identity::load_from(&settings.tls.directory, &settings.certificate())?;
    identity.check_node(SiteId(settings.node.site), &settings.node.roles)?;
    identity.server_config(&[])?;
    Ok(identity)
}

/// Loads it and checks that peers accept it at `now`.
pub fn check(settings: &Settings, now: SystemTime) -> Result<Identity, TlsError> {
    let identity = load(settings)?;
    identity.check_trusted(now)?;
    Ok(identity)
}

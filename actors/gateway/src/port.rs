//! A storage node's place in a gateway.

use std::fmt;

use parhelion_types::{Error, NodeId};

/// A storage node at a gateway, from its joining to its leaving. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub(crate) u64);

/// Where a storage node is, seen from the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the gateway's process.
    Local,
    /// At the other end of a connection.
    Remote,
}

/// Whether a node may take the place of one with its number. A connection replaces an older one, which the
/// node lost and the gateway has yet to miss; anything else is two nodes with one number.
pub(crate) fn check_place(node: NodeId, old: Place, new: Place) -> Result<(), Error> {
    if (old, new) == (Place::Remote, Place::Remote) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "storage node {node} has joined already, {old}, and another one of that number comes {new}; give each node \
         of the site a number of its own"
    )))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "in the link node's process",
            Self::Remote => "over the network",
        })
    }
}

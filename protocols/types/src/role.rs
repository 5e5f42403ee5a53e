//! What a node does and what a certificate allows.

use std::fmt;
use std::str::FromStr;

/// A role of a node, or the role its certificate was issued for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Reads status, promotes mirrors, changes parameters; may do all a client may.
    Admin,
    /// Creates, appends, reads and frees.
    Client,
    /// Joins its site's storage nodes to the other site.
    Link,
    /// Knows which logs exist and where they live.
    Metadata,
    /// Owns the segments of logs.
    Storage,
}

/// A word that names no role.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown role {0:?}; use one of: admin, client, link, metadata, storage")]
pub struct UnknownRole(String);

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Admin, Self::Client, Self::Link, Self::Metadata, Self::Storage];

    /// Whether this is a role of a node, and not of a client or an operator.
    #[must_use]
    pub fn is_node(self) -> bool {
        !matches!(self, Self::Admin | Self::Client)
    }

    /// The role's name in certificates and configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Client => "client",
            Self::Link => "link",
            Self::Metadata => "metadata",
            Self::Storage => "storage",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.name() == word).ok_or_else(|| UnknownRole(word.to_owned()))
    }
}

//! The five configurations that SMFS compares (section 5.2).

use std::fmt;
use std::str::FromStr;

use parhelion_types::Durability;
use serde::{Deserialize, Serialize};

/// When an append is acknowledged, and whether the link protects it with a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Acknowledged once durable here; mirrored over TCP.
    #[serde(rename = "local-sync")]
    LocalSync,
    /// Acknowledged once durable here; mirrored with a code.
    #[serde(rename = "local-sync+fec")]
    LocalSyncFec,
    /// Acknowledged once durable here and the promised risk is met by what is on the wire.
    #[serde(rename = "network-sync")]
    NetworkSync,
    /// Acknowledged once durable at both sites; mirrored over TCP.
    #[serde(rename = "remote-sync")]
    RemoteSync,
    /// Acknowledged once durable at both sites; mirrored with a code.
    #[serde(rename = "remote-sync+fec")]
    RemoteSyncFec,
}

/// A word that names no mode.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "unknown mode {0:?}; use one of: local-sync, local-sync+fec, network-sync, remote-sync, remote-sync+fec, all"
)]
pub struct UnknownMode(String);

impl Mode {
    /// Every mode, in the order of the paper's figures.
    pub const ALL: [Self; 5] =
        [Self::LocalSync, Self::LocalSyncFec, Self::NetworkSync, Self::RemoteSync, Self::RemoteSyncFec];

    /// The mode's name, as the paper writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LocalSync => "local-sync",
            Self::LocalSyncFec => "local-sync+fec",
            Self::NetworkSync => "network-sync",
            Self::RemoteSync => "remote-sync",
            Self::RemoteSyncFec => "remote-sync+fec",
        }
    }

    /// The level that the writers ask for.
    #[must_use]
    pub fn durability(self) -> Durability {
        match self {
            Self::LocalSync | Self::LocalSyncFec => Durability::Local,
            Self::NetworkSync => Durability::Network,
            Self::RemoteSync | Self::RemoteSyncFec => Durability::Remote,
        }
    }

    /// Whether records travel under a code, as QUIC datagrams; else over TCP.
    #[must_use]
    pub fn has_code(self) -> bool {
        matches!(self, Self::LocalSyncFec | Self::NetworkSync | Self::RemoteSyncFec)
    }

    /// Reads a list such as `local-sync,network-sync`, or `all`. Sorted, none twice.
    ///
    /// # Errors
    /// A word names no mode.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, UnknownMode> {
        if text == "all" {
            return Ok(Self::ALL.to_vec());
        }
        let mut modes = text.split(',').map(|word| word.trim().parse()).collect::<Result<Vec<_>, _>>()?;
        modes.sort_unstable();
        modes.dedup();
        Ok(modes)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|mode| mode.name() == word).ok_or_else(|| UnknownMode(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_to_one_in_text_and_json() {
        for mode in Mode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
            assert_eq!(serde_json::to_string(&mode).unwrap(), format!("{:?}", mode.name()));
        }
        assert_eq!(Mode::parse_list("all"), Ok(Mode::ALL.to_vec()));
        let list = Mode::parse_list("network-sync, local-sync,network-sync");
        assert_eq!(list, Ok(vec![Mode::LocalSync, Mode::NetworkSync]));
        let error = Mode::parse_list("local-sync,sync").unwrap_err();
        assert!(error.to_string().starts_with("unknown mode \"sync\"; use one of: local-sync"));
    }
}

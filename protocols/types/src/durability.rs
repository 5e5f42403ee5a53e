//! What an acknowledgement promises, and what happens when the promise cannot be kept in time.

use std::fmt;
use std::str::FromStr;

/// When an append is acknowledged (SMFS sections 3.1 and 5.2). Ordered by strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Durable at this site; sent to the mirror, but nothing waited for.
    Local,
    /// Durable at this site, and enough repair data is on the wire to meet the asked risk.
    Network,
    /// Durable at both sites.
    Remote,
}

/// What to do with an append whose level is not reached by its deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Degrade {
    /// Wait on; the deadline only raises an alarm.
    #[default]
    Block,
    /// Acknowledge at the level reached, and say so in the acknowledgement.
    Degrade,
    /// Answer `Unavailable`. The outcome is unknown; the request id makes a retry safe.
    Fail,
}

/// A word that names no level or policy.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown {what} {word:?}; use one of: {known}")]
pub struct UnknownLevel {
    what: &'static str,
    word: String,
    known: &'static str,
}

impl Durability {
    /// Every level, weakest first.
    pub const ALL: [Self; 3] = [Self::Local, Self::Network, Self::Remote];

    /// The level's name, as users write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Network => "network",
            Self::Remote => "remote",
        }
    }

    /// The level's number on the wire and on disk.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Local => 0,
            Self::Network => 1,
            Self::Remote => 2,
        }
    }

    /// The level with that number, if there is one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.code() == code)
    }
}

impl Degrade {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Block, Self::Degrade, Self::Fail];

    /// The policy's name, as users write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Degrade => "degrade",
            Self::Fail => "fail",
        }
    }

    /// The policy's number on the wire and on disk.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Block => 0,
            Self::Degrade => 1,
            Self::Fail => 2,
        }
    }

    /// The policy with that number, if there is one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.code() == code)
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Degrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Durability {
    type Err = UnknownLevel;
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|level| level.name() == word).ok_or_else(|| UnknownLevel {
            what: "durability",
            word: word.to_owned(),
            known: "local, network, remote",
        })
    }
}

impl FromStr for Degrade {
    type Err = UnknownLevel;
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|policy| policy.name() == word).ok_or_else(|| UnknownLevel {
            what: "degrade policy",
            word: word.to_owned(),
            known: "block, degrade, fail",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_one_to_one() {
        for level in Durability::ALL {
            assert_eq!(level.name().parse(), Ok(level));
            assert_eq!(Durability::from_code(level.code()), Some(level));
        }
        for policy in Degrade::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
            assert_eq!(Degrade::from_code(policy.code()), Some(policy));
        }
        assert_eq!(Durability::from_code(3), None);
        let error = "maybe".parse::<Durability>().unwrap_err();
        assert_eq!(error.to_string(), "unknown durability \"maybe\"; use one of: local, network, remote");
    }
}

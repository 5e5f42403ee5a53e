//! What is emulated: two directions between two sites, and the ports of the relay form.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{Class, LinkConfig, WanError};

/// One end of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The first site; the primary in a drill's opening.
    A,
    /// The second site.
    B,
}

impl Side {
    /// Both ends.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The side's address in the packet form.
    #[must_use]
    pub fn address(self) -> IpAddr {
        IpAddr::V4(match self {
            Self::A => Ipv4Addr::new(10, 77, 0, 1),
            Self::B => Ipv4Addr::new(10, 77, 0, 2),
        })
    }

    /// The direction of what this side sends.
    #[must_use]
    pub fn outbound(self) -> Direction {
        match self {
            Self::A => Direction::AToB,
            Self::B => Direction::BToA,
        }
    }

    /// The direction of what this side receives.
    #[must_use]
    pub fn inbound(self) -> Direction {
        self.other().outbound()
    }

    /// The other end.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// One of the link's two directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// What site A sends.
    AToB,
    /// What site B sends.
    BToA,
}

impl Direction {
    /// Both directions.
    pub const BOTH: [Self; 2] = [Self::AToB, Self::BToA];

    /// The direction's place in arrays that have one entry for each.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::AToB => 0,
            Self::BToA => 1,
        }
    }
}

/// The whole link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WanConfig {
    /// What the randomness of both directions follows from.
    pub seed: u64,
    /// What site A sends.
    pub a_to_b: LinkConfig,
    /// What site B sends.
    pub b_to_a: LinkConfig,
}

impl WanConfig {
    /// The same figures in both directions; the directions still lose different packets.
    #[must_use]
    pub fn symmetric(seed: u64, link: LinkConfig) -> Self {
        Self { seed, a_to_b: link.clone(), b_to_a: link }
    }

    /// The figures of one direction.
    #[must_use]
    pub fn link(&self, direction: Direction) -> &LinkConfig {
        match direction {
            Direction::AToB => &self.a_to_b,
            Direction::BToA => &self.b_to_a,
        }
    }

    /// Checks both directions.
    ///
    /// # Errors
    ///
    /// [`WanError::Invalid`] names the first figure that is out of range.
    pub fn validate(&self) -> Result<(), WanError> {
        Direction::BOTH.iter().try_for_each(|direction| self.link(*direction).validate())
    }
}

/// Which transport a relayed port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Datagrams: delayed, lost, duplicated and reordered as configured.
    Udp,
    /// Byte streams: delayed and held to the rate, never lost.
    Tcp,
}

/// A port of the relay form: who connects to it reaches `target` across the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayFlow {
    /// UDP or TCP.
    pub transport: Transport,
    /// The site of those who connect. What they send crosses [`Side::outbound`] of it.
    pub from: Side,
    /// Where to listen; port 0 lets the system choose, and the emulator reports its choice.
    pub listen: SocketAddr,
    /// The server across the link.
    pub target: SocketAddr,
    /// A relay sees no DSCP, so the port decides which queue its packets join, in both directions.
    pub class: Class,
}

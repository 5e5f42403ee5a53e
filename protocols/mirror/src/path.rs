//! The safety path of an append: what happened to it, when, and what it was worth then.

use parhelion_types::{Risk, Time};

/// One step of the path.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What happened.
    pub kind: StageKind,
    /// When.
    pub at: Time,
    /// Repairs on the wire for every symbol of the append.
    pub repairs: u32,
    /// Repairs at complete coverage.
    pub repairs_full: u32,
    /// Own risk from then on.
    pub own: Risk,
    /// Prefix risk from then on.
    pub prefix: Risk,
    /// Why it mattered, in words.
    pub note: String,
}

/// What can happen to an append, in the order in which it usually does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StageKind {
    /// It has an address; from here on it will be stored unless the node dies first.
    Accepted,
    /// Its announcement is on the wire.
    Announced,
    /// Every byte of it is on the wire.
    Sent,
    /// One more repair is on the wire for every symbol of it.
    Covered,
    /// It is durable at this site.
    Durable,
    /// It is durable at the mirror.
    Mirrored,
    /// The client was told.
    Acknowledged,
}

impl StageKind {
    /// The name in answers and traces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Announced => "announced",
            Self::Sent => "sent",
            Self::Covered => "covered",
            Self::Durable => "durable",
            Self::Mirrored => "mirrored",
            Self::Acknowledged => "acknowledged",
        }
    }
}

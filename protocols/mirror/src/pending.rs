//! An append that waits for its acknowledgement.

use std::sync::Arc;

use parhelion_types::{Durability, Epoch, LogAddress, RecordKey, Risk, Time, TraceContext};

use crate::input::Token;
use crate::path::{Stage, StageKind};

/// The acknowledgement of an append.
#[derive(Clone, Debug)]
pub struct Acked {
    /// The record.
    pub key: RecordKey,
    /// Where it is, at both sites.
    pub address: LogAddress,
    /// The level reached.
    pub reached: Durability,
    /// Whether that is below what was asked, by the degrade policy.
    pub degraded: bool,
    /// Whether an earlier append with the same request id is acknowledged again.
    pub duplicate: bool,
    /// Bound on the risk of this append at this moment.
    pub own: Risk,
    /// Bound on the risk of this append or an earlier one of its log that the mirror lacks.
    pub prefix: Risk,
    /// P(the bounds hold).
    pub confidence: f64,
    /// The durability model.
    pub model: Arc<str>,
    /// The code in force, for people.
    pub code: Arc<str>,
    /// The primary's epoch.
    pub epoch: Epoch,
    /// When the append was accepted.
    pub accepted: Time,
    /// When it was acknowledged.
    pub acknowledged: Time,
    /// The trace it belongs to.
    pub trace: TraceContext,
    /// The safety path, where it was asked for or is traced.
    pub path: Vec<Stage>,
}

#[derive(Debug)]
pub(crate) struct Pending {
    pub token: Token,
    pub number: u64,
    pub address: LogAddress,
    pub asked: Durability,
    pub max_risk: Risk,
    /// When the log's degrade policy applies.
    pub deadline: Time,
    /// Whether the deadline has passed and the log's policy is to wait on.
    pub overdue: bool,
    pub duplicate: bool,
    pub accepted: Time,
    pub trace: TraceContext,
    /// The path so far; none where nobody will read it.
    pub path: Option<Vec<Stage>>,
    /// Stages that were reached, so that each is told once.
    pub seen: Seen,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub announced: bool,
    pub sent: bool,
    pub repairs: u32,
    pub durable: bool,
    pub mirrored: bool,
}

impl Pending {
    pub fn tell(&mut self, stage: Stage) {
        if let Some(path) = &mut self.path {
            path.push(stage);
        }
    }
}

impl Stage {
    pub(crate) fn plain(kind: StageKind, at: Time, note: &str) -> Self {
        Self {
            kind,
            at,
            repairs: 0,
            repairs_full: 0,
            own: Risk::CERTAIN,
            prefix: Risk::CERTAIN,
            note: note.to_owned(),
        }
    }
}

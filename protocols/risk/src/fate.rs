//! What becomes of an append after its coverage was complete: did the mirror need more?

use std::time::Duration;

use parhelion_types::{Risk, Time};

use crate::ledger::WireState;
use crate::pricer::{CodeGeneration, Pricer};
use crate::track_record::{Failure, Promise};

/// Follows one append from the hand-over to the link to its confirmation.
///
/// # What counts
/// The promise is what the model says when the coverage of the append is complete for the first time, with nothing of
/// it reported missing since its last symbol left. It is made then and not later, so that whether an append counts does not depend on how it
/// ended. Copies of lost symbols promise nothing new, and of an append that was reported missing earlier nothing was
/// promised. Nor does a promise count that is above [`PROMISE_MAX`].
///
/// # When a promise has failed
/// The mirror reports a symbol missing when its repairs are overdue by [`REPAIR_WAIT`] or more after the gap was seen. In
/// a busy stream repairs of wide groups leave later than that: then the report only says that they have not come *yet*, and
/// as often as not they do. It took `took` from the last symbol of the append until the last repair had left. Repairs that
/// were under way when the report was written have come, and their news is here, once as much time has passed again; a
/// copy that was sent because of the report takes a round trip.
///
/// - `took` within [`REPAIR_WAIT`]: all repairs were there when the report was written, so they failed.
/// - Longer: they failed if the append is still missing `took` after the report.
///
/// Where repairs take longer than a round trip the two cannot be told apart, and nothing counts as failed. Then nothing may
/// count as kept either: what could not have been seen to fail says nothing.
#[derive(Debug)]
pub(crate) enum Fate {
    /// With the link.
    New,
    /// All its symbols have left since then.
    Sent(Time),
    /// Its coverage was complete `at` that time, so long after its symbols had left.
    Promised { own: Risk, took: Duration, at: Time },
    /// Reported missing; repairs may be on their way.
    Doubted(Box<Doubt>),
    /// Nothing more is to be learned from it.
    Known,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Doubt {
    failure: Failure,
    took: Duration,
    /// When its coverage was complete.
    covered: Time,
}

/// Own risks above it are no promise: the level `network` is rarely asked for with more, and a few of them, as there are
/// until a new link has been measured, would outweigh all the others in a sum.
const PROMISE_MAX: f64 = 1e-3;

/// The mirror waits at least so long for repairs: the `repair_delay` of the link, to which it adds the pauses of flushes.
const REPAIR_WAIT: Duration = Duration::from_millis(10);

impl Fate {
    /// What is on the wire changes from `before` to `wire`, which the model prices at `own`; whether that
    /// shows that a promise has failed.
    pub(crate) fn follow(
        &mut self,
        now: Time,
        before: Option<&WireState>,
        wire: &WireState,
        own: Risk,
        since: CodeGeneration,
        pricer: &Pricer,
    ) -> Option<Failure> {
        let coverage = wire.exposure.coverage;
        match *self {
            Self::New | Self::Sent(_) if wire.sent && wire.complete => {
                let left = if let Self::Sent(at) = *self { at } else { now };
                // Without repairs is complete what the code makes none for, and what is sent again.
                let is_first = coverage != 0 || !pricer.makes_repairs(since);
                *self = match is_first && own.probability() <= PROMISE_MAX {
                    true => Self::Promised { own, took: now.since(left), at: now },
                    false => Self::Known,
                };
                None
            }
            Self::New if wire.sent => {
                *self = Self::Sent(now);
                None
            }
            // Reported missing, before anything was promised.
            Self::Sent(_) if !wire.sent => {
                *self = Self::Known;
                None
            }
            Self::Promised { own, took, at } => {
                let exposure = before?.exposure;
                let is_missing = !wire.sent || (coverage == 0 && exposure.coverage != 0);
                if !is_missing {
                    return None;
                }
                let failure = Failure { promise: Promise { exposure, since, own }, reported: now };
                if took <= REPAIR_WAIT || exposure.coverage == 0 {
                    *self = Self::Known;
                    return Some(failure);
                }
                *self = Self::Doubted(Box::new(Doubt { failure, took, covered: at }));
                None
            }
            Self::Doubted(ref doubt) if wire.sent && coverage != 0 => {
                let Doubt { failure, took, covered } = **doubt;
                if doubt.is_failed(now) {
                    *self = Self::Known;
                    return Some(failure);
                }
                *self = Self::Promised { own: failure.promise.own, took, at: covered };
                None
            }
            _ => None,
        }
    }

    /// The mirror has it: what was promised of it, and kept, or the failure that this ends.
    pub(crate) fn end(self, now: Time) -> Result<f64, Failure> {
        match self {
            Self::Promised { own, took, at } if took <= REPAIR_WAIT || now.since(at) > took => {
                Ok(own.probability())
            }
            Self::Doubted(doubt) if doubt.is_failed(now) => Err(doubt.failure),
            _ => Ok(0.0),
        }
    }
}

impl Doubt {
    fn is_failed(&self, now: Time) -> bool {
        now.since(self.failure.reported) > self.took
    }
}

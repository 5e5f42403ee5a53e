//! What the cores tell an operator: one log line each.

use parhelion_mirror::{Event, ReplicaEvent};
use parhelion_risk::Verdict;

pub(crate) fn log_event(event: &Event) {
    match event {
        Event::Judged(Verdict { factor: 1.0, .. }) => {
            tracing::info!(
                "what was lost beyond repair is within what was promised again; risks are not multiplied any more"
            );
        }
        Event::Judged(Verdict { factor, horizon, tally }) => {
            let (failed, promised) = (tally.failed, tally.promised);
            tracing::warn!(
                "promises of risk are multiplied by {factor:.1}: {failed} appends were lost on the line beyond repair, {} bad spells, \
                 where {promised:.2e} were promised in {horizon}; the level network waits for the mirror unless more is allowed",
                tally.episodes
            );
        }
        Event::Overdue { key, asked } => {
            let (log, number) = (key.log, key.number);
            tracing::warn!(%log, number, %asked, "append is overdue; its log's policy is to block");
        }
        Event::Degraded { key, asked } => {
            let (log, number) = (key.log, key.number);
            tracing::warn!(%log, number, %asked, "append was acknowledged below the level asked");
        }
        Event::Spilled { log } => {
            tracing::info!(%log, "link buffer is full; the mirror is fed from the log's segments");
        }
        Event::CaughtUp { log } => tracing::info!(%log, "the mirror has caught up"),
        Event::Ahead { log, mirror, here } => {
            tracing::warn!(%log, mirror, here, "the mirror has records that were lost here unacknowledged; cutting it back");
        }
        Event::Diverged { log, mirror, here } => {
            tracing::error!(%log, mirror, here, "the mirror holds more of the log than this site; not feeding it");
        }
        Event::Refused { log } => {
            tracing::error!(%log, "the mirror cannot take the log, its status says why; the others go on");
        }
        Event::Unknown { log } => {
            tracing::warn!(%log, "the mirror has a log that this site has not; its number is not used again");
        }
        Event::BacklogFailed { log, reason, pause: Some(pause) } => {
            tracing::warn!(%log, %reason, ?pause, "the log cannot be read to feed the mirror; trying again after a pause");
        }
        Event::BacklogFailed { log, reason, pause: None } => {
            tracing::error!(%log, %reason, "the log cannot be read to feed the mirror; trying in the next session");
        }
    }
}

pub(crate) fn log_replica_event(event: &ReplicaEvent) {
    match event {
        ReplicaEvent::Diverged { log, reason } => {
            tracing::error!(%log, %reason, "the primary's log is no continuation of the mirror's; not applying it");
        }
        ReplicaEvent::Rewound { log, from, to } => {
            tracing::warn!(%log, from, to, "the primary lost records in a crash; cutting the log back to what it has");
        }
        ReplicaEvent::Unlisted { log } => {
            tracing::warn!(%log, "more appends are announced and missing than can be listed; a promotion will count them all");
        }
        ReplicaEvent::Malformed { reason } => tracing::error!(%reason, "bytes from the link are no record"),
        ReplicaEvent::WriteFailed { log, reason } => {
            tracing::error!(%log, %reason, "the log cannot be written; restart the node when the disk is well");
        }
    }
}

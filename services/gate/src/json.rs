//! Answers as JSON, over HTTP and from the command line. Numbers that are names (request ids) are text: JSON readers round
//! large numbers.

use parhelion_types::RequestId;
use serde_json::{Value, json};

use crate::backend::{Appended, LogState, Stage};

/// The acknowledgement of an append.
#[must_use]
pub fn appended(appended: &Appended, request: RequestId) -> Value {
    json!({
        "log": appended.log.0,
        "address": appended.address.to_string(),
        "reached": appended.reached.name(),
        "degraded": appended.degraded,
        "duplicate": appended.duplicate,
        "own_risk": appended.own_risk.probability(),
        "prefix_risk": appended.prefix_risk.probability(),
        "confidence": appended.confidence,
        "model": appended.model,
        "code": appended.code,
        "epoch": appended.epoch.0,
        "request_id": request.to_string(),
        "path": appended.path.iter().map(stage).collect::<Vec<_>>(),
    })
}

/// The state of a log.
#[must_use]
pub fn log(log: &LogState) -> Value {
    json!({
        "log": log.log.0,
        "name": log.name,
        "epoch": log.epoch.0,
        "degrade": log.degrade.name(),
        "records": log.records,
        "bytes": log.bytes,
        "end": log.end.to_string(),
        "mirrored_records": log.mirrored_records,
        "freed": log.freed,
        "refusal": log.refusal.map(|kind| kind.name()),
    })
}

fn stage(stage: &Stage) -> Value {
    json!({
        "stage": stage.stage,
        "micros": u64::try_from(stage.after.as_micros()).unwrap_or(u64::MAX),
        "repairs": stage.repairs,
        "repairs_full": stage.repairs_full,
        "own_risk": stage.own_risk.probability(),
        "prefix_risk": stage.prefix_risk.probability(),
        "note": stage.note,
    })
}

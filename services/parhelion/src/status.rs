//! What a status tells of logs: totals over all of them, and one by one those that most need a look.
//!
//! A node may have 65 536 logs; a message holds some thousands. `parhelion log list` lists them all, page by page.

use std::cmp::Reverse;

use parhelion_actor_runtime::Clock;
use parhelion_mirror::{LogStatus, ReplicaLog};
use parhelion_storage::SiteStatus;
use parhelion_types::Error;
use serde_json::{Map, Value, json};

/// Logs that a status shows one by one: those that take no records, then those that lag most, then the first ones.
pub const LOGS_SHOWN: usize = 256;
/// Characters that are told of why a log takes no records; a path may be long.
const REFUSAL_CHARS: usize = 1024;
/// Totals of which a site has the largest of its nodes. Of all others it has the sum.
const LARGEST: [&str; 2] = ["lag_seconds", "fenced_by"];

/// The logs of a storage node. A node without a mirror has no lag.
pub fn of_node(status: &SiteStatus, clock: &Clock, has_mirror: bool) -> Value {
    match status {
        SiteStatus::Primary { linked, unconfirmed_bytes, code, logs } => {
            let primary = PrimaryLogs { logs, clock, has_mirror };
            json!({
                "linked": linked, "unconfirmed_bytes": unconfirmed_bytes, "code": code,
                "totals": primary.totals(), "logs": primary.shown(),
            })
        }
        SiteStatus::Mirror { logs } => {
            let shown = most_urgent(logs, |log| (log.refusal.is_some(), (log.announced + log.held) as u64));
            let sum = |of: fn(&ReplicaLog) -> u64| logs.iter().map(of).sum::<u64>();
            json!({
                "totals": {
                    "logs": logs.len(), "applied": sum(|log| log.applied), "durable": sum(|log| log.durable),
                    "held": sum(|log| log.held as u64), "announced": sum(|log| log.announced as u64),
                    "refused": sum(|log| u64::from(log.refusal.is_some())),
                },
                "logs": shown.into_iter().map(|log| mirrored_log(log, clock)).collect::<Vec<_>>(),
            })
        }
    }
}

/// The logs of a site, from the statuses of its storage nodes; each log with its node.
pub fn of_site(nodes: &[&Value]) -> Value {
    let mut logs = Vec::new();
    for node in nodes {
        for log in node["logs"]["logs"].as_array().into_iter().flatten() {
            let mut log = log.clone();
            log["node"] = node["node"].clone();
            logs.push(log);
        }
    }
    logs.sort_by_key(|log| log["log"].as_u64());
    let number = |log: &Value, key: &str| log[key].as_u64().unwrap_or_default();
    let behind = |log: &Value| number(log, "lag_appends") + number(log, "announced") + number(log, "held");
    let shown: Vec<&Value> =
        most_urgent(&logs, |log| (log["refusal"].is_string() || log["feed"] == "refused", behind(log)));
    let mut all = Map::new();
    // A mirror knows nothing of these.
    if nodes.iter().any(|node| node["logs"]["linked"].is_boolean()) {
        let linked = nodes.iter().all(|node| node["logs"]["linked"] == json!(true));
        all.insert("linked".to_owned(), json!(linked));
        if let Some(code) = nodes.iter().map(|node| &node["logs"]["code"]).find(|code| code.is_string()) {
            all.insert("code".to_owned(), code.clone());
        }
        let bytes = nodes.iter().filter_map(|node| node["logs"]["unconfirmed_bytes"].as_u64());
        all.insert("unconfirmed_bytes".to_owned(), json!(bytes.sum::<u64>()));
    }
    all.insert("totals".to_owned(), totals(nodes));
    all.insert("logs".to_owned(), json!(shown));
    Value::Object(all)
}

struct PrimaryLogs<'a> {
    logs: &'a [LogStatus],
    clock: &'a Clock,
    has_mirror: bool,
}

impl PrimaryLogs<'_> {
    /// Whether there is anybody to lag.
    fn is_mirrored(&self, log: &LogStatus) -> bool {
        self.has_mirror && log.fenced_by.is_none()
    }

    fn lag_appends(&self, log: &LogStatus) -> Option<u64> {
        self.is_mirrored(log).then(|| log.records.saturating_sub(log.mirrored))
    }

    fn lag_seconds(&self, log: &LogStatus) -> Option<f64> {
        let seconds = |at| self.clock.now().since(at).as_secs_f64();
        self.is_mirrored(log).then(|| log.oldest_unmirrored.map_or(0.0, seconds))
    }

    fn totals(&self) -> Value {
        let Self { logs, has_mirror, .. } = *self;
        let sum = |of: &dyn Fn(&LogStatus) -> u64| logs.iter().map(of).sum::<u64>();
        let lagging = || logs.iter().filter(|log| self.is_mirrored(log));
        let oldest = lagging().filter_map(|log| self.lag_seconds(log)).fold(0.0, f64::max);
        json!({
            "logs": logs.len(), "records": sum(&|log| log.records), "waiting": sum(&|log| log.waiting as u64),
            "refused": sum(&|log| u64::from(log.refusal.is_some())),
            "refused_by_mirror": sum(&|log| u64::from(is_refused_by_mirror(log))),
            "lag_bytes": has_mirror.then(|| lagging().map(|log| log.lag_bytes).sum::<u64>()),
            "lag_appends": has_mirror.then(|| lagging().filter_map(|log| self.lag_appends(log)).sum::<u64>()),
            "lag_seconds": has_mirror.then_some(oldest),
            "fenced_by": logs.iter().filter_map(|log| log.fenced_by).max(),
        })
    }

    fn shown(&self) -> Vec<Value> {
        let urgency = |log: &LogStatus| {
            let is_refused = log.refusal.is_some() || is_refused_by_mirror(log);
            (is_refused, self.lag_appends(log).unwrap_or_default())
        };
        let show = |log: &LogStatus| {
            json!({
                "log": log.log.0, "name": log.name, "epoch": log.epoch, "degrade": log.degrade.name(),
                "records": log.records, "durable": log.durable, "mirrored": log.mirrored,
                "end": log.end.to_string(), "feed": log.feed, "waiting": log.waiting,
                "lag_bytes": self.is_mirrored(log).then_some(log.lag_bytes),
                "lag_appends": self.lag_appends(log), "lag_seconds": self.lag_seconds(log),
                "fenced_by": log.fenced_by, "refusal": refusal(log.refusal.as_ref()),
            })
        };
        most_urgent(self.logs, urgency).into_iter().map(show).collect()
    }
}

fn is_refused_by_mirror(log: &LogStatus) -> bool {
    log.feed == "refused"
}

fn mirrored_log(log: &ReplicaLog, clock: &Clock) -> Value {
    let age = clock.wall().0.saturating_sub(log.newest.0);
    json!({
        "log": log.log.0, "name": log.name, "epoch": log.epoch, "applied": log.applied,
        "durable": log.durable, "end": log.end.to_string(), "held": log.held,
        "announced": log.announced,
        // Unknown where no record was looked at yet.
        "age_seconds": (log.newest.0 > 0).then_some(age as f64 / 1e6),
        "refusal": refusal(log.refusal.as_ref()),
    })
}

fn refusal(refusal: Option<&Error>) -> Option<String> {
    Some(refusal?.to_string().chars().take(REFUSAL_CHARS).collect())
}

/// The logs to show, in their order.
fn most_urgent<T>(logs: &[T], urgency: impl Fn(&T) -> (bool, u64)) -> Vec<&T> {
    let mut order: Vec<(usize, &T)> = logs.iter().enumerate().collect();
    order.sort_by_key(|(place, log)| (Reverse(urgency(log)), *place));
    order.truncate(LOGS_SHOWN);
    order.sort_by_key(|(place, _)| *place);
    order.into_iter().map(|(_, log)| log).collect()
}

/// The totals of a site. What no node knows, the site does not.
fn totals(nodes: &[&Value]) -> Value {
    let mut all = Map::new();
    let parts = nodes.iter().filter_map(|node| node["logs"]["totals"].as_object());
    for (key, part) in parts.flatten() {
        let total = all.entry(key.clone()).or_insert(Value::Null);
        *total = match (total.as_u64(), part.as_u64()) {
            (Some(total), Some(part)) if !LARGEST.contains(&key.as_str()) => json!(total + part),
            _ if total.is_null() || part.as_f64() > total.as_f64() => part.clone(),
            _ => continue,
        };
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use parhelion_gate::Answer;
    use parhelion_types::limits::{LOG_NAME_BYTES_MAX, LOGS_MAX};
    use parhelion_types::{Degrade, ErrorKind, LogAddress, LogId, SourceTime, Time};

    use super::*;

    fn primary_log(log: u32) -> LogStatus {
        LogStatus {
            log: LogId(log),
            // Quotes take two bytes in JSON.
            name: "\"".repeat(LOG_NAME_BYTES_MAX),
            epoch: u32::MAX,
            degrade: Degrade::Degrade,
            records: 10,
            durable: 10,
            mirrored: 10,
            end: LogAddress::new(u32::MAX, u32::MAX),
            feed: "catching up",
            waiting: 1,
            lag_bytes: 0,
            oldest_unmirrored: None,
            freed: 0,
            refusal: None,
            fenced_by: None,
        }
    }

    fn mirror_log(log: u32) -> ReplicaLog {
        ReplicaLog {
            log: LogId(log),
            name: "\"".repeat(LOG_NAME_BYTES_MAX),
            degrade: Degrade::Degrade,
            epoch: u32::MAX,
            applied: 10,
            durable: 9,
            end: LogAddress::new(u32::MAX, u32::MAX),
            held: 0,
            announced: 0,
            newest: SourceTime(1),
            freed: 0,
            refusal: Some(Error::new(ErrorKind::Corrupt, "\"".repeat(10_000))),
        }
    }

    fn numbers(status: &Value) -> Vec<u64> {
        status["logs"].as_array().unwrap().iter().map(|log| log["log"].as_u64().unwrap()).collect()
    }

    fn primary(logs: Vec<LogStatus>, has_mirror: bool) -> Value {
        let status =
            SiteStatus::Primary { linked: true, unconfirmed_bytes: 7, code: "none".to_owned(), logs };
        of_node(&status, &Clock::start(), has_mirror)
    }

    #[test]
    fn the_status_of_the_most_logs_fits_a_message() {
        let all = 0..LOGS_MAX as u32;
        let clock = Clock::start();
        let mirror =
            of_node(&SiteStatus::Mirror { logs: all.clone().map(mirror_log).collect() }, &clock, false);
        let refused = |log| LogStatus { refusal: mirror_log(log).refusal, ..primary_log(log) };
        for logs in [primary(all.map(refused).collect(), true), mirror] {
            assert_eq!(logs["totals"]["logs"], LOGS_MAX);
            assert_eq!(logs["totals"]["refused"], LOGS_MAX);
            assert_eq!(numbers(&logs).len(), LOGS_SHOWN);
            let node = json!({ "node": 1, "logs": logs });
            let nodes = vec![&node; 8];
            let site = of_site(&nodes);
            assert_eq!(site["totals"]["logs"], 8 * LOGS_MAX);
            assert_eq!(site["logs"].as_array().unwrap().len(), LOGS_SHOWN);
            for document in [node, json!({ "logs": site })] {
                Answer::Status(document).to_frame(1).expect("it fits");
            }
        }
    }

    #[test]
    fn logs_that_need_a_look_are_shown_and_all_are_counted() {
        let mut logs: Vec<LogStatus> = (0..1000).map(primary_log).collect();
        logs[999].refusal = Some(Error::new(ErrorKind::Corrupt, "damaged"));
        for log in &mut logs[500..600] {
            (log.mirrored, log.lag_bytes) = (7, 100);
        }
        logs[550].oldest_unmirrored = Some(Time::ZERO);
        let alone = primary(logs.clone(), false);
        assert!(alone["totals"]["lag_appends"].is_null() && alone["totals"]["lag_seconds"].is_null());
        let status = primary(logs, true);
        let totals = &status["totals"];
        assert_eq!((&totals["logs"], &totals["records"]), (&1000.into(), &10_000.into()));
        assert_eq!((&totals["lag_appends"], &totals["lag_bytes"]), (&300.into(), &10_000.into()));
        assert_eq!((&totals["waiting"], &totals["refused"]), (&1000.into(), &1.into()));
        assert!(totals["lag_seconds"].as_f64().unwrap() >= 0.0 && totals["fenced_by"].is_null(), "{totals}");
        let wanted: Vec<u64> = (0..155).chain(500..600).chain([999]).collect();
        assert_eq!(numbers(&status), wanted);
    }

    #[test]
    fn a_site_has_the_sum_of_its_nodes_and_the_largest_age() {
        let node = |node: u32, appends: Option<u64>, seconds: f64, fenced_by: Option<u32>| {
            json!({ "node": node, "logs": {
                "linked": node != 3, "unconfirmed_bytes": 5, "code": "none",
                "totals": { "logs": 1, "lag_appends": appends, "lag_seconds": seconds, "fenced_by": fenced_by },
                "logs": [{ "log": 10 - node, "name": "n" }],
            } })
        };
        let nodes =
            [node(2, Some(7), 1.5, None), node(3, Some(4), 9.25, Some(6)), node(4, None, 0.0, Some(5))];
        let site = of_site(&nodes.iter().collect::<Vec<_>>());
        assert_eq!(
            site["totals"],
            json!({ "logs": 3, "lag_appends": 11, "lag_seconds": 9.25, "fenced_by": 6 })
        );
        assert_eq!((&site["linked"], &site["unconfirmed_bytes"]), (&false.into(), &15.into()));
        assert_eq!((numbers(&site), &site["logs"][0]["node"]), (vec![6, 7, 8], &4.into()));
        let mirror = json!({ "node": 1, "logs": { "totals": { "logs": 2, "held": 3 }, "logs": [] } });
        assert_eq!(of_site(&[&mirror]), json!({ "totals": { "logs": 2, "held": 3 }, "logs": [] }));
    }
}

//! `parhelion mirror`: how far the mirror is behind, promotion, comparison of sites.

use std::cell::Cell;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::Duration;

use parhelion_gate::{LogState, Missing};
use parhelion_types::{Error, ErrorKind, LogAddress, LogId};
use serde_json::{Value, json};

use crate::cli::{MirrorCommand, ServerArgs};
use crate::client::{As, connect, connect_with};
use crate::commands::{run, show};
use crate::output::{Exit, Failure, bytes, count, field, print_table, say, span};
use crate::progress;

/// Missing appends shown in a table; JSON has all that the answer lists.
const MISSING_SHOWN: usize = 20;
/// A mirror that is this far behind is looked at twice, to see which way it goes.
const LAG_WORTH_A_LOOK: Duration = Duration::from_secs(1);
/// Time between the two looks.
const LOOKS_APART: Duration = Duration::from_secs(1);
/// Reading a whole log may take as long as it takes.
const DIGEST_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Runs a command.
pub fn mirror(command: MirrorCommand) -> Result<Exit, Failure> {
    run(async move {
        match command {
            MirrorCommand::Status { server, max_lag, max_lag_bytes } => {
                status(&server, max_lag, max_lag_bytes.map(|limit| limit.as_u64())).await
            }
            MirrorCommand::Promote { server, dry_run, yes } => promote(&server, dry_run, yes).await,
            MirrorCommand::Verify { server, other } => verify(&server, other).await,
        }
    })
}

/// What the mirror of a primary lacks, over all logs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Lag {
    appends: u64,
    bytes: u64,
    /// Age of the oldest append that it lacks.
    seconds: f64,
}

impl Lag {
    /// From a node's status; nothing if it feeds no mirror.
    fn of(status: &Value) -> Option<Self> {
        if status["duty"] != "primary" {
            return None;
        }
        let mut lag = Self::default();
        for log in status["logs"]["logs"].as_array().into_iter().flatten() {
            lag.appends += log["lag_appends"].as_u64().unwrap_or_default();
            lag.bytes += log["lag_bytes"].as_u64().unwrap_or_default();
            lag.seconds = lag.seconds.max(log["lag_seconds"].as_f64().unwrap_or_default());
        }
        Some(lag)
    }

    fn age(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds).unwrap_or_default()
    }

    /// In words.
    fn text(&self) -> String {
        if self.appends == 0 {
            return "the mirror has everything".to_owned();
        }
        let (appends, bytes, age) = (count(self.appends), bytes(self.bytes), span(self.age()));
        format!("the mirror lacks {appends} appends, {bytes}; the oldest is {age} old")
    }

    fn json(&self) -> Value {
        json!({ "appends": self.appends, "bytes": self.bytes, "seconds": self.seconds })
    }
}

async fn status(
    server: &ServerArgs,
    max_lag: Option<Duration>,
    max_lag_bytes: Option<u64>,
) -> Result<Exit, Failure> {
    let client = connect(server, As::Client).await?;
    let mut status = client.status(false).await?;
    let lag = Lag::of(&status);
    let limited = max_lag.is_some() || max_lag_bytes.is_some();
    if limited && lag.is_none() {
        let duty = field(&status["duty"]);
        return Err(Error::invalid(format!(
            "the site at {} has the duty {duty}, and only a primary knows what its mirror lacks; ask the primary",
            server.address
        ))
        .into());
    }
    let silent_nodes = silent(&status).join(", ");
    if limited && !silent_nodes.is_empty() {
        return Err(Error::unavailable(format!(
            "the lag is not known: storage node {silent_nodes} of the site does not answer; start it, and ask again"
        ))
        .into());
    }
    let over = lag.map(|lag| {
        max_lag.is_some_and(|limit| lag.age() > limit) || max_lag_bytes.is_some_and(|limit| lag.bytes > limit)
    });
    status["lag"] = lag.map_or(Value::Null, |lag| lag.json());
    if limited {
        status["over_limit"] = json!(over);
    }
    if server.json {
        show(server, status, || {});
    } else {
        show_status(&status);
        if let Some(lag) = lag {
            say!("\n{}", lag.text());
            for node in silent(&status) {
                say!("WARNING: storage node {node} does not answer, and its logs are not in this; start it");
            }
            let hint = if lag.age() >= LAG_WORTH_A_LOOK {
                tokio::time::sleep(LOOKS_APART).await;
                let later = client.status(false).await?;
                Lag::of(&later).and_then(|now| hint(lag, now, &later))
            } else {
                None
            };
            if let Some(hint) = hint {
                say!("{hint}");
            }
        }
    }
    if over == Some(true) {
        if !server.json {
            say!("ALARM: that is over the limit");
        }
        return Ok(Exit::Found);
    }
    Ok(Exit::Done)
}

/// The storage nodes of a site of several that did not answer.
fn silent(status: &Value) -> Vec<String> {
    let is_silent = |node: &&Value| {
        let roles = node["roles"].as_array().map(Vec::as_slice).unwrap_or_default();
        node["reachable"] == false && roles.iter().any(|role| role == "storage")
    };
    let nodes = status["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    nodes.iter().filter(is_silent).map(|node| field(&node["node"])).collect()
}

/// What an operator should know of a lag that was looked at twice.
fn hint(before: Lag, now: Lag, status: &Value) -> Option<String> {
    if status["logs"]["linked"] == false {
        return Some(
            "WARNING: the link is down, and the lag grows with every append; the node's log says why"
                .to_owned(),
        );
    }
    let grown = now.bytes.saturating_sub(before.bytes);
    let per_second = bytes((grown as f64 / LOOKS_APART.as_secs_f64()) as u64);
    if now.seconds > before.seconds && grown > 0 {
        return Some(format!(
            "WARNING: the lag grows by {per_second} per second: more is written than the link carries; `parhelion link \
             status` shows what it carries, link.rate what it may"
        ));
    }
    let caught = bytes((before.bytes.saturating_sub(now.bytes) as f64 / LOOKS_APART.as_secs_f64()) as u64);
    (now.bytes < before.bytes).then(|| format!("the mirror is catching up by {caught} per second"))
}

fn show_status(status: &Value) {
    let link = match (&status["duty"], status["logs"]["linked"].as_bool()) {
        (duty, Some(up)) if duty == "primary" => format!(", link {}", if up { "up" } else { "down" }),
        _ => String::new(),
    };
    say!(
        "site {}, {}{link}, version {}\n",
        field(&status["site"]),
        field(&status["duty"]),
        field(&status["version"])
    );
    let logs = status["logs"]["logs"].as_array().map(Vec::as_slice).unwrap_or_default();
    if logs.is_empty() {
        say!("no logs");
    } else if status["duty"] == "mirror" {
        let row = |log: &Value| {
            let number = |key: &str| count(log[key].as_u64().unwrap_or_default());
            let age = log["age_seconds"].as_f64().and_then(|age| Duration::try_from_secs_f64(age).ok());
            [
                field(&log["log"]),
                field(&log["name"]),
                number("applied"),
                number("durable"),
                number("held"),
                number("announced"),
                age.map_or_else(|| "-".to_owned(), span),
            ]
        };
        let header = ["log", "name", "applied", "durable", "held", "announced", "newest is old"];
        print_table(header, logs.iter().map(row));
    } else if status["duty"] != "primary" {
        // Without a mirror there is nothing that it lacks.
        let row = |log: &Value| {
            [field(&log["log"]), field(&log["name"]), count(log["records"].as_u64().unwrap_or_default())]
        };
        print_table(["log", "name", "records"], logs.iter().map(row));
    } else {
        let row = |log: &Value| {
            let number = |key: &str| log[key].as_u64().unwrap_or_default();
            let age = Duration::try_from_secs_f64(log["lag_seconds"].as_f64().unwrap_or_default());
            [
                field(&log["log"]),
                field(&log["name"]),
                count(number("records")),
                count(number("mirrored")),
                field(&log["feed"]),
                count(number("lag_appends")),
                bytes(number("lag_bytes")),
                span(age.unwrap_or_default()),
            ]
        };
        let header = ["log", "name", "records", "mirrored", "feed", "lag", "lag bytes", "lag time"];
        print_table(header, logs.iter().map(row));
    }
    for log in logs {
        if let Some(refusal) = log["refusal"].as_str() {
            say!("log {} takes no records: {refusal}", field(&log["log"]));
        }
    }
    show_nodes(status);
}

/// The nodes of a site that has several.
fn show_nodes(status: &Value) {
    let Some(nodes) = status["nodes"].as_array() else { return };
    say!();
    let row = |node: &Value| {
        let roles: Vec<&str> =
            node["roles"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let reached = match node["reachable"].as_bool() {
            Some(true) => "yes".to_owned(),
            _ => format!("NO: {}", field(&node["reason"])),
        };
        [field(&node["node"]), roles.join(", "), field(&node["address"]), reached]
    };
    print_table(["node", "roles", "address", "answers"], nodes.iter().map(row));
}

async fn promote(server: &ServerArgs, dry_run: bool, yes: bool) -> Result<Exit, Failure> {
    if !dry_run && !yes && !confirmed("Make this mirror a primary? The old one is fenced for good. [y/N] ")? {
        return Err(Failure::new("not promoted; give --yes to skip the question"));
    }
    let client = connect(server, As::Admin).await?;
    let found = client.promote(dry_run).await?;
    let missing = |m: &Missing| {
        json!({
            "log": m.log.0, "address": m.address.to_string(), "length": m.length,
            "digest": format!("{:08x}", m.digest), "request": m.request.to_string(),
        })
    };
    let document = json!({
        "epoch": found.epoch.0, "logs": found.logs, "dry_run": dry_run, "missing_count": found.missing_count,
        "behind_gap_count": found.behind_gap_count, "missing": found.missing.iter().map(missing).collect::<Vec<_>>(),
    });
    show(server, document, || {
        let would = if dry_run { "would be " } else { "" };
        say!("{would}primary of {} logs under epoch {}", found.logs, found.epoch);
        say!(
            "{} appends were announced and cannot be shown; {} of them are here but lie behind a gap",
            count(found.missing_count),
            count(found.behind_gap_count)
        );
        if !found.missing.is_empty() {
            let row = |m: &Missing| {
                [m.log.to_string(), m.address.to_string(), m.length.to_string(), m.request.to_string()]
            };
            print_table(
                ["log", "address", "bytes", "request"],
                found.missing.iter().take(MISSING_SHOWN).map(row),
            );
            if let Some(more) = more_missing(found.missing.len() as u64, found.missing_count) {
                say!("{more}");
            }
        }
    });
    Ok(if found.missing_count > 0 { Exit::Found } else { Exit::Done })
}

/// What the table does not show of `missing` appends, `listed` of which the answer lists.
fn more_missing(listed: u64, missing: u64) -> Option<String> {
    let more = missing.saturating_sub(MISSING_SHOWN as u64);
    if more == 0 {
        return None;
    }
    let more = count(more);
    Some(if listed >= missing {
        format!("... and {more} more; --json lists them all")
    } else {
        let listed = count(listed);
        format!("... and {more} more; --json lists the first {listed}, which is all that an answer holds")
    })
}

/// What the comparison of one log found.
struct Compared {
    log: LogId,
    until: LogAddress,
    records: u64,
    verdict: &'static str,
}

const SAME: &str = "same";

async fn verify(server: &ServerArgs, other: SocketAddr) -> Result<Exit, Failure> {
    let patient = |config: &mut parhelion_client::ClientConfig| config.call_timeout = DIGEST_LIMIT;
    let here = connect_with(server, As::Admin, patient).await?;
    let there = connect_with(&ServerArgs { address: other, ..server.clone() }, As::Admin, patient).await?;
    let (ours, theirs) = tokio::try_join!(here.list(), there.list())?;
    let find = |logs: &[LogState], log: LogId| logs.iter().find(|state| state.log == log).cloned();
    let total = ours.iter().map(|log| log.bytes).sum();
    let done = Cell::new(0);
    let comparing = async {
        let mut rows = Vec::new();
        for log in &ours {
            let Some(twin) = find(&theirs, log.log) else {
                rows.push(Compared {
                    log: log.log,
                    until: LogAddress::default(),
                    records: 0,
                    verdict: "absent",
                });
                continue;
            };
            let until = log.end.min(twin.end);
            let (a, b) = tokio::try_join!(here.digest(log.log, until), there.digest(log.log, until))?;
            // A damaged log is read up to the damage; that it is the same so far says little.
            let is_damaged = [log, &twin].iter().any(|log| log.refusal == Some(ErrorKind::Corrupt));
            let verdict = match a == b {
                _ if is_damaged => "DAMAGED",
                true => SAME,
                false => "DIFFERENT",
            };
            rows.push(Compared { log: log.log, until, records: a.records, verdict });
            done.set(done.get() + log.bytes);
        }
        // What only the other site has is a difference too.
        for log in theirs.iter().filter(|log| find(&ours, log.log).is_none()) {
            let until = LogAddress::default();
            rows.push(Compared { log: log.log, until, records: 0, verdict: "absent here" });
        }
        Ok::<_, Error>(rows)
    };
    let rows = progress::watch("comparing".to_owned(), || (done.get(), total), comparing).await?;
    let same = rows.iter().all(|row| row.verdict == SAME);
    let document: Vec<Value> = rows
        .iter()
        .map(|Compared { log, until, records, verdict }| {
            json!({ "log": log.0, "until": until.to_string(), "records": records, "verdict": verdict })
        })
        .collect();
    show(server, json!({ "same": same, "logs": document }), || {
        let row = |Compared { log, until, records, verdict }: &Compared| {
            [log.to_string(), until.to_string(), count(*records), (*verdict).to_owned()]
        };
        print_table(["log", "up to", "records", "verdict"], rows.iter().map(row));
    });
    Ok(if same { Exit::Done } else { Exit::Found })
}

fn confirmed(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("{question}");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(Failure::new)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(linked: bool, lags: &[(u64, u64, f64)]) -> Value {
        let log = |(appends, bytes, seconds): &(u64, u64, f64)| json!({ "lag_appends": appends, "lag_bytes": bytes, "lag_seconds": seconds });
        let logs: Vec<Value> = lags.iter().map(log).collect();
        json!({ "duty": "primary", "logs": { "linked": linked, "logs": logs } })
    }

    #[test]
    fn what_a_table_of_missing_appends_leaves_out_is_told() {
        assert_eq!(more_missing(20, 20), None);
        assert_eq!(more_missing(1021, 1021).unwrap(), "... and 1 001 more; --json lists them all");
        let cut = more_missing(29_000, 50_020).unwrap();
        assert_eq!(
            cut,
            "... and 50 000 more; --json lists the first 29 000, which is all that an answer holds"
        );
    }

    #[test]
    fn the_lag_is_that_of_all_logs_and_of_the_oldest_append() {
        let lag = Lag::of(&status(true, &[(2, 3 << 20, 0.5), (0, 0, 0.0), (1, 1 << 20, 75.0)])).unwrap();
        assert_eq!(lag, Lag { appends: 3, bytes: 4 << 20, seconds: 75.0 });
        assert_eq!(lag.text(), "the mirror lacks 3 appends, 4.0 MiB; the oldest is 75.0 s old");
        assert_eq!(Lag::default().text(), "the mirror has everything");
        assert_eq!(Lag::of(&json!({ "duty": "mirror", "logs": {} })), None);
    }

    #[test]
    fn a_lag_that_grows_is_an_alarm() {
        let lag = |bytes, seconds| Lag { appends: 1, bytes, seconds };
        let up = status(true, &[]);
        let grows = hint(lag(1 << 20, 2.0), lag(3 << 20, 3.0), &up).unwrap();
        assert!(grows.contains("WARNING") && grows.contains("2.0 MiB per second"), "{grows}");
        let shrinks = hint(lag(3 << 20, 2.0), lag(1 << 20, 1.0), &up).unwrap();
        assert!(shrinks.contains("catching up by 2.0 MiB"), "{shrinks}");
        assert_eq!(hint(lag(1, 2.0), lag(1, 2.0), &up), None);
        let down = hint(lag(1, 2.0), lag(1, 3.0), &status(false, &[])).unwrap();
        assert!(down.contains("link is down"), "{down}");
    }
}

//! `parhelion mirror`: how far the mirror is behind, and whether the sites are the same.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use parhelion_gate::LogState;
use parhelion_types::{Error, ErrorKind, LogAddress, LogId};
use serde_json::{Value, json};

use crate::cli::{MirrorCommand, ServerArgs};
use crate::client::{As, connect, connect_with};
use crate::commands::{promotion, run, show};
use crate::output::{Exit, Failure, bytes, count, field, print_table, say, span};
use crate::progress;

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
            MirrorCommand::Promote { server, dry_run, yes } => {
                promotion::promote(&server, dry_run, yes).await
            }
            MirrorCommand::Missing { server } => promotion::missing(&server).await,
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
        if status["duty"] != "primary" || fenced_by(status).is_some() {
            return None;
        }
        let totals = &status["logs"]["totals"];
        Some(Self {
            appends: totals["lag_appends"].as_u64().unwrap_or_default(),
            bytes: totals["lag_bytes"].as_u64().unwrap_or_default(),
            seconds: totals["lag_seconds"].as_f64().unwrap_or_default(),
        })
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

/// The logs that a status shows one by one.
fn logs_of(status: &Value) -> &[Value] {
    status["logs"]["logs"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The epoch under which the other site was promoted, if this primary was told so.
fn fenced_by(status: &Value) -> Option<u64> {
    status["logs"]["totals"]["fenced_by"].as_u64()
}

/// Why a site that takes or took appends mirrors them to nobody, if so: then it has no lag.
fn mirrors_to_nobody(status: &Value) -> Option<String> {
    let why = match status["duty"].as_str() {
        Some("single") => "its duty is single".to_owned(),
        Some("promoted") => "it was promoted; give it a mirror as soon as you can".to_owned(),
        _ => {
            let epoch = fenced_by(status)?;
            format!("it is fenced by epoch {epoch}, under which the other site was promoted; append there")
        }
    };
    Some(format!("this site mirrors to nobody: {why}"))
}

async fn status(
    server: &ServerArgs,
    max_lag: Option<Duration>,
    max_lag_bytes: Option<u64>,
) -> Result<Exit, Failure> {
    let client = connect(server, As::Client).await?;
    let mut status = client.status().await?;
    let lag = Lag::of(&status);
    let limited = max_lag.is_some() || max_lag_bytes.is_some();
    let nobody = mirrors_to_nobody(&status);
    if limited && let Some(nobody) = &nobody {
        return Err(Error::invalid(format!(
            "the site at {} has no lag to compare with a limit, for {nobody}",
            server.address
        ))
        .into());
    }
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
    status["mirrors_to_nobody"] = json!(nobody);
    if limited {
        status["over_limit"] = json!(over);
    }
    if server.json {
        show(server, status, || {});
    } else {
        show_status(&status);
        if let Some(nobody) = nobody {
            say!("\n{nobody}");
        }
        if let Some(lag) = lag {
            say!("\n{}", lag.text());
            for node in silent(&status) {
                say!("WARNING: storage node {node} does not answer, and its logs are not in this; start it");
            }
            let hint = if lag.age() >= LAG_WORTH_A_LOOK {
                tokio::time::sleep(LOOKS_APART).await;
                let later = client.status().await?;
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
    let logs = logs_of(status);
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
    if let Some(more) = more_logs(status) {
        say!("{more}");
    }
    show_nodes(status);
}

/// What is said of the logs that a status does not show.
fn more_logs(status: &Value) -> Option<String> {
    let all = status["logs"]["totals"]["logs"].as_u64()?;
    let more = all.checked_sub(logs_of(status).len() as u64).filter(|&more| more > 0)?;
    Some(format!(
        "... and {} more logs; shown are those that take no records, then those that lag most. `parhelion log list` lists \
         all",
        count(more)
    ))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn status(linked: bool, lags: &[(u64, u64, f64)]) -> Value {
        let log = |(appends, bytes, seconds): &(u64, u64, f64)| json!({ "lag_appends": appends, "lag_bytes": bytes, "lag_seconds": seconds });
        let logs: Vec<Value> = lags.iter().map(log).collect();
        let totals = json!({
            "logs": lags.len(), "lag_appends": lags.iter().map(|lag| lag.0).sum::<u64>(),
            "lag_bytes": lags.iter().map(|lag| lag.1).sum::<u64>(),
            "lag_seconds": lags.iter().map(|lag| lag.2).fold(0.0, f64::max),
        });
        json!({ "duty": "primary", "logs": { "linked": linked, "totals": totals, "logs": logs } })
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
    fn a_site_that_mirrors_to_nobody_says_so_and_has_no_lag() {
        let mut fenced = status(false, &[(27, 18 << 20, 0.0), (1, 9, 3.0)]);
        assert_eq!(mirrors_to_nobody(&fenced), None);
        fenced["logs"]["totals"]["fenced_by"] = json!(4);
        assert_eq!(Lag::of(&fenced), None);
        let text = mirrors_to_nobody(&fenced).unwrap();
        assert!(text.starts_with("this site mirrors to nobody: it is fenced by epoch 4"), "{text}");
        for (duty, word) in [("single", "single"), ("promoted", "promoted")] {
            fenced["duty"] = json!(duty);
            assert_eq!(Lag::of(&fenced), None);
            assert!(mirrors_to_nobody(&fenced).unwrap().contains(word));
        }
        assert_eq!(mirrors_to_nobody(&json!({ "duty": "mirror", "logs": {} })), None);
    }

    #[test]
    fn logs_that_are_not_shown_are_counted() {
        let mut many = status(true, &[(0, 0, 0.0)]);
        assert_eq!(more_logs(&many), None);
        many["logs"]["totals"]["logs"] = json!(2001);
        let more = more_logs(&many).unwrap();
        assert!(more.starts_with("... and 2 000 more logs") && more.contains("log list"), "{more}");
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

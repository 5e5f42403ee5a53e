//! `parhelion mirror`: how far the mirror is behind, and what it lacks.

use std::time::Duration;

use parhelion_types::Error;
use serde_json::{Value, json};

use crate::cli::{MirrorCommand, ServerArgs};
use crate::client::{As, connect};
use crate::commands::{promotion, run, show, verify};
use crate::output::{Exit, Failure, bytes, count, counted, field, print_table, say, span};

/// A mirror that is this far behind is looked at twice, to see which way it goes.
const LAG_WORTH_A_LOOK: Duration = Duration::from_secs(1);
/// Time between the two looks.
const LOOKS_APART: Duration = Duration::from_secs(1);

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
            MirrorCommand::Verify { server, other } => verify::verify(&server, other).await,
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

    /// In words. Before the first session a primary knows only what it has stored and nobody confirmed; of a site of
    /// several nodes, only what those tell that answer.
    fn text(&self, status: &Value) -> String {
        if self.appends > 0 {
            let (appends, bytes, age) =
                (counted(self.appends, "append"), bytes(self.bytes), span(self.age()));
            return format!("the mirror lacks {appends}, {bytes}; the oldest is {age} old");
        }
        let text = match has_been_linked(status) {
            Some(true) if refused_by_mirror(status) > 0 => {
                "the mirror has everything of the logs that it can take"
            }
            Some(true) if silent(status).is_empty() => "the mirror has everything",
            Some(true) => "the mirror has everything that the nodes which answer have",
            Some(false) => "nothing waits for the mirror, but this node has not met it since it was started",
            None => "nothing waits for the mirror, as far as is known: the site's link node does not answer",
        };
        text.to_owned()
    }

    fn json(&self) -> Value {
        json!({ "appends": self.appends, "bytes": self.bytes, "seconds": self.seconds })
    }
}

/// The logs that a status shows one by one.
fn logs_of(status: &Value) -> &[Value] {
    status["logs"]["logs"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// How many logs the mirror cannot take. It may have less of them than it has confirmed.
fn refused_by_mirror(status: &Value) -> u64 {
    status["logs"]["totals"]["refused_by_mirror"].as_u64().unwrap_or_default()
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

/// Whether the link is up, as far as this site's status tells. Not of a site that has no link, or is not to use it.
fn link_is_up(status: &Value) -> Option<bool> {
    match status["duty"].as_str()? {
        "primary" if fenced_by(status).is_none() => status["logs"]["linked"].as_bool(),
        "mirror" => status["link"]["up"].as_u64().map(|up| up > 0),
        _ => None,
    }
}

/// Whether the link was ever up since the node that has it was started.
///
/// Not known while that node does not answer.
fn has_been_linked(status: &Value) -> Option<bool> {
    if link_is_up(status) == Some(true) {
        return Some(true);
    }
    Some(status["link"]["sessions"].as_u64()? > 0)
}

/// What an operator should know of a link that is down.
fn link_warning(status: &Value) -> Option<&'static str> {
    if link_is_up(status)? {
        return None;
    }
    Some(match (status["duty"] == "mirror", has_been_linked(status)) {
        (false, Some(true)) => {
            "WARNING: the link is down, and the lag grows with every append; the node's log says why"
        }
        (false, None) => "WARNING: the link is down, and the site's link node does not answer; start it",
        (false, Some(false)) => {
            "WARNING: the link is down and has not been up since this node was started, so nothing reaches the mirror; \
             the node's log says why"
        }
        (true, Some(true)) => {
            "WARNING: the link is down, and nothing arrives; the primary's log and this node's say why"
        }
        (true, Some(false) | None) => {
            "WARNING: the link is down, for no primary has connected since this node was started; look at the \
             primary's log and this node's"
        }
    })
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
    let over = lag.filter(|_| limited).map(|lag| {
        max_lag.is_some_and(|limit| lag.age() > limit)
            || max_lag_bytes.is_some_and(|limit| lag.bytes > limit)
            || refused_by_mirror(&status) > 0
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
        let warning = link_warning(&status);
        if let Some(lag) = lag {
            say!("\n{}", lag.text(&status));
            if let refused @ 1.. = refused_by_mirror(&status) {
                say!(
                    "WARNING: the mirror cannot take {}, and may have less of what it confirmed; its `parhelion mirror status` \
                     says why",
                    counted(refused, "log")
                );
            }
            for node in silent(&status) {
                say!("WARNING: storage node {node} does not answer, and its logs are not in this; start it");
            }
            let hint = match warning {
                Some(warning) => Some(warning.to_owned()),
                None if lag.age() >= LAG_WORTH_A_LOOK => {
                    tokio::time::sleep(LOOKS_APART).await;
                    let later = client.status().await?;
                    Lag::of(&later).and_then(|now| hint(lag, now, &later))
                }
                None => None,
            };
            if let Some(hint) = hint {
                say!("{hint}");
            }
        } else if let Some(warning) = warning {
            say!("\n{warning}");
        }
    }
    if over == Some(true) {
        if !server.json {
            say!("ALARM: that is over the limit, or a log is not mirrored");
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
    if let Some(warning) = link_warning(status) {
        return Some(warning.to_owned());
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

/// The first line of a status: which site, and what it can do now.
fn heading(status: &Value) -> String {
    let state = match (fenced_by(status), link_is_up(status)) {
        (Some(epoch), _) => format!(", fenced by epoch {epoch}"),
        (None, Some(up)) => format!(", link {}", if up { "up" } else { "down" }),
        (None, None) => String::new(),
    };
    let [site, duty, version] = ["site", "duty", "version"].map(|key| field(&status[key]));
    format!("site {site}, {duty}{state}, version {version}")
}

fn show_status(status: &Value) {
    say!("{}\n", heading(status));
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
        let header = ["log", "name", "applied", "durable", "held", "announced", "age of newest"];
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
        let met = json!({ "link": { "sessions": 1 } });
        let never = json!({ "link": { "sessions": 0 } });
        assert_eq!(lag.text(&met), "the mirror lacks 3 appends, 4.0 MiB; the oldest is 75.0 s old");
        assert!(Lag { appends: 1, ..lag }.text(&never).starts_with("the mirror lacks 1 append, 4.0 MiB;"));
        assert_eq!(Lag::default().text(&met), "the mirror has everything");
        assert!(Lag::default().text(&never).contains("has not met it"));
        assert!(Lag::default().text(&json!({})).contains("link node does not answer"));
        let node = json!({ "node": 2, "roles": ["storage"], "reachable": false });
        let silent = json!({ "link": { "sessions": 1 }, "nodes": [node] });
        assert!(Lag::default().text(&silent).contains("nodes which answer"));
        let refused = json!({ "link": { "sessions": 1 }, "logs": { "totals": { "refused_by_mirror": 2 } } });
        assert!(Lag::default().text(&refused).contains("that it can take"));
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
    fn a_link_that_is_down_is_told_at_both_sites() {
        let with = |duty: &str, up: u64, sessions: u64| {
            let link = json!({ "up": up, "sessions": sessions });
            let mut status = status(up > 0, &[]);
            (status["site"], status["version"]) = (json!(1), json!("0.1.0"));
            (status["duty"], status["link"]) = (json!(duty), link);
            status
        };
        for duty in ["primary", "mirror"] {
            let up = with(duty, 1, 1);
            assert_eq!(heading(&up), format!("site 1, {duty}, link up, version 0.1.0"));
            assert_eq!((link_warning(&up), has_been_linked(&up)), (None, Some(true)));
            let lost = with(duty, 0, 3);
            assert_eq!(heading(&lost), format!("site 1, {duty}, link down, version 0.1.0"));
            assert_eq!(has_been_linked(&lost), Some(true));
            assert!(!link_warning(&lost).unwrap().contains("since"));
            let never = with(duty, 0, 0);
            assert_eq!(has_been_linked(&never), Some(false));
            let warning = link_warning(&never).unwrap();
            assert!(
                warning.starts_with("WARNING: the link is down") && warning.contains("since"),
                "{warning}"
            );
        }
        // A site whose link node is silent, and sites that have no link.
        for (duty, linked) in [("mirror", None), ("promoted", Some(false)), ("single", None)] {
            let status = json!({ "duty": duty, "logs": { "linked": linked } });
            assert_eq!((link_is_up(&status), link_warning(&status)), (None, None), "{duty}");
        }
        let mut fenced = with("primary", 1, 1);
        fenced["logs"]["totals"]["fenced_by"] = json!(65_538);
        assert_eq!(heading(&fenced), "site 1, primary, fenced by epoch 65538, version 0.1.0");
        assert_eq!(link_warning(&fenced), None);
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

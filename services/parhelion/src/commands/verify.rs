//! `parhelion mirror verify`: whether two sites are the same.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use parhelion_gate::LogState;
use parhelion_types::{Error, ErrorKind, LogAddress, LogId};
use serde_json::{Value, json};

use crate::cli::ServerArgs;
use crate::client::{As, connect_with};
use crate::commands::show;
use crate::output::{Exit, Failure, count, print_table};
use crate::progress;

/// Reading a whole log may take as long as it takes.
const DIGEST_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Compares the digests of all logs at two sites, as far as both have them.
pub async fn verify(server: &ServerArgs, other: SocketAddr) -> Result<Exit, Failure> {
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

/// What the comparison of one log found.
struct Compared {
    log: LogId,
    until: LogAddress,
    records: u64,
    verdict: &'static str,
}

const SAME: &str = "same";

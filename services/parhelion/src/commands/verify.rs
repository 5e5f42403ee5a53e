//! `parhelion mirror verify`: whether two sites are the same.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use parhelion_client::Client;
use parhelion_gate::{LogDigest, LogState};
use parhelion_types::{Error, ErrorKind, LogAddress, LogId};
use serde_json::{Value, json};

use crate::cli::ServerArgs;
use crate::client::{As, connect_with};
use crate::commands::show;
use crate::output::{Exit, Failure, count, print_table, say};
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
                rows.push(Compared::absent(log.log, "absent"));
                continue;
            };
            let sites = [(&here, server.address), (&there, other)];
            let mut compared = compare(sites, log, &twin).await?;
            if compared.verdict == DIFFERENT {
                // What one site has may be on its way to the disk of the other, and is not read before.
                tokio::time::sleep(SYNC_LIMIT).await;
                compared = compare(sites, log, &twin).await?;
            }
            rows.push(compared);
            done.set(done.get() + log.bytes);
        }
        // What only the other site has is a difference too.
        for log in theirs.iter().filter(|log| find(&ours, log.log).is_none()) {
            rows.push(Compared::absent(log.log, "absent here"));
        }
        Ok::<_, Error>(rows)
    };
    let rows = progress::watch("comparing".to_owned(), || (done.get(), total), comparing).await?;
    let same = rows.iter().all(|row| row.verdict == SAME);
    let document: Vec<Value> = rows
        .iter()
        .map(|Compared { log, until, records, verdict, damage }| {
            json!({
                "log": log.0, "until": until.to_string(), "records": records, "verdict": verdict, "damage": damage,
            })
        })
        .collect();
    show(server, json!({ "same": same, "logs": document }), || {
        let row = |Compared { log, until, records, verdict, .. }: &Compared| {
            [log.to_string(), until.to_string(), count(*records), (*verdict).to_owned()]
        };
        print_table(["log", "up to", "records", "verdict"], rows.iter().map(row));
        for damage in rows.iter().flat_map(|row| &row.damage) {
            say!("{damage}");
        }
    });
    Ok(if same { Exit::Done } else { Exit::Found })
}

/// Compares a log up to where both sites have it.
async fn compare(
    sites: [(&Client, SocketAddr); 2],
    log: &LogState,
    twin: &LogState,
) -> Result<Compared, Error> {
    let until = log.end.min(twin.end);
    let [(here, _), (there, _)] = sites;
    let (a, b) = tokio::join!(here.digest(log.log, until), there.digest(log.log, until));
    let mut damage = Vec::new();
    let mut readable = |digest: Result<LogDigest, Error>, (_, site): (&Client, SocketAddr)| match digest {
        // Damaged, or on a disk that fails.
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Internal) => {
            damage.push(format!("at {site}: {}", error.message()));
            Ok(None)
        }
        digest => digest.map(Some),
    };
    let (a, b) = (readable(a, sites[0])?, readable(b, sites[1])?);
    // A damaged log is read up to the damage; that it is the same so far says little.
    let is_damaged = [log, twin].iter().any(|log| log.refusal == Some(ErrorKind::Corrupt));
    let verdict = match a == b {
        _ if is_damaged || !damage.is_empty() => "DAMAGED",
        true => SAME,
        false => DIFFERENT,
    };
    let records = [a, b].into_iter().flatten().map(|digest| digest.records).max().unwrap_or_default();
    Ok(Compared { log: log.log, until, records, verdict, damage })
}

/// What the comparison of one log found.
struct Compared {
    log: LogId,
    until: LogAddress,
    records: u64,
    verdict: &'static str,
    /// What was found damaged while it was read, and where.
    damage: Vec<String>,
}

impl Compared {
    fn absent(log: LogId, verdict: &'static str) -> Self {
        Self { log, until: LogAddress::default(), records: 0, verdict, damage: Vec::new() }
    }
}

const SAME: &str = "same";
const DIFFERENT: &str = "DIFFERENT";

/// A disk that takes longer is not well.
const SYNC_LIMIT: Duration = Duration::from_secs(1);

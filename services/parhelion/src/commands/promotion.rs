//! `parhelion mirror promote` and `parhelion mirror missing`.

use std::io::IsTerminal;

use parhelion_client::Client;
use parhelion_gate::{Missing, Promotion};
use parhelion_types::{Error, ErrorKind, LogAddress, LogId, SegmentId};
use serde_json::{Value, json};

use crate::cli::ServerArgs;
use crate::client::{As, connect};
use crate::output::{Exit, Failure, count, counted, print_table, say, write_out};

/// Missing appends that a promotion shows in its table.
const MISSING_SHOWN: usize = 20;
/// Missing appends that are printed at once.
const PRINTED_AT_ONCE: usize = 1000;

/// Makes a mirror a primary, and says what is missing.
pub async fn promote(server: &ServerArgs, dry_run: bool, yes: bool) -> Result<Exit, Failure> {
    if !dry_run && !yes {
        confirm(
            "Make this mirror a primary? The old one must never write again: it is fenced when it can reach this site. [y/N] ",
        )?;
    }
    let client = connect(server, As::Admin).await?;
    let mut found = client.promote(dry_run).await?;
    let told = async {
        if !dry_run {
            list_rest(&client, &mut found).await?;
        }
        refusing(&client).await
    };
    let refusing = told.await.map_err(|error| match dry_run {
        true => error,
        false => Error::new(
            error.kind(),
            format!(
                "the site is promoted, but its list of what is missing did not arrive: {}; `parhelion mirror missing` asks \
                 for it again",
                error.message()
            ),
        ),
    })?;
    if server.json {
        print_found(&found, &refusing, Some(dry_run));
        return Ok(exit(&found, &refusing));
    }
    let would = if dry_run { "would be " } else { "" };
    say!("{would}primary of {} under epoch {}", counted(found.logs.into(), "log"), found.epoch);
    say_counts(&found);
    print_missing(found.missing.get(..MISSING_SHOWN).unwrap_or(&found.missing));
    if let Some(more) = more_missing(found.missing.len() as u64, found.missing_count, dry_run) {
        say!("{more}");
    }
    warn_of(&refusing);
    Ok(exit(&found, &refusing))
}

/// Lists what the promotion of a site found.
pub async fn missing(server: &ServerArgs) -> Result<Exit, Failure> {
    let client = connect(server, As::Admin).await?;
    let mut found = client.list_missing(LogId(0), LogAddress::default()).await?;
    list_rest(&client, &mut found).await?;
    let refusing = refusing(&client).await?;
    if server.json {
        print_found(&found, &refusing, None);
        return Ok(exit(&found, &refusing));
    }
    say!("promoted to epoch {}, with {}", found.epoch, counted(found.logs.into(), "log"));
    say_counts(&found);
    for missing in found.missing.chunks(PRINTED_AT_ONCE) {
        print_missing(missing);
    }
    if let Some(unlisted) = unlisted(&found) {
        say!("{unlisted}");
    }
    warn_of(&refusing);
    Ok(exit(&found, &refusing))
}

/// The logs that take no appends here, with the kind of their refusal: of a damaged one, what lies behind the damage cannot be
/// read, and is not among what is missing.
async fn refusing(client: &Client) -> Result<Vec<(LogId, ErrorKind)>, Error> {
    let logs = client.list().await?;
    let is_of_disk = |kind: &ErrorKind| matches!(kind, ErrorKind::Corrupt | ErrorKind::Unavailable);
    Ok(logs.iter().filter_map(|log| Some((log.log, log.refusal.filter(is_of_disk)?))).collect())
}

fn warn_of(refusing: &[(LogId, ErrorKind)]) {
    for (log, kind) in refusing {
        say!(
            "WARNING: log {log} takes no appends here ({}), and what it has may not all be readable; `parhelion mirror \
             status` says why",
            kind.name()
        );
    }
}

/// Asks for the missing appends that the first answer had no room for.
async fn list_rest(client: &Client, found: &mut Promotion) -> Result<(), Error> {
    while (found.missing.len() as u64) < found.missing_count {
        let Some((log, from)) = found.missing.last().map(behind) else { break };
        let more = client.list_missing(log, from).await?.missing;
        if more.is_empty() {
            // The others are counted only.
            break;
        }
        found.missing.extend(more);
    }
    Ok(())
}

/// Where the next missing append is at the earliest.
fn behind(missing: &Missing) -> (LogId, LogAddress) {
    let LogAddress { segment, offset } = missing.address;
    let next = match offset.checked_add(1) {
        Some(offset) => LogAddress { segment, offset },
        None => LogAddress { segment: SegmentId(segment.0.saturating_add(1)), offset: 0 },
    };
    (missing.log, next)
}

fn exit(found: &Promotion, refusing: &[(LogId, ErrorKind)]) -> Exit {
    if found.missing_count > 0 || !refusing.is_empty() { Exit::Found } else { Exit::Done }
}

/// Prints it as one JSON document, in parts: there may be millions of missing appends.
fn print_found(found: &Promotion, refusing: &[(LogId, ErrorKind)], dry_run: Option<bool>) {
    let Promotion { epoch, logs, missing, missing_count, behind_gap_count } = found;
    let refusing = refusing.iter().map(|(log, kind)| json!({ "log": log.0, "refusal": kind.name() }));
    let mut head = json!({
        "epoch": epoch.0, "logs": logs, "missing_count": missing_count, "behind_gap_count": behind_gap_count,
        "refusing": refusing.collect::<Vec<_>>(),
    });
    if let Some(dry_run) = dry_run {
        head["dry_run"] = json!(dry_run);
    }
    let head = head.to_string();
    write_out(format!("{},\"missing\":[", head.strip_suffix('}').unwrap_or(&head)).as_bytes());
    let mut comma = "";
    for part in missing.chunks(PRINTED_AT_ONCE) {
        let part: Vec<String> = part.iter().map(|missing| one_missing(missing).to_string()).collect();
        write_out(format!("{comma}{}", part.join(",")).as_bytes());
        comma = ",";
    }
    say!("]}}");
}

fn one_missing(missing: &Missing) -> Value {
    json!({
        "log": missing.log.0, "address": missing.address.to_string(), "length": missing.length,
        "digest": format!("{:08x}", missing.digest), "request": missing.request.to_string(),
    })
}

fn print_missing(missing: &[Missing]) {
    if missing.is_empty() {
        return;
    }
    let row = |missing: &Missing| {
        let Missing { log, address, length, digest, request } = missing;
        [
            log.to_string(),
            address.to_string(),
            length.to_string(),
            format!("{digest:08x}"),
            request.to_string(),
        ]
    };
    print_table(["log", "address", "bytes", "checksum", "request"], missing.iter().map(row));
}

fn say_counts(found: &Promotion) {
    say!(
        "announced, and cannot be shown: {} (here, but behind a gap: {})",
        counted(found.missing_count, "append"),
        count(found.behind_gap_count)
    );
}

/// What the table does not show of `missing` appends, `listed` of which are known one by one.
fn more_missing(listed: u64, missing: u64, dry_run: bool) -> Option<String> {
    let more = missing.saturating_sub(MISSING_SHOWN as u64);
    if more == 0 {
        return None;
    }
    let more = count(more);
    Some(match dry_run {
        true if listed < missing => {
            let listed = count(listed);
            format!("... and {more} more; --json lists the first {listed}, the promotion all that are listed")
        }
        true => format!("... and {more} more; --json lists them all"),
        false => format!("... and {more} more; `parhelion mirror missing` lists them"),
    })
}

/// What is said of missing appends that were too many to be kept.
fn unlisted(found: &Promotion) -> Option<String> {
    let unlisted = found.missing_count.saturating_sub(found.missing.len() as u64);
    (unlisted > 0).then(|| {
        format!(
            "... and {} more, which are counted only: a mirror keeps a bounded number of announcements",
            count(unlisted)
        )
    })
}

/// Fails unless somebody at a terminal says yes.
fn confirm(question: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "not promoted: without --yes it asks, and standard input is no terminal; give --yes",
        ));
    }
    eprint!("{question}");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(Failure::new)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new("not promoted: the answer was not yes; give --yes to skip the question")),
    }
}

#[cfg(test)]
mod tests {
    use parhelion_types::RequestId;

    use super::*;

    #[test]
    fn what_a_table_of_missing_appends_leaves_out_is_told() {
        assert_eq!(more_missing(20, 20, false), None);
        assert_eq!(more_missing(1021, 1021, true).unwrap(), "... and 1 001 more; --json lists them all");
        assert_eq!(
            more_missing(1021, 1021, false).unwrap(),
            "... and 1 001 more; `parhelion mirror missing` lists them"
        );
        let cut = more_missing(29_000, 50_020, true).unwrap();
        assert!(cut.starts_with("... and 50 000 more; --json lists the first 29 000,"), "{cut}");
        assert_eq!(unlisted(&Promotion::default()), None);
        let found = Promotion { missing_count: 1234, ..Promotion::default() };
        assert!(unlisted(&found).unwrap().starts_with("... and 1 234 more, which are counted only"));
    }

    #[test]
    fn a_page_begins_behind_the_one_before() {
        let missing = |segment, offset| Missing {
            log: LogId(3),
            address: LogAddress::new(segment, offset),
            length: 1,
            digest: 2,
            request: RequestId(3),
        };
        assert_eq!(behind(&missing(1, 64)), (LogId(3), LogAddress::new(1, 65)));
        assert_eq!(behind(&missing(1, u32::MAX)), (LogId(3), LogAddress::new(2, 0)));
        assert_eq!(behind(&missing(u32::MAX, u32::MAX)).1, LogAddress::new(u32::MAX, 0));
    }
}

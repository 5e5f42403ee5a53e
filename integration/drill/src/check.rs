//! After the disaster: promotes the mirror and looks for every acknowledged append.
//!
//! Runs as a process of its own at the mirror's site. What it looks for comes from the writers' file alone: the
//! bytes that were sent, not what any node says was sent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, TryStreamExt, stream};
use parhelion_types::{LogAddress, LogId};
use serde::{Deserialize, Serialize};

use crate::ack::Ack;
use crate::classify::{Findings, Lost, Uncounted};
use crate::error::DrillError;
use crate::read_arguments;
use crate::session::{Entry, Promotion, Session};

/// What to look for, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckArguments {
    /// Where the mirror serves clients.
    pub api: SocketAddr,
    /// Directory of the certificates.
    pub tls: PathBuf,
    /// The writers' acknowledgements.
    pub acks: PathBuf,
    /// Number of the disaster, part of every request id.
    pub run: u64,
    /// Acknowledgements after this do not count, nanoseconds on `CLOCK_MONOTONIC`.
    pub cut_nanos: u64,
    /// Where the [`Findings`] go.
    pub findings: PathBuf,
}

/// The hidden subcommand: promotes, looks, and writes down what it found.
///
/// # Errors
/// The mirror cannot be reached or refuses, or a file cannot be used. Lost appends are findings.
pub fn run(path: &Path) -> Result<(), DrillError> {
    let arguments: CheckArguments = read_arguments(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DrillError::file("starting", "the runtime of the checker"))?;
    let findings = runtime.block_on(look(&arguments))?;
    let path = &arguments.findings;
    let text =
        serde_json::to_vec(&findings).map_err(|error| DrillError::file("writing", path)(error.into()))?;
    fs::write(path, text).map_err(DrillError::file("writing", path))
}

/// Reads under way at once: enough to keep a node busy.
const READS_MAX: u64 = 64;
/// Bytes asked for at once, however long the appends are.
const READ_BYTES_MAX: u64 = 64 << 20;

/// Promotes the mirror, compares, and reads back every append that it shows.
pub(crate) async fn look(arguments: &CheckArguments) -> Result<Findings, DrillError> {
    let acks = Ack::read_all(&arguments.acks)?;
    let session = Session::admin(arguments.api, &arguments.tls).await?;
    // As a mirror it still knows how long mirroring took; what a promoted node tells is another matter.
    let status = session.status().await?;
    let promotion = session.promote().await?;
    let mut entries = HashMap::new();
    for log in session.logs().await? {
        for entry in session.scan(log).await? {
            entries.insert((log, entry.address), entry);
        }
    }
    let mut findings = compare(&acks, arguments.run, arguments.cut_nanos, &entries, &promotion);
    findings.status = status;

    let longest = acks.iter().map(|ack| u64::from(ack.length)).max().unwrap_or(0).max(1);
    // At most 64.
    let reads = (READ_BYTES_MAX / longest).clamp(1, READS_MAX) as usize;
    let found = acks
        .iter()
        .filter(|ack| ack.acked_nanos <= arguments.cut_nanos && verdict(ack, &entries) == Verdict::Found);
    let read = found.map(async |ack| {
        let bytes = session.read(ack.log, ack.address).await?;
        Ok::<_, DrillError>((ack, *blake3::hash(&bytes).as_bytes() == ack.blake3))
    });
    let mut read = stream::iter(read).buffered(reads);
    while let Some((ack, same)) = read.try_next().await? {
        findings.read_back += 1;
        if !same {
            findings.found -= 1;
            findings.altered.push(format!("{}: the bytes read differ from those sent", ack.request));
        }
    }
    drop(read);
    Ok(findings)
}

type Entries = HashMap<(LogId, LogAddress), Entry>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Found,
    Altered,
    Absent,
}

fn verdict(ack: &Ack, entries: &Entries) -> Verdict {
    match entries.get(&(ack.log, ack.address)) {
        None => Verdict::Absent,
        Some(entry) if (entry.length, entry.crc, entry.request) == (ack.length, ack.crc, ack.request) => {
            Verdict::Found
        }
        Some(_) => Verdict::Altered,
    }
}

/// Holds every acknowledgement against what the mirror shows and what it says it lacks.
fn compare(acks: &[Ack], run: u64, cut_nanos: u64, entries: &Entries, promotion: &Promotion) -> Findings {
    let missing: HashSet<(LogId, LogAddress, u32)> =
        promotion.missing.iter().map(|one| (one.log, one.address, one.crc)).collect();
    let mut findings = Findings {
        missing_count: promotion.missing_count,
        missing_listed: promotion.missing.len() as u64,
        behind_gap_count: promotion.behind_gap_count,
        epoch: promotion.epoch,
        mirrored_appends: entries.len() as u64,
        mirrored_bytes: entries.values().map(|entry| u64::from(entry.length)).sum(),
        uncounted: uncounted(acks, run, cut_nanos, entries, promotion),
        ..Findings::default()
    };
    for ack in acks {
        let verdict = verdict(ack, entries);
        if ack.acked_nanos > cut_nanos {
            findings.acked_late += 1;
            findings.lost_late += u64::from(verdict == Verdict::Absent);
            continue;
        }
        findings.acked += 1;
        match verdict {
            Verdict::Found => {
                findings.found += 1;
                findings.newest_found_sent_nanos = findings.newest_found_sent_nanos.max(ack.sent_nanos);
            }
            Verdict::Altered => {
                findings.altered.push(format!(
                    "{}: another append is at {} of log {}",
                    ack.request, ack.address, ack.log
                ));
            }
            Verdict::Absent => findings.lost.push(Lost {
                request: ack.request.to_string(),
                log: ack.log.0,
                address: ack.address.to_string(),
                length: ack.length,
                sent_nanos: ack.sent_nanos,
                reached: ack.reached,
                own_risk: ack.own_risk,
                named: missing.contains(&(ack.log, ack.address, ack.crc)),
            }),
        }
    }
    findings.lost.sort_by_key(|lost| lost.sent_nanos);
    findings
}

/// What the mirror lacks besides the acknowledged appends that count: those acknowledged after the cut, and those that
/// were announced and never acknowledged. A writer has one append outstanding, so the latter came after its last one.
fn uncounted(
    acks: &[Ack],
    run: u64,
    cut_nanos: u64,
    entries: &Entries,
    promotion: &Promotion,
) -> Vec<Uncounted> {
    let late = acks
        .iter()
        .filter(|ack| ack.acked_nanos > cut_nanos && verdict(ack, entries) == Verdict::Absent)
        .map(|ack| Uncounted { sent_nanos: ack.sent_nanos, length: ack.length });
    let acked: HashSet<_> = acks.iter().map(|ack| ack.request).collect();
    let mut last_answered: BTreeMap<u32, u64> = BTreeMap::new();
    for ack in acks {
        let last = last_answered.entry(ack.writer).or_default();
        *last = ack.acked_nanos.max(*last);
    }
    let unanswered = promotion.missing.iter().filter(|one| !acked.contains(&one.request)).map(|one| {
        // What no writer of this run sent is from warming up, and came first.
        let writer = Ack::writer_of(run, one.request);
        let sent_nanos = writer.and_then(|writer| last_answered.get(&writer)).copied().unwrap_or(0);
        Uncounted { sent_nanos, length: one.length }
    });
    late.chain(unanswered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ack::tests::ack;
    use crate::session::Missing;

    fn entry(ack: &Ack) -> Entry {
        Entry { address: ack.address, length: ack.length, crc: ack.crc, request: ack.request }
    }

    fn missing(ack: &Ack) -> Missing {
        Missing { log: ack.log, address: ack.address, length: ack.length, crc: ack.crc, request: ack.request }
    }

    #[test]
    fn every_acknowledgement_is_found_lost_altered_or_late() {
        let acks: Vec<Ack> = (0..10).map(|n| ack(n, n * 10_000_000)).collect();
        let mut entries: Entries = acks[..6].iter().map(|ack| ((ack.log, ack.address), entry(ack))).collect();
        if let Some(entry) = entries.get_mut(&(acks[2].log, acks[2].address)) {
            entry.crc ^= 1;
        }
        let promotion = Promotion {
            epoch: 2,
            missing: vec![
                missing(&acks[6]),
                Missing { crc: acks[7].crc ^ 1, ..missing(&acks[7]) },
                Missing { request: Ack::request(1, 2, 10), length: 77, ..missing(&acks[9]) },
                Missing { request: Ack::request(1 << 31, 2, 10), length: 78, ..missing(&acks[9]) },
            ],
            missing_count: 6,
            behind_gap_count: 1,
        };
        // The acknowledgement of append 8 came at 81 ms.
        let findings = compare(&acks, 1, 80_999_999, &entries, &promotion);
        assert_eq!((findings.acked, findings.found, findings.acked_late, findings.lost_late), (8, 5, 2, 2));
        assert_eq!(findings.altered.len(), 1);
        assert!(findings.altered[0].contains(&acks[2].request.to_string()));
        let lost: Vec<(&str, bool)> =
            findings.lost.iter().map(|lost| (lost.request.as_str(), lost.named)).collect();
        // The one that the mirror lists with another digest is not the one that was acknowledged.
        assert_eq!(lost, [(&*acks[6].request.to_string(), true), (&*acks[7].request.to_string(), false)]);
        assert_eq!(findings.newest_found_sent_nanos, 50_000_000);
        assert_eq!((findings.missing_count, findings.missing_listed, findings.behind_gap_count), (6, 4, 1));
        assert_eq!((findings.mirrored_appends, findings.mirrored_bytes), (6, 6 * 4096));
        // Appends 8 and 9 were answered too late, the others never; the writer's last answer came at 91 ms.
        let uncounted: Vec<_> = findings.uncounted.iter().map(|one| (one.sent_nanos, one.length)).collect();
        assert_eq!(uncounted, [(80_000_000, 4096), (90_000_000, 4096), (91_000_000, 77), (0, 78)]);
    }
}

//! After the disaster: promotes the mirror and looks for every acknowledged append.
//!
//! Runs as a process of its own at the mirror's site. What it looks for comes from the writers' file alone: the
//! bytes that were sent, not what any node says was sent.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use parhelion_types::{LogAddress, LogId};
use serde::{Deserialize, Serialize};

use crate::ack::Ack;
use crate::classify::{Findings, Lost};
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

/// Bytes that are read back and hashed, newest appends first: what was in flight is what may be damaged.
const READ_BACK_BYTES_MAX: u64 = 64 << 20;

/// Promotes the mirror and compares.
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
    let mut findings = compare(&acks, arguments.cut_nanos, &entries, &promotion);
    findings.status = status;

    let mut budget = READ_BACK_BYTES_MAX;
    let found = acks.iter().rev().filter(|ack| ack.acked_nanos <= arguments.cut_nanos);
    for ack in found.filter(|ack| verdict(ack, &entries) == Verdict::Found) {
        let Some(left) = budget.checked_sub(u64::from(ack.length)) else { break };
        budget = left;
        let bytes = session.read(ack.log, ack.address).await?;
        findings.read_back += 1;
        if *blake3::hash(&bytes).as_bytes() != ack.blake3 {
            findings.found -= 1;
            findings.altered.push(format!("{}: the bytes read differ from those sent", ack.request));
        }
    }
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
fn compare(acks: &[Ack], cut_nanos: u64, entries: &Entries, promotion: &Promotion) -> Findings {
    let missing: HashSet<(LogId, LogAddress, u32)> = promotion.missing.iter().copied().collect();
    let mut findings = Findings {
        missing_count: promotion.missing_count,
        missing_listed: promotion.missing.len() as u64,
        behind_gap_count: promotion.behind_gap_count,
        epoch: promotion.epoch,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ack::tests::ack;

    fn entry(ack: &Ack) -> Entry {
        Entry { address: ack.address, length: ack.length, crc: ack.crc, request: ack.request }
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
                (acks[6].log, acks[6].address, acks[6].crc),
                (acks[7].log, acks[7].address, acks[7].crc ^ 1),
            ],
            missing_count: 4,
            behind_gap_count: 1,
        };
        // The acknowledgement of append 8 came at 81 ms.
        let findings = compare(&acks, 80_999_999, &entries, &promotion);
        assert_eq!((findings.acked, findings.found, findings.acked_late, findings.lost_late), (8, 5, 2, 2));
        assert_eq!(findings.altered.len(), 1);
        assert!(findings.altered[0].contains(&acks[2].request.to_string()));
        let lost: Vec<(&str, bool)> =
            findings.lost.iter().map(|lost| (lost.request.as_str(), lost.named)).collect();
        // The one that the mirror lists with another digest is not the one that was acknowledged.
        assert_eq!(lost, [(&*acks[6].request.to_string(), true), (&*acks[7].request.to_string(), false)]);
        assert_eq!(findings.newest_found_sent_nanos, 50_000_000);
        assert_eq!((findings.missing_count, findings.missing_listed, findings.behind_gap_count), (4, 2, 1));
    }
}

//! What a site shows of a log.

use std::collections::{HashMap, HashSet};

use parhelion_client::{Client, EntryKind};
use parhelion_e2e::{poll, request_id};
use parhelion_types::{Error, LogAddress, LogId};
use tokio::task::JoinSet;

use super::writers::{Append, Promise};
use crate::SOON;

/// All records that one site shows of a log. Reading it checks that they are a prefix of the log: one behind the other
/// from the first address on, each writer's appends in the order in which it wrote them, and none twice.
#[derive(Debug)]
pub(super) struct Copy {
    log: LogId,
    appends: HashMap<u64, LogAddress>,
    /// The site, in the words of a failed test.
    whose: String,
}

/// `docs/formats.md`, "Segments" and "Records".
const SEGMENT_HEADER_BYTES: u32 = 64;
const RECORD_HEADER_BYTES: u32 = 104;
const RECORD_ALIGNMENT: u32 = 8;

const ENTRIES_PER_SCAN: u32 = 1000;
/// Reads under way at once.
const READS: usize = 32;

impl Copy {
    /// Reads what there is now. `died` are the appends that went down with an earlier primary.
    pub(super) async fn read(client: &Client, log: LogId, whose: &str, died: &HashSet<u64>) -> Self {
        let mut copy = Self { log, appends: HashMap::new(), whose: whose.to_owned() };
        let mut newest: HashMap<u64, u64> = HashMap::new();
        let mut next = LogAddress::new(0, SEGMENT_HEADER_BYTES);
        let mut from = LogAddress::default();
        loop {
            let stretch = ask("a log is scanned", || client.scan(log, from, ENTRIES_PER_SCAN)).await;
            if stretch.entries.is_empty() {
                return copy;
            }
            for entry in &stretch.entries {
                let at = entry.address;
                let opens = LogAddress::new(next.segment.0 + 1, SEGMENT_HEADER_BYTES);
                assert!(at == next || at == opens, "{whose} has a hole in log {log}: {at} follows {next}");
                next = behind(at, entry.length);
                if entry.kind != EntryKind::Append {
                    continue;
                }
                let append = Append::numbered((entry.request.0 - request_id(0).0) as u64);
                let (writer, n) = (append.writer(), append.n());
                let earliest = newest.get(&writer).map_or(0, |newest| newest + 1);
                assert!(
                    n >= earliest,
                    "{whose} has append {n} of writer {writer} late or twice, at {at} of log {log}"
                );
                let missing = (earliest..n).find(|&n| !died.contains(&Append::of(writer, n).number()));
                assert_eq!(
                    missing, None,
                    "{whose} has append {n} of writer {writer}, and lacks this earlier one"
                );
                newest.insert(writer, n);
                copy.appends.insert(append.number(), at);
            }
            from = stretch.next;
        }
    }

    /// Reads every append, acknowledged or not, and compares it with what its writer sent.
    pub(super) async fn assert_whole(&self, client: &Client) {
        let mut reads = JoinSet::new();
        for (&number, &address) in &self.appends {
            if reads.len() == READS {
                reads.join_next().await.expect("one is under way").expect("what was read is right");
            }
            let (client, log, whose) = (client.clone(), self.log, self.whose.clone());
            reads.spawn(async move {
                let record = ask("an append is read", || client.read(log, address)).await;
                let sent = Append::numbered(number).payload();
                assert!(record.payload == sent, "{whose} has other bytes for append {number} at {address}");
            });
        }
        while let Some(read) = reads.join_next().await {
            read.expect("what was read is right");
        }
    }

    /// Whether the promised append is there, under the address that was promised.
    pub(super) fn holds(&self, promise: &Promise) -> bool {
        promise.acked.log == self.log && self.appends.get(&promise.number) == Some(&promise.acked.address)
    }
}

/// The address behind a record.
fn behind(at: LogAddress, payload_bytes: u32) -> LogAddress {
    let stored = (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(RECORD_ALIGNMENT);
    LogAddress { offset: at.offset + stored, ..at }
}

/// Asks a node that may just be starting.
async fn ask<T, F: Future<Output = Result<T, Error>>>(what: &str, mut question: impl FnMut() -> F) -> T {
    poll(what, SOON, || {
        let answer = question();
        async {
            match answer.await {
                Ok(answer) => Some(answer),
                Err(error) if error.kind().is_retryable() => None,
                Err(error) => panic!("{what}: {error}"),
            }
        }
    })
    .await
}

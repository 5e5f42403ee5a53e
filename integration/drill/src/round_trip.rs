//! Writers and checker against a real API: QUIC, certificates, and the in-memory site of the gate's tests.

#[path = "../../../services/gate/tests/memory/mod.rs"]
mod memory;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parhelion_gate::pki::{self, InitOptions};
use parhelion_gate::{Api, ApiConfig, Identity};
use parhelion_types::{Durability, LogAddress};
use parhelion_wan::monotonic_now;

use self::memory::MemorySite;
use crate::ack::Ack;
use crate::check::{CheckArguments, look};
use crate::writers::{WriterArguments, write_until};

/// Number of the disaster.
const RUN: u64 = 3;

/// Writes for a while to a site of its own, and returns what is needed to check it.
async fn write(
    directory: &Path,
    writers: u32,
    load_bits_per_second: u64,
) -> (Arc<MemorySite>, Api, CheckArguments) {
    let tls = directory.join("tls");
    pki::init(&tls, &InitOptions::default()).unwrap();
    let site = MemorySite::new();
    let config = ApiConfig::new("127.0.0.1:0".parse().unwrap());
    let api = Api::start(config, &Identity::load_from(&tls, "node-1").unwrap(), site.clone()).unwrap();
    let address = api.local_address().unwrap();
    let acks = directory.join("acks");
    let arguments = WriterArguments {
        run: RUN,
        api: address,
        tls: tls.clone(),
        input: None,
        seed: 5,
        logs: 2,
        writers,
        append_bytes: 2000,
        durability: Durability::Local,
        max_risk: 1e-3,
        load_bits_per_second,
        warm_up_nanos: 0,
        errors_until_nanos: u64::MAX,
        acks: acks.clone(),
    };
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let mut started_nanos = 0;
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(stop);
    };
    let writing = write_until(arguments, stopped, |ready| {
        started_nanos = ready.started_nanos;
        Ok(())
    });
    let (summary, ()) = tokio::join!(writing, stopping);
    let summary = summary.unwrap();
    assert!(summary.errors.is_empty(), "{summary:?}");
    assert!(started_nanos > 0 && started_nanos < monotonic_now().as_nanos());
    assert_eq!(Ack::read_all(&acks).unwrap().len() as u64, summary.acks);
    let findings = directory.join("findings");
    let check =
        CheckArguments { api: address, tls, acks, run: RUN, cut_nanos: monotonic_now().as_nanos(), findings };
    (site, api, check)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_is_found_and_what_was_not_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    let (_site, api, check) = write(directory.path(), 5, 1_000_000_000).await;
    let acks = Ack::read_all(&check.acks).unwrap();
    assert!(acks.len() > 20, "only {} appends", acks.len());
    assert!(acks.iter().all(|ack| ack.acked_nanos >= ack.sent_nanos && ack.length == 2000));

    let findings = look(&check).await.unwrap();
    assert_eq!((findings.acked, findings.found), (acks.len() as u64, acks.len() as u64));
    assert_eq!((findings.lost.len(), findings.altered.len()), (0, 0));
    assert_eq!(findings.read_back, acks.len() as u64);

    // One acknowledgement of an append that nobody stored, one of other bytes than were stored, and one late.
    let last = acks.last().unwrap().clone();
    let nowhere = Ack { address: LogAddress::new(7, 0), ..last.clone() };
    let other = Ack { crc: last.crc ^ 1, ..last.clone() };
    let late = Ack { acked_nanos: u64::MAX, ..last.clone() };
    let forged = Ack { blake3: [0; 32], ..last };
    let records: Vec<u8> = [nowhere, other, late, forged].iter().flat_map(Ack::to_bytes).collect();
    std::fs::write(&check.acks, records).unwrap();
    let findings = look(&check).await.unwrap();
    assert_eq!((findings.acked, findings.found, findings.acked_late), (3, 0, 1));
    assert_eq!((findings.lost.len(), findings.altered.len(), findings.lost_late), (1, 2, 0));
    assert!(!findings.lost[0].named);
    api.stop(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_offer_no_more_than_asked() {
    let directory = tempfile::tempdir().unwrap();
    // 200 appends of 2000 bytes per second, for half a second.
    let (_site, _api, check) = write(directory.path(), 4, 3_200_000).await;
    let count = Ack::read_all(&check.acks).unwrap().len();
    assert!((40..=110).contains(&count), "{count} appends");
}

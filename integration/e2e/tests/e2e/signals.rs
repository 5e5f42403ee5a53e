//! What a service manager does to a node, and whoever has it in a terminal.

use std::time::{Duration, Instant};

use parhelion_client::Acked;
use parhelion_e2e::{At, Pair, PairOptions, payload, poll};
use parhelion_types::{Degrade, Durability, Error, LogId};
use tokio::task::JoinHandle;

use crate::unit::{Unit, drain_default};
use crate::{SOON, at_level};

/// An append that the primary has accepted and cannot acknowledge, for its mirror is frozen.
async fn append_that_waits(pair: &mut Pair) -> (LogId, JoinHandle<Result<Acked, Error>>) {
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    pair.mirrored().await;
    pair.mirror.node().freeze();
    let writer = pair.client(At::Primary).await;
    let waiting =
        tokio::spawn(async move { writer.append(log, payload(1, 100), at_level(Durability::Remote)).await });
    poll("the append waits", SOON, || async {
        let status = here.status().await.ok()?;
        (status["logs"]["logs"][0]["waiting"] == 1).then_some(())
    })
    .await;
    (log, waiting)
}

/// Patient with a frozen mirror.
fn patient() -> PairOptions {
    PairOptions::default().both("link.idle_timeout", "20s")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_under_way_are_answered_before_a_node_stops() {
    let mut pair = Pair::start(patient()).await;
    let (log, waiting) = append_that_waits(&mut pair).await;
    pair.primary.node().terminate();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(pair.primary.node().ended().is_none(), "it left an append unanswered");
    assert!(!waiting.is_finished(), "answered without the mirror");
    pair.mirror.node().thaw();
    let acked = tokio::time::timeout(SOON, waiting).await.expect("in time").unwrap();
    let acked = acked.unwrap_or_else(|error| panic!("{error}\n{}", pair.logs_text()));
    assert_eq!(acked.reached, Durability::Remote);
    assert_eq!(pair.primary.node().wait(SOON), Some(0), "{}", pair.logs_text());
    pair.primary.gone();
    pair.mirror.stop();

    pair.mirror.start();
    pair.primary.start();
    let here = pair.client(At::Primary).await;
    assert_eq!(here.read(log, acked.address).await.unwrap().payload, payload(1, 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_be_answered_holds_a_node_only_for_its_drain_time() {
    let mut pair = Pair::start(patient().primary("node.drain", "1s")).await;
    let (_, _waiting) = append_that_waits(&mut pair).await;
    let start = Instant::now();
    // Ctrl-C drains as SIGTERM does.
    pair.primary.node().interrupt();
    assert_eq!(pair.primary.node().wait(SOON), Some(0), "{}", pair.logs_text());
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "it took {took:?}");
    assert!(pair.primary.node().log_text().contains("SIGINT"), "{}", pair.logs_text());
    // With the settings that nobody changed there is still time to close before systemd kills it.
    let closing = took - Duration::from_secs(1);
    let limit = Unit::documented().stop_limit();
    assert!(drain_default() + closing < limit, "{closing:?} after draining, and {limit:?} in all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_stops_at_once() {
    let mut pair = Pair::start(patient()).await;
    let (_, _waiting) = append_that_waits(&mut pair).await;
    pair.primary.node().interrupt();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(pair.primary.node().ended().is_none(), "it did not drain");
    let start = Instant::now();
    pair.primary.node().interrupt();
    assert_eq!(pair.primary.node().wait(SOON), Some(130), "{}", pair.logs_text());
    assert!(start.elapsed() < Duration::from_secs(2), "it took {:?}", start.elapsed());
    pair.primary.gone();

    // At once, not unsafely: all that was promised is there.
    pair.mirror.node().thaw();
    pair.primary.start();
    pair.linked().await;
    pair.mirrored().await;
    pair.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_node_stops_in_order() {
    let mut pair = Pair::start(PairOptions::default()).await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    let mut writers = Vec::new();
    for writer in 0..8_u64 {
        let client = pair.client(At::Primary).await;
        writers.push(tokio::spawn(async move {
            let mut acked = Vec::new();
            for number in (writer * 1_000_000).. {
                let mut options = at_level(Durability::Network);
                options.timeout = Some(Duration::from_secs(2));
                match client.append(log, payload(number, 5000), options).await {
                    Ok(append) => acked.push((number, append.address)),
                    Err(error) => {
                        assert!(error.kind().is_retryable(), "{error}");
                        break;
                    }
                }
            }
            acked
        }));
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    pair.primary.stop();
    let mut acked = Vec::new();
    for writer in writers {
        acked.extend(writer.await.unwrap());
    }
    assert!(!acked.is_empty());
    pair.primary.start();
    for (number, address) in acked {
        assert_eq!(here.read(log, address).await.unwrap().payload, payload(number, 5000));
    }
}

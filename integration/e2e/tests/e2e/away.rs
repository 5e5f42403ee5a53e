//! The mirror is away.

use std::time::{Duration, Instant};

use parhelion_client::AppendOptions;
use parhelion_e2e::{At, Pair, PairOptions, payload, poll, request_id};
use parhelion_types::{Degrade, Durability, ErrorKind};

use crate::{SOON, at_level};

/// The link's buffer in these tests, in bytes.
const BUFFER: u64 = 1 << 20;
const APPENDS: u64 = 192;
const APPEND_BYTES: usize = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_was_down_is_fed_from_the_log() {
    let mut pair = Pair::start(PairOptions::default().both("link.buffer", "1MiB")).await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    here.append(log, payload(1000, 10), at_level(Durability::Remote)).await.unwrap();
    pair.mirror.kill();
    write_more_than_the_buffer_holds(&pair).await;
    pair.mirror.start();
    catches_up(&pair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_stalls_is_fed_from_the_log() {
    // It must not be taken for dead before the buffer is full.
    let options = PairOptions::default().both("link.buffer", "1MiB").both("link.idle_timeout", "20s");
    let mut pair = Pair::start(options).await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    here.append(log, payload(1000, 10), at_level(Durability::Remote)).await.unwrap();
    pair.mirror.node().freeze();
    write_more_than_the_buffer_holds(&pair).await;
    assert!(
        pair.primary.node().log_text().contains("link buffer is full"),
        "the buffer was never full:\n{}",
        pair.logs_text()
    );
    pair.mirror.node().thaw();
    catches_up(&pair).await;
}

/// 12 MiB at the local level; what waits for the mirror in memory stays within its limit.
async fn write_more_than_the_buffer_holds(pair: &Pair) {
    let here = pair.client(At::Primary).await;
    let log = here.list().await.unwrap()[0].log;
    for number in 0..APPENDS {
        here.append(log, payload(number, APPEND_BYTES), at_level(Durability::Local)).await.unwrap();
    }
    let status = here.status(false).await.unwrap();
    let unconfirmed = status["logs"]["unconfirmed_bytes"].as_u64().unwrap();
    assert!(unconfirmed <= BUFFER, "{unconfirmed} bytes wait in memory");
    let lag = status["logs"]["logs"][0]["lag_bytes"].as_u64().unwrap();
    assert!(lag > 8 * BUFFER, "the mirror lags by {lag} bytes only: {status}");
}

/// All comes to the mirror, and what is appended meanwhile too.
async fn catches_up(pair: &Pair) {
    let here = pair.client(At::Primary).await;
    let log = here.list().await.unwrap()[0].log;
    pair.linked().await;
    let append = here.append(log, payload(2000, 10), at_level(Durability::Network));
    let acked = tokio::time::timeout(SOON * 2, append).await;
    let acked = acked.unwrap_or_else(|_| panic!("never safe\n{}", pair.logs_text())).unwrap();
    assert!(acked.reached >= Durability::Network, "{acked:?}");
    pair.mirrored().await;
    let there = pair.client(At::Mirror).await;
    assert_eq!(there.read(log, acked.address).await.unwrap().payload, payload(2000, 10));
    let state = there.stat(log).await.unwrap();
    // The creation, one append before and one after.
    assert_eq!(state.records, APPENDS + 3);
    pair.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn block_waits_until_the_mirror_is_back() {
    let mut pair = Pair::start(PairOptions::default()).await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    pair.mirror.kill();
    let options =
        AppendOptions { deadline: Some(Duration::from_millis(200)), ..at_level(Durability::Network) };
    let mut waiting = tokio::spawn(async move { here.append(log, payload(1, 100), options).await });
    let early = tokio::time::timeout(Duration::from_millis(1500), &mut waiting).await;
    assert!(early.is_err(), "answered without the mirror: {early:?}");
    let log_text = pair.primary.node().log_text();
    assert!(log_text.contains("overdue"), "no alarm: {log_text}");
    pair.mirror.start();
    let acked = tokio::time::timeout(SOON, waiting).await.expect("in time").unwrap().unwrap();
    assert!(acked.reached >= Durability::Network && !acked.degraded, "{acked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn degrade_acknowledges_what_was_reached_and_says_so() {
    let mut pair = Pair::start(PairOptions::default()).await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Degrade).await.unwrap();
    pair.mirror.kill();
    for durability in [Durability::Network, Durability::Remote] {
        let deadline = Duration::from_millis(300);
        let options = AppendOptions { deadline: Some(deadline), ..at_level(durability) };
        let start = Instant::now();
        let acked = here.append(log, payload(1, 100), options).await.unwrap();
        assert!(start.elapsed() >= deadline, "degraded before the deadline");
        // While the link is thought to be up, packets to the dead mirror may still reach the network level.
        assert!(acked.reached < durability && acked.degraded, "{acked:?}");
    }
    pair.mirror.start();
    pair.linked().await;
    let acked = here.append(log, payload(2, 100), at_level(Durability::Network)).await.unwrap();
    assert!(!acked.degraded, "{acked:?}");
    pair.mirrored().await;
    pair.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fail_says_so_and_a_retry_is_stored_once() {
    let mut pair = Pair::start(PairOptions::default()).await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Fail).await.unwrap();
    pair.mirror.kill();
    let options = AppendOptions {
        deadline: Some(Duration::from_millis(300)),
        request: request_id(1),
        ..at_level(Durability::Remote)
    };
    let error = here.append(log, payload(1, 100), options.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    for word in ["log 0", "remote", "deadline", "retry", "request id"] {
        assert!(error.message().contains(word), "no {word:?} in {error}");
    }
    let id = request_id(1).to_string();
    let again = ["log", "append", "0", "--durability", "remote", "--deadline", "300ms", "--request-id", &id];
    pair.tool(At::Primary, &again).input(&payload(1, 100)).run().refused(3, &["unavailable", "request id"]);

    pair.mirror.start();
    pair.linked().await;
    let acked = poll("the retry is acknowledged", SOON, || async {
        here.append(log, payload(1, 100), options.clone()).await.ok()
    })
    .await;
    assert!(acked.duplicate && acked.reached == Durability::Remote, "{acked:?}");
    assert_eq!(here.stat(log).await.unwrap().records, 2, "a creation and one append");
    pair.mirrored().await;
    pair.verify();
}

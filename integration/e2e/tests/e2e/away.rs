//! The mirror is away.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use parhelion_client::{AppendOptions, Client};
use parhelion_e2e::{At, Pair, PairOptions, payload, poll, request_id};
use parhelion_types::limits::{APPEND_BYTES_MAX, IN_FLIGHT_BYTES_MIN, WAITING_APPEND_BYTES};
use parhelion_types::{Degrade, Durability, ErrorKind, LogId};

use crate::{SOON, at_level};

/// How long appends that wait for the mirror may wait in these tests.
const LONG: Duration = Duration::from_secs(120);

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
    let status = here.status().await.unwrap();
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
async fn what_blocks_keeps_no_room_from_local_appends() {
    const BLOCKED: u64 = 56;
    const BLOCKED_BYTES: usize = 1 << 20;
    /// A quarter of what the node takes in is for appends that wait.
    const WAITING_MAX: u64 = (IN_FLIGHT_BYTES_MIN / 4 / WAITING_APPEND_BYTES) as u64;
    /// Of one connection: a node answers 1024 questions of one at a time.
    const EACH: u64 = 900;
    let mut pair = Pair::start(PairOptions::default().primary("api.in_flight", IN_FLIGHT_BYTES_MIN)).await;
    let here = pair.client(At::Primary).await;
    let blocked = here.create("blocked", Degrade::Block).await.unwrap();
    let free = here.create("free", Degrade::Block).await.unwrap();
    pair.mirrored().await;
    pair.mirror.kill();
    // Until then, packets to the dead mirror count as on the wire.
    link_is_down(&here).await;
    let network = AppendOptions { timeout: Some(LONG), ..at_level(Durability::Network) };
    let append = |client: &Client, number: u64, bytes: usize| {
        let (client, options) = (client.clone(), network.clone());
        tokio::spawn(async move { client.append(blocked, payload(number, bytes), options).await })
    };

    // More bytes than the node takes in at a time. Each append gives its own back when it is on the disk.
    const { assert!(BLOCKED as usize * BLOCKED_BYTES > IN_FLIGHT_BYTES_MIN) };
    let mut waiting: Vec<_> = (0..BLOCKED).map(|number| append(&here, number, BLOCKED_BYTES)).collect();
    stored(&here, blocked, BLOCKED).await;
    local_goes_on(&here, free).await;
    poll("what is on the disk is given back", SOON, || async {
        let held = here.status().await.ok()?["in_flight_bytes"].as_u64()?;
        (held == BLOCKED * WAITING_APPEND_BYTES as u64).then_some(())
    })
    .await;

    // As many as may wait, and some more.
    let mut number = BLOCKED;
    while number < WAITING_MAX + EACH / 2 {
        let client = pair.client(At::Primary).await;
        waiting.extend((number..number + EACH).map(|number| append(&client, number, 100)));
        number += EACH;
    }
    stored(&here, blocked, WAITING_MAX).await;
    let short = AppendOptions { timeout: Some(Duration::from_secs(1)), ..network.clone() };
    let error = here.append(blocked, payload(9999, 100), short).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.message().contains(&format!("{WAITING_MAX} appends wait")), "{error}");
    local_goes_on(&here, free).await;
    assert_eq!(here.stat(blocked).await.unwrap().records, WAITING_MAX + 1, "no more than may wait are taken");
    assert!(waiting.iter().all(|append| !append.is_finished()));

    pair.mirror.start();
    for append in waiting {
        let acked = tokio::time::timeout(LONG, append).await.expect("it is answered").unwrap().unwrap();
        assert!(acked.reached >= Durability::Network && !acked.degraded, "{acked:?}");
    }
    assert_eq!(here.stat(blocked).await.unwrap().records, number + 1);
    pair.mirrored().await;
    pair.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_keeps_no_place_among_those_that_wait() {
    let mut pair = Pair::start(PairOptions::default().primary("http.listen", "127.0.0.1:0")).await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    pair.mirrored().await;
    pair.mirror.kill();
    link_is_down(&here).await;
    // One gives up, two go away, and one stays.
    let remote = |number, timeout| AppendOptions {
        request: request_id(number),
        timeout,
        ..at_level(Durability::Remote)
    };
    let short = Some(Duration::from_millis(500));
    let error = here.append(log, payload(1, 1000), remote(1, short)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let goes = pair.client(At::Primary).await;
    let options = remote(2, Some(LONG));
    let goes = tokio::spawn(async move { goes.append(log, payload(2, 1000), options).await });
    stored(&here, log, 2).await;
    goes.abort();
    let mut stream = TcpStream::connect(pair.primary.node().ready().http.unwrap()).unwrap();
    let head = format!("POST /v1/logs/{log}/appends?durability=remote&request_id={} HTTP/1.1", request_id(4));
    write!(stream, "{head}\r\nhost: primary\r\ncontent-length: 1000\r\n\r\n").unwrap();
    stream.write_all(&payload(4, 1000)).unwrap();
    stored(&here, log, 3).await;
    drop(stream);
    let stays = here.clone();
    let options = remote(3, Some(LONG));
    let stays = tokio::spawn(async move { stays.append(log, payload(3, 1000), options).await });
    stored(&here, log, 4).await;
    waiting(&here, log, 1).await;

    pair.mirror.start();
    let acked = tokio::time::timeout(LONG, stays).await.expect("it is answered").unwrap().unwrap();
    assert_eq!(acked.reached, Durability::Remote);
    pair.mirrored().await;
    pair.verify();
    for number in [1, 2, 4] {
        let acked = here.append(log, payload(number, 1000), remote(number, None)).await.unwrap();
        assert!(acked.duplicate && acked.reached == Durability::Remote, "{acked:?}");
    }
    assert_eq!(here.stat(log).await.unwrap().records, 5, "a creation and four appends");
}

/// Waits until the node keeps so many appends to the log that wait, and nothing else of what it took in.
async fn waiting(here: &Client, log: LogId, appends: u64) {
    poll("what is given up is let go of", SOON, || async {
        let status = here.status().await.ok()?;
        let logs = status["logs"]["logs"].as_array()?;
        let waiting = logs.iter().find(|state| state["log"] == log.0)?["waiting"].as_u64()?;
        let held = status["in_flight_bytes"].as_u64()?;
        (waiting == appends && held == appends * WAITING_APPEND_BYTES as u64).then_some(())
    })
    .await;
}

async fn link_is_down(here: &Client) {
    poll("the link is down", SOON, || async {
        (here.status().await.ok()?["logs"]["linked"] == false).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_read_for_a_while_is_mirrored_when_it_can() {
    let mut pair = Pair::down(PairOptions::default());
    pair.primary.start();
    let here = pair.client(At::Primary).await;
    let mut logs = Vec::new();
    for name in ["orders", "payments"] {
        let log = here.create(name, Degrade::Block).await.unwrap();
        for number in 0..3 {
            here.append(log, payload(number, 1000), at_level(Durability::Local)).await.unwrap();
        }
        logs.push(log);
    }
    // In the file's place there is something that can be opened and not read, as on a disk that is away.
    let segment = pair.directory().join("primary/store/logs").join(logs[0].to_string()).join("00000000.seg");
    let aside = pair.directory().join("aside");
    std::fs::rename(&segment, &aside).unwrap();
    std::fs::create_dir(&segment).unwrap();
    pair.mirror.start();
    pair.linked().await;
    let feeds = || async {
        let status = here.status().await.ok()?;
        let states = status["logs"]["logs"].as_array()?;
        let feed = |log: &LogId| states.iter().find(|state| state["log"] == log.0)?["feed"].as_str();
        Some([feed(&logs[0])?.to_owned(), feed(&logs[1])?.to_owned()])
    };
    poll("one log cannot be read, and the other is mirrored", SOON, || async {
        (feeds().await? == ["unreadable", "live"]).then_some(())
    })
    .await;
    let text = pair.primary.node().log_text();
    let line =
        text.lines().find(|line| line.contains("cannot be read to feed the mirror")).unwrap_or_default();
    for part in ["WARN", "trying again", "pause=1s", &segment.display().to_string()] {
        assert!(line.contains(part), "no {part:?} in {line:?}:\n{text}");
    }
    std::fs::remove_dir(&segment).unwrap();
    std::fs::rename(&aside, &segment).unwrap();
    pair.mirrored().await;
    assert_eq!(feeds().await.unwrap(), ["live", "live"]);
    pair.verify();
}

/// Waits until the log has so many appends on this site's disk.
async fn stored(here: &Client, log: LogId, appends: u64) {
    poll("the appends are stored here", SOON, || async {
        let status = here.status().await.ok()?;
        let logs = status["logs"]["logs"].as_array()?;
        let durable = logs.iter().find(|state| state["log"] == log.0)?["durable"].as_u64()?;
        (durable == appends + 1).then_some(())
    })
    .await;
}

/// A small append and one of the largest are taken and acknowledged.
async fn local_goes_on(here: &Client, log: LogId) {
    for bytes in [100, APPEND_BYTES_MAX] {
        let append = here.append(log, payload(7, bytes), at_level(Durability::Local));
        let acked = tokio::time::timeout(SOON, append).await.expect("local goes on").unwrap();
        assert_eq!(acked.reached, Durability::Local);
    }
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

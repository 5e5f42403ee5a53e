//! Processes die at any instant, again and again; what was promised holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parhelion_client::{Acked, AppendOptions, Client, RequestId};
use parhelion_e2e::{At, Pair, PairOptions, payload, request_id, seed};
use parhelion_types::{Degrade, Durability, LogAddress, LogId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::SOON;

const WRITERS: u64 = 4;
const LOGS: u64 = 2;
const KILLS: usize = 15;
/// Kills of the long form, unless `PARHELION_E2E_KILLS` says otherwise.
const KILLS_LONG: usize = 200;

/// An append that was acknowledged.
struct Promise {
    log: LogId,
    number: u64,
    bytes: usize,
    asked: Durability,
    acked: Acked,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills() {
    kill_again_and_again(KILLS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --release -p parhelion-e2e -- --ignored --nocapture kills"]
async fn what_was_acknowledged_survives_kills_for_long() {
    let kills = std::env::var("PARHELION_E2E_KILLS").ok().and_then(|text| text.parse().ok());
    kill_again_and_again(kills.unwrap_or(KILLS_LONG)).await;
}

/// A primary that dies between the moment when a creation is accepted and the moment when it is stored gives its
/// number to another log later. The mirror must not have the first one under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_is_one_log_at_both_sites_whenever_its_primary_dies() {
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut pair = Pair::start(PairOptions::default()).await;
    let client = pair.client(At::Primary).await;
    let done = Arc::new(AtomicBool::new(false));
    let creator = {
        let (client, done) = (client.clone(), done.clone());
        tokio::spawn(async move {
            let mut created = HashMap::new();
            for number in 0_u64.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                // Another name each time, as of a client that gives up and asks for something else.
                let name = format!("log-{number}");
                match client.create(name.clone(), Degrade::Block).await {
                    Ok(log) => assert_eq!(created.insert(log, name), None, "one number for two logs"),
                    Err(error) => assert!(error.kind().is_retryable(), "{error}"),
                }
            }
            created
        })
    };
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..300))).await;
        pair.primary.kill();
        pair.primary.start();
        pair.linked().await;
    }
    done.store(true, Ordering::Relaxed);
    let created = tokio::time::timeout(SOON, creator).await.expect("every creation is answered").unwrap();
    assert!(created.len() > 8, "hardly anything was created");
    pair.mirrored().await;
    for at in [At::Primary, At::Mirror] {
        let logs = pair.client(at).await.list().await.unwrap();
        for (log, name) in &created {
            let here = logs.iter().find(|state| state.log == *log);
            assert_eq!(here.map(|state| state.name.as_str()), Some(name.as_str()), "{at:?}");
        }
    }
    pair.verify();
    assert_quiet(&pair);
}

async fn kill_again_and_again(kills: usize) {
    let seed = seed();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut pair = Pair::start(PairOptions::default()).await;
    let client = pair.client(At::Primary).await;
    let mut logs = Vec::new();
    for log in 0..LOGS {
        logs.push(client.create(format!("log-{log}"), Degrade::Block).await.unwrap());
    }

    let done = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = pair.client(At::Primary).await;
        let log = logs[(writer % LOGS) as usize];
        let (done, acknowledged) = (done.clone(), acknowledged.clone());
        writers.push(tokio::spawn(write(client, log, writer, seed, done, acknowledged)));
    }

    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(rng.random_range(10..600))).await;
        let victim = if rng.random_bool(0.5) { At::Primary } else { At::Mirror };
        let both = rng.random_bool(0.1);
        println!("kill {kill}: {victim:?}{}", if both { ", then the other" } else { "" });
        pair.site(victim).kill();
        if both {
            let other = if victim == At::Primary { At::Mirror } else { At::Primary };
            pair.site(other).kill();
            pair.site(other).start();
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
        pair.site(victim).start();
    }
    // All that waits for the mirror must still come to an end.
    pair.linked().await;
    let before = acknowledged.load(Ordering::Relaxed);
    parhelion_e2e::eventually("appends are acknowledged after the last kill", SOON, || {
        acknowledged.load(Ordering::Relaxed) > before + WRITERS
    })
    .await;
    done.store(true, Ordering::Relaxed);
    let mut promises = Vec::new();
    for writer in writers {
        let written = tokio::time::timeout(SOON * 2, writer).await;
        let written = written.unwrap_or_else(|_| panic!("an append is never answered\n{}", pair.logs_text()));
        promises.extend(written.unwrap());
    }
    println!("{} appends acknowledged", promises.len());
    assert!(promises.len() > kills, "hardly anything was written:\n{}", pair.logs_text());

    // The mirror alone has what was promised to be there, before it can catch up.
    pair.primary.kill();
    let there = pair.client(At::Mirror).await;
    let remote = promises.iter().filter(|promise| promise.acked.reached == Durability::Remote);
    assert!(check(&there, remote, "the mirror").await > 0, "no append was asked to be remote");

    pair.primary.start();
    let here = pair.client(At::Primary).await;
    check(&here, promises.iter(), "the primary").await;
    pair.linked().await;
    pair.mirrored().await;
    check(&there, promises.iter(), "the mirror, having caught up,").await;
    pair.verify();
    for &log in &logs {
        let stored = requests_of(&here, log).await;
        for promise in promises.iter().filter(|promise| promise.log == log) {
            let stored = stored.get(&request_id(promise.number)).map(Vec::as_slice);
            assert_eq!(
                stored,
                Some(&[promise.acked.address][..]),
                "append {} is stored once",
                promise.number
            );
        }
    }
    assert_quiet(&pair);
    let log = pair.mirror.node().log_text();
    let cut = log.lines().filter(|line| line.contains("cutting the log back")).count();
    println!("the mirror was ahead of a primary that had died before its own sync {cut} times");
}

/// Appends one after the other until told to stop; each is repeated until it is acknowledged.
async fn write(
    client: Client,
    log: LogId,
    writer: u64,
    seed: u64,
    done: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) -> Vec<Promise> {
    let mut rng = SmallRng::seed_from_u64(seed ^ (writer + 1));
    let mut promises = Vec::new();
    for n in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let number = (writer << 32) + n;
        // Mostly small, now and then many packets.
        let bytes =
            if rng.random_bool(0.9) { rng.random_range(1..4096) } else { rng.random_range(4096..300_000) };
        let asked = Durability::ALL[rng.random_range(0..3)];
        let options =
            AppendOptions { durability: asked, request: request_id(number), ..AppendOptions::default() };
        let acked = loop {
            match client.append(log, payload(number, bytes), options.clone()).await {
                Ok(acked) => break acked,
                Err(error) if error.kind().is_retryable() => println!("writer {writer}: {error}"),
                Err(error) => panic!("append {number} was refused: {error}"),
            }
        };
        assert!(acked.reached >= asked && !acked.degraded, "{acked:?}");
        acknowledged.fetch_add(1, Ordering::Relaxed);
        promises.push(Promise { log, number, bytes, asked, acked });
    }
    promises
}

/// Reads every append and compares it; how many there were.
async fn check<'a>(client: &Client, promises: impl Iterator<Item = &'a Promise>, who: &str) -> usize {
    let mut count = 0;
    for promise in promises {
        let Promise { log, number, bytes, asked, acked } = promise;
        let (address, reached) = (acked.address, acked.reached);
        let what = format!("append {number} at {address} of log {log}, asked {asked}, reached {reached}");
        let record = client.read(*log, address).await;
        let record = record.unwrap_or_else(|error| panic!("{who} lacks {what}: {error}"));
        assert!(record.payload == payload(*number, *bytes), "{who} has other bytes for {what}");
        count += 1;
    }
    count
}

/// Where each request of a log is stored.
async fn requests_of(client: &Client, log: LogId) -> HashMap<RequestId, Vec<LogAddress>> {
    let mut requests: HashMap<_, Vec<_>> = HashMap::new();
    let mut from = LogAddress::default();
    loop {
        let stretch = client.scan(log, from, 1000).await.unwrap();
        if stretch.entries.is_empty() {
            return requests;
        }
        for entry in stretch.entries {
            requests.entry(entry.request).or_default().push(entry.address);
        }
        from = stretch.next;
    }
}

/// No node said that it panicked or could not go on.
fn assert_quiet(pair: &Pair) {
    for site in [&pair.primary, &pair.mirror] {
        let log = std::fs::read_to_string(site.spec.log()).unwrap();
        let bad: Vec<&str> =
            log.lines().filter(|line| line.contains("panicked") || line.contains("ERROR")).collect();
        assert!(bad.is_empty(), "{}: {bad:#?}", site.spec.name);
    }
}

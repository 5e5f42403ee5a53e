//! The link as an operator sees it, and changes it while it is used.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parhelion_client::{AppendOptions, Client};
use parhelion_e2e::{At, Cluster, Pair, PairOptions, Shape, payload};
use parhelion_types::{Degrade, Durability, LogAddress, LogId};
use serde_json::Value;

use crate::{SOON, at_level, on_the_wire};

const BYTES: usize = 3000;
const WRITERS: u64 = 4;

/// What a writer was told: where each append is, and under which code it was priced.
type Told = Vec<(LogAddress, u64, String)>;

async fn write(client: Client, log: LogId, first: u64, stop: Arc<AtomicBool>) -> Told {
    let mut told = Told::new();
    let mut number = first;
    while !stop.load(Ordering::Relaxed) {
        let acked = client.append(log, payload(number, BYTES), on_the_wire()).await.expect("acknowledged");
        told.push((acked.address, number, acked.code));
        number += WRITERS;
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_code_changes_under_load_and_nothing_is_lost() {
    let pair = Pair::start(PairOptions::default().apart(Duration::from_millis(10))).await;
    let client = pair.client(At::Primary).await;
    let log = client.create("orders", Degrade::Block).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..WRITERS).map(|n| tokio::spawn(write(client.clone(), log, n, stop.clone()))).collect();

    let tool = |arguments: &[&str]| pair.tool(At::Primary, arguments);
    let changes: [(&[&str], &str); 4] = [
        (&["reed-solomon", "r=8", "c=3"], "reed-solomon v1 c=3 depth=1 r=8"),
        (&["reed-solomon", "r=4 c=2"], "reed-solomon v1 c=2 depth=1 r=4"),
        (&["none"], "none v1"),
        (&["layered-interleaving", "r=8 interleaves=1:11"], "layered-interleaving v1"),
    ];
    let mut codes = BTreeSet::new();
    for (arguments, code) in changes {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let changed = tool(&[&["link", "code", "--json"], arguments].concat()).run().done().json();
        let now = changed["code"].as_str().unwrap().to_owned();
        assert!(now.starts_with(code), "{changed}");
        let shown = tool(&["link", "status", "--json"]).run().done().json();
        assert_eq!(shown["code"], now.as_str(), "{shown}");
        // Whoever asks how safe an append is is told of the new code.
        let explain = ["log", "append", "0", "--max-risk", "1", "--explain", "--json"];
        let acked = tool(&explain).input(b"explained").run().done().json();
        assert_eq!(acked["code"], now.as_str(), "{acked}");
        codes.insert(now);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let mut told = Told::new();
    for writer in writers {
        told.extend(writer.await.unwrap());
    }
    assert_eq!(codes.len(), 4);
    for code in &codes {
        let under = told.iter().filter(|(.., acked)| acked == code).count();
        assert!(under > 0, "no append of {} was acknowledged under {code}", told.len());
    }

    pair.mirrored().await;
    let there = pair.client(At::Mirror).await;
    for (address, number, code) in &told {
        let record =
            there.read(log, *address).await.unwrap_or_else(|error| panic!("lost under {code}: {error}"));
        assert_eq!(record.payload, payload(*number, BYTES));
    }
    pair.verify();

    // For people.
    let text = tool(&["link", "status"]).run().done().text();
    for word in
        ["the link is up", "1 Gbit/s", "layered-interleaving v1", "round trip", "repairs", "gilbert-elliott"]
    {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    let text = pair.tool(At::Mirror, &["link", "status"]).run().done().text();
    for word in ["site 2, mirror", "received", "dropped by this host"] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_cannot_be_made_are_refused() {
    let mut pair = Pair::start(PairOptions::default()).await;
    let before = pair.tool(At::Primary, &["link", "status", "--json"]).run().done().json()["code"].clone();
    let tool = |at, arguments: &[&str]| pair.tool(at, &[&["link", "code"], arguments].concat()).run();
    tool(At::Primary, &["magic"]).refused(2, &["invalid", "magic", "reed-solomon"]);
    tool(At::Primary, &["reed-solomon", "r=none"]).refused(2, &["invalid", "reed-solomon", "r=none"]);
    tool(At::Primary, &["reed-solomon", "r=0", "c=3"]).refused(2, &["invalid", "reed-solomon"]);
    tool(At::Primary, &[""]).refused(2, &["no code is named"]);
    tool(At::Mirror, &["reed-solomon"]).refused(1, &["unsupported", "a mirror", "primary"]);
    let client = pair.client(At::Primary).await;
    let error = client.change_code("reed-solomon", "r=8 c=3").await.unwrap_err();
    assert_eq!(error.kind(), parhelion_types::ErrorKind::Forbidden, "{error}");
    assert!(error.message().contains("takes admin"), "{error}");
    let after = pair.tool(At::Primary, &["link", "status", "--json"]).run().done().json()["code"].clone();
    assert_eq!(before, after);

    pair.mirror.kill();
    parhelion_e2e::poll("the link is down", SOON, || async {
        let status = client.status().await.ok()?;
        (status["logs"]["linked"] == false).then_some(())
    })
    .await;
    let down = pair.tool(At::Primary, &["link", "code", "reed-solomon", "r=8 c=3"]).run();
    down.refused(3, &["unavailable", "the link is down", "try again"]);
}

/// All storage nodes of a site share one link: any node changes its code, and all price with the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_of_a_site_changes_the_code_for_all() {
    let cluster = Cluster::start(Shape::Four).await;
    let client = cluster.client(At::Primary, 1).await;
    for n in 0..4 {
        client.create(format!("log-{n}"), Degrade::Block).await.unwrap();
    }
    let status = client.status().await.unwrap();
    let homes: BTreeSet<u64> =
        status["logs"]["logs"].as_array().unwrap().iter().map(|log| log["node"].as_u64().unwrap()).collect();
    assert_eq!(homes, BTreeSet::from([2, 3]));
    for node in 1..=Shape::Four.nodes() {
        let parameters = format!("r={} c=2", node + 3);
        let change = ["link", "code", "reed-solomon", &parameters, "--json"];
        let changed = cluster.tool(At::Primary, node, &change).run().done().json();
        let code = changed["code"].as_str().unwrap().to_owned();
        assert_eq!(code, format!("reed-solomon v1 c=2 depth=1 r={}", node + 3));
        for log in 0..4 {
            // The other storage nodes are told a moment later.
            parhelion_e2e::poll(&format!("log {log} is priced under {code}"), SOON, || async {
                let acked = client.append(LogId(log), payload(1, BYTES), on_the_wire()).await.ok()?;
                (acked.code == code).then_some(())
            })
            .await;
        }
    }
    cluster.tool(At::Mirror, 1, &["link", "code", "reed-solomon"]).run().refused(1, &["a mirror", "primary"]);
    cluster.mirrored().await;
    cluster.verify();
}

/// A stolen client's certificate opens no link, though the same authority has issued it.
#[test]
fn a_node_with_a_certificate_for_something_else_does_not_start() {
    let pair = Pair::down(PairOptions::default());
    for role in ["client", "admin"] {
        let posing = pair.directory().join(format!("posing-{role}"));
        std::fs::create_dir(&posing).unwrap();
        let copy = |from: &str, to: &str| std::fs::copy(pair.pki.join(from), posing.join(to)).unwrap();
        copy("ca.pem", "ca.pem");
        copy(&format!("{role}.pem"), "node-1.pem");
        copy(&format!("{role}.key"), "node-1.key");
        let spec = pair.primary.spec.clone().with("tls.directory", posing.display());
        spec.fail().refused(2, &["node-1.pem", role, "pki issue"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_down_is_seen_at_both_sites() {
    let mut pair = Pair::down(PairOptions::default());
    let status = |pair: &Pair, at| pair.tool(at, &["mirror", "status"]).run().done().text();
    let holds = |text: &str, words: &[&str]| words.iter().all(|word| text.contains(word));
    pair.primary.start();
    let client = pair.client(At::Primary).await;
    let text = status(&pair, At::Primary);
    assert!(holds(&text, &["site 1, primary, link down", "no logs", "WARNING: the link is down"]), "{text}");
    assert!(!text.contains("has everything"), "{text}");
    // The node is there and has it; only the mirror is missing.
    let log = client.create("orders", Degrade::Block).await.unwrap();
    let options =
        AppendOptions { timeout: Some(Duration::from_millis(500)), ..at_level(Durability::Network) };
    let error = client.append(log, payload(1, BYTES), options).await.unwrap_err();
    assert_eq!(error.kind(), parhelion_types::ErrorKind::Unavailable, "{error}");
    assert!(holds(error.message(), &["was reached", "policy block", "mirror", "request id"]), "{error}");

    pair.mirror.start();
    pair.linked().await;
    pair.mirrored().await;
    for (at, words) in [
        (At::Primary, ["site 1, primary, link up", "the mirror has everything"]),
        (At::Mirror, ["site 2, mirror, link up", "age of newest"]),
    ] {
        let text = status(&pair, at);
        assert!(holds(&text, &words) && !text.contains("WARNING"), "{text}");
    }
    pair.primary.kill();
    let down = ["site 2, mirror, link down", "WARNING: the link is down", "primary's log"];
    parhelion_e2e::poll("the mirror says so", SOON, || async {
        holds(&tokio::task::block_in_place(|| status(&pair, At::Mirror)), &down).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lag_over_the_limit_is_told_to_scripts() {
    let mut pair = Pair::start(PairOptions::default()).await;
    let client = pair.client(At::Primary).await;
    let log = client.create("orders", Degrade::Block).await.unwrap();
    pair.mirrored().await;
    let status =
        |pair: &Pair, at, more: &[&str]| pair.tool(at, &[&["mirror", "status"], more].concat()).run();
    let over = |found: &parhelion_e2e::Outcome| -> Value { found.json()["over_limit"].clone() };
    let calm = status(&pair, At::Primary, &["--json", "--max-lag", "5s", "--max-lag-bytes", "1KiB"]);
    assert_eq!((calm.code, over(&calm)), (Some(0), false.into()));

    pair.mirror.node().freeze();
    let options = AppendOptions { durability: Durability::Local, ..at_level(Durability::Local) };
    client.append(log, payload(1, 100_000), options).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    for limit in [&["--max-lag", "100ms"], &["--max-lag-bytes", "1KiB"]] {
        let found = status(&pair, At::Primary, &[&["--json"], &limit[..]].concat());
        assert_eq!((found.code, over(&found)), (Some(4), true.into()), "{found:?}");
        assert!(found.json()["lag"]["bytes"].as_u64() >= Some(100_000), "{found:?}");
    }
    let below = status(&pair, At::Primary, &["--json", "--max-lag", "1h", "--max-lag-bytes", "1GiB"]);
    assert_eq!((below.code, over(&below)), (Some(0), false.into()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let text = status(&pair, At::Primary, &["--max-lag", "100ms"]);
    assert_eq!(text.code, Some(4));
    for word in ["the mirror lacks 1 append", "KiB", "ALARM"] {
        assert!(text.text().contains(word), "no {word:?} in {}", text.text());
    }
    pair.mirror.node().thaw();
    pair.mirrored().await;
    assert_eq!(status(&pair, At::Primary, &["--max-lag", "100ms"]).code, Some(0));
    status(&pair, At::Mirror, &["--max-lag", "1s"]).refused(2, &["mirror", "ask the primary"]);
}

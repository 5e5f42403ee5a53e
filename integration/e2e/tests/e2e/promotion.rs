//! What a promotion found is told whole, and again, however much it is and whoever lost the answer.

use std::collections::BTreeSet;
use std::time::Duration;

use parhelion_client::{Acked, Client, CreateRequest};
use parhelion_e2e::{At, Cluster, Pair, PairOptions, Shape, client, payload, poll, request_id};
use parhelion_types::{Degrade, Durability, ErrorKind, LogAddress, LogId};
use serde_json::Value;

use crate::{SOON, at_level};

/// Writers at once.
const WRITERS: usize = 64;

/// What a finding lists.
fn missing(found: &Value) -> BTreeSet<(LogId, LogAddress)> {
    let missing = found["missing"].as_array().expect("a list").iter();
    missing
        .map(|one| {
            let log = one["log"].as_u64().expect("a number");
            (LogId(log as u32), one["address"].as_str().unwrap().parse().unwrap())
        })
        .collect()
}

/// Appends so many bytes so many times at the level `local`, to the logs by turns.
async fn append_locally(client: &Client, logs: &[LogId], count: u64, bytes: usize) -> Vec<Acked> {
    let mut writers = Vec::new();
    for writer in 0..WRITERS as u64 {
        let (client, logs) = (client.clone(), logs.to_vec());
        writers.push(tokio::spawn(async move {
            let mut acked = Vec::new();
            for number in (writer..count).step_by(WRITERS) {
                let log = logs[number as usize % logs.len()];
                let append = client.append(log, payload(number, bytes), at_level(Durability::Local));
                acked.push(append.await.unwrap());
            }
            acked
        }));
    }
    let mut acked = Vec::new();
    for writer in writers {
        acked.extend(writer.await.unwrap());
    }
    acked
}

/// Which of them a promoted site does not show.
async fn lost(there: &Client, acked: &[Acked]) -> BTreeSet<(LogId, LogAddress)> {
    let mut lost = BTreeSet::new();
    for append in acked {
        if let Err(error) = there.read(append.log, append.address).await {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            lost.insert((append.log, append.address));
        }
    }
    lost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_missing_appends_than_an_answer_holds_are_all_listed() {
    const APPENDS: u64 = 33_000;
    // Room for announcements, which go first, and hardly any for what they announce.
    let mut pair = Pair::start(PairOptions::default().primary("link.rate", "12Mbit")).await;
    let here = pair.client(At::Primary).await;
    let logs = [
        here.create("one", Degrade::Block).await.unwrap(),
        here.create("two", Degrade::Block).await.unwrap(),
    ];
    let acked = append_locally(&here, &logs, APPENDS, 2000).await;
    pair.primary.kill();
    tokio::time::sleep(Duration::from_millis(500)).await;

    let promoted = pair.tool(At::Mirror, &["mirror", "promote", "--yes", "--json"]).run();
    assert_eq!(promoted.code, Some(4), "{}", pair.logs_text());
    let promoted = promoted.json();
    let there = pair.client(At::Mirror).await;
    let lost = lost(&there, &acked).await;
    assert!(lost.len() > 29_200, "too few were lost for this test: {}", lost.len());
    assert_eq!(promoted["missing_count"], lost.len());
    assert!(missing(&promoted) == lost, "named as missing, and missing");
    let again = pair.tool(At::Mirror, &["mirror", "missing", "--json"]).run();
    assert_eq!(again.code, Some(4));
    assert_eq!(again.json()["missing"], promoted["missing"]);
    let text = pair.tool(At::Mirror, &["mirror", "missing"]).run().text();
    assert!(text.lines().count() > lost.len());
}

/// A node of the site has been promoted and its answer was lost. Whoever asks at another node hears of it all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_found_is_told_though_its_answer_was_lost() {
    let mut cluster = Cluster::down(Shape::Three);
    cluster.primary[0].spec = cluster.primary[0].spec.clone().with("link.rate", "4Mbit");
    for node in cluster.mirror.iter_mut().chain(&mut cluster.primary) {
        node.start();
    }
    cluster.linked().await;
    let here = cluster.client(At::Primary, 1).await;
    let logs = [
        here.create("one", Degrade::Block).await.unwrap(),
        here.create("two", Degrade::Block).await.unwrap(),
    ];
    let acked = append_locally(&here, &logs, 100, 64 << 10).await;
    for node in &mut cluster.primary {
        node.kill();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let early = cluster.tool(At::Mirror, 1, &["mirror", "missing"]).run();
    early.refused(2, &["not promoted", "node 2", "--dry-run"]);

    // As another node of the site asks: node 2 alone is promoted, and nobody hears what it found.
    let as_a_node = client(cluster.mirror[1].api, &cluster.pki, "node-2").await;
    drop(as_a_node.promote(false).await.unwrap());
    let halves = cluster.client(At::Mirror, 3).await.status().await.unwrap();
    assert_eq!(halves["duty"], "partly promoted", "{halves}");
    let half = cluster.tool(At::Mirror, 1, &["mirror", "missing"]).run();
    half.refused(2, &["node 3", "not promoted"]);
    let looked = cluster.tool(At::Mirror, 1, &["mirror", "promote", "--dry-run", "--json"]).run().json();

    let promoted = cluster.tool(At::Mirror, 1, &["mirror", "promote", "--yes", "--json"]).run();
    assert_eq!(promoted.code, Some(4), "{promoted:?}");
    let promoted = promoted.json();
    assert_eq!((&promoted["logs"], &promoted["missing"]), (&2.into(), &looked["missing"]));
    let lost = lost(&cluster.client(At::Mirror, 1).await, &acked).await;
    assert!(logs.iter().all(|log| lost.iter().any(|(of, _)| of == log)), "each node lacks some: {lost:?}");
    assert!(missing(&promoted) == lost, "named as missing, and missing");
    for node in [1, 3] {
        let again = cluster.tool(At::Mirror, node, &["mirror", "missing", "--json"]).run();
        assert_eq!((again.code, &again.json()["missing"]), (Some(4), &promoted["missing"]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_with_many_logs_is_watched_and_promoted() {
    const LOGS: u64 = 700;
    let mut cluster = Cluster::start(Shape::Two).await;
    let here = cluster.client(At::Primary, 1).await;
    let mut creating = Vec::new();
    for writer in 0..WRITERS as u64 {
        let here = here.clone();
        creating.push(tokio::spawn(async move {
            for number in (writer..LOGS).step_by(WRITERS) {
                let name = format!("log-{number}-{}", "n".repeat(200));
                let create = CreateRequest { name, degrade: Degrade::Block, request: request_id(number) };
                here.create_as(create).await.unwrap();
            }
        }));
    }
    for creating in creating {
        creating.await.unwrap();
    }
    let last = LogId(LOGS as u32 - 1);
    here.append(last, payload(1, 1000), at_level(Durability::Remote)).await.unwrap();
    let watched = ["mirror", "status", "--json", "--max-lag", "1h"];
    poll("the mirror has everything", SOON, || async {
        let status = cluster.tool(At::Primary, 2, &watched).run().done().json();
        (status["lag"]["appends"] == 0).then_some(())
    })
    .await;
    for (at, key) in [(At::Primary, "records"), (At::Mirror, "durable")] {
        let status = cluster.client(at, 2).await.status().await.unwrap();
        let (totals, shown) = (&status["logs"]["totals"], status["logs"]["logs"].as_array().unwrap());
        assert_eq!((&totals["logs"], &totals[key]), (&LOGS.into(), &(LOGS + 1).into()), "{totals}");
        assert_eq!(shown.len(), 256);
        let text = cluster.tool(at, 1, &["mirror", "status"]).run().done().text();
        assert!(text.contains("... and 444 more logs"), "{text}");
    }
    for node in &mut cluster.primary {
        node.kill();
    }
    let promoted = cluster.tool(At::Mirror, 2, &["mirror", "promote", "--yes", "--json"]).run().done().json();
    assert_eq!((&promoted["logs"], &promoted["missing_count"]), (&LOGS.into(), &0.into()));
    let there = cluster.client(At::Mirror, 1).await;
    there.append(last, payload(2, 1000), at_level(Durability::Local)).await.unwrap();
}

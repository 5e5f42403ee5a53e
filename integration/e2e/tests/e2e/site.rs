//! A site of several nodes: every node answers for all of them, and any of them may die.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parhelion_client::{Acked, AppendOptions, Client, CreateRequest};
use parhelion_e2e::{At, Cluster, Shape, Site, payload, poll, request_id};
use parhelion_types::limits::APPEND_BYTES_MAX;
use parhelion_types::{Degrade, Durability, ErrorKind, LogAddress, LogId};
use serde_json::Value;

use crate::http::gets_are_as_described;
use crate::{SOON, at_level};

/// Logs named `log-0` and so on, created through one node after the other.
async fn create_logs(cluster: &Cluster, nodes: usize, count: usize) -> Vec<LogId> {
    let mut logs = Vec::new();
    for n in 0..count {
        let client = cluster.client(At::Primary, n % nodes + 1).await;
        logs.push(client.create(format!("log-{n}"), Degrade::Block).await.unwrap());
    }
    logs
}

/// The storage node of each log, as a status says.
fn homes(status: &Value) -> Vec<(LogId, usize)> {
    let logs = status["logs"]["logs"].as_array().expect("a list of logs");
    let number = |value: &Value| value.as_u64().expect("a number");
    logs.iter().map(|log| (LogId(number(&log["log"]) as u32), number(&log["node"]) as usize)).collect()
}

/// The log of those that is on that storage node.
async fn log_on(cluster: &Cluster, node: usize) -> LogId {
    let status = cluster.client(At::Primary, 1).await.status().await.unwrap();
    let (log, _) = homes(&status).into_iter().find(|(_, home)| *home == node).expect("a log is there");
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_are_one_site() {
    one_site(Shape::Two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_are_one_site() {
    one_site(Shape::Three).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_are_one_site() {
    one_site(Shape::Four).await;
}

async fn one_site(shape: Shape) {
    let mut cluster = Cluster::down(shape).with("http.listen", "127.0.0.1:0").up().await;
    let nodes = shape.nodes();
    let logs = create_logs(&cluster, nodes, 4).await;
    assert_eq!(logs, (0..4).map(LogId).collect::<Vec<_>>());
    let taken = cluster.client(At::Primary, nodes).await.create("log-0", Degrade::Block).await.unwrap_err();
    assert!(taken.kind() == ErrorKind::Invalid && taken.message().contains("as log 0"), "{taken}");

    // Every level through every node, on every log.
    let mut written = Vec::new();
    for node in 1..=nodes {
        let client = cluster.client(At::Primary, node).await;
        for &log in &logs {
            for durability in Durability::ALL {
                let number = written.len() as u64;
                let options = AppendOptions { request: request_id(number), ..at_level(durability) };
                let acked = client.append(log, payload(number, 5000), options).await.unwrap();
                assert!(acked.reached >= durability && !acked.degraded && !acked.duplicate, "{acked:?}");
                written.push((number, acked));
            }
        }
    }
    // What was appended through one node is the same through all.
    for node in 1..=nodes {
        let client = cluster.client(At::Primary, node).await;
        for (number, acked) in &written {
            let record = client.read(acked.log, acked.address).await.unwrap();
            assert_eq!(record.payload, payload(*number, 5000), "through node {node}");
        }
        let (number, first) = &written[0];
        let repeat = AppendOptions { request: request_id(*number), ..at_level(Durability::Local) };
        let again = client.append(first.log, payload(*number, 5000), repeat).await.unwrap();
        assert!(again.duplicate && again.address == first.address, "through node {node}: {again:?}");
        let missing = client.read(LogId(99), LogAddress::new(0, 64)).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
        assert!(missing.message().contains("log 99"), "{missing}");
    }
    let client = cluster.client(At::Primary, 1).await;
    let (_, freed) = written.last().expect("something was written");
    client.free(freed.log, freed.address).await.unwrap();
    let elsewhere = cluster.client(At::Primary, nodes).await;
    assert!(elsewhere.read(freed.log, freed.address).await.unwrap_err().message().contains("freed"));
    let stretch = elsewhere.scan(freed.log, LogAddress::default(), 1000).await.unwrap();
    assert_eq!(stretch.entries.len(), 1 + 3 * nodes + 1, "creation, appends and a freeing");

    cluster.mirrored().await;
    cluster.verify();
    for at in [At::Primary, At::Mirror] {
        let list = cluster.client(at, 1).await.list().await.unwrap();
        assert_eq!(list.iter().map(|log| log.log).collect::<Vec<_>>(), logs);
        for node in 2..=nodes {
            assert_eq!(cluster.client(at, node).await.list().await.unwrap(), list, "{at:?}, node {node}");
        }
        let document = cluster.tool(at, nodes, &["mirror", "status", "--json"]).run().done().json();
        let homes = homes(&document);
        assert_eq!(homes.iter().map(|(log, _)| *log).collect::<Vec<_>>(), logs, "{document}");
        for node in shape.storage() {
            assert_eq!(
                homes.iter().filter(|(_, home)| *home == node).count(),
                2,
                "spread evenly: {document}"
            );
        }
        let all = document["nodes"].as_array().unwrap();
        assert_eq!(all.len(), nodes, "{document}");
        assert!(all.iter().all(|node| node["reachable"] == true), "{document}");
        assert_eq!(document["duty"], if at == At::Primary { "primary" } else { "mirror" });
        assert_eq!(document["link"]["up"], 1, "the link node's figures: {document}");
    }
    let text = cluster.tool(At::Primary, 2, &["mirror", "status"]).run().done().text();
    assert!(text.contains("log-3") && text.contains("storage"), "{text}");
    let (_, first) = &written[0];
    for at in [At::Primary, At::Mirror] {
        for node in cluster.site(at) {
            gets_are_as_described(node.node(), &first.log.to_string(), &first.address.to_string()).await;
        }
    }

    // Each role drains and stops in order, and takes up its work again.
    for node in cluster.primary.iter_mut().chain(&mut cluster.mirror) {
        node.stop();
    }
    for node in cluster.mirror.iter_mut().chain(&mut cluster.primary) {
        node.start();
    }
    cluster.linked().await;
    let client = cluster.client(At::Primary, nodes).await;
    for &log in &logs {
        client.append(log, payload(1, 10), at_level(Durability::Remote)).await.unwrap();
    }
    cluster.verify();
}

/// An append that was acknowledged.
struct Promise {
    log: LogId,
    number: u64,
    bytes: usize,
    acked: Acked,
}

/// Appends one after the other until told to stop; each is repeated until it is acknowledged.
async fn write(
    clients: Vec<Client>,
    log: LogId,
    writer: u64,
    done: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) -> Vec<Promise> {
    let mut promises = Vec::new();
    for n in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let number = (writer << 32) + n;
        let bytes = 200 + (n as usize * 977) % 9000;
        let durability = Durability::ALL[n as usize % 3];
        let options = AppendOptions {
            request: request_id(number),
            timeout: Some(Duration::from_secs(4)),
            ..at_level(durability)
        };
        let mut attempt = n as usize;
        let acked = loop {
            // Any node will do, and when one is dead the next.
            let client = &clients[attempt % clients.len()];
            match client.append(log, payload(number, bytes), options.clone()).await {
                Ok(acked) => break acked,
                Err(error) if error.kind().is_retryable() => attempt += 1,
                Err(error) => panic!("append {number} was refused: {error}"),
            }
        };
        assert!(acked.reached >= durability && !acked.degraded, "{acked:?}");
        acknowledged.fetch_add(1, Ordering::Relaxed);
        promises.push(Promise { log, number, bytes, acked });
    }
    promises
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_may_die_under_load() {
    let mut cluster = Cluster::start(Shape::Four).await;
    let nodes = Shape::Four.nodes();
    let logs = create_logs(&cluster, nodes, 4).await;
    let done = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut writers = Vec::new();
    for (writer, &log) in logs.iter().enumerate() {
        let mut clients = Vec::new();
        for node in 0..nodes {
            clients.push(cluster.client(At::Primary, (writer + node) % nodes + 1).await);
        }
        writers.push(tokio::spawn(write(
            clients,
            log,
            writer as u64 + 1,
            done.clone(),
            acknowledged.clone(),
        )));
    }
    for node in 0..nodes {
        for at in [At::Primary, At::Mirror] {
            let before = acknowledged.load(Ordering::Relaxed);
            parhelion_e2e::eventually("appends are acknowledged", SOON * 2, || {
                acknowledged.load(Ordering::Relaxed) > before + 20
            })
            .await;
            println!("killing node {} of the {at:?}, {before} acknowledged", node + 1);
            cluster.site(at)[node].kill();
            tokio::time::sleep(Duration::from_millis(300)).await;
            cluster.site(at)[node].start();
        }
    }
    cluster.linked().await;
    let before = acknowledged.load(Ordering::Relaxed);
    parhelion_e2e::eventually("appends are acknowledged after the last kill", SOON * 2, || {
        acknowledged.load(Ordering::Relaxed) > before + 40
    })
    .await;
    done.store(true, Ordering::Relaxed);
    let mut promises = Vec::new();
    for writer in writers {
        let written = tokio::time::timeout(SOON * 2, writer).await;
        let written =
            written.unwrap_or_else(|_| panic!("an append is never answered\n{}", cluster.logs_text()));
        promises.extend(written.unwrap());
    }
    println!("{} appends acknowledged", promises.len());
    cluster.mirrored().await;
    cluster.verify();
    for at in [At::Primary, At::Mirror] {
        let client = cluster.client(at, 1).await;
        for Promise { log, number, bytes, acked } in &promises {
            let record = client.read(*log, acked.address).await;
            let record = record.unwrap_or_else(|error| panic!("{at:?} lacks append {number}: {error}"));
            assert!(record.payload == payload(*number, *bytes), "{at:?} has other bytes for {number}");
        }
    }
    // Each request is stored once.
    let client = cluster.client(At::Mirror, 1).await;
    for &log in &logs {
        let (mut from, mut seen) = (LogAddress::default(), BTreeSet::new());
        loop {
            let stretch = client.scan(log, from, 1000).await.unwrap();
            if stretch.entries.is_empty() {
                break;
            }
            for entry in stretch.entries {
                assert!(seen.insert(entry.request), "stored twice in log {log}: {entry:?}");
            }
            from = stretch.next;
        }
    }
    for node in cluster.primary.iter().chain(&cluster.mirror) {
        let log = std::fs::read_to_string(node.spec.log()).unwrap();
        let bad: Vec<&str> =
            log.lines().filter(|line| line.contains("panicked") || line.contains("ERROR")).collect();
        assert!(bad.is_empty(), "{}: {bad:#?}", node.spec.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_node_that_is_down_stops_its_own_logs_only() {
    let mut cluster = Cluster::start(Shape::Three).await;
    create_logs(&cluster, 3, 2).await;
    let (up, down) = (log_on(&cluster, 2).await, log_on(&cluster, 3).await);
    let before = {
        let client = cluster.client(At::Primary, 1).await;
        client.append(down, payload(1, 100), at_level(Durability::Local)).await.unwrap()
    };
    cluster.primary[2].kill();
    for node in [1, 2] {
        let client = cluster.client(At::Primary, node).await;
        let acked = client.append(up, payload(2, 100), at_level(Durability::Local)).await.unwrap();
        assert_eq!(client.read(up, acked.address).await.unwrap().payload, payload(2, 100));
        let error = client.append(down, payload(3, 100), at_level(Durability::Local)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains("storage node 3"), "{error}");
        let error = client.create("new", Degrade::Block).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(
            error.message().contains("storage node 3") && error.message().contains("not created"),
            "{error}"
        );
        let error = client.list().await.unwrap_err();
        assert!(error.message().contains("storage node 3"), "half a list would mislead: {error}");
    }
    let status = cluster.tool(At::Primary, 1, &["mirror", "status", "--json"]).run().done().json();
    let node = |status: &Value, n: u64| {
        status["nodes"].as_array().unwrap().iter().find(|node| node["node"] == n).cloned().unwrap()
    };
    assert_eq!(node(&status, 2)["reachable"], true, "{status}");
    assert_eq!(node(&status, 3)["reachable"], false, "{status}");
    let text = cluster.tool(At::Primary, 2, &["mirror", "status"]).run().done().text();
    assert!(text.contains("storage node 3 does not answer"), "{text}");
    let limited = cluster.tool(At::Primary, 2, &["mirror", "status", "--max-lag", "1h"]).run();
    limited.refused(3, &["not known", "storage node 3"]);

    cluster.primary[2].start();
    cluster.linked().await;
    let client = cluster.client(At::Primary, 1).await;
    let name = client.create("new", Degrade::Block).await.unwrap();
    assert_eq!(name, LogId(2), "the refused creations left nothing behind");
    assert_eq!(client.read(down, before.address).await.unwrap().payload, payload(1, 100));
    client.append(down, payload(3, 100), at_level(Durability::Remote)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mirror_needs_all_its_storage_nodes() {
    let mut cluster = Cluster::start(Shape::Three).await;
    let logs = create_logs(&cluster, 3, 2).await;
    cluster.mirrored().await;
    cluster.mirror[1].kill();
    let client = cluster.client(At::Primary, 1).await;
    poll("the link is down", SOON, || async {
        let status = client.status().await.ok()?;
        (status["logs"]["linked"] == false).then_some(())
    })
    .await;
    for &log in &logs {
        client.append(log, payload(1, 100), at_level(Durability::Local)).await.unwrap();
    }
    let options = AppendOptions { deadline: Some(Duration::from_secs(60)), ..at_level(Durability::Remote) };
    let waiting = tokio::spawn(async move { client.append(LogId(0), payload(2, 100), options).await });
    parhelion_e2e::eventually("the primary names the mirror's node", SOON, || {
        let log = std::fs::read_to_string(cluster.primary[0].spec.log()).unwrap();
        log.lines().any(|line| line.contains("link down") && line.contains('2'))
    })
    .await;
    cluster.mirror[1].start();
    let acked = tokio::time::timeout(SOON, waiting).await.expect("it is acknowledged").unwrap().unwrap();
    assert_eq!(acked.reached, Durability::Remote);
    cluster.mirrored().await;
    cluster.verify();
}

/// The nodes of a site miss its link node long before the other site does, and a link node that is back is heard of at once:
/// how patient the link is with a long line is another question.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_link_node_is_missed_soon_whatever_the_link_waits() {
    const PATIENT: &str = "120s";
    /// Some two seconds, where the machine has nothing else to do.
    const MISSED: Duration = Duration::from_secs(20);
    let mut cluster = Cluster::down(Shape::Three);
    for node in cluster.mirror.iter_mut().chain(&mut cluster.primary) {
        node.spec = node.spec.clone().with("link.idle_timeout", PATIENT);
        node.start();
    }
    cluster.linked().await;
    create_logs(&cluster, 3, 2).await;
    let log = log_on(&cluster, 2).await;
    let client = cluster.client(At::Primary, 2).await;
    client.append(log, payload(1, 100), at_level(Durability::Remote)).await.unwrap();
    let misses = |cluster: &Cluster| {
        let log = std::fs::read_to_string(cluster.primary[1].spec.log()).unwrap();
        log.lines().filter(|line| line.contains("link is down")).count()
    };
    for back_at_once in [true, false] {
        let (before, killed) = (misses(&cluster), Instant::now());
        cluster.primary[0].kill();
        if !back_at_once {
            parhelion_e2e::eventually("it is missed", MISSED, || misses(&cluster) > before).await;
            println!("a link node that stays away is missed after {:?}", killed.elapsed());
        }
        let started = Instant::now();
        cluster.primary[0].start();
        let number = u64::from(back_at_once) + 2;
        let append = client.append(log, payload(number, 100), at_level(Durability::Remote));
        let acked = tokio::time::timeout(MISSED, append).await.expect("it is mirrored again").unwrap();
        assert_eq!(acked.reached, Durability::Remote);
        println!("mirrored again {:?} after the start", started.elapsed());
    }
    cluster.mirrored().await;
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metadata_node_forgets_nothing() {
    let mut cluster = Cluster::start(Shape::Four).await;
    let client = cluster.client(At::Primary, 3).await;
    let create = |name: &str, request: u64| CreateRequest {
        name: name.to_owned(),
        degrade: Degrade::Fail,
        request: request_id(request),
    };
    let first = client.create_as(create("first", 1)).await.unwrap();
    let second = client.create_as(create("second", 2)).await.unwrap();
    cluster.primary[0].kill();
    // Appends need no metadata node, only creations do.
    client.append(first, payload(1, 100), at_level(Durability::Remote)).await.unwrap();
    let error = client.create_as(create("third", 3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("metadata node"), "{error}");
    cluster.primary[0].start();
    poll("the metadata node answers", SOON, || async {
        match client.create_as(create("second", 2)).await {
            Ok(log) => {
                assert_eq!(log, second, "a repeated creation is the same log, whoever has forgotten it");
                Some(())
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                None
            }
        }
    })
    .await;
    let taken = client.create_as(create("first", 9)).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Invalid, "{taken}");
    assert_eq!(client.create_as(create("third", 3)).await.unwrap(), LogId(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_of_several_nodes_is_promoted_as_a_whole() {
    let mut cluster = Cluster::start(Shape::Three).await;
    let logs = create_logs(&cluster, 3, 4).await;
    let client = cluster.client(At::Primary, 1).await;
    let mut written = Vec::new();
    for number in 0..40 {
        let log = logs[number as usize % logs.len()];
        let options = AppendOptions { request: request_id(number), ..at_level(Durability::Remote) };
        written.push((number, client.append(log, payload(number, 3000), options).await.unwrap()));
    }
    for node in &mut cluster.primary {
        node.kill();
    }
    cluster.mirror[2].kill();
    let refused = cluster.tool(At::Mirror, 1, &["mirror", "promote", "--yes"]).run();
    refused.refused(3, &["nothing was changed", "storage node 3"]);
    cluster.mirror[2].start();
    for node in 1..=3 {
        // Each finds out by itself that it is back.
        let there = cluster.client(At::Mirror, node).await;
        poll("all nodes of the mirror answer", SOON, || async { there.list().await.ok() }).await;
    }
    let there = cluster.client(At::Mirror, 2).await;
    let error = there.append(logs[0], payload(1, 1), at_level(Durability::Local)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "it is a mirror still: {error}");
    let error = there.create("early", Degrade::Block).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "it is a mirror still: {error}");

    let dry = cluster.tool(At::Mirror, 1, &["mirror", "promote", "--dry-run", "--json"]).run().done().json();
    assert_eq!((&dry["logs"], &dry["missing_count"]), (&4.into(), &0.into()), "{dry}");
    let document = cluster.tool(At::Mirror, 1, &["mirror", "promote", "--yes", "--json"]).run().done().json();
    assert_eq!((&document["logs"], &document["epoch"]), (&4.into(), &dry["epoch"]), "{document}");
    let twice = cluster.tool(At::Mirror, 3, &["mirror", "promote", "--yes", "--json"]).run().done().json();
    assert_eq!(twice, document, "nothing is done twice, and the answer is the same");
    let looking = cluster.tool(At::Mirror, 3, &["mirror", "promote", "--dry-run"]).run();
    looking.refused(2, &["primary already"]);

    for restart in [false, true] {
        if restart {
            for node in &mut cluster.mirror {
                node.kill();
                node.start();
            }
        }
        for node in 1..=3 {
            let there = cluster.client(At::Mirror, node).await;
            for (number, acked) in &written {
                let record = there.read(acked.log, acked.address).await.unwrap();
                assert_eq!(record.payload, payload(*number, 3000));
            }
            for &log in &logs {
                there.append(log, payload(node as u64, 50), at_level(Durability::Local)).await.unwrap();
            }
            let status = there.status().await.unwrap();
            assert_eq!(status["duty"], "promoted", "{status}");
        }
    }
    let there = cluster.client(At::Mirror, 1).await;
    assert_eq!(there.create("after", Degrade::Block).await.unwrap(), LogId(4));

    // The old primary comes back and learns that it is none any more.
    for node in &mut cluster.primary {
        node.start();
    }
    let here = cluster.client(At::Primary, 2).await;
    for &log in &logs {
        poll("the old primary is fenced", SOON, || async {
            let answer = here.append(log, payload(1, 100), at_level(Durability::Local)).await;
            let error = answer.err()?;
            (error.kind() == ErrorKind::Fenced).then_some(())
        })
        .await;
    }
}

/// Where a promoted site has a storage node without logs, that node has nothing to fence the old primary with, and must
/// not keep the others from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_node_without_logs_does_not_shield_the_old_primary() {
    let mut cluster = Cluster::start(Shape::Three).await;
    let logs = create_logs(&cluster, 3, 1).await;
    cluster.mirrored().await;
    for node in &mut cluster.primary {
        node.kill();
    }
    cluster.admin(At::Mirror, 3).await.promote(false).await.unwrap();
    for node in &mut cluster.primary {
        node.start();
    }
    let here = cluster.client(At::Primary, 1).await;
    poll("the old primary is fenced", SOON, || async {
        let answer = here.append(logs[0], payload(1, 100), at_level(Durability::Local)).await;
        (answer.err()?.kind() == ErrorKind::Fenced).then_some(())
    })
    .await;
}

/// A storage node of the primary loses its disk. What the mirror still has of its logs must not be overwritten by a new
/// log of the same number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_a_lost_log_is_not_used_again() {
    let mut cluster = Cluster::start(Shape::Three).await;
    create_logs(&cluster, 3, 2).await;
    let lost = log_on(&cluster, 3).await;
    assert_eq!(lost, LogId(1), "the highest number, which would be the next one when it is forgotten");
    let client = cluster.client(At::Primary, 1).await;
    let acked = client.append(lost, payload(1, 1000), at_level(Durability::Remote)).await.unwrap();

    // With the metadata node, the last memory of the number goes too.
    for node in [0, 2] {
        cluster.primary[node].kill();
    }
    let data = cluster.primary[2].spec.setting("node.data").expect("it was set").to_owned();
    std::fs::remove_dir_all(data).unwrap();
    for node in [0, 2] {
        cluster.primary[node].start();
    }
    // What the mirror has is known when all have joined the link node again.
    parhelion_e2e::eventually("the storage nodes know what they have lost", SOON, || {
        let log = std::fs::read_to_string(cluster.primary[2].spec.log()).unwrap();
        log.contains("its number is not used again")
    })
    .await;
    let created = poll("a log is created", SOON, || async {
        match client.create("new", Degrade::Block).await {
            Ok(log) => Some(log),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                None
            }
        }
    })
    .await;
    assert!(created > lost, "log {created} has the number of another one\n{}", cluster.logs_text());
    client.append(created, payload(2, 1000), at_level(Durability::Remote)).await.unwrap();
    let there = cluster.client(At::Mirror, 1).await;
    assert_eq!(there.read(lost, acked.address).await.unwrap().payload, payload(1, 1000));
    assert_eq!(there.stat(lost).await.unwrap().name, "log-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_passed_on_and_waits_keeps_no_room_from_local_appends() {
    const LONG: Duration = Duration::from_secs(120);
    /// Of one client, and of both more than a node answers of one client's connection.
    const SMALL: u64 = 900;
    /// More bytes than the quarter of `api.in_flight` that appends which were passed on may hold.
    const LARGE: u64 = 24;
    let mut cluster = Cluster::start(Shape::Two).await;
    let logs = create_logs(&cluster, 2, 2).await;
    let there = log_on(&cluster, 1).await;
    cluster.mirrored().await;
    cluster.site(At::Mirror).iter_mut().for_each(Site::kill);
    let here = cluster.client(At::Primary, 2).await;
    poll("the link is down", SOON, || async {
        (here.status().await.ok()?["logs"]["linked"] == false).then_some(())
    })
    .await;
    let network = AppendOptions { timeout: Some(LONG), ..at_level(Durability::Network) };
    let append = |client: &Client, number: u64, bytes: usize| {
        let (client, options) = (client.clone(), network.clone());
        tokio::spawn(async move { client.append(there, payload(number, bytes), options).await })
    };
    let mut waiting = Vec::new();
    for client in 0..2 {
        let other = cluster.client(At::Primary, 2).await;
        waiting.extend((0..SMALL).map(|n| append(&other, client * SMALL + n, 100)));
    }
    poll("all of them are stored", SOON, || async {
        (here.stat(there).await.ok()?.records > 2 * SMALL).then_some(())
    })
    .await;
    waiting.extend((0..LARGE).map(|n| append(&here, 10_000 + n, 1 << 20)));
    let error = poll("no more are passed on", SOON, || async {
        let short = AppendOptions { timeout: Some(Duration::from_millis(300)), ..network.clone() };
        let error = here.append(there, payload(20_000, 1 << 20), short).await.unwrap_err();
        (error.kind() == ErrorKind::Busy).then_some(error)
    })
    .await;
    assert!(error.message().contains("passed on") && error.message().contains("local"), "{error}");

    for &log in &logs {
        for bytes in [100, APPEND_BYTES_MAX] {
            let append = here.append(log, payload(7, bytes), at_level(Durability::Local));
            let acked = tokio::time::timeout(SOON, append).await.expect("local goes on").unwrap();
            assert_eq!(acked.reached, Durability::Local);
        }
    }
    assert!(waiting.iter().all(|append| !append.is_finished()));
    cluster.site(At::Mirror).iter_mut().for_each(Site::start);
    for append in waiting {
        let acked = tokio::time::timeout(LONG, append).await.expect("it is answered").unwrap().unwrap();
        assert!(acked.reached >= Durability::Network && !acked.degraded, "{acked:?}");
    }
    cluster.mirrored().await;
    cluster.verify();
}

//! The primary's site is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use parhelion_client::{Acked, AppendOptions};
use parhelion_e2e::{At, Pair, PairOptions, payload, request_id};
use parhelion_types::{Degrade, Durability, ErrorKind, LogAddress, LogId};
use serde_json::Value;

use crate::{at_level, on_the_wire};

const LOCAL_BYTES: usize = 64 << 10;
const LOCAL_APPENDS: u64 = 60;

/// A pair whose primary has died with most of its last appends still in its queue: the link is so slow that
/// announcements, which go ahead, are there long before their data.
struct Lost {
    pair: Pair,
    log: LogId,
    /// Acknowledged at the network level.
    safe: Vec<(u64, Acked)>,
    /// Acknowledged at the local level.
    risky: Vec<(u64, Acked)>,
}

async fn lose_the_primary() -> Lost {
    let mut pair = Pair::start(PairOptions::default().primary("link.rate", "4Mbit")).await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    let (mut safe, mut risky) = (Vec::new(), Vec::new());
    for number in 0..20 {
        let options = AppendOptions { request: request_id(number), ..at_level(Durability::Network) };
        safe.push((number, here.append(log, payload(number, 2000), options).await.unwrap()));
    }
    for number in 100..100 + LOCAL_APPENDS {
        let options = AppendOptions { request: request_id(number), ..at_level(Durability::Local) };
        risky.push((number, here.append(log, payload(number, LOCAL_BYTES), options).await.unwrap()));
    }
    // The last announcement was handed to the network card before its append was acknowledged.
    tokio::time::sleep(Duration::from_millis(50)).await;
    pair.primary.kill();
    Lost { pair, log, safe, risky }
}

fn missing(document: &Value) -> BTreeSet<LogAddress> {
    let missing = document["missing"].as_array().expect("a list").iter();
    missing.map(|one| one["address"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promotion_names_exactly_what_is_lost() {
    let Lost { mut pair, log, safe, risky } = lose_the_primary().await;
    let there = pair.client(At::Mirror).await;
    // What arrived is applied when the mirror has noticed that nothing more comes.
    tokio::time::sleep(Duration::from_millis(500)).await;

    let dry = pair.tool(At::Mirror, &["mirror", "promote", "--dry-run", "--json"]).run();
    assert_eq!(dry.code, Some(4), "a loss was found: {dry:?}");
    let dry = dry.json();
    assert_eq!((&dry["dry_run"], &dry["logs"]), (&true.into(), &1.into()), "{dry}");
    let error = there.append(log, payload(1, 1), at_level(Durability::Local)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "only looking made it a primary: {error}");

    let unasked = pair.tool(At::Mirror, &["mirror", "promote"]).run();
    unasked.refused(1, &["not promoted", "--yes"]);

    let promoted = pair.tool(At::Mirror, &["mirror", "promote", "--yes", "--json"]).run();
    assert_eq!(promoted.code, Some(4), "{promoted:?}");
    let promoted = promoted.json();
    assert_eq!(missing(&promoted), missing(&dry), "the dry run said something else");
    assert_eq!(promoted["missing_count"], missing(&promoted).len(), "{promoted}");

    for (number, acked) in &safe {
        let record = there.read(log, acked.address).await;
        let record = record.unwrap_or_else(|error| panic!("network append {number} is lost: {error}"));
        assert_eq!(record.payload, payload(*number, 2000));
    }
    let mut lost = BTreeSet::new();
    for (number, acked) in &risky {
        match there.read(log, acked.address).await {
            Ok(record) => assert_eq!(record.payload, payload(*number, LOCAL_BYTES)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                lost.insert(acked.address);
            }
        }
    }
    assert!(lost.len() > 10, "the link was too fast for this test: {} of {LOCAL_APPENDS} lost", lost.len());
    assert_eq!(missing(&promoted), lost, "named as missing, and missing");
    for one in promoted["missing"].as_array().unwrap() {
        let address: LogAddress = one["address"].as_str().unwrap().parse().unwrap();
        let (number, _) = risky.iter().find(|(_, acked)| acked.address == address).unwrap();
        assert_eq!(one["request"], request_id(*number).to_string(), "{one}");
        assert_eq!(one["length"], LOCAL_BYTES, "{one}");
    }

    takes_over(&mut pair, log, &safe, &risky, &lost).await;
    told_again(&mut pair, &promoted);
}

/// What was found is told whenever it is asked for: the answer may have been lost, or the node.
fn told_again(pair: &mut Pair, promoted: &Value) {
    for restart in [false, true] {
        if restart {
            pair.mirror.kill();
            pair.mirror.start();
        }
        let again = pair.tool(At::Mirror, &["mirror", "missing", "--json"]).run();
        assert_eq!(again.code, Some(4), "{again:?}");
        let again = again.json();
        for key in ["epoch", "logs", "missing", "missing_count", "behind_gap_count"] {
            assert_eq!(again[key], promoted[key], "{key}");
        }
        let twice = pair.tool(At::Mirror, &["mirror", "promote", "--yes", "--json"]).run();
        assert_eq!((twice.code, &twice.json()["missing"]), (Some(4), &promoted["missing"]));
    }
    let text = pair.tool(At::Mirror, &["mirror", "missing"]).run().text();
    for one in promoted["missing"].as_array().unwrap() {
        let request = one["request"].as_str().unwrap();
        assert!(text.lines().any(|line| line.ends_with(request)), "no {request} in {text}");
    }
    let looking = pair.tool(At::Mirror, &["mirror", "promote", "--dry-run"]).run();
    looking.refused(2, &["primary already", "mirror missing"]);
}

/// The promoted site does a primary's work, also after a restart.
async fn takes_over(
    pair: &mut Pair,
    log: LogId,
    safe: &[(u64, Acked)],
    risky: &[(u64, Acked)],
    lost: &BTreeSet<LogAddress>,
) {
    let there = pair.client(At::Mirror).await;
    let (number, before) = &safe[3];
    let repeat = AppendOptions { request: request_id(*number), ..at_level(Durability::Local) };
    let again = there.append(log, payload(*number, 2000), repeat).await.unwrap();
    assert!(again.duplicate && again.address == before.address, "known to the old primary: {again:?}");
    let (number, before) = risky.iter().find(|(_, acked)| lost.contains(&acked.address)).unwrap();
    let repeat = AppendOptions { request: request_id(*number), ..at_level(Durability::Local) };
    let anew = there.append(log, payload(*number, LOCAL_BYTES), repeat.clone()).await.unwrap();
    assert!(!anew.duplicate, "it was lost, so it is new here: {anew:?}");
    assert!(anew.epoch > before.epoch, "{anew:?}");
    there.create("after", Degrade::Fail).await.unwrap();

    for restart in [false, true] {
        if restart {
            pair.mirror.kill();
            pair.mirror.start();
        }
        let status = there.status().await.unwrap();
        assert_eq!(status["duty"], "promoted", "{status}");
        let again = there.append(log, payload(*number, LOCAL_BYTES), repeat.clone()).await.unwrap();
        assert!(again.duplicate && again.address == anew.address, "{again:?}");
        let acked = there.append(log, payload(7, 70), at_level(Durability::Local)).await.unwrap();
        assert_eq!((acked.epoch, acked.reached), (anew.epoch, Durability::Local));
        assert_eq!(there.read(log, acked.address).await.unwrap().payload, payload(7, 70));
        assert_eq!(there.list().await.unwrap().len(), 2);
    }
}

/// What the paper calls storing data in the network (SMFS section 3): an append that was acknowledged at the
/// network level is on the fibre when its site dies, and arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_the_fibre_survives_its_site() {
    let mut pair = Pair::start(PairOptions::default().apart(Duration::from_millis(100))).await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    pair.mirrored().await;
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    for writer in 0..8_u64 {
        let (client, say) = (here.clone(), say.clone());
        tokio::spawn(async move {
            for number in (writer * 1000).. {
                let append = client.append(log, payload(number, 3000), on_the_wire());
                // The primary is gone when this fails, and the test when nobody listens.
                let Ok(acked) = append.await else { return };
                if say.send((number, acked)).is_err() {
                    return;
                }
            }
        });
    }
    let mut acked = Vec::new();
    while acked.len() < 200 {
        acked.push(said.recv().await.expect("the writers write"));
    }
    pair.primary.kill();
    let there = pair.client(At::Mirror).await;
    let arrived = there.stat(log).await.unwrap().records;
    while let Ok(append) = said.try_recv() {
        acked.push(append);
    }
    assert!(arrived < acked.len() as u64, "nothing was on the fibre: {arrived} of {}", acked.len());
    assert!(acked.iter().all(|(_, acked)| acked.reached >= Durability::Network));
    tokio::time::sleep(Duration::from_secs(1)).await;
    pair.admin(At::Mirror).await.promote(false).await.unwrap();
    for (number, acked) in &acked {
        let record = there.read(log, acked.address).await;
        let record = record.unwrap_or_else(|error| panic!("network append {number} is lost: {error}"));
        assert_eq!(record.payload, payload(*number, 3000));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_that_comes_back_promises_no_mirroring() {
    let Lost { mut pair, log, .. } = lose_the_primary().await;
    pair.admin(At::Mirror).await.promote(false).await.unwrap();
    pair.primary.start();
    let here = pair.client(At::Primary).await;
    for durability in [Durability::Network, Durability::Remote] {
        let options = AppendOptions { timeout: Some(Duration::from_secs(4)), ..at_level(durability) };
        let answer = here.append(log, payload(1, 100), options).await;
        assert!(answer.is_err(), "the other site takes nothing from it, but {answer:?}");
    }
    // The promoted site is untouched by it.
    let there = pair.client(At::Mirror).await;
    let status = there.status().await.unwrap();
    assert_eq!(status["duty"], "promoted", "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_that_comes_back_is_fenced() {
    let Lost { mut pair, log, .. } = lose_the_primary().await;
    pair.admin(At::Mirror).await.promote(false).await.unwrap();
    for restarted in [false, true] {
        if restarted {
            pair.mirror.stop();
            pair.mirror.start();
        }
        pair.primary.start();
        let here = pair.client(At::Primary).await;
        // It has to hear of the new epoch first, but that takes no longer than to connect.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let error = here
            .append(log, payload(1, 100), at_level(Durability::Local))
            .await
            .map(|acked| format!("two primaries of one log: {acked:?}"))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        pair.primary.kill();
    }
}

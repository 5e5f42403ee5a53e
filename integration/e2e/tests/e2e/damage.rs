//! Disks lie: a bit of the data or of a header is another, or the end of a file is gone.

use std::path::{Path, PathBuf};

use std::time::Duration;

use parhelion_client::{AppendOptions, Client};
use parhelion_e2e::{At, Node, NodeSpec, Pair, PairOptions, eventually, payload, poll};
use parhelion_types::{Degrade, Durability, Error, ErrorKind, LogAddress, LogId};

use crate::{SOON, at_level};

const BYTES: usize = 100_000;

/// A site of its own with two logs of five appends each.
struct Stored {
    pair: Pair,
    spec: NodeSpec,
    logs: [(LogId, Vec<(u64, LogAddress)>); 2],
}

async fn store() -> (Stored, Node) {
    let pair = Pair::down(PairOptions::default());
    let spec = NodeSpec {
        name: "single",
        profile: "single",
        settings: pair.primary.spec.settings.clone(),
        directory: pair.directory().to_owned(),
    };
    let node = spec.start();
    let client = parhelion_e2e::client(pair.primary.api, &pair.pki, "client").await;
    let mut logs = [(LogId(0), Vec::new()), (LogId(0), Vec::new())];
    for (index, (log, appends)) in logs.iter_mut().enumerate() {
        *log = client.create(format!("log-{index}"), Degrade::Block).await.unwrap();
        for number in (0..5).map(|n| index as u64 * 100 + n) {
            let acked =
                client.append(*log, payload(number, BYTES), at_level(Durability::Local)).await.unwrap();
            appends.push((number, acked.address));
        }
    }
    (Stored { pair, spec, logs }, node)
}

/// The file that has these bytes, and where.
fn find(directory: &Path, bytes: &[u8]) -> Option<(PathBuf, usize)> {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let found = if path.is_dir() {
            find(&path, bytes)
        } else if path.extension().is_some_and(|extension| extension == "seg") {
            let content = std::fs::read(&path).unwrap();
            content.windows(bytes.len()).position(|window| window == bytes).map(|at| (path, at))
        } else {
            None
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// What is done to an append on disk.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    /// One bit of its data is flipped.
    Data,
    /// One bit of its header is flipped.
    Header,
    /// The file ends in the middle of it.
    Tail,
}

impl Harm {
    /// Which of five appends suffers: one in the middle, or the last.
    fn victim(self) -> usize {
        if self == Self::Tail { 4 } else { 2 }
    }
}

/// Harms an append in a node's data directory; the file it is in.
fn harm(data: &Path, number: u64, harm: Harm) -> PathBuf {
    const HEADER_BYTES: usize = 104;
    // Its first bytes find it.
    let (path, at) = find(data, &payload(number, BYTES)[..64]).expect("the append is on disk");
    let mut content = std::fs::read(&path).unwrap();
    match harm {
        Harm::Data => content[at + BYTES / 2] ^= 0x10,
        Harm::Header => content[at - HEADER_BYTES + 24] ^= 0x10,
        Harm::Tail => content.truncate(at + BYTES / 2),
    }
    std::fs::write(&path, content).unwrap();
    path
}

/// Checks that an error says what is damaged, where, and what helps.
fn assert_names(error: &Error, log: LogId, address: LogAddress, file: &Path) {
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    for word in
        [format!("log {log} "), address.to_string(), file.display().to_string(), "other site".to_owned()]
    {
        assert!(error.message().contains(&word), "no {word:?} in {error}");
    }
}

/// The damaged append is refused by name; nothing else suffers, and never are wrong bytes served.
async fn only_the_damaged_append_is_missing(stored: &Stored, harm: Harm, file: &Path, node: &Node) {
    let client = parhelion_e2e::client(stored.pair.primary.api, &stored.pair.pki, "client").await;
    let [(log, appends), (other, others)] = &stored.logs;
    for (number, address) in others {
        assert_eq!(client.read(*other, *address).await.unwrap().payload, payload(*number, BYTES));
    }
    client.append(*other, payload(7, 70), at_level(Durability::Local)).await.expect("the other log is well");
    let (_, damaged) = appends[harm.victim()];
    assert_names(&client.read(*log, damaged).await.unwrap_err(), *log, damaged, file);
    // Those behind it too: each is whole by itself.
    for (number, address) in appends.iter().filter(|(_, address)| *address != damaged) {
        assert_eq!(client.read(*log, *address).await.unwrap().payload, payload(*number, BYTES));
    }
    assert!(!node.log_text().contains("panicked"), "{}", node.log_text());

    let tool = |address: LogAddress| {
        let arguments = ["log", "read", &log.to_string(), &address.to_string()].map(str::to_owned);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        stored.pair.tool(At::Primary, &arguments).run()
    };
    tool(damaged).refused(1, &["corrupt", &damaged.to_string(), &file.display().to_string()]);
    assert_eq!(tool(appends[0].1).done().stdout, payload(appends[0].0, BYTES));
}

/// The log is listed as damaged and takes nothing; the node says where, and what helps.
async fn the_log_takes_nothing(
    pair: &Pair,
    log: LogId,
    appends: &[(u64, LogAddress)],
    victim: usize,
    file: &Path,
) {
    let client = pair.client(At::Primary).await;
    let (_, damaged) = appends[victim];
    let appended = client.append(log, payload(8, 80), at_level(Durability::Local)).await;
    assert_names(&appended.unwrap_err(), log, damaged, file);
    assert_names(&client.free(log, appends[0].1).await.unwrap_err(), log, damaged, file);
    let states = client.list().await.unwrap();
    let refusals: Vec<_> = states.iter().map(|state| state.refusal).collect();
    assert_eq!(refusals, [Some(ErrorKind::Corrupt), None]);
    assert_eq!(client.stat(log).await.unwrap().refusal, Some(ErrorKind::Corrupt));
    let status = client.status().await.unwrap();
    let said = status["logs"]["logs"][0]["refusal"].as_str().expect("it says why").to_owned();
    assert!(said.contains(&damaged.to_string()) && said.contains(&file.display().to_string()), "{said}");
    let listed = pair.tool(At::Primary, &["log", "list"]).run().done().text();
    assert!(listed.contains("corrupt"), "{listed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_while_a_node_runs_stays_with_its_append() {
    let (stored, node) = store().await;
    let file = harm(&stored.pair.directory().join("primary"), 2, Harm::Data);
    only_the_damaged_append_is_missing(&stored, Harm::Data, &file, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_leaves_the_others_in_service() {
    for (kind, is_killed) in
        [(Harm::Data, false), (Harm::Data, true), (Harm::Header, true), (Harm::Tail, false)]
    {
        let (stored, node) = store().await;
        if is_killed {
            node.kill()
        } else {
            node.stop()
        }
        let file = harm(&stored.pair.directory().join("primary"), kind.victim() as u64, kind);
        // It is as damaged at the second start as at the first.
        stored.spec.start().kill();
        let node = stored.spec.start();
        only_the_damaged_append_is_missing(&stored, kind, &file, &node).await;
        let (log, appends) = &stored.logs[0];
        the_log_takes_nothing(&stored.pair, *log, appends, kind.victim(), &file).await;
        assert!(node.log_text().contains("takes no records"), "{}", node.log_text());
    }
}

/// Two logs of five appends each, the same at both sites. The first degrades, the second blocks.
async fn mirrored(options: PairOptions) -> (Pair, [(LogId, Vec<(u64, LogAddress)>); 2]) {
    let pair = Pair::start(options).await;
    let here = pair.client(At::Primary).await;
    let mut logs = [(LogId(0), Vec::new()), (LogId(0), Vec::new())];
    for (index, degrade) in [Degrade::Degrade, Degrade::Block].into_iter().enumerate() {
        let (log, appends) = &mut logs[index];
        *log = here.create(format!("log-{index}"), degrade).await.unwrap();
        for number in (0..5).map(|n| index as u64 * 100 + n) {
            let acked =
                here.append(*log, payload(number, BYTES), at_level(Durability::Remote)).await.unwrap();
            appends.push((number, acked.address));
        }
    }
    (pair, logs)
}

/// What the message advises: the file of the other site in place of the damaged one.
fn restore(pair: &Pair, from: &str, to: &str, file: &Path) {
    let inside = file.strip_prefix(pair.directory().join(to)).unwrap();
    std::fs::copy(pair.directory().join(from).join(inside), file).unwrap();
}

/// How the primary feeds a log.
async fn feed(client: &Client, log: LogId) -> String {
    let status = client.status().await.unwrap();
    status["logs"]["logs"][log.0 as usize]["feed"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_at_the_mirror_is_left_as_it_is_and_the_others_are_mirrored() {
    for kind in [Harm::Data, Harm::Header, Harm::Tail] {
        let (mut pair, logs) = mirrored(PairOptions::default().both("link.buffer", "1MiB")).await;
        let [(log, appends), (other, _)] = &logs;
        pair.mirror.kill();
        let file = harm(&pair.directory().join("mirror"), kind.victim() as u64, kind);
        let length = std::fs::metadata(&file).unwrap().len();
        pair.mirror.start();
        let here = pair.client(At::Primary).await;
        poll("the log is refused", SOON, || async { (feed(&here, *log).await == "refused").then_some(()) })
            .await;
        // More than the link's buffer holds, so that the log would starve the other if it were fed.
        for number in 10..40 {
            let acked = here.append(*log, payload(number, BYTES), at_level(Durability::Local)).await.unwrap();
            assert_eq!(acked.reached, Durability::Local);
        }
        let deadline = Some(Duration::from_millis(200));
        let options = AppendOptions { deadline, ..at_level(Durability::Network) };
        let acked = here.append(*log, payload(40, BYTES), options).await.unwrap();
        assert!(acked.degraded && acked.own_risk.probability() >= 1.0, "nothing of it is sent: {acked:?}");
        let append = here.append(*other, payload(50, BYTES), at_level(Durability::Remote));
        let acked = tokio::time::timeout(SOON, append).await.expect("the other log is mirrored").unwrap();
        assert_eq!(acked.reached, Durability::Remote);

        let there = pair.client(At::Mirror).await;
        let (_, damaged) = appends[kind.victim()];
        assert_names(&there.read(*log, damaged).await.unwrap_err(), *log, damaged, &file);
        for (number, address) in appends.iter().filter(|(_, address)| *address != damaged) {
            assert_eq!(there.read(*log, *address).await.unwrap().payload, payload(*number, BYTES));
        }
        let status = there.status().await.unwrap();
        let said = status["logs"]["logs"][0]["refusal"].as_str().expect("it says why").to_owned();
        assert!(said.contains(&file.display().to_string()) && status["logs"]["logs"][1]["refusal"].is_null());
        let other_site = pair.mirror.api.to_string();
        let verified = pair.tool(At::Primary, &["mirror", "verify", "--json", "--other", &other_site]).run();
        assert_eq!(verified.code, Some(4), "a difference was found: {verified:?}");
        let verdicts: Vec<_> =
            verified.json()["logs"].as_array().unwrap().iter().map(|row| row["verdict"].clone()).collect();
        assert_eq!(verdicts, ["DAMAGED", "same"]);
        let status = pair.tool(At::Primary, &["mirror", "status", "--max-lag", "1h"]).run();
        let text = String::from_utf8_lossy(&status.stdout);
        assert!(status.code == Some(4) && text.contains("cannot take 1 log"), "{status:?}");
        let looked = pair.tool(At::Mirror, &["mirror", "promote", "--dry-run", "--json"]).run();
        assert_eq!(looked.code, Some(4), "{looked:?}");
        assert_eq!(looked.json()["refusing"], serde_json::json!([{ "log": log.0, "refusal": "corrupt" }]));
        // A primary that comes back does not cut it either.
        pair.primary.kill();
        pair.primary.start();
        let here = pair.client(At::Primary).await;
        poll("the log is refused again", SOON, || async {
            (feed(&here, *log).await == "refused").then_some(())
        })
        .await;
        assert_eq!(std::fs::metadata(&file).unwrap().len(), length, "the damaged file was touched");

        pair.mirror.stop();
        restore(&pair, "primary", "mirror", &file);
        pair.mirror.start();
        pair.linked().await;
        pair.mirrored().await;
        pair.verify();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_comes_while_nodes_run_is_found_by_comparing_the_sites() {
    let (mut pair, logs) = mirrored(PairOptions::default()).await;
    let file = harm(&pair.directory().join("mirror"), 2, Harm::Data);
    let (primary, mirror) = (pair.primary.api.to_string(), pair.mirror.api.to_string());
    for (at, other) in [(At::Primary, &mirror), (At::Mirror, &primary)] {
        let verified = pair.tool(at, &["mirror", "verify", "--json", "--other", other]).run();
        assert_eq!(verified.code, Some(4), "{verified:?}");
        let found = verified.json();
        assert_eq!(found["logs"][0]["verdict"], "DAMAGED", "{found}");
        assert_eq!(found["logs"][1]["verdict"], "same", "{found}");
        let said = found["logs"][0]["damage"][0].as_str().expect("it says where");
        let address = logs[0].1[2].1.to_string();
        for word in [&mirror, &address, &file.display().to_string()] {
            assert!(said.contains(word), "no {word} in {said}");
        }
    }
    let log = pair.mirror.node().log_text();
    assert!(log.contains("found while reading") && log.contains(&file.display().to_string()), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_at_the_primary_does_not_cut_the_mirror_back() {
    for kind in [Harm::Data, Harm::Tail] {
        let (mut pair, logs) = mirrored(PairOptions::default()).await;
        let [(log, appends), (other, _)] = &logs;
        pair.primary.kill();
        let file = harm(&pair.directory().join("primary"), kind.victim() as u64, kind);
        pair.primary.start();
        pair.linked().await;
        the_log_takes_nothing(&pair, *log, appends, kind.victim(), &file).await;
        let here = pair.client(At::Primary).await;
        let append = here.append(*other, payload(50, BYTES), at_level(Durability::Remote));
        tokio::time::timeout(SOON, append).await.expect("the other log is mirrored").unwrap();
        let there = pair.client(At::Mirror).await;
        assert_eq!(there.stat(*log).await.unwrap().records, 6, "the mirror gave up what the primary lost");
        for (number, address) in appends {
            assert_eq!(there.read(*log, *address).await.unwrap().payload, payload(*number, BYTES));
        }
        if kind == Harm::Data {
            // Restored from the mirror, it is as it was.
            pair.primary.stop();
            restore(&pair, "mirror", "primary", &file);
            pair.primary.start();
            pair.linked().await;
            let here = pair.client(At::Primary).await;
            here.append(*log, payload(9, 90), at_level(Durability::Remote)).await.unwrap();
            pair.mirrored().await;
            pair.verify();
        } else {
            // Or the mirror takes over, and has everything.
            pair.admin(At::Mirror).await.promote(false).await.unwrap();
            there.append(*log, payload(9, 90), at_level(Durability::Local)).await.unwrap();
            let primary = &mut pair.primary;
            eventually("the damaged site is fenced", SOON, || {
                primary.node().log_text().contains("newer epoch")
            })
            .await;
            let error = here.append(*log, payload(9, 90), at_level(Durability::Local)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        }
    }
}

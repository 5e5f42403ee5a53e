//! Actors panic, disks are full or read-only, clocks go back, mirrors are away for long.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parhelion_client::{Acked, AppendOptions, Client};
use parhelion_e2e::{
    At, Cluster, Disk, NodeSpec, Pair, PairOptions, Shape, Site, Surroundings, eventually, payload, poll,
    request_id,
};
use parhelion_types::{Degrade, Durability, Error, ErrorKind, LogAddress, LogId};

use crate::{SOON, at_level};

/// Names the faults that a node injects into itself.
const FAULT: &str = "PARHELION_FAULT";
const EXIT_RESTART: i32 = 70;
const MIB: u64 = 1 << 20;

// ---------------------------------------------------------------------------------------------------------------
// Panics
// ---------------------------------------------------------------------------------------------------------------

/// Writers that append for as long as they are told to, each append until it is acknowledged.
struct Load {
    done: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    writers: Vec<tokio::task::JoinHandle<Vec<(u64, Acked)>>>,
}

impl Load {
    async fn start(pair: &Pair, log: LogId, durability: Durability) -> Self {
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(pair.client(At::Primary).await);
        }
        Self::of(clients, log, durability)
    }

    /// One writer through each of the clients.
    fn of(clients: Vec<Client>, log: LogId, durability: Durability) -> Self {
        let (done, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut writers = Vec::new();
        for (writer, client) in (0_u64..).zip(clients) {
            let (done, acknowledged) = (done.clone(), acknowledged.clone());
            writers.push(tokio::spawn(async move {
                let mut written = Vec::new();
                for number in writer << 32.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let options = AppendOptions { request: request_id(number), ..at_level(durability) };
                    written.push((number, append_until_acknowledged(&client, log, number, options).await));
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                written
            }));
        }
        Self { done, acknowledged, writers }
    }

    /// Waits until `more` appends have been acknowledged.
    async fn goes_on(&self, more: u64) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        let acknowledged = &self.acknowledged;
        eventually("appends are acknowledged", SOON, || {
            acknowledged.load(Ordering::Relaxed) >= before + more
        })
        .await;
    }

    async fn stop(self) -> Vec<(u64, Acked)> {
        self.done.store(true, Ordering::Relaxed);
        let mut written = Vec::new();
        for writer in self.writers {
            written
                .extend(tokio::time::timeout(SOON, writer).await.expect("every append is answered").unwrap());
        }
        written
    }
}

const LOAD_BYTES: usize = 2000;

async fn append_until_acknowledged(
    client: &Client,
    log: LogId,
    number: u64,
    options: AppendOptions,
) -> Acked {
    loop {
        match client.append(log, payload(number, LOAD_BYTES), options.clone()).await {
            Ok(acked) => return acked,
            Err(error) if error.kind().is_retryable() => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("append {number} was refused: {error}"),
        }
    }
}

/// All that was acknowledged is at both sites, once.
async fn nothing_is_lost(pair: &Pair, log: LogId, written: &[(u64, Acked)]) {
    pair.linked().await;
    pair.mirrored().await;
    for at in [At::Primary, At::Mirror] {
        has_all(&pair.client(at).await, at, log, written).await;
    }
    pair.verify();
}

async fn has_all(client: &Client, at: At, log: LogId, written: &[(u64, Acked)]) {
    for (number, acked) in written {
        let record = client.read(log, acked.address).await;
        let record = record.unwrap_or_else(|error| panic!("{at:?} lacks append {number}: {error}"));
        assert!(record.payload == payload(*number, LOAD_BYTES), "{at:?} has other bytes for {number}");
    }
    assert_eq!(client.stat(log).await.unwrap().records, 1 + written.len() as u64, "each is stored once");
}

/// Runs a pair under load in which one actor panics a second after its node has started, and lives on.
async fn an_actor_is_rebuilt(actor: &str, at: At) {
    let mut pair = Pair::down(PairOptions::default());
    pair.site(at).around = Surroundings::with_variable(FAULT, &format!("panic:{actor}@1s"));
    pair.mirror.start();
    pair.primary.start();
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    let load = Load::start(&pair, log, Durability::Network).await;
    panics_and_is_rebuilt(actor, pair.site(at)).await;
    load.goes_on(50).await;
    // What only that actor does is done.
    here.create("after", Degrade::Fail).await.unwrap();
    let written = load.stop().await;
    assert!(pair.site(at).node().ended().is_none(), "the node ended");
    nothing_is_lost(&pair, log, &written).await;
}

async fn panics_and_is_rebuilt(actor: &str, site: &mut Site) {
    let said = |site: &mut Site, word: &str| site.node().log_text().contains(word);
    assert!(said(site, "FAULT INJECTION is armed"), "{}", site.node().log_text());
    let rebuilt = format!("actor=\"{actor}\"");
    eventually("the actor panics and is rebuilt", SOON, || {
        said(site, "injected: PARHELION_FAULT")
            && said(site, "actor panicked, rebuilding it")
            && said(site, &rebuilt)
    })
    .await;
}

/// The same in sites of two nodes, the first of which has the link, the gateway and a storage role, the second a storage
/// role and the port that leads to the gateway.
async fn an_actor_between_nodes_is_rebuilt(actor: &str, at: At, node: usize) {
    let mut cluster = Cluster::down(Shape::Two);
    cluster.site(at)[node].around = Surroundings::with_variable(FAULT, &format!("panic:{actor}@2s"));
    for node in cluster.mirror.iter_mut().chain(&mut cluster.primary) {
        node.start();
    }
    let here = cluster.client(At::Primary, 1).await;
    // A log on each node: one whose records pass through port and gateway, and one beside them.
    let mut loads = Vec::new();
    for name in ["orders", "invoices"] {
        let log = here.create(name, Degrade::Block).await.unwrap();
        let clients = vec![cluster.client(At::Primary, 1).await, cluster.client(At::Primary, 2).await];
        loads.push((log, Load::of(clients, log, Durability::Network)));
    }
    panics_and_is_rebuilt(actor, &mut cluster.site(at)[node]).await;
    for (_, load) in &loads {
        load.goes_on(50).await;
    }
    here.create("after", Degrade::Fail).await.unwrap();
    let mut written = Vec::new();
    for (log, load) in loads {
        written.push((log, load.stop().await));
    }
    assert!(cluster.site(at)[node].node().ended().is_none(), "the node ended");
    cluster.linked().await;
    cluster.mirrored().await;
    for at in [At::Primary, At::Mirror] {
        let client = cluster.client(at, 1).await;
        for (log, written) in &written {
            has_all(&client, at, *log, written).await;
        }
    }
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_way_to_the_link_node_is_survived() {
    an_actor_between_nodes_is_rebuilt("port", At::Primary, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_mirrors_way_to_its_link_node_is_survived() {
    an_actor_between_nodes_is_rebuilt("port", At::Mirror, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_gateway_is_survived() {
    an_actor_between_nodes_is_rebuilt("gateway", At::Primary, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_mirrors_gateway_is_survived() {
    an_actor_between_nodes_is_rebuilt("gateway", At::Mirror, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_metadata_server_is_survived() {
    an_actor_is_rebuilt("metadata", At::Primary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_estimator_is_survived() {
    an_actor_is_rebuilt("estimator", At::Primary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_link_encoder_is_survived() {
    an_actor_is_rebuilt("encoder", At::Primary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_link_decoder_is_survived() {
    an_actor_is_rebuilt("decoder", At::Mirror).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_storage_server_ends_the_process_and_a_restart_has_everything() {
    for at in [At::Primary, At::Mirror] {
        let mut pair = Pair::down(PairOptions::default());
        pair.site(at).around = Surroundings::with_variable(FAULT, "panic:storage@1s");
        pair.mirror.start();
        pair.primary.start();
        let here = pair.client(At::Primary).await;
        let log = here.create("orders", Degrade::Block).await.unwrap();
        let load = Load::start(&pair, log, Durability::Network).await;
        // What a service manager does: `Restart=on-failure`.
        let site = pair.site(at);
        let code = tokio::task::block_in_place(|| site.node().wait(SOON));
        assert_eq!(code, Some(EXIT_RESTART), "{}", site.node().log_text());
        assert!(site.node().log_text().contains("ending the process; restart it"));
        site.gone();
        site.around = Surroundings::default();
        site.start();
        load.goes_on(50).await;
        let written = load.stop().await;
        nothing_is_lost(&pair, log, &written).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_that_is_none_keeps_a_node_from_starting() {
    let mut pair = Pair::down(PairOptions::default());
    for (fault, words) in [
        ("panic:gremlin@1s", ["PARHELION_FAULT", "gremlin", "encoder"]),
        ("melt", ["PARHELION_FAULT", "melt", "panic:encoder@2s"]),
    ] {
        pair.primary.around = Surroundings::with_variable(FAULT, fault);
        pair.primary.try_start().unwrap_err().refused(1, &words);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Disks
// ---------------------------------------------------------------------------------------------------------------

/// A disk for a site's data, or none where the system does not allow one: the test says so and is skipped.
fn disk(pair: &mut Pair, at: At, bytes: u64) -> Option<Arc<Disk>> {
    let site = pair.site(at);
    let place = Path::new(site.spec.setting("node.data").expect("it is set")).to_owned();
    std::fs::create_dir(&place).unwrap();
    match Disk::mount(&place, bytes) {
        Ok(disk) => {
            site.around = Surroundings::on(&disk);
            Some(disk)
        }
        Err(reason) => {
            parhelion_e2e::skip(&format!("no disk of a test's own can be made here: {reason}"));
            None
        }
    }
}

/// Fills a disk up to `left` bytes; removing the file that it returns makes room again.
async fn fill(disk: &Disk, left: u64) -> PathBuf {
    // The node makes a segment ahead, which is not to fail: it is a segment's size that would be left then.
    let spare = disk.outside().join("store/spare/0.seg");
    eventually("a segment is ready", SOON, || {
        std::fs::metadata(&spare).is_ok_and(|file| file.len() == SEGMENT_BYTES)
    })
    .await;
    let space = rustix::fs::statvfs(disk.outside()).unwrap();
    let free = space.f_bavail * space.f_frsize;
    let file = disk.outside().join("ballast");
    std::fs::write(&file, vec![1; usize::try_from(free - left).unwrap()]).unwrap();
    file
}

/// As `storage.segment` is set for pairs.
const SEGMENT_BYTES: u64 = 17 * MIB;
const DISK_BYTES: u64 = 96 * MIB;
const PIECE_BYTES: usize = 64 << 10;

/// Appends until the disk takes no more: what was acknowledged, and the error.
async fn append_until_refused(client: &Client, log: LogId) -> (Vec<(u64, LogAddress)>, Error) {
    let mut acked = Vec::new();
    for number in 0..10_000 {
        let options = AppendOptions { request: request_id(number), ..at_level(Durability::Local) };
        match client.append(log, payload(number, PIECE_BYTES), options).await {
            Ok(done) => acked.push((number, done.address)),
            Err(error) => return (acked, error),
        }
    }
    panic!("the disk is never full");
}

async fn assert_reads(client: &Client, log: LogId, appends: &[(u64, LogAddress)]) {
    for (number, address) in appends {
        assert!(client.read(log, *address).await.unwrap().payload == payload(*number, PIECE_BYTES));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_appends_and_loses_nothing() {
    let mut pair = Pair::down(PairOptions::default());
    pair.primary.spec = NodeSpec { profile: "single", ..pair.primary.spec.clone() };
    let Some(disk) = disk(&mut pair, At::Primary, DISK_BYTES) else { return };
    pair.primary.start();
    let client = pair.client(At::Primary).await;
    let log = client.create("orders", Degrade::Block).await.unwrap();
    let ballast = fill(&disk, 3 * MIB).await;
    let (acked, error) = append_until_refused(&client, log).await;
    assert!(acked.len() > 10, "{error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    for word in ["log 0", "cannot be written", "No space left on device", "restart the node", "request id"] {
        assert!(error.message().contains(word), "no {word:?} in {error}");
    }
    // Nothing else suffers: reads, the state, and an orderly end that does not wait for the disk.
    assert_reads(&client, log, &acked).await;
    assert_eq!(client.stat(log).await.unwrap().refusal, Some(ErrorKind::Unavailable));
    let start = Instant::now();
    pair.primary.stop();
    assert!(start.elapsed() < Duration::from_secs(5), "it waited for a disk that takes nothing");
    // On a disk that is still full it starts and serves what is there, or says what is wrong.
    match pair.primary.try_start() {
        Ok(()) => {
            assert_reads(&pair.client(At::Primary).await, log, &acked).await;
            pair.primary.kill();
        }
        Err(outcome) => outcome.refused(1, &["No space left on device"]),
    }
    std::fs::remove_file(ballast).unwrap();
    pair.primary.start();
    let client = pair.client(At::Primary).await;
    assert_reads(&client, log, &acked).await;
    // The one that was refused may be stored or not; it is not stored twice.
    let number = acked.len() as u64;
    let options = AppendOptions { request: request_id(number), ..at_level(Durability::Local) };
    client.append(log, payload(number, PIECE_BYTES), options).await.unwrap();
    assert_eq!(client.stat(log).await.unwrap().records, 2 + number);
    assert!(!pair.primary.node().log_text().contains("panicked"), "{}", pair.logs_text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_whose_disk_is_full_stops_nobody_and_catches_up() {
    let mut pair = Pair::down(PairOptions::default().both("link.buffer", "1MiB"));
    let Some(disk) = disk(&mut pair, At::Mirror, DISK_BYTES) else { return };
    pair.mirror.start();
    pair.primary.start();
    pair.linked().await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Degrade).await.unwrap();
    here.append(log, payload(9000, 10), at_level(Durability::Remote)).await.unwrap();
    let ballast = fill(&disk, MIB).await;
    // Far more than the mirror's disk and the link's buffer hold.
    for number in 0..96 {
        here.append(log, payload(number, PIECE_BYTES), at_level(Durability::Local)).await.unwrap();
    }
    poll("the mirror refuses the log", SOON, || async {
        let status = here.status().await.ok()?;
        (status["logs"]["logs"][0]["feed"] == "refused").then_some(())
    })
    .await;
    let options =
        AppendOptions { deadline: Some(Duration::from_millis(200)), ..at_level(Durability::Network) };
    let acked = here.append(log, payload(96, PIECE_BYTES), options).await.unwrap();
    assert!(acked.degraded && acked.reached == Durability::Local, "{acked:?}");
    let there = pair.client(At::Mirror).await;
    let status = there.status().await.unwrap();
    let said = status["logs"]["logs"][0]["refusal"].as_str().expect("it says why").to_owned();
    assert!(said.contains("No space left on device") && said.contains("restarted"), "{said}");
    std::fs::remove_file(ballast).unwrap();
    pair.mirror.stop();
    pair.mirror.start();
    pair.linked().await;
    pair.mirrored().await;
    pair.verify();
    for site in [&mut pair.primary, &mut pair.mirror] {
        assert!(!site.node().log_text().contains("panicked"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_data_directory_is_named_and_harms_nothing() {
    for at in [At::Primary, At::Mirror] {
        let mut pair = Pair::down(PairOptions::default());
        let Some(disk) = disk(&mut pair, at, DISK_BYTES) else { return };
        pair.mirror.start();
        pair.primary.start();
        let here = pair.client(At::Primary).await;
        let log = here.create("orders", Degrade::Block).await.unwrap();
        let acked = here.append(log, payload(1, PIECE_BYTES), at_level(Durability::Remote)).await.unwrap();
        pair.site(at).stop();
        disk.set_read_only(true);
        let site = pair.site(at);
        let data = site.spec.setting("node.data").unwrap().to_owned();
        let refused = site.try_start().unwrap_err();
        refused.refused(1, &["data directory", &data, "Read-only file system", "writable", "choose another"]);
        disk.set_read_only(false);
        pair.site(at).start();
        pair.linked().await;
        let client = pair.client(at).await;
        assert!(client.read(log, acked.address).await.unwrap().payload == payload(1, PIECE_BYTES));
        pair.mirrored().await;
        pair.verify();
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Epochs and clocks
// ---------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_of_an_old_epoch_says_who_is_the_primary_now() {
    let mut pair = Pair::start(PairOptions::default()).await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    let acked = here.append(log, payload(1, 100), at_level(Durability::Remote)).await.unwrap();
    pair.primary.kill();
    let promoted = pair.admin(At::Mirror).await.promote(false).await.unwrap();
    pair.primary.start();
    let here = pair.client(At::Primary).await;
    let primary = &mut pair.primary;
    eventually("the old primary hears of it", SOON, || primary.node().log_text().contains("newer epoch"))
        .await;
    let error = here.append(log, payload(2, 100), at_level(Durability::Local)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let epoch = format!("epoch {}", promoted.epoch);
    for word in ["the other site was promoted", &epoch, "epoch 0", "write there"] {
        assert!(error.message().contains(word), "no {word:?} in {error}");
    }
    let run = pair.tool(At::Primary, &["log", "append", "0"]).input(b"x").run();
    run.refused(1, &["fenced", &epoch, "write there"]);
    let error = here.create("another", Degrade::Block).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert_eq!(here.stat(log).await.unwrap().refusal, Some(ErrorKind::Fenced));
    // It still shows what it has.
    assert_eq!(here.read(log, acked.address).await.unwrap().payload, payload(1, 100));
    let there = pair.client(At::Mirror).await;
    let acked = there.append(log, payload(3, 100), at_level(Durability::Local)).await.unwrap();
    assert_eq!(acked.epoch, promoted.epoch);
}

/// Every figure of lag, age and latency of a site is of this run, not of the clocks' difference.
async fn figures_are_sane(client: &Client, seconds_max: f64) {
    let status = client.status().await.unwrap();
    for log in status["logs"]["logs"].as_array().unwrap() {
        for key in ["lag_seconds", "age_seconds"] {
            if let Some(seconds) = log[key].as_f64() {
                assert!((0.0..=seconds_max).contains(&seconds), "{key} is {seconds}: {status}");
            }
        }
    }
    let lag = status["logs"]["logs"][0]["lag_appends"].as_u64().unwrap_or(0);
    assert!(lag < 1_000_000, "{status}");
    let micros = status["mirroring_latency_micros"]["max"].as_u64().unwrap_or(0);
    assert!(micros as f64 / 1e6 <= seconds_max, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_stops_nothing() {
    const HOUR: u64 = 3_600_000_000;
    // The primary's clock goes back by an hour while it works; the mirror's is right.
    let mut pair = Pair::down(PairOptions::default());
    pair.primary.around = Surroundings::with_variable(FAULT, "wall:-3600s@1s");
    pair.mirror.start();
    pair.primary.start();
    let begun = Instant::now();
    let here = pair.client(At::Primary).await;
    let there = pair.client(At::Mirror).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    let mut times = Vec::new();
    let mut appends = 0;
    while begun.elapsed() < Duration::from_millis(2500) {
        let acked = here.append(log, payload(appends, 100), at_level(Durability::Remote)).await.unwrap();
        times.push(here.read(log, acked.address).await.unwrap().time);
        figures_are_sane(&here, 60.0).await;
        appends += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(times.is_sorted(), "a record is stamped before an earlier one: {times:?}");
    figures_are_sane(&there, 60.0).await;
    // The mirror is away meanwhile: the lag grows by the time that passes, not by what the clock says.
    pair.mirror.kill();
    here.append(log, payload(appends, 100), at_level(Durability::Local)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let status = here.status().await.unwrap();
    let lag = status["logs"]["logs"][0]["lag_seconds"].as_f64().unwrap();
    assert!((1.0..30.0).contains(&lag), "the lag is {lag} s: {status}");

    // Both come back an hour in the past, so that new records are older than those before them.
    pair.primary.kill();
    for at in [At::Primary, At::Mirror] {
        pair.site(at).around = Surroundings::with_variable(FAULT, "wall:-3600s@0s");
        pair.site(at).start();
    }
    pair.linked().await;
    let here = pair.client(At::Primary).await;
    let acked = here.append(log, payload(7000, 100), at_level(Durability::Network)).await.unwrap();
    let time = here.read(log, acked.address).await.unwrap().time;
    assert!(time.0 + HOUR / 2 < times[0].0, "the test did not set the clock back: {time:?}");
    pair.mirrored().await;
    figures_are_sane(&here, 60.0).await;
    figures_are_sane(&pair.client(At::Mirror).await, 60.0).await;
    pair.verify();
    for site in [&mut pair.primary, &mut pair.mirror] {
        assert!(!site.node().log_text().contains("panicked"), "{}", site.node().log_text());
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The mirror is away for longer than the buffers hold
// ---------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_was_away_for_longer_than_the_buffers_under_every_policy() {
    const APPENDS: u64 = 64;
    let options = PairOptions::default().both("link.buffer", "1MiB").both("api.in_flight", "64MiB");
    let mut pair = Pair::start(options).await;
    let here = pair.client(At::Primary).await;
    let mut logs = Vec::new();
    for policy in [Degrade::Block, Degrade::Degrade, Degrade::Fail] {
        logs.push((here.create(policy.name(), policy).await.unwrap(), policy));
    }
    pair.mirrored().await;
    pair.mirror.kill();
    let deadline = Some(Duration::from_millis(500));
    let mut waiting = Vec::new();
    for &(log, policy) in &logs {
        for number in 0..APPENDS {
            let client = here.clone();
            let request = request_id(u64::from(log.0) * 1000 + number);
            let options = AppendOptions { deadline, request, ..at_level(Durability::Remote) };
            let append = tokio::spawn(async move {
                let answer = client.append(log, payload(number, PIECE_BYTES), options.clone()).await;
                (options, answer)
            });
            waiting.push((log, policy, number, append));
        }
    }
    // 12 MiB: twelve times what the link's buffer holds.
    poll("all of it is stored here", SOON, || async {
        let states = here.list().await.ok()?;
        states.iter().all(|state| state.records == APPENDS + 1).then_some(())
    })
    .await;
    let status = here.status().await.unwrap();
    let unconfirmed = status["logs"]["unconfirmed_bytes"].as_u64().unwrap();
    assert!(unconfirmed <= MIB, "{unconfirmed} bytes wait in memory");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let blocked = waiting.iter().filter(|(_, policy, ..)| *policy == Degrade::Block);
    assert!(blocked.clone().count() > 0 && blocked.clone().all(|(.., append)| !append.is_finished()));
    pair.mirror.start();
    for (log, policy, number, append) in waiting {
        let (options, answer) =
            tokio::time::timeout(SOON * 2, append).await.expect("it is answered").unwrap();
        match (policy, answer) {
            (Degrade::Block, Ok(acked)) => {
                assert!(acked.reached == Durability::Remote && !acked.degraded, "{acked:?}");
            }
            (Degrade::Degrade, Ok(acked)) => assert!(acked.degraded && acked.reached < Durability::Remote),
            (Degrade::Fail, Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                assert!(error.message().contains("request id"), "{error}");
                // What failed is stored all the same, and a retry finds it.
                let retry = AppendOptions { deadline: None, ..options };
                let acked = here.append(log, payload(number, PIECE_BYTES), retry).await.unwrap();
                assert!(acked.duplicate && acked.reached == Durability::Remote, "{acked:?}");
            }
            (policy, answer) => panic!("{policy}: {answer:?}"),
        }
    }
    pair.linked().await;
    pair.mirrored().await;
    for &(log, _) in &logs {
        let there = pair.stat(At::Mirror, log).await;
        assert_eq!(there.records, APPENDS + 1);
    }
    pair.verify();
}

//! The client library against a real API on loopback.

#[path = "../../gate/tests/memory/mod.rs"]
mod memory;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use memory::MemorySite;
use parhelion_client::{AppendOptions, Client, ClientConfig, EntryKind, Identity, RequestId};
use parhelion_gate::pki::{self, InitOptions};
use parhelion_gate::{Api, ApiConfig};
use parhelion_types::limits::APPEND_BYTES_MAX;
use parhelion_types::{Degrade, Durability, ErrorKind, LogAddress, LogId};

const ANYWHERE: &str = "127.0.0.1:0";

fn make_pki() -> tempfile::TempDir {
    let pki = tempfile::tempdir().unwrap();
    pki::init(pki.path(), &InitOptions::default()).unwrap();
    pki
}

fn serve(site: &Arc<MemorySite>, pki: &Path, listen: SocketAddr) -> Api {
    let identity = Identity::load_from(pki, "node-1").unwrap();
    Api::start(ApiConfig::new(listen), &identity, site.clone()).unwrap()
}

/// Serves where an API has just stopped, as soon as its socket is closed.
async fn serve_again(site: &Arc<MemorySite>, pki: &Path, listen: SocketAddr) -> Api {
    let patience = Instant::now() + Duration::from_secs(5);
    while std::net::UdpSocket::bind(listen).is_err() {
        assert!(Instant::now() < patience, "{listen} is still in use");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    serve(site, pki, listen)
}

fn config(address: SocketAddr, pki: &Path, name: &str) -> ClientConfig {
    ClientConfig::new(address, Identity::load_from(pki, name).unwrap())
}

fn start() -> (Arc<MemorySite>, tempfile::TempDir, Api, SocketAddr) {
    let (site, pki) = (MemorySite::new(), make_pki());
    let api = serve(&site, pki.path(), ANYWHERE.parse().unwrap());
    let address = api.local_address().unwrap();
    (site, pki, api, address)
}

fn remote() -> AppendOptions {
    AppendOptions { durability: Durability::Remote, ..AppendOptions::default() }
}

#[tokio::test]
async fn every_call_makes_its_round_trip() {
    let (_site, pki, _api, address) = start();
    let client = Client::connect(config(address, pki.path(), "admin")).await.unwrap();
    let log = client.create("orders", Degrade::Fail).await.unwrap();
    let request = RequestId(42);
    let options = AppendOptions { request, explain: true, ..remote() };
    let acked = client.append(log, "one order", options.clone()).await.unwrap();
    assert_eq!((acked.log, acked.reached, acked.duplicate), (log, Durability::Remote, false));
    assert_eq!(acked.path.len(), 1);
    let again = client.append(log, "one order", options).await.unwrap();
    assert_eq!((again.address, again.duplicate), (acked.address, true));

    let record = client.read(log, acked.address).await.unwrap();
    assert_eq!(record.payload, Bytes::from_static(b"one order"));
    client.free(log, acked.address).await.unwrap();
    client.free(log, acked.address).await.unwrap();
    assert_eq!(client.read(log, acked.address).await.unwrap_err().kind(), ErrorKind::NotFound);

    let state = client.stat(log).await.unwrap();
    assert_eq!((state.name.as_str(), state.degrade, state.freed), ("orders", Degrade::Fail, 1));
    let stretch = client.scan(log, LogAddress::default(), 2).await.unwrap();
    let kinds: Vec<_> = stretch.entries.iter().map(|entry| (entry.kind, entry.request)).collect();
    assert_eq!(kinds[1], (EntryKind::Append, request));
    let rest = client.scan(log, stretch.next, 2).await.unwrap();
    assert_eq!(rest.entries[0].kind, EntryKind::Free);
    assert!(client.scan(log, rest.next, 2).await.unwrap().entries.is_empty());

    assert_eq!(client.status().await.unwrap()["site"], 1);
    let digest = client.digest(log, state.end).await.unwrap();
    assert_eq!(digest.digest, *blake3::hash(b"one order").as_bytes());
    assert_eq!(client.promote(true).await.unwrap().logs, 1);
    assert_eq!(client.change_code("reed-solomon", "r=8 c=3").await.unwrap(), "reed-solomon r=8 c=3");
    let error = client.change_code(memory::UNKNOWN_CODE, "").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let error = client.stat(LogId(9)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::NotFound, "log 9 does not exist; create it first")
    );
    client.close().await;
}

#[tokio::test]
async fn lists_go_over_many_pages() {
    let (_site, pki, _api, address) = start();
    let client = Client::connect(config(address, pki.path(), "client")).await.unwrap();
    assert!(client.list().await.unwrap().is_empty());
    let names = (0..2500).map(|n| client.create(format!("log-{n}"), Degrade::Block));
    assert!(join_all(names).await.iter().all(Result::is_ok));
    let logs = client.list().await.unwrap();
    assert_eq!(logs.len(), 2500);
    assert!(logs.windows(2).all(|pair| pair[0].log < pair[1].log));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_overtake_each_other() {
    let (site, pki, _api, address) = start();
    let client = Client::connect(config(address, pki.path(), "client")).await.unwrap();
    let log = client.create("orders", Degrade::Block).await.unwrap();
    site.set_mirror(false);
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.append(log, "slow", remote()).await }
    });
    let local = AppendOptions { durability: Durability::Local, ..AppendOptions::default() };
    let fast = (0..500).map(|n| client.append(log, format!("fast {n}"), local.clone()));
    let acked: Vec<_> = join_all(fast).await.into_iter().map(Result::unwrap).collect();
    assert!(!slow.is_finished());
    site.set_mirror(true);
    slow.await.unwrap().unwrap();
    // Each answer reached the call it belongs to.
    for (n, acked) in acked.iter().enumerate() {
        assert_eq!(client.read(log, acked.address).await.unwrap().payload, format!("fast {n}"));
    }
}

#[tokio::test]
async fn the_largest_append_passes_and_a_larger_one_does_not_leave() {
    let (site, pki, _api, address) = start();
    let client = Client::connect(config(address, pki.path(), "client")).await.unwrap();
    let log = client.create("orders", Degrade::Block).await.unwrap();
    let payload = Bytes::from((0..APPEND_BYTES_MAX).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let acked = client.append(log, payload.clone(), remote()).await.unwrap();
    assert!(client.read(log, acked.address).await.unwrap().payload == payload);
    let asked = site.asked.load(Ordering::SeqCst);
    for (payload, part) in [(vec![0; APPEND_BYTES_MAX + 1], "split it"), (Vec::new(), "at least one byte")] {
        let error = client.append(log, payload, remote()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(part), "{error}");
    }
    assert_eq!(site.asked.load(Ordering::SeqCst), asked);
}

#[tokio::test]
async fn a_refused_certificate_is_explained() {
    let (_site, ours, _api, address) = start();
    let theirs = make_pki();
    // Wrong role: the node says what it takes.
    let error = Client::connect(config(address, ours.path(), "node-2")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    assert!(error.message().contains("role link, metadata, storage"), "{error}");
    assert!(error.message().contains("client or admin"), "{error}");
    // Another authority: the client does not trust the node.
    let error = Client::connect(config(address, theirs.path(), "client")).await.unwrap_err();
    assert!(
        error.message().contains("cannot be trusted") && error.message().contains("UnknownIssuer"),
        "{error}"
    );
    // A certificate of another authority, while trusting ours: the node does not trust the client.
    let [certificate, key] = ["client.pem", "client.key"].map(|file| theirs.path().join(file));
    let mixed = Identity::load(&ours.path().join("ca.pem"), &certificate, &key).unwrap();
    let error = Client::connect(ClientConfig::new(address, mixed)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    assert!(error.message().contains("refused this client's certificate"), "{error}");
    // What a client may not do.
    let client = Client::connect(config(address, ours.path(), "client")).await.unwrap();
    let error = client.promote(false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    assert!(error.message().contains("takes admin"), "{error}");
}

#[tokio::test]
async fn no_node_is_an_error_in_time() {
    let pki = make_pki();
    let socket = std::net::UdpSocket::bind(ANYWHERE).unwrap();
    let mut config = config(socket.local_addr().unwrap(), pki.path(), "client");
    config.connect_timeout = Duration::from_millis(200);
    let error = Client::connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("check that a node's API listens there"), "{error}");
}

#[tokio::test]
async fn a_busy_node_is_asked_again() {
    let (site, pki, _api, address) = start();
    let client = Client::connect(config(address, pki.path(), "client")).await.unwrap();
    let log = client.create("orders", Degrade::Block).await.unwrap();
    site.busy.store(3, Ordering::SeqCst);
    client.append(log, "order", remote()).await.unwrap();
    assert_eq!(site.asked.load(Ordering::SeqCst), 4);
    assert_eq!(site.appends(log), 1);
    site.busy.store(u32::MAX, Ordering::SeqCst);
    let hasty = AppendOptions { timeout: Some(Duration::from_millis(50)), ..remote() };
    assert_eq!(client.append(log, "order", hasty).await.unwrap_err().kind(), ErrorKind::Busy);
}

#[tokio::test]
async fn busy_is_the_answer_to_who_wants_to_know() {
    let (site, pki, _api, address) = start();
    let config = ClientConfig { repeat_busy: false, ..config(address, pki.path(), "client") };
    let client = Client::connect(config).await.unwrap();
    let log = client.create("orders", Degrade::Block).await.unwrap();
    site.busy.store(1, Ordering::SeqCst);
    assert_eq!(client.append(log, "order", remote()).await.unwrap_err().kind(), ErrorKind::Busy);
    client.append(log, "order", remote()).await.unwrap();
    assert_eq!(site.asked.load(Ordering::SeqCst), 2);
}

/// More appends than a connection may have under way are given up one after the other, and take no place for ever.
#[tokio::test]
async fn who_waits_no_more_gives_up_at_the_node() {
    let (site, pki, api) = (MemorySite::new(), make_pki(), ApiConfig::new(ANYWHERE.parse().unwrap()));
    let identity = Identity::load_from(pki.path(), "node-1").unwrap();
    let api = ApiConfig { questions_max: 4, ..api };
    let in_flight = api.in_flight.clone();
    let api = Api::start(api, &identity, site.clone()).unwrap();
    let address = api.local_address().unwrap();
    let client = Client::connect(config(address, pki.path(), "client")).await.unwrap();
    let log = client.create("orders", Degrade::Block).await.unwrap();
    site.set_mirror(false);
    let hasty = AppendOptions { timeout: Some(Duration::from_millis(100)), ..remote() };
    let calls = (0..20).map(|_| client.append(log, "order", hasty.clone()));
    for error in join_all(calls).await.into_iter().map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    // Dropped by its caller, long before its time is over.
    let append = client.append(log, "order", remote());
    assert!(tokio::time::timeout(Duration::from_millis(100), append).await.is_err());
    let local = AppendOptions { durability: Durability::Local, ..AppendOptions::default() };
    client.append(log, "order", local).await.unwrap();
    let patience = Instant::now() + Duration::from_secs(5);
    while in_flight.held_bytes() > 0 {
        assert!(Instant::now() < patience, "{} bytes are held for nobody", in_flight.held_bytes());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_answer_that_never_comes_names_the_request() {
    let (site, pki, _api, address) = start();
    let client = Client::connect(config(address, pki.path(), "client")).await.unwrap();
    let log = client.create("orders", Degrade::Block).await.unwrap();
    site.set_mirror(false);
    let options =
        AppendOptions { request: RequestId(0xabc), timeout: Some(Duration::from_millis(50)), ..remote() };
    let error = client.append(log, "order", options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("request id 00000000000000000000000000000abc"), "{error}");
}

/// A stop in good order: appends that wait when the node stops are sent again to the node that comes back,
/// and stored once.
#[tokio::test]
async fn appends_survive_a_restart_of_the_node() {
    let (site, pki, api, address) = start();
    let client = Client::connect(config(address, pki.path(), "client")).await.unwrap();
    let log = client.create("orders", Degrade::Block).await.unwrap();
    site.set_mirror(false);
    let calls: Vec<_> = (0..20)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.append(log, format!("order {n}"), remote()).await })
        })
        .collect();
    while site.appends(log) < 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    api.stop(Duration::from_millis(50)).await;
    let before = site.asked.load(Ordering::SeqCst);
    let _api = serve_again(&site, pki.path(), address).await;
    while site.asked.load(Ordering::SeqCst) < before + 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    site.set_mirror(true);
    for call in calls {
        assert!(call.await.unwrap().unwrap().duplicate, "an append was not recognised when it was repeated");
    }
    assert_eq!(site.appends(log), 20);
}

/// A crash: the node has forgotten the connection, says so, and the client does not wait for its idle timeout.
#[tokio::test]
async fn a_crashed_node_is_found_again_at_once() {
    let (site, pki) = (MemorySite::new(), make_pki());
    let node = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let api = node.spawn({
        let (site, pki) = (site.clone(), pki.path().to_owned());
        async move { serve(&site, &pki, ANYWHERE.parse().unwrap()) }
    });
    let api = api.await.unwrap();
    let address = api.local_address().unwrap();
    let mut config = config(address, pki.path(), "client");
    config.idle_timeout = Duration::from_secs(60);
    let client = Client::connect(config).await.unwrap();
    let log = client.create("orders", Degrade::Block).await.unwrap();

    // Its tasks vanish without a word to the client, and then its socket is closed.
    tokio::task::spawn_blocking(move || node.shutdown_timeout(Duration::from_secs(5))).await.unwrap();
    drop(api);
    let _api = serve_again(&site, pki.path(), address).await;
    let start = Instant::now();
    client.append(log, "after the crash", remote()).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}

/// Not a benchmark: a floor far below what is normal, so that a copy or a stall per append is noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_flows() {
    const APPEND: usize = 256 << 10;
    let (_site, pki, _api, address) = start();
    let client = Client::connect(config(address, pki.path(), "client")).await.unwrap();
    let log = client.create("bulk", Degrade::Block).await.unwrap();
    let payload = Bytes::from(vec![7; APPEND]);
    let start = Instant::now();
    let writers = (0..16).map(|_| async {
        for _ in 0..64 {
            client.append(log, payload.clone(), remote()).await.unwrap();
        }
    });
    join_all(writers).await;
    let rate = (16 * 64 * APPEND * 8) as f64 / start.elapsed().as_secs_f64() / 1e9;
    let small = Instant::now();
    let writers = (0..64).map(|_| async {
        for _ in 0..100 {
            client.append(log, Bytes::from_static(&[7; 4096]), remote()).await.unwrap();
        }
    });
    join_all(writers).await;
    println!("{rate:.2} Gbit/s, {:.0} appends of 4 KiB/s", 6400.0 / small.elapsed().as_secs_f64());
    assert!(rate > 0.2, "{rate:.2} Gbit/s");
}

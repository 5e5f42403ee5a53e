//! A day without trouble.

use parhelion_client::{AppendOptions, EntryKind, RequestId};
use parhelion_e2e::{At, NodeSpec, Pair, PairOptions, payload, request_id};
use parhelion_types::{Degrade, Durability, ErrorKind, LogAddress, Risk};

use crate::{SOON, at_level};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_appended_at_one_site_is_at_both() {
    let pair = Pair::start(PairOptions::default()).await;
    whole_life_of_a_log(&pair, &Durability::ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_link_may_be_a_tcp_stream() {
    let pair = Pair::start(PairOptions::default().primary("link.transport", "tcp")).await;
    // Without a code nothing is promised about what is on the wire, so there is no network level to ask for.
    whole_life_of_a_log(&pair, &[Durability::Local, Durability::Remote]).await;
}

/// Everything that a client can do with a log, and its trace at the other site.
async fn whole_life_of_a_log(pair: &Pair, levels: &[Durability]) {
    let (here, there) = (pair.client(At::Primary).await, pair.client(At::Mirror).await);
    let log = here.create("orders", Degrade::Block).await.unwrap();
    let other = here.create("payments", Degrade::Fail).await.unwrap();
    assert_ne!(log, other);

    let sizes = [1, 7, 1024, 100_000, 3 << 20];
    let mut appends = Vec::new();
    for (n, &bytes) in sizes.iter().enumerate() {
        for &durability in levels {
            let number = (n * 10) as u64 + u64::from(durability.code());
            let acked = here.append(log, payload(number, bytes), at_level(durability)).await.unwrap();
            assert!(acked.reached >= durability && !acked.degraded && !acked.duplicate, "{acked:?}");
            match durability {
                Durability::Local => {}
                Durability::Network => assert!(acked.prefix_risk <= Risk::bound(1e-6), "{acked:?}"),
                Durability::Remote => assert_eq!(acked.prefix_risk, Risk::NONE),
            }
            if durability == Durability::Remote {
                let record = there.read(log, acked.address).await.unwrap();
                assert_eq!(record.payload, payload(number, bytes), "not at the mirror when it was promised");
            }
            appends.push((acked.address, number, bytes));
        }
    }
    assert!(appends.is_sorted(), "addresses rise");

    // The same request twice is one record, with one address.
    let named = AppendOptions { request: request_id(77), ..at_level(Durability::Local) };
    let first = here.append(log, payload(77, 500), named.clone()).await.unwrap();
    let records = here.stat(log).await.unwrap().records;
    let second = here.append(log, payload(77, 500), named).await.unwrap();
    assert_eq!((first.address, first.duplicate), (second.address, false));
    assert!(second.duplicate);
    assert_eq!(here.stat(log).await.unwrap().records, records, "the second one was stored too");
    appends.push((first.address, 77, 500));

    // A freed append is gone at both sites, the others are not.
    let (freed, ..) = appends.remove(3);
    here.free(log, freed).await.unwrap();
    here.free(log, freed).await.expect("freeing it again changes nothing");
    pair.mirrored().await;
    for client in [&here, &there] {
        let error = client.read(log, freed).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().contains("freed"), "{error}");
        for &(address, number, bytes) in &appends {
            assert_eq!(client.read(log, address).await.unwrap().payload, payload(number, bytes));
        }
        assert_eq!(client.stat(log).await.unwrap().freed, 1);
    }

    // Both sites list the same.
    let names = |logs: Vec<parhelion_client::LogState>| {
        logs.into_iter().map(|log| (log.log, log.name, log.degrade, log.records, log.end)).collect::<Vec<_>>()
    };
    let listed = names(here.list().await.unwrap());
    assert_eq!(listed.len(), 2);
    assert_eq!(listed, names(there.list().await.unwrap()));

    for client in [&here, &there] {
        let mut entries = Vec::new();
        let mut from = LogAddress::default();
        loop {
            let stretch = client.scan(log, from, 4).await.unwrap();
            if stretch.entries.is_empty() {
                break;
            }
            assert!(stretch.entries.len() <= 4);
            from = stretch.next;
            entries.extend(stretch.entries);
        }
        assert_eq!(entries[0].kind, EntryKind::Create);
        let appended: Vec<_> = entries.iter().filter(|e| e.kind == EntryKind::Append && !e.freed).collect();
        let expected: Vec<_> = appends.iter().map(|&(address, _, bytes)| (address, bytes as u32)).collect();
        assert_eq!(appended.iter().map(|e| (e.address, e.length)).collect::<Vec<_>>(), expected);
        assert_eq!(entries.iter().filter(|e| e.request == request_id(77)).count(), 1);
        assert_eq!(entries.iter().filter(|e| e.kind == EntryKind::Free).count(), 1);
        assert!(entries.iter().all(|e| e.kind != EntryKind::Append || e.request != RequestId::NONE));
    }

    let found = pair.verify();
    assert_eq!(found["logs"].as_array().unwrap().len(), 2, "{found}");
    let status = here.status().await.unwrap();
    assert_eq!((&status["site"], &status["duty"]), (&1.into(), &"primary".into()), "{status}");
    assert_eq!(status["logs"]["logs"][0]["lag_bytes"], 0, "{status}");
    let status = there.status().await.unwrap();
    assert_eq!((&status["site"], &status["duty"]), (&2.into(), &"mirror".into()), "{status}");

    let error = there.append(log, payload(1, 1), at_level(Durability::Local)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "a mirror takes no appends: {error}");
    assert!(error.message().contains("go to the primary"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_there_after_an_orderly_restart() {
    let mut pair = Pair::start(PairOptions::default()).await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    // More than one segment.
    let mut appends = Vec::new();
    for number in 0..30 {
        let acked = here.append(log, payload(number, 1 << 20), at_level(Durability::Network)).await.unwrap();
        appends.push((acked.address, number));
    }
    let last = appends[appends.len() - 1].0;
    assert!(last.segment.0 > 0, "30 MiB are in {last}, so the segments are larger than this test thinks");
    pair.primary.stop();
    pair.mirror.stop();
    pair.mirror.start();
    pair.primary.start();
    pair.linked().await;
    for at in [At::Primary, At::Mirror] {
        let client = pair.client(at).await;
        for &(address, number) in &appends {
            assert_eq!(client.read(log, address).await.unwrap().payload, payload(number, 1 << 20));
        }
    }
    let acked = here.append(log, payload(99, 10), at_level(Durability::Remote)).await.unwrap();
    assert!(acked.address > last);
    pair.mirrored().await;
    pair.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_chooses_its_ports_and_says_which() {
    let pair = Pair::down(PairOptions::default());
    let spec = |profile: &'static str| {
        NodeSpec { name: profile, profile, settings: Vec::new(), directory: pair.directory().to_owned() }
            .with("tls.directory", pair.pki.display())
            .with("node.data", pair.directory().join(format!("{profile}-any")).display())
            .with("api.listen", "127.0.0.1:0")
            .with("http.listen", "127.0.0.1:0")
            .with("storage.segment", "17MiB")
    };
    let any = "127.0.0.1:0";
    let mirror = spec("mirror")
        .with("link.listen_bulk", any)
        .with("link.listen_critical", any)
        .with("link.listen_tcp", any)
        .start();
    let link = mirror.ready().link.expect("a mirror listens for its primary");
    let primary = spec("primary")
        .with("link.peer_bulk", link.bulk)
        .with("link.peer_critical", link.critical)
        .with("link.peer_tcp", link.tcp.expect("it listens for a TCP link too"))
        .start();
    assert!(primary.ready().ready && primary.ready().link.is_none());
    let mut ports = vec![link.bulk, link.critical, mirror.ready().api, primary.ready().api];
    ports.extend(mirror.ready().http.into_iter().chain(primary.ready().http));
    assert_eq!(ports.len(), 6);
    assert!(ports.iter().all(|address| address.port() != 0), "{ports:?}");

    let client = parhelion_e2e::client(primary.ready().api, &pair.pki, "client").await;
    let log = client.create("orders", Degrade::Block).await.unwrap();
    let append = client.append(log, payload(1, 100), at_level(Durability::Remote));
    let acked = tokio::time::timeout(SOON, append).await.expect("in time").unwrap();
    assert_eq!(acked.reached, Durability::Remote);
}

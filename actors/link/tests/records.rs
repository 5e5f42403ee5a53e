//! Records from one end of a link to the other.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{LAYERED, Mirror, Pki, Primary, mirror_config, over_a_path, primary_config};
use parhelion_link_driver::{Congestion, LinkCommand, LinkEvent, MirrorCommand, Transport};
use parhelion_plugin::Structure;
use parhelion_types::{LogId, RecordKey};
use parhelion_wire::link::LogMarkV1;
use tokio::sync::oneshot;

fn key(log: u32, number: u64) -> RecordKey {
    RecordKey { log: LogId(log), number }
}

/// Sizes around every boundary: tiny, one symbol, one more than a symbol, many groups.
fn size(number: u64) -> usize {
    [12, 100, 1_300, 1_357, 1_358, 4_096, 70_000, 13, 200_000][number as usize % 9]
}

#[tokio::test]
async fn records_arrive_byte_exact_and_covered() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let (mut config, _critical, _bulk) = over_a_path(primary_config(&pki, mirror.addresses)).await;
    // What the path carries without a loss while this machine does other things as well.
    config.rate_bytes_per_second = 20_000_000;
    let mut primary = Primary::start(config);
    assert_eq!(primary.up().await, []);
    for number in 0..120 {
        primary.send(7, number, size(number));
    }
    // The path is longer than the wait for coverage, so that nearly every record is covered before it is mirrored.
    primary.until(|p| (0..120).all(|number| p.is_safe(7, number)) && p.announced.len() == 120).await;
    assert!(primary.complete.len() > 60, "{} of 120 were covered", primary.complete.len());
    primary.until(|p| p.mirrored.get(&7) == Some(&120)).await;
    mirror.until(|store| store.announced.len() == 120).await;
    let store = mirror.store.lock().unwrap();
    assert!((0..120).all(|number| store.records[&(7, number)].len() == size(number)));
    // Coverage came from repairs. Sent again was at most what the path dropped, because this machine was busy.
    assert!(primary.stats.repairs_sent.get() > 0);
    let (resent, lost) = (primary.stats.resent.get(), primary.stats.datagrams_lost.get());
    assert!(resent <= lost, "{:?}", primary.stats.all());
    assert_eq!(mirror.stats.rejected.get(), 0);
}

#[tokio::test]
async fn an_idle_link_covers_and_mirrors_one_record_quickly() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let (config, _critical, _bulk) = over_a_path(primary_config(&pki, mirror.addresses)).await;
    let mut primary = Primary::start(config);
    primary.up().await;
    for number in 0..20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let start = tokio::time::Instant::now();
        primary.send(1, number, 10_000);
        primary
            .until(|p| p.complete.contains(&key(1, number)) && p.announced.contains(&key(1, number)))
            .await;
        // Nothing follows this record: its partial groups were flushed, it did not wait for later traffic, nor
        // for the mirror.
        assert_eq!(primary.mirrored.get(&1).copied().unwrap_or(0), number);
        assert!(start.elapsed() < Duration::from_millis(200), "covered after {:?}", start.elapsed());
        primary.until(|p| p.mirrored.get(&1) == Some(&(number + 1))).await;
        assert!(start.elapsed() < Duration::from_millis(400), "mirrored after {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn losses_are_repaired_or_sent_again_and_counted() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let (mut config, critical, bulk) = over_a_path(primary_config(&pki, mirror.addresses)).await;
    config.rate_bytes_per_second = 10_000_000;
    let mut primary = Primary::start(config);
    primary.up().await;
    critical.set_loss(10);
    bulk.set_loss(10);
    for number in 0..200 {
        primary.send(3, number, 40_000);
    }
    primary.until(|p| p.mirrored.get(&3) == Some(&200) && p.announced.len() == 200).await;
    mirror.until(|store| store.announced.len() == 200).await;
    let counts = primary.telemetry.lock().unwrap().unwrap();
    assert!(bulk.lost.load(std::sync::atomic::Ordering::Relaxed) > 20);
    assert!(counts.lost > 20 && counts.rebuilt > 10, "{counts:?}");
    assert!(counts.n01 > 0 && counts.n00 > counts.n01, "{counts:?}");
    // Repair does nearly all of the work: what is sent again is a small part of what was lost.
    assert!(primary.stats.resent.get() < counts.lost / 2, "{:?} {counts:?}", primary.stats.all());
}

#[tokio::test]
async fn the_code_changes_under_traffic() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let mut config = primary_config(&pki, mirror.addresses);
    (config.code, config.parameters) = ("none".to_owned(), String::new());
    let mut primary = Primary::start(config);
    primary.up().await;
    let change = |name: &str, parameters: &str| {
        let (done, answer) = oneshot::channel();
        let (name, parameters) = (name.to_owned(), parameters.to_owned());
        (LinkCommand::ChangeCode { name, parameters, flush_pause: None, done }, answer)
    };
    for number in 0..60 {
        primary.send(1, number, 30_000);
    }
    let (command, answer) = change(LAYERED.0, LAYERED.1);
    primary.command(command);
    for number in 60..120 {
        primary.send(1, number, 30_000);
    }
    assert_eq!(answer.await.unwrap(), Ok(()));
    loop {
        if let LinkEvent::CodeChanged(code) = primary.event().await {
            assert!(matches!(code.structure(), Structure::Layered { r: 8, .. }));
            assert!(code.to_string().starts_with("layered-interleaving v1"), "{code}");
            break;
        }
    }
    let (command, answer) = change("fountain", "");
    primary.command(command);
    assert!(answer.await.unwrap().unwrap_err().contains("\"fountain\" is not known here"));
    let (command, answer) = change(LAYERED.0, "r=9999");
    primary.command(command);
    assert!(answer.await.unwrap().unwrap_err().contains("r is 9999"));
    primary.until(|p| (0..120).all(|number| p.is_safe(1, number))).await;
    primary.until(|p| p.mirrored.get(&1) == Some(&120)).await;
    assert!(primary.stats.repairs_sent.get() > 0);
    assert_eq!(mirror.store.lock().unwrap().downs, Vec::<String>::new());
}

#[tokio::test]
async fn records_go_over_tcp() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let mut config = primary_config(&pki, mirror.addresses);
    config.transport = Transport::Tcp { congestion: Some("reno".to_owned()) };
    let mut primary = Primary::start(config);
    primary.up().await;
    for number in 0..100 {
        primary.send(5, number, size(number));
    }
    // The largest append there may be, with its header.
    let largest = parhelion_types::limits::APPEND_BYTES_MAX + 100;
    primary.send(5, 100, largest);
    primary.until(|p| p.mirrored.get(&5) == Some(&101)).await;
    primary.until(|p| p.sent.len() == 101 && p.announced.len() == 101).await;
    assert!(primary.complete.is_empty(), "nothing is known about the wire");
    mirror.until(|store| store.announced.len() == 101).await;
}

#[tokio::test]
async fn an_unknown_congestion_control_does_not_stop_mirroring() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let mut config = primary_config(&pki, mirror.addresses);
    config.transport = Transport::Tcp { congestion: Some("no-such".to_owned()) };
    let mut primary = Primary::start(config);
    primary.up().await;
    primary.send(5, 0, 1000);
    primary.until(|p| p.mirrored.get(&5) == Some(&1)).await;
}

#[tokio::test]
async fn a_mirror_that_falls_behind_drops_new_data_and_catches_up() {
    let pki = Pki::new();
    let mut config = mirror_config(&pki);
    config.pending_bytes_max = 1 << 20;
    let mirror = Mirror::start(config);
    let mut primary = Primary::start(primary_config(&pki, mirror.addresses));
    primary.up().await;
    // Over the limit for new data and over the hard one: nothing is taken.
    mirror.pending.store(5 << 20, std::sync::atomic::Ordering::Relaxed);
    for number in 0..50 {
        primary.send(1, number, 20_000);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(mirror.store.lock().unwrap().records.is_empty());
    assert!(mirror.stats.host_drops.get() > 0);
    mirror.pending.store(0, std::sync::atomic::Ordering::Relaxed);
    primary.until(|p| p.mirrored.get(&1) == Some(&50)).await;
    let counts = primary.telemetry.lock().unwrap().unwrap();
    assert!(counts.host_drops > 0, "{counts:?}");
}

#[tokio::test]
async fn tcp_stops_the_primary_when_the_mirror_falls_behind() {
    let pki = Pki::new();
    let mut config = mirror_config(&pki);
    config.pending_bytes_max = 1 << 20;
    let mirror = Mirror::start(config);
    let mut config = primary_config(&pki, mirror.addresses);
    config.transport = Transport::Tcp { congestion: None };
    let mut primary = Primary::start(config);
    primary.up().await;
    mirror.pending.store(2 << 20, std::sync::atomic::Ordering::Relaxed);
    for number in 0..400 {
        primary.send(1, number, 100_000);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(100), primary.event()).await {
        assert!(!matches!(event, LinkEvent::Down { .. }));
    }
    assert!(primary.sent.len() < 400, "40 MB went into a mirror that takes none");
    assert!(mirror.store.lock().unwrap().records.is_empty());
    mirror.pending.store(0, std::sync::atomic::Ordering::Relaxed);
    primary.until(|p| p.mirrored.get(&1) == Some(&400)).await;
}

/// Connections whose peer is gone without a word, as after a power failure, must not keep later sessions out.
#[tokio::test]
async fn half_open_record_streams_end_with_the_session() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let mut config = primary_config(&pki, mirror.addresses);
    config.transport = Transport::Tcp { congestion: None };
    let mut tls = (*config.tls).clone();
    tls.alpn_protocols = vec![b"parhelion-records/1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let name = rustls::pki_types::ServerName::try_from(common::pki::NAME).unwrap();
    let mut half_open = Vec::new();
    // As many as are served at once.
    for _ in 0..16 {
        let stream = tokio::net::TcpStream::connect(config.tcp).await.unwrap();
        half_open.push(connector.connect(name.clone(), stream).await.unwrap());
    }
    let full = tokio::net::TcpStream::connect(config.tcp).await.unwrap();
    let refused = tokio::time::timeout(Duration::from_millis(200), connector.connect(name, full)).await;
    assert!(refused.is_err(), "there was room for one more");
    let mut primary = Primary::start(config);
    primary.up().await;
    for number in 0..20 {
        primary.send(5, number, size(number));
    }
    primary.until(|p| p.mirrored.get(&5) == Some(&20)).await;
    assert_eq!(mirror.store.lock().unwrap().downs, Vec::<String>::new());
    drop(half_open);
}

/// The mirror refuses a log while records of it are on their way to the link, or wait for room in it: none of them may
/// take up room for the rest of the session.
#[tokio::test]
async fn a_refused_log_leaves_nothing_in_the_link() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let mut config = primary_config(&pki, mirror.addresses);
    config.buffer_bytes_max = 1 << 20;
    config.drain_max = Duration::from_secs(15);
    let mut primary = Primary::start(config);
    primary.up().await;
    // Nothing becomes durable, so nothing is confirmed, and most of it waits for room.
    mirror.store.lock().unwrap().never_durable.insert(7);
    for number in 0..40 {
        primary.send(7, number, 100_000);
    }
    primary.until(|p| p.sent.contains(&key(7, 5))).await;
    mirror.commands.send(MirrorCommand::Marks(vec![LogMarkV1::refused(7, 0)])).unwrap();
    primary.until(|p| p.mirrored.get(&7) == Some(&LogMarkV1::REFUSED)).await;
    let discarded = primary.stats.commands_discarded.get();
    for number in 40..80 {
        primary.send(7, number, 100_000);
    }
    // As much as the link holds at once, and more.
    for number in 0..40 {
        primary.send(8, number, 100_000);
    }
    primary.until(|p| p.mirrored.get(&8) == Some(&40)).await;
    assert_eq!(primary.stats.commands_discarded.get() - discarded, 40);
    // Drained means confirmed; it would take until the time limit if anything of the refused log were left.
    let start = tokio::time::Instant::now();
    primary.command(LinkCommand::Close);
    assert!(primary.down().await.contains("closed"));
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}

#[tokio::test]
async fn closing_sends_what_is_queued() {
    let pki = Pki::new();
    for transport in [Transport::Quic, Transport::Tcp { congestion: None }] {
        let mirror = Mirror::start(mirror_config(&pki));
        let mut config = primary_config(&pki, mirror.addresses);
        config.transport = transport;
        let mut primary = Primary::start(config);
        primary.up().await;
        for number in 0..40 {
            primary.send(1, number, 50_000);
        }
        primary.command(LinkCommand::Close);
        assert!(primary.down().await.contains("closed"));
        primary.commands.closed().await;
        mirror.until(|store| store.durable.get(&1) == Some(&40) && !store.downs.is_empty()).await;
    }
}

#[tokio::test]
async fn every_congestion_control_and_both_address_families_work() {
    let pki = Pki::new();
    let congestions = [Congestion::Provisioned, Congestion::Bbr, Congestion::Cubic];
    for (address, congestion) in ["127.0.0.1:0", "127.0.0.1:0", "[::1]:0"].into_iter().zip(congestions) {
        if std::net::UdpSocket::bind(address).is_err() {
            continue; // A host without IPv6 proves nothing about it.
        }
        let address = address.parse().unwrap();
        let mut config = mirror_config(&pki);
        (config.listen_critical, config.listen_bulk, config.listen_tcp) = (address, address, Some(address));
        let mirror = Mirror::start(config);
        let mut config = primary_config(&pki, mirror.addresses);
        config.congestion = congestion;
        let mut primary = Primary::start(config);
        primary.up().await;
        for number in 0..60 {
            primary.send(1, number, size(number));
        }
        primary.until(|p| p.mirrored.get(&1) == Some(&60) && p.announced.len() == 60).await;
    }
}

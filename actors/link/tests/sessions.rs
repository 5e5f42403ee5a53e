//! How sessions begin, end, and begin again.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Mirror, Pki, Primary, codes, mark, mirror_config, over_a_path, primary_config};
use parhelion_link_driver::{
    LinkCommand, LinkError, LinkEvent, MirrorCommand, MirrorConfig, PrimaryDriver, Transport,
};
use parhelion_types::{Error, ErrorKind, Role, SiteId};
use parhelion_wire::link::LogTailV1;
use quinn_proto::HashedConnectionIdGenerator;

/// The same configuration on the ports that another mirror had.
fn on_ports_of(mirror: &Mirror, mut config: MirrorConfig) -> MirrorConfig {
    config.listen_critical = mirror.addresses.critical;
    config.listen_bulk = mirror.addresses.bulk;
    config.listen_tcp = mirror.addresses.tcp;
    config
}

#[tokio::test]
async fn a_restarted_mirror_is_found_again_and_gets_the_rest() {
    let pki = Pki::new();
    for transport in [Transport::Quic, Transport::Tcp { congestion: None }] {
        let config = mirror_config(&pki);
        let mirror = Mirror::start(config.clone());
        let mut primary_config = primary_config(&pki, mirror.addresses);
        primary_config.lane.idle_timeout = Duration::from_millis(500);
        primary_config.transport = transport;
        let mut primary = Primary::start(primary_config);
        primary.up().await;
        for number in 0..20 {
            primary.send(4, number, 5_000);
        }
        primary.until(|p| p.mirrored.get(&4) == Some(&20)).await;
        mirror.close().await;
        let reason = primary.down().await;
        assert!(reason.contains("the mirror is stopping") && reason.contains("connecting again"), "{reason}");
        // Nobody is there; what is sent now is discarded, not kept.
        primary.send(4, 20, 5_000);
        primary.down().await;
        assert!(primary.stats.commands_discarded.get() >= 2);

        let mirror = Mirror::start_with(on_ports_of(&mirror, config), mirror.store.clone());
        assert_eq!(primary.up().await, [mark(4, 20)]);
        for number in 20..30 {
            primary.send(4, number, 5_000);
        }
        primary.until(|p| p.mirrored.get(&4) == Some(&30)).await;
        assert_eq!(primary.stats.sessions.get(), 2);
        drop(mirror);
    }
}

#[tokio::test]
async fn a_mirror_that_was_killed_says_so_as_soon_as_it_is_back() {
    let pki = Pki::new();
    let mut config = mirror_config(&pki);
    // Both ends are more patient than this test.
    config.lane.idle_timeout = Duration::from_secs(120);
    for (key, endpoint) in [(7, &mut config.critical_endpoint), (8, &mut config.bulk_endpoint)] {
        endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
    }
    let mut mirror = Mirror::start(config.clone());
    let mut primary_config = primary_config(&pki, mirror.addresses);
    primary_config.lane.idle_timeout = config.lane.idle_timeout;
    let mut primary = Primary::start(primary_config);
    primary.up().await;
    for number in 0..20 {
        primary.send(4, number, 5_000);
    }
    primary.until(|p| p.mirrored.get(&4) == Some(&20)).await;
    mirror.kill().await;
    let config = on_ports_of(&mirror, config);
    let mirror = Mirror::start_with(config, mirror.store.clone());
    // Something must reach it before it can answer.
    primary.send(4, 20, 5_000);
    assert!(primary.down().await.contains("reset by peer"));
    assert_eq!(primary.up().await, [mark(4, 20)]);
    primary.send(4, 20, 5_000);
    primary.until(|p| p.mirrored.get(&4) == Some(&21)).await;
    drop(mirror);
}

#[tokio::test]
async fn a_mirror_that_is_cut_back_is_met_again_at_the_cut() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let mut primary = Primary::start(primary_config(&pki, mirror.addresses));
    primary.up().await;
    for number in 0..20 {
        primary.send(4, number, 5_000);
    }
    primary.until(|p| p.mirrored.get(&4) == Some(&20)).await;
    let tail = LogTailV1 { log: 4, epoch: 0, records: 15, segment: 0, offset: 0, chain: 0 };
    primary.command(LinkCommand::Rewind(vec![tail]));
    primary.down().await;
    assert_eq!(primary.up().await, [mark(4, 15)]);
    for number in 15..25 {
        primary.send(4, number, 5_000);
    }
    primary.until(|p| p.mirrored.get(&4) == Some(&25)).await;
}

#[tokio::test]
async fn a_session_is_renewed_at_once_and_ended_from_either_side() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let mut config = primary_config(&pki, mirror.addresses);
    // Whoever waits for a pause waits too long.
    (config.reconnect_min, config.reconnect_max) = (Duration::from_secs(60), Duration::from_secs(60));
    let mut primary = Primary::start(config);
    // Nothing to renew yet.
    primary.command(LinkCommand::Renew { reason: "too early".to_owned() });
    primary.up().await;
    for number in 0..20 {
        primary.send(4, number, 5_000);
    }
    primary.until(|p| p.mirrored.get(&4) == Some(&20)).await;
    // Twice in a row is once.
    for _ in 0..2 {
        primary.command(LinkCommand::Renew { reason: "a node joined".to_owned() });
    }
    assert_eq!(primary.down().await, "a node joined; connecting again at once");
    assert_eq!(primary.up().await, [mark(4, 20)]);
    mirror.until(|store| store.downs.iter().any(|reason| reason.contains("a node joined"))).await;
    assert_eq!(primary.stats.sessions.get(), 2);

    mirror.commands.send(MirrorCommand::EndSession { reason: "a node left".to_owned() }).unwrap();
    let reason = primary.down().await;
    assert!(reason.contains("a node left"), "{reason}");
    mirror.until(|store| store.downs.iter().any(|reason| reason == "a node left")).await;
}

#[tokio::test]
async fn a_silent_path_is_noticed_and_forgotten() {
    let pki = Pki::new();
    let mut config = mirror_config(&pki);
    config.lane.idle_timeout = Duration::from_millis(500);
    let mirror = Mirror::start(config);
    let (mut config, critical, bulk) = over_a_path(primary_config(&pki, mirror.addresses)).await;
    config.lane.idle_timeout = Duration::from_millis(500);
    let mut primary = Primary::start(config);
    primary.up().await;
    let start = tokio::time::Instant::now();
    critical.set_loss(1000);
    bulk.set_loss(1000);
    let reason = primary.down().await;
    assert!(reason.contains("timed out"), "{reason}");
    assert!(start.elapsed() < Duration::from_secs(2), "noticed after {:?}", start.elapsed());
    mirror.until(|store| store.downs.len() == 1).await;
    critical.set_loss(0);
    bulk.set_loss(0);
    primary.up().await;
    primary.send(1, 0, 5_000);
    primary.until(|p| p.mirrored.get(&1) == Some(&1)).await;
}

#[tokio::test]
async fn a_primary_with_the_wrong_role_is_refused() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let mut config = primary_config(&pki, mirror.addresses);
    let (certificate, key) = pki.issue(Role::Client);
    config.tls = pki.client(certificate, key);
    let mut primary = Primary::start(config);
    let reason = primary.down().await;
    assert!(reason.contains("certificate refused: it was issued for client, not for link"), "{reason}");
    assert_eq!(mirror.stats.sessions.get(), 0);
    assert_eq!(mirror.store.lock().unwrap().downs, Vec::<String>::new());
}

#[tokio::test]
async fn a_mirror_with_the_wrong_role_is_refused() {
    let pki = Pki::new();
    let mut config = mirror_config(&pki);
    let (certificate, key) = pki.issue(Role::Storage);
    config.tls = pki.server(certificate, key);
    let mirror = Mirror::start(config);
    let mut primary = Primary::start(primary_config(&pki, mirror.addresses));
    let reason = primary.down().await;
    assert!(reason.contains("the mirror's certificate is refused"), "{reason}");
    assert!(reason.contains("issued for storage, not for link"), "{reason}");
}

#[tokio::test]
async fn a_stranger_is_refused_by_tls() {
    let (pki, other) = (Pki::new(), Pki::new());
    let mirror = Mirror::start(mirror_config(&pki));
    let mut primary = Primary::start(primary_config(&other, mirror.addresses));
    let reason = primary.down().await;
    assert!(reason.contains("certificate"), "{reason}");
    assert_eq!(mirror.stats.sessions.get(), 0);
}

#[tokio::test]
async fn what_storage_says_against_a_session_is_told() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    mirror.store.lock().unwrap().refuse =
        Some(Error::new(ErrorKind::Fenced, "log 3 was promoted here in epoch 9; stop the old primary"));
    let mut primary = Primary::start(primary_config(&pki, mirror.addresses));
    let reason = primary.down().await;
    assert!(reason.contains("fenced: log 3 was promoted here in epoch 9"), "{reason}");
    mirror.store.lock().unwrap().refuse = None;
    primary.up().await;
}

#[tokio::test]
async fn a_code_that_the_mirror_does_not_know_is_refused() {
    let pki = Pki::new();
    let mut config = mirror_config(&pki);
    config.codes = Arc::new(|name: &str| codes()(name).filter(|code| code.name() == "none"));
    let mirror = Mirror::start(config);
    let mut primary = Primary::start(primary_config(&pki, mirror.addresses));
    let reason = primary.down().await;
    for words in ["unsupported", "code \"layered-interleaving\" in version 1", "it is not known here"] {
        assert!(reason.contains(words), "{reason}");
    }
}

#[tokio::test]
async fn a_newer_session_of_a_site_replaces_the_older_and_other_sites_wait() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let config = primary_config(&pki, mirror.addresses);
    let mut older = Primary::start(config.clone());
    older.up().await;
    let mut elsewhere = config.clone();
    elsewhere.site = SiteId(9);
    let mut other = Primary::start(elsewhere);
    let reason = other.down().await;
    assert!(reason.contains("busy: this mirror serves site 1"), "{reason}");
    other.command(LinkCommand::Close);

    let mut newer = Primary::start(config);
    newer.up().await;
    let reason = older.down().await;
    assert!(reason.contains("a newer session"), "{reason}");
    older.command(LinkCommand::Close);
    newer.send(2, 0, 1_000);
    newer.until(|p| p.mirrored.get(&2) == Some(&1)).await;
}

#[tokio::test]
async fn the_two_ports_are_not_interchangeable() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let mut config = primary_config(&pki, mirror.addresses);
    std::mem::swap(&mut config.critical, &mut config.bulk);
    let mut primary = Primary::start(config);
    let reason = primary.down().await;
    assert!(reason.contains("support any known protocol"), "{reason}");
}

#[tokio::test]
async fn nobody_there_means_trying_again_until_told_to_stop() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    mirror.close().await;
    let mut config = primary_config(&pki, mirror.addresses);
    config.lane.idle_timeout = Duration::from_millis(100);
    let mut primary = Primary::start(config);
    for _ in 0..3 {
        let reason = primary.down().await;
        assert!(reason.contains("connecting again in"), "{reason}");
    }
    primary.command(LinkCommand::Close);
    while !primary.down().await.contains("closed, as told") {}
    primary.commands.closed().await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_the_start() {
    let pki = Pki::new();
    let mirror = Mirror::start(mirror_config(&pki));
    let (_commands, receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut config = primary_config(&pki, mirror.addresses);
    config.parameters = "r=0".to_owned();
    struct Nobody;
    impl parhelion_link_driver::PrimarySink for Nobody {
        fn events(&mut self, _: Vec<LinkEvent>) {}
        fn telemetry(&mut self, _: parhelion_link_driver::LinkTelemetry) {}
    }
    let error = PrimaryDriver::start(config, receiver, Box::new(Nobody)).unwrap_err();
    assert!(matches!(&error, LinkError::Settings(reason) if reason.contains("r is 0")), "{error}");
}

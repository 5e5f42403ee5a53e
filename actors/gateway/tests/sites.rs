//! Storage nodes of two sites that share one link.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{
    LINK_NODE, MIRROR_SITE, MirrorNode, MirrorSite, PRIMARY_SITE, Pki, PrimaryNode, PrimarySite, assert_same,
    mark, pki, primary_config, site_link,
};
use parhelion_gateway::PrimaryGateway;
use parhelion_link_driver::{LinkCommand, LinkEvent, MirrorCommand, PrimaryDriver};
use parhelion_types::{LogId, NodeId, RecordKey, Role, SiteId};

/// Two storage nodes at the mirror: 11 has even logs, 12 odd ones.
fn mirror_nodes(pki: &Pki, site: &MirrorSite) -> (MirrorNode, MirrorNode) {
    let node = |number| MirrorNode::remote(site_link(pki, MIRROR_SITE, number, site.listener));
    (node(11), node(12))
}

fn payload(n: usize) -> Vec<u8> {
    (0..n * 37 % 9_000 + 1).map(|at| (at * n) as u8).collect()
}

#[tokio::test]
async fn several_nodes_share_one_link() {
    let pki = Pki::new();
    let mirror = MirrorSite::start(&pki, &[11, 12], |_| {});
    let (even, odd) = mirror_nodes(&pki, &mirror);
    let primary = PrimarySite::start(&pki, mirror.addresses);
    let mut local = PrimaryNode::local(&primary.gateway, 1, &[1, 4]);
    let mut remote = PrimaryNode::remote(site_link(&pki, PRIMARY_SITE, 2, primary.listener), &[2]);
    local.steady().await;
    assert_eq!(remote.up().await, []);
    assert_eq!(primary.gateway.nodes(), [NodeId(1), NodeId(2)]);
    for n in 0..100 {
        local.append(1, &payload(n));
        local.append(4, &payload(n + 1));
        remote.append(2, &payload(n + 2));
        // A log that the gateway learns of by its first record.
        remote.append(3, &payload(n + 3));
    }
    local.until_mirrored().await;
    remote.until_mirrored().await;
    assert_same(&local, &[&even, &odd]);
    assert_same(&remote, &[&even, &odd]);
    assert_eq!((even.logs(), odd.logs()), (vec![2, 4], vec![1, 3]));
    for (node, other) in [(&even, 0), (&odd, 1)] {
        node.until(|store| store.announced.len() == 2).await;
        assert!(node.store.lock().unwrap().announced.iter().all(|log| log % 2 == other));
    }
    let all = |log| (0..100).map(move |number| RecordKey { log: LogId(log), number });
    while !all(3).all(|key| remote.announced.contains(&key)) {
        remote.event().await;
    }
    assert!(!remote.complete.is_empty(), "coverage is told");
    assert!(remote.telemetry.load(Ordering::Relaxed) > 0 && local.telemetry.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_storage_node_that_returns_is_told_where_its_logs_end() {
    let pki = Pki::new();
    let mirror = MirrorSite::start(&pki, &[11, 12], |_| {});
    let (even, odd) = mirror_nodes(&pki, &mirror);
    let primary = PrimarySite::start(&pki, mirror.addresses);
    let config = site_link(&pki, PRIMARY_SITE, 2, primary.listener);
    let mut stays = PrimaryNode::remote(site_link(&pki, PRIMARY_SITE, 1, primary.listener), &[1]);
    let mut returns = PrimaryNode::remote(config.clone(), &[2]);
    stays.steady().await;
    returns.up().await;
    for n in 0..40 {
        stays.append(1, &payload(n));
        returns.append(2, &payload(n));
    }
    stays.until_mirrored().await;
    returns.until_mirrored().await;

    returns.append(2, b"sent, and perhaps never taken from this node");
    returns.restart(config).await;
    let marks = returns.up().await;
    let [known] = marks[..] else { panic!("{marks:?}") };
    assert!(known == mark(2, 40) || known == mark(2, 41), "{known:?}");
    // The other node's session was renewed, and it is told of its own log only.
    stays.down_for("storage node 2 joined, so the session is renewed; connecting again at once").await;
    assert_eq!(stays.up().await, [mark(1, 40)]);
    returns.resend();
    for n in 0..40 {
        stays.append(1, &payload(n));
        returns.append(2, &payload(n));
    }
    stays.until_mirrored().await;
    returns.until_mirrored().await;
    assert_same(&stays, &[&even, &odd]);
    assert_same(&returns, &[&even, &odd]);
}

#[tokio::test]
async fn a_missing_mirror_node_is_named_and_waited_for() {
    let pki = Pki::new();
    let mirror = MirrorSite::start(&pki, &[11, 12], |_| {});
    let even = MirrorNode::local(&mirror.gateway, 11);
    let primary = PrimarySite::start(&pki, mirror.addresses);
    let mut node = PrimaryNode::local(&primary.gateway, 1, &[1]);
    let reason = node.down().await;
    assert!(reason.contains("unavailable") && reason.contains("1 of 2 have not joined"), "{reason}");
    assert!(reason.contains(": 12; start them"), "{reason}");
    assert_eq!(mirror.gateway.missing(), [NodeId(12)]);

    let odd = MirrorNode::remote(site_link(&pki, MIRROR_SITE, 12, mirror.listener));
    node.up().await;
    node.append(1, b"one");
    node.append(2, b"two");
    node.until_mirrored().await;
    assert_same(&node, &[&even, &odd]);

    // It dies in a session: the session ends, and names it.
    let store = odd.kill().await;
    node.down_for("storage node 12").await;
    node.down_for(": 12; start them").await;
    even.until(|store| store.downs.iter().any(|reason| reason.contains("storage node 12"))).await;
    let odd = MirrorNode::remote_with(site_link(&pki, MIRROR_SITE, 12, mirror.listener), store);
    assert_eq!(node.up().await, [mark(1, 1), mark(2, 1)]);
    node.append(1, b"three");
    node.until_mirrored().await;
    assert_same(&node, &[&even, &odd]);
}

#[tokio::test]
async fn a_slow_mirror_node_pushes_back() {
    let pki = Pki::new();
    let mirror = MirrorSite::start(&pki, &[11, 12], |config| config.pending_bytes_max = 1 << 20);
    let (even, odd) = mirror_nodes(&pki, &mirror);
    let primary = PrimarySite::start(&pki, mirror.addresses);
    let mut node = PrimaryNode::local(&primary.gateway, 1, &[]);
    node.up().await;
    // It makes nothing durable for a while: all that it gets stays pending.
    odd.pending.store(usize::MAX / 2, Ordering::Relaxed);
    for _ in 0..200 {
        node.append(1, &[7; 60_000]);
    }
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while mirror.stats.host_drops.get() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.expect("nothing was dropped, although a node took nothing");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let taken: usize = odd.store.lock().unwrap().records.values().map(bytes::Bytes::len).sum();
    assert!(taken < 8 << 20, "{taken} bytes went to a node that settles none");
    odd.pending.store(0, Ordering::Relaxed);
    node.until_mirrored().await;
    assert_same(&node, &[&even, &odd]);
}

#[tokio::test]
async fn a_node_that_closes_leaves_and_what_it_sent_goes_on() {
    let pki = Pki::new();
    let mirror = MirrorSite::start(&pki, &[11], |_| {});
    let stored = MirrorNode::remote(site_link(&pki, MIRROR_SITE, 11, mirror.listener));
    let primary = PrimarySite::start(&pki, mirror.addresses);
    let mut stays = PrimaryNode::local(&primary.gateway, 1, &[1]);
    let mut leaves = PrimaryNode::remote(site_link(&pki, PRIMARY_SITE, 2, primary.listener), &[2]);
    leaves.up().await;
    for n in 0..50 {
        leaves.append(2, &payload(n * 7));
    }
    leaves.commands.send(LinkCommand::Close).unwrap();
    leaves.down_for("closed, as told").await;
    leaves.commands.closed().await;
    stored.until(|store| store.durable.get(&2) == Some(&50)).await;
    assert_eq!(primary.gateway.nodes(), [NodeId(1)]);
    // The link is as it was.
    stays.steady().await;
    stays.append(1, b"still here");
    stays.until_mirrored().await;
    // A port of the same process leaves just so.
    stays.commands.send(LinkCommand::Close).unwrap();
    stays.down_for("closed, as told").await;
    stays.commands.closed().await;
    assert_eq!(primary.gateway.nodes(), []);
    assert_eq!(primary.stats.up.get(), 1);
    stored.commands.send(MirrorCommand::Close).unwrap();
    stored.commands.closed().await;
    stored.until(|store| store.downs.iter().any(|reason| reason.contains("closed, as told"))).await;
}

#[tokio::test]
async fn nodes_that_do_not_belong_are_told_why() {
    let pki = Pki::new();
    let mirror = MirrorSite::start(&pki, &[11], |_| {});
    let primary = PrimarySite::start(&pki, mirror.addresses);
    let _owner = PrimaryNode::local(&primary.gateway, 1, &[7]);
    let join = |config, logs: &[u32]| PrimaryNode::remote(config, logs);

    let mut node = join(site_link(&pki, SiteId(9), 2, primary.listener), &[]);
    node.down_for("storage node 2 says that it is of site 9; this link node is of site 1").await;
    let mut node = join(site_link(&pki, MIRROR_SITE, 11, mirror.listener), &[]);
    node.down_for("storage node 11 comes as a primary, which this link node does not serve").await;
    let mut node = join(site_link(&pki, PRIMARY_SITE, 2, primary.listener), &[6, 7]);
    node.down_for("log 7 of storage node 2 belongs to storage node 1 already").await;
    let mut node = join(site_link(&pki, PRIMARY_SITE, 1, primary.listener), &[]);
    node.down_for("storage node 1 has joined already, in the link node's process").await;

    let mut client = site_link(&pki, PRIMARY_SITE, 2, primary.listener);
    let (certificate, key) = pki.issue(Role::Client);
    client.tls = pki.client(certificate, key);
    join(client, &[]).down_for("certificate refused: it was issued for client, not for storage").await;
    let mut elsewhere = site_link(&pki, PRIMARY_SITE, 2, primary.listener);
    elsewhere.verify_peer = Pki::demand(Role::Admin);
    join(elsewhere, &[]).down_for("the link node's certificate refused: it was issued for link").await;
    let stranger = site_link(&Pki::new(), PRIMARY_SITE, 2, primary.listener);
    join(stranger, &[]).down_for("certificate").await;

    let unexpected = MirrorNode::remote(site_link(&pki, MIRROR_SITE, 12, mirror.listener));
    unexpected
        .until(|store| store.downs.iter().any(|r| r.contains("node 12 is not one of this site's (11)")))
        .await;
    assert_eq!(primary.gateway.nodes(), [NodeId(1)]);
    assert_eq!(mirror.gateway.nodes(), []);
}

#[tokio::test]
async fn the_code_is_changed_from_a_storage_node() {
    let pki = Pki::new();
    let mirror = MirrorSite::start(&pki, &[11], |_| {});
    let _stored = MirrorNode::remote(site_link(&pki, MIRROR_SITE, 11, mirror.listener));
    let primary = PrimarySite::start(&pki, mirror.addresses);
    let mut node = PrimaryNode::remote(site_link(&pki, PRIMARY_SITE, 2, primary.listener), &[]);
    node.up().await;
    let change = |name: &str| {
        let (done, changed) = tokio::sync::oneshot::channel();
        let (name, parameters) = (name.to_owned(), String::new());
        node.commands.send(LinkCommand::ChangeCode { name, parameters, flush_pause: None, done }).unwrap();
        changed
    };
    let error = change("fountain").await.unwrap().unwrap_err();
    assert!(error.contains("\"fountain\" is not known here"), "{error}");
    change("none").await.unwrap().unwrap();
    loop {
        if let LinkEvent::CodeChanged(code) = node.event().await {
            assert_eq!(code.to_string(), "none v1");
            break;
        }
    }
}

#[tokio::test]
async fn a_driver_that_is_rebuilt_finds_its_ports() {
    let pki = Pki::new();
    let mirror = MirrorSite::start(&pki, &[11], |_| {});
    let stored = MirrorNode::local(&mirror.gateway, 11);
    let gateway = PrimaryGateway::new();
    let mut node = PrimaryNode::local(&gateway, 1, &[1]);
    let start = || {
        let (commands, sink) = gateway.driver();
        PrimaryDriver::start(primary_config(&pki, mirror.addresses), commands, sink).unwrap();
    };
    start();
    node.up().await;
    node.append(1, b"one");
    node.until_mirrored().await;
    start();
    node.down_for("is being rebuilt").await;
    assert_eq!(node.up().await, [mark(1, 1)]);
    node.append(1, b"two");
    node.until_mirrored().await;
    assert_same(&node, &[&stored]);
    gateway.close();
    node.down_for("closed, as told").await;
}

#[tokio::test]
async fn hostile_bytes_cost_a_connection_and_nothing_else() {
    let pki = Pki::new();
    let mirror = MirrorSite::start(&pki, &[11], |_| {});
    let _stored = MirrorNode::remote(site_link(&pki, MIRROR_SITE, 11, mirror.listener));
    let primary = PrimarySite::start(&pki, mirror.addresses);
    let mut node = PrimaryNode::remote(site_link(&pki, PRIMARY_SITE, 2, primary.listener), &[]);
    node.up().await;

    let (certificate, key) = pki.issue(Role::Storage);
    let mut tls = (*pki.client(certificate, key)).clone();
    tls.alpn_protocols = vec![b"parhelion-site/1".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = quinn::Endpoint::client(common::listen()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(std::sync::Arc::new(crypto)));
    let join = parhelion_wire::site::SiteJoinV1 { site: 1, node: 3, duty: 0, logs: vec![] };
    let join = parhelion_wire::frame(&join, b"", 0).unwrap();
    let up = parhelion_wire::site::SiteJoinedV1 { site: 1, node: LINK_NODE.0 };
    let out_of_place = parhelion_wire::frame(&up, b"", 0).unwrap();
    let long = [&b"PHEL\xc8\x00\x01\x00"[..], &[0xff; 24]].concat();
    let cases: [(&[u8], &str); 4] = [
        (&[0x5a; 100], "magic 0x5a5a5a5a"),
        (&long, "over the limit"),
        (&out_of_place, "kind 201"),
        (&[&join[..], &out_of_place].concat(), "kind 201"),
    ];
    for (bytes, reason) in cases {
        let connection = endpoint.connect(primary.listener, pki::NAME).unwrap().await.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(5), connection.closed()).await.unwrap();
        let quinn::ConnectionError::ApplicationClosed(close) = &closed else { panic!("{closed}") };
        assert_eq!(close.error_code.into_inner(), 2);
        assert!(String::from_utf8_lossy(&close.reason).contains(reason), "{closed} for {reason}");
    }
    // The last one had joined, which renewed the session.
    node.append(2, b"still served");
    node.resend();
    node.until_mirrored().await;
}

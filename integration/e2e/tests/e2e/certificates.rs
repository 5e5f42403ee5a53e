//! Certificates beyond those of `pki init`: one for each node, with names of hosts, and for more operators.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use parhelion_e2e::{At, Cluster, Outcome, Pair, PairOptions, Shape, Tool, eventually, payload};
use parhelion_types::{Degrade, Durability};

use crate::{SOON, at_level};

/// `parhelion pki issue` in `pki`.
fn issue(pki: &Path, arguments: &[&str]) -> Outcome {
    Tool::new(["pki", "issue"].map(Path::new).into_iter().chain([pki]).chain(arguments.iter().map(Path::new)))
        .run()
}

/// What a machine gets that has this certificate: it, its key, and the authority's certificate; never the authority's key.
fn machine(pki: &Path, certificate: &str) -> PathBuf {
    let directory = pki.with_file_name(format!("machine-{certificate}"));
    std::fs::create_dir(&directory).unwrap();
    for file in ["ca.pem".to_owned(), format!("{certificate}.pem"), format!("{certificate}.key")] {
        std::fs::copy(pki.join(&file), directory.join(&file)).unwrap();
    }
    directory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_of_two_sites_has_a_certificate_of_its_own() {
    let mut cluster = Cluster::down(Shape::Four);
    let pki = cluster.pki.clone();
    for (at, site) in [(At::Mirror, "2"), (At::Primary, "1")] {
        for node in cluster.site(at) {
            let name = node.spec.name;
            let roles = node.spec.setting("node.roles").expect("it is set").to_owned();
            let host = format!("{name}.example.com");
            let _ = issue(&pki, &[name, "--site", site, "--name", &host, "--role", &roles]).done();
            let own = machine(&pki, name);
            node.spec = node.spec.clone().with("tls.directory", own.display()).with("tls.certificate", name);
            let peer = if at == At::Primary { "mirror-4.example.com" } else { "primary-4.example.com" };
            node.spec = node.spec.clone().with("link.peer_names", peer);
            node.start();
        }
    }
    cluster.linked().await;
    let client = cluster.client(At::Primary, 1).await;
    for number in 0..4 {
        let log = client.create(&format!("orders-{number}"), Degrade::Block).await.unwrap();
        client.append(log, payload(number, 5000), at_level(Durability::Remote)).await.unwrap();
    }
    cluster.mirrored().await;
    cluster.verify();
}

/// A pair of which each node has a certificate for a host of its own, and says which host it takes at the other end.
fn pair_of_hosts(takes_mirror: &str, takes_primary: &str, options: PairOptions) -> Pair {
    let options = options
        .primary("tls.certificate", "east")
        .primary("link.peer_names", takes_mirror)
        .mirror("tls.certificate", "west")
        .mirror("link.peer_names", takes_primary);
    let pair = Pair::down(options);
    let east = ["east", "--site", "1", "--name", "east.example.com", "--name", "192.0.2.1"];
    let _ = issue(&pair.pki, &east).done();
    let _ = issue(&pair.pki, &["west", "--site", "2", "--name", "west.example.com"]).done();
    pair
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_take_each_other_by_the_names_in_their_certificates() {
    for transport in ["quic", "tcp"] {
        let options = PairOptions::default().both("link.transport", transport);
        let mut pair = pair_of_hosts("elsewhere.example.com,west.example.com", "192.0.2.1", options);
        pair.mirror.start();
        pair.primary.start();
        pair.linked().await;
        let here = pair.client(At::Primary).await;
        let log = here.create("orders", Degrade::Block).await.unwrap();
        here.append(log, payload(1, 100), at_level(Durability::Remote)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_host_is_refused_at_both_ends() {
    for (takes_mirror, takes_primary, has) in [
        ("elsewhere.example.com", "192.0.2.1", "west.example.com"),
        ("west.example.com", "elsewhere.example.com", "east.example.com, 192.0.2.1"),
    ] {
        let mut pair = pair_of_hosts(takes_mirror, takes_primary, PairOptions::default());
        pair.mirror.start();
        pair.primary.start();
        let said =
            ["elsewhere.example.com", "link.peer_names", &format!("for the names {has}")].map(str::to_owned);
        // Who refuses tells the other end, so the primary's log has it in both cases.
        eventually("the primary says which name is wrong", SOON, || {
            let log = pair.primary.node().log_text();
            log.lines().any(|line| said.iter().all(|word| line.contains(word)))
        })
        .await;
        let status = pair.client(At::Primary).await.status().await.unwrap();
        assert_eq!(status["logs"]["linked"], false, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_operator_has_the_role_that_was_chosen() {
    let mut pair = Pair::down(PairOptions::default());
    pair.mirror.start();
    let issued = issue(&pair.pki, &["bob", "--role", "client", "--valid-for", "1d", "--json"]).done().json();
    assert_eq!(
        (&issued["roles"], &issued["site"]),
        (&serde_json::json!(["client"]), &serde_json::Value::Null)
    );
    let key = Path::new(issued["key"].as_str().unwrap());
    assert_eq!(key, pair.pki.join("bob.key"));
    assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    let carol = issue(&pair.pki, &["carol", "--role", "client", "--role", "admin"]).done();
    assert_eq!(carol.stderr, "");
    // That of a node without a host is good, and says what it is not good for.
    let node = issue(&pair.pki, &["spare", "--site", "1"]).done();
    assert!(node.stderr.contains("names no host") && node.stderr.contains("--name HOST"), "{}", node.stderr);
    let node = issue(&pair.pki, &["named", "--site", "1", "--name", "east-3.example.com"]).done();
    assert_eq!(node.stderr, "");
    let run = |name: &str, arguments: &[&str]| {
        let arguments = arguments.iter().copied().chain(["--certificate", name]);
        pair.tool(At::Mirror, &arguments.collect::<Vec<_>>()).run()
    };
    let promote = ["mirror", "promote", "--dry-run"];
    let _ = run("bob", &["log", "list"]).done();
    run("bob", &promote).refused(2, &["promote", "admin"]);
    let _ = run("carol", &["log", "list"]).done();
    let _ = run("carol", &promote).done();
    run("dave", &promote).refused(1, &["dave.key", "pki issue"]);
}

#[test]
fn what_no_certificate_is_issued_for_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let pki = directory.path().join("pki");
    let made =
        Tool::new([Path::new("pki"), Path::new("init"), &pki, Path::new("--json")]).run().done().json();
    assert_eq!(made["files"].as_array().unwrap().len(), 10, "{made}");
    let key = std::fs::read(pki.join("node-1.key")).unwrap();
    let cases: [(&[&str], i32, &[&str]); 12] = [
        (&["node-1", "--site", "1"], 1, &["node-1.pem exists", "never overwritten"]),
        (&["bob"], 2, &["\"bob\"", "no role", "client or admin"]),
        (&["bob", "--role", "king"], 2, &["king", "client"]),
        (&["bob", "--role", "client", "--site", "1"], 2, &["\"bob\"", "--site"]),
        (&["bob", "--role", "client", "--name", "localhost"], 2, &["\"bob\"", "--name"]),
        (&["bob", "--role", "client,link", "--site", "1"], 2, &["\"bob\"", "two certificates"]),
        (&["db", "--role", "storage"], 2, &["\"db\"", "--site"]),
        (&["db", "--site", "1", "--name", "not a name"], 2, &["\"not a name\"", "db-2.example.com"]),
        (&["../db", "--site", "1"], 2, &["\"../db\"", "letters"]),
        (&["ca", "--site", "1"], 2, &["\"ca\"", "authority"]),
        (&["db", "--site", "1", "--valid-for", "0s"], 2, &["--valid-for 0s", "365d"]),
        (&["db", "--site", "many"], 2, &["--site", "many"]),
    ];
    for (arguments, code, words) in cases {
        let complaints = issue(&pki, arguments).complaints(code, words);
        assert!(complaints.is_empty(), "{arguments:?}: {complaints:?}");
    }
    assert_eq!(std::fs::read(pki.join("node-1.key")).unwrap(), key);
    assert_eq!(std::fs::read_dir(&pki).unwrap().count(), 10, "something that was refused left a file");
    let nowhere = issue(&directory.path().join("nowhere"), &["bob", "--role", "client"]);
    nowhere.refused(1, &["nowhere", "ca.key", "pki init"]);
    let failed = issue(&pki, &["node-1", "--site", "1", "--json"]);
    assert_eq!((failed.code, failed.stderr.as_str()), (Some(1), ""));
    assert!(failed.json()["error"].as_str().unwrap().contains("never overwritten"));
}

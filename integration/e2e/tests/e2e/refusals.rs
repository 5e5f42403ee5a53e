//! What is wrong is refused with the thing, the reason and the remedy, and a documented exit code.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use parhelion_e2e::{At, NodeSpec, Outcome, Pair, PairOptions, Tool, payload};
use parhelion_types::limits::APPEND_BYTES_MAX;
use parhelion_types::{Degrade, Durability, Error, ErrorKind, LogAddress, LogId};

use crate::at_level;

/// "Failed; a retry will not help."
const FAILED: i32 = 1;
/// "The command line or the request is wrong."
const WRONG: i32 = 2;
/// "The service cannot do it now; retry."
const RETRY: i32 = 3;

/// Looks at many refusals and tells of all that are not as they should be.
#[derive(Default)]
struct Refusals {
    complaints: Vec<String>,
    count: usize,
}

impl Refusals {
    fn expect(&mut self, case: &str, outcome: &Outcome, code: i32, words: &[&str]) {
        self.count += 1;
        let complaints = outcome.complaints(code, words);
        if !complaints.is_empty() {
            self.complaints.push(format!("{case}: {}", complaints.join("; ")));
        }
    }

    fn expect_error<T>(&mut self, case: &str, result: Result<T, Error>, kind: ErrorKind, words: &[&str]) {
        self.count += 1;
        match result {
            Ok(_) => self.complaints.push(format!("{case}: not refused")),
            Err(error) => {
                let missing: Vec<_> = words.iter().filter(|word| !error.message().contains(**word)).collect();
                if error.kind() != kind || !missing.is_empty() {
                    self.complaints.push(format!("{case}: no {missing:?}, or not {kind:?}: {error}"));
                }
            }
        }
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let Self { complaints, count } = self;
            assert!(complaints.is_empty(), "{} of {count}:\n{}", complaints.len(), complaints.join("\n"));
        }
    }
}

/// A site of its own at the addresses of the pair's primary, in directory `name`.
fn single(pair: &Pair, name: &'static str) -> NodeSpec {
    NodeSpec {
        name,
        profile: "single",
        settings: pair.primary.spec.settings.clone(),
        directory: pair.directory().to_owned(),
    }
    .with("node.data", pair.directory().join(name).display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests() {
    let pair = Pair::down(PairOptions::default());
    let _node = single(&pair, "single").start();
    let client = pair.client(At::Primary).await;
    let log = client.create("orders", Degrade::Block).await.unwrap();
    let kept = client.append(log, payload(1, 100), at_level(Durability::Local)).await.unwrap().address;
    let freed = client.append(log, payload(2, 100), at_level(Durability::Local)).await.unwrap().address;
    client.free(log, freed).await.unwrap();
    let before = client.stat(log).await.unwrap();

    let mut refusals = Refusals::default();
    let run = |arguments: &[&str], input: &[u8]| pair.tool(At::Primary, arguments).input(input).run();
    let freed_text = freed.to_string();
    let inside = LogAddress { offset: kept.offset + 8, ..kept }.to_string();
    let too_long = vec![1; APPEND_BYTES_MAX + 1];
    let limit = APPEND_BYTES_MAX.to_string();
    let long_name = "x".repeat(256);
    let cases: [(&[&str], &[u8], &[&str]); 35] = [
        (&["log", "append", "99"], b"x", &["log 99", "does not exist", "log list"]),
        (&["log", "read", "99", "0:64"], b"", &["log 99", "does not exist", "log list"]),
        (&["log", "free", "99", "0:64"], b"", &["log 99", "does not exist", "log list"]),
        (&["log", "stat", "99"], b"", &["log 99", "does not exist", "log list"]),
        (&["log", "read", "0", "0:4"], b"", &["log 0", "0:4", "give an address"]),
        (&["log", "read", "0", "7:64"], b"", &["log 0", "7:64", "give an address"]),
        (&["log", "read", "0", "4294967295:4294967295"], b"", &["log 0", "4294967295:4294967295", "give"]),
        (&["log", "read", "0", &inside], b"", &["log 0", &inside, "give an address"]),
        (&["log", "free", "0", &inside], b"", &["log 0", &inside, "give an address"]),
        (&["log", "read", "0", "0:64"], b"", &["log 0", "0:64", "no append", "give an address"]),
        (&["log", "read", "0", &freed_text], b"", &["log 0", &freed_text, "freed", "give"]),
        (&["log", "read", "0", "somewhere"], b"", &["somewhere", "<AT>"]),
        (&["log", "read", "0", "0:99999999999"], b"", &["0:99999999999", "<AT>"]),
        (&["log", "append", "0"], b"", &["standard input", "empty", "at least one byte"]),
        (&["log", "append", "0"], &too_long, &["standard input", &limit, "split"]),
        (&["log", "append", "0", "--durability", "certain"], b"x", &["certain", "local, network, remote"]),
        (&["log", "append", "0", "--max-risk", "0"], b"x", &["--max-risk", "above 0", "1e-6"]),
        (&["log", "append", "0", "--max-risk", "1.5"], b"x", &["--max-risk", "1.5", "at most 1"]),
        (&["log", "append", "0", "--max-risk=-1"], b"x", &["--max-risk", "-1", "above 0"]),
        (&["log", "append", "0", "--max-risk", "-1"], b"x", &["--max-risk", "-1", "above 0"]),
        (
            &["log", "append", "0", "--durability", "local", "--max-risk", "1e-9"],
            b"x",
            &["--max-risk 1.0e-9", "--durability network", "local"],
        ),
        (&["log", "append", "0", "--max-risk", "NaN"], b"x", &["--max-risk", "NaN", "above 0"]),
        (&["log", "append", "0", "--max-risk", "inf"], b"x", &["--max-risk", "inf", "at most 1"]),
        (&["log", "append", "0", "--max-risk", "small"], b"x", &["--max-risk", "small", "1e-6"]),
        (&["log", "append", "0", "--deadline", "soon"], b"x", &["--deadline", "soon", "500ms"]),
        (&["log", "append", "0", "--deadline", "-5s"], b"x", &["--deadline", "-5s", "500ms"]),
        (&["log", "append", "orders"], b"x", &["orders", "number of the log", "log create"]),
        (&["log", "stat", "orders"], b"", &["orders", "number of the log", "log create"]),
        (
            &["log", "list", "--address", "localhost:7401"],
            b"",
            &["localhost:7401", "IP:PORT", "not resolved"],
        ),
        (&["mirror", "verify", "--other", "west:7401"], b"", &["west:7401", "IP:PORT", "not resolved"]),
        (&["log", "free", "0", "7:64"], b"", &["log 0", "7:64", "give an address"]),
        (&["log", "append", "0", "--request-id", "xyz"], b"x", &["--request-id", "xyz", "hexadecimal"]),
        (&["log", "create", ""], b"", &["name", "empty"]),
        (&["log", "create", &long_name], b"", &["name", "256", "255"]),
        (&["log", "create", "x", "--degrade", "maybe"], b"", &["maybe", "block, degrade, fail"]),
    ];
    for (arguments, input, words) in cases {
        refusals.expect(&arguments.join(" "), &run(arguments, input), WRONG, words);
    }
    let taken = run(&["log", "create", "orders"], b"");
    refusals.expect("a name that is taken", &taken, WRONG, &["orders", "log 0"]);
    let absent = run(&["log", "append", "0", "--file", "/nonexistent/file"], b"");
    refusals.expect("a file that is not there", &absent, FAILED, &["/nonexistent/file", "No such file"]);

    // In JSON too, for scripts.
    let json = run(&["log", "stat", "99", "--json"], b"");
    assert_eq!((json.code, json.stderr.as_str()), (Some(WRONG), ""));
    assert!(json.json()["error"].as_str().unwrap().contains("log 99"));
    let json = run(&["log", "read", "0", &kept.to_string(), "--json"], b"");
    assert_eq!((json.code, json.stderr.as_str()), (Some(WRONG), ""));
    let error = json.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("--json") && error.contains("--output FILE"), "{error}");

    let local = || at_level(Durability::Local);
    let (invalid, absent, forbidden) = (ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Forbidden);
    let append = client.append(log, "", local()).await;
    refusals.expect_error("an empty append", append, invalid, &["log 0", "empty", "at least one byte"]);
    let append = client.append(log, too_long, local()).await;
    refusals.expect_error("an append over the limit", append, invalid, &["log 0", &limit, "split"]);
    let append = client.append(LogId(u32::MAX), "x", local()).await;
    refusals.expect_error("an unknown log", append, absent, &["log 4294967295", "log list"]);
    let scan = client.scan(LogId(99), LogAddress::default(), 10).await;
    refusals.expect_error("scanning an unknown log", scan, absent, &["log 99", "does not exist"]);
    let inside = LogAddress { offset: kept.offset + 8, ..kept };
    let scan = client.scan(log, inside, 10).await;
    refusals.expect_error("scanning from within a record", scan, absent, &["log 0"]);
    let promote = client.promote(false).await;
    refusals.expect_error("a client that promotes", promote, forbidden, &["promote", "admin"]);
    let digest = client.digest(log, kept).await;
    refusals.expect_error("a client that digests", digest, forbidden, &["digest", "admin"]);

    assert_eq!(client.stat(log).await.unwrap(), before, "something that was refused left a trace");
    let largest = client.append(log, payload(3, APPEND_BYTES_MAX), local()).await.unwrap();
    assert_eq!(client.read(log, largest.address).await.unwrap().payload.len(), APPEND_BYTES_MAX);
}

/// A copy of the pair's certificates to spoil.
fn copy_of_pki(pair: &Pair, name: &str) -> PathBuf {
    let copy = pair.directory().join(name);
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(&pair.pki).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    copy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_certificates() {
    let pair = Pair::down(PairOptions::default());
    let _node = single(&pair, "single").start();
    let list = |pki: &Path| Tool::new(["log", "list"]).at(pair.primary.api, pki).run();
    let promote = |pki: &Path| Tool::new(["mirror", "promote", "--yes"]).at(pair.primary.api, pki).run();
    let mut refusals = Refusals::default();

    let malformed = copy_of_pki(&pair, "malformed");
    std::fs::write(malformed.join("client.pem"), "-----BEGIN CERTIFICATE-----\nnonsense\n").unwrap();
    refusals.expect("a malformed certificate", &list(&malformed), FAILED, &["client.pem", "pki init"]);
    let malformed = copy_of_pki(&pair, "malformed-ca");
    std::fs::write(malformed.join("ca.pem"), b"\xff\xfe\0").unwrap();
    refusals.expect("a malformed authority", &list(&malformed), FAILED, &["ca.pem", "pki init"]);
    let malformed = copy_of_pki(&pair, "malformed-key");
    std::fs::write(malformed.join("client.key"), "").unwrap();
    refusals.expect("an empty key", &list(&malformed), FAILED, &["client.key", "pki init"]);
    let absent = pair.directory().join("absent");
    refusals.expect("no certificates", &list(&absent), FAILED, &["absent", "No such file", "pki init"]);

    let mixed = copy_of_pki(&pair, "mixed");
    std::fs::copy(mixed.join("admin.key"), mixed.join("client.key")).unwrap();
    refusals.expect("a key of another certificate", &list(&mixed), WRONG, &["client.pem", "pki init"]);

    let other = pair.directory().join("other");
    let _ = Tool::new([Path::new("pki"), Path::new("init"), &other]).run().done();
    let api = pair.primary.api.to_string();
    refusals.expect("another authority's client", &list(&other), WRONG, &[&api, "certificate", "authority"]);
    // It trusts the node, but the node does not trust it.
    std::fs::copy(pair.pki.join("ca.pem"), other.join("ca.pem")).unwrap();
    refusals.expect("a client of another authority", &list(&other), WRONG, &[&api, "certificate"]);

    let posing = copy_of_pki(&pair, "posing");
    for extension in ["pem", "key"] {
        let file = |name| posing.join(format!("{name}.{extension}"));
        std::fs::copy(file("client"), file("admin")).unwrap();
    }
    refusals.expect("a client that promotes", &promote(&posing), WRONG, &["promote", "admin"]);

    let mut posing_node = single(&pair, "posing-node").with("api.listen", "127.0.0.1:0");
    posing_node = posing_node.with("tls.directory", other.display());
    std::fs::remove_file(other.join("node-1.pem")).unwrap();
    refusals.expect("a node without one", &posing_node.fail(), WRONG, &["node-1.pem", "pki init"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_authority_is_no_mirror() {
    let mut pair = Pair::down(PairOptions::default());
    let other = pair.directory().join("other");
    let _ = Tool::new([Path::new("pki"), Path::new("init"), &other]).run().done();
    let genuine = pair.mirror.spec.clone();
    pair.mirror.spec = genuine.with("tls.directory", other.display());
    pair.mirror.start();
    pair.primary.start();
    parhelion_e2e::eventually("the primary says why there is no link", crate::SOON, || {
        let log = pair.primary.node().log_text();
        log.contains("link is down") || log.contains("certificate")
    })
    .await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Degrade).await.unwrap();
    let options = parhelion_client::AppendOptions {
        deadline: Some(std::time::Duration::from_secs(2)),
        ..at_level(Durability::Network)
    };
    let acked = here.append(log, payload(1, 100), options).await.unwrap();
    assert!(acked.degraded && acked.reached == Durability::Local, "{acked:?}");
    let there = parhelion_e2e::client(pair.mirror.api, &other, "client").await;
    assert_eq!(there.list().await.unwrap(), Vec::new(), "it got a log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_cannot_start() {
    let pair = Pair::down(PairOptions::default());
    let running = single(&pair, "running");
    let _node = running.start();
    let apart = || single(&pair, "apart").with("api.listen", "127.0.0.1:0");
    let mut refusals = Refusals::default();
    let api = pair.primary.api.to_string();
    let file = pair.directory().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    let file_text = file.display().to_string();
    let data = pair.directory().join("running").display().to_string();

    let locked = running.clone().with("api.listen", "127.0.0.1:0").fail();
    let in_use = ["data directory", data.as_str(), "in use by another process", "choose another"];
    refusals.expect("a data directory in use", &locked, FAILED, &in_use);
    let port = apart().with("api.listen", &api).fail();
    refusals.expect("a port in use", &port, FAILED, &[&api, "in use", "choose another"]);
    let port = apart().with("http.listen", pair.mirror.api);
    let listener = std::net::TcpListener::bind(pair.mirror.api).unwrap();
    let words = [&pair.mirror.api.to_string(), "in use", "choose another"].map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    refusals.expect("an HTTP port in use", &port.fail(), FAILED, &words);
    drop(listener);
    let mirror = NodeSpec { profile: "mirror", ..pair.mirror.spec.clone() };
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = socket.local_addr().unwrap().to_string();
    let mirror = mirror.with("link.listen_bulk", &taken).fail();
    refusals.expect("a link port in use", &mirror, FAILED, &[&taken, "in use"]);
    let not_one = apart().with("node.data", &file_text).fail();
    let words = ["data directory", file_text.as_str(), "choose another"];
    refusals.expect("a data directory that is a file", &not_one, FAILED, &words);

    // No restart mends these, so a supervisor is told not to try.
    let cases: [(&str, &str, &[&str]); 19] = [
        ("link.rat", "1Gbit", &["link.rat", "--set", "link.rate"]),
        ("node.dta", "x", &["node.dta", "--set", "node.data"]),
        ("link.rate", "fast", &["fast", "300Mbit"]),
        ("node.site", "many", &["node.site", "many", "--set"]),
        ("node.duty", "idle", &["node.duty", "idle", "--set"]),
        ("storage.segment", "1KiB", &["storage.segment", "1.0 KiB", "give"]),
        ("api.in_flight", "16MiB", &["api.in_flight", "16.0 MiB", "50528256 bytes"]),
        ("risk.confidence", "1", &["risk.confidence", "0.999"]),
        ("telemetry.sample", "2", &["telemetry.sample", "between 0 and 1"]),
        ("telemetry.log", "a=b=c", &["telemetry.log", "a=b=c", "warn"]),
        ("telemetry.otlp", "https://127.0.0.1", &["telemetry.otlp", "http://HOST:PORT"]),
        ("link.mtu", "99", &["link.mtu", "99", "1280 to 9200"]),
        ("risk.model", "crystal-ball", &["crystal-ball", "gilbert-elliott"]),
        ("http.listen", "somewhere", &["http.listen", "somewhere", "off"]),
        ("http.listen", "0.0.0.0:0", &["0.0.0.0:0", "http.tls", "127.0.0.1", "http.allow_remote_plaintext"]),
        ("link.pacing_burst", "0", &["link.pacing_burst", "1 to 64"]),
        ("link.peer_names", "not/a/name", &["link.peer_names", "not/a/name", "mirror.example.com"]),
        ("tls.directory", "/nonexistent", &["/nonexistent", "No such file", "pki init"]),
        ("node.site", "9", &["node-9.", "pki init"]),
    ];
    for (key, value, words) in cases {
        refusals.expect(&format!("{key}={value}"), &apart().with(key, value).fail(), WRONG, words);
    }
    // An address that may be there when the machine has come up.
    let not_here = apart().with("api.listen", "192.0.2.1:0").fail();
    refusals.expect("an address of another machine", &not_here, FAILED, &["192.0.2.1:0", "choose another"]);
    let primary = || {
        NodeSpec { name: "other-primary", ..pair.primary.spec.clone() }
            .with("api.listen", "127.0.0.1:0")
            .with("node.data", pair.directory().join("other-primary").display())
    };
    let cases: [(&str, &str, &[&str]); 4] = [
        ("link.peer_bulk", "", &["link.peer_bulk", "192.0.2.7:7411", "single"]),
        ("link.peer_critical", "nowhere", &["link.peer_critical", "nowhere", "192.0.2.7"]),
        ("link.code", "magic", &["magic", "layered-interleaving", "reed-solomon"]),
        ("link.parameters", "r=none", &["link.parameters", "none"]),
    ];
    for (key, value, words) in cases {
        refusals.expect(&format!("{key}={value}"), &primary().with(key, value).fail(), WRONG, words);
    }
    let arguments = ["node", "--config", "/nonexistent/parhelion.toml"];
    let words = ["/nonexistent/parhelion.toml", "not found"];
    refusals.expect("no settings file", &Tool::new(arguments).run(), WRONG, &words);
    let toml = pair.directory().join("bad.toml");
    std::fs::write(&toml, "[link\nrate = 3").unwrap();
    let toml_text = toml.display().to_string();
    let malformed = Tool::new(["node", "--config", &toml_text]).run();
    refusals.expect("a malformed settings file", &malformed, WRONG, &[&toml_text, "line 1"]);
    std::fs::write(&toml, "[link]\nrated = \"3Gbit\"").unwrap();
    let unknown = Tool::new(["node", "--config", &toml_text]).run();
    refusals.expect("an unknown key in it", &unknown, WRONG, &["link.rated", "bad.toml", "link.rate"]);
    let unknown = Tool::new(["node"]).env("PARHELION__LINK__RATED", "3Gbit").run();
    refusals.expect("one in the environment", &unknown, WRONG, &["link.rated", "environment", "link.rate"]);
    refusals.expect(
        "no setting",
        &Tool::new(["node", "--set", "x"]).run(),
        WRONG,
        &["--set", "section.key=value"],
    );
    refusals.expect("no command", &Tool::new(["nod"]).run(), WRONG, &["nod", "node"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_there() {
    let pair = Pair::down(PairOptions::default());
    let api = pair.primary.api.to_string();
    let list = pair.tool(At::Primary, &["log", "list"]).run();
    list.refused(RETRY, &["unavailable", &api, "try again"]);
    let status = pair.tool(At::Primary, &["mirror", "status", "--json"]).run();
    assert_eq!((status.code, status.stderr.as_str()), (Some(RETRY), ""));
    assert!(status.json()["error"].as_str().unwrap().contains(&api));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_of_the_link_is_no_api() {
    let mut pair = Pair::down(PairOptions::default());
    pair.mirror.start();
    let link = pair.mirror.node().ready().link.expect("a mirror has one");
    for at in [link.bulk, link.critical] {
        let list = Tool::new(["log", "list"]).at(at, &pair.pki).run();
        list.refused(WRONG, &[&at.to_string(), "no node's API", "api.listen"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_are_no_choice_name_the_choices() {
    let mut refusals = Refusals::default();
    let cases: [(&str, &[&str]); 3] = [
        ("node.duty", &["primary", "mirror", "single"]),
        ("link.transport", &["quic", "tcp"]),
        ("link.congestion", &["provisioned", "bbr", "cubic"]),
    ];
    for (key, choices) in cases {
        let words: Vec<&str> = choices.iter().copied().chain([key, "sideways", "--set"]).collect();
        let set = format!("{key}=sideways");
        let checked = Tool::new(["config", "check", "--set", &set]).run();
        refusals.expect(&set, &checked, WRONG, &words);
    }
}

/// What `config check` finds, a node with these settings finds too, save that it serves with a certificate that its peers
/// refuse today.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_finds_what_keeps_a_node_from_starting() {
    let pair = Pair::down(PairOptions::default());
    let file = |name: &str| pair.directory().join(name);
    let issue = |arguments: &[&str]| {
        let start = ["pki", "issue"].map(Path::new).into_iter().chain([pair.pki.as_path()]);
        Tool::new(start.chain(arguments.iter().map(Path::new))).run().done()
    };
    let _ = issue(&["short", "--site", "1", "--valid-for", "1s"]);
    let _ = issue(&["keeper", "--site", "1", "--role", "storage"]);
    let mixed = copy_of_pki(&pair, "mixed");
    std::fs::copy(mixed.join("admin.key"), mixed.join("node-1.key")).unwrap();
    let garbled = copy_of_pki(&pair, "garbled");
    std::fs::write(garbled.join("node-1.pem"), "-----BEGIN CERTIFICATE-----\nnonsense\n").unwrap();
    let keyless = copy_of_pki(&pair, "keyless");
    std::fs::remove_file(keyless.join("node-1.key")).unwrap();
    let other = file("other");
    let _ = Tool::new([Path::new("pki"), Path::new("init"), &other]).run().done();
    std::fs::copy(pair.pki.join("ca.pem"), other.join("ca.pem")).unwrap();
    std::fs::write(file("file"), "not a directory").unwrap();
    let text = |path: &Path| path.display().to_string();
    let (mixed, garbled, keyless, other) = (text(&mixed), text(&garbled), text(&keyless), text(&other));
    let (inside, plain) = (text(&file("file").join("data")), text(&file("file")));
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;

    // Each with whether a node refuses to start too.
    let cases: [(&str, &str, bool, &[&str]); 10] = [
        ("tls.directory", "/nonexistent", true, &["/nonexistent", "No such file", "parhelion pki init"]),
        ("tls.directory", &keyless, true, &["node-1.key", "No such file", "pki issue"]),
        ("tls.directory", &garbled, true, &["node-1.pem", "pki init"]),
        ("tls.directory", &mixed, true, &["node-1.pem", "pki issue"]),
        (
            "tls.directory",
            &other,
            false,
            &["node-1.pem", "the authority in ca.pem did not issue it", "the same"],
        ),
        ("tls.certificate", "short", false, &["short.pem", "expired on", "pki issue", "clock"]),
        (
            "tls.certificate",
            "keeper",
            true,
            &["keeper.pem", "roles storage", "link, metadata too", "pki issue"],
        ),
        ("tls.certificate", "node-2", true, &["node-2.pem", "site 2", "site 1", "node.site"]),
        ("tls.certificate", "client", true, &["client.pem", "no site", "pki issue"]),
        ("node.data", &inside, true, &["data directory", &plain, "choose another"]),
    ];
    let mut refusals = Refusals::default();
    for (key, value, is_fatal, words) in cases {
        let spec = single(&pair, "checked").with("api.listen", "127.0.0.1:0").with(key, value);
        let mut arguments = spec.arguments();
        arguments.splice(..1, ["config".to_owned(), "check".to_owned()]);
        refusals.expect(&format!("check of {key}={value}"), &Tool::new(arguments).run(), WRONG, words);
        if is_fatal {
            // A file system may be mounted later; a certificate stays what it is.
            let (code, words): (_, &[&str]) = match key {
                "node.data" => (FAILED, &["data directory", "choose another"]),
                _ => (WRONG, words),
            };
            refusals.expect(&format!("node with {key}={value}"), &spec.fail(), code, words);
        } else {
            let said = spec.start().log_text();
            assert!(words[..2].iter().all(|word| said.contains(word)), "{key}={value}: {said}");
        }
    }

    // All that is wrong, not only the first.
    let arguments =
        ["config", "check", "--set", "tls.directory=/nonexistent", "--set", "risk.model=crystal-ball"];
    let all = Tool::new(arguments).run();
    refusals.expect("two mistakes", &all, WRONG, &["/nonexistent", "crystal-ball"]);
    let listed = Tool::new(arguments.iter().chain(&["--json"])).run();
    assert_eq!((listed.code, listed.json()["problems"].as_array().map(Vec::len)), (Some(WRONG), Some(2)));
}

/// One request over HTTP: status and body.
fn over_http(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that has seen enough of a body that is too long may close before it has read all.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status in {answer:?}")), answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_over_http() {
    let pair = Pair::down(PairOptions::default());
    let node = single(&pair, "single").with("http.listen", "127.0.0.1:0").start();
    let http = node.ready().http.expect("it is on");
    let client = pair.client(At::Primary).await;
    let log = client.create("orders", Degrade::Block).await.unwrap();
    let freed = client.append(log, payload(2, 100), at_level(Durability::Local)).await.unwrap().address;
    client.free(log, freed).await.unwrap();
    let before = client.stat(log).await.unwrap();

    let appends = "/v1/logs/0/appends";
    let at = |address: &str| format!("{appends}/{address}");
    let freed_text = freed.to_string();
    let too_long = vec![1; APPEND_BYTES_MAX + 1];
    let limit = APPEND_BYTES_MAX.to_string();
    type Case<'a> = (&'a str, String, &'a [u8], u16, &'a [&'a str]);
    let cases: [Case<'_>; 13] = [
        ("POST", "/v1/logs/99/appends".to_owned(), b"x", 404, &["log 99", "does not exist", "log list"]),
        ("GET", "/v1/logs/99".to_owned(), b"", 404, &["log 99", "does not exist", "log list"]),
        ("GET", at("7:64"), b"", 404, &["log 0", "7:64", "give an address"]),
        ("DELETE", at("7:64"), b"", 404, &["log 0", "7:64", "give an address"]),
        ("GET", at("somewhere"), b"", 400, &["somewhere", "SEGMENT:OFFSET"]),
        ("GET", at(&freed_text), b"", 404, &["log 0", &freed_text, "freed", "give"]),
        ("GET", "/v1/logs/99/appends/0:64".to_owned(), b"", 404, &["log 99", "does not exist", "log list"]),
        ("POST", appends.to_owned(), b"", 400, &["log 0", "empty", "at least one byte"]),
        ("POST", appends.to_owned(), &too_long, 413, &[&limit, "split"]),
        ("POST", format!("{appends}?durability=certain"), b"x", 400, &["certain", "local, network"]),
        ("POST", format!("{appends}?max_risk=0"), b"x", 400, &["max_risk", "above 0", "1e-6"]),
        ("POST", format!("{appends}?max_risk=1.5"), b"x", 400, &["max_risk", "1.5", "at most 1"]),
        ("POST", format!("{appends}?max_rsk=1e-6"), b"x", 400, &["max_rsk", "max_risk"]),
    ];
    let mut complaints = Vec::new();
    for (method, path, body, status, words) in cases {
        let (found, answer) = tokio::task::block_in_place(|| over_http(http, method, &path, body));
        let missing: Vec<_> = words.iter().filter(|word| !answer.contains(**word)).collect();
        if found != status || !missing.is_empty() {
            complaints.push(format!("{method} {path}: {found} for {status}, no {missing:?} in {answer}"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert_eq!(client.stat(log).await.unwrap(), before, "something that was refused left a trace");
}

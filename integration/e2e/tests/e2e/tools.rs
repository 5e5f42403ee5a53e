//! The subcommands, as operators and scripts use them.

use std::time::Duration;

use parhelion_e2e::{At, Pair, PairOptions, Tool, payload};
use serde_json::Value;

#[test]
fn settings_are_shown_with_their_origin() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("parhelion.toml");
    std::fs::write(&file, "[link]\nrate = \"5Gbit\"\n[node]\nsite = 7\n").unwrap();
    let file = file.display().to_string();
    let arguments =
        ["config", "show", "--json", "--profile", "primary", "--config", &file, "--set", "node.site=8"];
    let shown = Tool::new(arguments).env("PARHELION__RISK__CONFIDENCE", "0.99").run().done().json();
    let origin = |key: &str| {
        let row = shown.as_array().unwrap().iter().find(|row| row["key"] == key).expect(key);
        (row["value"].as_str().unwrap().to_owned(), row["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!(origin("link.mtu"), ("1500".to_owned(), "default".to_owned()));
    assert_eq!(origin("node.duty"), ("primary".to_owned(), "profile primary".to_owned()));
    assert_eq!(origin("link.rate"), ("5Gbit".to_owned(), format!("file {file}")));
    assert_eq!(origin("risk.confidence"), ("0.99".to_owned(), "environment".to_owned()));
    assert_eq!(origin("node.site"), ("8".to_owned(), "--set".to_owned()));

    let table = Tool::new(["config", "show", "--effective"]).run().done().text();
    for word in ["setting", "value", "from", "link.rate", "1Gbit", "default", "profile single"] {
        assert!(table.contains(word), "no {word:?} in {table}");
    }
    let table = Tool::new(["config", "show"]).run().done().text();
    assert!(table.contains("link.rate") && !table.contains("profile single"), "{table}");
}

#[test]
fn settings_are_checked_without_starting_anything() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name).display().to_string();
    let (pki, data) = (place("pki"), place("data"));
    let _ = Tool::new(["pki", "init", &pki]).run().done();
    let check = |more: &[&str]| {
        let (pki, data) = (format!("tls.directory={pki}"), format!("node.data={data}"));
        let arguments = ["config", "check", "--set", &pki, "--set", &data];
        Tool::new(arguments.iter().chain(more)).run()
    };
    let said = check(&[]).done().text();
    assert!(
        said.starts_with("the settings are usable; ") && said.contains("node-1.pem is good until 2"),
        "{said}"
    );
    assert!(!std::path::Path::new(&data).exists(), "a check made the data directory");
    let peer = ["--profile", "primary", "--set", "link.peer_bulk=127.0.0.1:1"];
    check(&peer).refused(2, &["link.peer_critical", "a primary needs the mirror's address"]);
    check(&["--set", "link.code=magic"]).refused(2, &["link.code", "magic", "reed-solomon"]);
    check(&["--set", "link.parameters=r=none"]).refused(2, &["link.parameters", "r=none"]);
    check(&["--set", "risk.model=crystal-ball"])
        .refused(2, &["risk.model", "crystal-ball", "gilbert-elliott"]);
    let _ = check(&["--set", "link.code=reed-solomon"]).done();
    check(&["--set", "link.rat=1Gbit"]).refused(2, &["link.rat", "\"link.rate\""]);

    let document = check(&["--profile", "mirror", "--json"]).done().json();
    assert_eq!((&document["usable"], document["problems"].as_array().map(Vec::len)), (&true.into(), Some(0)));
    assert_eq!(document["certificate"]["site"], 2, "{document}");
    let document = check(&["--set", "link.rat=1Gbit", "--json"]);
    assert_eq!((document.code, document.stderr.as_str()), (Some(2), ""));
    let document = document.json();
    assert_eq!(document["usable"], false);
    assert!(document["problems"][0].as_str().unwrap().contains("link.rate"), "{document}");
}

#[test]
fn keys_are_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let pki = directory.path().join("deep/pki").display().to_string();
    let made = Tool::new(["pki", "init", &pki]).run().done().text();
    let read = || {
        let mut files: Vec<_> =
            made.lines().map(|line| (line.to_owned(), std::fs::read(line).unwrap())).collect();
        files.sort();
        files
    };
    let before = read();
    assert_eq!(before.len(), 10, "authority, two nodes, client and admin: {made}");
    Tool::new(["pki", "init", &pki]).run().refused(1, &["exists", "never overwritten", "choose another"]);
    assert_eq!(read(), before);
    for (name, _) in before.iter().filter(|(name, _)| name.ends_with(".key")) {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(name).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn completions_and_help_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Tool::new(["completions", shell]).run().done().text();
        assert!(script.contains("parhelion") && script.contains("promote"), "{shell}: {script}");
        // Only bash is on every machine.
        if shell == "bash" {
            let mut bash = std::process::Command::new("bash");
            let checked = bash.args(["-n", "-c", &script]).output().expect("there is a bash");
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
            let ask = r#"COMP_WORDS=(parhelion link ""); COMP_CWORD=2; _parhelion parhelion "" link; echo "${COMPREPLY[@]}""#;
            let mut bash = std::process::Command::new("bash");
            let offered = bash.args(["-c", &format!("{script}\n{ask}")]).output().expect("there is a bash");
            let offered = String::from_utf8_lossy(&offered.stdout).into_owned();
            assert!(offered.contains("status code"), "{offered}");
        }
    }
    let version = Tool::new(["--version"]).run().done().text();
    assert!(version.starts_with("parhelion "), "{version}");
    let help = Tool::new(["--help"]).run().done().text();
    for command in ["node", "log", "mirror", "link", "drill", "config", "pki", "completions"] {
        assert!(help.contains(command), "no {command} in {help}");
    }
    for (command, code) in [("status", "4"), ("promote", "1"), ("missing", "2"), ("verify", "4")] {
        let help = Tool::new(["mirror", command, "--help"]).run().done().text();
        let codes = help.split_once("Exit code").unwrap_or_else(|| panic!("no exit codes in {help}")).1;
        assert!(codes.contains(code), "no {code} in {codes}");
    }
    // What the drill starts for itself is nobody else's business.
    assert!(!help.contains("wan-emulator") && !help.contains("drill-writers"), "{help}");
    assert_eq!(Tool::new([""; 0]).run().code, Some(2));
}

/// As `parhelion config show | head -1` does it.
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut command = std::process::Command::new(parhelion_e2e::binary());
    command
        .args(["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(141), ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_at_the_command_line() {
    let pair = Pair::start(PairOptions::default().apart(Duration::from_millis(20))).await;
    let tool = |arguments: &[&str]| pair.tool(At::Primary, arguments);
    let created = tool(&["log", "create", "orders", "--degrade", "fail", "--json"]).run().done().json();
    assert_eq!((&created["log"], &created["name"]), (&0.into(), &"orders".into()));

    let bytes = payload(1, 9000);
    // A new link promises little, so a small risk would have to wait for the mirror.
    let append = ["log", "append", "0", "--max-risk", "1", "--explain", "--json", "--request-id", "c0ffee"];
    let acked = tool(&append).input(&bytes).run().done().json();
    assert_eq!((&acked["degraded"], &acked["duplicate"]), (&false.into(), &false.into()), "{acked}");
    assert_eq!(acked["reached"], "network", "{acked}");
    assert!((0.0..=1.0).contains(&acked["prefix_risk"].as_f64().unwrap()), "{acked}");
    let stages: Vec<&str> =
        acked["path"].as_array().unwrap().iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    for stage in ["accepted", "announced", "sent", "covered", "durable", "acknowledged"] {
        assert!(stages.contains(&stage), "no {stage} in {stages:?}");
    }
    assert_eq!((stages[0], stages[stages.len() - 1]), ("accepted", "acknowledged"));
    let times: Vec<u64> =
        acked["path"].as_array().unwrap().iter().map(|stage| stage["micros"].as_u64().unwrap()).collect();
    assert!(times.is_sorted() && times[0] == 0 && times[times.len() - 1] > 0, "{acked}");
    let again = tool(&append).input(&bytes).run().done().json();
    assert_eq!((&again["duplicate"], &again["address"]), (&true.into(), &acked["address"]));
    assert_eq!(acked["request_id"], format!("{:032x}", 0xc0ffee));

    let address = acked["address"].as_str().unwrap();
    assert_eq!(tool(&["log", "read", "0", address]).run().done().stdout, bytes);
    let file = pair.directory().join("out").display().to_string();
    assert!(tool(&["log", "read", "0", address, "--output", &file]).run().done().stdout.is_empty());
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
    let told = tool(&["log", "read", "0", address, "--output", &file, "--json"]).run().done().json();
    assert_eq!((&told["address"], &told["bytes"]), (&address.into(), &9000.into()), "{told}");
    let from_file = ["log", "append", "0", "--file", &file, "--durability", "remote"];
    let text = tool(&from_file).run().done().text();
    assert!(text.contains("level remote") && text.contains("risk 0"), "{text}");
    // Repairs say nothing of what the mirror has.
    let explained =
        tool(&["log", "append", "0", "--durability", "remote", "--explain"]).input(b"x").run().done().text();
    let mirrored = explained.lines().find(|line| line.contains("mirrored")).expect("it is mirrored");
    assert!(!mirrored.contains(" of "), "{explained}");
    // An append that was given no id can be repeated too.
    let id = text.lines().find_map(|line| line.strip_prefix("request id ")).expect("it shows one").to_owned();
    let again =
        tool(&["log", "append", "0", "--file", &file, "--request-id", &id, "--json"]).run().done().json();
    assert_eq!((&again["duplicate"], &again["request_id"]), (&true.into(), &id.into()));
    let explained = tool(&["log", "append", "0", "--explain"]).input(b"x").run().done().text();
    for word in [
        "layered-interleaving",
        "gilbert-elliott",
        "after",
        "stage",
        "repairs",
        "why",
        "accepted",
        "acknowledged",
    ] {
        assert!(explained.contains(word), "no {word:?} in {explained}");
    }

    let listed = tool(&["log", "list", "--json"]).run().done().json();
    assert_eq!(listed[0]["records"], 5, "{listed}");
    let stat = tool(&["log", "stat", "0", "--json"]).run().done().json();
    assert_eq!((&stat["name"], &stat["degrade"]), (&"orders".into(), &"fail".into()), "{stat}");
    let freed = tool(&["log", "free", "0", address, "--json"]).run().done().json();
    assert_eq!(freed["freed"], address);
    for table in [tool(&["log", "list"]), tool(&["log", "stat", "0"])] {
        let table = table.run().done().text();
        assert!(table.contains("orders") && table.contains("degrade") && table.contains("fail"), "{table}");
    }

    pair.mirrored().await;
    let found = pair.verify();
    assert_eq!(found["logs"][0]["records"], 6, "{found}");
    let other = pair.mirror.api.to_string();
    let text = tool(&["mirror", "verify", "--other", &other]).run().done().text();
    assert!(text.contains("same"), "{text}");
    let status = tool(&["mirror", "status", "--json"]).run().done().json();
    assert_eq!(status["logs"]["linked"], true, "{status}");
    assert!(status["channel"]["bounds"]["loss"].is_number() && status["link"] != Value::Null, "{status}");
    let text = tool(&["mirror", "status"]).run().done().text();
    for word in ["site 1, primary, link up", "orders", "lag bytes", "0 B", "the mirror has everything"] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    let text = pair.tool(At::Mirror, &["mirror", "status"]).run().done().text();
    for word in ["site 2, mirror", "orders", "applied", "durable", "age of newest"] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    let dry = pair.tool(At::Mirror, &["mirror", "promote", "--dry-run", "--json"]).run().done().json();
    assert_eq!((&dry["missing_count"], &dry["logs"]), (&0.into(), &1.into()), "{dry}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_that_differ_are_told_apart() {
    let pair = Pair::start(PairOptions::default()).await;
    let here = pair.client(At::Primary).await;
    here.create("orders", parhelion_types::Degrade::Block).await.unwrap();
    pair.mirrored().await;
    pair.verify();
    // A site that has nothing to do with it, with another log of the same number.
    let stranger = Pair::down(PairOptions::default());
    let node = stranger.primary.spec.clone();
    let node =
        parhelion_e2e::NodeSpec { profile: "single", ..node }.with("tls.directory", pair.pki.display());
    let _node = node.start();
    let there = parhelion_e2e::client(stranger.primary.api, &pair.pki, "client").await;
    let other = stranger.primary.api.to_string();
    let verify =
        |json: &'static str| pair.tool(At::Primary, &["mirror", "verify", "--other", &other, json]).run();
    let found = verify("--json");
    assert_eq!((found.code, &found.json()["logs"][0]["verdict"]), (Some(4), &"absent".into()));
    there.create("invoices", parhelion_types::Degrade::Block).await.unwrap();
    let found = verify("--json");
    let document = found.json();
    assert_eq!((found.code, &document["same"]), (Some(4), &false.into()), "{document}");
    assert_eq!(document["logs"][0]["verdict"], "DIFFERENT", "{document}");
}

//! `parhelion drill` itself. What it finds is the business of the table of disasters and of its own tests.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use parhelion_e2e::Tool;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::SOON;

/// The shortest drill that still loses packets, on a line that any machine can emulate. With all cores busy the
/// emulator takes packets in late, and an acknowledgement must not be ahead of it.
const SHORT: [&str; 12] = [
    "drill",
    "--seconds",
    "1",
    "--loss-for",
    "300ms",
    "--warm-up",
    "0s",
    "--rate",
    "40Mbit",
    "--set",
    "link.site_exit_delay=20ms",
    "--json",
];

/// Carries out a short drill and returns what it printed, and its document; nothing, and it says so, where the system does
/// not allow this form.
fn drill(form: &str, more: &[&str]) -> Option<(String, Value)> {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("drill.json");
    let _alone = one_at_a_time();
    let arguments = SHORT.into_iter().chain([json.to_str().unwrap(), "--form", form]);
    let outcome = Tool::new(arguments.chain(more.iter().copied())).run();
    if form == "packet" && outcome.code == Some(1) && outcome.stderr.contains("namespace") {
        parhelion_e2e::skip(&format!("no drill in the form {form}: {}", outcome.stderr.trim()));
        return None;
    }
    let outcome = outcome.done();
    Some((outcome.text(), serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap()))
}

/// Two drills at once would make each other's emulator late.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The names of all fields, with those that lead to them. Objects in one list have the same fields.
fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, inner) in object {
                let path = format!("{path}.{name}");
                fields(inner, &path, found);
                found.insert(path);
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| fields(inner, path, found)),
        _ => {}
    }
}

fn fields_of(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    fields(value, "", &mut found);
    found
}

#[test]
fn the_relay_form_tells_the_same_and_marks_what_met_no_loss() {
    let (table, relay) = drill("relay", &["--modes", "local-sync,network-sync"]).unwrap();
    assert_eq!((&relay["form"], &relay["parameters"]["form"]), (&"relay".into(), &"relay".into()));
    let marks = |key: &str| -> Vec<bool> {
        relay[key].as_array().unwrap().iter().map(|row| row["meets_loss"].as_bool().unwrap()).collect()
    };
    // The first mode travels over TCP.
    assert_eq!((marks("modes"), marks("runs")), (vec![false, true], vec![false, true]));
    // A row per mode, in each of three tables.
    let rows = |mode: &str| -> Vec<String> {
        table.lines().filter(|line| line.split(' ').next() == Some(mode)).map(str::to_owned).collect()
    };
    let (tcp, coded) = (rows("local-sync"), rows("network-sync"));
    assert_eq!((tcp.len(), coded.len()), (3, 3), "{table}");
    assert!(tcp[1].contains("NO: relay") && coded[1].contains(" yes "), "{table}");
    assert!(
        table.starts_with("offered: 20.0 Mbit/s by 64 writers of 4096 bytes, 50 % of the line's 40.0 Mbit/s"),
        "{table}"
    );
    assert!(
        table.contains("* local-sync: relay form: TCP met delay and rate, and no packet loss"),
        "{table}"
    );
    for row in relay["modes"].as_array().unwrap() {
        assert!(row["acked_appends"]["mean"].as_f64().unwrap() > 20.0, "{row}");
        let lost = |cause: &str| row["lost"][cause].as_u64().unwrap();
        assert_eq!(lost("in_host") + lost("on_wire") + lost("behind_gap"), lost("total"), "{row}");
        everything_was_read_back(row);
    }
    assert_eq!(relay["modes"][1]["lost"]["total"], 0, "{table}");

    if let Some((_, packet)) = drill("packet", &["--modes", "local-sync,network-sync"]) {
        assert_eq!(packet["form"], "packet");
        assert_eq!(packet["modes"][0]["meets_loss"], true);
        // The emulator saw which bytes of the stream arrived: nothing is left to infer.
        let lost = &packet["modes"][0]["lost"];
        assert!(lost["total"].as_u64().unwrap() > 0, "{lost}");
        assert_eq!(lost["inferred"], 0, "{lost}");
        packet["modes"].as_array().unwrap().iter().for_each(everything_was_read_back);
        assert_eq!(fields_of(&relay), fields_of(&packet));
    }
}

/// Every append of a mode that was acknowledged and not lost, that is.
fn everything_was_read_back(row: &Value) {
    let acked = row["acked_appends"]["mean"].as_f64().unwrap();
    let (lost, read) = (row["lost"]["total"].as_f64().unwrap(), row["read_back"].as_f64().unwrap());
    assert!((acked - lost - read).abs() < 0.5, "{row}");
    assert_eq!(row["altered"], 0, "{row}");
}

#[test]
fn the_load_is_what_was_asked_for() {
    let (table, document) = drill("relay", &["--modes", "local-sync", "--load", "8Mbit"]).unwrap();
    assert_eq!(document["parameters"]["load_bits_per_second"], 8_000_000);
    let goodput = document["modes"][0]["goodput_bits_per_second"]["mean"].as_f64().unwrap();
    assert!(goodput < 10e6, "{table}");
    assert!(table.starts_with("offered: 8.00 Mbit/s") && table.contains("20 %"), "{table}");
}

#[test]
fn every_code_is_drilled_by_its_bare_name() {
    for code in ["layered-interleaving", "reed-solomon", "repetition", "none"] {
        // Nothing is promised in this mode, so that it is the link alone that must work.
        let (table, document) = drill("relay", &["--modes", "remote-sync+fec", "--code", code]).unwrap();
        let parameters = &document["parameters"];
        assert_eq!((&parameters["code"], &parameters["parameters"]), (&code.into(), &"".into()));
        let row = &document["modes"][0];
        assert!(row["acked_appends"]["mean"].as_f64().unwrap() > 20.0, "{code}: {row}");
        assert_eq!(row["lost"]["total"], 0, "{code}: {table}");
    }
}

/// The settings that a user gets, on the link that a drill has by default. Only acknowledgements wait for an emulator that
/// other tests keep from taking packets in, as in every drill here.
#[test]
fn acknowledgements_run_ahead_of_the_mirror_with_stock_settings() {
    let _alone = one_at_a_time();
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("drill.json");
    let load = ["drill", "--modes", "network-sync", "--warm-up", "8s", "--seconds", "3", "--writers", "64"];
    let more = ["--set", "link.site_exit_delay=20ms", "--json", json.to_str().unwrap()];
    let outcome = Tool::new(load.into_iter().chain(more)).run();
    let table = outcome.done().text();
    let document: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let run = &document["runs"][0];
    let (acked, ahead) = (run["acked_appends"].as_u64().unwrap(), run["acked_ahead"].as_u64().unwrap());
    assert!(ahead > 0, "all {acked} acknowledgements waited for the mirror: {table}");
    assert_eq!(run["lost"]["total"], 0, "{table}");
    assert!(run["risk_highest"].as_f64().unwrap() <= 1e-6, "{table}");
}

/// A line that gets far worse within the last moments than it ever was refutes what was promised on it.
#[test]
fn a_drill_that_refutes_its_promises_says_so() {
    // Shorter than it takes to hear of the losses. Few appends are under way, so that none waits for the mirror.
    let worse = ["--loss", "95%", "--burst", "40", "--loss-for", "120ms", "--max-risk", "1e-3"];
    let load = ["--warm-up", "3s", "--seconds", "1", "--rate", "40Mbit", "--load", "8Mbit"];
    let form = ["--modes", "network-sync", "--form", "relay", "--set", "link.site_exit_delay=20ms"];
    let _alone = one_at_a_time();
    // Even such a line may let the last appends through, and then nothing is refuted.
    let refuted = ["1", "2", "3"].into_iter().any(|seed| {
        let directory = tempfile::tempdir().unwrap();
        let json = directory.path().join("drill.json");
        let more = ["--seed", seed, "--json", json.to_str().unwrap()];
        let arguments = ["drill"].into_iter().chain(worse).chain(load).chain(form).chain(more);
        let outcome = Tool::new(arguments).run();
        let table = outcome.text();
        let document: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        let row = &document["modes"][0];
        let refuted = row["promise"]["refuted"].as_bool().unwrap();
        assert_eq!(refuted, table.contains("REFUTED"), "{table}");
        everything_was_read_back(row);
        // An emulator that other tests keep from taking packets in loses announcements.
        let is_faulty = refuted || row["lost"]["unnamed"] != 0;
        assert_eq!(outcome.code, Some(if is_faulty { 4 } else { 0 }), "{table}\n{}", outcome.stderr);
        assert!(!refuted || row["lost"]["total"].as_u64().unwrap() > 0, "{row}");
        refuted
    });
    assert!(refuted, "no promise is refuted by a line that loses nearly all");
}

#[test]
fn a_drill_that_is_stopped_leaves_nothing_behind() {
    let _alone = one_at_a_time();
    for (signal, keeps) in [(Signal::INT, false), (Signal::TERM, true)] {
        let place = tempfile::tempdir().unwrap();
        let mut command = Command::new(parhelion_e2e::binary());
        command.args(["drill", "--modes", "network-sync", "--form", "relay"]);
        command.args(["--warm-up", "0s", "--seconds", "60"]);
        if keeps {
            command.arg("--keep").arg(place.path());
        }
        command.env("TMPDIR", place.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut drill = Stopped(command.spawn().unwrap());
        let data = place.path().join(format!("drill-data-{}", drill.0.id()));
        // The writers' last preparation.
        until("both sites run", || data.join("network-sync-0/acks").exists());
        let children = children(&drill.0);
        assert!(children.len() >= 4, "two nodes, the writers, and the emulator: {children:?}");

        kill_process(Pid::from_child(&drill.0), signal).unwrap();
        until("the drill has ended", || drill.0.try_wait().unwrap().is_some());
        let output = drill.take_output();
        assert_eq!(output.code, Some(130), "{output:?}");
        assert!(output.stderr.contains("error: the drill was stopped by a signal"), "{}", output.stderr);
        assert!(output.stdout.is_empty(), "{output:?}");
        for child in children {
            assert!(!Path::new("/proc").join(&child).exists(), "process {child} is still there");
        }
        let kept = std::fs::read_dir(place.path()).unwrap().count();
        assert_eq!((kept, data.exists()), (usize::from(keeps), keeps), "{}", output.stderr);
        assert_eq!(keeps, output.stderr.contains(&*data.to_string_lossy()), "{}", output.stderr);
    }
}

/// A drill that ends with its test, however that ends.
struct Stopped(Child);

impl Stopped {
    /// What it said, now that it has ended.
    fn take_output(&mut self) -> parhelion_e2e::Outcome {
        let code = self.0.wait().unwrap().code();
        let text = |pipe: Option<&mut dyn std::io::Read>| {
            let mut bytes = Vec::new();
            pipe.unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        let stdout = text(self.0.stdout.as_mut().map(|pipe| pipe as _));
        let stderr = text(self.0.stderr.as_mut().map(|pipe| pipe as _));
        parhelion_e2e::Outcome { code, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Both fail only if it has gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Process ids of those that a process started from its main thread.
fn children(of: &Child) -> Vec<String> {
    let id = of.id();
    let list = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    list.split_whitespace().map(str::to_owned).collect()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_drill_that_cannot_be_is_refused_before_it_begins() {
    let refused: [(&[&str], i32, &[&str]); 13] = [
        (&["--modes", "sync"], 2, &["unknown mode \"sync\"", "network-sync"]),
        (&["--modes", "all,sync"], 2, &["unknown mode \"sync\"", "network-sync"]),
        (&["--loss", "150%"], 2, &["--loss", "150%", "between 0% and 100%"]),
        (&["--form", "tunnel"], 2, &["unknown form", "packet or relay"]),
        (&["--seconds", "0.2"], 2, &["duration", "time of loss"]),
        (&["--load", "0"], 2, &["--load", "not a rate"]),
        (&["--warm-up", "2h"], 2, &["warm-up", "at most an hour"]),
        (&["--input", "/nowhere"], 2, &["--input /nowhere", "No such file", "files that can be read"]),
        (&["--code", "bogus"], 2, &["unknown code \"bogus\"", "reed-solomon", "--code"]),
        (&["--code", "reed-solomon r=0"], 2, &["reed-solomon", "parameter r is 0", "give 1 to 254"]),
        (&["--set", "link.mut=1"], 2, &["unknown setting \"link.mut\"", "\"link.mtu\""]),
        (&["--set", "nonsense"], 2, &["\"nonsense\"", "section.key=value"]),
        (&["--json", "/nowhere/drill.json"], 1, &["--json /nowhere/drill.json", "can be written"]),
    ];
    for (arguments, code, words) in refused {
        Tool::new(["drill"].iter().chain(arguments)).run().refused(code, words);
    }
}

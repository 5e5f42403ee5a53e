//! `docs/parhelion.service` held against nodes as they really end: what systemd does then is what mends them, and what the
//! loop does that keeps nodes alive in the tests that kill them.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use parhelion_e2e::{NodeSpec, Pair, PairOptions, Surroundings, Tool, eventually};
use rustix::process::Signal;

use crate::SOON;
use crate::kills::keeper::Keeper;

/// The unit that operators install.
const UNIT: &str = include_str!("../../../../docs/parhelion.service");

/// What decides over the life of a unit's process.
pub(crate) struct Unit(BTreeMap<&'static str, &'static str>);

impl Unit {
    pub(crate) fn documented() -> Self {
        let mut settings = BTreeMap::new();
        for line in UNIT.lines().filter(|line| !line.starts_with(['#', '['])) {
            let Some((key, value)) = line.split_once('=') else { continue };
            assert_eq!(settings.insert(key, value), None, "{key} is there twice");
        }
        Self(settings)
    }

    fn get(&self, key: &str) -> &'static str {
        self.0.get(key).unwrap_or_else(|| panic!("the unit says nothing of {key}"))
    }

    /// Exit codes in a list.
    fn codes(&self, key: &str) -> Vec<i32> {
        let list = self.0.get(key).copied().unwrap_or_default();
        list.split_whitespace().map(|code| code.parse().unwrap()).collect()
    }

    /// Whether systemd starts the process again that ended like this by itself (systemd.service(5), "Restart=").
    fn starts_again(&self, end: ExitStatus) -> bool {
        assert_eq!(self.get("Restart"), "on-failure", "this is what the following describes");
        let ends_well = [Signal::HUP, Signal::INT, Signal::TERM, Signal::PIPE].map(Signal::as_raw);
        match (end.code(), end.signal()) {
            (Some(code), _) => {
                let is_well = code == 0 || self.codes("SuccessExitStatus").contains(&code);
                !is_well && !self.codes("RestartPreventExitStatus").contains(&code)
            }
            (None, signal) => signal.is_none_or(|signal| !ends_well.contains(&signal)),
        }
    }

    /// What asks the process to stop.
    fn stop_signal(&self) -> Signal {
        match self.get("KillSignal") {
            "SIGTERM" => Signal::TERM,
            "SIGINT" => Signal::INT,
            other => panic!("a node does not stop in order at {other}"),
        }
    }

    /// After this it is killed.
    pub(crate) fn stop_limit(&self) -> Duration {
        seconds(self.get("TimeoutStopSec"))
    }
}

/// How long a node drains unless it is told otherwise.
pub(crate) fn drain_default() -> Duration {
    let shown = Tool::new(["config", "show", "--json", "--profile", "primary"]).run().done().json();
    let rows = shown.as_array().unwrap();
    let drain = rows.iter().find(|row| row["key"] == "node.drain").expect("it is a setting");
    seconds(drain["value"].as_str().unwrap())
}

fn seconds(text: &str) -> Duration {
    let number = text.strip_suffix('s').and_then(|number| number.parse().ok());
    Duration::from_secs(number.unwrap_or_else(|| panic!("{text:?} is not in seconds")))
}

fn exit(code: i32) -> ExitStatus {
    // As waitpid has it.
    ExitStatus::from_raw(code << 8)
}

/// A site of one node, with its data in directory `name`.
fn single(pair: &Pair, name: &'static str) -> NodeSpec {
    NodeSpec { name, profile: "single", ..pair.primary.spec.clone() }
        .with("node.data", pair.directory().join(name).display())
        .with("api.listen", "127.0.0.1:0")
}

#[test]
fn a_node_is_started_again_when_that_may_mend_it() {
    let unit = Unit::documented();
    let pair = Pair::down(PairOptions::default());
    // However often.
    assert_eq!(unit.get("StartLimitIntervalSec"), "0");
    assert_eq!(unit.get("RestartSec"), "1s");

    // By the unit's own command line: settings that no restart mends.
    let file = pair.directory().join("node.toml");
    std::fs::write(&file, "[link]\ncode = \"magic\"\n").unwrap();
    let words = unit.get("ExecStart").split(' ').skip(1);
    let arguments: Vec<_> = words
        .map(|word| if word == "/etc/parhelion/node.toml" { file.display().to_string() } else { word.into() })
        .collect();
    assert!(arguments.contains(&file.display().to_string()), "{arguments:?}");
    let outcome = Tool::new(&arguments).run();
    outcome.refused(2, &["link.code", "magic"]);
    let outcomes = [outcome, single(&pair, "bare").with("tls.directory", "/nowhere").fail()];
    for outcome in outcomes {
        let end = exit(outcome.code.unwrap());
        assert!(!unit.starts_again(end), "again and again with {outcome:?}");
    }

    // What passes.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let outcome = single(&pair, "late").with("http.listen", taken.local_addr().unwrap()).fail();
    assert!(unit.starts_again(exit(outcome.code.unwrap())), "not started again after {outcome:?}");
    let broken = Surroundings::with_variable("PARHELION_FAULT", "panic:storage@100ms");
    let mut node = single(&pair, "broken").try_start_in(&broken).unwrap();
    assert_eq!(node.wait(SOON), Some(70), "{}", node.log_text());
    assert!(unit.starts_again(node.ended().unwrap()), "not started again after a fault");
    let mut node = single(&pair, "killed").start();
    node.signal(Signal::KILL);
    assert_eq!(node.wait(SOON), None);
    assert!(unit.starts_again(node.ended().unwrap()), "not started again after SIGKILL");

    // What was asked for.
    let mut node = single(&pair, "stopped").start();
    node.signal(unit.stop_signal());
    assert_eq!(node.wait(unit.stop_limit()), Some(0), "{}", node.log_text());
    assert!(!unit.starts_again(node.ended().unwrap()), "it does not stay stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loop_of_the_kills_starts_nodes_as_the_unit_does() {
    let unit = Unit::documented();
    let pair = Pair::down(PairOptions::default());
    let wrong = Keeper::start(&single(&pair, "wrong").with("link.code", "magic"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let late = Keeper::start(&single(&pair, "late").with("http.listen", taken.local_addr().unwrap()));
    eventually("a node that may come up is tried again", SOON, || late.ends().len() >= 3).await;
    assert!(late.ends().iter().all(|end| *end == 1), "{:?}", late.ends());
    assert!(unit.starts_again(exit(1)));
    eventually("a node that cannot come up has ended", SOON, || !wrong.ends().is_empty()).await;
    // The other one was started three times meanwhile, at least.
    assert_eq!(wrong.ends(), [2]);
    assert!(!unit.starts_again(exit(2)));
    drop(taken);
    eventually("it serves when it can", SOON, || late.served() > 0).await;
}

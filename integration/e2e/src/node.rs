//! A node as a process.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde::Deserialize;

use crate::binary::command;
use crate::{Outcome, Surroundings, Tool};

/// How a node is started; again and again, if a test says so.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Name of its log file.
    pub name: &'static str,
    /// The profile.
    pub profile: &'static str,
    /// Settings, the later ones winning.
    pub settings: Vec<(String, String)>,
    /// Directory of its log file.
    pub directory: PathBuf,
}

/// What a node says when it serves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// Address of the API.
    pub api: SocketAddr,
    /// Address of the HTTP API, if it is on.
    pub http: Option<SocketAddr>,
    /// Where a mirror listens for its primary.
    pub link: Option<LinkAddresses>,
    /// Where a link node listens for the storage nodes of its site.
    pub site: Option<SocketAddr>,
}

/// Addresses of a mirror's end of the link.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct LinkAddresses {
    /// The bulk lane.
    pub bulk: SocketAddr,
    /// The critical lane.
    pub critical: SocketAddr,
    /// The link over TCP.
    pub tcp: Option<SocketAddr>,
}

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    process: Process,
    ready: Ready,
    log: PathBuf,
}

/// A child that does not outlive its owner.
#[derive(Debug)]
struct Process(Child);

/// Recovery of a test's data takes far less, even on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

impl NodeSpec {
    /// Sets a setting, over those it has.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// The value of a setting that was given.
    #[must_use]
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// File with all that nodes of this name wrote to standard error.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }

    /// Its command line, without the program.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["node".to_owned(), "--profile".to_owned(), self.profile.to_owned()];
        for (key, value) in &self.settings {
            arguments.extend(["--set".to_owned(), format!("{key}={value}")]);
        }
        arguments
    }

    /// Starts a node that should not start, and tells how it ended.
    #[must_use]
    pub fn fail(&self) -> Outcome {
        Tool::new(self.arguments()).run()
    }

    /// Starts a node and waits until it serves.
    ///
    /// # Panics
    /// It does not serve within half a minute.
    #[must_use]
    pub fn start(&self) -> Node {
        self.try_start().unwrap_or_else(|outcome| panic!("{} ended before it served: {outcome:?}", self.name))
    }

    /// Starts a node that may refuse to start.
    ///
    /// Call it from the test's own thread: the kernel kills the node when the thread that started it ends.
    ///
    /// # Errors
    /// It ended before it served; tells how.
    ///
    /// # Panics
    /// It neither serves nor ends within half a minute.
    pub fn try_start(&self) -> Result<Node, Outcome> {
        self.try_start_in(&Surroundings::default())
    }

    /// Starts a node, that may refuse to start, in surroundings of its own.
    ///
    /// # Errors
    /// As [`NodeSpec::try_start`].
    ///
    /// # Panics
    /// As [`NodeSpec::try_start`].
    pub fn try_start_in(&self, around: &Surroundings) -> Result<Node, Outcome> {
        let log = self.log();
        let before = read_log(&log).len();
        let errors = OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        let mut command = command();
        command.args(self.arguments()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        // A signal to the terminal's process group is for the test, and the test tells its nodes.
        command.process_group(0);
        around.enter(&mut command);
        // SAFETY: between fork and exec only one system call is made, prctl, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut process = Process(command.spawn().expect("the binary starts"));
        let stdout = process.0.stdout.take().expect("it is piped");
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                // Read on when nobody listens any more: a full pipe would stop the node.
                let Ok(line) = line else { return };
                let _ = say.send(line);
            }
        });
        match said.recv_timeout(START_LIMIT) {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(ready) => Ok(Node { process, ready, log }),
                Err(error) => panic!("{} said {line:?}: {error}", self.name),
            },
            Err(RecvTimeoutError::Timeout) => {
                panic!("{} does not serve after {START_LIMIT:?}: {}", self.name, read_log(&log));
            }
            Err(RecvTimeoutError::Disconnected) => {
                let code = process.0.wait().expect("it is ours").code();
                let stderr = read_log(&log).get(before..).unwrap_or_default().to_owned();
                Err(Outcome { code, stdout: Vec::new(), stderr })
            }
        }
    }
}

impl Node {
    /// What it said when it began to serve.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// All that it and its predecessors of the same name wrote to standard error.
    #[must_use]
    pub fn log_text(&self) -> String {
        read_log(&self.log)
    }

    /// Dies at once, as a site does.
    pub fn kill(mut self) {
        self.process.0.kill().expect("it is ours");
        self.process.0.wait().expect("it is ours");
    }

    /// Asks it to stop, as a service manager does.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it to stop, as Ctrl-C does.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Takes the processor from it: it looks as if its site were cut off.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Gives the processor back.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.0.try_wait().expect("it is ours")
    }

    /// Waits until it ends by itself, and tells its exit code.
    ///
    /// # Panics
    /// It does not end within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "still there after {limit:?}: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to stop and waits until it has drained.
    ///
    /// # Panics
    /// It does not end well within 20 seconds.
    pub fn stop(mut self) {
        self.terminate();
        assert_eq!(self.wait(Duration::from_secs(20)), Some(0), "{}", self.log_text());
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// Its end has been waited for.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.0), signal).expect("it is ours and not waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn read_log(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

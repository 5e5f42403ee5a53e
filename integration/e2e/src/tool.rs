//! Subcommands that run to their end.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary::command;

/// One run of the binary.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    input: Vec<u8>,
}

/// How a run ended, and what it said.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

/// Longest run of a subcommand: well above every timeout of the client library that applies here.
const LIMIT: Duration = Duration::from_secs(90);
/// What no operator should ever see.
const DEVELOPERS_WORDS: [&str; 5] = ["panicked at", "backtrace", "RUST_BACKTRACE", "unwrap()", "src/"];

impl Tool {
    /// A run with these arguments, in an environment without settings of its own.
    pub fn new(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let mut command = command();
        command.args(arguments);
        Self { command, input: Vec::new() }
    }

    /// Adds the options that say which node to talk to, and as whom.
    #[must_use]
    pub fn at(mut self, api: SocketAddr, pki: &Path) -> Self {
        self.command.arg("--address").arg(api.to_string()).arg("--pki").arg(pki);
        self
    }

    /// Gives it bytes on standard input.
    #[must_use]
    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// It does not start, or does not end within 90 seconds.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        let piped = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the binary starts");
        let (mut stdin, mut stdout, mut stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        std::thread::scope(|scope| {
            let input = &self.input;
            // A tool that fails before it has read everything closes its end.
            scope.spawn(move || stdin.take().map(|mut stdin| stdin.write_all(input)));
            let out = scope.spawn(move || read_all(&mut stdout));
            let err = scope.spawn(move || read_all(&mut stderr));
            let deadline = Instant::now() + LIMIT;
            let status = loop {
                if let Some(status) = child.try_wait().expect("the child is ours") {
                    break status;
                }
                if Instant::now() > deadline {
                    let _ = child.kill();
                    let _ = child.wait();
                    let said = String::from_utf8_lossy(&err.join().expect("reading works")).into_owned();
                    panic!("{:?} did not end within {LIMIT:?}; it said: {said}", self.command);
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            Outcome {
                code: status.code(),
                stdout: out.join().expect("reading works"),
                stderr: String::from_utf8_lossy(&err.join().expect("reading works")).into_owned(),
            }
        })
    }
}

fn read_all(pipe: &mut Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.read_to_end(&mut bytes).expect("a child's pipe can be read");
    }
    bytes
}

impl Outcome {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as one JSON document.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Checks that it worked.
    ///
    /// # Panics
    /// It did not.
    #[must_use]
    pub fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Checks that it was refused with this exit code and a message with all of these words in it, and
    /// nothing that only a developer could want.
    ///
    /// # Panics
    /// It was not.
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.complaints(code, words), Vec::<String>::new());
    }

    /// What is wrong with how it was refused; empty if nothing is.
    #[must_use]
    pub fn complaints(&self, code: i32, words: &[&str]) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.code != Some(code) {
            complaints.push(format!("exit code {:?} instead of {code}", self.code));
        }
        if !self.stdout.is_empty() {
            complaints.push(format!("an error belongs on standard error, not here: {}", self.text()));
        }
        for word in words.iter().filter(|word| !self.stderr.contains(**word)) {
            complaints.push(format!("no {word:?}"));
        }
        for word in DEVELOPERS_WORDS.iter().filter(|word| self.stderr.contains(**word)) {
            complaints.push(format!("{word:?} is for developers"));
        }
        if !complaints.is_empty() {
            complaints.push(format!("it said: {}", self.stderr.trim()));
        }
        complaints
    }
}

//! Child processes of a drill: started with a log of their own, heard on standard output, never left behind.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::de::DeserializeOwned;

use crate::error::DrillError;
use crate::interrupt;

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its standard error goes to `NAME.log` in `directory`.
    ///
    /// The process is killed when the thread that started it ends, however that happens.
    ///
    /// # Errors
    /// The log cannot be created or the process not be started.
    pub fn start(name: &'static str, mut command: Command, directory: &Path) -> Result<Self, DrillError> {
        let log = directory.join(format!("{name}.log"));
        let errors = File::create(&log).map_err(DrillError::file("creating", &log))?;
        // SAFETY: between fork and exec only one system call is made, prctl, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|error| failed(name, format!("could not be started: {error}"), &log))?;
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take();
        let stdin = child.stdin.take();
        std::thread::Builder::new()
            .name(format!("{name}-stdout"))
            .spawn(move || {
                for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
                    // Read on when nobody listens any more: a full pipe would stop the child.
                    let Ok(line) = line else { return };
                    let _ = sender.send(line);
                }
            })
            .map_err(|error| failed(name, format!("no thread to listen to it: {error}"), &log))?;
        Ok(Self { name, child, stdin, lines, log })
    }

    /// The next line of standard output that is a JSON object, as `T`.
    ///
    /// # Errors
    /// There is none within `limit`, the process ended before, the object is no `T`, or the drill was told to stop.
    pub fn answer<T: DeserializeOwned>(&mut self, limit: Duration) -> Result<T, DrillError> {
        let deadline = Instant::now() + limit;
        loop {
            interrupt::check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left.min(interrupt::TICK)) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) if left > interrupt::TICK => continue,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failure(format!("said nothing for {limit:?}")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status =
                        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                    return Err(self.failure(format!("ended early ({status}){}", self.last_words())));
                }
            };
            if line.trim_start().starts_with('{') {
                return serde_json::from_str(&line).map_err(|error| {
                    self.failure(format!("said {line:?}, which is not understood: {error}"))
                });
            }
        }
    }

    /// Tells the process to come to an end, by closing its standard input.
    pub fn tell_to_stop(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            // It may have gone by itself.
            let _ = stdin.flush();
        }
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// It failed, does not end within `limit`, or the drill was told to stop.
    pub fn finish(mut self, limit: Duration) -> Result<ExitStatus, DrillError> {
        let deadline = Instant::now() + limit;
        loop {
            interrupt::check()?;
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(status),
                Ok(Some(status)) => {
                    return Err(self.failure(format!("failed ({status}){}", self.last_words())));
                }
                Ok(None) if Instant::now() >= deadline => {
                    return Err(self.failure(format!("did not end within {limit:?}")));
                }
                Ok(None) => std::thread::sleep(POLL_INTERVAL),
                Err(error) => return Err(self.failure(error.to_string())),
            }
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// Tells how it ended.
    pub fn check_alive(&mut self) -> Result<(), DrillError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failure(format!("ended early ({status}){}", self.last_words()))),
            Err(error) => Err(self.failure(error.to_string())),
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process at once, as a disaster does.
    pub fn kill(&mut self) {
        // Both fail only if the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn failure(&self, reason: String) -> DrillError {
        failed(self.name, reason, &self.log)
    }

    /// The last line of its log, which mostly says it all.
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines()
            .rfind(|line| !line.trim().is_empty())
            .map_or_else(String::new, |line| format!(": {line}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

const POLL_INTERVAL: Duration = Duration::from_millis(5);

fn failed(name: &str, reason: String, log: &Path) -> DrillError {
    DrillError::Process { what: name.to_owned(), reason, log: log.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Answer {
        n: u32,
    }

    #[test]
    fn answers_are_heard_among_other_lines_and_stop_is_closed_input() {
        let directory = tempfile::tempdir().unwrap();
        let script = r#"echo hello; echo '{"n":4}'; cat >/dev/null; echo '{"n":5}'"#;
        let mut process = Process::start("sh", shell(script), directory.path()).unwrap();
        let limit = Duration::from_secs(10);
        assert_eq!(process.answer::<Answer>(limit).unwrap(), Answer { n: 4 });
        process.check_alive().unwrap();
        process.tell_to_stop();
        assert_eq!(process.answer::<Answer>(limit).unwrap(), Answer { n: 5 });
        process.finish(limit).unwrap();
    }

    #[test]
    fn a_process_that_fails_is_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let mut process =
            Process::start("sh", shell("echo disk full >&2; exit 3"), directory.path()).unwrap();
        let error = process.answer::<Answer>(Duration::from_secs(10)).unwrap_err().to_string();
        assert!(error.contains("disk full") && error.contains("sh.log"), "{error}");
    }

    #[test]
    fn silence_is_an_error_and_dropping_kills() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Process::start("sh", shell("exec sleep 1000"), directory.path()).unwrap();
        assert!(process.answer::<Answer>(Duration::from_millis(50)).is_err());
        let id = process.child.id();
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }
}

//! What starts a node again when it has died: a loop of the shell, as plain as a service manager gets.

use std::cell::Cell;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use parhelion_e2e::{NodeSpec, binary, eventually};
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};

use crate::SOON;

/// Runs a node again and again, with the same words each time, whatever the last one left behind. No test code has a
/// hand in it: a test kills the node by its process id, and may hold the loop up to look at the other site meanwhile.
#[derive(Debug)]
pub(crate) struct Keeper {
    name: &'static str,
    shell: Child,
    files: Files,
    /// The node that was killed last.
    killed: Cell<Option<Pid>>,
}

/// What the loop reads and writes.
#[derive(Debug)]
struct Files {
    /// While it is there no node is started.
    hold: PathBuf,
    /// The process id of the node.
    pid: PathBuf,
    /// What nodes say on standard output: a line from each that serves.
    served: PathBuf,
    /// How each node ended.
    ends: PathBuf,
}

/// As `docs/parhelion.service` does, which a test holds against it: a wrong setting (2) is not mended by a restart, all else
/// is. The node dies with the shell, and the shell with the test.
const LOOP: &str = r#"
while :; do
    while [ -e "$HOLD" ]; do sleep 0.01; done
    setpriv --pdeathsig KILL "$@" >>"$SERVED" 2>>"$LOG" &
    echo $! >"$PID"
    wait $!
    end=$?
    echo $end >>"$ENDS"
    [ $end -eq 2 ] && exit 2
done
"#;
/// How the shell calls an end by SIGKILL.
const KILLED: i32 = 137;

impl Keeper {
    /// Starts the loop, and with it the node.
    ///
    /// Call it from the test's own thread: the kernel kills the loop when the thread that started it ends.
    pub(crate) fn start(spec: &NodeSpec) -> Self {
        let file = |ending| spec.directory.join(format!("{}.{ending}", spec.name));
        let files =
            Files { hold: file("hold"), pid: file("pid"), served: file("served"), ends: file("ends") };
        // An earlier loop of the same name may have left them; that it ended is of no interest here.
        for stale in [&files.hold, &files.pid, &files.served, &files.ends] {
            let _ = std::fs::remove_file(stale);
        }
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "sh", "-c", LOOP, "keeper"])
            .arg(binary())
            .args(spec.arguments());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PARHELION") {
                command.env_remove(name);
            }
        }
        command.env("HOLD", &files.hold).env("PID", &files.pid).env("SERVED", &files.served);
        command.env("ENDS", &files.ends).env("LOG", spec.log()).env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let shell = command.spawn().expect("there is a shell, and setpriv of util-linux");
        Self { name: spec.name, shell, files, killed: Cell::new(None) }
    }

    /// Whose node it is.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Kills the node with SIGKILL, in the middle of whatever it does: it may just be starting. Returns when it is gone.
    pub(super) async fn kill(&self) {
        let what = format!("{} can be killed", self.name);
        eventually(&what, SOON, || self.node().is_some_and(|node| kill_process(node, Signal::KILL).is_ok()))
            .await;
        let killed = self.killed.get();
        let what = format!("{} is dead", self.name);
        eventually(&what, SOON, || killed.is_none_or(|node| getpgid(Some(node)).is_err())).await;
    }

    /// Kills the node as it was started again, somewhere between its start and its first work.
    pub(super) async fn kill_again(&self, after: Duration) {
        tokio::time::sleep(after).await;
        self.kill().await;
    }

    /// Starts no further node until [`Keeper::release`].
    pub(super) fn hold(&self) {
        std::fs::write(&self.files.hold, "").expect("the directory of the test can be written");
    }

    /// Goes on after [`Keeper::hold`].
    pub(super) fn release(&self) {
        std::fs::remove_file(&self.files.hold).expect("it is held");
    }

    /// How many nodes have come so far as to serve.
    pub(crate) fn served(&self) -> usize {
        lines(&self.files.served).len()
    }

    /// Waits until one more than `before` has.
    pub(super) async fn serves_again(&self, before: usize) {
        let what = format!("{} is started again and serves", self.name);
        eventually(&what, SOON, || self.served() > before).await;
    }

    /// Kills the node and starts no other.
    pub(super) async fn stop(self) {
        self.hold();
        self.kill().await;
    }

    /// How each node ended, as the shell says it: its exit code, or 128 and the signal.
    pub(crate) fn ends(&self) -> Vec<i32> {
        lines(&self.files.ends).iter().map(|end| end.parse().expect("the loop writes numbers")).collect()
    }

    /// Checks that no node ended but by the test's hand.
    ///
    /// # Panics
    /// One did.
    pub(super) fn assert_only_killed(&self) {
        let ends = self.ends();
        assert!(ends.iter().all(|end| *end == KILLED), "{} ended by itself: {ends:?}", self.name);
    }

    /// The node that runs now, unless it was killed already. It is surely ours: it is in the shell's process group.
    fn node(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(&self.files.pid).ok()?;
        let node = Pid::from_raw(text.trim().parse().ok()?)?;
        let is_new = self.killed.get() != Some(node);
        let is_ours = getpgid(Some(node)) == Ok(Pid::from_child(&self.shell));
        (is_new && is_ours).then(|| {
            self.killed.set(Some(node));
            node
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // All of these fail only if what they end has ended already.
        let _ = kill_process_group(Pid::from_child(&self.shell), Signal::KILL);
        let _ = self.shell.wait();
        let Some(node) = self.node() else { return };
        let deadline = Instant::now() + SOON;
        // Its data goes with the test's directory, and its ports to another test.
        while getpgid(Some(node)).is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn lines(path: &PathBuf) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

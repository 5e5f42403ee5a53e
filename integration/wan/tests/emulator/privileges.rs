//! The packet form without privileges: tests of it once more, by a user who may do nothing.
//!
//! Only root can become that user, and starts this binary again as such, with a `/dev/net/tun` of its own in a mount namespace of its own: the
//! machine's may be closed to others, and nothing of the machine is changed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::SKIP_NOTHING;

pub const TESTS: &[(&str, fn())] = &[
    ("privileges::the_packet_form_needs_none", the_packet_form_needs_none),
    ("privileges::a_closed_tun_device_is_told", a_closed_tun_device_is_told),
];

/// Whether this machine lets root, and a user without rights, do what the tests need. Found out without this crate.
pub fn check() -> Result<(), String> {
    let probe = |what: &str, command: &mut Command| match command.current_dir("/").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{what}: {}", said(&output).1.trim())),
        Err(error) => Err(format!("{what}: {error}")),
    };
    let mut device = Command::new("unshare");
    probe("no device node can be made here", device.args(["--mount", "sh", "-c", NODE, "true", "666"]))?;
    let mut namespaces = Command::new("setpriv");
    namespaces.args(SETPRIV).args(["unshare", "--user", "--map-root-user", "--net", "true"]);
    probe("users without rights get no namespaces here", &mut namespaces)
}

fn the_packet_form_needs_none() {
    let output = Nobody::prepare().run("666", &[]);
    let (out, err) = said(&output);
    assert!(output.status.success(), "{out}\n{err}");
    for test in TRIED {
        assert!(out.contains(&format!("test {test} ... ok")), "{out}\n{err}");
    }
    assert!(!err.contains("SKIPPED"), "{err}");
}

fn a_closed_tun_device_is_told() {
    let nobody = Nobody::prepare();
    let output = nobody.run("600", &[]);
    let (out, err) = said(&output);
    assert!(output.status.success(), "{out}\n{err}");
    for test in TRIED {
        let line = err.lines().find(|line| line.starts_with(&format!("SKIPPED: {test}: ")));
        let line = line.unwrap_or_else(|| panic!("{test} is not told: {out}\n{err}"));
        assert!(line.contains("/dev/net/tun") && line.contains("let this user read and write"), "{line}");
    }
    // Whoever wants to know is told by a failure.
    let output = nobody.run("600", &[(SKIP_NOTHING, "1")]);
    let (out, err) = said(&output);
    assert!(!output.status.success() && err.contains("tests failed"), "{out}\n{err}");
    assert!(TRIED.iter().all(|test| out.contains(&format!("test {test} ... FAILED"))), "{out}\n{err}");
}

/// A user without rights, and a copy of this binary that such a user can read.
struct Nobody {
    folder: PathBuf,
}

impl Nobody {
    fn prepare() -> Self {
        let folder = std::env::temp_dir().join(format!("parhelion-wan-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        let nobody = Self { folder };
        fs::copy(std::env::current_exe().unwrap(), nobody.binary()).unwrap();
        fs::set_permissions(nobody.binary(), Permissions::from_mode(0o755)).unwrap();
        nobody
    }

    /// Runs the tried tests, with a TUN device that has these permissions.
    fn run(&self, mode: &str, environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", NODE]).arg("setpriv").arg(mode).args(SETPRIV);
        command.arg(self.binary()).args(TRIED).current_dir("/").env_remove(SKIP_NOTHING);
        command.envs(environment.iter().copied()).output().unwrap()
    }

    fn binary(&self) -> PathBuf {
        self.folder.join("emulator")
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        // What is left lies in the directory for what is temporary.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Real traffic through the emulator, and processes at a site.
const TRIED: [&str; 2] = ["packet::a_round_trip_takes_two_delays", "packet::commands_run_at_their_site"];

/// Covers `/dev/net` of this mount namespace with one whose TUN device (10, 200 everywhere) has the permissions `$1`,
/// and becomes the command `$0` with the other arguments.
const NODE: &str = "mount -t tmpfs -o mode=755 tmpfs /dev/net && mknod /dev/net/tun c 10 200 && \
                    chmod $1 /dev/net/tun && shift && exec \"$0\" \"$@\"";

/// The user that owns nothing.
const SETPRIV: [&str; 5] =
    ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];

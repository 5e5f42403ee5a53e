//! What a node finds around itself: its environment and its disk.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Environment and disk of a node. The usual ones unless a test says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Variables that are set.
    pub environment: Vec<(&'static str, String)>,
    /// A disk of its own.
    pub disk: Option<Arc<Disk>>,
}

/// A file system of a given size, in memory, that only those see who enter it.
///
/// It lives in a user and mount namespace of its own, which needs no privilege, and goes away with the process
/// that holds it. Nodes that are killed and started again find what they wrote.
#[derive(Debug)]
pub struct Disk {
    holder: Holder,
    namespaces: [(OwnedFd, LinkNameSpaceType); 2],
    place: PathBuf,
}

/// Waits in the namespaces until its standard input ends, and then ends too.
#[derive(Debug)]
struct Holder(Child);

impl Surroundings {
    /// The usual ones with this variable set.
    #[must_use]
    pub fn with_variable(name: &'static str, value: &str) -> Self {
        Self { environment: vec![(name, value.to_owned())], disk: None }
    }

    /// The usual ones with this disk.
    #[must_use]
    pub fn on(disk: &Arc<Disk>) -> Self {
        Self { environment: Vec::new(), disk: Some(disk.clone()) }
    }

    pub(crate) fn enter(&self, command: &mut Command) {
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(disk) = &self.disk {
            disk.enter(command);
        }
    }
}

impl Disk {
    /// Makes a disk of `bytes` at `place`, an empty directory.
    ///
    /// # Errors
    /// The system does not allow namespaces; says what it said. Tests that need a disk are skipped then.
    ///
    /// # Panics
    /// The namespaces are there and cannot be opened.
    pub fn mount(place: &Path, bytes: u64) -> Result<Arc<Self>, String> {
        let script =
            format!("mount -t tmpfs -o size={bytes} tmpfs \"$0\" && echo mounted && exec cat > /dev/null");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).arg(place);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().map_err(|error| format!("unshare cannot be run: {error}"))?;
        let mut said = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut said).expect("a child's pipe can be read");
        if said.trim() != "mounted" {
            let output = child.wait_with_output().expect("it is ours");
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let open = |name| -> OwnedFd {
            let path = format!("/proc/{}/ns/{name}", child.id());
            File::open(path).expect("namespaces of a child can be opened").into()
        };
        let namespaces = [(open("user"), LinkNameSpaceType::User), (open("mnt"), LinkNameSpaceType::Mount)];
        Ok(Arc::new(Self { holder: Holder(child), namespaces, place: place.to_owned() }))
    }

    /// The disk as the test sees it, which has not entered it.
    ///
    /// # Panics
    /// The place is no absolute path.
    #[must_use]
    pub fn outside(&self) -> PathBuf {
        let place = self.place.strip_prefix("/").expect("temporary directories have absolute paths");
        PathBuf::from(format!("/proc/{}/root", self.holder.0.id())).join(place)
    }

    /// Makes it read-only, or writable again. Nobody may have a file of it open for writing.
    ///
    /// # Panics
    /// The system refuses.
    pub fn set_read_only(&self, is_read_only: bool) {
        let mode = if is_read_only { "remount,ro" } else { "remount,rw" };
        let mut command = Command::new("mount");
        command.args(["-o", mode]).arg(&self.place);
        self.enter(&mut command);
        let output = command.output().expect("mount runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes `command` start its process on this disk.
    fn enter(&self, command: &mut Command) {
        let namespaces: Vec<(OwnedFd, LinkNameSpaceType)> = self
            .namespaces
            .iter()
            .map(|(fd, kind)| (fd.try_clone().expect("there are descriptors left"), *kind))
            .collect();
        let enter = move || {
            for (namespace, kind) in &namespaces {
                move_into_link_name_space(namespace.as_fd(), Some(*kind))?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes two system calls, `setns`, which are safe there; it neither
        // allocates nor locks. The descriptors live as long as the closure.
        unsafe { command.pre_exec(enter) };
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail only if it has gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

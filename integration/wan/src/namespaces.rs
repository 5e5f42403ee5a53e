//! Two network namespaces, the sites of the packet form.
//!
//! Nothing but system calls is needed: no `ip`, no `tc`, no kernel modules but `tun`. Root may do all this;
//! others may inside a user namespace of their own, see [`enter_user_namespace`].

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{getegid, geteuid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::tun::{create_device, host_drops};
use crate::{Side, WanError};

/// The two sites. They exist until this and every process and socket in them are gone.
#[derive(Debug)]
pub struct Namespaces {
    sites: [Site; 2],
}

/// Packets that were dropped by the host and not by the model: the emulator, or a receiver, was too slow.
/// Figures of a run in which they are not zero are figures of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostDrops {
    /// Sent by the site and dropped before the emulator read them.
    pub sent: u64,
    /// Dropped after the emulator had delivered them to the site, before they reached a socket's buffer.
    pub received: u64,
}

#[derive(Debug)]
struct Site {
    namespace: OwnedFd,
    device: OwnedFd,
}

impl Namespaces {
    /// Creates the sites. Each has a loopback device and one TUN device, and reaches nothing else.
    ///
    /// # Errors
    ///
    /// [`WanError::NotAllowed`] says what the system refused and what would change that.
    pub fn create() -> Result<Self, WanError> {
        Ok(Self { sites: [Site::create(Side::A)?, Site::create(Side::B)?] })
    }

    /// Makes `command` start its process at a site.
    ///
    /// # Errors
    ///
    /// [`WanError::System`] if the process is out of descriptors.
    pub fn enter_command(&self, command: &mut Command, side: Side) -> Result<(), WanError> {
        let namespace = self
            .site(side)
            .namespace
            .try_clone()
            .map_err(WanError::system("preparing a process for an emulated site"))?;
        let enter = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes one system call, `setns`, which is safe there; it
        // neither allocates nor locks. The descriptor lives as long as the closure.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }

    /// Runs `work` on a thread of its own at a site, and waits for it. Sockets it creates stay at the site,
    /// whichever thread uses them later.
    ///
    /// # Errors
    ///
    /// [`WanError::System`] if the thread cannot be started or may not enter the site.
    ///
    /// # Panics
    ///
    /// If `work` does.
    pub fn within<T: Send>(&self, side: Side, work: impl FnOnce() -> T + Send) -> Result<T, WanError> {
        let namespace = self.site(side).namespace.as_fd();
        on_own_thread(|| {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
                .map_err(WanError::system("entering an emulated site"))?;
            Ok(work())
        })
    }

    /// What the host dropped at a site since its creation.
    ///
    /// # Errors
    ///
    /// [`WanError::System`] if the kernel's counters cannot be read.
    pub fn host_drops(&self, side: Side) -> Result<HostDrops, WanError> {
        let (received, sent) = self.within(side, host_drops)??;
        Ok(HostDrops { sent, received })
    }

    pub(crate) fn device(&self, side: Side) -> &OwnedFd {
        &self.site(side).device
    }

    fn site(&self, side: Side) -> &Site {
        let [a, b] = &self.sites;
        match side {
            Side::A => a,
            Side::B => b,
        }
    }
}

impl Site {
    fn create(side: Side) -> Result<Self, WanError> {
        on_own_thread(move || {
            // SAFETY: only the network namespace changes, and only that of this thread, which ends with
            // this closure; descriptors and memory stay shared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|error| WanError::NotAllowed {
                what: "a network namespace",
                source: error.into(),
                remedy: "run as root, or allow unprivileged user namespaces",
            })?;
            let namespace = File::open("/proc/thread-self/ns/net")
                .map_err(WanError::system("opening a network namespace"))?;
            let IpAddr::V4(address) = side.address() else {
                unreachable!("the sites have IPv4 addresses");
            };
            let device = create_device(address)?;
            allow_large_windows();
            Ok(Self { namespace: namespace.into(), device })
        })
    }
}

/// Whether [`Namespaces::create`] would work: tries it with one site and throws that away.
///
/// # Errors
///
/// The reason why not, with what would change it.
pub fn packet_form_available() -> Result<(), WanError> {
    Site::create(Side::A).map(drop)
}

/// Moves this process into a user namespace of its own, where it may create network namespaces without
/// being root. Its user and group appear as root in there, and have no more rights to files than before.
///
/// The kernel allows this only while the process has a single thread: call it first thing in `main`, and
/// only in commands that need the packet form. Processes started later inherit the namespace. Does nothing
/// for root.
///
/// # Errors
///
/// [`WanError::NotAllowed`] if the system has turned user namespaces off. The process is then as it was.
pub fn enter_user_namespace() -> Result<(), WanError> {
    let (user, group) = (geteuid(), getegid());
    if user.is_root() {
        return Ok(());
    }
    let remedy = "allow unprivileged user namespaces (sysctl user.max_user_namespaces, \
                  kernel.apparmor_restrict_unprivileged_userns), and call this before any thread starts";
    // SAFETY: only the user namespace changes; descriptors and memory stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(|error| WanError::NotAllowed {
        what: "a user namespace",
        source: error.into(),
        remedy,
    })?;
    let entries = [
        // Without this an unprivileged process may not map its group: it could shed a group that denies
        // it something (user_namespaces(7)).
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {} 1", user.as_raw())),
        ("/proc/self/gid_map", format!("0 {} 1", group.as_raw())),
    ];
    for (path, entry) in entries {
        std::fs::write(path, entry).map_err(|source| WanError::NotAllowed {
            what: "to map its user into a user namespace",
            source,
            remedy,
        })?;
    }
    Ok(())
}

/// Lets TCP at the site fill a long fat pipe: 64 MiB of window carry 2.6 Gbit/s over 200 ms. The system's
/// own limits would make a slow link of any transport that relies on them. It is a matter of tuning, so a
/// system that refuses keeps its limits.
fn allow_large_windows() {
    for (path, sizes) in [
        ("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 67108864"),
        ("/proc/sys/net/ipv4/tcp_wmem", "4096 65536 67108864"),
    ] {
        if let Err(error) = std::fs::write(path, sizes) {
            tracing::debug!(path, %error, "TCP windows of an emulated site stay at the system's limits");
        }
    }
}

/// Runs `work` on a new thread, because what it does to its thread must not happen to the caller's.
fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, WanError> + Send) -> Result<T, WanError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("wan-site".into())
            .spawn_scoped(scope, work)
            .map_err(WanError::system("starting a thread for an emulated site"))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

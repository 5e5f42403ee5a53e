//! Two hosts on an Ethernet of a test's own: a TAP device in each of two network namespaces; the test is the cable.
//!
//! It exists for the one thing that loopback and the link emulator's TUN devices cannot show: a kernel that holds
//! packets back. They have no neighbours to resolve, and let go of a packet the moment it is sent.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// The host that this thread is.
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The other host.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// The hosts and the cable.
pub(crate) struct Ethernet {
    near: File,
    far: File,
    far_namespace: File,
    /// Whether the cable carries ARP. Without it a host that is forgotten cannot be found again.
    pub(crate) carries_arp: bool,
}

/// Runs `body` in a process with a network namespace of its own, where this thread is the near host.
///
/// Only a process of one thread may do that without being root, so this starts the test binary again with nothing
/// but `test`, which must be the caller's full name: there the caller gets here again, and `body` runs.
///
/// Where the system does not allow it the test is skipped, and says so past the harness, which swallows what a test
/// that passes prints.
///
/// # Panics
/// If `body` does; if the test would be skipped and `PARHELION_SKIP_NOTHING` is `1`.
pub(crate) fn run_apart(test: &str, body: impl FnOnce(Ethernet)) {
    if std::env::var_os(APART).is_some() {
        return match Ethernet::lay() {
            Ok(ethernet) => body(ethernet),
            Err(reason) => skip(test, &reason),
        };
    }
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--net").arg(std::env::current_exe().unwrap()).args(["--exact", test]).env(APART, "1");
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return skip(test, &format!("unshare(1) cannot be run: {error}")),
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(UNSHARE_FAILED) && !out.contains("running") {
        return skip(test, err.trim());
    }
    let passed = output.status.success() && out.contains("1 passed");
    assert!(passed, "{test} apart: {}\n{out}\n{err}", output.status);
    // It may have been skipped there.
    let _ = io::stderr().write_all(&output.stderr);
}

impl Ethernet {
    /// Connects this thread's network namespace, which must be new, with another one.
    fn lay() -> Result<Self, String> {
        let near = plug_in(NEAR).map_err(|error| {
            format!(
                "no TAP device: {error}; load the tun module and let this user read and write /dev/net/tun"
            )
        })?;
        let far = on_own_thread(|| {
            // SAFETY: only the network namespace changes, and only that of this thread, which ends with this closure;
            // descriptors and memory stay shared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            Ok((plug_in(FAR)?, File::open("/proc/thread-self/ns/net")?))
        });
        let (far, far_namespace) =
            far.map_err(|error: io::Error| format!("no second network namespace: {error}"))?;
        Ok(Self { near, far, far_namespace, carries_arp: true })
    }

    /// Runs `work` at the far host. Sockets that it makes stay there.
    pub(crate) fn at_far<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_own_thread(|| {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(self.far_namespace.as_fd(), network).unwrap();
            work()
        })
    }

    /// Carries all frames that wait, both ways; how many UDP packets the near host has sent.
    pub(crate) fn carry(&self) -> usize {
        let mut packets = 0;
        self.carry_frames(&self.near, &self.far, |frame| packets += usize::from(is_udp(frame)));
        self.carry_frames(&self.far, &self.near, |_| {});
        packets
    }

    /// Makes the near host forget where the far one is.
    pub(crate) fn forget_far(&self) {
        // SAFETY: `arpreq` is plain data for which all zeroes is a value.
        let mut request: libc::arpreq = unsafe { std::mem::zeroed() };
        request.arp_pa = socket_address(FAR);
        for (to, from) in request.arp_dev.iter_mut().zip(DEVICE.bytes()) {
            *to = from as libc::c_char;
        }
        let socket = UdpSocket::bind((NEAR, 0)).unwrap();
        // SAFETY: SIOCDARP reads one `arpreq`, which `request` is, and the socket is open.
        answer(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCDARP, &raw mut request) }).unwrap();
    }

    fn carry_frames(&self, mut from: &File, mut to: &File, mut note: impl FnMut(&[u8])) {
        let mut buffer = [0; FRAME_BYTES_MAX];
        loop {
            let frame = match from.read(&mut buffer) {
                Ok(bytes) => &buffer[..bytes],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("reading from a TAP device: {error}"),
            };
            note(frame);
            if self.carries_arp || ether_type(frame) != libc::ETH_P_ARP {
                assert_eq!(to.write(frame).unwrap(), frame.len());
            }
        }
    }
}

/// Creates a TAP device with `address` in this thread's network namespace, and brings it and the loopback device up:
/// by that one the kernel tells a socket that a neighbour cannot be found.
fn plug_in(address: Ipv4Addr) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let device = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun")?;
    let mut request = interface(DEVICE);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is, and the device is open.
    answer(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let set = |name, what: libc::Ioctl, fill: &dyn Fn(&mut libc::ifreq)| {
        let mut request = interface(name);
        fill(&mut request);
        // SAFETY: the requests below read one `ifreq`, which `request` is, and the socket is open.
        answer(unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut request) })
    };
    let mask = Ipv4Addr::new(255, 255, 255, 0);
    set(DEVICE, libc::SIOCSIFADDR, &|request| request.ifr_ifru.ifru_addr = socket_address(address))?;
    set(DEVICE, libc::SIOCSIFNETMASK, &|request| request.ifr_ifru.ifru_netmask = socket_address(mask))?;
    for name in ["lo", DEVICE] {
        set(name, libc::SIOCSIFFLAGS, &|request| {
            request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        })?;
    }
    Ok(device)
}

fn interface(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// A `sockaddr_in` without a port: port in bytes 0 and 1, address in 2 to 5.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().skip(2).zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

/// The kind of an Ethernet frame.
fn ether_type(frame: &[u8]) -> libc::c_int {
    frame.get(12..14).map_or(0, |kind| libc::c_int::from(kind[0]) << 8 | libc::c_int::from(kind[1]))
}

/// Whether an Ethernet frame holds UDP over IPv4; the protocol is byte 9 of the IP header.
fn is_udp(frame: &[u8]) -> bool {
    let protocol = frame.get(14 + 9).map(|protocol| libc::c_int::from(*protocol));
    ether_type(frame) == libc::ETH_P_IP && protocol == Some(libc::IPPROTO_UDP)
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn answer(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn skip(test: &str, reason: &str) {
    let is_failure = std::env::var_os("PARHELION_SKIP_NOTHING").is_some_and(|value| value == "1");
    assert!(!is_failure, "not to be skipped, as PARHELION_SKIP_NOTHING is 1: {reason}");
    // Only `println` and `eprintln` are captured. Where standard error is closed nobody reads it.
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {reason}");
}

/// Set for the process that [`run_apart`] starts.
const APART: &str = "PARHELION_LINK_TEST_APART";
/// The exit code of unshare(1) when the system refuses; a test that fails ends with 101.
const UNSHARE_FAILED: i32 = 1;
const DEVICE: &str = "tap0";
/// Above what a TAP device of the usual MTU has.
const FRAME_BYTES_MAX: usize = 2048;

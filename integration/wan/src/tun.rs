//! A TUN device: the only network interface of an emulated site besides its loopback.

use std::fs::OpenOptions;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};

use crate::WanError;

/// The largest IP packet that crosses the link, as on Ethernet.
pub const MTU_BYTES: usize = 1500;

/// Creates the TUN device of a site in the calling thread's network namespace, with `address` in a /24,
/// and brings it and the loopback device up. Reads and writes of the result are whole IP packets and never
/// block.
pub(crate) fn create_device(address: Ipv4Addr) -> Result<OwnedFd, WanError> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(TUN_PATH)
        .map_err(|source| WanError::NotAllowed {
            what: "to open /dev/net/tun",
            source,
            remedy: "load the tun module and let this user read and write the device",
        })?;
    let mut request = interface(DEVICE_NAME);
    // Both flags are below 2^15.
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is, and the descriptor is open.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &mut request) };
    answer(result).map_err(|source| WanError::NotAllowed {
        what: "to create a TUN device",
        source,
        remedy: "run as root, or allow unprivileged user namespaces",
    })?;
    configure(address).map_err(WanError::system(format!("configuring the TUN device for {address}")))?;
    Ok(OwnedFd::from(device))
}

/// Packets the host itself dropped at the device, from the table the kernel keeps of the calling thread's
/// namespace: received from the link and dropped, sent towards the link and dropped.
pub(crate) fn host_drops() -> Result<(u64, u64), WanError> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")
        .map_err(WanError::system("reading the interface counters of a site"))?;
    parse_drops(&table).ok_or_else(|| WanError::System {
        doing: format!("finding {DEVICE_NAME} in the interface counters of a site"),
        source: io::ErrorKind::InvalidData.into(),
    })
}

/// Columns after the name: received bytes, packets, errors, drops, 4 more; sent bytes, packets, errors,
/// drops, ...
fn parse_drops(table: &str) -> Option<(u64, u64)> {
    let columns =
        table.lines().find_map(|line| line.trim_start().strip_prefix(DEVICE_NAME)?.strip_prefix(':'))?;
    let mut columns = columns.split_ascii_whitespace().map(str::parse::<u64>);
    let received = columns.nth(3)?.ok()?;
    let sent = columns.nth(7)?.ok()?;
    Some((received, sent))
}

fn configure(address: Ipv4Addr) -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let set = |name: &str, request: libc::Ioctl, fill: &dyn Fn(&mut libc::ifreq)| {
        let mut argument = interface(name);
        fill(&mut argument);
        // SAFETY: all requests below read one `ifreq`, which `argument` is, and the socket is open.
        answer(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, &mut argument) })
    };
    let up = |argument: &mut libc::ifreq| argument.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    set("lo", libc::SIOCSIFFLAGS, &up)?;
    set(DEVICE_NAME, libc::SIOCSIFADDR, &|argument| argument.ifr_ifru.ifru_addr = ipv4(address))?;
    let mask = Ipv4Addr::new(255, 255, 255, 0);
    set(DEVICE_NAME, libc::SIOCSIFNETMASK, &|argument| argument.ifr_ifru.ifru_netmask = ipv4(mask))?;
    set(DEVICE_NAME, libc::SIOCSIFMTU, &|argument| argument.ifr_ifru.ifru_mtu = MTU_BYTES as libc::c_int)?;
    set_queue_length()?;
    set(DEVICE_NAME, libc::SIOCSIFFLAGS, &up)
}

/// Sets how many packets wait in the device. By netlink, because the older `SIOCSIFTXQLEN` wants the rights of
/// the machine's root, and a user namespace has only its own.
fn set_queue_length() -> io::Result<()> {
    let mut request = Vec::with_capacity(64);
    // struct nlmsghdr: length (below), type, flags, sequence, port of the kernel.
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&libc::RTM_NEWLINK.to_le_bytes());
    request.extend_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_le_bytes());
    request.extend_from_slice(&[0; 8]);
    // struct ifinfomsg: the interface is named by attribute, and no flag changes.
    request.extend_from_slice(&[0; 16]);
    let mut attribute = |kind: u16, value: &[u8]| {
        // Both values are shorter than ten bytes.
        request.extend_from_slice(&(4 + value.len() as u16).to_le_bytes());
        request.extend_from_slice(&kind.to_le_bytes());
        request.extend_from_slice(value);
        request.resize(request.len().next_multiple_of(4), 0);
    };
    attribute(libc::IFLA_IFNAME, format!("{DEVICE_NAME}\0").as_bytes());
    attribute(libc::IFLA_TXQLEN, &QUEUE_PACKETS.to_le_bytes());
    let length = (request.len() as u32).to_le_bytes();
    request.iter_mut().zip(length).for_each(|(to, from)| *to = from);

    // The protocol left out is number 0, NETLINK_ROUTE.
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 512];
    let (_, length) = recv(&socket, &mut answer, RecvFlags::empty())?;
    // struct nlmsgerr after the header: zero, or the error number, negative.
    match answer.get(..length).and_then(|answer| answer.get(16..20)?.try_into().ok()).map(i32::from_le_bytes)
    {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

// Netlink speaks the host's byte order, and this project runs on little-endian hosts only.
const _: () = assert!(cfg!(target_endian = "little"));

fn interface(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// A `sockaddr_in` without a port: port in bytes 0 and 1, address in 2 to 5, both in network order.
fn ipv4(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().skip(2).zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

fn answer(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const TUN_PATH: &str = "/dev/net/tun";

const DEVICE_NAME: &str = "wan0";

/// Packets that wait in the device for the emulator to read them. At 1 Gbit/s the emulator may be off the
/// processor for a quarter of a second before the host drops one behind the model's back.
const QUEUE_PACKETS: u32 = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_table_is_read_by_column() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
             lo:       1       2    3    4    5     6          7         8        9      10   11   12    13     14       15          16\n  \
             wan0: 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36\n";
        assert_eq!(parse_drops(table), Some((24, 32)));
        assert_eq!(parse_drops("wan0: 1 2 3"), None);
        assert_eq!(parse_drops("wan00: 1 2 3 4 5 6 7 8 9 10 11 12"), None);
    }

    #[test]
    fn a_long_name_stays_terminated() {
        let request = interface(&"x".repeat(40));
        assert_eq!(request.ifr_name.last(), Some(&0));
    }
}

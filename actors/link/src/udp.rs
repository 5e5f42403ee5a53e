//! One UDP socket of a lane: segmentation offload both ways, a DSCP mark, and the kernel's own account of
//! what it still holds and what it dropped.
//!
//! Receiving is quinn-udp's. Sending is not: quinn-udp writes the whole traffic-class octet with each
//! packet and leaves no room for a DSCP mark, which the two lanes live by.

#[cfg(test)]
pub(crate) mod ethernet;

use std::io::{self, IoSliceMut};
use std::mem;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// DSCP mark of a lane, as the upper six bits of the traffic-class octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TrafficClass {
    /// Expedited forwarding (RFC 3246): the critical lane.
    Expedited = 46 << 2,
    /// Assured forwarding 11 (RFC 2597): the bulk lane.
    Assured = 10 << 2,
}

/// One packet, or several of one size, for one destination.
pub(crate) struct Packets<'a> {
    pub(crate) destination: SocketAddr,
    /// Address to send from, where the host has several.
    pub(crate) source: Option<IpAddr>,
    /// ECN codepoint, the lower two bits of the traffic-class octet.
    pub(crate) ecn: u8,
    pub(crate) contents: &'a [u8],
    /// Size of each packet but the last, if there are several.
    pub(crate) segment: Option<usize>,
}

/// The socket.
#[derive(Debug)]
pub(crate) struct Socket {
    io: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    class: TrafficClass,
    segments_max: AtomicUsize,
}

/// Buffers for received packets; one entry may hold many packets of one size (GRO).
pub(crate) struct ReceiveBuffers {
    bytes: Vec<u8>,
    pub(crate) metas: [RecvMeta; RECEIVE_BATCH],
}

/// Entries filled by one system call.
const RECEIVE_BATCH: usize = 8;
/// The kernel merges up to this many bytes into one entry.
const RECEIVE_ENTRY_BYTES: usize = 64 << 10;
/// Most segments the kernel cuts one send into (`UDP_MAX_SEGMENTS`), and most bytes of it.
const SEGMENTS_MAX: usize = 64;
const SEND_BYTES_MAX: usize = 65_507;
/// `SK_MEMINFO_DROPS` in `linux/sock_diag.h`; the libc crate does not have it.
const MEMINFO_DROPS: usize = 8;
const MEMINFO_WORDS: usize = 9;
/// Error reports read from the socket at one go.
const ERROR_REPORTS_MAX: usize = 32;

impl Socket {
    /// Binds a socket. Buffer sizes are in bytes; beyond the system's limits they are met only with
    /// CAP_NET_ADMIN, otherwise as far as the limits allow.
    pub(crate) fn bind(
        address: SocketAddr,
        class: TrafficClass,
        send_bytes: usize,
        receive_bytes: usize,
    ) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        let socket: UdpSocket = socket.into();
        let fd = socket.as_raw_fd();
        force_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, receive_bytes)?;
        force_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, send_bytes)?;
        // Without this the kernel reports success for packets that its own queueing discipline dropped.
        match address {
            SocketAddr::V4(_) => set_option(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?,
            SocketAddr::V6(_) => set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?,
        }
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let segments_max = AtomicUsize::new(state.max_gso_segments().min(SEGMENTS_MAX));
        // SAFETY: the `AsyncFd` owns the socket, whose descriptor stays open and the same until it is dropped.
        let io = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE | Interest::WRITABLE) }?;
        Ok(Self { io, state, class, segments_max })
    }

    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    /// Most packets of `bytes` bytes that one send may carry.
    pub(crate) fn segments_max(&self, bytes: usize) -> usize {
        self.segments_max.load(Ordering::Relaxed).min(SEND_BYTES_MAX / bytes.max(1)).max(1)
    }

    /// Sends `packets`; the number of system calls it took.
    ///
    /// # Errors
    /// As sendmsg(2). Nothing, or with several packets only some of the first, left the process.
    pub(crate) fn send(&self, packets: &Packets<'_>) -> io::Result<u64> {
        match self.send_message(packets) {
            Ok(()) => Ok(1),
            Err(error) if packets.segment.is_some() && offload_failed(&error) => {
                // The card cannot do it (quinn #1128): never ask again, and send these one by one.
                tracing::info!(%error, "segmentation offload does not work on this path; sending packets singly");
                self.segments_max.store(1, Ordering::Relaxed);
                let mut calls = 0;
                for contents in
                    packets.contents.chunks(packets.segment.unwrap_or(packets.contents.len()).max(1))
                {
                    self.send_message(&Packets { contents, segment: None, ..*packets })?;
                    calls += 1;
                }
                Ok(calls)
            }
            Err(error) => Err(error),
        }
    }

    /// Receives what is there; the number of entries of `buffers` that were filled.
    ///
    /// # Errors
    /// As recvmmsg(2); `WouldBlock` when there is nothing.
    pub(crate) fn receive(&self, buffers: &mut ReceiveBuffers) -> io::Result<usize> {
        let mut entries = buffers.bytes.chunks_exact_mut(RECEIVE_ENTRY_BYTES);
        let mut slices: [IoSliceMut<'_>; RECEIVE_BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(entries.next().unwrap_or_default()));
        self.io.try_io(Interest::READABLE, |socket| {
            self.state.recv(UdpSockRef::from(socket), &mut slices, &mut buffers.metas)
        })
    }

    /// Waits until there is something to receive. Dropping the future loses nothing.
    pub(crate) async fn readable(&self) {
        if self.io.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the kernel takes packets again. Dropping the future loses nothing.
    pub(crate) async fn writable(&self) {
        if self.io.writable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Bytes in the socket's send queue, as the kernel charges them: at least the payload (SIOCOUTQ).
    pub(crate) fn queued_bytes(&self) -> io::Result<u64> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: TIOCOUTQ (SIOCOUTQ) writes one int to its argument, which outlives the call.
        let result = unsafe { libc::ioctl(self.fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    /// Entries that the kernel dropped because the socket's receive queue was full, since it was bound.
    /// A merged entry counts once, so this is a lower bound on packets.
    pub(crate) fn kernel_drops(&self) -> u64 {
        let mut words = [0u32; MEMINFO_WORDS];
        let mut length = mem::size_of_val(&words) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `words`, and the length written to `length`.
        let result = unsafe {
            libc::getsockopt(
                self.fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                words.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let known = result == 0 && length as usize >= mem::size_of_val(&words);
        if known { u64::from(words[MEMINFO_DROPS]) } else { 0 }
    }

    /// Throws away the ICMP errors that the kernel queued for this socket, so that they do not pile up.
    pub(crate) fn discard_errors(&self) {
        let mut byte = [0u8; 1];
        for _ in 0..ERROR_REPORTS_MAX {
            // SAFETY: the kernel writes at most one byte to `byte`.
            let result = unsafe {
                libc::recv(
                    self.fd(),
                    byte.as_mut_ptr().cast(),
                    byte.len(),
                    libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
                )
            };
            if result < 0 {
                return;
            }
        }
    }

    fn send_message(&self, packets: &Packets<'_>) -> io::Result<()> {
        let name = socket2::SockAddr::from(packets.destination);
        let mut slice = libc::iovec {
            iov_base: packets.contents.as_ptr().cast_mut().cast(),
            iov_len: packets.contents.len(),
        };
        let mut control = ControlBuffer([0; CONTROL_BYTES]);
        // SAFETY: all-zero bytes are a valid `msghdr`: null pointers and zero lengths.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = name.as_ptr().cast_mut().cast();
        message.msg_namelen = name.len();
        message.msg_iov = &raw mut slice;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_BYTES as _;
        let used = self.write_control(packets, &message);
        message.msg_controllen = used as _;
        self.io.try_io(Interest::WRITABLE, |socket| {
            // SAFETY: every pointer in `message` refers to a local or to `packets`, both of which outlive
            // the call; sendmsg does not write through any of them.
            let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
            if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        })
    }

    /// Writes the control messages into the buffer that `message` names; the bytes used.
    fn write_control(&self, packets: &Packets<'_>, message: &libc::msghdr) -> usize {
        let mut writer = ControlWriter::new(message);
        let class = libc::c_int::from(self.class as u8 | (packets.ecn & 0b11));
        let is_v4 = match packets.destination.ip() {
            IpAddr::V4(_) => true,
            IpAddr::V6(ip) => ip.to_ipv4_mapped().is_some(),
        };
        if is_v4 {
            writer.push(libc::IPPROTO_IP, libc::IP_TOS, class);
        } else {
            writer.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, class);
        }
        if let Some(segment) = packets.segment.filter(|segment| *segment < packets.contents.len()) {
            writer.push(libc::SOL_UDP, libc::UDP_SEGMENT, u16::try_from(segment).unwrap_or(u16::MAX));
        }
        match packets.source {
            Some(IpAddr::V4(ip)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(ip).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                writer.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            Some(IpAddr::V6(ip)) => {
                let info =
                    libc::in6_pktinfo { ipi6_ifindex: 0, ipi6_addr: libc::in6_addr { s6_addr: ip.octets() } };
                writer.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
            None => {}
        }
        writer.used
    }

    fn fd(&self) -> RawFd {
        self.io.get_ref().as_raw_fd()
    }
}

impl ReceiveBuffers {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; RECEIVE_BATCH * RECEIVE_ENTRY_BYTES],
            metas: [RecvMeta::default(); RECEIVE_BATCH],
        }
    }

    /// The bytes of entry `index`, all its packets one behind the other.
    pub(crate) fn entry(&self, index: usize) -> &[u8] {
        let start = index * RECEIVE_ENTRY_BYTES;
        &self.bytes[start..start + self.metas[index].len.min(RECEIVE_ENTRY_BYTES)]
    }
}

/// Whether sendmsg failed in a way in which it fails where segmentation is not supported.
fn offload_failed(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL))
}

/// Sets a buffer size beyond the system's limit if this process may, else up to the limit.
fn force_buffer(fd: RawFd, forced: libc::c_int, plain: libc::c_int, bytes: usize) -> io::Result<()> {
    // The kernel doubles what it is asked for.
    let bytes = libc::c_int::try_from(bytes / 2).unwrap_or(libc::c_int::MAX / 2);
    set_option(fd, libc::SOL_SOCKET, forced, bytes)
        .or_else(|_| set_option(fd, libc::SOL_SOCKET, plain, bytes))
}

fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option value is one int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Room for three control messages: traffic class, segment size, source address.
const CONTROL_BYTES: usize = 96;

/// Control messages start with a `cmsghdr`, so the buffer is aligned as one.
#[repr(C, align(8))]
struct ControlBuffer([u8; CONTROL_BYTES]);
const _: () = assert!(mem::align_of::<ControlBuffer>() >= mem::align_of::<libc::cmsghdr>());

struct ControlWriter<'a> {
    message: &'a libc::msghdr,
    next: *mut libc::cmsghdr,
    used: usize,
}

impl<'a> ControlWriter<'a> {
    fn new(message: &'a libc::msghdr) -> Self {
        // SAFETY: `message` names a control buffer of `msg_controllen` bytes that starts aligned.
        let next = unsafe { libc::CMSG_FIRSTHDR(message) };
        Self { message, next, used: 0 }
    }

    fn push<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let bytes = mem::size_of::<T>() as libc::c_uint;
        // SAFETY: CMSG_SPACE only computes.
        let space = unsafe { libc::CMSG_SPACE(bytes) } as usize;
        debug_assert!(!self.next.is_null() && self.used + space <= CONTROL_BYTES, "control buffer too small");
        if self.next.is_null() || self.used + space > CONTROL_BYTES {
            return;
        }
        // SAFETY: `next` is an aligned header inside the control buffer, and the check above leaves room for
        // `space` bytes there: the header and the value, which is written unaligned. CMSG_NXTHDR stays
        // inside the buffer or returns null.
        unsafe {
            (*self.next).cmsg_level = level;
            (*self.next).cmsg_type = kind;
            (*self.next).cmsg_len = libc::CMSG_LEN(bytes) as _;
            libc::CMSG_DATA(self.next).cast::<T>().write_unaligned(value);
            self.next = libc::CMSG_NXTHDR(self.message, self.next);
        }
        self.used += space;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::ethernet::{FAR, NEAR, run_apart};
    use super::*;

    fn bind(address: &str, class: TrafficClass) -> Socket {
        Socket::bind(address.parse().unwrap(), class, 1 << 18, 1 << 20).unwrap()
    }

    async fn receive_all(socket: &Socket, bytes: usize) -> Vec<(usize, usize)> {
        let mut buffers = ReceiveBuffers::new();
        let mut got = Vec::new();
        while got.iter().map(|(length, _)| length).sum::<usize>() < bytes {
            tokio::time::timeout(Duration::from_secs(2), socket.readable()).await.unwrap();
            match socket.receive(&mut buffers) {
                Ok(count) => got.extend(buffers.metas[..count].iter().map(|meta| (meta.len, meta.stride))),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        got
    }

    /// The traffic-class octet of the next packet, as the receiving kernel saw it.
    fn received_class(socket: &UdpSocket, level: libc::c_int, option: libc::c_int, kind: libc::c_int) -> u8 {
        set_option(socket.as_raw_fd(), level, option, 1).unwrap();
        let sender_done = Duration::from_secs(2);
        socket.set_read_timeout(Some(sender_done)).unwrap();
        let mut payload = [0u8; 64];
        let mut slice = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
        let mut control = ControlBuffer([0; CONTROL_BYTES]);
        // SAFETY: as in `send_message`; here the kernel writes to the locals that the message names.
        unsafe {
            let mut message: libc::msghdr = mem::zeroed();
            message.msg_iov = &raw mut slice;
            message.msg_iovlen = 1;
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = CONTROL_BYTES as _;
            assert!(libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) > 0);
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            assert!(!header.is_null());
            assert_eq!((*header).cmsg_type, kind);
            *libc::CMSG_DATA(header)
        }
    }

    #[tokio::test]
    async fn every_packet_carries_the_mark_of_its_lane() {
        for class in [TrafficClass::Expedited, TrafficClass::Assured] {
            let v4 = UdpSocket::bind("127.0.0.1:0").unwrap();
            // The option must be on before the packet arrives; the first call only arms it.
            set_option(v4.as_raw_fd(), libc::IPPROTO_IP, libc::IP_RECVTOS, 1).unwrap();
            let sender = bind("127.0.0.1:0", class);
            sender.writable().await;
            let packets = Packets {
                destination: v4.local_addr().unwrap(),
                source: None,
                ecn: 0b10,
                contents: b"mark",
                segment: None,
            };
            sender.send(&packets).unwrap();
            let octet = received_class(&v4, libc::IPPROTO_IP, libc::IP_RECVTOS, libc::IP_TOS);
            assert_eq!(octet, class as u8 | 0b10);
        }
        assert_eq!(TrafficClass::Expedited as u8, 0xb8);
        assert_eq!(TrafficClass::Assured as u8, 0x28);
    }

    #[tokio::test]
    async fn one_send_carries_many_packets() {
        let receiver = bind("127.0.0.1:0", TrafficClass::Assured);
        let sender = bind("127.0.0.1:0", TrafficClass::Assured);
        sender.writable().await;
        let contents = vec![7; 1200 * 7 + 100];
        let packets = Packets {
            destination: receiver.local_address().unwrap(),
            source: Some("127.0.0.1".parse().unwrap()),
            ecn: 0,
            contents: &contents,
            segment: Some(1200),
        };
        assert_eq!(sender.send(&packets).unwrap(), 1);
        let got = receive_all(&receiver, contents.len()).await;
        let packets: usize = got.iter().map(|(length, stride)| length.div_ceil(*stride)).sum();
        assert_eq!(packets, 8);
        assert_eq!(sender.queued_bytes().unwrap(), 0, "loopback keeps nothing");
    }

    #[test]
    fn packets_for_a_silent_neighbour_are_queued_until_the_kernel_drops_them() {
        let this = "udp::tests::packets_for_a_silent_neighbour_are_queued_until_the_kernel_drops_them";
        run_apart(this, |mut ethernet| {
            ethernet.carries_arp = false;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let sender = bind(&format!("{NEAR}:0"), TrafficClass::Assured);
                sender.writable().await;
                let destination = SocketAddr::from((FAR, 9));
                let contents = [0; 1200];
                let packets =
                    Packets { destination, source: None, ecn: 0, contents: &contents, segment: None };
                for sent in 1..=5 {
                    sender.send(&packets).unwrap();
                    let queued = sender.queued_bytes().unwrap();
                    assert!(queued >= sent * 1200, "{queued} bytes are queued of {sent} packets");
                }
                // The kernel asks for the neighbour three times, a second apart.
                let begin = Instant::now();
                while sender.queued_bytes().unwrap() > 0 {
                    assert!(begin.elapsed() < Duration::from_secs(20), "still queued");
                    assert_eq!(ethernet.carry(), 0, "a packet left for nowhere");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                assert!(begin.elapsed() > Duration::from_secs(1), "queued for {:?} only", begin.elapsed());
                // An empty queue is no proof: the kernel dropped them, and says so at the next send.
                assert_eq!(ethernet.carry(), 0);
                tokio::time::sleep(Duration::from_millis(20)).await;
                let error = sender.send(&packets).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
            });
        });
    }

    #[tokio::test]
    async fn a_full_receive_queue_is_counted() {
        let receiver =
            Socket::bind("127.0.0.1:0".parse().unwrap(), TrafficClass::Assured, 1 << 18, 16 << 10).unwrap();
        let sender = bind("127.0.0.1:0", TrafficClass::Assured);
        sender.writable().await;
        assert_eq!(receiver.kernel_drops(), 0);
        let contents = [0; 1200];
        for _ in 0..200 {
            let destination = receiver.local_address().unwrap();
            let packets = Packets { destination, source: None, ecn: 0, contents: &contents, segment: None };
            sender.send(&packets).unwrap();
        }
        assert!(receiver.kernel_drops() > 100, "{}", receiver.kernel_drops());
    }

    #[tokio::test]
    async fn an_unreachable_port_does_not_wedge_the_socket() {
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let receiver = bind("127.0.0.1:0", TrafficClass::Assured);
        let sender = bind("127.0.0.1:0", TrafficClass::Assured);
        sender.writable().await;
        let packets =
            |destination| Packets { destination, source: None, ecn: 0, contents: b"x", segment: None };
        let _ = sender.send(&packets(gone));
        // The refusal may surface at a later call; after it, and no later, sending works again.
        let to_receiver = packets(receiver.local_address().unwrap());
        if sender.send(&to_receiver).is_err() {
            sender.discard_errors();
            sender.send(&to_receiver).unwrap();
        }
        assert_eq!(receive_all(&receiver, 1).await.len(), 1);
    }
}

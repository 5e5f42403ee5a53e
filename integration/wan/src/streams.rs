//! How far the bytes of TCP connections came: what the sending host let out, and what reached the far side.
//!
//! After a disaster this tells apart what never left the host, what was lost on the way, and what arrived behind a
//! gap, which the receiving kernel holds and shows to nobody (SMFS section 5.3). Only headers are read.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// How far one direction of a TCP connection came. Bytes are counted from the first one after the SYN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpProgress {
    /// The sender.
    pub source: SocketAddr,
    /// The receiver.
    pub target: SocketAddr,
    /// Bytes before this one have left the sending host at least once; later ones have not.
    pub left: u64,
    /// Bytes that reached the far side: first one, and the one after the last, in order, neither touching nor overlapping.
    pub arrived: Vec<(u64, u64)>,
}

/// The connections of one direction.
#[derive(Debug, Default)]
pub(crate) struct TcpWatch {
    connections: HashMap<(SocketAddr, SocketAddr), Connection>,
}

#[derive(Debug)]
struct Connection {
    /// Sequence number of byte 0.
    first: u32,
    left: u64,
    arrived: Vec<(u64, u64)>,
    /// There were more gaps than are kept: nothing can be said.
    torn: bool,
}

impl TcpWatch {
    /// An IPv4 packet left the sending host.
    pub(crate) fn note_left(&mut self, packet: &[u8]) {
        let Some(segment) = Segment::of_ipv4(packet) else { return };
        let key = (segment.source, segment.target);
        let known = self.connections.contains_key(&key);
        if segment.syn || !known {
            if !known && self.connections.len() >= CONNECTIONS_MAX {
                return;
            }
            let first = segment.sequence.wrapping_add(u32::from(segment.syn));
            let fresh = Connection { first, left: 0, arrived: Vec::new(), torn: false };
            // A SYN that is sent again begins the connection that it began before.
            if self.connections.get(&key).is_none_or(|connection| connection.first != first) {
                self.connections.insert(key, fresh);
            }
        }
        if let Some(connection) = self.connections.get_mut(&key) {
            let (_, end) = connection.place(&segment);
            connection.left = connection.left.max(end);
        }
    }

    /// An IPv4 packet reached the far side.
    pub(crate) fn note_arrived(&mut self, packet: &[u8]) {
        let Some(segment) = Segment::of_ipv4(packet) else { return };
        if let Some(connection) = self.connections.get_mut(&(segment.source, segment.target)) {
            let (start, end) = connection.place(&segment);
            connection.arrive(start, end);
        }
    }

    /// All connections of which everything is known, those with the most bytes first.
    pub(crate) fn progress(&self) -> Vec<TcpProgress> {
        let whole = self.connections.iter().filter(|(_, connection)| !connection.torn);
        let mut all: Vec<TcpProgress> = whole
            .map(|(&(source, target), connection)| TcpProgress {
                source,
                target,
                left: connection.left,
                arrived: connection.arrived.clone(),
            })
            .collect();
        all.sort_by_key(|one| (std::cmp::Reverse(one.left), one.source, one.target));
        all
    }
}

impl Connection {
    /// First byte of a segment and the one after its last. Sequence numbers come round every 4 GiB; of the places
    /// that one may mean, it is the nearest to what was sent last.
    fn place(&self, segment: &Segment) -> (u64, u64) {
        let start = segment.sequence.wrapping_add(u32::from(segment.syn)).wrapping_sub(self.first);
        // The low half of `left` is meant: both count modulo 2^32.
        let ahead = start.wrapping_sub(self.left as u32).cast_signed();
        let start = self.left.saturating_add_signed(i64::from(ahead));
        (start, start + u64::from(segment.bytes))
    }

    fn arrive(&mut self, start: u64, end: u64) {
        if start >= end || self.torn {
            return;
        }
        if let Some(last) = self.arrived.last_mut()
            && last.1 == start
        {
            last.1 = end;
            return;
        }
        // Those before `from` end before the new range, those from `to` on begin after it; the others become one with it.
        let from = self.arrived.partition_point(|range| range.1 < start);
        let to = self.arrived.partition_point(|range| range.0 <= end);
        let merged = self.arrived.get(from..to).unwrap_or_default();
        let start = merged.first().map_or(start, |range| range.0.min(start));
        let end = merged.last().map_or(end, |range| range.1.max(end));
        self.arrived.splice(from..to, [(start, end)]);
        if self.arrived.len() > RANGES_MAX {
            self.torn = true;
            self.arrived = Vec::new();
        }
    }
}

/// Connections of one direction that are watched; a drill has one or two.
const CONNECTIONS_MAX: usize = 32;
/// Ranges kept of one connection: an answer of 32 connections then fits one line of the control channel.
const RANGES_MAX: usize = 1000;

/// What the headers of a TCP segment say.
#[derive(Debug)]
struct Segment {
    source: SocketAddr,
    target: SocketAddr,
    sequence: u32,
    syn: bool,
    bytes: u32,
}

// Headers of packets are in network byte order.
#[expect(clippy::big_endian_bytes, reason = "RFC 1700: the Internet's headers are big-endian")]
impl Segment {
    /// `None` for everything that is no whole TCP segment.
    fn of_ipv4(packet: &[u8]) -> Option<Self> {
        let (ip, _) = packet.split_first_chunk::<20>()?;
        let header_bytes = usize::from(ip[0] & 0xf) * 4;
        let total_bytes = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        // Later fragments have no TCP header, and first ones not all of their segment.
        let fragment = u16::from_be_bytes([ip[6], ip[7]]) & !DO_NOT_FRAGMENT != 0;
        if ip[0] >> 4 != 4 || ip[9] != TCP || fragment {
            return None;
        }
        let segment = packet.get(header_bytes..total_bytes)?;
        let (tcp, _) = segment.split_first_chunk::<20>()?;
        let address = |at: [u8; 4], port: [u8; 2]| {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::from(at)), u16::from_be_bytes(port))
        };
        let payload = segment.get(usize::from(tcp[12] >> 4) * 4..)?;
        Some(Self {
            source: address([ip[12], ip[13], ip[14], ip[15]], [tcp[0], tcp[1]]),
            target: address([ip[16], ip[17], ip[18], ip[19]], [tcp[2], tcp[3]]),
            sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            syn: tcp[13] & SYN != 0,
            bytes: u32::try_from(payload.len()).ok()?,
        })
    }
}

const TCP: u8 = 6;
const SYN: u8 = 2;
const DO_NOT_FRAGMENT: u16 = 0x4000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A segment of site A to port 9 of site B.
    #[expect(clippy::big_endian_bytes, reason = "RFC 1700: the Internet's headers are big-endian")]
    fn packet(sequence: u32, syn: bool, payload: usize) -> Vec<u8> {
        let mut packet = vec![0; 40 + payload];
        packet[0] = 0x45;
        let length = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[6..8].copy_from_slice(&DO_NOT_FRAGMENT.to_be_bytes());
        packet[9] = TCP;
        packet[12..20].copy_from_slice(&[10, 77, 0, 1, 10, 77, 0, 2]);
        packet[20..24].copy_from_slice(&[0x80, 0, 0, 9]);
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        packet[32] = 5 << 4;
        packet[33] = if syn { SYN } else { 0x10 };
        packet
    }

    fn only(watch: &TcpWatch) -> TcpProgress {
        let mut all = watch.progress();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn what_left_and_what_arrived_is_counted_across_the_turn_of_sequence_numbers() {
        let mut watch = TcpWatch::default();
        let first = u32::MAX - 1500;
        let syn = packet(first.wrapping_sub(1), true, 0);
        watch.note_left(&syn);
        watch.note_arrived(&syn);
        for number in 0..4 {
            let segment = packet(first.wrapping_add(number * 1000), false, 1000);
            watch.note_left(&segment);
            if number != 1 {
                watch.note_arrived(&segment);
            }
        }
        let seen = only(&watch);
        assert_eq!((seen.source.port(), seen.target.port()), (0x8000, 9));
        assert_eq!((seen.left, seen.arrived), (4000, vec![(0, 1000), (2000, 4000)]));
        // A part of it is sent again, and the SYN late.
        watch.note_left(&syn);
        watch.note_left(&packet(first.wrapping_add(1000), false, 600));
        watch.note_arrived(&packet(first.wrapping_add(1000), false, 600));
        let seen = only(&watch);
        assert_eq!((seen.left, seen.arrived), (4000, vec![(0, 1600), (2000, 4000)]));
        // Acknowledgements have no bytes.
        watch.note_left(&packet(first.wrapping_add(4000), false, 0));
        watch.note_arrived(&packet(first.wrapping_add(4000), false, 0));
        assert_eq!(only(&watch).arrived.len(), 2);
        // Another connection of the same ports.
        watch.note_left(&packet(77, true, 0));
        assert_eq!((only(&watch).left, only(&watch).arrived), (0, Vec::new()));
    }

    #[test]
    fn more_gaps_than_are_kept_are_not_half_known() {
        let mut watch = TcpWatch::default();
        for number in 0..=2 * u32::try_from(RANGES_MAX).unwrap() {
            let segment = packet(number * 10, false, 10);
            watch.note_left(&segment);
            if number % 2 == 0 {
                watch.note_arrived(&segment);
            }
        }
        assert_eq!(watch.progress(), []);
    }

    proptest! {
        #[test]
        fn ranges_are_those_of_a_set_of_bytes(segments in prop::collection::vec((0u16..400, 0u16..50), 0..60)) {
            let mut watch = TcpWatch::default();
            watch.note_left(&packet(u32::MAX, true, 0));
            let mut bytes = vec![false; 500];
            for (start, length) in segments {
                let segment = packet(u32::from(start), false, usize::from(length));
                watch.note_left(&segment);
                watch.note_arrived(&segment);
                bytes[usize::from(start)..usize::from(start + length)].fill(true);
            }
            let seen = only(&watch);
            let end = bytes.iter().rposition(|arrived| *arrived).map_or(0, |last| last as u64 + 1);
            prop_assert!(seen.left >= end);
            for pair in seen.arrived.windows(2) {
                prop_assert!(pair[0].1 < pair[1].0);
            }
            for (at, arrived) in bytes.iter().enumerate() {
                let known = seen.arrived.iter().any(|range| (range.0..range.1).contains(&(at as u64)));
                prop_assert_eq!(known, *arrived, "byte {}", at);
            }
        }

        #[test]
        fn any_bytes_are_survived(packet in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut watch = TcpWatch::default();
            watch.note_left(&packet);
            watch.note_arrived(&packet);
            let tcp = [&[0x45, 0, 0, 80, 0, 0, 0, 0, 9, 6], &packet[..]].concat();
            watch.note_left(&tcp);
            watch.note_arrived(&tcp);
            prop_assert!(watch.progress().len() <= 2);
        }
    }
}

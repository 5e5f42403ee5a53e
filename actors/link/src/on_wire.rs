//! Which datagrams have really left this host.
//!
//! A datagram passes four points, always in the order in which it was handed over:
//!
//! ```text
//! handed ──► packed ──────► accepted ───────► left
//! to quinn   in a packet    by sendmsg(2)     the socket's send queue, so by the network card
//! ```
//!
//! Invariants: `left <= accepted <= packed <= handed`, and none of them ever falls. What a crash of this
//! host cannot take back is only what lies below `left` (`targets.md`, trap 5: SMFS section 5.3 counts
//! data in a kernel buffer as lost).

use std::collections::VecDeque;
use std::time::Duration;

use parhelion_types::Time;

/// Follows the datagrams of one connection, by position, from 0.
#[derive(Debug, Default)]
pub(crate) struct OnWire {
    handed: u64,
    packed: u64,
    left: u64,
    /// Sends that the kernel accepted and may still hold.
    accepted: VecDeque<Accepted>,
    bytes: u64,
    lag: Duration,
}

/// One send.
#[derive(Debug)]
struct Accepted {
    /// Datagrams packed by then.
    datagrams: u64,
    /// UDP payload bytes accepted by then.
    bytes: u64,
    at: Time,
}

impl OnWire {
    /// One more datagram was handed to quinn.
    pub(crate) fn hand_over(&mut self) {
        self.handed += 1;
    }

    /// Quinn has put `frames` datagrams into packets since the connection began.
    pub(crate) fn set_packed(&mut self, frames: u64) {
        self.packed = frames.min(self.handed);
    }

    /// The kernel took `bytes` of UDP payload, and with them every packet made so far.
    pub(crate) fn accept(&mut self, now: Time, bytes: usize) {
        self.bytes += bytes as u64;
        match self.accepted.back_mut() {
            // Packets without datagrams only add to the bytes that must drain.
            Some(last) if last.datagrams == self.packed => last.bytes = self.bytes,
            _ => self.accepted.push_back(Accepted { datagrams: self.packed, bytes: self.bytes, at: now }),
        }
    }

    /// The socket's send queue holds `queued` bytes now, as the kernel charges them.
    ///
    /// The kernel charges a packet more than its payload and drains the queue in order, so whatever lies
    /// more than `queued` payload bytes back has left, even when the queue is never seen empty.
    pub(crate) fn drain(&mut self, now: Time, queued: u64) {
        let gone = self.bytes.saturating_sub(queued);
        while let Some(send) = self.accepted.pop_front_if(|send| send.bytes <= gone) {
            self.left = self.left.max(send.datagrams);
            self.lag = now.since(send.at);
        }
    }

    /// Datagrams that have left the host: all below this position.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// How long the kernel held the newest send that has left.
    pub(crate) fn lag(&self) -> Duration {
        self.lag
    }

    /// Whether quinn holds none of the datagrams back.
    pub(crate) fn is_packed(&self) -> bool {
        self.packed == self.handed
    }

    /// Whether the kernel may hold some.
    pub(crate) fn is_draining(&self) -> bool {
        !self.accepted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_counts_only_after_all_three_stages() {
        let mut wire = OnWire::default();
        wire.hand_over();
        wire.hand_over();
        wire.drain(Time::ZERO, 0);
        assert_eq!(wire.left(), 0, "still in quinn");
        wire.set_packed(1);
        assert!(!wire.is_packed());
        wire.drain(Time::ZERO, 0);
        assert_eq!(wire.left(), 0, "packed, but not sent");
        wire.accept(Time::ZERO, 1200);
        wire.drain(Time::ZERO, 4000);
        assert_eq!(wire.left(), 0, "still in the kernel");
        assert!(wire.is_draining());
        wire.drain(Time::ZERO, 0);
        assert_eq!(wire.left(), 1);
        assert!(!wire.is_draining());
    }

    #[test]
    fn a_queue_that_is_never_empty_still_drains() {
        let mut wire = OnWire::default();
        for sent in 1..=100u64 {
            wire.hand_over();
            wire.set_packed(sent);
            wire.accept(Time::ZERO, 1000);
            // The kernel holds the three newest packets and charges each at more than its payload.
            wire.drain(Time::ZERO, 3 * 1800);
            assert!(wire.left() <= sent.saturating_sub(3), "claims what is still queued");
            assert!(wire.left() >= sent.saturating_sub(6), "lags more than the charge explains");
        }
    }

    #[test]
    fn a_packet_without_datagrams_delays_but_never_advances() {
        let mut wire = OnWire::default();
        wire.hand_over();
        wire.set_packed(1);
        wire.accept(Time::ZERO, 1000);
        wire.accept(Time::ZERO, 50);
        wire.drain(Time::ZERO, 50);
        assert_eq!(wire.left(), 0);
        wire.drain(Time::ZERO, 49);
        assert_eq!(wire.left(), 0);
        wire.drain(Time::ZERO, 0);
        assert_eq!(wire.left(), 1);
    }
}

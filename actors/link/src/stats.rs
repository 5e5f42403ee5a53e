//! What a driver does, in figures that status and metrics may read at any time.

use std::sync::atomic::{AtomicU64, Ordering};

use parhelion_wire::link::ChannelCountsV1;

use crate::lane::Sent;

/// Classes of loss bursts by length, each twice as long as the one before.
pub const LOSS_BURST_CLASSES: usize = 16;

macro_rules! figures {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Figures of one driver since it was started. Written by the driver's thread alone.
        #[derive(Debug, Default)]
        pub struct LinkStats {
            $($(#[$doc])* pub $name: Figure,)*
            /// Loss bursts of the bulk lane, before repair: at index `k` those of `2^k` to `2^(k+1) - 1` datagrams.
            pub loss_bursts: [Figure; LOSS_BURST_CLASSES],
        }

        impl LinkStats {
            /// Names and values of all figures but the loss bursts, in order of declaration.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get())),*]
            }
        }
    };
}

figures! {
    /// Sessions that came up.
    sessions,
    /// 1 while a session is up, else 0.
    up,
    /// Bulk datagrams sent, of all kinds.
    datagrams_sent,
    /// Bytes of those, without QUIC, UDP and IP.
    datagram_bytes_sent,
    /// Of the datagrams sent, source symbols sent for the first time.
    source_sent,
    /// Bytes of those.
    source_bytes_sent,
    /// Of the datagrams sent, repairs.
    repairs_sent,
    /// Bytes of those.
    repair_bytes_sent,
    /// Of the datagrams sent, source symbols sent again.
    resent,
    /// Bytes of those.
    resent_bytes,
    /// Bulk datagrams received, of all kinds.
    datagrams_received,
    /// Bytes of those.
    datagram_bytes_received,
    /// System calls that sent bulk packets; one carries up to a burst.
    bulk_sends,
    /// System calls that sent packets of the critical lane.
    critical_sends,
    /// Packets of the critical lane that the kernel took, QUIC's own included.
    critical_sent,
    /// Bytes of those, without UDP and IP.
    critical_bytes_sent,
    /// Bulk datagrams that were lost on the wire, before repair: counted by the mirror, told to the primary.
    datagrams_lost,
    /// Source symbols that the mirror rebuilt.
    symbols_rebuilt,
    /// Codes that broke, at either end, so that the link went on with the fallback.
    code_faults,
    /// Source symbols that reached the mirror after it had given them up or rebuilt them.
    symbols_late,
    /// Announcements sent, each counted once.
    announcements_sent,
    /// Announcements received, copies included.
    announcements_received,
    /// Reports sent or received.
    reports,
    /// Records handed to the link, or delivered by it.
    records,
    /// Bytes of those.
    record_bytes,
    /// Commands discarded because no session was up; what they carried is sent in the next session.
    commands_discarded,
    /// Packets or datagrams dropped by this host after they had arrived.
    host_drops,
    /// Datagrams and messages from the peer that were malformed or belonged to another session.
    rejected,
    /// Round-trip time of the critical lane, microseconds.
    rtt_micros,
    /// How long the kernel held the newest bulk packets before they left, microseconds.
    wire_lag_micros,
    /// Times that partial groups of the code were flushed.
    flushes,
    /// Bytes of records that wait for the mirror's confirmation.
    buffered_bytes,
}

impl LinkStats {
    pub(crate) fn add_critical(&self, sent: Sent) {
        self.critical_sent.add(sent.packets);
        self.critical_bytes_sent.add(sent.bytes);
    }
}

/// One figure.
#[derive(Debug, Default)]
pub struct Figure(AtomicU64);

impl Figure {
    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, count: u64) {
        // One writer, so no read-modify-write instruction is needed.
        self.set(self.get().wrapping_add(count));
    }

    pub(crate) fn set_micros(&self, span: std::time::Duration) {
        self.set(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
    }
}

/// Adds the channel's counters, which begin anew with each session, to figures that go on.
#[derive(Debug, Default)]
pub(crate) struct ChannelTally {
    counted: ChannelCountsV1,
}

impl ChannelTally {
    /// Takes the counters of the session as they are now. What a peer tells may be anything: a counter that went back adds
    /// nothing.
    pub(crate) fn count(&mut self, stats: &LinkStats, now: &ChannelCountsV1) {
        let before = std::mem::replace(&mut self.counted, *now);
        stats.datagrams_lost.add(now.lost.saturating_sub(before.lost));
        stats.symbols_rebuilt.add(now.rebuilt.saturating_sub(before.rebuilt));
        stats.symbols_late.add(now.late.saturating_sub(before.late));
        for (figure, (now, before)) in stats.loss_bursts.iter().zip(now.runs.iter().zip(before.runs)) {
            figure.add(u64::from(now.saturating_sub(before)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_listed_by_name() {
        let stats = LinkStats::default();
        stats.repairs_sent.add(2);
        stats.repairs_sent.add(1);
        assert!(stats.all().contains(&("repairs_sent", 3)));
    }

    #[test]
    fn the_counters_of_sessions_add_up() {
        let stats = LinkStats::default();
        let counts = |lost, late, runs: [u32; 2]| {
            let mut counts = ChannelCountsV1 { lost, rebuilt: 2 * lost, late, ..Default::default() };
            counts.runs[..2].copy_from_slice(&runs);
            counts
        };
        let mut first = ChannelTally::default();
        first.count(&stats, &counts(3, 1, [1, 1]));
        first.count(&stats, &counts(5, 1, [3, 1]));
        first.count(&stats, &counts(4, 1, [3, 1]));
        ChannelTally::default().count(&stats, &counts(2, 1, [0, 1]));
        let lost_rebuilt_late = [&stats.datagrams_lost, &stats.symbols_rebuilt, &stats.symbols_late];
        assert_eq!(lost_rebuilt_late.map(Figure::get), [7, 14, 2]);
        assert_eq!([stats.loss_bursts[0].get(), stats.loss_bursts[1].get()], [3, 2]);
        assert_eq!(stats.loss_bursts[2].get(), 0);
    }
}

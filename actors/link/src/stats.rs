//! What a driver does, in figures that status and metrics may read at any time.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! figures {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Figures of one driver since it was started. Written by the driver's thread alone.
        #[derive(Debug, Default)]
        pub struct LinkStats {
            $($(#[$doc])* pub $name: Figure,)*
        }

        impl LinkStats {
            /// Names and values of all figures, in order of declaration.
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
    /// Of the datagrams sent, repairs.
    repairs_sent,
    /// Of the datagrams sent, source symbols sent again.
    resent,
    /// Bulk datagrams received, of all kinds.
    datagrams_received,
    /// Bytes of those.
    datagram_bytes_received,
    /// System calls that sent bulk packets; one carries up to a burst.
    bulk_sends,
    /// System calls that sent packets of the critical lane.
    critical_sends,
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
    /// Bytes of records that wait for the mirror's confirmation.
    buffered_bytes,
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
}

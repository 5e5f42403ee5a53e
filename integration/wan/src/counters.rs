//! What passed, what did not, and where it was lost. All plain data, sent from emulator to parent as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Class, Direction};

/// A number of packets and the bytes in them (whole IP packets).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the first byte of the IP header on.
    pub bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, bytes: u32) {
        self.packets += 1;
        self.bytes += u64::from(bytes);
    }

    pub(crate) fn remove(&mut self, bytes: u32) {
        self.packets -= 1;
        self.bytes -= u64::from(bytes);
    }
}

impl std::ops::Add for Tally {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, bytes: self.bytes + other.bytes }
    }
}

/// The fate of the packets of one class.
///
/// At any moment `offered + duplicated = delivered + lost + queue_dropped + cut_dropped + queued +
/// propagating`, in packets and in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCounters {
    /// Came to the link.
    pub offered: Tally,
    /// Left it at the far end, duplicates included.
    pub delivered: Tally,
    /// Second copies made on the way.
    pub duplicated: Tally,
    /// Lost on the fibre.
    pub lost: Tally,
    /// Dropped at the tail of the full bottleneck queue.
    pub queue_dropped: Tally,
    /// Dropped by the cut: in the queue at the cut, on the fibre if the cut took that too, or offered after.
    pub cut_dropped: Tally,
    /// In the bottleneck queue or being serialised now.
    pub queued: Tally,
    /// On the fibre now.
    pub propagating: Tally,
}

impl std::ops::Add for ClassCounters {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            offered: self.offered + other.offered,
            delivered: self.delivered + other.delivered,
            duplicated: self.duplicated + other.duplicated,
            lost: self.lost + other.lost,
            queue_dropped: self.queue_dropped + other.queue_dropped,
            cut_dropped: self.cut_dropped + other.cut_dropped,
            queued: self.queued + other.queued,
            propagating: self.propagating + other.propagating,
        }
    }
}

/// What a direction held at the moment it was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtCut {
    /// From this moment on nothing offered passes: nanoseconds on `CLOCK_MONOTONIC`.
    pub at_nanos: u64,
    /// In the bottleneck queue or not fully serialised: lost.
    pub queued: Tally,
    /// On the fibre. Delivered still, unless the cut took the fibre too.
    pub propagating: Tally,
}

/// Everything counted by the model of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCounters {
    /// The class served first.
    pub expedited: ClassCounters,
    /// Everything else.
    pub bulk: ClassCounters,
    /// Most bytes that waited in the bottleneck queue at once, both classes.
    pub queued_bytes_peak: u64,
    /// The first cut since the link began or was healed.
    pub at_cut: Option<AtCut>,
}

impl LinkCounters {
    /// The counters of one class.
    #[must_use]
    pub fn class(&self, class: Class) -> &ClassCounters {
        match class {
            Class::Expedited => &self.expedited,
            Class::Bulk => &self.bulk,
        }
    }

    pub(crate) fn class_mut(&mut self, class: Class) -> &mut ClassCounters {
        match class {
            Class::Expedited => &mut self.expedited,
            Class::Bulk => &mut self.bulk,
        }
    }

    /// Both classes together.
    #[must_use]
    pub fn total(&self) -> ClassCounters {
        self.expedited + self.bulk
    }
}

/// How well the emulator kept its own schedule. A drill whose emulator was late measured its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeliness {
    /// Packets handed on.
    pub deliveries: u64,
    /// Sum over all packets of how much later than due they were handed on.
    pub late_total_nanos: u64,
    /// The latest of them.
    pub late_max_nanos: u64,
    /// How many were more than [`Timeliness::LATE`] late.
    pub late: u64,
    /// Packets the host refused to take at the far end: lost, but not by the model.
    pub refused: u64,
    /// Packets that were not carried because the form does not know them (not IPv4), or has no room for
    /// another flow.
    pub foreign: u64,
}

impl Timeliness {
    /// What counts as late.
    pub const LATE: Duration = Duration::from_millis(1);

    /// Mean delay over the schedule.
    #[must_use]
    pub fn late_mean(&self) -> Duration {
        Duration::from_nanos(self.late_total_nanos / self.deliveries.max(1))
    }

    pub(crate) fn record(&mut self, lateness: Duration) {
        let nanos = u64::try_from(lateness.as_nanos()).unwrap_or(u64::MAX);
        self.deliveries += 1;
        self.late_total_nanos = self.late_total_nanos.saturating_add(nanos);
        self.late_max_nanos = self.late_max_nanos.max(nanos);
        self.late += u64::from(lateness > Self::LATE);
    }
}

/// One direction: the model's counters and the emulator's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionCounters {
    /// What the model did with the packets.
    pub link: LinkCounters,
    /// What the emulator's timing did to the model.
    pub timeliness: Timeliness,
}

/// A snapshot of both directions, taken one direction after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WanCounters {
    /// When it was taken: nanoseconds on `CLOCK_MONOTONIC`.
    pub at_nanos: u64,
    /// CPU time the emulator has used since its process started, user and system.
    pub cpu_nanos: u64,
    /// What site A sent.
    pub a_to_b: DirectionCounters,
    /// What site B sent.
    pub b_to_a: DirectionCounters,
}

impl WanCounters {
    /// One direction.
    #[must_use]
    pub fn direction(&self, direction: Direction) -> &DirectionCounters {
        match direction {
            Direction::AToB => &self.a_to_b,
            Direction::BToA => &self.b_to_a,
        }
    }
}

//! The simulated line: what a packet takes on it, and how far it is to the other site.

use std::time::Duration;

use parhelion_link::{ReceiverConfig, SenderConfig};
use parhelion_plugin::Structure;
use parhelion_wire::{REPAIR_HEADER_BYTES, SYMBOL_PREFIX_BYTES};
use serde::Serialize;

/// A leased line in one direction, with the settings of the two ends. Reports come back on the critical lane, which has
/// the same latency and loses nothing.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Line {
    /// What a full packet takes.
    pub packet_time: Duration,
    /// One way.
    pub latency: Duration,
    /// How often the mirror reports while datagrams come.
    pub report_interval: Duration,
    /// How often it does while none come.
    pub report_interval_idle: Duration,
    /// From the network card to the edge of the site.
    pub site_exit_delay: Duration,
}

impl Line {
    /// A line of 10 000 packets a second, to a mirror so far away.
    #[must_use]
    pub fn of_latency(latency: Duration) -> Self {
        Self {
            packet_time: Duration::from_micros(100),
            latency,
            report_interval: Duration::from_millis(5),
            report_interval_idle: Duration::from_millis(50),
            site_exit_delay: Duration::from_micros(50),
        }
    }

    /// Bytes of a record in a full symbol.
    pub const DATA_BYTES: usize = SYMBOL_BYTES - SYMBOL_PREFIX_BYTES;

    /// Stock settings of the sending end, where they do not follow from the line.
    #[must_use]
    pub fn sender(&self, flush_pause: u32) -> SenderConfig {
        let packet_bytes = REPAIR_HEADER_BYTES + SYMBOL_BYTES + OVERHEAD_BYTES;
        let rate = packet_bytes as u128 * 1_000_000_000 / self.packet_time.as_nanos().max(1);
        SenderConfig {
            symbol_bytes: SYMBOL_BYTES,
            buffer_bytes_max: 64 << 20,
            rate_bytes_per_second: u64::try_from(rate).unwrap_or(u64::MAX),
            per_datagram_overhead: OVERHEAD_BYTES,
            burst_datagrams_max: 8,
            flush_delay: Duration::from_millis(1),
            flush_pause,
            site_exit_delay: self.site_exit_delay,
        }
    }

    /// Stock settings of the receiving end.
    #[must_use]
    pub fn receiver(&self, structure: &Structure, flush_pause: u32) -> ReceiverConfig {
        ReceiverConfig {
            symbol_bytes: SYMBOL_BYTES,
            record_bytes_max: 1 << 20,
            pending_bytes_max: 64 << 20,
            reorder_delay: Duration::from_millis(2),
            repair_delay: self.repair_delay(structure, flush_pause),
            packet_time: self.packet_time,
        }
    }

    /// How long the mirror waits for repairs: as it does, ten milliseconds and the pauses of a flush.
    #[must_use]
    pub fn repair_delay(&self, structure: &Structure, flush_pause: u32) -> Duration {
        let pauses = if structure.gains_by_pauses() { structure.repairs_per_symbol() + 1 } else { 0 };
        Duration::from_millis(10) + self.packet_time * (flush_pause + 1) * pauses
    }

    /// What that many bytes of a datagram take.
    #[must_use]
    pub fn carries(&self, datagram_bytes: usize) -> Duration {
        let full = (REPAIR_HEADER_BYTES + SYMBOL_BYTES + OVERHEAD_BYTES) as u32;
        self.packet_time * (datagram_bytes + OVERHEAD_BYTES) as u32 / full
    }
}

/// Largest symbol. What a code repairs does not depend on it, and small ones cost little.
const SYMBOL_BYTES: usize = 128;

/// What QUIC, UDP, IP and the link layer add, which small symbols feel more than those of a real link.
const OVERHEAD_BYTES: usize = 60;

//! Settings of the two ends, and their limits.

use std::time::Duration;

use parhelion_plugin::{Code, ParameterError};
use parhelion_wire::{REPAIR_HEADER_BYTES, SYMBOL_DATA_BYTES_MAX, SYMBOL_PREFIX_BYTES};

/// Settings of a [`Sender`](crate::Sender).
#[derive(Clone, Copy, Debug)]
pub struct SenderConfig {
    /// Largest symbol in bytes, the 20-byte prefix included; the datagram adds its 32-byte header.
    pub symbol_bytes: usize,
    /// Most bytes of records held, from [`send`](crate::Sender::send) until the mirror has confirmed them.
    /// A record counts for at least 64 bytes; the state beside it is about 300 bytes and 64 per symbol.
    pub buffer_bytes_max: usize,
    /// Bytes per second on the wire that datagrams with their overhead may take; 0: whoever calls
    /// [`poll_transmit`](crate::Sender::poll_transmit) paces.
    pub rate_bytes_per_second: u64,
    /// Bytes that QUIC, UDP, IP and the link layer add to a datagram, for pacing.
    pub per_datagram_overhead: usize,
    /// Most datagrams released at one instant. What leaves together is lost together, so this is at most
    /// the burst that the code tolerates.
    pub burst_datagrams_max: usize,
    /// How long the queue stays empty before partial groups are flushed; see
    /// [`Sender`](crate::Sender) for the bound on the age of uncovered symbols.
    pub flush_delay: Duration,
    /// Packet times of the link that a flush pauses between one repair index and the next, so that it
    /// takes a long burst to lose an append with all its repairs. Without a rate there are no pauses: nobody
    /// could say what they are worth.
    pub flush_pause: u32,
    /// Time a packet needs from the network card to the site's edge. Coverage counts only after it, since
    /// what dies with the site protects nothing (SMFS section 3.3).
    pub site_exit_delay: Duration,
}

/// Settings of a [`Receiver`](crate::Receiver).
#[derive(Clone, Copy, Debug)]
pub struct ReceiverConfig {
    /// Largest symbol in bytes, prefix included; the same as the sender's.
    pub symbol_bytes: usize,
    /// Largest record in bytes. A peer that announces a larger one breaks the protocol.
    pub record_bytes_max: usize,
    /// Most bytes held for records that are incomplete or not yet taken. One more record of
    /// `record_bytes_max` comes on top, so that the oldest one can always be completed.
    pub pending_bytes_max: usize,
    /// How long a gap in the wire numbers may be reordering; then it is loss.
    pub reorder_delay: Duration,
    /// How long a lost symbol may wait for its repair before it is reported missing: the time in which
    /// the code's widest group is sent.
    pub repair_delay: Duration,
    /// What a full datagram takes at the sender's rate; zero if that is not known. It tells losses in a row
    /// from losses that lie apart in time.
    pub packet_time: Duration,
}

impl SenderConfig {
    pub(crate) fn check(&self) -> Result<(), ParameterError> {
        check_symbol_bytes(self.symbol_bytes)?;
        if self.burst_datagrams_max == 0 {
            return Err(range("burst_datagrams_max", 0, 1, u32::MAX, "datagrams"));
        }
        Ok(())
    }

    /// What a full datagram takes at the link's rate; zero without a rate.
    #[must_use]
    pub fn packet_time(&self) -> Duration {
        let bytes = REPAIR_HEADER_BYTES + self.symbol_bytes + self.per_datagram_overhead;
        let nanos = (bytes as u128 * 1_000_000_000).checked_div(self.rate_bytes_per_second.into());
        Duration::from_nanos(nanos.map_or(0, |nanos| u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

impl ReceiverConfig {
    pub(crate) fn check(&self) -> Result<(), ParameterError> {
        check_symbol_bytes(self.symbol_bytes)
    }
}

/// Whether coverage can be kept for a code.
pub(crate) fn check_code(code: &Code) -> Result<(), ParameterError> {
    if code.structure().repairs_per_symbol() > REPAIRS_PER_SYMBOL_MAX {
        return Err(ParameterError::Conflict(format!(
            "code {code} covers each symbol by {} repairs; coverage holds at most {REPAIRS_PER_SYMBOL_MAX}, so ask for fewer",
            code.structure().repairs_per_symbol()
        )));
    }
    Ok(())
}

/// Bytes of a record that a symbol of `symbol_bytes` carries.
pub(crate) fn data_bytes(symbol_bytes: usize) -> usize {
    symbol_bytes - SYMBOL_PREFIX_BYTES
}

fn check_symbol_bytes(symbol_bytes: usize) -> Result<(), ParameterError> {
    if (SYMBOL_BYTES_MIN..=SYMBOL_BYTES_MAX).contains(&symbol_bytes) {
        return Ok(());
    }
    Err(range("symbol_bytes", symbol_bytes, SYMBOL_BYTES_MIN as u32, SYMBOL_BYTES_MAX as u32, "bytes"))
}

fn range(name: &str, value: usize, min: u32, max: u32, unit: &str) -> ParameterError {
    let value = u32::try_from(value).unwrap_or(u32::MAX);
    ParameterError::Range { name: name.to_owned(), value, min, max, unit: unit.to_owned() }
}

/// One bit of a coverage set for each.
const REPAIRS_PER_SYMBOL_MAX: u32 = u64::BITS;

const SYMBOL_BYTES_MIN: usize = SYMBOL_PREFIX_BYTES + 1;

const SYMBOL_BYTES_MAX: usize = SYMBOL_PREFIX_BYTES + SYMBOL_DATA_BYTES_MAX;

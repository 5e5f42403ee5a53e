//! The sending end of the bulk lane: the link core's datagrams, burst by burst, onto the wire.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parhelion_link::{Sender, SenderConfig, SenderEvent};
use parhelion_plugin::{ErasureCode, ParameterError, Parameters};
use parhelion_types::{RecordKey, Time};
use parhelion_wire::DATAGRAM_HEADER_BYTES;
use quinn_proto::ConnectionHandle;

use crate::config::{IP_UDP_BYTES, PrimaryConfig};
use crate::interface::CoverageChange;
use crate::lane::Lane;
use crate::stats::LinkStats;

/// The bulk lane at the primary.
pub(crate) struct Bulk {
    pub(crate) lane: Lane,
    pub(crate) handle: ConnectionHandle,
    pub(crate) sender: Sender,
    /// Records that the link core has no room for yet. The storage actor's byte credits bound them.
    backlog: VecDeque<(RecordKey, Bytes)>,
    /// Datagrams that the link core has released and QUIC has not been given.
    released: VecDeque<Released>,
    burst_datagrams_max: usize,
    /// Largest datagram that QUIC takes.
    datagram_bytes_max: usize,
    left: u64,
    stats: Arc<LinkStats>,
}

struct Released {
    bytes: Bytes,
    is_repair: bool,
}

/// Bursts sent before the critical lane gets another turn: some hundred microseconds of work.
const BURSTS_PER_TURN: usize = 16;

/// Bytes of a DATAGRAM frame beside its data: type and length.
const FRAME_HEAD_BYTES: usize = 3;

impl Bulk {
    /// Starts sending over a connection that is established.
    pub(crate) fn new(
        config: &PrimaryConfig,
        now: Time,
        mut lane: Lane,
        handle: ConnectionHandle,
        code: Arc<dyn ErasureCode>,
        parameters: Parameters,
        stats: Arc<LinkStats>,
    ) -> Result<Self, String> {
        let datagram_bytes_max = lane
            .connection(handle)
            .and_then(|connection| connection.datagrams().max_size())
            .ok_or("the mirror's bulk lane takes no datagrams; update the mirror")?;
        let symbol_bytes = datagram_bytes_max.saturating_sub(DATAGRAM_HEADER_BYTES);
        let packet_bytes = usize::from(config.lane.payload_bytes()) + usize::from(IP_UDP_BYTES);
        let sender = SenderConfig {
            symbol_bytes,
            buffer_bytes_max: config.buffer_bytes_max,
            rate_bytes_per_second: config.rate_bytes_per_second,
            per_datagram_overhead: packet_bytes - datagram_bytes_max,
            burst_datagrams_max: config.burst_datagrams_max,
            flush_delay: config.flush_delay,
            site_exit_delay: config.site_exit_delay,
        };
        let sender = Sender::new(sender, code, parameters, now).map_err(|error| error.to_string())?;
        Ok(Self {
            lane,
            handle,
            sender,
            backlog: VecDeque::new(),
            released: VecDeque::new(),
            burst_datagrams_max: config.burst_datagrams_max,
            datagram_bytes_max,
            left: 0,
            stats,
        })
    }

    /// Queues a record.
    pub(crate) fn send(&mut self, now: Time, key: RecordKey, record: Bytes) {
        self.backlog.push_back((key, record));
        self.feed(now);
    }

    /// Changes the code; the epoch and first symbol of the new one.
    pub(crate) fn change_code(
        &mut self,
        now: Time,
        code: Arc<dyn ErasureCode>,
        parameters: Parameters,
    ) -> Result<parhelion_link::CodeEpoch, ParameterError> {
        self.sender.change_code(now, code, parameters)
    }

    /// Sends what is due, and tells the link core what has left. Whether more is due at once.
    pub(crate) fn turn(&mut self, now: Instant, time: Time) -> bool {
        self.feed(time);
        let more = self.send_bursts(now, time);
        let left = self.lane.poll_left(time);
        if left != self.left {
            self.left = left;
            self.sender.handle_on_wire(time, left);
            self.stats.wire_lag_micros.set_micros(self.lane.lag());
        }
        self.stats.bulk_sends.set(self.lane.sends());
        self.stats.buffered_bytes.set(self.sender.buffered_bytes() as u64);
        more
    }

    /// Records whose coverage rose.
    pub(crate) fn poll_coverage(&mut self, out: &mut Vec<CoverageChange>) {
        while let Some(SenderEvent::Coverage { key, exposure, sent, complete }) = self.sender.poll_event() {
            out.push(CoverageChange { key, exposure, sent, complete });
        }
    }

    /// Whether everything that was queued is confirmed by the mirror.
    pub(crate) fn is_drained(&self) -> bool {
        self.backlog.is_empty() && self.sender.queued_bytes() == 0 && self.sender.buffered_bytes() == 0
    }

    /// Largest symbol.
    pub(crate) fn symbol_bytes(&self) -> usize {
        self.datagram_bytes_max.saturating_sub(DATAGRAM_HEADER_BYTES)
    }

    /// Gives the link core what it has room for.
    fn feed(&mut self, now: Time) {
        while let Some((key, record)) = self.backlog.pop_front() {
            let bytes = record.len() as u64;
            if self.sender.send(now, key, record.clone()).is_err() {
                self.backlog.push_front((key, record));
                return;
            }
            self.stats.records.add(1);
            self.stats.record_bytes.add(bytes);
        }
    }

    fn send_bursts(&mut self, now: Instant, time: Time) -> bool {
        for _ in 0..BURSTS_PER_TURN {
            // What congestion control or the kernel holds back goes first: order is the base of `left`.
            if !self.lane.flush(now, time, self.burst_datagrams_max) || !self.lane.is_clear() {
                return false;
            }
            if self.released.is_empty() {
                self.release(time);
            }
            if self.released.is_empty() {
                return false;
            }
            self.hand_over();
        }
        // The last burst leaves now, not with the next turn.
        self.lane.flush(now, time, self.burst_datagrams_max) && self.lane.is_clear()
    }

    /// Takes one burst from the link core into one buffer.
    fn release(&mut self, now: Time) {
        let mut bytes = Vec::with_capacity(self.burst_datagrams_max * self.datagram_bytes_max);
        let mut ends = Vec::with_capacity(self.burst_datagrams_max);
        while ends.len() < self.burst_datagrams_max {
            let Some(transmit) = self.sender.poll_transmit(now, &mut bytes) else { break };
            ends.push((bytes.len(), transmit.kind));
        }
        let mut bytes = Bytes::from(bytes);
        let mut start = 0;
        for (end, kind) in ends {
            let datagram = bytes.split_to(end - start);
            start = end;
            self.stats.datagrams_sent.add(1);
            self.stats.datagram_bytes_sent.add(datagram.len() as u64);
            let is_repair = kind == parhelion_link::TransmitKind::Repair;
            if is_repair {
                self.stats.repairs_sent.add(1);
            } else if kind == parhelion_link::TransmitKind::Resent {
                self.stats.resent.add(1);
            }
            self.released.push_back(Released { bytes: datagram, is_repair });
        }
    }

    /// Gives QUIC datagrams for one send: all data or all repairs, because a send may be lost as a whole,
    /// and none so small that QUIC would put two of them into one packet, which would lose both.
    fn hand_over(&mut self) {
        let mut last: Option<(usize, bool)> = None;
        while let Some(next) = self.released.front() {
            if let Some((bytes, is_repair)) = last
                && (next.is_repair != is_repair
                    || bytes + FRAME_HEAD_BYTES + next.bytes.len() <= self.datagram_bytes_max)
            {
                return;
            }
            last = Some((next.bytes.len(), next.is_repair));
            let Some(next) = self.released.pop_front() else { return };
            if !self.lane.send_datagram(self.handle, next.bytes) {
                // The connection is closing; its end is reported as an event, and ends the session.
                self.released.clear();
                return;
            }
        }
    }
}

//! The sending end of the bulk lane: the link core's datagrams, burst by burst, onto the wire.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parhelion_link::{CodeEpoch, Sender, SenderConfig, SenderEvent, TransmitKind};
use parhelion_plugin::{Code, ParameterError};
use parhelion_types::{LogId, RecordKey, Time};
use parhelion_wire::{Datagram, REPAIR_HEADER_BYTES};
use quinn_proto::ConnectionHandle;

use crate::config::{IP_UDP_BYTES, PrimaryConfig};
use crate::interface::CoverageChange;
use crate::lane::Lane;
use crate::stats::LinkStats;
use crate::timer::Clock;

/// The bulk lane at the primary.
pub(crate) struct Bulk {
    pub(crate) lane: Lane,
    pub(crate) handle: ConnectionHandle,
    pub(crate) sender: Sender,
    /// Records that the link core has no room for yet. The storage actor's byte credits bound them.
    backlog: VecDeque<(RecordKey, Bytes, bool)>,
    /// Datagrams that the link core has released and QUIC has not been given: the data of each burst before
    /// its repairs.
    released: VecDeque<Released>,
    /// Bursts of which some datagram has not left: where they end among all datagrams handed over, and the wire
    /// number behind their last.
    bursts: VecDeque<(u64, u64)>,
    /// Datagrams released.
    position: u64,
    /// The burst being released; kept for its memory.
    spans: Vec<(Range<usize>, TransmitKind)>,
    burst_datagrams_max: usize,
    /// Largest datagram that QUIC takes.
    datagram_bytes_max: usize,
    packet_nanos: u32,
    /// How much later than its slot a datagram may leave while others wait behind it.
    coalesce: Duration,
    stats: Arc<LinkStats>,
}

struct Released {
    bytes: Bytes,
    is_repair: bool,
}

/// Gives the datagrams of a burst the wire numbers from `first` on, in the order in which they will leave: the
/// receiver takes an order that does not match for loss once it lasts.
fn renumber(bytes: &mut [u8], spans: &[(Range<usize>, TransmitKind)], first: u64) {
    for ((span, _), wire_number) in spans.iter().zip(first..) {
        let datagram = &mut bytes[span.clone()];
        // What the link core has just written can be read.
        if let Ok((header, _)) = Datagram::parse(datagram) {
            Datagram { wire_number, ..header }.write(datagram);
        }
    }
}

/// Bursts sent before the critical lane gets another turn: some hundred microseconds of work.
const BURSTS_PER_TURN: usize = 16;

/// Datagrams whose slots lie this close together leave together, which halves the wake-ups and system calls
/// of a busy link. It is always less than a burst takes, so the rate holds.
const COALESCE_MAX: Duration = Duration::from_micros(50);

/// Bytes of a DATAGRAM frame beside its data: type and length.
const FRAME_HEAD_BYTES: usize = 3;

impl Bulk {
    /// Starts sending over a connection that is established.
    pub(crate) fn new(
        config: &PrimaryConfig,
        now: Time,
        mut lane: Lane,
        handle: ConnectionHandle,
        code: &Code,
        stats: Arc<LinkStats>,
    ) -> Result<Self, String> {
        let datagram_bytes_max = lane
            .connection(handle)
            .and_then(|connection| connection.datagrams().max_size())
            .ok_or("the mirror's bulk lane takes no datagrams; update the mirror")?;
        let symbol_bytes = datagram_bytes_max.saturating_sub(REPAIR_HEADER_BYTES);
        let packet_bytes = usize::from(config.lane.payload_bytes()) + usize::from(IP_UDP_BYTES);
        let sender = SenderConfig {
            symbol_bytes,
            buffer_bytes_max: config.buffer_bytes_max,
            rate_bytes_per_second: config.rate_bytes_per_second,
            per_datagram_overhead: packet_bytes - datagram_bytes_max,
            burst_datagrams_max: config.burst_datagrams_max,
            flush_delay: config.flush_delay,
            flush_pause: config.flush_pause,
            site_exit_delay: config.site_exit_delay,
        };
        let packet_nanos = u32::try_from(sender.packet_time().as_nanos()).unwrap_or(u32::MAX);
        let burst_bytes = (config.burst_datagrams_max - 1) as f64 * packet_bytes as f64;
        let burst_time = burst_bytes / config.rate_bytes_per_second.max(1) as f64;
        let coalesce = COALESCE_MAX.min(Duration::from_secs_f64(burst_time / 2.0));
        let sender = Sender::new(sender, code, now).map_err(|error| error.to_string())?;
        Ok(Self {
            lane,
            handle,
            sender,
            backlog: VecDeque::new(),
            released: VecDeque::new(),
            bursts: VecDeque::new(),
            position: 0,
            spans: Vec::new(),
            burst_datagrams_max: config.burst_datagrams_max,
            datagram_bytes_max,
            packet_nanos,
            coalesce,
            stats,
        })
    }

    /// Queues a record.
    pub(crate) fn send(&mut self, now: Time, key: RecordKey, record: Bytes, is_awaited: bool) {
        self.backlog.push_back((key, record, is_awaited));
        self.feed(now);
    }

    /// The mirror takes nothing of the log in this session, so nothing of it will ever be confirmed: what is held of it
    /// is dropped, and gives its room to others.
    pub(crate) fn forget_log(&mut self, log: LogId) {
        self.backlog.retain(|(key, ..)| key.log != log);
        self.sender.handle_confirmed(RecordKey { log, number: u64::MAX });
    }

    /// Changes the code; the epoch and first symbol of the new one.
    pub(crate) fn change_code(&mut self, now: Time, code: &Code) -> Result<CodeEpoch, ParameterError> {
        self.sender.change_code(now, code)
    }

    /// Sends what is due, and tells the link core what has left. Whether more is due at once.
    pub(crate) fn turn(&mut self, clock: &Clock) -> bool {
        self.feed(clock.now().1);
        let more = self.send_bursts(clock);
        // Sending took time, and what is told to have left by now has left.
        let (_, time) = clock.now();
        let left = self.lane.poll_left(time);
        let mut whole = None;
        while let Some((_, end)) = self.bursts.pop_front_if(|(position, _)| *position <= left) {
            whole = Some(end);
        }
        // Within a burst datagrams were put in another order, so only whole bursts count.
        if let Some(end) = whole {
            self.sender.handle_on_wire(time, end);
            self.stats.wire_lag_micros.set_micros(self.lane.lag());
        }
        self.stats.bulk_sends.set(self.lane.sends());
        self.stats.flushes.set(self.sender.stats().flushes);
        self.stats.buffered_bytes.set(self.sender.buffered_bytes() as u64);
        more
    }

    /// When to call [`Bulk::turn`] at the latest, unless QUIC or the kernel holds packets back.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let due = self.sender.poll_timeout().filter(|_| self.lane.is_clear())?;
        // The last datagrams of a queue complete coverage: they do not wait for company.
        Some(if self.sender.queued_bytes() > 0 { due + self.coalesce } else { due })
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

    /// What a full datagram takes at the link's rate, in nanoseconds; 0 without a rate.
    pub(crate) fn packet_nanos(&self) -> u32 {
        self.packet_nanos
    }

    /// Largest symbol.
    pub(crate) fn symbol_bytes(&self) -> usize {
        self.datagram_bytes_max.saturating_sub(REPAIR_HEADER_BYTES)
    }

    /// Gives the link core what it has room for.
    fn feed(&mut self, now: Time) {
        while let Some((key, record, is_awaited)) = self.backlog.pop_front() {
            let bytes = record.len() as u64;
            let queued = if is_awaited {
                self.sender.send(now, key, record.clone())
            } else {
                self.sender.send_lazily(now, key, record.clone())
            };
            if queued.is_err() {
                self.backlog.push_front((key, record, is_awaited));
                return;
            }
            self.stats.records.add(1);
            self.stats.record_bytes.add(bytes);
        }
    }

    fn send_bursts(&mut self, clock: &Clock) -> bool {
        for _ in 0..BURSTS_PER_TURN {
            // The link core releases one burst per instant, so each gets its own.
            let (now, time) = clock.now();
            // What congestion control or the kernel holds back goes first: order is the base of `left`.
            if !self.flush(now, time) {
                return false;
            }
            if self.released.is_empty() {
                self.release(time);
            }
            if self.released.is_empty() {
                return false;
            }
            while !self.released.is_empty() {
                self.hand_over();
                if !self.flush(now, time) {
                    return false;
                }
            }
        }
        true
    }

    fn flush(&mut self, now: Instant, time: Time) -> bool {
        self.lane.flush(now, time, self.burst_datagrams_max) && self.lane.is_clear()
    }

    /// Takes one burst from the link core into one buffer, and puts its data before its repairs: each then
    /// fills a send, where taking turns would need one send for every few datagrams.
    fn release(&mut self, now: Time) {
        let mut bytes = Vec::with_capacity(self.burst_datagrams_max * self.datagram_bytes_max);
        let mut spans = std::mem::take(&mut self.spans);
        let mut first = 0;
        while spans.len() < self.burst_datagrams_max {
            let start = bytes.len();
            let Some(transmit) = self.sender.poll_transmit(now, &mut bytes) else { break };
            if spans.is_empty() {
                first = transmit.wire_number;
            }
            spans.push((start..bytes.len(), transmit.kind));
        }
        if !spans.is_empty() {
            self.stats.datagrams_sent.add(spans.len() as u64);
            self.stats.datagram_bytes_sent.add(bytes.len() as u64);
            self.count(&spans);
            self.position += spans.len() as u64;
            self.bursts.push_back((self.position, first + spans.len() as u64));
            spans.sort_by_key(|(_, kind)| *kind == TransmitKind::Repair);
            renumber(&mut bytes, &spans, first);
            let bytes = Bytes::from(bytes);
            self.released.extend(spans.drain(..).map(|(span, kind)| Released {
                bytes: bytes.slice(span),
                is_repair: kind == TransmitKind::Repair,
            }));
        }
        self.spans = spans;
    }

    fn count(&self, spans: &[(Range<usize>, TransmitKind)]) {
        for (span, kind) in spans {
            let (datagrams, bytes) = match kind {
                TransmitKind::Source => (&self.stats.source_sent, &self.stats.source_bytes_sent),
                TransmitKind::Repair => (&self.stats.repairs_sent, &self.stats.repair_bytes_sent),
                TransmitKind::Resent => (&self.stats.resent, &self.stats.resent_bytes),
            };
            datagrams.add(1);
            bytes.add(span.len() as u64);
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

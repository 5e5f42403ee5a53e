//! The sending end of a link.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use parhelion_plugin::{Code, Encoder, Exposure, ParameterError, RepairHead, Structure};
use parhelion_types::{RecordKey, Time};
use parhelion_wire::{
    Datagram, DatagramKind, REPAIR_HEADER_BYTES, SOURCE_HEADER_BYTES, SYMBOL_PREFIX_BYTES, SymbolPrefix,
};

use crate::SYMBOLS_IN_FLIGHT_MAX;
use crate::config::{SenderConfig, check_code, data_bytes};
use crate::departures::{Departure, Departures};
use crate::pacer::Pacer;
use crate::records::{RecordRef, Records};
use crate::repairs::{Fired, Repairs};
use crate::retransmission::Retransmission;
use crate::symbols::Symbols;

/// Cuts records into source symbols, sends them with their repairs, and knows what protects each record.
///
/// Verbs are [`send`](Self::send) and [`change_code`](Self::change_code). After any call, take what
/// [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event) offer, and call
/// `poll_transmit` again when [`poll_timeout`](Self::poll_timeout) has come: it does all that time brings.
///
/// # Order on the wire
/// Repairs that fired, then symbols that are sent again, then new source symbols. Repairs come first
/// because an acknowledgement waits for them; new symbols alone make repairs, so none starves the other.
///
/// # Coverage
/// A repair counts for the symbols it includes once it has left the site: below the mark of
/// [`handle_on_wire`](Self::handle_on_wire), and `site_exit_delay` older (SMFS section 3.3: what is still
/// in the local network dies with the site). A record's coverage is what *all* its symbols have.
///
/// A report that lists a symbol as missing ends that, until the symbol has arrived: the record counts as not sent
/// while no other copy of the symbol has left the site, and from then on as symbols without any repair. What was
/// told of it before was told before anybody could know.
///
/// # Flush
/// No record waits for later traffic to complete its groups. While no source symbol is ready to leave,
/// partial groups are flushed as soon as
/// - the last source symbol is `flush_delay` old, or
/// - the oldest symbol that still waits for a repair is four times as old: light traffic
///   that never pauses that long, and is too slow to fill wide groups, must not put them off.
///
/// Where nobody waits ([`send_lazily`](Self::send_lazily)), only age counts, and much more of it.
///
/// A flush sends the repairs of one index (layer, parity row or copy), pauses for `flush_pause` packet times,
/// and goes on with the next, so that no short burst takes an append with all its repairs. What else is ready
/// leaves in the pauses.
///
/// While symbols are ready, they themselves fill the groups at the rate of the link, and the spare capacity
/// that a flush costs is not there.
///
/// # Resending
/// A symbol that the receiver reports missing is sent again, though not again within a round trip of its last
/// copy, as reports repeat. If the newest symbols are not settled in a round trip, the last two are sent
/// again, at growing intervals: nothing behind them tells the receiver that they were sent. Resent symbols
/// are never encoded again.
pub struct Sender {
    config: SenderConfig,
    data_bytes: usize,
    code: Encoding,
    /// Codes that wait for the end of the record that is being cut.
    next_codes: VecDeque<Encoding>,
    records: Records,
    cutting: Option<RecordRef>,
    symbols: Symbols,
    repairs: Repairs,
    departures: Departures,
    pacer: Pacer,
    /// [`SenderConfig::packet_time`].
    packet_time: Duration,
    retransmission: Retransmission,
    last_source: Time,
    /// Somebody waits for the coverage of symbols below this id.
    awaited_below: u64,
    /// Id of the first source symbol behind the last flush, or of the code if there was none.
    run_start: u64,
    stats: SenderStats,
}

/// A code in force, or about to be.
struct Encoding {
    epoch: u32,
    structure: Structure,
    full: u64,
    encoder: Box<dyn Encoder>,
}

/// From which symbol on a code is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeEpoch {
    /// Number of the code in this session, from 0.
    pub epoch: u32,
    /// First source symbol it protects.
    pub first_symbol: u64,
}

/// A record that the buffer has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no room for a record of {record_bytes} bytes: {buffered_bytes} of {buffer_bytes_max} bytes wait for the mirror; \
     send it when the mirror has confirmed some, or raise buffer_bytes_max"
)]
pub struct Full {
    /// The record that was refused.
    pub record_bytes: usize,
    /// What is held.
    pub buffered_bytes: usize,
    /// The limit.
    pub buffer_bytes_max: usize,
}

/// A datagram that is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Its position on the wire, for [`Sender::handle_on_wire`].
    pub wire_number: u64,
    /// What it carries.
    pub kind: TransmitKind,
}

/// What a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitKind {
    /// A source symbol, for the first time.
    Source,
    /// A source symbol that was sent before.
    Resent,
    /// A repair symbol.
    Repair,
}

/// What the sender has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderEvent {
    /// More of a record has left the site, or a symbol of it is missing, was sent again or has arrived after all.
    /// Several changes of one record become one event.
    Coverage {
        /// The record.
        key: RecordKey,
        /// Its symbols, and the repairs that cover all of them. While one is missing: those that have not arrived,
        /// and no repairs.
        exposure: Exposure,
        /// Whether all its source symbols have left the site, and other copies of those that are missing.
        sent: bool,
        /// Whether, besides, every repair that its code makes for it has.
        complete: bool,
    },
}

/// What was sent since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderStats {
    /// Records that were queued.
    pub records: u64,
    /// Source symbols that were sent for the first time.
    pub symbols: u64,
    /// Repair symbols that were sent.
    pub repairs: u64,
    /// Source symbols that were sent again, probes included.
    pub resent: u64,
    /// Times that the newest symbols were sent again because nothing was heard of them.
    pub probes: u64,
    /// Times that partial groups were flushed.
    pub flushes: u64,
    /// Bytes of datagrams, header included, overhead not.
    pub bytes: u64,
}

impl Sender {
    /// A sender at the start of a session: symbol 0, wire number 0, code epoch 0.
    ///
    /// # Errors
    /// A setting out of range, or parameters that the code does not accept.
    pub fn new(config: SenderConfig, code: &Code, now: Time) -> Result<Self, ParameterError> {
        config.check()?;
        let datagram_bytes = REPAIR_HEADER_BYTES + config.symbol_bytes + config.per_datagram_overhead;
        Ok(Self {
            data_bytes: data_bytes(config.symbol_bytes),
            code: Encoding::new(0, code, config.symbol_bytes)?,
            next_codes: VecDeque::new(),
            records: Records::default(),
            cutting: None,
            symbols: Symbols::default(),
            repairs: Repairs::default(),
            departures: Departures::new(config.site_exit_delay),
            packet_time: config.packet_time(),
            pacer: Pacer::new(config.rate_bytes_per_second, config.burst_datagrams_max, datagram_bytes),
            retransmission: Retransmission::new(now),
            last_source: now,
            run_start: 0,
            awaited_below: 0,
            stats: SenderStats::default(),
            config,
        })
    }

    /// Queues a record. Its bytes are shared, not copied, and held until they are confirmed and have
    /// arrived. A record that is already held is not queued twice.
    ///
    /// # Errors
    /// The buffer has no room for it.
    pub fn send(&mut self, now: Time, key: RecordKey, record: Bytes) -> Result<(), Full> {
        self.queue(now, key, record, true)
    }

    /// As [`send`](Self::send), for a record whose coverage nobody waits for: partial groups are not flushed
    /// for its sake until [`LAZY_FACTOR`] times `flush_delay` have passed, so that light traffic of the other
    /// levels does not pay for repairs that nobody asked for.
    ///
    /// # Errors
    /// The buffer has no room for it.
    pub fn send_lazily(&mut self, now: Time, key: RecordKey, record: Bytes) -> Result<(), Full> {
        self.queue(now, key, record, false)
    }

    fn queue(&mut self, _now: Time, key: RecordKey, record: Bytes, is_awaited: bool) -> Result<(), Full> {
        if self.records.contains(key) {
            return Ok(());
        }
        let buffered_bytes = self.records.held_bytes();
        // One that is larger than the buffer goes alone: it would wait for ever, and hold up all behind it.
        let room = self.config.buffer_bytes_max.saturating_sub(buffered_bytes);
        let fits = Records::cost(record.len()) <= room || buffered_bytes == 0;
        // Offsets within a record are 32 bits wide.
        let (true, Ok(_)) = (fits, u32::try_from(record.len())) else {
            let buffer_bytes_max = self.config.buffer_bytes_max;
            return Err(Full { record_bytes: record.len(), buffered_bytes, buffer_bytes_max });
        };
        let symbols = record.len().div_ceil(self.data_bytes).max(1) as u32;
        self.records.push(key, record, symbols, is_awaited);
        self.stats.records += 1;
        Ok(())
    }

    /// Protects further records by another code, from the end of the record that is being cut. The old
    /// code is flushed at that point, and what it covers keeps counting.
    ///
    /// # Errors
    /// As [`Sender::new`]; the code in force stays.
    pub fn change_code(&mut self, _now: Time, code: &Code) -> Result<CodeEpoch, ParameterError> {
        let newest = self.next_codes.back().map_or(self.code.epoch, |code| code.epoch);
        let Some(epoch) = newest.checked_add(1) else {
            return Err(ParameterError::Conflict("no code epoch is left; begin a new session".to_owned()));
        };
        self.next_codes.push_back(Encoding::new(epoch, code, self.config.symbol_bytes)?);
        let uncut =
            self.cutting.and_then(|at| self.records.get(at)).map_or(0, |record| record.symbols - record.cut);
        if uncut == 0 {
            self.enter_next_codes();
        }
        Ok(CodeEpoch { epoch, first_symbol: self.symbols.next() + u64::from(uncut) })
    }

    /// Changes how long flushes pause from now on; see [`SenderConfig::flush_pause`].
    pub fn set_flush_pause(&mut self, flush_pause: u32) {
        self.config.flush_pause = flush_pause;
    }

    /// Every datagram below `wire_number` has left the host: QUIC has sent it and the kernel's queue is
    /// drained past it.
    pub fn handle_on_wire(&mut self, now: Time, wire_number: u64) {
        self.departures.left_host(now, wire_number);
        self.handle_departures(now);
    }

    /// The receiver has every symbol below `settled_symbols`, save those in `missing`: runs of symbols by
    /// first id and length, ascending. Runs beyond `settled_symbols` are missing as well, and what lies
    /// between them is not known. Reports may be lost and repeat, and a late one does no harm; one whose
    /// runs do not ascend is ignored, since what it lacks would be taken for arrived.
    pub fn handle_report(&mut self, now: Time, settled_symbols: u64, missing: &[(u64, u32)]) {
        let Self { retransmission, symbols, records, .. } = self;
        retransmission.handle_report(now, settled_symbols, missing, symbols, records);
        self.release_symbols();
    }

    /// All records of `key.log` with a number below `key.number` are durable at the mirror.
    pub fn handle_confirmed(&mut self, key: RecordKey) {
        self.records.confirm(key);
        self.release_symbols();
    }

    /// Appends the next datagram that is due, header and payload, to `out`. `None`: nothing is due now.
    pub fn poll_transmit(&mut self, now: Time, out: &mut Vec<u8>) -> Option<Transmit> {
        self.handle_departures(now);
        if self.retransmission.probe(now, &mut self.symbols) {
            self.stats.probes += 1;
        }
        if self.flush_due().is_some_and(|due| due <= now) {
            self.flush();
        }
        if self.pacer.next_slot() > now {
            return None;
        }
        let start = out.len();
        let transmit = self
            .transmit_repair(now, out)
            .or_else(|| self.transmit_resent(now, out))
            .or_else(|| self.transmit_source(now, out));
        if transmit.is_none() {
            self.pacer.idle();
            return None;
        }
        let bytes = out.len() - start;
        self.stats.bytes += bytes as u64;
        self.pacer.release(now, bytes + self.config.per_datagram_overhead);
        transmit
    }

    /// When [`poll_transmit`](Self::poll_transmit) has something to do if nothing else happens before; a
    /// time that has passed means at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let has_datagrams = self.retransmission.is_waiting() || self.is_source_ready();
        let slot = has_datagrams.then(|| self.pacer.next_slot());
        let repair = self.repairs.due().map(|due| due.max(self.pacer.next_slot()));
        [slot, repair, self.flush_due(), self.departures.next(), self.retransmission.probe_due(&self.symbols)]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<SenderEvent> {
        self.records.poll_changed().map(|record| SenderEvent::Coverage {
            key: record.key,
            exposure: record.exposure(),
            sent: record.is_sent(),
            complete: record.is_complete(),
        })
    }

    /// Bytes of records that are not cut into symbols yet.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.records.queued_bytes()
    }

    /// Bytes of records held, as counted against `buffer_bytes_max`.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.records.held_bytes()
    }

    /// What was sent.
    #[must_use]
    pub fn stats(&self) -> SenderStats {
        self.stats
    }

    /// Structure of the newest code: what protects records whose first symbol is not sent yet.
    #[must_use]
    pub fn structure(&self) -> &Structure {
        &self.next_codes.back().unwrap_or(&self.code).structure
    }

    /// Why the code in force makes no repairs any more, if it broke. What it covers keeps counting; change the code.
    #[must_use]
    pub fn code_fault(&self) -> Option<&str> {
        self.code.encoder.fault()
    }

    /// Smoothed time from sending a symbol to the report that settles it, wait for the report included.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.retransmission.round_trip()
    }

    fn transmit_repair(&mut self, now: Time, out: &mut Vec<u8>) -> Option<Transmit> {
        let start = out.len();
        // The pause begins when the line is done with all that was released, this symbol included.
        let pause = self.packet_time.saturating_mul(self.flush_pause() + 1);
        let resume = self.pacer.drained().max(now) + pause;
        let Fired { head, epoch, flush_run } = self.repairs.pop(now, resume, REPAIR_HEADER_BYTES, out)?;
        let wire_number = self.departures.push(Departure::Repair { head, flush_run });
        let RepairHead { cover, index } = head;
        let kind =
            DatagramKind::Repair { first: cover.first, stride: cover.stride, count: cover.count, index };
        Datagram { path: PATH, code_epoch: epoch, wire_number, kind }.write(&mut out[start..]);
        self.stats.repairs += 1;
        Some(Transmit { wire_number, kind: TransmitKind::Repair })
    }

    fn transmit_resent(&mut self, now: Time, out: &mut Vec<u8>) -> Option<Transmit> {
        let (id, at, position) = self.retransmission.pop(now, &mut self.symbols)?;
        // A record outlives its symbols in flight.
        let record = self.records.get(at)?;
        let start = out.len();
        write_symbol(&record.bytes, at.number, position, self.data_bytes, out);
        let wire_number = self.departures.push(Departure::Resent(id));
        let kind = DatagramKind::Resent { id };
        Datagram { path: PATH, code_epoch: record.epoch, wire_number, kind }.write(&mut out[start..]);
        self.stats.resent += 1;
        Some(Transmit { wire_number, kind: TransmitKind::Resent })
    }

    fn transmit_source(&mut self, now: Time, out: &mut Vec<u8>) -> Option<Transmit> {
        if !self.is_source_ready() {
            return None;
        }
        let at = match self.cutting {
            Some(at) => at,
            None => self.records.start(
                self.code.epoch,
                self.code.full,
                self.code.structure.repairs_per_symbol(),
            )?,
        };
        let record = self.records.get_mut(at)?;
        let position = record.cut;
        record.cut += 1;
        self.cutting = (record.cut < record.symbols).then_some(at);
        if record.is_awaited {
            self.awaited_below = self.symbols.next() + 1;
        }
        let start = out.len();
        let cut = write_symbol(&record.bytes, at.number, position, self.data_bytes, out);
        self.records.note_cut(cut);

        let id = self.symbols.next();
        let code_epoch = self.code.epoch;
        let wire_number = self.departures.push(Departure::Source(id));
        let kind = DatagramKind::Source { id };
        Datagram { path: PATH, code_epoch, wire_number, kind }.write(&mut out[start..]);
        self.symbols.push(at, position, now);
        self.last_source = now;
        self.retransmission.note_source(now);
        self.stats.symbols += 1;

        let fired = self.repairs.len();
        self.code.encoder.source(id, &out[start + SOURCE_HEADER_BYTES..], &mut self.repairs);
        for head in self.repairs.heads(fired) {
            self.symbols.promise(head);
        }
        self.symbols.advance_promises(self.code.full);
        if self.cutting.is_none() && !self.next_codes.is_empty() {
            self.enter_next_codes();
        }
        Some(Transmit { wire_number, kind: TransmitKind::Source })
    }

    /// Whether a new source symbol could leave if its slot had come.
    fn is_source_ready(&self) -> bool {
        (self.cutting.is_some() || self.records.is_waiting())
            && self.symbols.next() - self.symbols.base() < SYMBOLS_IN_FLIGHT_MAX
    }

    /// Between two records: the old code ends, the new one begins.
    fn enter_next_codes(&mut self) {
        while let Some(code) = self.next_codes.pop_front() {
            if self.symbols.oldest_unpromised().is_some() {
                self.flush();
            }
            self.code = code;
            self.repairs.set_epoch(self.code.epoch);
            self.run_start = self.symbols.next();
        }
    }

    fn flush(&mut self) {
        let run = u32::try_from(self.symbols.next() - self.run_start).unwrap_or(u32::MAX);
        let mut flushing = self.repairs.flush(run.min(self.code.structure.flush_run_max()));
        self.code.encoder.flush(&mut flushing);
        self.run_start = self.symbols.next();
        flushing.end(|head| self.symbols.promise(head));
        // By contract nothing is outstanding now. A code that breaks it loses coverage, but cannot make
        // this sender flush for ever.
        self.symbols.promise_all();
        self.stats.flushes += 1;
    }

    /// Packet times between what a flush sends of one repair index and of the next.
    fn flush_pause(&self) -> u32 {
        let is_worth = self.config.rate_bytes_per_second > 0 && self.code.structure.gains_by_pauses();
        if is_worth { self.config.flush_pause } else { 0 }
    }

    fn flush_due(&self) -> Option<Time> {
        let oldest = self.symbols.oldest_unpromised()?;
        if self.is_source_ready() {
            return None;
        }
        if self.symbols.oldest_unpromised_id() >= self.awaited_below {
            return Some(oldest.first_sent + self.config.flush_delay.saturating_mul(LAZY_FACTOR));
        }
        let idle = self.last_source + self.config.flush_delay;
        let aged = oldest.first_sent + self.config.flush_delay.saturating_mul(COVERAGE_AGE_FACTOR);
        Some(idle.min(aged))
    }

    /// Counts what has left the site by now.
    fn handle_departures(&mut self, now: Time) {
        let mut any = false;
        while let Some(departure) = self.departures.pop(now) {
            any = true;
            match departure {
                Departure::Source(id) => {
                    let Some(symbol) = self.symbols.get_mut(id) else { continue };
                    symbol.departed = true;
                    let at = symbol.record;
                    let Some(record) = self.records.get_mut(at) else { continue };
                    record.departed += 1;
                    if record.is_sent() {
                        self.records.mark_changed(at);
                    }
                }
                Departure::Repair { head, flush_run } => self.cover(head, flush_run),
                Departure::Resent(id) => {
                    let Some(symbol) = self.symbols.get_mut(id) else { continue };
                    let before = symbol.lack();
                    symbol.copy_on_wire = true;
                    self.records.note_lack(symbol.record, before, symbol.lack());
                }
            }
        }
        if any {
            self.release_symbols();
        }
    }

    fn cover(&mut self, head: RepairHead, flush_run: Option<u32>) {
        let pause = self.flush_pause();
        for id in head.cover.ids() {
            let Some(symbol) = self.symbols.get_mut(id) else { continue };
            if !symbol.cover(head.index) {
                continue;
            }
            let at = symbol.record;
            let Some(record) = self.records.get_mut(at) else { continue };
            let flush = flush_run.map(|run| (run, pause));
            if record.cover(head.index, head.cover.count, flush) {
                self.records.mark_changed(at);
            }
        }
    }

    /// Forgets the oldest symbols for which nothing is left to do.
    fn release_symbols(&mut self) {
        let records = &self.records;
        self.symbols.release(|symbol| {
            records
                .get(symbol.record)
                .is_none_or(|record| symbol.departed && symbol.arrived && symbol.is_covered(record.full))
        });
    }
}

impl Encoding {
    fn new(epoch: u32, code: &Code, symbol_bytes: usize) -> Result<Self, ParameterError> {
        check_code(code)?;
        let structure = code.structure().clone();
        Ok(Self { epoch, full: structure.full_coverage(), structure, encoder: code.encoder(symbol_bytes)? })
    }
}

/// Appends room for a header and symbol `position` of a record; returns the bytes of the record in it.
fn write_symbol(record: &Bytes, number: u64, position: u32, data_bytes: usize, out: &mut Vec<u8>) -> usize {
    let offset = position as usize * data_bytes;
    let end = record.len().min(offset + data_bytes);
    let prefix = SymbolPrefix {
        record: number,
        offset: offset as u32,
        length: (end - offset) as u16,
        last: end == record.len(),
    };
    out.reserve(SOURCE_HEADER_BYTES + SYMBOL_PREFIX_BYTES + end - offset);
    out.resize(out.len() + SOURCE_HEADER_BYTES, 0);
    prefix.write(&record[offset..end], out);
    end - offset
}

/// Age, in units of `flush_delay`, at which symbols are covered whose coverage nobody waits for.
pub const LAZY_FACTOR: u32 = 50;

/// Flushing late groups of light traffic at each `flush_delay` would double its overhead to save a few of
/// them; four is where waiting and overhead balance for the default code.
const COVERAGE_AGE_FACTOR: u32 = 4;

/// Links have one path; the header keeps room for more.
const PATH: u8 = 0;

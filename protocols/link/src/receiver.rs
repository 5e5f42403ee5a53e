//! The receiving end of a link.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use parhelion_plugin::{Code, Cover, Decoder, ParameterError, RecoveredSink, RepairHead};
use parhelion_types::Time;
use parhelion_wire::link::ChannelCountsV1;
use parhelion_wire::{Datagram, DatagramKind, SymbolPrefix, WireError};

use crate::SYMBOLS_IN_FLIGHT_MAX;
use crate::channel::{Arrival, Channel};
use crate::config::{ReceiverConfig, check_code, data_bytes};
use crate::reassembly::{Placed, Reassembly};
use crate::runs::{Gap, Runs};

/// Takes datagrams, gives records, and knows what is missing.
///
/// The one verb is [`report`](Self::report), due every few milliseconds while datagrams come. After
/// [`handle_datagram`](Self::handle_datagram) take all records that [`poll_record`](Self::poll_record)
/// offers; call [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) has come.
///
/// # Limits
/// Whatever a peer sends, state is bounded: `pending_bytes_max` and one more record for records, a window
/// of [`SYMBOLS_IN_FLIGHT_MAX`] ids for symbols, 16 codes, and a few megabytes for all else. A
/// symbol for which there is no room is dropped as if lost, and comes again; the first one that is missing
/// always has room, so the link never stalls.
pub struct Receiver {
    config: ReceiverConfig,
    /// By epoch, which are consecutive; at least one.
    codes: VecDeque<Decoding>,
    /// Datagrams of a code that is not known yet, with the time they came.
    parked: Vec<(Time, Vec<u8>)>,
    parked_bytes: usize,
    channel: Channel,
    /// Ids of the symbols that arrived or were rebuilt.
    symbols: Runs,
    reassembly: Reassembly,
    recovered: Recovered,
    /// Below it decoders have given symbols up.
    expired: u64,
    /// Where the listing of recent gaps goes on in the next report.
    listed: u64,
    rebuilt: u64,
    late: u64,
    host_drops: u64,
    /// Epoch of the first code whose decoder gave a symbol that is none.
    made_up: Option<u32>,
}

/// A code whose symbols may still come.
struct Decoding {
    epoch: u32,
    first_symbol: u64,
    decoder: Box<dyn Decoder>,
}

/// What the sender must know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Counters of the channel since the session began.
    pub counts: ChannelCountsV1,
    /// Every source symbol below it arrived, was rebuilt, or is listed in `missing`.
    pub settled_symbols: u64,
    /// Runs of source symbols that neither arrived nor could be rebuilt in time: first id and length,
    /// ascending and apart, at most [`MISSING_RUNS_MAX`]. If there are more, the oldest half is what settles
    /// symbols, and the other half takes turns, so that all are asked for within a few reports.
    pub missing: Vec<(u64, u32)>,
}

impl Receiver {
    /// A receiver for symbols from `first_symbol` on under the code of `code_epoch`; both 0 for a session
    /// that begins.
    ///
    /// # Errors
    /// A setting out of range, or parameters that the code does not accept.
    pub fn new(
        config: ReceiverConfig,
        code_epoch: u32,
        first_symbol: u64,
        code: &Code,
        _now: Time,
    ) -> Result<Self, ParameterError> {
        config.check()?;
        let code = Decoding::new(code_epoch, first_symbol, code, config.symbol_bytes)?;
        let data_bytes = data_bytes(config.symbol_bytes);
        Ok(Self {
            codes: VecDeque::from([code]),
            parked: Vec::new(),
            parked_bytes: 0,
            channel: Channel::new(config.reorder_delay, config.packet_time),
            symbols: Runs::new(first_symbol),
            reassembly: Reassembly::new(data_bytes, config.record_bytes_max, config.pending_bytes_max),
            recovered: Recovered::default(),
            expired: first_symbol,
            listed: 0,
            rebuilt: 0,
            late: 0,
            host_drops: 0,
            made_up: None,
            config,
        })
    }

    /// Takes the next code: symbols from `first_symbol` on belong to it. Datagrams of it that came before
    /// are looked at again.
    ///
    /// # Errors
    /// An epoch that does not follow the newest, a first symbol below the newest code's, too many codes at
    /// once, or parameters that the code does not accept. What was in force stays.
    pub fn add_code(&mut self, epoch: u32, first_symbol: u64, code: &Code) -> Result<(), ParameterError> {
        let conflict = |reason: String| {
            Err(ParameterError::Conflict(format!(
                "code epoch {epoch} is refused: {reason}; begin a new session"
            )))
        };
        if let Some(newest) = self.codes.back() {
            if newest.epoch.checked_add(1) != Some(epoch) {
                return conflict(format!("it does not follow epoch {}", newest.epoch));
            }
            if first_symbol < newest.first_symbol {
                return conflict(format!(
                    "it begins at symbol {first_symbol}, before epoch {}",
                    newest.epoch
                ));
            }
        }
        if self.codes.len() >= EPOCHS_MAX {
            return conflict(format!("{EPOCHS_MAX} codes have symbols in flight"));
        }
        self.codes.push_back(Decoding::new(epoch, first_symbol, code, self.config.symbol_bytes)?);
        self.retire_codes();
        self.parked_bytes = 0;
        for (came, datagram) in std::mem::take(&mut self.parked) {
            // What is wrong with a datagram that waited has no one left to be told to.
            if let Ok((header, payload)) = Datagram::parse(&datagram) {
                let _ = self.handle_symbol(came, &datagram, header, payload, Arrival::InTime);
            }
        }
        Ok(())
    }

    /// A code whose decoder broke, or made up a symbol, by its epoch; and what happened. What it rebuilt and was taken is
    /// right, which a checksum in each symbol proves; what it should rebuild will not come.
    #[must_use]
    pub fn code_fault(&self) -> Option<(u32, &str)> {
        let broken = self.codes.iter().find_map(|code| Some((code.epoch, code.decoder.fault()?)));
        broken.or(self.made_up.map(|epoch| (epoch, "it rebuilt a symbol that was never sent")))
    }

    /// Changes how long a lost symbol may wait for repair; see [`ReceiverConfig::repair_delay`].
    pub fn set_repair_delay(&mut self, repair_delay: Duration) {
        self.config.repair_delay = repair_delay;
    }

    /// Takes a datagram. Copies and late ones are welcome.
    ///
    /// # Errors
    /// No sender of this protocol writes such a datagram. It is ignored.
    pub fn handle_datagram(&mut self, now: Time, datagram: &[u8]) -> Result<(), WireError> {
        let (header, payload) = Datagram::parse(datagram)?;
        if payload.len() > self.config.symbol_bytes {
            let (bytes, max) = (payload.len(), self.config.symbol_bytes);
            return Err(WireError::Long { what: "symbol", bytes, max });
        }
        match self.channel.arrived(header.wire_number, now) {
            Arrival::Duplicate => Ok(()),
            arrival => self.handle_symbol(now, datagram, header, payload, arrival),
        }
    }

    /// The next record that is complete. Each comes once, whatever the order.
    pub fn poll_record(&mut self) -> Option<Bytes> {
        self.reassembly.pop()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.channel.next()
    }

    /// Settles the fate of datagrams that are overdue.
    pub fn handle_timeout(&mut self, now: Time) {
        self.channel.settle(now);
    }

    /// What there is to report now.
    pub fn report(&mut self, now: Time) -> Report {
        self.channel.settle(now);
        let mut missing: Vec<(u64, u32)> = Vec::new();
        let mut settled_symbols = None;
        let mut listed = 0;
        for gap in self.symbols.gaps() {
            if gap.since + self.config.repair_delay > now {
                settled_symbols.get_or_insert(gap.start);
                break;
            }
            if settled_symbols.is_none() && list(&mut missing, gap, MISSING_RUNS_MAX / 2) {
                continue;
            }
            settled_symbols.get_or_insert(gap.start);
            if gap.start < self.listed {
                continue;
            }
            if !list(&mut missing, gap, MISSING_RUNS_MAX) {
                break;
            }
            listed = gap.end;
        }
        // The next report goes on where this one was full.
        self.listed = if missing.len() < MISSING_RUNS_MAX { 0 } else { listed };
        Report {
            counts: ChannelCountsV1 {
                rebuilt: self.rebuilt,
                late: self.late,
                host_drops: self.host_drops,
                ..self.channel.counts()
            },
            settled_symbols: settled_symbols.unwrap_or(self.symbols.end()),
            missing,
        }
    }

    /// Bytes held for records that are incomplete or not taken.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.reassembly.pending_bytes()
    }

    fn handle_symbol(
        &mut self,
        now: Time,
        datagram: &[u8],
        header: Datagram,
        payload: &[u8],
        arrival: Arrival,
    ) -> Result<(), WireError> {
        let Datagram { code_epoch, kind, .. } = header;
        let oldest = self.codes.front().map_or(0, |code| code.epoch);
        let at = code_epoch.checked_sub(oldest).map(|at| at as usize);
        if let Some(at) = at.filter(|&at| at >= self.codes.len()) {
            return self.park(now, datagram, at - self.codes.len());
        }
        match kind {
            DatagramKind::Source { id, .. } => self.handle_source(now, at, id, payload, Some(arrival)),
            DatagramKind::Resent { id, .. } => self.handle_source(now, at, id, payload, None),
            DatagramKind::Repair { first, stride, count, index } => {
                let head = RepairHead { cover: Cover { first, stride, count }, index };
                // A repair of a code all of whose symbols are here has nothing left to repair.
                at.map_or(Ok(()), |at| self.handle_repair(now, at, head, payload))
            }
        }
    }

    /// Takes a source symbol. `first` tells how a first copy came; none for one that was sent again.
    fn handle_source(
        &mut self,
        now: Time,
        at: Option<usize>,
        id: u64,
        payload: &[u8],
        first: Option<Arrival>,
    ) -> Result<(), WireError> {
        let range = at.map_or(0..self.symbols.floor(), |at| self.symbols_of(at));
        if !range.contains(&id) {
            return Err(WireError::Invalid { what: "symbol id" });
        }
        let is_here = self.symbols.contains(id);
        if first.is_some_and(|arrival| is_here || arrival == Arrival::Late) {
            self.late += 1;
        }
        if is_here {
            return Ok(());
        }
        let (prefix, data) = SymbolPrefix::parse(payload)?;
        if !self.accept(now, id, prefix, data)? {
            return Ok(());
        }
        if let Some(code) = at.and_then(|at| self.codes.get_mut(at)) {
            code.decoder.source(id, payload, &mut self.recovered);
        }
        self.accept_recovered(now, at);
        self.advance();
        Ok(())
    }

    fn handle_repair(
        &mut self,
        now: Time,
        at: usize,
        head: RepairHead,
        payload: &[u8],
    ) -> Result<(), WireError> {
        let range = self.symbols_of(at);
        let Cover { first, stride, count } = head.cover;
        let last = first.checked_add(u64::from(count.saturating_sub(1)) * u64::from(stride));
        let Some(last) = last.filter(|last| range.contains(&first) && range.contains(last)) else {
            return Err(WireError::Invalid { what: "repair cover" });
        };
        let Some(code) = self.codes.get_mut(at) else { return Ok(()) };
        code.decoder
            .repair(head, payload, &mut self.recovered)
            .map_err(|_| WireError::Invalid { what: "repair symbol" })?;
        // The symbols it includes were sent, even if no later one ever comes.
        if self.symbols.len() < SYMBOL_RUNS_MAX {
            self.symbols.extend(last + 1, now);
        }
        self.accept_recovered(now, Some(at));
        self.advance();
        Ok(())
    }

    /// Puts the symbol into its record; whether there was room.
    fn accept(&mut self, now: Time, id: u64, prefix: SymbolPrefix, data: &[u8]) -> Result<bool, WireError> {
        let is_first = id == self.symbols.floor();
        let has_run = is_first || self.symbols.len() < SYMBOL_RUNS_MAX;
        if !has_run || self.reassembly.place(id, prefix, data, is_first)? == Placed::NoRoom {
            self.host_drops += 1;
            if has_run {
                self.symbols.extend(id + 1, now);
            }
            return Ok(false);
        }
        self.symbols.insert(id, now);
        Ok(true)
    }

    fn accept_recovered(&mut self, now: Time, at: Option<usize>) {
        let Some(at) = at else { return };
        let range = self.symbols_of(at);
        let recovered = std::mem::take(&mut self.recovered);
        for (id, bytes) in &recovered.symbols {
            if !range.contains(id) || self.symbols.contains(*id) {
                continue;
            }
            // A decoder that made a symbol up is found out by its checksum; the symbol stays missing.
            let Ok((prefix, data)) = SymbolPrefix::parse(&recovered.bytes[bytes.clone()]) else {
                self.made_up.get_or_insert(self.codes[at].epoch);
                continue;
            };
            if self.accept(now, *id, prefix, data).is_ok_and(|is_placed| is_placed) {
                self.rebuilt += 1;
            }
        }
        self.recovered = recovered;
        self.recovered.symbols.clear();
        self.recovered.bytes.clear();
    }

    /// Lets go of what lies below the first missing symbol.
    fn advance(&mut self) {
        while self.symbols.absorb() > 0 {}
        let floor = self.symbols.floor();
        if floor >= self.expired + EXPIRE_SYMBOLS {
            self.expired = floor;
            self.codes.iter_mut().for_each(|code| code.decoder.expire(floor));
            self.retire_codes();
        }
    }

    fn retire_codes(&mut self) {
        let floor = self.symbols.floor();
        while self.codes.get(1).is_some_and(|next| next.first_symbol <= floor) {
            self.codes.pop_front();
        }
    }

    /// Ids that code number `at` may speak of.
    fn symbols_of(&self, at: usize) -> Range<u64> {
        let window = self.symbols.floor() + SYMBOLS_IN_FLIGHT_MAX;
        let first = self.codes.get(at).map_or(u64::MAX, |code| code.first_symbol);
        let end = self.codes.get(at + 1).map_or(window, |next| next.first_symbol.min(window));
        first..end
    }

    /// Keeps a datagram of a code that is `ahead` epochs beyond the next one.
    fn park(&mut self, now: Time, datagram: &[u8], ahead: usize) -> Result<(), WireError> {
        if ahead >= EPOCHS_MAX {
            return Err(WireError::Invalid { what: "code epoch" });
        }
        let cost = datagram.len() + PARKED_COST;
        if self.parked_bytes + cost > PARKED_BYTES_MAX {
            self.host_drops += 1;
            return Ok(());
        }
        self.parked_bytes += cost;
        self.parked.push((now, datagram.to_vec()));
        Ok(())
    }
}

impl Decoding {
    fn new(epoch: u32, first_symbol: u64, code: &Code, symbol_bytes: usize) -> Result<Self, ParameterError> {
        if first_symbol >= SYMBOL_ID_MAX {
            return Err(ParameterError::Conflict(format!(
                "code epoch {epoch} is refused: it begins at symbol {first_symbol}, and no session gets there; \
                 begin a new session"
            )));
        }
        check_code(code)?;
        Ok(Self { epoch, first_symbol, decoder: code.decoder(symbol_bytes)? })
    }
}

/// Appends a gap, joined to the last one if it touches it; whether `missing` had room.
fn list(missing: &mut Vec<(u64, u32)>, gap: Gap, runs_max: usize) -> bool {
    // The window bounds the length of all gaps together.
    let length = (gap.end - gap.start) as u32;
    let is_full = missing.len() >= runs_max;
    match missing.last_mut() {
        Some((first, count)) if *first + u64::from(*count) == gap.start => *count += length,
        _ if is_full => return false,
        _ => missing.push((gap.start, length)),
    }
    true
}

/// Symbols that a decoder rebuilt in one call; its buffers are used again.
#[derive(Debug, Default)]
struct Recovered {
    symbols: Vec<(u64, Range<usize>)>,
    bytes: Vec<u8>,
}

impl RecoveredSink for Recovered {
    fn recovered(&mut self, id: u64, payload: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        self.symbols.push((id, start..self.bytes.len()));
    }
}

/// Most runs of missing symbols in one report: with the counters and a few dozen logs they fit a datagram.
pub const MISSING_RUNS_MAX: usize = 32;

/// Codes begin below it: the ends of windows and covers never overflow, and no session ever gets there.
const SYMBOL_ID_MAX: u64 = 1 << 62;

/// Most codes with symbols in flight. One change per round trip needs two.
const EPOCHS_MAX: usize = 16;

/// Most runs of symbols between missing ones; half of the symbols lost at 600 000 per second leave as many
/// in a round trip of 200 ms. What would begin another run is dropped and comes again.
const SYMBOL_RUNS_MAX: usize = 1 << 16;

/// Decoders forget in steps, as it costs them a call.
const EXPIRE_SYMBOLS: u64 = 64;

/// Datagrams that overtake the news of their code are those of a few milliseconds.
const PARKED_BYTES_MAX: usize = 4 << 20;
const PARKED_COST: usize = 64;

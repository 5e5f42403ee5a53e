//! An encoded stream, and what a decoder makes of the packets of it that arrive.

use std::ops::Range;

use crate::code::{Decoder, Encoder, ErasureCode, RecoveredSink, RepairHead, RepairSink, SymbolError};
use crate::conformance::random::SplitMix64;
use crate::parameters::{ParameterError, Parameters};

/// What a sender sends.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Id of the first source symbol.
    pub first: u64,
    /// Number of source symbols.
    pub symbols: usize,
    /// Size that encoder and decoder are made for, in bytes.
    pub symbol_bytes: usize,
    /// Whether sizes differ, from 0 to `symbol_bytes`; otherwise all have `symbol_bytes`.
    pub uneven: bool,
    /// Chance of a flush after each symbol. The last symbol is always followed by one.
    pub flush_chance: f64,
    /// Decides contents, sizes and flushes.
    pub seed: u64,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { first: 0, symbols: 0, symbol_bytes: 16, uneven: false, flush_chance: 0.0, seed: 0 }
    }
}

/// What a packet of a [`Stream`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKind {
    /// The source symbol with this id.
    Source(u64),
    /// A repair symbol.
    Repair(RepairHead),
}

/// A packet of a [`Stream`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it is.
    pub kind: PacketKind,
    bytes: Range<usize>,
}

/// Source and repair symbols in the order in which they go on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Id of the first source symbol.
    pub first: u64,
    /// Everything that was sent.
    pub packets: Vec<Packet>,
    /// Where in `packets` each source symbol is, by id less `first`.
    pub sources: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stream {
    /// Encodes `traffic`.
    ///
    /// # Errors
    /// The code does not accept the parameters, or its encoder broke.
    pub fn encode(
        code: &dyn ErasureCode,
        parameters: &Parameters,
        traffic: &Traffic,
    ) -> Result<Self, ParameterError> {
        let mut encoder = code.encoder(parameters, traffic.symbol_bytes)?;
        let mut random = SplitMix64::new(traffic.seed);
        let mut stream = Self { first: traffic.first, packets: vec![], sources: vec![], bytes: vec![] };
        let mut payload = Vec::with_capacity(traffic.symbol_bytes);
        for n in 0..traffic.symbols {
            fill(&mut payload, traffic, &mut random);
            stream.source(traffic.first + n as u64, &payload, encoder.as_mut());
            if n + 1 == traffic.symbols || random.chance(traffic.flush_chance) {
                encoder.flush(&mut stream);
            }
        }
        match encoder.fault() {
            Some(fault) => Err(ParameterError::Conflict(format!("the encoder broke: {fault}"))),
            None => Ok(stream),
        }
    }

    /// Number of source symbols.
    #[must_use]
    pub fn symbols(&self) -> usize {
        self.sources.len()
    }

    /// The payload of a packet of this stream.
    #[must_use]
    pub fn payload(&self, packet: &Packet) -> &[u8] {
        &self.bytes[packet.bytes.clone()]
    }

    /// The source symbol `id` as it was sent, if it was.
    #[must_use]
    pub fn symbol(&self, id: u64) -> Option<&[u8]> {
        let at = usize::try_from(id.checked_sub(self.first)?).ok()?;
        self.sources.get(at).map(|&at| self.payload(&self.packets[at]))
    }

    /// Whether the packet at `at` is a source symbol.
    #[must_use]
    pub fn is_source(&self, at: usize) -> bool {
        matches!(self.packets[at].kind, PacketKind::Source(_))
    }

    /// What the first of these packets are, for messages.
    pub(super) fn kinds(&self, packets: &[usize]) -> Vec<PacketKind> {
        packets.iter().take(20).map(|&at| self.packets[at].kind).collect()
    }

    /// Gives `decoder` the packets at `order`, and returns what it could not rebuild, ascending.
    ///
    /// # Errors
    /// It reported a symbol that was not lost, twice, or with wrong bytes; or it refused a repair symbol
    /// of this stream.
    pub fn deliver(
        &self,
        decoder: &mut dyn Decoder,
        order: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<u64>, String> {
        let mut outcome = Outcome::new(self);
        for at in order {
            outcome.arrive(decoder, at)?;
        }
        Ok(outcome.missing())
    }

    fn source(&mut self, id: u64, payload: &[u8], encoder: &mut dyn Encoder) {
        self.sources.push(self.packets.len());
        self.push(PacketKind::Source(id), payload);
        encoder.source(id, payload, self);
    }

    fn push(&mut self, kind: PacketKind, payload: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        self.packets.push(Packet { kind, bytes: start..self.bytes.len() });
    }
}

impl RepairSink for Stream {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        self.push(PacketKind::Repair(head), payload);
    }
}

/// What a receiver has of a stream.
pub(super) struct Outcome<'a> {
    stream: &'a Stream,
    have: Vec<bool>,
    /// Symbols that the decoder rebuilt.
    pub recovered: u64,
    /// No symbol below may be reported.
    pub floor: u64,
    fault: Option<String>,
}

impl<'a> Outcome<'a> {
    pub fn new(stream: &'a Stream) -> Self {
        Self { stream, have: vec![false; stream.symbols()], recovered: 0, floor: 0, fault: None }
    }

    /// The packet at `at` arrives.
    pub fn arrive(&mut self, decoder: &mut dyn Decoder, at: usize) -> Result<(), String> {
        let packet = &self.stream.packets[at];
        let payload = self.stream.payload(packet);
        match packet.kind {
            PacketKind::Source(id) => {
                self.have[(id - self.stream.first) as usize] = true;
                decoder.source(id, payload, self);
            }
            PacketKind::Repair(head) => {
                match decoder.repair(head, payload, self) {
                    // Too late is no fault; what it costs shows in what stays missing.
                    Ok(()) | Err(SymbolError::Window(_)) => {}
                    Err(error) => return Err(format!("refused a true repair: {error}")),
                }
            }
        }
        if let Some(fault) = decoder.fault() {
            return Err(format!("the decoder broke: {fault}"));
        }
        self.fault.take().map_or(Ok(()), Err)
    }

    /// Symbols that neither arrived nor were rebuilt.
    pub fn missing(&self) -> Vec<u64> {
        let lost = self.have.iter().enumerate().filter(|(_, have)| !**have);
        lost.map(|(n, _)| self.stream.first + n as u64).collect()
    }
}

impl RecoveredSink for Outcome<'_> {
    fn recovered(&mut self, id: u64, payload: &[u8]) {
        let at = id.wrapping_sub(self.stream.first) as usize;
        let fault = match self.stream.symbol(id) {
            None => "was never sent",
            Some(_) if self.have[at] => "had arrived or was reported before",
            Some(_) if id < self.floor => "had expired",
            Some(sent) if !is_padded(payload, sent) => "has wrong bytes",
            Some(_) => {
                self.have[at] = true;
                self.recovered += 1;
                return;
            }
        };
        self.fault.get_or_insert_with(|| format!("recovered symbol {id}, which {fault}"));
    }
}

/// Whether `payload` is `sent` with zeros behind it.
fn is_padded(payload: &[u8], sent: &[u8]) -> bool {
    payload.strip_prefix(sent).is_some_and(|padding| padding.iter().all(|&byte| byte == 0))
}

/// Random contents; one symbol in eight ends in zeros, which a decoder must not take for padding it may lose.
fn fill(payload: &mut Vec<u8>, traffic: &Traffic, random: &mut SplitMix64) {
    let bytes = if traffic.uneven { random.below(traffic.symbol_bytes + 1) } else { traffic.symbol_bytes };
    payload.clear();
    while payload.len() < bytes {
        payload.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    payload.truncate(bytes);
    if random.below(8) == 0 {
        let tail = random.below(bytes + 1);
        payload[bytes - tail..].fill(0);
    }
}

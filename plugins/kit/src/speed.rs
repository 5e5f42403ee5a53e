//! How fast codes are, beside each other.
//!
//! Codes take turns, and the best turn of each counts: machines have neighbours, and nobody is disturbed in every turn.
//! Symbols come from a buffer that stays in the second cache, as those of a link do, which were written a moment before. What a
//! decoder is given has the heads of a real stream and recycled contents: it works as hard as on a real one, and what it
//! rebuilds is nonsense.

use std::hint::black_box;
use std::time::Instant;

use parhelion_plugin::conformance::SplitMix64;
use parhelion_plugin::{Code, Encoder, ParameterError, RecoveredSink, RepairHead, RepairSink};
use serde::Serialize;

/// How fast a code is on this machine, with one core.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Name, version and parameters.
    pub code: String,
    /// Source bytes per second into the encoder.
    pub encode: f64,
    /// Source bytes per second through the decoder when nothing is lost.
    pub clean: f64,
    /// The same when packets are lost, source and repair alike; see [`LOSS`].
    pub decode: f64,
}

/// What is lost while decoding.
pub const LOSS: f64 = 0.05;

/// Bytes of the buffer that symbols come from.
const BUFFER_BYTES: usize = 256 << 10;

/// Source bytes of one turn: milliseconds, so that some turns are undisturbed.
const TURN_BYTES: usize = 8 << 20;

/// Measures every code in `turns` turns, with symbols of so many bytes.
///
/// # Errors
/// A code makes no encoder or decoder for them, or broke: which, and why.
pub fn measure(codes: &[Code], symbol_bytes: usize, turns: u32) -> Result<Vec<Speed>, ParameterError> {
    let mut runs =
        codes.iter().map(|code| Run::new(code, symbol_bytes.max(1))).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..turns.max(1) {
        for run in &mut runs {
            run.turn()?;
        }
    }
    Ok(runs.into_iter().map(Run::speed).collect())
}

/// A code that is being measured.
struct Run {
    code: Code,
    symbol_bytes: usize,
    symbols: u64,
    buffer: Vec<u8>,
    encoder: Box<dyn Encoder>,
    next: u64,
    /// What arrives of a stream without losses, and of one with them.
    clean: Vec<Arrival>,
    lossy: Vec<Arrival>,
    /// Least seconds of a turn.
    encode: f64,
    clean_decode: f64,
    lossy_decode: f64,
}

#[derive(Clone, Copy)]
enum Arrival {
    Source(u64),
    Repair(RepairHead),
}

impl Run {
    fn new(code: &Code, symbol_bytes: usize) -> Result<Self, ParameterError> {
        // Decoding must reach the steady state.
        let span = code.structure().span_symbols();
        let symbols = ((TURN_BYTES / symbol_bytes) as u64).max(4 * span);
        let slots = (BUFFER_BYTES / symbol_bytes).max(1);
        let mut random = SplitMix64::new(1);
        let buffer = (0..slots * symbol_bytes).map(|_| random.next_u64() as u8 | 1).collect();
        let mut run = Self {
            code: code.clone(),
            symbol_bytes,
            symbols,
            buffer,
            encoder: code.encoder(symbol_bytes)?,
            next: 0,
            clean: Vec::new(),
            lossy: Vec::new(),
            encode: f64::INFINITY,
            clean_decode: f64::INFINITY,
            lossy_decode: f64::INFINITY,
        };
        let mut heads = Heads(Vec::new());
        for id in 0..symbols {
            heads.0.push(Arrival::Source(id));
            run.encoder.source(id, slot(&run.buffer, symbol_bytes, id), &mut heads);
        }
        run.next = symbols;
        run.lossy = heads.0.iter().copied().filter(|_| !random.chance(LOSS)).collect();
        run.clean = heads.0;
        Ok(run)
    }

    fn turn(&mut self) -> Result<(), ParameterError> {
        let mut count = Count(0);
        let start = Instant::now();
        for id in self.next..self.next + self.symbols {
            self.encoder.source(id, slot(&self.buffer, self.symbol_bytes, id), &mut count);
        }
        self.encode = self.encode.min(start.elapsed().as_secs_f64());
        self.next += self.symbols;
        self.broke(self.encoder.fault())?;
        self.clean_decode = self.clean_decode.min(self.decode(&self.clean)?);
        self.lossy_decode = self.lossy_decode.min(self.decode(&self.lossy)?);
        Ok(())
    }

    fn decode(&self, arrivals: &[Arrival]) -> Result<f64, ParameterError> {
        let mut decoder = self.code.decoder(self.symbol_bytes)?;
        let mut count = Count(0);
        let start = Instant::now();
        for arrival in arrivals {
            match *arrival {
                Arrival::Source(id) => {
                    decoder.source(id, slot(&self.buffer, self.symbol_bytes, id), &mut count);
                    if id.is_multiple_of(EXPIRE_SYMBOLS) {
                        decoder.expire(id.saturating_sub(self.code.structure().span_symbols()));
                    }
                }
                Arrival::Repair(head) => {
                    let payload = slot(&self.buffer, self.symbol_bytes, head.cover.last() + 1);
                    // One that comes too late for the window is no fault.
                    let _ = decoder.repair(head, payload, &mut count);
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        self.broke(decoder.fault())?;
        Ok(seconds)
    }

    fn broke(&self, fault: Option<&str>) -> Result<(), ParameterError> {
        match fault {
            Some(fault) => {
                Err(ParameterError::Conflict(format!("{} broke while it was measured: {fault}", self.code)))
            }
            None => Ok(()),
        }
    }

    fn speed(self) -> Speed {
        let bytes = self.symbols as f64 * self.symbol_bytes as f64;
        Speed {
            code: self.code.to_string(),
            encode: bytes / self.encode,
            clean: bytes / self.clean_decode,
            decode: bytes / self.lossy_decode,
        }
    }
}

/// How often a link tells its decoder what is no longer wanted.
const EXPIRE_SYMBOLS: u64 = 256;

/// The contents of a symbol.
fn slot(buffer: &[u8], symbol_bytes: usize, id: u64) -> &[u8] {
    let slots = (buffer.len() / symbol_bytes) as u64;
    let start = (id % slots) as usize * symbol_bytes;
    &buffer[start..start + symbol_bytes]
}

/// Keeps the heads of a stream.
struct Heads(Vec<Arrival>);

impl RepairSink for Heads {
    fn repair(&mut self, head: RepairHead, _payload: &[u8]) {
        self.0.push(Arrival::Repair(head));
    }
}

/// Takes symbols as a link would, without the copy into a datagram.
struct Count(u64);

impl RepairSink for Count {
    fn repair(&mut self, _head: RepairHead, payload: &[u8]) {
        self.0 += 1;
        black_box(payload);
    }
}

impl RecoveredSink for Count {
    fn recovered(&mut self, _id: u64, payload: &[u8]) {
        self.0 += 1;
        black_box(payload);
    }
}

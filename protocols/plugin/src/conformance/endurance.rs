//! A long stream over a lossy link: nothing that encoder and decoder hold grows with it.

use crate::code::{Decoder, RecoveredSink, RepairHead, RepairSink, SymbolError};
use crate::conformance::random::SplitMix64;
use crate::conformance::trial::{SYMBOL_BYTES, Trial};

/// Both ends in steady state for thousands of symbols. If the caller looks at their memory, it must stay as it is.
pub(super) fn endurance(trial: &mut Trial<'_>) -> Result<(), String> {
    let mut encoder = trial.code.encoder(trial.parameters, SYMBOL_BYTES).map_err(|e| e.to_string())?;
    let mut line = Line {
        decoder: trial.decoder()?,
        random: trial.random.clone(),
        losing: false,
        count: Count::default(),
        refused: None,
    };
    // Windows fill, and what grows to the size that it needs has it then.
    let window = trial.structure.window_symbols().unwrap_or(0) as u64;
    let settled = 4 * window;
    let end = settled + trial.some(200_000, 2_000) as u64;
    let mut held = 0;
    let mut payload = [0; SYMBOL_BYTES];
    for id in 0..end {
        if id == settled {
            held = trial.memory.map_or(0, |memory| (memory.held)());
        }
        payload[..8].copy_from_slice(&id.to_le_bytes());
        let bytes = 8 + line.random.below(SYMBOL_BYTES - 7);
        if line.arrives() {
            line.decoder.source(id, &payload[..bytes], &mut line.count);
        }
        encoder.source(id, &payload[..bytes], &mut line);
        if line.random.chance(0.01) {
            encoder.flush(&mut line);
        }
        if id % 64 == 0 {
            line.decoder.expire(id.saturating_sub(window / 2));
        }
    }
    let grown = trial.memory.map_or(0, |memory| (memory.held)()).saturating_sub(held);
    if let Some(fault) = encoder.fault().or(line.decoder.fault()) {
        return Err(format!("broke within {end} symbols: {fault}"));
    }
    if let Some(error) = line.refused {
        return Err(format!("refused a true repair: {error}"));
    }
    if line.count.0 == 0 && trial.structure.repairs_per_symbol() > 0 {
        return Err(format!("rebuilt nothing in {end} symbols"));
    }
    trial.report.recovered += line.count.0;
    match trial.memory {
        Some(memory) if grown > memory.slack => {
            let symbols = end - settled;
            Err(format!("holds {grown} {} more after {symbols} symbols in steady state", memory.unit))
        }
        _ => Ok(()),
    }
}

/// The way to the decoder. It allocates nothing itself.
struct Line {
    decoder: Box<dyn Decoder>,
    random: SplitMix64,
    losing: bool,
    count: Count,
    refused: Option<SymbolError>,
}

#[derive(Default)]
struct Count(u64);

impl Line {
    /// Bursts of two on average.
    fn arrives(&mut self) -> bool {
        self.losing = self.random.chance(if self.losing { 0.5 } else { 0.02 });
        !self.losing
    }
}

impl RepairSink for Line {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        if !self.arrives() {
            return;
        }
        match self.decoder.repair(head, payload, &mut self.count) {
            Ok(()) | Err(SymbolError::Window(_)) => {}
            Err(error) => self.refused = Some(error),
        }
    }
}

impl RecoveredSink for Count {
    fn recovered(&mut self, _id: u64, _payload: &[u8]) {
        self.0 += 1;
    }
}

//! What an encoder sends: parameters, heads, sizes, coverage and overhead.

use crate::code::{RepairHead, Structure};
use crate::conformance::stream::{PacketKind, Stream, Traffic};
use crate::conformance::trial::{SYMBOL_BYTES, Trial};
use crate::parameters::Parameters;

/// Parameters outside the schema are refused.
pub(super) fn schema(trial: &mut Trial<'_>) -> Result<(), String> {
    let (code, symbol_bytes) = (trial.code, SYMBOL_BYTES);
    if trial.structure.window_symbols().is_none() {
        return Err("the window exceeds what a decoder may keep".to_owned());
    }
    let refused = |parameters: &Parameters| {
        code.structure(parameters).is_err()
            && code.encoder(parameters, symbol_bytes).is_err()
            && code.decoder(parameters, symbol_bytes).is_err()
    };
    if !refused(&trial.parameters.clone().with("no-such-parameter", &[1])) {
        return Err("accepts an unknown parameter".to_owned());
    }
    for parameter in code.parameters() {
        let inside = parameter.min..=parameter.max;
        if parameter.default.is_empty() || !parameter.default.iter().all(|v| inside.contains(v)) {
            return Err(format!("the default of {} is outside its range", parameter.name));
        }
        let above = parameter.max.checked_add(1);
        for value in parameter.min.checked_sub(1).into_iter().chain(above) {
            if !refused(&trial.parameters.clone().with(&parameter.name, &[value])) {
                return Err(format!("accepts {}={value}", parameter.name));
            }
        }
    }
    Ok(())
}

/// The same input gives the same repairs.
pub(super) fn determinism(trial: &mut Trial<'_>) -> Result<(), String> {
    let traffic =
        Traffic { symbols: 2 * trial.span() + 3, uneven: true, flush_chance: 0.02, ..Traffic::default() };
    let seed = trial.random.clone();
    let one = trial.encode(traffic)?;
    trial.random = seed;
    let other = trial.encode(traffic)?;
    if one == other { Ok(()) } else { Err("the same input gave other repairs".to_owned()) }
}

/// Heads and sizes of repairs; every symbol under each index, in time, and after each flush; once, but for a sliding window.
pub(super) fn coverage(trial: &mut Trial<'_>) -> Result<(), String> {
    let span = trial.span();
    for (flush_chance, symbols) in
        [(0.0, 3 * span + 5), (0.01, 3 * span + 5), (0.3, span + 40), (1.0, span + 9)]
    {
        let stream = trial.encode(Traffic { symbols, uneven: true, flush_chance, ..Traffic::default() })?;
        covered(&trial.structure, &stream)?;
    }
    // A flush after any number of symbols: the stream ends with one.
    for symbols in 1..=(span + 1).min(trial.some(300, 30)) {
        let stream = trial.encode(Traffic { symbols, uneven: true, ..Traffic::default() })?;
        covered(&trial.structure, &stream)?;
    }
    overhead(trial)
}

/// Without flushes the repairs are as many as the structure says, give or take the two ends.
fn overhead(trial: &mut Trial<'_>) -> Result<(), String> {
    let symbols = (20 * trial.span().max(8)).min(trial.some(usize::MAX, 40_000));
    let stream = trial.encode(Traffic { symbols, ..Traffic::default() })?;
    let repairs = (stream.packets.len() - symbols) as f64;
    let expected = trial.structure.overhead() * symbols as f64;
    let ends = f64::from(trial.structure.repairs_per_symbol()) * trial.span() as f64 * 2.0;
    if repairs + 0.5 < expected || repairs > expected + ends {
        return Err(format!("{repairs} repairs for {symbols} symbols, expected about {expected:.0}"));
    }
    Ok(())
}

/// Whether the heads of a stream that ends with a flush are true and complete.
pub(super) fn covered(structure: &Structure, stream: &Stream) -> Result<(), String> {
    let mut coverage = vec![0_u64; stream.symbols()];
    let mut sent = 0;
    for packet in &stream.packets {
        let head = match packet.kind {
            PacketKind::Source(_) => {
                sent += 1;
                continue;
            }
            PacketKind::Repair(head) => head,
        };
        let RepairHead { cover, index } = head;
        let fault = |what: &str| Err(format!("{head:?} after {sent} symbols {what}"));
        if cover.stride == 0 || cover.count == 0 || u32::from(index) >= structure.repairs_per_symbol() {
            return fault("is not a head");
        }
        if cover.first < stream.first || cover.last() >= stream.first + sent {
            return fault("covers what was not sent");
        }
        if stream.first + sent - 1 - cover.first > structure.span_symbols() {
            return fault("is later than the span");
        }
        let longest = cover.ids().filter_map(|id| stream.symbol(id)).map(<[u8]>::len).max().unwrap_or(0);
        if stream.payload(packet).len() != longest.max(1) {
            return fault("is not as long as the longest symbol of its group");
        }
        for id in cover.ids() {
            let bits = &mut coverage[(id - stream.first) as usize];
            // The indices of a sliding window come round again.
            if *bits & (1 << index) != 0 && !matches!(structure, Structure::Window { .. }) {
                return fault("covers a symbol twice");
            }
            *bits |= 1 << index;
        }
    }
    match coverage.iter().position(|&bits| bits != structure.full_coverage()) {
        Some(n) => Err(format!("symbol {n} of {sent} has coverage {:#b} after a flush", coverage[n])),
        None => Ok(()),
    }
}

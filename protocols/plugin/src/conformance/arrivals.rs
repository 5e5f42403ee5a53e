//! What a decoder makes of packets that come late, twice, in any order, of any size, or of two codes at once.

use crate::conformance::claims::losses_recovered;
use crate::conformance::repairs::covered;
use crate::conformance::stream::{Outcome, Stream, Traffic};
use crate::conformance::trial::{SYMBOL_BYTES, Trial};
use crate::parameters::Parameters;

/// What is rebuilt depends on what arrives, not on when, nor on how often.
pub(super) fn order(trial: &mut Trial<'_>) -> Result<(), String> {
    for round in 0..trial.some(12, 2) {
        let flush_chance = [0.0, 0.05][round % 2];
        let symbols = trial.half_window().min(trial.some(4096, 1024));
        let stream = trial.encode(Traffic { symbols, uneven: true, flush_chance, ..Traffic::default() })?;
        let loss = [0.02, 0.1, 0.2][round % 3];
        let mut arrived: Vec<_> = (0..stream.packets.len()).filter(|_| !trial.random.chance(loss)).collect();
        let missing = trial.deliver(&stream, arrived.iter().copied())?;
        let twice: Vec<_> = arrived.iter().copied().filter(|_| trial.random.chance(0.3)).collect();
        arrived.extend(twice);
        trial.random.shuffle(&mut arrived);
        let again = trial.deliver(&stream, arrived)?;
        if missing != again {
            return Err(format!("in order {} symbols stayed lost, shuffled {}", missing.len(), again.len()));
        }
    }
    Ok(())
}

/// Far more losses than promised, long bursts, and late packets: nothing wrong is ever reported.
pub(super) fn heavy_loss(trial: &mut Trial<'_>) -> Result<(), String> {
    for round in 0..trial.some(8, 2) as u64 {
        let symbols = 4 * trial.half_window().min(trial.some(4096, 512));
        let flush_chance = [0.0, 0.1][(round % 2) as usize];
        let stream = trial.encode(Traffic {
            first: round << 40,
            symbols,
            uneven: true,
            flush_chance,
            ..Traffic::default()
        })?;
        let mut lost = false;
        let mut arrived: Vec<_> = (0..stream.packets.len())
            .filter(|_| {
                lost = if lost { !trial.random.chance(0.05) } else { trial.random.chance(0.05) };
                !lost
            })
            .collect();
        for at in 0..arrived.len() {
            if trial.random.chance(0.01) {
                let late = trial.random.below(arrived.len());
                arrived.swap(at, late);
            }
        }
        trial.deliver(&stream, arrived)?;
    }
    Ok(())
}

/// Ids may start anywhere, up to the last ids there are.
pub(super) fn first_ids(trial: &mut Trial<'_>) -> Result<(), String> {
    let symbols = 2 * trial.span() + 9;
    let highest = u64::MAX - symbols as u64;
    let anywhere = trial.random.next_u64() >> 1;
    for first in [1, anywhere, u64::MAX / 2 - 3, u64::from(u32::MAX) - 2, highest] {
        let stream = trial.encode(Traffic {
            first,
            symbols,
            uneven: true,
            flush_chance: 0.02,
            ..Traffic::default()
        })?;
        covered(&trial.structure, &stream)?;
        let losses = losses_recovered(&trial.structure) as usize;
        for _ in 0..trial.some(8, 1) {
            let start = trial.random.below(stream.packets.len().saturating_sub(losses) + 1);
            let lost: Vec<_> = (start..stream.packets.len().min(start + losses)).collect();
            trial.survive(&stream, &lost)?;
        }
    }
    Ok(())
}

/// Sizes of symbols around those at which vector loops end, and of packets; equal and unequal ones.
pub(super) fn sizes(trial: &mut Trial<'_>) -> Result<(), String> {
    const SIZES: [usize; 18] = [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 1199, 1200, 1201];
    let losses = losses_recovered(&trial.structure) as usize;
    let symbols = (trial.span() + 5).min(trial.some(1500, 200));
    for symbol_bytes in SIZES.into_iter().step_by(trial.some(1, 3)) {
        for uneven in [false, true] {
            let traffic = Traffic { symbols, symbol_bytes, uneven, flush_chance: 0.02, ..Traffic::default() };
            let stream = trial.encode_sized(traffic)?;
            let said = |error| format!("symbols of {symbol_bytes} bytes: {error}");
            covered(&trial.structure, &stream).map_err(said)?;
            for _ in 0..trial.some(4, 1) {
                let start = trial.random.below(stream.packets.len().saturating_sub(losses) + 1);
                let lost: Vec<_> = (start..stream.packets.len().min(start + losses)).collect();
                let decoder = trial.code.decoder(trial.parameters, symbol_bytes);
                let mut decoder = decoder.map_err(|e| said(e.to_string()))?;
                trial.survive_with(decoder.as_mut(), &stream, &lost).map_err(said)?;
            }
        }
    }
    Ok(())
}

/// A link that changes its code flushes the old one, and the new one begins with the next id: to the same code again, and
/// to its defaults. Both decoders run until the old symbols are there, and packets of the two come mixed.
pub(super) fn epoch_change(trial: &mut Trial<'_>) -> Result<(), String> {
    for next in [trial.parameters.clone(), Parameters::new()] {
        let structure = trial.code.structure(&next).map_err(|e| e.to_string())?;
        for _ in 0..trial.some(12, 2) {
            let first = trial.random.next_u64() >> 1;
            let most = |structure: &crate::Structure, limit: usize| {
                let window = structure.window_symbols().unwrap_or(0) / 2;
                (structure.span_symbols() as usize + 9).min(limit).min(window).max(1)
            };
            let limit = trial.some(4096, 300);
            let before = 1 + trial.random.below(most(&trial.structure, limit));
            let after = 1 + trial.random.below(most(&structure, limit));
            let old = trial.encode(Traffic { first, symbols: before, uneven: true, ..Traffic::default() })?;
            let traffic = Traffic {
                first: first + before as u64,
                symbols: after,
                symbol_bytes: SYMBOL_BYTES,
                uneven: true,
                flush_chance: 0.02,
                seed: trial.random.next_u64(),
            };
            let new = Stream::encode(trial.code, &next, &traffic).map_err(|e| e.to_string())?;
            let lost_old = losses_recovered(&trial.structure) as usize;
            let lost_new = losses_recovered(&structure) as usize;
            // The last packets of the old code, among the first of the new one.
            let (start, end) = (old.packets.len().saturating_sub(lost_old), lost_new.min(new.packets.len()));
            let mut arrivals: Vec<(bool, usize)> = (0..start)
                .map(|at| (true, at))
                .chain((end..new.packets.len()).map(|at| (false, at)))
                .collect();
            let mixed = start.saturating_sub(60)..(start + 60).min(arrivals.len());
            trial.random.shuffle(&mut arrivals[mixed]);
            let mut old_decoder = trial.decoder()?;
            let new_decoder = trial.code.decoder(&next, SYMBOL_BYTES);
            let mut new_decoder = new_decoder.map_err(|e| e.to_string())?;
            let (mut of_old, mut of_new) = (Outcome::new(&old), Outcome::new(&new));
            for (is_old, at) in arrivals {
                if is_old {
                    of_old.arrive(old_decoder.as_mut(), at)?;
                } else {
                    of_new.arrive(new_decoder.as_mut(), at)?;
                }
            }
            trial.report.streams += 1;
            trial.report.patterns += 1;
            trial.report.recovered += of_old.recovered + of_new.recovered;
            let (old_missing, new_missing) = (of_old.missing(), of_new.missing());
            if !old_missing.is_empty() || !new_missing.is_empty() {
                return Err(format!(
                    "changed to ({next}) after {before} symbols, lost the last {lost_old} packets of the old code and the \
                     first {lost_new} of the new one, and could not rebuild {old_missing:?} and {new_missing:?}"
                ));
            }
        }
    }
    Ok(())
}

/// An expired symbol is not reported; its neighbours still are, with its help.
pub(super) fn expiry(trial: &mut Trial<'_>) -> Result<(), String> {
    let recovers = trial.structure.repairs_per_symbol() > 0;
    let symbols = 2 * trial.span() + 9;
    let stream = trial.encode(Traffic { first: 7, symbols, uneven: true, ..Traffic::default() })?;
    for n in 0..trial.some(40, 4) {
        let at = trial.random.below(symbols);
        let id = stream.first + at as u64;
        let gone = n % 2 == 0;
        let mut decoder = trial.decoder()?;
        let mut outcome = Outcome::new(&stream);
        for packet in 0..stream.packets.len() {
            if packet == stream.sources[at] {
                // The watermark of delivery stands at the lost symbol, or has been moved past it.
                let floor = if gone { id + 1 } else { id };
                decoder.expire(floor);
                outcome.floor = floor;
            } else {
                outcome.arrive(decoder.as_mut(), packet)?;
            }
        }
        let missing = outcome.missing();
        if missing.is_empty() != (recovers && !gone) {
            return Err(format!(
                "symbol {id} of {symbols}, expired: {gone}; missing in the end: {missing:?}"
            ));
        }
        trial.report.recovered += outcome.recovered;
    }
    Ok(())
}

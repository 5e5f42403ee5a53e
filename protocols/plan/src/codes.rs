//! The codes that are worth a look in a situation, from what the catalogue's families can be told.

use std::sync::Arc;

use parhelion_plugin::{Code, ErasureCode, Parameters};

use crate::interleaves::{interleaves, step_down, step_up};
use crate::situation::Terms;

/// Codes of all families, no structure twice: of families that make the same one, the first of the catalogue stands for
/// all.
///
/// A family is told what its parameters are named for: `r`, `c` and `depth` make block codes, `r` and `interleaves` layers,
/// `copies` and `spacing` repetition, `r`, `c`, `window` and perhaps `indices` a sliding window. Another one takes part with its defaults.
pub(crate) fn codes(catalogue: &[Arc<dyn ErasureCode>], terms: &Terms) -> Vec<Code> {
    let mut codes: Vec<Code> = Vec::new();
    for family in catalogue {
        let has = |name: &str| family.parameters().iter().any(|parameter| parameter.name == name);
        let given = match family {
            _ if has("r") && has("interleaves") => layered(terms),
            _ if has("r") && has("c") && has("window") => windows(terms, &**family),
            _ if has("r") && has("c") => blocks(terms, has("depth")),
            _ if has("copies") && has("spacing") => repetitions(terms),
            _ => vec![Parameters::new()],
        };
        for parameters in given {
            // What a family refuses, such as a group that outlasts the decoder's memory, is no candidate.
            let Ok(code) = Code::new(Arc::clone(family), &parameters) else { continue };
            let structure = code.structure();
            if structure.repairs_per_symbol() > u64::BITS || structure.window_symbols().is_none() {
                continue;
            }
            if codes.iter().all(|known| known.structure() != structure) {
                codes.push(code);
            }
        }
    }
    codes
}

/// Source symbols per group.
const GROUPS: [u32; 11] = [4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64];

/// Larger ones, for block codes, whose repairs are then in proportion.
const WIDE_GROUPS: [u32; 1] = [128];

/// Repairs per block.
const REPAIRS: [u32; 17] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 64];

/// Most packets of a block times repairs: beyond, a model takes longer over a question than an acknowledgement should wait
/// (some 100 microseconds).
const BLOCK_WORK_MAX: u32 = 2600;

/// Source symbols between repairs of a sliding window.
const RHYTHMS: [u32; 4] = [4, 8, 16, 32];

/// Repairs that complete the coverage of a sliding window's symbol.
const INDICES: [u32; 4] = [3, 6, 12, 24];

const LAYERS_MAX: usize = 4;

const COPIES_MAX: u32 = 4;

fn layered(terms: &Terms) -> Vec<Parameters> {
    let mut all = Vec::new();
    for r in GROUPS {
        for layers in 1..=LAYERS_MAX {
            let mut sets: Vec<Vec<u32>> = Vec::new();
            // The widest layer rebuilds bursts as long as its interleave, and its groups end r + 1 interleaves later.
            for top in widths(terms, r + 1) {
                // From the narrowest possible, which rebuilds single losses soon; and all of them wide, so that the burst
                // that took a symbol has hardly any part in any of its groups.
                let bases = [if layers == 1 { top } else { 1 }, top / 2];
                let found = bases.into_iter().filter_map(|base| interleaves(r, layers, base, top));
                sets.extend(found);
            }
            if layers == 1 {
                sets.push(vec![1]);
            }
            sets.sort_unstable();
            sets.dedup();
            all.extend(sets.iter().map(|set| Parameters::new().with("r", &[r]).with("interleaves", set)));
        }
    }
    all
}

fn blocks(terms: &Terms, has_depth: bool) -> Vec<Parameters> {
    let mut all = Vec::new();
    for r in GROUPS.into_iter().chain(WIDE_GROUPS) {
        for c in REPAIRS.into_iter().filter(|&c| c <= r && (r + c) * c <= BLOCK_WORK_MAX) {
            let code = Parameters::new().with("r", &[r]).with("c", &[c]);
            all.push(code.clone());
            if has_depth && terms.has_stream() {
                // Bursts of c * depth packets are rebuilt.
                let mut depths: Vec<u32> =
                    widths(terms, r).into_iter().map(|width| width.div_ceil(c)).collect();
                depths.sort_unstable();
                depths.dedup();
                all.extend(
                    depths.into_iter().filter(|&d| d > 1).map(|depth| code.clone().with("depth", &[depth])),
                );
            }
        }
    }
    all
}

fn repetitions(terms: &Terms) -> Vec<Parameters> {
    let each = |copies: u32| {
        let spacings = widths(terms, copies).into_iter().chain([1]);
        spacings.map(move |spacing| Parameters::new().with("copies", &[copies]).with("spacing", &[spacing]))
    };
    (1..=COPIES_MAX).flat_map(each).collect()
}

fn windows(terms: &Terms, family: &dyn ErasureCode) -> Vec<Parameters> {
    let most = |name: &str| {
        family
            .parameters()
            .iter()
            .find(|parameter| parameter.name == name)
            .map_or(0, |parameter| parameter.max)
    };
    let (window_max, indices_max) = (most("window"), most("indices"));
    let mut all = Vec::new();
    for r in RHYTHMS {
        for c in REPAIRS.into_iter().filter(|&c| c <= r.min(8)) {
            // It must be longer than the burst and the repairs that make up for it (loss model, section 3.3).
            let least = u64::from(terms.burst) * u64::from(r + c) / u64::from(c);
            let window = |times: u64| {
                step_up(u32::try_from(times * least).unwrap_or(u32::MAX).max(32)).min(window_max)
            };
            let mut windows = vec![window(1), window(2), window_max];
            windows.dedup();
            for window in windows {
                let code = Parameters::new().with("r", &[r]).with("c", &[c]).with("window", &[window]);
                // No more than include a symbol before the window has left it behind.
                let most = (window.saturating_mul(c) / r).min(indices_max);
                let indices = INDICES.into_iter().filter(|&indices| indices <= most);
                all.extend(indices.map(|indices| code.clone().with("indices", &[indices])));
                if indices_max == 0 {
                    all.push(code);
                }
            }
        }
    }
    all
}

/// Distances in source symbols that could make sense for something that ends `span` of them later: some that are longer
/// than the likely burst, and the widest that is in time for the deadline, and for the flush that comes otherwise.
fn widths(terms: &Terms, span: u32) -> Vec<u32> {
    let in_time = |seconds: f64| (terms.rate * seconds / f64::from(span.max(1))) as u32;
    let mut most = WIDTH_MAX;
    let mut all: Vec<u32> = [2, 4, 8].map(|times| step_up(terms.burst.saturating_mul(times))).to_vec();
    if terms.has_stream() {
        most = most.min(in_time(terms.useful()));
        all.extend([step_down(in_time(terms.flush_age)), step_down(most)]);
    }
    all.retain(|&width| (1..=most).contains(&width));
    all.sort_unstable();
    all.dedup();
    all
}

/// Widest interleave that families accept.
const WIDTH_MAX: u32 = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interleaves::gcd;
    use crate::situation::Situation;
    use parhelion_code_layered_interleaving::LayeredInterleaving;
    use parhelion_code_none::NoCode;
    use parhelion_code_reed_solomon::ReedSolomon;
    use parhelion_code_repetition::Repetition;
    use parhelion_plugin::Structure;

    fn catalogue() -> Vec<Arc<dyn ErasureCode>> {
        vec![Arc::new(NoCode), Arc::new(LayeredInterleaving), Arc::new(ReedSolomon), Arc::new(Repetition)]
    }

    fn structures(situation: &Situation) -> Vec<Structure> {
        codes(&catalogue(), &Terms::new(situation)).iter().map(|code| code.structure().clone()).collect()
    }

    #[test]
    fn interleaves_are_derived_from_the_symbol_rate() {
        for symbols_per_second in [200.0, 3000.0, 20_000.0, 1e6] {
            let situation = Situation { symbols_per_second, ..Situation::default() };
            let terms = Terms::new(&situation);
            let mut layers = 0;
            for structure in structures(&situation) {
                let Structure::Layered { r, interleaves, delayed } = structure else { continue };
                layers = layers.max(interleaves.len());
                assert!(delayed);
                let top = f64::from(*interleaves.last().unwrap());
                let fires = top * f64::from(r + 1) / symbols_per_second;
                assert!(top == 1.0 || fires <= terms.useful(), "{interleaves:?} fires after {fires} s");
                for (n, &a) in interleaves.iter().enumerate() {
                    assert!(
                        interleaves[n + 1..].iter().all(|&b| gcd(a, b) == 1 && b >= r),
                        "{interleaves:?}"
                    );
                    assert_eq!(gcd(a, r), 1, "{interleaves:?}");
                }
            }
            let expected = if symbols_per_second < 1000.0 { 1 } else { 3 };
            assert!(layers >= expected, "{layers} layers at {symbols_per_second}");
        }
    }

    #[test]
    fn small_changes_of_the_rate_derive_nearly_the_same() {
        let at = |symbols_per_second| structures(&Situation { symbols_per_second, ..Situation::default() });
        let (before, after, twice) = (at(10_000.0), at(10_200.0), at(20_000.0));
        let common =
            |other: &[Structure]| before.iter().filter(|structure| other.contains(structure)).count();
        assert!(common(&after) * 20 > before.len() * 19, "{} of {}", common(&after), before.len());
        assert!(common(&twice) < before.len() - before.len() / 20);
    }

    #[test]
    fn every_family_takes_part_and_no_structure_twice() {
        let all = structures(&Situation::default());
        for (n, structure) in all.iter().enumerate() {
            assert!(!all[n + 1..].contains(structure), "{structure:?}");
        }
        assert!(all.contains(&Structure::None));
        assert!(all.contains(&Structure::Block { r: 8, c: 3, depth: 1 }));
        assert!(all.iter().any(|s| matches!(s, Structure::Repetition { copies: 2, spacing: 1 })));
        assert!(all.iter().any(|s| matches!(s, Structure::Block { depth, .. } if *depth > 1)));
        assert!((100..1500).contains(&all.len()), "{}", all.len());
    }
}

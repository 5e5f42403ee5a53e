//! Durability model for links that lose each packet independently of the others.
//!
//! The cheapest model, and the right one for a provisioned line whose losses are singletons. On a link
//! that loses packets in bursts its figures are too low by orders of magnitude (loss model, section 3.5):
//! use `gilbert-elliott` there.
//!
//! # Guarantee
//! If every packet is lost independently with probability at most [`Channel::loss`], the figure is an
//! upper bound on P(some source symbol of the append neither arrives nor can be rebuilt) from the
//! repair symbols of [`Exposure::coverage`] alone. With `p` the loss, `m` the symbols, `g` the largest
//! group and `c` the repairs on the wire:
//!
//! | code | P(a given symbol is lost for good) at most | why |
//! | --- | --- | --- |
//! | none, or no coverage | `p` | nothing repairs it |
//! | repetition | `p^(1+c)` | all copies must be lost |
//! | block | `p P(Bin(g+c-1, p) >= c)` | any `g` of `g + c` rebuild the block: it needs `c` more losses |
//! | layered interleaving | `p [1 - (1-p)^g]^k` | each XOR misses one of its `g` other packets; no cascade |
//! | sliding window | `p P(losses outrun repairs until c have left)` | a queue of unknowns, exact up to dependent equations |
//! | the same, flushed | `p P(Bin(s+c-1, p) >= c)` | a block of the `s` symbols that the flush includes |
//! | another | `p` | no closed form is known: use `monte-carlo` |
//!
//! `k` is the largest number of covering layers of which no two share a symbol besides the given one:
//! only their failures are independent. It is all of them for the interleaves that one should use
//! (co-prime, each at least `r` times the one before is enough).
//!
//! Survival of a symbol only falls when more packets are lost, so survivals are positively associated
//! (Harris) and `1 - (1 - f)^m` bounds the risk of `m` symbols; it is never above the union bound `m f`.

mod window;

use parhelion_plugin::{Channel, Code, DurabilityModel, Exposure, Structure};
use parhelion_types::Risk;

use crate::window::Shape;

/// Bound for independent losses at [`Channel::loss`]; see the crate's guarantee.
#[derive(Clone, Copy, Debug, Default)]
pub struct IidBound;

impl DurabilityModel for IidBound {
    fn name(&self) -> &str {
        "iid-bound"
    }

    fn version(&self) -> u32 {
        2
    }

    fn own_risk(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> Risk {
        own_risk(channel, code.structure(), exposure)
    }
}

/// The figure for any code of this structure.
#[must_use]
pub fn own_risk(channel: &Channel, code: &Structure, exposure: &Exposure) -> Risk {
    // A loss that is not a number promises nothing.
    let p = if channel.loss.is_nan() { 1.0 } else { channel.loss.clamp(0.0, 1.0) };
    let coverage = exposure.coverage & code.full_coverage();
    let repairs = coverage.count_ones();
    let group = exposure.group_max.max(1);
    let unusable = || any_of(p, group);
    let symbol = match code {
        _ if repairs == 0 => p,
        Structure::None | Structure::Other { .. } => p,
        &Structure::Window { r, c, window, indices } => {
            window_symbol(p, Shape { r, c, window, indices }, &Exposure { coverage, ..*exposure })
        }
        Structure::Repetition { .. } => p.powf(1.0 + f64::from(repairs)),
        Structure::Block { .. } => p * at_least(repairs, group.saturating_add(repairs - 1), p),
        Structure::Layered { interleaves, .. } => {
            p * unusable().powf(f64::from(independent_layers(interleaves, coverage, group)))
        }
    };
    Risk::bound(any_of(symbol, exposure.symbols.max(1)))
}

/// P(a given symbol is lost for good) in a sliding window. `exposure.coverage` has bits of the code alone.
fn window_symbol(p: f64, shape: Shape, exposure: &Exposure) -> f64 {
    if !shape.is_sane() {
        return p;
    }
    let repairs = exposure.repairs();
    let flushed = (exposure.coverage & exposure.flushed).count_ones();
    let regular = |repairs: u32| if repairs > 0 { shape.symbol_risk(p, repairs) } else { p };
    if flushed == 0 {
        return regular(repairs);
    }
    // The newest symbols are in the flush, the others have their regular repairs.
    let (least, most) = shape.lacking();
    let run = if exposure.flush_run > 0 { exposure.flush_run.min(most) } else { most };
    let included = exposure.group_max.min(run).max(1);
    let newest = p * at_least(flushed, included.saturating_add(flushed - 1), p);
    let figure = if exposure.symbols > least.max(1) { newest.max(regular(repairs)) } else { newest };
    figure.min(regular(repairs - flushed))
}

/// P(at least one of `count` independent events of probability `p` each), without cancellation.
fn any_of(p: f64, count: u32) -> f64 {
    -(f64::from(count) * (-p).ln_1p()).exp_m1()
}

/// P(Bin(trials, p) >= least), summed over the tail alone so that small figures keep their digits.
fn at_least(least: u32, trials: u32, p: f64) -> f64 {
    // A longer block than any code here is not worth the sum: count every one of its losses as fatal.
    const TRIALS_MAX: u32 = 1 << 12;
    if least == 0 || p >= 1.0 || trials > TRIALS_MAX {
        return 1.0;
    }
    if p <= 0.0 || least > trials {
        return 0.0;
    }
    let odds = p / (1.0 - p);
    // Term by term in logarithms: the first ones may underflow where the later ones carry the sum.
    let mut log_term = f64::from(trials) * (-p).ln_1p();
    let mut sum = 0.0;
    for lost in 1..=trials {
        log_term += (odds * f64::from(trials - lost + 1) / f64::from(lost)).ln();
        if lost >= least {
            sum += log_term.exp();
        }
    }
    sum.min(1.0)
}

/// Size of the largest set of covering layers in which no two XORs of `group` symbols share more than
/// one symbol.
fn independent_layers(interleaves: &[u32], coverage: u64, group: u32) -> u32 {
    /// Layers beyond these are not counted; no code has as many, and the search is exponential.
    const LAYERS_MAX: usize = 8;
    let layers = interleaves.len().min(LAYERS_MAX);
    let conflicts: [u32; LAYERS_MAX] = std::array::from_fn(|a| {
        (0..layers)
            .filter(|&b| a < layers && a != b && share(interleaves[a], interleaves[b], group))
            .fold(0, |set, b| set | 1 << b)
    });
    let covering = u32::try_from(coverage & ((1 << layers) - 1)).unwrap_or(0);
    (0..=covering)
        .filter(|set| {
            set & !covering == 0 && (0..layers).all(|a| set >> a & 1 == 0 || set & conflicts[a] == 0)
        })
        .map(u32::count_ones)
        .max()
        .unwrap_or(0)
}

/// Whether two progressions through one symbol, with these strides and `group` members, can meet again
/// (A.2, detail 5, of the Maelstrom notes): their common multiple lies within both.
fn share(a: u32, b: u32, group: u32) -> bool {
    let (a, b) = (u64::from(a.max(1)), u64::from(b.max(1)));
    let common = a / gcd(a, b) * b;
    common <= u64::from(group - 1) * a.min(b)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    fn risk(p: f64, code: &Structure, symbols: u32, coverage: u64, group_max: u32) -> f64 {
        let exposure = Exposure::steady(symbols, coverage, group_max);
        own_risk(&Channel::independent(p, 0.999), code, &exposure).probability()
    }

    const WINDOW: Structure = Structure::Window { r: 8, c: 3, window: 128, indices: 6 };

    fn close(value: f64, expected: f64) {
        assert!((value / expected - 1.0).abs() < 1e-3, "{value:e} is not {expected:e}");
    }

    #[test]
    fn figures_of_the_literature() {
        let block = Structure::Block { r: 8, c: 3, depth: 1 };
        // Loss model, section 3.3: residual of RS(8,3) at 5 %, and the low-loss floor p C(n-1,c) p^c.
        close(risk(0.05, &block, 1, 0b111, 8), 5.75e-4);
        close(risk(1e-5, &block, 1, 0b111, 8), 1e-5 * 120.0 * 1e-15);
        // Loss model, section 3.3: one-shot layered at p = 0.2, r = 8: .0185 of the lost ones x p.
        let layered = Structure::Layered { r: 8, interleaves: vec![1, 11, 101], delayed: false };
        let one_shot = 0.05 * (1.0 - 0.95_f64.powi(8)).powi(3);
        close(risk(0.05, &layered, 1, 0b111, 8), one_shot);
        close(risk(0.01, &Structure::Repetition { copies: 2, spacing: 4 }, 3, 0b11, 1), 3e-6);
        close(risk(1e-6, &Structure::None, 100, 0, 0), 1e-4);
    }

    #[test]
    fn layers_that_meet_again_count_once() {
        let proper = Structure::Layered { r: 8, interleaves: vec![1, 11, 101], delayed: true };
        let nested = Structure::Layered { r: 8, interleaves: vec![1, 2, 4], delayed: true };
        let single = risk(0.01, &proper, 1, 0b1, 8);
        assert!(risk(0.01, &proper, 1, 0b111, 8) < single / 100.0);
        assert_eq!(risk(0.01, &nested, 1, 0b111, 8), single);
        // Layers 20 and 40 meet at 40; layer 1 never meets either.
        let half = Structure::Layered { r: 8, interleaves: vec![1, 20, 40], delayed: true };
        assert_eq!(risk(0.01, &half, 1, 0b111, 8), risk(0.01, &proper, 1, 0b011, 8));
        // Dropping a layer never helps, whichever it is.
        for dropped in 0..3 {
            assert!(risk(0.01, &half, 1, 0b111 & !(1 << dropped), 8) >= risk(0.01, &half, 1, 0b111, 8));
        }
    }

    #[test]
    fn repairs_that_are_not_on_the_wire_do_not_count() {
        let codes = [
            Structure::Block { r: 8, c: 3, depth: 1 },
            Structure::Layered { r: 8, interleaves: vec![1, 11, 101], delayed: true },
            Structure::Repetition { copies: 3, spacing: 8 },
            WINDOW,
        ];
        for code in &codes {
            let bare = risk(0.02, code, 4, 0, 0);
            close(bare, 1.0 - 0.98_f64.powi(4));
            let mut last = bare;
            for coverage in [0b1, 0b11, 0b111] {
                let figure = risk(0.02, code, 4, coverage, 8);
                assert!(figure < last, "{code:?} {coverage:b}: {figure} is not below {last}");
                last = figure;
            }
            // A bit beyond the code's own repairs is no repair.
            assert_eq!(risk(0.02, code, 4, 1 << code.repairs_per_symbol(), 8), bare);
        }
    }

    #[test]
    fn more_loss_more_symbols_and_larger_groups_never_lower_the_figure() {
        let codes = [
            Structure::None,
            Structure::Block { r: 8, c: 3, depth: 1 },
            Structure::Block { r: 200, c: 40, depth: 4 },
            Structure::Layered { r: 8, interleaves: vec![1, 11, 101], delayed: true },
            Structure::Repetition { copies: 3, spacing: 8 },
            WINDOW,
        ];
        let mut rng = SmallRng::seed_from_u64(1);
        for _ in 0..20_000 {
            let code = &codes[rng.random_range(0..codes.len())];
            let p = 10_f64.powf(rng.random_range(-9.0..0.0));
            let (symbols, group) = (rng.random_range(1..2000), rng.random_range(1..200));
            let coverage = rng.random::<u64>() & code.full_coverage();
            let figure = risk(p, code, symbols, coverage, group);
            assert!((0.0..=1.0).contains(&figure));
            let slack = figure * (1.0 - 1e-9);
            assert!(risk((p * 1.01).min(1.0), code, symbols, coverage, group) >= slack);
            assert!(risk(p, code, symbols + 1, coverage, group) >= slack);
            assert!(risk(p, code, symbols, coverage, group + 1) >= slack);
            assert!(risk(p, code, symbols, coverage & rng.random::<u64>(), group) >= slack);
        }
    }

    #[test]
    fn the_block_bound_holds_and_is_tight_per_symbol() {
        // One data symbol of an (8,3) block at 10 %: lost for good if three of the ten others are lost.
        let (p, trials) = (0.1, 2_000_000);
        let mut rng = SmallRng::seed_from_u64(7);
        let lost = (0..trials)
            .filter(|_| rng.random_bool(p) && (0..10).filter(|_| rng.random_bool(p)).count() >= 3)
            .count();
        let figure = risk(p, &Structure::Block { r: 8, c: 3, depth: 1 }, 1, 0b111, 8);
        let sigma = (figure / f64::from(trials)).sqrt();
        let seen = lost as f64 / f64::from(trials);
        assert!((seen - figure).abs() < 4.0 * sigma, "seen {seen:e}, figure {figure:e}");
    }

    /// Whether the symbol at `given` of a stream is lost and stays unknown until `repairs` repairs have left behind it: the
    /// queue, packet by packet.
    fn stays_unknown(rng: &mut SmallRng, p: f64, given: u32, repairs: u32) -> bool {
        let (mut lacking, mut left) = (0_u32, repairs);
        for symbol in 0.. {
            let is_lost = rng.random_bool(p);
            lacking += u32::from(is_lost);
            if symbol == given && !is_lost {
                return false;
            }
            for _ in symbol * 3 / 8..(symbol + 1) * 3 / 8 {
                let is_useful = rng.random_bool((1.0 - p) * (1.0 - 1.0 / 256.0));
                lacking = lacking.saturating_sub(u32::from(is_useful));
                if symbol >= given {
                    left -= 1;
                    if lacking == 0 || left == 0 {
                        return lacking > 0;
                    }
                }
            }
        }
        unreachable!("repairs come after some symbols at most")
    }

    #[test]
    fn the_window_bound_holds_and_is_tight_per_symbol() {
        let mut rng = SmallRng::seed_from_u64(11);
        for (p, repairs, tight) in [(0.1, 6, 1.5), (0.1, 2, 1.2), (0.2, 6, 4.0)] {
            let trials = 50_000;
            let lost = |place: u32| {
                let lost = (0..trials).filter(|_| stays_unknown(&mut rng, p, 160 + place, repairs)).count();
                lost as f64 / f64::from(trials)
            };
            let worst = (0..8).map(lost).fold(0.0, f64::max);
            let figure = risk(p, &WINDOW, 1, (1 << repairs) - 1, 128);
            let sigma = (figure / f64::from(trials)).sqrt();
            println!("{p}, {repairs} repairs: seen {worst:.2e}, figure {figure:.2e}");
            // The worst of eight noisy figures lies above its own mean.
            assert!(worst < figure + 4.0 * sigma, "{p}, {repairs}: seen {worst:e}, figure {figure:e}");
            assert!(figure < tight * worst, "{p}, {repairs}: seen {worst:e}, figure {figure:e}");
        }
    }

    #[test]
    fn a_flush_of_a_window_is_a_block() {
        let flushed = |symbols, group_max| {
            let steady = Exposure::steady(symbols, 0b11_1111, group_max);
            let exposure = Exposure { flushed: 0b11_1111, flush_run: group_max.min(16), ..steady };
            own_risk(&Channel::independent(0.05, 0.999), &WINDOW, &exposure).probability()
        };
        let block = risk(0.05, &Structure::Block { r: 15, c: 6, depth: 1 }, 4, 0b11_1111, 4);
        close(flushed(4, 4), block);
        assert!(flushed(4, 128) > 100.0 * block, "older symbols compete for the same repairs");
        assert!(flushed(40, 128) >= flushed(4, 128));
    }

    #[test]
    fn hopeless_channels_promise_nothing() {
        for p in [1.0, 2.0, f64::NAN] {
            assert_eq!(risk(p, &Structure::Block { r: 8, c: 3, depth: 1 }, 1, 0b111, 8), 1.0);
        }
        assert_eq!(risk(0.5, &Structure::Block { r: u32::MAX, c: 3, depth: 1 }, u32::MAX, 7, u32::MAX), 1.0);
        assert_eq!(risk(0.0, &Structure::None, 5, 0, 0), 0.0);
    }
}

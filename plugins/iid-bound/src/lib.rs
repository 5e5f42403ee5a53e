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
//!
//! `k` is the largest number of covering layers of which no two share a symbol besides the given one:
//! only their failures are independent. It is all of them for the interleaves that one should use
//! (co-prime, each at least `r` times the one before is enough).
//!
//! Survival of a symbol only falls when more packets are lost, so survivals are positively associated
//! (Harris) and `1 - (1 - f)^m` bounds the risk of `m` symbols; it is never above the union bound `m f`.

use parhelion_plugin::{Channel, DurabilityModel, Exposure, Structure};
use parhelion_types::Risk;

/// Bound for independent losses at [`Channel::loss`]; see the crate's guarantee.
#[derive(Clone, Copy, Debug, Default)]
pub struct IidBound;

impl DurabilityModel for IidBound {
    fn name(&self) -> &'static str {
        "iid-bound"
    }

    fn version(&self) -> u32 {
        1
    }

    fn own_risk(&self, channel: &Channel, code: &Structure, exposure: &Exposure) -> Risk {
        // A loss that is not a number promises nothing.
        let p = if channel.loss.is_nan() { 1.0 } else { channel.loss.clamp(0.0, 1.0) };
        let coverage = exposure.coverage & code.full_coverage();
        let repairs = coverage.count_ones();
        let group = exposure.group_max.max(1);
        let unusable = || any_of(p, group);
        let symbol = match code {
            _ if repairs == 0 => p,
            Structure::None => p,
            Structure::Repetition { .. } => p.powf(1.0 + f64::from(repairs)),
            Structure::Block { .. } => p * at_least(repairs, group.saturating_add(repairs - 1), p),
            Structure::Layered { interleaves, .. } => {
                p * unusable().powf(f64::from(independent_layers(interleaves, coverage, group)))
            }
        };
        Risk::bound(any_of(symbol, exposure.symbols.max(1)))
    }
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
        IidBound.own_risk(&Channel::independent(p, 0.999), code, &exposure).probability()
    }

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
            assert_eq!(risk(0.02, code, 4, 0b1000, 8), bare);
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

    #[test]
    fn hopeless_channels_promise_nothing() {
        for p in [1.0, 2.0, f64::NAN] {
            assert_eq!(risk(p, &Structure::Block { r: 8, c: 3, depth: 1 }, 1, 0b111, 8), 1.0);
        }
        assert_eq!(risk(0.5, &Structure::Block { r: u32::MAX, c: 3, depth: 1 }, u32::MAX, 7, u32::MAX), 1.0);
        assert_eq!(risk(0.0, &Structure::None, 5, 0, 0), 0.0);
    }
}

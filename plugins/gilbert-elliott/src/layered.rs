//! Layered interleaving: a bound that takes one layer at a time.
//!
//! Inside a burst the layers are not independent, and no closed form of the cascade is safe (loss model,
//! section 3.3): density evolution is below the truth by up to a factor of 14. What always holds is that a
//! symbol which is lost for good is lost *and* its XOR of every layer is unusable; so the least of these
//! probabilities over the layers on the wire is a bound, whatever the order of the packets of different
//! layers.

use crate::chain::{Chain, dot};

/// Bound on P(a given source symbol is lost for good).
///
/// `group` symbols per XOR; `r` as in the code.
pub(crate) fn symbol_risk(
    chain: &Chain,
    interleaves: &[u32],
    delayed: bool,
    coverage: u64,
    r: u32,
    group: u32,
) -> f64 {
    let mut least = 1.0_f64;
    // A flush sends what it owes layer by layer, narrowest first, so a repair of one layer has those of the
    // narrower ones between itself and the last symbol of its group.
    let mut flushed_before = 0_u32;
    for (layer, &interleave) in interleaves.iter().enumerate().take(64) {
        if coverage >> layer & 1 == 1 {
            let steady = Xor::new(chain, group, interleave, if delayed { interleave } else { 1 });
            let flushed = Xor::new(chain, group, interleave, flushed_before.saturating_add(1));
            least = least.min(steady.average().max(flushed.worst()));
        }
        // A full group tells of `r` symbols since the last flush, hence of so many lanes with something to
        // send; one of them may have ended its group just before.
        let owed = if group < r { 1 } else { interleave.min(r).saturating_sub(1).max(1) };
        flushed_before = flushed_before.saturating_add(owed);
    }
    chain.loss() * least
}

/// One XOR on the wire: its source symbols `interleave` slots apart at least (sources alone; repairs in
/// between only add), then its repair symbol.
struct Xor {
    /// By position of a lost symbol: P(the XOR cannot rebuild it | bad state at the symbol).
    unusable: Vec<f64>,
}

impl Xor {
    fn new(chain: &Chain, group: u32, interleave: u32, repair_gap: u32) -> Self {
        let step = chain.over(interleave.max(1));
        let to_repair = chain.over(repair_gap.max(1));
        // P(some of the next k is lost | state here). The chain is reversible, so the same holds backwards.
        let extend = |some: [f64; 2], over: &[[f64; 2]; 2]| {
            let there = [some[0], chain.loss_in_bad + (1.0 - chain.loss_in_bad) * some[1]];
            over.map(|row| dot(row, there))
        };
        let group = group.max(1) as usize;
        let mut former = vec![0.0; group];
        let mut some = [0.0; 2];
        for lost in former.iter_mut() {
            *lost = some[1];
            some = extend(some, &step);
        }
        let mut some = extend([0.0; 2], &to_repair);
        for position in (0..group).rev() {
            let (before, after) = (former[position], some[1]);
            // Past and future are independent given the state at the symbol.
            former[position] = before + after - before * after;
            some = extend(some, &step);
        }
        Self { unusable: former }
    }

    /// For a symbol that is equally likely to be at each place of its group.
    fn average(&self) -> f64 {
        self.unusable.iter().sum::<f64>() / self.unusable.len() as f64
    }

    fn worst(&self) -> f64 {
        self.unusable.iter().fold(0.0, |worst, &p| worst.max(p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parhelion_plugin::Channel;

    #[test]
    fn without_memory_a_layer_is_the_one_shot_formula() {
        let chain = Chain::new(&Channel::independent(0.05, 0.999));
        let expected = 0.05 * (1.0 - 0.95_f64.powi(8));
        for delayed in [false, true] {
            let figure = symbol_risk(&chain, &[1, 11, 101], delayed, 0b100, 8, 8);
            assert!((figure / expected - 1.0).abs() < 1e-9, "{figure:e} is not {expected:e}");
        }
    }

    #[test]
    fn a_xor_agrees_with_all_loss_patterns_counted() {
        let channel = Channel { loss_in_bad: 0.7, ..Channel::bursty(0.05, 6.0, 0.999) };
        let chain = Chain::new(&channel);
        let (group, interleave, repair_gap) = (4, 3, 2);
        let xor = Xor::new(&chain, group, interleave, repair_gap);
        for position in 0..4 {
            let lost_and_unusable: f64 = (0_u32..32)
                .filter(|lost| lost >> position & 1 == 1 && lost.count_ones() > 1)
                .map(|lost| {
                    let mut state = chain.shares;
                    for t in 0..5 {
                        let gap = match t {
                            0 => 0,
                            4 => repair_gap,
                            _ => interleave,
                        };
                        state = crate::chain::rows(state, &chain.over(gap));
                        state = if lost >> t & 1 == 1 {
                            [0.0, state[1] * 0.7]
                        } else {
                            [state[0], state[1] * 0.3]
                        };
                    }
                    state[0] + state[1]
                })
                .sum();
            let figure = chain.loss() * xor.unusable[position];
            assert!(
                (figure / lost_and_unusable - 1.0).abs() < 1e-9,
                "{figure:e} is not {lost_and_unusable:e}"
            );
        }
    }

    #[test]
    fn wider_layers_are_worth_more_under_bursts() {
        let chain = Chain::new(&Channel::bursty(0.001, 3.0, 0.999));
        let narrow = symbol_risk(&chain, &[1, 11, 101], true, 0b001, 8, 8);
        let wide = symbol_risk(&chain, &[1, 11, 101], true, 0b100, 8, 8);
        assert!(wide < narrow / 10.0, "{wide:e} against {narrow:e}");
        assert_eq!(symbol_risk(&chain, &[1, 11, 101], true, 0b111, 8, 8), wide);
    }
}

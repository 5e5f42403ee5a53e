//! Whether losses refute the promised risks.
//!
//! A binomial test over appends would be wrong: appends of one disaster share the fate of the link, and one burst
//! takes several of them. Disasters are independent, so both tests here are over disasters. They assume nothing
//! about what happens within one.

use serde::{Deserialize, Serialize};

/// What was promised for one disaster, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Bound on the probability that any acknowledged append is lost.
    pub risk_of_any: f64,
    /// Bound on the expected number of acknowledged appends that are lost.
    pub allowance: f64,
    /// Acknowledged appends lost.
    pub lost: u64,
}

/// Whether losses refute the promised risks, by two one-sided tests at 99 % each.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromiseTest {
    /// Disasters.
    pub trials: u64,
    /// Disasters in which at least one acknowledged append was lost.
    pub losses: u64,
    /// Disasters with a loss that the promises allow for, on average.
    pub expected: f64,
    /// Probability of at least that many disasters with a loss, if the promises hold exactly.
    pub p_value: f64,
    /// Acknowledged appends lost in all disasters.
    pub lost_appends: u64,
    /// Lost appends that the promises allow for, on average.
    pub expected_appends: f64,
    /// Bound on the probability of so many lost appends, if the promises hold exactly.
    pub p_value_appends: f64,
    /// Whether either test refutes the promises.
    pub refuted: bool,
}

impl PromiseTest {
    /// Tests the promises of several disasters.
    ///
    /// The number of disasters with a loss is held against the Poisson-binomial distribution of their bounds, summed
    /// exactly; with equal bounds that is the one-sided binomial test.
    ///
    /// The number of appends lost is tested by betting (Shafer, "Testing by betting", 2021): the product over the
    /// disasters of `1 + (lost / allowance - 1) / n` has a mean of at most 1 if every expected loss is within its
    /// allowance, so by Markov's inequality its reciprocal is a p-value.
    #[must_use]
    pub fn of(outcomes: &[Outcome]) -> Self {
        let risks: Vec<f64> = outcomes.iter().map(|outcome| probability(outcome.risk_of_any)).collect();
        let losses = outcomes.iter().filter(|outcome| outcome.lost > 0).count();
        let p_value = tail(&risks, losses);
        let p_value_appends = 1.0 / winnings(outcomes).max(1.0);
        Self {
            trials: outcomes.len() as u64,
            losses: losses as u64,
            expected: risks.iter().sum(),
            p_value,
            lost_appends: outcomes.iter().map(|outcome| outcome.lost).sum(),
            expected_appends: outcomes.iter().map(allowance).sum(),
            p_value_appends,
            refuted: p_value < SIGNIFICANCE || p_value_appends < SIGNIFICANCE,
        }
    }
}

const SIGNIFICANCE: f64 = 0.01;

/// A figure that is no number promises nothing.
fn probability(risk: f64) -> f64 {
    if risk.is_nan() { 1.0 } else { risk.clamp(0.0, 1.0) }
}

fn allowance(outcome: &Outcome) -> f64 {
    if outcome.allowance.is_nan() { f64::INFINITY } else { outcome.allowance.max(0.0) }
}

/// What a stake of 1 becomes that bets a share of 1/n on each of n disasters. The share decides how strong the test
/// is, not whether it is right: with 1/n a single loss that was all but excluded still refutes.
fn winnings(outcomes: &[Outcome]) -> f64 {
    let share = 1.0 / (outcomes.len() as f64).max(1.0);
    let gain = |outcome: &Outcome| {
        let allowed = allowance(outcome);
        match (allowed > 0.0, outcome.lost) {
            // Nothing is allowed and nothing lost: nothing to bet on.
            (false, 0) => 1.0,
            (false, _) => f64::INFINITY,
            (true, lost) => 1.0 + share * (lost as f64 / allowed - 1.0),
        }
    };
    // A factor of 0 is possible with one disaster alone, so it never meets an infinite one.
    outcomes.iter().map(gain).product()
}

/// P(at least `losses` of independent events with these probabilities happen).
fn tail(probabilities: &[f64], losses: usize) -> f64 {
    if losses == 0 {
        return 1.0;
    }
    // `below[k]` is P(exactly k so far) for k < losses; `above` is the rest, summed up as it arises, so
    // that a tail of 1e-12 is not the rounding error of 1 - 0.999999999999.
    let mut below = vec![0.0; losses];
    below[0] = 1.0;
    let mut above = 0.0;
    for &p in probabilities {
        above += below[losses - 1] * p;
        for k in (1..losses).rev() {
            below[k] = below[k] * (1.0 - p) + below[k - 1] * p;
        }
        below[0] *= 1.0 - p;
    }
    above.min(1.0)
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn outcome(risk_of_any: f64, allowance: f64, lost: u64) -> Outcome {
        Outcome { risk_of_any, allowance, lost }
    }

    #[test]
    fn equal_promises_give_the_binomial_tail() {
        // P(X >= 3) for B(10, 0.1), from the textbook.
        let outcomes: Vec<_> = (0..10).map(|trial| outcome(0.1, 0.1, u64::from(trial < 3))).collect();
        let test = PromiseTest::of(&outcomes);
        assert!((test.p_value - 0.070_190_826_4).abs() < 1e-9, "{}", test.p_value);
        assert!((test.expected - 1.0).abs() < 1e-9);
        assert!(!test.refuted);
        let outcomes: Vec<_> = (0..10).map(|trial| outcome(0.1, 0.1, u64::from(trial < 5))).collect();
        assert!(PromiseTest::of(&outcomes).refuted);
    }

    #[test]
    fn small_promises_are_refuted_by_a_single_loss() {
        let test =
            PromiseTest::of(&[outcome(1e-6, 1e-6, 0), outcome(1e-7, 1e-7, 1), outcome(1e-12, 1e-12, 0)]);
        assert!((test.p_value / (1e-6 + 1e-7) - 1.0).abs() < 1e-4, "{}", test.p_value);
        assert!(test.p_value_appends < 1e-4, "{}", test.p_value_appends);
        assert!(test.refuted);
        assert!(PromiseTest::of(&[outcome(0.0, 0.0, 1)]).refuted);
    }

    #[test]
    fn who_promises_nothing_breaks_no_promise() {
        let test = PromiseTest::of(&[outcome(0.0, 0.0, 0)]);
        assert_eq!((test.p_value, test.p_value_appends, test.refuted), (1.0, 1.0, false));
        assert!(!PromiseTest::of(&[outcome(1.0, 1e4, 500), outcome(f64::NAN, f64::NAN, 9)]).refuted);
        assert!(!PromiseTest::of(&[]).refuted);
    }

    #[test]
    fn one_disaster_is_a_bet_of_everything() {
        // 1 / (lost / allowance): Markov's inequality itself.
        assert!((PromiseTest::of(&[outcome(1.0, 2.0, 50)]).p_value_appends - 0.04).abs() < 1e-12);
        assert!(PromiseTest::of(&[outcome(1.0, 0.4, 50)]).refuted);
    }

    /// Share of drills of 30 disasters that are refuted. In each disaster a burst strikes with probability `chance`
    /// and takes `burst` appends; promised was what follows from `promised`.
    fn refuted(chance: f64, promised: f64, burst: u64, seed: u64) -> f64 {
        const DRILLS: u32 = 2000;
        let mut dice = SmallRng::seed_from_u64(seed);
        let refuted = (0..DRILLS)
            .filter(|_| {
                let outcomes: Vec<_> = (0..30)
                    .map(|_| {
                        let lost = if dice.random_bool(chance) { burst } else { 0 };
                        outcome(promised, promised * burst as f64, lost)
                    })
                    .collect();
                PromiseTest::of(&outcomes).refuted
            })
            .count();
        refuted as f64 / f64::from(DRILLS)
    }

    #[test]
    fn honest_promises_are_seldom_refuted_however_losses_cluster() {
        // Each test errs in 1 % of all drills at most, both together in 2 %.
        for (chance, burst) in [(0.3, 1), (0.3, 200), (0.05, 40), (0.001, 1000), (0.9, 7)] {
            let share = refuted(chance, chance, burst, 11);
            assert!(share <= 0.025, "{chance} x {burst}: {share}");
        }
    }

    #[test]
    fn dishonest_promises_are_caught() {
        for (chance, promised, burst) in [(0.3, 0.03, 1), (0.9, 0.3, 7), (0.2, 1e-3, 40), (1.0, 0.5, 1)] {
            let share = refuted(chance, promised, burst, 12);
            assert!(share >= 0.95, "{chance} promised as {promised}, x {burst}: {share}");
        }
    }

    #[test]
    fn more_appends_than_promised_are_caught_though_disasters_were_announced() {
        // A loss in every disaster was promised, of one append; fifty are lost each time.
        let outcomes = [outcome(1.0, 1.0, 50); 30];
        let test = PromiseTest::of(&outcomes);
        assert_eq!(test.p_value, 1.0);
        assert!(test.refuted && test.p_value_appends < 1e-9, "{test:?}");
    }
}

//! Exact tests and intervals for counts of rare events.

use statrs::function::beta::checked_beta_reg;

/// P(at least `losses` events), where event `i` has probability `probabilities[i]` and all are independent: the exact
/// upper tail of the Poisson-binomial distribution. Never too small where promises only bound the probabilities.
#[must_use]
pub fn poisson_binomial_tail(probabilities: &[f64], losses: usize) -> f64 {
    if losses == 0 {
        return 1.0;
    }
    // `below[k]` is P(exactly k so far) for k < losses; `above` is the rest, summed up as it arises, so that a tail of
    // 1e-12 is not the rounding error of 1 - 0.999999999999.
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

/// How likely losses are that speak as much against the promises, had each been exact: `outcomes` are pairs of what was
/// promised and whether it was lost.
///
/// Losses of all promises together, and of those up to 0.1, 0.01, 0.001 and 0.0001 by themselves, are held against what
/// was promised of them; the least likely counts, times five (Bonferroni). In one sum, a promise of 1e-6 that is wrong by
/// a thousand hides behind one of 0.5 that is right.
#[must_use]
pub fn promise_test(outcomes: &[(f64, bool)]) -> f64 {
    let tail = |limit: &f64| {
        let own = || outcomes.iter().filter(|(promised, _)| promised <= limit);
        let promised: Vec<f64> = own().map(|(promised, _)| *promised).collect();
        poisson_binomial_tail(&promised, own().filter(|(_, is_lost)| *is_lost).count())
    };
    let least = SIZES.iter().map(tail).fold(1.0, f64::min);
    (least * SIZES.len() as f64).min(1.0)
}

/// Promises up to each of these are tested together.
const SIZES: [f64; 5] = [1.0, 0.1, 0.01, 1e-3, 1e-4];

/// P(at least `hits` of `trials`), each with probability `p`.
#[must_use]
pub fn binomial_tail(hits: u64, trials: u64, p: f64) -> f64 {
    match hits {
        0 => 1.0,
        hits if hits > trials => 0.0,
        // P(Bin(n, p) >= k) = I_p(k, n - k + 1).
        hits => checked_beta_reg(hits as f64, (trials - hits + 1) as f64, p.clamp(0.0, 1.0)).unwrap_or(1.0),
    }
}

/// The exact interval of Clopper and Pearson (1934) for the probability behind `hits` of `trials`, two-sided.
#[must_use]
pub fn clopper_pearson(hits: u64, trials: u64, confidence: f64) -> (f64, f64) {
    if trials == 0 {
        return (0.0, 1.0);
    }
    let delta = (1.0 - confidence) / 2.0;
    let (k, n) = (hits as f64, trials as f64);
    // P(Bin >= hits) rises with p, up to delta at the lower bound; P(Bin <= hits) falls, down to delta at the upper one.
    let at_least = |p: f64| checked_beta_reg(k, n - k + 1.0, p).unwrap_or(0.0);
    let more = |p: f64| checked_beta_reg(k + 1.0, n - k, p).unwrap_or(1.0);
    let low = if hits == 0 { 0.0 } else { rising_root(|p| at_least(p) - delta) };
    let high = if hits >= trials { 1.0 } else { rising_root(|p| more(p) - (1.0 - delta)) };
    (low, high)
}

/// The share of `values` that is not above what it returns; 0 without any.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize - 1;
    sorted.get(rank.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// Where a function that rises from below 0 to above 0 on [0, 1] crosses it.
fn rising_root(excess: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if excess(middle) > 0.0 {
            high = middle;
        } else {
            low = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_probabilities_give_the_binomial_tail() {
        // P(X >= 3) for B(10, 0.1), from the textbook.
        assert!((poisson_binomial_tail(&[0.1; 10], 3) - 0.070_190_826_4).abs() < 1e-10);
        assert!((binomial_tail(3, 10, 0.1) - 0.070_190_826_4).abs() < 1e-10);
        assert_eq!((binomial_tail(0, 10, 0.1), binomial_tail(11, 10, 0.1)), (1.0, 0.0));
        assert_eq!(poisson_binomial_tail(&[], 0), 1.0);
        assert_eq!(poisson_binomial_tail(&[0.5; 3], 4), 0.0);
    }

    #[test]
    fn small_tails_keep_their_digits() {
        let tail = poisson_binomial_tail(&[1e-6, 2e-6, 1e-9], 2);
        assert!((tail / 2.003e-12 - 1.0).abs() < 1e-4, "{tail}");
    }

    #[test]
    fn a_small_promise_does_not_hide_behind_large_ones() {
        let honest: Vec<_> = (0..100).map(|n| (0.5, n < 50)).collect();
        assert_eq!(promise_test(&honest), 1.0);
        let small = (0..100).map(|n| (1e-6, n < 2));
        let all: Vec<_> = honest.into_iter().chain(small).collect();
        let sum: Vec<f64> = all.iter().map(|(promised, _)| *promised).collect();
        assert!(poisson_binomial_tail(&sum, 52) > 0.3);
        assert!((promise_test(&all) / (5.0 * 4950.0 * 1e-12) - 1.0).abs() < 1e-3);
        assert_eq!(promise_test(&[]), 1.0);
    }

    #[test]
    fn intervals_are_those_of_the_tables() {
        let near = |(low, high): (f64, f64), expected: (f64, f64)| {
            assert!((low - expected.0).abs() < 1e-5 && (high - expected.1).abs() < 1e-5, "{low} {high}");
        };
        near(clopper_pearson(10, 100, 0.95), (0.04900, 0.17622));
        near(clopper_pearson(1, 20, 0.95), (0.001_265, 0.248_73));
        near(clopper_pearson(0, 30, 0.95), (0.0, 1.0 - 0.025_f64.powf(1.0 / 30.0)));
        assert_eq!(clopper_pearson(0, 0, 0.99), (0.0, 1.0));
        assert_eq!(clopper_pearson(5, 5, 0.99).1, 1.0);
        // Large counts, where the continued fraction is long: within the normal interval's neighbourhood.
        let (low, high) = clopper_pearson(5000, 50_000, 0.99);
        assert!((low - 0.0966).abs() < 2e-4 && (high - 0.1035).abs() < 2e-4, "{low} {high}");
    }

    #[test]
    fn quantiles_are_of_the_sorted_list() {
        let list: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&list, 0.5), quantile(&list, 0.99), quantile(&list, 1.0)), (50.0, 99.0, 100.0));
        assert_eq!((quantile(&[], 0.5), quantile(&[7.0], 0.01)), (0.0, 7.0));
    }
}

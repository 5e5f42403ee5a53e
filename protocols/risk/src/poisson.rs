//! Counts of rare events against what was expected of them.

use statrs::function::gamma::{checked_gamma_lr, checked_gamma_ur};

/// P(at least `count` events), where `mean` are expected.
///
/// 1 where `count` is not above `mean`: that is no surprise, however large the true figure.
pub(crate) fn tail(count: u64, mean: f64) -> f64 {
    let count = count as f64;
    if count <= mean || mean.is_nan() {
        return 1.0;
    }
    // P(Poisson(mean) >= count) = P(Gamma(count) <= mean).
    if mean > 0.0 { checked_gamma_lr(count, mean).unwrap_or(1.0) } else { 0.0 }
}

/// Upper bound on how many events are expected where `count` were seen: with probability at least `1 - delta` over
/// the events, the true mean is not above it.
pub(crate) fn upper(count: u64, delta: f64) -> f64 {
    let seen = count as f64;
    // P(Poisson(U) <= U - t) <= exp(-t^2 / 2U), solved for U.
    let log = -delta.ln();
    let chernoff = seen + log + (log * (log + 2.0 * seen)).sqrt();
    if count > EXACT_MAX {
        return chernoff;
    }
    // P(Poisson(mean) <= count) = P(Gamma(count + 1) >= mean), which falls to delta.
    let (mut low, mut high) = (seen, chernoff);
    while high - low > 1e-6 * high {
        let middle = 0.5 * (low + high);
        match checked_gamma_ur(seen + 1.0, middle) {
            Ok(rest) if rest > delta => low = middle,
            _ => high = middle,
        }
    }
    high
}

/// Most events for the exact bound; beyond, Chernoff's is within a few percent of it.
const EXACT_MAX: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values() {
        // Garwood 1936, exact limits for the mean of a Poisson variable: 97.5 % and 99.5 % one-sided.
        for (count, delta, limit) in [
            (0, 0.025, 3.689),
            (1, 0.025, 5.572),
            (2, 0.025, 7.225),
            (10, 0.025, 18.390),
            (30, 0.025, 42.827),
            (0, 0.005, 5.298),
            (5, 0.005, 14.150),
            (20, 0.005, 34.668),
        ] {
            let bound = upper(count, delta);
            assert!((bound - limit).abs() < 6e-4, "{count} at {delta}: {bound}");
        }
        // 1 - e^-m and 1 - e^-m (1 + m).
        assert!((tail(1, 0.02) / 0.019_801_326_693_244_7 - 1.0).abs() < 1e-12);
        assert!((tail(2, 0.02) / 1.973_532_271_096_94e-4 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_tail_is_the_sum_of_its_terms() {
        for mean in [1e-9_f64, 1e-4, 0.3, 2.0, 17.0, 90.0] {
            let mut term = (-mean).exp();
            let mut below = 0.0;
            for count in 1_u64..200 {
                below += term;
                term *= mean / count as f64;
                let rest: f64 = (0..400)
                    .scan(term, |t, n| {
                        let now = *t;
                        *t *= mean / (count + 1 + n) as f64;
                        Some(now)
                    })
                    .sum();
                let value = tail(count, mean);
                if count as f64 <= mean {
                    assert_eq!(value, 1.0);
                } else {
                    assert!(
                        (value - rest).abs() <= 1e-9 * rest.max(1e-300),
                        "{count} of {mean}: {value} {rest}"
                    );
                    assert!((value + below - 1.0).abs() < 1e-9, "{count} of {mean}");
                }
            }
        }
    }

    #[test]
    fn the_bound_puts_delta_in_the_tail() {
        for delta in [0.05, 1e-3, 1e-9] {
            for count in [0_u64, 1, 3, 30, 300, 1000] {
                let mean = upper(count, delta);
                let share = at_most(count, mean) / delta;
                assert!((0.999..1.0001).contains(&share), "{count} at {delta}: {share}");
                // The bound beyond the exact one lies outside it.
                let log = -delta.ln();
                let chernoff = count as f64 + log + (log * (log + 2.0 * count as f64)).sqrt();
                assert!(mean <= chernoff);
            }
        }
        let (last, first) = (upper(EXACT_MAX, 1e-3), upper(EXACT_MAX + 1, 1e-3));
        assert!(last < first && first < 1.05 * last, "{last} {first}");
    }

    #[test]
    fn both_are_total() {
        for count in [0, 1, 1000, 1001, 1 << 40] {
            for mean in [0.0, 1e-300, 1.0, 1e12, f64::INFINITY, f64::NAN] {
                assert!((0.0..=1.0).contains(&tail(count, mean)), "{count} of {mean}");
            }
            assert!(upper(count, 1e-3) > count as f64);
        }
        assert_eq!((tail(0, 0.0), tail(1, 0.0)), (1.0, 0.0));
    }

    /// P(at most `count`), term by term.
    fn at_most(count: u64, mean: f64) -> f64 {
        let mut log_term = -mean;
        let mut sum = log_term.exp();
        for n in 1..=count {
            log_term += (mean / n as f64).ln();
            sum += log_term.exp();
        }
        sum
    }
}

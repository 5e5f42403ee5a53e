//! One-sided confidence bounds on a probability, from successes in trials (loss model, section 3.6).
//!
//! Clopper-Pearson where the rarer outcome was seen at most [`EXACT_MAX`] times; beyond, the Chernoff bound,
//! which is also guaranteed and by then within a few percent of it. (The continued fraction behind the exact
//! bound needs about the square root of that number of steps, and statrs stops after 140.)

use statrs::function::beta::checked_beta_reg;

/// Upper bound: with probability at least `1 - delta` over the trials, the true value is not above it.
///
/// `successes` and `trials` need not be whole: correlated trials count for less than one each.
pub(crate) fn upper(successes: f64, trials: f64, delta: f64) -> f64 {
    if !(successes >= 0.0 && successes < trials) {
        return 1.0;
    }
    if successes == 0.0 {
        return -(delta.ln() / trials).exp_m1();
    }
    let rate = successes / trials;
    let chernoff = solve(rate, 1.0, |p| trials * divergence(rate, p) - (1.0 / delta).ln()).1;
    if !is_exact(successes, trials) {
        return chernoff;
    }
    // P(Bin(trials, p) <= successes) = I_{1-p}(trials - successes, successes + 1), which falls to delta.
    let tail = |p: f64| {
        checked_beta_reg(trials - successes, successes + 1.0, 1.0 - p).map_or(-1.0, |tail| delta - tail)
    };
    solve(rate, chernoff, tail).1
}

/// Lower bound: with probability at least `1 - delta` over the trials, the true value is not below it.
pub(crate) fn lower(successes: f64, trials: f64, delta: f64) -> f64 {
    if !(successes > 0.0 && successes <= trials) {
        return 0.0;
    }
    if successes == trials {
        return (delta.ln() / trials).exp();
    }
    let rate = successes / trials;
    let chernoff = solve(rate, 0.0, |p| trials * divergence(rate, p) - (1.0 / delta).ln()).1;
    if !is_exact(successes, trials) {
        return chernoff;
    }
    // P(Bin(trials, p) >= successes) = I_p(successes, trials - successes + 1), which falls to delta.
    let tail =
        |p: f64| checked_beta_reg(successes, trials - successes + 1.0, p).map_or(-1.0, |tail| delta - tail);
    solve(rate, chernoff, tail).1
}

/// Most times that the rarer outcome may have been seen for the exact bound.
const EXACT_MAX: f64 = 1000.0;

/// Most trials for the exact bound: the logarithm of the beta function loses digits with their number.
const EXACT_TRIALS_MAX: f64 = 1e9;

fn is_exact(successes: f64, trials: f64) -> bool {
    successes.min(trials - successes) <= EXACT_MAX && trials <= EXACT_TRIALS_MAX
}

/// Kullback-Leibler divergence of two coins, in nats.
fn divergence(seen: f64, p: f64) -> f64 {
    let term = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
    if p <= 0.0 || p >= 1.0 { f64::INFINITY } else { term(seen, p) + term(1.0 - seen, 1.0 - p) }
}

/// Where `excess`, negative at `inside`, turns positive on the way to `outside`: the last points known to lie
/// on either side. The outer one is the safe answer.
fn solve(mut inside: f64, mut outside: f64, excess: impl Fn(f64) -> f64) -> (f64, f64) {
    let start = inside;
    // 60 halvings exhaust the digits; the loop ends far earlier, when both the margin and the bound itself
    // are known to four of them.
    for _ in 0..60 {
        let known = (inside - start).abs().min(inside.min(outside)).min(1.0 - inside.max(outside));
        if (outside - inside).abs() <= 1e-4 * known {
            break;
        }
        let middle = if inside.min(outside) > 0.0 && inside.max(outside) > 4.0 * inside.min(outside) {
            (inside * outside).sqrt()
        } else {
            0.5 * (inside + outside)
        };
        if excess(middle) > 0.0 {
            outside = middle;
        } else {
            inside = middle;
        }
    }
    (inside, outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: f64, expected: f64, tolerance: f64) {
        assert!((value / expected - 1.0).abs() < tolerance, "{value:e} is not {expected:e}");
    }

    /// P(Bin(n, p) <= k), term by term.
    fn at_most(k: u64, n: u64, p: f64) -> f64 {
        let mut log_term = n as f64 * (-p).ln_1p();
        let mut sum = log_term.exp();
        for j in 1..=k {
            log_term += (p / (1.0 - p) * (n - j + 1) as f64 / j as f64).ln();
            sum += log_term.exp();
        }
        sum
    }

    #[test]
    fn no_success_has_a_closed_form() {
        for n in [1.0, 10.0, 1e6, 1e12] {
            for delta in [0.05_f64, 1e-3, 5e-10] {
                close(upper(0.0, n, delta), 1.0 - delta.powf(1.0 / n), 1e-3);
                close(lower(n, n, delta), delta.powf(1.0 / n), 1e-12);
            }
        }
        close(upper(0.0, 1e9, 0.05), 2.9957e-9, 1e-4);
    }

    #[test]
    fn published_values() {
        // Clopper and Pearson 1934 as tabulated; 95 % two-sided limits of 10 in 100 and 1 in 20.
        close(upper(10.0, 100.0, 0.025), 0.17622, 1e-4);
        close(lower(10.0, 100.0, 0.025), 0.04900, 1e-3);
        close(upper(1.0, 20.0, 0.025), 0.24873, 1e-4);
        close(lower(1.0, 20.0, 0.025), 0.001265, 1e-3);
    }

    #[test]
    fn the_exact_bound_puts_delta_in_the_tail() {
        for delta in [0.05, 5e-4, 1e-9] {
            for n in [10, 1000, 1_000_000, 1_000_000_000] {
                for k in [1, 2, 5, 30, 300, 999] {
                    if k >= n {
                        continue;
                    }
                    let (k_f, n_f) = (k as f64, n as f64);
                    // Little less than delta, and more only by the digits that a bound next to 1 has not.
                    let above = at_most(k, n, upper(k_f, n_f, delta)) / delta;
                    let below = (1.0 - at_most(k - 1, n, lower(k_f, n_f, delta))) / delta;
                    assert!((0.99..1.002).contains(&above), "{k} of {n}: {above}");
                    let least = if delta < 1e-6 { 0.9 } else { 0.99 };
                    assert!((least..1.002).contains(&below), "{k} of {n}: {below}");
                }
            }
        }
    }

    #[test]
    fn large_counts_are_close_to_the_normal_limits_and_outside_them() {
        // 5e-4 one-sided is 3.29 sigma; Chernoff costs a fifth of the margin.
        for n in [1e5_f64, 1e9, 1e12] {
            let k = n * 0.1;
            let sigma = (0.1 * 0.9 / n).sqrt();
            let (above, below) = ((upper(k, n, 5e-4) - 0.1) / sigma, (0.1 - lower(k, n, 5e-4)) / sigma);
            assert!((3.25..4.0).contains(&above), "{above}");
            assert!((3.25..4.0).contains(&below), "{below}");
        }
    }

    #[test]
    fn bounds_are_ordered_and_total() {
        for n in [0.0, 0.5, 1.0, 7.3, 1e4, 2e9, 1e15] {
            for share in [0.0, 1e-9, 0.01, 0.5, 0.999, 1.0, 1.5, f64::NAN] {
                let (low, high) = (lower(share * n, n, 1e-3), upper(share * n, n, 1e-3));
                assert!((0.0..=1.0).contains(&low) && (0.0..=1.0).contains(&high), "{share} of {n}");
                assert!(low <= high);
            }
        }
        // One more trial without success never raises the bound; one more success never lowers it.
        for k in 0..2000 {
            let k = f64::from(k);
            assert!(upper(k, 1e6 + 1.0, 1e-3) <= upper(k, 1e6, 1e-3) * (1.0 + 1e-5));
            assert!(upper(k + 1.0, 1e6, 1e-3) >= upper(k, 1e6, 1e-3) * (1.0 - 1e-5));
        }
    }
}

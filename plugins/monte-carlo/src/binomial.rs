//! Exact upper confidence bound on a probability (Clopper and Pearson 1934; loss model, section 3.6).

use statrs::function::beta::checked_beta_reg;

/// With probability at least `1 - delta` over the trials, the true value is not above it.
///
/// Beyond a thousand successes the Chernoff bound takes over, which is guaranteed as well and within a few percent by
/// then.
#[must_use]
pub fn upper(successes: u64, trials: u64, delta: f64) -> f64 {
    let (k, n) = (successes as f64, trials as f64);
    if successes >= trials {
        return 1.0;
    }
    if successes == 0 {
        return -(delta.ln() / n).exp_m1();
    }
    let start = chernoff(successes, trials, delta);
    if successes > EXACT_MAX {
        return start;
    }
    // P(Bin(n, p) <= k) = I_{1-p}(n - k, k + 1), which falls to delta.
    solve(k / n, start, |p| checked_beta_reg(n - k, k + 1.0, 1.0 - p).map_or(-1.0, |tail| delta - tail))
}

/// The bound of Chernoff: as guaranteed as the exact one, up to a third above it, and far quicker.
#[must_use]
pub fn chernoff(successes: u64, trials: u64, delta: f64) -> f64 {
    let (k, n) = (successes as f64, trials as f64);
    if successes >= trials {
        return 1.0;
    }
    if successes == 0 {
        return -(delta.ln() / n).exp_m1();
    }
    solve(k / n, 1.0, |p| n * divergence(k / n, p) + delta.ln())
}

/// Where `excess`, negative at `inside`, turns positive on the way to `outside`.
fn solve(mut inside: f64, mut outside: f64, excess: impl Fn(f64) -> f64) -> f64 {
    // The outer end of the interval is always safe.
    for _ in 0..60 {
        if outside - inside <= 1e-4 * inside {
            break;
        }
        let middle =
            if outside > 4.0 * inside { (inside * outside).sqrt() } else { 0.5 * (inside + outside) };
        if excess(middle) > 0.0 { outside = middle } else { inside = middle }
    }
    outside
}

/// Most successes for the exact bound.
const EXACT_MAX: u64 = 1000;

/// Kullback-Leibler divergence of two coins, in nats.
fn divergence(seen: f64, p: f64) -> f64 {
    let term = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
    if p <= 0.0 || p >= 1.0 { f64::INFINITY } else { term(seen, p) + term(1.0 - seen, 1.0 - p) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values() {
        let close = |value: f64, expected: f64| assert!((value / expected - 1.0).abs() < 1e-3, "{value}");
        close(upper(10, 100, 0.025), 0.17622);
        close(upper(1, 20, 0.025), 0.24873);
        close(upper(0, 1_000_000_000, 0.05), 2.9957e-9);
        assert_eq!(upper(5, 5, 0.1), 1.0);
        assert_eq!(upper(0, 0, 0.1), 1.0);
        for k in [1, 5, 100, 900] {
            let (exact, chernoff) = (upper(k, 100_000, 1e-4), chernoff(k, 100_000, 1e-4));
            assert!(chernoff >= exact && chernoff < 1.35 * exact, "{k}: {exact:e}, {chernoff:e}");
        }
        // Where one bound hands over to the other, no step down.
        assert!(upper(1001, 100_000, 1e-4) > upper(1000, 100_000, 1e-4));
    }
}

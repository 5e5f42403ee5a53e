//! The arithmetic of the report: spreads, latency distributions, and intervals.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Mean and standard deviation over repetitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// Standard deviation of a sample (n - 1); 0 for a single one.
    pub stddev: f64,
}

impl Spread {
    /// The spread of `samples`; zeros when there are none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Self {
        if samples.is_empty() {
            return Self::default();
        }
        let count = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / count;
        if samples.len() < 2 {
            return Self { mean, stddev: 0.0 };
        }
        let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
        Self { mean, stddev: (squares / (count - 1.0)).sqrt() }
    }
}

/// A distribution of latencies, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// The shortest.
    pub min: f64,
    /// Half are at most this long.
    pub p50: f64,
    /// 99 of 100 are at most this long.
    pub p99: f64,
    /// The longest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// The standard deviation: the spread of SMFS section 5.2.
    pub stddev: f64,
    /// Points of the distribution: a share, and the latency that this share does not exceed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quantiles: Vec<(f64, f64)>,
}

impl Latency {
    /// The distribution of latencies given in nanoseconds.
    #[must_use]
    pub fn of_nanos(latencies: impl IntoIterator<Item = u64>) -> Self {
        // Microseconds up to an hour at three significant digits; longer ones count as an hour.
        let Ok(mut histogram) = Histogram::<u64>::new_with_max(HOUR_MICROS, 3) else {
            return Self::default();
        };
        for nanos in latencies {
            histogram.saturating_record((nanos / 1000).max(1));
        }
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |share: f64| histogram.value_at_quantile(share) as f64;
        Self {
            count: histogram.len(),
            min: histogram.min() as f64,
            p50: at(0.5),
            p99: at(0.99),
            max: histogram.max() as f64,
            mean: histogram.mean(),
            stddev: histogram.stdev(),
            quantiles: QUANTILES.iter().map(|&share| (share, at(share))).collect(),
        }
    }

    /// Points of the distribution, as [`Latency::quantiles`]; where those were not told, its four best known ones.
    pub(crate) fn points(&self) -> Vec<(f64, f64)> {
        if !self.quantiles.is_empty() {
            return self.quantiles.clone();
        }
        vec![(0.0, self.min), (0.5, self.p50), (0.99, self.p99), (1.0, self.max)]
    }
}

/// Wilson's 99 % interval for the probability behind `hits` of `trials`: the error bar of a small sample.
#[must_use]
pub(crate) fn wilson(hits: u64, trials: u64) -> (f64, f64) {
    if trials == 0 {
        return (0.0, 1.0);
    }
    let n = trials as f64;
    let share = hits as f64 / n;
    let z2 = Z_99 * Z_99;
    let centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z_99 / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

const HOUR_MICROS: u64 = 3_600_000_000;
/// Two-sided 99 % quantile of the normal distribution.
const Z_99: f64 = 2.575_829_303_548_901;
const QUANTILES: [f64; 27] = [
    0.0, 0.001, 0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8,
    0.85, 0.9, 0.95, 0.975, 0.99, 0.999, 0.9999, 1.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() <= 1e-9 * right.abs().max(1.0)
    }

    #[test]
    fn spreads_are_those_of_a_sample() {
        let spread = Spread::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert!(near(spread.mean, 5.0));
        assert!(near(spread.stddev, (32.0_f64 / 7.0).sqrt()));
        assert_eq!(Spread::of(&[3.0]), Spread { mean: 3.0, stddev: 0.0 });
        assert_eq!(Spread::of(&[]), Spread::default());
    }

    #[test]
    fn latency_shares_are_those_of_the_sorted_list() {
        let latency = Latency::of_nanos((1..=1000).map(|micros| micros * 1000));
        assert_eq!(latency.count, 1000);
        assert_eq!((latency.min, latency.p50, latency.p99, latency.max), (1.0, 500.0, 990.0, 1000.0));
        assert!((latency.mean - 500.5).abs() < 1.0);
        assert!((latency.stddev - 288.7).abs() < 1.0);
        assert_eq!(latency.quantiles.first().map(|point| point.1), Some(1.0));
        assert_eq!(latency.quantiles.last().map(|point| point.1), Some(1000.0));
        assert_eq!(Latency::of_nanos([]), Latency::default());
    }

    #[test]
    fn the_interval_holds_the_share() {
        let (low, high) = wilson(0, 20);
        assert!(low < 1e-12 && high > 0.1 && high < 0.4, "{low} {high}");
        let (low, high) = wilson(10, 20);
        assert!(low < 0.5 && high > 0.5);
        assert!(near(low + high, 1.0));
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }
}

//! What the trials of a cell say, and the bound that follows.

use crate::binomial;

/// Weights of the trials that failed, over all trials of one place, in batches that each have a wire of their own.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) trials: u64,
    pub(crate) failures: u64,
    sum: f64,
    squares: f64,
    heaviest: f64,
    batches: u64,
    /// Of the sums of the batches.
    batch_squares: f64,
    /// Failures by weight, heaviest class first.
    classes: [u32; CLASSES],
}

/// Classes of weights: the last holds all that are lighter.
const CLASSES: usize = 128;

/// Classes per factor of two.
const CLASSES_PER_OCTAVE: f64 = 2.0;

/// Failures below which the heaviest weight seen says nothing about the heaviest there is.
const FAILURES_MIN: u64 = 32;

/// Largest share of one failure in all of them for that.
const SHARE_MAX: f64 = 0.05;

/// A failure that was not seen yet is taken to be no heavier than the heaviest that was, so many times.
const HEAVIER: f64 = 4.0;

impl Tally {
    pub(crate) fn trial(&mut self) {
        self.trials += 1;
    }

    /// A trial failed; no weight exceeds `weight_max`, which is the same for all of them.
    pub(crate) fn failure(&mut self, weight: f64, weight_max: f64) {
        self.failures += 1;
        self.sum += weight;
        self.squares += weight * weight;
        self.heaviest = self.heaviest.max(weight);
        let class = CLASSES_PER_OCTAVE * (weight_max / weight).log2();
        // Towards the heavier, as far as rounding may have put it below.
        self.classes[((class - 1e-9).max(0.0) as usize).min(CLASSES - 1)] += 1;
    }

    /// Adds the trials of one wire. All have the same number.
    pub(crate) fn add_batch(&mut self, batch: &Self) {
        self.trials += batch.trials;
        self.failures += batch.failures;
        self.sum += batch.sum;
        self.squares += batch.squares;
        self.heaviest = self.heaviest.max(batch.heaviest);
        self.classes.iter_mut().zip(&batch.classes).for_each(|(sum, count)| *sum += count);
        self.batches += 1;
        self.batch_squares += batch.sum * batch.sum;
    }

    /// The estimate.
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.trials.max(1) as f64
    }

    /// Whether the failures seen are enough to tell how heavy others are.
    pub(crate) fn is_settled(&self) -> bool {
        self.failures >= FAILURES_MIN && self.heaviest <= SHARE_MAX * self.sum
    }

    /// A bound that holds with probability at least `1 - delta`, where no weight exceeds `weight_max`: the lower of two,
    /// half of the doubt for each.
    pub(crate) fn upper(&self, weight_max: f64, delta: f64) -> f64 {
        let certain = self.certain(weight_max, 0.5 * delta);
        if self.is_settled() { certain.min(self.bernstein(weight_max, 0.5 * delta)) } else { certain }
    }

    /// How often a weight is above each of a number of levels is bounded as Chernoff does; the mean is the area below
    /// (Anderson 1969). Holds whatever the weights. What was not seen costs `weight_max ln(1 / delta) / trials`.
    fn certain(&self, weight_max: f64, delta: f64) -> f64 {
        let each = delta / CLASSES as f64;
        let level = |class: usize| weight_max * (-(class as f64) / CLASSES_PER_OCTAVE).exp2();
        let (mut failures, mut above, mut area) = (0, None, 0.0);
        for (class, &count) in self.classes.iter().enumerate() {
            failures += u64::from(count);
            let often = match above {
                Some(often) if count == 0 => often,
                _ => binomial::chernoff(failures, self.trials, each),
            };
            above = Some(often);
            let below = if class + 1 < CLASSES { level(class + 1) } else { 0.0 };
            area += often * (level(class) - below);
        }
        area
    }

    /// The bound of Bernstein with the variance that was seen (Maurer and Pontil 2009), for weights up to some times the
    /// heaviest. The variance is that of single trials or that of batches, whichever is larger, since wires differ.
    fn bernstein(&self, weight_max: f64, delta: f64) -> f64 {
        let (n, m) = (self.trials as f64, self.batches as f64);
        if m < 2.0 {
            return weight_max;
        }
        let log = (2.0 / delta).ln();
        let of_trials = (self.squares - self.sum * self.sum / n).max(0.0);
        let of_batches = (self.batch_squares - self.sum * self.sum / m).max(0.0) * m / (m - 1.0);
        // The variance of the sum; that of a few batches is known by its own error only.
        let variance = of_trials.max(of_batches * (1.0 + (2.0 * log / m).sqrt()));
        let range = weight_max.min(HEAVIER * self.heaviest);
        (self.sum + (2.0 * log * variance).sqrt() + 7.0 / 3.0 * range * log) / n
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            trials: 0,
            failures: 0,
            sum: 0.0,
            squares: 0.0,
            heaviest: 0.0,
            batches: 0,
            batch_squares: 0.0,
            classes: [0; CLASSES],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parhelion_plugin::conformance::SplitMix64;

    /// Weights as skewed as a mixture allows: lognormal, cut at 1000; one in ten trials fails.
    #[test]
    fn the_bounds_cover_skewed_weights() {
        let mut random = SplitMix64::new(4);
        let (sigma, most) = (1.3_f64, 1000.0);
        let weight = |random: &mut SplitMix64| {
            let unit = || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            let units: f64 = std::iter::repeat_with(unit).take(12).sum();
            (sigma * (units - 6.0)).exp().min(most)
        };
        let truth = 0.1 * (0..4_000_000).map(|_| weight(&mut random)).sum::<f64>() / 4e6;
        for delta in [0.1, 1e-2] {
            let (mut below, mut settled, mut ratios) = ([0; 2], 0, [0.0; 2]);
            for _ in 0..400 {
                let (mut tally, mut batch) = (Tally::default(), Tally::default());
                for trial in 1..=8192 {
                    batch.trial();
                    if random.chance(0.1) {
                        batch.failure(weight(&mut random), most);
                    }
                    if trial % 64 == 0 {
                        tally.add_batch(&std::mem::take(&mut batch));
                    }
                }
                settled += u32::from(tally.is_settled());
                let bounds = [tally.bernstein(most, delta), tally.certain(most, delta)];
                for (n, bound) in bounds.into_iter().enumerate() {
                    below[n] += u32::from(bound < truth);
                    ratios[n] += bound / truth / 400.0;
                }
            }
            println!("doubt {delta}: below {below:?} of 400, {settled} settled, {ratios:?} times the truth");
            assert!(settled > 200, "{settled}");
            assert!(
                below.into_iter().all(|below| f64::from(below) <= 400.0 * delta),
                "{below:?} of 400 at {delta}"
            );
            assert!(ratios[0] < 4.0 && ratios[1] < 10.0, "{ratios:?}");
        }
    }

    #[test]
    fn no_failure_leaves_what_may_have_been_missed() {
        let mut tally = Tally::default();
        (0..1000).for_each(|_| tally.trial());
        let figure = tally.upper(1e-3, 1e-3);
        let missed = 1e-3 * (2.0 * CLASSES as f64 / 1e-3).ln() / 1000.0;
        assert!((figure / missed - 1.0).abs() < 0.01, "{figure:e}");
        // A light failure adds little.
        tally.failure(1e-9, 1e-3);
        let with_one = tally.upper(1e-3, 1e-3);
        assert!(with_one > figure && with_one < figure + 1e-10, "{with_one:e}");
        tally.failure(1e-3, 1e-3);
        assert!(tally.upper(1e-3, 1e-3) > 1.1 * figure);
    }
}

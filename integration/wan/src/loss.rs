//! Packet loss with memory, and the dice that decide it.

use serde::{Deserialize, Serialize};

use crate::WanError;

/// How a direction loses packets: how many, and how many in a row.
///
/// The two-state channel of Gilbert and Elliott with nothing lost in the good state and everything lost in
/// the bad one, stepped once per packet on the fibre ("loss model", section 3.1). Packets of both classes
/// share one channel, because they share the fibre.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Share of packets lost, 0 to 1.
    pub rate: f64,
    /// Mean number of packets lost in a row. At most `1 / (1 - rate)`, so also 1, means that losses are
    /// independent of each other.
    pub mean_burst: f64,
}

impl Loss {
    /// Nothing is lost.
    pub const NONE: Self = Self { rate: 0.0, mean_burst: 1.0 };

    /// Each packet is lost with probability `rate`, independently of all others.
    #[must_use]
    pub fn independent(rate: f64) -> Self {
        Self { rate, mean_burst: 1.0 }
    }

    /// Packets are lost at `rate`, `mean_burst` in a row on average.
    #[must_use]
    pub fn bursty(rate: f64, mean_burst: f64) -> Self {
        Self { rate, mean_burst }
    }

    /// Checks the figures.
    ///
    /// # Errors
    ///
    /// [`WanError::Invalid`] if the rate is no probability, or the burst is below 1 or not finite.
    pub fn validate(&self) -> Result<(), WanError> {
        let invalid =
            |name, value: f64, reason| Err(WanError::Invalid { name, value: value.to_string(), reason });
        if !(0.0..=1.0).contains(&self.rate) {
            return invalid("loss rate", self.rate, "it is a share of packets: give 0 to 1, such as 0.01");
        }
        if !(self.mean_burst >= 1.0 && self.mean_burst.is_finite()) {
            return invalid("mean burst", self.mean_burst, "it is a number of packets: give 1 or more");
        }
        Ok(())
    }

    /// Whether losses have no memory; the rule is that of `Channel::bursty` in the plugin protocol.
    fn is_independent(&self) -> bool {
        self.rate <= 0.0 || self.rate >= 1.0 || self.mean_burst * (1.0 - self.rate) <= 1.0
    }
}

/// The channel's state: decides packet by packet what is lost.
#[derive(Debug)]
pub(crate) struct LossProcess {
    loss: Loss,
    /// Whether the last packet was lost; `None` before the first packet under the present figures.
    bad: Option<bool>,
    dice: Dice,
}

impl LossProcess {
    pub(crate) fn new(loss: Loss, dice: Dice) -> Self {
        Self { loss, bad: None, dice }
    }

    /// New figures from the next packet on. The state starts afresh from the stationary distribution, so
    /// that the loss rate is right from the first packet.
    pub(crate) fn set(&mut self, loss: Loss) {
        self.loss = loss;
        self.bad = None;
    }

    /// Whether the next packet on the fibre is lost.
    pub(crate) fn lose(&mut self) -> bool {
        let Loss { rate, mean_burst } = self.loss;
        if rate <= 0.0 {
            return false;
        }
        let probability = match self.bad {
            _ if self.loss.is_independent() => rate,
            None => rate,
            Some(true) => 1.0 - 1.0 / mean_burst,
            // P(good to bad) follows from the share of time in the bad state being the loss rate.
            Some(false) => rate / (mean_burst * (1.0 - rate)),
        };
        let lost = self.dice.chance(probability);
        self.bad = Some(lost);
        lost
    }
}

/// A stream of random numbers that is the same for a seed on every machine and in every release.
///
/// SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014). The
/// small generators of the `rand` crate may change with its version, and a drill's seed must not.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Stream number `stream` of `seed`. Streams of one seed are unrelated to each other.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut start = Self(seed);
        let base = start.roll();
        Self(base ^ Self(stream).roll())
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in [0, 1), uniform, from the upper 53 bits.
    pub(crate) fn share(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with the given probability. Takes no number from the stream if the answer is certain.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && (probability >= 1.0 || self.share() < probability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loss rate and mean run of losses over `packets` packets.
    fn measure(loss: Loss, seed: u64, packets: u32) -> (f64, f64) {
        let mut process = LossProcess::new(loss, Dice::new(seed, 0));
        let (mut lost, mut runs, mut previous) = (0u32, 0u32, false);
        for _ in 0..packets {
            let now = process.lose();
            lost += u32::from(now);
            runs += u32::from(now && !previous);
            previous = now;
        }
        (f64::from(lost) / f64::from(packets), f64::from(lost) / f64::from(runs.max(1)))
    }

    #[test]
    fn splitmix_matches_its_reference() {
        // First outputs of the reference implementation for seed 1234567.
        let mut dice = Dice(1_234_567);
        assert_eq!(dice.roll(), 6_457_827_717_110_365_317);
        assert_eq!(dice.roll(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn rate_and_burst_are_as_asked() {
        // One million packets; tolerances are five standard deviations or more.
        for (rate, burst) in [(0.001, 1.0), (0.01, 1.0), (0.01, 3.0), (0.05, 8.0), (0.3, 2.0)] {
            let (measured, run) = measure(Loss::bursty(rate, burst), 11, 1_000_000);
            let expected_run = f64::max(burst, 1.0 / (1.0 - rate));
            let spread = 5.0 * (rate * 2.0 * expected_run / 1e6).sqrt();
            assert!((measured - rate).abs() < spread, "{rate} x {burst}: rate {measured}");
            let run_spread = 5.0 * expected_run / (rate * 1e6 / expected_run).sqrt();
            assert!((run - expected_run).abs() < run_spread, "{rate} x {burst}: run {run}");
        }
    }

    #[test]
    fn extremes_are_exact() {
        assert_eq!(measure(Loss::NONE, 3, 1000).0, 0.0);
        assert_eq!(measure(Loss::independent(1.0), 3, 1000).0, 1.0);
    }

    #[test]
    fn impossible_figures_are_refused() {
        for loss in [
            Loss::independent(-0.1),
            Loss::independent(1.1),
            Loss::independent(f64::NAN),
            Loss::bursty(0.1, 0.5),
            Loss::bursty(0.1, f64::INFINITY),
        ] {
            assert!(loss.validate().is_err(), "{loss:?}");
        }
        assert!(Loss::bursty(0.9, 2.0).validate().is_ok());
        assert!(Loss::bursty(0.01, 3.0).validate().is_ok());
    }
}

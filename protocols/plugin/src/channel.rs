//! What the estimator believes of the link, as bounds.

/// A Gilbert-Elliott channel at its worst within the stated confidence (`loss-model.md`, 3.1 and 3.6).
///
/// Two states per packet slot: good, where nothing is lost, and bad. Every field is the bound that
/// makes loss more likely, so a model that is monotone in them yields an upper bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Channel {
    /// Upper bound on P(good to bad) per slot.
    pub good_to_bad: f64,
    /// Lower bound on P(bad to good) per slot; its inverse is the mean burst length.
    pub bad_to_good: f64,
    /// Upper bound on P(lost) in the bad state.
    pub loss_in_bad: f64,
    /// Upper bound on the overall loss rate; what a model without memory uses.
    pub loss: f64,
    /// P(all the bounds hold), such as 0.999.
    pub confidence: f64,
    /// Packets per second on the link, for models in which time matters.
    pub packets_per_second: f64,
}

impl Channel {
    /// Independent losses with probability `loss`: the two-state channel that has no memory.
    #[must_use]
    pub fn independent(loss: f64, confidence: f64) -> Self {
        Self {
            good_to_bad: loss,
            bad_to_good: 1.0 - loss,
            loss_in_bad: 1.0,
            loss,
            confidence,
            packets_per_second: 0.0,
        }
    }

    /// Losses at rate `loss` in bursts of `burst` packets on average, all lost within a burst.
    ///
    /// A `burst` of at most `1 / (1 - loss)` is as good as independent.
    #[must_use]
    pub fn bursty(loss: f64, burst: f64, confidence: f64) -> Self {
        let independent = Self::independent(loss, confidence);
        if loss <= 0.0 || loss >= 1.0 || burst * (1.0 - loss) <= 1.0 {
            return independent;
        }
        let bad_to_good = 1.0 / burst;
        Self { good_to_bad: bad_to_good * loss / (1.0 - loss), bad_to_good, ..independent }
    }

    /// Memory of the channel per slot: 0 for independent losses, near 1 for long bursts.
    #[must_use]
    pub fn memory(&self) -> f64 {
        (1.0 - self.good_to_bad - self.bad_to_good).clamp(0.0, 1.0)
    }

    /// Share of slots in the bad state.
    #[must_use]
    pub fn bad_share(&self) -> f64 {
        let total = self.good_to_bad + self.bad_to_good;
        if total > 0.0 { self.good_to_bad / total } else { 0.0 }
    }

    /// Whether each bound is at least as bad as that of `other`, give or take a share of `slack`.
    #[must_use]
    pub fn is_no_better_than(&self, other: &Self, slack: f64) -> bool {
        let (least, most) = (1.0 - slack, 1.0 + slack);
        self.good_to_bad >= other.good_to_bad * least
            && self.bad_to_good <= other.bad_to_good * most
            && self.loss_in_bad >= other.loss_in_bad * least
            && self.loss >= other.loss * least
    }

    /// The worse of two beliefs, bound by bound.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        Self {
            good_to_bad: self.good_to_bad.max(other.good_to_bad),
            bad_to_good: self.bad_to_good.min(other.bad_to_good),
            loss_in_bad: self.loss_in_bad.max(other.loss_in_bad),
            loss: self.loss.max(other.loss),
            confidence: self.confidence.min(other.confidence),
            packets_per_second: self.packets_per_second.max(other.packets_per_second),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bursty_channel_keeps_its_loss_rate() {
        let channel = Channel::bursty(0.01, 3.0, 0.99);
        assert!((channel.bad_share() - 0.01).abs() < 1e-12);
        assert!((channel.bad_to_good - 1.0 / 3.0).abs() < 1e-12);
        assert!(channel.memory() > 0.6);
        assert!(Channel::bursty(0.01, 1.0, 0.99).memory() < 1e-12);
    }
}

//! From counted transitions to a channel: the confidence box, and the fit of a bad state that is not all bad.

use std::time::Duration;

use parhelion_plugin::Channel;

use crate::binomial;
use crate::channel::{Assumption, ChannelCounts, PRIOR_BURSTS};

/// The box of the loss model, section 3.6: how often bursts begin and end on the wire, each bounded at half
/// of delta.
///
/// These are transitions of the losses. They are those of the channel's state too unless the bad state lets
/// packets through.
pub(crate) struct Transitions {
    begin: Rate,
    end: Rate,
}

/// An estimate, and the bound that makes loss more likely.
struct Rate {
    mean: f64,
    bound: f64,
}

impl Transitions {
    pub(crate) fn new(counts: &ChannelCounts, assumption: &Assumption) -> Self {
        let delta = 1.0 - assumption.confidence;
        let count = |n: u64| n as f64;
        // One burst that was not seen: silence is no proof.
        let (begun, good) = (count(counts.n01) + 1.0, count(counts.n00) + count(counts.n01) + 1.0);
        // The operator's word makes up what is missing of the bursts it is worth, and yields to what was
        // seen.
        let assumed = (PRIOR_BURSTS - count(counts.n10)).max(0.0);
        let ended = count(counts.n10) + assumed;
        let bad = count(counts.n10) + count(counts.n11) + assumed * assumption.burst;
        Self {
            begin: Rate { mean: begun / good, bound: binomial::upper(begun, good, delta / 2.0) },
            end: Rate { mean: ended / bad, bound: binomial::lower(ended, bad, delta / 2.0) },
        }
    }

    /// Whether these counts show bursts more often, or longer ones, than the bounds allow.
    pub(crate) fn is_surprised_by(&self, counts: &ChannelCounts) -> bool {
        let (begun, good) = (counts.n01 as f64, counts.n00 as f64 + counts.n01 as f64);
        let (ended, bad) = (counts.n10 as f64, counts.n10 as f64 + counts.n11 as f64);
        binomial::lower(begun, good, SURPRISE) > self.begin.bound
            || (bad > 0.0 && binomial::upper(ended, bad, SURPRISE) < self.end.bound)
    }

    pub(crate) fn channel(&self, counts: &ChannelCounts, assumption: &Assumption, span: Duration) -> Channel {
        let delta = 1.0 - assumption.confidence;
        let (mut good_to_bad, mut bad_to_good, mut loss_in_bad) = (self.begin.bound, self.end.bound, 1.0);
        if let Some(fit) = fit_three(counts) {
            // Few transitions of the losses are those of the state: the margins are carried over to the fit.
            good_to_bad = (fit.good_to_bad * self.begin.bound / self.begin.mean).min(1.0);
            bad_to_good = (fit.bad_to_good * self.end.bound / self.end.mean).min(1.0);
            let (again, pairs) = (counts.n11 as f64, counts.n11 as f64 + counts.n10 as f64);
            let margin = binomial::upper(again, pairs, delta / 2.0) * pairs / again;
            loss_in_bad = (fit.loss_in_bad * margin).min(1.0);
        }
        let mut channel = Channel {
            good_to_bad,
            bad_to_good,
            loss_in_bad,
            loss: 0.0,
            confidence: assumption.confidence,
            packets_per_second: if span.is_zero() { 0.0 } else { counts.settled as f64 / span.as_secs_f64() },
        };
        // The plain loss rate, where packets count for less the longer the channel remembers (variance
        // inflation).
        let memory = (1.0 - self.begin.mean - self.end.mean).clamp(0.0, 0.999_999);
        let inflation = (1.0 + memory) / (1.0 - memory);
        let lost = (counts.lost as f64 + assumption.burst) / inflation;
        let settled = (counts.settled as f64 + assumption.burst) / inflation;
        let rate = binomial::upper(lost, settled, delta);
        channel.loss = rate.max(channel.bad_share() * loss_in_bad).min(1.0);
        channel
    }
}

/// A short horizon counts when the long ones would show as much with less than this probability.
const SURPRISE: f64 = 0.01;

/// Triples and pairs of losses below which three parameters cannot be told from two.
const FIT_EVENTS_MIN: u64 = 100;

/// Gilbert's three parameters by moments (loss model, section 3.5), where there is enough to fit.
///
/// Without memory all three conditional loss rates are equal and the fit divides by zero; with little of it
/// the fit is noise. Then, as with too few events, the bad state is taken to lose everything.
fn fit_three(counts: &ChannelCounts) -> Option<Channel> {
    let ratio = |part: u64, rest: u64| part as f64 / (part as f64 + rest as f64);
    if counts.n101.saturating_add(counts.n111) < FIT_EVENTS_MIN || counts.n11 < FIT_EVENTS_MIN {
        return None;
    }
    let a = counts.lost as f64 / counts.settled as f64;
    let b = ratio(counts.n11, counts.n10);
    let c = ratio(counts.n111, counts.n101);
    if b < 2.0 * a {
        return None;
    }
    let stay = (a * c - b * b) / (2.0 * a * c - b * (a + c));
    let loss_in_bad = b / stay;
    let bad_to_good = 1.0 - stay;
    let good_to_bad = a * bad_to_good / (loss_in_bad - a);
    let inside = |p: f64| p > 0.0 && p < 1.0;
    (inside(bad_to_good) && inside(good_to_bad) && inside(loss_in_bad)).then_some(Channel {
        good_to_bad,
        bad_to_good,
        loss_in_bad,
        ..Channel::independent(a, 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fit_recovers_gilberts_parameters_from_exact_moments() {
        // Moments of (0.005, 0.1, 0.6) over 1e9 packets, computed from the chain itself.
        let (alpha, beta, e) = (0.005, 0.1, 0.6);
        let (n, bad) = (1e9, alpha / (alpha + beta));
        let (stay, skip) = (1.0 - beta, beta * alpha);
        let lost = n * bad * e;
        let n11 = lost * stay * e;
        // Lost, then anything, then lost; with the middle one lost or not.
        let n111 = n11 * stay * e;
        let n101 = lost * (stay * (1.0 - e) * stay + skip) * e;
        let counts = ChannelCounts {
            settled: n as u64,
            lost: lost as u64,
            n00: (n - 2.0 * lost + n11) as u64,
            n01: (lost - n11) as u64,
            n10: (lost - n11) as u64,
            n11: n11 as u64,
            n101: n101 as u64,
            n111: n111 as u64,
        };
        let fit = fit_three(&counts).unwrap();
        for (value, truth) in [(fit.good_to_bad, alpha), (fit.bad_to_good, beta), (fit.loss_in_bad, e)] {
            assert!((value / truth - 1.0).abs() < 1e-4, "{value} is not {truth}");
        }
        // Too few events, or none of the memory that it fits: no fit.
        assert!(fit_three(&ChannelCounts { n111: 50, n101: 20, ..counts }).is_none());
        let thousand = ChannelCounts { settled: 10_000_000, lost: 1_000_000, n00: 8_100_000, ..counts };
        let independent = ChannelCounts {
            n01: 900_000,
            n10: 900_000,
            n11: 100_000,
            n101: 90_000,
            n111: 10_000,
            ..thousand
        };
        assert!(fit_three(&independent).is_none());
    }

    #[test]
    fn the_assumed_bursts_yield_to_the_seen_ones() {
        let assumption = Assumption { loss: 0.0, burst: 3.0, confidence: 0.999 };
        let with = |bursts: u64, length: u64| {
            let n11 = bursts * (length - 1);
            let counts =
                ChannelCounts { n00: 1_000_000, n01: bursts, n10: bursts, n11, ..ChannelCounts::default() };
            Transitions::new(&counts, &assumption).end
        };
        assert!((with(0, 1).mean - 1.0 / 3.0).abs() < 1e-12);
        assert!((with(20, 10).mean - 0.1).abs() < 1e-12);
        assert!(with(5, 100).mean < 0.05, "five long bursts outweigh fifteen assumed ones");
        assert!(with(20, 3).bound < with(2000, 3).bound && with(2000, 3).bound < 1.0 / 3.0);
    }
}

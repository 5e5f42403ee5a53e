//! The two-state chain, sampled at any gap, and the vectors and matrices over its states.

use parhelion_plugin::Channel;

/// A quantity per state: `[good, bad]`.
pub(crate) type Pair = [f64; 2];

/// A transition from state (row) to state (column).
pub(crate) type Matrix = [Pair; 2];

pub(crate) const IDENTITY: Matrix = [[1.0, 0.0], [0.0, 1.0]];

/// A Gilbert-Elliott channel made fit for bounds: all in range, memory not negative.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    /// Share of slots in each state.
    pub(crate) shares: Pair,
    /// P(a packet is lost | bad); none is lost in the good state.
    pub(crate) loss_in_bad: f64,
    /// P(good to bad) + P(bad to good), at most 1: what is forgotten per slot.
    forgotten: f64,
    /// P(bad in the next slot | bad).
    stays_bad: f64,
}

impl Chain {
    /// The channel, or one that dominates it: where `good_to_bad + bad_to_good` exceeds 1 the bad state
    /// is made longer until losses are independent, because only chains without negative memory are
    /// stochastically monotone (the coupling argument of the loss model, section 3.6).
    pub(crate) fn new(channel: &Channel) -> Self {
        let probability =
            |value: f64, if_none: f64| if value.is_nan() { if_none } else { value.clamp(0.0, 1.0) };
        let good_to_bad = probability(channel.good_to_bad, 1.0);
        let bad_to_good = probability(channel.bad_to_good, 0.0).min(1.0 - good_to_bad);
        let bad = if good_to_bad > 0.0 { good_to_bad / (good_to_bad + bad_to_good) } else { 0.0 };
        Self {
            shares: [1.0 - bad, bad],
            loss_in_bad: probability(channel.loss_in_bad, 1.0),
            stays_bad: 1.0 - bad_to_good,
            forgotten: (good_to_bad + bad_to_good).min(1.0),
        }
    }

    /// P(a packet is lost).
    pub(crate) fn loss(&self) -> f64 {
        self.shares[1] * self.loss_in_bad
    }

    /// P(bad throughout the next `slots` | bad).
    pub(crate) fn stays_bad(&self, slots: i64) -> f64 {
        self.stays_bad.powf(slots as f64)
    }

    /// The chain over `gap` slots: again two states, with the memory to the power of the gap (loss
    /// model, section 3.1).
    pub(crate) fn over(&self, gap: u32) -> Matrix {
        // By way of the logarithm: `1 - kept` is the small difference of two ones where bursts are long.
        let log_kept = f64::from(gap) * (-self.forgotten).ln_1p();
        let (kept, mixed) = (log_kept.exp(), -log_kept.exp_m1());
        let [good, bad] = self.shares;
        [[good + kept * bad, bad * mixed], [good * mixed, bad + kept * good]]
    }

    /// `over(gap)` behind a packet that is received: rows weighted with P(received | state).
    pub(crate) fn received(&self, over: &Matrix) -> Matrix {
        let received = 1.0 - self.loss_in_bad;
        [over[0], [received * over[1][0], received * over[1][1]]]
    }

    /// Row of `over` behind a packet that is lost, which only the bad state does: the good row is zero.
    pub(crate) fn lost(&self, over: &Matrix) -> Pair {
        [self.loss_in_bad * over[1][0], self.loss_in_bad * over[1][1]]
    }

    /// Bound on P(at least one of `count` packets is lost) where at most `between` other packets leave
    /// among them.
    ///
    /// The smaller of two bounds: all `count + between` slots in a row must be free of loss, or, whatever
    /// the gaps, the packets behave at worst as if independent (losses of a chain with memory are
    /// positively associated).
    pub(crate) fn any_lost(&self, count: u32, between: u64) -> f64 {
        let span = u64::from(count).saturating_add(between);
        let slot = Repeat::new(self.received(&self.over(1)), [0.0, self.loss_in_bad]).times(span);
        let in_a_row = dot(self.shares, slot.failed);
        in_a_row.min(any_of(self.loss(), f64::from(count)))
    }
}

/// One step of a process that may fail for good: `survived` moves it on, `failed` is P(it fails now).
///
/// Composed by adding probabilities of failure, never by subtracting from 1, so that a risk of 1e-15
/// keeps its digits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repeat {
    pub(crate) survived: Matrix,
    pub(crate) failed: Pair,
}

impl Repeat {
    pub(crate) fn new(survived: Matrix, failed: Pair) -> Self {
        Self { survived, failed }
    }

    /// This step, then `next`.
    fn then(&self, next: &Self) -> Self {
        let later = columns(&self.survived, next.failed);
        Self {
            survived: product(&self.survived, &next.survived),
            failed: [self.failed[0] + later[0], self.failed[1] + later[1]],
        }
    }

    /// This step `count` times, in a number of compositions that is logarithmic in `count`.
    pub(crate) fn times(&self, mut count: u64) -> Self {
        let mut power = *self;
        let mut whole = Self::new(IDENTITY, [0.0; 2]);
        while count > 0 {
            if count & 1 == 1 {
                whole = power.then(&whole);
            }
            power = power.then(&power);
            count >>= 1;
        }
        whole
    }
}

/// P(at least one of `count` independent events of probability `p`), without cancellation.
pub(crate) fn any_of(p: f64, count: f64) -> f64 {
    -(count * (-p.min(1.0)).ln_1p()).exp_m1()
}

pub(crate) fn dot(a: Pair, b: Pair) -> f64 {
    a[0] * b[0] + a[1] * b[1]
}

/// Row vector times matrix.
pub(crate) fn rows(row: Pair, matrix: &Matrix) -> Pair {
    [row[0] * matrix[0][0] + row[1] * matrix[1][0], row[0] * matrix[0][1] + row[1] * matrix[1][1]]
}

/// Matrix times column vector.
pub(crate) fn columns(matrix: &Matrix, column: Pair) -> Pair {
    [dot(matrix[0], column), dot(matrix[1], column)]
}

pub(crate) fn product(a: &Matrix, b: &Matrix) -> Matrix {
    [rows(a[0], b), rows(a[1], b)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_that_many_steps() {
        let chain = Chain::new(&Channel::bursty(0.03, 7.0, 0.99));
        let mut steps = IDENTITY;
        for gap in 1..40 {
            steps = product(&steps, &chain.over(1));
            let once = chain.over(gap);
            for (a, b) in once.iter().flatten().zip(steps.iter().flatten()) {
                assert!((a - b).abs() < 1e-14);
            }
            for row in once {
                assert!((row[0] + row[1] - 1.0).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn negative_memory_is_replaced_by_a_worse_chain() {
        let channel = Channel { bad_to_good: 0.99, ..Channel::bursty(0.3, 1.0, 0.99) };
        let chain = Chain::new(&Channel { good_to_bad: 0.4, ..channel });
        assert_eq!(chain.shares, [0.6, 0.4]);
        assert!(chain.loss() > 0.4 / 1.39);
        assert_eq!(chain.over(1), [[0.6, 0.4], [0.6, 0.4]]);
    }

    #[test]
    fn any_lost_is_exact_for_packets_in_a_row() {
        let chain = Chain::new(&Channel::bursty(0.02, 5.0, 0.99));
        // Survival: start good and never leave, 9 steps for 10 packets.
        let leave = chain.over(1)[0][1];
        let exact = 1.0 - chain.shares[0] * (1.0 - leave).powi(9);
        assert!((chain.any_lost(10, 0) - exact).abs() < 1e-14);
        assert!(chain.any_lost(10, 30) > exact);
        assert!(chain.any_lost(10, 1_000_000) <= 10.0 * chain.loss());
    }

    #[test]
    fn small_risks_keep_their_digits() {
        let chain = Chain::new(&Channel::bursty(1e-18, 2.0, 0.99));
        let figure = chain.any_lost(1, 0);
        assert!((figure / 1e-18 - 1.0).abs() < 1e-9, "{figure:e}");
    }
}

//! The two-state channel: passages of it, and what needs no simulation.

use parhelion_plugin::Channel;
use parhelion_plugin::conformance::SplitMix64;
use parhelion_plugin::trial::Losses;

/// A Gilbert-Elliott channel made fit for bounds: all in range, memory not negative.
///
/// One that would come back to the good state sooner than independence has it is replaced by independent losses at
/// its rate of entering the bad state, which dominate it.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// P(good to bad) per slot.
    pub(crate) good_to_bad: f64,
    /// P(bad to good) per slot.
    pub(crate) bad_to_good: f64,
    /// P(lost) in the bad state; nothing is lost in the good one.
    pub(crate) loss_in_bad: f64,
    /// Share of slots in the bad state.
    pub(crate) bad_share: f64,
    /// `1 / ln P(stay)`, by state.
    sojourn: [f64; 2],
}

/// Least P(good to bad): below it nothing is certified that depends on it.
pub(crate) const GOOD_TO_BAD_MIN: f64 = 1.0 / (1_u64 << 40) as f64;

/// Least P(bad to good): bursts of a million packets on average.
pub(crate) const BAD_TO_GOOD_MIN: f64 = 1.0 / (1_u64 << 20) as f64;

impl Chain {
    /// The channel, or one that dominates it.
    #[must_use]
    pub fn new(channel: &Channel) -> Self {
        let probability =
            |value: f64, if_none: f64| if value.is_nan() { if_none } else { value.clamp(0.0, 1.0) };
        let good_to_bad = probability(channel.good_to_bad, 1.0).clamp(GOOD_TO_BAD_MIN, 1.0 - BAD_TO_GOOD_MIN);
        let bad_to_good = probability(channel.bad_to_good, 0.0).min(1.0 - good_to_bad).max(BAD_TO_GOOD_MIN);
        Self {
            good_to_bad,
            bad_to_good,
            loss_in_bad: probability(channel.loss_in_bad, 1.0),
            bad_share: good_to_bad / (good_to_bad + bad_to_good),
            sojourn: [good_to_bad, bad_to_good].map(|leave| (-leave).ln_1p().recip()),
        }
    }

    /// P(a packet is lost).
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.bad_share * self.loss_in_bad
    }

    /// P(at least one of `count` packets is lost) where at most `between` others leave among them: the smaller of what
    /// all these slots in a row lose, and of what packets lose that are far apart (losses of a chain with memory
    /// are positively associated). Exact where none is between, and needs no work.
    #[must_use]
    pub fn any_lost(&self, count: u32, between: u64) -> f64 {
        // One slot: from state to state without a loss, and P(loss | state). Squared again and again; failures are added,
        // never subtracted from 1, so that small ones keep their digits.
        let kept = 1.0 - self.loss_in_bad;
        let (a, b) = (self.good_to_bad, self.bad_to_good);
        let mut power = ([[1.0 - a, a], [kept * b, kept * (1.0 - b)]], [0.0, self.loss_in_bad]);
        let mut whole = ([[1.0, 0.0], [0.0, 1.0]], [0.0; 2]);
        let mut slots = u64::from(count).saturating_add(between);
        while slots > 0 {
            if slots & 1 == 1 {
                whole = then(&power, &whole);
            }
            power = then(&power, &power);
            slots >>= 1;
        }
        let in_a_row = (1.0 - self.bad_share) * whole.1[0] + self.bad_share * whole.1[1];
        in_a_row.min(any_of(self.loss(), f64::from(count)))
    }

    /// Adds what the channel takes in one passage over all slots of `losses`.
    pub fn pass(&self, losses: &mut Losses, random: &mut SplitMix64) {
        let slots = losses.slots();
        let is_bad = random.chance(self.bad_share);
        if slots > 0 && is_bad && self.loses(random) {
            losses.insert(0);
        }
        self.walk(is_bad, slots.saturating_sub(1), random, |distance| losses.insert(distance));
    }

    /// Whether a packet in the bad state is lost.
    pub(crate) fn loses(&self, random: &mut SplitMix64) -> bool {
        self.loss_in_bad >= 1.0 || random.chance(self.loss_in_bad)
    }

    /// Goes on for `slots` slots from a slot in the given state, and tells `lost` the distances of the losses. To both
    /// sides alike: a chain of two states is reversible.
    pub(crate) fn walk(
        &self,
        is_bad: bool,
        slots: usize,
        random: &mut SplitMix64,
        mut lost: impl FnMut(usize),
    ) {
        let mut here = 0;
        let mut is_bad = is_bad;
        while here < slots {
            let stays = self.stays(is_bad, random).min(slots - here);
            if is_bad {
                (here + 1..=here + stays).for_each(|distance| {
                    if self.loses(random) {
                        lost(distance);
                    }
                });
            }
            here += stays + 1;
            is_bad = !is_bad;
            if is_bad && here <= slots && self.loses(random) {
                lost(here);
            }
        }
    }

    /// Slots for which the chain stays in its state.
    fn stays(&self, is_bad: bool, random: &mut SplitMix64) -> usize {
        // P(at least k) = P(stay)^k.
        let unit = 1.0 - unit(random);
        (unit.ln() * self.sojourn[usize::from(is_bad)]) as usize
    }
}

/// A number in [0, 1).
pub(crate) fn unit(random: &mut SplitMix64) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// P(at least one of `count` independent events of probability `p`), without cancellation.
pub(crate) fn any_of(p: f64, count: f64) -> f64 {
    -(count * (-p.min(1.0)).ln_1p()).exp_m1()
}

/// A process that survives from state to state or fails.
type Process = ([[f64; 2]; 2], [f64; 2]);

fn then(first: &Process, second: &Process) -> Process {
    let row = |a: [f64; 2]| {
        let (m, f) = second;
        ([a[0] * m[0][0] + a[1] * m[1][0], a[0] * m[0][1] + a[1] * m[1][1]], a[0] * f[0] + a[1] * f[1])
    };
    let (good, later_good) = row(first.0[0]);
    let (bad, later_bad) = row(first.0[1]);
    ([good, bad], [first.1[0] + later_good, first.1[1] + later_bad])
}

/// Probabilities over gaps of any length, from tables that grow with what is asked for.
#[derive(Debug)]
pub(crate) struct Gaps {
    chain: Chain,
    /// By gap: memory to its power, and 1 less that.
    kept: Vec<(f64, f64)>,
    /// By gap: P(never leaves the state), good and bad.
    stays: Vec<[f64; 2]>,
}

/// Gaps that are kept in tables; longer ones are computed.
const GAPS_MAX: usize = 8192;

impl Gaps {
    pub(crate) fn new(chain: Chain) -> Self {
        Self { chain, kept: Vec::new(), stays: Vec::new() }
    }

    fn at(&mut self, gap: usize) -> ((f64, f64), [f64; 2]) {
        let Chain { good_to_bad, bad_to_good, .. } = self.chain;
        let figure = |gap: usize| {
            let log = gap as f64 * (-(good_to_bad + bad_to_good).min(1.0)).ln_1p();
            let stays = [good_to_bad, bad_to_good].map(|leave| (gap as f64 * (-leave).ln_1p()).exp());
            // Of no gap nothing is forgotten, not even by a chain without memory.
            let kept = if gap == 0 { (1.0, 0.0) } else { (log.exp(), -log.exp_m1()) };
            (kept, stays)
        };
        if gap > GAPS_MAX {
            return figure(gap);
        }
        while self.kept.len() <= gap {
            let (kept, stays) = figure(self.kept.len());
            self.kept.push(kept);
            self.stays.push(stays);
        }
        (self.kept[gap], self.stays[gap])
    }

    /// P(bad `gap` slots later), from the good and from the bad state.
    pub(crate) fn chance_of_bad(&mut self, gap: usize) -> [f64; 2] {
        let ((kept, mixed), _) = self.at(gap);
        let bad = self.chain.bad_share;
        [bad * mixed, bad + kept * (1.0 - bad)]
    }

    /// P(`to` `gap` slots after `from`).
    fn over(&mut self, from: bool, to: bool, gap: usize) -> f64 {
        let ((kept, mixed), _) = self.at(gap);
        let share = if to { self.chain.bad_share } else { 1.0 - self.chain.bad_share };
        if from == to { share + kept * (1.0 - share) } else { share * mixed }
    }

    /// Draws the states strictly between a slot in state `from` and one in state `to`, `gap` slots later, and tells `lost`
    /// the distances of the losses.
    pub(crate) fn bridge(
        &mut self,
        from: bool,
        to: bool,
        gap: usize,
        random: &mut SplitMix64,
        mut lost: impl FnMut(usize),
    ) {
        if gap <= 1 {
            return;
        }
        let mut here = from;
        // Nearly always nothing happens; if something does, it is drawn slot by slot.
        let mut changes = from != to;
        if !changes {
            let (_, stays) = self.at(gap);
            changes = unit(random) * self.over(from, to, gap) >= stays[usize::from(from)];
            if !changes {
                if from {
                    (1..gap).filter(|_| self.chain.loses(random)).for_each(lost);
                }
                return;
            }
        }
        for distance in 1..gap {
            let rest = gap - distance;
            let leave = if here { self.chain.bad_to_good } else { self.chain.good_to_bad };
            let to_other = leave * self.over(!here, to, rest);
            let to_same = (1.0 - leave) * self.over(here, to, rest);
            // A change that is still owed takes the paths without any out.
            let owed =
                if changes && here == to { self.at(rest).1[usize::from(here)] * (1.0 - leave) } else { 0.0 };
            let total = to_other + (to_same - owed).max(0.0);
            if unit(random) * total < to_other {
                here = !here;
                changes = false;
            }
            if here && self.chain.loses(random) {
                lost(distance);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(good_to_bad: f64, bad_to_good: f64, loss_in_bad: f64) -> Chain {
        let channel = Channel::independent(0.0, 0.999);
        Chain::new(&Channel { good_to_bad, bad_to_good, loss_in_bad, ..channel })
    }

    #[test]
    fn any_lost_is_exact_for_packets_in_a_row() {
        let chain = chain(0.004, 0.2, 1.0);
        let exact = 1.0 - (1.0 - chain.bad_share) * (1.0 - chain.good_to_bad).powi(9);
        assert!((chain.any_lost(10, 0) - exact).abs() < 1e-14);
        assert!(chain.any_lost(10, 30) > exact);
        assert!(chain.any_lost(10, u64::MAX) <= 10.0 * chain.loss());
    }

    #[test]
    fn passages_have_the_losses_and_bursts_of_the_channel() {
        let chain = chain(0.01, 0.2, 0.8);
        let mut random = SplitMix64::new(5);
        let mut losses = Losses::default();
        let (mut lost, mut pairs) = (0.0, 0.0);
        for _ in 0..400 {
            losses.clear(1000);
            chain.pass(&mut losses, &mut random);
            lost += f64::from(losses.count());
            pairs += losses.iter().filter(|slot| losses.contains(slot + 1)).count() as f64;
        }
        let (rate, pair) = (lost / 4e5, pairs / lost);
        assert!((rate / chain.loss() - 1.0).abs() < 0.05, "{rate}");
        assert!((pair / (0.8 * 0.8) - 1.0).abs() < 0.03, "{pair}");
    }

    #[test]
    fn bridges_are_passages_between_their_ends() {
        // Free walks sorted by where they end, against bridges to that end: losses at each distance.
        let chain = chain(0.05, 0.3, 0.7);
        let mut gaps = Gaps::new(chain);
        let mut random = SplitMix64::new(6);
        let gap = 6;
        for from in [false, true] {
            for to in [false, true] {
                let mut free = [0.0; 6];
                let mut count = 0.0;
                while count < 100_000.0 {
                    let mut state = from;
                    let mut lost = [false; 6];
                    for lost in &mut lost[1..] {
                        let leave = if state { chain.bad_to_good } else { chain.good_to_bad };
                        state ^= random.chance(leave);
                        *lost = state && random.chance(chain.loss_in_bad);
                    }
                    let leave = if state { chain.bad_to_good } else { chain.good_to_bad };
                    if state ^ random.chance(leave) == to {
                        count += 1.0;
                        free.iter_mut().zip(lost).for_each(|(sum, lost)| *sum += f64::from(u8::from(lost)));
                    }
                }
                let mut bridged = [0.0; 6];
                for _ in 0..100_000 {
                    gaps.bridge(from, to, gap, &mut random, |distance| bridged[distance] += 1.0);
                }
                for (free, bridged) in free.into_iter().zip(bridged) {
                    let sigma = f64::sqrt(free + bridged + 1.0);
                    assert!((free - bridged).abs() < 5.0 * sigma, "{from} to {to}: {free} and {bridged}");
                }
            }
        }
    }

    #[test]
    fn small_risks_keep_their_digits() {
        let chain = chain(1e-11, 0.5, 1.0);
        assert!((chain.any_lost(1, 0) / 2e-11 - 1.0).abs() < 1e-6);
    }
}

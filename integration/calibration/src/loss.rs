//! How a line loses packets: independent losses, bursts, and what fits no formula.

use std::time::Duration;

use parhelion_plugin::Channel;
use parhelion_types::Time;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A law of losses; [`start`](Self::start) makes a line of it.
#[derive(Clone, Debug, PartialEq)]
pub enum LossLaw {
    /// Each packet is lost with this probability.
    Independent(f64),
    /// The chain of Gilbert and Elliott (loss model, section 3.1).
    Bursts {
        /// Share of packets lost.
        rate: f64,
        /// Mean slots that the bad state lasts.
        burst: f64,
        /// P(lost) in the bad state.
        loss_in_bad: f64,
        /// What moves the chain.
        clock: Clock,
    },
    /// The last of every so many packets.
    Every(u32),
    /// Spells of single losses with one or two packets between them, as interference makes; what is between spells is
    /// drawn anew for each, so many packets on average.
    Spells {
        /// Mean packets from the end of one spell to the next.
        apart: f64,
        /// Losses in one.
        losses: u32,
    },
    /// Bursts whose rate of losses goes up and down as the traffic of a day does.
    Drift {
        /// Lowest and highest share of packets lost.
        rates: [f64; 2],
        /// As in [`Bursts`](Self::Bursts).
        burst: f64,
        /// From one high to the next.
        period: Duration,
    },
    /// Everything is lost for `length`, again and again, besides what `base` loses.
    Outages {
        /// What the line loses otherwise.
        base: Box<LossLaw>,
        /// Mean time between two.
        apart: Duration,
        /// How long one lasts.
        length: Duration,
    },
    /// One law until an instant, another from there on.
    Change {
        /// Until then.
        before: Box<LossLaw>,
        /// From then on.
        after: Box<LossLaw>,
        /// Since the line began.
        at: Duration,
    },
}

/// What moves a chain from slot to slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Each packet: what an emulator does.
    Packets,
    /// The time that a full packet takes on the line: what queues and noise do (loss model, section 3.1, wall-clock version).
    Time,
}

/// A line that loses packets.
pub trait Loss: Send {
    /// Whether the packet that has just been carried is lost. Calls are in the order of the line, so that `at` rises.
    fn takes(&mut self, at: Time) -> bool;
}

impl LossLaw {
    /// Bursts in which everything is lost, moved by time.
    #[must_use]
    pub fn bursts(rate: f64, burst: f64) -> Self {
        Self::Bursts { rate, burst, loss_in_bad: 1.0, clock: Clock::Time }
    }

    /// A line that obeys the law from `start` on, where a full packet takes `slot`.
    #[must_use]
    pub fn start(&self, start: Time, slot: Duration, rng: &mut SmallRng) -> Box<dyn Loss> {
        let mut own = SmallRng::from_rng(rng);
        match *self {
            Self::Independent(rate) => Box::new(Independent { rate, rng: own }),
            Self::Bursts { rate, burst, loss_in_bad, clock } => Box::new(Chain::new(
                rate,
                burst,
                loss_in_bad,
                (clock == Clock::Time).then_some(slot),
                start,
                own,
            )),
            Self::Every(packets) => Box::new(Every { packets, next: own.random_range(0..packets.max(1)) }),
            Self::Spells { apart, losses } => {
                let gap = geometric(&mut own, apart);
                Box::new(Spells { apart, losses, left: losses, gap, rng: own })
            }
            Self::Drift { rates, burst, period } => {
                let phase = own.random::<f64>();
                let chain = Chain::new(rates[0], burst, 1.0, Some(slot), start, own);
                Box::new(Drift { chain, rates, burst, period, start, phase })
            }
            Self::Outages { ref base, apart, length } => {
                let base = base.start(start, slot, &mut own);
                let next = start + exponential(&mut own, apart);
                Box::new(Outages { base, apart, length, next, rng: own })
            }
            Self::Change { ref before, ref after, at } => Box::new(Change {
                before: before.start(start, slot, &mut own),
                after: after.start(start + at, slot, &mut own),
                at: start + at,
            }),
        }
    }

    /// Share of packets lost over a long time.
    #[must_use]
    pub fn rate(&self) -> f64 {
        match *self {
            Self::Independent(rate) | Self::Bursts { rate, .. } => rate,
            Self::Every(packets) => 1.0 / f64::from(packets.max(1)),
            Self::Spells { apart, losses } => f64::from(losses) / (apart + 2.5 * f64::from(losses)),
            Self::Drift { rates: [low, high], .. } => {
                // The mean of low * (high / low)^((1 - cos x) / 2), by the midpoint rule.
                let at = |n: u32| swing([low, high], (f64::from(n) + 0.5) / 64.0);
                (0..64).map(at).sum::<f64>() / 64.0
            }
            Self::Outages { ref base, apart, length } => {
                let share = length.as_secs_f64() / (apart + length).as_secs_f64();
                share + (1.0 - share) * base.rate()
            }
            Self::Change { ref after, .. } => after.rate(),
        }
    }

    /// Slots after which the line has forgotten what it was like, and what it counts them by.
    #[must_use]
    pub fn memory(&self, slot: Duration) -> (f64, Clock) {
        match *self {
            Self::Independent(_) => (1.0, Clock::Packets),
            Self::Bursts { burst, clock, .. } => (burst, clock),
            Self::Every(packets) => (f64::from(packets), Clock::Packets),
            Self::Spells { losses, .. } => (2.5 * f64::from(losses), Clock::Packets),
            Self::Drift { burst, .. } => (burst, Clock::Time),
            Self::Outages { ref base, length, .. } => {
                (base.memory(slot).0.max(length.as_secs_f64() / slot.as_secs_f64()), Clock::Time)
            }
            Self::Change { ref after, .. } => after.memory(slot),
        }
    }
}

struct Independent {
    rate: f64,
    rng: SmallRng,
}

impl Loss for Independent {
    fn takes(&mut self, _: Time) -> bool {
        self.rng.random_bool(self.rate)
    }
}

/// A chain of two states. By time, what happens between two packets is the power of its matrix.
struct Chain {
    bad_share: f64,
    memory: f64,
    loss_in_bad: f64,
    /// None if each packet moves it.
    slot: Option<Duration>,
    last: Time,
    is_bad: bool,
    rng: SmallRng,
}

impl Chain {
    fn new(
        rate: f64,
        burst: f64,
        loss_in_bad: f64,
        slot: Option<Duration>,
        start: Time,
        rng: SmallRng,
    ) -> Self {
        let mut chain =
            Self { bad_share: 0.0, memory: 0.0, loss_in_bad, slot, last: start, is_bad: false, rng };
        chain.set(rate, burst);
        chain.is_bad = chain.rng.random_bool(chain.bad_share);
        chain
    }

    fn set(&mut self, rate: f64, burst: f64) {
        let channel = Channel::bursty(rate / self.loss_in_bad, burst, 1.0);
        (self.bad_share, self.memory) = (channel.bad_share(), channel.memory());
    }
}

impl Loss for Chain {
    fn takes(&mut self, at: Time) -> bool {
        let kept = match self.slot {
            None => self.memory,
            Some(slot) => {
                let slots = at.since(self.last).as_nanos() as f64 / slot.as_nanos() as f64;
                if slots == 1.0 { self.memory } else { self.memory.powf(slots) }
            }
        };
        self.last = at;
        let was = if self.is_bad { 1.0 } else { 0.0 };
        self.is_bad = self.rng.random_bool((self.bad_share + (was - self.bad_share) * kept).clamp(0.0, 1.0));
        self.is_bad && self.rng.random_bool(self.loss_in_bad)
    }
}

struct Every {
    packets: u32,
    /// Packets before the next loss.
    next: u32,
}

impl Loss for Every {
    fn takes(&mut self, _: Time) -> bool {
        let is_lost = self.next == 0;
        self.next = if is_lost { self.packets.saturating_sub(1) } else { self.next - 1 };
        is_lost
    }
}

struct Spells {
    apart: f64,
    losses: u32,
    /// Losses that are left of the spell.
    left: u32,
    /// Packets before the next loss.
    gap: u64,
    rng: SmallRng,
}

impl Loss for Spells {
    fn takes(&mut self, _: Time) -> bool {
        if self.gap > 0 {
            self.gap -= 1;
            return false;
        }
        self.left = self.left.saturating_sub(1);
        self.gap = self.rng.random_range(1..=2);
        if self.left == 0 {
            self.left = self.losses;
            self.gap = geometric(&mut self.rng, self.apart);
        }
        true
    }
}

struct Drift {
    chain: Chain,
    rates: [f64; 2],
    burst: f64,
    period: Duration,
    start: Time,
    phase: f64,
}

impl Loss for Drift {
    fn takes(&mut self, at: Time) -> bool {
        let turns = at.since(self.start).as_secs_f64() / self.period.as_secs_f64() + self.phase;
        self.chain.set(swing(self.rates, turns), self.burst);
        self.chain.takes(at)
    }
}

struct Outages {
    base: Box<dyn Loss>,
    apart: Duration,
    length: Duration,
    next: Time,
    rng: SmallRng,
}

impl Loss for Outages {
    fn takes(&mut self, at: Time) -> bool {
        let is_lost = self.base.takes(at);
        while self.next + self.length <= at {
            self.next = self.next + self.length + exponential(&mut self.rng, self.apart);
        }
        is_lost || self.next <= at
    }
}

struct Change {
    before: Box<dyn Loss>,
    after: Box<dyn Loss>,
    at: Time,
}

impl Loss for Change {
    fn takes(&mut self, at: Time) -> bool {
        if at < self.at { self.before.takes(at) } else { self.after.takes(at) }
    }
}

/// From the one rate to the other and back in one turn, evenly on a logarithmic scale.
fn swing([low, high]: [f64; 2], turns: f64) -> f64 {
    low * (high / low).powf(0.5 - 0.5 * (std::f64::consts::TAU * turns).cos())
}

/// A span with this mean, of any length with the same chance of ending.
pub(crate) fn exponential(rng: &mut SmallRng, mean: Duration) -> Duration {
    mean.mul_f64(-(1.0 - rng.random::<f64>()).ln())
}

fn geometric(rng: &mut SmallRng, mean: f64) -> u64 {
    // A billion packets are days of the longest run.
    (-(1.0 - rng.random::<f64>()).ln() * mean).clamp(1.0, 1e9) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Duration = Duration::from_micros(100);

    /// Fates of packets `spacing` slots apart.
    fn fates(law: &LossLaw, packets: u32, spacing: f64) -> Vec<bool> {
        let mut rng = SmallRng::seed_from_u64(3);
        let start = Time::from_nanos(1_000_000_000);
        let mut loss = law.start(start, SLOT, &mut rng);
        (1..=packets).map(|n| loss.takes(start + SLOT.mul_f64(spacing * f64::from(n)))).collect()
    }

    fn share(fates: &[bool]) -> f64 {
        fates.iter().filter(|lost| **lost).count() as f64 / fates.len() as f64
    }

    /// Mean length of runs of losses.
    fn run(fates: &[bool]) -> f64 {
        let begins = fates.windows(2).filter(|pair| !pair[0] && pair[1]).count();
        fates.iter().filter(|lost| **lost).count() as f64 / begins as f64
    }

    #[test]
    fn laws_lose_what_they_say() {
        let base = Box::new(LossLaw::Independent(1e-3));
        let outages =
            LossLaw::Outages { base, apart: Duration::from_secs(1), length: Duration::from_millis(50) };
        let drift = LossLaw::Drift { rates: [1e-3, 0.05], burst: 3.0, period: Duration::from_secs(5) };
        for (law, tolerance) in [
            (LossLaw::Independent(0.01), 0.03),
            (LossLaw::bursts(0.02, 10.0), 0.05),
            (LossLaw::Bursts { rate: 0.02, burst: 10.0, loss_in_bad: 0.6, clock: Clock::Packets }, 0.05),
            (LossLaw::Every(11), 1e-3),
            (LossLaw::Spells { apart: 2000.0, losses: 40 }, 0.1),
            (drift, 0.05),
            (outages, 0.15),
        ] {
            let seen = share(&fates(&law, 2_000_000, 1.0));
            assert!((seen / law.rate() - 1.0).abs() < tolerance, "{law:?}: {seen}, not {}", law.rate());
        }
    }

    #[test]
    fn time_moves_a_chain_and_packets_do_not_unless_they_do() {
        let by_time = LossLaw::bursts(0.02, 20.0);
        assert!((run(&fates(&by_time, 2_000_000, 1.0)) / 20.0 - 1.0).abs() < 0.05);
        // Five slots apart: 1 / (1 - P(bad after 5 | bad)), which is 1 / (0.98 (1 - mu^5)).
        let memory = Channel::bursty(0.02, 20.0, 1.0).memory();
        let expected = 1.0 / (0.98 * (1.0 - memory.powi(5)));
        assert!((run(&fates(&by_time, 2_000_000, 5.0)) / expected - 1.0).abs() < 0.05);
        let by_packets = LossLaw::Bursts { rate: 0.02, burst: 20.0, loss_in_bad: 1.0, clock: Clock::Packets };
        assert!((run(&fates(&by_packets, 2_000_000, 5.0)) / 20.0 - 1.0).abs() < 0.05);
    }

    #[test]
    fn a_change_happens_at_its_time() {
        let law = LossLaw::Change {
            before: Box::new(LossLaw::Independent(0.0)),
            after: Box::new(LossLaw::Independent(1.0)),
            at: SLOT * 1000,
        };
        assert_eq!(fates(&law, 2000, 1.0).iter().position(|lost| *lost), Some(999));
    }

    #[test]
    fn spells_are_single_losses_close_together() {
        let fates = fates(&LossLaw::Spells { apart: 500.0, losses: 10 }, 100_000, 1.0);
        assert!(fates.windows(2).all(|pair| !(pair[0] && pair[1])));
        let at: Vec<usize> = (0..fates.len()).filter(|&n| fates[n]).collect();
        let near = at.windows(2).filter(|pair| pair[1] - pair[0] <= 3).count() as f64;
        assert!((near / at.len() as f64 - 0.9).abs() < 0.02);
    }
}

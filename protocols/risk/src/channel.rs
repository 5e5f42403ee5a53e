//! What the link can be believed to be like: confidence bounds from the mirror's counters.

use std::time::Duration;

use parhelion_plugin::Channel;
use parhelion_types::Time;

use crate::transitions::Transitions;
use crate::window::{Sum, Window};

/// What the receiving gateway counted since a session began, before any repair.
///
/// `nXY` counts neighbouring packets on the wire of which the first was X and the second Y, where 0 is
/// received and 1 is lost (loss model, section 3.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelCounts {
    /// Packets whose fate is known.
    pub settled: u64,
    /// Of those, lost.
    pub lost: u64,
    /// Received, then received.
    pub n00: u64,
    /// Received, then lost.
    pub n01: u64,
    /// Lost, then received.
    pub n10: u64,
    /// Lost, then lost.
    pub n11: u64,
    /// Triples lost, received, lost.
    pub n101: u64,
    /// Triples lost, lost, lost.
    pub n111: u64,
}

/// What the operator says of the link before anything was measured ("worst-case assumptions about network
/// loss", SMFS section 3.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assumption {
    /// The link is never believed to lose a smaller share of packets; in [0, 1].
    pub loss: f64,
    /// Mean length of loss bursts in packets, at least 1. They are never believed to be shorter; what counts
    /// until [`PRIOR_BURSTS`] bursts were seen.
    pub burst: f64,
    /// Probability with which the bounds of one horizon hold together; in (0, 1), such as 0.999.
    pub confidence: f64,
}

/// Observed bursts that the operator's word on their length is worth. With fewer of them a confidence bound
/// on the length says nothing: a single lost packet is evidence for bursts of 2000.
pub const PRIOR_BURSTS: f64 = 20.0;

/// An assumption out of range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("assumed {what} is {value}; give {range}")]
pub struct AssumptionError {
    what: &'static str,
    value: f64,
    range: &'static str,
}

/// Bounds on the channel over several horizons, each for itself (loss model, section 3.6): what is asked of the channel
/// is answered by the worst of [`channels`](Self::channels).
///
/// The long horizons, an hour and all time, always count. An hour without traffic leaves nothing to
/// believe in, so an idle link is not certified. The short ones (1 s, 10 s, 5 min) count while they
/// show more bursts, or longer ones, than either long one explains: a change for the worse acts with the very
/// report that carries it, while a quiet second, which proves little, does not undo what an hour has shown.
#[derive(Clone, Debug)]
pub struct ChannelEstimator {
    assumption: Assumption,
    /// The session whose counters are in `last`.
    session: Option<u64>,
    last: ChannelCounts,
    first_report: Option<Time>,
    windows: [Window<ChannelCounts>; 4],
    all: ChannelCounts,
}

/// One horizon, for people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HorizonState {
    /// Such as "10 s"; "all" is everything since the process began.
    pub name: &'static str,
    /// Packets with known fate in it.
    pub packets: u64,
    /// Of those, lost before any repair.
    pub lost: u64,
    /// Loss bursts that began in it.
    pub bursts: u64,
    /// Whether its bounds are one of the channels that count now.
    pub counts: bool,
    /// The bounds from its packets and the prior.
    pub channel: Channel,
}

impl Default for Assumption {
    /// One packet in 10,000, in bursts of 3, believed at 0.999: a leased line on an ordinary day.
    fn default() -> Self {
        Self { loss: 1e-4, burst: 3.0, confidence: 0.999 }
    }
}

impl Assumption {
    /// The assumption, checked.
    ///
    /// # Errors
    /// Names the value that is out of range.
    pub fn new(loss: f64, burst: f64, confidence: f64) -> Result<Self, AssumptionError> {
        let check = |ok: bool, what, value, range| {
            if ok { Ok(()) } else { Err(AssumptionError { what, value, range }) }
        };
        check((0.0..=1.0).contains(&loss), "loss", loss, "a share of packets from 0 to 1")?;
        check((1.0..=1e6).contains(&burst), "burst length", burst, "1 to 1000000 packets")?;
        let inside = confidence > 0.0 && confidence < 1.0;
        check(inside, "confidence", confidence, "a probability above 0 and below 1, such as 0.999")?;
        Ok(Self { loss, burst, confidence })
    }

    /// The best channel that is ever believed in.
    fn floor(&self) -> Channel {
        Channel::bursty(self.loss, self.burst, self.confidence)
    }
}

impl ChannelEstimator {
    /// Nothing measured yet: until reports come, nothing is promised.
    #[must_use]
    pub fn new(assumption: Assumption) -> Self {
        Self {
            assumption,
            session: None,
            last: ChannelCounts::default(),
            first_report: None,
            windows: HORIZONS.map(|(_, span)| Window::new(span)),
            all: ChannelCounts::default(),
        }
    }

    /// Takes the counters of a report. They rise from 0 in each `session`; what earlier sessions showed
    /// stays.
    pub fn handle_report(&mut self, now: Time, session: u64, counts: ChannelCounts) {
        // Counters that fall are those of a receiver that began anew.
        let risen = match self.session {
            Some(known) if known == session => counts.since(&self.last).unwrap_or(counts),
            _ => counts,
        };
        self.session = Some(session);
        self.last = counts;
        self.first_report.get_or_insert(now);
        self.all.add(&risen);
        for window in &mut self.windows {
            window.add(now, &risen);
        }
    }

    /// What the link may be like: the operator's word, and what each horizon that counts leaves possible. Those are
    /// left out that another is no better than in any bound. There is always one.
    ///
    /// The bounds of one channel hold together at the confidence if the link was the same throughout its horizon. Which
    /// horizon the present belongs to is not known, so what is computed from them is the worst over all channels. To
    /// take the worst of each *bound* instead would make up a line that no horizon has seen: after one outage of a
    /// second, one that has bursts of a second as often as the operator assumes bursts of three packets.
    #[must_use]
    pub fn channels(&self, now: Time) -> Vec<Channel> {
        let horizons = self.horizons(now);
        let counting = || horizons.iter().filter(|horizon| horizon.counts).map(|horizon| horizon.channel);
        let packets_per_second = counting().map(|channel| channel.packets_per_second).fold(0.0, f64::max);
        let mut channels: Vec<Channel> = Vec::with_capacity(horizons.len() + 1);
        for channel in std::iter::once(self.assumption.floor()).chain(counting()) {
            if channels.iter().any(|other| other.is_no_better_than(&channel, 0.0)) {
                continue;
            }
            channels.retain(|other| !channel.is_no_better_than(other, 0.0));
            channels.push(Channel { packets_per_second, ..channel });
        }
        channels
    }

    /// The horizons, shortest first.
    #[must_use]
    pub fn explain(&self, now: Time) -> Vec<HorizonState> {
        self.horizons(now).to_vec()
    }

    fn horizons(&self, now: Time) -> [HorizonState; 5] {
        let age = self.first_report.map_or(Duration::ZERO, |first| now.since(first));
        let state = |name, counts: ChannelCounts, span: Duration| HorizonState {
            name,
            packets: counts.settled,
            lost: counts.lost,
            bursts: counts.n01,
            counts: true,
            channel: Transitions::new(&counts, &self.assumption).channel(
                &counts,
                &self.assumption,
                span.min(age),
            ),
        };
        let sums: [ChannelCounts; 4] = std::array::from_fn(|n| self.windows[n].sum(now));
        let hour = state(HORIZONS[3].0, sums[3], HORIZONS[3].1);
        let all = state("all", self.all, Duration::MAX);
        let known = [&sums[3], &self.all].map(|counts| Transitions::new(counts, &self.assumption));
        let short = |n: usize| {
            let (name, span) = HORIZONS[n];
            HorizonState {
                counts: known.iter().all(|known| known.is_surprised_by(&sums[n])),
                ..state(name, sums[n], span)
            }
        };
        [short(0), short(1), short(2), hour, all]
    }
}

impl Sum for ChannelCounts {
    fn add(&mut self, other: &Self) {
        self.zip(other, u64::saturating_add);
    }
}

impl ChannelCounts {
    /// What was counted since `earlier`, unless some counter has fallen.
    fn since(&self, earlier: &Self) -> Option<Self> {
        let mut risen = *self;
        let mut fallen = false;
        risen.zip(earlier, |now, before| {
            fallen |= now < before;
            now.saturating_sub(before)
        });
        (!fallen).then_some(risen)
    }

    fn zip(&mut self, other: &Self, mut with: impl FnMut(u64, u64) -> u64) {
        let pairs = [
            (&mut self.settled, other.settled),
            (&mut self.lost, other.lost),
            (&mut self.n00, other.n00),
            (&mut self.n01, other.n01),
            (&mut self.n10, other.n10),
            (&mut self.n11, other.n11),
            (&mut self.n101, other.n101),
            (&mut self.n111, other.n111),
        ];
        for (mine, theirs) in pairs {
            *mine = with(*mine, theirs);
        }
    }
}

/// The horizons that end; the last one always counts.
const HORIZONS: [(&str, Duration); 4] = [
    ("1 s", Duration::from_secs(1)),
    ("10 s", Duration::from_secs(10)),
    ("5 min", Duration::from_secs(300)),
    ("1 h", Duration::from_secs(3600)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    /// The counters of a receiver behind a Gilbert-Elliott channel.
    struct Link {
        rng: SmallRng,
        channel: Channel,
        bad: bool,
        history: u32,
        seen: u32,
        counts: ChannelCounts,
    }

    impl Link {
        fn new(channel: Channel, seed: u64) -> Self {
            let rng = SmallRng::seed_from_u64(seed);
            Self { rng, channel, bad: false, history: 0, seen: 0, counts: ChannelCounts::default() }
        }

        fn carry(&mut self, packets: u32) -> ChannelCounts {
            for _ in 0..packets {
                let turn = if self.bad { self.channel.bad_to_good } else { self.channel.good_to_bad };
                self.bad ^= self.rng.random_bool(turn);
                let lost = self.bad && self.rng.random_bool(self.channel.loss_in_bad);
                self.history = self.history << 1 | u32::from(lost);
                self.seen = (self.seen + 1).min(3);
                let counts = &mut self.counts;
                counts.settled += 1;
                counts.lost += u64::from(lost);
                if self.seen >= 2 {
                    let pairs = [&mut counts.n00, &mut counts.n01, &mut counts.n10, &mut counts.n11];
                    *pairs.into_iter().nth((self.history & 3) as usize).unwrap() += 1;
                }
                if self.seen >= 3 {
                    counts.n101 += u64::from(self.history & 7 == 0b101);
                    counts.n111 += u64::from(self.history & 7 == 0b111);
                }
            }
            self.counts
        }
    }

    fn at(seconds: f64) -> Time {
        Time::from_nanos((seconds * 1e9) as u64)
    }

    /// The worst of each bound.
    fn worst(estimator: &ChannelEstimator, seconds: f64) -> Channel {
        estimator.channels(at(seconds)).into_iter().reduce(Channel::worst).unwrap()
    }

    fn assumption() -> Assumption {
        Assumption::new(1e-6, 2.0, 0.999).unwrap()
    }

    #[test]
    fn nothing_measured_promises_nothing() {
        let [channel] = ChannelEstimator::new(assumption()).channels(Time::ZERO)[..] else {
            panic!("several")
        };
        assert_eq!((channel.good_to_bad, channel.loss), (1.0, 1.0));
    }

    #[test]
    fn the_bounds_hold_and_tighten() {
        // One channel has all bounds of the truth inside at 0.999: of 200 links, none should lack it, two at the very
        // most. Each bound by itself is outside as rarely.
        let truth = Channel::bursty(0.02, 5.0, 0.999);
        let (mut outside, mut bounds_outside) = (0, [0; 3]);
        for seed in 0..200 {
            let mut estimator = ChannelEstimator::new(assumption());
            let mut link = Link::new(truth, seed);
            for report in 1..=10 {
                estimator.handle_report(at(f64::from(report) * 0.5), 1, link.carry(2_000));
            }
            let channels = estimator.channels(at(5.0));
            outside += usize::from(!channels.iter().any(|channel| channel.is_no_better_than(&truth, 0.0)));
            let bound = worst(&estimator, 5.0);
            bounds_outside[0] += usize::from(bound.good_to_bad < truth.good_to_bad);
            bounds_outside[1] += usize::from(bound.bad_to_good > truth.bad_to_good);
            bounds_outside[2] += usize::from(bound.loss < truth.loss);
            assert_eq!(bound.confidence, 0.999);
        }
        assert!(outside <= 2 && bounds_outside.iter().all(|&n| n <= 2), "{outside}, {bounds_outside:?}");

        let mut estimator = ChannelEstimator::new(assumption());
        estimator.handle_report(at(1.0), 1, Link::new(truth, 1).carry(1_000_000));
        let bound = worst(&estimator, 1.0);
        assert!(bound.good_to_bad < truth.good_to_bad * 1.15, "{bound:?}");
        assert!(bound.bad_to_good > truth.bad_to_good * 0.9, "{bound:?}");
        assert!(bound.loss < truth.loss * 1.25, "{bound:?}");
    }

    #[test]
    fn a_bad_state_that_lets_packets_through_is_seen() {
        let truth = Channel {
            good_to_bad: 0.005,
            bad_to_good: 0.1,
            loss_in_bad: 0.6,
            ..Channel::independent(0.0286, 0.999)
        };
        let mut estimator = ChannelEstimator::new(assumption());
        estimator.handle_report(at(1.0), 1, Link::new(truth, 3).carry(1_000_000));
        let [.., HorizonState { channel: bound, .. }] = estimator.explain(at(1.0))[..] else {
            panic!("none")
        };
        assert!((0.58..0.75).contains(&bound.loss_in_bad), "{bound:?}");
        assert!((0.07..0.105).contains(&bound.bad_to_good), "{bound:?}");
        assert!((0.0045..0.007).contains(&bound.good_to_bad), "{bound:?}");
        // Independent losses have no memory to fit.
        let mut estimator = ChannelEstimator::new(Assumption { burst: 1.0, ..assumption() });
        estimator.handle_report(at(1.0), 1, Link::new(Channel::independent(0.1, 0.999), 4).carry(1_000_000));
        let [.., HorizonState { channel: bound, .. }] = estimator.explain(at(1.0))[..] else {
            panic!("none")
        };
        assert_eq!(bound.loss_in_bad, 1.0);
        assert!(bound.memory() < 0.02, "{bound:?}");
    }

    #[test]
    fn a_change_for_the_worse_acts_with_its_report_and_is_remembered() {
        let mut estimator = ChannelEstimator::new(assumption());
        let mut link = Link::new(Channel::bursty(1e-6, 2.0, 0.999), 5);
        for report in 1..=100 {
            estimator.handle_report(at(f64::from(report) * 0.1), 1, link.carry(5_000));
        }
        let clean = worst(&estimator, 10.0);
        assert!(clean.good_to_bad < 1e-4, "{clean:?}");
        // One burst of 300 in a tenth of a second.
        link.channel = Channel { good_to_bad: 1.0, bad_to_good: 0.0, ..link.channel };
        estimator.handle_report(at(10.1), 1, link.carry(300));
        assert!(estimator.explain(at(10.1))[0].counts);
        let is_hit = |channel: &Channel| {
            channel.bad_to_good < clean.bad_to_good / 5.0 && channel.loss > 10.0 * clean.loss
        };
        let channels = estimator.channels(at(10.1));
        assert!(channels.iter().any(is_hit), "{channels:?} after {clean:?}");
        let hit = worst(&estimator, 10.1);
        // Clean again: the seconds forget first, the hour last.
        link.channel = Channel::bursty(1e-6, 2.0, 0.999);
        link.bad = false;
        for report in 1..=600 {
            estimator.handle_report(at(10.1 + f64::from(report) * 0.1), 1, link.carry(5_000));
        }
        let later = worst(&estimator, 70.1);
        assert!(!estimator.explain(at(70.1))[0].counts);
        assert!(later.loss < hit.loss / 10.0, "{later:?} after {hit:?}");
        assert!(later.bad_to_good < clean.bad_to_good / 2.0, "{later:?} has forgotten");
    }

    #[test]
    fn an_idle_hour_certifies_nothing() {
        let mut estimator = ChannelEstimator::new(assumption());
        let mut link = Link::new(Channel::bursty(1e-6, 2.0, 0.999), 6);
        estimator.handle_report(at(1.0), 1, link.carry(1_000_000));
        assert!(worst(&estimator, 1.0).loss < 1e-3);
        assert!(worst(&estimator, 3000.0).loss < 1e-3);
        assert_eq!(worst(&estimator, 9000.0).loss, 1.0);
    }

    #[test]
    fn sessions_restart_counters_and_keep_history() {
        let mut estimator = ChannelEstimator::new(assumption());
        let counts = |settled| ChannelCounts { settled, n00: settled, ..ChannelCounts::default() };
        estimator.handle_report(at(1.0), 1, counts(1000));
        estimator.handle_report(at(1.1), 1, counts(1500));
        // The same report again adds nothing; a new session starts from 0; a receiver that began anew, too.
        estimator.handle_report(at(1.2), 1, counts(1500));
        estimator.handle_report(at(1.3), 2, counts(2000));
        estimator.handle_report(at(1.4), 2, counts(100));
        for state in estimator.explain(at(1.4)) {
            assert_eq!(state.packets, 3600, "{}", state.name);
        }
        let later = estimator.explain(at(8.0));
        assert_eq!(later.iter().map(|state| state.packets).collect::<Vec<_>>(), [0, 3600, 3600, 3600, 3600]);
    }

    #[test]
    fn the_operators_word_is_a_floor() {
        let floor = Assumption::new(0.01, 4.0, 0.99).unwrap();
        let mut estimator = ChannelEstimator::new(floor);
        let settled = 1_000_000_000_000;
        let counts = ChannelCounts { settled, n00: settled, ..ChannelCounts::default() };
        estimator.handle_report(at(1.0), 1, counts);
        assert_eq!(worst(&estimator, 1.0).loss, 0.01);
        let word = Channel::bursty(0.01, 4.0, 0.99);
        let channels = estimator.channels(at(1.0));
        assert!(channels.contains(&word), "{channels:?}");
        for bad in [(-0.1, 2.0, 0.9), (2.0, 2.0, 0.9), (0.1, 0.5, 0.9), (0.1, 2.0, 1.0), (f64::NAN, 2.0, 0.9)]
        {
            assert!(Assumption::new(bad.0, bad.1, bad.2).is_err(), "{bad:?}");
        }
        let message = Assumption::new(0.1, 0.5, 0.9).unwrap_err().to_string();
        assert_eq!(message, "assumed burst length is 0.5; give 1 to 1000000 packets");
    }

    #[test]
    fn counters_from_a_broken_peer_do_no_harm() {
        let mut estimator = ChannelEstimator::new(assumption());
        let all = |n| ChannelCounts { settled: n, lost: n, n00: n, n01: n, n10: n, n11: n, n101: n, n111: n };
        for counts in [all(u64::MAX), all(0), ChannelCounts { n11: u64::MAX, ..all(0) }, all(u64::MAX)] {
            estimator.handle_report(at(1.0), 1, counts);
            for bound in estimator.channels(at(1.0)) {
                for figure in [bound.good_to_bad, bound.bad_to_good, bound.loss_in_bad, bound.loss] {
                    assert!((0.0..=1.0).contains(&figure), "{bound:?}");
                }
            }
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a test of cost reads a clock")]
    fn the_channels_are_cheap() {
        // Counters in the range of the exact bounds, which cost most; a report comes some fifty times a
        // second.
        let mut estimator = ChannelEstimator::new(assumption());
        let mut link = Link::new(Channel::bursty(0.002, 3.0, 0.999), 8);
        estimator.handle_report(at(1.0), 1, link.carry(1_000_000));
        let rounds = 200;
        let started = std::time::Instant::now();
        for _ in 0..rounds {
            std::hint::black_box(estimator.channels(at(1.0)));
        }
        let each = started.elapsed() / rounds;
        println!("{:.0} us for the channels", each.as_secs_f64() * 1e6);
        assert!(each < Duration::from_millis(10), "{each:?}");
    }
}

//! What was promised of appends, held against what became of them.

use std::time::Duration;

use parhelion_plugin::Exposure;
use parhelion_types::{Risk, Time};

use crate::poisson;
use crate::pricer::{CodeGeneration, Pricer};
use crate::window::{Sum, Window};

/// The check of the promises that knows nothing of codes and models (loss model, section 3.6, asks for one beside the
/// fitted channel: "count ... and take the max").
///
/// A model is right about the channels that it describes. On one that it does not, no confidence bound on its
/// parameters helps: the figure is wrong by orders of magnitude, and every acknowledgement says so with the same
/// confidence. What shows it is the outcome. Of every append whose coverage is complete the model has said how likely
/// the mirror is to need more than what is on the wire, and reports of the mirror say later whether it did.
///
/// # When a record refutes the model
/// What was promised sums up to the number of appends that may be expected to fail, however they depend on
/// one another. One bad spell takes many at once, so what is counted is *episodes*: failures within
/// [`EPISODE`]. At most as many of these are expected. The `n`-th episode refutes the model if, with so much promised,
/// `n` or more had a probability below `1 % / n (n + 1)`; over all `n` these add up to 1 %, so that looking again with
/// every episode does not make a model of the right figures look wrong sooner or later.
///
/// Two horizons are judged, each by itself: the last hour, which notices a line that has changed after a good year, and
/// all since the process began, which notices what is rare. Of exact figures the one is refuted wrongly
/// less than once in a hundred hours, the other less than once in a hundred processes; bounds are refuted far less often.
///
/// # What follows
/// While a horizon is refuted, own risks are multiplied by the upper bound of what failed over what was promised. A
/// raise acts at once; it ends when enough was promised and kept that the record is no surprise any more, or,
/// for the hour, when the hour has passed. The figures of the record are never scaled, else it would judge itself.
///
/// # What the channel estimate has learned by itself
/// A line that loses everything for a second breaks promises too: nobody could know before. Its report also
/// tells the channel estimate, which prices it from then on. It is not the model that was wrong then, and punishing it as
/// well would count one outage twice. So an episode brings its own hindsight: the highest price that the channel as it is
/// believed during the episode sets on an append that failed counts as expected too, once. A channel estimate
/// that is blind to the cause does not move, and hindsight then adds next to nothing. Figures that were wrong are
/// multiplied all the same by what failed over what was promised at the time.
#[derive(Clone, Debug)]
pub struct TrackRecord {
    all: Tally,
    hour: Window<Tally>,
    /// Of the hour, of all.
    is_refuted: [bool; 2],
    episode: Option<Episode>,
    /// Something was counted since the last verdict that may raise it.
    is_news: bool,
}

/// What was counted over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// How many appends were expected to fail at most: own risks of those whose fate is known, each as the model had it
    /// when its coverage was complete.
    pub promised: f64,
    /// How many more would have been expected, had the channel been known: the hindsight of episodes.
    pub hindsight: f64,
    /// Appends that the mirror could not rebuild from what covered them.
    pub failed: u64,
    /// Bad spells that these failed in.
    pub episodes: u64,
}

/// What the record says of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// What own risks must be multiplied by: at least 1, which means that nothing speaks against them.
    pub factor: f64,
    /// The horizon that asks for it: "the last hour", or "all time".
    pub horizon: &'static str,
    /// What was counted in it.
    pub tally: Tally,
}

/// A promise that was made of an append when its coverage was complete.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Promise {
    pub exposure: Exposure,
    pub since: CodeGeneration,
    /// What the model said then, unscaled.
    pub own: Risk,
}

/// A promise that failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Failure {
    pub promise: Promise,
    /// When the mirror's report came.
    pub reported: Time,
}

#[derive(Clone, Copy, Debug)]
struct Episode {
    began: Time,
    /// The failed append that hindsight prices highest.
    dearest: Promise,
    /// What of this episode's hindsight is in the record.
    hindsight: f64,
}

/// Failures so soon after the first one are of the same bad spell. Longer than a round trip with the waits for repair
/// and report, in which the reports of one burst come; short enough that a line which fails all the time
/// shows thousands of episodes an hour.
pub const EPISODE: Duration = Duration::from_secs(1);

impl Default for TrackRecord {
    fn default() -> Self {
        Self {
            all: Tally::default(),
            hour: Window::new(HOUR),
            is_refuted: [false; 2],
            episode: None,
            is_news: false,
        }
    }
}

impl TrackRecord {
    /// What was counted since the process began.
    #[must_use]
    pub fn all(&self) -> Tally {
        self.all
    }

    /// What was counted in the last hour.
    #[must_use]
    pub fn hour(&self, now: Time) -> Tally {
        self.hour.sum(now)
    }

    /// Appends that came through on what covered them, of which `promised` were expected not to.
    pub(crate) fn keep(&mut self, now: Time, promised: f64) {
        self.count(now, Tally { promised, ..Tally::default() });
    }

    /// An append that the mirror could not rebuild from what covered it.
    pub(crate) fn fail(&mut self, now: Time, failure: Failure, pricer: &mut Pricer) {
        let Failure { promise, reported } = failure;
        let promised = promise.own.probability();
        let is_same = self.episode.is_some_and(|episode| reported < episode.began + EPISODE);
        let episodes = u64::from(!is_same);
        self.count(now, Tally { promised, failed: 1, episodes, ..Tally::default() });
        if !is_same {
            // It has been promised as it was; hindsight is what comes on top.
            self.episode = Some(Episode { began: reported, dearest: promise, hindsight: promised });
        }
        self.price_episode(now, promise, pricer);
        if !is_same {
            for (refuted, tally) in self.is_refuted.iter_mut().zip([self.hour.sum(now), self.all]) {
                *refuted |= tally.is_surprising();
            }
        }
        self.is_news = true;
    }

    /// The channel is believed to be another one: prices the episode anew, if one is under way.
    pub(crate) fn reprice(&mut self, now: Time, pricer: &mut Pricer) {
        if let Some(episode) = self.episode.filter(|episode| now < episode.began + EPISODE) {
            self.price_episode(now, episode.dearest, pricer);
        }
    }

    /// Whether the verdict may rise, as against falling with time.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.is_news)
    }

    /// What the record says now, with bounds of `confidence`.
    pub(crate) fn judge(&mut self, now: Time, confidence: f64) -> Verdict {
        let hour = self.hour.sum(now);
        let mut verdict = Verdict { factor: 1.0, horizon: HORIZONS[0], tally: hour };
        for ((refuted, tally), horizon) in self.is_refuted.iter_mut().zip([hour, self.all]).zip(HORIZONS) {
            // What leaves the hour may make the rest look surprising again; only another episode can refute anew.
            *refuted &= tally.is_surprising();
            let factor = if *refuted { tally.ratio(1.0 - confidence) } else { 1.0 };
            if factor > verdict.factor {
                verdict = Verdict { factor, horizon, tally };
            }
        }
        verdict
    }

    fn count(&mut self, now: Time, tally: Tally) {
        self.all.add(&tally);
        self.hour.add(now, &tally);
    }

    /// Counts what hindsight asks for a failed append of the episode, beyond what is in the record.
    fn price_episode(&mut self, now: Time, promise: Promise, pricer: &mut Pricer) {
        let hindsight = pricer.covered(&promise.exposure, promise.since).probability();
        let Some(episode) = &mut self.episode else { return };
        if hindsight > episode.hindsight {
            let more = hindsight - episode.hindsight;
            (episode.hindsight, episode.dearest) = (hindsight, promise);
            self.count(now, Tally { hindsight: more, ..Tally::default() });
        }
    }
}

impl Tally {
    /// Whether so many episodes are too many for what was promised, or would have been.
    fn is_surprising(&self) -> bool {
        let (looks, expected) = (self.episodes as f64, self.promised + self.hindsight);
        self.episodes > 0 && poisson::tail(self.episodes, expected) < REFUTED / (looks * (looks + 1.0))
    }

    /// Upper bound of the appends that fail, at `1 - delta`, over those that were promised to: that of the episodes, with as
    /// many appends in each as were seen.
    fn ratio(&self, delta: f64) -> f64 {
        let each = self.failed as f64 / self.episodes as f64;
        (poisson::upper(self.episodes, delta) * each / self.promised).max(1.0)
    }
}

impl Sum for Tally {
    fn add(&mut self, other: &Self) {
        self.promised += other.promised;
        self.hindsight += other.hindsight;
        self.failed = self.failed.saturating_add(other.failed);
        self.episodes = self.episodes.saturating_add(other.episodes);
    }
}

/// How likely it is at most that figures which are right are refuted, in the life of a horizon.
const REFUTED: f64 = 0.01;

const HOUR: Duration = Duration::from_secs(3600);

const HORIZONS: [&str; 2] = ["the last hour", "all time"];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use parhelion_code_reed_solomon::ReedSolomon;
    use parhelion_model_gilbert_elliott::GilbertElliott;
    use parhelion_plugin::{Channel, Code};
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    const CLEAN: f64 = 1e-6;

    fn pricer() -> Pricer {
        let code = Code::new(Arc::new(ReedSolomon), &"r=8 c=3".parse().unwrap()).unwrap();
        Pricer::new(Arc::new(GilbertElliott), code, vec![Channel::bursty(CLEAN, 2.0, 0.999)])
    }

    fn at(seconds: f64) -> Time {
        Time::from_nanos((seconds * 1e9) as u64)
    }

    fn failure(seconds: f64, own: f64) -> Failure {
        let promise = Promise {
            exposure: Exposure::steady(4, 0b111, 8),
            since: CodeGeneration::default(),
            own: Risk::bound(own),
        };
        Failure { promise, reported: at(seconds) }
    }

    /// What is promised between two failures of a model that is exactly right.
    fn expected(rng: &mut SmallRng) -> f64 {
        -(1.0 - rng.random::<f64>()).ln()
    }

    #[test]
    fn exact_figures_are_refuted_as_rarely_as_stated_however_often_one_looks() {
        // 4000 links with 60 failures each: 1 % of 4000 is 40, of which 60 looks use up 39; three sigmas are 19.
        let (mut rng, mut pricer) = (SmallRng::seed_from_u64(11), pricer());
        let mut refuted = 0;
        for _ in 0..4000 {
            let mut record = TrackRecord::default();
            let mut is_refuted = false;
            for look in 0..60 {
                let now = f64::from(look) * 2.0;
                record.keep(at(now), expected(&mut rng));
                record.fail(at(now), failure(now, 0.0), &mut pricer);
                is_refuted |= record.judge(at(now), 0.999).factor > 1.0;
            }
            refuted += u32::from(is_refuted);
        }
        assert!((20..=58).contains(&refuted), "{refuted} of 4000");
    }

    #[test]
    fn the_hour_is_refuted_less_than_once_in_a_hundred() {
        let (mut rng, mut pricer) = (SmallRng::seed_from_u64(12), pricer());
        let mut refuted = 0;
        for _ in 0..20 {
            let mut record = TrackRecord::default();
            let (mut now, mut was_refuted) = (0.0, false);
            // 200 hours in which three failures are promised, and come.
            while now < 200.0 * 3600.0 {
                let promised = expected(&mut rng);
                now += 1200.0 * promised;
                record.keep(at(now), promised);
                record.fail(at(now), failure(now, 0.0), &mut pricer);
                record.judge(at(now), 0.999);
                refuted += u32::from(record.is_refuted[0] && !was_refuted);
                was_refuted = record.is_refuted[0];
            }
        }
        assert!(refuted <= 40, "{refuted} times in 4000 hours");
    }

    #[test]
    fn a_burst_is_one_episode_and_a_line_that_fails_all_the_time_is_many() {
        let mut pricer = pricer();
        let mut record = TrackRecord::default();
        for n in 0..500 {
            record.fail(at(10.0), failure(10.0 + f64::from(n) * 1e-3, 1e-9), &mut pricer);
        }
        assert_eq!((record.all().failed, record.all().episodes), (500, 1));
        for n in 0..100 {
            let now = 100.0 + f64::from(n) * 0.1;
            record.fail(at(now), failure(now, 1e-9), &mut pricer);
        }
        // Of a second each, from the first failure on.
        assert_eq!((record.all().failed, record.all().episodes), (600, 11));
        assert_eq!(record.hour(at(100.0)), record.all());
        assert_eq!(record.hour(at(2.0 * 3600.0)), Tally::default());
    }

    #[test]
    fn the_raise_covers_what_failed_and_ends_when_enough_was_kept() {
        let mut pricer = pricer();
        let mut record = TrackRecord::default();
        record.keep(at(1.0), 1e-3);
        record.fail(at(2.0), failure(2.0, 0.0), &mut pricer);
        record.fail(at(2.1), failure(2.1, 0.0), &mut pricer);
        let Verdict { factor, tally, horizon } = record.judge(at(2.1), 0.999);
        // At most 9.23 episodes at 0.999 where one was seen, two appends in each.
        assert!((factor * tally.promised / (2.0 * 9.2334) - 1.0).abs() < 1e-4, "{factor} {tally:?}");
        assert_eq!((tally.failed, tally.episodes, horizon), (2, 1, "the last hour"));
        record.keep(at(3.0), 3e-3);
        let later = record.judge(at(3.0), 0.999).factor;
        assert!((later / factor - 0.25).abs() < 1e-3, "{later} after {factor}");
        record.keep(at(4.0), 2e-3);
        assert_eq!(record.judge(at(4.0), 0.999).factor, 1.0);
    }

    #[test]
    fn what_leaves_the_hour_refutes_nobody() {
        let mut pricer = pricer();
        let mut record = TrackRecord::default();
        record.keep(at(10.0), 5.0);
        record.fail(at(2000.0), failure(2000.0, 0.0), &mut pricer);
        for now in [2000.0, 3000.0, 4500.0, 5000.0] {
            assert_eq!(record.judge(at(now), 0.999).factor, 1.0, "{now}");
        }
        assert!(record.hour(at(5000.0)).promised < 1e-3);
        // A line that has changed after a good year is noticed.
        record.keep(at(9000.0), 100.0);
        record.fail(at(20_000.0), failure(20_000.0, 0.0), &mut pricer);
        assert_eq!(record.judge(at(20_000.0), 0.999).horizon, "the last hour");
        assert!(record.judge(at(20_000.0), 0.999).factor > 1e3);
        assert_eq!(record.judge(at(30_000.0), 0.999).factor, 1.0);
    }

    #[test]
    fn what_the_channel_estimate_learns_speaks_for_the_model() {
        // The report of the outage and the new estimate come in either order.
        for is_channel_first in [true, false] {
            let mut pricer = pricer();
            let mut record = TrackRecord::default();
            record.keep(at(1.0), 1e-5);
            let outage =
                Channel { bad_to_good: 1e-3, good_to_bad: 1e-4, ..Channel::bursty(0.1, 1000.0, 0.999) };
            if is_channel_first {
                pricer.set_channels(vec![outage]);
            }
            for n in 0..1000 {
                let now = 2.0 + f64::from(n) * 1e-4;
                record.fail(at(now), failure(now, 1e-9), &mut pricer);
            }
            assert_eq!(record.judge(at(2.1), 0.999).factor > 1.0, !is_channel_first);
            pricer.set_channels(vec![outage]);
            record.reprice(at(2.2), &mut pricer);
            assert_eq!(record.judge(at(2.2), 0.999).factor, 1.0);
            // Once for the episode, and not for each append of it.
            let hindsight = pricer.covered(&failure(0.0, 0.0).promise.exposure, CodeGeneration::default());
            let counted = record.all().hindsight;
            assert!((counted / hindsight.probability() - 1.0).abs() < 1e-2, "{counted}, {hindsight}");
            assert!(
                (record.all().promised - 1.1e-5).abs() < 1e-12,
                "a thousand at 1e-9, and those that were kept"
            );
            // An estimate of later says nothing of it.
            pricer.set_channels(vec![Channel::independent(1.0, 0.999)]);
            record.reprice(at(4.0), &mut pricer);
            assert_eq!(record.all().hindsight, counted);
        }
    }
}

//! All links of a grid, lived on all cores, and what came of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use parhelion_model_gilbert_elliott::GilbertElliott;
use parhelion_model_iid_bound::IidBound;
use parhelion_model_monte_carlo::MonteCarlo;
use parhelion_model_trace::{Trace, TraceModel};
use parhelion_plugin::DurabilityModel;
use parhelion_risk::{Assumption, AssumptionError};
use parhelion_types::Time;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::catalogue::Channel;
use crate::cell::{Cell, Heading};
use crate::error::CalibrationError;
use crate::life::{Asked, Life, LifeError, Outcome, Schedule};
use crate::line::Line;
use crate::loss::LossLaw;
use crate::policy::Policy;
use crate::reliability::Reliability;

/// A grid, and how thoroughly it is gone through.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The channels.
    pub channels: Vec<Channel>,
    /// The codes, or whoever chooses them.
    pub policies: Vec<Arc<dyn Policy>>,
    /// The confidences.
    pub levels: Vec<f64>,
    /// Disasters for each channel and code, at each confidence.
    pub disasters: u32,
    /// Links that these are spread over at least, which take turns in being near and far.
    pub links: u32,
    /// What appends ask for.
    pub asked: Asked,
    /// Everything that is random follows from it, and nothing from how many threads there are.
    pub seed: u64,
    /// Threads.
    pub threads: usize,
    /// Judge the models that simulate as well: a thousand times the work of the others.
    pub is_simulated: bool,
}

/// What came of a campaign.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// By channel, code, model and confidence.
    pub cells: Vec<Cell>,
    /// Promises by size against losses.
    pub reliability: Reliability,
    /// Records that came to a mirror with other bytes than were sent: there must be none.
    pub altered: u64,
}

/// A model, and where it is judged.
#[derive(Clone)]
pub(crate) struct Judged {
    pub model: Arc<dyn DurabilityModel>,
    /// Whether what it supposes of the line is so.
    pub is_supposed: bool,
}

/// Latencies that links take in turn: with the nearer one, the mirror often confirms before a wide code has covered
/// anything; with the farther one, hundreds of appends are in flight.
pub const LATENCIES: [Duration; 2] = [Duration::from_millis(15), Duration::from_millis(60)];

/// What a node assumes of a line that it knows nothing of: the defaults of `risk.assumed_loss` and `risk.assumed_burst`.
///
/// # Errors
/// The confidence is no probability between 0 and 1.
pub fn assumption(confidence: f64) -> Result<Assumption, AssumptionError> {
    Assumption::new(1e-5, 2.0, confidence)
}

impl Campaign {
    /// Lives all links. `progress` counts them.
    ///
    /// # Errors
    /// A link could not be lived.
    pub fn run(&self, progress: &ProgressBar) -> Result<Results, CalibrationError> {
        let assumptions = assumptions(&self.levels)?;
        let mut jobs = Vec::new();
        for channel in &self.channels {
            for policy in &self.policies {
                let links = channel.links(self.disasters, self.links);
                for link in 0..links {
                    // What does not divide evenly goes to the first ones.
                    let disasters = (self.disasters + links - 1 - link) / links;
                    let seed = seed(self.seed, &channel.name, &policy.name(), link);
                    let judged = models(channel, self.is_simulated, seed);
                    let line = Line::of_latency(LATENCIES[link as usize % LATENCIES.len()]);
                    let life = Life {
                        line,
                        law: channel.law.clone(),
                        policy: policy.clone(),
                        assumptions: assumptions.clone(),
                        models: judged.into_iter().map(|judged| judged.model).collect(),
                        asked: self.asked,
                        schedule: Schedule::Spread { warm_up: channel.warm_up(line.packet_time), disasters },
                        seed,
                    };
                    jobs.push((channel.name.clone(), life));
                }
            }
        }
        progress.set_length(jobs.len() as u64);
        let mut outcomes = run_all(&jobs, self.threads, progress)?.into_iter();

        let mut results = Results::default();
        for channel in &self.channels {
            for policy in &self.policies {
                let lives: Vec<Outcome> =
                    outcomes.by_ref().take(channel.links(self.disasters, self.links) as usize).collect();
                results.altered += lives.iter().map(|life| life.altered).sum::<u64>();
                let models = models(channel, self.is_simulated, self.seed);
                for (index, judged) in models.iter().enumerate() {
                    for (level, &confidence) in self.levels.iter().enumerate() {
                        let heading = Heading {
                            channel: channel.name.clone(),
                            class: channel.class,
                            code: policy.name(),
                            model: judged.model.name().to_owned(),
                            confidence,
                            is_supposed: judged.is_supposed,
                        };
                        results.reliability.take(&heading, &lives, level, index);
                        results.cells.push(Cell::of(heading, &lives, level, index, models.len()));
                    }
                }
            }
        }
        Ok(results)
    }
}

/// The models that are judged on a channel. Independent losses are what `iid-bound` supposes; on one channel of
/// bursts it shows what becomes of a model on a line that is not as it supposes. `trace` replays what was recorded
/// of the same line on another day, and supposes nothing but that it is the same line.
fn models(channel: &Channel, is_simulated: bool, seed: u64) -> Vec<Judged> {
    let is_chain = channel.is_supposed();
    let independent = matches!(channel.law, LossLaw::Independent(_));
    let is_contrast = channel.law == LossLaw::bursts(0.05, 20.0);
    let mut models = vec![Judged { model: Arc::new(GilbertElliott), is_supposed: is_chain }];
    if independent || is_contrast {
        models.push(Judged { model: Arc::new(IidBound), is_supposed: independent });
    }
    if is_simulated {
        models.push(Judged { model: Arc::new(MonteCarlo::new()), is_supposed: is_chain });
        let slot = Line::of_latency(LATENCIES[0]).packet_time;
        let mut rng = SmallRng::seed_from_u64(seed ^ ANOTHER_DAY);
        let mut line = channel.law.start(Time::ZERO, slot, &mut rng);
        let mut now = Time::ZERO;
        let recorded = Trace::from_losses((0..RECORDED_PACKETS).map(|_| {
            now = now + slot;
            line.takes(now)
        }));
        let model = Arc::new(TraceModel::new(vec![recorded]));
        models.push(Judged { model, is_supposed: channel.class.is_stationary() });
    }
    models
}

/// Packets of the recording that `trace` replays.
const RECORDED_PACKETS: u32 = 300_000;

/// The recording is not of the losses that are to come.
const ANOTHER_DAY: u64 = 0x05ee_d0fa_0dd1_7da1;

pub(crate) fn assumptions(levels: &[f64]) -> Result<Vec<Assumption>, CalibrationError> {
    let checked = |&confidence: &f64| {
        assumption(confidence).map_err(|_| CalibrationError::Value {
            what: "a confidence",
            value: confidence.to_string(),
            range: "a probability above 0 and below 1, such as 0.999",
        })
    };
    levels.iter().map(checked).collect()
}

/// Lives all of them; outcomes in the order of the jobs.
pub(crate) fn run_all(
    jobs: &[(String, Life)],
    threads: usize,
    progress: &ProgressBar,
) -> Result<Vec<Outcome>, CalibrationError> {
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, Result<Outcome, LifeError>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.len().max(1)) {
            scope.spawn(|| {
                while let Some((at, (_, life))) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(at).map(|job| (at, job))
                } {
                    let outcome = life.run();
                    done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, outcome);
                    progress.inc(1);
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let name = |at: usize, source| {
        let (channel, life) = &jobs[at];
        CalibrationError::Life { channel: channel.clone(), code: life.policy.name(), source }
    };
    done.into_iter().map(|(at, outcome)| outcome.map_err(|source| name(at, source))).collect()
}

/// The seed of one link: a filter of channels or codes leaves the others as they are.
pub(crate) fn seed(seed: u64, channel: &str, code: &str, link: u32) -> u64 {
    // FNV-1a.
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = seed.to_le_bytes().into_iter().chain(channel.bytes()).chain([0]).chain(code.bytes());
    bytes.chain([0]).chain(link.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_has_its_own_dice() {
        let seeds = [seed(1, "a", "b", 0), seed(1, "a", "b", 1), seed(1, "ab", "", 0), seed(2, "a", "b", 0)];
        for (at, one) in seeds.iter().enumerate() {
            assert!(!seeds[..at].contains(one));
        }
    }
}

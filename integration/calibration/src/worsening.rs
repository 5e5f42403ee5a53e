//! The line that gets worse just before the disaster: what that does to a promise, and for how long.

use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use parhelion_model_gilbert_elliott::GilbertElliott;
use serde::{Deserialize, Serialize};

use crate::campaign::{assumptions, run_all, seed};
use crate::error::CalibrationError;
use crate::life::{Asked, Life, Schedule};
use crate::line::Line;
use crate::loss::LossLaw;
use crate::policy::Policy;
use crate::statistics::clopper_pearson;

/// One way in which a line gets worse, for one code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worsening {
    /// What happens, in words.
    pub name: String,
    /// The code and its parameters.
    pub code: String,
    /// The confidence of the bounds.
    pub confidence: f64,
    /// One way, in milliseconds.
    pub latency_ms: f64,
    /// Time between reports of the mirror, in milliseconds.
    pub report_interval_ms: f64,
    /// By the time between the change and the acknowledgement.
    pub phases: Vec<Phase>,
}

/// Appends that were acknowledged so long after the change, with the site dying in that instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Milliseconds since the change; below 0 before it.
    pub from_ms: f64,
    /// Up to there.
    pub to_ms: f64,
    /// Appends that were watched.
    pub disasters: u64,
    /// Of those, with a promise; the others waited for the mirror.
    pub judged: u64,
    /// Sum of what was promised.
    pub promised: f64,
    /// How many were lost.
    pub lost: u64,
    /// Exact interval (Clopper-Pearson, 99 %) for the share that is lost.
    pub interval: (f64, f64),
}

impl Phase {
    /// Whether more were lost than promised, beyond chance.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.judged > 0 && self.interval.0 > self.promised / self.judged as f64
    }
}

/// A line before and after.
struct Scenario {
    name: &'static str,
    before: LossLaw,
    after: LossLaw,
}

fn scenarios() -> [Scenario; 3] {
    [
        Scenario {
            name: "0.3 % single losses become 5 % in bursts of 20",
            before: LossLaw::Independent(0.003),
            after: LossLaw::bursts(0.05, 20.0),
        },
        Scenario {
            name: "bursts of 3 come ten times as often: 0.5 % become 5 %",
            before: LossLaw::bursts(0.005, 3.0),
            after: LossLaw::bursts(0.05, 3.0),
        },
        Scenario {
            name: "bursts of 3 become bursts of 50, at 2 % all the time",
            before: LossLaw::bursts(0.02, 3.0),
            after: LossLaw::bursts(0.02, 50.0),
        },
    ]
}

/// What came of lines that worsen, one link for each change: no estimator has seen it before.
///
/// # Errors
/// A link could not be lived.
pub fn run(
    policies: &[Arc<dyn Policy>],
    confidence: f64,
    links: u32,
    base_seed: u64,
    threads: usize,
    progress: &ProgressBar,
) -> Result<Vec<Worsening>, CalibrationError> {
    let assumptions = assumptions(&[confidence])?;
    let line = Line::of_latency(LATENCY);
    let mut jobs = Vec::new();
    for Scenario { name, before, after } in scenarios() {
        for policy in policies {
            for link in 0..links {
                let law = LossLaw::Change {
                    before: Box::new(before.clone()),
                    after: Box::new(after.clone()),
                    at: HISTORY,
                };
                let life = Life {
                    line,
                    law,
                    policy: policy.clone(),
                    assumptions: assumptions.clone(),
                    models: vec![Arc::new(GilbertElliott)],
                    asked: Asked::Between(1e-4, 0.3),
                    schedule: Schedule::At(instants(link)),
                    seed: seed(base_seed, name, &policy.name(), link),
                };
                jobs.push((name.to_owned(), life));
            }
        }
    }
    progress.set_length(jobs.len() as u64);
    let mut outcomes = run_all(&jobs, threads, progress)?.into_iter();
    let mut all = Vec::new();
    for Scenario { name, .. } in scenarios() {
        for policy in policies {
            let mut phases: Vec<Phase> = PHASES
                .windows(2)
                .map(|edges| Phase { from_ms: edges[0], to_ms: edges[1], ..Phase::default() })
                .collect();
            for disaster in outcomes.by_ref().take(links as usize).flat_map(|life| life.disasters) {
                let since = (disaster.at.as_secs_f64() - HISTORY.as_secs_f64()) * 1e3;
                let Some(phase) =
                    phases.iter_mut().find(|phase| (phase.from_ms..phase.to_ms).contains(&since))
                else {
                    continue;
                };
                phase.disasters += 1;
                if let Some(promised) = disaster.promised {
                    phase.judged += 1;
                    phase.promised += promised.probability();
                    phase.lost += u64::from(disaster.is_lost);
                }
            }
            for phase in &mut phases {
                phase.interval = clopper_pearson(phase.lost, phase.judged, 0.99);
            }
            all.push(Worsening {
                name: name.to_owned(),
                code: policy.name(),
                confidence,
                latency_ms: LATENCY.as_secs_f64() * 1e3,
                report_interval_ms: line.report_interval.as_secs_f64() * 1e3,
                phases,
            });
        }
    }
    Ok(all)
}

/// When appends are watched: each link at other instants, so that all of them together see every moment.
fn instants(link: u32) -> Vec<Duration> {
    // The golden ratio spreads the links evenly, however many they are.
    let shift = (f64::from(link) * 0.618_033_988_75).fract();
    let from = HISTORY.as_secs_f64();
    let mut all: Vec<f64> = [-0.8, -0.6, -0.4, -0.2].map(|at| from + at + 0.1 * shift).to_vec();
    let edges = PHASES.windows(2).filter(|edges| edges[0] >= 0.0);
    // Two in each phase.
    all.extend(edges.flat_map(|edges| {
        let at =
            |share: f64| from + 1e-3 * (edges[0] + (edges[1] - edges[0]) * (share + 0.01 + 0.48 * shift));
        [at(0.0), at(0.5)]
    }));
    all.into_iter().map(Duration::from_secs_f64).collect()
}

/// Edges of the phases, in milliseconds since the change.
const PHASES: [f64; 9] = [-1000.0, 0.0, 20.0, 40.0, 80.0, 150.0, 300.0, 1000.0, 3000.0];

/// What the node has seen of the line before it changes.
const HISTORY: Duration = Duration::from_secs(5);

const LATENCY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_ascend_and_reach_every_phase() {
        for link in 0..50 {
            let instants = instants(link);
            assert!(instants.windows(2).all(|pair| pair[0] < pair[1]));
            for edges in PHASES.windows(2) {
                let inside = instants.iter().filter(|at| {
                    let since = (at.as_secs_f64() - HISTORY.as_secs_f64()) * 1e3;
                    (edges[0]..edges[1]).contains(&since)
                });
                assert!(inside.count() >= 2);
            }
        }
    }

    #[test]
    fn a_promise_is_broken_beyond_chance_only() {
        let phase = |lost: u64| Phase {
            judged: 100,
            promised: 5.0,
            lost,
            interval: clopper_pearson(lost, 100, 0.99),
            ..Phase::default()
        };
        assert!(!phase(5).is_broken() && !phase(11).is_broken() && phase(20).is_broken());
        assert!(!Phase::default().is_broken());
    }
}

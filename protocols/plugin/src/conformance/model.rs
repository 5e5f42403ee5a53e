//! The conformance kit of durability models.

use parhelion_types::Risk;

use crate::channel::Channel;
use crate::chosen::Code;
use crate::conformance::examination::Effort;
use crate::conformance::random::SplitMix64;
use crate::model::{DurabilityModel, Exposure};
use crate::trial::{Crashes, Losses, Player, Wire};

/// What a passing [`check_model`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelReport {
    /// Questions that were answered.
    pub questions: u64,
    /// Pairs of questions, the second of which was the worse one.
    pub pairs: u64,
    /// Crashes that were played with the codes' own encoders and decoders.
    pub crashes: u64,
    /// Of these, in how many the append was lost.
    pub lost: u64,
}

/// A promise that a model broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("durability model {model} fails conformance, {promise}: {detail}; reproduce with seed {seed}")]
pub struct ModelViolation {
    /// Name of the model.
    pub model: String,
    /// Which promise.
    pub promise: &'static str,
    /// What happened instead.
    pub detail: String,
    /// The seed of the run.
    pub seed: u64,
}

/// Holds `model` against what every durability model promises, with the given codes:
///
/// - *Probability*: it does not break, and the same question has the same answer.
/// - *Bare losses*: what nothing covers is at least as much at risk as one packet.
/// - *Monotony*: before any simulation, a worse channel, a larger append or less protection never lowers the figure.
/// - *Bound*: no more appends are lost than it says. Crashes are played with the real encoder and decoder on channels
///   without memory, which lie within the assumptions of any model.
///
/// # Errors
/// The first promise that is broken.
pub fn check_model(
    model: &dyn DurabilityModel,
    codes: &[Code],
    seed: u64,
    effort: Effort,
) -> Result<ModelReport, ModelViolation> {
    let violation =
        |(promise, detail)| ModelViolation { model: model.name().to_owned(), promise, detail, seed };
    let mut trial = ModelTrial {
        model,
        random: SplitMix64::new(seed),
        work_left: if effort == Effort::Full { WORK_MAX } else { 0 },
        report: ModelReport::default(),
    };
    for code in codes {
        trial.monotony(code, if effort == Effort::Full { 2_000 } else { 100 }).map_err(violation)?;
    }
    for code in codes {
        let (wires, slots) = if effort == Effort::Full { (3, 3_000_000) } else { (1, 100_000) };
        trial.bound(code, wires, slots).map_err(violation)?;
    }
    Ok(trial.report)
}

/// Pieces of work that a model may do in all, some ten milliseconds each.
const WORK_MAX: u32 = 600;

/// What part of the better question's figure the worse one's must have: all but what rounding may take.
const LEAST: f64 = 1.0 - 1e-9;

/// How often a wire is played, at most.
const ROUNDS_MAX: usize = 500;

/// So unlikely a number of losses refutes a figure: it never happens to a model that is right.
const REFUTED: f64 = 1e-9;

struct ModelTrial<'a> {
    model: &'a dyn DurabilityModel,
    random: SplitMix64,
    work_left: u32,
    report: ModelReport,
}

type Broken = (&'static str, String);

impl ModelTrial<'_> {
    fn ask(&mut self, channel: &Channel, code: &Code, exposure: &Exposure) -> Result<f64, Broken> {
        self.report.questions += 1;
        let figure = self.model.own_risk(channel, code, exposure);
        if let Some(fault) = self.model.fault() {
            return Err(("probability", fault.to_owned()));
        }
        Ok(figure.probability())
    }

    /// Random questions, and a worse one for each.
    fn monotony(&mut self, code: &Code, questions: u32) -> Result<(), Broken> {
        for _ in 0..questions {
            let (channel, exposure) = (self.channel(), self.exposure(code));
            let figure = self.ask(&channel, code, &exposure)?;
            let described = |what: &str, other: f64| {
                format!("{code}: the risk of {exposure:?} on {channel:?} is {figure:e}, and {what} {other:e}")
            };
            let again = self.ask(&channel, code, &exposure)?;
            if again.to_bits() != figure.to_bits() {
                return Err(("probability", described("asked again", again)));
            }
            if exposure.coverage == 0 && figure < channel.loss * LEAST {
                return Err(("bare losses", described("a single packet's", channel.loss)));
            }
            for (what, channel, exposure) in self.worse(channel, exposure) {
                let other = self.ask(&channel, code, &exposure)?;
                self.report.pairs += 1;
                if other < figure * LEAST {
                    return Err(("monotony", described(what, other)));
                }
            }
        }
        Ok(())
    }

    /// Losses over many orders of magnitude, in bursts of up to a hundred.
    fn channel(&mut self) -> Channel {
        let (loss, burst) = (10_f64.powf(-6.0 + 5.5 * self.unit()), 100_f64.powf(self.unit()));
        let loss_in_bad = if self.random.chance(0.5) { 1.0 } else { 0.2 + 0.8 * self.unit() };
        let packets_per_second = 25_000.0;
        let dense = Channel::bursty(loss, burst, 0.999);
        Channel { loss_in_bad, loss: loss * loss_in_bad, packets_per_second, ..dense }
    }

    fn exposure(&mut self, code: &Code) -> Exposure {
        let structure = code.structure();
        let full = structure.full_coverage();
        let coverage = if self.random.chance(0.5) { full } else { full & self.random.next_u64() };
        let symbols = 1 + self.random.below(64) as u32;
        let group = match structure {
            crate::Structure::Block { r, .. } | crate::Structure::Layered { r, .. } => *r,
            _ => u32::try_from(structure.span_symbols()).unwrap_or(u32::MAX).max(1),
        };
        Exposure::steady(symbols, coverage, if coverage == 0 { 0 } else { group })
    }

    fn worse(&mut self, channel: Channel, exposure: Exposure) -> [(&'static str, Channel, Exposure); 5] {
        let more = 1.0 + 3.0 * self.unit();
        let up = |p: f64| (p * more).min(1.0);
        let less = exposure.coverage & self.random.next_u64();
        let group_max = if less == 0 { 0 } else { exposure.group_max };
        let symbols = exposure.symbols + 1 + self.random.below(64) as u32;
        [
            (
                "with more losses",
                Channel { good_to_bad: up(channel.good_to_bad), loss: up(channel.loss), ..channel },
                exposure,
            ),
            (
                "with longer bursts",
                Channel { bad_to_good: channel.bad_to_good / more, loss: up(channel.loss), ..channel },
                exposure,
            ),
            (
                "with denser bursts",
                Channel { loss_in_bad: up(channel.loss_in_bad), loss: up(channel.loss), ..channel },
                exposure,
            ),
            ("of a larger append", channel, Exposure { symbols, ..exposure }),
            ("with less coverage", channel, Exposure { coverage: less, group_max, ..exposure }),
        ]
    }

    /// Plays crashes, `wires` at every place of the code's cycle again and again until so many slots have passed, and compares
    /// their losses with the figures.
    fn bound(&mut self, code: &Code, wires: u32, slots: usize) -> Result<(), Broken> {
        let broken = |e: crate::ParameterError| ("bound", e.to_string());
        let mut player = Player::new(code).map_err(broken)?;
        let mut losses = Losses::default();
        for loss in [0.02, 0.1, 0.3] {
            let channel = Channel { packets_per_second: 25_000.0, ..Channel::independent(loss, 0.999) };
            let asked = Exposure::steady(4, code.structure().full_coverage(), 0);
            let source = Crashes::new(code, &asked);
            let wires: Vec<_> = (0..wires * source.places())
                .filter_map(|n| source.wire(n % source.places(), n, &mut self.random))
                .collect();
            let Some(wire) = wires.first() else { continue };
            let figure = self.settled(&channel, code, wire.exposure())?;
            let once: usize = wires.iter().map(Wire::slots).sum();
            let each = (slots / once.max(1)).clamp(1, ROUNDS_MAX);
            let (mut lost, mut all) = (0_u64, 0_u64);
            // In rounds over ascending wires, so that one decoder serves many of them.
            for _ in 0..each {
                for wire in wires.iter().filter(|other| other.exposure() == wire.exposure()) {
                    losses.clear(wire.slots());
                    for slot in (0..wire.slots()).filter(|&slot| wire.is_packet(slot)) {
                        if self.random.chance(loss) {
                            losses.insert(slot);
                        }
                    }
                    all += 1;
                    lost += u64::from(player.is_lost(wire, &losses));
                }
            }
            self.report.crashes += all;
            self.report.lost += lost;
            if is_refuted(figure.probability(), lost, all) {
                return Err((
                    "bound",
                    format!(
                        "{code}: at {loss} of independent losses {lost} of {all} appends were lost, and it says {figure}"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The answer after as much work as is left for it.
    fn settled(&mut self, channel: &Channel, code: &Code, exposure: &Exposure) -> Result<Risk, Broken> {
        self.ask(channel, code, exposure)?;
        while self.work_left > 0 && self.model.work() {
            self.work_left -= 1;
        }
        Ok(Risk::bound(self.ask(channel, code, exposure)?))
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Whether so many losses are too many for a probability of at most `figure` (Chernoff's bound on the binomial's tail).
fn is_refuted(figure: f64, lost: u64, all: u64) -> bool {
    let (n, share) = (all as f64, lost as f64 / all.max(1) as f64);
    if lost == 0 || share <= figure {
        return false;
    }
    let part = |a: f64, b: f64| if a <= 0.0 { 0.0 } else { a * (a / b).ln() };
    let divergence = part(share, figure) + part(1.0 - share, 1.0 - figure);
    n * divergence > -REFUTED.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_refuted_by_many_losses_and_not_by_few() {
        assert!(!is_refuted(0.1, 0, 1000));
        assert!(!is_refuted(0.1, 130, 1000));
        assert!(is_refuted(0.1, 200, 1000));
        assert!(is_refuted(0.0, 1, 1000));
        assert!(!is_refuted(1e-6, 1, 1000), "once in a thousand times this is chance");
        assert!(is_refuted(1e-6, 3, 1000));
        assert!(!is_refuted(1.0, 1000, 1000));
    }
}

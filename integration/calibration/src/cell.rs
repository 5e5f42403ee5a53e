//! What came of one channel, one code, one model and one confidence.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalogue::Class;
use crate::life::{Disaster, Outcome};
use crate::statistics::{clopper_pearson, promise_test, quantile};

/// A cell of the grid.
///
/// Of each disaster one append is judged, chosen before anything was known about it, and the next disaster comes when
/// the line has forgotten the state that it was in. So the disasters of a cell are independent but for what the estimator
/// learned from earlier ones, which is known before the next promise is made: given the promises, the number of losses
/// is at most Poisson-binomial with them, and the test is its exact upper tail ([`promise_test`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The channel.
    pub channel: String,
    /// What may be expected on it.
    pub class: Class,
    /// The code and its parameters.
    pub code: String,
    /// The durability model.
    pub model: String,
    /// The confidence of the bounds.
    pub confidence: f64,
    /// Whether the model's own assumption holds on the channel.
    pub is_supposed: bool,
    /// Disasters, one for each append that was watched.
    pub disasters: u64,
    /// Of those, with a promise: in the others the mirror had confirmed the append before its risk was low enough.
    pub judged: u64,
    /// How many of them were promised to be lost at most: the sum of the prefix risks.
    pub promised: f64,
    /// How many were.
    pub lost: u64,
    /// Exact interval (Clopper-Pearson, 99 %) for the share that is lost.
    pub interval: (f64, f64),
    /// How likely losses are that speak as much against the promises, had each been exact: [`promise_test`].
    pub p_value: f64,
    /// Links that the disasters were spread over, each with telemetry of its own.
    pub links: u64,
    /// Of those, with more losses than promised at most, by any number.
    pub links_above: u64,
    /// Of those, with more losses than a link has by chance once in a hundred times.
    pub links_refuted: u64,
    /// Of those, on which an append came to neither end in five seconds: the link stood still.
    pub links_stalled: u64,
    /// Bytes on the wire over bytes of source symbols.
    pub overhead: f64,
    /// Time from the hand-over of an append to its acknowledgement, in milliseconds; median.
    pub ack_p50_ms: f64,
    /// The same; 99 of 100 are at most this long.
    pub ack_p99_ms: f64,
    /// Largest factor by which the record of promises raised the model's figures.
    pub factor: f64,
}

/// What names a cell.
#[derive(Clone, Debug)]
pub(crate) struct Heading {
    pub channel: String,
    pub class: Class,
    pub code: String,
    pub model: String,
    pub confidence: f64,
    pub is_supposed: bool,
}

impl Cell {
    /// The cell of `level` and `model` from the lives of its links; `models` is how many each link was judged by.
    pub(crate) fn of(heading: Heading, lives: &[Outcome], level: usize, model: usize, models: usize) -> Self {
        let own = |disaster: &&Disaster| disaster.level == level && disaster.model == model;
        let mut cell = Self {
            channel: heading.channel,
            class: heading.class,
            code: heading.code,
            model: heading.model,
            confidence: heading.confidence,
            is_supposed: heading.is_supposed,
            disasters: 0,
            judged: 0,
            promised: 0.0,
            lost: 0,
            interval: (0.0, 1.0),
            p_value: 1.0,
            links: 0,
            links_above: 0,
            links_refuted: 0,
            links_stalled: 0,
            overhead: 0.0,
            ack_p50_ms: 0.0,
            ack_p99_ms: 0.0,
            factor: 1.0,
        };
        let mut outcomes = Vec::new();
        let mut latencies = Vec::new();
        let (mut bytes, mut source_bytes) = (0, 0);
        for life in lives {
            let mut of_link = Vec::new();
            for disaster in life.disasters.iter().filter(own) {
                cell.disasters += 1;
                latencies.push(millis(disaster.latency));
                if let Some(promised) = disaster.promised {
                    of_link.push((promised.probability(), disaster.is_lost));
                }
            }
            let promised: f64 = of_link.iter().map(|(promised, _)| promised).sum();
            let lost = of_link.iter().filter(|(_, is_lost)| *is_lost).count() as u64;
            cell.links += u64::from(!of_link.is_empty());
            cell.links_above += u64::from(lost as f64 > promised);
            cell.links_refuted += u64::from(promise_test(&of_link) < LINK_REFUTED);
            cell.links_stalled += u64::from(life.is_stalled);
            cell.promised += promised;
            cell.lost += lost;
            outcomes.append(&mut of_link);
            bytes += life.wire.bytes;
            source_bytes += life.wire.source_bytes;
            let factor = life.factors.get(level * models + model).copied().unwrap_or(1.0);
            cell.factor = cell.factor.max(factor);
        }
        cell.judged = outcomes.len() as u64;
        cell.interval = clopper_pearson(cell.lost, cell.judged, 0.99);
        cell.p_value = promise_test(&outcomes);
        cell.overhead = bytes as f64 / source_bytes.max(1) as f64;
        latencies.sort_by(f64::total_cmp);
        (cell.ack_p50_ms, cell.ack_p99_ms) = (quantile(&latencies, 0.5), quantile(&latencies, 0.99));
        cell
    }

    /// How much the promise exceeds the loss, where enough losses were seen to tell.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        (self.lost >= RATIO_LOSSES_MIN).then(|| self.promised / self.lost as f64)
    }
}

/// Losses from which on it is told by how much a promise exceeds them.
pub const RATIO_LOSSES_MIN: u64 = 20;

/// How likely a link with exact promises is to be called refuted.
pub const LINK_REFUTED: f64 = 0.01;

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use parhelion_types::Risk;

    use super::*;
    use crate::link::WireFigures;

    fn life(promised: f64, disasters: u32, lost: u32) -> Outcome {
        let disaster = |n| Disaster {
            level: 0,
            model: 0,
            promised: (n > 0).then(|| Risk::bound(promised)),
            is_lost: n > 0 && n <= lost,
            latency: Duration::from_millis(u64::from(n)),
            at: Duration::ZERO,
            symbols: 1,
        };
        Outcome {
            disasters: (0..=disasters).map(disaster).collect(),
            wire: WireFigures { bytes: 300, source_bytes: 200, ..WireFigures::default() },
            factors: vec![f64::from(lost)],
            ..Outcome::default()
        }
    }

    fn cell(lives: &[Outcome]) -> Cell {
        let heading = Heading {
            channel: "c".to_owned(),
            class: Class::Supposed,
            code: "k".to_owned(),
            model: "m".to_owned(),
            confidence: 0.9,
            is_supposed: true,
        };
        Cell::of(heading, lives, 0, 0, 1)
    }

    #[test]
    fn a_cell_adds_up_its_links() {
        let cell = cell(&[life(0.1, 100, 4), life(0.1, 100, 12), life(0.1, 100, 40)]);
        assert_eq!((cell.disasters, cell.judged, cell.lost, cell.links), (303, 300, 56, 3));
        assert!((cell.promised - 30.0).abs() < 1e-9 && (cell.overhead - 1.5).abs() < 1e-9);
        // 12 of 100 at 0.1 is above, not against chance; 40 is.
        assert_eq!((cell.links_above, cell.links_refuted), (2, 1));
        assert!(cell.p_value < 1e-4 && cell.interval.0 > 0.1);
        assert_eq!((cell.ack_p50_ms, cell.ack_p99_ms, cell.factor), (50.0, 99.0, 40.0));
        assert!((cell.ratio().unwrap() - 30.0 / 56.0).abs() < 1e-9);
    }

    #[test]
    fn who_promises_nothing_breaks_no_promise() {
        let cell = cell(&[life(0.1, 0, 0)]);
        assert_eq!((cell.disasters, cell.judged, cell.links, cell.p_value), (1, 0, 0, 1.0));
        assert_eq!(cell.ratio(), None);
    }
}

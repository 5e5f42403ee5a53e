//! The search for the cheapest candidate that will do.

use std::cmp::Ordering;
use std::sync::Arc;

use parhelion_plugin::{DurabilityModel, ErasureCode};

use crate::candidate::Candidate;
use crate::codes::codes;
use crate::evaluation::{Evaluation, Pricer, Sketch};
use crate::explanation;
use crate::interleaves::step_up;
use crate::situation::{Situation, Terms};

/// What a search came to.
#[derive(Clone, Debug)]
pub enum Plan {
    /// The least overhead that meets the risk in time. Where appends of one kind, in a stream or alone, cannot have it, it is
    /// the cheapest for the other kind, if that is half of the appends or more ([`Evaluation::met_share`]).
    Use(Box<Evaluation>),
    /// Nothing meets the risk within the deadline and before the mirror's own word, which appends therefore wait for.
    Wait {
        /// What comes nearest: too late, or else at the least risk. None if the catalogue is empty.
        best: Option<Box<Evaluation>>,
        /// That, in words.
        explanation: String,
    },
}

/// Evaluates candidates, the cheapest first, until none that is left can be better. Resumable, since a durability model
/// takes its time.
#[derive(Debug)]
pub struct Search {
    terms: Terms,
    /// By falling overhead: the next one is the last.
    sketches: Vec<Sketch>,
    current: Option<Candidate>,
    comfort: f64,
    best: Option<Evaluation>,
}

/// The plan for a situation, `current` among equals.
#[must_use]
pub fn choose(
    situation: &Situation,
    model: &dyn DurabilityModel,
    catalogue: &[Arc<dyn ErasureCode>],
    current: Option<&Candidate>,
) -> Plan {
    let mut search = Search::new(situation, catalogue, current, 1.0);
    while !search.advance(model, u32::MAX) {}
    search.plan()
}

/// Every candidate, the best first: those that meet the risk in time, by overhead; then those that do for one kind of append
/// only; then the others, by how near they come.
#[must_use]
pub fn rank(
    situation: &Situation,
    model: &dyn DurabilityModel,
    catalogue: &[Arc<dyn ErasureCode>],
    current: Option<&Candidate>,
) -> Vec<Evaluation> {
    let mut search = Search::new(situation, catalogue, current, 1.0);
    let mut pricer = Pricer::new(model, &search.terms.channels);
    let mut all = Vec::with_capacity(search.sketches.len());
    while let Some(sketch) = search.sketches.pop() {
        all.push(search.best_pause(&sketch, &mut pricer, true));
    }
    all.sort_by(|a, b| search.compare(a, b));
    all
}

impl Search {
    /// A search for this situation. What it takes shall reach `comfort`, at most 1, of the risk, if anything does.
    #[must_use]
    pub fn new(
        situation: &Situation,
        catalogue: &[Arc<dyn ErasureCode>],
        current: Option<&Candidate>,
        comfort: f64,
    ) -> Self {
        let terms = Terms::new(situation);
        let mut codes = codes(catalogue, &terms);
        if let Some(current) = current
            && !codes.contains(&current.code)
        {
            codes.push(current.code.clone());
        }
        let mut sketches: Vec<Sketch> = codes.into_iter().map(|code| Sketch::new(code, &terms)).collect();
        sketches.sort_by(|a, b| b.overhead.total_cmp(&a.overhead));
        let comfort = if comfort > 0.0 { comfort.min(1.0) } else { 1.0 };
        Self { terms, sketches, current: current.cloned(), comfort, best: None }
    }

    /// Goes on until at least `questions` were asked of the model, a candidate's worth more at most; whether it is done.
    pub fn advance(&mut self, model: &dyn DurabilityModel, questions: u32) -> bool {
        // The pricer borrows the channels while the search changes.
        let channels = std::mem::take(&mut self.terms.channels);
        let mut pricer = Pricer::new(model, &channels);
        while pricer.questions < questions && !self.is_done() {
            let Some(sketch) = self.sketches.pop() else { break };
            let evaluation = self.best_pause(&sketch, &mut pricer, false);
            self.take(evaluation);
        }
        self.terms.channels = channels;
        self.is_done()
    }

    /// What was found, after the last [`advance`](Self::advance).
    #[must_use]
    pub fn plan(self) -> Plan {
        match self.best {
            Some(best) if serves(&best) => Plan::Use(Box::new(best)),
            best => {
                let explanation = explanation::wait(best.as_ref(), &self.terms);
                Plan::Wait { best: best.map(Box::new), explanation }
            }
        }
    }

    /// Whether no candidate that is left can be better.
    fn is_done(&self) -> bool {
        let Some(next) = self.sketches.last() else { return true };
        self.best.as_ref().is_some_and(|best| {
            let is_dearer = millionths(next.overhead) > millionths(best.overhead);
            best.is_met() && best.is_comfortable && is_dearer
        })
    }

    fn take(&mut self, evaluation: Evaluation) {
        let is_better = |best: &Evaluation| self.compare(&evaluation, best).is_lt();
        if self.best.as_ref().is_none_or(is_better) {
            self.best = Some(evaluation);
        }
    }

    /// The better one comes first.
    fn compare(&self, a: &Evaluation, b: &Evaluation) -> Ordering {
        match (serves(a), serves(b)) {
            (true, true) => preference(a, b, self.current.as_ref()),
            (false, false) => nearness(a, b, &self.terms),
            (a_met, b_met) => b_met.cmp(&a_met),
        }
    }

    /// The code with the pauses that suit it best. They cost time alone, so the shortest that will do.
    fn best_pause(&self, sketch: &Sketch, pricer: &mut Pricer, all: bool) -> Evaluation {
        let current = self.current.as_ref();
        let likely = [1, 2, 4].map(|times| step_up(self.terms.burst.saturating_mul(times)));
        let now = current.map(|current| current.flush_pause);
        let mut pauses = if sketch.gains_by_pauses(&self.terms) {
            let same = now.filter(|_| current.is_some_and(|current| current.code == sketch.code));
            likely.into_iter().chain(same).chain([0]).collect()
        } else {
            // Whatever it is, it stays.
            vec![now.unwrap_or(likely[1])]
        };
        pauses.sort_unstable();
        pauses.dedup();
        pricer.begin();
        let mut best: Option<Evaluation> = None;
        for pause in pauses {
            let evaluation = sketch.evaluate(pause, self.comfort, &self.terms, pricer, all);
            let is_enough = evaluation.is_met() && evaluation.is_comfortable;
            if best.as_ref().is_none_or(|best| self.compare(&evaluation, best).is_lt()) {
                best = Some(evaluation);
            }
            if is_enough {
                break;
            }
        }
        // `pauses` is never empty.
        best.unwrap_or_else(|| sketch.evaluate(0, self.comfort, &self.terms, pricer, all))
    }
}

/// Whether enough appends meet the risk in time for the others to pay the overhead.
fn serves(evaluation: &Evaluation) -> bool {
    evaluation.met_share >= SERVED_MIN
}

/// Less is a minority, for which all traffic would carry the repairs.
const SERVED_MIN: f64 = 0.5;

/// More appends in time, a comfortable risk, less overhead, less latency, and among equals what is in force, or else what
/// asks decoders to remember less.
fn preference(a: &Evaluation, b: &Evaluation, current: Option<&Candidate>) -> Ordering {
    let is_current = |evaluation: &Evaluation| Some(&evaluation.candidate) == current;
    let span = |evaluation: &Evaluation| evaluation.candidate.code.structure().span_symbols();
    millionths(b.met_share)
        .cmp(&millionths(a.met_share))
        .then(b.is_comfortable.cmp(&a.is_comfortable))
        .then(millionths(a.overhead).cmp(&millionths(b.overhead)))
        .then(a.latency.as_micros().cmp(&b.latency.as_micros()))
        .then(is_current(b).cmp(&is_current(a)))
        .then(span(a).cmp(&span(b)))
}

/// Of two that do not meet the risk in time, the one that comes nearer: with room on the line; late with the risk met, or
/// else at less risk.
fn nearness(a: &Evaluation, b: &Evaluation, terms: &Terms) -> Ordering {
    let late = |evaluation: &Evaluation| {
        let is_met = evaluation.prefix_risk().probability() <= terms.max_risk;
        let last = evaluation.courses().filter_map(|course| course.points.last()).map(|point| point.latest);
        is_met.then(|| last.max().unwrap_or_default())
    };
    b.fits.cmp(&a.fits).then_with(|| match (late(a), late(b)) {
        (Some(a_last), Some(b_last)) => a_last.cmp(&b_last).then(a.overhead.total_cmp(&b.overhead)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => {
            let risks = a.prefix_risk().probability().total_cmp(&b.prefix_risk().probability());
            risks.then(a.overhead.total_cmp(&b.overhead))
        }
    })
}

/// What differs by less is equal: figures that ought to be the same differ in their last digits.
fn millionths(value: f64) -> u64 {
    (value * 1e6).round() as u64
}

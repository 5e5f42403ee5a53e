//! The loop: raises protection at once, lowers it slowly, and says why.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parhelion_plugin::{DurabilityModel, ErasureCode};
use parhelion_types::Time;

use crate::candidate::Candidate;
use crate::evaluation::{Evaluation, assess};
use crate::explanation::{self, Facts};
use crate::policy::Policy;
use crate::search::{Plan, Search};
use crate::situation::{Situation, Terms};

/// Keeps the code of a link fit for its situation.
///
/// - What is in force does not meet the risk in time for all appends that could have it: a search begins with that very
///   step, and what it finds is taken as soon as it is found, which is the same step unless the model is slow.
/// - Nothing does, and what is in force leaves the traffic no room on the line: something that has room is taken.
/// - Something cheaper would do: it must do so at each step of the hold, with room to spare. A change for the cheaper that
///   has to be taken back makes the next hold longer, so a channel that flickers is planned for at its worst.
///
/// The caller puts each [`Decision::Change`] into force, and says so with [`set_current`](Self::set_current) if it could
/// not.
#[derive(Debug)]
pub struct Controller {
    policy: Policy,
    catalogue: Vec<Arc<dyn ErasureCode>>,
    current: Candidate,
    /// What `current` was chosen for.
    basis: Option<Facts>,
    search: Option<Running>,
    /// When the last search ended.
    searched: Option<Time>,
    pending: Option<Pending>,
    /// [`Policy::hold`], or longer after flickering.
    hold: Duration,
    lowered: Option<Time>,
    /// The last change to the cheaper that was taken back.
    flickered: Option<Time>,
    raises: VecDeque<Time>,
    lowers: VecDeque<Time>,
    /// Appends wait for the mirror, and it was said.
    waits: bool,
}

#[derive(Debug)]
struct Running {
    search: Search,
    /// What is in force does not do.
    is_urgent: bool,
}

/// What may become cheaper.
#[derive(Clone, Debug)]
struct Pending {
    candidate: Candidate,
    since: Time,
}

/// What the controller has to say.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Put another candidate into force.
    Change(Box<Change>),
    /// From now on no code meets the risk in time, or none does for both kinds of appends: those of the other wait for the
    /// mirror's own word, and the code in force stays.
    Wait {
        /// Why, in words.
        explanation: String,
    },
    /// What is in force meets the risk again without a change.
    Meets {
        /// With which figures, in words.
        explanation: String,
    },
}

/// Another candidate for the link.
#[derive(Clone, Debug)]
pub struct Change {
    /// What was in force, as it does now.
    pub from: Evaluation,
    /// What is to be, likewise.
    pub to: Evaluation,
    /// Which way.
    pub direction: Direction,
    /// Why, in words.
    pub explanation: String,
}

/// Which way a change goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To something that meets the risk.
    Raise,
    /// To something that costs less, and meets it as well, or has room on the line where nothing that meets it has.
    Lower,
}

impl Controller {
    /// A controller of a link on which `current` is in force.
    #[must_use]
    pub fn new(policy: Policy, catalogue: Vec<Arc<dyn ErasureCode>>, current: Candidate) -> Self {
        Self {
            hold: policy.hold,
            policy,
            catalogue,
            current,
            basis: None,
            search: None,
            searched: None,
            pending: None,
            lowered: None,
            flickered: None,
            raises: VecDeque::new(),
            lowers: VecDeque::new(),
            waits: false,
        }
    }

    /// What is in force, as far as the controller knows.
    #[must_use]
    pub fn current(&self) -> &Candidate {
        &self.current
    }

    /// Something else is in force than the controller chose: a setting of the operator, or a change that failed.
    pub fn set_current(&mut self, current: Candidate) {
        self.current = current;
        self.basis = None;
        self.search = None;
        self.searched = None;
        self.pending = None;
    }

    /// Whether a search goes on with the next step, which may come at once.
    #[must_use]
    pub fn is_searching(&self) -> bool {
        self.search.is_some()
    }

    /// Looks at the situation; once per second is often enough. Asks the model some ten questions about what is in force,
    /// and at most [`Policy::questions_per_step`] in the search.
    pub fn step(
        &mut self,
        now: Time,
        situation: &Situation,
        model: &dyn DurabilityModel,
    ) -> Option<Decision> {
        let terms = Terms::new(situation);
        let facts = Facts::of(situation);
        let current = assess(&terms, model, &self.current, 1.0);
        self.basis.get_or_insert(facts);

        forget(&mut self.raises, now, MINUTE);
        forget(&mut self.lowers, now, HOUR);
        let is_urgent = !current.is_met() && self.raises.len() < self.policy.raises_per_minute;
        self.begin_search(now, situation, is_urgent);
        let found = self.advance(now, model);

        let raised = match &found {
            Some(plan) if is_urgent => self.raise(now, &terms, model, &facts, &current, plan),
            _ => None,
        };
        if raised.is_some() {
            return raised;
        }
        self.consider(now, &terms, model, &current, found);
        self.lower(now, &terms, model, &facts, &current).or_else(|| self.meets_again(&current))
    }

    /// Begins the search that is due. One that was begun for a situation in which everything was fine is of no use when
    /// nothing is.
    fn begin_search(&mut self, now: Time, situation: &Situation, is_urgent: bool) {
        // When nothing better was found, nothing better is there until much has changed.
        let is_urgent = is_urgent && !self.waits;
        let is_due = match &self.search {
            Some(running) => is_urgent && !running.is_urgent,
            None => {
                is_urgent || self.searched.is_none_or(|last| now.since(last) >= self.policy.search_interval)
            }
        };
        if is_due {
            let comfort = self.policy.comfort;
            let search = Search::new(situation, &self.catalogue, Some(&self.current), comfort);
            self.search = Some(Running { search, is_urgent });
        }
    }

    /// Goes on with the search; what it came to if it is done.
    fn advance(&mut self, now: Time, model: &dyn DurabilityModel) -> Option<Plan> {
        let mut running = self.search.take()?;
        if !running.search.advance(model, self.policy.questions_per_step) {
            self.search = Some(running);
            return None;
        }
        self.searched = Some(now);
        Some(running.search.plan())
    }

    /// What is in force does not do: takes what does for more of the appends, or has room at least.
    fn raise(
        &mut self,
        now: Time,
        terms: &Terms,
        model: &dyn DurabilityModel,
        facts: &Facts,
        current: &Evaluation,
        found: &Plan,
    ) -> Option<Decision> {
        let explanation = match found {
            Plan::Use(best) => {
                // The situation may have moved on while a long search ran.
                let better = assess(terms, model, &best.candidate, 1.0);
                if better.met_share > current.met_share + SHARE_MARGIN {
                    return Some(self.take_better(now, facts, current, better));
                }
                explanation::wait_in_part(current, terms)
            }
            Plan::Wait { best: Some(best), .. } if best.fits && !current.fits => {
                let room = assess(terms, model, &best.candidate, 1.0);
                self.waits = true;
                return Some(self.change(facts, current, room, Direction::Lower));
            }
            Plan::Wait { explanation, .. } => explanation.clone(),
        };
        (!std::mem::replace(&mut self.waits, true)).then_some(Decision::Wait { explanation })
    }

    fn take_better(
        &mut self,
        now: Time,
        facts: &Facts,
        current: &Evaluation,
        better: Evaluation,
    ) -> Decision {
        self.raises.push_back(now);
        if self.lowered.take().is_some_and(|lowered| now.since(lowered) <= self.hold.saturating_mul(2)) {
            self.hold = self.hold.saturating_mul(2).min(self.policy.hold_max);
            self.flickered = Some(now);
        }
        self.waits = !better.is_met();
        self.change(facts, current, better, Direction::Raise)
    }

    /// Notes what would do as well for less.
    fn consider(
        &mut self,
        now: Time,
        terms: &Terms,
        model: &dyn DurabilityModel,
        current: &Evaluation,
        found: Option<Plan>,
    ) {
        let comfort = self.policy.comfort;
        let is_still_better =
            |pending: &Pending| self.is_better(&assess(terms, model, &pending.candidate, comfort), current);
        if !self.pending.as_ref().is_some_and(is_still_better) {
            self.pending = None;
        }
        let (None, Some(Plan::Use(best))) = (&self.pending, found) else { return };
        if self.is_better(&assess(terms, model, &best.candidate, comfort), current) {
            self.pending = Some(Pending { candidate: best.candidate, since: now });
        }
    }

    /// Takes what was better for long enough.
    fn lower(
        &mut self,
        now: Time,
        terms: &Terms,
        model: &dyn DurabilityModel,
        facts: &Facts,
        current: &Evaluation,
    ) -> Option<Decision> {
        if self.flickered.is_some_and(|last| now.since(last) >= self.policy.hold_max) {
            self.flickered = None;
            self.hold = self.policy.hold;
        }
        let since = self.pending.as_ref()?.since;
        if now.since(since) < self.hold || self.lowers.len() >= self.policy.lowers_per_hour {
            return None;
        }
        let pending = self.pending.take()?;
        let better = assess(terms, model, &pending.candidate, self.policy.comfort);
        self.lowers.push_back(now);
        self.lowered = Some(now);
        Some(self.change(facts, current, better, Direction::Lower))
    }

    /// Whether it does as much, and is worth a change.
    fn is_better(&self, evaluation: &Evaluation, current: &Evaluation) -> bool {
        let keep = 1.0 - self.policy.margin;
        let is_cheaper = evaluation.overhead < current.overhead * keep;
        let is_faster = evaluation.overhead <= current.overhead
            && evaluation.latency.as_secs_f64() < current.latency.as_secs_f64() * keep
            && evaluation.latency + LATENCY_MARGIN < current.latency;
        let is_met = evaluation.met_share > 0.0 && evaluation.met_share + SHARE_MARGIN >= current.met_share;
        is_met && evaluation.is_comfortable && (is_cheaper || is_faster)
    }

    fn change(
        &mut self,
        facts: &Facts,
        current: &Evaluation,
        to: Evaluation,
        direction: Direction,
    ) -> Decision {
        let explanation = explanation::change(self.basis.as_ref(), facts, current, &to);
        self.current = to.candidate.clone();
        self.basis = Some(*facts);
        self.pending = None;
        self.search = None;
        self.searched = None;
        Decision::Change(Box::new(Change { from: current.clone(), to, direction, explanation }))
    }

    /// The end of waiting, if it is one.
    fn meets_again(&mut self, current: &Evaluation) -> Option<Decision> {
        if !(self.waits && current.is_met()) {
            return None;
        }
        self.waits = false;
        let label = current.candidate.label();
        Some(Decision::Meets {
            explanation: format!("{label} meets the risk again: {}", current.prefix_risk()),
        })
    }
}

/// Share of the appends that is worth a change.
const SHARE_MARGIN: f64 = 0.005;

/// Gain in latency that is worth a change.
const LATENCY_MARGIN: Duration = Duration::from_millis(1);

const MINUTE: Duration = Duration::from_secs(60);

const HOUR: Duration = Duration::from_secs(3600);

fn forget(times: &mut VecDeque<Time>, now: Time, span: Duration) {
    while times.front().is_some_and(|&time| now.since(time) >= span) {
        times.pop_front();
    }
}

//! The planner: keeps the link's code fit for what the link loses and what clients ask for.
//!
//! A shell around [`Controller`]. Once per second it asks what is asked of the site, looks at the link, and lets the
//! controller decide; a change goes to the link's driver, and its reason to the log and into the status.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, Message, Supervised};
use parhelion_actor_runtime::Clock;
use parhelion_plan::{AckWhen, Candidate, Controller, Decision, Policy, Situation};
use parhelion_plugin::{Code, DurabilityModel, ErasureCode};
use parhelion_types::{Risk, Time};
use tokio::sync::oneshot;

use crate::Belief;

/// How often the situation is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Weight of the newest second in the traffic's rate: what counts is the last half minute, not one burst.
const NEWEST: f64 = 0.05;

/// What the planner is built from.
#[derive(Clone)]
pub struct PlannerConfig {
    /// How eager it is.
    pub policy: Policy,
    /// The codes to choose among.
    pub catalogue: Vec<Arc<dyn ErasureCode>>,
    /// What prices appends.
    pub model: Arc<dyn DurabilityModel>,
    /// In force when the link begins.
    pub current: Candidate,
    /// What does not change: the line, its packets and its delays.
    pub line: Situation,
    /// The node's clock.
    pub clock: Arc<Clock>,
    /// What the estimator believes.
    pub belief: Arc<Mutex<Belief>>,
}

/// What the planner sees of the site and the link, and does to them.
pub trait Planned: Send + Sync {
    /// Asks what clients ask for.
    fn demand(&self) -> oneshot::Receiver<Option<Demand>>;
    /// Figures of the link.
    fn traffic(&self) -> Traffic;
    /// Puts a candidate into force; told when it is, or why not.
    fn change(&self, candidate: &Candidate) -> oneshot::Receiver<Result<(), String>>;
}

/// What clients ask for at the level `network`, lately.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// Bytes of an append.
    pub append_bytes: u32,
    /// Appends of one log that are in flight together.
    pub in_flight: f64,
    /// The smallest of the risks asked for.
    pub max_risk: Risk,
    /// The shortest of the deadlines.
    pub deadline: Duration,
}

/// Figures of the link since its driver was started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Source symbols sent for the first time.
    pub symbols: u64,
    /// Records handed to the link.
    pub records: u64,
    /// Times that partial groups were flushed.
    pub flushes: u64,
    /// There and back; zero if it is not known.
    pub round_trip: Duration,
}

/// What the planner does, for status.
#[derive(Clone, Debug, Default)]
pub struct Planning {
    /// Whether it may change the code.
    pub is_on: bool,
    /// Changes made.
    pub changes: u64,
    /// Whether no code meets the risk in time, so that appends wait for the mirror's own word.
    pub waits: bool,
    /// The last decision, in words.
    pub last: Option<String>,
}

/// The actor. Rebuilt after a panic with nothing learnt.
pub struct PlannerActor {
    config: PlannerConfig,
    planned: Arc<dyn Planned>,
    controller: Controller,
    planning: Arc<Mutex<Planning>>,
    /// The traffic when it was looked at last.
    seen: Option<(Time, Traffic)>,
    symbols_per_second: f64,
    lone_share: f64,
    /// A change is under way.
    is_changing: bool,
}

/// The link is under this code now.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct InForce(pub Code);

/// The operator lets the planner choose, or chose by hand.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct LetPlan(pub bool);

impl PlannerActor {
    /// A planner, and the place where its doings can be read.
    #[must_use]
    pub fn new(
        config: PlannerConfig,
        planned: Arc<dyn Planned>,
        is_on: bool,
    ) -> (Self, Arc<Mutex<Planning>>) {
        let planning = Arc::new(Mutex::new(Planning { is_on, ..Planning::default() }));
        let controller = controller(&config);
        let planner = Self {
            config,
            planned,
            controller,
            planning: planning.clone(),
            seen: None,
            symbols_per_second: 0.0,
            lone_share: 1.0,
            is_changing: false,
        };
        (planner, planning)
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        self.observe();
        if self.is_changing || !self.tell(|planning| planning.is_on) {
            return;
        }
        let demand = wrap_future::<_, Self>(self.planned.demand());
        ctx.spawn(demand.map(|demand, actor: &mut Self, ctx| {
            // Nobody asks for anything: whatever is in force will do.
            if let Ok(Some(demand)) = demand {
                actor.decide(&demand, ctx);
            }
        }));
    }

    /// Follows the traffic's rate.
    fn observe(&mut self) {
        let (now, traffic) = (self.config.clock.now(), self.planned.traffic());
        let Some((then, before)) = self.seen.replace((now, traffic)) else { return };
        let seconds = now.since(then).as_secs_f64();
        // A driver that was rebuilt counts from zero.
        let Some(symbols) = traffic.symbols.checked_sub(before.symbols).filter(|_| seconds > 0.0) else {
            return;
        };
        let records = traffic.records.saturating_sub(before.records);
        let flushes = traffic.flushes.saturating_sub(before.flushes);
        let towards = |mean: &mut f64, newest: f64| *mean += NEWEST * (newest - *mean);
        towards(&mut self.symbols_per_second, symbols as f64 / seconds);
        if records > 0 {
            towards(&mut self.lone_share, (flushes as f64 / records as f64).min(1.0));
        }
    }

    fn decide(&mut self, demand: &Demand, ctx: &mut Context<Self>) {
        let situation = self.situation(demand);
        let now = self.config.clock.now();
        let decision = self.controller.step(now, &situation, &*self.config.model);
        match decision {
            None => {}
            Some(Decision::Change(change)) => {
                let candidate = change.to.candidate.clone();
                let explanation = change.explanation.clone();
                self.is_changing = true;
                let changed = wrap_future::<_, Self>(self.planned.change(&candidate));
                ctx.spawn(changed.map(move |changed, actor: &mut Self, _| {
                    actor.is_changing = false;
                    actor
                        .changed(changed.unwrap_or_else(|_| Err("the link is down".to_owned())), explanation);
                }));
            }
            Some(Decision::Wait { explanation }) => {
                tracing::warn!(%explanation, "no code meets the risk in time: appends wait for the mirror");
                self.tell(|planning| (planning.waits, planning.last) = (true, Some(explanation)));
            }
            Some(Decision::Meets { explanation }) => {
                tracing::info!(%explanation, "the code meets the risk again");
                self.tell(|planning| (planning.waits, planning.last) = (false, Some(explanation)));
            }
        }
    }

    fn situation(&self, demand: &Demand) -> Situation {
        let channels = self.config.belief.lock().unwrap_or_else(PoisonError::into_inner).channels.clone();
        let round_trip = match self.seen {
            Some((_, Traffic { round_trip, .. })) if !round_trip.is_zero() => round_trip,
            _ => self.config.line.round_trip,
        };
        Situation {
            channels,
            symbols_per_second: self.symbols_per_second,
            round_trip,
            append_bytes: demand.append_bytes,
            appends_in_flight: demand.in_flight,
            lone_share: self.lone_share,
            max_risk: demand.max_risk,
            deadline: demand.deadline,
            ack_when: AckWhen::Complete,
            ..self.config.line.clone()
        }
    }

    fn changed(&mut self, outcome: Result<(), String>, explanation: String) {
        match outcome {
            Ok(()) => {
                tracing::info!(%explanation, code = %self.controller.current(), "the link's code changed");
                self.tell(|planning| {
                    planning.changes += 1;
                    planning.waits = false;
                    planning.last = Some(explanation);
                });
            }
            Err(reason) => {
                tracing::warn!(%reason, %explanation, "the link did not take another code");
                let last = format!("{explanation}; the link did not take it: {reason}");
                self.tell(|planning| planning.last = Some(last));
                // What is in force is told by `InForce`, or is what it was at the start.
                self.controller.set_current(self.config.current.clone());
            }
        }
    }

    fn tell<T>(&self, of: impl FnOnce(&mut Planning) -> T) -> T {
        of(&mut self.planning.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn controller(config: &PlannerConfig) -> Controller {
    Controller::new(config.policy, config.catalogue.clone(), config.current.clone())
}

impl Actor for PlannerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.is_changing = false;
        ctx.run_interval(LOOK, |actor, ctx| actor.look(ctx));
    }
}

impl Supervised for PlannerActor {
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.controller = controller(&self.config);
        self.seen = None;
    }
}

impl Handler<InForce> for PlannerActor {
    type Result = ();

    fn handle(&mut self, InForce(code): InForce, _: &mut Context<Self>) {
        // What the controller chose has its pauses; for what another chose, those at the start count.
        let planned = self.controller.current();
        if planned.code == code {
            self.config.current = planned.clone();
        } else {
            self.config.current = Candidate { code, flush_pause: self.config.current.flush_pause };
            self.controller.set_current(self.config.current.clone());
        }
    }
}

impl Handler<LetPlan> for PlannerActor {
    type Result = ();

    fn handle(&mut self, LetPlan(is_on): LetPlan, _: &mut Context<Self>) {
        self.tell(|planning| planning.is_on = is_on);
    }
}

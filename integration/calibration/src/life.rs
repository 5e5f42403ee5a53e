//! The life of one link: traffic, telemetry, acknowledgements, and one disaster after another.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parhelion_plugin::{DurabilityModel, ParameterError};
use parhelion_risk::Assumption;
use parhelion_types::{LogId, RecordKey, Risk, Time};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::judge::{Ack, Primary};
use crate::line::Line;
use crate::link::{Happening, Link, WireFigures};
use crate::loss::{Clock, LossLaw, exponential};
use crate::policy::{Choice, Chooser, Conditions, Policy};
use crate::traffic::{Due, LOGS, Traffic};

/// What a link is put through.
#[derive(Clone, Debug)]
pub struct Life {
    /// The line.
    pub line: Line,
    /// How it loses packets.
    pub law: LossLaw,
    /// Who chooses the code.
    pub policy: Arc<dyn Policy>,
    /// The node's word on the line before it has seen it, at each confidence that is judged.
    pub assumptions: Vec<Assumption>,
    /// The models that are judged.
    pub models: Vec<Arc<dyn DurabilityModel>>,
    /// What appends ask for.
    pub asked: Asked,
    /// Disasters, and when they come.
    pub schedule: Schedule,
    /// Everything that is random follows from it.
    pub seed: u64,
}

/// The prefix risk that an append asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Asked {
    /// Anything between the two, drawn for each; the larger ones more often, so that losses are frequent enough to be
    /// counted.
    Between(f64, f64),
    /// Always the same.
    Always(Risk),
}

/// When appends are watched, each of which meets a disaster.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// So many, the first after that many packets, each when the line has forgotten what it was like at the last.
    Spread {
        /// Packets before the first: traffic that only the estimator sees, and nobody asks for the risk of.
        warm_up: u64,
        /// How many.
        disasters: u32,
    },
    /// The append that follows each of these times since the line began, which ascend.
    At(Vec<Duration>),
}

/// A disaster: the site dies in the instant in which an append is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disaster {
    /// Index of the confidence.
    pub level: usize,
    /// Index of the model.
    pub model: usize,
    /// What was promised of the append and those before it in its log; none if the mirror had them first.
    pub promised: Option<Risk>,
    /// Whether one of them cannot be had from the mirror.
    pub is_lost: bool,
    /// From the hand-over of the append to its acknowledgement.
    pub latency: Duration,
    /// When it was acknowledged, since the line began.
    pub at: Duration,
    /// Source symbols of the append.
    pub symbols: u32,
}

/// What came of a life.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The disasters, each once for each confidence and model.
    pub disasters: Vec<Disaster>,
    /// What the line carried.
    pub wire: WireFigures,
    /// Records that came to the mirror with other bytes than were sent: there must be none.
    pub altered: u64,
    /// Largest factor by which the record of a model raised its figures, for each confidence and model.
    pub factors: Vec<f64>,
    /// Changes of the code.
    pub changes: u32,
    /// An append was neither acknowledged nor at the mirror after five seconds, and the life ended there.
    pub is_stalled: bool,
}

/// Why a life could not be lived.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// The code does not take its parameters.
    #[error(transparent)]
    Code(#[from] ParameterError),
    /// The line cannot carry the traffic with its repairs.
    #[error("the line is overloaded: {0}; choose a code with less overhead")]
    Overload(#[from] parhelion_link::Full),
}

/// An append that is watched until each of its judges has acknowledged it.
struct Watched {
    key: RecordKey,
    symbols: u32,
    max_risk: Risk,
    handed_over: Time,
    /// By confidence and model.
    is_open: Vec<bool>,
    /// By confidence: how often its risk was figured by what a report had told. See [`LOOKS`].
    looks: Vec<u32>,
}

/// A site that died, as far as one judge is concerned.
struct Death {
    /// When all that left it has come.
    settled: Time,
    key: RecordKey,
    disaster: Disaster,
}

/// A life under way.
struct Run<'a> {
    life: &'a Life,
    rng: SmallRng,
    start: Time,
    now: Time,
    link: Link,
    traffic: Traffic,
    /// By confidence.
    primaries: Vec<Primary>,
    /// Of each log, the number that its next record gets, and that of the first which the mirror has not confirmed.
    logs: [(u64, u64); LOGS as usize],
    /// Ledgers are kept.
    is_kept: bool,
    watched: Vec<Watched>,
    /// In the order of their deaths.
    deaths: VecDeque<Death>,
    plan: Plan,
    review: Review,
    outcome: Outcome,
    happenings: Vec<Happening>,
}

/// When the next append is watched.
struct Plan {
    left: u32,
    /// Index into the times of [`Schedule::At`].
    index: usize,
    /// No append that is handed over before.
    not_before: Option<Time>,
    /// Nor before the line has carried so many packets.
    packets: u64,
    /// When ledgers are kept at the earliest.
    ledgers_from: Time,
}

/// Looks of the policy at the link.
struct Review {
    chooser: Option<Box<dyn Chooser>>,
    next: Time,
    appends: u64,
    symbols: u64,
    in_flight: (u64, u64),
}

impl Life {
    /// Lives it.
    ///
    /// # Errors
    /// A code that the link does not accept, or that has more overhead than the line has room for.
    pub fn run(&self) -> Result<Outcome, LifeError> {
        let mut run = Run::new(self)?;
        while !run.is_over() {
            run.turn()?;
        }
        Ok(run.end())
    }
}

impl<'a> Run<'a> {
    fn new(life: &'a Life) -> Result<Self, LifeError> {
        let mut rng = SmallRng::seed_from_u64(life.seed);
        let start = Time::from_nanos(1_000_000_000);
        let (choice, chooser) = life.policy.begin();
        let loss = life.law.start(start, life.line.packet_time, &mut rng);
        let link = Link::new(life.line, &choice, loss, start)?;
        let primary = |assumption: &Assumption| Primary::new(*assumption, &life.models, &choice.code);
        let primaries: Vec<Primary> = life.assumptions.iter().map(primary).collect();
        let plan = match &life.schedule {
            Schedule::Spread { warm_up, disasters } => {
                let not_before = Some(start);
                Plan { left: *disasters, index: 0, not_before, packets: *warm_up, ledgers_from: start }
            }
            Schedule::At(times) => Plan {
                left: u32::try_from(times.len()).unwrap_or(u32::MAX),
                index: 0,
                not_before: times.first().map(|at| start + *at),
                packets: 0,
                ledgers_from: start
                    + times.first().map_or(Duration::ZERO, |at| at.saturating_sub(LEDGERS_BEFORE)),
            },
        };
        let judges = life.assumptions.len() * life.models.len();
        Ok(Self {
            life,
            start,
            now: start,
            link,
            traffic: Traffic::new(&life.line, start, SmallRng::from_rng(&mut rng)),
            rng,
            primaries,
            logs: [(0, 0); LOGS as usize],
            is_kept: false,
            watched: Vec::new(),
            deaths: VecDeque::new(),
            plan,
            review: Review { chooser, next: start + REVIEW, appends: 0, symbols: 0, in_flight: (0, 0) },
            outcome: Outcome { factors: vec![1.0; judges], ..Outcome::default() },
            happenings: Vec::new(),
        })
    }

    fn is_over(&self) -> bool {
        self.outcome.is_stalled || self.plan.left == 0 && self.watched.is_empty() && self.deaths.is_empty()
    }

    fn end(mut self) -> Outcome {
        self.outcome.wire = self.link.figures();
        self.outcome.altered = self.link.altered();
        self.outcome
    }

    /// The next instant at which anything happens.
    fn turn(&mut self) -> Result<(), LifeError> {
        let settled = self.deaths.front().map(|death| death.settled);
        let times = [Some(self.link.next()), Some(self.traffic.next()), settled, Some(self.review.next)];
        self.now = times.into_iter().flatten().min().unwrap_or(self.now).max(self.now);
        let now = self.now;
        self.primaries.iter_mut().for_each(|primary| primary.advance(now));
        self.link.advance(now, &mut self.happenings)?;
        self.settle();
        let mut is_news = !self.happenings.is_empty();
        self.tell();
        while self.traffic.next() <= now {
            self.append()?;
            is_news = true;
        }
        if is_news && !self.watched.is_empty() {
            self.acknowledge();
        }
        if self.review.next <= now {
            self.review()?;
        }
        let is_stalled = |watched: &Watched| now.since(watched.handed_over) > STALLED;
        self.outcome.is_stalled = self.watched.iter().any(is_stalled);
        Ok(())
    }

    /// Tells the primaries what their link and the mirror told.
    fn tell(&mut self) {
        let now = self.now;
        let mut happenings = std::mem::take(&mut self.happenings);
        for happening in &happenings {
            if let Happening::Mirrored(log, number) = *happening {
                self.logs[log.0 as usize].1 = number;
            }
            for primary in &mut self.primaries {
                match *happening {
                    Happening::Coverage(key, wire) => primary.cover(key, wire),
                    Happening::Counts(counts) => primary.count(now, counts),
                    Happening::Mirrored(log, number) if self.is_kept => primary.confirm(log, number),
                    Happening::Mirrored(..) => {}
                }
            }
        }
        happenings.clear();
        self.happenings = happenings;
    }

    /// From now on somebody asks what appends risk. Of those that are on their way the ledgers know nothing but that the
    /// mirror has not confirmed them, and count them as lost until it has.
    fn keep_ledgers(&mut self) {
        self.is_kept = true;
        for (log, &(next, mirrored)) in (0..).map(LogId).zip(&self.logs) {
            for primary in &mut self.primaries {
                primary.confirm(log, mirrored);
                (mirrored..next).for_each(|number| primary.insert(RecordKey { log, number }));
            }
        }
    }

    fn append(&mut self) -> Result<(), LifeError> {
        let now = self.now;
        let due = self.traffic.take();
        self.link.send(due.key, due.bytes)?;
        self.logs[due.key.log.0 as usize].0 = due.key.number + 1;
        if self.is_kept {
            self.primaries.iter_mut().for_each(|primary| primary.insert(due.key));
        } else if self.plan.ledgers_from <= now && self.plan.packets <= self.link.figures().packets {
            self.keep_ledgers();
        }
        self.review.appends += 1;
        self.review.symbols += u64::from(due.symbols);
        let is_due = self.plan.left > 0
            && self.plan.not_before.is_some_and(|time| time <= now)
            && self.plan.packets <= self.link.figures().packets;
        if is_due {
            let max_risk = self.life.asked.draw(&mut self.rng);
            let is_open = vec![true; self.outcome.factors.len()];
            let looks = vec![0; self.primaries.len()];
            let Due { key, symbols, .. } = due;
            self.watched.push(Watched { key, symbols, max_risk, handed_over: now, is_open, looks });
            self.plan.left -= 1;
            self.plan.index += 1;
            self.plan.not_before = match &self.life.schedule {
                // When this one is through.
                Schedule::Spread { .. } => None,
                Schedule::At(times) => times.get(self.plan.index).map(|at| self.start + *at),
            };
        }
        Ok(())
    }

    /// Acknowledges what may be, by each judge; each acknowledgement is a disaster.
    fn acknowledge(&mut self) {
        let now = self.now;
        let models = self.life.models.len();
        for (level, primary) in self.primaries.iter_mut().enumerate() {
            let own = level * models..(level + 1) * models;
            // A risk matters where somebody waits for it and it is not too late.
            let mut matters = false;
            for watched in
                self.watched.iter_mut().filter(|watched| watched.is_open[own.clone()].contains(&true))
            {
                if watched.looks[level] < LOOKS && primary.is_up_to_its_risk(watched.key) {
                    watched.looks[level] += u32::from(primary.is_news());
                    matters = true;
                }
            }
            if matters {
                primary.refresh(now);
            }
            for watched in &mut self.watched {
                let Watched { key, symbols, max_risk, handed_over, .. } = *watched;
                let is_late = watched.looks[level] >= LOOKS && !matters;
                for (model, ack) in primary.decide(key, max_risk).enumerate() {
                    let is_open = &mut watched.is_open[level * models + model];
                    let Some(ack) = ack.filter(|ack| *is_open && !(is_late && *ack != Ack::Mirrored)) else {
                        continue;
                    };
                    *is_open = false;
                    let promised = match ack {
                        Ack::Covered(prefix) => Some(prefix),
                        Ack::Mirrored => None,
                    };
                    let latency = now.since(handed_over);
                    let at = now.since(self.start);
                    let disaster = Disaster { level, model, promised, is_lost: false, latency, at, symbols };
                    self.deaths.push_back(Death { settled: now + self.life.line.latency, key, disaster });
                }
            }
            for (model, factor) in primary.factors().enumerate() {
                let highest = &mut self.outcome.factors[level * models + model];
                *highest = highest.max(factor);
            }
        }
        let before = self.watched.len();
        self.watched.retain(|watched| watched.is_open.contains(&true));
        if self.watched.len() < before && self.watched.is_empty() && self.plan.not_before.is_none() {
            self.plan_next();
        }
    }

    /// Waits until the line has forgotten what it was like.
    fn plan_next(&mut self) {
        let slot = self.life.line.packet_time;
        let wait = exponential(&mut self.rng, slot * WAIT_SLOTS);
        let (memory, clock) = self.life.law.memory(slot);
        let (time, packets) = match clock {
            Clock::Time => (slot.mul_f64(FORGOTTEN * memory), 0),
            Clock::Packets => (Duration::ZERO, (FORGOTTEN * memory) as u64),
        };
        self.plan.not_before = Some(self.now + wait + time);
        self.plan.packets = self.link.figures().packets + packets;
    }

    /// What of a site that died has come to the mirror by now is all that ever will.
    fn settle(&mut self) {
        while let Some(Death { key, mut disaster, .. }) =
            self.deaths.pop_front_if(|death| death.settled <= self.now)
        {
            disaster.is_lost = self.link.durable(key.log) <= key.number;
            self.outcome.disasters.push(disaster);
        }
    }

    fn review(&mut self) -> Result<(), LifeError> {
        let now = self.now;
        self.review.next = now + REVIEW;
        let Review { chooser: Some(chooser), symbols, appends, in_flight: (sum, looks), .. } =
            &mut self.review
        else {
            return Ok(());
        };
        let Some(primary) = self.primaries.last() else { return Ok(()) };
        *sum += primary.in_flight() as u64;
        *looks += 1;
        let conditions = Conditions {
            channels: primary.channels(now),
            symbols_per_second: std::mem::take(symbols) as f64 / REVIEW.as_secs_f64(),
            appends_per_second: std::mem::take(appends) as f64 / REVIEW.as_secs_f64(),
            appends_in_flight: *sum as f64 / *looks as f64 / f64::from(LOGS),
            max_risk: self.life.asked.typical(),
            round_trip: self.life.line.latency * 2,
        };
        if let Some(choice) = chooser.review(now, &conditions) {
            self.change(&choice)?;
        }
        Ok(())
    }

    fn change(&mut self, choice: &Choice) -> Result<(), LifeError> {
        self.link.change(choice)?;
        self.primaries.iter_mut().for_each(|primary| primary.set_code(&choice.code));
        self.outcome.changes += 1;
        Ok(())
    }
}

impl Asked {
    fn draw(self, rng: &mut SmallRng) -> Risk {
        match self {
            Self::Between(low, high) => {
                let share = rng.random::<f64>().max(rng.random());
                Risk::bound(low * (high / low).powf(share))
            }
            Self::Always(risk) => risk,
        }
    }

    /// What a policy plans for: the strictest that is asked.
    fn typical(self) -> Risk {
        match self {
            Self::Between(low, _) => Risk::bound(low),
            Self::Always(risk) => risk,
        }
    }
}

/// Mean slots between the end of one disaster and the next, beside what the line needs to forget.
const WAIT_SLOTS: u32 = 100;

/// Memories of the line after which less than a hundredth of what it was like is left.
const FORGOTTEN: f64 = 5.0;

/// Reports after which an append that is covered, and still risks too much, waits for the mirror: figuring bounds is most of
/// the work here, and what so many reports do not change is seldom changed by another.
const LOOKS: u32 = 4;

/// No line here is so far away, or so full.
const STALLED: Duration = Duration::from_secs(5);

/// Ledgers are kept for so long before the first time of [`Schedule::At`]: some round trips.
const LEDGERS_BEFORE: Duration = Duration::from_millis(500);

/// How often the policy looks.
const REVIEW: Duration = Duration::from_secs(1);

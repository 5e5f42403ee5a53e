//! What a candidate would do in a situation.

use std::time::Duration;

use parhelion_plugin::{Channel, Code, DurabilityModel, Exposure};
use parhelion_types::Risk;

use crate::candidate::Candidate;
use crate::course::{self, Step, Stream};
use crate::situation::{AckWhen, Situation, Terms};

/// Overhead, risk and latency of a candidate, as the durability model bounds them.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// What was evaluated.
    pub candidate: Candidate,
    /// Repair symbols per source symbol in a stream, flushes included if groups take too long to end by themselves.
    pub streamed_overhead: f64,
    /// Repair symbols per source symbol of an append that is flushed.
    pub lone_overhead: f64,
    /// The two, weighted by their shares of the appends.
    pub overhead: f64,
    /// Whether the stream and its repairs have room on the line. Without, queues grow, and nothing is in time.
    pub fits: bool,
    /// The course of an append in a stream, if there are any.
    pub streamed: Option<Course>,
    /// The course of an append behind which the queue is empty, if there are any.
    pub lone: Option<Course>,
    /// Share of the appends that reach the risk asked for in time: within the deadline, and before the mirror's own word.
    pub met_share: f64,
    /// Whether these reach the comfortable part of that risk as well.
    pub(crate) is_comfortable: bool,
    /// Expected time to the acknowledgement, over both kinds; the mirror's where the risk is not met.
    pub latency: Duration,
    /// Expected time to the coverage that an acknowledgement is given for, met or not.
    pub(crate) covered: Duration,
}

/// Risk of an append against time since its first symbol could leave.
#[derive(Clone, Debug)]
pub struct Course {
    /// What was priced, in the order of time; after an evaluation of its own everything is, from the bare symbols to full
    /// coverage, while a search leaves out what it can conclude.
    pub points: Vec<Point>,
    /// What the acknowledgement would be given for, if it comes in time.
    pub ack: Option<Point>,
    /// When the mirror's own word is there.
    pub mirror: Duration,
}

/// One moment of a course.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Repair indices that cover every symbol of the append.
    pub repairs: u32,
    /// The time at which they do, on average over places in the groups.
    pub expected: Duration,
    /// And at the worst place.
    pub latest: Duration,
    /// P(the append is lost with what is on the wire).
    pub own: Risk,
    /// P(it or an earlier one of its log that the mirror has not confirmed is).
    pub prefix: Risk,
}

/// Evaluates a candidate; every point of its courses is priced.
#[must_use]
pub fn evaluate(situation: &Situation, model: &dyn DurabilityModel, candidate: &Candidate) -> Evaluation {
    let terms = Terms::new(situation);
    let mut pricer = Pricer::new(model, &terms.channels);
    Sketch::new(candidate.code.clone(), &terms).evaluate(
        candidate.flush_pause,
        1.0,
        &terms,
        &mut pricer,
        true,
    )
}

/// The same without the points that decide nothing.
pub(crate) fn assess(
    terms: &Terms,
    model: &dyn DurabilityModel,
    candidate: &Candidate,
    comfort: f64,
) -> Evaluation {
    let mut pricer = Pricer::new(model, &terms.channels);
    let sketch = Sketch::new(candidate.code.clone(), terms);
    sketch.evaluate(candidate.flush_pause, comfort, terms, &mut pricer, false)
}

impl Evaluation {
    /// The larger prefix risk of the two kinds: at the acknowledgement, or with full coverage where there is none.
    #[must_use]
    pub fn prefix_risk(&self) -> Risk {
        self.courses()
            .filter_map(Course::figure)
            .map(|point| point.prefix)
            .fold(Risk::NONE, |a, b| if a < b { b } else { a })
    }

    /// Whether all appends that count reach the risk in time.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.met_share >= 1.0
    }

    /// The courses that there are.
    pub fn courses(&self) -> impl Iterator<Item = &Course> {
        self.streamed.iter().chain(&self.lone)
    }
}

impl Course {
    /// The point that counts: that of the acknowledgement, or else full coverage.
    #[must_use]
    pub fn figure(&self) -> Option<&Point> {
        self.ack.as_ref().or(self.points.last())
    }
}

/// Asks the model, and counts how often.
pub(crate) struct Pricer<'a> {
    model: &'a dyn DurabilityModel,
    channels: &'a [Channel],
    pub(crate) questions: u32,
    /// Answers for the code at hand: most exposures of a code do not depend on its pauses.
    known: Vec<(Exposure, f64)>,
}

impl<'a> Pricer<'a> {
    pub(crate) fn new(model: &'a dyn DurabilityModel, channels: &'a [Channel]) -> Self {
        Self { model, channels, questions: 0, known: Vec::new() }
    }

    /// Another code comes.
    pub(crate) fn begin(&mut self) {
        self.known.clear();
    }

    /// The worst figure over the channels; certain loss if nothing is believed.
    fn own(&mut self, code: &Code, step: &Step) -> f64 {
        let exposures = step.exposures(code.structure());
        exposures.map(|exposure| self.exposed(code, &exposure)).fold(0.0, f64::max)
    }

    fn exposed(&mut self, code: &Code, exposure: &Exposure) -> f64 {
        if let Some(&(_, known)) = self.known.iter().find(|(known, _)| known == exposure) {
            return known;
        }
        self.questions = self.questions.saturating_add(self.channels.len() as u32);
        let figures = self.channels.iter().map(|channel| self.model.own_risk(channel, code, exposure));
        let worst = figures.map(Risk::probability).reduce(f64::max).unwrap_or(1.0);
        self.known.push((*exposure, worst));
        worst
    }
}

/// A code in a situation before anything is priced: what it costs.
#[derive(Clone, Debug)]
pub(crate) struct Sketch {
    pub(crate) code: Code,
    stream: Option<Stream>,
    lone_overhead: f64,
    pub(crate) overhead: f64,
}

impl Sketch {
    pub(crate) fn new(code: Code, terms: &Terms) -> Self {
        let structure = code.structure();
        let stream = terms.has_stream().then(|| Stream::new(structure, terms));
        let symbols = f64::from(terms.symbols);
        let lone_overhead = course::flushed_repairs(structure, symbols) / symbols;
        let streamed_overhead = stream.map_or(0.0, |stream| stream.overhead);
        let overhead = terms.lone * lone_overhead + (1.0 - terms.lone) * streamed_overhead;
        Self { code, stream, lone_overhead, overhead }
    }

    fn fits(&self) -> bool {
        self.stream.is_none_or(|stream| stream.fits)
    }

    /// Whether the length of pauses changes anything.
    pub(crate) fn gains_by_pauses(&self, terms: &Terms) -> bool {
        let is_flushed = terms.has_lone() || self.stream.is_some_and(|stream| stream.is_flushed());
        terms.packet > 0.0 && is_flushed && self.code.structure().gains_by_pauses()
    }

    pub(crate) fn evaluate(
        &self,
        flush_pause: u32,
        comfort: f64,
        terms: &Terms,
        pricer: &mut Pricer,
        all: bool,
    ) -> Evaluation {
        let structure = self.code.structure();
        let lone = terms.has_lone().then(|| course::lone(structure, flush_pause, terms));
        let streamed =
            self.stream.as_ref().map(|stream| course::streamed(structure, flush_pause, stream, terms));
        // An earlier append that is covered is of either kind.
        let mut full = |steps: &Option<Vec<Step>>| {
            steps.as_ref().and_then(|steps| steps.last()).map(|step| pricer.own(&self.code, step))
        };
        let (lone_full, streamed_full) = (full(&lone), full(&streamed));
        let earlier =
            terms.lone * lone_full.unwrap_or(0.0) + (1.0 - terms.lone) * streamed_full.unwrap_or(0.0);
        let mut run = |steps: Option<Vec<Step>>, full: Option<f64>| {
            let mut walk = Walk::new(self, steps?, full?, earlier, terms);
            if all {
                walk.price_all(pricer);
            }
            Some(walk.course(comfort, pricer))
        };
        let (lone, streamed) = (run(lone, lone_full), run(streamed, streamed_full));

        let (mut met_share, mut is_comfortable) = (0.0, true);
        let (mut latency, mut covered) = (Duration::ZERO, Duration::ZERO);
        for (found, share) in [(&lone, terms.lone), (&streamed, 1.0 - terms.lone)] {
            let Some((course, comfortable)) = found else { continue };
            if course.ack.is_some() {
                met_share += share;
                is_comfortable &= comfortable;
            }
            let time = course.ack.map_or(course.mirror, |ack| ack.expected);
            latency = latency.saturating_add(seconds(time.as_secs_f64() * share));
            let figure = course.figure().map_or(Duration::ZERO, |point| point.expected);
            covered = covered.saturating_add(seconds(figure.as_secs_f64() * share));
        }
        Evaluation {
            candidate: Candidate { code: self.code.clone(), flush_pause },
            streamed_overhead: self.stream.map_or(structure.overhead(), |stream| stream.overhead),
            lone_overhead: self.lone_overhead,
            overhead: self.overhead,
            fits: self.fits(),
            streamed: streamed.map(|(course, _)| course),
            lone: lone.map(|(course, _)| course),
            met_share: if met_share > 1.0 - 1e-9 { 1.0 } else { met_share },
            is_comfortable,
            latency,
            covered,
        }
    }
}

/// Follows one course; steps are priced when somebody asks.
struct Walk<'a> {
    code: &'a Code,
    terms: &'a Terms,
    steps: Vec<Step>,
    own: Vec<Option<f64>>,
    /// Own risk of an earlier append with full coverage, over both kinds.
    earlier: f64,
    /// Share of the earlier appends that are too young to have more repairs than this one.
    young: f64,
    /// Seconds until the mirror's own word.
    mirror: f64,
    /// There is room on the line.
    fits: bool,
}

impl<'a> Walk<'a> {
    fn new(sketch: &'a Sketch, steps: Vec<Step>, full: f64, earlier: f64, terms: &'a Terms) -> Self {
        let mut own = vec![None; steps.len()];
        own.last_mut().into_iter().for_each(|own| *own = Some(full));
        let covered = steps.last().map_or(0.0, |step| step.latest);
        let mirror = steps.first().map_or(0.0, |step| step.expected) + terms.mirror;
        let young = (covered / mirror.max(f64::MIN_POSITIVE)).min(1.0);
        Self { code: &sketch.code, fits: sketch.fits(), terms, steps, own, earlier, young, mirror }
    }

    fn own(&mut self, step: usize, pricer: &mut Pricer) -> f64 {
        *self.own[step].get_or_insert_with(|| pricer.own(self.code, &self.steps[step]))
    }

    /// Sum over the appends of the log in flight: those too young to be covered have as many repairs as this one.
    fn prefix(&self, own: f64) -> f64 {
        let others = self.terms.others;
        own + others * (self.young * own.max(self.earlier) + (1.0 - self.young) * self.earlier)
    }

    fn price_all(&mut self, pricer: &mut Pricer) {
        for step in 0..self.steps.len() {
            self.own(step, pricer);
        }
    }

    /// The first step that reaches `risk`. More coverage never raises a figure, so halving finds it.
    fn first(&mut self, risk: f64, pricer: &mut Pricer) -> Option<usize> {
        let last = self.steps.len().checked_sub(1)?;
        let mut meets = |walk: &mut Self, step: usize| {
            let own = walk.own(step, pricer);
            walk.prefix(own) <= risk
        };
        if !meets(self, last) {
            return None;
        }
        if self.terms.ack_when == AckWhen::Complete {
            return Some(last);
        }
        let (mut low, mut high) = (0, last);
        while low < high {
            let middle = (low + high) / 2;
            if meets(self, middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Some(high)
    }

    fn is_in_time(&self, step: usize) -> bool {
        let latest = self.steps[step].latest;
        self.fits && latest <= self.terms.deadline && latest < self.mirror
    }

    fn course(mut self, comfort: f64, pricer: &mut Pricer) -> (Course, bool) {
        let max_risk = self.terms.max_risk;
        let mut in_time =
            |walk: &mut Self, risk: f64| walk.first(risk, pricer).filter(|&step| walk.is_in_time(step));
        let ack = in_time(&mut self, max_risk);
        let is_comfortable = ack.is_some() && in_time(&mut self, max_risk * comfort).is_some();
        let point = |step: usize| {
            let Step { exposure, expected, latest, .. } = self.steps[step];
            let own = self.own[step]?;
            let prefix = Risk::bound(self.prefix(own));
            let (expected, latest) = (seconds(expected), seconds(latest));
            Some(Point { repairs: exposure.repairs(), expected, latest, own: Risk::bound(own), prefix })
        };
        let course = Course {
            points: (0..self.steps.len()).filter_map(point).collect(),
            ack: ack.and_then(point),
            mirror: seconds(self.mirror),
        };
        (course, is_comfortable)
    }
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(Duration::MAX)
}

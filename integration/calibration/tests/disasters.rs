//! A disaster that is read off a living link is the one that happens when the site dies.

use std::sync::Arc;
use std::time::Duration;

use parhelion_calibration::catalogue::codes;
use parhelion_calibration::life::{Asked, Life, Outcome, Schedule};
use parhelion_calibration::line::Line;
use parhelion_calibration::link::Link;
use parhelion_calibration::loss::LossLaw;
use parhelion_calibration::policy::{Choice, Chooser, Conditions, Policy};
use parhelion_calibration::traffic::{LOGS, Traffic};
use parhelion_model_gilbert_elliott::GilbertElliott;
use parhelion_risk::Assumption;
use parhelion_types::{LogId, Time};
use rand::SeedableRng;
use rand::rngs::SmallRng;

fn start() -> Time {
    Time::from_nanos(1_000_000_000)
}

/// A link with its traffic.
struct Site {
    link: Link,
    traffic: Traffic,
    line: Line,
}

impl Site {
    fn new(choice: &Choice, seed: u64) -> Self {
        let line = Line::of_latency(Duration::from_millis(20));
        let mut rng = SmallRng::seed_from_u64(seed);
        let loss = LossLaw::bursts(0.1, 5.0).start(start(), line.packet_time, &mut rng);
        let link = Link::new(line, choice, loss, start()).unwrap();
        Self { link, traffic: Traffic::new(&line, start(), rng), line }
    }

    /// Everything up to `end`, that instant included.
    fn run_until(&mut self, end: Time, is_alive: bool) {
        let mut happenings = Vec::new();
        loop {
            let next = self.link.next().min(if is_alive { self.traffic.next() } else { end });
            let now = next.min(end);
            self.link.advance(now, &mut happenings).unwrap();
            while is_alive && self.traffic.next() <= now {
                let due = self.traffic.take();
                self.link.send(due.key, due.bytes).unwrap();
            }
            if now == end {
                return;
            }
        }
    }

    fn at_mirror(&self) -> Vec<u64> {
        (0..LOGS).map(|log| self.link.durable(LogId(log))).collect()
    }
}

#[test]
fn what_is_read_off_is_what_happens() {
    let mut behind = 0;
    for choice in codes().unwrap() {
        for (seed, micros) in [(1, 300_020), (2, 512_345), (3, 777_777), (4, 1_000_001)] {
            let death = start() + Duration::from_micros(micros);
            let mut living = Site::new(&choice, seed);
            let settled = death + living.line.latency;
            living.run_until(settled, true);
            let mut dead = Site::new(&choice, seed);
            dead.run_until(death, true);
            dead.link.kill();
            let at_death = dead.at_mirror();
            dead.run_until(death + Duration::from_secs(2), false);
            assert_eq!(living.at_mirror(), dead.at_mirror(), "{}, seed {seed}", choice.code);
            behind += u32::from(at_death != dead.at_mirror());
            // Had the site lived, more would have come.
            living.run_until(death + Duration::from_secs(2), true);
            assert_ne!(living.at_mirror(), dead.at_mirror(), "{}, seed {seed}", choice.code);
            assert_eq!(living.link.altered() + dead.link.altered(), 0);
        }
    }
    assert!(behind >= 28, "something was on the wire when {behind} of 32 sites died");
}

/// Changes to another code with each look.
#[derive(Debug)]
struct Restless(Vec<Choice>);

impl Policy for Restless {
    fn name(&self) -> String {
        "restless".to_owned()
    }

    fn begin(&self) -> (Choice, Option<Box<dyn Chooser>>) {
        (self.0[0].clone(), Some(Box::new(Turns(self.0.clone(), 0))))
    }
}

struct Turns(Vec<Choice>, usize);

impl Chooser for Turns {
    fn review(&mut self, _: Time, conditions: &Conditions) -> Option<Choice> {
        assert!(conditions.symbols_per_second > 0.0 && !conditions.channels.is_empty());
        self.1 += 1;
        Some(self.0[self.1 % self.0.len()].clone())
    }
}

fn live(policy: Arc<dyn Policy>) -> Outcome {
    let life = Life {
        line: Line::of_latency(Duration::from_millis(20)),
        law: LossLaw::bursts(0.02, 3.0),
        policy,
        assumptions: vec![Assumption::new(1e-5, 2.0, 0.99).unwrap()],
        models: vec![Arc::new(GilbertElliott)],
        asked: Asked::Between(1e-4, 0.9),
        schedule: Schedule::Spread { warm_up: 5000, disasters: 300 },
        seed: 5,
    };
    life.run().unwrap()
}

#[test]
fn promises_hold_while_the_code_changes() {
    let codes = codes().unwrap();
    let outcome = live(Arc::new(Restless(codes[1..].to_vec())));
    assert!(outcome.changes >= 5, "{} changes", outcome.changes);
    assert_eq!((outcome.altered, outcome.disasters.len()), (0, 300));
    let promised: f64 =
        outcome.disasters.iter().filter_map(|d| d.promised).map(|risk| risk.probability()).sum();
    let lost = outcome.disasters.iter().filter(|disaster| disaster.is_lost).count() as f64;
    assert!(lost <= promised + 3.0 * promised.sqrt(), "{lost} lost, {promised} promised");
    // One code that stays is cheaper to be sure of.
    let steady = live(Arc::new(codes[1].clone()));
    assert_eq!(steady.changes, 0);
    assert!(steady.disasters.iter().any(|disaster| disaster.promised.is_some()));
}

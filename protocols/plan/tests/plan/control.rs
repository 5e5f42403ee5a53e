//! The loop over time: what is raised at once, what is lowered slowly, and what is said.

use std::cell::Cell;
use std::time::Duration;

use parhelion_model_gilbert_elliott::GilbertElliott;
use parhelion_plan::{Change, Controller, Decision, Direction, Policy, Situation};
use parhelion_plugin::{Channel, DurabilityModel, Exposure};
use parhelion_types::{Risk, Time};

use super::*;

fn at(seconds: f64) -> Time {
    Time::from_nanos((seconds * 1e9) as u64)
}

fn lone(loss: f64, burst: f64) -> Situation {
    Situation { channels: bursty(loss, burst), lone_share: 1.0, ..Situation::default() }
}

/// Little is lost, and little is needed; and a line on which that is not enough.
fn calm() -> Situation {
    lone(1e-5, 1.0)
}

fn rough() -> Situation {
    lone(1e-3, 4.0)
}

fn controller() -> Controller {
    // All questions in one step; and few searches while all is well, for the sake of the time that tests take.
    let search_interval = Duration::from_secs(60);
    let policy = Policy { questions_per_step: u32::MAX, search_interval, ..Policy::default() };
    Controller::new(policy, catalogue(), fixed())
}

/// Steps from `from` to `to` seconds; all that is decided.
fn run(
    controller: &mut Controller,
    (from, to, step): (f64, f64, f64),
    situation: impl Fn(f64) -> Situation,
) -> Vec<(f64, Decision)> {
    let mut decisions = Vec::new();
    let mut now = from;
    while now < to {
        decisions.extend(controller.step(at(now), &situation(now), &GilbertElliott).map(|d| (now, d)));
        now += step;
    }
    decisions
}

fn changes(decisions: &[(f64, Decision)]) -> Vec<(f64, &Change)> {
    let change = |(at, decision): &'_ (f64, Decision)| match decision {
        Decision::Change(_) => Some(*at),
        _ => None,
    };
    let times = decisions.iter().filter_map(change);
    let all = decisions.iter().filter_map(|(_, decision)| match decision {
        Decision::Change(change) => Some(&**change),
        _ => None,
    });
    times.zip(all).collect()
}

#[test]
fn something_cheaper_is_taken_after_the_hold_and_given_up_at_once() {
    let mut controller = controller();
    let decisions = run(&mut controller, (1.0, 299.0, 1.0), |_| calm());
    assert!(decisions.is_empty(), "{decisions:?}");
    let decisions = run(&mut controller, (299.0, 310.0, 1.0), |_| calm());
    let [(_, change)] = changes(&decisions)[..] else { panic!("{decisions:?}") };
    assert_eq!(change.direction, Direction::Lower);
    assert_eq!(change.from.candidate, fixed());
    assert!(change.to.overhead <= 0.5 && change.to.is_met());
    // With room to spare: the channel may get twice as bad.
    assert!(change.to.prefix_risk().probability() <= 0.5e-6);
    assert_eq!(controller.current(), &change.to.candidate);

    let decision = controller.step(at(400.0), &rough(), &GilbertElliott);
    let Some(Decision::Change(change)) = decision else { panic!("{decision:?}") };
    assert_eq!(change.direction, Direction::Raise);
    assert!(change.from.met_share == 0.0 && change.to.is_met());
    let words = &change.explanation;
    assert!(words.starts_with("loss rose from "), "{words}");
    assert!(words.contains(", burst p99 rose from 1 to 17 symbols: reed-solomon (4,"), "{words}");
    assert!(words.contains(" -> ") && words.contains(", expected ack +"), "{words}");
    assert!(controller.step(at(401.0), &rough(), &GilbertElliott).is_none());
}

#[test]
fn a_channel_that_flickers_does_not_make_the_code_flicker() {
    let mut controller = controller();
    // Half a minute of this, half a minute of that, for half an hour.
    let flicker = |now: f64| if now % 60.0 < 30.0 { calm() } else { rough() };
    let decisions = run(&mut controller, (1.0, 1800.0, 2.0), flicker);
    assert_eq!(changes(&decisions).len(), 1, "{decisions:?}");
    assert!(decisions.iter().all(|(at, _)| *at < 35.0), "{decisions:?}");
}

#[test]
fn slow_flickering_makes_the_hold_longer() {
    let mut controller = controller();
    let flicker = |now: f64| if now % 960.0 < 480.0 { calm() } else { rough() };
    let decisions = run(&mut controller, (1.0, 6.0 * 3600.0, 15.0), flicker);
    let lowered: Vec<f64> = changes(&decisions)
        .iter()
        .filter(|(_, change)| change.direction == Direction::Lower)
        .map(|&(at, _)| at)
        .collect();
    // More than twenty spells of calm, each longer than the hold at first.
    assert!((2..=10).contains(&lowered.len()), "{lowered:?}");
    for (at, change) in changes(&decisions) {
        assert!(change.to.is_met(), "{at}: {}", change.explanation);
    }
}

#[test]
fn waiting_is_said_once_and_so_is_its_end() {
    let mut controller = controller();
    let hopeless = || Situation { max_risk: Risk::bound(1e-14), ..lone(0.1, 50.0) };
    let decisions =
        run(&mut controller, (1.0, 60.0, 1.0), |now| if now < 30.0 { hopeless() } else { calm() });
    let [(first, Decision::Wait { explanation }), (second, Decision::Meets { explanation: end })] =
        &decisions[..]
    else {
        panic!("{decisions:?}")
    };
    assert_eq!((*first, *second), (1.0, 30.0));
    assert!(explanation.contains("no code meets the risk 1.0e-14"), "{explanation}");
    assert!(end.starts_with("layered-interleaving (8,3; 1,23,101) meets the risk again: "), "{end}");
    assert_eq!(controller.current(), &fixed());
}

#[test]
fn what_leaves_no_room_is_changed_even_if_nothing_meets_the_risk() {
    let heavy = Candidate {
        code: Code::new(Arc::new(Repetition), &Parameters::new().with("copies", &[3])).unwrap(),
        flush_pause: 16,
    };
    let mut controller = Controller::new(Policy::default(), catalogue(), heavy);
    let full = Situation { channels: bursty(0.05, 20.0), ..stream() };
    let decisions = run(&mut controller, (1.0, 60.0, 1.0), |_| full.clone());
    let [(_, change)] = changes(&decisions)[..] else { panic!("{decisions:?}") };
    assert!(!change.from.fits && change.to.fits && !change.to.is_met());
    assert!(
        change.explanation.ends_with("; with the former, the traffic has no room on the line"),
        "{}",
        change.explanation
    );
}

#[test]
fn raises_are_limited_in_number() {
    let mut controller = Controller::new(
        Policy { questions_per_step: u32::MAX, raises_per_minute: 2, ..Policy::default() },
        catalogue(),
        fixed(),
    );
    // Worse with every second.
    let worse = |now: f64| lone(1e-6 * now * now * now, 1.0);
    let decisions = run(&mut controller, (10.0, 65.0, 1.0), worse);
    assert!(changes(&decisions).len() <= 2, "{decisions:?}");
}

/// Counts questions.
#[derive(Debug, Default)]
struct Counting(std::sync::atomic::AtomicU32);

impl DurabilityModel for Counting {
    fn name(&self) -> &str {
        "counting"
    }

    fn version(&self) -> u32 {
        1
    }

    fn own_risk(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> Risk {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        GilbertElliott.own_risk(channel, code, exposure)
    }
}

#[test]
fn a_step_asks_few_questions_and_the_search_goes_on() {
    let model = Counting::default();
    let policy = Policy { questions_per_step: 50, ..Policy::default() };
    let mut controller = Controller::new(policy, catalogue(), fixed());
    let steps = Cell::new(0);
    let change = loop {
        let before = model.0.load(std::sync::atomic::Ordering::Relaxed);
        let decision = controller.step(at(1.0 + f64::from(steps.get()) * 0.05), &lone(1e-3, 10.0), &model);
        let asked = model.0.load(std::sync::atomic::Ordering::Relaxed) - before;
        assert!(asked <= 50 + 30, "{asked} in step {}", steps.get());
        steps.set(steps.get() + 1);
        match decision {
            Some(Decision::Change(change)) => break change,
            None => assert!(controller.is_searching() && steps.get() < 200, "step {}", steps.get()),
            other => panic!("{other:?}"),
        }
    };
    assert!(steps.get() > 2, "{}", steps.get());
    assert!(change.to.is_met(), "{}", change.explanation);
}

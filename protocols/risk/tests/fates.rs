//! Which appends the record counts, against a list that is looked through at the end.

use std::sync::Arc;
use std::time::Duration;

use parhelion_code_none::NoCode;
use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_model_iid_bound::IidBound;
use parhelion_plugin::{Channel, Code, ErasureCode, Exposure};
use parhelion_risk::{EPISODE, Ledger, Pricer, WireState};
use parhelion_types::{LogId, RecordKey, Time};
use proptest::prelude::*;

const LOG: LogId = LogId(3);
fn code(family: impl ErasureCode + 'static, parameters: &str) -> Code {
    Code::new(Arc::new(family), &parameters.parse().unwrap()).unwrap()
}

fn block() -> Code {
    code(ReedSolomon, "r=8 c=3")
}

fn none() -> Code {
    code(NoCode, "")
}

fn pricer(code: Code) -> Pricer {
    Pricer::new(Arc::new(IidBound), code, vec![Channel::independent(1e-4, 0.999)])
}

fn key(number: u64) -> RecordKey {
    RecordKey { log: LOG, number }
}

/// What the link tells of an append.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    /// Sent, with some of its repairs.
    Partly,
    /// All its repairs are on the wire, and nothing is known to be missing.
    Covered,
    /// A symbol is missing.
    Missing,
    /// A copy of it is on the wire.
    Copied,
}

fn wire(told: Told) -> WireState {
    let (coverage, sent) = match told {
        Told::Partly => (0b001, true),
        Told::Covered => (0b111, true),
        Told::Missing => (0, false),
        Told::Copied => (0, true),
    };
    let complete = matches!(told, Told::Covered | Told::Copied);
    WireState { exposure: Exposure::steady(2, coverage, 8), sent, complete }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64),
    Tell(u64, Told),
    Confirm(u64),
    EndSession,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0_u64..6;
    let told = prop_oneof![
        1 => Just(Told::Partly),
        5 => Just(Told::Covered),
        3 => Just(Told::Missing),
        2 => Just(Told::Copied),
    ];
    prop_oneof![
        4 => number.clone().prop_map(Step::Insert),
        12 => (number.clone(), told).prop_map(|(number, told)| Step::Tell(number, told)),
        1 => number.prop_map(Step::Confirm),
        1 => Just(Step::EndSession),
        4 => prop_oneof![0_u64..15, 0_u64..60, 500_u64..2000].prop_map(Step::Pass),
    ]
}

/// Everything that was told of one append, in milliseconds.
#[derive(Clone, Debug)]
struct History {
    told: Vec<(u64, Told)>,
    confirmed: Option<u64>,
}

impl History {
    /// Whether a promise was made and is settled; when the mirror reported it broken, and when that was certain.
    fn outcome(&self) -> Option<Result<(), (u64, u64)>> {
        let first = self.told.iter().position(|(_, told)| matches!(told, Told::Covered | Told::Copied))?;
        let (complete, Told::Covered) = self.told[first] else { return None };
        let left = self.told.iter().position(|(_, told)| *told != Told::Missing)?;
        if self.told[left..first].iter().any(|(_, told)| *told == Told::Missing) {
            return None;
        }
        let took = complete - self.told[left].0;
        let mut missing_since = None;
        for &(at, told) in &self.told[first + 1..] {
            match (told, missing_since) {
                (Told::Missing | Told::Copied, None) if took <= 10 => return Some(Err((at, at))),
                (Told::Missing | Told::Copied, None) => missing_since = Some(at),
                (Told::Covered, Some(since)) if at - since > took => {
                    return Some(Err((since, at)));
                }
                (Told::Covered, _) => missing_since = None,
                _ => {}
            }
        }
        let confirmed = self.confirmed?;
        match missing_since {
            Some(since) if confirmed - since > took => Some(Err((since, confirmed))),
            None if took <= 10 || confirmed - complete > took => Some(Ok(())),
            // Nobody could have seen it fail.
            _ => None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn each_promise_counts_once_and_by_its_first_report(steps in prop::collection::vec(step(), 1..80)) {
        let (mut ledger, mut pricer) = (Ledger::new(), pricer(block()));
        let own = pricer.own(&wire(Told::Covered).exposure, pricer.generation()).probability();
        prop_assert!(own > 0.0 && own < 1e-6);
        let mut histories: Vec<History> = Vec::new();
        // Index into the histories of what is in flight, by number.
        let mut flying: [Option<usize>; 6] = [None; 6];
        let (mut now, mut mirrored) = (0, 0);
        for step in steps {
            ledger.advance(Time::ZERO + Duration::from_millis(now));
            match step {
                Step::Insert(number) => {
                    ledger.insert(key(number), pricer.generation());
                    if number >= mirrored && flying[number as usize].is_none() {
                        flying[number as usize] = Some(histories.len());
                        histories.push(History { told: Vec::new(), confirmed: None });
                    }
                }
                Step::Tell(number, told) => {
                    // Coverage that is complete does not become partial.
                    let told_before = flying[number as usize].map_or(&[][..], |at| &histories[at].told);
                    if told == Told::Partly && !told_before.is_empty() {
                        continue;
                    }
                    ledger.cover(&mut pricer, key(number), wire(told));
                    if let Some(at) = flying[number as usize] {
                        histories[at].told.push((now, told));
                    }
                }
                Step::Confirm(records) => {
                    ledger.confirm(&mut pricer, LOG, records);
                    mirrored = mirrored.max(records);
                    for at in flying[..records as usize].iter_mut().filter_map(Option::take) {
                        histories[at].confirmed = Some(now);
                    }
                }
                Step::EndSession => {
                    ledger.end_session();
                    (mirrored, flying) = (0, [None; 6]);
                }
                Step::Pass(millis) => now += millis,
            }
        }
        let outcomes: Vec<_> = histories.iter().filter_map(History::outcome).collect();
        let mut failures: Vec<(u64, u64)> = outcomes.iter().filter_map(|outcome| outcome.err()).collect();
        let tally = ledger.record().all();
        prop_assert_eq!(tally.failed, failures.len() as u64);
        let promised = own * outcomes.len() as f64;
        prop_assert!((tally.promised - promised).abs() <= 1e-9 * promised, "{} and {}", tally.promised, promised);
        // Reports that became certain at one instant may have begun in any order.
        failures.sort_by_key(|&(reported, certain)| (certain, reported));
        let is_ordered = failures.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 < pair[1].1);
        if is_ordered {
            let (mut episodes, mut began) = (0, None);
            for (reported, _) in failures {
                if began.is_none_or(|began| reported >= began + EPISODE.as_millis() as u64) {
                    (episodes, began) = (episodes + 1, Some(reported));
                }
            }
            prop_assert_eq!(tally.episodes, episodes);
        }
    }
}

/// Tells of one append under `code`, a step every `millis`; what the record says behind it.
fn told(code: Code, millis: u64, states: &[WireState]) -> (u64, bool) {
    let (mut ledger, mut pricer) = (Ledger::new(), pricer(code));
    ledger.insert(key(0), pricer.generation());
    for (at, state) in (1..).zip(states) {
        ledger.advance(Time::ZERO + Duration::from_millis(at * millis));
        ledger.cover(&mut pricer, key(0), *state);
    }
    ledger.confirm(&mut pricer, LOG, 1);
    let tally = ledger.record().all();
    (tally.failed, tally.promised > 0.0)
}

#[test]
fn without_a_code_what_is_sent_is_promised_and_what_is_missing_has_failed() {
    let [missing, copied] = [Told::Missing, Told::Copied].map(wire);
    assert_eq!(told(none(), 1, &[copied]), (0, true));
    assert_eq!(told(none(), 1, &[copied, missing, copied]), (1, true));
    // However long the queue was: no repair is on its way.
    assert_eq!(told(none(), 500, &[copied, missing, copied]), (1, true));
}

#[test]
fn repairs_that_come_after_the_report_keep_the_promise() {
    let [partly, covered, missing, copied] =
        [Told::Partly, Told::Covered, Told::Missing, Told::Copied].map(wire);
    // Covered within ten milliseconds, then reported: the repairs had come, and were not enough.
    assert_eq!(told(block(), 5, &[covered, missing, copied, covered]), (1, true));
    // It took 20 ms until the last repair had left; 20 ms after the report the append is whole.
    assert_eq!(told(block(), 20, &[partly, covered, missing, covered]), (0, true));
    // 40 ms after it: a copy did it.
    assert_eq!(told(block(), 20, &[partly, covered, missing, copied, covered]), (1, true));
    // Reported before it was covered: nothing had been promised.
    assert_eq!(told(block(), 5, &[missing, copied, covered]), (0, false));
    assert_eq!(told(block(), 5, &[partly, missing, partly, covered]), (0, false));
    // Confirmed before a repair that took 20 ms could have been missed.
    assert_eq!(told(block(), 20, &[partly, covered]), (0, false));
}

#[test]
fn a_figure_that_promises_little_is_not_recorded() {
    let mut pricer = pricer(none());
    pricer.set_channels(vec![Channel::independent(0.01, 0.999)]);
    let mut ledger = Ledger::new();
    ledger.insert(key(0), pricer.generation());
    ledger.cover(&mut pricer, key(0), wire(Told::Copied));
    ledger.cover(&mut pricer, key(0), wire(Told::Missing));
    ledger.confirm(&mut pricer, LOG, 1);
    assert_eq!((ledger.record().all().failed, ledger.record().all().promised), (0, 0.0));
}

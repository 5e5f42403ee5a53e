//! What is chosen where it is clear what should be.

use std::time::Duration;

use parhelion_model_gilbert_elliott::GilbertElliott;
use parhelion_plan::{AckWhen, Plan, Situation, choose, evaluate, rank};
use parhelion_plugin::{Channel, Structure};
use parhelion_types::Risk;

use super::*;

fn plan(situation: &Situation) -> Plan {
    choose(situation, &GilbertElliott, &catalogue(), Some(&fixed()))
}

/// The explanation of a plan to wait.
fn waits(situation: &Situation) -> String {
    match plan(situation) {
        Plan::Wait { explanation, .. } => explanation,
        Plan::Use(evaluation) => panic!("{} meets {}", evaluation.candidate, situation.max_risk),
    }
}

fn lone(loss: f64, burst: f64) -> Situation {
    Situation { channels: bursty(loss, burst), lone_share: 1.0, ..Situation::default() }
}

#[test]
fn a_line_that_loses_less_than_is_asked_for_needs_nothing() {
    let situation =
        Situation { channels: bursty(1e-9, 1.0), max_risk: Risk::bound(1e-3), ..Situation::default() };
    let evaluation = used(plan(&situation));
    assert_eq!((evaluation.candidate.label().as_str(), evaluation.overhead), ("none", 0.0));
}

#[test]
fn a_clean_line_needs_little() {
    let evaluation = used(plan(&Situation { channels: bursty(1e-5, 1.0), ..stream() }));
    assert!(evaluation.overhead < 0.05, "{evaluation:?}");
    assert!(evaluation.overhead < evaluate(&stream(), &GilbertElliott, &fixed()).overhead / 5.0);
    // One repair for the four symbols of a lone append.
    let evaluation = used(plan(&lone(1e-5, 1.0)));
    assert_eq!(evaluation.overhead, 0.25);
}

#[test]
fn short_bursts_are_met_by_repairs_that_are_apart() {
    let situation = lone(0.001, 3.0);
    let evaluation = used(plan(&situation));
    assert!(evaluation.prefix_risk() <= situation.max_risk);
    // In a row it would take eighteen repairs and more (loss model, section 3.4): pauses are worth far more.
    assert!(evaluation.overhead <= 4.0 && evaluation.candidate.flush_pause >= 12, "{}", evaluation.candidate);
    assert!(evaluation.candidate.code.structure().gains_by_pauses());
}

#[test]
fn long_bursts_get_long_pauses() {
    let (short, long) = (used(plan(&lone(1e-4, 10.0))), used(plan(&lone(1e-4, 50.0))));
    assert!(long.candidate.flush_pause >= 228, "{}: less than 99 of 100 bursts", long.candidate);
    assert!(short.candidate.flush_pause < long.candidate.flush_pause);
    assert!(short.latency < long.latency && long.latency < long.lone.as_ref().unwrap().mirror);
}

#[test]
fn a_slow_line_has_no_time_for_wide_layers() {
    let situation = Situation {
        line_bytes_per_second: 125_000,
        symbols_per_second: 40.0,
        lone_share: 0.0,
        round_trip: Duration::from_millis(300),
        deadline: Duration::from_secs(10),
        flush_age: Duration::from_millis(100),
        appends_in_flight: 3.0,
        ..stream()
    };
    let clean = Situation { channels: bursty(1e-4, 1.0), ..situation.clone() };
    let evaluation = used(plan(&clean));
    let course = evaluation.streamed.as_ref().unwrap();
    assert!(course.ack.unwrap().latest < course.mirror, "the mirror would be sooner");
    assert!(evaluation.candidate.code.structure().span_symbols() <= 64, "{}", evaluation.candidate);
    for evaluation in rank(&clean, &GilbertElliott, &catalogue(), None) {
        if let Structure::Layered { interleaves, .. } = evaluation.candidate.code.structure() {
            assert!(interleaves.last() < Some(&23), "{} fires after seconds", evaluation.candidate);
        }
    }
    // In bursts, time is what it would take, and the mirror is sooner.
    let bursts = Situation { channels: bursty(1e-3, 20.0), ..situation };
    assert!(waits(&bursts).contains("; appends wait for the mirror, "), "{}", waits(&bursts));
}

#[test]
fn what_no_code_can_do_in_time_is_said() {
    let hasty = Situation { deadline: Duration::from_millis(1), ..lone(1e-3, 3.0) };
    let words = waits(&hasty);
    assert!(words.starts_with("no code meets the risk 1.0e-6 in time: the quickest, "), "{words}");
    assert!(words.ends_with("and the deadline is 1.0 ms; appends wait for the mirror"), "{words}");

    let near =
        Situation { round_trip: Duration::from_micros(100), mirror_delay: Duration::ZERO, ..lone(1e-3, 3.0) };
    assert!(waits(&near).contains("and the mirror has it after 0.7 ms"), "{}", waits(&near));
}

#[test]
fn what_no_code_can_do_at_all_is_said() {
    let strict = Situation { max_risk: Risk::bound(1e-15), ..lone(0.1, 50.0) };
    let words = waits(&strict);
    assert!(words.starts_with("no code meets the risk 1.0e-15: the best, "), "{words}");
    assert!(words.ends_with("; appends wait for the mirror, 46 ms"), "{words}");
    let unknown = Situation { channels: Vec::new(), ..strict.clone() };
    assert!(waits(&unknown).contains(" comes to 1; "), "{}", waits(&unknown));
    assert!(matches!(choose(&strict, &GilbertElliott, &[], None), Plan::Wait { best: None, .. }));
}

#[test]
fn traffic_that_fills_the_line_is_left_its_room() {
    let full = Situation { symbols_per_second: 28_000.0, channels: bursty(1e-5, 1.0), ..stream() };
    let narrow = used(plan(&full));
    assert!(narrow.fits && narrow.overhead <= 28_846.0 / 28_000.0 - 1.0 + 1e-3, "{}", narrow.overhead);
    assert!(!evaluate(&full, &GilbertElliott, &fixed()).fits);
    let overfull = Situation { symbols_per_second: 30_000.0, ..full.clone() };
    assert!(waits(&overfull).contains(": the line has no room for the traffic; "), "{}", waits(&overfull));
    // In bursts, what it takes has no room, unless the traffic may be slowed down.
    let bursts = Situation { channels: bursty(1e-3, 2.0), ..full };
    assert!(waits(&bursts).starts_with("no code meets the risk"));
    let patient = used(plan(&Situation { slowdown_max: 0.5, ..bursts }));
    assert!(patient.is_met() && patient.overhead > 0.05, "{}", patient.overhead);
}

#[test]
fn enough_repairs_come_sooner_than_all() {
    let all = Situation { channels: bursty(1e-5, 1.0), ..lone(1e-5, 1.0) };
    let enough = Situation { ack_when: AckWhen::Enough, ..all.clone() };
    let [all, enough] = [all, enough].map(|situation| evaluate(&situation, &GilbertElliott, &fixed()));
    let [all, enough] = [&all, &enough].map(|evaluation| evaluation.lone.as_ref().unwrap().ack.unwrap());
    assert_eq!((all.repairs, enough.repairs), (3, 1));
    assert!(enough.expected < all.expected && enough.own > all.own && enough.prefix.probability() <= 1e-6);
}

#[test]
fn a_kind_of_append_that_cannot_have_it_waits() {
    // Lone appends would need pauses that outlast the round trip; the stream has time between its own symbols.
    let situation = Situation {
        channels: vec![Channel::bursty(1e-5, 2.0, 0.999)],
        lone_share: 0.2,
        line_bytes_per_second: 37_500_000,
        round_trip: Duration::from_millis(8),
        mirror_delay: Duration::ZERO,
        flush_delay: Duration::from_millis(9),
        flush_age: Duration::from_millis(9),
        ..stream()
    };
    let evaluation = used(plan(&situation));
    assert_eq!(evaluation.met_share, 0.8);
    assert!(
        evaluation.lone.as_ref().unwrap().ack.is_none()
            && evaluation.streamed.as_ref().unwrap().ack.is_some()
    );
    // The other way round the minority would be served at the price of all.
    let words = waits(&Situation { lone_share: 0.8, ..situation });
    assert!(words.contains(" does for 20 %; all wait for the mirror"), "{words}");
}

#[test]
fn the_ranking_begins_with_the_choice_and_its_curves_fall() {
    for situation in [Situation { channels: bursty(1e-3, 2.0), ..stream() }, lone(1e-3, 4.0)] {
        let all = rank(&situation, &GilbertElliott, &catalogue(), Some(&fixed()));
        assert!(all.iter().any(|evaluation| evaluation.candidate.code == fixed().code));
        if let Plan::Use(best) = plan(&situation) {
            assert_eq!(best.candidate, all[0].candidate);
            assert_eq!(best.overhead, all[0].overhead);
        }
        for pair in all.windows(2).filter(|pair| pair[1].met_share == 1.0) {
            assert!(pair[0].met_share == 1.0 && pair[0].overhead <= pair[1].overhead + 1e-6);
        }
        for (evaluation, course) in all.iter().flat_map(|all| all.courses().map(move |course| (all, course)))
        {
            assert_eq!(course.points[0].repairs, 0);
            // More repairs of a flushed window are more from a flush, too.
            let falls = !matches!(evaluation.candidate.code.structure(), Structure::Window { .. });
            for pair in course.points.windows(2) {
                assert_eq!(pair[1].repairs, pair[0].repairs + 1);
                assert!(pair[1].own <= pair[0].own || !falls, "{}: {pair:?}", evaluation.candidate);
                assert!(pair[1].latest >= pair[0].latest);
                assert!(pair[0].expected <= pair[0].latest);
            }
        }
    }
}

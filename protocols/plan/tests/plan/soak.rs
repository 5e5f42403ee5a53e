//! Random situations: nothing panics, and every claim holds when it is looked at again.

use std::time::Duration;

use parhelion_model_gilbert_elliott::GilbertElliott;
use parhelion_plan::{AckWhen, Plan, Situation, choose, evaluate, rank};
use parhelion_plugin::Channel;
use parhelion_types::Risk;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

/// A number between the two, even in the logarithm.
fn log(rng: &mut SmallRng, low: f64, high: f64) -> f64 {
    (rng.random_range(low.ln()..high.ln())).exp()
}

fn channel(rng: &mut SmallRng) -> Channel {
    let channel = Channel::bursty(log(rng, 1e-7, 0.1), log(rng, 1.0, 100.0), 0.999);
    let loss_in_bad = if rng.random_bool(0.3) { rng.random_range(0.1..1.0) } else { 1.0 };
    Channel { loss_in_bad, ..channel }
}

fn situation(rng: &mut SmallRng) -> Situation {
    let line = if rng.random_bool(0.1) { 0.0 } else { log(rng, 1e5, 1.25e9) };
    let millis = |rng: &mut SmallRng, low: f64, high: f64| Duration::from_secs_f64(log(rng, low, high) / 1e3);
    let flush_delay = millis(rng, 0.1, 10.0);
    Situation {
        channels: (0..rng.random_range(1..4)).map(|_| channel(rng)).collect(),
        line_bytes_per_second: line as u64,
        symbols_per_second: line.max(1e6) / 1300.0 * log(rng, 1e-3, 1.1),
        slowdown_max: rng.random_range(0.0..0.5),
        round_trip: millis(rng, 1.0, 1000.0),
        mirror_delay: millis(rng, 0.1, 50.0),
        flush_delay,
        flush_age: flush_delay * rng.random_range(1..20),
        append_bytes: log(rng, 1.0, 1e5) as u32,
        appends_in_flight: log(rng, 0.5, 100.0),
        lone_share: rng.random_range(-0.3..1.3),
        max_risk: Risk::bound(log(rng, 1e-10, 0.5)),
        deadline: millis(rng, 5.0, 5000.0),
        ack_when: if rng.random_bool(0.5) { AckWhen::Enough } else { AckWhen::Complete },
        ..Situation::default()
    }
}

#[test]
fn every_claim_holds_when_priced_again() {
    let mut rng = SmallRng::seed_from_u64(7);
    let (mut used, mut waited) = (0, 0);
    for round in 0..100 {
        let situation = situation(&mut rng);
        match choose(&situation, &GilbertElliott, &catalogue(), Some(&fixed())) {
            Plan::Use(plan) => {
                used += 1;
                let again = evaluate(&situation, &GilbertElliott, &plan.candidate);
                assert!(plan.met_share >= 0.5 && plan.fits, "{round}: {situation:?}");
                assert_eq!((again.met_share, again.overhead), (plan.met_share, plan.overhead), "{round}");
                for (course, again) in plan.courses().zip(again.courses()) {
                    assert_eq!(course.ack, again.ack, "{round}: {situation:?}");
                    let Some(ack) = course.ack else { continue };
                    assert!(ack.prefix <= situation.max_risk && ack.own <= ack.prefix, "{round}: {ack:?}");
                    assert!(
                        ack.latest <= situation.deadline && ack.latest < course.mirror,
                        "{round}: {ack:?}"
                    );
                    assert!(ack.expected <= ack.latest, "{round}: {ack:?}");
                }
            }
            Plan::Wait { explanation, best } => {
                waited += 1;
                assert!(explanation.starts_with("no code meets the risk"), "{explanation}");
                assert!(best.is_some_and(|best| best.met_share < 0.5));
                if round % 40 == 0 {
                    let all = rank(&situation, &GilbertElliott, &catalogue(), None);
                    assert!(all.iter().all(|other| other.met_share < 0.5), "{round}: {situation:?}");
                }
            }
        }
    }
    assert!(used > 20 && waited > 20, "{used} used, {waited} waited");
}

#[test]
fn what_serves_a_worse_channel_serves_a_better_one() {
    let mut rng = SmallRng::seed_from_u64(11);
    let mut compared = 0;
    for _ in 0..40 {
        let worse = Situation { channels: vec![channel(&mut rng)], ..situation(&mut rng) };
        let Plan::Use(plan) = choose(&worse, &GilbertElliott, &catalogue(), None) else { continue };
        let Channel { good_to_bad, bad_to_good, loss, .. } = worse.channels[0];
        // Rarer and shorter bursts.
        let better = Channel {
            good_to_bad: good_to_bad * rng.random_range(0.3..1.0),
            bad_to_good: bad_to_good
                + (1.0 - good_to_bad - bad_to_good).max(0.0) * rng.random_range(0.0..1.0),
            loss,
            ..worse.channels[0]
        };
        let better = Situation { channels: vec![better], ..worse };
        let again = evaluate(&better, &GilbertElliott, &plan.candidate);
        assert!(again.met_share >= plan.met_share, "{better:?}: {}", plan.candidate);
        let Plan::Use(cheaper) = choose(&better, &GilbertElliott, &catalogue(), Some(&plan.candidate)) else {
            panic!("{better:?}: {} would do", plan.candidate)
        };
        let is_as_good = cheaper.met_share > again.met_share || cheaper.overhead <= again.overhead + 1e-6;
        assert!(is_as_good, "{better:?}: {} after {}", cheaper.candidate, plan.candidate);
        compared += 1;
    }
    assert!(compared > 8, "{compared}");
}

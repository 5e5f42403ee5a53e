//! The planner with the real codes and the real model.

mod choices;
mod closed_loop;
mod control;
mod real_link;
mod soak;

use std::sync::Arc;

use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_none::NoCode;
use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_code_repetition::Repetition;
use parhelion_code_sliding_window::SlidingWindow;
use parhelion_plan::{Candidate, Evaluation, Plan, Situation};
use parhelion_plugin::{Channel, Code, ErasureCode, Parameters};

fn catalogue() -> Vec<Arc<dyn ErasureCode>> {
    vec![
        Arc::new(LayeredInterleaving),
        Arc::new(ReedSolomon),
        Arc::new(SlidingWindow),
        Arc::new(Repetition),
        Arc::new(NoCode),
    ]
}

/// The fixed code of the paper, with the interleaves and pauses that are the default.
fn fixed() -> Candidate {
    Candidate { code: Code::new(Arc::new(LayeredInterleaving), &Parameters::new()).unwrap(), flush_pause: 16 }
}

fn bursty(loss: f64, burst: f64) -> Vec<Channel> {
    vec![Channel::bursty(loss, burst, 0.999)]
}

/// What a plan uses.
fn used(plan: Plan) -> Evaluation {
    match plan {
        Plan::Use(evaluation) => *evaluation,
        Plan::Wait { explanation, .. } => panic!("{explanation}"),
    }
}

/// A stream that takes most of a line of 300 Mbit/s, 50 ms long.
fn stream() -> Situation {
    use std::time::Duration;
    Situation {
        symbols_per_second: 20_000.0,
        lone_share: 0.0,
        round_trip: Duration::from_millis(100),
        deadline: Duration::from_millis(100),
        appends_in_flight: 50.0,
        ..Situation::default()
    }
}

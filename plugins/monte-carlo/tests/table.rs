//! Questions: bounded, quick, rounded to the worse, deterministic.

use std::sync::Arc;
use std::time::Instant;

use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_code_repetition::Repetition;
use parhelion_model_monte_carlo::{CELLS_MAX, Cell, Findings, MonteCarlo, QUEUE_MAX, Simulation, Table};
use parhelion_plugin::{Channel, Code, DurabilityModel, Exposure};

fn reed_solomon() -> Code {
    Code::new(Arc::new(ReedSolomon), &"r=8 c=3 depth=1".parse().unwrap()).unwrap()
}

/// Works until all that was asked has some answer.
fn answer(model: &MonteCarlo, questions: &[(Channel, Exposure)], code: &Code) {
    while questions.iter().any(|(channel, exposure)| {
        model.own_risk(channel, code, exposure);
        model.findings(channel, code, exposure).is_none_or(|findings| findings.bound.is_none())
    }) && model.work()
    {}
}

#[test]
fn what_waits_and_what_is_remembered_is_bounded() {
    let model = MonteCarlo::new();
    let code = reed_solomon();
    for n in 0..5000 {
        let channel = Channel::bursty(1e-7 * 1.01_f64.powi(n), 2.0, 0.999);
        let figure = model.own_risk(&channel, &code, &Exposure::steady(1 + n as u32 % 30, 0b111, 8));
        assert!(figure.probability() > 0.0);
        assert!(model.questions() <= QUEUE_MAX, "{}", model.questions());
    }
    // The newest was not forgotten.
    let channel = Channel::bursty(1e-7 * 1.01_f64.powi(4999), 2.0, 0.999);
    assert!(model.findings(&channel, &code, &Exposure::steady(1 + 4999 % 30, 0b111, 8)).is_some());
}

/// Answers at once, so that a table fills up.
#[derive(Debug)]
struct Immediate;

impl Simulation for Immediate {
    type Progress = ();

    fn simulate(&self, cell: &Cell, _: &mut ()) -> Findings {
        Findings { bound: Some(cell.channel.good_to_bad), is_done: true, ..Findings::default() }
    }
}

#[test]
fn answers_are_forgotten_the_oldest_first() {
    let table = Table::new(Immediate);
    let channel = |n: i32| Channel::bursty(1e-9 * 1.1_f64.powi(n % 200), 2.0, 0.999);
    let exposure = |n: i32| Exposure::steady(1 + (n / 200) as u32, 0b111, 8);
    let code = reed_solomon();
    for n in 0..2000 {
        table.ask(&channel(n), &code, &exposure(n));
        assert!(!table.work(), "one question, one piece of work");
        assert!(table.len() <= CELLS_MAX);
    }
    assert_eq!(table.len(), CELLS_MAX);
    assert!(table.findings(&channel(1999), &code, &exposure(1999)).is_some());
    assert!(table.findings(&channel(0), &code, &exposure(0)).is_none());
    // Other codes push out what belongs to codes that are not used any more.
    for copies in 1..=16 {
        let parameters = format!("copies={copies} spacing=2");
        let code = Code::new(Arc::new(Repetition), &parameters.parse().unwrap()).unwrap();
        table.ask(&channel(0), &code, &Exposure::steady(1, 1, 1));
    }
    assert_eq!(table.len(), 16);
}

#[test]
fn a_better_channel_has_no_worse_figure() {
    let model = MonteCarlo::new();
    let code = reed_solomon();
    let exposure = Exposure::steady(4, 0b111, 8);
    let questions: Vec<_> =
        (0..12).map(|n| (Channel::bursty(1e-4 * 1.13_f64.powi(n), 1.5, 0.999), exposure)).collect();
    // Only every third has an answer of its own.
    for (channel, _) in questions.iter().step_by(3) {
        answer(&model, &[(*channel, exposure)], &code);
    }
    let figures: Vec<_> = questions
        .iter()
        .map(|(channel, _)| model.own_risk(channel, &code, &exposure).probability())
        .collect();
    assert!(figures.windows(2).all(|pair| pair[0] <= pair[1]), "{figures:?}");
    assert!(figures[10] > 2.0 * figures[0], "{figures:?}");
}

#[test]
fn nonsense_is_answered_with_a_probability() {
    let model = MonteCarlo::new();
    let code = reed_solomon();
    let odd = [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e-300, 0.5, 1.0, 2.0];
    let mut questions = 0;
    for good_to_bad in odd {
        for bad_to_good in odd {
            for loss_in_bad in odd {
                let channel = Channel {
                    good_to_bad,
                    bad_to_good,
                    loss_in_bad,
                    loss: loss_in_bad,
                    confidence: bad_to_good,
                    packets_per_second: good_to_bad,
                };
                for exposure in [
                    Exposure::steady(0, 0b111, 0),
                    Exposure::steady(u32::MAX, u64::MAX, u32::MAX),
                    Exposure {
                        flushed: u64::MAX,
                        flush_run: 0,
                        flush_pause: 3,
                        ..Exposure::steady(3, 0b111, 0)
                    },
                ] {
                    let figure = model.own_risk(&channel, &code, &exposure).probability();
                    assert!((0.0..=1.0).contains(&figure));
                    questions += 1;
                    if questions % 97 == 0 {
                        model.work();
                    }
                }
            }
        }
    }
}

#[test]
fn the_same_questions_get_the_same_answers() {
    let code = reed_solomon();
    let questions = [(Channel::bursty(1e-3, 2.0, 0.999), Exposure::steady(3, 0b111, 8))];
    let figure = || {
        let model = MonteCarlo::new();
        answer(&model, &questions, &code);
        model.own_risk(&questions[0].0, &code, &questions[0].1).probability()
    };
    assert_eq!(figure(), figure());
}

#[test]
fn questions_do_not_wait_for_work() {
    let model = Arc::new(MonteCarlo::new());
    let code = Code::new(Arc::new(LayeredInterleaving), &parhelion_plugin::Parameters::new()).unwrap();
    let channel = Channel::bursty(1e-4, 2.0, 0.999);
    for symbols in 1..=40 {
        model.own_risk(&channel, &code, &Exposure::steady(symbols, 0b111, 8));
    }
    let worker = {
        let model = Arc::clone(&model);
        std::thread::spawn(move || (0..20).filter(|_| model.work()).count())
    };
    let mut asked = 0_u32;
    let mut times = Vec::new();
    while !worker.is_finished() || asked < 10_000 {
        let start = Instant::now();
        for n in 0..100 {
            model.own_risk(&channel, &code, &Exposure::steady(1 + n % 40, 0b111, 8));
        }
        times.push(start.elapsed().as_secs_f64() / 100.0);
        asked += 100;
    }
    assert_eq!(worker.join().unwrap(), 20, "there was work all the time");
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!("a question takes {:.2} us, {asked} asked while others were simulated", 1e6 * median);
    assert!(median < 5e-6, "{median}");
}

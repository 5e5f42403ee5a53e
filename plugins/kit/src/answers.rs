//! The figures of durability models beside each other, and how long they take.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parhelion_plugin::{Channel, Code, DurabilityModel, Exposure};
use serde::Serialize;

use crate::examination::built_in_codes;

/// A question, and what models answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answers {
    /// The code, with all its coverage on the wire.
    pub code: String,
    /// Overall loss rate.
    pub loss: f64,
    /// Mean length of bursts, in packets.
    pub burst: f64,
    /// Source symbols of the append.
    pub symbols: u32,
    /// The risk that each model states, in the order in which they were given.
    pub risks: Vec<f64>,
}

/// How long a model takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pace {
    /// Its name.
    pub model: String,
    /// Microseconds per answer, the mean over all questions in the best of many turns.
    pub answer_us: f64,
    /// Seconds of background work before these questions had their final answers.
    pub work_seconds: f64,
}

/// The questions: every built-in code, on channels from good to bad.
const CHANNELS: [(f64, f64); 6] =
    [(1e-5, 1.0), (1e-3, 1.0), (1e-3, 3.0), (1e-2, 1.0), (1e-2, 3.0), (1e-2, 10.0)];

/// Source symbols of the append: 4 KiB in packets of 1500 bytes.
const SYMBOLS: u32 = 4;

/// Longest that a model may work for all questions together.
const WORK_LIMIT: Duration = Duration::from_secs(20);

/// Turns in which answers are timed.
const TURNS: usize = 50;

/// Asks every model every question.
#[must_use]
pub fn compare(models: &[Arc<dyn DurabilityModel>]) -> (Vec<Answers>, Vec<Pace>) {
    let questions: Vec<_> = built_in_codes()
        .into_iter()
        .flat_map(|code| CHANNELS.map(|(loss, burst)| (code.clone(), loss, burst)))
        .map(|(code, loss, burst)| (question(&code, loss, burst), code, loss, burst))
        .collect();
    let mut answers: Vec<_> = questions
        .iter()
        .map(|(_, code, loss, burst)| Answers {
            code: code.to_string(),
            loss: *loss,
            burst: *burst,
            symbols: SYMBOLS,
            risks: Vec::new(),
        })
        .collect();
    let mut paces = Vec::new();
    for model in models {
        let all = || {
            questions.iter().map(|((channel, exposure), code, ..)| model.own_risk(channel, code, exposure))
        };
        all().for_each(|risk| _ = black_box(risk));
        let start = Instant::now();
        while start.elapsed() < WORK_LIMIT && model.work() {}
        let work_seconds = start.elapsed().as_secs_f64();
        for (answers, risk) in answers.iter_mut().zip(all()) {
            answers.risks.push(risk.probability());
        }
        let turns = (0..TURNS).map(|_| {
            let start = Instant::now();
            all().for_each(|risk| _ = black_box(risk));
            start.elapsed().as_secs_f64()
        });
        let best = turns.fold(f64::INFINITY, f64::min);
        let answer_us = best / questions.len().max(1) as f64 * 1e6;
        paces.push(Pace { model: model.name().to_owned(), answer_us, work_seconds });
    }
    (answers, paces)
}

fn question(code: &Code, loss: f64, burst: f64) -> (Channel, Exposure) {
    let structure = code.structure();
    let group = match structure {
        parhelion_plugin::Structure::Block { r, .. } | parhelion_plugin::Structure::Layered { r, .. } => *r,
        _ => u32::try_from(structure.span_symbols()).unwrap_or(u32::MAX).max(1),
    };
    let channel = Channel { packets_per_second: 25_000.0, ..Channel::bursty(loss, burst, 0.999) };
    (channel, Exposure::steady(SYMBOLS, structure.full_coverage(), group))
}

#[cfg(test)]
mod tests {
    use parhelion_plugin_host::Catalogue;

    use super::*;

    #[test]
    fn every_model_answers_every_question() {
        let catalogue = Catalogue::built_in();
        let models = ["gilbert-elliott", "iid-bound"].map(|name| catalogue.model(name).unwrap());
        let (answers, paces) = compare(&models);
        assert_eq!(answers.len(), catalogue.codes().count() * CHANNELS.len());
        assert!(answers.iter().all(|it| it.risks.len() == 2 && it.risks.iter().all(|risk| *risk > 0.0)));
        let none = answers.iter().find(|it| it.code.starts_with("none") && it.loss == 1e-3).unwrap();
        assert!((3.9e-3..=4e-3 * 1.001).contains(&none.risks[1]), "{none:?}");
        assert!(paces.iter().all(|pace| pace.answer_us > 0.0 && pace.answer_us < 1e4), "{paces:?}");
    }
}

//! `parhelion plan`: which code a link should use, what it costs, and what the others would.

use std::path::Path;
use std::time::Duration;

use parhelion_drill::{Curves, png};
use parhelion_plan::{AckWhen, Candidate, Course, Evaluation, Plan, Situation, choose, evaluate, rank};
use parhelion_plugin::{Channel, Code, DurabilityModel, Parameters};
use parhelion_plugin_host::Catalogue as Plugins;
use serde_json::{Value, json};

use crate::cli::PlanArgs;
use crate::drivers;
use crate::output::{Exit, Failure, percent, print_json, print_table, say, span};
use crate::planner;
use crate::plugins;
use crate::settings::{self, Profile, Settings};

/// Alternatives shown: of each code the best, and the best that are left.
const ALTERNATIVES: usize = 8;

/// Runs the command.
pub fn plan(arguments: &PlanArgs) -> Result<Exit, Failure> {
    let settings = settings(arguments)?;
    let (plugins, _) = plugins::load(&settings)?;
    let model = plugins.model(&settings.risk.model).map_err(Failure::usage)?;
    let situation = situation(arguments, &settings);
    let catalogue: Vec<_> = plugins.codes().cloned().collect();
    let chosen = choose(&situation, &*model, &catalogue, None);
    let (best, wait) = match chosen {
        Plan::Use(evaluation) => (Some(evaluation.candidate), None),
        Plan::Wait { best, explanation } => (best.map(|best| best.candidate), Some(explanation)),
    };
    let best = best.map(|candidate| evaluate(&situation, &*model, &candidate));
    let others = alternatives(best.as_ref(), rank(&situation, &*model, &catalogue, None));
    let stock = stock(&plugins, &settings, &situation, &*model)?;
    if let Some(file) = &arguments.plot {
        plot(file, arguments, best.as_ref(), &stock)?;
    }
    if arguments.json {
        print_json(&document(best.as_ref(), &others, wait.as_deref(), &stock));
    } else {
        show(arguments, &situation, best.as_ref(), &others, wait.as_deref(), &stock);
    }
    Ok(if wait.is_some() { Exit::Found } else { Exit::Done })
}

/// A primary's settings with those of the arguments.
fn settings(arguments: &PlanArgs) -> Result<Settings, Failure> {
    let mut set = vec![format!("link.rate={}", arguments.rate)];
    set.extend(arguments.set.iter().cloned());
    let settings = settings::load(Profile::Primary, None, None, &set).map_err(Failure::usage)?.settings;
    Ok(settings)
}

/// The code that a node uses unless it is told otherwise.
fn stock(
    plugins: &Plugins,
    settings: &Settings,
    situation: &Situation,
    model: &dyn DurabilityModel,
) -> Result<Evaluation, Failure> {
    let family = plugins.code(drivers::FALLBACK).map_err(Failure::new)?;
    let code = Code::new(family, &Parameters::new()).map_err(Failure::new)?;
    let candidate = Candidate { code, flush_pause: settings.link.flush_pause };
    Ok(evaluate(situation, model, &candidate))
}

fn situation(arguments: &PlanArgs, settings: &Settings) -> Situation {
    let line = planner::line(settings);
    let load = arguments
        .load
        .map_or(arguments.rate.bytes_per_second() as f64 * LOAD, |load| load.bytes_per_second() as f64);
    let append_bytes = u32::try_from(arguments.append_bytes.as_u64()).unwrap_or(u32::MAX).max(1);
    let appends_per_second = load / f64::from(append_bytes);
    let round_trip = arguments.one_way * 2;
    let unconfirmed = (round_trip + line.mirror_delay).as_secs_f64();
    let symbols = f64::from(append_bytes.div_ceil(line.symbol_data_bytes.max(1)));
    Situation {
        channels: vec![Channel::bursty(arguments.loss, arguments.burst, settings.risk.confidence)],
        symbols_per_second: appends_per_second * symbols,
        round_trip,
        append_bytes,
        appends_in_flight: (appends_per_second * unconfirmed / f64::from(arguments.logs.max(1))).max(1.0),
        // Appends that come at random: no other comes while the link waits whether to flush.
        lone_share: (-appends_per_second * settings.link.flush_delay.as_secs_f64()).exp(),
        max_risk: arguments.max_risk,
        deadline: arguments.deadline,
        ack_when: AckWhen::Complete,
        ..line
    }
}

/// Share of the line that the traffic takes where nothing is said of it: repairs have room beside it.
const LOAD: f64 = 0.3;

/// The best of each code, then the best of the rest, without the one that was chosen.
fn alternatives(best: Option<&Evaluation>, ranked: Vec<Evaluation>) -> Vec<Evaluation> {
    let is_chosen = |evaluation: &Evaluation| best.is_some_and(|best| best.candidate == evaluation.candidate);
    let mut first: Vec<Evaluation> = Vec::new();
    let mut rest = Vec::new();
    for evaluation in ranked.into_iter().filter(|evaluation| !is_chosen(evaluation)) {
        let name = evaluation.candidate.code.name();
        match first.iter().any(|seen| seen.candidate.code.name() == name) {
            false => first.push(evaluation),
            true => rest.push(evaluation),
        }
    }
    first.extend(rest.into_iter().take(ALTERNATIVES.saturating_sub(first.len())));
    first
}

fn show(
    arguments: &PlanArgs,
    situation: &Situation,
    best: Option<&Evaluation>,
    others: &[Evaluation],
    wait: Option<&str>,
    stock: &Evaluation,
) {
    say!(
        "a line of {}, {} one way, that loses {} in bursts of {} packets",
        arguments.rate,
        span(arguments.one_way),
        percent(arguments.loss),
        arguments.burst
    );
    say!(
        "appends of {} bytes at {:.0} per second, {} of them alone on the link; risk at most {} over {:.1} in flight per log\n",
        situation.append_bytes,
        situation.symbols_per_second
            / f64::from(situation.append_bytes.div_ceil(situation.symbol_data_bytes.max(1)).max(1)),
        percent(situation.lone_share),
        situation.max_risk,
        situation.appends_in_flight
    );
    if let Some(explanation) = wait {
        say!("no code meets the risk before the mirror itself answers: {explanation}");
        say!(
            "appends at the level network wait for the mirror, {} on average; nearest:\n",
            span(situation.round_trip + situation.mirror_delay)
        );
    }
    if let Some(best) = best {
        say!("  link.code = \"{}\"", best.candidate.code.name());
        say!("  link.parameters = \"{}\"", best.candidate.code.parameters());
        say!("  link.flush_pause = {}\n", best.candidate.flush_pause);
    }
    let rows = best.into_iter().chain(others).chain([stock]).enumerate().map(|(n, evaluation)| {
        let mark = match n {
            0 if best.is_some() => "> ",
            _ if std::ptr::eq(evaluation, stock) => "default: ",
            _ => "  ",
        };
        row(mark, evaluation)
    });
    let header = ["code", "overhead", "of a lone append", "expected ack", "risk at the ack", "meets it"];
    print_table(header, rows);
    if let Some(best) = best {
        for (name, course) in courses(best) {
            say!("\n{name}: risk against time since it was handed to the link");
            print_table(
                ["repairs on the wire", "after", "own risk", "prefix risk"],
                course.points.iter().map(|point| {
                    [
                        point.repairs.to_string(),
                        span(point.expected),
                        point.own.to_string(),
                        point.prefix.to_string(),
                    ]
                }),
            );
            say!("the mirror's own word: after {}", span(course.mirror));
        }
    }
}

fn courses(evaluation: &Evaluation) -> impl Iterator<Item = (&'static str, &Course)> {
    let streamed = evaluation.streamed.iter().map(|course| ("an append in a stream", course));
    streamed.chain(evaluation.lone.iter().map(|course| ("an append alone on the link", course)))
}

fn row(mark: &str, evaluation: &Evaluation) -> [String; 6] {
    [
        format!("{mark}{}", evaluation.candidate),
        percent(evaluation.overhead),
        percent(evaluation.lone_overhead),
        span(evaluation.latency),
        evaluation.prefix_risk().to_string(),
        match evaluation.met_share {
            1.0.. => "yes".to_owned(),
            share if share > 0.0 => format!("{} of appends", percent(share)),
            _ if !evaluation.fits => "no: no room on the line".to_owned(),
            _ => "no".to_owned(),
        },
    ]
}

fn document(
    best: Option<&Evaluation>,
    others: &[Evaluation],
    wait: Option<&str>,
    stock: &Evaluation,
) -> Value {
    json!({
        "plan": best.map(of_evaluation), "wait": wait,
        "alternatives": others.iter().map(of_evaluation).collect::<Vec<_>>(),
        "default": of_evaluation(stock),
    })
}

fn of_evaluation(evaluation: &Evaluation) -> Value {
    let code = &evaluation.candidate.code;
    let course = |course: &Course| {
        let points = course.points.iter().map(|point| {
            json!({
                "repairs": point.repairs, "seconds": point.expected.as_secs_f64(),
                "latest_seconds": point.latest.as_secs_f64(),
                "own_risk": point.own.probability(), "prefix_risk": point.prefix.probability(),
            })
        });
        json!({ "points": points.collect::<Vec<_>>(), "mirror_seconds": course.mirror.as_secs_f64() })
    };
    json!({
        "code": code.name(), "version": code.version(), "parameters": code.parameters().to_string(),
        "flush_pause": evaluation.candidate.flush_pause, "overhead": evaluation.overhead,
        "lone_overhead": evaluation.lone_overhead, "streamed_overhead": evaluation.streamed_overhead,
        "ack_seconds": evaluation.latency.as_secs_f64(), "met_share": evaluation.met_share,
        "prefix_risk": evaluation.prefix_risk().probability(), "fits": evaluation.fits,
        "streamed": evaluation.streamed.as_ref().map(course), "lone": evaluation.lone.as_ref().map(course),
    })
}

/// The risk of an append against time, for the plan and for the default.
fn plot(
    file: &Path,
    arguments: &PlanArgs,
    best: Option<&Evaluation>,
    stock: &Evaluation,
) -> Result<(), Failure> {
    let points = |course: &Course| {
        let at = |time: Duration| time.as_secs_f64() * 1e3;
        course.points.iter().map(|point| (at(point.expected).max(1e-3), point.prefix.probability())).collect()
    };
    let named = best.map(|best| ("plan", best)).into_iter().chain([("default", stock)]);
    let curves = named.flat_map(|(name, evaluation)| {
        courses(evaluation).map(move |(what, course)| {
            let kind = if what.ends_with("stream") { "stream" } else { "alone" };
            (format!("{name}, {kind}"), points(course))
        })
    });
    let curves = Curves {
        across: "milliseconds since the append was handed to the link".to_owned(),
        up: "prefix risk".to_owned(),
        curves: curves.collect(),
        aim: ("asked".to_owned(), arguments.max_risk.probability()),
    };
    let svg = curves.svg().map_err(Failure::new)?;
    let bytes = match file.extension().is_some_and(|ending| ending == "png") {
        true => png(&svg).map_err(Failure::new)?,
        false => svg.into_bytes(),
    };
    std::fs::write(file, bytes).map_err(|error| {
        Failure::new(format!("plot {}: {error}; give a path that can be written", file.display()))
    })
}

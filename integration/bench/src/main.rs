//! Benchmarks of the whole system: real nodes, real files, and an emulated wide-area link where distance matters.
//!
//! ```text
//! cargo build --release -p parhelion -p parhelion-bench
//! parhelion-bench all --json figures.json
//! ```
//!
//! Each benchmark prints a figure, the baseline that was measured beside it in the same run, their ratio, and
//! the goal. Candidate and baseline take turns, and medians over the turns are shown, because machines are
//! never quiet. `docs/benchmarks.md` says what each one measures and how to read it. None of them is a test:
//! a missed goal is a row in a table, and only a run that could not be carried out ends with an error.
//!
//! ```text
//!   parhelion-bench ──starts──► parhelion node (primary) ──► parhelion wan-emulator ──► parhelion node (mirror)
//!         │                          ▲
//!         └──starts── parhelion-bench write-load FILE   (a process of its own, at the primary's site)
//! ```

mod benchmarks;
mod error;
mod figure;
mod lab;
mod load;
mod machine;
mod pair;
mod site;
mod usage;
mod workshop;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::error::BenchError;
use crate::figure::{Found, Report};
use crate::lab::Lab;
use crate::load::WRITE_LOAD;

/// As in the nodes, so that the writers do not cost more than they would in a service.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Parhelion beside its baselines.
#[derive(Debug, Parser)]
#[command(name = "parhelion-bench", version)]
struct Arguments {
    /// What to measure.
    #[arg(value_enum, required = true, num_args = 1..)]
    names: Vec<Name>,
    /// Turns that candidate and baseline take; medians over them are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds that one turn is measured, after the system has settled.
    #[arg(long, default_value_t = 2.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Directory for the nodes' data. It must be on a real disk: where fdatasync costs nothing, the figures
    /// mean nothing.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// A setting of all nodes, over those of the benchmark. May be given several times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// File for the figures as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// All of them.
    All,
    /// How fast the codes are on one core; takes no nodes.
    Codes,
    /// Acknowledgement latency against distance.
    AckDistance,
    /// Bulk goodput over a lossy link.
    Goodput,
    /// Mirroring under loss against kernel TCP.
    AgainstTcp,
    /// Both sites and the load on one machine, without an emulator.
    Loopback,
    /// Small local appends against fio.
    GroupCommit,
    /// Peak memory of both sites.
    Memory,
    /// What rolling disasters cost, and whether the promised risks hold; as many disasters as rounds.
    Drills,
}

impl Name {
    const EACH: [Self; 8] = [
        Self::Codes,
        Self::AckDistance,
        Self::Goodput,
        Self::AgainstTcp,
        Self::Loopback,
        Self::GroupCommit,
        Self::Memory,
        Self::Drills,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Codes => "codes",
            Self::AckDistance => "ack-distance",
            Self::Goodput => "goodput",
            Self::AgainstTcp => "against-tcp",
            Self::Loopback => "loopback",
            Self::GroupCommit => "group-commit",
            Self::Memory => "memory",
            Self::Drills => "drills",
        }
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == WRITE_LOAD) {
        return finish(load::write_load(&PathBuf::from(words.next().unwrap_or_default())));
    }
    let arguments = Arguments::parse();
    // Works only while there is one thread. Where it is refused, making the sites says so.
    let _ = parhelion_wan::enter_user_namespace();
    finish(run(&arguments))
}

fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let mut names = Vec::new();
    for name in &arguments.names {
        names.extend(if *name == Name::All { Name::EACH.to_vec() } else { vec![*name] });
    }
    let mut lab = match names.iter().all(|name| *name == Name::Codes) {
        true => None,
        false => Some(Lab::new(
            arguments.rounds,
            Duration::from_secs_f64(arguments.seconds),
            arguments.directory.as_deref(),
            arguments.set.clone(),
        )?),
    };
    // One worker for clients' connections; processes are started by this thread, which outlives them.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(BenchError::file("starting", "the runtime"))?;
    let mut report = Report::new(arguments.rounds, arguments.seconds, arguments.set.clone());
    for name in names {
        report.begin(name.text());
        let found = match (&lab, name) {
            (_, Name::Codes) => benchmarks::codes::run(arguments.rounds),
            (Some(lab), name) => runtime.block_on(run_in(lab, name)),
            (None, _) => Ok(Found::default()),
        };
        match found {
            Ok(found) => report.end(found),
            Err(error) => {
                lab.iter_mut().for_each(Lab::keep);
                return Err(error);
            }
        }
    }
    match &arguments.json {
        Some(path) => report.write(path),
        None => Ok(()),
    }
}

async fn run_in(lab: &Lab, name: Name) -> Result<Found, BenchError> {
    match name {
        Name::AckDistance => benchmarks::ack_distance::run(lab).await,
        Name::Goodput => benchmarks::goodput::run(lab).await,
        Name::AgainstTcp => benchmarks::against_tcp::run(lab).await,
        Name::Loopback => benchmarks::loopback::run(lab).await,
        Name::GroupCommit => benchmarks::group_commit::run(lab).await,
        Name::Memory => benchmarks::memory::run(lab).await,
        Name::Drills => benchmarks::drills::run(lab),
        Name::All | Name::Codes => Ok(Found::default()),
    }
}

fn finish(result: Result<(), BenchError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is no span; give 0.1 to 600 seconds");
    text.parse().ok().filter(|seconds| (0.1..=600.0).contains(seconds)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_names_are_what_is_printed() {
        Arguments::command().debug_assert();
        for name in Name::EACH {
            assert_eq!(Name::from_str(name.text(), false), Ok(name));
        }
    }

    #[test]
    fn spans_are_checked() {
        assert_eq!(parse_seconds("2.5"), Ok(2.5));
        for bad in ["", "0", "-1", "NaN", "1e9"] {
            assert!(parse_seconds(bad).is_err(), "{bad:?} parsed");
        }
    }
}

//! `parhelion-calibration`: holds the risks that acknowledgements promise against simulated disasters.
//!
//! ```text
//! parhelion-calibration --out target/calibration
//! parhelion-calibration --channels "bursts 20" --codes layered --disasters 5000
//! ```

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parhelion_calibration::campaign::Campaign;
use parhelion_calibration::catalogue::{channels, codes};
use parhelion_calibration::error::CalibrationError;
use parhelion_calibration::life::Asked;
use parhelion_calibration::plot;
use parhelion_calibration::policy::Policy;
use parhelion_calibration::report::Report;
use parhelion_calibration::worsening;
use parhelion_types::Risk;

/// Holds the risks that acknowledgements promise against simulated disasters.
#[derive(Debug, Parser)]
#[command(name = "parhelion-calibration", version)]
struct Arguments {
    /// Appends that are watched on each channel with each code, each until it is acknowledged and the site dies; judged at
    /// each confidence.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    disasters: u32,
    /// Links that these are spread over, each with telemetry of its own.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    links: u32,
    /// Only channels with this in their name.
    #[arg(long, default_value = "")]
    channels: String,
    /// Only codes with this in their name or parameters.
    #[arg(long, default_value = "")]
    codes: String,
    /// Confidence of the bounds that promises rest on; may be given several times.
    #[arg(long, default_values_t = [0.9, 0.99, 0.999])]
    confidence: Vec<f64>,
    /// The risk that all appends ask for, such as 1e-6; by default each draws its own from 1e-4 to 0.9.
    #[arg(long)]
    max_risk: Option<Risk>,
    /// Everything that is random follows from it.
    #[arg(long, default_value_t = 2009)]
    seed: u64,
    /// Threads; 0 for one per core. They change nothing but the time it takes.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Judge the models that simulate as well, monte-carlo and trace: they take minutes for each channel and code.
    #[arg(long)]
    simulated: bool,
    /// Leave out the lines that get worse just before the disaster.
    #[arg(long)]
    stationary_only: bool,
    /// Directory for the report as JSON and text, and the reliability diagrams.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Show the channels and codes, and do nothing.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("error: records came to the mirror with other bytes than were sent");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Carries it out; whether every record that came was right.
fn run(arguments: &Arguments) -> Result<bool, CalibrationError> {
    let mut channels = channels();
    channels.retain(|channel| channel.name.contains(&arguments.channels));
    let mut policies: Vec<Arc<dyn Policy>> = codes()?.into_iter().map(|code| Arc::new(code) as _).collect();
    policies.retain(|policy| policy.name().contains(&arguments.codes));
    if arguments.list {
        channels.iter().for_each(|channel| println!("{:40} {}", channel.name, channel.class.title()));
        policies.iter().for_each(|policy| println!("{}", policy.name()));
        return Ok(true);
    }
    let filter = |what, filter: &str| CalibrationError::Filter { what, filter: filter.to_owned() };
    if channels.is_empty() {
        return Err(filter("channel", &arguments.channels));
    }
    if policies.is_empty() {
        return Err(filter("code", &arguments.codes));
    }
    let threads = match arguments.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let grid = (channels.len(), policies.len());
    let campaign = Campaign {
        channels,
        policies: policies.clone(),
        levels: arguments.confidence.clone(),
        disasters: arguments.disasters,
        links: arguments.links.min(arguments.disasters),
        asked: arguments.max_risk.map_or(Asked::Between(1e-4, 0.9), Asked::Always),
        seed: arguments.seed,
        threads,
        is_simulated: arguments.simulated,
    };
    let started = Instant::now();
    let bar = progress("links");
    let results = campaign.run(&bar)?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    let is_right = results.altered == 0;
    let mut worse = Vec::new();
    if !arguments.stationary_only {
        let bar = progress("lines that get worse");
        let links = arguments.disasters.div_ceil(4);
        let confidence = arguments.confidence.iter().copied().fold(0.0, f64::max);
        worse = worsening::run(&policies, confidence, links, arguments.seed, threads, &bar)?;
        bar.finish_and_clear();
    }
    let report = Report::new(arguments.seed, grid, results, worse);
    println!("{}", report.summary());
    println!("\n{:.0} disasters a second by {threads} threads", report.disasters as f64 / seconds);
    if let Some(out) = &arguments.out {
        write(out, &report)?;
    }
    Ok(is_right)
}

fn write(out: &Path, report: &Report) -> Result<(), CalibrationError> {
    let file = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        fs::write(&path, bytes).map_err(|source| CalibrationError::File { path, source })
    };
    fs::create_dir_all(out).map_err(|source| CalibrationError::File { path: out.to_owned(), source })?;
    let json = serde_json::to_vec_pretty(report)
        .map_err(|error| CalibrationError::File { path: out.join("report.json"), source: error.into() })?;
    file("report.json", &json)?;
    file("summary.txt", report.summary().as_bytes())?;
    file("cells.txt", report.cell_table().as_bytes())?;
    let mut models: Vec<&str> = report.reliability.curves.iter().map(|curve| curve.model.as_str()).collect();
    models.dedup();
    models.sort_unstable();
    models.dedup();
    for model in models {
        let svg = plot::reliability(&report.reliability, model)?;
        file(&format!("reliability-{model}.svg"), svg.as_bytes())?;
        file(&format!("reliability-{model}.png"), &plot::png(&svg)?)?;
    }
    Ok(())
}

/// A bar on a terminal, and nothing elsewhere: what is worth keeping is in the report.
fn progress(what: &'static str) -> ProgressBar {
    let is_seen = std::io::stderr().is_terminal();
    let target = if is_seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:40}] {pos} of {len}, {eta} to go") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(what);
    bar
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}

//! The rolling disaster of SMFS section 5.3, carried out on real processes.
//!
//! [`run`] starts a primary, a mirror and an emulated wide-area link as processes of the same executable,
//! loads the primary with real bytes, makes the link lose packets, and then, at one instant, cuts it and kills
//! the primary. Only appends whose acknowledgement a writer held at that instant count. The mirror is promoted
//! and searched for every one of them, and what is missing is sorted by the three causes of the paper.
//!
//! ```text
//!        site A                     emulator                      site B
//!  drill-writers ──► primary ──► rate, delay, loss ──► mirror ◄── drill-check
//!  (survives, keeps   (killed)        (cut)                      (promotes, reads)
//!   every ack)
//! ```
//!
//! The executable must offer three hidden subcommands: [`EMULATOR_SUBCOMMAND`] calls
//! [`parhelion_wan::run_emulator`], [`WRITERS_SUBCOMMAND`] calls [`writers::run`] and [`CHECK_SUBCOMMAND`]
//! calls [`check::run`], the latter two with the path of their arguments.

mod ack;
pub mod check;
mod classify;
mod cluster;
mod curves;
mod disaster;
mod error;
mod html;
mod input;
mod interrupt;
mod mode;
mod options;
mod plot;
mod process;
mod progress;
mod promise;
mod report;
#[cfg(test)]
mod round_trip;
mod session;
mod stats;
mod stream;
mod table;
pub mod writers;

use std::fs;
use std::path::{Path, PathBuf};

pub use ack::{ACK_BYTES, Ack};
pub use classify::{Departure, Findings, Losses, Lost, Uncounted};
pub use cluster::{CHECK_SUBCOMMAND, EMULATOR_SUBCOMMAND, WRITERS_SUBCOMMAND};
pub use curves::Curves;
pub use error::DrillError;
pub use html::write_report;
pub use input::{INPUT_BYTES_MAX, Input};
pub use mode::{Mode, UnknownMode};
pub use options::{DrillOptions, Form, LinkOptions, UnknownForm};
pub use plot::png;
pub use process::Process;
pub use promise::{Outcome, PromiseTest};
pub use report::{DrillReport, ModeSummary, RunResult, SCHEMA};
pub use stats::{Latency, Spread};

use crate::disaster::Disaster;
use crate::progress::Progress;

/// Makes the packet form possible for a user who is not root. Call it first thing in `main`, before any
/// thread is started, when the command is a drill whose form is not [`Form::Relay`].
///
/// Where the system does not allow it nothing changes, and [`run`] says so or falls back to the relay form.
pub fn prepare() {
    // The reason is given by `run`, which asks again whether the packet form is available.
    let _ = parhelion_wan::enter_user_namespace();
}

/// Puts every mode through its disasters. Blocks for the whole drill; all work is done by child processes,
/// which end with the thread that calls this.
///
/// Progress goes to standard error. The report, if one is asked for, is written at the end.
///
/// From here on SIGINT and SIGTERM are this crate's: the first one ends the drill with [`DrillError::Stopped`], when its
/// processes are gone and what they wrote is removed; the second one ends the process at once.
///
/// # Errors
/// The options are wrong, a process did not do its part, a file could not be written, or a signal came. Lost data is not
/// an error but a result.
pub fn run(options: DrillOptions) -> Result<DrillReport, DrillError> {
    options.validate()?;
    // The writers read it again, each disaster anew; here it is only known early whether there is anything to read.
    Input::load(options.input.as_deref(), options.append_bytes as usize, options.seed)?;
    let (form, fallback) = cluster::choose_form(options.form)?;
    interrupt::listen()?;
    let workspace = Workspace::create(&options)?;
    let runs = match disasters(&options, form, fallback.as_deref(), &workspace) {
        Ok(runs) => runs,
        // Whatever failed, it is the signal that was meant.
        Err(_) if interrupt::is_stopped() => {
            workspace.close();
            return Err(DrillError::Stopped);
        }
        Err(error) => {
            // No disaster happened, so there is nothing to keep.
            if matches!(error, DrillError::Settings { .. }) {
                workspace.close();
            }
            return Err(error);
        }
    };
    workspace.close();
    let report = DrillReport::new(options, form, runs);
    if let Some(directory) = &report.parameters.report {
        write_report(&report, directory)?;
    }
    Ok(report)
}

/// All disasters, one after the other. None of their processes is left when it returns.
fn disasters(
    options: &DrillOptions,
    form: Form,
    fallback: Option<&str>,
    workspace: &Workspace,
) -> Result<Vec<RunResult>, DrillError> {
    let tls = workspace.path.join("tls");
    cluster::make_certificates(&tls, &workspace.path)?;
    cluster::check_settings(options, &tls, &workspace.path)?;
    let mut runs = Vec::new();
    for repetition in 0..options.repeat {
        for &mode in &options.modes {
            let directory = workspace.path.join(format!("{mode}-{repetition}"));
            fs::create_dir(&directory).map_err(DrillError::file("creating", &directory))?;
            let progress = Progress::new(format!("{mode} {}/{}", repetition + 1, options.repeat));
            let disaster = Disaster { options, form, mode, repetition, tls: &tls, directory: &directory };
            let mut result = disaster.run(&progress)?;
            if let Some(reason) = fallback {
                result.notes.push(format!("relay form, because {reason}"));
            }
            progress.finish(&format!("{} acknowledged, {} lost", result.acked_appends, result.lost.total));
            runs.push(result);
            if options.keep.is_none() {
                fs::remove_dir_all(&directory).map_err(DrillError::file("removing", &directory))?;
            }
        }
    }
    Ok(runs)
}

/// Where the processes of a drill keep their data. Kept when the drill fails, because the logs in it tell why.
#[derive(Debug)]
struct Workspace {
    path: PathBuf,
    keep: bool,
}

impl Workspace {
    fn create(options: &DrillOptions) -> Result<Self, DrillError> {
        let base = options.keep.clone().or_else(|| options.report.clone()).unwrap_or_else(std::env::temp_dir);
        let path = base.join(format!("drill-data-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(DrillError::file("creating", &path))?;
        // Nodes run elsewhere than here only in theory; a relative path would still bite them.
        let path = path.canonicalize().map_err(DrillError::file("finding", &path))?;
        Ok(Self { path, keep: options.keep.is_some() })
    }

    fn close(self) {
        if self.keep {
            note(&format!("data and logs are kept in {}", self.path.display()));
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            note(&format!("{} could not be removed: {error}", self.path.display()));
        }
    }
}

fn note(text: &str) {
    use std::io::Write;
    // Nobody may be listening to standard error.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Reads the arguments of a hidden subcommand.
fn read_arguments<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, DrillError> {
    let text = fs::read(path).map_err(DrillError::file("reading", path))?;
    serde_json::from_slice(&text).map_err(|error| DrillError::file("reading", path)(error.into()))
}

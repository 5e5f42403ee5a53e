//! What the subcommands do.

mod config;
mod link;
mod log;
mod mirror;
mod pki;
mod plan;
mod plugin;
mod promotion;
mod verify;

use std::time::Duration;

use parhelion_drill::{DrillError, DrillOptions, LinkOptions, Mode};
use serde_json::Value;

use crate::cli::{
    AppendArgs, Command, ConfigCommand, DrillArgs, IssueArgs, LinkCommand, LogCommand, MirrorCommand,
    PkiCommand, PluginCommand, ServerArgs, SettingsArgs,
};
use crate::output::{Exit, Failure, print_json, say};
use crate::settings::{self, Layered};

pub use config::config;
pub use link::link;
pub use log::log;
pub use mirror::mirror;
pub use pki::pki;
pub use plan::plan;
pub use plugin::plugin;

/// Whether errors of this command are wanted as JSON too.
pub fn wants_json(command: &Command) -> bool {
    match command {
        Command::Log(
            LogCommand::Create { server, .. }
            | LogCommand::Read { server, .. }
            | LogCommand::Free { server, .. }
            | LogCommand::List { server }
            | LogCommand::Stat { server, .. },
        )
        | Command::Log(LogCommand::Append(AppendArgs { server, .. }))
        | Command::Mirror(
            MirrorCommand::Status { server, .. }
            | MirrorCommand::Promote { server, .. }
            | MirrorCommand::Missing { server }
            | MirrorCommand::Verify { server, .. },
        )
        | Command::Link(LinkCommand::Status { server } | LinkCommand::Code { server, .. }) => server.json,
        Command::Config(ConfigCommand::Show { json, .. } | ConfigCommand::Check { json, .. })
        | Command::Pki(PkiCommand::Init { json, .. } | PkiCommand::Issue(IssueArgs { json, .. })) => *json,
        Command::Plan(arguments) => arguments.json,
        Command::Plugin(
            PluginCommand::New { json, .. }
            | PluginCommand::Check { json, .. }
            | PluginCommand::Bench { json, .. }
            | PluginCommand::List { json, .. },
        ) => *json,
        _ => false,
    }
}

/// The settings that the arguments ask for.
pub fn load(arguments: &SettingsArgs) -> Result<Layered, Failure> {
    settings::load(arguments.profile, arguments.config.as_deref(), None, &arguments.set)
        .map_err(Failure::usage)
}

/// `parhelion drill`
pub fn drill(arguments: DrillArgs) -> Result<Exit, Failure> {
    let json_file = arguments.json.clone();
    let options = drill_options(arguments)?;
    if let Some(path) = &json_file {
        // A drill takes minutes: a file that cannot be written is better found before it.
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
        opened.map_err(|error| {
            Failure::new(format!("--json {}: {error}; name a file that can be written", path.display()))
        })?;
    }
    let report = parhelion_drill::run(options).map_err(|error| match error {
        DrillError::Option { .. } | DrillError::Settings { .. } | DrillError::Input { .. } => {
            Failure::usage(error)
        }
        DrillError::Stopped => Failure::stopped(error),
        error => Failure::new(error),
    })?;
    say!("{}", report.table());
    if let Some(path) = json_file {
        std::fs::write(&path, report.to_json())
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    }
    Ok(if report.is_faulty() { Exit::Found } else { Exit::Done })
}

fn drill_options(arguments: DrillArgs) -> Result<DrillOptions, Failure> {
    let defaults = DrillOptions::default();
    let mut modes: Vec<Mode> = arguments.modes.into_iter().flat_map(|word| word.0).collect();
    modes.sort_unstable();
    modes.dedup();
    let (code, parameters) = match &arguments.code {
        Some(code) => {
            let (name, parameters) = code.split_once(' ').unwrap_or((code, ""));
            (name.to_owned(), parameters.trim().to_owned())
        }
        None => (defaults.code.clone(), defaults.parameters.clone()),
    };
    let count = |what: &str, value: u64| {
        u32::try_from(value).map_err(|_| Failure::usage(format!("{what} {value} is too large")))
    };
    Ok(DrillOptions {
        input: arguments.input,
        modes,
        link: LinkOptions {
            one_way: arguments.one_way,
            rate_bits_per_second: arguments.rate.bits_per_second(),
            loss: arguments.loss,
            burst: arguments.burst,
            loss_for: arguments.loss_for,
        },
        code,
        parameters,
        writers: count("--writers", arguments.writers as u64)?,
        append_bytes: count("--append-bytes", arguments.append_bytes.as_u64())?,
        load_bits_per_second: arguments.load.map(|load| load.bits_per_second()),
        warm_up: arguments.warm_up,
        duration: Duration::try_from_secs_f64(arguments.seconds)
            .map_err(|error| Failure::usage(format!("--seconds {}: {error}", arguments.seconds)))?,
        max_risk: arguments.max_risk.probability(),
        repeat: count("--repeat", arguments.repeat as u64)?,
        seed: arguments.seed,
        form: arguments.form,
        report: arguments.report,
        keep: arguments.keep,
        settings: arguments.set,
        ..defaults
    })
}

/// Runs a client command to its end.
fn run<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    runtime.block_on(command)
}

fn show(server: &ServerArgs, document: Value, text: impl FnOnce()) {
    if server.json { print_json(&document) } else { text() }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn a_drill_without_options_is_the_default_drill() {
        let Command::Drill(arguments) = Cli::parse_from(["parhelion", "drill"]).command else {
            panic!("this is no drill");
        };
        assert_eq!(drill_options(*arguments).unwrap(), DrillOptions::default());
    }
}

//! The one binary of Parhelion: nodes, tools and drills.

mod backend;
mod cli;
mod client;
mod commands;
mod drivers;
mod gauges;
mod identity;
mod link;
mod logs;
mod node;
mod output;
mod peers;
mod placement;
mod planner;
mod plugins;
mod progress;
mod settings;
mod site;
mod status;
mod storage;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};
use crate::output::{Exit, Failure, print_failure};

/// Payloads are allocated by the threads that receive them and freed by others, where the C library's allocator
/// takes locks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Drill(arguments) = &cli.command
        && arguments.form != parhelion_drill::Form::Relay
    {
        // Entering a user namespace works only while there is one thread.
        parhelion_drill::prepare();
    }
    let as_json = commands::wants_json(&cli.command);
    match run(cli.command) {
        Ok(exit) => exit,
        Err(failure) => {
            print_failure(&failure, as_json);
            failure.exit.into()
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    let done = |()| Exit::Done.into();
    match command {
        Command::Node(arguments) => node::run(commands::load(&arguments.settings)?.settings),
        Command::Log(command) => commands::log(command).map(Into::into),
        Command::Mirror(command) => commands::mirror(command).map(Into::into),
        Command::Link(command) => commands::link(command).map(Into::into),
        Command::Plan(arguments) => commands::plan(&arguments).map(Into::into),
        Command::Plugin(command) => commands::plugin(command).map(Into::into),
        Command::Drill(arguments) => commands::drill(*arguments).map(Into::into),
        Command::Config(command) => commands::config(command).map(Into::into),
        Command::Pki(command) => commands::pki(command).map(Into::into),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "parhelion", &mut script);
            output::write_out(&script);
            Ok(done(()))
        }
        Command::WanEmulator => parhelion_wan::run_emulator().map(done).map_err(Failure::new),
        Command::DrillWriters { arguments } => {
            parhelion_drill::writers::run(&arguments).map(done).map_err(Failure::new)
        }
        Command::DrillCheck { arguments } => {
            parhelion_drill::check::run(&arguments).map(done).map_err(Failure::new)
        }
    }
}

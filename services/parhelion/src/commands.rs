//! What the subcommands do.

mod link;
mod log;
mod mirror;

use std::time::Duration;

use parhelion_drill::{DrillError, DrillOptions, LinkOptions, Mode};
use parhelion_gate::pki::{self, InitOptions};
use parhelion_types::SiteId;
use serde_json::{Value, json};

use crate::cli::{
    AppendArgs, Command, ConfigCommand, DrillArgs, LinkCommand, LogCommand, MirrorCommand, PkiCommand,
    ServerArgs, SettingsArgs,
};
use crate::drivers;
use crate::output::{Exit, Failure, print_json, print_table, say};
use crate::settings::{self, Layered};

pub use link::link;
pub use log::log;
pub use mirror::mirror;

/// Certificates of nodes, clients and admins are good for this long.
const CERTIFICATES_VALID_FOR: Duration = Duration::from_secs(825 * 24 * 3600);

/// Whether errors of this command are wanted as JSON too.
pub fn wants_json(command: &Command) -> bool {
    let server = match command {
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
            | MirrorCommand::Verify { server, .. },
        )
        | Command::Link(LinkCommand::Status { server } | LinkCommand::Code { server, .. }) => server,
        _ => return false,
    };
    server.json
}

/// The settings that the arguments ask for.
pub fn load(arguments: &SettingsArgs) -> Result<Layered, Failure> {
    settings::load(arguments.profile, arguments.config.as_deref(), None, &arguments.set).map_err(Failure::new)
}

/// `parhelion config`
pub fn config(command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show { settings, effective, json } => {
            let layered = load(&settings)?;
            let rows = layered.effective;
            if json {
                let entry = |row: &settings::Effective| json!({ "key": row.key, "value": row.value, "origin": row.origin });
                print_json(&Value::Array(rows.iter().map(entry).collect()));
            } else if effective {
                print_table(
                    ["setting", "value", "from"],
                    rows.into_iter().map(|r| [r.key, r.value, r.origin]),
                );
            } else {
                print_table(["setting", "value"], rows.into_iter().map(|r| [r.key, r.value]));
            }
        }
        ConfigCommand::Check { settings } => {
            let settings = load(&settings)?.settings;
            settings.check().map_err(Failure::new)?;
            drivers::check(&settings)?;
            say!("the settings are usable");
        }
    }
    Ok(())
}

/// `parhelion pki`
pub fn pki(command: PkiCommand) -> Result<(), Failure> {
    let PkiCommand::Init { directory } = command;
    let options = InitOptions {
        sites: vec![SiteId(1), SiteId(2)],
        names: vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()],
        validity: CERTIFICATES_VALID_FOR,
    };
    for file in pki::init(&directory, &options).map_err(Failure::new)? {
        say!("{}", file.display());
    }
    Ok(())
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
        DrillError::Option { .. } => wrong_command_line(error),
        error => Failure::new(error),
    })?;
    say!("{}", report.table());
    if let Some(path) = json_file {
        std::fs::write(&path, report.to_json())
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    }
    Ok(if report.is_faulty() { Exit::Found } else { Exit::Done })
}

/// What clap cannot check by itself ends as what it can.
fn wrong_command_line(message: impl std::fmt::Display) -> Failure {
    let mut failure = Failure::new(message);
    failure.exit = Exit::Usage;
    failure
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
        u32::try_from(value).map_err(|_| wrong_command_line(format!("{what} {value} is too large")))
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
        warm_up: arguments.warm_up,
        duration: Duration::try_from_secs_f64(arguments.seconds)
            .map_err(|error| wrong_command_line(format!("--seconds {}: {error}", arguments.seconds)))?,
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

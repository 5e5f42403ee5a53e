//! What the subcommands do.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use parhelion_client::AppendOptions;
use parhelion_drill::{DrillOptions, Form, LinkOptions, Mode};
use parhelion_gate::pki::{self, InitOptions};
use parhelion_gate::{Appended, LogState};
use parhelion_types::limits::APPEND_BYTES_MAX;
use parhelion_types::{Error, LogAddress, LogId, RequestId, SiteId};
use serde_json::{Value, json};

use crate::cli::{
    AppendArgs, Command, ConfigCommand, DrillArgs, LogCommand, MirrorCommand, PkiCommand, ServerArgs,
    SettingsArgs,
};
use crate::client::{As, connect};
use crate::output::{Exit, Failure, bytes, print_json, print_table};
use crate::settings::{self, Layered};

/// Certificates of nodes, clients and admins are good for this long.
const CERTIFICATES_VALID_FOR: Duration = Duration::from_secs(825 * 24 * 3600);

/// Missing appends shown in a table; JSON has them all.
const MISSING_SHOWN: usize = 20;

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
            MirrorCommand::Status { server }
            | MirrorCommand::Promote { server, .. }
            | MirrorCommand::Verify { server, .. },
        ) => server,
        _ => return false,
    };
    server.json
}

/// The settings that the arguments ask for.
pub fn load(arguments: &SettingsArgs) -> Result<Layered, Failure> {
    settings::load(arguments.profile, arguments.config.as_deref(), &arguments.set).map_err(Failure::new)
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
            load(&settings)?.settings.check().map_err(Failure::new)?;
            println!("the settings are usable");
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
        println!("{}", file.display());
    }
    Ok(())
}

/// `parhelion log`
pub fn log(command: LogCommand) -> Result<Exit, Failure> {
    run(async move {
        match command {
            LogCommand::Create { server, name, degrade } => {
                let client = connect(&server, As::Client).await?;
                let log = client.create(&name, degrade).await?;
                show(&server, json!({ "log": log.0, "name": name }), || println!("{log}"));
            }
            LogCommand::Append(arguments) => append(arguments).await?,
            LogCommand::Read { server, log, at, output } => {
                let client = connect(&server, As::Client).await?;
                let record = client.read(log, at).await?;
                write_out(output, &record.payload)?;
            }
            LogCommand::Free { server, log, at } => {
                let client = connect(&server, As::Client).await?;
                client.free(log, at).await?;
                show(&server, json!({ "freed": at.to_string() }), || println!("freed {at} of log {log}"));
            }
            LogCommand::List { server } => {
                let client = connect(&server, As::Client).await?;
                show_logs(&server, &client.list().await?);
            }
            LogCommand::Stat { server, log } => {
                let client = connect(&server, As::Client).await?;
                show_logs(&server, &[client.stat(log).await?]);
            }
        }
        Ok(Exit::Done)
    })
}

async fn append(arguments: AppendArgs) -> Result<(), Failure> {
    let AppendArgs { server, log, file, durability, max_risk, deadline, request_id, explain } = arguments;
    let payload = read_in(file)?;
    let client = connect(&server, As::Client).await?;
    let options = AppendOptions {
        durability,
        max_risk,
        deadline,
        request: request_id.unwrap_or(RequestId::NONE),
        explain,
        ..AppendOptions::default()
    };
    let acked = client.append(log, payload, options).await?;
    show(&server, acked_json(&acked), || {
        let note = match (acked.degraded, acked.duplicate) {
            (true, _) => ", degraded",
            (_, true) => ", stored before",
            _ => "",
        };
        println!(
            "{} (level {}{note}, own risk {}, prefix risk {}, confidence {})",
            acked.address, acked.reached, acked.own_risk, acked.prefix_risk, acked.confidence
        );
        if explain {
            println!("code {}, model {}", acked.code, acked.model);
            explain_path(&acked);
        }
    });
    Ok(())
}

fn explain_path(acked: &Appended) {
    let row = |stage: &parhelion_gate::Stage| {
        [
            format!("{:.3} ms", stage.after.as_secs_f64() * 1e3),
            stage.stage.clone(),
            format!("{}/{}", stage.repairs, stage.repairs_full),
            stage.own_risk.to_string(),
            stage.prefix_risk.to_string(),
            stage.note.clone(),
        ]
    };
    print_table(["after", "stage", "repairs", "own risk", "prefix risk", "why"], acked.path.iter().map(row));
}

fn acked_json(acked: &Appended) -> Value {
    let stage = |stage: &parhelion_gate::Stage| {
        json!({
            "stage": stage.stage, "after_micros": stage.after.as_micros() as u64, "repairs": stage.repairs,
            "repairs_full": stage.repairs_full, "own_risk": stage.own_risk.probability(),
            "prefix_risk": stage.prefix_risk.probability(), "note": stage.note,
        })
    };
    json!({
        "log": acked.log.0, "address": acked.address.to_string(), "reached": acked.reached.name(),
        "degraded": acked.degraded, "duplicate": acked.duplicate, "own_risk": acked.own_risk.probability(),
        "prefix_risk": acked.prefix_risk.probability(), "confidence": acked.confidence,
        "model": acked.model, "code": acked.code, "epoch": acked.epoch.0,
        "path": acked.path.iter().map(stage).collect::<Vec<_>>(),
    })
}

/// `parhelion mirror`
pub fn mirror(command: MirrorCommand) -> Result<Exit, Failure> {
    run(async move {
        match command {
            MirrorCommand::Status { server } => {
                let client = connect(&server, As::Client).await?;
                let status = client.status(false).await?;
                show(&server, status.clone(), || show_status(&status));
                Ok(Exit::Done)
            }
            MirrorCommand::Promote { server, dry_run, yes } => promote(&server, dry_run, yes).await,
            MirrorCommand::Verify { server, other } => verify(&server, other).await,
        }
    })
}

async fn promote(server: &ServerArgs, dry_run: bool, yes: bool) -> Result<Exit, Failure> {
    if !dry_run && !yes && !confirmed("Make this mirror a primary? The old one is fenced for good. [y/N] ")? {
        return Err(Failure::new("not promoted; give --yes to skip the question"));
    }
    let client = connect(server, As::Admin).await?;
    let found = client.promote(dry_run).await?;
    let missing = |m: &parhelion_gate::Missing| {
        json!({
            "log": m.log.0, "address": m.address.to_string(), "length": m.length,
            "digest": format!("{:08x}", m.digest), "request": m.request.to_string(),
        })
    };
    let document = json!({
        "epoch": found.epoch.0, "logs": found.logs, "dry_run": dry_run, "missing_count": found.missing_count,
        "behind_gap_count": found.behind_gap_count, "missing": found.missing.iter().map(missing).collect::<Vec<_>>(),
    });
    show(server, document, || {
        let would = if dry_run { "would be " } else { "" };
        println!("{would}primary of {} logs under epoch {}", found.logs, found.epoch);
        println!(
            "{} appends were announced and cannot be shown; {} of them are here but lie behind a gap",
            found.missing_count, found.behind_gap_count
        );
        if !found.missing.is_empty() {
            let row = |m: &parhelion_gate::Missing| {
                [m.log.to_string(), m.address.to_string(), m.length.to_string(), m.request.to_string()]
            };
            print_table(
                ["log", "address", "bytes", "request"],
                found.missing.iter().take(MISSING_SHOWN).map(row),
            );
            if found.missing.len() > MISSING_SHOWN {
                println!("... and {} more; --json lists them", found.missing_count as usize - MISSING_SHOWN);
            }
        }
    });
    Ok(if found.missing_count > 0 { Exit::Found } else { Exit::Done })
}

async fn verify(server: &ServerArgs, other: std::net::SocketAddr) -> Result<Exit, Failure> {
    let here = connect(server, As::Admin).await?;
    let there = connect(&ServerArgs { address: other, ..server.clone() }, As::Admin).await?;
    let (ours, theirs) = (here.list().await?, there.list().await?);
    let mut rows = Vec::new();
    for log in &ours {
        let Some(twin) = theirs.iter().find(|twin| twin.log == log.log) else {
            rows.push((log.log, LogAddress::default(), 0, "absent"));
            continue;
        };
        let until = log.end.min(twin.end);
        let (a, b) = (here.digest(log.log, until).await?, there.digest(log.log, until).await?);
        rows.push((log.log, until, a.records, if a == b { "same" } else { "DIFFERENT" }));
    }
    let same = rows.iter().all(|row| row.3 == "same");
    let document: Vec<Value> = rows
        .iter()
        .map(|(log, until, records, verdict)| {
            json!({ "log": log.0, "until": until.to_string(), "records": records, "verdict": verdict })
        })
        .collect();
    show(server, json!({ "same": same, "logs": document }), || {
        let row = |(log, until, records, verdict): &(LogId, LogAddress, u64, &str)| {
            [log.to_string(), until.to_string(), records.to_string(), (*verdict).to_owned()]
        };
        print_table(["log", "up to", "records", "verdict"], rows.iter().map(row));
    });
    Ok(if same { Exit::Done } else { Exit::Found })
}

/// `parhelion drill`
pub fn drill(arguments: DrillArgs) -> Result<Exit, Failure> {
    let json_file = arguments.json.clone();
    let report = parhelion_drill::run(drill_options(arguments)?).map_err(Failure::new)?;
    println!("{}", report.table());
    if let Some(path) = json_file {
        std::fs::write(&path, report.to_json())
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    }
    Ok(if report.is_faulty() { Exit::Found } else { Exit::Done })
}

fn drill_options(arguments: DrillArgs) -> Result<DrillOptions, Failure> {
    let defaults = DrillOptions::default();
    let modes = if arguments.modes.iter().any(|mode| mode == "all") {
        Mode::ALL.to_vec()
    } else {
        arguments.modes.iter().map(|mode| mode.parse()).collect::<Result<_, _>>().map_err(Failure::new)?
    };
    let (code, parameters) = match &arguments.code {
        Some(code) => {
            let (name, parameters) = code.split_once(' ').unwrap_or((code, ""));
            (name.to_owned(), parameters.trim().to_owned())
        }
        None => (defaults.code.clone(), defaults.parameters.clone()),
    };
    let form = match arguments.form.as_str() {
        "auto" => Form::Auto,
        "packet" => Form::Packet,
        "relay" => Form::Relay,
        other => return Err(Failure::new(format!("unknown form {other:?}; give auto, packet or relay"))),
    };
    let count = |what: &str, value: u64| {
        u32::try_from(value).map_err(|_| Failure::new(format!("{what} {value} is too large")))
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
            .map_err(|error| Failure::new(format!("--seconds {}: {error}", arguments.seconds)))?,
        max_risk: arguments.max_risk.probability(),
        repeat: count("--repeat", arguments.repeat as u64)?,
        seed: arguments.seed,
        form,
        report: arguments.report,
        keep: arguments.keep,
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

fn show_logs(server: &ServerArgs, logs: &[LogState]) {
    let entry = |log: &LogState| {
        json!({
            "log": log.log.0, "name": log.name, "epoch": log.epoch.0, "degrade": log.degrade.name(),
            "records": log.records, "bytes": log.bytes, "end": log.end.to_string(),
            "mirrored": log.mirrored_records, "freed": log.freed,
        })
    };
    show(server, Value::Array(logs.iter().map(entry).collect()), || {
        let row = |log: &LogState| {
            [
                log.log.to_string(),
                log.name.clone(),
                log.records.to_string(),
                bytes(log.bytes),
                log.end.to_string(),
                log.mirrored_records.to_string(),
                log.freed.to_string(),
                log.degrade.to_string(),
                log.epoch.to_string(),
            ]
        };
        let header = ["log", "name", "records", "size", "end", "mirrored", "freed", "degrade", "epoch"];
        print_table(header, logs.iter().map(row));
    });
}

fn show_status(status: &Value) {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    println!(
        "site {}, {}, version {}",
        text(&status["site"]),
        text(&status["duty"]),
        text(&status["version"])
    );
    if let Some(linked) = status["logs"]["linked"].as_bool() {
        println!("link {}", if linked { "up" } else { "down" });
    }
    let keys: &[&str] = if status["duty"] == "mirror" {
        &["log", "name", "applied", "durable", "held", "announced", "age_seconds"]
    } else {
        &["log", "name", "records", "mirrored", "feed", "lag_appends", "lag_bytes", "lag_seconds"]
    };
    let logs = status["logs"]["logs"].as_array().cloned().unwrap_or_default();
    for log in logs {
        let words: Vec<String> = keys.iter().map(|key| format!("{key} {}", text(&log[*key]))).collect();
        println!("{}", words.join(", "));
    }
}

fn read_in(file: Option<PathBuf>) -> Result<Bytes, Failure> {
    let mut payload = Vec::new();
    // One byte over the limit is enough to know that it is over.
    let limit = APPEND_BYTES_MAX as u64 + 1;
    let read = match &file {
        Some(path) => std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut payload)),
        None => std::io::stdin().lock().take(limit).read_to_end(&mut payload),
    };
    let name = file.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
    read.map_err(|error| Failure::new(format!("{name}: {error}")))?;
    if payload.is_empty() {
        return Err(Error::invalid(format!("{name} is empty; an append has at least one byte")).into());
    }
    if payload.len() > APPEND_BYTES_MAX {
        return Err(Error::invalid(format!(
            "{name} is larger than an append may be, {APPEND_BYTES_MAX} bytes; split it into several appends"
        ))
        .into());
    }
    Ok(payload.into())
}

fn write_out(file: Option<PathBuf>, payload: &[u8]) -> Result<(), Failure> {
    match file {
        Some(path) => std::fs::write(&path, payload)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display()))),
        None => std::io::stdout().lock().write_all(payload).map_err(Failure::new),
    }
}

fn confirmed(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("{question}");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(Failure::new)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

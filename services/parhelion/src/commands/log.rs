//! `parhelion log`: creates, writes, reads and lists logs.

use std::io::Read;
use std::path::PathBuf;

use bytes::Bytes;
use parhelion_client::{AppendOptions, Client};
use parhelion_gate::backend::random_request;
use parhelion_gate::{Appended, LogState, ReadRecord, Stage, json};
use parhelion_types::limits::APPEND_BYTES_MAX;
use parhelion_types::{Durability, Error, LogAddress, LogId};
use serde_json::{Value, json};

use crate::cli::{AppendArgs, LogCommand};
use crate::client::{As, connect};
use crate::commands::{run, show};
use crate::output::{Exit, Failure, bytes, print_json, print_table, say, span, write_out};
use crate::progress;

/// Runs a command.
pub fn log(command: LogCommand) -> Result<Exit, Failure> {
    run(async move {
        match command {
            LogCommand::Create { server, name, degrade } => {
                let client = connect(&server, As::Client).await?;
                let log = client.create(&name, degrade).await?;
                show(&server, json!({ "log": log.0, "name": name }), || say!("{log}"));
            }
            LogCommand::Append(arguments) => append(arguments).await?,
            LogCommand::Read { server, log, at, output } => {
                if server.json && output.is_none() {
                    return Err(Failure::usage(
                        "--json tells of the append, whose bytes go to standard output; give --output FILE for them",
                    ));
                }
                let client = connect(&server, As::Client).await?;
                let record = read(&client, log, at).await?;
                store(output, &record.payload)?;
                if server.json {
                    print_json(&read_json(log, at, &record));
                }
            }
            LogCommand::Free { server, log, at } => {
                let client = connect(&server, As::Client).await?;
                client.free(log, at).await?;
                show(&server, json!({ "freed": at.to_string() }), || say!("freed {at} of log {log}"));
            }
            LogCommand::List { server } => {
                let client = connect(&server, As::Client).await?;
                let logs = client.list().await?;
                show(&server, logs.iter().map(json::log).collect(), || print_logs(&logs));
            }
            LogCommand::Stat { server, log } => {
                let client = connect(&server, As::Client).await?;
                let log = client.stat(log).await?;
                show(&server, json::log(&log), || print_logs(std::slice::from_ref(&log)));
            }
        }
        Ok(Exit::Done)
    })
}

async fn append(arguments: AppendArgs) -> Result<(), Failure> {
    let AppendArgs { server, log, file, durability, max_risk, deadline, request_id, explain } = arguments;
    if let Some(max_risk) = max_risk.filter(|_| durability == Durability::Local) {
        return Err(Failure::usage(format!(
            "--max-risk {max_risk} is for --durability network, and an append at level local waits for none; leave one of \
             them out"
        )));
    }
    let payload = read_in(file)?;
    let client = connect(&server, As::Client).await?;
    // Made here and not in the client library: it is shown however the append ends.
    let request = request_id.filter(|id| !id.is_none()).unwrap_or_else(random_request);
    let defaults = AppendOptions::default();
    let max_risk = max_risk.unwrap_or(defaults.max_risk);
    let options = AppendOptions { durability, max_risk, deadline, request, explain, ..defaults };
    let total = payload.len() as u64;
    let before = client.traffic().sent;
    let sent = || (client.traffic().sent.saturating_sub(before), total);
    let title = format!("appending to log {log} at level {durability}");
    let acked = progress::watch(title, sent, client.append(log, payload, options)).await;
    let acked = acked.map_err(|error| Failure::from(error).of_request(request))?;
    show(&server, json::appended(&acked, request), || {
        let note = match (acked.degraded, acked.duplicate) {
            (true, _) => ", degraded",
            (_, true) => ", stored before",
            _ => "",
        };
        say!(
            "{} (level {}{note}, own risk {}, prefix risk {}, confidence {})",
            acked.address,
            acked.reached,
            acked.own_risk,
            acked.prefix_risk,
            acked.confidence
        );
        say!("request id {request}");
        if explain {
            say!("code {}, priced by {}\n", acked.code, acked.model);
            explain_path(&acked);
        }
    });
    Ok(())
}

/// The safety path as a table. What one repair of a layered code adds looks like what the next one adds, so each row says
/// how many there are of how many. Of an append that the mirror has, and before any could be sent, they say nothing.
fn explain_path(acked: &Appended) {
    let row = |stage: &Stage| {
        let coverage = match (stage.repairs, stage.repairs_full) {
            (_, 0) => "-".to_owned(),
            (0, _) if stage.own_risk.probability() == 0.0 => "-".to_owned(),
            (repairs, full) => format!("{repairs} of {full}"),
        };
        [
            span(stage.after),
            stage.stage.clone(),
            coverage,
            stage.own_risk.to_string(),
            stage.prefix_risk.to_string(),
            stage.note.clone(),
        ]
    };
    print_table(["after", "stage", "repairs", "own risk", "prefix risk", "why"], acked.path.iter().map(row));
}

/// Reads one append. Its length, for the bar, is asked for while it is on its way.
async fn read(client: &Client, log: LogId, at: LogAddress) -> Result<ReadRecord, Failure> {
    let before = client.traffic().received;
    let length = std::cell::Cell::new(0);
    let received = || (client.traffic().received.saturating_sub(before), length.get());
    let reading = async {
        let look = async {
            // Only for show: what is wrong with the address, the reading itself will say.
            if let Ok(stretch) = client.scan(log, at, 1).await {
                length.set(stretch.entries.first().map_or(0, |entry| u64::from(entry.length)));
            }
        };
        tokio::join!(client.read(log, at), look).0
    };
    let title = format!("reading {at} of log {log}");
    Ok(progress::watch(title, received, reading).await?)
}

fn read_json(log: LogId, at: LogAddress, record: &ReadRecord) -> Value {
    json!({
        "log": log.0, "address": at.to_string(), "bytes": record.payload.len(), "accepted_micros": record.time.0,
        "digest": format!("{:08x}", record.digest),
    })
}

fn print_logs(logs: &[LogState]) {
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
            log.refusal.map_or("ok", |kind| kind.name()).to_owned(),
        ]
    };
    let header = ["log", "name", "records", "size", "end", "mirrored", "freed", "degrade", "epoch", "state"];
    print_table(header, logs.iter().map(row));
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
    read.map_err(|error| Failure::new(format!("{name}: {error}; give a file that can be read")))?;
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

fn store(file: Option<PathBuf>, payload: &[u8]) -> Result<(), Failure> {
    let Some(path) = file else {
        write_out(payload);
        return Ok(());
    };
    std::fs::write(&path, payload)
        .map_err(|error| Failure::new(format!("{}: {error}; give another file", path.display())))
}

//! Small appends of many writers at a site of its own, beside what the disk gives `fio` for the same pattern.
//!
//! The node puts all appends that wait into one write past the page cache and one fdatasync. `fio` does the same with
//! as many bytes per sync as the node wrote in the turn before: what the disk gives without a service around it. Beside
//! it stand `fio` through the page cache, also append by append, with all 64 appends per sync, and as 64 jobs that sync
//! for themselves.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use parhelion_types::Durability;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::BenchError;
use crate::figure::{Figure, Found, Goal, median};
use crate::lab::{Lab, say};
use crate::load::Load;
use crate::site::{LOOPBACK, Place, Site};

const SETTLE: Duration = Duration::from_secs(1);
const APPEND_BYTES: u32 = 4096;
const WRITERS: u32 = 64;

/// Size of the file that `fio` writes: a segment's.
const FILE_BYTES: u64 = 100 << 20;

pub(crate) async fn run(lab: &Lab) -> Result<Found, BenchError> {
    let workplace = lab.workplace()?;
    let place = Place { directory: workplace.path(), namespace: None };
    let settings = [format!("http.listen={}", SocketAddr::new(LOOPBACK, 0))];
    let site = Site::start(lab, "single", &settings, place).await?;
    let load = Load {
        writers: WRITERS,
        append_bytes: APPEND_BYTES,
        settle: SETTLE,
        ..Load::bulk(Durability::Local)
    };
    let disk = workplace.path().join("fio");
    std::fs::create_dir(&disk).map_err(BenchError::file("creating", &disk))?;

    let mut found = Found::default();
    let mut node = Vec::new();
    let mut baselines: [Vec<f64>; BASELINES.len()] = Default::default();
    for round in 0..lab.rounds {
        say(format!("round {}: {WRITERS} writers of {APPEND_BYTES} bytes, then fio", round + 1));
        let running = site.load(lab, place, &load)?;
        tokio::time::sleep(SETTLE).await;
        let (begun, usage, before) = (Instant::now(), site.usage()?, Syncs::of(&site).await?);
        let writers = running.usage()?;
        tokio::time::sleep(lab.turn).await;
        let syncs = Syncs::of(&site).await?.since(before);
        let span = begun.elapsed();
        found.notes.push(format!("node: {}", site.usage()?.describe_since(&usage, span)));
        found.notes.push(format!("writers: {}", running.usage()?.describe_since(&writers, span)));
        let written = running.stop()?.check("group commit")?;
        let rate = written.appends as f64 * f64::from(APPEND_BYTES) / 1e6 / written.seconds;
        node.push(rate);
        let appends_per_sync =
            written.appends as f64 / written.seconds * span.as_secs_f64() / syncs.count.max(1.0);
        found.notes.push(format!(
            "round {}: {:.0} appends/s, p50 {:.2} ms, p99 {:.2} ms, longest {:.0} ms; {:.0} syncs/s of {:.2} ms, {:.0} % of the time, \
             {appends_per_sync:.1} appends each",
            round + 1,
            written.appends as f64 / written.seconds,
            written.p50_millis,
            written.p99_millis,
            written.max_millis,
            syncs.count / span.as_secs_f64(),
            syncs.seconds * 1e3 / syncs.count.max(1.0),
            syncs.seconds * 100.0 / span.as_secs_f64(),
        ));
        let batch = (appends_per_sync.round() as u32).clamp(1, WRITERS) * APPEND_BYTES;
        found.notes.push(format!("fio: {batch} bytes per sync"));
        for (rates, (_, pattern)) in baselines.iter_mut().zip(BASELINES) {
            rates.extend(fio(&disk, pattern, batch, lab.turn)?);
        }
    }
    if baselines.iter().any(Vec::is_empty) {
        found.notes.push("fio is not installed: no baseline (Debian: apt-get install fio)".to_owned());
    }
    for (rates, (name, _)) in baselines.iter().zip(BASELINES).filter(|(rates, _)| !rates.is_empty()) {
        let ratios: Vec<f64> = node.iter().zip(rates).map(|(node, fio)| node / fio).collect();
        found.notes.push(format!("{:.2} of {name}", median(&ratios)));
    }
    let figure = Figure::new("64 writers of 4 KiB, local level", "MB/s", node).goal(Goal::RatioAtLeast(0.6));
    found.figures.push(match baselines.first() {
        Some(same) if !same.is_empty() => figure.against(BASELINES[0].0, same),
        _ => figure,
    });
    let beside = baselines.into_iter().zip(BASELINES).filter(|(rates, _)| !rates.is_empty());
    found.figures.extend(beside.map(|(rates, (name, _))| Figure::new(name, "MB/s", rates)));
    Ok(found)
}

/// How `fio` writes.
#[derive(Clone, Copy)]
enum Pattern {
    /// As the node: past the page cache, one write and one sync for a batch.
    Direct,
    /// The same through the page cache.
    Cached,
    /// What the writers write: appends one by one through the page cache, and a sync for as many as the node's.
    Single,
    /// Batches of all appends.
    Whole,
    /// No batches: as many jobs as writers, each with a sync for every append.
    Alone,
}

/// Names and patterns of the baselines; the goal is against the first.
const BASELINES: [(&str, Pattern); 5] = [
    ("fio, as many bytes per sync", Pattern::Direct),
    ("fio, as many, through the page cache", Pattern::Cached),
    ("fio, as many, in writes of 4 KiB", Pattern::Single),
    ("fio, all 64 appends per sync", Pattern::Whole),
    ("fio, 64 jobs, a sync per append", Pattern::Alone),
];

/// MB/s of `fio` into a file that exists, as the node writes; `None` if it is not installed.
fn fio(directory: &Path, pattern: Pattern, batch: u32, span: Duration) -> Result<Option<f64>, BenchError> {
    let mut command = Command::new("fio");
    // `fio` resolves the file name where it meets it: the directory must come before.
    command.arg(format!("--directory={}", directory.display()));
    command.args(["--name=group-commit", "--rw=write", "--ioengine=psync", "--overwrite=1"]);
    command.args(["--time_based", "--output-format=json", "--group_reporting", "--filename=baseline"]);
    let (bytes, direct, jobs, writes) = match pattern {
        Pattern::Direct => (batch, 1, 1, 1),
        Pattern::Cached => (batch, 0, 1, 1),
        Pattern::Single => (APPEND_BYTES, 0, 1, batch / APPEND_BYTES),
        Pattern::Whole => (WRITERS * APPEND_BYTES, 1, 1, 1),
        Pattern::Alone => (APPEND_BYTES, 1, WRITERS, 1),
    };
    command.arg(format!("--fdatasync={writes}"));
    // All jobs share one file of the size of a segment.
    let part = FILE_BYTES / u64::from(jobs) / u64::from(bytes) * u64::from(bytes);
    command.arg(format!("--size={part}")).arg(format!("--offset_increment={part}"));
    command.arg(format!("--bs={bytes}")).arg(format!("--direct={direct}")).arg(format!("--numjobs={jobs}"));
    command.arg(format!("--runtime={}", span.as_secs().max(1)));
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        output => output.map_err(BenchError::file("running", "fio"))?,
    };
    let strange = || BenchError::Figure {
        what: "the disk's own rate",
        reason: format!("fio said {:?}", String::from_utf8_lossy(&output.stderr)),
    };
    // It may print remarks before the document.
    let text = String::from_utf8_lossy(&output.stdout);
    let document = text.find('{').and_then(|at| text.get(at..)).ok_or_else(strange)?;
    let document: Value = serde_json::from_str(document).map_err(|_| strange())?;
    let bytes = document["jobs"][0]["write"]["bw_bytes"].as_f64().ok_or_else(strange)?;
    Ok(Some(bytes / 1e6))
}

/// How often and how long a node has synced its log.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Syncs {
    count: f64,
    seconds: f64,
}

impl Syncs {
    async fn of(site: &Site) -> Result<Self, BenchError> {
        let missing = |reason: &str| BenchError::Figure {
            what: "the number of syncs",
            reason: format!("{reason}; leave http.listen to this benchmark"),
        };
        let address = site.http.ok_or_else(|| missing("the node serves no HTTP"))?;
        let mut stream =
            TcpStream::connect(address).await.map_err(BenchError::file("connecting to", "HTTP"))?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(BenchError::file("asking", "HTTP"))?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.map_err(BenchError::file("reading", "HTTP"))?;
        Self::parse(&String::from_utf8_lossy(&text))
            .ok_or_else(|| missing("no histogram of fsync in /metrics"))
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |suffix: &str| {
            let line = text.lines().find(|line| {
                let name = line.split(['{', ' ']).next().unwrap_or_default();
                name.ends_with(suffix) && name.contains("fsync")
            })?;
            line.rsplit(' ').next()?.trim().parse().ok()
        };
        Some(Self { count: value("_count")?, seconds: value("_sum")? })
    }

    fn since(self, before: Self) -> Self {
        Self { count: self.count - before.count, seconds: self.seconds - before.seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_read_from_prometheus_text() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# TYPE parhelion_fsync_seconds histogram\n\
                    parhelion_fsync_seconds_sum{site=\"1\"} 2.5\n\
                    parhelion_fsync_seconds_bucket{le=\"0.1\"} 7\n\
                    parhelion_fsync_seconds_count{site=\"1\"} 1000\n";
        assert_eq!(Syncs::parse(text), Some(Syncs { count: 1000.0, seconds: 2.5 }));
        assert_eq!(Syncs::parse("HTTP/1.1 404 Not Found\r\n\r\n"), None);
    }
}

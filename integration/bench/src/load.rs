//! Writers: as many as asked, each with one append outstanding, in a process of their own.
//!
//! A process of its own, because the nodes' clients live at the primary's site, which may be a network namespace,
//! and because their processor time must be told apart. It prints one line when it starts to write, stops when
//! its standard input ends, and then prints [`Written`].

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use parhelion_client::{AppendOptions, Client, ClientConfig, Identity};
use parhelion_types::{Degrade, Durability, LogId, Risk};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::BenchError;

/// First word of the command line that makes this executable a writer. Not for people.
pub(crate) const WRITE_LOAD: &str = "write-load";

/// What to write.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Logs; writers are dealt out among them.
    pub logs: u32,
    /// Writers, each with one append outstanding.
    pub writers: u32,
    /// Bytes of each append.
    pub append_bytes: u32,
    /// The level asked for.
    pub durability: Durability,
    /// The largest risk accepted.
    pub max_risk: f64,
    /// Payload that all writers offer together; as fast as it goes if none.
    pub bits_per_second: Option<u64>,
    /// What is acknowledged before this is not counted.
    pub settle: Duration,
}

/// A load and where it goes: the arguments of the process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// What to write.
    pub load: Load,
    /// Where the node serves clients.
    pub api: SocketAddr,
    /// Directory of the certificates.
    pub tls: PathBuf,
    /// Start of the logs' names.
    pub name: String,
}

/// Printed when the writers start.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Writing {
    /// The first log; the others follow.
    pub first_log: u64,
}

/// What the writers saw after they had settled.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Written {
    /// From the end of settling to the stop.
    pub seconds: f64,
    /// Appends acknowledged.
    pub appends: u64,
    /// Median latency, milliseconds.
    pub p50_millis: f64,
    /// 99th percentile, milliseconds.
    pub p99_millis: f64,
    /// The longest, milliseconds.
    pub max_millis: f64,
    /// Acknowledgements by the level they reached.
    pub reached: BTreeMap<String, u64>,
    /// The highest prefix risk that came with an acknowledgement of the network level.
    pub risk_highest: f64,
    /// Appends that were refused.
    pub errors: u64,
    /// The first refusal.
    pub first_error: String,
}

impl Load {
    /// The smallest load: one writer, 4 KiB.
    pub(crate) fn one(durability: Durability, max_risk: f64) -> Self {
        Self {
            logs: 1,
            writers: 1,
            append_bytes: 4096,
            durability,
            max_risk,
            bits_per_second: None,
            settle: Duration::from_millis(300),
        }
    }

    /// SMFS Table 2 and section 5.1: 64 writers of 512 KiB.
    pub(crate) fn bulk(durability: Durability) -> Self {
        Self {
            logs: 1,
            writers: 64,
            append_bytes: 512 << 10,
            durability,
            // Coverage alone decides: how much risk a link allows is not what bulk loads measure.
            max_risk: 1.0,
            bits_per_second: None,
            settle: Duration::from_secs(1),
        }
    }
}

impl Written {
    /// Fails if nothing was acknowledged, with the reason.
    pub(crate) fn check(self, what: &'static str) -> Result<Self, BenchError> {
        if self.appends > 0 {
            return Ok(self);
        }
        let reason = match self.first_error.as_str() {
            "" => "nothing was acknowledged in time; give more --seconds".to_owned(),
            error => format!("nothing was acknowledged: {error}"),
        };
        Err(BenchError::Figure { what, reason })
    }
}

/// The writers' process: does what the file says until standard input ends.
pub(crate) fn write_load(path: &Path) -> Result<(), BenchError> {
    let text = std::fs::read(path).map_err(BenchError::file("reading", path))?;
    let order: Order =
        serde_json::from_slice(&text).map_err(|error| BenchError::file("reading", path)(error.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::file("starting", "the runtime of the writers"))?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Whatever ends the input, an error included, ends the writing.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = stop.send(());
    });
    let written = runtime.block_on(write_until(order, stopped))?;
    print(&written)
}

/// Connections that the writers share: enough that no stream's flow control is what is measured.
const CONNECTIONS_MAX: u32 = 4;

/// Random bytes that appends are cut from; appends of 512 KiB start at any of 4096 places.
const POOL_BYTES: usize = 4 << 20;
const POOL_STEP: usize = 1024;

/// After an error a writer waits this long, so that a busy node is not also flooded.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

async fn write_until(
    order: Order,
    stopped: tokio::sync::oneshot::Receiver<()>,
) -> Result<Written, BenchError> {
    let Order { load, api, tls, name } = order;
    let mut clients = Vec::new();
    for _ in 0..load.writers.clamp(1, CONNECTIONS_MAX) {
        clients.push(connect(api, &tls, "client").await?);
    }
    let mut logs = Vec::new();
    for number in 0..load.logs.max(1) {
        let log = clients[0].create(format!("{name}-{number}"), Degrade::Block).await;
        logs.push(log.map_err(BenchError::node("creating a log"))?);
    }
    let append_bytes = load.append_bytes.max(1) as usize;
    let mut pool = vec![0; append_bytes.next_multiple_of(POOL_STEP) + POOL_BYTES];
    rand::rng().fill_bytes(&mut pool);
    let pool = Bytes::from(pool);
    print(&Writing { first_log: u64::from(logs[0].0) })?;

    let start = Instant::now();
    let counted_from = start + load.settle;
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let interval = load.bits_per_second.map(|rate| {
        let bits = append_bytes as f64 * 8.0 * f64::from(load.writers);
        Duration::from_secs_f64((bits / rate.max(1) as f64).min(3600.0))
    });
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..load.writers {
        let writer = Writer {
            client: clients[number as usize % clients.len()].clone(),
            log: logs[number as usize % logs.len()],
            pool: pool.clone(),
            append_bytes,
            place: number as usize * 61,
            options: AppendOptions {
                durability: load.durability,
                max_risk: Risk::bound(load.max_risk),
                ..AppendOptions::default()
            },
            counted_from,
            tally: tally.clone(),
        };
        let first = start + interval.unwrap_or_default() * number / load.writers.max(1);
        writers.spawn(writer.write(first, interval.unwrap_or_default()));
    }
    // Dropped without a word, it means stop too.
    let _ = stopped.await;
    let end = Instant::now();
    writers.shutdown().await;
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let millis = |quantile| tally.latency.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Written {
        seconds: end.saturating_duration_since(counted_from).as_secs_f64(),
        p50_millis: millis(0.5),
        p99_millis: millis(0.99),
        max_millis: tally.latency.max() as f64 / 1e3,
        ..tally.written.clone()
    })
}

/// Connects to a node as `name`, one of those that certificates were made for.
pub(crate) async fn connect(api: SocketAddr, tls: &Path, name: &str) -> Result<Client, BenchError> {
    let identity = Identity::load_from(tls, name)
        .map_err(|error| parhelion_types::Error::invalid(error.to_string()))
        .map_err(BenchError::node("loading a certificate"))?;
    Client::connect(ClientConfig::new(api, identity)).await.map_err(BenchError::node("connecting"))
}

struct Writer {
    client: Client,
    log: LogId,
    pool: Bytes,
    append_bytes: usize,
    place: usize,
    options: AppendOptions,
    counted_from: Instant,
    tally: Arc<Mutex<Tally>>,
}

impl Writer {
    /// One append after the other, each at its time or as soon after it as the one before is answered.
    async fn write(mut self, first: Instant, interval: Duration) {
        let mut due = first;
        loop {
            if !interval.is_zero() {
                tokio::time::sleep_until(due).await;
                // What was missed while an append was waited for is not made up for: that would be a burst.
                due = (due + interval).max(Instant::now());
            }
            let from = self.place * POOL_STEP % POOL_BYTES;
            self.place += 1;
            let payload = self.pool.slice(from..from + self.append_bytes);
            let sent = Instant::now();
            let answer = self.client.append(self.log, payload, self.options.clone()).await;
            let now = Instant::now();
            let failed = answer.is_err();
            if now >= self.counted_from {
                let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
                tally.note(now - sent, answer);
            }
            if failed {
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// An hour; no run is longer, and the histogram of three digits takes some hundred kilobytes.
const LATENCY_MICROS_MAX: u64 = 3_600_000_000;

struct Tally {
    latency: Histogram<u64>,
    written: Written,
}

impl Tally {
    fn new() -> Result<Self, BenchError> {
        let latency = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).map_err(|error| {
            BenchError::Figure { what: "latency", reason: format!("no histogram: {error}") }
        })?;
        Ok(Self { latency, written: Written::default() })
    }

    fn note(&mut self, latency: Duration, answer: Result<parhelion_client::Acked, parhelion_types::Error>) {
        match answer {
            Ok(acked) => {
                self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
                self.written.appends += 1;
                *self.written.reached.entry(acked.reached.name().to_owned()).or_default() += 1;
                if acked.reached == Durability::Network {
                    let risk = acked.prefix_risk.probability();
                    self.written.risk_highest = self.written.risk_highest.max(risk);
                }
            }
            Err(error) => {
                self.written.errors += 1;
                if self.written.first_error.is_empty() {
                    self.written.first_error = error.to_string();
                }
            }
        }
    }
}

fn print(value: &impl Serialize) -> Result<(), BenchError> {
    let line = serde_json::to_string(value).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(BenchError::file("writing to", "standard output"))
}

//! The applications of a drill: they write real bytes, survive the disaster, and keep every acknowledgement.
//!
//! Runs as a process of its own, beside the primary and not killed with it. Arguments come as a JSON file, and
//! three things happen on standard input and output: [`WritersReady`] is printed when the first append is about
//! to be sent, the end of input tells it to stop, and [`WriterSummary`] is printed when every acknowledgement is
//! in the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use parhelion_types::{Durability, LogId};
use parhelion_wan::monotonic_now;
use parhelion_wire::crc32c;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::ack::Ack;
use crate::error::DrillError;
use crate::input::Input;
use crate::read_arguments;
use crate::session::{AppendRequest, Session};

/// What the writers are to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriterArguments {
    /// Number of the disaster, part of every request id.
    pub run: u64,
    /// Where the primary serves clients.
    pub api: SocketAddr,
    /// Directory of the certificates.
    pub tls: PathBuf,
    /// Directory of the bytes to write; without one, files of this system.
    pub input: Option<PathBuf>,
    /// Decides which bytes are written.
    pub seed: u64,
    /// Logs to create; writers are dealt out among them.
    pub logs: u32,
    /// Writers, each with one append outstanding.
    pub writers: u32,
    /// Bytes of each append.
    pub append_bytes: u32,
    /// The level asked for.
    pub durability: Durability,
    /// The largest risk accepted.
    pub max_risk: f64,
    /// Payload that all writers together offer.
    pub load_bits_per_second: u64,
    /// Writes at the local level for this long first, without keeping a record.
    pub warm_up_nanos: u64,
    /// Errors count until this long after the start; later ones are the disaster.
    pub errors_until_nanos: u64,
    /// Where the acknowledgements are kept.
    pub acks: PathBuf,
}

/// Printed when the first append is about to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WritersReady {
    /// When that was, nanoseconds on `CLOCK_MONOTONIC`.
    pub started_nanos: u64,
}

/// Printed when all is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterSummary {
    /// Acknowledgements in the file.
    pub acks: u64,
    /// Errors that writers met before the disaster, by kind.
    pub errors: BTreeMap<String, u64>,
    /// The first of them, in full.
    pub first_error: String,
}

/// The hidden subcommand: writes as the arguments in `path` say, until standard input ends.
///
/// # Errors
/// The node cannot be reached, a log cannot be created, or the acknowledgements cannot be written down. Errors of
/// single appends are counted instead.
pub fn run(path: &Path) -> Result<(), DrillError> {
    let arguments: WriterArguments = read_arguments(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DrillError::file("starting", "the runtime of the writers"))?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Whatever ends the input, an error included, ends the writing.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = stop.send(());
    });
    let summary = runtime.block_on(write_until(arguments, stopped, |ready| print(&ready)))?;
    print(&summary)
}

/// Writes until `stopped`; `started` is called just before the first append.
pub(crate) async fn write_until(
    arguments: WriterArguments,
    stopped: tokio::sync::oneshot::Receiver<()>,
    started: impl FnOnce(WritersReady) -> Result<(), DrillError>,
) -> Result<WriterSummary, DrillError> {
    let append_bytes = arguments.append_bytes.max(1) as usize;
    let input = Input::load(arguments.input.as_deref(), append_bytes, arguments.seed)?;
    let sessions = connect(&arguments).await?;
    let mut logs = Vec::new();
    for number in 0..arguments.logs.max(1) {
        logs.push(sessions[0].create(&format!("drill-{number}")).await?);
    }
    let (recorder, record) = Recorder::start(&arguments.acks)?;

    let pace = Pace::new(&arguments);
    let crew = Crew { arguments: &arguments, input: &input, sessions: &sessions, logs: &logs, pace };
    if arguments.warm_up_nanos > 0 {
        let mut writers = crew.start(&Task::warm_up(arguments.run));
        tokio::time::sleep(Duration::from_nanos(arguments.warm_up_nanos)).await;
        writers.shutdown().await;
        tokio::time::sleep(WARM_UP_PAUSE).await;
    }

    let started_nanos = monotonic_now().as_nanos();
    started(WritersReady { started_nanos })?;
    let errors = Arc::new(Errors {
        until_nanos: started_nanos.saturating_add(arguments.errors_until_nanos),
        seen: Mutex::default(),
    });
    let task = Task {
        run: arguments.run,
        durability: arguments.durability,
        record: Some(record.clone()),
        errors: Arc::clone(&errors),
    };
    let mut writers = crew.start(&task);
    drop(task);
    drop(record);
    // Dropped without a word, it means stop too.
    let _ = stopped.await;
    writers.shutdown().await;
    let acks = recorder.finish()?;
    let seen = errors.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(WriterSummary { acks, ..seen })
}

/// What all writers of a drill share.
struct Crew<'a> {
    arguments: &'a WriterArguments,
    input: &'a Input,
    sessions: &'a [Session],
    logs: &'a [LogId],
    pace: Pace,
}

/// What writers do until they are told to stop.
struct Task {
    run: u64,
    durability: Durability,
    record: Option<mpsc::Sender<Ack>>,
    errors: Arc<Errors>,
}

impl Task {
    /// Load that nobody counts, under request ids of its own.
    fn warm_up(run: u64) -> Self {
        let errors = Arc::new(Errors { until_nanos: 0, seen: Mutex::default() });
        Self { run: run + WARM_UP_RUNS, durability: Durability::Local, record: None, errors }
    }
}

impl Crew<'_> {
    fn start(&self, task: &Task) -> tokio::task::JoinSet<()> {
        let start = Instant::now();
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..self.arguments.writers {
            let writer = Writer {
                number,
                run: task.run,
                log: self.logs[number as usize % self.logs.len()],
                durability: task.durability,
                max_risk: self.arguments.max_risk,
                input: self.input.clone(),
                session: self.sessions[number as usize % self.sessions.len()].clone(),
                record: task.record.clone(),
                errors: Arc::clone(&task.errors),
            };
            writers.spawn(writer.write(start + self.pace.offset(number), self.pace.interval));
        }
        writers
    }
}

/// Numbers of warming-up runs start here, far above those of disasters.
const WARM_UP_RUNS: u64 = 1 << 31;

/// After warming up the mirror gets this long to catch up.
const WARM_UP_PAUSE: Duration = Duration::from_millis(500);

/// Several connections, so that one stream's flow control is not what is measured.
async fn connect(arguments: &WriterArguments) -> Result<Vec<Session>, DrillError> {
    let mut sessions = Vec::new();
    for _ in 0..arguments.writers.clamp(1, CONNECTIONS_MAX) {
        sessions.push(Session::client(arguments.api, &arguments.tls).await?);
    }
    Ok(sessions)
}

const CONNECTIONS_MAX: u32 = 4;

/// After an error a writer waits this long: a node that is busy needs it, and a log of errors too.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// A writer that was held up catches up on this many appends at most.
const CATCH_UP: u32 = 8;

struct Writer {
    number: u32,
    run: u64,
    log: LogId,
    durability: Durability,
    max_risk: f64,
    input: Input,
    session: Session,
    record: Option<mpsc::Sender<Ack>>,
    errors: Arc<Errors>,
}

impl Writer {
    /// One append after the other, each in its time slot or as soon after it as the one before is answered.
    async fn write(self, first_slot: Instant, interval: Duration) {
        let mut slot = first_slot;
        let mut sequence = 0;
        loop {
            tokio::time::sleep_until(slot).await;
            slot = (slot + interval).max(Instant::now() - interval * CATCH_UP);
            let Some(ack) = self.append(sequence).await else { continue };
            if self.record.as_ref().is_some_and(|record| record.send(ack).is_err()) {
                // The recorder failed and will say why.
                return;
            }
            sequence += 1;
        }
    }

    /// One append. `None` after an error: it will be sent again under the same name.
    async fn append(&self, sequence: u64) -> Option<Ack> {
        let bytes = self.input.piece(self.number, sequence);
        let crc = crc32c(&bytes);
        let blake3 = *blake3::hash(&bytes).as_bytes();
        let request = Ack::request(self.run, self.number, sequence);
        // At most 16 MiB, as the options were checked.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let append = AppendRequest {
            log: self.log,
            bytes,
            durability: self.durability,
            max_risk: self.max_risk,
            request,
        };
        let sent_nanos = monotonic_now().as_nanos();
        let answer = self.session.append(append).await;
        let acked_nanos = monotonic_now().as_nanos();
        match answer {
            Ok(answer) => Some(Ack {
                sent_nanos,
                acked_nanos,
                request,
                own_risk: answer.own_risk,
                prefix_risk: answer.prefix_risk,
                log: self.log,
                address: answer.address,
                length,
                crc,
                blake3,
                writer: self.number,
                sequence,
                reached: answer.reached,
                degraded: answer.degraded,
                duplicate: answer.duplicate,
            }),
            Err(error) => {
                self.errors.note(acked_nanos, &error);
                tokio::time::sleep(ERROR_PAUSE).await;
                None
            }
        }
    }
}

/// When each writer's appends are due.
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval: Duration,
    writers: u32,
}

impl Pace {
    fn new(arguments: &WriterArguments) -> Self {
        let bits = f64::from(arguments.append_bytes) * 8.0 * f64::from(arguments.writers);
        let seconds = bits / arguments.load_bits_per_second.max(1) as f64;
        Self { interval: Duration::from_secs_f64(seconds.min(3600.0)), writers: arguments.writers.max(1) }
    }

    /// Writers start one after the other, evenly over one interval.
    fn offset(&self, writer: u32) -> Duration {
        self.interval * writer / self.writers
    }
}

struct Errors {
    until_nanos: u64,
    seen: Mutex<WriterSummary>,
}

impl Errors {
    fn note(&self, now_nanos: u64, error: &parhelion_types::Error) {
        if now_nanos > self.until_nanos {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.first_error.is_empty() {
            seen.first_error = error.to_string();
        }
        *seen.errors.entry(error.kind().name().to_owned()).or_default() += 1;
    }
}

/// Writes acknowledgements to a file, on a thread of its own.
struct Recorder(std::thread::JoinHandle<Result<u64, DrillError>>);

impl Recorder {
    fn start(path: &Path) -> Result<(Self, mpsc::Sender<Ack>), DrillError> {
        let path = path.to_owned();
        let file = File::create(&path).map_err(DrillError::file("creating", &path))?;
        let (sender, acks) = mpsc::channel::<Ack>();
        let thread = std::thread::spawn(move || {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            let mut count = 0;
            for ack in acks {
                out.write_all(&ack.to_bytes()).map_err(DrillError::file("writing", &path))?;
                count += 1;
            }
            out.flush().map_err(DrillError::file("writing", &path))?;
            Ok(count)
        });
        Ok((Self(thread), sender))
    }

    /// Waits until everything is written. All senders must be gone.
    fn finish(self) -> Result<u64, DrillError> {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn print(value: &impl Serialize) -> Result<(), DrillError> {
    let line = serde_json::to_string(value).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(DrillError::file("writing to", "standard output"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ack::tests::ack;

    #[test]
    fn the_pace_offers_the_load() {
        let arguments = WriterArguments {
            run: 0,
            api: SocketAddr::from(([127, 0, 0, 1], 1)),
            tls: PathBuf::new(),
            input: None,
            seed: 1,
            logs: 1,
            writers: 10,
            append_bytes: 1000,
            durability: Durability::Local,
            warm_up_nanos: 0,
            max_risk: 1.0,
            load_bits_per_second: 8_000_000,
            errors_until_nanos: 0,
            acks: PathBuf::new(),
        };
        let pace = Pace::new(&arguments);
        // 1000 appends per second by ten writers: each every 10 ms, 1 ms apart.
        assert_eq!(pace.interval, Duration::from_millis(10));
        assert_eq!(pace.offset(3), Duration::from_millis(3));
        assert!(pace.offset(9) < pace.interval);
    }

    #[test]
    fn the_recorder_keeps_all_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("acks");
        let (recorder, record) = Recorder::start(&path).unwrap();
        let acks: Vec<Ack> = (0..1000).map(|n| ack(n, n)).collect();
        acks.iter().for_each(|ack| record.send(ack.clone()).unwrap());
        drop(record);
        assert_eq!(recorder.finish().unwrap(), 1000);
        assert_eq!(Ack::read_all(&path).unwrap(), acks);
    }

    #[test]
    fn errors_after_the_disaster_are_the_disaster() {
        let errors = Errors { until_nanos: 100, seen: Mutex::default() };
        errors.note(50, &parhelion_types::Error::unavailable("link down"));
        errors.note(60, &parhelion_types::Error::unavailable("other"));
        errors.note(101, &parhelion_types::Error::internal("dead"));
        let seen = errors.seen.into_inner().unwrap();
        assert_eq!(seen.errors, BTreeMap::from([("unavailable".to_owned(), 2)]));
        assert_eq!(seen.first_error, "unavailable: link down");
    }
}

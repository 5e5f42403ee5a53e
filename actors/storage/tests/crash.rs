//! Real ends: processes that are killed, disks that are full, directories copied under a running writer.
//!
//! The children are this very binary: the environment tells [`child`] what to do.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::*;
use parhelion_storage::store::{StoreConfig, StoreEvent};
use parhelion_types::{LogId, SegmentId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const TASK: &str = "PARHELION_STORE_TEST_TASK";
const HOME: &str = "PARHELION_STORE_TEST_HOME";

/// Appends under way in each log of a child.
const OUTSTANDING: u64 = 16;

/// What a child does. Without the environment it is no child, and has nothing to do.
#[test]
fn child() {
    let (Ok(task), Ok(home)) = (std::env::var(TASK), std::env::var(HOME)) else { return };
    match task.as_str() {
        "append" => append_for_ever(Path::new(&home), SEGMENT_BYTES),
        "fill" => append_for_ever(Path::new(&home), 64 << 20),
        "logs" => many_logs(Path::new(&home)),
        other => panic!("no task {other}"),
    }
}

/// Starts a child under limits set by the shell; its signals for files over the limit are ignored.
fn start(task: &str, home: &Path, limits: &str) -> Child {
    Command::new("sh")
        .arg("-c")
        .arg(format!("trap '' XFSZ; {limits} exec \"$0\" --exact child --nocapture --test-threads 1"))
        .arg(std::env::current_exe().unwrap())
        .env(TASK, task)
        .env(HOME, home)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
}

/// Appends to two logs, printing `durable <log> <number>`, until killed or until both have failed.
fn append_for_ever(home: &Path, segment_bytes: u32) {
    let opened = open_with(StoreConfig { segment_bytes: SEGMENT_BYTES, ..config(home) }).unwrap();
    let mut logs: HashMap<LogId, (Log, u64)> = HashMap::new();
    for id in 0..2 {
        let count =
            opened.logs.iter().find(|log| log.log == LogId(id)).map_or(0, |log| log.tail.next_number());
        logs.insert(LogId(id), (Log::after(id, segment_bytes, count), count));
    }
    say(format_args!("\nopen"));
    while !logs.is_empty() {
        for (log, durable) in logs.values_mut() {
            while log.tail.next_number() < *durable + OUTSTANDING {
                opened.store.append(log.next()).unwrap();
            }
        }
        match opened.event() {
            StoreEvent::Durable { logs: batch, .. } => {
                for last in batch {
                    say(format_args!("durable {} {}", last.log, last.number));
                    logs.get_mut(&last.log).expect("a log that failed stays so").1 = last.number + 1;
                }
            }
            StoreEvent::Failed { log, reason } => {
                say(format_args!("failed {log} {reason}"));
                let (mut log, _) = logs.remove(&log).expect("a log fails once");
                opened.store.append(log.next()).unwrap();
            }
            StoreEvent::Discarded => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Writes to more logs than it may have files open.
fn many_logs(home: &Path) {
    let opened = open_with(StoreConfig { spares: 0, ..config(home) }).unwrap();
    let mut logs: Vec<Log> = (0..400).map(Log::new).collect();
    for _ in 0..2 {
        logs.iter_mut().for_each(|log| opened.store.append(log.next()).unwrap());
        logs.last().into_iter().for_each(|log| opened.until(log));
    }
    say(format_args!("\nwritten"));
}

/// What a child printed, taken apart.
#[derive(Default)]
struct Printed {
    durable: HashMap<LogId, u64>,
    failed: Vec<(LogId, String)>,
}

impl Printed {
    fn take(&mut self, line: &str) {
        let mut words = line.splitn(3, ' ');
        let Some((word, log, rest)) =
            words.next().zip(words.next()).zip(words.next()).map(|((a, b), c)| (a, b, c))
        else {
            return;
        };
        let log = || log.parse().unwrap();
        match word {
            "durable" => {
                let number = rest.parse().unwrap();
                assert!(self.durable.insert(log(), number).is_none_or(|before| before < number));
            }
            "failed" => self.failed.push((log(), rest.to_owned())),
            _ => {}
        }
    }
}

/// Checks that every record that a process called durable is there, and nothing but what it wrote.
fn assert_kept(home: &Path, durable: &HashMap<LogId, u64>, segment_bytes: u32) {
    let opened = open(home).unwrap();
    for (&log, &number) in durable {
        let count = opened.found(log).tail.next_number();
        assert!(count > number, "log {log}: record {number} was durable; {count} records are left");
        assert_holds(&opened, &Log::after(log.0, segment_bytes, count));
    }
}

#[test]
fn what_was_durable_outlives_sigkill() {
    let home = tempfile::tempdir().unwrap();
    let mut random = SmallRng::seed_from_u64(11);
    let mut printed = Printed::default();
    for round in 0..8 {
        let mut child = start("append", home.path(), "");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let batches = random.random_range(1..120);
        lines
            .by_ref()
            .filter(|line| line.starts_with("durable"))
            .take(batches)
            .for_each(|line| printed.take(&line));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(!status.success(), "round {round}: the child ended by itself");
        // What it had still printed counts; its last line may be cut.
        let rest: Vec<String> = lines.collect();
        rest.iter().for_each(|line| printed.take(line));
        assert_kept(home.path(), &printed.durable, SEGMENT_BYTES);
    }
    assert!(printed.durable.values().sum::<u64>() > 500, "{:?}", printed.durable);
}

#[test]
fn a_full_disk_fails_the_log_and_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    // No file grows over 500 blocks of 512 bytes, or of 1024 where the shell counts so.
    let mut child = start("fill", home.path(), "ulimit -f 500 &&");
    let mut printed = Printed::default();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        printed.take(&line.unwrap());
    }
    assert!(child.wait().unwrap().success());
    let mut failed: Vec<LogId> = printed.failed.iter().map(|(log, _)| *log).collect();
    failed.sort_unstable();
    assert_eq!(failed, [LogId(0), LogId(1)]);
    assert!(
        printed.failed.iter().all(|(_, reason)| reason.contains("File too large")),
        "{:?}",
        printed.failed
    );
    assert!(printed.durable.values().all(|&number| number > 50), "{:?}", printed.durable);
    assert_kept(home.path(), &printed.durable, 64 << 20);
    // With room again, the logs go on.
    let opened = open(home.path()).unwrap();
    for id in 0..2 {
        let mut log = Log::after(id, 64 << 20, opened.found(LogId(id)).tail.next_number());
        opened.append(&mut log, 50);
        assert_reads(&opened, &log);
    }
}

#[test]
fn more_logs_than_open_files() {
    let home = tempfile::tempdir().unwrap();
    let mut child = start("logs", home.path(), "ulimit -n 256 &&");
    let lines: Vec<_> = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{lines:?}");
    let opened = open(home.path()).unwrap();
    assert_eq!(opened.logs.len(), 400);
    assert!(opened.logs.iter().all(|log| log.tail.next_number() == 2));
}

/// Copies a store as a crash would leave it: nothing is older than what was written after it.
fn copy_store(from: &Path, to: &Path, log: LogId) {
    // A manifest must not name a table that came after the copy had begun.
    loop {
        let before = tables(&from.join("catalogue"));
        copy_flat(&from.join("catalogue"), &to.join("catalogue"));
        if tables(&from.join("catalogue")) == before {
            break;
        }
    }
    let logs = |home: &Path| segment(home, log, SegmentId(0)).parent().unwrap().to_owned();
    let _ = fs::remove_dir_all(logs(to));
    fs::create_dir_all(logs(to)).unwrap();
    let mut files: Vec<_> = fs::read_dir(logs(from)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    for file in files.iter().rev() {
        fs::copy(file, logs(to).join(file.file_name().unwrap())).unwrap();
    }
}

/// RocksDB's tables and manifests, with their lengths.
fn tables(catalogue: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(catalogue).unwrap().map(Result::unwrap);
    let named = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry));
    let tables = named.filter(|(name, _)| name.ends_with(".sst") || name.starts_with("MANIFEST"));
    // One that goes away meanwhile is missed the next time.
    tables.filter_map(|(name, entry)| Some((name, entry.metadata().ok()?.len()))).collect()
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_copy_of_a_running_store_is_a_store() {
    let (home, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let durable = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let opened = open(home.path()).unwrap();
    std::thread::scope(|scope| {
        let (durable, stop) = (&durable, &stop);
        scope.spawn(move || {
            let mut log = Log::new(0);
            while !stop.load(Ordering::Acquire) {
                while log.tail.next_number() < durable.load(Ordering::Acquire) + OUTSTANDING {
                    opened.store.append(log.next()).unwrap();
                }
                let StoreEvent::Durable { logs, .. } = opened.event() else { panic!("a write failed") };
                durable.store(logs[0].number + 1, Ordering::Release);
            }
        });
        // Also when an assertion fails, or the scope would wait for its thread for ever.
        let _stop = Stop(stop);
        let mut random = SmallRng::seed_from_u64(12);
        let mut copies = Vec::new();
        for _ in 0..25 {
            let aim = durable.load(Ordering::Acquire) + random.random_range(1..30);
            while durable.load(Ordering::Acquire) < aim {
                std::thread::yield_now();
            }
            let acknowledged = durable.load(Ordering::Acquire);
            copy_store(home.path(), copy.path(), LogId(0));
            let found = open(copy.path()).map(|opened| {
                let count = opened.found(LogId(0)).tail.next_number();
                assert_holds(&opened, &Log::after(0, SEGMENT_BYTES, count));
                count
            });
            copies.push((acknowledged, found));
        }
        for (acknowledged, found) in copies {
            let count = found.unwrap();
            assert!(count >= acknowledged, "{count} records of {acknowledged} that were durable");
        }
    });
}

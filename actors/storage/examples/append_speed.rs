//! How fast one log takes appends: 64 clients, each with one append of 4 KiB under way.
//!
//! ```text
//! cargo run --release -p parhelion-storage --example append_speed -- DIRECTORY [SECONDS]
//! ```
//!
//! It prints the `fio` command that writes the same bytes with the same number of bytes for each sync, to be
//! run on the same file system: what the disk gives without a store around it.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parhelion_log::{CreatePayload, RecordFields, RecordKind, Tail};
use parhelion_storage::store::{Store, StoreConfig, StoreEvent, WriteRequest};
use parhelion_types::limits::SEGMENT_BYTES_DEFAULT;
use parhelion_types::{Degrade, LogId, RequestId};

const OUTSTANDING: u64 = 64;
const APPEND_BYTES: usize = 4096;
const LOG: LogId = LogId(0);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: append_speed DIRECTORY [SECONDS]")?);
    let seconds = arguments.next().map_or(Ok(5), |seconds| seconds.parse())?;
    let (send, events) = mpsc::channel();
    let config = StoreConfig {
        directories: vec![directory.clone()],
        segment_bytes: SEGMENT_BYTES_DEFAULT,
        queue_bytes_max: 64 << 20,
        requests_max: 65_536,
        spares: 2,
    };
    let tell = move |event| {
        // The loop below outlives the store's writers only after an error.
        let _ = send.send(event);
    };
    let (store, logs) = Store::open(config, Arc::new(tell))?;
    if !logs.is_empty() {
        return Err(format!("{} holds logs; give an empty directory", directory.display()).into());
    }
    let mut tail = Tail::new(LOG);
    let create = CreatePayload { degrade: Degrade::Block, name: "speed".to_owned() }.to_bytes();
    append(&store, &mut tail, RecordKind::Create, &create)?;
    // The payload changes from append to append, so that no layer below can guess it.
    let mut payload = vec![0; APPEND_BYTES];
    let mut run = Run::default();
    let started = Instant::now();
    let mut durable = 0;
    while started.elapsed() < Duration::from_secs(seconds) {
        while tail.next_number() < durable + OUTSTANDING {
            payload[..8].copy_from_slice(&tail.next_number().to_le_bytes());
            append(&store, &mut tail, RecordKind::Append, &payload)?;
        }
        match events.recv()? {
            StoreEvent::Durable { logs, records, bytes, sync } => {
                durable = logs.last().map_or(durable, |last| last.number + 1);
                run.note(records, bytes, sync);
            }
            other => return Err(format!("the store failed: {other:?}").into()),
        }
    }
    run.print(started.elapsed(), &directory);
    Ok(())
}

fn append(
    store: &Store,
    tail: &mut Tail,
    kind: RecordKind,
    payload: &[u8],
) -> Result<(), Box<dyn std::error::Error>> {
    let request = RequestId(u128::from(tail.next_number()) + 1);
    let fields = RecordFields { kind, request, ..RecordFields::default() };
    let (record, opens_segment) = tail.place(fields, payload, SEGMENT_BYTES_DEFAULT);
    Ok(store.append(WriteRequest { record, opens_segment })?)
}

#[derive(Default)]
struct Run {
    batches: usize,
    records: usize,
    bytes: usize,
    sync: Duration,
    longest_sync: Duration,
}

impl Run {
    fn note(&mut self, records: usize, bytes: usize, sync: Duration) {
        self.batches += 1;
        self.records += records;
        self.bytes += bytes;
        self.sync += sync;
        self.longest_sync = self.longest_sync.max(sync);
    }

    fn print(&self, elapsed: Duration, directory: &std::path::Path) {
        let seconds = elapsed.as_secs_f64();
        let batches = self.batches.max(1) as f64;
        let mean = self.records as f64 / batches;
        println!("appends/s        {:>12.0}", self.records as f64 / seconds);
        println!("MB/s             {:>12.1}", (self.records * APPEND_BYTES) as f64 / seconds / 1e6);
        println!("MB/s with headers{:>12.1}", self.bytes as f64 / seconds / 1e6);
        println!("appends per sync {mean:>12.1}");
        println!("syncs/s          {:>12.0}", batches / seconds);
        println!("mean sync        {:>12.3} ms", self.sync.as_secs_f64() * 1e3 / batches);
        println!("longest sync     {:>12.3} ms", self.longest_sync.as_secs_f64() * 1e3);
        println!("time in sync     {:>12.1} %", self.sync.as_secs_f64() * 100.0 / seconds);
        println!(
            "\nfio --name=wal --directory={} --rw=write --ioengine=psync --bs=4k --fdatasync={} \
             --size=100m --overwrite=1 --time_based --runtime={}",
            directory.display(),
            mean.round().max(1.0),
            seconds.round(),
        );
    }
}

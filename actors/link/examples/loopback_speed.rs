//! How fast records cross a link over loopback, with QUIC's encryption, a code, and all acknowledgements.
//!
//! ```text
//! cargo run --release -p parhelion-link-driver --example loopback_speed [CODE [PARAMETERS [SECONDS [MBIT/S]]]]
//! ```
//! Both ends and this program share the machine's processors, so a link between two machines is faster.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Mirror, Pki, Primary, announcement, mirror_config, primary_config, record};
use parhelion_link_driver::LinkCommand;
use parhelion_types::{LogId, RecordKey};

/// SMFS Table 2: the paper's append.
const RECORD_BYTES: usize = 512 << 10;
/// Bytes under way; enough for a few milliseconds at 10 Gbit/s.
const WINDOW_RECORDS: u64 = 32;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let code = arguments.next().unwrap_or_else(|| "layered-interleaving".to_owned());
    let parameters = arguments.next().unwrap_or_else(|| "r=8 interleaves=1:11:101".to_owned());
    let seconds: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(3);
    let mbits: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(0);

    let pki = Pki::new();
    let (tell, addresses) = std::sync::mpsc::channel();
    let config = mirror_config(&pki);
    let mirror = std::thread::spawn(move || {
        runtime().block_on(async {
            let mirror = Mirror::start(config);
            mirror.store.lock().unwrap().forget_bytes = true;
            tell.send(mirror.addresses).unwrap();
            mirror.commands.closed().await;
        });
    });
    let mut config = primary_config(&pki, addresses.recv().unwrap());
    config.rate_bytes_per_second = mbits * 1_000_000 / 8;
    (config.code, config.parameters) = (code, parameters);
    runtime().block_on(async {
        let mut primary = Primary::start(config);
        primary.up().await;
        let bytes = record(0, 0, RECORD_BYTES);
        let start = Instant::now();
        let mut number = 0;
        let mirrored = |primary: &Primary| primary.mirrored.get(&0).copied().unwrap_or(0);
        while start.elapsed() < Duration::from_secs(seconds) {
            while number < mirrored(&primary) + WINDOW_RECORDS {
                let key = RecordKey { log: LogId(0), number };
                // The mirror looks at the head only, so one buffer serves for all records.
                let mut record = bytes.to_vec();
                record[4..12].copy_from_slice(&number.to_le_bytes());
                primary.command(LinkCommand::Announce {
                    key,
                    announcement: announcement(0, number, RECORD_BYTES),
                });
                primary.command(LinkCommand::Send { key, record: record.into(), is_awaited: true });
                number += 1;
            }
            primary.event().await;
        }
        primary.until(|primary| mirrored(primary) == number).await;
        let seconds = start.elapsed().as_secs_f64();
        let gigabits = (number * RECORD_BYTES as u64 * 8) as f64 / seconds / 1e9;
        let stats = &primary.stats;
        let datagrams = stats.datagrams_sent.get();
        println!(
            "{number} records of {RECORD_BYTES} bytes in {seconds:.2} s: {gigabits:.2} Gbit/s of records"
        );
        println!(
            "{:.0} datagrams/s, {:.1} per send, {:.1} % repairs, {} sent again, on-wire lag {} us, rtt {} us",
            datagrams as f64 / seconds,
            datagrams as f64 / stats.bulk_sends.get() as f64,
            stats.repairs_sent.get() as f64 * 100.0 / datagrams as f64,
            stats.resent.get(),
            stats.wire_lag_micros.get(),
            stats.rtt_micros.get(),
        );
        if let Some(counts) = *primary.telemetry.lock().unwrap() {
            println!(
                "{} lost, {} rebuilt, {} dropped by the host",
                counts.lost, counts.rebuilt, counts.host_drops
            );
        }
    });
    drop(mirror);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

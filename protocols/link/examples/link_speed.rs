//! Datagrams per second through a sender and a receiver in one thread, with layered interleaving (8, 3) and
//! without a code: `cargo run --release -p parhelion-link --example link_speed`.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "it measures, and prints what it measured"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_none::NoCode;
use parhelion_link::{Receiver, ReceiverConfig, Sender, SenderConfig};
use parhelion_plugin::{Code, ErasureCode};
use parhelion_types::{LogId, RecordKey, Time};

const SYMBOL_BYTES: usize = 1168;
const RECORD_BYTES: usize = 64 << 10;
const RECORDS: u64 = 8000;

fn main() {
    println!(
        "{RECORDS} records of {RECORD_BYTES} bytes, symbols of {SYMBOL_BYTES} bytes, one thread for both ends"
    );
    println!(
        "{:<22} {:>6} {:>12} {:>10} {:>12} {:>14} {:>9} {:>7}",
        "code", "loss", "datagrams", "Mpps", "data Gbit/s", "sender ns/pkt", "rebuilt", "resent"
    );
    let layered = || -> Arc<dyn ErasureCode> { Arc::new(LayeredInterleaving) };
    for loss in [0, 100] {
        run("none", Arc::new(NoCode), "", loss);
        run("layered (8,3)", layered(), "r=8 interleaves=1:11:101", loss);
    }
}

/// Sends all records; one in `loss` datagrams is lost, none for 0.
fn run(name: &str, code: Arc<dyn ErasureCode>, parameters: &str, loss: u64) {
    let parameters = parameters.parse().expect("parameters are well formed");
    let code = Code::new(code, &parameters).expect("parameters are in range");
    let sender_config = SenderConfig {
        symbol_bytes: SYMBOL_BYTES,
        buffer_bytes_max: 64 << 20,
        rate_bytes_per_second: 0,
        per_datagram_overhead: 60,
        burst_datagrams_max: 8,
        flush_delay: Duration::from_millis(1),
        flush_pause: 0,
        site_exit_delay: Duration::ZERO,
    };
    let receiver_config = ReceiverConfig {
        symbol_bytes: SYMBOL_BYTES,
        record_bytes_max: 16 << 20,
        pending_bytes_max: 64 << 20,
        reorder_delay: Duration::from_millis(1),
        repair_delay: Duration::from_millis(2),
        packet_time: Duration::ZERO,
    };
    let start = Instant::now();
    let clock = || Time::ZERO + start.elapsed() + Duration::from_secs(1);
    let mut sender = Sender::new(sender_config, &code, clock()).expect("settings are in range");
    let mut receiver = Receiver::new(receiver_config, 0, 0, &code, clock()).expect("settings are in range");

    let record = Bytes::from((0..RECORD_BYTES).map(|n| n as u8).collect::<Vec<_>>());
    let log = LogId(0);
    let (mut queued, mut delivered, mut datagrams) = (0, 0, 0_u64);
    let mut sending = Duration::ZERO;
    let mut last_report = clock();
    let mut burst = Vec::new();
    let mut ends = Vec::new();
    while delivered < RECORDS || sender.buffered_bytes() > 0 {
        let now = clock();
        let turn = Instant::now();
        while queued < RECORDS && sender.send(now, RecordKey { log, number: queued }, record.clone()).is_ok()
        {
            queued += 1;
        }
        burst.clear();
        ends.clear();
        while let Some(transmit) = sender.poll_transmit(now, &mut burst) {
            ends.push((burst.len(), transmit.wire_number));
        }
        if let Some((_, wire_number)) = ends.last() {
            sender.handle_on_wire(now, wire_number + 1);
        }
        while sender.poll_event().is_some() {}
        sending += turn.elapsed();

        let mut from = 0;
        for &(end, wire_number) in &ends {
            datagrams += 1;
            // Multiples of a large prime stand for chance.
            if loss == 0 || wire_number.wrapping_mul(2_654_435_761) % (loss << 10) >= 1 << 10 {
                receiver.handle_datagram(now, &burst[from..end]).expect("the sender writes valid datagrams");
            }
            from = end;
        }
        while receiver.poll_record().is_some() {
            delivered += 1;
        }
        if now.since(last_report) > Duration::from_millis(1) {
            last_report = now;
            let report = receiver.report(now);
            sender.handle_report(now, report.settled_symbols, &report.missing);
            // All records are alike, so their number stands for their order.
            sender.handle_confirmed(RecordKey { log, number: delivered });
        }
    }
    let took = start.elapsed().as_secs_f64();
    let counts = receiver.report(clock()).counts;
    println!(
        "{name:<22} {:>6} {datagrams:>12} {:>10.3} {:>12.2} {:>14.0} {:>9} {:>7}",
        if loss == 0 { "0".to_owned() } else { format!("1/{loss}") },
        datagrams as f64 / took / 1e6,
        (RECORDS * RECORD_BYTES as u64 * 8) as f64 / took / 1e9,
        sending.as_nanos() as f64 / datagrams as f64,
        counts.rebuilt,
        sender.stats().resent,
    );
}

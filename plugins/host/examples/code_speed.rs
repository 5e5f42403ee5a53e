//! Prints how fast each code encodes and decodes, in bytes of source symbols, beside a plain XOR of the same
//! bytes in the same run: the ratio says more than the figure, which depends on the machine.
//!
//! ```text
//! cargo run --release -p parhelion-plugin-host --example code_speed [bytes of a symbol]
//! ```
//!
//! "decode" is a stream without losses; "rebuild" one in which every 23rd packet is lost
//! (a prime: a period that divides the depth of an interleaved code would hit the same block each time).

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use parhelion_plugin::conformance::{PacketKind, Stream, Traffic};
use parhelion_plugin::{Decoder, Encoder, Parameters, RecoveredSink, RepairHead, RepairSink};
use parhelion_plugin_host::Catalogue;

const SYMBOL_BYTES: usize = 1200;
const SYMBOLS: usize = 4_000;
const ROUNDS: usize = 7;
const LOST_EVERY: usize = 23;

const CODES: [(&str, &str); 8] = [
    ("none", ""),
    ("repetition", "copies=1 spacing=64"),
    ("layered-interleaving", "r=8 interleaves=1:11"),
    ("layered-interleaving", "r=8 interleaves=1:11:101"),
    ("reed-solomon", "r=8 c=3"),
    ("reed-solomon", "r=8 c=3 depth=10"),
    ("reed-solomon", "r=20 c=5"),
    ("reed-solomon", "r=64 c=16"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let symbol_bytes = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => SYMBOL_BYTES,
    };
    let traffic = Traffic { symbols: SYMBOLS, symbol_bytes, seed: 1, ..Traffic::default() };
    let catalogue = Catalogue::built_in();
    println!(
        "{symbol_bytes}-byte symbols; best of {ROUNDS}; GB/s of source bytes and, in brackets, ratio to XOR"
    );
    println!("{:<47} {:>8}", "plain XOR of one buffer into another", format!("{:.1}", xor_speed(&traffic)));
    println!("{:<47} {:>16} {:>16} {:>16} {:>9}", "code", "encode", "decode", "rebuild", "lost");
    for (name, text) in CODES {
        let code = catalogue.code(name)?;
        let parameters: Parameters = text.parse()?;
        let stream = Stream::encode(code.as_ref(), &parameters, &traffic)?;
        let xor = xor_speed(&traffic);
        let mut encoder = code.encoder(&parameters, symbol_bytes)?;
        // Ids go on from round to round: an encoder lives as long as its stream.
        let mut first = 0;
        let encode = speed(&traffic, || {
            encode(encoder.as_mut(), &stream, first);
            first += SYMBOLS as u64;
        });
        let mut rebuilt = 0;
        let mut decoded = |every: usize| -> Result<f64, Box<dyn Error>> {
            let mut decoder = code.decoder(&parameters, symbol_bytes)?;
            let mut first = 0;
            Ok(speed(&traffic, || {
                rebuilt = decode(decoder.as_mut(), &stream, first, every);
                first += SYMBOLS as u64;
            }))
        };
        let (decode, rebuild) = (decoded(usize::MAX)?, decoded(LOST_EVERY)?);
        let lost =
            stream.sources.iter().filter(|&&at| at % LOST_EVERY == LOST_EVERY - 1).count() as u64 - rebuilt;
        let figure = |speed: f64| format!("{speed:.2} ({:.2})", speed / xor);
        println!(
            "{:<47} {:>16} {:>16} {:>16} {lost:>9}",
            format!("{name} {text}"),
            figure(encode),
            figure(decode),
            figure(rebuild),
        );
    }
    Ok(())
}

/// GB/s of source bytes in the fastest round.
fn speed(traffic: &Traffic, mut round: impl FnMut()) -> f64 {
    let seconds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        round();
        start.elapsed().as_secs_f64()
    });
    (traffic.symbols * traffic.symbol_bytes) as f64 / seconds.fold(f64::INFINITY, f64::min) / 1e9
}

fn xor_speed(traffic: &Traffic) -> f64 {
    let symbols = vec![0x5a_u8; traffic.symbols * traffic.symbol_bytes];
    let mut sum = vec![0_u8; traffic.symbol_bytes];
    speed(traffic, || {
        for symbol in symbols.chunks_exact(traffic.symbol_bytes) {
            for (a, b) in sum.iter_mut().zip(symbol) {
                *a ^= b;
            }
            black_box(&mut sum);
        }
    })
}

fn encode(encoder: &mut dyn Encoder, stream: &Stream, first: u64) {
    let mut count = Count(0);
    for (id, &at) in (first..).zip(&stream.sources) {
        encoder.source(id, stream.payload(&stream.packets[at]), &mut count);
    }
    encoder.flush(&mut count);
    black_box(count.0);
}

/// Delivers the stream, its ids counted from `first`, without every `every`th packet; how many were rebuilt.
fn decode(decoder: &mut dyn Decoder, stream: &Stream, first: u64, every: usize) -> u64 {
    let mut count = Count(0);
    for (at, packet) in stream.packets.iter().enumerate().filter(|(at, _)| at % every != every - 1) {
        let payload = stream.payload(packet);
        match packet.kind {
            PacketKind::Source(id) => decoder.source(first + id, payload, &mut count),
            PacketKind::Repair(mut head) => {
                head.cover.first += first;
                if let Err(error) = decoder.repair(head, payload, &mut count) {
                    panic!("packet {at}: {error}");
                }
            }
        }
    }
    count.0
}

/// Takes symbols as the link would, without the copy into a datagram.
struct Count(u64);

impl RepairSink for Count {
    fn repair(&mut self, _head: RepairHead, payload: &[u8]) {
        self.0 += 1;
        black_box(payload);
    }
}

impl RecoveredSink for Count {
    fn recovered(&mut self, _id: u64, payload: &[u8]) {
        self.0 += 1;
        black_box(payload);
    }
}

//! Prints what the three ways in cost: the same plugin compiled in, as a shared library and in the sandbox, in one run.
//!
//! ```text
//! cargo run --release -p parhelion-plugin-host --example plugin_speed [bytes of a symbol]
//! ```
//!
//! "rebuild" is a stream in which every 23rd packet is lost. The plugins are built first, with what the machine has.

#[path = "../tests/common/mod.rs"]
mod common;

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use common::Workshop;
use parhelion_plugin::conformance::{PacketKind, Stream, Traffic};
use parhelion_plugin::{
    Channel, Code, DurabilityModel, Encoder, ErasureCode, Exposure, Parameters, RecoveredSink, RepairHead,
    RepairSink,
};
use parhelion_plugin_host::{Catalogue, open};

const SYMBOLS: u64 = 4_000;
const ROUNDS: usize = 9;
const LOST_EVERY: usize = 23;

type Codes = Vec<(String, Arc<dyn ErasureCode>)>;

fn main() -> Result<(), Box<dyn Error>> {
    let symbol_bytes = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 1200,
    };
    let workshop = Workshop::new();
    let catalogue = Catalogue::built_in();
    println!("{symbol_bytes}-byte symbols; best of {ROUNDS}; GB/s of source bytes");
    println!("{:<52} {:>8} {:>8}", "code", "encode", "rebuild");
    let triple = common::example("triple-parity.rs");
    for (label, code) in forms(&workshop, &triple, "triple")? {
        speed(&format!("triple-parity (8,3), {label}"), code.as_ref(), "r=8 c=3", symbol_bytes)?;
    }
    speed("reed-solomon (8,3), built in", catalogue.code("reed-solomon")?.as_ref(), "r=8 c=3", symbol_bytes)?;
    for (label, code) in forms(&workshop, &common::template(), "template")? {
        speed(&format!("xor-parity (8,1), {label}"), code.as_ref(), "r=8", symbol_bytes)?;
    }
    let xor_in_c = workshop.c_library(&common::example("xor-parity.c"), "xor", &[]);
    speed("xor-parity (8,1) in C, library", common::code(&xor_in_c).as_ref(), "r=8", symbol_bytes)?;
    if let Some(module) = workshop.c_module(&common::example("xor-parity.c"), "xor", &[]) {
        speed("xor-parity (8,1) in C, sandbox", common::code(&module).as_ref(), "r=8", symbol_bytes)?;
        starting("xor-parity in C", &module);
        stopping(&workshop)?;
    }
    if let Some(module) = workshop.rust_module(&triple, "triple") {
        starting("triple-parity in Rust", &module);
    }
    let layered = catalogue.code("layered-interleaving")?;
    speed(
        "layered-interleaving (8,1), built in",
        layered.as_ref(),
        "r=8 interleaves=1 delayed=0",
        symbol_bytes,
    )?;
    println!("\nns per source symbol of 16 bytes, which is nearly only the call");
    calls("layered-interleaving (8,1), built in", layered.as_ref(), "r=8 interleaves=1 delayed=0")?;
    for (label, code) in forms(&workshop, &common::template(), "template")? {
        calls(&format!("xor-parity (8,1), {label}"), code.as_ref(), "r=8")?;
    }
    println!("\nns per answer of a model");
    let binomial = common::example("binomial.c");
    answers("iid-bound, built in", catalogue.model("iid-bound")?.as_ref(), &catalogue)?;
    answers(
        "binomial, library",
        common::model(&workshop.c_library(&binomial, "binomial", &[])).as_ref(),
        &catalogue,
    )?;
    if let Some(module) = workshop.c_module(&binomial, "binomial", &[]) {
        answers("binomial, sandbox", common::model(&module).as_ref(), &catalogue)?;
    }
    Ok(())
}

/// A Rust plugin as a library for any x86-64, as one for this processor, and as a module.
fn forms(workshop: &Workshop, source: &Path, name: &str) -> Result<Codes, Box<dyn Error>> {
    let mut forms = vec![("library".to_owned(), common::code(&workshop.rust_library(source, name, &[])))];
    let native = workshop.rust_library(source, &format!("{name}-native"), &["-C", "target-cpu=native"]);
    forms.push(("library for this processor".to_owned(), common::code(&native)));
    if let Some(module) = workshop.rust_module(source, name) {
        forms.push(("sandbox".to_owned(), common::code(&module)));
    }
    Ok(forms)
}

fn speed(
    label: &str,
    code: &dyn ErasureCode,
    parameters: &str,
    symbol_bytes: usize,
) -> Result<(), Box<dyn Error>> {
    let parameters: Parameters = parameters.parse()?;
    let traffic = Traffic { symbols: SYMBOLS as usize, symbol_bytes, seed: 1, ..Traffic::default() };
    let stream = Stream::encode(code, &parameters, &traffic)?;
    let mut encoder = code.encoder(&parameters, symbol_bytes)?;
    // Ids go on from round to round: an encoder lives as long as its stream.
    let mut first = 0;
    let encode = fastest(|| {
        encode(encoder.as_mut(), &stream, first);
        first += SYMBOLS;
    });
    let mut decoder = code.decoder(&parameters, symbol_bytes)?;
    let (mut first, mut refused) = (0, 0);
    let rebuild = fastest(|| {
        let mut count = Count(0);
        for (_, packet) in
            stream.packets.iter().enumerate().filter(|(at, _)| at % LOST_EVERY != LOST_EVERY - 1)
        {
            let payload = stream.payload(packet);
            match packet.kind {
                PacketKind::Source(id) => decoder.source(first + id, payload, &mut count),
                PacketKind::Repair(mut head) => {
                    head.cover.first += first;
                    refused += usize::from(decoder.repair(head, payload, &mut count).is_err());
                }
            }
        }
        first += SYMBOLS;
    });
    if let Some(fault) = encoder.fault().or(decoder.fault()) {
        return Err(fault.to_owned().into());
    }
    if refused > 0 {
        return Err(format!("{label}: {refused} repairs were refused").into());
    }
    let figure = |seconds: f64| SYMBOLS as f64 * symbol_bytes as f64 / seconds / 1e9;
    println!("{label:<52} {:>8.2} {:>8.2}", figure(encode), figure(rebuild));
    Ok(())
}

fn calls(label: &str, code: &dyn ErasureCode, parameters: &str) -> Result<(), Box<dyn Error>> {
    let parameters: Parameters = parameters.parse()?;
    let traffic = Traffic { symbols: SYMBOLS as usize, symbol_bytes: 16, seed: 1, ..Traffic::default() };
    let stream = Stream::encode(code, &parameters, &traffic)?;
    let mut encoder = code.encoder(&parameters, 16)?;
    let mut first = 0;
    let seconds = fastest(|| {
        encode(encoder.as_mut(), &stream, first);
        first += SYMBOLS;
    });
    println!("{label:<52} {:>8.1}", seconds / SYMBOLS as f64 * 1e9);
    Ok(())
}

fn answers(label: &str, model: &dyn DurabilityModel, catalogue: &Catalogue) -> Result<(), Box<dyn Error>> {
    let code = Code::new(catalogue.code("reed-solomon")?, &"r=8 c=3".parse()?)?;
    let channel = Channel::bursty(0.001, 3.0, 0.999);
    let exposure = Exposure::steady(4, 0b111, 8);
    let seconds = fastest(|| {
        for _ in 0..SYMBOLS {
            black_box(model.own_risk(&channel, black_box(&code), &exposure));
        }
    });
    println!("{label:<52} {:>8.1}", seconds / SYMBOLS as f64 * 1e9);
    Ok(())
}

/// What it takes to make an instance, and a module before it.
fn starting(label: &str, module: &Path) {
    let bytes = std::fs::metadata(module).map_or(0, |metadata| metadata.len());
    let load = fastest(|| drop(open(module))) * 1e3;
    let code = common::code(module);
    let encoder = fastest(|| drop(code.encoder(&Parameters::new(), 1200))) * 1e6;
    let decoder = fastest(|| drop(code.decoder(&Parameters::new(), 1200))) * 1e6;
    println!(
        "  {label}: {bytes} bytes load in {load:.1} ms; an encoder takes {encoder:.0} us, a decoder {decoder:.0} us"
    );
}

/// How long a plugin that loops keeps its caller: with small blocks, and with the largest.
fn stopping(workshop: &Workshop) -> Result<(), Box<dyn Error>> {
    let change = ("    add(e->sum, payload, bytes);\n", "    for (volatile int k = 0;;) k++;\n");
    let source = workshop.mutant("loops", "xor-parity.c", &[change]);
    let Some(module) =
        workshop.c_module(&source, "loops", &["-Wno-unused-function", "-Wno-unused-parameter"])
    else {
        return Ok(());
    };
    let code = common::code(&module);
    for (parameters, symbol_bytes) in [("r=8", 1200), ("r=64", 65_536)] {
        let parameters: Parameters = parameters.parse()?;
        let mut longest: f64 = 0.0;
        for _ in 0..ROUNDS {
            let mut encoder = code.encoder(&parameters, symbol_bytes)?;
            let start = Instant::now();
            encoder.source(0, &[1], &mut Count(0));
            longest = longest.max(start.elapsed().as_secs_f64());
            if encoder.fault().is_none() {
                return Err("a loop was not stopped".into());
            }
        }
        println!("  a loop is stopped within {:.0} ms ({parameters}, {symbol_bytes} bytes)", longest * 1e3);
    }
    Ok(())
}

/// Seconds of the fastest round.
fn fastest(mut round: impl FnMut()) -> f64 {
    let seconds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        round();
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

fn encode(encoder: &mut dyn Encoder, stream: &Stream, first: u64) {
    let mut count = Count(0);
    for (id, &at) in (first..).zip(&stream.sources) {
        encoder.source(id, stream.payload(&stream.packets[at]), &mut count);
    }
    encoder.flush(&mut count);
    black_box(count.0);
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

//! How fast the codes are on one core, against goals and each other: symbols of 1200 bytes, everything in one process.
//!
//! Candidate and baseline take turns of a fraction of a millisecond, hundreds of times in a round, and the fastest turn of
//! each is the round's: neighbours disturb some turns, and none of them makes code faster than it is. Unless said otherwise,
//! symbols come from 384 KiB that stay in the second cache, as those of a link do, which were written a moment before.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_reed_solomon_fast::ReedSolomonFast;
use parhelion_galois::{Kernel, Tier};
use parhelion_plugin::conformance::SplitMix64;
use parhelion_plugin::{
    Code, Cover, Encoder, ErasureCode, Parameters, RecoveredSink, RepairHead, RepairSink,
};
use parhelion_plugin_host::{Catalogue, Loaded, open};
use parhelion_plugin_kit::speed;
use reed_solomon_erasure::galois_8;

use crate::error::BenchError;
use crate::figure::{Figure, Found, Goal};
use crate::lab::say;
use crate::workshop;

const SYMBOL_BYTES: usize = 1200;

/// Source symbols that stay in the second cache.
const CACHED_BYTES: usize = 384 << 10;

/// Source symbols that fit no cache.
const STREAMED_BYTES: usize = 256 << 20;

/// Turns of a round.
const TURNS: usize = 300;

/// Measures everything.
pub(crate) fn run(rounds: u32) -> Result<Found, BenchError> {
    let mut found = Found::default();
    say("layered interleaving against a plain XOR pass");
    layered(rounds, &mut found);
    say("reed-solomon-fast against reed-solomon-erasure");
    reed_solomon(rounds, &mut found)?;
    say("calls through the traits against direct ones");
    trait_cost(rounds, &mut found);
    say("WebAssembly against a shared library");
    sandbox(rounds, &mut found)?;
    say("every built-in code");
    all(rounds, &mut found)?;
    Ok(found)
}

/// What is wrong with a code of this repository is a defect, and said so.
fn broken(what: &'static str) -> impl Fn(String) -> BenchError {
    move |reason| BenchError::Figure { what, reason }
}

/// One side of a comparison: a pass over so many bytes.
struct Pass<'a> {
    bytes: usize,
    run: Box<dyn FnMut() + 'a>,
}

/// GB/s of each pass in each round; they take turns.
fn contest<const N: usize>(rounds: u32, mut passes: [Pass<'_>; N]) -> [Vec<f64>; N] {
    let mut speeds = [const { Vec::new() }; N];
    for _ in 0..rounds {
        let mut best = [f64::INFINITY; N];
        for _ in 0..TURNS {
            for (pass, best) in passes.iter_mut().zip(&mut best) {
                let start = Instant::now();
                (pass.run)();
                *best = best.min(start.elapsed().as_secs_f64());
            }
        }
        for ((speeds, pass), best) in speeds.iter_mut().zip(&passes).zip(best) {
            speeds.push(pass.bytes as f64 / best / 1e9);
        }
    }
    speeds
}

/// Symbols of random bytes, all together so many bytes, in multiples of `multiple`.
fn symbols(bytes: usize, multiple: usize) -> Vec<Vec<u8>> {
    let count = (bytes / SYMBOL_BYTES / multiple).max(1) * multiple;
    let mut random = SplitMix64::new(1);
    let mut symbol = || {
        let mut bytes: Vec<u8> =
            (0..SYMBOL_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        bytes.resize(SYMBOL_BYTES, 1);
        bytes
    };
    (0..count).map(|_| symbol()).collect()
}

/// Encodes symbols, `window` of them at a time; ids go on.
fn encoding<'a>(mut encoder: Box<dyn Encoder>, data: &'a [Vec<u8>], window: usize) -> Pass<'a> {
    let (mut id, mut next, mut sink) = (0, 0, Count(0));
    let run = move || {
        for symbol in &data[next..next + window] {
            encoder.source(id, symbol, &mut sink);
            id += 1;
        }
        next = if next + 2 * window <= data.len() { next + window } else { 0 };
        black_box(sink.0);
    };
    Pass { bytes: window * SYMBOL_BYTES, run: Box::new(run) }
}

/// Adds each symbol to one sum.
fn xor_pass<'a>(data: &'a [Vec<u8>], window: usize) -> Pass<'a> {
    let (mut next, mut sum) = (0, vec![0_u8; SYMBOL_BYTES]);
    let run = move || {
        for symbol in &data[next..next + window] {
            for (a, b) in sum.iter_mut().zip(symbol) {
                *a ^= b;
            }
        }
        next = if next + 2 * window <= data.len() { next + window } else { 0 };
        black_box(&mut sum);
    };
    Pass { bytes: window * SYMBOL_BYTES, run: Box::new(run) }
}

fn layered(rounds: u32, found: &mut Found) {
    for (where_, bytes, goal) in
        [("in the cache", CACHED_BYTES, true), ("from memory", STREAMED_BYTES, false)]
    {
        let data = symbols(bytes, 8);
        let window = CACHED_BYTES / SYMBOL_BYTES / 8 * 8;
        let Ok(encoder) = LayeredInterleaving.encoder(&Parameters::new(), SYMBOL_BYTES) else { continue };
        let [code, xor] = contest(rounds, [encoding(encoder, &data, window), xor_pass(&data, window)]);
        let figure =
            Figure::new(format!("layered (8,3) encodes, {where_}"), "GB/s", code).against("XOR pass", &xor);
        found.figures.push(if goal { figure.goal(Goal::RatioAtLeast(0.5)) } else { figure });
    }
    found.notes.push(
        "the XOR pass reads each byte, and reads and writes one of a sum that never leaves the first cache; layered (8,3) \
         reads it once and reads and writes three of 125 sums: 7/3 as many bytes for the same source symbols"
            .to_owned(),
    );
}

fn reed_solomon(rounds: u32, found: &mut Found) -> Result<(), BenchError> {
    let plain = |r, c| {
        let failed = broken("reed-solomon-erasure");
        galois_8::ReedSolomon::new(r, c).map_err(move |error| failed(error.to_string()))
    };
    let data = symbols(CACHED_BYTES, 8);
    let codec = plain(8, 3)?;
    for tier in Tier::available() {
        let Some(kernel) = Kernel::of(tier) else { continue };
        let code = ReedSolomonFast::with_kernel(kernel);
        let encoder =
            code.encoder(&shape(8, 3), SYMBOL_BYTES).map_err(|e| broken("encoding")(e.to_string()))?;
        let mut parity = vec![vec![0; SYMBOL_BYTES]; 3];
        let plain = Pass {
            bytes: data.len() * SYMBOL_BYTES,
            run: Box::new(|| {
                for block in data.chunks(8) {
                    // Shards of equal size: it cannot fail.
                    _ = black_box(codec.encode_sep(block, &mut parity));
                }
            }),
        };
        let [fast, plain] = contest(rounds, [encoding(encoder, &data, data.len()), plain]);
        let figure = Figure::new(format!("reed-solomon-fast (8,3) encodes, {tier}"), "GB/s", fast)
            .against("reed-solomon-erasure", &plain);
        found.figures.push(match tier {
            Tier::Portable => figure,
            Tier::Avx2 | Tier::Avx2Gfni => figure.goal(Goal::RatioAtLeast(10.0)),
            Tier::Avx512Gfni => figure.goal(Goal::RatioAtLeast(20.0)),
        });
    }
    let (r, c) = (200, 40);
    let code = ReedSolomonFast::default();
    let data = symbols(CACHED_BYTES, r);
    let fast = decoding(&code, r, c, &data)?;
    let plain = reconstruction(&plain(r, c)?, r, c, &data);
    let [fast, plain] = contest(rounds, [fast, plain]);
    found.figures.push(
        Figure::new("reed-solomon-fast (200,40) decodes, 40 lost", "GB/s", fast)
            .against("reed-solomon-erasure, an inverse of 200 x 200", &plain)
            .goal(Goal::RatioAtLeast(20.0)),
    );
    Ok(())
}

fn shape(r: usize, c: usize) -> Parameters {
    Parameters::new().with("r", &[r as u32]).with("c", &[c as u32])
}

/// Which `c` of the `r` source symbols of a block are lost: other ones for each of many blocks.
fn losses(r: usize, c: usize) -> Vec<Vec<usize>> {
    let mut random = SplitMix64::new(2);
    let mut pattern = || {
        let mut lost: Vec<usize> = (0..r).collect();
        random.shuffle(&mut lost);
        lost.truncate(c);
        lost
    };
    (0..256).map(|_| pattern()).collect()
}

fn decoding<'a>(
    code: &dyn ErasureCode,
    r: usize,
    c: usize,
    data: &'a [Vec<u8>],
) -> Result<Pass<'a>, BenchError> {
    let failed = |error: parhelion_plugin::ParameterError| broken("decoding")(error.to_string());
    let mut repairs = Repairs(vec![]);
    let mut encoder = code.encoder(&shape(r, c), SYMBOL_BYTES).map_err(failed)?;
    for (id, symbol) in (0..).zip(data) {
        encoder.source(id, symbol, &mut repairs);
    }
    let mut decoder = code.decoder(&shape(r, c), SYMBOL_BYTES).map_err(failed)?;
    let patterns: Vec<Vec<bool>> = losses(r, c)
        .into_iter()
        .map(|lost| {
            let mut kept = vec![true; r];
            lost.into_iter().for_each(|k| kept[k] = false);
            kept
        })
        .collect();
    let (mut first, mut turn, mut sink) = (0_u64, 0, Count(0));
    let run = move || {
        for (block, repairs) in data.chunks(r).zip(repairs.0.chunks(c)) {
            let kept = &patterns[turn % patterns.len()];
            turn += 1;
            for (id, (symbol, _)) in (first..).zip(block.iter().zip(kept)).filter(|(_, (_, kept))| **kept) {
                decoder.source(id, symbol, &mut sink);
            }
            for (head, payload) in repairs {
                let cover = Cover { first, ..head.cover };
                // A true repair is taken, or nothing is rebuilt and the count below says so.
                _ = decoder.repair(RepairHead { cover, ..*head }, payload, &mut sink);
            }
            first += r as u64;
        }
        assert_eq!(sink.0, turn as u64 * c as u64, "symbols that were lost and rebuilt");
    };
    Ok(Pass { bytes: data.len() * SYMBOL_BYTES, run: Box::new(run) })
}

fn reconstruction<'a>(codec: &galois_8::ReedSolomon, r: usize, c: usize, data: &[Vec<u8>]) -> Pass<'a> {
    let codec = codec.clone();
    let mut blocks: Vec<Vec<(Vec<u8>, bool)>> = data
        .chunks(r)
        .map(|block| {
            let mut shards = block.to_vec();
            shards.resize(r + c, vec![0; SYMBOL_BYTES]);
            // Shards of equal size: it cannot fail.
            _ = codec.encode(&mut shards);
            shards.into_iter().map(|shard| (shard, true)).collect()
        })
        .collect();
    let patterns = losses(r, c);
    let mut turn = 0;
    let run = move || {
        for block in &mut blocks {
            for &lost in &patterns[turn % patterns.len()] {
                block[lost].1 = false;
            }
            turn += 1;
            _ = black_box(codec.reconstruct_data(block));
            block.iter_mut().for_each(|shard| shard.1 = true);
        }
    };
    Pass { bytes: data.len() * SYMBOL_BYTES, run: Box::new(run) }
}

/// The smallest code that does (8,3): three sums. It is called directly, with all types known, and through both traits.
struct ThreeSums {
    sums: [Vec<u8>; 3],
    first: u64,
    count: u16,
}

impl ThreeSums {
    fn new() -> Self {
        Self { sums: std::array::from_fn(|_| vec![0; SYMBOL_BYTES]), first: 0, count: 0 }
    }

    /// A call of its own in both cases, so that the loops are compiled alike and only the calls differ.
    #[inline(never)]
    fn add(&mut self, id: u64, payload: &[u8], mut repair: impl FnMut(RepairHead, &[u8])) {
        if self.count == 0 {
            self.first = id;
        }
        for sum in &mut self.sums {
            for (a, b) in sum.iter_mut().zip(payload) {
                *a ^= b;
            }
        }
        self.count += 1;
        if self.count == 8 {
            let cover = Cover { first: self.first, stride: 1, count: 8 };
            for (index, sum) in (0..).zip(&self.sums) {
                repair(RepairHead { cover, index }, sum);
            }
            self.count = 0;
        }
    }
}

impl Encoder for ThreeSums {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RepairSink) {
        self.add(id, payload, |head, payload| out.repair(head, payload));
    }

    fn flush(&mut self, _out: &mut dyn RepairSink) {}
}

fn trait_cost(rounds: u32, found: &mut Found) {
    let data = symbols(CACHED_BYTES, 8);
    let (mut direct, mut id, mut sink) = (ThreeSums::new(), 0, Count(0));
    let direct = Pass {
        bytes: data.len() * SYMBOL_BYTES,
        run: Box::new(|| {
            for symbol in &data {
                direct.add(id, symbol, |head, payload| sink.repair(head, payload));
                id += 1;
            }
            black_box(sink.0);
        }),
    };
    let boxed: Box<dyn Encoder> = black_box(Box::new(ThreeSums::new()));
    let [through, direct] = contest(rounds, [encoding(boxed, &data, data.len()), direct]);
    found.figures.push(
        Figure::new("three XOR sums (8,3), called through the traits", "GB/s", through)
            .against("called directly", &direct)
            .goal(Goal::RatioAtLeast(0.95)),
    );
}

/// Plugins in both forms, as an author gets them.
fn sandbox(rounds: u32, found: &mut Found) -> Result<(), BenchError> {
    let folder = tempfile::tempdir().map_err(BenchError::file("creating", std::env::temp_dir()))?;
    let plugins = [
        ("triple parity (8,3) in Rust", workshop::triple_parity(folder.path())),
        ("XOR parity (8,1) in C", workshop::xor_parity(folder.path())),
    ];
    for (name, forms) in plugins {
        let Some(forms) = forms else {
            found
                .notes
                .push(format!("{name}: not measured; a compiler or linker for WebAssembly is missing"));
            continue;
        };
        let (module, library) = (plugin(&forms.module)?, plugin(&forms.library)?);
        let data = symbols(CACHED_BYTES, 8);
        let passes =
            [encoding(encoder(&module)?, &data, data.len()), encoding(encoder(&library)?, &data, data.len())];
        let [wasm, native] = contest(rounds, passes);
        let goal = Goal::RatioAtLeast(0.25);
        let figure = |what, ours, theirs: &[f64]| {
            Figure::new(format!("{name} {what}, sandboxed"), "GB/s", ours)
                .against("shared library", theirs)
                .goal(goal)
        };
        found.figures.push(figure("encodes", wasm, &native));
        let (module, library) = (code(&module)?, code(&library)?);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let speeds = speed::measure(&[module.clone(), library.clone()], SYMBOL_BYTES, DECODE_TURNS);
            let speeds = speeds.map_err(|error| broken("a plugin")(error.to_string()))?;
            ours.push(speeds[0].decode / 1e9);
            theirs.push(speeds[1].decode / 1e9);
        }
        found.figures.push(figure("decodes, 5 % lost", ours, &theirs));
    }
    Ok(())
}

fn encoder(code: &Arc<dyn ErasureCode>) -> Result<Box<dyn Encoder>, BenchError> {
    code.encoder(&Parameters::new(), SYMBOL_BYTES).map_err(|error| broken("a plugin")(error.to_string()))
}

fn code(family: &Arc<dyn ErasureCode>) -> Result<Code, BenchError> {
    Code::new(Arc::clone(family), &Parameters::new()).map_err(|error| broken("a plugin")(error.to_string()))
}

fn plugin(file: &Path) -> Result<Arc<dyn ErasureCode>, BenchError> {
    match open(file).map_err(|refused| broken("a plugin")(refused.to_string()))?.plugin {
        Loaded::Code(code) => Ok(code),
        Loaded::Model(model) => Err(broken("a plugin")(format!("{model:?} is no code"))),
    }
}

/// Turns of the kit's measurement in a round; each is some milliseconds long.
const DECODE_TURNS: u32 = 25;

/// What `parhelion plugin bench` shows of the built-in codes, with their defaults.
fn all(rounds: u32, found: &mut Found) -> Result<(), BenchError> {
    let catalogue = Catalogue::built_in();
    let codes = catalogue.codes().filter_map(|family| Code::new(Arc::clone(family), &Parameters::new()).ok());
    let codes: Vec<Code> = codes.filter(|code| code.structure().repairs_per_symbol() > 0).collect();
    let mut speeds = Vec::new();
    for _ in 0..rounds {
        let round = speed::measure(&codes, SYMBOL_BYTES, DECODE_TURNS);
        speeds.push(round.map_err(|error| broken("a built-in code")(error.to_string()))?);
    }
    for (n, code) in codes.iter().enumerate() {
        for (what, of) in
            [("encodes", (|it| it.encode) as fn(&speed::Speed) -> f64), ("decodes, 5 % lost", |it| it.decode)]
        {
            let rounds = speeds.iter().map(|round| of(&round[n]) / 1e9).collect();
            found.figures.push(Figure::new(format!("{} {what}", code.name()), "GB/s", rounds));
        }
    }
    Ok(())
}

/// Takes symbols as a link would, without the copy into a datagram.
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

struct Repairs(Vec<(RepairHead, Vec<u8>)>);

impl RepairSink for Repairs {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        self.0.push((head, payload.to_vec()));
    }
}

//! Speed through the traits, in bytes of source symbols per second, beside `reed-solomon` and the crate
//! `reed-solomon-erasure`, in one run: `cargo run --release --example speed`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_code_reed_solomon_fast::ReedSolomonFast;
use parhelion_galois::{Kernel, RowBuffer, Term, Tier, inv};
use parhelion_plugin::conformance::SplitMix64;
use parhelion_plugin::{ErasureCode, Parameters, RecoveredSink, RepairHead, RepairSink};
use reed_solomon_erasure::galois_8;

const SYMBOL_BYTES: usize = 1200;

/// Source symbols of all blocks together: more than the first cache holds, less than the second.
const DATA_BYTES: usize = 384 << 10;

const SHAPES: [(usize, usize); 4] = [(8, 3), (20, 5), (64, 16), (200, 40)];

fn main() {
    let fast = |tier| ReedSolomonFast::with_kernel(Kernel::of(tier).expect("available"));
    println!("encode, GB/s             (8, 3)  (20, 5) (64, 16) (200, 40)");
    line("reed-solomon-erasure", encode_plain);
    line("reed-solomon", |r, c| encode(&ReedSolomon, r, c));
    for tier in Tier::available() {
        line(&format!("fast, {tier}"), |r, c| encode(&fast(tier), r, c));
        line("  kernel, no copies", |r, c| encode_kernel(Kernel::of(tier).expect("available"), r, c));
    }
    println!("\nfrom the last symbol of a block to its repairs, us");
    for tier in Tier::available() {
        line(&format!("fast, {tier}"), |r, c| last_symbol(&fast(tier), r, c));
    }
    println!("\ndecode with c source symbols lost, GB/s");
    line("reed-solomon-erasure", decode_plain);
    line("reed-solomon", |r, c| decode(&ReedSolomon, r, c));
    for tier in Tier::available() {
        line(&format!("fast, {tier}"), |r, c| decode(&fast(tier), r, c));
    }
}

fn line(name: &str, measure: impl Fn(usize, usize) -> f64) {
    let [a, b, c, d] = SHAPES.map(|(r, c)| measure(r, c));
    println!("{name:<22} {a:8.3} {b:8.3} {c:8.3}  {d:8.3}");
}

/// Symbols of several blocks.
fn data(r: usize) -> (usize, Vec<Vec<u8>>) {
    let blocks = (DATA_BYTES / (r * SYMBOL_BYTES)).max(1);
    let mut random = SplitMix64::new(1);
    let symbol = |random: &mut SplitMix64| (0..SYMBOL_BYTES).map(|_| random.next_u64() as u8).collect();
    (blocks, (0..blocks * r).map(|_| symbol(&mut random)).collect())
}

fn speed(blocks: usize, r: usize, seconds: f64) -> f64 {
    (blocks * r * SYMBOL_BYTES) as f64 / seconds / 1e9
}

fn parameters(r: usize, c: usize) -> Parameters {
    Parameters::new().with("r", &[r as u32]).with("c", &[c as u32])
}

struct Count(u64);

impl RepairSink for Count {
    fn repair(&mut self, _head: RepairHead, payload: &[u8]) {
        self.0 += u64::from(payload[0]);
    }
}

impl RecoveredSink for Count {
    fn recovered(&mut self, _id: u64, _payload: &[u8]) {
        self.0 += 1;
    }
}

fn encode(code: &dyn ErasureCode, r: usize, c: usize) -> f64 {
    let (blocks, data) = data(r);
    let mut encoder = code.encoder(&parameters(r, c), SYMBOL_BYTES).expect("parameters");
    let (mut id, mut sink) = (0, Count(0));
    let seconds = best(|| {
        for symbol in &data {
            encoder.source(id, symbol, &mut sink);
            id += 1;
        }
    });
    black_box(sink.0);
    speed(blocks, r, seconds)
}

/// What the kernel alone does, on symbols that wait in memory.
fn encode_kernel(kernel: Kernel, r: usize, c: usize) -> f64 {
    let (blocks, data) = data(r);
    let columns: Vec<u8> = (0..r).flat_map(|y| (r..r + c).map(move |x| inv((x ^ y) as u8))).collect();
    let terms: Vec<Vec<Term<'_>>> = data
        .chunks(r)
        .map(|block| {
            block.iter().zip(columns.chunks(c)).map(|(source, factors)| Term { source, factors }).collect()
        })
        .collect();
    let mut sums = RowBuffer::new(c, SYMBOL_BYTES);
    let seconds = best(|| {
        for terms in &terms {
            kernel.combine(sums.rows_mut(0, c, SYMBOL_BYTES), black_box(terms));
        }
    });
    speed(blocks, r, seconds)
}

fn encode_plain(r: usize, c: usize) -> f64 {
    let (blocks, data) = data(r);
    let codec = galois_8::ReedSolomon::new(r, c).expect("parameters");
    let mut parity = vec![vec![0; SYMBOL_BYTES]; c];
    let seconds = best(|| {
        for block in data.chunks(r) {
            codec.encode_sep(block, &mut parity).expect("shards");
        }
    });
    speed(blocks, r, seconds)
}

fn last_symbol(code: &dyn ErasureCode, r: usize, c: usize) -> f64 {
    let (_, data) = data(r);
    let mut encoder = code.encoder(&parameters(r, c), SYMBOL_BYTES).expect("parameters");
    let (mut id, mut sink) = (0, Count(0));
    let mut best = f64::INFINITY;
    for _ in 0..400 {
        for (n, symbol) in data.iter().enumerate().take(r) {
            let start = Instant::now();
            encoder.source(id, symbol, &mut sink);
            id += 1;
            if n + 1 == r {
                best = best.min(start.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    best
}

/// Random losses for every block, other ones in each round.
fn decode(code: &dyn ErasureCode, r: usize, c: usize) -> f64 {
    struct Repairs(Vec<(RepairHead, Vec<u8>)>);
    impl RepairSink for Repairs {
        fn repair(&mut self, head: RepairHead, payload: &[u8]) {
            self.0.push((head, payload.to_vec()));
        }
    }
    let (blocks, data) = data(r);
    let parameters = parameters(r, c);
    let mut encoder = code.encoder(&parameters, SYMBOL_BYTES).expect("parameters");
    let mut repairs = Repairs(vec![]);
    for (id, symbol) in data.iter().enumerate() {
        encoder.source(id as u64, symbol, &mut repairs);
    }
    let mut random = SplitMix64::new(2);
    let rounds = 64;
    let patterns: Vec<Vec<usize>> = (0..rounds * blocks)
        .map(|_| {
            let mut kept: Vec<_> = (0..r).collect();
            random.shuffle(&mut kept);
            kept.drain(..c);
            kept.sort_unstable();
            kept
        })
        .collect();
    let mut decoder = code.decoder(&parameters, SYMBOL_BYTES).expect("parameters");
    let (mut first, mut sink, mut turn, mut decoded) = (0_u64, Count(0), 0, 0_u64);
    let seconds = best(|| {
        for block in 0..blocks {
            for &k in &patterns[turn] {
                decoder.source(first + k as u64, &data[block * r + k], &mut sink);
            }
            turn = (turn + 1) % patterns.len();
            for (head, payload) in &repairs.0[block * c..(block + 1) * c] {
                let mut head = *head;
                head.cover.first = first;
                decoder.repair(head, payload, &mut sink).expect("a true repair");
            }
            first += r as u64;
            decoded += 1;
        }
    });
    assert_eq!(sink.0, decoded * c as u64, "all that was lost is rebuilt");
    speed(blocks, r, seconds)
}

fn decode_plain(r: usize, c: usize) -> f64 {
    let (blocks, data) = data(r);
    let codec = galois_8::ReedSolomon::new(r, c).expect("parameters");
    let mut shards: Vec<Vec<(Vec<u8>, bool)>> = data
        .chunks(r)
        .map(|block| {
            let mut shards = block.to_vec();
            shards.resize(r + c, vec![0; SYMBOL_BYTES]);
            codec.encode(&mut shards).expect("shards");
            shards.into_iter().map(|shard| (shard, true)).collect()
        })
        .collect();
    let mut random = SplitMix64::new(3);
    let mut order: Vec<usize> = (0..r).collect();
    let seconds = best(|| {
        for block in &mut shards {
            random.shuffle(&mut order);
            for &lost in &order[..c] {
                block[lost].1 = false;
            }
            codec.reconstruct_data(block).expect("shards");
            block.iter_mut().for_each(|shard| shard.1 = true);
        }
    });
    speed(blocks, r, seconds)
}

/// Least seconds of a call, of many short runs: some of them nobody disturbs.
fn best(mut call: impl FnMut()) -> f64 {
    let (mut calls, mut runs) = (1_u32, 0);
    let mut best = f64::INFINITY;
    while runs < 200 {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        let elapsed = start.elapsed();
        if elapsed < Duration::from_micros(200) {
            calls *= 2;
            continue;
        }
        runs += 1;
        best = best.min(elapsed.as_secs_f64() / f64::from(calls));
    }
    best
}

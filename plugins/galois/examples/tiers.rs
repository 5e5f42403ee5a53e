//! Speed of every tier of this machine, in bytes of sources per second: `cargo run --release --example tiers`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use parhelion_galois::{Kernel, RowBuffer, Term, Tier};

/// Sources of all blocks together: more than the first cache holds, less than the second.
const DATA_BYTES: usize = 384 << 10;

fn main() {
    for bytes in [1200, 8800] {
        println!("\n{bytes} bytes, GB/s   (8, 3)  (20, 5) (64, 16) (200, 40)      xor  mul_add");
        for tier in Tier::available() {
            let kernel = Kernel::of(tier).expect("available");
            let [a, b, c, d] =
                [(8, 3), (20, 5), (64, 16), (200, 40)].map(|(r, c)| combine(kernel, r, c, bytes));
            let xor = one(bytes, |sum, source| kernel.xor(sum, source));
            let mul_add = one(bytes, |sum, source| kernel.mul_add(sum, 0x53, source));
            println!("{:<16} {a:8.2} {b:8.2} {c:8.2}  {d:8.2} {xor:8.2} {mul_add:8.2}", tier.to_string());
        }
    }
}

fn combine(kernel: Kernel, sources: usize, rows: usize, bytes: usize) -> f64 {
    let blocks = (DATA_BYTES / (sources * bytes)).max(1);
    let mut data = RowBuffer::new(blocks * sources, bytes);
    for row in 0..blocks * sources {
        data.row_mut(row, bytes).fill(row as u8 | 1);
    }
    let factors: Vec<u8> = (0..sources * rows).map(|n| (n % 251 + 2) as u8).collect();
    let terms: Vec<Vec<_>> = (0..blocks)
        .map(|block| {
            let sources = (0..sources).map(|n| data.row(block * sources + n, bytes));
            sources.zip(factors.chunks(rows)).map(|(source, factors)| Term { source, factors }).collect()
        })
        .collect();
    let mut sums = RowBuffer::new(rows, bytes);
    let seconds = best(|| {
        for terms in &terms {
            kernel.combine(sums.rows_mut(0, rows, bytes), black_box(terms));
        }
    });
    black_box(sums.row(0, 1));
    (blocks * sources * bytes) as f64 / seconds / 1e9
}

fn one(bytes: usize, step: impl Fn(&mut [u8], &[u8])) -> f64 {
    let (mut sum, source) = (vec![1; bytes], vec![7; bytes]);
    bytes as f64 / best(|| step(black_box(&mut sum), black_box(&source))) / 1e9
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

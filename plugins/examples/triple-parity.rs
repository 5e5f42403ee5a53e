//! Triple parity, the code of RAID-Z3: the repair symbols P, Q and R of a block are its sums with the coefficients 1, 2^k
//! and 4^k over GF(2^8). An example of a plugin in Rust; the template's README says how one is built.
//!
//! Sums are made the way of Horner: double what there is, add the next symbol. Doubling needs no table, so compilers make
//! vector code of it. Any `c` of the `r + c` symbols of a block may be lost: up to three rows and columns of coefficients
//! are never singular as long as no two of the `r` numbers 2^k are equal, which they are not below r = 255.

#[path = "../sdk/parhelion_plugin.rs"]
mod parhelion_plugin;
#[path = "../sdk/parhelion_window.rs"]
mod parhelion_window;

use parhelion_plugin::{Code, Encoder, Head, Outbox, Structure, Values};
use parhelion_window::{Blocks, Lost};

pub struct TripleParity;

parhelion_plugin::export_code!(TripleParity);

const C_MAX: usize = 3;
const PIECE: usize = 128;

impl Code for TripleParity {
    type Encoder = Sums;
    type Decoder = Blocks;

    const DESCRIPTION: &'static str = r#"{"kind": "code", "name": "triple-parity", "version": 1, "parameters": [
        {"name": "r", "meaning": "source symbols per block", "unit": "symbols", "min": 1, "max": 128, "default": [8]},
        {"name": "c", "meaning": "repair symbols per block", "unit": "symbols", "min": 1, "max": 3, "default": [3]}]}"#;

    fn structure(mut values: Values<'_>) -> Result<Structure, String> {
        Ok(Structure::block(values.number(), values.number()))
    }

    fn encoder(mut values: Values<'_>, symbol_bytes: usize) -> Sums {
        let (r, c) = (values.number() as u16, values.number() as usize);
        Sums { r, first: 0, count: 0, rows: vec![Vec::with_capacity(symbol_bytes.max(1)); c] }
    }

    fn decoder(mut values: Values<'_>, symbol_bytes: usize) -> Blocks {
        Blocks::new(values.number(), values.number(), symbol_bytes, solve)
    }
}

/// The running sums of the block that began with `first`.
pub struct Sums {
    r: u16,
    first: u64,
    count: u16,
    rows: Vec<Vec<u8>>,
}

impl Encoder for Sums {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut Outbox) {
        for (index, row) in self.rows.iter_mut().enumerate() {
            if self.count == 0 {
                row.clear();
            }
            row.resize(row.len().max(payload.len()).max(1), 0);
            step(row, payload, index);
        }
        self.first = if self.count == 0 { id } else { self.first };
        self.count += 1;
        if self.count == self.r {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut Outbox) {
        for (index, row) in self.rows.iter().enumerate().filter(|_| self.count > 0) {
            out.repair(Head { first: self.first, stride: 1, count: self.count, index: index as u8 }, row);
        }
        self.count = 0;
    }
}

/// Takes the symbols that are there out of the sums, and solves for the others (Gauss and Jordan).
fn solve(lost: &Lost<'_>, rows: &mut [Vec<u8>]) {
    let n = rows.len();
    let mut factors = [[0_u8; C_MAX]; C_MAX];
    for ((row, &index), factors) in rows.iter_mut().zip(lost.indices).zip(&mut factors) {
        for (at, piece) in row.chunks_mut(PIECE).enumerate() {
            let mut sum = [0; PIECE];
            for symbol in lost.symbols() {
                step(&mut sum, symbol.chunks(PIECE).nth(at).unwrap_or(&[]), usize::from(index));
            }
            piece.iter_mut().zip(sum).for_each(|(a, b)| *a ^= b);
        }
        for (factor, &id) in factors.iter_mut().zip(lost.ids) {
            *factor = power((lost.first + u64::from(lost.count) - 1 - id) * u64::from(index));
        }
    }
    for pivot in 0..n {
        // Some row from here on has a coefficient: the square is not singular.
        let from = (pivot..n).find(|&row| factors[row][pivot] != 0).unwrap_or(pivot);
        factors.swap(pivot, from);
        rows.swap(pivot, from);
        let inverse = (1..=255).find(|&x| times(x, factors[pivot][pivot]) == 1).unwrap_or(0);
        let (before, rest) = rows.split_at_mut(pivot);
        let (row, behind) = rest.split_first_mut().expect("pivot < n");
        if inverse != 1 {
            row.iter_mut().for_each(|byte| *byte = times(*byte, inverse));
        }
        factors[pivot].iter_mut().for_each(|factor| *factor = times(*factor, inverse));
        let scaled = factors[pivot];
        for (other, at) in before.iter_mut().chain(behind).zip((0..n).filter(|&at| at != pivot)) {
            let factor = factors[at][pivot];
            other.iter_mut().zip(row.iter()).for_each(|(a, &b)| *a ^= times(b, factor));
            factors[at].iter_mut().zip(scaled).for_each(|(a, b)| *a ^= times(b, factor));
        }
    }
}

/// Multiplies `sum` by 2^index and adds `symbol`, which counts as if it ended in zeros.
fn step(sum: &mut [u8], symbol: &[u8], index: usize) {
    match index {
        0 => blocks(sum, symbol, |a, b| a ^ b),
        1 => blocks(sum, symbol, |a, b| double(a) ^ b),
        _ => blocks(sum, symbol, |a, b| double(double(a)) ^ b),
    }
}

/// Runs over pieces of fixed size, of which compilers make vector code without a loop: a sandbox counts each turn of one.
fn blocks(sum: &mut [u8], symbol: &[u8], combine: impl Fn(u8, u8) -> u8) {
    let (head, tail) = sum.split_at_mut(symbol.len());
    let (mut to, mut from) = (head.chunks_exact_mut(PIECE), symbol.chunks_exact(PIECE));
    for (a, b) in (&mut to).zip(&mut from) {
        let (a, b): (&mut [u8; PIECE], &[u8; PIECE]) = (a.try_into().unwrap(), b.try_into().unwrap());
        for k in 0..PIECE {
            a[k] = combine(a[k], b[k]);
        }
    }
    to.into_remainder().iter_mut().zip(from.remainder()).for_each(|(a, &b)| *a = combine(*a, b));
    tail.iter_mut().for_each(|a| *a = combine(*a, 0));
}

/// Twice `x` in the field of the polynomial 0x11d.
fn double(x: u8) -> u8 {
    (x << 1) ^ ((x as i8 >> 7) as u8 & 0x1d)
}

fn times(x: u8, factor: u8) -> u8 {
    (0..8).rev().fold(0, |y, bit| double(y) ^ (x & (factor >> bit & 1).wrapping_neg()))
}

/// 2 to the power of `exponent`.
fn power(exponent: u64) -> u8 {
    (0..exponent % 255).fold(1, |x, _| double(x))
}

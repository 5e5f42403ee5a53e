//! XOR parity: after every `r` source symbols leaves one repair symbol, the XOR of them. The template of a plugin.
//!
//! Copy this folder, change the name in [`Code::DESCRIPTION`] and the mathematics, and hold it against the conformance
//! kit: `parhelion plugin check`.
//!
//! # Guarantee
//! Any one of the `r + 1` symbols of a block may be lost, and every source symbol is rebuilt.

mod parhelion_plugin;
mod parhelion_window;

use parhelion_plugin::{Code, Encoder, Head, Outbox, Structure, Values};
use parhelion_window::{Blocks, Lost};

/// The code of this plugin.
pub struct XorParity;

parhelion_plugin::export_code!(XorParity);

impl Code for XorParity {
    type Encoder = XorEncoder;
    // Other decoders implement `Decoder`, and keep source symbols in a `Window`.
    type Decoder = Blocks;

    const DESCRIPTION: &'static str = r#"{
        "kind": "code",
        "name": "xor-parity",
        "version": 1,
        "parameters": [
            {"name": "r", "meaning": "source symbols in one XOR", "unit": "symbols", "min": 1, "max": 64, "default": [8]}
        ]
    }"#;

    fn structure(mut values: Values<'_>) -> Result<Structure, String> {
        Ok(Structure::block(values.number(), 1))
    }

    fn encoder(mut values: Values<'_>, symbol_bytes: usize) -> XorEncoder {
        XorEncoder {
            r: values.number() as u16,
            first: 0,
            count: 0,
            sum: Vec::with_capacity(symbol_bytes.max(1)),
        }
    }

    fn decoder(mut values: Values<'_>, symbol_bytes: usize) -> Blocks {
        Blocks::new(values.number(), 1, symbol_bytes, solve)
    }
}

/// The XOR of the `count` symbols since `first`.
pub struct XorEncoder {
    r: u16,
    first: u64,
    count: u16,
    sum: Vec<u8>,
}

impl Encoder for XorEncoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut Outbox) {
        if self.count == 0 {
            self.first = id;
            self.sum.clear();
        }
        // Shorter symbols count as if they ended in zeros; a repair has at least one byte.
        self.sum.resize(self.sum.len().max(payload.len()).max(1), 0);
        add(&mut self.sum, payload);
        self.count += 1;
        if self.count == self.r {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut Outbox) {
        if self.count > 0 {
            out.repair(Head { first: self.first, stride: 1, count: self.count, index: 0 }, &self.sum);
            self.count = 0;
        }
    }
}

/// The repair without the symbols that are there is the one that is not.
fn solve(lost: &Lost<'_>, rows: &mut [Vec<u8>]) {
    for symbol in lost.symbols() {
        add(&mut rows[0], symbol);
    }
}

/// Adds `symbol` to the start of `sum`, which is at least as long. In pieces, of which compilers make vector code without a
/// loop: a sandbox counts each turn of one.
fn add(sum: &mut [u8], symbol: &[u8]) {
    const PIECE: usize = 128;
    let (mut to, mut from) = (sum[..symbol.len()].chunks_exact_mut(PIECE), symbol.chunks_exact(PIECE));
    for (a, b) in (&mut to).zip(&mut from) {
        for k in 0..PIECE {
            a[k] ^= b[k];
        }
    }
    to.into_remainder().iter_mut().zip(from.remainder()).for_each(|(a, b)| *a ^= b);
}

//! Sliding window: every repair is a combination of the newest source symbols, in the manner of RFC 8681.
//!
//! Of each `r` source symbols follow `c` repairs, spread evenly, each a sum over GF(2^8) of the newest `window`
//! symbols times factors. There are no blocks: whatever is lost, the next repairs include it, and as soon as as
//! many of them have arrived as symbols are lost, all are rebuilt. Among the codes of this overhead none leaves
//! fewer losses (loss model, 3.3).
//!
//! ```text
//! r = 4, c = 2, window = 8; a flush behind symbol 10, indices = 3
//! source   0  1  2  3  4  5  6  7  8  9 10
//! repair  [0  1]
//! repair  [0  1  2  3]
//! repair  [0  1  2  3  4  5]
//! repair  [0  1  2  3  4  5  6  7]
//! repair        [2  3  4  5  6  7  8  9]
//! flush                     [6  7  8  9 10] [6  7  8  9 10] [6  7  8  9 10]
//! ```
//!
//! Four choices:
//!
//! - *Cauchy factors*, not pseudo-random ones (`Coefficients`). Repairs that include the same lost symbols are
//!   then always independent, where the random ones of RFC 8681 fail in one of 255 cases, too often beside a
//!   promise of 1e-9. Other repairs may still say nothing new: in bursts of 5 that lose 4.8 % one of 9000 does,
//!   with random factors one of 1500. The price is that a window and the repairs that meet in it are at most 256.
//! - *Factors from the head.* Repairs are numbered from symbol 0 on, so what a repair includes and its index
//!   tell its factors, and no seed is sent.
//! - *Narrow flushes.* A flush sends `indices` repairs over the symbols that fewer regular repairs include and
//!   that no flush has included: a block code for the append that waits for it, whatever else is lost. Over the
//!   whole window its repairs would be spent on older losses: on bursts of 5 an append of 4 symbols was lost
//!   behind its flush in 2.2 % of cases instead of 1.7 %, one of 8 at the end of 40 in 4.0 % instead
//!   of 3.0 %. Older losses are left to the regular repairs, which go on at the same rate behind a flush.
//! - *Repairs spread evenly*: in groups of three, more bursts take several of them, and a tenth more symbols
//!   stay lost with a window of 64.
//!
//! Encoding costs one pass over the window for each repair. The decoder keeps the equations about lost symbols
//! solved as far as they can be (`System`), so each symbol is rebuilt by the first packet that determines it;
//! nothing is done about repairs that include no lost symbol.
//!
//! # Guarantee
//! - *Repairs*: `e` repairs that include the same `e` lost symbols, and no other lost ones, rebuild all of
//!   them. (Every square part of a Cauchy matrix is invertible.)
//! - *Flushes*: of the symbols that a flush covers, fewer than `indices * r / c` (16 by default), and of its
//!   repairs any `indices` packets may be lost, whatever was lost before.
//! - *Losses*: any `n` packets of a stream may be lost, source or repair, for every `n <= indices` for which
//!   `(n (n - 1) / 2 + n) * r / c <= window`, each term rounded up: 6 by default.
//! - *Bursts*: while symbols keep coming, any burst of `b` consecutive source symbols with all repairs between
//!   them is rebuilt as long as `(window - b) * c / r >= b`: 34 by default.
//! - The last two hold for one such event within the decoder's window. Beyond them recovery is likely, not
//!   certain. Of 10 million symbols at the default overhead of 3/8, in bursts of 5 that lose 4.8 %: none stayed
//!   lost with a window of 128 in one run, 57 (one event) in another, 6.8e-4 with one of 64; in bursts of 10
//!   that lose 2 %, 1.8e-4 with one of 128; at 10 % independent loss, none with one of 64. Lost symbols of
//!   bursts of 5 were back 24 symbols later on average, 99 % of them within 101.
//! - A window helps against bursts of a quarter of it, or less. Of longer ones, more than it makes up for,
//!   nothing is rebuilt.

mod coefficients;
mod decoder;
mod encoder;
mod sum;
mod system;

use parhelion_plugin::{Decoder, Encoder, ErasureCode, Parameter, ParameterError, Parameters, Structure};

use crate::coefficients::{Coefficients, Shape};
use crate::decoder::WindowDecoder;
use crate::encoder::WindowEncoder;

/// The code of windows that overlap.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlidingWindow;

const R: Parameter = Parameter::number("r", "source symbols that have c repairs", "symbols", (1, 128), &[8]);

const C: Parameter = Parameter::number("c", "repairs for r source symbols", "symbols", (1, 64), &[3]);

const WINDOW: Parameter = Parameter::number(
    "window",
    "newest source symbols that a repair includes; some four times a long burst is best",
    "symbols",
    (1, 253),
    &[128],
);

const INDICES: Parameter = Parameter::number(
    "indices",
    "repairs behind a symbol that complete its coverage, and repairs of a flush",
    "symbols",
    (1, 64),
    &[6],
);

static SCHEMA: [Parameter; 4] = [R, C, WINDOW, INDICES];

impl SlidingWindow {
    fn settings(parameters: &Parameters) -> Result<(Shape, usize), ParameterError> {
        parameters.check(&SCHEMA)?;
        let shape = Shape {
            r: parameters.value(&R),
            c: parameters.value(&C),
            window: parameters.value(&WINDOW),
            indices: parameters.value(&INDICES),
        };
        let Shape { r, c, window, indices } = shape;
        if indices < shape.together() {
            return Err(ParameterError::Conflict(format!(
                "indices={indices} is below the {} repairs of c={c} for r={r} that leave together, which need one each; raise indices \
                 or lower c",
                shape.together()
            )));
        }
        if shape.coverage_symbols() > window {
            return Err(ParameterError::Conflict(format!(
                "window={window} ends before a symbol has indices={indices} repairs, c={c} for r={r} symbols; raise window to {}, or \
                 lower indices or r",
                shape.coverage_symbols()
            )));
        }
        if !shape.fits_the_field() {
            return Err(ParameterError::Conflict(format!(
                "window={window} and the repairs that meet in it, indices={indices} and c={c} for r={r} symbols, are {} points of a \
                 field that has 256; lower window",
                shape.points()
            )));
        }
        let structure = Structure::Window { r, c, window, indices };
        let Some(remembered) = structure.window_symbols() else {
            return Err(ParameterError::Conflict(format!(
                "window={window} is more than a decoder remembers; lower it"
            )));
        };
        Ok((shape, remembered))
    }
}

impl ErasureCode for SlidingWindow {
    fn name(&self) -> &str {
        "sliding-window"
    }

    fn version(&self) -> u32 {
        1
    }

    fn parameters(&self) -> &[Parameter] {
        &SCHEMA
    }

    fn structure(&self, parameters: &Parameters) -> Result<Structure, ParameterError> {
        let (Shape { r, c, window, indices }, _) = Self::settings(parameters)?;
        Ok(Structure::Window { r, c, window, indices })
    }

    fn encoder(
        &self,
        parameters: &Parameters,
        symbol_bytes: usize,
    ) -> Result<Box<dyn Encoder>, ParameterError> {
        let (shape, _) = Self::settings(parameters)?;
        Ok(Box::new(WindowEncoder::new(Coefficients::new(shape), symbol_bytes)))
    }

    fn decoder(
        &self,
        parameters: &Parameters,
        symbol_bytes: usize,
    ) -> Result<Box<dyn Decoder>, ParameterError> {
        let (shape, remembered) = Self::settings(parameters)?;
        Ok(Box::new(WindowDecoder::new(Coefficients::new(shape), remembered, symbol_bytes)))
    }
}

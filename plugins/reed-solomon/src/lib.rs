//! Reed-Solomon: any `r` of the `r + c` symbols of a block rebuild it.
//!
//! A systematic code over GF(2^8) with the matrix of the crate `reed-solomon-erasure` (a Vandermonde matrix made
//! systematic), whose field and byte kernels do the arithmetic. Repairs are byte for byte those of that
//! crate. Around it stands what a stream needs and a block codec lacks:
//!
//! - *Incremental encoding*: each source symbol is multiplied into its block's parity as it comes. The last
//!   one leaves little to do, so the acknowledgement that waits for the repairs does not wait for a block.
//! - *Interleaving* (`depth` d): d blocks take turns, symbol by symbol. Their repairs follow row by row, in the
//!   same turns, so that any two neighbours of a block are d packets apart on the wire, repairs included.
//!   Sent block by block, a block's last symbol and its repairs would be adjacent, and a burst of `c + 1`
//!   packets fatal at any depth.
//! - *Shortened blocks*: a flush ends the blocks at the k symbols that they have. The others count as zeros, so
//!   the same matrix serves, and the cover of a repair tells the decoder which there are.
//! - *Small solves*: with e symbols lost, e repairs make an e by e system. It is solved in place, on coefficients and
//!   repair bytes at once; the r by r inverse, which costs most of a decode elsewhere, is never formed.
//!
//! # Guarantee
//! - Any `c` packets of the `k + c` of a block may be lost, source or repair, and every source symbol is
//!   rebuilt. Nothing less than that many is needed and nothing more is promised: the code is maximum
//!   distance separable.
//! - Any burst of `c * depth` packets is rebuilt while symbols keep coming. Among blocks that a flush cut short
//!   at n symbols in all, it is `c * min(n, depth)`.
//! - Interleaving helps against bursts, not against losses in step with it: with a period that shares a factor
//!   with `depth` they meet in few blocks. Independent losses are indifferent to it.
//! - Both hold for blocks within the decoder's window.

mod decoder;
mod encoder;
mod matrix;

use parhelion_plugin::{Decoder, Encoder, ErasureCode, Parameter, ParameterError, Parameters, Structure};

use crate::decoder::BlockDecoder;
use crate::encoder::BlockEncoder;
use crate::matrix::ParityMatrix;

/// The code of blocks with `c` repairs each.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReedSolomon;

const R: Parameter = Parameter::number("r", "source symbols in a block", "symbols", (1, 254), &[8]);

const C: Parameter = Parameter::number("c", "repair symbols for a block", "symbols", (1, 64), &[3]);

const DEPTH: Parameter =
    Parameter::number("depth", "blocks that take turns; 1 is no interleaving", "blocks", (1, 4096), &[1]);

static SCHEMA: [Parameter; 3] = [R, C, DEPTH];

/// Symbols of the field: GF(2^8) less one, as the matrix needs a distinct point for each.
const BLOCK_SYMBOLS_MAX: u32 = 255;

struct Settings {
    r: u32,
    c: u32,
    depth: u32,
    window: usize,
}

impl ReedSolomon {
    fn settings(parameters: &Parameters) -> Result<Settings, ParameterError> {
        parameters.check(&SCHEMA)?;
        let (r, c, depth) = (parameters.value(&R), parameters.value(&C), parameters.value(&DEPTH));
        if r + c > BLOCK_SYMBOLS_MAX {
            return Err(ParameterError::Conflict(format!(
                "r={r} and c={c} make a block of {}; a block has at most {BLOCK_SYMBOLS_MAX} symbols, so lower one",
                r + c
            )));
        }
        let Some(window) = (Structure::Block { r, c, depth }).window_symbols() else {
            return Err(ParameterError::Conflict(format!(
                "r={r} at depth={depth} spans {} symbols, more than a decoder remembers; lower one of them",
                u64::from(r) * u64::from(depth)
            )));
        };
        Ok(Settings { r, c, depth, window })
    }
}

impl ErasureCode for ReedSolomon {
    fn name(&self) -> &str {
        "reed-solomon"
    }

    fn version(&self) -> u32 {
        1
    }

    fn parameters(&self) -> &[Parameter] {
        &SCHEMA
    }

    fn structure(&self, parameters: &Parameters) -> Result<Structure, ParameterError> {
        let Settings { r, c, depth, .. } = Self::settings(parameters)?;
        Ok(Structure::Block { r, c, depth })
    }

    fn encoder(
        &self,
        parameters: &Parameters,
        symbol_bytes: usize,
    ) -> Result<Box<dyn Encoder>, ParameterError> {
        let Settings { r, c, depth, .. } = Self::settings(parameters)?;
        Ok(Box::new(BlockEncoder::new(ParityMatrix::new(r, c), depth as usize, symbol_bytes)))
    }

    fn decoder(
        &self,
        parameters: &Parameters,
        symbol_bytes: usize,
    ) -> Result<Box<dyn Decoder>, ParameterError> {
        let Settings { r, c, depth, window } = Self::settings(parameters)?;
        Ok(Box::new(BlockDecoder::new(ParityMatrix::new(r, c), depth as u16, window, symbol_bytes)))
    }
}

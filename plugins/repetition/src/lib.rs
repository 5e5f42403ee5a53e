//! Repetition: every source symbol is sent again, later.
//!
//! SMFS section 3 names "sending each packet twice" as the simplest redundancy. Sent back to back, both
//! copies fall into the same burst; so copy `k` of a symbol leaves `k * spacing` source symbols after it,
//! which is what makes repetition worth its overhead of `copies` on bursty links (loss model, R6).
//!
//! ```text
//! copies = 2, spacing = 2     wire: 0 1 2 0' 3 1' 4 2' 0" 5 3' 1" ...
//! ```
//!
//! The encoder keeps the last `copies * spacing` symbols in a ring. The decoder keeps no symbol, only one
//! bit for each id of its window: a copy needs no help to be read.
//!
//! # Guarantee
//! - Any `copies` packets of a stream may be lost, whichever they are.
//! - While symbols keep coming, any burst of `copies * spacing` consecutive source symbols, with all
//!   copies sent between them, may be lost: the last copy of each leaves after the burst.
//! - A flush sends the outstanding copies at once, all first copies before all second ones. From then on
//!   only the first promise holds for them, since no later traffic separates them.

mod decoder;
mod encoder;

use parhelion_plugin::{Decoder, Encoder, ErasureCode, Parameter, ParameterError, Parameters, Structure};

use crate::decoder::RepetitionDecoder;
use crate::encoder::RepetitionEncoder;

/// The code that sends each source symbol again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Repetition;

const COPIES_MAX: u32 = 16;
const SPACING_MAX: u32 = 2048;

const COPIES: Parameter =
    Parameter::number("copies", "how often each symbol is sent again", "copies", (1, COPIES_MAX), &[1]);

/// The default outlasts bursts that a dropped super-packet of segmentation offload makes (64 packets).
const SPACING: Parameter = Parameter::number(
    "spacing",
    "distance between one copy and the next",
    "symbols",
    (1, SPACING_MAX),
    &[64],
);

static SCHEMA: [Parameter; 2] = [COPIES, SPACING];

impl Repetition {
    fn settings(parameters: &Parameters) -> Result<(u32, u32), ParameterError> {
        parameters.check(&SCHEMA)?;
        Ok((parameters.value(&COPIES), parameters.value(&SPACING)))
    }
}

impl ErasureCode for Repetition {
    fn name(&self) -> &str {
        "repetition"
    }

    fn version(&self) -> u32 {
        1
    }

    fn parameters(&self) -> &[Parameter] {
        &SCHEMA
    }

    fn structure(&self, parameters: &Parameters) -> Result<Structure, ParameterError> {
        let (copies, spacing) = Self::settings(parameters)?;
        Ok(Structure::Repetition { copies, spacing })
    }

    fn encoder(
        &self,
        parameters: &Parameters,
        symbol_bytes: usize,
    ) -> Result<Box<dyn Encoder>, ParameterError> {
        let (copies, spacing) = Self::settings(parameters)?;
        Ok(Box::new(RepetitionEncoder::new(copies, spacing, symbol_bytes)))
    }

    fn decoder(
        &self,
        parameters: &Parameters,
        symbol_bytes: usize,
    ) -> Result<Box<dyn Decoder>, ParameterError> {
        let (copies, _) = Self::settings(parameters)?;
        let window = self.structure(parameters)?.window_symbols().ok_or_else(window_exceeded)?;
        Ok(Box::new(RepetitionDecoder::new(copies, window, symbol_bytes)))
    }
}

/// Not reached with the ranges above, which the constant below proves; kept as an error all the same.
fn window_exceeded() -> ParameterError {
    ParameterError::Conflict(
        "copies times spacing exceeds the decoder's window; lower one of them".to_owned(),
    )
}

const _: () = assert!(
    2 * COPIES_MAX as usize * SPACING_MAX as usize <= parhelion_types::limits::DECODER_WINDOW_SYMBOLS_MAX,
    "every pair of values within the ranges fits the decoder's window"
);

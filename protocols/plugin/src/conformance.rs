//! The conformance kit: what every code must pass, driven by the code's own tests.
//!
//! [`check`] holds a code against its own [`Structure`](crate::Structure): coverage, losses, bursts, order, sizes, a change
//! of epoch, expiry, damage and a long stream. It has no clock and no randomness of its own: a seed reproduces every
//! figure of a [`Report`] and every [`Violation`]. [`Examination`] has a quick form, for the moment when a plugin is loaded,
//! and looks at memory. A code's tests add what is special to it with [`Traffic`] and [`Stream`]. [`check_model`] is the
//! same for durability models.
//!
//! What the kit asks of a structure is what the durability models build on:
//!
//! - *Coverage*: with index `i` of a symbol's coverage on the wire, that repair alone rebuilds the symbol
//!   when nothing else is lost.
//! - *Losses*: any [`losses_recovered`] packets of the whole stream may be lost, source or repair.
//! - *Bursts*: any burst of [`burst_recovered`] may be lost.
//! - *Order*: the same packets give the same symbols, in whatever order they come.
//! - *Epochs*: a code that is flushed needs nothing of what follows, and a new one begins at any id.
//! - *Truth*: no symbol is ever reported with other bytes than were sent, twice, or after it arrived.

mod arrivals;
mod claims;
mod damage;
mod endurance;
mod examination;
mod losses;
mod model;
mod random;
mod repairs;
mod stream;
mod trial;

pub use claims::{Burst, burst_recovered, losses_recovered};
pub use examination::{Effort, Examination, Memory, Step};
pub use model::{ModelReport, ModelViolation, check_model};
pub use random::SplitMix64;
pub use stream::{Packet, PacketKind, Stream, Traffic};

use crate::code::ErasureCode;
use crate::parameters::Parameters;

/// What a passing [`check`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Streams that were encoded.
    pub streams: u64,
    /// Loss patterns that were decoded.
    pub patterns: u64,
    /// Source symbols that were rebuilt, each compared with what was sent.
    pub recovered: u64,
    /// Repair symbols with an impossible head or size that were refused.
    pub refused: u64,
    /// Whether every loss pattern within the guarantee was tried on the short streams, not a sample.
    pub exhaustive: bool,
}

/// A promise that a code broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("code {code} ({parameters}) fails conformance, {promise}: {detail}; reproduce with seed {seed}")]
pub struct Violation {
    /// Name of the code.
    pub code: String,
    /// Parameters as text.
    pub parameters: String,
    /// Which promise.
    pub promise: &'static str,
    /// What happened instead.
    pub detail: String,
    /// The seed of the run.
    pub seed: u64,
}

/// Holds `code` with `parameters` against its structure, with full [`Effort`].
///
/// # Errors
/// The first promise that is broken.
pub fn check(code: &dyn ErasureCode, parameters: &Parameters, seed: u64) -> Result<Report, Violation> {
    Examination::new(seed, Effort::Full).run(code, parameters)
}

/// As [`check`], with quick [`Effort`].
///
/// # Errors
/// The first promise that is broken.
pub fn check_quickly(
    code: &dyn ErasureCode,
    parameters: &Parameters,
    seed: u64,
) -> Result<Report, Violation> {
    Examination::new(seed, Effort::Quick).run(code, parameters)
}

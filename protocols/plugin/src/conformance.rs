//! The conformance kit: what every code must pass, driven by the code's own tests.
//!
//! [`check`] holds a code against its own [`Structure`]: coverage, losses, bursts, order, sizes, expiry and
//! damage. It has no clock and no randomness of its own: a seed reproduces every figure of a [`Report`] and
//! every [`Violation`]. A code's tests add what is special to it with [`Traffic`] and [`Stream`].
//!
//! What the kit asks of a structure is what the durability models build on:
//!
//! - *Coverage*: with index `i` of a symbol's coverage on the wire, that repair alone rebuilds the symbol
//!   when nothing else is lost.
//! - *Losses*: any [`losses_recovered`] packets of the whole stream may be lost, source or repair.
//! - *Bursts*: any burst of [`burst_recovered`] may be lost.
//! - *Order*: the same packets give the same symbols, in whatever order they come.
//! - *Truth*: no symbol is ever reported with other bytes than were sent, twice, or after it arrived.

mod checks;
mod random;
mod stream;

pub use random::SplitMix64;
pub use stream::{Packet, PacketKind, Stream, Traffic};

use crate::code::{ErasureCode, Structure};
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
    pub code: &'static str,
    /// Parameters as text.
    pub parameters: String,
    /// Which promise.
    pub promise: &'static str,
    /// What happened instead.
    pub detail: String,
    /// The seed of the run.
    pub seed: u64,
}

/// Holds `code` with `parameters` against its structure.
///
/// # Errors
/// The first promise that is broken.
pub fn check(code: &dyn ErasureCode, parameters: &Parameters, seed: u64) -> Result<Report, Violation> {
    let violation = |promise, detail| Violation {
        code: code.name(),
        parameters: parameters.to_string(),
        promise,
        detail,
        seed,
    };
    let mut trial = checks::Trial::new(code, parameters, seed).map_err(|e| violation("parameters", e))?;
    for (promise, run) in checks::ALL {
        run(&mut trial).map_err(|detail| violation(promise, detail))?;
    }
    Ok(trial.report)
}

/// How many packets of a stream may be lost, whichever they are, and still every source symbol is rebuilt.
///
/// For layered interleaving this is the number of layers when no two source symbols share two XORs, which
/// relatively prime interleaves ensure; otherwise one.
#[must_use]
pub fn losses_recovered(structure: &Structure) -> u32 {
    match structure {
        Structure::Layered { r, interleaves, .. } => {
            let reach = u64::from(r.saturating_sub(1));
            let shares_two = |a: u32, b: u32| lcm(a, b) <= reach * u64::from(a.min(b));
            let mut pairs = interleaves
                .iter()
                .enumerate()
                .flat_map(|(n, &a)| interleaves[..n].iter().map(move |&b| (a, b)));
            if pairs.any(|(a, b)| shares_two(a, b)) { 1 } else { structure.repairs_per_symbol() }
        }
        _ => structure.repairs_per_symbol(),
    }
}

/// A run of packets that are lost together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Burst {
    /// So many consecutive source symbols, with every repair sent before, between and after them until
    /// the next source symbol.
    Sources(u64),
    /// So many consecutive packets of any kind.
    Packets(u64),
}

/// The longest burst that is always rebuilt while symbols keep coming.
#[must_use]
pub fn burst_recovered(structure: &Structure) -> Burst {
    match structure {
        Structure::None => Burst::Packets(0),
        Structure::Repetition { copies, spacing } => Burst::Sources(u64::from(*copies) * u64::from(*spacing)),
        Structure::Block { c, depth, .. } => Burst::Packets(u64::from(*c) * u64::from(*depth)),
        Structure::Layered { interleaves, delayed: true, .. } => {
            Burst::Sources(u64::from(interleaves.last().copied().unwrap_or(0)))
        }
        Structure::Layered { .. } => Burst::Packets(u64::from(losses_recovered(structure))),
    }
}

fn lcm(a: u32, b: u32) -> u64 {
    let (mut x, mut y) = (u64::from(a), u64::from(b));
    while y != 0 {
        (x, y) = (y, x % y);
    }
    u64::from(a) / x.max(1) * u64::from(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layered(r: u32, interleaves: &[u32]) -> Structure {
        Structure::Layered { r, interleaves: interleaves.to_vec(), delayed: false }
    }

    #[test]
    fn layers_that_share_symbols_promise_less() {
        assert_eq!(losses_recovered(&layered(8, &[1, 11, 101])), 3);
        assert_eq!(losses_recovered(&layered(8, &[1, 10, 100])), 3);
        assert_eq!(losses_recovered(&layered(8, &[1, 20, 40])), 1);
        assert_eq!(losses_recovered(&layered(8, &[1, 7])), 1);
        assert_eq!(losses_recovered(&layered(7, &[1, 7])), 2);
    }

    #[test]
    fn bursts_follow_the_structure() {
        assert_eq!(burst_recovered(&Structure::Block { r: 8, c: 3, depth: 10 }), Burst::Packets(30));
        assert_eq!(burst_recovered(&layered(8, &[1, 11])), Burst::Packets(2));
        assert_eq!(burst_recovered(&Structure::Repetition { copies: 2, spacing: 5 }), Burst::Sources(10));
    }
}

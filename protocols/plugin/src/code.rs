//! Erasure codes: source symbols in, repair symbols out; and back.

use std::fmt;

use parhelion_types::limits::DECODER_WINDOW_SYMBOLS_MAX;

use crate::parameters::{Parameter, ParameterError, Parameters};

/// A family of erasure codes, such as Reed-Solomon; makes encoders and decoders for given parameters.
pub trait ErasureCode: Send + Sync + fmt::Debug {
    /// The name in configuration and in the handshake between sites.
    fn name(&self) -> &str;

    /// Both sites must agree on it: it changes whenever the same parameters give other repair symbols.
    fn version(&self) -> u32;

    /// The parameters with their ranges, units and defaults.
    fn parameters(&self) -> &[Parameter];

    /// What these parameters mean for coverage and for the models.
    ///
    /// # Errors
    /// Names the parameter that is unknown, missing or out of range.
    fn structure(&self, parameters: &Parameters) -> Result<Structure, ParameterError>;

    /// An encoder for symbols of at most `symbol_bytes` bytes.
    ///
    /// # Errors
    /// As [`ErasureCode::structure`].
    fn encoder(
        &self,
        parameters: &Parameters,
        symbol_bytes: usize,
    ) -> Result<Box<dyn Encoder>, ParameterError>;

    /// The decoder that undoes that encoder.
    ///
    /// # Errors
    /// As [`ErasureCode::structure`].
    fn decoder(
        &self,
        parameters: &Parameters,
        symbol_bytes: usize,
    ) -> Result<Box<dyn Decoder>, ParameterError>;
}

/// The shape of a code with its parameters: all that coverage and the closed-form models need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Structure {
    /// No repair symbols.
    None,
    /// Every source symbol is sent again `copies` times, each `spacing` source symbols after the last.
    Repetition {
        /// Repair symbols per source symbol.
        copies: u32,
        /// Source symbols between one copy and the next.
        spacing: u32,
    },
    /// A block code: any `r` of `r + c` symbols rebuild the block (maximum distance separable).
    Block {
        /// Source symbols per block.
        r: u32,
        /// Repair symbols per block.
        c: u32,
        /// Blocks that take turns, symbol by symbol; 1 is no interleaving. Their repairs leave row by row, in the
        /// same turns, so that the packets of a block stay this far apart. A flush of fewer symbols has as many
        /// blocks as symbols, and their repairs stay that far apart.
        depth: u32,
    },
    /// Layered interleaving (Maelstrom): one XOR family per layer, each over `r` symbols that lie the
    /// layer's interleave apart.
    Layered {
        /// Source symbols per XOR.
        r: u32,
        /// One entry per layer, ascending.
        interleaves: Vec<u32>,
        /// Whether a repair symbol leaves one interleave later than it could (`maelstrom.md`, A.2, 4).
        delayed: bool,
    },
    /// A sliding window (RFC 8681): of each `r` source symbols follow `c` repairs, spread evenly, each a combination over GF(2^8) of
    /// the newest `window` source symbols. Repairs take the indices in turn, so a symbol is covered completely when `indices` repairs
    /// have left behind it, which is also what a flush sends, over the symbols that are not covered completely and no others.
    /// Any repairs that all include the same lost symbols, and no other lost ones, rebuild as many as they are.
    Window {
        /// Source symbols that have `c` repairs.
        r: u32,
        /// Repairs for `r` source symbols.
        c: u32,
        /// Source symbols that a repair includes, at most.
        window: u32,
        /// Repair indices; repairs of a flush.
        indices: u32,
    },
    /// Another code, of which no closed form is known here: only models that play the decoder can price it.
    Other {
        /// Repair symbols that include a given source symbol, at most 64.
        repairs: u32,
        /// Source symbols of which `repairs` are the repairs in steady state.
        per: u32,
        /// What [`Structure::span_symbols`] answers.
        span: u32,
        /// Losses, whichever they are, that a decoder makes up for in a whole stream.
        losses: u32,
    },
}

impl Structure {
    /// Repair symbols that include a given source symbol when its coverage is complete; at most 64.
    #[must_use]
    pub fn repairs_per_symbol(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::Repetition { copies, .. } => *copies,
            Self::Block { c, .. } => *c,
            Self::Layered { interleaves, .. } => u32::try_from(interleaves.len()).unwrap_or(u32::MAX),
            Self::Window { indices, .. } => *indices,
            Self::Other { repairs, .. } => *repairs,
        }
    }

    /// Set of the repair indices that cover a symbol completely: bit `i` stands for index `i`.
    #[must_use]
    pub fn full_coverage(&self) -> u64 {
        match self.repairs_per_symbol() {
            n @ 0..=63 => (1 << n) - 1,
            _ => u64::MAX,
        }
    }

    /// Source symbols between the first symbol of a group and the moment its last repair has left,
    /// when symbols keep coming. A decoder must remember at least this many.
    #[must_use]
    pub fn span_symbols(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Repetition { copies, spacing } => u64::from(*copies) * u64::from(*spacing),
            Self::Block { r, depth, .. } => u64::from(*r) * u64::from(*depth),
            Self::Layered { r, interleaves, delayed } => {
                let widest = u64::from(interleaves.last().copied().unwrap_or(1));
                widest * (u64::from(*r) + u64::from(*delayed))
            }
            Self::Window { window, .. } => u64::from(*window),
            Self::Other { span, .. } => u64::from(*span),
        }
    }

    /// Source symbols between two flushes beyond which a longer run changes nothing about the repairs that the latter
    /// sends: by then every lane has one, or older symbols have what they need.
    #[must_use]
    pub fn flush_run_max(&self) -> u32 {
        match self {
            Self::Layered { interleaves, .. } => interleaves.last().copied().unwrap_or(1),
            Self::Block { depth, .. } => *depth,
            Self::Repetition { spacing, .. } => *spacing,
            Self::Window { r, c, indices, .. } => indices.saturating_mul(*r).div_ceil((*c).max(1)),
            Self::None | Self::Other { .. } => 1,
        }
    }

    /// Whether a flush gains by a pause between one repair index and the next. It does where each repair
    /// alone can rebuild a symbol: the farther apart they are, the better. A block code needs several
    /// of them at once, and a pause may take these into one more burst.
    #[must_use]
    pub fn gains_by_pauses(&self) -> bool {
        matches!(self, Self::Repetition { .. } | Self::Layered { .. } | Self::Window { .. })
    }

    /// Source symbols that a decoder remembers behind the newest one; a power of two.
    ///
    /// Twice the span, since a cascade of rebuilt symbols reaches back further than one group (Maelstrom
    /// needs about 2 r i packets), and at least 1024, which outlasts reordering between paths. Above
    /// [`DECODER_WINDOW_SYMBOLS_MAX`] there is none: such parameters are refused.
    #[must_use]
    pub fn window_symbols(&self) -> Option<usize> {
        let window = self.span_symbols().saturating_mul(2).max(1024).checked_next_power_of_two()?;
        usize::try_from(window).ok().filter(|&window| window <= DECODER_WINDOW_SYMBOLS_MAX)
    }

    /// Repair bytes per source byte in steady state.
    #[must_use]
    pub fn overhead(&self) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Repetition { copies, .. } => f64::from(*copies),
            Self::Block { r, c, .. } => f64::from(*c) / f64::from(*r),
            Self::Layered { r, interleaves, .. } => interleaves.len() as f64 / f64::from(*r),
            Self::Window { r, c, .. } => f64::from(*c) / f64::from(*r),
            Self::Other { repairs, per, .. } => f64::from(*repairs) / f64::from((*per).max(1)),
        }
    }
}

/// The source symbols that one repair symbol includes: `first`, `first + stride`, ..., `count` of them.
///
/// An arithmetic progression is enough for every systematic code here, so sixteen bytes of packet
/// header describe any repair symbol and no list of ids is ever sent (`maelstrom.md`, A.2, 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cover {
    /// Id of the first source symbol.
    pub first: u64,
    /// Distance between neighbours; at least 1.
    pub stride: u16,
    /// Number of source symbols; at least 1.
    pub count: u16,
}

impl Cover {
    /// The ids, ascending.
    pub fn ids(self) -> impl Iterator<Item = u64> + Clone {
        (0..u64::from(self.count)).map(move |k| self.first + k * u64::from(self.stride))
    }

    /// The last id.
    #[must_use]
    pub fn last(self) -> u64 {
        self.first + u64::from(self.count.saturating_sub(1)) * u64::from(self.stride)
    }
}

/// What a repair symbol says of itself; it travels in the datagram header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairHead {
    /// The source symbols it includes.
    pub cover: Cover,
    /// Which repair of those symbols it is: layer, parity row or copy. Below
    /// [`Structure::repairs_per_symbol`].
    pub index: u8,
}

/// Takes repair symbols as they fire.
pub trait RepairSink {
    /// One repair symbol. The payload is borrowed: copy it into the datagram that will carry it.
    fn repair(&mut self, head: RepairHead, payload: &[u8]);
}

/// Takes source symbols that were rebuilt.
pub trait RecoveredSink {
    /// One rebuilt source symbol, padded with zeros to the longest symbol of its group: a symbol must
    /// carry its own length.
    fn recovered(&mut self, id: u64, payload: &[u8]);
}

/// Turns a stream of source symbols into repair symbols.
pub trait Encoder: Send {
    /// Takes the next source symbol, which is on the wire before any repair that this call gives. Ids
    /// rise by one; the first may be any number. Repair symbols that are due go to `out`.
    ///
    /// # Panics
    /// The payload is longer than the `symbol_bytes` that the encoder was made for, or the id does not
    /// follow its predecessor: a mistake of the caller, which no decoder could undo.
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RepairSink);

    /// Completes the coverage of every symbol given so far: partial groups fire and delayed repairs
    /// leave, so that an append never waits for later traffic (`targets.md`, trap 1).
    fn flush(&mut self, out: &mut dyn RepairSink);

    /// Why it gives no more repairs, if it broke: what a sandbox does to a plugin that loops or traps. The link then goes
    /// on with a built-in code.
    fn fault(&self) -> Option<&str> {
        None
    }
}

/// Rebuilds lost source symbols. Symbols come in any order, some twice, some late.
pub trait Decoder: Send {
    /// Takes a source symbol that arrived. What it makes solvable goes to `out`.
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RecoveredSink);

    /// Takes a repair symbol that arrived. What it makes solvable goes to `out`.
    ///
    /// # Errors
    /// A head that no encoder with these parameters writes, or a payload of an impossible size. The
    /// symbol is ignored, and the decoder stays as it was.
    fn repair(
        &mut self,
        head: RepairHead,
        payload: &[u8],
        out: &mut dyn RecoveredSink,
    ) -> Result<(), SymbolError>;

    /// Gives up the symbols below `id`: they are at the application, or no longer wanted. None of them
    /// is reported from now on. What arrived of them still serves to rebuild later symbols of their
    /// groups, as long as it lies in the window, so expiring early costs no recovery.
    fn expire(&mut self, id: u64);

    /// Why it rebuilds nothing any more, if it broke; see [`Encoder::fault`].
    fn fault(&self) -> Option<&str> {
        None
    }
}

/// A repair symbol that no encoder of this code and these parameters could have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SymbolError {
    /// The payload is empty or longer than a symbol.
    #[error("repair payload of {bytes} bytes; a symbol has 1 to {max}")]
    Length {
        /// What came.
        bytes: usize,
        /// Largest symbol.
        max: usize,
    },
    /// The payload is not as long as the longest symbol of its group.
    #[error("repair payload of {bytes} bytes, but its group needs {group}; it was truncated")]
    Inconsistent {
        /// What came.
        bytes: usize,
        /// What the rest of the group asks for.
        group: usize,
    },
    /// The cover or the index does not fit the parameters.
    #[error("repair head {0:?} does not fit the code's parameters")]
    Head(RepairHead),
    /// It reaches further than the decoder remembers.
    #[error("repair head {0:?} lies outside the decoder's window")]
    Window(RepairHead),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_are_arithmetic_progressions() {
        let cover = Cover { first: 5, stride: 11, count: 3 };
        assert_eq!(cover.ids().collect::<Vec<_>>(), [5, 16, 27]);
        assert_eq!(cover.last(), 27);
    }

    #[test]
    fn structures_know_their_cost() {
        let layered = Structure::Layered { r: 8, interleaves: vec![1, 11, 101], delayed: true };
        assert_eq!(layered.repairs_per_symbol(), 3);
        assert_eq!(layered.full_coverage(), 0b111);
        assert_eq!(layered.span_symbols(), 909);
        assert_eq!(layered.flush_run_max(), 101);
        assert_eq!(layered.window_symbols(), Some(2048));
        assert!((layered.overhead() - 0.375).abs() < 1e-12);
        let wide = Structure::Block { r: 128, c: 64, depth: 1 };
        assert_eq!(wide.full_coverage(), u64::MAX);
        assert_eq!(wide.window_symbols(), Some(1024));
        assert_eq!(Structure::Block { r: 128, c: 8, depth: 512 }.window_symbols(), None);
    }
}

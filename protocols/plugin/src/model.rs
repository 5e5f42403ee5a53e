//! Durability models: how likely is it that what is on the wire is not enough?

use std::fmt;

use parhelion_types::Risk;

use crate::channel::Channel;
use crate::chosen::Code;

/// What of an append is exposed to the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exposure {
    /// Source symbols of the append; at least 1.
    pub symbols: u32,
    /// Repair indices that are on the wire for *every* source symbol of the append: bit `i` stands for
    /// [`RepairHead::index`](crate::RepairHead) `i`.
    pub coverage: u64,
    /// Most source symbols that any of those repairs includes; smaller than the code's `r` after a
    /// flush. 0 where nothing covers the append.
    pub group_max: u32,
    /// Repair indices that at least one of the symbols got from a flush: their repair symbols left behind
    /// the last source symbol, those of one index in a row, not at the distances of the code. Bits beyond
    /// `coverage` say nothing.
    pub flushed: u64,
    /// Source symbols that the encoder took between two flushes, the latter of which sent a repair of
    /// `flushed`; the fewest of all such flushes, and at most [`Structure::flush_run_max`](crate::Structure::flush_run_max). 0 where
    /// `flushed` is empty.
    pub flush_run: u32,
    /// Packet times of the link that a flush waits between what it sends of one repair index and of the
    /// next; the fewest of all such flushes. 0 where they leave in a row, and where `flushed` is empty.
    pub flush_pause: u32,
}

impl Exposure {
    /// An append whose groups all ended as the code ends them, in a stream that goes on.
    #[must_use]
    pub fn steady(symbols: u32, coverage: u64, group_max: u32) -> Self {
        Self { symbols, coverage, group_max, flushed: 0, flush_run: 0, flush_pause: 0 }
    }

    /// Repairs that cover every symbol.
    #[must_use]
    pub fn repairs(&self) -> u32 {
        self.coverage.count_ones()
    }
}

/// Bounds the risk that an append is lost when the sender dies with what is on the wire.
///
/// # Guarantee
/// The figure is an upper bound whenever the channel lies within the bounds of [`Channel`] and obeys
/// the model's own assumption, which its documentation states. More loss, longer bursts, more symbols,
/// less coverage, more of it from flushes, shorter runs between them or shorter pauses in them never lower the
/// figure. (A flush of a sliding window is a code of its own: there, more from flushes and shorter runs may be better
/// or worse.)
pub trait DurabilityModel: Send + Sync + fmt::Debug {
    /// The name in configuration, acknowledgements and traces.
    fn name(&self) -> &str;

    /// Changes whenever the same input gives another figure.
    fn version(&self) -> u32;

    /// P(at least one source symbol of the append neither arrives nor can be rebuilt). Asked for every append: it must
    /// answer within microseconds, from what it has. What it has not figured yet is certain loss, or a bound that needs no
    /// work.
    fn own_risk(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> Risk;

    /// Does a piece of the work that questions left to be done, some ten milliseconds of it; whether there is more. Called
    /// again and again by a thread that has nothing else to do, beside questions.
    fn work(&self) -> bool {
        false
    }

    /// Rises whenever [`work`](Self::work) has changed an answer: whoever remembers answers forgets them then.
    fn edition(&self) -> u64 {
        0
    }

    /// What keeps the figure from being smaller, for people: too little telemetry, work that is not done yet.
    fn explain(&self, _channel: &Channel, _code: &Code, _exposure: &Exposure) -> Option<String> {
        None
    }

    /// Why every figure is certain loss from now on, if the model broke or answered what is no probability; see
    /// [`Encoder::fault`](crate::Encoder::fault).
    fn fault(&self) -> Option<&str> {
        None
    }
}

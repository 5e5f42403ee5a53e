//! Durability model for links that lose packets in bursts (Gilbert 1960, Elliott 1963).
//!
//! The channel is good or bad in each packet slot and moves between the two as a Markov chain; packets are
//! lost in the bad state only. Formulas for independent losses are wrong by factors of 100 to 1e8 on such a
//! link (loss model, section 0); these are exact for block codes, and bounds for the rest.
//!
//! # Guarantee
//! If the link is a Gilbert-Elliott channel within the bounds of [`Channel`], the figure is an upper bound
//! on P(some source symbol of the append neither arrives nor can be rebuilt) from the repair symbols of
//! [`Exposure::coverage`] alone: nothing that leaves later is counted on. It supposes of the wire that
//!
//! - source symbols leave in the order of their ids, and the repairs of a group leave behind its last symbol;
//! - packets of other groups lie between two packets of a block only as the code's own interleaving
//!   puts them there. Where losses come in bursts much longer than a block, packets that something else
//!   spreads out (a catch-up of resent symbols in between) meet more bursts than the figure allows for;
//! - blocks that take turns send their repairs row by row, in the same turns ([`Structure::Block`]);
//! - a flush of repetition sends all first copies, oldest symbol first, then all second ones;
//! - in layered interleaving, a flush sends its repairs layer by layer with the narrowest first, one per lane,
//!   in the order of the lanes' last symbols; nothing is supposed of the place of a symbol in its groups;
//! - in a sliding window, a flush includes the symbols that lack regular repairs and no older ones, and none comes
//!   between two symbols of an append. Of the repairs that arrive, but include different lost symbols, one in 128 at most says
//!   nothing new: random ones, one in 256. This is the one thing here that is measured and not proved;
//! - the channel changes with time: while nothing is sent it goes on as if packets passed at the link's rate
//!   (the wall-clock version of the loss model, section 3.1), so a pause in a flush is worth its slots.
//!
//! | code | figure | quality |
//! | --- | --- | --- |
//! | none, or no coverage | the append's packets and those between them all arrive | exact where none is between |
//! | block, depth 1 | R3 and R4 (loss model, section 3.2) at the append's worst offset | exact at that offset |
//! | block, deeper | R4 with packets `depth` slots apart; blocks as if independent | exact for one symbol; else above by 1 to 10 |
//! | repetition | R6 with copies `spacing` apart, or a run and a pause if a flush sent one | exact for one symbol |
//! | layered | P(lost, and its XORs of three layers unusable), per symbol | see the module; above by 1 to 30 |
//! | sliding window, in a stream | losses outrun repairs until the crash: a queue with the channel, see the module | above by 1 to 1.5 |
//! | the same, flushed | R4 of the symbols that the flush includes, with its pauses | exact if it includes the append alone |
//! | another | as without coverage | see `monte-carlo` |
//!
//! The figure is never above that of the append without any coverage.
//!
//! The chain must not have negative memory; one that has is replaced by independent losses at its rate of
//! entering the bad state, which dominate it.

mod block;
mod chain;
mod flush;
mod lacking;
mod layered;
mod window;

use parhelion_plugin::{Channel, Code, DurabilityModel, Exposure, Structure};
use parhelion_types::Risk;

use crate::block::Layout;
use crate::chain::{Chain, any_of};
use crate::layered::Layers;
use crate::window::Shape;

/// Bound for bursty losses; see the crate's guarantee.
#[derive(Clone, Copy, Debug, Default)]
pub struct GilbertElliott;

impl DurabilityModel for GilbertElliott {
    fn name(&self) -> &str {
        "gilbert-elliott"
    }

    fn version(&self) -> u32 {
        3
    }

    fn own_risk(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> Risk {
        own_risk(channel, code.structure(), exposure)
    }
}

/// The figure for any code of this structure.
#[must_use]
pub fn own_risk(channel: &Channel, code: &Structure, exposure: &Exposure) -> Risk {
    let chain = Chain::new(channel);
    let symbols = exposure.symbols.max(1);
    let coverage = exposure.coverage & code.full_coverage();
    let repairs = coverage.count_ones();
    let bare = chain.any_lost(symbols, packets_between(code, symbols));
    if repairs == 0 {
        return Risk::bound(bare);
    }
    let covered = match *code {
        Structure::None | Structure::Other { .. } => bare,
        Structure::Window { r, c, window, indices } => Shape::new(r, c, window, indices)
            .map_or(bare, |shape| window::append_risk(&chain, shape, &Exposure { coverage, ..*exposure })),
        Structure::Repetition { spacing, .. } => {
            let in_a_row = (coverage & exposure.flushed).count_ones();
            let spacing = spacing.max(1);
            // A flush sends all first copies, pauses, and sends all second ones: at least as many lie between
            // two copies of a symbol, and before the first, as there are symbols in the run. Of a symbol that
            // got only its last copy from one, the others lie as the code puts them.
            let run = exposure.flush_run.max(1);
            let paused = spacing.min(run.saturating_add(exposure.flush_pause));
            let first = in_a_row.min(1);
            let symbol = all_lost(
                &chain,
                [(repairs - in_a_row, spacing), (first, spacing.min(run)), (in_a_row - first, paused)],
            );
            any_of(symbol, f64::from(symbols))
        }
        Structure::Block { r, c, depth } => {
            let group = exposure.group_max.clamp(1, r.max(1));
            // If a flush has sent one repair of a block, it sends them all.
            let is_flushed = exposure.flushed & code.full_coverage() != 0;
            let flushed_run = is_flushed.then_some(exposure.flush_run);
            let figure = |repair_gap| {
                block::append_risk(
                    &chain,
                    &Layout { group, repairs, repairs_made: c, depth, repair_gap },
                    symbols,
                )
            };
            if group.saturating_add(repairs) > BLOCK_PACKETS_MAX {
                bare
            } else {
                repair_gaps(depth, flushed_run).map(figure).fold(0.0, f64::max)
            }
        }
        Structure::Layered { r, ref interleaves, delayed } => {
            let group = exposure.group_max.clamp(1, r.max(1));
            if group > BLOCK_PACKETS_MAX {
                bare
            } else {
                let flushed = exposure.flushed & coverage;
                let layers = Layers {
                    r,
                    group,
                    interleaves,
                    delayed,
                    coverage,
                    flushed,
                    flush_run: exposure.flush_run,
                    flush_pause: exposure.flush_pause,
                };
                let symbol = layered::symbol_risk(&chain, &layers);
                any_of(symbol, f64::from(symbols))
            }
        }
    };
    Risk::bound(covered.min(bare))
}

/// Longest group that is priced with its coverage; the work grows with its square. Longer ones, which no
/// code here makes, are priced as if bare.
const BLOCK_PACKETS_MAX: u32 = 512;

/// Slots between the repairs of a block of which `depth` take turns: as many, or, if a flush sent them, at least as many as
/// blocks that had symbols. Farther apart is not always better, where several of them are needed, so of the latter
/// there is more than one.
fn repair_gaps(depth: u32, flushed_run: Option<u32>) -> impl Iterator<Item = u32> {
    let depth = depth.max(1);
    let blocks = flushed_run.map_or(depth, |run| run.clamp(1, depth));
    let halvings = if blocks == depth { u32::BITS } else { blocks.ilog2() };
    (halvings..u32::BITS).map(|power| 1 << power).take_while(move |&gap| gap < depth).chain([depth])
}

/// Most repair symbols that leave between the first and the last of `symbols` source symbols.
fn packets_between(code: &Structure, symbols: u32) -> u64 {
    let others = u64::from(symbols.saturating_sub(1));
    // Of `lanes` groups of `r` that take turns, so many become full among that many symbols.
    let completed = |r: u32, lanes: u32| {
        let (r, lanes) = (u64::from(r.max(1)), u64::from(lanes.max(1)));
        others.min(lanes * (others / r.saturating_mul(lanes) + 1))
    };
    match code {
        Structure::None => 0,
        Structure::Repetition { copies, .. } => others.saturating_mul(u64::from(*copies)),
        Structure::Block { r, c, depth } => completed(*r, *depth).saturating_mul(u64::from(*c)),
        Structure::Layered { r, interleaves, .. } => {
            interleaves.iter().map(|&interleave| completed(*r, interleave)).fold(0, u64::saturating_add)
        }
        Structure::Window { r, c, .. } => completed(*r, 1).saturating_mul(u64::from(*c)),
        Structure::Other { repairs, per, .. } => completed(*per, 1).saturating_mul(u64::from(*repairs)),
    }
}

/// P(a packet and its copies are all lost), by numbers of copies and the least slots before each of them.
fn all_lost(chain: &Chain, copies: [(u32, u32); 3]) -> f64 {
    // Each in the good state would end it: a packet is lost in the bad state only.
    let again = |(count, gap): (u32, u32)| chain.lost(&chain.over(gap))[1].powf(f64::from(count));
    chain.loss() * copies.into_iter().map(again).product::<f64>()
}

//! Durability model for links that lose packets in bursts (Gilbert 1960, Elliott 1963).
//!
//! The channel is good or bad in each packet slot and moves between the two as a Markov chain; packets are
//! lost in the bad state only. Formulas for independent losses are wrong by factors of 100 to 1e8 on such a
//! link (loss model, section 0); these are exact for block codes and bounds for the rest.
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
//! - in layered interleaving, a flush sends its repairs layer by layer with the narrowest first, one per lane,
//!   in the order of the lanes' last symbols; nothing is supposed of the place of a symbol in its groups;
//! - the channel changes with time: while nothing is sent it goes on as if packets passed at the link's rate
//!   (the wall-clock version of the loss model, section 3.1), so a pause in a flush is worth its slots.
//!
//! | code | figure | quality |
//! | --- | --- | --- |
//! | none, or no coverage | the append's packets and those between them all arrive | exact where none is between |
//! | block, depth 1 | R3 and R4 (loss model, section 3.2) at the append's worst offset | exact at that offset |
//! | block, deeper | R4, sources `depth` slots apart and repairs in a row; blocks as if apart | above by 2 to 20 |
//! | repetition | R6 with copies `spacing` apart, or a pause apart if a flush sent one | exact for one symbol |
//! | layered | P(lost, and its XORs of three layers unusable), per symbol | see the module; above by 1 to 10 |
//!
//! The figure is never above that of the append without any coverage.
//!
//! The chain must not have negative memory; one that has is replaced by independent losses at its rate of
//! entering the bad state, which dominate it.

mod block;
mod chain;
mod flush;
mod layered;

use parhelion_plugin::{Channel, DurabilityModel, Exposure, Structure};
use parhelion_types::Risk;

use crate::block::Layout;
use crate::chain::{Chain, any_of};
use crate::layered::Layers;

/// Bound for bursty losses; see the crate's guarantee.
#[derive(Clone, Copy, Debug, Default)]
pub struct GilbertElliott;

impl DurabilityModel for GilbertElliott {
    fn name(&self) -> &'static str {
        "gilbert-elliott"
    }

    fn version(&self) -> u32 {
        2
    }

    fn own_risk(&self, channel: &Channel, code: &Structure, exposure: &Exposure) -> Risk {
        let chain = Chain::new(channel);
        let symbols = exposure.symbols.max(1);
        let coverage = exposure.coverage & code.full_coverage();
        let repairs = coverage.count_ones();
        let bare = chain.any_lost(symbols, packets_between(code, symbols));
        if repairs == 0 {
            return Risk::bound(bare);
        }
        let covered = match *code {
            Structure::None => bare,
            Structure::Repetition { spacing, .. } => {
                let in_a_row = (coverage & exposure.flushed).count_ones();
                let spacing = spacing.max(1);
                // Copies of one flush have pauses between them; of a symbol that got only its last copy from
                // one, the others lie as the code puts them. The first of a flush may be right behind.
                let paused = spacing.min(exposure.flush_pause.saturating_add(1));
                let first = in_a_row.min(1);
                let symbol =
                    all_lost(&chain, [(repairs - in_a_row, spacing), (first, 1), (in_a_row - first, paused)]);
                any_of(symbol, f64::from(symbols))
            }
            Structure::Block { r, c, depth } => {
                let group = exposure.group_max.clamp(1, r.max(1));
                let layout = Layout { group, repairs, repairs_made: c, depth };
                if group.saturating_add(repairs) > BLOCK_PACKETS_MAX {
                    bare
                } else {
                    block::append_risk(&chain, &layout, symbols)
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
}

/// Longest group that is priced with its coverage; the work grows with its square. Longer ones, which no
/// code here makes, are priced as if bare.
const BLOCK_PACKETS_MAX: u32 = 512;

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
    }
}

/// P(a packet and its copies are all lost), by numbers of copies and the least slots before each of them.
fn all_lost(chain: &Chain, copies: [(u32, u32); 3]) -> f64 {
    // Each in the good state would end it: a packet is lost in the bad state only.
    let again = |(count, gap): (u32, u32)| chain.lost(&chain.over(gap))[1].powf(f64::from(count));
    chain.loss() * copies.into_iter().map(again).product::<f64>()
}

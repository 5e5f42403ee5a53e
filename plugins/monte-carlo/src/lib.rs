//! Durability model that knows no formula: it plays crashes with the code's own encoder and decoder.
//!
//! Every code can be priced that way, be it compiled in, loaded or sandboxed, and codes whose decoders are more
//! than any closed form says (the cascade of layered interleaving, sliding windows) get the figure that they earn. A
//! first answer takes some milliseconds for a small block and up to a second for a stream of wide groups, a good one ten times
//! as long; so questions are answered from a table, which a background thread fills by [`work`](DurabilityModel::work).
//!
//! # Guarantee
//! If the link is a Gilbert-Elliott channel within the bounds of [`Channel`], then the figure is an upper bound on P(some
//! source symbol of the append neither arrives nor is rebuilt by the code's decoder). Of what the exposure leaves open,
//! the [trials](parhelion_plugin::trial) say what is sampled and what is taken at its worst; the figure is that of
//! the worst of up to eight cases, mostly the parts of the code's cycle in which the append may begin. Nothing that leaves later is counted
//! on, and time passes as slots do, pauses of a flush included. The error of the simulation is part of the figure: its
//! bounds hold, all looks at all places of a question together, with a confidence of at least `(1 + c) / 2`, where `c` is
//! that of the channel's bounds. A question that was not simulated yet gets the bound that takes no decoder: P(any
//! symbol of the append is lost on the wire), which every figure is at most.
//!
//! What that confidence rests on: a figure with few or no failures behind it holds whatever the weights of the trials are
//! (`Tally::certain`). Where many failures were seen, their weights tell those of the others: a failure
//! that none of the tilted channels has shown is taken to be at most four times as heavy as the heaviest one that was seen.
//!
//! # What is rounded
//! Questions are rounded to the worse: probabilities of the channel in steps of 9 %, sizes of appends in steps of an eighth
//! to a quarter, runs and pauses of flushes to a lower bound. An answer holds for all that it dominates, so a channel
//! that gets better never makes a figure worse.

mod cell;
mod chain;
mod crash;
mod sampler;
mod table;
mod tally;

pub mod binomial;

use parhelion_plugin::trial::SYMBOLS_MAX;
use parhelion_plugin::{Channel, Code, DurabilityModel, Exposure, Structure};
use parhelion_types::Risk;

pub use crate::cell::Cell;
pub use crate::chain::Chain;
pub use crate::crash::{CrashSimulation, Progress};
pub use crate::table::{CELLS_MAX, Findings, QUEUE_MAX, Simulation, Table};

/// Bound by simulation; see the crate's guarantee.
#[derive(Debug)]
pub struct MonteCarlo {
    table: Table<CrashSimulation>,
}

impl MonteCarlo {
    /// A model that has simulated nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { table: Table::new(CrashSimulation) }
    }

    /// What is known of a question, rounded as it is for simulation.
    #[must_use]
    pub fn findings(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> Option<Findings> {
        self.table.findings(channel, code, exposure)
    }

    /// Questions that are remembered; at most [`CELLS_MAX`].
    #[must_use]
    pub fn questions(&self) -> usize {
        self.table.len()
    }
}

impl Default for MonteCarlo {
    fn default() -> Self {
        Self::new()
    }
}

impl DurabilityModel for MonteCarlo {
    fn name(&self) -> &str {
        "monte-carlo"
    }

    fn version(&self) -> u32 {
        1
    }

    fn own_risk(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> Risk {
        let bare = bare_risk(channel, code.structure(), exposure);
        if !is_covered(code.structure(), exposure) {
            return Risk::bound(bare);
        }
        let simulated = self.table.ask(channel, code, exposure).unwrap_or(1.0);
        // Of a very large append, part by part.
        let parts = f64::from(exposure.symbols.div_ceil(SYMBOLS_MAX).max(1));
        Risk::bound((parts * simulated).min(bare))
    }

    fn work(&self) -> bool {
        self.table.work()
    }

    fn edition(&self) -> u64 {
        self.table.edition()
    }

    fn explain(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> Option<String> {
        if !is_covered(code.structure(), exposure) {
            return Some("nothing covers the append: any loss on the wire is final".to_owned());
        }
        let findings = self.findings(channel, code, exposure)?;
        let weighted = if findings.lost > 0 { " (drawn on a channel made worse, and weighted)" } else { "" };
        Some(describe(&findings) + weighted)
    }
}

/// P(any symbol of the append is lost on the wire): the bound of any code, for which nothing is simulated.
#[must_use]
pub fn bare_risk(channel: &Channel, code: &Structure, exposure: &Exposure) -> f64 {
    let symbols = exposure.symbols.max(1);
    Chain::new(channel).any_lost(symbols, packets_between(code, symbols))
}

/// Whether a repair covers the append.
#[must_use]
pub fn is_covered(code: &Structure, exposure: &Exposure) -> bool {
    exposure.coverage & code.full_coverage() != 0
}

/// What was simulated, for people.
#[must_use]
pub fn describe(findings: &Findings) -> String {
    let Findings { bound, is_done, crashes, lost, .. } = *findings;
    match bound {
        None if is_done => {
            "no traffic of this code shows such an exposure: the figure is that without repairs".to_owned()
        }
        None if crashes == 0 => "not simulated yet: the figure is that without repairs".to_owned(),
        None => format!("simulated {crashes} crashes so far, too few: the figure is that without repairs"),
        Some(bound) => format!(
            "simulated {crashes} crashes, {lost} lost; at most {bound:.1e}{}",
            if is_done { "" } else { ", more crashes will lower it" }
        ),
    }
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

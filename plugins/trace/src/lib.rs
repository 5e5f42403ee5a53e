//! Durability model for links that fit no formula: it replays losses that were recorded.
//!
//! A policer that drops every thousandth packet, spells of interference, an optical switch that is silent for 50 ms: the
//! fitted channel is right about the wrong thing on such links, and every model that believes it errs. Here a crash
//! of the sender is put at a random offset of recorded traces, with the order of their losses kept, and the real
//! decoder tells whether the append survives.
//!
//! # Guarantee
//! What is lost on the wire is what the trace loses at that offset *and* what the fitted channel loses at its upper bounds.
//! So the figure is a bound where the link is like its traces, and where it is like the channel; it is never below
//! what [`MonteCarlo`] says of the channel. It is
//!
//! ```text
//! P(lost with the channel alone) + P(lost, and the trace loses something in the slots of the crash)
//! ```
//!
//! The first term is Monte Carlo's. Of the second, the share of offsets at which the trace loses something is counted over the
//! whole of the traces, and the share of those crashes that lose the append is bounded by Clopper and Pearson's limit. Both
//! terms together hold with the confidence that [`MonteCarlo`] states, each with half of the doubt. As with Monte
//! Carlo: the worst of eight parts of the code's cycle, nothing counted on that leaves later, and no more than what the append
//! without any repair is at risk, where the risk without repairs is that of trace and channel.
//!
//! A trace is a sample of the link, and how well it stands for what is to come is not part of the figure: record long ones, and
//! bad days. With traces of `n` packets nothing rarer than about once in `n` is in them.

pub mod library;
mod recording;
mod replay;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parhelion_model_monte_carlo::{CrashSimulation, Table, bare_risk, describe, is_covered};
use parhelion_plugin::trial::SYMBOLS_MAX;
use parhelion_plugin::{Channel, Code, DurabilityModel, Exposure};
use parhelion_types::Risk;

pub use crate::recording::{RUNS_MAX, TEXT_BYTES_MAX, Trace, TraceError};
use crate::replay::Replay;

/// Bound by replaying traces; see the crate's guarantee.
#[derive(Debug)]
pub struct TraceModel {
    /// What the channel does without the traces.
    channel: Table<CrashSimulation>,
    replay: Table<Replay>,
    /// Share of packets that the traces lose.
    loss: f64,
    /// Which of the two tables works next.
    turn: AtomicBool,
}

impl TraceModel {
    /// A model of links like these. Without any trace it is as good as Monte Carlo.
    #[must_use]
    pub fn new(traces: Vec<Trace>) -> Self {
        let traces: Arc<[Trace]> = traces.into_iter().filter(|trace| trace.packets() > 0).collect();
        let (lost, packets) = traces
            .iter()
            .fold((0, 0), |(lost, packets), trace| (lost + trace.lost(), packets + trace.packets()));
        Self {
            channel: Table::new(CrashSimulation),
            replay: Table::new(Replay { traces }),
            loss: if packets > 0 { lost as f64 / packets as f64 } else { 0.0 },
            turn: AtomicBool::new(false),
        }
    }

    /// P(any symbol of the append is lost on the wire).
    fn bare(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> f64 {
        bare_risk(channel, code.structure(), exposure) + f64::from(exposure.symbols.max(1)) * self.loss
    }
}

/// The channel whose bounds may fail half as often, so that two terms may.
fn surer(channel: &Channel) -> Channel {
    Channel { confidence: 0.5 * (1.0 + channel.confidence), ..*channel }
}

impl DurabilityModel for TraceModel {
    fn name(&self) -> &str {
        "trace"
    }

    fn version(&self) -> u32 {
        1
    }

    fn own_risk(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> Risk {
        let bare = self.bare(channel, code, exposure);
        if !is_covered(code.structure(), exposure) {
            return Risk::bound(bare);
        }
        let asked = surer(channel);
        let alone = self.channel.ask(&asked, code, exposure);
        let replayed = self.replay.ask(&asked, code, exposure);
        let simulated = alone.unwrap_or(1.0) + replayed.unwrap_or(1.0);
        let parts = f64::from(exposure.symbols.div_ceil(SYMBOLS_MAX).max(1));
        Risk::bound((parts * simulated).min(bare))
    }

    fn work(&self) -> bool {
        // In turn, and the other one if this has nothing to do.
        let first = self.turn.fetch_xor(true, Ordering::Relaxed);
        let more = if first { self.channel.work() } else { self.replay.work() };
        more || if first { self.replay.work() } else { self.channel.work() }
    }

    fn edition(&self) -> u64 {
        self.channel.edition() + self.replay.edition()
    }

    fn explain(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> Option<String> {
        if !is_covered(code.structure(), exposure) {
            return Some("nothing covers the append: any loss on the wire is final".to_owned());
        }
        let asked = surer(channel);
        let alone = self.channel.findings(&asked, code, exposure)?;
        let replayed = self.replay.findings(&asked, code, exposure)?;
        Some(format!("channel: {}; traces: {}", describe(&alone), describe(&replayed)))
    }
}

//! The largest memory of both sites, under the loads that fill their buffers.
//!
//! 100 ms of round trip and 1 % loss keep data under way and waiting for repair; writers at the local level, which
//! do not wait for the link, fill what there is to fill.

use std::time::Duration;

use parhelion_types::Durability;
use parhelion_wan::{LinkConfig, Loss};

use super::LINE_RATE;
use crate::error::BenchError;
use crate::figure::{Figure, Found, Goal};
use crate::lab::{Lab, say};
use crate::load::Load;
use crate::pair::{Pair, line};
use crate::usage::peak_memory;

const ONE_WAY: Duration = Duration::from_millis(50);
const GOAL_MIB: f64 = 600.0;

/// Long enough for every buffer to fill at the rate of the line, and for segments to roll.
const FILL: Duration = Duration::from_secs(12);

const CASES: [(&str, Durability, f64); 3] = [
    ("network level", Durability::Network, 0.0),
    ("network level, loss 1 %", Durability::Network, 0.01),
    ("local level, faster than the line", Durability::Local, 0.01),
];

pub(crate) async fn run(lab: &Lab) -> Result<Found, BenchError> {
    let mut found = Found::default();
    for (name, durability, loss) in CASES {
        say(format!("64 writers of 512 KiB, {name}, 100 ms round trip"));
        let link = LinkConfig { loss: Loss::independent(loss), ..line(LINE_RATE, ONE_WAY) };
        let mut pair = Pair::start(lab, Some(link), &[]).await?;
        let load = Load {
            // Twice the line: its buffers fill, and the disk is not what is measured.
            bits_per_second: (durability == Durability::Local).then_some(2 * LINE_RATE),
            ..Load::bulk(durability)
        };
        let running = pair.load(lab, &load)?;
        let stretch = pair.watch(&load, &running, FILL).await?;
        let mib = |process| peak_memory(process).map(|bytes| bytes as f64 / f64::from(1 << 20));
        let (primary, mirror) = (mib(pair.primary.process.id())?, mib(pair.mirror.process.id())?);
        found.figures.push(
            Figure::new(format!("both sites, {name}"), "MiB", vec![primary + mirror])
                .goal(Goal::AtMost(GOAL_MIB)),
        );
        found.notes.push(format!(
            "{name}: primary {primary:.0} MiB, mirror {mirror:.0} MiB, at {:.0} Mbit/s",
            stretch.mirrored_mbits()
        ));
        found.notes.extend(stretch.explain(name));
    }
    Ok(found)
}

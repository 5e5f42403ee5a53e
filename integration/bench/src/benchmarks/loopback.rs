//! Everything on one machine, without an emulator: how much of the path the processors can carry.
//!
//! An append passes the writers' QUIC connection, the primary's log and fsync, the link with its code and
//! encryption, and the mirror's log and fsync. All of that, and the writers, share this machine's processors.

use std::time::Duration;

use parhelion_types::Durability;

use crate::error::BenchError;
use crate::figure::{Figure, Found, Goal};
use crate::lab::{Lab, say};
use crate::load::Load;
use crate::pair::{Pair, Stretch};

/// Buffers fill and files are made.
const SETTLE: Duration = Duration::from_secs(1);

const GOAL_MBITS: f64 = 1500.0;

/// Faster than any path here: the processors are the limit, and what is not confirmed fills the link's buffer.
const RATE: &str = "link.rate=3Gbit";

/// Settings beside [`RATE`], the candidate first.
const VARIANTS: [(&str, &[&str]); 4] = [
    ("link, code (8,3), packets of 1500 bytes", &[]),
    ("link, code (8,3), packets of 9000 bytes", &["link.mtu=9000"]),
    ("link, no code, packets of 1500 bytes", &["link.code=none", "link.parameters="]),
    ("TCP and TLS, no code", &["link.transport=tcp"]),
];

pub(crate) async fn run(lab: &Lab) -> Result<Found, BenchError> {
    let mut turns: [Vec<Stretch>; VARIANTS.len()] = Default::default();
    for round in 0..lab.rounds {
        say(format!("round {}: 64 writers of 512 KiB over loopback", round + 1));
        for (taken, (_, settings)) in turns.iter_mut().zip(VARIANTS) {
            let mut all = vec![RATE.to_owned(), "link.mtu=1500".to_owned()];
            all.extend(settings.iter().map(|&setting| setting.to_owned()));
            taken.push(turn(lab, &all).await?);
        }
    }
    let mut found = Found::default();
    let rates = |taken: &[Stretch]| taken.iter().map(Stretch::mirrored_mbits).collect::<Vec<_>>();
    let tcp = rates(&turns[VARIANTS.len() - 1]);
    for (at, (taken, (name, _))) in turns.iter().zip(VARIANTS).enumerate() {
        let figure = Figure::new(name, "Mbit/s", rates(taken));
        found.figures.push(match at {
            0 => figure.against("TCP", &tcp).goal(Goal::AtLeast(GOAL_MBITS)),
            at if at + 1 < VARIANTS.len() => figure.against("TCP", &tcp),
            _ => figure,
        });
        if let Some(last) = taken.last() {
            found.notes.extend(last.explain(name));
        }
    }
    Ok(found)
}

async fn turn(lab: &Lab, settings: &[String]) -> Result<Stretch, BenchError> {
    let mut pair = Pair::start(lab, None, settings).await?;
    let load = Load::bulk(Durability::Remote);
    let running = pair.load(lab, &load)?;
    tokio::time::sleep(SETTLE).await;
    let stretch = pair.watch(&load, &running, lab.turn).await?;
    running.stop()?.check("loopback")?;
    Ok(stretch)
}

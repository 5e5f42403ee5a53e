//! Mirroring under loss: the network level over the link, beside the local level over the kernel's TCP.
//!
//! The local level is the stronger opponent: its writers do not wait for the link at all, so what reaches the
//! mirror is all that TCP can carry. Each transport has a pair of sites of its own, and they take turns.

use std::time::Duration;

use parhelion_types::Durability;
use parhelion_wan::{LinkConfig, Loss};

use super::LINE_RATE;
use crate::error::BenchError;
use crate::figure::{Figure, Found, Goal};
use crate::lab::{Lab, say};
use crate::load::Load;
use crate::pair::{Pair, line};

const ONE_WAY: Duration = Duration::from_millis(25);
const LOSS: f64 = 0.01;

/// TCP leaves slow start, and finds the rate that the loss allows it.
const SETTLE: Duration = Duration::from_secs(2);

/// Congestion controls of the kernel, and what the link's lead over them must be.
const OPPONENTS: [(&str, Option<f64>); 3] = [("reno", Some(10.0)), ("cubic", Some(10.0)), ("bbr", None)];

pub(crate) async fn run(lab: &Lab) -> Result<Found, BenchError> {
    let mut found = Found::default();
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); OPPONENTS.len()];
    for round in 0..lab.rounds {
        say(format!("round {}: the link, then TCP with reno, cubic and bbr", round + 1));
        let network = Load::bulk(Durability::Network);
        ours.push(turn(lab, &network, &[], "link", &mut found).await?);
        for (taken, (congestion, _)) in theirs.iter_mut().zip(OPPONENTS) {
            // More than the line carries, and no more than the disk must take.
            let local = Load { bits_per_second: Some(LINE_RATE), ..Load::bulk(Durability::Local) };
            let settings = ["link.transport=tcp".to_owned(), format!("link.tcp_congestion={congestion}")];
            taken.push(turn(lab, &local, &settings, congestion, &mut found).await?);
        }
    }
    for (taken, (congestion, lead)) in theirs.iter().zip(OPPONENTS) {
        let figure = Figure::new(format!("link against TCP {congestion}, loss 1 %"), "Mbit/s", ours.clone())
            .against(congestion, taken);
        found.figures.push(match lead {
            Some(lead) => figure.goal(Goal::RatioAtLeast(lead)),
            None => figure,
        });
    }
    Ok(found)
}

async fn turn(
    lab: &Lab,
    load: &Load,
    settings: &[String],
    name: &str,
    found: &mut Found,
) -> Result<f64, BenchError> {
    let link = LinkConfig { loss: Loss::independent(LOSS), ..line(LINE_RATE, ONE_WAY) };
    let mut pair = Pair::start(lab, Some(link), settings).await?;
    let running = pair.load(lab, load)?;
    tokio::time::sleep(SETTLE).await;
    // An append of 512 KiB takes a slow TCP seconds.
    let stretch = pair.watch(load, &running, lab.turn * 2).await?;
    found.notes.extend(stretch.explain(name));
    let mbits = stretch.mirrored_mbits();
    found.notes.push(format!("  {mbits:.1} Mbit/s became durable at the mirror"));
    Ok(mbits)
}

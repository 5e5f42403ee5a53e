//! Bytes of appends that become durable at the mirror, over a line that loses packets.
//!
//! The code must hide the loss: what is lost is rebuilt, and a provisioned line is not slowed down by it.

use std::time::Duration;

use parhelion_types::Durability;
use parhelion_wan::Loss;

use super::{CODE_SHARE, LINE_RATE};
use crate::error::BenchError;
use crate::figure::{Figure, Found, Goal, median};
use crate::lab::{Lab, say};
use crate::load::Load;
use crate::pair::{Pair, Stretch, line};

const ONE_WAY: Duration = Duration::from_millis(25);

/// Loss rates, the lossless first: the others are compared with it.
const LOSSES: [f64; 4] = [0.0, 0.001, 0.005, 0.01];

/// After a change of the loss, until what is measured was sent under the new one: the appends under way, 32 MiB at
/// the rate of the line.
const SETTLE: Duration = Duration::from_millis(1500);

pub(crate) async fn run(lab: &Lab) -> Result<Found, BenchError> {
    let mut found = Found::default();
    for logs in [1, 8] {
        measure(lab, logs, &mut found).await?;
    }
    Ok(found)
}

async fn measure(lab: &Lab, logs: u32, found: &mut Found) -> Result<(), BenchError> {
    say(format!("64 writers of 512 KiB in {logs} logs, loss 0 to 1 %"));
    let mut pair = Pair::start(lab, Some(line(LINE_RATE, ONE_WAY)), &[]).await?;
    let load = Load { logs, ..Load::bulk(Durability::Network) };
    let running = pair.load(lab, &load)?;
    let mut turns: [Vec<Stretch>; LOSSES.len()] = Default::default();
    for _ in 0..lab.rounds {
        for (taken, loss) in turns.iter_mut().zip(LOSSES) {
            if let Some(emulator) = &mut pair.emulator {
                emulator.set_loss(None, Loss::independent(loss))?;
            }
            tokio::time::sleep(SETTLE).await;
            taken.push(pair.watch(&load, &running, lab.turn).await?);
        }
    }
    let written = running.stop()?.check("goodput")?;
    let rates = |taken: &[Stretch]| taken.iter().map(Stretch::mirrored_mbits).collect::<Vec<_>>();
    let shares: Vec<f64> = turns.iter().flatten().filter_map(Stretch::payload_share).collect();
    let share = median(&shares);
    let ceiling = LINE_RATE as f64 / 1e6 * CODE_SHARE * share;
    let lossless = rates(&turns[0]);
    let name = |loss: f64| format!("{logs} logs, loss {} %", loss * 100.0);
    for (taken, loss) in turns.iter().zip(LOSSES) {
        let figure = Figure::new(name(loss), "Mbit/s", rates(taken));
        found.figures.push(if loss == 0.0 {
            figure
        } else {
            figure.against("no loss", &lossless).goal(Goal::RatioAtLeast(0.95))
        });
    }
    let worst = rates(&turns[LOSSES.len() - 1]);
    found.figures.push(
        Figure::new(format!("{}, of what the line can carry", name(0.01)), "Mbit/s", worst.clone())
            .against("rate x 8/11 x payload share", &vec![ceiling; worst.len()])
            .goal(Goal::RatioAtLeast(0.9)),
    );
    found.notes.push(format!(
        "{logs} logs: payload share {share:.4} (bytes of appends per byte of IP packet); p50 of appends {:.0} ms; \
         {} refused",
        written.p50_millis, written.errors
    ));
    for (taken, loss) in turns.iter().zip(LOSSES) {
        if let Some(last) = taken.last() {
            found.notes.extend(last.explain(&name(loss)));
        }
    }
    let [sent, received] = pair.host_drops()?;
    found.notes.push(format!("{logs} logs: hosts dropped {sent} packets sent and {received} received"));
    Ok(())
}

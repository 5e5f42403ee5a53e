//! How long a writer waits for an acknowledgement, 1 ms and 100 ms away from the mirror.
//!
//! At the network level an append is acknowledged when its repairs have left the site, so the distance must not
//! show (SMFS Table 1: "local ping"). Two pairs of sites run at once, and the one writer goes from one to the other.

use std::time::{Duration, Instant};

use parhelion_types::Durability;

use super::{DRAIN_LIMIT, LINE_RATE};
use crate::error::BenchError;
use crate::figure::{Figure, Found, Goal};
use crate::lab::{Lab, say};
use crate::load::{Load, Written};
use crate::pair::{Pair, line};

const NEAR: Duration = Duration::from_millis(1);
const FAR: Duration = Duration::from_millis(100);

/// Packets after which a clean link is trusted with a risk of one in a million, whatever the estimator assumes.
const WARM_UP_PACKETS: u64 = 100_000;
const WARM_UP_LIMIT: Duration = Duration::from_secs(20);

/// What the estimator must have learned before a risk can be promised.
const PROMISED: f64 = 1e-6;

pub(crate) async fn run(lab: &Lab) -> Result<Found, BenchError> {
    say("starting two pairs of sites, 1 ms and 100 ms apart");
    let near = Pair::start(lab, Some(line(LINE_RATE, NEAR)), &[]).await?;
    let far = Pair::start(lab, Some(line(LINE_RATE, FAR)), &[]).await?;
    let mut found = Found::default();
    measure(lab, &near, &far, 1.0, "coverage alone", &mut found).await?;
    for pair in [&near, &far] {
        warm_up(lab, pair).await?;
    }
    measure(lab, &near, &far, PROMISED, "risk 1e-6", &mut found).await?;
    Ok(found)
}

async fn measure(
    lab: &Lab,
    near: &Pair,
    far: &Pair,
    max_risk: f64,
    what: &str,
    found: &mut Found,
) -> Result<(), BenchError> {
    say(format!("one writer of 4 KiB, {what}"));
    let mut turns: [Vec<Written>; 3] = Default::default();
    for _ in 0..lab.rounds {
        for (taken, (pair, durability)) in turns.iter_mut().zip([
            (near, Durability::Network),
            (far, Durability::Network),
            (far, Durability::Local),
        ]) {
            let running = pair.load(lab, &Load::one(durability, max_risk))?;
            tokio::time::sleep(Duration::from_millis(300) + lab.turn).await;
            taken.push(running.stop()?.check("acknowledgement latency")?);
        }
    }
    let p50 = |taken: &[Written]| taken.iter().map(|written| written.p50_millis).collect::<Vec<_>>();
    let [near, far, local] = &turns;
    let above: Vec<f64> = p50(far).iter().zip(p50(local)).map(|(far, local)| far - local).collect();
    found.figures.push(
        Figure::new(format!("p50 at 100 ms one way, {what}"), "ms", p50(far))
            .against("at 1 ms", &p50(near))
            .goal(Goal::RatioAtMost(1.1)),
    );
    found
        .figures
        .push(Figure::new(format!("p50 above the local level, {what}"), "ms", above).goal(Goal::AtMost(3.0)));
    found.figures.push(Figure::new(format!("p50 of the local level, {what}"), "ms", p50(local)));
    for (place, taken) in [("1 ms", near), ("100 ms", far)] {
        let p99 = taken.iter().map(|written| written.p99_millis).fold(0.0, f64::max);
        let risk = taken.iter().map(|written| written.risk_highest).fold(0.0, f64::max);
        let appends: u64 = taken.iter().map(|written| written.appends).sum();
        let confirmed: u64 = taken.iter().filter_map(|written| written.reached.get("remote")).sum();
        found.notes.push(format!(
            "{what}, {place}: {appends} appends, p99 at most {p99:.2} ms, highest risk {risk:.1e}; {confirmed} were \
             confirmed by the mirror before the network level was reached"
        ));
    }
    Ok(())
}

/// Sends enough packets over a pair's link for its estimator to know that the link is clean.
async fn warm_up(lab: &Lab, pair: &Pair) -> Result<(), BenchError> {
    say(format!("warming up the estimator with {WARM_UP_PACKETS} packets"));
    let load = Load { append_bytes: 64 << 10, ..Load::bulk(Durability::Network) };
    let running = pair.load(lab, &load)?;
    let begun = Instant::now();
    let enough = pair.packets_sent().await? + WARM_UP_PACKETS;
    while pair.packets_sent().await? < enough && begun.elapsed() < WARM_UP_LIMIT {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    running.stop()?.check("the warm-up")?;
    pair.drain(DRAIN_LIMIT).await
}

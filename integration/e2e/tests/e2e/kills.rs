//! Processes die at any instant, again and again; what was promised holds.
//!
//! Writers go on all the time ([`writers`]). Nodes are killed with SIGKILL and started again by a loop of the shell
//! ([`keeper`]), not by the test. While a primary is dead the mirror is asked for what was promised to be there, and what
//! it shows is read as a whole ([`campaign`], [`copy`]). The sites are of one node each and change their roles now and then
//! ([`twins`]), or of several nodes each ([`crowd`]).

mod campaign;
mod copy;
mod crowd;
pub(crate) mod keeper;
mod twins;
mod writers;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parhelion_e2e::{At, NodeSpec, Pair, PairOptions, seed};
use parhelion_types::Degrade;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use self::campaign::Tally;
use crate::SOON;

/// Kills of the short forms.
const KILLS: usize = 10;
const CROWD_KILLS: usize = 8;
/// Kills of the long forms, unless `PARHELION_E2E_KILLS` says otherwise.
const KILLS_LONG: usize = 200;
/// Kills before all is looked at as a whole and the next sites are set up, whose logs are short again.
const KILLS_PER_CAMPAIGN: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills() {
    let mut rng = SmallRng::seed_from_u64(seed());
    twins::campaign(KILLS, &mut rng).await.conclude();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --release -p parhelion-e2e -- --ignored --nocapture kills"]
async fn what_was_acknowledged_survives_kills_for_long() {
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut all = Tally::default();
    while all.kills < kills_long() {
        let kills = KILLS_PER_CAMPAIGN.min(kills_long() - all.kills);
        all.add(&twins::campaign(kills, &mut rng).await);
    }
    all.conclude();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills_of_any_node_of_a_site() {
    let mut rng = SmallRng::seed_from_u64(seed());
    crowd::campaign(CROWD_KILLS, &mut rng).await.conclude();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo test --release -p parhelion-e2e -- --ignored --nocapture kills"]
async fn what_was_acknowledged_survives_kills_of_any_node_of_a_site_for_long() {
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut all = Tally::default();
    while all.kills < kills_long() {
        let kills = KILLS_PER_CAMPAIGN.min(kills_long() - all.kills);
        all.add(&crowd::campaign(kills, &mut rng).await);
    }
    all.conclude();
}

fn kills_long() -> usize {
    let kills = std::env::var("PARHELION_E2E_KILLS").ok().and_then(|text| text.parse().ok());
    kills.unwrap_or(KILLS_LONG)
}

/// A primary that dies between the moment when a creation is accepted and the moment when it is stored gives its
/// number to another log later. The mirror must not have the first one under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_is_one_log_at_both_sites_whenever_its_primary_dies() {
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut pair = Pair::start(PairOptions::default()).await;
    let client = pair.client(At::Primary).await;
    let done = Arc::new(AtomicBool::new(false));
    let creator = {
        let (client, done) = (client.clone(), done.clone());
        tokio::spawn(async move {
            let mut created = HashMap::new();
            for number in 0_u64.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                // Another name each time, as of a client that gives up and asks for something else.
                let name = format!("log-{number}");
                match client.create(name.clone(), Degrade::Block).await {
                    Ok(log) => assert_eq!(created.insert(log, name), None, "one number for two logs"),
                    Err(error) => assert!(error.kind().is_retryable(), "{error}"),
                }
            }
            created
        })
    };
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..300))).await;
        pair.primary.kill();
        pair.primary.start();
        pair.linked().await;
    }
    done.store(true, Ordering::Relaxed);
    let created = tokio::time::timeout(SOON, creator).await.expect("every creation is answered").unwrap();
    assert!(created.len() > 8, "hardly anything was created");
    pair.mirrored().await;
    for at in [At::Primary, At::Mirror] {
        let logs = pair.client(at).await.list().await.unwrap();
        for (log, name) in &created {
            let here = logs.iter().find(|state| state.log == *log);
            assert_eq!(here.map(|state| state.name.as_str()), Some(name.as_str()), "{at:?}");
        }
    }
    pair.verify();
    for site in [&pair.primary, &pair.mirror] {
        assert_quiet(&site.spec);
    }
}

/// No node of that name said that it panicked or could not go on.
fn assert_quiet(node: &NodeSpec) {
    let log = std::fs::read_to_string(node.log()).unwrap_or_default();
    let is_bad = |line: &&str| line.contains("panicked") || line.contains("ERROR");
    let bad: Vec<&str> = log.lines().filter(is_bad).collect();
    assert!(bad.is_empty(), "{}: {bad:#?}", node.name);
}

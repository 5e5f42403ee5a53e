//! Two sites of several nodes each, any of which may die.

use std::net::SocketAddr;
use std::time::Duration;

use parhelion_e2e::{Cluster, Shape};
use rand::Rng;
use rand::rngs::SmallRng;

use super::assert_quiet;
use super::campaign::{Campaign, Tally};
use super::keeper::Keeper;

/// All processes of both sites.
struct Crowd {
    primary: Vec<Keeper>,
    mirror: Vec<Keeper>,
    cluster: Cluster,
}

/// The first of so many rounds kills the whole site of the primary, the others one process each.
const ROUNDS: usize = 5;

/// Kills processes `kills` times.
pub(super) async fn campaign(kills: usize, rng: &mut SmallRng) -> Tally {
    let shape = if rng.random_bool(0.5) { Shape::Three } else { Shape::Four };
    println!("{shape:?} nodes per site");
    let crowd = Crowd::start(shape);
    let [here, there] = [&crowd.cluster.primary, &crowd.cluster.mirror].map(|nodes| nodes[0].api);
    // Writers are at every node of the site, and reach their logs through it.
    let nodes: Vec<SocketAddr> = crowd.cluster.primary.iter().map(|node| node.api).collect();
    let mut campaign = Campaign::start(&crowd.cluster.pki, nodes).await;
    for round in 0.. {
        if campaign.tally.kills >= kills {
            break;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..500))).await;
        if round % ROUNDS == 0 {
            crowd.lose_primary(&mut campaign, there).await;
        } else {
            crowd.lose_one(&mut campaign, rng, [here, there]).await;
        }
        if rng.random_bool(0.6) {
            campaign.settle(&campaign.client(here).await).await;
        }
    }
    let tally = campaign.end(here, there).await;
    for keeper in crowd.primary.iter().chain(&crowd.mirror) {
        keeper.assert_only_killed();
    }
    for node in crowd.cluster.primary.iter().chain(&crowd.cluster.mirror) {
        assert_quiet(&node.spec);
    }
    tally
}

impl Crowd {
    fn start(shape: Shape) -> Self {
        let cluster = Cluster::down(shape);
        let keep =
            |nodes: &[parhelion_e2e::Site]| nodes.iter().map(|node| Keeper::start(&node.spec)).collect();
        Self { primary: keep(&cluster.primary), mirror: keep(&cluster.mirror), cluster }
    }

    /// Kills all processes of the primary's site, holds the promises against the mirror alone, and lets them come back.
    async fn lose_primary(&self, campaign: &mut Campaign, mirror: SocketAddr) {
        println!("kill {}: the primary's site", campaign.tally.kills);
        for keeper in &self.primary {
            keeper.hold();
        }
        for keeper in &self.primary {
            keeper.kill().await;
            campaign.tally.kills += 1;
        }
        campaign.judge_survivor(&campaign.client(mirror).await).await;
        for keeper in &self.primary {
            keeper.release();
        }
    }

    /// Kills one process of either site. What a mirror had confirmed is there when it is back.
    async fn lose_one(
        &self,
        campaign: &mut Campaign,
        rng: &mut SmallRng,
        [primary, mirror]: [SocketAddr; 2],
    ) {
        let victim = rng.random_range(0..self.primary.len() + self.mirror.len());
        let (was_settled, before) = (campaign.is_settled(), campaign.promised());
        let keeper = self.primary.iter().chain(&self.mirror).nth(victim).expect("it is one of them");
        println!("kill {}: {}", campaign.tally.kills, keeper.name());
        let served = keeper.served();
        keeper.kill().await;
        campaign.tally.kills += 1;
        let is_of_mirror = victim >= self.primary.len();
        if is_of_mirror {
            campaign.mirror_died();
        } else if rng.random_bool(0.5) {
            // The next one dies while this one comes back.
            return;
        }
        keeper.serves_again(served).await;
        match is_of_mirror {
            true if was_settled => campaign.judge_mirror(&campaign.client(mirror).await, before).await,
            true => {}
            false => campaign.judge_primary(&campaign.client(primary).await, before).await,
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.cluster.logs_text());
        }
    }
}

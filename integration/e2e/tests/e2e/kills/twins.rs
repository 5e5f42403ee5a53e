//! Two sites of one node each, which change their roles now and then.

use std::net::SocketAddr;
use std::time::Duration;

use parhelion_e2e::{NodeSpec, Pair, PairOptions, Ports, Tool};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::assert_quiet;
use super::campaign::{Campaign, Tally};
use super::keeper::Keeper;

/// Both sites, the first of which starts as the primary.
struct Twins {
    sites: [Site; 2],
    primary: usize,
    /// Has the directory, the certificates and the line.
    pair: Pair,
}

struct Site {
    spec: NodeSpec,
    api: SocketAddr,
    /// None while its role changes.
    keeper: Option<Keeper>,
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Primary,
    Mirror,
    /// First the primary, then the mirror while that is down.
    Both,
    /// The primary, for good: the mirror is promoted.
    PrimaryForGood,
}

/// From the first site to the second. Over such a line the mirror cannot confirm an append before it is acknowledged at the
/// level `network`. What the second site sends as a primary goes directly.
const ONE_WAY: Duration = Duration::from_millis(10);

/// Share of the restarts that are cut short by another kill.
const AGAIN: f64 = 0.3;
/// A node has come so far as to serve, and often as to be linked.
const AGAIN_WITHIN_MILLIS: u64 = 300;

/// In each turn all of these, the first one first.
const VICTIMS: [Victim; 6] =
    [Victim::Primary, Victim::Primary, Victim::Mirror, Victim::Mirror, Victim::Both, Victim::PrimaryForGood];

/// Kills nodes `kills` times.
pub(super) async fn campaign(kills: usize, rng: &mut SmallRng) -> Tally {
    let mut twins = Twins::start();
    let mut campaign = Campaign::start(&twins.pair.pki, vec![twins.primary().api]).await;
    let mut victims = Vec::new();
    while campaign.tally.kills < kills {
        if victims.is_empty() {
            victims = VICTIMS.to_vec();
            victims[1..].shuffle(rng);
            victims.reverse();
        }
        let victim = victims.pop().expect("there are some");
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..500))).await;
        println!("kill {}: {victim:?}", campaign.tally.kills);
        match victim {
            Victim::Primary | Victim::Both => twins.lose_primary(&mut campaign, victim, rng).await,
            Victim::Mirror => twins.lose_mirror(&mut campaign, rng).await,
            Victim::PrimaryForGood => twins.change_roles(&mut campaign).await,
        }
        // Mostly the next one dies when the sites have found each other again; else somewhere on the way to it. A mirror
        // that lost its data must have them again first: until then they are at one site, whatever dies.
        if matches!(victim, Victim::PrimaryForGood) || rng.random_bool(0.7) {
            campaign.settle(&campaign.client(twins.primary().api).await).await;
        }
    }
    let tally = campaign.end(twins.primary().api, twins.mirror().api).await;
    for site in &twins.sites {
        site.keeper().assert_only_killed();
        assert_quiet(&site.spec);
    }
    tally
}

impl Twins {
    fn start() -> Self {
        // Each has what either role needs.
        let ports = Ports::reserve();
        let mut options = PairOptions::default();
        for (name, port) in [("bulk", ports.bulk), ("critical", ports.critical), ("tcp", ports.tcp)] {
            let (listen, peer) = match name {
                "bulk" => ("link.listen_bulk", "link.peer_bulk"),
                "critical" => ("link.listen_critical", "link.peer_critical"),
                _ => ("link.listen_tcp", "link.peer_tcp"),
            };
            options = options.primary(listen, port).mirror(peer, port);
        }
        let pair = Pair::down(options.primary("node.site", 1).mirror("node.site", 2).apart(ONE_WAY));
        let site = |site: &parhelion_e2e::Site| Site { spec: site.spec.clone(), api: site.api, keeper: None };
        let sites = [site(&pair.primary), site(&pair.mirror)];
        let mut twins = Self { sites, primary: 0, pair };
        for site in &mut twins.sites {
            site.keeper = Some(Keeper::start(&site.spec));
        }
        twins
    }

    fn primary(&self) -> &Site {
        &self.sites[self.primary]
    }

    fn mirror(&self) -> &Site {
        &self.sites[1 - self.primary]
    }

    /// Kills the primary, holds the promises against the mirror alone, and lets the primary come back.
    async fn lose_primary(&self, campaign: &mut Campaign, victim: Victim, rng: &mut SmallRng) {
        let (here, there) = (self.primary().keeper(), self.mirror().keeper());
        here.hold();
        here.kill().await;
        campaign.tally.kills += 1;
        if let Victim::Both = victim {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..100))).await;
            there.kill().await;
            campaign.tally.kills += 1;
            campaign.mirror_died();
        }
        campaign.judge_survivor(&campaign.client(self.mirror().api).await).await;
        let before = campaign.promised();
        here.release();
        self.come_back(here, campaign, rng).await;
        campaign.judge_primary(&campaign.client(self.primary().api).await, before).await;
    }

    /// Kills the mirror. What it had confirmed is there when it is back.
    async fn lose_mirror(&self, campaign: &mut Campaign, rng: &mut SmallRng) {
        let was_settled = campaign.is_settled();
        let (there, before) = (self.mirror().keeper(), campaign.promised());
        there.kill().await;
        campaign.tally.kills += 1;
        campaign.mirror_died();
        self.come_back(there, campaign, rng).await;
        // A primary that has just come back may still cut the mirror back, behind what it has promised.
        if was_settled {
            campaign.judge_mirror(&campaign.client(self.mirror().api).await, before).await;
        }
    }

    /// Waits until a node that died serves again, or kills it on the way to that.
    async fn come_back(&self, keeper: &Keeper, campaign: &mut Campaign, rng: &mut SmallRng) {
        let mut served = keeper.served();
        if rng.random_bool(AGAIN) {
            let after = Duration::from_millis(rng.random_range(0..AGAIN_WITHIN_MILLIS));
            keeper.kill_again(after).await;
            campaign.tally.kills += 1;
            served = keeper.served();
        }
        keeper.serves_again(served).await;
    }

    /// Kills the primary for good and changes the roles, as `docs/operations.md` says: the mirror is promoted, and
    /// started as the primary; the old primary becomes an empty mirror.
    async fn change_roles(&mut self, campaign: &mut Campaign) {
        self.site(self.primary).stop().await;
        campaign.tally.kills += 1;
        let (old, new) = (self.primary, 1 - self.primary);
        campaign.judge_survivor(&campaign.client(self.mirror().api).await).await;
        let promoted =
            Tool::new(["mirror", "promote", "--yes", "--json"]).at(self.mirror().api, &self.pair.pki).run();
        assert!(matches!(promoted.code, Some(0 | 4)), "{promoted:?}");
        // It has hardly answered when it dies.
        self.site(new).stop().await;
        campaign.tally.kills += 1;
        self.primary = new;
        self.site(new).start_as("primary");
        campaign.go_over(vec![self.sites[new].api]).await;

        let data = self.sites[old].spec.setting("node.data").expect("it was set");
        std::fs::remove_dir_all(data).expect("its data is there");
        self.site(old).start_as("mirror");
    }

    fn site(&mut self, number: usize) -> &mut Site {
        &mut self.sites[number]
    }
}

impl Site {
    fn keeper(&self) -> &Keeper {
        self.keeper.as_ref().expect("it is kept")
    }

    async fn stop(&mut self) {
        let keeper = self.keeper.take().expect("it is kept");
        keeper.assert_only_killed();
        keeper.stop().await;
    }

    fn start_as(&mut self, profile: &'static str) {
        self.spec.profile = profile;
        self.keeper = Some(Keeper::start(&self.spec));
    }
}

impl Drop for Twins {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.pair.logs_text());
        }
    }
}

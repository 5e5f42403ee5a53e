//! Writers at work on two sites whose processes die, and what is asked of the sites meanwhile.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parhelion_client::Client;
use parhelion_e2e::{Tool, client, poll};
use parhelion_types::{Degrade, Durability, LogId};

use super::copy::Copy;
use super::writers::{Append, Promise, Promises, Writers};
use crate::SOON;

/// A run of kills, from the creation of the logs to the comparison of both sites. Its data is small enough to be read
/// as a whole after every kill.
pub(super) struct Campaign {
    pki: PathBuf,
    logs: Vec<LogId>,
    promises: Promises,
    writers: Writers,
    /// Appends that were made to see that the mirror has caught up, per log.
    settlings: u64,
    /// Whether every append that is acknowledged at the level `network` now was sent to the mirror as it runs now, or was
    /// confirmed by it. A process of the mirror that died had appends in its memory; until they were sent again the
    /// primary alone has them, as is said in the last row of `docs/disasters.md`.
    is_settled: bool,
    /// Promises that were held against the mirror alone before, or were confirmed by it.
    judged: usize,
    pub(super) tally: Tally,
}

/// What was asked, over all kills.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub kills: usize,
    acknowledged: usize,
    /// Times that a mirror was asked for what had been promised, its primary being dead.
    alone: usize,
    remote: usize,
    /// Promises at the level `network` with the usual risk.
    usual: Network,
    /// The same where any risk was accepted.
    any: Network,
    promotions: usize,
    died: usize,
}

#[derive(Debug, Default)]
struct Network {
    appends: usize,
    /// The expected number of deaths with a loss, as it was promised.
    risk: f64,
}

const WRITERS: u64 = 4;
const LOGS: usize = 2;
/// Numbers of the writers of settling appends, one per log.
const SETTLER: u64 = 1000;
/// What had left a dead primary is with the mirror, and applied, within this time. Far less on a machine at rest.
const ARRIVAL: Duration = Duration::from_secs(5);
/// A mirror that died is fed again within this time.
const CATCH_UP: Duration = Duration::from_secs(60);

impl Campaign {
    /// Creates the logs, starts writers at these nodes, and waits until the mirror has the first appends.
    pub(super) async fn start(pki: &Path, primary: Vec<SocketAddr>) -> Self {
        let here = client(primary[0], pki, "client").await;
        let mut logs = Vec::new();
        for log in 0..LOGS {
            let name = format!("log-{log}");
            let created = poll("a log is created", SOON, || async {
                match here.create(name.clone(), Degrade::Block).await {
                    Ok(log) => Some(log),
                    Err(error) if error.kind().is_retryable() => None,
                    Err(error) => panic!("log {name} is not created: {error}"),
                }
            });
            logs.push(created.await);
        }
        let promises = Promises::default();
        let pki = pki.to_owned();
        let writers = Writers::start(WRITERS, &logs, primary, &pki, &promises);
        let mut campaign = Self {
            pki,
            logs,
            promises,
            writers,
            settlings: 0,
            is_settled: false,
            judged: 0,
            tally: Tally::default(),
        };
        campaign.settle(&here).await;
        campaign
    }

    pub(super) async fn client(&self, node: SocketAddr) -> Client {
        client(node, &self.pki, "client").await
    }

    /// Waits until the mirror has caught up with the primary.
    ///
    /// One append of each log is confirmed to see that the mirror as it runs now is in a session; a second one then says
    /// that it has all that was acknowledged before, for it applies a log in order.
    pub(super) async fn settle(&mut self, primary: &Client) {
        for _ in 0..2 {
            let before = self.promises.count();
            for (writer, &log) in (SETTLER..).zip(&self.logs) {
                let append = Append::of(writer, self.settlings).write_remote(primary, log);
                let promise = tokio::time::timeout(CATCH_UP, append).await.expect("the mirror catches up");
                self.promises.keep(promise);
            }
            self.settlings += 1;
            self.judged = before;
        }
        self.is_settled = true;
        self.writers.assert_at_work();
    }

    pub(super) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// A process of the mirror was killed.
    pub(super) fn mirror_died(&mut self) {
        self.is_settled = false;
    }

    /// Asks the mirror, its primary being dead, for what was promised to be there.
    ///
    /// All that was acknowledged at the level `remote` must be there. What was acknowledged at `network` was promised up
    /// to a risk; that risk is one of packets lost on the line. Here nothing else than a process dies: what was on the
    /// wire was out of its hands and, between two processes of one machine, in the queues of a kernel that lives on. So
    /// nothing may be missing, whatever risk was promised. The promised risks are summed up all the same and printed, to
    /// be seen beside the number of appends that were looked for.
    pub(super) async fn judge_survivor(&mut self, mirror: &Client) {
        let promises = self.promises.told().promises.clone();
        let must: Vec<_> =
            promises.iter().filter(|promise| must_be_there(promise, self.is_settled)).collect();
        let deadline = Instant::now() + ARRIVAL;
        let copies = loop {
            let copies = self.copies(mirror, "the mirror, its primary being dead,").await;
            if missing(&must, &copies).is_empty() || Instant::now() > deadline {
                break copies;
            }
        };
        let missing = missing(&must, &copies);
        assert!(
            missing.is_empty(),
            "the mirror, its primary being dead, lacks {} of {} appends that it was promised to have:\n{}",
            missing.len(),
            must.len(),
            missing.iter().map(|promise| promise.describe()).collect::<Vec<_>>().join("\n")
        );
        for copy in &copies {
            copy.assert_whole(mirror).await;
        }
        self.tally.alone += 1;
        self.tally.count(&promises[self.judged..], self.is_settled);
        self.judged = promises.len();
    }

    /// Asks a mirror that died and came back for what it had confirmed before. `before` are the promises of that time.
    pub(super) async fn judge_mirror(&self, mirror: &Client, before: usize) {
        let must = |promise: &Promise| promise.acked.reached == Durability::Remote;
        self.judge_restarted(mirror, "the mirror, started again,", before, must).await;
    }

    /// Asks a primary that died and came back for all that was acknowledged before, at whatever level.
    pub(super) async fn judge_primary(&self, primary: &Client, before: usize) {
        self.judge_restarted(primary, "the primary, started again,", before, |_| true).await;
    }

    async fn judge_restarted(
        &self,
        site: &Client,
        whose: &str,
        before: usize,
        must: impl Fn(&Promise) -> bool,
    ) {
        let promises = self.promises.told().promises[..before].to_vec();
        let copies = self.copies(site, whose).await;
        let must: Vec<_> = promises.iter().filter(|promise| must(promise)).collect();
        let missing = missing(&must, &copies);
        assert!(
            missing.is_empty(),
            "{whose} lacks {} appends, such as {}",
            missing.len(),
            missing[0].describe()
        );
        for copy in &copies {
            copy.assert_whole(site).await;
        }
    }

    /// Promises so far.
    pub(super) fn promised(&self) -> usize {
        self.promises.count()
    }

    /// The mirror was promoted and is the primary now: what it lacks died with the old one, and was promised to be safe
    /// at that site only. The writers go on here.
    pub(super) async fn go_over(&mut self, nodes: Vec<SocketAddr>) {
        let here = self.client(nodes[0]).await;
        let copies = self.copies(&here, "the promoted mirror").await;
        {
            let mut told = self.promises.told();
            let (kept, died): (Vec<_>, Vec<_>) =
                told.promises.drain(..).partition(|promise| copies.iter().any(|copy| copy.holds(promise)));
            let unexpected = died.iter().find(|promise| must_be_there(promise, self.is_settled));
            assert!(
                unexpected.is_none(),
                "the promoted mirror lacks {}",
                unexpected.expect("it is some").describe()
            );
            self.tally.died += died.len();
            told.died.extend(died.iter().map(|promise| promise.number));
            told.promises = kept;
            self.judged = told.promises.len();
        }
        self.tally.promotions += 1;
        self.is_settled = false;
        self.writers.go_to(nodes);
    }

    /// Stops the writers, and checks that both sites have everything, and the same.
    pub(super) async fn end(mut self, primary: SocketAddr, mirror: SocketAddr) -> Tally {
        let here = self.client(primary).await;
        self.settle(&here).await;
        self.writers.stop().await;
        self.settle(&here).await;
        let promises = self.promises.told().promises.clone();
        for (node, whose) in [(primary, "the primary"), (mirror, "the mirror")] {
            let site = self.client(node).await;
            let copies = self.copies(&site, whose).await;
            let missing = missing(&promises.iter().collect::<Vec<_>>(), &copies);
            assert!(missing.is_empty(), "{whose} lacks {}", missing[0].describe());
            for copy in &copies {
                copy.assert_whole(&site).await;
            }
        }
        let arguments = ["mirror", "verify", "--json", "--other", &mirror.to_string()];
        let found = Tool::new(arguments).at(primary, &self.pki).run().done().json();
        assert_eq!(found["same"], true, "{found}");
        self.tally.acknowledged += promises.len() + self.tally.died;
        self.tally
    }

    /// Every log as that site shows it.
    async fn copies(&self, site: &Client, whose: &str) -> Vec<Copy> {
        let died = self.promises.told().died.clone();
        let mut copies = Vec::new();
        for &log in &self.logs {
            copies.push(Copy::read(site, log, whose, &died).await);
        }
        copies
    }
}

impl Tally {
    /// Adds what was found at a mirror alone. One death is one trial, and in each log the last append's risk is that of
    /// losing any.
    fn count(&mut self, held: &[Promise], is_settled: bool) {
        self.remote += held.iter().filter(|promise| promise.acked.reached == Durability::Remote).count();
        if !is_settled {
            return;
        }
        let held: Vec<_> =
            held.iter().filter(|promise| promise.acked.reached == Durability::Network).collect();
        for (network, any) in [(&mut self.usual, false), (&mut self.any, true)] {
            let mut risks: BTreeMap<LogId, f64> = BTreeMap::new();
            for promise in held.iter().filter(|promise| promise.accepts_any_risk() == any) {
                let risk = risks.entry(promise.acked.log).or_default();
                *risk = risk.max(promise.acked.prefix_risk.probability());
                network.appends += 1;
            }
            network.risk += risks.values().sum::<f64>().min(1.0);
        }
    }

    /// Adds those of another campaign.
    pub(super) fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.acknowledged += other.acknowledged;
        self.alone += other.alone;
        self.remote += other.remote;
        self.promotions += other.promotions;
        self.died += other.died;
        for (all, one) in [(&mut self.usual, &other.usual), (&mut self.any, &other.any)] {
            all.appends += one.appends;
            all.risk += one.risk;
        }
    }

    /// Prints all, and checks that it was worth the while.
    pub(super) fn conclude(&self) {
        let Self { kills, acknowledged, alone, remote, usual, any, promotions, died } = self;
        println!(
            "{kills} kills, {acknowledged} appends acknowledged; {alone} times the mirror alone had all that it was \
             promised to have: {remote} appends at `remote`, {} at `network` with the usual risk ({:.1e} deaths with a \
             loss promised at most), {} with any risk ({:.1e} promised at most); {promotions} promotions, at which {died} \
             appends at `local` died with their site",
            usual.appends, usual.risk, any.appends, any.risk
        );
        assert!(*acknowledged > *kills, "hardly anything was written");
        assert!(*alone > 0 && *remote > 0 && any.appends > 0, "the mirror was hardly asked for anything");
    }
}

/// Whether a mirror whose primary is dead must have it.
fn must_be_there(promise: &Promise, is_settled: bool) -> bool {
    match promise.acked.reached {
        Durability::Remote => true,
        Durability::Network => is_settled,
        Durability::Local => false,
    }
}

fn missing<'a>(promises: &[&'a Promise], copies: &[Copy]) -> Vec<&'a Promise> {
    let holds = |promise: &Promise| copies.iter().any(|copy| copy.holds(promise));
    promises.iter().copied().filter(|promise| !holds(promise)).collect()
}

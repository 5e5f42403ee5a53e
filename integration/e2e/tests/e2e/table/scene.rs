//! Two sites far apart, writers, and what they were told.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use parhelion_client::{AppendOptions, Client, Promotion};
use parhelion_e2e::{At, Pair, PairOptions, payload, poll, request_id};
use parhelion_types::{Degrade, Durability, ErrorKind, LogAddress, LogId, Risk, Time};
use parhelion_wan::{Emulator, LinkConfig, monotonic_now};
use tokio::task::JoinSet;

use super::Mode;
use crate::{SOON, at_level, on_the_wire};

/// Propagation delay.
pub(super) const ONE_WAY: Duration = Duration::from_millis(50);
/// A peer that is silent for this long is gone.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

const RATE_BITS: u64 = 40_000_000;
/// 50 ms at that rate.
const QUEUE_BYTES: u64 = 250_000;
/// On a machine with all cores busy a packet waits so long for the emulator, which stands for the site's gateway.
/// An acknowledgement must not be ahead of it.
pub(super) const SITE_EXIT_DELAY: &str = "20ms";
const WRITERS: u64 = 8;
const APPEND_BYTES: usize = 3000;
/// Between a writer's appends: all writers together offer a third of the line.
const PAUSE: Duration = Duration::from_millis(12);
/// Appends that fill the queue take most of a second to leave the site.
const FILLING: u64 = 48;
const FILLING_BYTES: usize = 64 << 10;

/// Two sites with writers at work.
pub(super) struct Scene {
    pub(super) pair: Pair,
    log: LogId,
    client: Client,
    next: Arc<AtomicU64>,
    told: Arc<Mutex<Vec<Promise>>>,
    writers: JoinSet<()>,
}

/// An append that was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    number: u64,
    bytes: usize,
    address: LogAddress,
    reached: Durability,
    at: Time,
}

/// What the surviving site has of all promises.
#[derive(Debug, Default)]
pub(super) struct Aftermath {
    pub(super) kept: Vec<Promise>,
    pub(super) lost: Vec<Promise>,
}

impl Scene {
    /// Writers at the mode's level; at the network level the coverage alone decides.
    pub(super) async fn start(mode: Mode) -> Self {
        let options = if mode == Mode::NetworkSync { on_the_wire() } else { at_level(mode.durability()) };
        Self::with(mode, options).await
    }

    /// The same, but a network append asks for a risk of 1e-3.
    pub(super) async fn promising(mode: Mode) -> Self {
        Self::with(mode, AppendOptions { max_risk: Risk::bound(1e-3), ..at_level(mode.durability()) }).await
    }

    async fn with(mode: Mode, append: AppendOptions) -> Self {
        let line = LinkConfig {
            delay: ONE_WAY,
            rate: Some(RATE_BITS),
            queue_bytes: QUEUE_BYTES,
            ..LinkConfig::default()
        };
        let options = PairOptions::default()
            .line(line)
            .both("link.transport", if mode.has_code() { "quic" } else { "tcp" })
            .both("link.rate", format!("{RATE_BITS}bit"))
            .both("link.idle_timeout", format!("{}ms", IDLE_TIMEOUT.as_millis()))
            .both("link.site_exit_delay", SITE_EXIT_DELAY)
            // The losses of the emulator are independent in these tests.
            .both("risk.model", "iid-bound");
        let pair = Pair::start(options).await;
        let client = pair.client(At::Primary).await;
        let log = client.create("orders", Degrade::Block).await.unwrap();
        let mut scene =
            Self { pair, log, client, next: Arc::default(), told: Arc::default(), writers: JoinSet::new() };
        for _ in 0..WRITERS {
            let writing = scene.append_on(append.clone());
            scene.writers.spawn(writing);
        }
        scene
    }

    pub(super) fn line(&mut self) -> &mut Emulator {
        self.pair.line.as_mut().expect("the scene has a line")
    }

    /// Lets the writers write.
    pub(super) async fn write_for(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }

    /// Stops the writers, and appends at the local level what the line needs most of a second for.
    pub(super) async fn fill_the_queue(&mut self) {
        self.writers.shutdown().await;
        let mut filling = JoinSet::new();
        let first = self.next.fetch_add(FILLING, Ordering::Relaxed);
        for number in first..first + FILLING {
            let append = append(&self.client, self.log, number, FILLING_BYTES, at_level(Durability::Local));
            let told = self.told.clone();
            filling.spawn(async move {
                let promise = append.await.unwrap();
                told.lock().unwrap().push(promise);
            });
        }
        while let Some(done) = filling.join_next().await {
            done.unwrap();
        }
    }

    /// Appends acknowledged since then.
    pub(super) fn acks_since(&self, since: Time) -> usize {
        self.told.lock().unwrap().iter().filter(|promise| promise.at >= since).count()
    }

    /// Of those, the ones that the mirror had not confirmed.
    pub(super) fn acked_on_the_wire_since(&self, since: Time) -> usize {
        let on_the_wire = |promise: &&Promise| promise.at >= since && promise.reached == Durability::Network;
        self.told.lock().unwrap().iter().filter(on_the_wire).count()
    }

    /// Waits until an append has been acknowledged of which the mirror cannot have spoken yet.
    pub(super) async fn has_promises_out(&self) {
        poll("a promise ahead of the mirror", SOON, || async {
            (self.acked_on_the_wire_since(monotonic_now() - ONE_WAY / 2) > 0).then_some(())
        })
        .await;
    }

    /// Waits until every writer has had an append acknowledged that was begun after `since`.
    pub(super) async fn acknowledges_again(&self, since: Time) {
        let begun = self.next.load(Ordering::Relaxed);
        poll("writers get on", SOON, || async {
            let told = self.told.lock().unwrap();
            let after = told.iter().filter(|promise| promise.at > since && promise.number >= begun);
            (after.count() >= WRITERS as usize).then_some(())
        })
        .await;
    }

    /// Stops the writers and checks that both sites have every acknowledged append, and the same logs.
    pub(super) async fn both_sites_have_everything(&mut self) {
        self.writers.shutdown().await;
        self.pair.mirrored().await;
        self.pair.verify();
        for site in [At::Primary, At::Mirror] {
            let found = self.look(site, Time::from_nanos(u64::MAX)).await;
            println!("{site:?}: {} kept, {} lost", found.kept.len(), found.lost.len());
            assert!(found.lost.is_empty(), "lost at {site:?}: {:?}", found.lost);
            assert!(found.kept.len() > 20, "too little was written to tell: {}", found.kept.len());
        }
    }

    /// Looks at the mirror for all that was acknowledged by `cut`.
    pub(super) async fn look_for_what_was_acked(&mut self, cut: Time) -> Aftermath {
        self.writers.shutdown().await;
        let found = self.look(At::Mirror, cut).await;
        let last = found.kept.iter().map(|promise| promise.address).max();
        let first = found.lost.iter().map(|promise| promise.address).min();
        assert!(first.is_none() || last < first, "an append is shown that follows a lost one: {found:?}");
        found
    }

    async fn look(&self, at: At, until: Time) -> Aftermath {
        let client = self.pair.client(at).await;
        let mut found = Aftermath::default();
        let told = self.told.lock().unwrap().clone();
        for promise in told.into_iter().filter(|promise| promise.at <= until) {
            match client.read(self.log, promise.address).await {
                Ok(record) => {
                    assert_eq!(record.payload, payload(promise.number, promise.bytes), "{promise:?}");
                    found.kept.push(promise);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                    found.lost.push(promise);
                }
            }
        }
        found
    }

    /// One append after the other, until the writer is stopped.
    fn append_on(&self, options: AppendOptions) -> impl Future<Output = ()> + Send + 'static {
        let (client, log) = (self.client.clone(), self.log);
        let (next, told) = (self.next.clone(), self.told.clone());
        async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                // An error is the disaster: the append was not acknowledged.
                if let Ok(promise) = append(&client, log, number, APPEND_BYTES, options.clone()).await {
                    told.lock().unwrap().push(promise);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Aftermath {
    /// How many of the lost ones the promotion lists.
    pub(super) fn listed_by(&self, promotion: &Promotion) -> usize {
        let listed: HashSet<_> = promotion.missing.iter().map(|one| (one.address, one.request)).collect();
        self.lost
            .iter()
            .filter(|promise| listed.contains(&(promise.address, request_id(promise.number))))
            .count()
    }
}

fn append(
    client: &Client,
    log: LogId,
    number: u64,
    bytes: usize,
    options: AppendOptions,
) -> impl Future<Output = Result<Promise, parhelion_types::Error>> + Send + 'static {
    let client = client.clone();
    let options = AppendOptions { request: request_id(number), ..options };
    async move {
        let acked = client.append(log, payload(number, bytes), options).await?;
        let at = monotonic_now();
        Ok(Promise { number, bytes, address: acked.address, reached: acked.reached, at })
    }
}

//! Writers that go on whatever dies, and what they were told.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use parhelion_client::{Acked, AppendOptions, Client};
use parhelion_e2e::{client, payload, request_id};
use parhelion_types::{Durability, LogId, Risk};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::{SOON, at_level, on_the_wire};

/// An append of a test. All of it follows from its number, so that what a site shows can be judged also where nobody was
/// told of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Append {
    number: u64,
}

/// An append that was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub number: u64,
    pub acked: Acked,
}

/// What all writers were told.
#[derive(Clone, Debug, Default)]
pub(super) struct Promises(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
pub(super) struct Told {
    /// What must be at the site that takes appends.
    pub promises: Vec<Promise>,
    /// Numbers of appends that were acknowledged at the local level and died with their site.
    pub died: HashSet<u64>,
}

/// Writers at work. Each has one append outstanding, and repeats it until it is acknowledged.
#[derive(Debug)]
pub(super) struct Writers {
    tasks: Vec<JoinHandle<()>>,
    nodes: watch::Sender<Vec<SocketAddr>>,
    done: Arc<AtomicBool>,
}

/// Bits of a number that count the appends of one writer; those above are the writer's.
const COUNT_BITS: u32 = 32;

impl Append {
    /// The `n`th append of a writer.
    pub(super) fn of(writer: u64, n: u64) -> Self {
        Self { number: (writer << COUNT_BITS) + n }
    }

    pub(super) fn numbered(number: u64) -> Self {
        Self { number }
    }

    pub(super) fn number(self) -> u64 {
        self.number
    }

    pub(super) fn writer(self) -> u64 {
        self.number >> COUNT_BITS
    }

    /// Which of its writer's appends it is.
    pub(super) fn n(self) -> u64 {
        self.number & ((1 << COUNT_BITS) - 1)
    }

    /// Its bytes: mostly few, now and then many packets.
    pub(super) fn payload(self) -> Bytes {
        let mut rng = self.rng();
        let bytes = match rng.random_range(0..100) {
            0..90 => rng.random_range(1..4096),
            90..99 => rng.random_range(4096..40_000),
            _ => rng.random_range(40_000..300_000),
        };
        payload(self.number, bytes)
    }

    /// What is asked for it. The level `network` is asked for with the usual risk, which a young link can often not
    /// promise before the mirror has confirmed the append, and with any, which is acknowledged as soon as it has left.
    fn options(self) -> AppendOptions {
        let options = match self.rng().random_range(0..5) {
            0 => at_level(Durability::Local),
            1 => at_level(Durability::Remote),
            2 => at_level(Durability::Network),
            _ => on_the_wire(),
        };
        AppendOptions { request: request_id(self.number), ..options }
    }

    /// Appends it, however often that takes.
    pub(super) async fn write(self, client: &Client, log: LogId, options: AppendOptions) -> Promise {
        let asked = options.durability;
        let acked = loop {
            match client.append(log, self.payload(), options.clone()).await {
                Ok(acked) => break acked,
                Err(error) if error.kind().is_retryable() => {}
                Err(error) => panic!("append {} was refused: {error}", self.number),
            }
        };
        assert!(acked.reached >= asked && !acked.degraded, "{acked:?}");
        Promise { number: self.number, acked }
    }

    /// Appends it at the level `remote`.
    pub(super) async fn write_remote(self, client: &Client, log: LogId) -> Promise {
        let options = AppendOptions { request: request_id(self.number), ..at_level(Durability::Remote) };
        self.write(client, log, options).await
    }

    fn rng(self) -> SmallRng {
        SmallRng::seed_from_u64(self.number)
    }
}

impl Promise {
    /// What a failed test says of it.
    pub(super) fn describe(&self) -> String {
        let Acked { log, address, reached, prefix_risk, epoch, .. } = &self.acked;
        let asked = Append::numbered(self.number).options();
        format!(
            "append {} at {address} of log {log}, epoch {epoch}: asked {} at risk {}, reached {reached} at risk \
             {prefix_risk}",
            self.number, asked.durability, asked.max_risk
        )
    }

    /// Whether its writer would accept any risk.
    pub(super) fn accepts_any_risk(&self) -> bool {
        Append::numbered(self.number).options().max_risk == Risk::CERTAIN
    }
}

impl Promises {
    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn keep(&self, promise: Promise) {
        self.told().promises.push(promise);
    }

    pub(super) fn count(&self) -> usize {
        self.told().promises.len()
    }
}

impl Writers {
    /// Starts `count` writers, each at one of the nodes and in one of the logs.
    pub(super) fn start(
        count: u64,
        logs: &[LogId],
        nodes: Vec<SocketAddr>,
        pki: &Path,
        promises: &Promises,
    ) -> Self {
        let (sender, receiver) = watch::channel(nodes);
        let done = Arc::<AtomicBool>::default();
        let task = |writer: u64| {
            let log = logs[writer as usize % logs.len()];
            let (pki, promises, done) = (pki.to_owned(), promises.clone(), done.clone());
            tokio::spawn(write(writer, log, receiver.clone(), pki, promises, done))
        };
        Self { tasks: (0..count).map(task).collect(), nodes: sender, done: done.clone() }
    }

    /// Sends all writers to these nodes. Who waits for an answer of an old one waits no more, and asks again there.
    pub(super) fn go_to(&self, nodes: Vec<SocketAddr>) {
        self.nodes.send_replace(nodes);
    }

    /// Whether none has failed.
    pub(super) fn assert_at_work(&self) {
        assert!(self.tasks.iter().all(|task| !task.is_finished()), "a writer ended: see its panic above");
    }

    /// Lets each finish its append.
    pub(super) async fn stop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            tokio::time::timeout(SOON * 2, task)
                .await
                .expect("every append is answered")
                .expect("no writer fails");
        }
    }
}

async fn write(
    writer: u64,
    log: LogId,
    mut nodes: watch::Receiver<Vec<SocketAddr>>,
    pki: PathBuf,
    promises: Promises,
    done: Arc<AtomicBool>,
) {
    let at = |nodes: &[SocketAddr]| nodes[writer as usize % nodes.len()];
    let first = at(&nodes.borrow_and_update());
    let mut client = client(first, &pki, "client").await;
    for n in 0.. {
        if done.load(Ordering::Relaxed) {
            return;
        }
        let append = Append::of(writer, n);
        let promise = loop {
            tokio::select! {
                biased;
                moved = nodes.changed() => {
                    if moved.is_err() {
                        // The test has failed.
                        return;
                    }
                    let now = at(&nodes.borrow_and_update());
                    client = parhelion_e2e::client(now, &pki, "client").await;
                }
                promise = append.write(&client, log, append.options()) => break promise,
            }
        };
        promises.keep(promise);
    }
}

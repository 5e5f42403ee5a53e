//! The storage actor over a store whose queue is far too small for what comes.

mod common;

use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use actix::{Actor, Addr};
use bytes::Bytes;
use parhelion_actor_runtime::{Clock, Gate};
use parhelion_link_driver::{MirrorCommand, MirrorEvent};
use parhelion_log::Record;
use parhelion_mirror::PrimaryConfig;
use parhelion_model_iid_bound::IidBound;
use parhelion_observability::{AppendTracer, Metrics};
use parhelion_plugin::{Channel, Structure};
use parhelion_risk::Pricer;
use parhelion_storage::store::{Store, StoreConfig};
use parhelion_storage::{
    AnswerBatches, FromMirrorLink, FromStore, MirroringLatency, PendingBytes, Relink, Request, StorageActor,
    StorageConfig,
};
use parhelion_types::{Degrade, Durability, Epoch, LogId, RequestId, Risk, SiteId, TraceContext};
use parhelion_wire::link::{LogMarkV1, LogTailV1};
use tokio::sync::{mpsc as channel, oneshot};
use tokio::time::timeout;

use common::{Log, SEGMENT_BYTES, assert_reads, config, open};

/// Of the store's queue. Most records of [`Log`] are around 1500 bytes.
const QUEUE_BYTES: usize = 20_000;

const SOON: Duration = Duration::from_secs(60);

/// A storage actor and its store, whose writer stops in its first report until it is let go.
struct Site {
    storage: Addr<StorageActor>,
    store: Arc<Store>,
    pending: PendingBytes,
    reported: mpsc::Receiver<()>,
    go: mpsc::Sender<()>,
    commands: channel::UnboundedReceiver<MirrorCommand>,
}

impl Site {
    fn start(home: &Path, is_mirror: bool) -> Self {
        let address: Arc<OnceLock<Addr<StorageActor>>> = Arc::default();
        let (report, reported) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        let (to, wait) = (address.clone(), Mutex::new(wait));
        let tell = move |event| {
            to.get().expect("the actor is there before the first record").do_send(FromStore(event));
            // A test that has seen the first report, or has let the writer go, listens no more.
            let _ = report.send(());
            let _ = wait.lock().unwrap().recv();
        };
        let config = StoreConfig { queue_bytes_max: QUEUE_BYTES, ..config(home) };
        let (store, found) = Store::open(config, Arc::new(tell)).unwrap();
        assert!(found.is_empty());
        let (store, pending) = (Arc::new(store), PendingBytes::default());
        let config = StorageConfig {
            store: store.clone(),
            clock: Arc::new(Clock::start()),
            primary: PrimaryConfig {
                segment_bytes: SEGMENT_BYTES,
                link_buffer_bytes_max: 1 << 20,
                deadline: SOON,
                requests_max: 1000,
                epoch: Epoch(0),
            },
            pricer: Pricer::new(Arc::new(IidBound), Structure::None, Channel::independent(1e-3, 0.999)),
            metrics: Metrics::new(),
            tracer: AppendTracer::disabled(),
            pending: pending.clone(),
            mirroring: MirroringLatency::default(),
            answers: AnswerBatches::start(),
            learned: Box::new(|_, _, _| {}),
            promote: Box::new(|_| Ok(())),
        };
        let actor = match is_mirror {
            true => StorageActor::mirror(config, Epoch(0), Vec::new()),
            false => StorageActor::primary(config, Vec::new()),
        };
        let storage = actor.start();
        assert!(address.set(storage.clone()).is_ok());
        let (send, commands) = channel::unbounded_channel();
        storage.do_send(Relink::Mirror(send));
        Self { storage, store, pending, reported, go, commands }
    }

    /// Has the writer stop in its report of a record of another log.
    async fn stop_writer(&self) {
        self.deliver(&[Log::new(99).next().record]);
        self.stopped().await;
    }

    /// Waits for the writer's first report, while the actor runs.
    async fn stopped(&self) {
        while self.reported.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets the writer go, and reports of what it does no more.
    fn let_go(&mut self) {
        self.go = mpsc::channel().0;
    }

    /// Brings records as a link driver does, all at once.
    fn deliver(&self, records: &[Record]) -> usize {
        let records: Vec<Bytes> = records.iter().map(Record::bytes).collect();
        let bytes = records.iter().map(Bytes::len).sum();
        self.pending.delivered(bytes);
        self.storage.do_send(FromMirrorLink(vec![MirrorEvent::Records(records)]));
        bytes
    }

    /// Waits until the mirror has told of so many durable records of the log.
    async fn durable(&mut self, log: &Log) {
        let wanted = log.tail.next_number();
        self.mark(log.id, |mark| mark.records == wanted).await;
    }

    async fn mark(&mut self, log: LogId, wanted: impl Fn(&LogMarkV1) -> bool) {
        let wait = async {
            loop {
                let Some(MirrorCommand::Marks(marks)) = self.commands.recv().await else {
                    panic!("the actor is gone")
                };
                if marks.iter().any(|mark| mark.log == log.0 && wanted(mark)) {
                    return;
                }
            }
        };
        timeout(SOON, wait).await.expect("the log gets there");
    }

    /// Ends the actor and the store.
    async fn stop(self) {
        let Self { storage, store, .. } = self;
        let (answer, drained) = oneshot::channel();
        storage.do_send(Request::Drain { answer });
        timeout(SOON, drained).await.expect("nothing waits for the disk").unwrap();
        drop((storage, store));
    }
}

/// A log with records that are several times the queue, and one that alone is larger.
fn large(id: u32) -> Log {
    let mut log = Log::new(id);
    for _ in 0..30 {
        log.next();
    }
    log.bytes(2 * QUEUE_BYTES);
    for _ in 0..30 {
        log.next();
    }
    log
}

fn run(test: impl Future<Output = ()>) {
    actix_rt::System::new().block_on(test);
}

#[test]
fn more_than_the_queue_takes_arrives_at_a_mirror_at_once() {
    let home = tempfile::tempdir().unwrap();
    let (first, second) = (large(0), large(1));
    run(async {
        let mut site = Site::start(home.path(), true);
        site.stop_writer().await;
        // Both logs by turns, and each from its end: everything comes free with the last.
        let turns = first.records.iter().zip(&second.records).rev();
        let records: Vec<Record> = turns.flat_map(|(one, other)| [one.clone(), other.clone()]).collect();
        let bytes = site.deliver(&records);
        while site.pending.get() < bytes || site.store.queued_bytes() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(site.store.queued_bytes() <= QUEUE_BYTES, "the queue keeps its limit");
        assert!(bytes > 5 * QUEUE_BYTES);
        // Drained only when all of it is durable.
        let (answer, mut drained) = oneshot::channel();
        site.storage.do_send(Request::Drain { answer });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(drained.try_recv().is_err());
        assert!(site.pending.get() >= bytes, "what waits for the store counts towards the link");
        site.let_go();
        timeout(SOON, drained).await.expect("everything gets to the disk").unwrap();
        site.durable(&first).await;
        site.stop().await;
    });
    let opened = open(home.path()).unwrap();
    assert_reads(&opened, &first);
    assert_reads(&opened, &second);
}

#[test]
fn a_cut_waits_for_the_records_before_it() {
    let home = tempfile::tempdir().unwrap();
    let (longer, mut kept) = (Log::after(0, SEGMENT_BYTES, 60), Log::after(0, SEGMENT_BYTES, 40));
    run(async {
        let mut site = Site::start(home.path(), true);
        site.stop_writer().await;
        site.deliver(&longer.records);
        let end = kept.tail.next_address();
        let tail = LogTailV1 {
            log: 0,
            epoch: 0,
            records: 40,
            segment: end.segment.0,
            offset: end.offset,
            chain: kept.tail.chain(),
        };
        site.storage.do_send(FromMirrorLink(vec![MirrorEvent::Rewind(vec![tail])]));
        // The primary goes on with another history, which must stay behind the cut.
        kept.bytes(5000);
        kept.bytes(6000);
        site.deliver(&kept.records[40..]);
        let (marks, welcome) = oneshot::channel();
        let hello = MirrorEvent::Hello { site: SiteId(1), session: 1, marks };
        site.storage.do_send(FromMirrorLink(vec![hello]));
        site.let_go();
        let marks = timeout(SOON, welcome).await.expect("the primary is welcomed").unwrap().unwrap();
        assert!(marks.iter().any(|mark| mark.log == 0 && mark.records == 42), "{marks:?}");
        site.stop().await;
    });
    assert_reads(&open(home.path()).unwrap(), &kept);
}

#[test]
fn a_log_that_fails_keeps_no_room_from_the_others() {
    let home = tempfile::tempdir().unwrap();
    let (failing, other) = (large(0), large(1));
    run(async {
        let mut site = Site::start(home.path(), true);
        site.stop_writer().await;
        // Where the log's directory should come to be.
        std::fs::write(home.path().join("logs").join("0"), b"no directory").unwrap();
        site.deliver(&failing.records);
        site.deliver(&other.records);
        site.let_go();
        site.mark(LogId(0), LogMarkV1::is_refused).await;
        site.durable(&other).await;
        while site.pending.get() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        site.stop().await;
    });
    std::fs::remove_file(home.path().join("logs").join("0")).unwrap();
    assert_reads(&open(home.path()).unwrap(), &other);
}

#[test]
fn a_primary_with_more_credit_than_queue_loses_no_log() {
    const APPENDS: u64 = 50;
    let home = tempfile::tempdir().unwrap();
    run(async {
        let mut site = Site::start(home.path(), false);
        let (answer, created) = oneshot::channel();
        let (name, request) = ("orders".to_owned(), RequestId(1));
        site.storage.do_send(Request::Create {
            log: LogId(0),
            name,
            degrade: Degrade::Block,
            request,
            answer,
        });
        site.stopped().await;
        let gate = Gate::new(1 << 20);
        let mut acknowledged = Vec::new();
        for number in 1..=APPENDS {
            let (answer, acked) = oneshot::channel();
            acknowledged.push(acked);
            let payload = Bytes::from(vec![number as u8; 3000]);
            site.storage.do_send(Request::Append {
                log: LogId(0),
                credit: gate.enter(payload.len()).await,
                payload,
                durability: Durability::Local,
                max_risk: Risk::CERTAIN,
                deadline: None,
                request: RequestId(u128::from(number) + 1),
                explain: false,
                trace: TraceContext::default(),
                answer,
            });
        }
        site.let_go();
        assert_eq!(timeout(SOON, created).await.unwrap().unwrap().unwrap(), LogId(0));
        for (acked, number) in acknowledged.into_iter().zip(1..) {
            let acked = timeout(SOON, acked).await.expect("it is acknowledged").unwrap().unwrap();
            assert_eq!(acked.key.number, number);
        }
        site.stop().await;
    });
    let opened = open(home.path()).unwrap();
    let records = opened.all(LogId(0)).unwrap();
    assert_eq!(records.len() as u64, APPENDS + 1);
    assert!((1..=APPENDS).all(|number| records[number as usize].payload()[..] == [number as u8; 3000]));
}

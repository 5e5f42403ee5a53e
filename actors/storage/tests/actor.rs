//! The storage actor over a store whose queue is far too small for what comes.

mod common;

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use actix::{Actor, Addr};
use bytes::Bytes;
use parhelion_actor_runtime::{Budget, Clock};
use parhelion_code_none::NoCode;
use parhelion_link_driver::LinkEvent;
use parhelion_link_driver::{LinkCommand, MirrorCommand, MirrorEvent};
use parhelion_log::Record;
use parhelion_mirror::{Acked, LogStatus, PrimaryConfig, Promotion};
use parhelion_model_iid_bound::IidBound;
use parhelion_observability::{AppendOutcome, AppendTracer, Metrics};
use parhelion_plugin::{Channel, Code, Parameters};
use parhelion_risk::Pricer;
use parhelion_storage::finding::Finding;
use parhelion_storage::store::{Store, StoreConfig};
use parhelion_storage::{
    AnswerBatches, FromLink, FromMirrorLink, FromStore, MirroringLatency, PendingBytes, Relink, Request,
    SiteStatus, StorageActor, StorageConfig,
};
use parhelion_types::limits::WAITING_APPEND_BYTES;
use parhelion_types::{
    AppendRequest, Degrade, Durability, Epoch, Error, ErrorKind, LogAddress, LogId, RequestId, Risk,
    SegmentId, SiteId, TraceContext,
};
use parhelion_wire::Announcement;
use parhelion_wire::link::{LogMarkV1, LogTailV1};
use tokio::sync::{mpsc as channel, oneshot};
use tokio::time::timeout;

use common::{Log, SEGMENT_BYTES, assert_reads, config, open};

/// Of the store's queue. Most records of [`Log`] are around 1500 bytes.
fn no_code() -> Code {
    Code::new(Arc::new(NoCode), &Parameters::new()).unwrap()
}

const QUEUE_BYTES: usize = 20_000;

/// Appends above the level `local` that may wait at once.
const WAITING_MAX: usize = 8;

const SOON: Duration = Duration::from_secs(60);

/// Who waits for the answer to an append.
type Answered = oneshot::Receiver<Result<Box<Acked>, Error>>;

/// A storage actor and its store, whose writer stops in its first report until it is let go.
struct Site {
    storage: Addr<StorageActor>,
    store: Arc<Store>,
    pending: PendingBytes,
    metrics: Metrics,
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
        let (store, pending, metrics) = (Arc::new(store), PendingBytes::default(), Metrics::new());
        let config = StorageConfig {
            store: store.clone(),
            clock: Arc::new(Clock::start()),
            primary: PrimaryConfig {
                segment_bytes: SEGMENT_BYTES,
                link_buffer_bytes_max: 1 << 20,
                deadline: SOON,
                requests_max: 1000,
                epoch: Epoch(0),
                seen: Epoch(0),
                has_mirror: true,
            },
            pricer: Pricer::new(Arc::new(IidBound), no_code(), vec![Channel::independent(1e-3, 0.999)]),
            waiting_max: WAITING_MAX,
            metrics: metrics.clone(),
            tracer: AppendTracer::disabled(),
            pending: pending.clone(),
            mirroring: MirroringLatency::default(),
            answers: AnswerBatches::start(),
            learned: Box::new(|_, _, _| {}),
            promote: Box::new(|_| Ok(())),
        };
        let actor = match is_mirror {
            true => StorageActor::mirror(config, SiteId(2), Epoch(0), Vec::new()),
            false => StorageActor::primary(config, Vec::new()),
        };
        let storage = actor.start();
        assert!(address.set(storage.clone()).is_ok());
        let (send, commands) = channel::unbounded_channel();
        storage.do_send(Relink::Mirror(send));
        Self { storage, store, pending, metrics, reported, go, commands }
    }

    /// A primary with log 0 on its disk.
    async fn with_log(home: &Path) -> Self {
        let mut site = Self::start(home, false);
        let created = site.create();
        site.let_go();
        timeout(SOON, created).await.unwrap().unwrap().unwrap();
        site
    }

    /// Creates log 0.
    fn create(&self) -> oneshot::Receiver<Result<LogId, Error>> {
        let (answer, created) = oneshot::channel();
        let (name, request) = ("orders".to_owned(), RequestId(1));
        let create = Request::Create { log: LogId(0), name, degrade: Degrade::Block, request, answer };
        self.storage.do_send(create);
        created
    }

    /// Appends to log 0 as a front end does, once the budget has room.
    async fn append(&self, budget: &Budget, request: u64, bytes: usize, durability: Durability) -> Answered {
        let credit = budget.enter(bytes + WAITING_APPEND_BYTES).await;
        let (answer, acked) = oneshot::channel();
        let append = AppendRequest {
            log: LogId(0),
            payload: Bytes::from(vec![request as u8; bytes]),
            durability,
            max_risk: Risk::CERTAIN,
            deadline: None,
            request: RequestId(u128::from(request) + 1),
            explain: false,
            trace: TraceContext::default(),
        };
        self.storage.do_send(Request::Append { append, credit, answer });
        acked
    }

    /// Log 0 as its primary knows it.
    async fn log(&self) -> LogStatus {
        let (answer, status) = oneshot::channel();
        self.storage.do_send(Request::Status { answer });
        match timeout(SOON, status).await.expect("it is told").expect("the actor is there") {
            SiteStatus::Primary { logs, .. } => logs.into_iter().next().expect("log 0"),
            SiteStatus::Mirror { .. } => panic!("a mirror"),
        }
    }

    /// A session with a mirror that has nothing begins.
    fn link_up(&self) {
        let up = LinkEvent::Up { peer: SiteId(2), marks: Vec::new(), code: no_code() };
        self.storage.do_send(FromLink(vec![up]));
    }

    /// The mirror confirms so many records of log 0.
    fn mirrored(&self, records: u64) {
        let mark = LogMarkV1 { log: 0, epoch: 0, records, segment: 0, offset: 64 };
        self.storage.do_send(FromLink(vec![LinkEvent::Mirrored(vec![mark])]));
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

    /// Announces records as they are announced to a link driver.
    fn announce(&self, records: &[Record]) {
        let announcement = |record: &Record| Announcement {
            log: record.header.log,
            address: record.header.address,
            length: record.header.length,
            epoch: record.header.epoch,
            digest: record.header.digest,
            request: record.header.request,
        };
        let batch = records.iter().map(announcement).collect();
        self.storage.do_send(FromMirrorLink(vec![MirrorEvent::Announced(batch)]));
    }

    fn promote(&self, dry_run: bool) -> oneshot::Receiver<Result<Promotion, Error>> {
        let (answer, promoted) = oneshot::channel();
        self.storage.do_send(Request::Promote { dry_run, answer });
        promoted
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

async fn answer(acked: Answered) -> Result<Box<Acked>, Error> {
    timeout(SOON, acked).await.expect("it is answered").expect("the actor is there")
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
        let created = site.create();
        site.stopped().await;
        let budget = Budget::new(1 << 20);
        let mut acknowledged = Vec::new();
        for number in 1..=APPENDS {
            acknowledged.push(site.append(&budget, number, 3000, Durability::Local).await);
        }
        assert_eq!(budget.held_bytes() as u64, APPENDS * (3000 + WAITING_APPEND_BYTES as u64));
        site.let_go();
        assert_eq!(timeout(SOON, created).await.unwrap().unwrap().unwrap(), LogId(0));
        for (acked, number) in acknowledged.into_iter().zip(1..) {
            assert_eq!(answer(acked).await.unwrap().key.number, number);
        }
        site.stop().await;
        assert_eq!(budget.held_bytes(), 0);
    });
    let opened = open(home.path()).unwrap();
    let records = opened.all(LogId(0)).unwrap();
    assert_eq!(records.len() as u64, APPENDS + 1);
    assert!((1..=APPENDS).all(|number| records[number as usize].payload()[..] == [number as u8; 3000]));
}

#[test]
fn appends_that_wait_for_the_mirror_keep_no_room_from_those_that_do_not() {
    const BYTES: usize = 30_000;
    let home = tempfile::tempdir().unwrap();
    run(async {
        let site = Site::with_log(home.path()).await;
        // Room for one append beside those that wait.
        let budget = Budget::new((BYTES + (WAITING_MAX + 1) * WAITING_APPEND_BYTES) as u64);
        let mut waiting = Vec::new();
        for number in 1..=WAITING_MAX as u64 {
            // Entered when the one before it is durable and has given its bytes back.
            let append = site.append(&budget, number, BYTES, Durability::Remote);
            waiting.push(timeout(SOON, append).await.expect("what waits gives its bytes back"));
        }
        let append = site.append(&budget, 100, BYTES, Durability::Local);
        let local = timeout(SOON, append).await.expect("there is room at the level local");
        assert_eq!(answer(local).await.unwrap().reached, Durability::Local);
        assert_eq!(budget.held_bytes(), WAITING_MAX * WAITING_APPEND_BYTES);

        // As many as may wait do: one more is told so, and has stored nothing.
        for durability in [Durability::Network, Durability::Remote] {
            let error = answer(site.append(&budget, 200, BYTES, durability).await).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Busy);
            let parts = ["log 0", "8 appends wait", "local", durability.name()];
            assert!(parts.iter().all(|part| error.message().contains(part)), "{error}");
        }
        assert_eq!(budget.held_bytes(), WAITING_MAX * WAITING_APPEND_BYTES);
        assert!(waiting.iter_mut().all(|acked| acked.try_recv().is_err()));

        // The mirror is back and has it all.
        let mark = |records| LogMarkV1 { log: 0, epoch: 0, records, segment: 0, offset: 64 };
        let up = LinkEvent::Up { peer: SiteId(2), marks: vec![mark(0)], code: no_code() };
        site.storage.do_send(FromLink(vec![up, LinkEvent::Mirrored(vec![mark(WAITING_MAX as u64 + 2)])]));
        for (acked, number) in waiting.into_iter().zip(1..) {
            let acked = answer(acked).await.unwrap();
            assert_eq!((acked.key.number, acked.reached), (number, Durability::Remote));
        }
        assert_eq!(budget.held_bytes(), 0);
        // And there is room for others, at any level.
        let acked = site.append(&budget, 300, BYTES, Durability::Remote).await;
        let marks = vec![mark(WAITING_MAX as u64 + 3)];
        site.storage.do_send(FromLink(vec![LinkEvent::Mirrored(marks)]));
        answer(acked).await.unwrap();
        site.stop().await;
    });
}

#[test]
fn appends_that_are_refused_or_stored_already_keep_nothing() {
    let home = tempfile::tempdir().unwrap();
    run(async {
        let site = Site::with_log(home.path()).await;
        let budget = Budget::new(1 << 20);
        let first = site.append(&budget, 1, 50_000, Durability::Remote).await;
        let again = site.append(&budget, 1, 50_000, Durability::Local).await;
        assert!(answer(again).await.unwrap().duplicate);
        assert_eq!(budget.held_bytes(), WAITING_APPEND_BYTES, "the first one waits");
        let credit = budget.enter(1000 + WAITING_APPEND_BYTES).await;
        let (refuse, refused) = oneshot::channel();
        let append = AppendRequest {
            log: LogId(9),
            payload: Bytes::from(vec![0; 1000]),
            durability: Durability::Remote,
            max_risk: Risk::CERTAIN,
            deadline: None,
            request: RequestId(9),
            explain: false,
            trace: TraceContext::default(),
        };
        site.storage.do_send(Request::Append { append, credit, answer: refuse });
        assert_eq!(answer(refused).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(budget.held_bytes(), WAITING_APPEND_BYTES);
        drop(first);
        site.stop().await;
    });
}

#[test]
fn appends_that_are_given_up_make_room_for_others_that_wait() {
    const BYTES: usize = 1000;
    let home = tempfile::tempdir().unwrap();
    run(async {
        let site = Site::with_log(home.path()).await;
        let budget = Budget::new(1 << 20);
        let mut waiting = Vec::new();
        for number in 1..=WAITING_MAX as u64 {
            waiting.push(site.append(&budget, number, BYTES, Durability::Remote).await);
        }
        let error = answer(site.append(&budget, 100, BYTES, Durability::Network).await).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        // Five clients wait no more.
        waiting.drain(..5);
        let held = 3 * WAITING_APPEND_BYTES;
        until("the five give back what they keep", async || budget.held_bytes() == held).await;
        assert_eq!(site.log().await.waiting, 3);
        assert_eq!(site.metrics.appends(Durability::Remote, AppendOutcome::GivenUp).get(), 5);
        // As many others may wait.
        for number in 101..=105 {
            waiting.push(site.append(&budget, number, BYTES, Durability::Network).await);
        }
        let error = answer(site.append(&budget, 200, BYTES, Durability::Network).await).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(waiting.iter_mut().all(|acked| acked.try_recv().is_err()));

        // Nothing that was appended is lost: the mirror gets it all, and all who wait are answered.
        let records = 1 + WAITING_MAX as u64 + 5;
        until("all is durable", async || site.log().await.durable == records).await;
        site.link_up();
        site.mirrored(records);
        for (acked, number) in waiting.into_iter().zip([6, 7, 8, 9, 10, 11, 12, 13]) {
            assert_eq!(answer(acked).await.unwrap().key.number, number);
        }
        assert_eq!(budget.held_bytes(), 0);
        let again = answer(site.append(&budget, 1, BYTES, Durability::Remote).await).await.unwrap();
        assert_eq!((again.duplicate, again.key.number), (true, 1));
        site.stop().await;
    });
}

#[test]
fn a_log_that_cannot_be_read_is_fed_to_the_mirror_when_it_can() {
    for is_disk_away in [false, true] {
        let home = tempfile::tempdir().unwrap();
        run(feeds_when_it_can_be_read(home.path(), is_disk_away));
    }
}

/// In place of the log's file there is something that can be opened and not read; or the directory of all logs is away.
async fn feeds_when_it_can_be_read(home: &Path, is_disk_away: bool) {
    let site = Site::with_log(home).await;
    let (send, mut commands) = channel::unbounded_channel();
    site.storage.do_send(Relink::Primary(send));
    let budget = Budget::new(1 << 20);
    for number in 1..=3 {
        answer(site.append(&budget, number, 100, Durability::Local).await).await.unwrap();
    }
    let segment = common::segment(home, LogId(0), SegmentId(0));
    let gone = if is_disk_away { &home.join("logs") } else { &segment };
    let aside = home.join("aside");
    fs::rename(gone, &aside).unwrap();
    if !is_disk_away {
        fs::create_dir(gone).unwrap();
    }
    let start = Instant::now();
    site.link_up();
    until("the read has failed", async || site.log().await.feed == "unreadable").await;
    assert!(commands.try_recv().is_err(), "nothing was sent");
    if !is_disk_away {
        fs::remove_dir(gone).unwrap();
    }
    fs::rename(&aside, gone).unwrap();
    let mut sent = Vec::new();
    while sent.len() < 4 {
        match timeout(SOON, commands.recv()).await.expect("it is sent") {
            Some(LinkCommand::Send { key, .. }) => sent.push(key.number),
            Some(_) => {}
            None => panic!("the actor is gone"),
        }
    }
    assert_eq!(sent, [0, 1, 2, 3]);
    assert!(start.elapsed() >= Duration::from_secs(1), "after a pause");
    assert_eq!(site.log().await.feed, "live");
    site.stop().await;
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < SOON, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn addresses(records: &[Record]) -> Vec<LogAddress> {
    records.iter().map(|record| record.header.address).collect()
}

#[test]
fn a_promotion_waits_for_the_disk_and_takes_nothing_more() {
    let home = tempfile::tempdir().unwrap();
    let mut log = Log::after(0, SEGMENT_BYTES, 30);
    let lost = log.records.split_off(20);
    run(async {
        let mut site = Site::start(home.path(), true);
        site.stop_writer().await;
        site.announce(&lost[..5]);
        site.deliver(&log.records);
        let mut promoted = site.promote(false);
        let mut twice = site.promote(false);
        // A primary that lives goes on.
        site.deliver(&lost[..2]);
        site.announce(&lost[5..]);
        let looked = timeout(SOON, site.promote(true)).await.expect("only looking waits for nothing");
        let looked: Vec<_> = looked.unwrap().unwrap().missing.iter().map(|missing| missing.address).collect();
        assert_eq!(looked, addresses(&lost), "what came after the promotion was asked for is not applied");
        assert!(promoted.try_recv().is_err() && twice.try_recv().is_err(), "nothing is on the disk yet");
        assert!(Finding::open(home.path()).unwrap().is_none());

        site.let_go();
        let promotion = timeout(SOON, promoted).await.expect("the disk goes on").unwrap().unwrap();
        let missing: Vec<_> = promotion.missing.iter().map(|missing| missing.address).collect();
        assert_eq!((promotion.epoch, missing), (Epoch(0).next(SiteId(2)), addresses(&lost)));
        let error = timeout(SOON, twice).await.unwrap().unwrap().unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.message().contains("mirror missing"), "{error}");
        while site.pending.get() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        site.stop().await;
    });
    let finding = Finding::open(home.path()).unwrap().expect("it is kept");
    assert_eq!(
        (finding.head().epoch, finding.head().logs, finding.head().missing()),
        (Epoch(0).next(SiteId(2)), 2, 10)
    );
    let kept = finding.page(LogId(0), LogAddress::default(), 100).unwrap();
    assert_eq!(kept.iter().map(|missing| missing.address).collect::<Vec<_>>(), addresses(&lost));
    let opened = open(home.path()).unwrap();
    assert_eq!(opened.all(log.id).unwrap().len(), log.records.len());
}

#[test]
fn a_mirror_whose_disk_fails_is_not_promoted() {
    let home = tempfile::tempdir().unwrap();
    let (failing, other) = (Log::after(0, SEGMENT_BYTES, 10), Log::after(1, SEGMENT_BYTES, 10));
    run(async {
        let mut site = Site::start(home.path(), true);
        site.stop_writer().await;
        // Where the log's directory should come to be.
        std::fs::write(home.path().join("logs").join("0"), b"no directory").unwrap();
        site.deliver(&failing.records);
        let promoted = site.promote(false);
        site.deliver(&other.records);
        site.let_go();
        for promoted in [promoted, site.promote(false)] {
            let error = timeout(SOON, promoted).await.expect("the disk has failed").unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            let parts = ["nothing was changed", "10 records of log 0", "--dry-run"];
            assert!(parts.iter().all(|part| error.message().contains(part)), "{error}");
        }
        assert!(Finding::open(home.path()).unwrap().is_none());
        // It is a mirror still, of the other log.
        site.durable(&other).await;
        let error = timeout(SOON, site.create()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        site.stop().await;
    });
}

#[test]
fn a_mirror_that_cannot_keep_its_finding_is_not_promoted() {
    let home = tempfile::tempdir().unwrap();
    let log = Log::after(0, SEGMENT_BYTES, 10);
    run(async {
        let mut site = Site::start(home.path(), true);
        site.let_go();
        site.announce(&log.records[8..]);
        site.deliver(&log.records[..8]);
        // Where the file would be written.
        let in_the_way = home.path().join("promotion.new");
        std::fs::create_dir(&in_the_way).unwrap();
        let error = timeout(SOON, site.promote(false)).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains("nothing was changed"), "{error}");
        std::fs::remove_dir(in_the_way).unwrap();
        let promotion = timeout(SOON, site.promote(false)).await.unwrap().unwrap().unwrap();
        assert_eq!(promotion.missing.len(), 2, "the mirror has forgotten nothing");
        site.stop().await;
    });
}

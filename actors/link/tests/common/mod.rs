//! Both ends of a link in one process: throw-away certificates, a storage actor's stand-ins that remember
//! everything, and a relay that loses packets.

// Each test binary uses a part of it.
#![allow(dead_code)]

pub mod pki;
mod relay;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_none::NoCode;
use parhelion_link_driver::{
    CodeLookup, LinkCommand, LinkEvent, LinkStats, LinkTelemetry, MirrorAddresses, MirrorCommand,
    MirrorConfig, MirrorDriver, MirrorEvent, MirrorSink, PrimaryConfig, PrimaryDriver, PrimarySink,
};
use parhelion_plugin::ErasureCode;
use parhelion_types::{Epoch, Error, LogAddress, LogId, RecordKey, RequestId, Role, SiteId};
use parhelion_wire::Announcement;
use parhelion_wire::link::{ChannelCountsV1, LogMarkV1};
use tokio::sync::mpsc;

pub use pki::Pki;
#[allow(unused_imports, reason = "not every test has a path")]
pub use relay::Relay;

pub const PRIMARY_SITE: SiteId = SiteId(1);
pub const MIRROR_SITE: SiteId = SiteId(2);
pub const LAYERED: (&str, &str) = ("layered-interleaving", "r=8 interleaves=1:5:13");

pub fn codes() -> CodeLookup {
    codes_and(None)
}

/// The codes of these tests, and one more.
pub fn codes_and(another: Option<Arc<dyn ErasureCode>>) -> CodeLookup {
    let mut known: Vec<Arc<dyn ErasureCode>> = vec![Arc::new(NoCode), Arc::new(LayeredInterleaving)];
    known.extend(another);
    Arc::new(move |id: &str| {
        let is_it = |code: &Arc<dyn ErasureCode>| {
            code.name() == id || format!("{}@{}", code.name(), code.version()) == id
        };
        known.iter().find(|code| is_it(code)).cloned()
    })
}

/// The primary's end, and what its storage actor was told.
pub struct Primary {
    pub commands: mpsc::UnboundedSender<LinkCommand>,
    pub events: mpsc::UnboundedReceiver<LinkEvent>,
    pub telemetry: Arc<Mutex<Option<ChannelCountsV1>>>,
    pub stats: Arc<LinkStats>,
    pub announced: BTreeSet<RecordKey>,
    pub complete: BTreeSet<RecordKey>,
    pub sent: BTreeSet<RecordKey>,
    pub mirrored: BTreeMap<u32, u64>,
}

struct PrimaryEvents {
    events: mpsc::UnboundedSender<LinkEvent>,
    telemetry: Arc<Mutex<Option<ChannelCountsV1>>>,
}

impl PrimarySink for PrimaryEvents {
    fn events(&mut self, events: Vec<LinkEvent>) {
        for event in events {
            let _ = self.events.send(event);
        }
    }

    fn telemetry(&mut self, telemetry: LinkTelemetry) {
        *self.telemetry.lock().unwrap() = Some(telemetry.counts);
    }
}

impl Primary {
    pub fn start(config: PrimaryConfig) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (tell, events) = mpsc::unbounded_channel();
        let telemetry = Arc::new(Mutex::new(None));
        let sink = PrimaryEvents { events: tell, telemetry: telemetry.clone() };
        let stats = PrimaryDriver::start(config, receiver, Box::new(sink)).unwrap();
        Self {
            commands,
            events,
            telemetry,
            stats,
            announced: BTreeSet::new(),
            complete: BTreeSet::new(),
            sent: BTreeSet::new(),
            mirrored: BTreeMap::new(),
        }
    }

    /// The next event, noted.
    pub async fn event(&mut self) -> LinkEvent {
        let event = tokio::time::timeout(Duration::from_secs(20), self.events.recv()).await;
        let event = event.unwrap_or_else(|_| panic!("no event in 20 s: {:?}", self.stats.all())).unwrap();
        match &event {
            LinkEvent::Up { marks, .. } => {
                self.mirrored = marks.iter().map(|mark| (mark.log, mark.records)).collect();
            }
            LinkEvent::Announced(keys) => self.announced.extend(keys),
            LinkEvent::Coverage(changes) => {
                for change in changes {
                    assert!(!change.complete || change.sent, "complete, but not sent: {change:?}");
                    if change.sent {
                        self.sent.insert(change.key);
                    }
                    if change.complete {
                        self.complete.insert(change.key);
                    }
                }
            }
            LinkEvent::Mirrored(marks) => {
                for mark in marks {
                    let known = self.mirrored.entry(mark.log).or_default();
                    assert!(mark.records > *known, "a mark was told twice or fell: {mark:?}");
                    *known = mark.records;
                }
            }
            _ => {}
        }
        event
    }

    /// Waits for a session; the marks it begins with.
    pub async fn up(&mut self) -> Vec<LogMarkV1> {
        loop {
            if let LinkEvent::Up { peer, marks, .. } = self.event().await {
                assert_eq!(peer, MIRROR_SITE);
                return marks;
            }
        }
    }

    /// Waits for a session's end, or for one that did not begin; the reason.
    pub async fn down(&mut self) -> String {
        loop {
            if let LinkEvent::Down { reason } = self.event().await {
                return reason;
            }
        }
    }

    /// Whether nothing more can be asked for a record: it is covered, or the mirror has it.
    pub fn is_safe(&self, log: u32, number: u64) -> bool {
        self.complete.contains(&RecordKey { log: LogId(log), number })
            || self.mirrored.get(&log).is_some_and(|records| *records > number)
    }

    /// Takes events until `done`; the session must not end.
    pub async fn until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        while !done(self) {
            let event = self.event().await;
            assert!(!matches!(event, LinkEvent::Down { .. }), "{event:?}");
        }
    }

    pub fn command(&self, command: LinkCommand) {
        self.commands.send(command).unwrap();
    }

    /// Announces and sends one record.
    pub fn send(&self, log: u32, number: u64, bytes: usize) {
        let record = record(log, number, bytes);
        let key = RecordKey { log: LogId(log), number };
        self.command(LinkCommand::Announce { key, announcement: announcement(log, number, bytes) });
        self.command(LinkCommand::Send { key, record, is_awaited: true });
    }
}

/// The mirror's end, with a storage actor that makes every record durable at once and in order.
pub struct Mirror {
    pub commands: mpsc::UnboundedSender<MirrorCommand>,
    pub addresses: MirrorAddresses,
    pub stats: Arc<LinkStats>,
    pub store: Arc<Mutex<Store>>,
    /// What the storage actor says it has not made durable yet, in bytes.
    pub pending: Arc<AtomicUsize>,
    driver: tokio::task::JoinHandle<()>,
}

/// What a mirror has. It survives the driver, as a disk does.
#[derive(Default)]
pub struct Store {
    pub records: BTreeMap<(u32, u64), Bytes>,
    pub announced: BTreeSet<(u32, u64)>,
    pub durable: BTreeMap<u32, u64>,
    /// Records delivered in the running session; none may come twice.
    session: BTreeSet<(u32, u64)>,
    pub downs: Vec<String>,
    pub refuse: Option<Error>,
    /// Logs of which nothing becomes durable.
    pub never_durable: BTreeSet<u32>,
    /// For measurements: records are counted, not compared and kept.
    pub forget_bytes: bool,
}

struct MirrorEvents {
    store: Arc<Mutex<Store>>,
    commands: mpsc::UnboundedSender<MirrorCommand>,
    pending: Arc<AtomicUsize>,
}

impl MirrorSink for MirrorEvents {
    fn events(&mut self, events: Vec<MirrorEvent>) {
        let mut store = self.store.lock().unwrap();
        for event in events {
            match event {
                MirrorEvent::Hello { site, session, marks } => {
                    assert_eq!(site, PRIMARY_SITE);
                    assert_ne!(session, 0);
                    store.session.clear();
                    let answer = match &store.refuse {
                        Some(error) => Err(error.clone()),
                        None => Ok(store.durable.iter().map(|(&log, &records)| mark(log, records)).collect()),
                    };
                    let _ = marks.send(answer);
                }
                MirrorEvent::Announced(announcements) => {
                    for announcement in announcements {
                        store.announced.insert((announcement.log.0, u64::from(announcement.address.offset)));
                    }
                }
                MirrorEvent::Records(records) => {
                    let marks: BTreeMap<u32, LogMarkV1> = records
                        .into_iter()
                        .filter_map(|bytes| store.take(bytes))
                        .map(|m| (m.log, m))
                        .collect();
                    if !marks.is_empty() {
                        let _ = self.commands.send(MirrorCommand::Marks(marks.into_values().collect()));
                    }
                }
                MirrorEvent::Rewind(tails) => {
                    for tail in tails {
                        store.durable.insert(tail.log, tail.records);
                        store.records.retain(|&(log, number), _| log != tail.log || number < tail.records);
                    }
                }
                MirrorEvent::Down { reason } => store.downs.push(reason),
            }
        }
    }

    fn pending_bytes(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }
}

impl Store {
    fn take(&mut self, bytes: Bytes) -> Option<LogMarkV1> {
        let log = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let number = u64::from_le_bytes(bytes[4..12].try_into().unwrap());
        if self.forget_bytes {
            let durable = self.durable.entry(log).or_default();
            *durable += 1;
            return Some(mark(log, *durable));
        }
        assert_eq!(bytes, record(log, number, bytes.len()), "record {log}:{number} is not what was sent");
        assert!(self.session.insert((log, number)), "record {log}:{number} came twice in one session");
        self.records.insert((log, number), bytes);
        if self.never_durable.contains(&log) {
            return None;
        }
        let before = self.durable.get(&log).copied().unwrap_or(0);
        let mut durable = before;
        while self.records.contains_key(&(log, durable)) {
            durable += 1;
        }
        self.durable.insert(log, durable);
        (durable > before).then(|| mark(log, durable))
    }
}

impl Mirror {
    pub fn start(config: MirrorConfig) -> Self {
        Self::start_with(config, Arc::default())
    }

    pub fn start_with(config: MirrorConfig, store: Arc<Mutex<Store>>) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let pending = Arc::new(AtomicUsize::new(0));
        let sink =
            MirrorEvents { store: store.clone(), commands: commands.clone(), pending: pending.clone() };
        let driver = MirrorDriver::new(config, receiver, Box::new(sink)).unwrap();
        let (addresses, stats) = (driver.addresses().unwrap(), driver.stats());
        Self { commands, addresses, stats, store, pending, driver: tokio::spawn(driver.run()) }
    }

    /// Ends without a word, as a process that is killed.
    pub async fn kill(&mut self) {
        self.driver.abort();
        assert!((&mut self.driver).await.is_err_and(|error| error.is_cancelled()));
    }

    pub async fn close(&self) {
        self.commands.send(MirrorCommand::Close).unwrap();
        self.commands.closed().await;
    }

    pub async fn until(&self, mut done: impl FnMut(&Store) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while !done(&self.store.lock().unwrap()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        waited
            .await
            .unwrap_or_else(|_| panic!("the mirror did not get there in 20 s: {:?}", self.stats.all()));
    }
}

pub fn mirror_config(pki: &Pki) -> MirrorConfig {
    let (certificate, key) = pki.issue(Role::Link);
    let address = "127.0.0.1:0".parse().unwrap();
    MirrorConfig::new(MIRROR_SITE, address, pki.server(certificate, key), Pki::demand(Role::Link), codes())
}

pub fn primary_config(pki: &Pki, mirror: MirrorAddresses) -> PrimaryConfig {
    let (certificate, key) = pki.issue(Role::Link);
    let tls = pki.client(certificate, key);
    let mut config =
        PrimaryConfig::new(PRIMARY_SITE, mirror.critical, pki::NAME, tls, Pki::demand(Role::Link), codes());
    config.bulk = mirror.bulk;
    config.tcp = mirror.tcp.unwrap_or(mirror.critical);
    config.code = LAYERED.0.to_owned();
    config.parameters = LAYERED.1.to_owned();
    // Generous for a machine that does other things as well, far below what any real path has.
    config.rate_bytes_per_second = 40_000_000;
    config.reconnect_min = Duration::from_millis(20);
    config.reconnect_max = Duration::from_millis(200);
    config
}

/// The same configuration over a path of 10 ms round trip.
pub async fn over_a_path(config: PrimaryConfig) -> (PrimaryConfig, Relay, Relay) {
    let (critical, bulk) = (Relay::start(config.critical).await, Relay::start(config.bulk).await);
    let config = PrimaryConfig { critical: critical.address, bulk: bulk.address, ..config };
    (config, critical, bulk)
}

/// A record whose every byte follows from its key.
pub fn record(log: u32, number: u64, bytes: usize) -> Bytes {
    assert!(bytes >= 12);
    let mut record = Vec::with_capacity(bytes);
    record.extend_from_slice(&log.to_le_bytes());
    record.extend_from_slice(&number.to_le_bytes());
    let mut state = (u64::from(log) << 32) ^ number ^ 0x9e37_79b9_7f4a_7c15;
    record.resize_with(bytes, || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    record.into()
}

pub fn announcement(log: u32, number: u64, bytes: usize) -> Announcement {
    Announcement {
        log: LogId(log),
        address: LogAddress::new(0, u32::try_from(number).unwrap()),
        length: u32::try_from(bytes).unwrap(),
        epoch: Epoch(1),
        digest: 0,
        request: RequestId::NONE,
    }
}

pub fn mark(log: u32, records: u64) -> LogMarkV1 {
    LogMarkV1 { log, epoch: 1, records, segment: 0, offset: 0 }
}

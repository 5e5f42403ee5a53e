//! Two sites in one process, with real drivers, gateways and connections; only the storage actors are stand-ins,
//! which remember everything.

// Each test binary uses a part of it.
#![allow(dead_code)]

#[path = "../../../link/tests/common/pki.rs"]
pub mod pki;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_none::NoCode;
use parhelion_gateway::{
    MirrorGateway, PrimaryGateway, RemoteMirrorLink, RemotePrimaryLink, SiteLinkConfig, SiteListener,
    SiteListenerConfig,
};
use parhelion_link_driver::{
    CodeLookup, LinkCommand, LinkEvent, LinkStats, LinkTelemetry, MirrorAddresses, MirrorCommand,
    MirrorConfig, MirrorDriver, MirrorEvent, MirrorSink, PrimaryConfig, PrimaryDriver, PrimarySink,
};
use parhelion_log::{Record, RecordFields, Tail};
use parhelion_plugin::ErasureCode;
use parhelion_types::{LogId, NodeId, RecordKey, Role, SiteId};
use parhelion_wire::link::LogMarkV1;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use pki::Pki;

pub const PRIMARY_SITE: SiteId = SiteId(1);
pub const MIRROR_SITE: SiteId = SiteId(2);
/// Any number does: the link node keeps no logs.
pub const LINK_NODE: NodeId = NodeId(99);
const SEGMENT_BYTES: u32 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(20);

pub fn codes() -> CodeLookup {
    let known: [Arc<dyn ErasureCode>; 2] = [Arc::new(NoCode), Arc::new(LayeredInterleaving)];
    Arc::new(move |id: &str| {
        let is_it = |code: &Arc<dyn ErasureCode>| {
            code.name() == id || format!("{}@{}", code.name(), code.version()) == id
        };
        known.iter().find(|code| is_it(code)).cloned()
    })
}

pub fn listen() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// The link node of a mirror site.
pub struct MirrorSite {
    pub gateway: MirrorGateway,
    pub addresses: MirrorAddresses,
    pub stats: Arc<LinkStats>,
    pub listener: SocketAddr,
    listening: JoinHandle<()>,
}

/// The link node of a primary site.
pub struct PrimarySite {
    pub gateway: PrimaryGateway,
    pub stats: Arc<LinkStats>,
    pub listener: SocketAddr,
    listening: JoinHandle<()>,
}

impl Drop for MirrorSite {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Drop for PrimarySite {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl MirrorSite {
    pub fn start(pki: &Pki, expected: &[u16], change: impl FnOnce(&mut MirrorConfig)) -> Self {
        let gateway = MirrorGateway::new(expected.iter().copied().map(NodeId));
        let (certificate, key) = pki.issue(Role::Link);
        let tls = pki.server(certificate, key);
        let mut config = MirrorConfig::new(MIRROR_SITE, listen(), tls, Pki::demand(Role::Link), codes());
        change(&mut config);
        let (commands, sink) = gateway.driver();
        let (addresses, stats) = MirrorDriver::start(config, commands, sink).unwrap();
        let (listener, listening) = start_listener(pki, MIRROR_SITE, None, Some(gateway.clone()));
        Self { gateway, addresses, stats, listener, listening }
    }
}

impl PrimarySite {
    pub fn start(pki: &Pki, mirror: MirrorAddresses) -> Self {
        let gateway = PrimaryGateway::new();
        let (commands, sink) = gateway.driver();
        let stats = PrimaryDriver::start(primary_config(pki, mirror), commands, sink).unwrap();
        let (listener, listening) = start_listener(pki, PRIMARY_SITE, Some(gateway.clone()), None);
        Self { gateway, stats, listener, listening }
    }
}

pub fn primary_config(pki: &Pki, mirror: MirrorAddresses) -> PrimaryConfig {
    let (certificate, key) = pki.issue(Role::Link);
    let tls = pki.client(certificate, key);
    let mut config =
        PrimaryConfig::new(PRIMARY_SITE, mirror.critical, pki::NAME, tls, Pki::demand(Role::Link), codes());
    config.bulk = mirror.bulk;
    config.tcp = mirror.tcp.unwrap_or(mirror.critical);
    config.code = "layered-interleaving".to_owned();
    config.parameters = "r=8 interleaves=1:5:13".to_owned();
    // Generous for a machine that does other things as well, far below what any real path has.
    config.rate_bytes_per_second = 40_000_000;
    config.reconnect_min = Duration::from_millis(20);
    config.reconnect_max = Duration::from_millis(200);
    config
}

fn start_listener(
    pki: &Pki,
    site: SiteId,
    primary: Option<PrimaryGateway>,
    mirror: Option<MirrorGateway>,
) -> (SocketAddr, JoinHandle<()>) {
    let (certificate, key) = pki.issue(Role::Link);
    let tls = pki.server(certificate, key);
    let config = SiteListenerConfig::new(site, LINK_NODE, listen(), tls, Pki::demand(Role::Storage));
    let listener = SiteListener::bind(config, primary, mirror).unwrap();
    let address = listener.address();
    (address, tokio::spawn(listener.run()))
}

pub fn site_link(pki: &Pki, site: SiteId, node: u16, gateway: SocketAddr) -> SiteLinkConfig {
    let (certificate, key) = pki.issue(Role::Storage);
    let tls = pki.client(certificate, key);
    let mut config =
        SiteLinkConfig::new(site, NodeId(node), gateway, pki::NAME, tls, Pki::demand(Role::Link));
    config.reconnect_min = Duration::from_millis(20);
    config.reconnect_max = Duration::from_millis(200);
    config
}

/// A storage node of the primary site: its logs, and what its storage actor was told.
pub struct PrimaryNode {
    pub commands: mpsc::UnboundedSender<LinkCommand>,
    pub events: mpsc::UnboundedReceiver<LinkEvent>,
    pub telemetry: Arc<AtomicUsize>,
    pub logs: BTreeMap<u32, (Tail, Vec<Record>)>,
    pub announced: BTreeSet<RecordKey>,
    pub complete: BTreeSet<RecordKey>,
    pub mirrored: BTreeMap<u32, u64>,
    pub task: Option<JoinHandle<()>>,
}

struct PrimaryEvents {
    events: mpsc::UnboundedSender<LinkEvent>,
    telemetry: Arc<AtomicUsize>,
}

impl PrimarySink for PrimaryEvents {
    fn events(&mut self, events: Vec<LinkEvent>) {
        for event in events {
            let _ = self.events.send(event);
        }
    }

    fn telemetry(&mut self, _: LinkTelemetry) {
        self.telemetry.fetch_add(1, Ordering::Relaxed);
    }
}

impl PrimaryNode {
    fn new(logs: &[u32]) -> (Self, mpsc::UnboundedReceiver<LinkCommand>, Box<dyn PrimarySink>) {
        let (commands, queue) = mpsc::unbounded_channel();
        let (tell, events) = mpsc::unbounded_channel();
        let telemetry = Arc::new(AtomicUsize::new(0));
        let sink = PrimaryEvents { events: tell, telemetry: telemetry.clone() };
        let logs = logs.iter().map(|&log| (log, (Tail::new(LogId(log)), Vec::new()))).collect();
        let node = Self {
            commands,
            events,
            telemetry,
            logs,
            announced: BTreeSet::new(),
            complete: BTreeSet::new(),
            mirrored: BTreeMap::new(),
            task: None,
        };
        (node, queue, Box::new(sink))
    }

    /// In the link node's process.
    pub fn local(gateway: &PrimaryGateway, node: u16, logs: &[u32]) -> Self {
        let (mut this, _, sink) = Self::new(logs);
        let ids: Vec<LogId> = logs.iter().copied().map(LogId).collect();
        this.commands = gateway.attach(NodeId(node), &ids, sink).unwrap();
        this
    }

    /// At the other end of a connection.
    pub fn remote(config: SiteLinkConfig, logs: &[u32]) -> Self {
        let (mut this, queue, sink) = Self::new(logs);
        this.connect(config, queue, sink);
        this
    }

    /// Dies, and is started again with the logs it had.
    pub async fn restart(&mut self, config: SiteLinkConfig) {
        self.kill().await;
        let logs: Vec<u32> = self.logs.keys().copied().collect();
        let (mut next, queue, sink) = Self::new(&logs);
        next.logs = std::mem::take(&mut self.logs);
        next.connect(config, queue, sink);
        *self = next;
    }

    /// Dies: its connection is gone without a word.
    pub async fn kill(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    fn connect(
        &mut self,
        config: SiteLinkConfig,
        queue: mpsc::UnboundedReceiver<LinkCommand>,
        sink: Box<dyn PrimarySink>,
    ) {
        let ids: Vec<LogId> = self.logs.keys().copied().map(LogId).collect();
        let link = RemotePrimaryLink::new(config, codes(), &ids, queue, sink).unwrap();
        self.task = Some(tokio::spawn(link.run()));
    }

    /// The next event, noted; none of it may be of another node's log.
    pub async fn event(&mut self) -> LinkEvent {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        let event = event.expect("no event in time").expect("the link is gone");
        match &event {
            LinkEvent::Up { marks, .. } => {
                assert!(marks.iter().all(|mark| self.logs.contains_key(&mark.log)), "{marks:?}");
                self.mirrored = marks.iter().map(|mark| (mark.log, mark.records)).collect();
            }
            LinkEvent::Announced(keys) => {
                assert!(keys.iter().all(|key| self.logs.contains_key(&key.log.0)), "{keys:?}");
                self.announced.extend(keys);
            }
            LinkEvent::Coverage(changes) => {
                assert!(changes.iter().all(|change| self.logs.contains_key(&change.key.log.0)));
                self.complete.extend(changes.iter().filter(|c| c.complete).map(|c| c.key));
            }
            LinkEvent::Mirrored(marks) => {
                for mark in marks {
                    assert!(self.logs.contains_key(&mark.log), "{mark:?}");
                    self.mirrored.insert(mark.log, mark.records);
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

    /// Waits until a session is up and no other node's joining renews it any more.
    pub async fn steady(&mut self) {
        let mut is_up = false;
        loop {
            match tokio::time::timeout(Duration::from_millis(300), self.event()).await {
                Ok(LinkEvent::Up { .. }) => is_up = true,
                Ok(LinkEvent::Down { .. }) => is_up = false,
                Ok(_) => {}
                Err(_) if is_up => return,
                Err(_) => {}
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

    /// Waits for a `Down` that says `part`.
    pub async fn down_for(&mut self, part: &str) -> String {
        loop {
            let reason = self.down().await;
            if reason.contains(part) {
                return reason;
            }
        }
    }

    /// Takes events until all logs are mirrored to their ends. What a session that ended had in flight is sent
    /// again in the next one, as a storage actor does.
    pub async fn until_mirrored(&mut self) {
        loop {
            let missing = |(log, (tail, _)): (&u32, &(Tail, Vec<Record>))| {
                self.mirrored.get(log).copied().unwrap_or(0) < tail.next_number()
            };
            if !self.logs.iter().any(missing) {
                return;
            }
            if let LinkEvent::Up { .. } = self.event().await {
                self.resend();
            }
        }
    }

    /// Places a record at the end of a log, and sends it.
    pub fn append(&mut self, log: u32, payload: &[u8]) {
        let new = || (Tail::new(LogId(log)), Vec::new());
        let (tail, records) = self.logs.entry(log).or_insert_with(new);
        let (record, _) = tail.place(RecordFields::default(), payload, SEGMENT_BYTES);
        records.push(record.clone());
        self.send(&record);
    }

    /// Sends what the mirror lacks.
    pub fn resend(&self) {
        for (log, (_, records)) in &self.logs {
            let from = self.mirrored.get(log).copied().unwrap_or(0);
            for record in records.iter().filter(|record| record.header.number >= from) {
                self.send(record);
            }
        }
    }

    fn send(&self, record: &Record) {
        let header = &record.header;
        let key = header.key();
        let announcement = header.announcement();
        self.commands.send(LinkCommand::Announce { key, announcement }).unwrap();
        self.commands.send(LinkCommand::Send { key, record: record.bytes(), is_awaited: true }).unwrap();
    }
}

/// A storage node of the mirror site, which makes every record durable at once and in order.
pub struct MirrorNode {
    pub commands: mpsc::UnboundedSender<MirrorCommand>,
    pub store: Arc<Mutex<Store>>,
    /// What it says it has not made durable yet, in bytes.
    pub pending: Arc<AtomicUsize>,
    pub task: Option<JoinHandle<()>>,
}

/// What it has. It survives the node, as a disk does.
#[derive(Default)]
pub struct Store {
    pub records: BTreeMap<(u32, u64), Bytes>,
    pub announced: BTreeSet<u32>,
    pub durable: BTreeMap<u32, u64>,
    pub downs: Vec<String>,
    pub hellos: usize,
    session: BTreeSet<(u32, u64)>,
}

struct MirrorEvents {
    store: Arc<Mutex<Store>>,
    commands: Arc<Mutex<Option<mpsc::UnboundedSender<MirrorCommand>>>>,
    pending: Arc<AtomicUsize>,
}

impl MirrorNode {
    fn new(store: Arc<Mutex<Store>>) -> (Self, mpsc::UnboundedReceiver<MirrorCommand>, MirrorEvents) {
        let (commands, queue) = mpsc::unbounded_channel();
        let pending = Arc::new(AtomicUsize::new(0));
        let sink = MirrorEvents {
            store: store.clone(),
            commands: Arc::new(Mutex::new(Some(commands.clone()))),
            pending: pending.clone(),
        };
        (Self { commands, store, pending, task: None }, queue, sink)
    }

    /// In the link node's process.
    pub fn local(gateway: &MirrorGateway, node: u16) -> Self {
        let (mut this, _, sink) = Self::new(Arc::default());
        let commands = sink.commands.clone();
        this.commands = gateway.attach(NodeId(node), Box::new(sink)).unwrap();
        *commands.lock().unwrap() = Some(this.commands.clone());
        this
    }

    /// At the other end of a connection.
    pub fn remote(config: SiteLinkConfig) -> Self {
        Self::remote_with(config, Arc::default())
    }

    pub fn remote_with(config: SiteLinkConfig, store: Arc<Mutex<Store>>) -> Self {
        let (mut this, queue, sink) = Self::new(store);
        let link = RemoteMirrorLink::new(config, queue, Box::new(sink)).unwrap();
        this.task = Some(tokio::spawn(link.run()));
        this
    }

    /// Dies: its connection is gone without a word.
    pub async fn kill(mut self) -> Arc<Mutex<Store>> {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
        self.store.clone()
    }

    pub fn logs(&self) -> Vec<u32> {
        self.store.lock().unwrap().durable.keys().copied().collect()
    }

    pub async fn until(&self, done: impl FnMut(&Store) -> bool) {
        let mut done = done;
        let waited = tokio::time::timeout(PATIENCE, async {
            while !done(&self.store.lock().unwrap()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        waited.await.expect("the mirror's node did not get there in time");
    }
}

impl MirrorSink for MirrorEvents {
    fn events(&mut self, events: Vec<MirrorEvent>) {
        let mut store = self.store.lock().unwrap();
        for event in events {
            match event {
                MirrorEvent::Hello { site, marks, .. } => {
                    assert_eq!(site, PRIMARY_SITE);
                    store.session.clear();
                    store.hellos += 1;
                    let all = store.durable.iter().map(|(&log, &records)| mark(log, records)).collect();
                    let _ = marks.send(Ok(all));
                }
                MirrorEvent::Announced(announcements) => {
                    store.announced.extend(announcements.iter().map(|a| a.log.0));
                }
                MirrorEvent::Records(records) => {
                    let marks: BTreeMap<u32, LogMarkV1> = records
                        .into_iter()
                        .filter_map(|bytes| store.take(bytes))
                        .map(|m| (m.log, m))
                        .collect();
                    if !marks.is_empty()
                        && let Some(commands) = &*self.commands.lock().unwrap()
                    {
                        let _ = commands.send(MirrorCommand::Marks(marks.into_values().collect()));
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
        let record = Record::parse(bytes).unwrap();
        let key = (record.header.log.0, record.header.number);
        assert!(self.session.insert(key), "record {key:?} came twice in one session");
        self.records.insert(key, record.bytes());
        let before = self.durable.get(&key.0).copied().unwrap_or(0);
        let mut durable = before;
        while self.records.contains_key(&(key.0, durable)) {
            durable += 1;
        }
        self.durable.insert(key.0, durable);
        (durable > before).then(|| mark(key.0, durable))
    }
}

pub fn mark(log: u32, records: u64) -> LogMarkV1 {
    LogMarkV1 { log, epoch: 0, records, segment: 0, offset: 0 }
}

/// Every record of `node` is at one of the mirror's nodes, byte by byte, and each log at one only.
pub fn assert_same(node: &PrimaryNode, mirrors: &[&MirrorNode]) {
    for (log, (_, records)) in &node.logs {
        let having: Vec<_> = mirrors.iter().filter(|mirror| mirror.logs().contains(log)).collect();
        assert_eq!(having.len(), 1, "log {log}");
        let store = having[0].store.lock().unwrap();
        for record in records {
            let there = store.records.get(&(*log, record.header.number));
            assert_eq!(there, Some(&record.bytes()), "record {} of log {log}", record.header.number);
        }
    }
}

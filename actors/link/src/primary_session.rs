//! One session at the primary, from the first packet to the last.

mod code;
mod greeting;
mod reports;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parhelion_plugin::{Code, Exposure};
use parhelion_types::{SiteId, Time};
use parhelion_wire::link::{ChannelCountsV1, LogMarkV1, RewindV1};
use parhelion_wire::{WireError, frame};
use quinn_proto::ConnectionHandle;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustls::pki_types::CertificateDer;

use crate::announcer::Announcer;
use crate::bulk::Bulk;
use crate::config::{PrimaryConfig, Transport};
use crate::error::LinkError;
use crate::frames::ControlStream;
use crate::interface::{CoverageChange, LinkCommand, LinkEvent, LinkTelemetry, PrimarySink};
use crate::lane::{Lane, LaneEvent};
use crate::primary::earliest;
use crate::stats::{ChannelTally, LinkStats};
use crate::tcp::{NO_SESSION, RecordWriter, WriterEvent};
use crate::timer::Clock;
use crate::transport::{CloseCode, LaneKind};

/// One session at the primary.
pub(crate) struct PrimarySession {
    config: PrimaryConfig,
    clock: Clock,
    stats: Arc<LinkStats>,
    id: u64,
    code: Code,
    code_epoch: u32,
    phase: Phase,
    critical: Lane,
    critical_handle: ConnectionHandle,
    control: Option<ControlStream>,
    records: Records,
    announcer: Option<Announcer>,
    peer: SiteId,
    marks: HashMap<u32, LogMarkV1>,
    /// Over TCP, where the link core does not keep count: records sent, by log.
    sent: HashMap<u32, u64>,
    report: Option<u64>,
    coverage: Vec<CoverageChange>,
    events: Vec<LinkEvent>,
    telemetry: Option<ChannelCountsV1>,
    tally: ChannelTally,
    /// Why the session is to end and the next one to begin.
    renewal: Option<String>,
    /// Changes of code that the mirror was asked about.
    offers: VecDeque<code::Offer>,
    /// Number of the next one.
    next_offer: u64,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// As told.
    Closed,
    /// The code in force broke: to be followed by the next one at once, with another code.
    Fault { reason: String },
    /// To be followed by the next one at once.
    Renewed { reason: String },
    /// By a failure; connecting again may help.
    Failed { reason: String, was_up: bool },
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Handshakes are under way.
    Connecting { until: Time },
    /// The hello is out.
    Greeting { until: Time },
    /// Welcome; the record stream is still connecting.
    Joining,
    /// Records flow.
    Up,
    /// Told to close: what is queued still goes out.
    Draining { until: Time },
}

/// What carries the records of this session.
enum Records {
    /// The bulk lane's handshake is under way.
    Handshake(Box<(Lane, ConnectionHandle)>),
    /// The bulk lane.
    Quic(Box<Bulk>),
    /// TCP, from the welcome on.
    Tcp(Option<RecordWriter>),
}

/// From the first packet to the welcome.
const GREETING_MAX: Duration = Duration::from_secs(10);
/// Batches of packets received per lane and turn; each holds up to some hundred packets.
const RECEIVE_BATCHES_PER_TURN: usize = 4;
/// How often the kernel's send queue is looked at while something is in it.
const DRAIN_POLL: Duration = Duration::from_micros(150);
/// Packets of the critical lane that leave in one send. Few, because a send may be lost as a whole.
const CRITICAL_BURST: usize = 4;

impl PrimarySession {
    /// Opens sockets and begins to connect.
    pub(crate) fn open(
        config: &PrimaryConfig,
        code: Code,
        clock: Clock,
        stats: Arc<LinkStats>,
    ) -> Result<Self, LinkError> {
        let (now, time) = clock.now();
        let bind = SocketAddr::new(config.bind, 0);
        let connect = |kind, remote| {
            let mut lane = Lane::client(kind, bind, &config.lane)?;
            let handle =
                lane.connect(now, remote, &config.peer_name, &config.tls, config.congestion, &config.lane)?;
            Ok::<_, LinkError>((lane, handle))
        };
        let (critical, critical_handle) = connect(LaneKind::Critical, config.critical)?;
        let records = match config.transport {
            Transport::Quic => Records::Handshake(Box::new(connect(LaneKind::Bulk, config.bulk)?)),
            Transport::Tcp { .. } => Records::Tcp(None),
        };
        Ok(Self {
            config: config.clone(),
            clock,
            stats,
            id: StdRng::from_os_rng().random_range(NO_SESSION + 1..=u64::MAX),
            code,
            code_epoch: 0,
            phase: Phase::Connecting { until: time + GREETING_MAX },
            critical,
            critical_handle,
            control: None,
            records,
            announcer: None,
            peer: SiteId::default(),
            marks: HashMap::new(),
            sent: HashMap::new(),
            report: None,
            coverage: Vec::new(),
            events: Vec::new(),
            telemetry: None,
            tally: ChannelTally::default(),
            renewal: None,
            offers: VecDeque::new(),
            next_offer: 0,
        })
    }

    /// The code in force.
    pub(crate) fn code(&self) -> &Code {
        &self.code
    }

    /// Packet times that its flushes pause.
    pub(crate) fn flush_pause(&self) -> u32 {
        self.config.flush_pause
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up | Phase::Draining { .. })
    }

    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
    }

    /// Takes one command.
    pub(crate) fn handle_command(&mut self, now: Time, command: LinkCommand) {
        match command {
            LinkCommand::Announce { key, announcement } => match (&self.phase, &mut self.announcer) {
                (Phase::Up, Some(announcer)) => announcer.announce(key, &announcement),
                _ => self.stats.commands_discarded.add(1),
            },
            // On its way here when the mirror refused the log: it would be held and never confirmed.
            LinkCommand::Send { key, .. }
                if self.marks.get(&key.log.0).is_some_and(LogMarkV1::is_refused) =>
            {
                self.stats.commands_discarded.add(1);
            }
            LinkCommand::Send { key, record, is_awaited } => match (&self.phase, &mut self.records) {
                (Phase::Up, Records::Quic(bulk)) => bulk.send(now, key, record, is_awaited),
                (Phase::Up, Records::Tcp(Some(writer))) => {
                    self.stats.records.add(1);
                    self.stats.record_bytes.add(record.len() as u64);
                    let records = self.sent.entry(key.log.0).or_default();
                    *records = key.number.saturating_add(1).max(*records);
                    writer.send(key, record);
                }
                _ => self.stats.commands_discarded.add(1),
            },
            LinkCommand::ChangeCode { name, parameters, flush_pause, done } => {
                self.offer_code(&name, &parameters, flush_pause, done);
            }
            LinkCommand::Rewind(logs) => {
                match (&mut self.control, frame(&RewindV1 { session: self.id, logs }, b"", 0)) {
                    (Some(control), Ok(frame)) if matches!(self.phase, Phase::Up) => control.send(frame),
                    (_, Err(error)) => tracing::error!(%error, "too many logs to cut back in one message"),
                    _ => self.stats.commands_discarded.add(1),
                }
            }
            // Before it is up there is nothing to renew: whoever asks will be told of this session's marks.
            LinkCommand::Renew { reason } => {
                if matches!(self.phase, Phase::Up) {
                    self.renewal.get_or_insert(reason);
                }
            }
            LinkCommand::Close => {
                if !self.is_closing() {
                    self.phase = Phase::Draining { until: now + self.config.drain_max };
                }
            }
        }
    }

    /// Does all that can be done now, the critical lane first; whether more can be done at once.
    pub(crate) fn turn(&mut self, sink: &mut dyn PrimarySink) -> Result<bool, End> {
        let result = self.work();
        if let Some(counts) = self.telemetry.take() {
            sink.telemetry(LinkTelemetry { counts, session: self.id });
        }
        if !self.coverage.is_empty() {
            self.events.push(LinkEvent::Coverage(std::mem::take(&mut self.coverage)));
        }
        if !self.events.is_empty() {
            sink.events(std::mem::take(&mut self.events));
        }
        match result {
            Ok(more) => Ok(more),
            Err(Stop::Closed) => {
                self.close(CloseCode::Stopped, "the primary is stopping");
                Err(End::Closed)
            }
            Err(Stop::Renewed(reason)) => {
                self.close(CloseCode::SessionOver, &reason);
                Err(End::Renewed { reason })
            }
            Err(Stop::Fault(reason)) => {
                let reason = format!("code {} broke {reason}", self.code);
                self.close(CloseCode::SessionOver, &reason);
                Err(End::Fault { reason })
            }
            Err(Stop::Failed(reason)) => {
                self.close(CloseCode::SessionOver, &reason);
                // Whatever goes wrong while closing, the session is closed.
                Err(if self.is_closing() {
                    End::Closed
                } else {
                    End::Failed { reason, was_up: self.is_up() }
                })
            }
        }
    }

    /// When to take the next turn at the latest.
    pub(crate) fn poll_timeout(&mut self, now: Time) -> Option<Time> {
        let phase = match self.phase {
            Phase::Connecting { until } | Phase::Greeting { until } | Phase::Draining { until } => {
                Some(until)
            }
            Phase::Joining | Phase::Up => None,
        };
        let mut times = [
            phase,
            self.critical.poll_timeout(&self.clock),
            self.announcer.as_ref().and_then(Announcer::poll_timeout),
            self.critical.is_draining().then(|| now + DRAIN_POLL),
            None,
            None,
            None,
        ];
        match &mut self.records {
            Records::Handshake(lane) => times[4] = lane.0.poll_timeout(&self.clock),
            Records::Quic(bulk) => {
                times[4] = bulk.lane.poll_timeout(&self.clock);
                times[5] = bulk.lane.is_draining().then(|| now + DRAIN_POLL);
                times[6] = bulk.poll_timeout();
            }
            Records::Tcp(_) => {}
        }
        earliest(times)
    }

    /// Waits until there is something to do besides commands and timers. Dropping the future loses nothing.
    pub(crate) async fn ready(&mut self) {
        let Self { critical, records, .. } = self;
        let carrier = async {
            match records {
                Records::Handshake(lane) => lane.0.ready().await,
                Records::Quic(bulk) => bulk.lane.ready().await,
                Records::Tcp(Some(writer)) => writer.ready().await,
                Records::Tcp(None) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = critical.ready() => {}
            () = carrier => {}
        }
    }

    fn work(&mut self) -> Result<bool, Stop> {
        let (now, time) = self.clock.now();
        if !self.is_closing()
            && let Some(reason) = self.renewal.take()
        {
            return Err(Stop::Renewed(reason));
        }
        let mut more = self.work_critical(now, time)?;
        more |= match &self.records {
            Records::Handshake(_) => self.work_handshake(now, time)?,
            Records::Quic(_) => self.work_bulk(now)?,
            Records::Tcp(_) => self.work_tcp()?,
        };
        match self.phase {
            Phase::Connecting { until } | Phase::Greeting { until } if until <= time => {
                return Err(Stop::Failed(format!("the mirror at {} does not answer", self.config.critical)));
            }
            Phase::Draining { until } => {
                let is_drained = match &self.records {
                    Records::Handshake(_) | Records::Tcp(None) => true,
                    Records::Quic(bulk) => bulk.is_drained(),
                    // What the kernel took is not at the mirror yet.
                    Records::Tcp(Some(_)) => self.sent.iter().all(|(log, records)| {
                        self.marks.get(log).is_some_and(|mark| mark.records >= *records)
                    }),
                };
                let is_announced = self.announcer.as_ref().is_none_or(|announcer| !announcer.has_fresh());
                if (is_drained && is_announced) || until <= time {
                    return Err(Stop::Closed);
                }
            }
            _ => {}
        }
        Ok(more)
    }

    /// The critical lane: reports and answers in, announcements out.
    fn work_critical(&mut self, now: Instant, time: Time) -> Result<bool, Stop> {
        self.critical.handle_timeout(now);
        let mut more = false;
        for _ in 0..RECEIVE_BATCHES_PER_TURN {
            more = self.critical.receive(now);
            while let Some(event) = self.critical.poll_event() {
                self.handle_critical_event(time, event.1)?;
            }
            while let Some(datagram) = self
                .critical
                .connection(self.critical_handle)
                .and_then(|connection| connection.datagrams().recv())
            {
                if self.handle_report(time, &datagram).is_err() {
                    self.stats.rejected.add(1);
                }
            }
            if !more {
                break;
            }
        }
        self.read_control(time)?;
        if let Some(announcer) = &mut self.announcer {
            // One by one, so that each is a packet of its own and its way onto the wire is known. What the
            // kernel does not take now is sent by one of the next turns.
            while self.critical.flush(now, time, CRITICAL_BURST) {
                let Some(datagram) = announcer.poll_datagram(time).map_err(Stop::wire)? else { break };
                if !self.critical.send_datagram(self.critical_handle, datagram) {
                    return Err(Stop::Failed("the critical lane takes no announcements".to_owned()));
                }
            }
        } else {
            self.critical.flush(now, time, CRITICAL_BURST);
        }
        let left = self.critical.poll_left(time);
        if let Some(announcer) = &mut self.announcer {
            announcer.handle_left(time, left);
            let mut announced = Vec::new();
            announcer.poll_announced(time, &mut announced);
            if !announced.is_empty() {
                self.stats.announcements_sent.add(announced.len() as u64);
                self.events.push(LinkEvent::Announced(announced));
            }
        }
        self.stats.critical_sends.set(self.critical.sends());
        self.stats.add_critical(self.critical.take_sent());
        if let Some(connection) = self.critical.connection(self.critical_handle) {
            self.stats.rtt_micros.set_micros(connection.rtt());
        }
        Ok(more)
    }

    fn handle_critical_event(&mut self, now: Time, event: LaneEvent) -> Result<(), Stop> {
        match event {
            LaneEvent::Connected(certificates) => {
                verify(&self.config, LaneKind::Critical, &certificates)?;
                self.greet(now)
            }
            LaneEvent::Lost(reason) => Err(Stop::lost(LaneKind::Critical, &reason)),
            // The mirror opens no streams; nobody reads what it writes there.
            LaneEvent::Opened(_) => Ok(()),
        }
    }

    fn work_bulk(&mut self, now: Instant) -> Result<bool, Stop> {
        let Records::Quic(bulk) = &mut self.records else { return Ok(false) };
        bulk.lane.handle_timeout(now);
        let mut more = false;
        for _ in 0..RECEIVE_BATCHES_PER_TURN {
            more = bulk.lane.receive(now);
            if !more {
                break;
            }
        }
        while let Some((_, event)) = bulk.lane.poll_event() {
            if let LaneEvent::Lost(reason) = event {
                return Err(Stop::lost(LaneKind::Bulk, &reason));
            }
        }
        more |= bulk.turn(&self.clock);
        bulk.poll_coverage(&mut self.coverage);
        match bulk.sender.code_fault() {
            Some(fault) => Err(Stop::Fault(format!("here: {fault}"))),
            None => Ok(more),
        }
    }

    fn work_tcp(&mut self) -> Result<bool, Stop> {
        loop {
            let Records::Tcp(Some(writer)) = &mut self.records else { return Ok(false) };
            match writer.poll_event() {
                None => return Ok(false),
                Some(WriterEvent::Connected) => {
                    if self.phase == Phase::Joining {
                        self.come_up();
                    }
                }
                Some(WriterEvent::Written(key)) => {
                    let exposure = Exposure::steady(1, 0, 0);
                    self.coverage.push(CoverageChange { key, exposure, sent: true, complete: false });
                }
                Some(WriterEvent::Failed(reason)) => return Err(Stop::Failed(reason)),
            }
        }
    }

    /// Tells the mirror, once, as well as it can be told.
    fn close(&mut self, code: CloseCode, reason: &str) {
        let (now, time) = self.clock.now();
        if let Records::Quic(bulk) = &mut self.records {
            bulk.lane.close(now, bulk.handle, code, reason);
            bulk.lane.flush(now, time, 1);
        }
        self.critical.close(now, self.critical_handle, code, reason);
        self.critical.flush(now, time, 1);
    }
}

/// Why a session cannot go on.
enum Stop {
    Closed,
    /// The code in force broke.
    Fault(String),
    Renewed(String),
    Failed(String),
}

impl Stop {
    fn lost(kind: LaneKind, reason: &str) -> Self {
        Self::Failed(format!("{} lane lost: {reason}", kind.name()))
    }

    fn wire(error: WireError) -> Self {
        Self::Failed(format!("the mirror sent what it should not: {error}"))
    }
}

fn verify(config: &PrimaryConfig, kind: LaneKind, certificates: &[CertificateDer<'_>]) -> Result<(), Stop> {
    let certificate = certificates.first().ok_or_else(|| {
        Stop::Failed(format!("the mirror showed no certificate on the {} lane", kind.name()))
    })?;
    (config.verify_peer)(certificate)
        .map_err(|reason| Stop::Failed(format!("the mirror's certificate is refused: {reason}")))
}

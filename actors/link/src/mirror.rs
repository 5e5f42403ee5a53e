//! The driver at the mirror: listens, and serves one session at a time.

mod greeting;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parhelion_types::Time;
use parhelion_wire::link::AnnounceV1;
use parhelion_wire::{Announcement, Checked, ENVELOPE_BYTES, Envelope, WireError};
use quinn_proto::{ConnectionHandle, Dir};
use tokio::sync::mpsc;

use self::greeting::{BulkPeer, CriticalPeer, GREETING_MAX};
use crate::config::MirrorConfig;
use crate::error::LinkError;
use crate::frames::ControlStream;
use crate::interface::{MirrorCommand, MirrorEvent, MirrorSink};
use crate::lane::{Lane, LaneEvent};
use crate::mirror_session::{Answer, MirrorPhase, MirrorSession};
use crate::primary::earliest;
use crate::stats::LinkStats;
use crate::tcp::{NO_SESSION, RecordListener};
use crate::timer::{Alarm, Clock};
use crate::transport::{CloseCode, LaneKind};

/// The mirror's end of a link: takes one primary's session at a time; a newer one takes its place.
///
/// Like [`crate::PrimaryDriver`] it owns its sockets, connections and the receiving half of the link core
/// in one task. Give it a thread of its own.
pub struct MirrorDriver {
    config: MirrorConfig,
    commands: mpsc::UnboundedReceiver<MirrorCommand>,
    sink: Box<dyn MirrorSink>,
    stats: Arc<LinkStats>,
    clock: Clock,
    alarm: Alarm,
    critical: Lane,
    bulk: Lane,
    tcp: Option<RecordListener>,
    critical_peers: HashMap<ConnectionHandle, CriticalPeer>,
    bulk_peers: HashMap<ConnectionHandle, BulkPeer>,
    session: Option<MirrorSession>,
    events: Vec<MirrorEvent>,
    records: Vec<Bytes>,
    is_closing: bool,
}

/// Where a mirror listens, ports filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorAddresses {
    /// Critical lane.
    pub critical: SocketAddr,
    /// Bulk lane.
    pub bulk: SocketAddr,
    /// Records over TCP.
    pub tcp: Option<SocketAddr>,
}

/// Batches of packets received per lane and turn; each holds up to some hundred packets.
const RECEIVE_BATCHES_PER_TURN: usize = 8;
/// Commands looked at in one turn.
const COMMANDS_PER_TURN: usize = 256;
/// Records taken from TCP in one turn.
const TCP_RECORDS_PER_TURN: usize = 64;
/// While the storage actor is behind, TCP records wait, and it is asked this often whether it caught up.
const BEHIND_POLL: Duration = Duration::from_millis(1);
/// Packets that leave in one send.
const BURST: usize = 4;

impl MirrorDriver {
    /// Opens the sockets. Call it inside the runtime that will run it.
    ///
    /// # Errors
    /// An address that is in use, or settings that cannot work.
    pub fn new(
        config: MirrorConfig,
        commands: mpsc::UnboundedReceiver<MirrorCommand>,
        sink: Box<dyn MirrorSink>,
    ) -> Result<Self, LinkError> {
        config.lane.check().map_err(LinkError::Settings)?;
        let lane = |kind, address, endpoint| Lane::server(kind, address, &config.lane, endpoint, &config.tls);
        let critical = lane(LaneKind::Critical, config.listen_critical, &config.critical_endpoint)?;
        let bulk = lane(LaneKind::Bulk, config.listen_bulk, &config.bulk_endpoint)?;
        let tcp = config.listen_tcp.map(|address| RecordListener::bind(&config, address)).transpose()?;
        Ok(Self {
            config,
            commands,
            sink,
            stats: Arc::default(),
            clock: Clock::new(),
            alarm: Alarm::new()?,
            critical,
            bulk,
            tcp,
            critical_peers: HashMap::new(),
            bulk_peers: HashMap::new(),
            session: None,
            events: Vec::new(),
            records: Vec::new(),
            is_closing: false,
        })
    }

    /// Opens the sockets and runs the driver as a task of the current runtime; where it listens, and its
    /// figures.
    ///
    /// # Errors
    /// As [`MirrorDriver::new`].
    pub fn start(
        config: MirrorConfig,
        commands: mpsc::UnboundedReceiver<MirrorCommand>,
        sink: Box<dyn MirrorSink>,
    ) -> Result<(MirrorAddresses, Arc<LinkStats>), LinkError> {
        let driver = Self::new(config, commands, sink)?;
        let started = (driver.addresses()?, driver.stats());
        tokio::spawn(driver.run());
        Ok(started)
    }

    /// Where the driver listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn addresses(&self) -> Result<MirrorAddresses, LinkError> {
        Ok(MirrorAddresses {
            critical: self.critical.local_address()?,
            bulk: self.bulk.local_address()?,
            tcp: self.tcp.as_ref().map(RecordListener::local_address),
        })
    }

    /// What the driver does, in figures.
    #[must_use]
    pub fn stats(&self) -> Arc<LinkStats> {
        self.stats.clone()
    }

    /// Runs until [`MirrorCommand::Close`], or until all senders of commands are gone.
    pub async fn run(mut self) {
        loop {
            for _ in 0..COMMANDS_PER_TURN {
                match self.commands.try_recv() {
                    Ok(command) => self.handle_command(command),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => {
                        self.is_closing = true;
                        break;
                    }
                }
            }
            let (now, time) = self.clock.now();
            if self.is_closing {
                self.close_all(now, time);
                self.deliver();
                return;
            }
            let more = self.turn(now, time) || !self.commands.is_empty();
            self.deliver();
            let deadline = self.poll_timeout(time);
            if more || deadline.is_some_and(|deadline| deadline <= time) {
                tokio::task::yield_now().await;
                continue;
            }
            if let Some(Err(error)) = deadline.map(|deadline| self.alarm.set(time, deadline)) {
                // Without timers nothing works; the primary notices by the silence.
                tracing::error!(%error, "the mirror's driver cannot set a timer and ends");
                self.end_session(now, "the mirror cannot set timers");
                self.deliver();
                return;
            }
            self.wait().await;
        }
    }

    async fn wait(&mut self) {
        let is_behind = self.is_behind();
        let Self { commands, critical, bulk, tcp, session, alarm, is_closing, .. } = self;
        let answer = session.as_mut().and_then(|session| match &mut session.phase {
            MirrorPhase::Asking { answer: answer @ Answer::Awaited(_), .. } => Some(answer),
            _ => None,
        });
        let answered = async {
            match answer {
                Some(answer) => answer.ready().await,
                None => std::future::pending().await,
            }
        };
        let tcp_record = async {
            match tcp {
                Some(tcp) if !is_behind => tcp.ready().await,
                _ => std::future::pending().await,
            }
        };
        let mut next = None;
        tokio::select! {
            biased;
            () = critical.ready() => {}
            command = commands.recv() => next = Some(command),
            () = bulk.ready() => {}
            () = tcp_record => {}
            () = answered => {}
            () = alarm.rung() => {}
        }
        match next {
            Some(Some(command)) => self.handle_command(command),
            Some(None) => *is_closing = true,
            None => {}
        }
    }

    fn handle_command(&mut self, command: MirrorCommand) {
        match command {
            MirrorCommand::Marks(marks) => {
                // Without a session there is nobody to tell: the next welcome names them.
                if let Some(session) = &mut self.session {
                    for mark in marks {
                        session.reporter.advance(mark);
                    }
                }
            }
            MirrorCommand::EndSession { reason } => self.end_session(self.clock.now().0, &reason),
            MirrorCommand::Close => self.is_closing = true,
        }
    }

    /// Does all that can be done now, the critical lane first; whether more can be done at once.
    fn turn(&mut self, now: Instant, time: Time) -> bool {
        let mut more = self.receive_critical(now, time);
        self.read_control(now, time);
        self.advance_session(now, time);
        self.send_report(now, time);
        self.critical.flush(now, time, BURST);
        more |= self.receive_bulk(now, time);
        more |= self.receive_tcp();
        self.poll_records(time);
        self.expire_peers(now, time);
        self.send_report(now, time);
        self.critical.flush(now, time, BURST);
        self.bulk.flush(now, time, BURST);
        if let Some(session) = &self.session {
            if let Some(connection) = self.critical.connection(session.critical) {
                self.stats.rtt_micros.set_micros(connection.rtt());
            }
            self.stats.host_drops.set(session.host_drops() + self.bulk.kernel_drops());
        }
        self.stats.critical_sends.set(self.critical.sends());
        self.stats.add_critical(self.critical.take_sent());
        self.stats.bulk_sends.set(self.bulk.sends());
        more
    }

    fn deliver(&mut self) {
        if !self.records.is_empty() {
            let records = std::mem::take(&mut self.records);
            self.stats.records.add(records.len() as u64);
            self.stats.record_bytes.add(records.iter().map(|record| record.len() as u64).sum());
            self.events.push(MirrorEvent::Records(records));
        }
        if !self.events.is_empty() {
            self.sink.events(std::mem::take(&mut self.events));
        }
    }

    fn poll_timeout(&mut self, now: Time) -> Option<Time> {
        let peers = self.critical_peers.values().map(|peer| peer.until);
        let peers =
            peers.chain(self.bulk_peers.values().filter(|peer| peer.session.is_none()).map(|p| p.until));
        earliest([
            peers.min(),
            self.critical.poll_timeout(&self.clock),
            self.bulk.poll_timeout(&self.clock),
            self.session.as_ref().and_then(MirrorSession::poll_timeout),
            (self.tcp.is_some() && self.is_behind()).then(|| now + BEHIND_POLL),
        ])
    }

    fn is_behind(&self) -> bool {
        self.sink.pending_bytes() > self.config.pending_bytes_max
    }

    fn receive_critical(&mut self, now: Instant, time: Time) -> bool {
        self.critical.handle_timeout(now);
        let mut more = false;
        let mut announced = Vec::new();
        for _ in 0..RECEIVE_BATCHES_PER_TURN {
            more = self.critical.receive(now);
            while let Some((handle, event)) = self.critical.poll_event() {
                match event {
                    LaneEvent::Connected(certificates) => {
                        if let Some(certificate) = self.admit(now, LaneKind::Critical, handle, certificates) {
                            let until = time + GREETING_MAX;
                            let peer = CriticalPeer { certificate, control: None, until, is_refused: false };
                            self.critical_peers.insert(handle, peer);
                        }
                    }
                    LaneEvent::Opened(Dir::Bi) => {
                        let stream =
                            self.critical.connection(handle).and_then(|c| c.streams().accept(Dir::Bi));
                        if let (Some(stream), Some(peer)) = (stream, self.critical_peers.get_mut(&handle)) {
                            peer.control.get_or_insert_with(|| ControlStream::new(stream));
                        }
                    }
                    LaneEvent::Opened(Dir::Uni) => {}
                    LaneEvent::Lost(reason) => {
                        self.critical_peers.remove(&handle);
                        if self.session.as_ref().is_some_and(|session| session.critical == handle) {
                            self.end_session(now, &format!("critical lane lost: {reason}"));
                        }
                    }
                }
            }
            if let Some(session) = &mut self.session
                && let Some(connection) = self.critical.connection(session.critical)
            {
                while let Some(datagram) = connection.datagrams().recv() {
                    session.reporter.note_traffic();
                    if read_announcements(session.id, &datagram, &mut announced).is_err() {
                        self.stats.rejected.add(1);
                    }
                }
            }
            if !more {
                break;
            }
        }
        if !announced.is_empty() {
            self.stats.announcements_received.add(announced.len() as u64);
            self.events.push(MirrorEvent::Announced(announced));
        }
        more
    }

    /// Ends the session, if there is one, and tells both the storage actor and the primary.
    fn end_session(&mut self, now: Instant, reason: &str) {
        let Some(mut session) = self.session.take() else { return };
        // What is whole is delivered; what is not will not be.
        session.poll_records(self.clock.time(now), &mut self.records);
        self.critical.close(now, session.critical, CloseCode::SessionOver, reason);
        self.forget(now, session.bulk, session.id, reason);
    }

    fn forget(&mut self, now: Instant, bulk: Option<ConnectionHandle>, session: u64, reason: &str) {
        if let Some(handle) = bulk {
            self.bulk.close(now, handle, CloseCode::SessionOver, reason);
            self.bulk_peers.remove(&handle);
        }
        if let Some(tcp) = &mut self.tcp {
            tcp.set_session(NO_SESSION);
        }
        self.stats.up.set(0);
        tracing::info!(session, %reason, "session over");
        // The records of the session come before its end.
        self.deliver();
        self.events.push(MirrorEvent::Down { reason: reason.to_owned() });
    }

    fn receive_bulk(&mut self, now: Instant, time: Time) -> bool {
        self.bulk.handle_timeout(now);
        let mut more = false;
        for _ in 0..RECEIVE_BATCHES_PER_TURN {
            more = self.bulk.receive(now);
            while let Some((handle, event)) = self.bulk.poll_event() {
                self.handle_bulk_event(now, time, handle, event);
            }
            self.read_bindings();
            let pending = self.sink.pending_bytes() + self.records.iter().map(Bytes::len).sum::<usize>();
            let current = self.session.as_ref().and_then(|session| session.bulk);
            for &handle in self.bulk_peers.keys() {
                let Some(connection) = self.bulk.connection(handle) else { continue };
                while let Some(datagram) = connection.datagrams().recv() {
                    match &mut self.session {
                        Some(session) if current == Some(handle) => {
                            session.handle_datagram(time, datagram, pending, &self.stats);
                        }
                        // Of a session that is over, or not begun: nothing may be sent before the welcome.
                        _ => self.stats.rejected.add(1),
                    }
                }
            }
            if !more {
                break;
            }
            self.poll_records(time);
        }
        more
    }

    fn handle_bulk_event(&mut self, now: Instant, time: Time, handle: ConnectionHandle, event: LaneEvent) {
        match event {
            LaneEvent::Connected(certificates) => {
                if let Some(certificate) = self.admit(now, LaneKind::Bulk, handle, certificates) {
                    let until = time + GREETING_MAX;
                    let peer =
                        BulkPeer { certificate, stream: None, binding: Vec::new(), session: None, until };
                    self.bulk_peers.insert(handle, peer);
                }
            }
            LaneEvent::Opened(Dir::Uni) => {
                let stream = self.bulk.connection(handle).and_then(|c| c.streams().accept(Dir::Uni));
                if let Some(peer) = self.bulk_peers.get_mut(&handle) {
                    peer.stream = peer.stream.or(stream);
                }
            }
            LaneEvent::Opened(Dir::Bi) => {}
            LaneEvent::Lost(reason) => {
                self.bulk_peers.remove(&handle);
                if self.session.as_ref().is_some_and(|session| session.bulk == Some(handle)) {
                    self.end_session(now, &format!("bulk lane lost: {reason}"));
                }
            }
        }
    }

    fn receive_tcp(&mut self) -> bool {
        let Some(tcp) = &mut self.tcp else { return false };
        let mut pending = self.sink.pending_bytes();
        for _ in 0..TCP_RECORDS_PER_TURN {
            if pending > self.config.pending_bytes_max {
                return false;
            }
            let Some(received) = tcp.poll_record() else { return false };
            match &mut self.session {
                Some(session) if session.is_up() && session.id == received.session => {
                    session.reporter.note_traffic();
                    pending += received.record.len();
                    self.records.push(received.record);
                }
                _ => self.stats.rejected.add(1),
            }
        }
        true
    }

    fn poll_records(&mut self, time: Time) {
        if let Some(session) = &mut self.session {
            session.poll_records(time, &mut self.records);
        }
    }

    fn send_report(&mut self, now: Instant, time: Time) {
        let Some(session) = &mut self.session else { return };
        match session.poll_report(time, self.bulk.kernel_drops(), &self.stats) {
            Ok(None) => {}
            Ok(Some(report)) => {
                // A report that QUIC does not take is replaced by the next one.
                if self.critical.send_datagram(session.critical, report) {
                    self.stats.reports.add(1);
                }
            }
            Err(error) => self.end_session(now, &format!("a report could not be written: {error}")),
        }
    }

    fn close_all(&mut self, now: Instant, time: Time) {
        self.end_session(now, "the mirror is stopping");
        for &handle in self.critical_peers.keys() {
            self.critical.close(now, handle, CloseCode::Stopped, "the mirror is stopping");
        }
        for &handle in self.bulk_peers.keys() {
            self.bulk.close(now, handle, CloseCode::Stopped, "the mirror is stopping");
        }
        self.critical.flush(now, time, BURST);
        self.bulk.flush(now, time, BURST);
    }
}

fn read_announcements(session: u64, datagram: &Bytes, out: &mut Vec<Announcement>) -> Result<(), WireError> {
    let envelope = Envelope::parse(datagram)?;
    let (body, payload) = envelope.split(datagram.slice(ENVELOPE_BYTES..))?;
    let message = Checked::<AnnounceV1>::parse(&envelope, body)?;
    if message.get().session.to_native() != session {
        return Err(WireError::Invalid { what: "session of an announcement" });
    }
    let batch = Announcement::parse_batch(&payload).ok_or(WireError::Invalid { what: "announcements" })?;
    out.extend(batch);
    Ok(())
}

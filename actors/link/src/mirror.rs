//! The driver at the mirror: listens, and serves one session at a time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parhelion_types::{Error, ErrorKind, Time};
use parhelion_wire::link::{AnnounceV1, ChangeCodeV1, HelloV1};
use parhelion_wire::{Announcement, Checked, ENVELOPE_BYTES, Envelope, WireError};
use quinn_proto::{ConnectionHandle, Dir, StreamId};
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, oneshot};

use crate::config::MirrorConfig;
use crate::error::LinkError;
use crate::frames::ControlStream;
use crate::interface::{MirrorCommand, MirrorEvent, MirrorSink};
use crate::lane::{CloseCode, Lane, LaneEvent, LaneKind};
use crate::mirror_session::{Answer, MirrorPhase, MirrorSession};
use crate::primary::earliest;
use crate::session::{BINDING_BYTES, is, parse_binding, refusal, welcome};
use crate::stats::LinkStats;
use crate::tcp::{NO_SESSION, RecordListener};
use crate::timer::{Alarm, Clock};

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

/// A connection on the critical lane that has no session: it has yet to say hello, or was refused.
struct CriticalPeer {
    certificate: CertificateDer<'static>,
    control: Option<ControlStream>,
    until: Time,
    is_refused: bool,
}

/// A connection on the bulk lane.
struct BulkPeer {
    certificate: CertificateDer<'static>,
    stream: Option<StreamId>,
    binding: Vec<u8>,
    session: Option<u64>,
    until: Time,
}

/// How long a connection may go without saying which session it belongs to, and a session without being
/// welcomed.
const GREETING_MAX: Duration = Duration::from_secs(10);
/// How long a refused primary may take to read the reason.
const REFUSAL_MAX: Duration = Duration::from_secs(2);
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
        let critical = Lane::server(LaneKind::Critical, config.listen_critical, &config.lane, &config.tls)?;
        let bulk = Lane::server(LaneKind::Bulk, config.listen_bulk, &config.lane, &config.tls)?;
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

    /// Whether the peer may be here: its certificate, or nothing, and then its connection is closed.
    fn admit(
        &mut self,
        now: Instant,
        kind: LaneKind,
        handle: ConnectionHandle,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Option<CertificateDer<'static>> {
        let certificate =
            certificates.into_iter().next().ok_or_else(|| "no certificate was shown".to_owned());
        let admitted =
            certificate.and_then(|certificate| (self.config.verify_peer)(&certificate).map(|()| certificate));
        match admitted {
            Ok(certificate) => Some(certificate),
            Err(reason) => {
                tracing::warn!(lane = kind.name(), %reason, "primary refused");
                let lane = match kind {
                    LaneKind::Critical => &mut self.critical,
                    LaneKind::Bulk => &mut self.bulk,
                };
                lane.close(now, handle, CloseCode::Refused, &format!("certificate refused: {reason}"));
                None
            }
        }
    }

    /// Reads hellos, and changes of code.
    fn read_control(&mut self, now: Instant, time: Time) {
        let waiting: Vec<ConnectionHandle> =
            self.critical_peers.iter().filter(|(_, peer)| peer.control.is_some()).map(|(&h, _)| h).collect();
        for handle in waiting {
            let (Some(peer), Some(connection)) =
                (self.critical_peers.get_mut(&handle), self.critical.connection(handle))
            else {
                continue;
            };
            let Some(control) = &mut peer.control else { continue };
            if control.flush(connection).is_err() || peer.is_refused {
                continue;
            }
            match control.receive(connection) {
                Ok(None) => {}
                Ok(Some((envelope, body))) => match Checked::<HelloV1>::parse(&envelope, body) {
                    Ok(hello) => self.begin_session(now, time, handle, &hello),
                    Err(error) => self.break_off(now, handle, &error.to_string()),
                },
                Err(error) => self.break_off(now, handle, &error.to_string()),
            }
        }
        let mut failed = None;
        if let Some(session) = &mut self.session
            && let Some(connection) = self.critical.connection(session.critical)
            && !connection.is_closed()
        {
            loop {
                let message = match session.control.flush(connection) {
                    Ok(()) => session.control.receive(connection),
                    Err(error) => Err(error),
                };
                let result = match message {
                    Ok(None) => break,
                    Ok(Some((envelope, body))) if is::<ChangeCodeV1>(&envelope) => {
                        Checked::<ChangeCodeV1>::parse(&envelope, body)
                            .map_err(|error| error.to_string())
                            .and_then(|m| session.change_code(&self.config, time, &m.get().code, &self.stats))
                    }
                    Ok(Some((envelope, _))) => Err(format!("message kind {} out of place", envelope.kind)),
                    Err(error) => Err(error.to_string()),
                };
                if let Err(reason) = result {
                    failed = Some(reason);
                    break;
                }
            }
        }
        if let Some(reason) = failed {
            self.end_session(now, &reason);
        }
    }

    /// A primary said hello.
    fn begin_session(
        &mut self,
        now: Instant,
        time: Time,
        handle: ConnectionHandle,
        hello: &Checked<HelloV1>,
    ) {
        let site = parhelion_types::SiteId(hello.get().site.to_native());
        let id = hello.get().session.to_native();
        if let Some(current) = self.session.as_ref().filter(|current| current.site != site) {
            let message = format!(
                "this mirror serves site {}; give site {site} a mirror of its own, or stop the other link",
                current.site
            );
            return self.refuse(time, handle, &Error::new(ErrorKind::Busy, message));
        }
        if id == NO_SESSION || (hello.get().tcp && self.tcp.is_none()) {
            let message = "this mirror takes no records over TCP; set its link.listen_tcp or use quic";
            return self.refuse(time, handle, &Error::new(ErrorKind::Unsupported, message));
        }
        let Some(datagram_bytes) =
            self.critical.connection(handle).and_then(|connection| connection.datagrams().max_size())
        else {
            return self.break_off(now, handle, "the critical lane needs datagrams");
        };
        let Some(peer) = self.critical_peers.get_mut(&handle) else { return };
        let (Some(control), certificate) = (peer.control.take(), peer.certificate.clone()) else { return };
        let (tell, answer) = oneshot::channel();
        let phase = MirrorPhase::Asking { answer: Answer::Awaited(answer), until: time + GREETING_MAX };
        let stream = control.id();
        let session = MirrorSession::new(
            &self.config,
            time,
            hello,
            (handle, control, certificate),
            phase,
            datagram_bytes,
            self.bulk.kernel_drops(),
        );
        match session {
            Ok(session) => {
                self.end_session(now, "a newer session of the same primary took its place");
                self.critical_peers.remove(&handle);
                if let Some(tcp) = &mut self.tcp {
                    tcp.set_session(if session.is_tcp { id } else { NO_SESSION });
                }
                self.session = Some(session);
                self.events.push(MirrorEvent::Hello { site, session: id, marks: tell });
            }
            Err(error) => {
                if let Some(peer) = self.critical_peers.get_mut(&handle) {
                    peer.control = Some(ControlStream::new(stream));
                }
                self.refuse(time, handle, &error);
            }
        }
    }

    /// Refuses a primary that has no session, in words.
    fn refuse(&mut self, time: Time, handle: ConnectionHandle, error: &Error) {
        tracing::warn!(%error, "primary refused");
        let Some(peer) = self.critical_peers.get_mut(&handle) else { return };
        peer.is_refused = true;
        peer.until = time + REFUSAL_MAX;
        if let (Some(control), Ok(message)) = (&mut peer.control, refusal(error.kind(), error.message())) {
            control.send(message);
            if let Some(connection) = self.critical.connection(handle) {
                // What does not fit now is written by one of the next turns.
                let _ = control.flush(connection);
            }
        }
    }

    /// Closes the connection of a peer that breaks the protocol.
    fn break_off(&mut self, now: Instant, handle: ConnectionHandle, reason: &str) {
        self.stats.rejected.add(1);
        self.critical_peers.remove(&handle);
        self.critical.close(now, handle, CloseCode::Protocol, reason);
    }

    /// Takes the storage actor's answer and the binding, in whatever order they come.
    fn advance_session(&mut self, now: Instant, time: Time) {
        let Some(session) = &mut self.session else { return };
        if session.bulk.is_none() && !session.is_tcp {
            let bound = self.bulk_peers.iter().find(|(_, peer)| peer.session == Some(session.id));
            if let Some((&handle, peer)) = bound {
                if peer.certificate == session.certificate {
                    session.bulk = Some(handle);
                } else {
                    return self.end_session(now, "the primary showed different certificates on its lanes");
                }
            }
        }
        if let MirrorPhase::Asking { answer, until } = &mut session.phase {
            match answer.take() {
                None if *until <= time => {
                    let reason = "the mirror's storage does not answer";
                    return self.refuse_session(now, time, &Error::unavailable(reason));
                }
                None => return,
                Some(Err(error)) => return self.refuse_session(now, time, &error),
                Some(Ok(marks)) => session.phase = MirrorPhase::Binding { marks, until: *until },
            }
        }
        let MirrorPhase::Binding { marks, until } = &mut session.phase else { return };
        if session.bulk.is_none() && !session.is_tcp {
            if *until <= time {
                let reason = "the bulk lane did not arrive; let its UDP port through to the mirror";
                self.refuse_session(now, time, &Error::unavailable(reason));
            }
            return;
        }
        marks.sort_unstable_by_key(|mark| mark.log);
        let messages = match welcome(self.config.site.0, session.id, marks) {
            Ok(messages) => messages,
            Err(error) => return self.refuse_session(now, time, &Error::internal(error.to_string())),
        };
        for message in messages {
            session.control.send(message);
        }
        session.phase = MirrorPhase::Up;
        if let Some(connection) = self.critical.connection(session.critical) {
            // A failure shows when the stream is read next.
            let _ = session.control.flush(connection);
        }
        self.stats.sessions.add(1);
        self.stats.up.set(1);
        tracing::info!(site = %session.site, session = session.id, "link up");
    }

    /// Turns a session that was not welcomed into a refused peer.
    fn refuse_session(&mut self, now: Instant, time: Time, error: &Error) {
        let Some(session) = self.session.take() else { return };
        self.forget(now, session.bulk, session.id, error.message());
        let (handle, certificate) = (session.critical, session.certificate);
        let peer =
            CriticalPeer { certificate, control: Some(session.control), until: time, is_refused: false };
        self.critical_peers.insert(handle, peer);
        self.refuse(time, handle, error);
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

    /// Reads which session each new bulk connection belongs to.
    fn read_bindings(&mut self) {
        for (&handle, peer) in self.bulk_peers.iter_mut().filter(|(_, peer)| peer.session.is_none()) {
            let (Some(stream), Some(connection)) = (peer.stream, self.bulk.connection(handle)) else {
                continue;
            };
            let mut stream = connection.recv_stream(stream);
            let Ok(mut chunks) = stream.read(true) else { continue };
            while let Ok(Some(chunk)) = chunks.next(BINDING_BYTES) {
                // A longer binding is none: one byte too many is enough to see that.
                let room = (BINDING_BYTES + 1).saturating_sub(peer.binding.len());
                peer.binding.extend_from_slice(&chunk.bytes[..chunk.bytes.len().min(room)]);
            }
            let _ = chunks.finalize();
            peer.session = parse_binding(&peer.binding);
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
        match session.poll_report(time, self.bulk.kernel_drops()) {
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

    /// Closes connections that never said what they are for, and refused ones.
    fn expire_peers(&mut self, now: Instant, time: Time) {
        let Self { critical, bulk, critical_peers, bulk_peers, session, .. } = self;
        critical_peers.retain(|&handle, peer| {
            if peer.until <= time {
                critical.close(now, handle, CloseCode::Refused, "no session was begun in time");
            }
            peer.until > time
        });
        let current = session.as_ref().map(|session| session.id);
        bulk_peers.retain(|&handle, peer| {
            let is_in_use = peer.session.is_some() && peer.session == current;
            if !is_in_use && peer.until <= time {
                bulk.close(now, handle, CloseCode::Refused, "no session was begun in time");
            }
            is_in_use || peer.until > time
        });
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

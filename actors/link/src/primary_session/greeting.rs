//! How the primary begins a session: from connected lanes to the welcome.

use std::time::Instant;

use parhelion_types::{ErrorKind, SiteId, Time};
use parhelion_wire::link::{CodeAnswerV1, CodeFaultV1, HelloV1, LogMarkV1, RefusalV1, WelcomeV1};
use parhelion_wire::{Checked, frame};
use quinn_proto::{ConnectionHandle, Dir};

use super::{Phase, PrimarySession, Records, Stop, verify};
use crate::announcer::Announcer;
use crate::bulk::Bulk;
use crate::frames::{ControlError, ControlStream};
use crate::interface::LinkEvent;
use crate::lane::LaneEvent;
use crate::session::{WELCOME_MARKS_MAX, binding, code_message, is, mark};
use crate::tcp::RecordWriter;
use crate::transport::LaneKind;

impl PrimarySession {
    /// Says hello, once both lanes are connected.
    pub(super) fn greet(&mut self, now: Time) -> Result<(), Stop> {
        let is_connected = self
            .critical
            .connection(self.critical_handle)
            .is_some_and(|connection| !connection.is_handshaking() && !connection.is_closed());
        let Phase::Connecting { until } = self.phase else { return Ok(()) };
        if !is_connected || matches!(self.records, Records::Handshake(_)) {
            return Ok(());
        }
        let (symbol_bytes, packet_nanos) = match &self.records {
            Records::Quic(bulk) => (bulk.symbol_bytes(), bulk.packet_nanos()),
            _ => (0, 0),
        };
        let Some(connection) = self.critical.connection(self.critical_handle) else { return Ok(()) };
        let datagram_bytes = connection.datagrams().max_size();
        let id = connection.streams().open(Dir::Bi);
        let (Some(datagram_bytes), Some(id)) = (datagram_bytes, id) else {
            return Err(Stop::Failed(
                "the mirror's critical lane is of another version; update it".to_owned(),
            ));
        };
        let hello = HelloV1 {
            site: self.config.site.0,
            session: self.id,
            code: code_message(&self.code, self.code_epoch, 0, symbol_bytes),
            tcp: matches!(self.records, Records::Tcp(_)),
            packet_nanos,
            flush_pause: self.config.flush_pause,
        };
        let mut control = ControlStream::new(id);
        control.send(frame(&hello, b"", 0).map_err(Stop::wire)?);
        self.control = Some(control);
        self.announcer = Some(Announcer::new(
            self.id,
            datagram_bytes,
            self.config.announce_copies,
            self.config.announce_spacing,
            self.config.site_exit_delay,
        ));
        self.phase = Phase::Greeting { until: until.max(now) };
        Ok(())
    }

    /// Reads answers from the control stream, and writes what waits there.
    pub(super) fn read_control(&mut self, now: Time) -> Result<(), Stop> {
        loop {
            let (Some(control), Some(connection)) =
                (&mut self.control, self.critical.connection(self.critical_handle))
            else {
                return Ok(());
            };
            if connection.is_closed() {
                // Its end comes as an event, with the reason.
                return Ok(());
            }
            let failed = |error: ControlError| Stop::Failed(error.to_string());
            control.flush(connection).map_err(failed)?;
            let Some((envelope, body)) = control.receive(connection).map_err(failed)? else { return Ok(()) };
            if is::<RefusalV1>(&envelope) {
                let refusal = Checked::<RefusalV1>::parse(&envelope, body).map_err(Stop::wire)?;
                let kind = ErrorKind::from_code(refusal.get().kind).name();
                return Err(Stop::Failed(format!("the mirror refused: {kind}: {}", refusal.get().message)));
            }
            if is::<CodeAnswerV1>(&envelope) {
                let answer = Checked::<CodeAnswerV1>::parse(&envelope, body).map_err(Stop::wire)?;
                let error = answer.get().error.as_ref().map(|error| error.as_str().to_owned());
                self.handle_code_answer(now, answer.get().number.to_native(), error);
                continue;
            }
            if is::<CodeFaultV1>(&envelope) {
                let fault = Checked::<CodeFaultV1>::parse(&envelope, body).map_err(Stop::wire)?;
                // One of an older code is over already.
                if fault.get().epoch.to_native() == self.code_epoch {
                    return Err(Stop::Fault(format!("at the mirror: {}", fault.get().reason)));
                }
                continue;
            }
            let welcome = Checked::<WelcomeV1>::parse(&envelope, body).map_err(Stop::wire)?;
            let welcome = welcome.get();
            if welcome.session.to_native() != self.id || !matches!(self.phase, Phase::Greeting { .. }) {
                return Err(Stop::Failed("the mirror welcomed another session".to_owned()));
            }
            self.peer = SiteId(welcome.site.to_native());
            self.marks.extend(welcome.logs.iter().map(|archived| (archived.log.to_native(), mark(archived))));
            if welcome.logs.len() < WELCOME_MARKS_MAX {
                self.enter();
            }
        }
    }

    /// All marks are here.
    pub(super) fn enter(&mut self) {
        if let Records::Tcp(writer) = &mut self.records {
            *writer = Some(RecordWriter::connect(&self.config, self.id));
            self.phase = Phase::Joining;
        } else {
            self.come_up();
        }
    }

    pub(super) fn come_up(&mut self) {
        self.phase = Phase::Up;
        self.stats.sessions.add(1);
        self.stats.up.set(1);
        let mut marks: Vec<LogMarkV1> = self.marks.values().copied().collect();
        marks.sort_unstable_by_key(|mark| mark.log);
        let code = self.code.clone();
        tracing::info!(peer = %self.peer, session = self.id, %code, "link up");
        self.events.push(LinkEvent::Up { peer: self.peer, marks, code });
    }

    /// Waits for the bulk lane's handshake, and begins to send on it.
    pub(super) fn work_handshake(&mut self, now: Instant, time: Time) -> Result<bool, Stop> {
        let Records::Handshake(lane) = &mut self.records else { return Ok(false) };
        let (lane, handle) = (&mut lane.0, lane.1);
        lane.handle_timeout(now);
        let more = lane.receive(now);
        let mut is_connected = false;
        while let Some((_, event)) = lane.poll_event() {
            match event {
                LaneEvent::Connected(certificates) => {
                    verify(&self.config, LaneKind::Bulk, &certificates)?;
                    is_connected = true;
                }
                LaneEvent::Lost(reason) => return Err(Stop::lost(LaneKind::Bulk, &reason)),
                LaneEvent::Opened(_) => {}
            }
        }
        if is_connected {
            self.bind_bulk(handle)?;
            let Records::Handshake(lane) = std::mem::replace(&mut self.records, Records::Tcp(None)) else {
                return Ok(false);
            };
            let (mut lane, handle) = *lane;
            lane.flush(now, time, 1);
            let bulk = Bulk::new(&self.config, time, lane, handle, &self.code, self.stats.clone())
                .map_err(Stop::Failed)?;
            self.records = Records::Quic(Box::new(bulk));
            self.greet(time)?;
            return Ok(true);
        }
        lane.flush(now, time, 1);
        Ok(more)
    }

    /// Tells the mirror which session the bulk connection belongs to.
    pub(super) fn bind_bulk(&mut self, handle: ConnectionHandle) -> Result<(), Stop> {
        let Records::Handshake(lane) = &mut self.records else { return Ok(()) };
        let refused = || Stop::Failed("the mirror's bulk lane is of another version; update it".to_owned());
        let connection = lane.0.connection(handle).ok_or_else(refused)?;
        let stream = connection.streams().open(Dir::Uni).ok_or_else(refused)?;
        let bytes = binding(self.id);
        // Sixteen bytes fit into any stream's first window.
        let written = connection.send_stream(stream).write(&bytes).map_err(|_| refused())?;
        if written != bytes.len() || connection.send_stream(stream).finish().is_err() {
            return Err(refused());
        }
        Ok(())
    }
}

//! Who may begin a session at the mirror, and how it does.

use std::time::{Duration, Instant};

use parhelion_types::{Error, ErrorKind, SiteId, Time};
use parhelion_wire::link::{
    ArchivedLogTailV1, ChangeCodeV1, CodeAnswerV1, HelloV1, LogTailV1, OfferCodeV1, RewindV1,
};
use parhelion_wire::{Checked, frame};
use quinn_proto::{ConnectionHandle, StreamId};
use rustls::pki_types::CertificateDer;
use tokio::sync::oneshot;

use super::MirrorDriver;
use crate::frames::ControlStream;
use crate::interface::MirrorEvent;
use crate::mirror_session::{Answer, MirrorPhase, MirrorSession};
use crate::session::{BINDING_BYTES, is, parse_binding, refusal, welcome};
use crate::tcp::NO_SESSION;
use crate::transport::{CloseCode, LaneKind};

/// A connection on the critical lane that has no session: it has yet to say hello, or was refused.
pub(super) struct CriticalPeer {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) control: Option<ControlStream>,
    pub(super) until: Time,
    pub(super) is_refused: bool,
}

/// A connection on the bulk lane.
pub(super) struct BulkPeer {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) stream: Option<StreamId>,
    pub(super) binding: Vec<u8>,
    pub(super) session: Option<u64>,
    pub(super) until: Time,
}

/// How long a connection may go without saying which session it belongs to, and a session without being
/// welcomed.
pub(super) const GREETING_MAX: Duration = Duration::from_secs(10);
/// How long a refused primary may take to read the reason.
const REFUSAL_MAX: Duration = Duration::from_secs(2);

impl MirrorDriver {
    /// Whether the peer may be here: its certificate, or nothing, and then its connection is closed.
    pub(super) fn admit(
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
    pub(super) fn read_control(&mut self, now: Instant, time: Time) {
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
            session.report_code_fault();
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
                            .and_then(|m| session.change_code(&self.config, time, m.get(), &self.stats))
                    }
                    Ok(Some((envelope, body))) if is::<OfferCodeV1>(&envelope) => {
                        Checked::<OfferCodeV1>::parse(&envelope, body)
                            .map_err(|error| error.to_string())
                            .and_then(|m| {
                                let error = session.check_code(&self.config, &m.get().code);
                                let answer = CodeAnswerV1 { number: m.get().number.to_native(), error };
                                let answer = frame(&answer, b"", 0).map_err(|error| error.to_string())?;
                                session.control.send(answer);
                                Ok(())
                            })
                    }
                    Ok(Some((envelope, body))) if is::<RewindV1>(&envelope) => {
                        Checked::<RewindV1>::parse(&envelope, body)
                            .map_err(|error| error.to_string())
                            .and_then(|m| {
                                self.events
                                    .push(MirrorEvent::Rewind(m.get().logs.iter().map(log_tail).collect()));
                                Err("logs are cut back at the primary's word; it comes again".to_owned())
                            })
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
    pub(super) fn begin_session(
        &mut self,
        now: Instant,
        time: Time,
        handle: ConnectionHandle,
        hello: &Checked<HelloV1>,
    ) {
        let site = SiteId(hello.get().site.to_native());
        let id = hello.get().session.to_native();
        if site == self.config.site {
            let message = format!(
                "both ends of the link are site {site}; give each site a number of its own as node.site"
            );
            return self.refuse(time, handle, &Error::new(ErrorKind::Invalid, message));
        }
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
    pub(super) fn refuse(&mut self, time: Time, handle: ConnectionHandle, error: &Error) {
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
    pub(super) fn break_off(&mut self, now: Instant, handle: ConnectionHandle, reason: &str) {
        self.stats.rejected.add(1);
        self.critical_peers.remove(&handle);
        self.critical.close(now, handle, CloseCode::Protocol, reason);
    }

    /// Takes the storage actor's answer and the binding, in whatever order they come.
    pub(super) fn advance_session(&mut self, now: Instant, time: Time) {
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
    pub(super) fn refuse_session(&mut self, now: Instant, time: Time, error: &Error) {
        let Some(session) = self.session.take() else { return };
        self.forget(now, session.bulk, session.id, error.message());
        let (handle, certificate) = (session.critical, session.certificate);
        let peer =
            CriticalPeer { certificate, control: Some(session.control), until: time, is_refused: false };
        self.critical_peers.insert(handle, peer);
        self.refuse(time, handle, error);
    }

    /// Reads which session each new bulk connection belongs to.
    pub(super) fn read_bindings(&mut self) {
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

    /// Closes connections that never said what they are for, and refused ones.
    pub(super) fn expire_peers(&mut self, now: Instant, time: Time) {
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
}

fn log_tail(tail: &ArchivedLogTailV1) -> LogTailV1 {
    LogTailV1 {
        log: tail.log.to_native(),
        epoch: tail.epoch.to_native(),
        records: tail.records.to_native(),
        segment: tail.segment.to_native(),
        offset: tail.offset.to_native(),
        chain: tail.chain.to_native(),
    }
}

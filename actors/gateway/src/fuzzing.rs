//! The streams between the nodes of a site without their sockets, for the fuzz target `site`. Not for use.
//!
//! An [`Ear`] reads a stream with the parsers of one end of it; what it heard can be written again by the writers of
//! the other end, and goes on into [`PrimaryRouting`](crate::PrimaryRouting) and
//! [`MirrorRouting`](crate::MirrorRouting).

use bytes::Bytes;
use parhelion_link_driver::{CodeLookup, LinkCommand, LinkEvent, MirrorEvent};
use parhelion_types::{Error, LogId, NodeId};
use parhelion_wire::link::LogMarkV1;
use parhelion_wire::site::{SiteChangeCodeV1, SiteJoinV1, SiteLeaveV1, SiteRewindV1, SiteSendV1};
use parhelion_wire::{ENVELOPE_BYTES, PAYLOAD_BYTES_MAX, WireError};
use tokio::sync::oneshot;

use crate::error::SiteError;
use crate::frames::{Frame, FrameBatch, FrameParser};
use crate::listener::Join;
use crate::mirror_messages::{
    FromMirror, FromMirrorParser, ToMirror, push_answer, push_event, push_progress,
};
use crate::primary_messages::{FromStorage, ToStorage, ToStorageParser, push_announcements, push_told};

/// Which end of which stream listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The link node, to a storage node that comes.
    Listener,
    /// The link node of a primary, to a storage node.
    PrimaryLink,
    /// A storage node of a primary.
    PrimaryStorage,
    /// The link node of a mirror, to a storage node.
    MirrorLink,
    /// A storage node of a mirror.
    MirrorStorage,
}

/// Reads a stream.
pub struct Ear {
    end: End,
    frames: FrameParser,
    told: ToStorageParser,
    said: FromMirrorParser,
}

/// What a message said, or several that belong together.
#[derive(Debug)]
pub struct Heard(Words);

#[derive(Debug)]
enum Words {
    Join(Join),
    FromStorage(FromStorage),
    ToStorage(ToStorage, Option<u64>),
    FromMirror(FromMirror),
    ToMirror(ToMirror),
}

/// What the routing of the site is to do about it.
#[derive(Debug)]
pub enum Input {
    /// A storage node joins.
    Join(NodeId, Vec<LogId>),
    /// A storage node of a primary commands, in that session.
    Command(Option<u64>, LinkCommand),
    /// The driver of a primary tells.
    Event(LinkEvent),
    /// The driver of a mirror tells.
    MirrorEvent(MirrorEvent),
    /// A storage node of a mirror answers the question of that number.
    Answer(u64, Result<Vec<LogMarkV1>, Error>),
    /// A storage node of a mirror has come so far.
    Marks(Vec<LogMarkV1>),
    /// A storage node leaves.
    Leave,
}

impl Ear {
    /// Bytes that a stream may make its reader hold beyond what was pushed: a buffer that grew for the largest frame.
    pub const HELD_BYTES_MAX: usize =
        2 * (ENVELOPE_BYTES + parhelion_types::limits::MESSAGE_BYTES_MAX + PAYLOAD_BYTES_MAX);

    /// Nothing heard yet.
    #[must_use]
    pub fn new(end: End, codes: CodeLookup) -> Self {
        Self {
            end,
            frames: FrameParser::default(),
            told: ToStorageParser::new(codes),
            said: FromMirrorParser::default(),
        }
    }

    /// Takes bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// Takes the next whole frame from the stream: `None` if it is not all here, and in it `None` if what it says
    /// goes on in the next one.
    ///
    /// # Errors
    /// What ends a connection.
    pub fn hear(&mut self) -> Result<Option<Option<Heard>>, WireError> {
        let Some(frame) = self.frames.next()? else { return Ok(None) };
        self.words(frame).map(|words| Some(words.map(Heard)))
    }

    /// Bytes held for what is yet to come.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.frames.held_bytes()
    }

    fn words(&mut self, frame: Frame) -> Result<Option<Words>, WireError> {
        Ok(match self.end {
            End::Listener => Some(Words::Join(Join::parse(&frame)?)),
            End::PrimaryLink => Some(Words::FromStorage(FromStorage::parse(frame)?)),
            End::PrimaryStorage => {
                let told = self.told.parse(&frame).map_err(|error| match error {
                    SiteError::Wire(error) => error,
                    _ => WireError::Invalid { what: "code" },
                });
                told?.map(|(told, session)| Words::ToStorage(told, session))
            }
            End::MirrorLink => self.said.parse(&frame)?.map(Words::FromMirror),
            End::MirrorStorage => Some(Words::ToMirror(ToMirror::parse(frame)?)),
        })
    }
}

impl Heard {
    /// As its writer writes it. Lists without entries are not written, save where they carry something else.
    ///
    /// # Errors
    /// It is over a limit.
    pub fn write(self) -> Result<Vec<u8>, WireError> {
        let mut batch = FrameBatch::default();
        let none = Bytes::new();
        match self.0 {
            Words::Join(Join { site, node, duty, logs }) => {
                let logs = logs.iter().map(|log| log.0).collect();
                batch.push(&SiteJoinV1 { site, node: node.0, duty, logs }, none, 0)?;
            }
            Words::FromStorage(FromStorage::Announce { session, announcements }) => {
                let mut announcements = announcements.iter().map(|(key, a)| (key.number, *a)).collect();
                push_announcements(&mut batch, session, &mut announcements)?;
            }
            Words::FromStorage(FromStorage::Send { session, key, record, is_awaited }) => {
                let send = SiteSendV1 { session, log: key.log.0, number: key.number, is_awaited };
                batch.push(&send, record, 0)?;
            }
            Words::FromStorage(FromStorage::Rewind { session, tails }) => {
                batch.push(&SiteRewindV1 { session, logs: tails }, none, 0)?;
            }
            Words::FromStorage(FromStorage::ChangeCode { name, parameters, flush_pause, correlation }) => {
                batch.push(&SiteChangeCodeV1 { flush_pause, name, parameters }, none, correlation)?;
            }
            Words::FromStorage(FromStorage::Leave) | Words::FromMirror(FromMirror::Leave) => {
                batch.push(&SiteLeaveV1 {}, none, 0)?;
            }
            Words::ToStorage(told, session) => {
                // The writer counts sessions from 1; a foreign zero comes out as that.
                let mut before = session.unwrap_or(0).saturating_sub(1);
                push_told(&mut batch, told, &mut before)?;
            }
            Words::FromMirror(FromMirror::Answer { number, answer }) => {
                push_answer(&mut batch, number, answer)?
            }
            Words::FromMirror(FromMirror::Progress { marks, settled }) => {
                push_progress(&mut batch, marks, settled)?
            }
            Words::ToMirror(told) => {
                let number = if let ToMirror::Hello { number, .. } = told { number } else { 0 };
                push_event(&mut batch, mirror_event(told), number)?;
            }
        }
        Ok(batch.into_bytes())
    }

    /// What the routing is to do about it.
    #[must_use]
    pub fn inputs(self) -> Vec<Input> {
        match self.0 {
            Words::Join(Join { node, logs, .. }) => vec![Input::Join(node, logs)],
            Words::FromStorage(FromStorage::Announce { session, announcements }) => {
                let command = |(key, announcement)| {
                    Input::Command(Some(session), LinkCommand::Announce { key, announcement })
                };
                announcements.into_iter().map(command).collect()
            }
            Words::FromStorage(FromStorage::Send { session, key, record, is_awaited }) => {
                vec![Input::Command(Some(session), LinkCommand::Send { key, record, is_awaited })]
            }
            Words::FromStorage(FromStorage::Rewind { session, tails }) => {
                vec![Input::Command(Some(session), LinkCommand::Rewind(tails))]
            }
            Words::FromStorage(FromStorage::ChangeCode { name, parameters, flush_pause, .. }) => {
                let (done, _) = oneshot::channel();
                vec![Input::Command(None, LinkCommand::ChangeCode { name, parameters, flush_pause, done })]
            }
            Words::FromStorage(FromStorage::Leave) | Words::FromMirror(FromMirror::Leave) => {
                vec![Input::Leave]
            }
            Words::ToStorage(ToStorage::Event(event), _) => vec![Input::Event(event)],
            Words::ToStorage(ToStorage::Telemetry(_) | ToStorage::CodeChanged { .. }, _) => Vec::new(),
            Words::FromMirror(FromMirror::Answer { number, answer }) => vec![Input::Answer(number, answer)],
            Words::FromMirror(FromMirror::Progress { marks, .. }) => vec![Input::Marks(marks)],
            Words::ToMirror(told) => vec![Input::MirrorEvent(mirror_event(told))],
        }
    }
}

/// As the driver told it.
fn mirror_event(told: ToMirror) -> MirrorEvent {
    match told {
        ToMirror::Hello { site, session, .. } => {
            MirrorEvent::Hello { site, session, marks: oneshot::channel().0 }
        }
        ToMirror::Announced(announcements) => MirrorEvent::Announced(announcements),
        ToMirror::Record(record) => MirrorEvent::Records(vec![record]),
        ToMirror::Rewind(tails) => MirrorEvent::Rewind(tails),
        ToMirror::Down { reason } => MirrorEvent::Down { reason },
    }
}

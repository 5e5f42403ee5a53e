//! Commands and events of a mirror's link as messages.

use bytes::{Bytes, BytesMut};
use parhelion_link_driver::MirrorEvent;
use parhelion_types::limits::LOGS_MAX;
use parhelion_types::{Error, ErrorKind, SiteId};
use parhelion_wire::link::{LogMarkV1, LogTailV1};
use parhelion_wire::site::{
    SiteArrivedV1, SiteCutV1, SiteDownV1, SiteHelloV1, SiteLeaveV1, SiteProgressV1, SiteRecordV1,
    SiteRefusalV1, SiteWelcomeV1,
};
use parhelion_wire::{ANNOUNCEMENT_BYTES, Announcement, WireError};

use crate::answers::Answer;
use crate::frames::{Frame, FrameBatch};
use crate::messages::{ITEMS_MAX, mark, parts, tail};

/// What a mirror's storage node is told.
#[derive(Debug)]
pub(crate) enum ToMirror {
    Hello { site: SiteId, session: u64, number: u64 },
    Announced(Vec<Announcement>),
    Record(Bytes),
    Rewind(Vec<LogTailV1>),
    Down { reason: String },
}

/// What a mirror's storage node says.
#[derive(Debug)]
pub(crate) enum FromMirror {
    Answer { number: u64, answer: Answer },
    Progress { marks: Vec<LogMarkV1>, settled: u64 },
    Leave,
}

impl ToMirror {
    pub(crate) fn parse(frame: Frame) -> Result<Self, WireError> {
        if frame.is::<SiteRecordV1>() {
            frame.read::<SiteRecordV1>()?;
            return Ok(Self::Record(frame.payload));
        }
        if frame.is::<SiteArrivedV1>() {
            let count = frame.read::<SiteArrivedV1>()?.get().count.to_native() as usize;
            if frame.payload.len() != count * ANNOUNCEMENT_BYTES {
                return Err(WireError::Invalid { what: "number of announcements" });
            }
            let announcements = Announcement::parse_batch(&frame.payload)
                .ok_or(WireError::Invalid { what: "announcements" })?;
            return Ok(Self::Announced(announcements.collect()));
        }
        if frame.is::<SiteHelloV1>() {
            let hello = frame.read::<SiteHelloV1>()?;
            return Ok(Self::Hello {
                site: SiteId(hello.get().site.to_native()),
                session: hello.get().session.to_native(),
                number: frame.envelope.correlation,
            });
        }
        if frame.is::<SiteCutV1>() {
            let cut = frame.read::<SiteCutV1>()?;
            return Ok(Self::Rewind(cut.get().logs.iter().map(tail).collect()));
        }
        if frame.is::<SiteDownV1>() {
            let down = frame.read::<SiteDownV1>()?;
            return Ok(Self::Down { reason: down.get().reason.as_str().to_owned() });
        }
        Err(frame.out_of_place())
    }
}

/// Adds an event to the next write; a hello under `number`.
pub(crate) fn push_event(batch: &mut FrameBatch, event: MirrorEvent, number: u64) -> Result<(), WireError> {
    let none = Bytes::new();
    match event {
        MirrorEvent::Hello { site, session, .. } => {
            batch.push(&SiteHelloV1 { site: site.0, session }, none, number)
        }
        MirrorEvent::Announced(announcements) => announcements.chunks(ITEMS_MAX).try_for_each(|part| {
            let mut payload = BytesMut::with_capacity(part.len() * ANNOUNCEMENT_BYTES);
            for announcement in part {
                payload.extend_from_slice(&announcement.to_bytes());
            }
            batch.push(&SiteArrivedV1 { count: part.len() as u32 }, payload.freeze(), 0)
        }),
        MirrorEvent::Records(records) => {
            records.into_iter().try_for_each(|record| batch.push(&SiteRecordV1 {}, record, 0))
        }
        MirrorEvent::Rewind(tails) => tails
            .chunks(ITEMS_MAX)
            .try_for_each(|logs| batch.push(&SiteCutV1 { logs: logs.to_vec() }, none.clone(), 0)),
        MirrorEvent::Down { reason } => batch.push(&SiteDownV1 { reason }, none, 0),
    }
}

/// Reads what a mirror's storage node says. The marks of a welcome may come in several messages.
#[derive(Default)]
pub(crate) struct FromMirrorParser {
    marks: Vec<LogMarkV1>,
}

impl FromMirrorParser {
    /// What the message says; nothing if more follows.
    pub(crate) fn parse(&mut self, frame: &Frame) -> Result<Option<FromMirror>, WireError> {
        let number = frame.envelope.correlation;
        if frame.is::<SiteProgressV1>() {
            let progress = frame.read::<SiteProgressV1>()?;
            let marks = progress.get().marks.iter().map(mark).collect();
            return Ok(Some(FromMirror::Progress { marks, settled: progress.get().settled.to_native() }));
        }
        if frame.is::<SiteWelcomeV1>() {
            let welcome = frame.read::<SiteWelcomeV1>()?;
            let welcome = welcome.get();
            if self.marks.len() + welcome.marks.len() > LOGS_MAX {
                return Err(WireError::Long {
                    what: "marks of a welcome",
                    bytes: self.marks.len() + welcome.marks.len(),
                    max: LOGS_MAX,
                });
            }
            self.marks.extend(welcome.marks.iter().map(mark));
            if welcome.more {
                return Ok(None);
            }
            return Ok(Some(FromMirror::Answer { number, answer: Ok(std::mem::take(&mut self.marks)) }));
        }
        if frame.is::<SiteRefusalV1>() {
            let refusal = frame.read::<SiteRefusalV1>()?;
            let kind = ErrorKind::from_code(refusal.get().kind);
            let error = Error::new(kind, refusal.get().message.as_str());
            return Ok(Some(FromMirror::Answer { number, answer: Err(error) }));
        }
        if frame.is::<SiteLeaveV1>() {
            frame.read::<SiteLeaveV1>()?;
            return Ok(Some(FromMirror::Leave));
        }
        Err(frame.out_of_place())
    }
}

/// Adds an answer to the next write.
pub(crate) fn push_answer(batch: &mut FrameBatch, number: u64, answer: Answer) -> Result<(), WireError> {
    match answer {
        Ok(marks) => parts(marks)
            .into_iter()
            .try_for_each(|(marks, more)| batch.push(&SiteWelcomeV1 { marks, more }, Bytes::new(), number)),
        Err(error) => {
            let refusal = SiteRefusalV1 { kind: error.kind().code(), message: error.message().to_owned() };
            batch.push(&refusal, Bytes::new(), number)
        }
    }
}

/// Adds marks and what is settled to the next write.
pub(crate) fn push_progress(
    batch: &mut FrameBatch,
    marks: Vec<LogMarkV1>,
    settled: u64,
) -> Result<(), WireError> {
    parts(marks)
        .into_iter()
        .try_for_each(|(marks, _)| batch.push(&SiteProgressV1 { marks, settled }, Bytes::new(), 0))
}

//! Commands and events of a primary's link as messages.

use bytes::{Bytes, BytesMut};
use parhelion_link_driver::{CodeLookup, CoverageChange, LinkEvent, LinkTelemetry};
use parhelion_plugin::{Code, Exposure, Parameters};
use parhelion_types::limits::LOGS_MAX;
use parhelion_types::{LogId, RecordKey, SiteId};
use parhelion_wire::link::{ChannelCountsV1, LogMarkV1, LogTailV1};
use parhelion_wire::site::{
    ArchivedCodeNameV1, ArchivedCoverageV1, CodeNameV1, CoverageV1, RecordKeyV1, SiteAnnounceV1,
    SiteAnnouncedV1, SiteChangeCodeV1, SiteCodeChangedV1, SiteCodeV1, SiteCoverageV1, SiteDownV1,
    SiteLeaveV1, SiteMirroredV1, SiteRewindV1, SiteSendV1, SiteTelemetryV1, SiteUpV1,
};
use parhelion_wire::{ANNOUNCEMENT_BYTES, Announcement, WireError};

use crate::error::SiteError;
use crate::frames::{Frame, FrameBatch};
use crate::messages::{ITEMS_MAX, mark, parts, tail};

/// What a primary's storage node says.
#[derive(Debug)]
pub(crate) enum FromStorage {
    Announce { session: u64, announcements: Vec<(RecordKey, Announcement)> },
    Send { session: u64, key: RecordKey, record: Bytes, is_awaited: bool },
    Rewind { session: u64, tails: Vec<LogTailV1> },
    ChangeCode { name: String, parameters: String, flush_pause: Option<u32>, correlation: u64 },
    Leave,
}

/// What a primary's storage node is told.
#[derive(Debug)]
pub(crate) enum ToStorage {
    Event(LinkEvent),
    Telemetry(LinkTelemetry),
    CodeChanged { correlation: u64, error: Option<String> },
}

impl FromStorage {
    pub(crate) fn parse(frame: Frame) -> Result<Self, WireError> {
        if frame.is::<SiteSendV1>() {
            let send = frame.read::<SiteSendV1>()?;
            let send = send.get();
            return Ok(Self::Send {
                session: send.session.to_native(),
                key: RecordKey { log: LogId(send.log.to_native()), number: send.number.to_native() },
                is_awaited: send.is_awaited,
                record: frame.payload,
            });
        }
        if frame.is::<SiteAnnounceV1>() {
            let announce = frame.read::<SiteAnnounceV1>()?;
            let announce = announce.get();
            if frame.payload.len() != announce.numbers.len() * ANNOUNCEMENT_BYTES {
                return Err(WireError::Invalid { what: "number of announcements" });
            }
            let announcements = Announcement::parse_batch(&frame.payload)
                .ok_or(WireError::Invalid { what: "announcements" })?;
            let announcements = announce.numbers.iter().zip(announcements).map(|(number, announcement)| {
                (RecordKey { log: announcement.log, number: number.to_native() }, announcement)
            });
            return Ok(Self::Announce {
                session: announce.session.to_native(),
                announcements: announcements.collect(),
            });
        }
        if frame.is::<SiteRewindV1>() {
            let rewind = frame.read::<SiteRewindV1>()?;
            let rewind = rewind.get();
            let tails = rewind.logs.iter().map(tail).collect();
            return Ok(Self::Rewind { session: rewind.session.to_native(), tails });
        }
        if frame.is::<SiteChangeCodeV1>() {
            let change = frame.read::<SiteChangeCodeV1>()?;
            return Ok(Self::ChangeCode {
                name: change.get().name.as_str().to_owned(),
                parameters: change.get().parameters.as_str().to_owned(),
                flush_pause: change.get().flush_pause.as_ref().map(|pause| pause.to_native()),
                correlation: frame.envelope.correlation,
            });
        }
        if frame.is::<SiteLeaveV1>() {
            frame.read::<SiteLeaveV1>()?;
            return Ok(Self::Leave);
        }
        Err(frame.out_of_place())
    }
}

/// Reads what a primary's storage node is told. The marks of a session may come in several messages.
pub(crate) struct ToStorageParser {
    codes: CodeLookup,
    marks: Vec<LogMarkV1>,
}

impl ToStorageParser {
    /// A parser at a node that knows these codes.
    pub(crate) fn new(codes: CodeLookup) -> Self {
        Self { codes, marks: Vec::new() }
    }

    /// What the message says, with the number of the session if one begins; nothing if more follows.
    pub(crate) fn parse(&mut self, frame: &Frame) -> Result<Option<(ToStorage, Option<u64>)>, SiteError> {
        let event = |event| Ok(Some((ToStorage::Event(event), None)));
        if frame.is::<SiteCoverageV1>() {
            let coverage = frame.read::<SiteCoverageV1>()?;
            return event(LinkEvent::Coverage(coverage.get().changes.iter().map(coverage_change).collect()));
        }
        if frame.is::<SiteAnnouncedV1>() {
            let announced = frame.read::<SiteAnnouncedV1>()?;
            let keys = announced
                .get()
                .keys
                .iter()
                .map(|key| record_key(key.log.to_native(), key.number.to_native()));
            return event(LinkEvent::Announced(keys.collect()));
        }
        if frame.is::<SiteMirroredV1>() {
            let mirrored = frame.read::<SiteMirroredV1>()?;
            return event(LinkEvent::Mirrored(mirrored.get().marks.iter().map(mark).collect()));
        }
        if frame.is::<SiteTelemetryV1>() {
            let telemetry = frame.read::<SiteTelemetryV1>()?;
            let telemetry = telemetry.get();
            let telemetry =
                LinkTelemetry { counts: (&telemetry.counts).into(), session: telemetry.session.to_native() };
            return Ok(Some((ToStorage::Telemetry(telemetry), None)));
        }
        if frame.is::<SiteUpV1>() {
            let up = frame.read::<SiteUpV1>()?;
            let up = up.get();
            if self.marks.len() + up.marks.len() > LOGS_MAX {
                let bytes = self.marks.len() + up.marks.len();
                return Err(WireError::Long { what: "marks of a session", bytes, max: LOGS_MAX }.into());
            }
            self.marks.extend(up.marks.iter().map(mark));
            if up.more {
                return Ok(None);
            }
            let event = LinkEvent::Up {
                peer: SiteId(up.peer.to_native()),
                marks: std::mem::take(&mut self.marks),
                code: self.code(&up.code)?,
            };
            return Ok(Some((ToStorage::Event(event), Some(up.session.to_native()))));
        }
        if frame.is::<SiteDownV1>() {
            let down = frame.read::<SiteDownV1>()?;
            return event(LinkEvent::Down { reason: down.get().reason.as_str().to_owned() });
        }
        if frame.is::<SiteCodeV1>() {
            let code = frame.read::<SiteCodeV1>()?;
            return event(LinkEvent::CodeChanged(self.code(&code.get().code)?));
        }
        if frame.is::<SiteCodeChangedV1>() {
            let changed = frame.read::<SiteCodeChangedV1>()?;
            let error = changed.get().error.as_ref().map(|error| error.as_str().to_owned());
            let correlation = frame.envelope.correlation;
            return Ok(Some((ToStorage::CodeChanged { correlation, error }, None)));
        }
        Err(frame.out_of_place().into())
    }

    /// The code that the link node names.
    fn code(&self, named: &ArchivedCodeNameV1) -> Result<Code, SiteError> {
        let id = format!("{}@{}", named.name.as_str(), named.version.to_native());
        let unusable = |reason: String| {
            SiteError::Refused(format!(
                "the link node uses code {id}, and it is of no use here: {reason}; give every node of the site the \
                 same plugins"
            ))
        };
        let family = (self.codes)(&id).ok_or_else(|| unusable("it is not known".to_owned()))?;
        let parameters: Parameters =
            named.parameters.parse().map_err(|error| unusable(format!("{error}")))?;
        Code::new(family, &parameters).map_err(|error| unusable(error.to_string()))
    }
}

/// Adds what a storage node is told to the next write. `session` counts the sessions that it was told of.
pub(crate) fn push_told(batch: &mut FrameBatch, told: ToStorage, session: &mut u64) -> Result<(), WireError> {
    let none = Bytes::new();
    match told {
        ToStorage::Event(LinkEvent::Up { peer, marks, code }) => {
            *session += 1;
            for (marks, more) in parts(marks) {
                let up = SiteUpV1 { session: *session, peer: peer.0, code: code_name(&code), marks, more };
                batch.push(&up, none.clone(), 0)?;
            }
            Ok(())
        }
        ToStorage::Event(LinkEvent::Down { reason }) => batch.push(&SiteDownV1 { reason }, none, 0),
        ToStorage::Event(LinkEvent::CodeChanged(code)) => {
            batch.push(&SiteCodeV1 { code: code_name(&code) }, none, 0)
        }
        ToStorage::Event(LinkEvent::Announced(keys)) => keys.chunks(ITEMS_MAX).try_for_each(|keys| {
            let keys = keys.iter().map(|key| RecordKeyV1 { log: key.log.0, number: key.number }).collect();
            batch.push(&SiteAnnouncedV1 { keys }, none.clone(), 0)
        }),
        ToStorage::Event(LinkEvent::Coverage(changes)) => changes.chunks(ITEMS_MAX).try_for_each(|changes| {
            let changes = changes.iter().map(coverage_message).collect();
            batch.push(&SiteCoverageV1 { changes }, none.clone(), 0)
        }),
        ToStorage::Event(LinkEvent::Mirrored(marks)) => marks
            .chunks(ITEMS_MAX)
            .try_for_each(|marks| batch.push(&SiteMirroredV1 { marks: marks.to_vec() }, none.clone(), 0)),
        ToStorage::Telemetry(LinkTelemetry { counts, session }) => {
            batch.push(&SiteTelemetryV1 { session, counts: ChannelCountsV1 { ..counts } }, none, 0)
        }
        ToStorage::CodeChanged { correlation, error } => {
            batch.push(&SiteCodeChangedV1 { error }, none, correlation)
        }
    }
}

/// Adds announcements to the next write.
pub(crate) fn push_announcements(
    batch: &mut FrameBatch,
    session: u64,
    announcements: &mut Vec<(u64, Announcement)>,
) -> Result<(), WireError> {
    for part in announcements.chunks(ITEMS_MAX) {
        let mut payload = BytesMut::with_capacity(part.len() * ANNOUNCEMENT_BYTES);
        for (_, announcement) in part {
            payload.extend_from_slice(&announcement.to_bytes());
        }
        let numbers = part.iter().map(|&(number, _)| number).collect();
        batch.push(&SiteAnnounceV1 { session, numbers }, payload.freeze(), 0)?;
    }
    announcements.clear();
    Ok(())
}

fn record_key(log: u32, number: u64) -> RecordKey {
    RecordKey { log: LogId(log), number }
}

fn coverage_message(change: &CoverageChange) -> CoverageV1 {
    let CoverageChange { key, exposure, sent, complete } = *change;
    let Exposure { symbols, coverage, group_max, flushed, flush_run, flush_pause } = exposure;
    CoverageV1 {
        key: RecordKeyV1 { log: key.log.0, number: key.number },
        symbols,
        coverage,
        group_max,
        flushed,
        flush_run,
        flush_pause,
        sent,
        complete,
    }
}

fn coverage_change(archived: &ArchivedCoverageV1) -> CoverageChange {
    CoverageChange {
        key: record_key(archived.key.log.to_native(), archived.key.number.to_native()),
        exposure: Exposure {
            symbols: archived.symbols.to_native(),
            coverage: archived.coverage.to_native(),
            group_max: archived.group_max.to_native(),
            flushed: archived.flushed.to_native(),
            flush_run: archived.flush_run.to_native(),
            flush_pause: archived.flush_pause.to_native(),
        },
        sent: archived.sent,
        complete: archived.complete,
    }
}

fn code_name(code: &Code) -> CodeNameV1 {
    CodeNameV1 {
        name: code.name().to_owned(),
        version: code.version(),
        parameters: code.parameters().to_string(),
    }
}

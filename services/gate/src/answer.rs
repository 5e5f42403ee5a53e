//! What nodes answer, and its wire form in both directions.

use std::time::Duration;

use bytes::Bytes;
use parhelion_types::limits::{LOG_NAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use parhelion_types::{
    Degrade, Durability, Epoch, Error, ErrorKind, LogAddress, LogId, RequestId, Risk, SourceTime,
};
use parhelion_wire::client::{
    AppendedV1, ArchivedEntryV1, ArchivedLogStateV1, ArchivedMissingV1, ArchivedStageV1, CodeChangedV1,
    CreatedV1, DigestV1, EntriesV1, EntryV1, FailureV1, FreedV1, LogStateV1, LogsV1, MissingV1, NodeStateV1,
    PromotedV1, ReadBytesV1, StageV1,
};
use parhelion_wire::{Checked, Envelope, Message, WireError, frame};

use crate::backend::{
    Appended, Entry, EntryKind, LogDigest, LogState, Missing, Promotion, ReadRecord, Stage, Stretch,
};
use crate::question::read;

/// Most logs in one answer.
pub const LOGS_PAGE: usize = 1024;
/// Most entries in one answer.
pub const ENTRIES_PAGE: usize = 16_384;
/// Most missing appends that are named one by one: as many as a message holds.
pub const MISSING_MAX: usize = (MESSAGE_BYTES_MAX - REST_BYTES) / size_of::<ArchivedMissingV1>();

/// Who is meant when an answer cannot be read.
const NODE: &str = "the node's answer";
/// Bytes of a message for what is not a table.
const REST_BYTES: usize = 1024;
const _: () = assert!(
    LOGS_PAGE * (size_of::<ArchivedLogStateV1>() + LOG_NAME_BYTES_MAX) + REST_BYTES <= MESSAGE_BYTES_MAX
);
const _: () = assert!(ENTRIES_PAGE * size_of::<ArchivedEntryV1>() + REST_BYTES <= MESSAGE_BYTES_MAX);
const _: () = assert!(MISSING_MAX * size_of::<ArchivedMissingV1>() + REST_BYTES <= MESSAGE_BYTES_MAX);
const _: () = assert!(MISSING_MAX > 29_000);

/// One answer of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To create.
    Created(LogId),
    /// To append.
    Appended(Box<Appended>),
    /// To read.
    Record(ReadRecord),
    /// To free.
    Freed(LogId),
    /// To list, and to stat.
    Logs(Vec<LogState>),
    /// To scan.
    Entries(Stretch),
    /// To status.
    Status(serde_json::Value),
    /// To promote, and to list what is missing.
    Promoted(Promotion),
    /// To digest.
    Digest(LogDigest),
    /// To a change of code.
    CodeChanged(String),
}

impl Answer {
    /// The answer as a frame: what goes first, and the raw bytes behind it.
    ///
    /// Tables are cut to one page: the client asks for the next one.
    ///
    /// # Errors
    /// `Internal`: the answer is over the limit of a message.
    pub fn to_frame(&self, correlation: u64) -> Result<(Bytes, Bytes), Error> {
        let none = Bytes::new();
        let (head, payload) = match self {
            Self::Created(log) => (frame(&CreatedV1 { log: log.0 }, &none, correlation), none),
            Self::Appended(appended) => (frame(&appended_message(appended), &none, correlation), none),
            Self::Record(record) => {
                let message = ReadBytesV1 { digest: record.digest, time_micros: record.time.0 };
                (frame(&message, &record.payload, correlation), record.payload.clone())
            }
            Self::Freed(log) => (frame(&FreedV1 { log: log.0 }, &none, correlation), none),
            Self::Logs(logs) => {
                let logs = logs.iter().take(LOGS_PAGE).map(log_message).collect();
                (frame(&LogsV1 { logs }, &none, correlation), none)
            }
            Self::Entries(stretch) => (frame(&entries_message(stretch), &none, correlation), none),
            Self::Status(document) => {
                (frame(&NodeStateV1 { json: document.to_string() }, &none, correlation), none)
            }
            Self::Promoted(promotion) => {
                let message = PromotedV1 {
                    epoch: promotion.epoch.0,
                    logs: promotion.logs,
                    missing: promotion.missing.iter().take(MISSING_MAX).map(missing_message).collect(),
                    missing_count: promotion.missing_count,
                    behind_gap_count: promotion.behind_gap_count,
                };
                (frame(&message, &none, correlation), none)
            }
            Self::Digest(LogDigest { digest, records, bytes }) => {
                let message = DigestV1 { digest: *digest, records: *records, bytes: *bytes };
                (frame(&message, &none, correlation), none)
            }
            Self::CodeChanged(code) => {
                (frame(&CodeChangedV1 { code: code.clone() }, &none, correlation), none)
            }
        };
        let head =
            head.map_err(|error| Error::internal(format!("the answer cannot be sent: {error}; report it")))?;
        Ok((head, payload))
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// What the node answered, if it was a failure; `Unsupported` or `Internal` if it cannot be understood.
    pub fn parse(envelope: &Envelope, body: Bytes, payload: Bytes) -> Result<Self, Error> {
        match envelope.kind {
            FailureV1::KIND => {
                let message = read::<FailureV1>(NODE, envelope, body)?;
                let message = message.get();
                Err(Error::new(ErrorKind::from_code(message.kind), message.message.as_str()))
            }
            CreatedV1::KIND => {
                Ok(Self::Created(LogId(read::<CreatedV1>(NODE, envelope, body)?.get().log.to_native())))
            }
            AppendedV1::KIND => {
                Ok(Self::Appended(Box::new(read_appended(&read::<AppendedV1>(NODE, envelope, body)?)?)))
            }
            ReadBytesV1::KIND => {
                let message = read::<ReadBytesV1>(NODE, envelope, body)?;
                let message = message.get();
                let digest = message.digest.to_native();
                Ok(Self::Record(ReadRecord {
                    payload,
                    digest,
                    time: SourceTime(message.time_micros.to_native()),
                }))
            }
            FreedV1::KIND => {
                Ok(Self::Freed(LogId(read::<FreedV1>(NODE, envelope, body)?.get().log.to_native())))
            }
            LogsV1::KIND => read::<LogsV1>(NODE, envelope, body)?
                .get()
                .logs
                .iter()
                .map(read_log)
                .collect::<Result<_, _>>()
                .map(Self::Logs),
            EntriesV1::KIND => {
                let message = read::<EntriesV1>(NODE, envelope, body)?;
                let message = message.get();
                let next = LogAddress::new(message.next_segment.to_native(), message.next_offset.to_native());
                let entries = message.entries.iter().map(read_entry).collect::<Result<_, _>>()?;
                Ok(Self::Entries(Stretch { entries, next }))
            }
            NodeStateV1::KIND => {
                let message = read::<NodeStateV1>(NODE, envelope, body)?;
                serde_json::from_str(message.get().json.as_str())
                    .map(Self::Status)
                    .map_err(|error| strange(&format!("status is no JSON: {error}")))
            }
            PromotedV1::KIND => {
                let message = read::<PromotedV1>(NODE, envelope, body)?;
                let message = message.get();
                Ok(Self::Promoted(Promotion {
                    epoch: Epoch(message.epoch.to_native()),
                    logs: message.logs.to_native(),
                    missing: message.missing.iter().map(read_missing).collect(),
                    missing_count: message.missing_count.to_native(),
                    behind_gap_count: message.behind_gap_count.to_native(),
                }))
            }
            DigestV1::KIND => {
                let message = read::<DigestV1>(NODE, envelope, body)?;
                let message = message.get();
                let (records, bytes) = (message.records.to_native(), message.bytes.to_native());
                Ok(Self::Digest(LogDigest { digest: message.digest, records, bytes }))
            }
            CodeChangedV1::KIND => {
                let message = read::<CodeChangedV1>(NODE, envelope, body)?;
                Ok(Self::CodeChanged(message.get().code.as_str().to_owned()))
            }
            kind => {
                let error = WireError::Version { kind, version: envelope.version };
                Err(Error::new(ErrorKind::Unsupported, format!("{error}; use the same release at both ends")))
            }
        }
    }
}

/// The frame that says that a question failed.
///
/// # Errors
/// `Internal`: never for a message of reasonable length.
pub fn failure_frame(error: &Error, correlation: u64) -> Result<Bytes, Error> {
    // An error that is too long to be sent is cut rather than lost.
    let message: String = error.message().chars().take(MESSAGE_BYTES_MAX / 8).collect();
    frame(&FailureV1 { kind: error.kind().code(), message }, &[], correlation)
        .map_err(|error| Error::internal(format!("the failure cannot be sent: {error}; report it")))
}

fn appended_message(appended: &Appended) -> AppendedV1 {
    AppendedV1 {
        log: appended.log.0,
        segment: appended.address.segment.0,
        offset: appended.address.offset,
        reached: appended.reached.code(),
        degraded: appended.degraded,
        duplicate: appended.duplicate,
        own_risk: appended.own_risk.probability(),
        prefix_risk: appended.prefix_risk.probability(),
        confidence: appended.confidence,
        model: appended.model.clone(),
        code: appended.code.clone(),
        epoch: appended.epoch.0,
        path: appended.path.iter().map(stage_message).collect(),
    }
}

fn read_appended(message: &Checked<AppendedV1>) -> Result<Appended, Error> {
    let message = message.get();
    Ok(Appended {
        log: LogId(message.log.to_native()),
        address: LogAddress::new(message.segment.to_native(), message.offset.to_native()),
        reached: Durability::from_code(message.reached)
            .ok_or_else(|| strange(&format!("durability {} is unknown", message.reached)))?,
        degraded: message.degraded,
        duplicate: message.duplicate,
        own_risk: Risk::bound(message.own_risk.to_native()),
        prefix_risk: Risk::bound(message.prefix_risk.to_native()),
        confidence: message.confidence.to_native(),
        model: message.model.as_str().to_owned(),
        code: message.code.as_str().to_owned(),
        epoch: Epoch(message.epoch.to_native()),
        path: message.path.iter().map(read_stage).collect(),
    })
}

fn stage_message(stage: &Stage) -> StageV1 {
    StageV1 {
        stage: stage.stage.clone(),
        micros: u64::try_from(stage.after.as_micros()).unwrap_or(u64::MAX),
        repairs: stage.repairs,
        repairs_full: stage.repairs_full,
        own_risk: stage.own_risk.probability(),
        prefix_risk: stage.prefix_risk.probability(),
        note: stage.note.clone(),
    }
}

fn read_stage(stage: &ArchivedStageV1) -> Stage {
    Stage {
        stage: stage.stage.as_str().to_owned(),
        after: Duration::from_micros(stage.micros.to_native()),
        repairs: stage.repairs.to_native(),
        repairs_full: stage.repairs_full.to_native(),
        own_risk: Risk::bound(stage.own_risk.to_native()),
        prefix_risk: Risk::bound(stage.prefix_risk.to_native()),
        note: stage.note.as_str().to_owned(),
    }
}

fn log_message(log: &LogState) -> LogStateV1 {
    LogStateV1 {
        log: log.log.0,
        name: log.name.clone(),
        epoch: log.epoch.0,
        degrade: log.degrade.code(),
        records: log.records,
        bytes: log.bytes,
        end_segment: log.end.segment.0,
        end_offset: log.end.offset,
        mirrored_records: log.mirrored_records,
        freed: log.freed,
        refusal: log.refusal.map_or(0, ErrorKind::code),
    }
}

fn read_log(log: &ArchivedLogStateV1) -> Result<LogState, Error> {
    Ok(LogState {
        log: LogId(log.log.to_native()),
        name: log.name.as_str().to_owned(),
        epoch: Epoch(log.epoch.to_native()),
        degrade: Degrade::from_code(log.degrade)
            .ok_or_else(|| strange(&format!("degrade policy {} is unknown", log.degrade)))?,
        records: log.records.to_native(),
        bytes: log.bytes.to_native(),
        end: LogAddress::new(log.end_segment.to_native(), log.end_offset.to_native()),
        mirrored_records: log.mirrored_records.to_native(),
        freed: log.freed.to_native(),
        refusal: (log.refusal != 0).then(|| ErrorKind::from_code(log.refusal)),
    })
}

fn entries_message(stretch: &Stretch) -> EntriesV1 {
    // A stretch that is cut goes on where it was cut.
    let next = stretch.entries.get(ENTRIES_PAGE).map_or(stretch.next, |entry| entry.address);
    let entries = stretch.entries.iter().take(ENTRIES_PAGE).map(entry_message).collect();
    EntriesV1 { entries, next_segment: next.segment.0, next_offset: next.offset }
}

fn entry_message(entry: &Entry) -> EntryV1 {
    EntryV1 {
        segment: entry.address.segment.0,
        offset: entry.address.offset,
        kind: entry.kind.code(),
        length: entry.length,
        digest: entry.digest,
        request: entry.request.0,
        time_micros: entry.time.0,
        freed: entry.freed,
    }
}

fn read_entry(entry: &ArchivedEntryV1) -> Result<Entry, Error> {
    Ok(Entry {
        address: LogAddress::new(entry.segment.to_native(), entry.offset.to_native()),
        kind: EntryKind::from_code(entry.kind)
            .ok_or_else(|| strange(&format!("record kind {} is unknown", entry.kind)))?,
        length: entry.length.to_native(),
        digest: entry.digest.to_native(),
        request: RequestId(entry.request.to_native()),
        time: SourceTime(entry.time_micros.to_native()),
        freed: entry.freed,
    })
}

fn missing_message(missing: &Missing) -> MissingV1 {
    MissingV1 {
        log: missing.log.0,
        segment: missing.address.segment.0,
        offset: missing.address.offset,
        length: missing.length,
        digest: missing.digest,
        request: missing.request.0,
    }
}

fn read_missing(missing: &ArchivedMissingV1) -> Missing {
    Missing {
        log: LogId(missing.log.to_native()),
        address: LogAddress::new(missing.segment.to_native(), missing.offset.to_native()),
        length: missing.length.to_native(),
        digest: missing.digest.to_native(),
        request: RequestId(missing.request.to_native()),
    }
}

fn strange(reason: &str) -> Error {
    Error::internal(format!("the node's answer makes no sense: {reason}; use the same release at both ends"))
}

#[cfg(test)]
mod tests {
    use parhelion_wire::ENVELOPE_BYTES;
    use proptest::prelude::*;

    use super::*;

    fn parse(head: &Bytes, payload: Bytes) -> Result<Answer, Error> {
        Answer::parse(&Envelope::parse(head).unwrap(), head.slice(ENVELOPE_BYTES..), payload)
    }

    fn log_state(log: u32) -> LogState {
        LogState {
            log: LogId(log),
            name: "n".repeat(LOG_NAME_BYTES_MAX),
            epoch: Epoch(2),
            degrade: Degrade::Degrade,
            records: 3,
            bytes: 4,
            end: LogAddress::new(5, 6),
            mirrored_records: 7,
            freed: 8,
            refusal: (log % 2 == 1).then_some(ErrorKind::Corrupt),
        }
    }

    fn entry(offset: u32) -> Entry {
        Entry {
            address: LogAddress::new(1, offset),
            kind: EntryKind::Append,
            length: 2,
            digest: 3,
            request: RequestId(4 << 80),
            time: SourceTime(5),
            freed: true,
        }
    }

    #[test]
    fn every_answer_survives_the_wire() {
        let stage = Stage {
            stage: "covered".to_owned(),
            after: Duration::from_micros(1234),
            repairs: 2,
            repairs_full: 3,
            own_risk: Risk::bound(1e-7),
            prefix_risk: Risk::bound(1e-6),
            note: "two repairs".to_owned(),
        };
        let appended = Appended {
            log: LogId(1),
            address: LogAddress::new(2, 3),
            reached: Durability::Network,
            degraded: true,
            duplicate: true,
            own_risk: Risk::bound(1e-7),
            prefix_risk: Risk::bound(1e-6),
            confidence: 0.999,
            model: "iid-bound".to_owned(),
            code: "reed-solomon r=8 c=3".to_owned(),
            epoch: Epoch(4),
            path: vec![stage],
        };
        let missing = Missing {
            log: LogId(1),
            address: LogAddress::new(2, 3),
            length: 4,
            digest: 5,
            request: RequestId(6 << 90),
        };
        let answers = [
            Answer::Created(LogId(1)),
            Answer::Appended(Box::new(appended)),
            Answer::Record(ReadRecord {
                payload: Bytes::from_static(b"bytes"),
                digest: 9,
                time: SourceTime(1 << 50),
            }),
            Answer::Freed(LogId(2)),
            Answer::Logs(vec![log_state(1), log_state(2)]),
            Answer::Entries(Stretch { entries: vec![entry(1)], next: LogAddress::new(8, 9) }),
            Answer::Status(serde_json::json!({ "site": 1, "links": [] })),
            Answer::Promoted(Promotion {
                epoch: Epoch(9),
                logs: 2,
                missing: vec![missing],
                missing_count: 3,
                behind_gap_count: 1,
            }),
            Answer::Digest(LogDigest { digest: [7; 32], records: 8, bytes: 9 }),
            Answer::CodeChanged("reed-solomon/1 r=8 c=3".to_owned()),
        ];
        for answer in answers {
            let (head, payload) = answer.to_frame(3).unwrap();
            assert_eq!(parse(&head, payload).unwrap(), answer);
        }
        let error = Error::new(ErrorKind::Fenced, "log 1 has a newer primary; go to site 2");
        assert_eq!(parse(&failure_frame(&error, 3).unwrap(), Bytes::new()), Err(error));
    }

    #[test]
    fn tables_are_cut_to_what_a_message_holds() {
        let (head, payload) =
            Answer::Logs((0..2 * LOGS_PAGE as u32).map(log_state).collect()).to_frame(1).unwrap();
        let Ok(Answer::Logs(logs)) = parse(&head, payload) else { panic!("no logs") };
        assert_eq!(logs.len(), LOGS_PAGE);

        let entries = (0..ENTRIES_PAGE as u32 + 5).map(entry).collect();
        let (head, payload) =
            Answer::Entries(Stretch { entries, next: LogAddress::new(9, 9) }).to_frame(1).unwrap();
        let Ok(Answer::Entries(stretch)) = parse(&head, payload) else { panic!("no entries") };
        assert_eq!(stretch.entries.len(), ENTRIES_PAGE);
        assert_eq!(stretch.next, LogAddress::new(1, ENTRIES_PAGE as u32));

        let missing = |offset| Missing {
            log: LogId(1),
            address: LogAddress::new(1, offset),
            length: 2,
            digest: 3,
            request: RequestId(4 << 80),
        };
        let promotion = Promotion {
            missing: (0..MISSING_MAX as u32 + 5).map(missing).collect(),
            missing_count: MISSING_MAX as u64 + 5,
            ..Promotion::default()
        };
        let (head, payload) = Answer::Promoted(promotion).to_frame(1).unwrap();
        let Ok(Answer::Promoted(found)) = parse(&head, payload) else { panic!("no promotion") };
        assert_eq!((found.missing.len(), found.missing_count), (MISSING_MAX, MISSING_MAX as u64 + 5));
        assert_eq!(found.missing.last(), Some(&missing(MISSING_MAX as u32 - 1)));

        let long = Answer::Status(serde_json::Value::String("x".repeat(MESSAGE_BYTES_MAX)));
        assert_eq!(long.to_frame(1).unwrap_err().kind(), ErrorKind::Internal);
        let long = Error::invalid("ü".repeat(MESSAGE_BYTES_MAX));
        assert!(failure_frame(&long, 1).is_ok());
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(kind in 0u16..100, body: Vec<u8>) {
            let envelope = Envelope {
                kind,
                version: 1,
                body_bytes: body.len() as u32,
                payload_bytes: 0,
                body_crc: 0,
                payload_crc: 0,
                correlation: 0,
            };
            let _ = Answer::parse(&envelope, body.into(), Bytes::new());
        }
    }
}

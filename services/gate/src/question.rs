//! What clients ask, and its wire form in both directions.

use std::time::Duration;

use bytes::Bytes;
use parhelion_types::limits::{APPEND_BYTES_MAX, MESSAGE_BYTES_MAX};
use parhelion_types::{
    AppendRequest, Degrade, Durability, Error, ErrorKind, LogAddress, LogId, RequestId, Risk, TraceContext,
};
use parhelion_wire::client::{
    AppendV1, ChangeCodeV1, CreateV1, DigestLogV1, FreeV1, ListMissingV1, ListV1, PlaceV1, PromoteV1, ReadV1,
    ScanV1, StatV1, StatusV1,
};
use parhelion_wire::{Checked, Envelope, Message, WireError, frame};
use rkyv::Portable;
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::BoxedError;

use crate::backend::{CodeRequest, CreateRequest};

/// One question of a client.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Question {
    /// Creates a log.
    Create(CreateRequest),
    /// Creates a log under a number that the metadata node has chosen; nodes ask this of each other.
    Place { log: LogId, create: CreateRequest },
    /// Appends.
    Append(AppendRequest),
    /// Reads one append.
    Read { log: LogId, address: LogAddress },
    /// Marks one append for cleaning.
    Free { log: LogId, address: LogAddress },
    /// Lists a page of logs.
    List { from: LogId },
    /// Shows one log.
    Stat { log: LogId },
    /// Walks the records of a log.
    Scan { log: LogId, from: LogAddress, count: u32 },
    /// Shows the node.
    Status,
    /// Makes this mirror writable.
    Promote { dry_run: bool },
    /// Lists what the promotion of this site found, from a place on.
    ListMissing { log: LogId, from: LogAddress },
    /// Digests a log.
    Digest { log: LogId, until: LogAddress },
    /// Changes the code of the live link.
    ChangeCode(CodeRequest),
}

impl Question {
    /// What is asked, in one word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Place { .. } => "place",
            Self::Append(_) => "append",
            Self::Read { .. } => "read",
            Self::Free { .. } => "free",
            Self::List { .. } => "list",
            Self::Stat { .. } => "stat",
            Self::Scan { .. } => "scan",
            Self::Status => "status",
            Self::Promote { .. } => "promote",
            Self::ListMissing { .. } => "list missing",
            Self::Digest { .. } => "digest",
            Self::ChangeCode(_) => "change code",
        }
    }

    /// Whether only an admin may ask this.
    #[must_use]
    pub fn needs_admin(&self) -> bool {
        match self {
            Self::Promote { .. } | Self::ListMissing { .. } | Self::Digest { .. } | Self::ChangeCode(_) => {
                true
            }
            // A new question is decided on here, not by leaving it out.
            Self::Create(_)
            | Self::Place { .. }
            | Self::Append(_)
            | Self::Read { .. }
            | Self::Free { .. }
            | Self::List { .. }
            | Self::Stat { .. }
            | Self::Scan { .. }
            | Self::Status => false,
        }
    }

    /// Whether only another node of the site may ask this.
    #[must_use]
    pub fn needs_node(&self) -> bool {
        matches!(self, Self::Place { .. })
    }

    /// Whether asking twice has the effect of asking once. Creation and appends are made so by their ids.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        match self {
            Self::Create(CreateRequest { request, .. }) | Self::Append(AppendRequest { request, .. }) => {
                !request.is_none()
            }
            Self::Promote { dry_run } => *dry_run,
            _ => true,
        }
    }

    /// Bound on the bytes of the answer to a message of that kind: what to reserve before the rest of it is read.
    #[must_use]
    pub fn answer_bytes_max(kind: u16) -> usize {
        const SMALL: usize = 64 << 10;
        match kind {
            ReadV1::KIND => APPEND_BYTES_MAX + SMALL,
            ListV1::KIND | ScanV1::KIND | StatusV1::KIND | PromoteV1::KIND | ListMissingV1::KIND => {
                MESSAGE_BYTES_MAX
            }
            // All others, and failures.
            _ => SMALL,
        }
    }

    /// The question as a frame: what goes first, and the raw bytes behind it.
    ///
    /// # Errors
    /// `Invalid`: a body or payload over its limit.
    pub fn to_frame(&self, correlation: u64) -> Result<(Bytes, Bytes), Error> {
        let none = Bytes::new();
        let head = match self {
            Self::Create(CreateRequest { name, degrade, request }) => frame(
                &CreateV1 { name: name.clone(), degrade: degrade.code(), request: request.0 },
                &none,
                correlation,
            ),
            Self::Place { log, create: CreateRequest { name, degrade, request } } => frame(
                &PlaceV1 { log: log.0, name: name.clone(), degrade: degrade.code(), request: request.0 },
                &none,
                correlation,
            ),
            Self::Append(append) => {
                let head = frame(&append_message(append), &append.payload, correlation);
                return Ok((head.map_err(|error| refused("append", &error))?, append.payload.clone()));
            }
            Self::Read { log, address } => frame(
                &ReadV1 { log: log.0, segment: address.segment.0, offset: address.offset },
                &none,
                correlation,
            ),
            Self::Free { log, address } => frame(
                &FreeV1 { log: log.0, segment: address.segment.0, offset: address.offset },
                &none,
                correlation,
            ),
            Self::List { from } => frame(&ListV1 { from: from.0 }, &none, correlation),
            Self::Stat { log } => frame(&StatV1 { log: log.0 }, &none, correlation),
            Self::Scan { log, from, count } => frame(
                &ScanV1 { log: log.0, segment: from.segment.0, offset: from.offset, count: *count },
                &none,
                correlation,
            ),
            Self::Status => frame(&StatusV1 {}, &none, correlation),
            Self::Promote { dry_run } => frame(&PromoteV1 { dry_run: *dry_run }, &none, correlation),
            Self::ListMissing { log, from } => frame(
                &ListMissingV1 { log: log.0, segment: from.segment.0, offset: from.offset },
                &none,
                correlation,
            ),
            Self::Digest { log, until } => frame(
                &DigestLogV1 { log: log.0, segment: until.segment.0, offset: until.offset },
                &none,
                correlation,
            ),
            Self::ChangeCode(CodeRequest { name, parameters }) => frame(
                &ChangeCodeV1 { name: name.clone(), parameters: parameters.clone() },
                &none,
                correlation,
            ),
        };
        Ok((head.map_err(|error| refused(self.name(), &error))?, none))
    }

    /// Reads a question and checks all that needs no knowledge of the node.
    ///
    /// # Errors
    /// `Unsupported`: a message that is not known here. `Invalid`: a field out of its range.
    pub fn parse(envelope: &Envelope, body: Bytes, payload: Bytes) -> Result<Self, Error> {
        if envelope.kind != AppendV1::KIND && !payload.is_empty() {
            return Err(Error::invalid(format!(
                "message kind {}: {} bytes follow it, and only an append has bytes; send them as an append",
                envelope.kind,
                payload.len()
            )));
        }
        Ok(match envelope.kind {
            CreateV1::KIND => {
                let message = read::<CreateV1>("create", envelope, body)?;
                let message = message.get();
                let (name, request) = (message.name.as_str(), message.request.to_native());
                Self::Create(read_create("create", name, message.degrade, request)?)
            }
            PlaceV1::KIND => {
                let message = read::<PlaceV1>("place", envelope, body)?;
                let message = message.get();
                let (name, request) = (message.name.as_str(), message.request.to_native());
                let create = read_create("place", name, message.degrade, request)?;
                Self::Place { log: LogId(message.log.to_native()), create }
            }
            AppendV1::KIND => {
                let append = read_append(&read::<AppendV1>("append", envelope, body)?, payload)?;
                append.check()?;
                Self::Append(append)
            }
            ReadV1::KIND => {
                let message = read::<ReadV1>("read", envelope, body)?;
                let message = message.get();
                let address = LogAddress::new(message.segment.to_native(), message.offset.to_native());
                Self::Read { log: LogId(message.log.to_native()), address }
            }
            FreeV1::KIND => {
                let message = read::<FreeV1>("free", envelope, body)?;
                let message = message.get();
                let address = LogAddress::new(message.segment.to_native(), message.offset.to_native());
                Self::Free { log: LogId(message.log.to_native()), address }
            }
            ListV1::KIND => {
                Self::List { from: LogId(read::<ListV1>("list", envelope, body)?.get().from.to_native()) }
            }
            StatV1::KIND => {
                Self::Stat { log: LogId(read::<StatV1>("stat", envelope, body)?.get().log.to_native()) }
            }
            ScanV1::KIND => {
                let message = read::<ScanV1>("scan", envelope, body)?;
                let message = message.get();
                let from = LogAddress::new(message.segment.to_native(), message.offset.to_native());
                let count = message.count.to_native();
                if count == 0 {
                    return Err(Error::invalid("scan: 0 entries are asked for; ask for at least one"));
                }
                Self::Scan { log: LogId(message.log.to_native()), from, count }
            }
            StatusV1::KIND => {
                read::<StatusV1>("status", envelope, body)?;
                Self::Status
            }
            PromoteV1::KIND => {
                Self::Promote { dry_run: read::<PromoteV1>("promote", envelope, body)?.get().dry_run }
            }
            ListMissingV1::KIND => {
                let message = read::<ListMissingV1>("list missing", envelope, body)?;
                let message = message.get();
                let from = LogAddress::new(message.segment.to_native(), message.offset.to_native());
                Self::ListMissing { log: LogId(message.log.to_native()), from }
            }
            DigestLogV1::KIND => {
                let message = read::<DigestLogV1>("digest", envelope, body)?;
                let message = message.get();
                let until = LogAddress::new(message.segment.to_native(), message.offset.to_native());
                Self::Digest { log: LogId(message.log.to_native()), until }
            }
            ChangeCodeV1::KIND => {
                let message = read::<ChangeCodeV1>("change code", envelope, body)?;
                let message = message.get();
                let (name, parameters) = (message.name.as_str(), message.parameters.as_str());
                let code = CodeRequest { name: name.to_owned(), parameters: parameters.to_owned() };
                code.check()?;
                Self::ChangeCode(code)
            }
            kind => {
                let error = WireError::Version { kind, version: envelope.version };
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("{error}; use the same release at both ends"),
                ));
            }
        })
    }
}

fn read_create(what: &str, name: &str, degrade: u8, request: u128) -> Result<CreateRequest, Error> {
    let policies = "0 block, 1 degrade, 2 fail";
    let degrade =
        Degrade::from_code(degrade).ok_or_else(|| unknown(what, "degrade policy", degrade, policies))?;
    let create = CreateRequest { name: name.to_owned(), degrade, request: RequestId(request) };
    create.check()?;
    Ok(create)
}

fn append_message(append: &AppendRequest) -> AppendV1 {
    AppendV1 {
        log: append.log.0,
        durability: append.durability.code(),
        max_risk: append.max_risk.probability(),
        // Zero means "none" on the wire; a deadline of no time at all is the shortest there is.
        deadline_micros: append
            .deadline
            .map_or(0, |deadline| u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX).max(1)),
        request: append.request.0,
        explain: append.explain,
        trace: append.trace.trace,
        span: append.trace.span,
        sampled: append.trace.sampled,
    }
}

fn read_append(message: &Checked<AppendV1>, payload: Bytes) -> Result<AppendRequest, Error> {
    let message = message.get();
    let log = LogId(message.log.to_native());
    let what = || format!("append to log {log}");
    let deadline = message.deadline_micros.to_native();
    Ok(AppendRequest {
        log,
        payload,
        durability: Durability::from_code(message.durability).ok_or_else(|| {
            unknown(&what(), "durability", message.durability, "0 local, 1 network, 2 remote")
        })?,
        max_risk: Risk::asked(message.max_risk.to_native())
            .map_err(|error| Error::invalid(format!("{}: max_risk: {error}", what())))?,
        deadline: (deadline != 0).then(|| Duration::from_micros(deadline)),
        request: RequestId(message.request.to_native()),
        explain: message.explain,
        trace: TraceContext {
            trace: message.trace.to_native(),
            span: message.span.to_native(),
            sampled: message.sampled,
        },
    })
}

/// Reads the body of a message of known kind.
pub(crate) fn read<T>(what: &str, envelope: &Envelope, body: Bytes) -> Result<Checked<T>, Error>
where
    T: Message,
    T::Archived: Portable + for<'a> CheckBytes<HighValidator<'a, BoxedError>>,
{
    Checked::parse(envelope, body).map_err(|error| refused(what, &error))
}

/// The caller's view of a message that cannot be read or written.
pub(crate) fn refused(what: &str, error: &WireError) -> Error {
    let kind = match error {
        WireError::Version { .. } => ErrorKind::Unsupported,
        _ => ErrorKind::Invalid,
    };
    Error::new(kind, format!("{what}: {error}; use the client library of this release"))
}

fn unknown(thing: &str, what: &str, code: u8, known: &str) -> Error {
    Error::invalid(format!("{thing}: {what} {code} is unknown; use one of: {known}"))
}

#[cfg(test)]
mod tests {
    use parhelion_wire::ENVELOPE_BYTES;
    use proptest::prelude::*;

    use super::*;

    fn parse(head: &Bytes, payload: Bytes) -> Result<Question, Error> {
        let envelope = Envelope::parse(head).unwrap();
        Question::parse(&envelope, head.slice(ENVELOPE_BYTES..), payload)
    }

    fn append() -> AppendRequest {
        AppendRequest {
            log: LogId(7),
            payload: Bytes::from_static(b"bytes"),
            durability: Durability::Remote,
            max_risk: Risk::asked(1e-6).unwrap(),
            deadline: Some(Duration::from_millis(250)),
            request: RequestId(1 << 100),
            explain: true,
            trace: TraceContext { trace: 5 << 70, span: 6, sampled: true },
        }
    }

    #[test]
    fn every_question_survives_the_wire() {
        let at = LogAddress::new(3, 4096);
        let log = LogId(7);
        let create =
            CreateRequest { name: "orders".to_owned(), degrade: Degrade::Fail, request: RequestId(1 << 90) };
        let questions = [
            Question::Create(create.clone()),
            Question::Place { log, create },
            Question::Append(append()),
            Question::Append(AppendRequest { deadline: None, ..append() }),
            Question::Read { log, address: at },
            Question::Free { log, address: at },
            Question::List { from: log },
            Question::Stat { log },
            Question::Scan { log, from: at, count: 9 },
            Question::Status,
            Question::Promote { dry_run: true },
            Question::ListMissing { log: LogId(8), from: LogAddress::new(9, 10) },
            Question::Digest { log, until: at },
            Question::ChangeCode(CodeRequest {
                name: "reed-solomon".to_owned(),
                parameters: "r=8 c=3".to_owned(),
            }),
        ];
        for question in questions {
            let (head, payload) = question.to_frame(9).unwrap();
            assert_eq!(Envelope::parse(&head).unwrap().correlation, 9);
            assert_eq!(parse(&head, payload).unwrap(), question);
        }
    }

    #[test]
    fn fields_out_of_range_are_named() {
        let send = |message: AppendV1, payload: &'static [u8]| {
            parse(&frame(&message, payload, 1).unwrap(), Bytes::from_static(payload)).unwrap_err()
        };
        let good = append_message(&append());
        let bad = [
            (send(AppendV1 { durability: 3, ..good.clone() }, b"x"), "durability 3"),
            (send(AppendV1 { max_risk: 0.0, ..good.clone() }, b"x"), "max_risk: 0"),
            (send(AppendV1 { max_risk: f64::NAN, ..good.clone() }, b"x"), "max_risk: NaN"),
            (send(AppendV1 { max_risk: 1.5, ..good.clone() }, b"x"), "max_risk: 1.5"),
            (send(good, b""), "it is empty"),
        ];
        for (error, part) in bad {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.message().contains(part) && error.message().contains("log 7"), "{error}");
        }
        let head = frame(&CreateV1 { name: "n".to_owned(), degrade: 9, request: 0 }, b"", 1).unwrap();
        assert!(parse(&head, Bytes::new()).unwrap_err().message().contains("degrade policy 9"));
        let head = frame(&StatV1 { log: 1 }, b"stray", 1).unwrap();
        assert!(parse(&head, Bytes::from_static(b"stray")).unwrap_err().message().contains("only an append"));
    }

    #[test]
    fn an_answer_is_no_question() {
        let head = frame(&parhelion_wire::client::CreatedV1 { log: 1 }, b"", 1).unwrap();
        assert_eq!(parse(&head, Bytes::new()).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn only_what_is_safe_is_repeated() {
        assert!(Question::Append(append()).is_repeatable());
        assert!(!Question::Append(AppendRequest { request: RequestId::NONE, ..append() }).is_repeatable());
        assert!(!Question::Promote { dry_run: false }.is_repeatable());
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(kind in 0u16..100, body: Vec<u8>, payload: Vec<u8>) {
            let envelope = Envelope {
                kind,
                version: 1,
                body_bytes: body.len() as u32,
                payload_bytes: payload.len() as u32,
                body_crc: 0,
                payload_crc: 0,
                correlation: 0,
            };
            let _ = Question::parse(&envelope, body.into(), payload.into());
        }
    }
}

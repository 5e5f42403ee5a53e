//! Frames on a client's stream: questions as a node reads them, answers as a client does.
//!
//! Promises: no frame panics or makes the reader hold more than was sent; what is read is written again as a frame
//! that is read as the same.

use std::time::Duration;

use bytes::Bytes;
use parhelion_gate::answer::failure_frame;
use parhelion_gate::backend::CodeRequest;
use parhelion_gate::{
    Answer, AppendRequest, Appended, CreateRequest, Entry, EntryKind, LogDigest, LogState, Missing,
    Promotion, Question, ReadRecord, Stage, Stretch,
};
use parhelion_types::{
    Degrade, Durability, Epoch, Error, ErrorKind, LogAddress, LogId, RequestId, Risk, SourceTime,
    TraceContext,
};
use parhelion_wire::{ENVELOPE_BYTES, Envelope};

use crate::frames::Frames;

pub(super) fn run(input: &[u8]) {
    for (envelope, body, payload) in Frames::split(input) {
        match Question::parse(&envelope, body.clone(), payload.clone()) {
            Ok(question) => asked_again(&question, envelope.correlation),
            Err(error) => has_remedy(&error),
        }
        match Answer::parse(&envelope, body, payload) {
            Ok(answer) => answered_again(&answer, envelope.correlation),
            // A failure that a node answered is an error here as well.
            Err(error) => drop(failure_frame(&error, envelope.correlation).expect("any failure can be told")),
        }
    }
}

fn asked_again(question: &Question, correlation: u64) {
    let (head, payload) = question.to_frame(correlation).expect("what was read is within the limits");
    let (envelope, body) = parts(&head);
    assert_eq!(envelope.correlation, correlation);
    assert_eq!(&Question::parse(&envelope, body, payload).expect("it was written here"), question);
    assert!(Question::answer_bytes_max(envelope.kind) > 0);
    let _ = (question.name(), question.needs_admin(), question.is_repeatable());
}

fn answered_again(answer: &Answer, correlation: u64) {
    // A table that is longer than a page is cut when it is written, and a document may grow over the limit.
    let Ok((head, payload)) = answer.to_frame(correlation) else { return };
    let (envelope, body) = parts(&head);
    let again = Answer::parse(&envelope, body, payload).expect("it was written here");
    match (answer, &again) {
        (Answer::Appended(old), Answer::Appended(new)) if old.confidence.is_nan() => {
            assert!(new.confidence.is_nan());
        }
        (Answer::Logs(old), Answer::Logs(new)) => assert_eq!(old[..new.len()], new[..]),
        (Answer::Entries(old), Answer::Entries(new)) => {
            assert_eq!(old.entries[..new.entries.len()], new.entries[..])
        }
        (Answer::Promoted(old), Answer::Promoted(new)) => {
            assert_eq!(old.missing[..new.missing.len()], new.missing[..]);
        }
        // Text may name numbers that no 64 bits hold; they are read as their neighbours.
        (Answer::Status(_), Answer::Status(_)) => {}
        _ => assert_eq!(answer, &again),
    }
}

fn parts(head: &Bytes) -> (Envelope, Bytes) {
    (Envelope::parse(head).expect("it was written here"), head.slice(ENVELOPE_BYTES..))
}

fn has_remedy(error: &Error) {
    assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported), "{error}");
    assert!(!error.message().is_empty());
}

pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |(head, payload): (Bytes, Bytes)| [head, payload].concat();
    let mut seeds: Vec<_> = questions()
        .into_iter()
        .map(|question| (question.name(), frame(question.to_frame(7).expect("it is within the limits"))))
        .collect();
    seeds.extend(
        answers().map(|(name, answer)| (name, frame(answer.to_frame(7).expect("it is within the limits")))),
    );
    let failure = failure_frame(&Error::unavailable("the mirror is away; retry"), 7);
    seeds.push(("failure", failure.expect("it is short").to_vec()));
    let two: Vec<u8> = seeds[..2].iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    seeds.push(("two-frames", two));
    seeds
}

fn questions() -> Vec<Question> {
    let (log, at) = (LogId(7), LogAddress::new(3, 4096));
    let create =
        CreateRequest { name: "orders".to_owned(), degrade: Degrade::Fail, request: RequestId(1 << 90) };
    let code = CodeRequest { name: "reed-solomon".to_owned(), parameters: "r=8 c=3".to_owned() };
    vec![
        Question::Create(create.clone()),
        Question::Place { log, create },
        Question::Append(AppendRequest {
            log,
            payload: Bytes::from_static(b"bytes"),
            durability: Durability::Network,
            max_risk: Risk::bound(1e-6),
            deadline: Some(Duration::from_millis(250)),
            request: RequestId(1 << 100),
            explain: true,
            trace: TraceContext { trace: 5 << 70, span: 6, sampled: true },
        }),
        Question::Read { log, address: at },
        Question::Free { log, address: at },
        Question::List { from: log },
        Question::Stat { log },
        Question::Scan { log, from: at, count: 9 },
        Question::Status,
        Question::Promote { dry_run: true },
        Question::ListMissing { log, from: at },
        Question::Digest { log, until: at },
        Question::ChangeCode(code),
    ]
}

fn answers() -> impl Iterator<Item = (&'static str, Answer)> {
    let (log, address, request) = (LogId(7), LogAddress::new(3, 4096), RequestId(4 << 80));
    let (own_risk, prefix_risk) = (Risk::bound(1e-7), Risk::bound(1e-6));
    let stage = Stage {
        stage: "covered".to_owned(),
        after: Duration::from_micros(1234),
        repairs: 2,
        repairs_full: 3,
        own_risk,
        prefix_risk,
        note: "two repairs".to_owned(),
    };
    let appended = Appended {
        log,
        address,
        reached: Durability::Network,
        degraded: true,
        duplicate: true,
        own_risk,
        prefix_risk,
        confidence: 0.999,
        model: "iid-bound".to_owned(),
        code: "reed-solomon r=8 c=3".to_owned(),
        epoch: Epoch(4),
        path: vec![stage],
    };
    let state = LogState {
        log,
        name: "orders".to_owned(),
        epoch: Epoch(2),
        degrade: Degrade::Degrade,
        records: 3,
        bytes: 4,
        end: address,
        mirrored_records: 2,
        freed: 1,
        refusal: Some(ErrorKind::Corrupt),
    };
    let time = SourceTime(1 << 50);
    let entry = Entry { address, kind: EntryKind::Append, length: 2, digest: 3, request, time, freed: true };
    let missing = vec![Missing { log, address, length: 4, digest: 5, request }];
    let promotion = Promotion { epoch: Epoch(9), logs: 2, missing, missing_count: 3, behind_gap_count: 1 };
    [
        ("created", Answer::Created(log)),
        ("appended", Answer::Appended(Box::new(appended))),
        ("record", Answer::Record(ReadRecord { payload: Bytes::from_static(b"bytes"), digest: 9, time })),
        ("freed", Answer::Freed(log)),
        ("logs", Answer::Logs(vec![state])),
        ("entries", Answer::Entries(Stretch { entries: vec![entry], next: address })),
        ("node-state", Answer::Status(serde_json::json!({ "site": 1, "links": [] }))),
        ("promoted", Answer::Promoted(promotion)),
        ("digested", Answer::Digest(LogDigest { digest: [7; 32], records: 8, bytes: 9 })),
        ("code-changed", Answer::CodeChanged("reed-solomon v1 c=3 r=8".to_owned())),
    ]
    .into_iter()
}

//! What a mirror asks for, step by step.

use bytes::Bytes;
use parhelion_log::{
    ActiveMap, CreatePayload, FreePayload, KnownRequest, Record, RecordFields, RecordKind, Tail,
};
use parhelion_mirror::{PrimaryLog, Replica, ReplicaEffect, ReplicaEvent, ReplicaInput};
use parhelion_types::{Degrade, Epoch, Error, ErrorKind, LogAddress, LogId, RequestId, SiteId, SourceTime};
use parhelion_wire::Announcement;
use parhelion_wire::link::{LogMarkV1, LogTailV1};
use proptest::prelude::*;

const SITE: SiteId = SiteId(2);
const LOG: LogId = LogId(3);
const SEGMENT_BYTES: u32 = 1 << 20;

/// The records that a primary would send: a creation, then appends.
fn records(count: usize) -> (Vec<Record>, Tail) {
    let mut tail = Tail::new(LOG);
    let payload = CreatePayload { degrade: Degrade::Fail, name: "orders".to_owned() }.to_bytes();
    let fields = RecordFields { kind: RecordKind::Create, ..RecordFields::default() };
    let mut records = vec![tail.place(fields, &payload, SEGMENT_BYTES).0];
    for n in 1..count {
        let fields = RecordFields { request: RequestId(n as u128), ..RecordFields::default() };
        records.push(tail.place(fields, &[n as u8; 100], SEGMENT_BYTES).0);
    }
    (records, tail)
}

fn step(replica: &mut Replica, input: ReplicaInput) -> Vec<ReplicaEffect> {
    let mut effects = Vec::new();
    replica.step(input, &mut effects);
    effects
}

fn deliver(replica: &mut Replica, records: &[&Record]) -> Vec<u64> {
    let bytes: Vec<Bytes> = records.iter().map(|record| record.bytes()).collect();
    written(&step(replica, ReplicaInput::Records(bytes)))
}

fn written(effects: &[ReplicaEffect]) -> Vec<u64> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            ReplicaEffect::Write { record, .. } => Some(record.header.number),
            _ => None,
        })
        .collect()
}

fn announcement(record: &Record) -> Announcement {
    let header = &record.header;
    Announcement {
        log: header.log,
        address: header.address,
        length: header.length,
        epoch: header.epoch,
        digest: header.digest,
        request: header.request,
    }
}

fn tail_message(tail: Tail) -> LogTailV1 {
    let end = tail.next_address();
    LogTailV1 {
        log: LOG.0,
        epoch: tail.epoch().0,
        records: tail.next_number(),
        segment: end.segment.0,
        offset: end.offset,
        chain: tail.chain(),
    }
}

#[test]
fn a_gap_holds_back_what_lies_behind_it() {
    let (all, _) = records(5);
    let mut replica = Replica::new(SITE, Epoch(0), Vec::new());
    assert_eq!(deliver(&mut replica, &[&all[0], &all[1]]), [0, 1]);
    assert!(deliver(&mut replica, &[&all[4], &all[3]]).is_empty());
    assert_eq!(replica.held_bytes(), all[3].bytes().len() + all[4].bytes().len());
    assert_eq!(deliver(&mut replica, &[&all[2]]), [2, 3, 4]);
    assert_eq!(replica.held_bytes(), 0);
}

#[test]
fn marks_follow_the_disk_and_not_the_wire() {
    let (all, _) = records(3);
    let mut replica = Replica::new(SITE, Epoch(0), Vec::new());
    deliver(&mut replica, &[&all[0], &all[1], &all[2]]);
    let end = all[1].header.next_address();
    let effects = step(&mut replica, ReplicaInput::Durable { log: LOG, records: 2, end });
    let [ReplicaEffect::Marks(marks)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((marks[0].records, marks[0].offset), (2, end.offset));
    assert!(step(&mut replica, ReplicaInput::Durable { log: LOG, records: 2, end }).is_empty());
}

#[test]
fn promotion_names_exactly_what_cannot_be_shown() {
    let (all, _) = records(6);
    let mut replica = Replica::new(SITE, Epoch(4), Vec::new());
    step(&mut replica, ReplicaInput::Announced(all.iter().map(announcement).collect()));
    deliver(&mut replica, &[&all[0], &all[1], &all[4]]);
    let effects = step(&mut replica, ReplicaInput::Promote { token: 1, dry_run: false });
    let [ReplicaEffect::Promoted { promotion, dry_run: false, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    let missing: Vec<LogAddress> = promotion.missing.iter().map(|lost| lost.address).collect();
    let expected: Vec<LogAddress> = all[2..].iter().map(|record| record.header.address).collect();
    assert_eq!(missing, expected);
    assert_eq!(promotion.behind_gap.len(), 1);
    assert_eq!(promotion.epoch, Epoch(4).next(SITE));
    let logs = replica.take_logs();
    assert_eq!((logs[0].tail.next_number(), logs[0].tail.epoch()), (2, all[1].header.epoch));
    assert_eq!(logs[0].requests, [KnownRequest::of(&all[1].header).unwrap()]);
}

#[test]
fn another_history_is_refused() {
    let (all, _) = records(3);
    let mut other = Tail::new(LOG);
    let payload = CreatePayload { degrade: Degrade::Block, name: "other".to_owned() }.to_bytes();
    other.place(
        RecordFields { kind: RecordKind::Create, ..RecordFields::default() },
        &payload,
        SEGMENT_BYTES,
    );
    let (foreign, _) = other.place(RecordFields::default(), b"foreign", SEGMENT_BYTES);
    let mut replica = Replica::new(SITE, Epoch(0), Vec::new());
    deliver(&mut replica, &[&all[0]]);
    let effects = step(&mut replica, ReplicaInput::Records(vec![foreign.bytes()]));
    let [ReplicaEffect::Marks(marks), ReplicaEffect::Event(ReplicaEvent::Diverged { log: LOG, .. })] =
        &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(*marks, [LogMarkV1::refused(LOG.0, 0)]);
    assert!(deliver(&mut replica, &[&all[1]]).is_empty(), "a log that diverged applies nothing");
}

#[test]
fn a_primary_that_lost_its_newest_records_cuts_the_mirror_back() {
    let (all, _) = records(5);
    let mut replica = Replica::new(SITE, Epoch(0), Vec::new());
    deliver(&mut replica, &all.iter().collect::<Vec<_>>());
    let (_, mut tail) = records(3);
    let effects = step(&mut replica, ReplicaInput::Rewind(vec![tail_message(tail)]));
    assert!(matches!(
        &effects[..],
        [
            ReplicaEffect::Rewind { log: LOG, .. },
            ReplicaEffect::Event(ReplicaEvent::Rewound { from: 5, to: 3, .. })
        ]
    ));
    let (next, _) = tail.place(RecordFields::default(), b"another history", SEGMENT_BYTES);
    assert_eq!(deliver(&mut replica, &[&next]), [3]);
}

#[test]
fn bytes_that_are_no_record_are_reported() {
    let mut replica = Replica::new(SITE, Epoch(0), Vec::new());
    let effects = step(&mut replica, ReplicaInput::Records(vec![Bytes::from_static(b"nonsense")]));
    assert!(matches!(&effects[..], [ReplicaEffect::Event(ReplicaEvent::Malformed { .. })]));
}

#[test]
fn frees_reach_the_mirror() {
    let (all, mut tail) = records(3);
    let payload = FreePayload { appends: vec![(1, all[1].header.address)] }.to_bytes();
    let fields = RecordFields { kind: RecordKind::Free, ..RecordFields::default() };
    let (free, _) = tail.place(fields, &payload, SEGMENT_BYTES);
    let mut replica = Replica::new(SITE, Epoch(0), Vec::new());
    deliver(&mut replica, &[&all[0], &all[1], &all[2], &free]);
    assert!(replica.is_freed(LOG, 1));
    assert!(!replica.is_freed(LOG, 2));
}

#[test]
fn a_rewind_takes_back_what_the_cut_off_records_freed() {
    let (all, mut tail) = records(3);
    let payload = FreePayload { appends: vec![(1, all[1].header.address)] }.to_bytes();
    let fields = RecordFields { kind: RecordKind::Free, ..RecordFields::default() };
    let before = tail;
    let (free, _) = tail.place(fields, &payload, SEGMENT_BYTES);
    let mut replica = Replica::new(SITE, Epoch(0), Vec::new());
    deliver(&mut replica, &[&all[0], &all[1], &all[2], &free]);
    step(&mut replica, ReplicaInput::Rewind(vec![tail_message(before)]));
    step(&mut replica, ReplicaInput::Rewound { log: LOG, active: ActiveMap::default() });
    assert!(!replica.is_freed(LOG, 1), "its freeing was cut off");
}

#[test]
fn a_new_session_forgets_what_waited_behind_a_gap() {
    // Record 3 of a primary that died; it came back without records 2 and 3, and writes others.
    let (all, _) = records(4);
    let (_, mut tail) = records(2);
    let mut replica = Replica::new(SITE, Epoch(0), Vec::new());
    deliver(&mut replica, &[&all[0], &all[1], &all[3]]);
    step(&mut replica, ReplicaInput::Hello { token: 1 });
    assert_eq!(replica.held_bytes(), 0);
    let others: Vec<Record> =
        (0..3).map(|_| tail.place(RecordFields::default(), b"another history", SEGMENT_BYTES).0).collect();
    assert_eq!(deliver(&mut replica, &[&others[0], &others[1], &others[2]]), [2, 3, 4]);
}

fn recovered(tail: Tail, refusal: Option<Error>) -> PrimaryLog {
    PrimaryLog {
        log: LOG,
        name: "orders".to_owned(),
        degrade: Degrade::Fail,
        tail,
        common: tail,
        active: ActiveMap::default(),
        requests: Vec::new(),
        newest: SourceTime(5),
        refusal,
    }
}

#[test]
fn a_damaged_log_is_not_mirrored_and_the_others_are() {
    let (all, tail) = records(3);
    let damage = Error::new(ErrorKind::Corrupt, "log 3 is damaged");
    let mut replica = Replica::new(SITE, Epoch(0), vec![recovered(tail, Some(damage.clone()))]);
    let effects = step(&mut replica, ReplicaInput::Hello { token: 1 });
    let [ReplicaEffect::Welcome { marks: Ok(marks), .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(*marks, [LogMarkV1::refused(LOG.0, 0)]);
    // Neither the next record nor a wish to cut it back changes it.
    let (_, mut longer) = records(3);
    let (next, _) = longer.place(RecordFields::default(), b"next", SEGMENT_BYTES);
    assert!(deliver(&mut replica, &[&next]).is_empty());
    assert_eq!(replica.held_bytes(), 0);
    let (_, shorter) = records(1);
    assert!(step(&mut replica, ReplicaInput::Rewind(vec![tail_message(shorter)])).is_empty());
    assert_eq!(replica.logs().next().unwrap().refusal, Some(damage.clone()));
    // Another log is.
    let other = Tail::new(LogId(4)).place(
        RecordFields { kind: RecordKind::Create, ..RecordFields::default() },
        &CreatePayload { degrade: Degrade::Fail, name: "other".to_owned() }.to_bytes(),
        SEGMENT_BYTES,
    );
    assert_eq!(deliver(&mut replica, &[&other.0]), [0]);
    // A promotion does not mend it.
    let logs = replica.take_logs();
    assert_eq!((logs[0].tail.next_number(), logs[0].refusal.clone()), (3, Some(damage)));
    assert_eq!(logs[1].refusal, None);
    assert_eq!(all.len(), 3);
}

#[test]
fn a_log_that_is_damaged_from_its_start_is_promoted_as_damaged() {
    let damage = Error::new(ErrorKind::Corrupt, "log 3 is damaged at 0:64");
    let mut replica = Replica::new(SITE, Epoch(0), vec![recovered(Tail::new(LOG), Some(damage.clone()))]);
    let effects = step(&mut replica, ReplicaInput::Promote { token: 1, dry_run: false });
    let [ReplicaEffect::Promoted { promotion, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(promotion.logs, 1);
    let logs = replica.take_logs();
    assert_eq!((logs.len(), logs[0].refusal.clone()), (1, Some(damage)));
}

#[test]
fn what_is_announced_of_a_refused_log_is_bounded_and_counted() {
    let (all, tail) = records(3);
    let damage = Error::new(ErrorKind::Corrupt, "log 3 is damaged");
    let mut replica = Replica::new(SITE, Epoch(0), vec![recovered(tail, Some(damage))]);
    // A log with a lower number, to which a bound on all logs would come first.
    let healthy = Announcement { log: LogId(1), ..announcement(&all[2]) };
    assert!(step(&mut replica, ReplicaInput::Announced(vec![healthy])).is_empty());
    let end = tail.next_address();
    let lost = |n: u32| {
        let address = LogAddress::new(1 + n / 1000, 4096 + n % 1000 * 8);
        assert!(address > end);
        Announcement { address, ..announcement(&all[2]) }
    };
    let told = (0..100_000).step_by(50).flat_map(|first| {
        // Each comes twice, and the copies come late.
        let batch = || (first..first + 50).map(lost).collect();
        let mut effects = step(&mut replica, ReplicaInput::Announced(batch()));
        effects.extend(step(&mut replica, ReplicaInput::Announced(batch())));
        effects
    });
    let told: Vec<ReplicaEffect> = told.collect();
    assert!(
        matches!(told[..], [ReplicaEffect::Event(ReplicaEvent::Unlisted { log: LOG })]),
        "{} effects",
        told.len()
    );
    assert_eq!(replica.logs().next().unwrap().announced, 100_000);
    let effects = step(&mut replica, ReplicaInput::Promote { token: 1, dry_run: true });
    let [ReplicaEffect::Promoted { promotion, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(promotion.missing.len() as u64 + promotion.unlisted, 100_001);
    assert_eq!(promotion.missing.len(), 65_536 + 1);
    assert_eq!(promotion.missing[0], healthy);
    assert_eq!(promotion.missing.last(), Some(&lost(99_999)));
}

#[test]
fn a_log_that_cannot_be_written_is_refused_and_holds_no_memory() {
    let (all, _) = records(5);
    let mut replica = Replica::new(SITE, Epoch(0), Vec::new());
    deliver(&mut replica, &[&all[0], &all[1], &all[4]]);
    let reason = "no space left on device".to_owned();
    let effects = step(&mut replica, ReplicaInput::WriteFailed { log: LOG, reason });
    let [ReplicaEffect::Marks(marks), ReplicaEffect::Event(ReplicaEvent::WriteFailed { .. })] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(*marks, [LogMarkV1::refused(LOG.0, 0)]);
    assert!(deliver(&mut replica, &[&all[2], &all[3]]).is_empty());
    assert_eq!(replica.held_bytes(), 0);
    let refusal = replica.take_logs()[0].refusal.clone().expect("its disk takes no more here either");
    assert!(refusal.message().contains("no space left"), "{refusal}");
}

proptest! {
    /// Whatever the order and however often records come, they are applied in order, each once.
    #[test]
    fn any_order_is_applied_in_order(order in prop::collection::vec(0usize..12, 0..60)) {
        let (all, _) = records(12);
        let mut replica = Replica::new(SITE, Epoch(0), Vec::new());
        let mut applied = Vec::new();
        for n in order {
            applied.extend(deliver(&mut replica, &[&all[n]]));
        }
        applied.extend(deliver(&mut replica, &all.iter().collect::<Vec<_>>()));
        prop_assert_eq!(applied, (0..12).collect::<Vec<u64>>());
    }
}

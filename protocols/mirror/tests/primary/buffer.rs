//! Who gets how much of the link's buffer.

use parhelion_log::{Record, RecordFields, RecordKind, Tail};
use parhelion_mirror::{Backlog, Effect, Event, Input};
use parhelion_types::{Degrade, Durability, LogId, RecordKey};
use parhelion_wire::link::LogMarkV1;

use crate::bed::{Bed, LOG, SEGMENT_BYTES, create, mark, record, up_with};

#[test]
fn a_full_link_buffer_spills_to_the_log() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    let mut sent = 0;
    let mut spilled = 0;
    for request in 5..15 {
        for effect in bed.append(Durability::Local, 10_000, request) {
            match effect {
                Effect::Send { .. } => sent += 1,
                Effect::Event(Event::Spilled { .. }) => spilled += 1,
                _ => {}
            }
        }
    }
    assert_eq!((sent, spilled), (4, 1), "three quarters of 64 KiB hold four appends of 10,000 bytes");
    bed.durable(11);
    let end = bed.primary.log(LOG).unwrap().end;
    let effects = bed.step(Input::Mirrored(vec![mark(7, end, 0)]));
    assert!(matches!(effects.last(), Some(Effect::ReadBacklog { .. })), "{effects:?}");
    assert_eq!(bed.primary.unconfirmed_bytes(), 0);
}

/// Creates a log that is fed live from then on.
pub fn second_log(bed: &mut Bed) -> LogId {
    let log = LogId(1);
    let creation = record(&bed.step(create(50, log, "new"))).clone();
    let effects = bed.step(Input::Durable { log, records: 1 });
    let Some(Effect::ReadBacklog { session, .. }) = effects.last() else { panic!("{effects:?}") };
    bed.step(Input::Backlog { log, session: *session, read: Backlog::Records(vec![creation]) });
    assert_eq!(bed.primary.log(log).unwrap().feed, "live");
    log
}

/// Sends appends of 10,000 bytes to a log until it spills; how many were sent, and all that were appended.
pub fn fill(bed: &mut Bed, log: LogId, durability: Durability) -> (usize, Vec<Record>) {
    let mut appended = Vec::new();
    loop {
        let request = 100 * u128::from(log.0 + 1) + appended.len() as u128;
        let effects = bed.append_to(log, durability, 10_000, request);
        appended.push(record(&effects).clone());
        match effects.last() {
            Some(Effect::Send { .. }) => {}
            Some(Effect::Event(Event::Spilled { .. })) => return (appended.len() - 1, appended),
            other => panic!("{other:?}"),
        }
    }
}

fn sent(effects: &[Effect]) -> Vec<RecordKey> {
    let key = |effect: &Effect| match effect {
        Effect::Send { key, .. } => Some(*key),
        _ => None,
    };
    effects.iter().filter_map(key).collect()
}

#[test]
fn each_kind_of_record_leaves_room_in_the_buffer_for_the_other() {
    for (first, second) in [
        (Durability::Local, Durability::Network),
        (Durability::Local, Durability::Remote),
        (Durability::Network, Durability::Local),
        (Durability::Remote, Durability::Local),
    ] {
        let mut bed = Bed::new(Degrade::Block);
        bed.up(1);
        let other = second_log(&mut bed);
        assert_eq!(fill(&mut bed, LOG, first).0, 4, "three quarters of 64 KiB, {first}");
        assert_eq!(
            fill(&mut bed, other, second).0,
            2,
            "the last quarter and a little, {second} behind {first}"
        );
        assert!(bed.primary.unconfirmed_bytes() <= 64 << 10);
    }
}

#[test]
fn what_is_awaited_of_a_spilled_log_goes_before_the_backlog_that_nobody_waits_for() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    let (count, appended) = fill(&mut bed, LOG, Durability::Local);
    let records = 1 + appended.len() as u64;
    assert!(bed.durable(records).iter().all(|effect| !matches!(effect, Effect::ReadBacklog { .. })));
    // It waits behind one that was not sent, and takes that along.
    let awaited = record(&bed.append(Durability::Network, 1000, 90)).clone();
    let later = record(&bed.append(Durability::Local, 10_000, 91)).clone();
    let effects = bed.durable(records + 2);
    let Some(Effect::ReadBacklog { bytes_max, session, .. }) = effects.last() else { panic!("{effects:?}") };
    assert!((20 << 10..28 << 10).contains(bytes_max), "all that is left: {bytes_max}");
    let backlog = vec![appended[count].clone(), awaited.clone(), later];
    let effects = bed.step(Input::Backlog { log: LOG, session: *session, read: Backlog::Records(backlog) });
    let behind = appended[count].header.key();
    assert_eq!(sent(&effects), [behind, awaited.header.key()], "nobody waits for what is behind them");
    // That one goes when the mirror has confirmed what nobody waits for either.
    let end = bed.primary.log(LOG).unwrap().end;
    let effects = bed.step(Input::Mirrored(vec![mark(behind.number, end, 0)]));
    assert!(matches!(effects.last(), Some(Effect::ReadBacklog { .. })), "{effects:?}");
}

#[test]
fn logs_that_are_behind_take_turns() {
    let mut bed = Bed::new(Degrade::Block);
    let logs: Vec<LogId> = (1..5).map(LogId).collect();
    for &log in &logs {
        bed.step(create(u64::from(log.0), log, &format!("log {log}")));
        for request in 0..40 {
            bed.append_to(log, Durability::Local, 10_000, 1000 * u128::from(log.0) + request);
        }
        bed.step(Input::Durable { log, records: 41 });
    }
    bed.durable(1);
    let asked = |effects: &[Effect]| -> Vec<LogId> {
        let log = |effect: &Effect| match effect {
            Effect::ReadBacklog { log, .. } => Some(*log),
            _ => None,
        };
        effects.iter().filter_map(log).collect()
    };
    // Each may read as much as there is room, so one does, and the others wait.
    let mut effects = up_with(&mut bed, vec![mark(1, Tail::first_address(), 0)]);
    let mut order = Vec::new();
    for round in 0..12 {
        let reading = asked(&effects);
        assert_eq!(reading.len(), 1, "{effects:?}");
        order.push(reading[0]);
        let log = reading[0];
        let number = round / 4;
        let mut tail = Tail::new(log);
        let fields = |kind| RecordFields { kind, ..RecordFields::default() };
        let backlog: Vec<Record> = (0..=number)
            .map(|_| tail.place(fields(RecordKind::Append), &[7; 40_000], SEGMENT_BYTES).0)
            .collect();
        let session = 1;
        let answer =
            Input::Backlog { log, session, read: Backlog::Records(backlog[number as usize..].to_vec()) };
        assert!(asked(&bed.step(answer)).is_empty(), "its forty kilobytes leave too little room");
        let confirmed = LogMarkV1 { log: log.0, ..mark(number + 1, tail.next_address(), 0) };
        effects = bed.step(Input::Mirrored(vec![confirmed]));
    }
    let expected: Vec<LogId> = logs.iter().copied().cycle().take(12).collect();
    assert_eq!(order, expected);
}

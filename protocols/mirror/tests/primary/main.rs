//! What a primary asks for, step by step.

mod backlog;
mod bed;
mod bound;
mod buffer;
mod epoch;
mod given_up;
mod record;

use std::time::Duration;

use bed::{Bed, LOG, acked, compared_with, config, create, mark, no_code, record, up_with};
use bytes::Bytes;
use parhelion_log::{RecordKind, Tail};
use parhelion_mirror::{Append, Backlog, Covered, Effect, Event, Input, PrimaryConfig, Reply, StageKind};
use parhelion_plugin::{Channel, Exposure};
use parhelion_types::{
    AppendRequest, Degrade, Durability, Epoch, Error, ErrorKind, LogAddress, LogId, RecordKey, RequestId,
    Risk, SourceTime, Time, TraceContext,
};
use parhelion_wire::link::LogMarkV1;

#[test]
fn a_log_is_created_once_and_answered_when_it_is_durable() {
    let mut bed = Bed::new(Degrade::Block);
    let log = LogId(1);
    let create = |token| Input::Create {
        token,
        log,
        name: "orders".to_owned(),
        degrade: Degrade::Fail,
        request: RequestId(1),
        time: SourceTime(1),
    };
    let effects = bed.step(create(7));
    assert_eq!(record(&effects).header.kind, RecordKind::Create);
    assert!(matches!(&effects[..], [Effect::Write { opens_segment: true, .. }]));
    let effects = bed.step(Input::Durable { log, records: 1 });
    assert!(matches!(&effects[..], [Effect::Reply { token: 7, reply: Ok(Reply::Created(LogId(1))) }]));
    assert!(matches!(
        &bed.step(create(8))[..],
        [Effect::Reply { token: 8, reply: Ok(Reply::Created(LogId(1))) }]
    ));
}

#[test]
fn local_waits_for_the_disk_and_the_announcement() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    let effects = bed.append(Durability::Local, 100, 5);
    assert!(matches!(
        &effects[..],
        [Effect::Write { opens_segment: false, .. }, Effect::Announce { .. }, Effect::Send { .. }]
    ));
    assert!(acked(&bed.durable(2)).is_none(), "acknowledged before its announcement had left");
    let effects = bed.announced(1);
    let acked = acked(&effects).expect("acknowledged");
    assert_eq!((acked.reached, acked.key.number), (Durability::Local, 1));
    assert_eq!(acked.own, Risk::CERTAIN);
}

#[test]
fn local_needs_no_announcement_without_a_link() {
    let mut bed = Bed::new(Degrade::Block);
    let effects = bed.append(Durability::Local, 100, 5);
    assert!(matches!(&effects[..], [Effect::Write { .. }]));
    assert!(acked(&bed.durable(2)).is_some());
}

#[test]
fn network_waits_for_disk_coverage_and_risk() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    bed.append(Durability::Network, 3000, 5);
    bed.announced(1);
    assert!(acked(&bed.covered(1, 0b111)).is_none(), "acknowledged before it was durable here");
    let effects = bed.durable(2);
    let acked = acked(&effects).expect("acknowledged");
    assert_eq!(acked.reached, Durability::Network);
    assert!(acked.prefix.probability() < 1e-6 && acked.own <= acked.prefix);
    let stages: Vec<StageKind> = acked.path.iter().map(|stage| stage.kind).collect();
    assert_eq!(
        stages,
        [
            StageKind::Accepted,
            StageKind::Announced,
            StageKind::Sent,
            StageKind::Covered,
            StageKind::Durable,
            StageKind::Acknowledged
        ]
    );
}

#[test]
fn one_uncovered_predecessor_withholds_the_ack() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    bed.append(Durability::Local, 3000, 5);
    bed.append(Durability::Network, 3000, 6);
    bed.announced(2);
    bed.durable(3);
    assert!(acked(&bed.covered(2, 0b111)).is_none(), "the first append is not covered at all");
    assert_eq!(acked(&bed.covered(1, 0b111)).map(|acked| acked.key.number), Some(2));
}

#[test]
fn a_worse_channel_withholds_acks_until_the_mirror_confirms() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    bed.append(Durability::Network, 3000, 5);
    bed.step(Input::Channels(vec![Channel::independent(0.05, 0.999)]));
    bed.durable(2);
    assert!(acked(&bed.covered(1, 0b111)).is_none());
    let end = bed.primary.log(LOG).unwrap().end;
    let effects = bed.step(Input::Mirrored(vec![mark(2, end, 0)]));
    let acked = acked(&effects).expect("acknowledged by the mirror");
    assert_eq!((acked.reached, acked.prefix), (Durability::Remote, Risk::NONE));
}

#[test]
fn remote_waits_for_the_mirror() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    bed.append(Durability::Remote, 3000, 5);
    bed.durable(2);
    assert!(acked(&bed.covered(1, 0b111)).is_none());
    let end = bed.primary.log(LOG).unwrap().end;
    assert!(acked(&bed.step(Input::Mirrored(vec![mark(2, end, 0)]))).is_some());
}

#[test]
fn a_repeated_request_is_stored_once() {
    let mut bed = Bed::new(Degrade::Block);
    bed.append(Durability::Local, 100, 5);
    let first = acked(&bed.durable(2)).map(|acked| acked.address);
    let effects = bed.append(Durability::Local, 100, 5);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Write { .. })));
    let again = acked(&effects).expect("acknowledged again at once");
    assert!(again.duplicate);
    assert_eq!(Some(again.address), first);
}

#[test]
fn a_site_without_a_mirror_says_so() {
    let alone = PrimaryConfig { has_mirror: false, ..config() };
    for policy in [Degrade::Block, Degrade::Fail] {
        let mut bed = Bed::start(alone.clone(), policy, (1, 1), None);
        for level in [Durability::Network, Durability::Remote] {
            let effects = bed.append(level, 100, 5);
            let [Effect::Reply { reply: Err(error), .. }] = &effects[..] else { panic!("{effects:?}") };
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
        bed.append(Durability::Local, 100, 5);
        assert!(acked(&bed.durable(2)).is_some());
    }
}

#[test]
fn a_request_id_with_other_bytes_is_refused() {
    let mut bed = Bed::new(Degrade::Block);
    bed.append(Durability::Local, 100, 5);
    for other in [99, 101] {
        let effects = bed.append(Durability::Local, other, 5);
        let [Effect::Reply { reply: Err(error), .. }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("other bytes"), "{error}");
    }
}

#[test]
fn a_second_try_to_free_waits_for_the_first() {
    let mut bed = Bed::with(Degrade::Block, 2, None);
    let free = |token| {
        let freed = (1, Tail::first_address());
        Input::Free { token, log: LOG, freed, time: SourceTime(3) }
    };
    let freed = |effects: &[Effect]| {
        let is_freed = |effect: &&Effect| matches!(effect, Effect::Reply { reply: Ok(Reply::Freed), .. });
        effects.iter().filter(is_freed).count()
    };
    let first = bed.step(free(1));
    assert_eq!((record(&first).header.kind, freed(&first)), (RecordKind::Free, 0));
    let second = bed.step(free(2));
    assert!(second.is_empty(), "{second:?}");
    assert_eq!(freed(&bed.durable(3)), 2);
    let third = bed.step(free(3));
    assert_eq!((third.len(), freed(&third)), (1, 1), "durable already");
}

#[test]
fn a_log_is_created_when_its_creation_is_durable_however_often_it_is_asked() {
    let mut bed = Bed::new(Degrade::Block);
    let created = |effects: &[Effect]| {
        let is_created =
            |effect: &&Effect| matches!(effect, Effect::Reply { reply: Ok(Reply::Created(_)), .. });
        effects.iter().filter(is_created).count()
    };
    assert_eq!(created(&bed.step(create(1, LogId(1), "new"))), 0);
    assert_eq!(created(&bed.step(create(2, LogId(1), "new"))), 0);
    assert_eq!(created(&bed.step(Input::Durable { log: LogId(1), records: 1 })), 2);
    assert_eq!(created(&bed.step(create(3, LogId(1), "new"))), 1);
}

#[test]
fn a_degraded_acknowledgement_tells_the_level_that_holds() {
    let mut bed = Bed::new(Degrade::Degrade);
    bed.up(1);
    bed.append(Durability::Remote, 3000, 5);
    bed.durable(2);
    bed.now = bed.primary.poll_timeout().unwrap();
    let effects = bed.step(Input::Timeout);
    assert!(acked(&effects).is_none(), "were it lost now, it would be lost unnamed");
    let effects = bed.announced(1);
    assert_eq!(acked(&effects).map(|acked| (acked.reached, acked.degraded)), Some((Durability::Local, true)));

    bed.covered(1, 0b111);
    bed.append(Durability::Remote, 3000, 6);
    bed.durable(3);
    bed.announced(2);
    assert!(acked(&bed.covered(2, 0b111)).is_none());
    bed.now = bed.primary.poll_timeout().unwrap();
    let effects = bed.step(Input::Timeout);
    assert_eq!(
        acked(&effects).map(|acked| (acked.reached, acked.degraded)),
        Some((Durability::Network, true))
    );
}

#[test]
fn what_is_answered_has_no_deadline_any_more() {
    let mut bed = Bed::new(Degrade::Block);
    bed.append(Durability::Local, 100, 5);
    assert!(bed.primary.poll_timeout().is_some());
    assert!(acked(&bed.durable(2)).is_some());
    assert_eq!(bed.primary.poll_timeout(), None);
    bed.append(Durability::Local, 100, 6);
    bed.step(Input::WriteFailed { log: LOG, reason: "no space".to_owned() });
    assert_eq!(bed.primary.poll_timeout(), None);
}

#[test]
fn a_repeated_request_gets_the_same_address_whatever_came_between() {
    let mut bed = Bed::new(Degrade::Block);
    bed.append(Durability::Local, 100, 5);
    bed.append(Durability::Local, 100, 6);
    let effects = bed.durable(3);
    let addresses: Vec<LogAddress> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Reply { reply: Ok(Reply::Acked(acked)), .. } => Some(acked.address),
            _ => None,
        })
        .collect();
    assert_eq!(addresses.len(), 2);
    let effects = bed.append(Durability::Local, 100, 5);
    assert_eq!(acked(&effects).map(|acked| acked.address), Some(addresses[0]));
}

#[test]
fn deadlines_follow_the_policy() {
    for policy in Degrade::ALL {
        let mut bed = Bed::new(policy);
        bed.append(Durability::Network, 100, 5);
        bed.durable(2);
        bed.now = bed.primary.poll_timeout().unwrap();
        let effects = bed.step(Input::Timeout);
        match policy {
            Degrade::Block => assert!(matches!(&effects[..], [Effect::Event(Event::Overdue { .. })])),
            Degrade::Degrade => {
                let acked = acked(&effects).expect("acknowledged");
                assert!(acked.degraded);
                assert_eq!(acked.reached, Durability::Local);
            }
            Degrade::Fail => assert!(matches!(
                &effects[..],
                [Effect::Reply { reply: Err(error), .. }] if error.kind() == ErrorKind::Unavailable
            )),
        }
    }
}

#[test]
fn a_mirror_that_was_away_is_fed_from_the_log() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    bed.append(Durability::Local, 100, 5);
    bed.step(Input::LinkDown);
    let backlog = vec![record(&bed.append(Durability::Local, 100, 6)).clone()];
    bed.durable(3);
    let effects = bed.up(2);
    // The mirror's mark gives the address behind its last record; the bed's is the log's end.
    let [Effect::ReadBacklog { log: LOG, session, .. }] = effects[..] else { panic!("{effects:?}") };
    // What is appended while the log catches up is announced, and sent in its turn.
    let during = bed.append(Durability::Local, 100, 7);
    assert!(matches!(&during[..], [Effect::Write { .. }, Effect::Announce { .. }]));
    let effects = bed.step(Input::Backlog { log: LOG, session, read: Backlog::Records(backlog) });
    let sent: Vec<u64> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send { key, .. } => Some(key.number),
            _ => None,
        })
        .collect();
    assert_eq!(sent, [2, 3]);
    assert!(matches!(effects.last(), Some(Effect::Event(Event::CaughtUp { log: LOG }))));
}

#[test]
fn a_loss_that_is_reported_before_the_acknowledgement_withholds_it() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    bed.append(Durability::Network, 3000, 5);
    bed.announced(1);
    bed.covered(1, 0b111);
    // A symbol is missing; then another copy of it is on the wire, alone.
    let key = RecordKey { log: LOG, number: 1 };
    let exposure = Exposure::steady(1, 0, 0);
    bed.step(Input::Coverage(vec![Covered { key, exposure, sent: false, complete: false }]));
    assert!(acked(&bed.durable(2)).is_none(), "what it was worth before is not what it is worth now");
    let resent = Covered { key, exposure, sent: true, complete: true };
    assert!(acked(&bed.step(Input::Coverage(vec![resent]))).is_none(), "a lone symbol has no repairs");
    // It has arrived. But the first promise that was ever made has failed, and there is no reason to believe the second.
    assert!(acked(&bed.covered(1, 0b111)).is_none());
    let end = bed.primary.log(LOG).unwrap().end;
    assert!(acked(&bed.step(Input::Mirrored(vec![mark(2, end, 0)]))).is_some());
}

#[test]
fn a_mirror_that_is_ahead_of_a_restarted_primary_is_cut_back() {
    // The process before this one had sent record 1 and died before it was stored; the bed's log has
    // record 0 alone. What this process appends before it is linked takes the same number.
    let mut bed = Bed::new(Degrade::Block);
    bed.append(Durability::Local, 100, 9);
    let there = LogAddress::new(0, 400);
    let effects =
        bed.step(Input::LinkUp { time: SourceTime(5), marks: vec![mark(2, there, 0)], code: no_code() });
    let [Effect::Event(Event::Ahead { mirror: 2, here: 1, .. }), Effect::Rewind(tails)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((tails.len(), tails[0].records), (1, 1));
    // Far more than can have been in flight: this site was set back, and nothing is cut.
    let mut bed = Bed::new(Degrade::Block);
    let there = LogAddress::new(9, 400);
    let effects = bed.step(Input::LinkUp {
        time: SourceTime(5),
        marks: vec![mark(200_000, there, 0)],
        code: no_code(),
    });
    assert!(matches!(&effects[..], [Effect::Event(Event::Diverged { .. })]), "{effects:?}");
}

#[test]
fn a_mirror_is_cut_back_to_what_the_sites_had_in_common_however_often_the_primary_restarted() {
    // A first process sent record 2 and died before it was stored. A second one placed records 2 and 3 anew and died
    // before it was linked. The mirror's record 2 is not this one's.
    let mut bed = Bed::start(config(), Degrade::Block, (2, 4), None);
    let there = LogAddress::new(0, 600);
    let effects = compared_with(&mut bed, vec![mark(3, there, 0)]);
    let [Effect::Event(Event::Ahead { mirror: 3, here: 2, .. }), Effect::Rewind(tails)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((tails.len(), tails[0].records), (1, 2));
    bed.step(Input::LinkDown);
    let effects = compared_with(&mut bed, vec![mark(2, there, 0)]);
    assert!(matches!(&effects[0], Effect::Reconciled(logs) if *logs == [LOG]), "{effects:?}");
    bed.step(Input::LinkDown);
    // From now on the mirror may have whatever is here.
    let effects = compared_with(&mut bed, vec![mark(4, there, 0)]);
    assert!(
        !effects.iter().any(|effect| matches!(effect, Effect::Rewind(_) | Effect::Reconciled(_))),
        "{effects:?}"
    );
}

#[test]
fn an_old_primary_is_fenced() {
    let mut bed = Bed::new(Degrade::Block);
    let end = bed.primary.log(LOG).unwrap().end;
    let effects =
        bed.step(Input::LinkUp { time: SourceTime(5), marks: vec![mark(1, end, 3)], code: no_code() });
    assert!(matches!(&effects[..], [Effect::Fenced(Epoch(3))]), "{effects:?}");
    let effects = bed.append(Durability::Local, 10, 5);
    assert!(
        matches!(&effects[..], [Effect::Reply { reply: Err(error), .. }] if error.kind() == ErrorKind::Fenced)
    );
}

#[test]
fn a_promotion_fences_logs_that_the_promoted_site_never_heard_of() {
    let mut bed = Bed::new(Degrade::Block);
    let theirs = LogMarkV1 { log: 9, ..mark(1, Tail::first_address(), 3) };
    let effects = up_with(&mut bed, vec![theirs]);
    assert!(matches!(&effects[..], [Effect::Fenced(Epoch(3))]), "{effects:?}");
    let effects = bed.append(Durability::Local, 10, 5);
    assert!(
        matches!(&effects[..], [Effect::Reply { reply: Err(error), .. }] if error.kind() == ErrorKind::Fenced)
    );
}

#[test]
fn a_fenced_primary_is_fenced_after_a_restart() {
    let seen = PrimaryConfig { seen: Epoch(3), ..config() };
    let mut bed = Bed::start(seen.clone(), Degrade::Block, (1, 1), None);
    for effects in [bed.append(Durability::Local, 10, 5), bed.step(create(9, LogId(1), "new"))] {
        assert!(
            matches!(&effects[..], [Effect::Reply { reply: Err(error), .. }] if error.kind() == ErrorKind::Fenced),
            "{effects:?}"
        );
    }
    assert_eq!(bed.primary.log(LOG).unwrap().fenced_by, Some(3));
    // Promoted itself since then.
    let mut bed = Bed::start(PrimaryConfig { epoch: Epoch(4), ..seen }, Degrade::Block, (1, 1), None);
    bed.append(Durability::Local, 10, 5);
    assert!(acked(&bed.durable(2)).is_some());
}

#[test]
fn a_primary_whose_mirror_is_promoted_under_its_eyes_is_fenced() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    bed.append(Durability::Remote, 3000, 5);
    bed.durable(2);
    let effects = bed.step(Input::Mirrored(vec![mark(1, Tail::first_address(), 7)]));
    assert!(
        matches!(
            &effects[..],
            [
                Effect::Fenced(Epoch(7)),
                Effect::Reply { reply: Err(error), .. }
            ] if error.kind() == ErrorKind::Fenced
        ),
        "{effects:?}"
    );
    assert_eq!(bed.primary.unconfirmed_bytes(), 0);
    let status = bed.primary.log(LOG).unwrap();
    assert_eq!(status.fenced_by, Some(7));
    let lag = (status.lag_bytes, status.oldest_unmirrored);
    assert_eq!(lag, (0, None), "it mirrors to nobody, who lacks nothing");
    assert!(bed.step(Input::Mirrored(vec![mark(1, Tail::first_address(), 7)])).is_empty(), "told once");
    let effects = bed.append(Durability::Local, 10, 6);
    assert!(
        matches!(&effects[..], [Effect::Reply { reply: Err(error), .. }] if error.kind() == ErrorKind::Fenced)
    );
}

#[test]
fn a_failed_disk_fails_what_waits_and_refuses_what_comes() {
    let mut bed = Bed::new(Degrade::Block);
    bed.append(Durability::Local, 10, 5);
    let effects = bed.step(Input::WriteFailed { log: LOG, reason: "no space left".to_owned() });
    assert!(
        matches!(&effects[..], [Effect::Reply { reply: Err(error), .. }] if error.message().contains("no space left"))
    );
    let effects = bed.append(Durability::Local, 10, 6);
    assert!(matches!(&effects[..], [Effect::Reply { reply: Err(_), .. }]));
}

#[test]
fn an_unknown_log_is_named() {
    let mut bed = Bed::new(Degrade::Block);
    let effects = bed.step(Input::Free {
        token: 9,
        log: LogId(77),
        freed: (1, LogAddress::default()),
        time: SourceTime(1),
    });
    assert!(
        matches!(&effects[..], [Effect::Reply { reply: Err(error), .. }] if error.message().contains("log 77"))
    );
}

#[test]
fn a_creation_is_sent_when_it_is_durable_and_not_before() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    let log = LogId(1);
    let effects = bed.step(create(7, log, "new"));
    // A process that died now would leave nothing of it at the mirror, not even its announcement.
    let [Effect::Write { record: creation, opens_segment: true }] = &effects[..] else {
        panic!("{effects:?}")
    };
    // Nor is it sent because something else moves on, or because a session begins.
    let end = bed.primary.log(LOG).unwrap().end;
    let effects = bed.step(Input::Mirrored(vec![mark(1, end, 0)]));
    assert!(effects.is_empty(), "{effects:?}");
    let effects = bed.up(1);
    assert!(effects.is_empty(), "{effects:?}");
    let effects = bed.step(Input::Durable { log, records: 1 });
    let [
        Effect::Reply { token: 7, reply: Ok(Reply::Created(_)) },
        Effect::ReadBacklog { log: LogId(1), from, session, .. },
    ] = effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(from, creation.header.address);
    let effects = bed.step(Input::Backlog { log, session, read: Backlog::Records(vec![creation.clone()]) });
    assert!(
        matches!(
            &effects[..],
            [
                Effect::Announce { .. },
                Effect::Send { key: RecordKey { log: LogId(1), number: 0 }, .. },
                Effect::Event(Event::CaughtUp { .. })
            ]
        ),
        "{effects:?}"
    );
    assert_eq!(bed.primary.log(log).unwrap().feed, "live");
}

#[test]
fn a_local_append_to_a_new_log_waits_for_its_announcement() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    let log = LogId(1);
    bed.step(create(70, log, "new"));
    bed.step(Input::Append(Append {
        token: 71,
        asked: AppendRequest {
            log,
            payload: Bytes::from_static(b"x"),
            durability: Durability::Local,
            max_risk: Risk::CERTAIN,
            deadline: None,
            request: RequestId(9),
            explain: false,
            trace: TraceContext::default(),
        },
        time: SourceTime(2),
    }));
    assert!(acked(&bed.step(Input::Durable { log, records: 2 })).is_none(), "nobody knows its name yet");
    assert!(acked(&bed.step(Input::Announced(vec![RecordKey { log, number: 1 }]))).is_some());
}

#[test]
fn a_number_that_another_log_has_is_not_given_again() {
    let mut bed = Bed::new(Degrade::Block);
    let taken = |effects: &[Effect], log: &str| match effects {
        [Effect::Reply { reply: Err(error), .. }] => {
            assert!(error.kind() == ErrorKind::Unavailable && error.message().contains(log), "{error}");
        }
        other => panic!("{other:?}"),
    };
    // Here: the metadata server was rebuilt between the choice of a number and the creation.
    taken(&bed.step(create(7, LOG, "another")), "number 0");
    // At the mirror: this site lost the log.
    let there = mark(3, LogAddress::new(0, 400), 0);
    let effects = up_with(&mut bed, vec![mark(1, Tail::first_address(), 0), LogMarkV1 { log: 5, ..there }]);
    assert!(matches!(&effects[..], [Effect::Event(Event::Unknown { log: LogId(5) })]), "{effects:?}");
    taken(&bed.step(create(8, LogId(5), "new")), "number 5");
    assert!(matches!(&bed.step(create(9, LogId(6), "new"))[..], [Effect::Write { .. }]));
}

#[test]
fn a_log_that_was_created_without_a_link_cuts_nothing_at_the_mirror() {
    let mut bed = Bed::new(Degrade::Block);
    let log = LogId(1);
    bed.step(create(7, log, "new"));
    bed.step(Input::Durable { log, records: 1 });
    // The mirror has another log under this number, one that this site lost.
    for records in [1, 2, 100] {
        let there = LogMarkV1 { log: 1, ..mark(records, LogAddress::new(0, 4096), 0) };
        let effects = up_with(&mut bed, vec![mark(1, Tail::first_address(), 0), there]);
        assert!(
            matches!(&effects[..], [Effect::Event(Event::Diverged { log: LogId(1), .. })]),
            "{records}: {effects:?}"
        );
        assert_eq!(bed.primary.log(log).unwrap().feed, "off");
        bed.step(Input::LinkDown);
    }
}

fn damage() -> Error {
    Error::new(ErrorKind::Corrupt, "log 0 is damaged at 0:400, in FILE; restore it from the other site")
}

#[test]
fn a_damaged_log_takes_nothing_and_cuts_nothing_at_the_mirror() {
    // Three records are whole, and the mirror has five: it has what was lost here.
    let mut bed = Bed::with(Degrade::Block, 3, Some(damage()));
    let effects = bed.append(Durability::Local, 10, 5);
    assert!(
        matches!(&effects[..], [Effect::Reply { reply: Err(error), .. }] if *error == damage()),
        "{effects:?}"
    );
    let freed = (1, LogAddress::new(0, 200));
    let effects = bed.step(Input::Free { token: 9, log: LOG, freed, time: SourceTime(1) });
    assert!(matches!(&effects[..], [Effect::Reply { reply: Err(error), .. }] if *error == damage()));
    let effects = up_with(&mut bed, vec![mark(5, LogAddress::new(0, 900), 0)]);
    assert!(effects.is_empty(), "{effects:?}");
    let status = bed.primary.log(LOG).unwrap();
    assert_eq!((status.records, status.mirrored, status.lag_bytes), (3, 3, 0));
    assert_eq!(status.refusal, Some(damage()));
    // Others are created and mirrored.
    assert!(matches!(&bed.step(create(9, LogId(1), "new"))[..], [Effect::Write { .. }]));
    let effects = bed.step(Input::Durable { log: LogId(1), records: 1 });
    assert!(matches!(effects.last(), Some(Effect::ReadBacklog { log: LogId(1), .. })));
}

#[test]
fn a_damaged_log_is_not_taken_for_compared() {
    let mut bed = Bed::start(config(), Degrade::Block, (1, 3), Some(damage()));
    let effects = compared_with(&mut bed, vec![mark(3, LogAddress::new(0, 400), 0)]);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Reconciled(_))), "{effects:?}");
}

#[test]
fn what_is_whole_of_a_damaged_log_is_mirrored() {
    let mut bed = Bed::with(Degrade::Block, 3, Some(damage()));
    let effects = up_with(&mut bed, vec![mark(1, LogAddress::new(0, 200), 0)]);
    assert!(
        matches!(&effects[..], [Effect::ReadBacklog { log: LOG, from, .. }] if *from == LogAddress::new(0, 200)),
        "{effects:?}"
    );
}

#[test]
fn a_promotion_fences_a_damaged_log_too() {
    let mut bed = Bed::with(Degrade::Block, 3, Some(damage()));
    let refused = LogMarkV1::refused(LOG.0, 4);
    let effects = up_with(&mut bed, vec![refused]);
    assert!(matches!(&effects[..], [Effect::Fenced(Epoch(4))]), "{effects:?}");
}

#[test]
fn a_log_that_the_mirror_refuses_is_neither_fed_nor_cut() {
    let mut bed = Bed::new(Degrade::Block);
    bed.append(Durability::Local, 100, 5);
    bed.durable(2);
    let effects = up_with(&mut bed, vec![LogMarkV1::refused(LOG.0, 0)]);
    assert!(matches!(&effects[..], [Effect::Event(Event::Refused { log: LOG })]), "{effects:?}");
    // Announced, for the list of what is lost; not sent, and not counted against the buffer.
    let effects = bed.append(Durability::Local, 100, 6);
    assert!(matches!(&effects[..], [Effect::Write { .. }, Effect::Announce { .. }]), "{effects:?}");
    assert!(acked(&bed.durable(3)).is_some());
    assert_eq!(bed.primary.unconfirmed_bytes(), 0);
    // The mirror was restored: the next session feeds it.
    bed.step(Input::LinkDown);
    let effects = up_with(&mut bed, vec![mark(1, LogAddress::new(0, 200), 0)]);
    assert!(matches!(&effects[..], [Effect::ReadBacklog { .. }]), "{effects:?}");
}

#[test]
fn a_log_that_the_mirror_refuses_from_now_on_gives_its_part_of_the_buffer_back() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    bed.append(Durability::Network, 3000, 5);
    bed.announced(1);
    bed.covered(1, 0b111);
    assert!(bed.primary.unconfirmed_bytes() > 3000);
    let effects = bed.step(Input::Mirrored(vec![LogMarkV1::refused(LOG.0, 0)]));
    assert!(matches!(&effects[..], [Effect::Event(Event::Refused { log: LOG })]), "{effects:?}");
    assert_eq!(bed.primary.unconfirmed_bytes(), 0);
    assert!(acked(&bed.durable(2)).is_none(), "repairs of what the mirror drops keep nothing safe");
    let again = bed.step(Input::Mirrored(vec![LogMarkV1::refused(LOG.0, 0)]));
    assert!(again.is_empty(), "told once: {again:?}");
    let late = bed.step(Input::Mirrored(vec![mark(2, LogAddress::new(0, 4000), 0)]));
    assert!(late.is_empty() || acked(&late).is_some());
}

#[test]
fn a_wall_clock_that_is_set_back_does_not_touch_the_lag() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    for (request, wall) in [(5, 1_000_000_000), (6, 3), (7, 0)] {
        bed.now = bed.now + Duration::from_secs(1);
        let token = bed.token();
        bed.step(Input::Append(Append {
            token,
            asked: AppendRequest {
                log: LOG,
                payload: Bytes::from_static(b"x"),
                durability: Durability::Local,
                max_risk: Risk::CERTAIN,
                deadline: None,
                request: RequestId(request),
                explain: false,
                trace: TraceContext::default(),
            },
            time: SourceTime(wall),
        }));
    }
    let first = Time::from_nanos(1) + Duration::from_secs(1);
    assert_eq!(bed.primary.log(LOG).unwrap().oldest_unmirrored, Some(first));
    bed.durable(4);
    let end = bed.primary.log(LOG).unwrap().end;
    bed.step(Input::Mirrored(vec![mark(3, end, 0)]));
    let last = first + Duration::from_secs(2);
    assert_eq!(bed.primary.log(LOG).unwrap().oldest_unmirrored, Some(last));
}

#[test]
fn an_append_after_a_long_pause_does_not_lag_since_before_the_pause() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    bed.append(Durability::Local, 10, 5);
    bed.durable(2);
    let end = bed.primary.log(LOG).unwrap().end;
    bed.step(Input::Mirrored(vec![mark(2, end, 0)]));
    assert_eq!(bed.primary.log(LOG).unwrap().oldest_unmirrored, None);
    bed.now = bed.now + Duration::from_secs(3600);
    bed.append(Durability::Local, 10, 6);
    assert_eq!(bed.primary.log(LOG).unwrap().oldest_unmirrored, Some(bed.now));
}

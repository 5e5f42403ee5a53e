//! Appends whose clients wait no more.

use std::time::Duration;

use parhelion_log::Record;
use parhelion_mirror::{Effect, Event, Input, Token};
use parhelion_types::{Degrade, Durability, RecordKey};

use crate::backlog::{answer, reads};
use crate::bed::{Bed, LOG, mark, record, up_with};
use crate::buffer::{fill, second_log};

fn answered(effects: &[Effect]) -> Vec<Token> {
    let token = |effect: &Effect| match effect {
        Effect::Reply { token, reply } => {
            assert!(reply.is_ok(), "{reply:?}");
            Some(*token)
        }
        _ => None,
    };
    effects.iter().filter_map(token).collect()
}

#[test]
fn what_is_given_up_is_mirrored_and_not_answered() {
    let mut bed = Bed::new(Degrade::Block);
    let start = bed.now;
    let appended: Vec<Record> = (0..4)
        .map(|number| {
            bed.now = start + Duration::from_millis(number);
            record(&bed.append(Durability::Remote, 100, 5 + u128::from(number))).clone()
        })
        .collect();
    bed.durable(4);
    // The tokens are 1 to 4. The fourth is not durable yet; the ninth never was.
    let effects = bed.step(Input::GivenUp(vec![1, 3, 4, 9]));
    assert!(effects.is_empty(), "{effects:?}");
    assert_eq!(bed.primary.log(LOG).unwrap().waiting, 1);
    // Of the others no deadline passes.
    let deadline = start + Duration::from_millis(1001);
    assert_eq!(bed.primary.poll_timeout(), Some(deadline));
    bed.now = deadline + Duration::from_secs(1);
    let effects = bed.step(Input::Timeout);
    let [Effect::Event(Event::Overdue { key, .. })] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(*key, RecordKey { log: LOG, number: 2 });
    assert_eq!(bed.primary.poll_timeout(), None);

    bed.durable(5);
    let creation_end = appended[0].header.address;
    let asked = reads(&up_with(&mut bed, vec![mark(1, creation_end, 0)]))[0];
    let sent = bed.step(answer(asked, appended.clone()));
    let keys: Vec<u64> = sent
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send { key, .. } => Some(key.number),
            _ => None,
        })
        .collect();
    assert_eq!(keys, [1, 2, 3, 4], "all that was appended goes to the mirror");
    let end = bed.primary.log(LOG).unwrap().end;
    assert_eq!(answered(&bed.step(Input::Mirrored(vec![mark(5, end, 0)]))), [2]);
    // A client that comes again finds what it appended.
    let effects = bed.append(Durability::Remote, 100, 5);
    assert_eq!(answered(&effects), [5]);
    assert!(crate::acked(&effects).unwrap().duplicate);
}

#[test]
fn under_the_policy_to_fail_nobody_is_answered_who_gave_up() {
    let mut bed = Bed::new(Degrade::Fail);
    bed.append(Durability::Remote, 100, 5);
    bed.step(Input::GivenUp(vec![1]));
    bed.now = bed.now + Duration::from_secs(60);
    assert!(bed.step(Input::Timeout).is_empty());
}

#[test]
fn what_is_given_up_leaves_the_room_for_what_is_awaited() {
    for is_given_up in [false, true] {
        let mut bed = Bed::new(Degrade::Block);
        bed.up(1);
        let other = second_log(&mut bed);
        assert_eq!(fill(&mut bed, other, Durability::Local).0, 4, "three quarters of 64 KiB");
        let (sent, appended) = fill(&mut bed, LOG, Durability::Remote);
        assert_eq!(sent, 2);
        bed.durable(1 + appended.len() as u64);
        if is_given_up {
            bed.step(Input::GivenUp(vec![1, 2, 3, 4, 5, 6, 7, 8]));
        }
        let confirmed = mark(1 + sent as u64, appended[sent].header.address, 0);
        let read = reads(&bed.step(Input::Mirrored(vec![confirmed])));
        assert_eq!(read.is_empty(), is_given_up, "{read:?}");
    }
}

//! Logs that cannot be read to feed the mirror.

use std::time::Duration;

use parhelion_log::Record;
use parhelion_mirror::{Backlog, Effect, Event, Input};
use parhelion_types::{Degrade, Durability, LogAddress, LogId, Time};

use crate::bed::{Bed, LOG, mark, record, up_with};

/// What the store is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub log: LogId,
    pub from: LogAddress,
    pub bytes_max: usize,
    pub session: u64,
}

pub fn reads(effects: &[Effect]) -> Vec<Asked> {
    let asked = |effect: &Effect| match *effect {
        Effect::ReadBacklog { log, from, bytes_max, session } => {
            Some(Asked { log, from, bytes_max, session })
        }
        _ => None,
    };
    effects.iter().filter_map(asked).collect()
}

pub fn answer(asked: Asked, records: Vec<Record>) -> Input {
    Input::Backlog { log: asked.log, session: asked.session, read: Backlog::Records(records) }
}

/// A log of which the mirror lacks one record, and the read of it that was asked for.
fn behind() -> (Bed, Record, Asked) {
    let mut bed = Bed::new(Degrade::Block);
    let appended = record(&bed.append(Durability::Local, 100, 5)).clone();
    bed.durable(2);
    let effects = up_with(&mut bed, vec![mark(1, appended.header.address, 0)]);
    let asked = reads(&effects)[0];
    (bed, appended, asked)
}

/// The read fails; after which pause it is tried again.
fn fail(bed: &mut Bed, asked: Asked, read: Backlog) -> Option<Duration> {
    let effects = bed.step(Input::Backlog { log: asked.log, session: asked.session, read });
    let [Effect::Event(Event::BacklogFailed { log: LOG, reason, pause })] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(reason, "the disk is away");
    assert_eq!(bed.primary.poll_timeout(), pause.map(|pause| bed.now + pause));
    *pause
}

fn away() -> Backlog {
    Backlog::Unavailable("the disk is away".to_owned())
}

/// The one read that the end of the pause leads to.
fn read_again(bed: &mut Bed) -> Asked {
    let at = bed.primary.poll_timeout().expect("it is tried again");
    bed.now = Time::from_nanos(at.as_nanos() - 1);
    assert!(bed.step(Input::Timeout).is_empty(), "before the pause is over");
    bed.now = at;
    let effects = bed.step(Input::Timeout);
    let [asked] = reads(&effects)[..] else { panic!("{effects:?}") };
    asked
}

#[test]
fn a_log_that_could_not_be_read_is_read_again_after_pauses_that_double_to_a_minute() {
    let (mut bed, appended, mut asked) = behind();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        pauses.push(fail(&mut bed, asked, away()).expect("it is tried again").as_secs());
        let log = bed.primary.log(LOG).unwrap();
        assert_eq!((log.feed, log.mirrored), ("unreadable", 1));
        // Neither what is appended meanwhile nor what else comes has it read earlier.
        let end = log.end;
        assert!(reads(&bed.step(Input::Mirrored(vec![mark(1, end, 0)]))).is_empty());
        assert!(reads(&bed.durable(2)).is_empty());
        asked = read_again(&mut bed);
        assert_eq!(asked.from, appended.header.address);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);

    let sent = bed.step(answer(asked, vec![appended.clone()]));
    assert!(sent.iter().any(|effect| matches!(effect, Effect::Send { .. })), "{sent:?}");
    assert_eq!(bed.primary.log(LOG).unwrap().feed, "live");
    assert_eq!(bed.primary.poll_timeout(), None);
}

#[test]
fn a_read_that_succeeds_makes_the_next_pause_short_again() {
    let (mut bed, appended, asked) = behind();
    // Behind what the read returns there is more, which fails then.
    let later = record(&bed.append(Durability::Local, 100, 6)).clone();
    bed.durable(3);
    bed.announced(2);
    for _ in 0..3 {
        fail(&mut bed, asked, away());
        read_again(&mut bed);
    }
    let effects = bed.step(answer(asked, vec![appended]));
    let [asked] = reads(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(asked.from, later.header.address);
    assert_eq!(bed.primary.log(LOG).unwrap().feed, "catching up");
    assert_eq!(fail(&mut bed, asked, away()), Some(Duration::from_secs(1)));
}

#[test]
fn a_log_that_is_damaged_is_read_again_in_the_next_session() {
    let (mut bed, appended, asked) = behind();
    let damaged = Backlog::Damaged("the disk is away".to_owned());
    assert_eq!(fail(&mut bed, asked, damaged), None);
    assert_eq!(bed.primary.log(LOG).unwrap().feed, "off");
    bed.step(Input::LinkDown);
    let effects = up_with(&mut bed, vec![mark(1, appended.header.address, 0)]);
    assert_eq!(reads(&effects).len(), 1, "{effects:?}");
}

#[test]
fn a_session_that_ends_ends_the_pause_and_the_next_one_begins_at_once() {
    let (mut bed, appended, asked) = behind();
    for _ in 0..3 {
        fail(&mut bed, asked, away());
        read_again(&mut bed);
    }
    fail(&mut bed, asked, away());
    bed.step(Input::LinkDown);
    assert_eq!((bed.primary.poll_timeout(), bed.primary.log(LOG).unwrap().feed), (None, "off"));
    let asked = reads(&up_with(&mut bed, vec![mark(1, appended.header.address, 0)]))[0];
    assert_eq!(bed.primary.log(LOG).unwrap().feed, "catching up");
    assert_eq!(fail(&mut bed, asked, away()), Some(Duration::from_secs(1)));
}

#[test]
fn a_log_that_cannot_be_read_keeps_no_room_from_the_others() {
    let (mut bed, _, asked) = behind();
    assert!(asked.bytes_max > 48 << 9, "it had room: {}", asked.bytes_max);
    fail(&mut bed, asked, away());
    let log = crate::buffer::second_log(&mut bed);
    assert_eq!(crate::buffer::fill(&mut bed, log, Durability::Local).0, 4, "three quarters of 64 KiB");
}

//! The epoch of a site that was promoted, in its logs.

use parhelion_log::{Record, RecordKind};
use parhelion_mirror::{Effect, Input, PrimaryConfig};
use parhelion_types::{Degrade, Durability, Epoch, LogAddress, LogId, SiteId};

use crate::bed::{Bed, LOG, config, create, mark, recovered, up_with};
use crate::damage;

fn epoch() -> Epoch {
    Epoch(0).next(SiteId(2))
}

fn promoted() -> PrimaryConfig {
    PrimaryConfig { epoch: epoch(), ..config() }
}

/// The records that are written for an epoch.
fn epochs(effects: &[Effect]) -> Vec<&Record> {
    let written = effects.iter().filter_map(|effect| match effect {
        Effect::Write { record, .. } => Some(record),
        _ => None,
    });
    written.filter(|record| record.header.kind == RecordKind::Free).collect()
}

#[test]
fn a_promoted_site_writes_its_epoch_into_each_log_when_it_has_a_mirror() {
    let logs = (0..40).map(|log| {
        let refusal = (log == 7).then(damage);
        recovered(LogId(log), Degrade::Block, (2, 2), refusal)
    });
    let mut bed = Bed::of(promoted(), logs.collect());
    // An append tells of the epoch too.
    bed.append_to(LogId(3), Durability::Local, 10, 5);
    let mut written = Vec::new();
    let mut effects = up_with(&mut bed, vec![]);
    while let [first, ..] = epochs(&effects)[..] {
        let these: Vec<LogId> = epochs(&effects).iter().map(|record| record.header.log).collect();
        assert!(these.len() <= 16, "appends wait behind {} syncs", these.len());
        assert_eq!((first.header.number, first.header.epoch), (2, epoch()));
        assert_eq!(Record::parse(first.bytes()).unwrap().header, first.header);
        let (last, others) = these.split_last().unwrap();
        for &log in others {
            assert!(epochs(&bed.step(Input::Durable { log, records: 3 })).is_empty(), "others are under way");
        }
        effects = bed.step(Input::Durable { log: *last, records: 3 });
        written.extend(these);
    }
    let all: Vec<LogId> = (0..40).filter(|log| ![3, 7].contains(log)).map(LogId).collect();
    assert_eq!(written, all);
    bed.step(Input::LinkDown);
    assert!(epochs(&up_with(&mut bed, vec![])).is_empty(), "once");
}

#[test]
fn an_epoch_that_was_not_written_is_written_in_the_next_session() {
    let mut bed = Bed::of(promoted(), vec![recovered(LOG, Degrade::Block, (1, 1), None)]);
    assert!(epochs(&bed.step(create(9, LogId(1), "new"))).is_empty(), "there is no mirror");
    assert_eq!(epochs(&up_with(&mut bed, vec![])).len(), 1);
    // It died before that was stored. Another process finds what this one found.
    let mut bed = Bed::of(promoted(), vec![recovered(LOG, Degrade::Block, (1, 1), None)]);
    assert_eq!(epochs(&up_with(&mut bed, vec![])).len(), 1);
    // A disk that fails for one log does not keep the others from it.
    let logs = (0..17).map(|log| recovered(LogId(log), Degrade::Block, (1, 1), None));
    let mut bed = Bed::of(promoted(), logs.collect());
    assert_eq!(epochs(&up_with(&mut bed, vec![])).len(), 16);
    for log in (1..16).map(LogId) {
        bed.step(Input::Durable { log, records: 2 });
    }
    let effects = bed.step(Input::WriteFailed { log: LogId(0), reason: "no space left".to_owned() });
    assert_eq!(epochs(&effects)[0].header.log, LogId(16));
}

#[test]
fn a_mirror_is_cut_back_under_the_epoch_of_the_site() {
    // Its own records are of an older epoch, those that the mirror has and it lost are of this one.
    let mut bed = Bed::of(promoted(), vec![recovered(LOG, Degrade::Block, (1, 1), None)]);
    let theirs = mark(2, LogAddress::new(0, 400), epoch().0);
    let effects = up_with(&mut bed, vec![theirs]);
    let tails = effects.iter().find_map(|effect| match effect {
        Effect::Rewind(tails) => Some(tails),
        _ => None,
    });
    assert_eq!(tails.expect("it is ahead")[0].epoch, epoch().0);
}

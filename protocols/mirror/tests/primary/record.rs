//! Promises that are not kept are multiplied before more are made.

use std::time::Duration;

use parhelion_mirror::{Covered, Effect, Event, Input, Reply};
use parhelion_plugin::Exposure;
use parhelion_types::{Degrade, Durability, RecordKey};

use crate::bed::{Bed, LOG};

fn missing(bed: &mut Bed, number: u64) -> Vec<Effect> {
    let key = RecordKey { log: LOG, number };
    let exposure = Exposure::steady(3, 0, 0);
    bed.step(Input::Coverage(vec![Covered { key, exposure, sent: false, complete: false }]))
}

fn acked(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Reply { reply: Ok(Reply::Acked(_)), .. }))
}

fn judged(effects: &[Effect]) -> Option<f64> {
    effects.iter().find_map(|effect| match effect {
        Effect::Event(Event::Judged(verdict)) => Some(verdict.factor),
        _ => None,
    })
}

/// An append at the level network, as far as its coverage.
fn append(bed: &mut Bed, number: u64) -> Vec<Effect> {
    bed.append(Durability::Network, 100, u128::from(number));
    bed.announced(number);
    bed.durable(number + 1);
    bed.covered(number, 0b111)
}

#[test]
fn a_loss_beyond_repair_raises_what_later_appends_risk() {
    let mut bed = Bed::new(Degrade::Block);
    bed.up(1);
    assert!(acked(&append(&mut bed, 1)));
    assert_eq!(bed.primary.risk_factor(), 1.0);
    bed.now = bed.now + Duration::from_millis(50);
    let effects = missing(&mut bed, 1);
    let factor = judged(&effects).expect("an event");
    assert!(factor > 1e6 && factor == bed.primary.risk_factor(), "{factor}");
    assert_eq!(bed.primary.track_record().all().failed, 1);

    // Told once, and remembered by the next session; only the mirror's confirmation is worth anything now.
    bed.step(Input::LinkDown);
    bed.up(2);
    let effects = append(&mut bed, 2);
    assert!(!acked(&effects) && judged(&effects).is_none(), "{effects:?}");
    let end = bed.primary.log(LOG).unwrap().end;
    assert!(acked(&bed.step(Input::Mirrored(vec![crate::bed::mark(3, end, 0)]))));

    // An hour with appends that are kept passes, and it is over; all time is not.
    bed.now = bed.now + Duration::from_secs(2 * 3600);
    append(&mut bed, 3);
    assert!(bed.primary.risk_factor() > 1e6);
}

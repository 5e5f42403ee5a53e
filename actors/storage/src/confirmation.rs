//! How long the mirror's confirmation takes, as the primary sees it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use parhelion_types::{LogId, Time};

/// Moments at which logs became durable here and that the mirror has not confirmed yet.
///
/// A few per log, evenly spread: one for each sync at first, and every second, fourth, ... of them when a mirror that is
/// away lets them pile up.
#[derive(Debug, Default)]
pub(crate) struct Unconfirmed(BTreeMap<LogId, Moments>);

#[derive(Debug)]
struct Moments {
    /// Records of the log that were durable then, ascending, and when.
    kept: VecDeque<(u64, Time)>,
    /// Of so many syncs one is kept.
    stride: u32,
    /// Syncs until the next one that is.
    skip: u32,
}

/// Moments kept per log.
const MOMENTS_MAX: usize = 64;

impl Unconfirmed {
    /// So many records of a log are durable here now.
    pub(crate) fn durable(&mut self, now: Time, log: LogId, records: u64) {
        let moments = self.0.entry(log).or_insert_with(Moments::new);
        if moments.kept.back().is_some_and(|&(known, _)| records <= known) {
            return;
        }
        if moments.skip > 0 {
            moments.skip -= 1;
            return;
        }
        moments.kept.push_back((records, now));
        moments.skip = moments.stride - 1;
        if moments.kept.len() > MOMENTS_MAX {
            moments.thin_out();
        }
    }

    /// The mirror has so many records of a log. Tells, for each moment that this covers, how long ago it is.
    pub(crate) fn confirmed(
        &mut self,
        now: Time,
        log: LogId,
        records: u64,
        mut observe: impl FnMut(Duration),
    ) {
        let Some(moments) = self.0.get_mut(&log) else { return };
        while let Some(&(durable, at)) = moments.kept.front()
            && durable <= records
        {
            moments.kept.pop_front();
            observe(now.since(at));
        }
        if moments.kept.is_empty() {
            self.0.remove(&log);
        }
    }

    /// The log is mirrored no more.
    pub(crate) fn forget(&mut self, log: LogId) {
        self.0.remove(&log);
    }
}

impl Moments {
    fn new() -> Self {
        Self { kept: VecDeque::new(), stride: 1, skip: 0 }
    }

    fn thin_out(&mut self) {
        let mut at = 0_u32;
        self.kept.retain(|_| {
            at += 1;
            at % 2 == 1
        });
        self.stride = self.stride.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId(3);

    fn at(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    fn confirmed(unconfirmed: &mut Unconfirmed, now: Time, records: u64) -> Vec<u64> {
        let mut seen = Vec::new();
        unconfirmed.confirmed(now, LOG, records, |span| {
            seen.push(u64::try_from(span.as_millis()).unwrap());
        });
        seen
    }

    #[test]
    fn a_mark_confirms_the_syncs_that_it_covers() {
        let mut unconfirmed = Unconfirmed::default();
        unconfirmed.durable(at(10), LOG, 2);
        unconfirmed.durable(at(20), LOG, 5);
        unconfirmed.durable(at(21), LOG, 5);
        assert!(confirmed(&mut unconfirmed, at(70), 1).is_empty(), "half of a sync is not covered");
        assert_eq!(confirmed(&mut unconfirmed, at(70), 4), [60]);
        assert_eq!(confirmed(&mut unconfirmed, at(90), 9), [70]);
        assert!(confirmed(&mut unconfirmed, at(91), 9).is_empty(), "once each");
        assert!(unconfirmed.0.is_empty());
    }

    #[test]
    fn a_mirror_that_is_away_for_long_costs_bounded_memory_and_old_moments_stay() {
        let mut unconfirmed = Unconfirmed::default();
        for sync in 1..=1_000_000 {
            unconfirmed.durable(at(sync), LOG, sync);
        }
        let kept = unconfirmed.0[&LOG].kept.len();
        assert!((MOMENTS_MAX / 2..=MOMENTS_MAX).contains(&kept), "{kept}");
        let seen = confirmed(&mut unconfirmed, at(1_000_000), 1_000_000);
        assert_eq!(seen.len(), kept);
        assert_eq!(seen[0], 999_999, "the oldest");
        assert!(*seen.last().unwrap() < 62_500, "and new ones: {seen:?}");
        assert!(seen.is_sorted_by(|a, b| a > b));
        // It is back: every sync counts again.
        unconfirmed.durable(at(2_000_000), LOG, 2_000_000);
        unconfirmed.durable(at(2_000_001), LOG, 2_000_001);
        assert_eq!(confirmed(&mut unconfirmed, at(2_000_050), 2_000_001), [50, 49]);
    }

    #[test]
    fn a_log_that_is_not_mirrored_any_more_is_forgotten() {
        let mut unconfirmed = Unconfirmed::default();
        unconfirmed.durable(at(1), LOG, 1);
        unconfirmed.forget(LOG);
        assert!(confirmed(&mut unconfirmed, at(2), 1).is_empty());
    }
}

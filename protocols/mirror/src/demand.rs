//! What clients ask for lately, for whoever chooses the link's code.

use std::collections::VecDeque;
use std::time::Duration;

use parhelion_types::{Risk, Time};

/// What was asked for at the level `network` during the last minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// Appends per second.
    pub appends_per_second: f64,
    /// Bytes of an append, on average.
    pub append_bytes: u32,
    /// The smallest of the risks asked for.
    pub max_risk: Risk,
    /// The shortest of the deadlines.
    pub deadline: Duration,
    /// Appends of one log that were in flight when another one came, on average over the appends. The prefix risk is the
    /// sum over so many.
    pub in_flight: f64,
}

impl Demand {
    /// What several storage nodes of a site are asked for together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let all = self.appends_per_second + other.appends_per_second;
        let mean = |mine: f64, theirs: f64| {
            if all > 0.0 {
                (mine * self.appends_per_second + theirs * other.appends_per_second) / all
            } else {
                mine
            }
        };
        Self {
            appends_per_second: all,
            append_bytes: mean(self.append_bytes.into(), other.append_bytes.into()).round() as u32,
            max_risk: if other.max_risk < self.max_risk { other.max_risk } else { self.max_risk },
            deadline: self.deadline.min(other.deadline),
            in_flight: mean(self.in_flight, other.in_flight),
        }
    }
}

/// Counts what is asked for. The cost of an append is a few additions.
#[derive(Debug, Default)]
pub(crate) struct Demands {
    /// By time, oldest first.
    slots: VecDeque<Slot>,
}

#[derive(Debug)]
struct Slot {
    began: Time,
    appends: u64,
    bytes: u64,
    in_flight: u64,
    max_risk: Risk,
    deadline: Duration,
}

/// How long a demand is remembered.
const MEMORY: Duration = Duration::from_secs(60);
const SLOT: Duration = Duration::from_secs(5);

impl Demands {
    /// An append at the level `network` came, behind `in_flight` others of its log.
    pub(crate) fn note(
        &mut self,
        now: Time,
        bytes: usize,
        max_risk: Risk,
        deadline: Duration,
        in_flight: usize,
    ) {
        if self.slots.back().is_none_or(|slot| now.since(slot.began) >= SLOT) {
            let slot = Slot { began: now, appends: 0, bytes: 0, in_flight: 0, max_risk, deadline };
            self.slots.push_back(slot);
            self.forget(now);
        }
        let Some(slot) = self.slots.back_mut() else { return };
        slot.appends += 1;
        slot.bytes = slot.bytes.saturating_add(bytes as u64);
        slot.in_flight = slot.in_flight.saturating_add(in_flight as u64 + 1);
        slot.max_risk = if max_risk < slot.max_risk { max_risk } else { slot.max_risk };
        slot.deadline = slot.deadline.min(deadline);
    }

    /// What was asked for; nothing if nobody asked for a minute.
    pub(crate) fn demand(&mut self, now: Time) -> Option<Demand> {
        self.forget(now);
        let began = self.slots.front()?.began;
        let sum = |of: fn(&Slot) -> u64| self.slots.iter().map(of).fold(0, u64::saturating_add) as f64;
        let appends = sum(|slot| slot.appends).max(1.0);
        let risks = self.slots.iter().map(|slot| slot.max_risk);
        Some(Demand {
            // Over the first seconds there is no rate to speak of: as if they were all of one slot.
            appends_per_second: appends / now.since(began).max(SLOT).as_secs_f64(),
            append_bytes: (sum(|slot| slot.bytes) / appends).round() as u32,
            max_risk: risks.reduce(|least, risk| if risk < least { risk } else { least })?,
            deadline: self.slots.iter().map(|slot| slot.deadline).min()?,
            in_flight: sum(|slot| slot.in_flight) / appends,
        })
    }

    fn forget(&mut self, now: Time) {
        while self.slots.pop_front_if(|slot| now.since(slot.began) >= MEMORY).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    fn risk(probability: f64) -> Risk {
        Risk::asked(probability).unwrap()
    }

    #[test]
    fn the_strictest_of_a_minute_counts() {
        let mut demands = Demands::default();
        assert_eq!(demands.demand(at(0)), None);
        for second in 0..100 {
            let (asked, deadline) = if second == 10 { (1e-9, 1) } else { (1e-6, 5) };
            for n in 0..10 {
                demands.note(at(second), 4000, risk(asked), Duration::from_secs(deadline), n);
            }
            if second == 69 {
                let early = demands.demand(at(69)).unwrap();
                assert_eq!((early.max_risk, early.deadline), (risk(1e-9), Duration::from_secs(1)));
            }
        }
        let demand = demands.demand(at(99)).unwrap();
        assert_eq!((demand.max_risk, demand.deadline), (risk(1e-6), Duration::from_secs(5)));
        assert_eq!((demand.append_bytes, demand.in_flight), (4000, 5.5));
        assert!((9.0..11.0).contains(&demand.appends_per_second), "{demand:?}");
        assert!(demands.slots.len() <= 13);
        assert_eq!(demands.demand(at(200)), None);
    }

    #[test]
    fn nodes_of_a_site_add_up() {
        let one = Demand {
            appends_per_second: 30.0,
            append_bytes: 1000,
            max_risk: risk(1e-6),
            deadline: Duration::from_secs(2),
            in_flight: 3.0,
        };
        let other = Demand { appends_per_second: 10.0, append_bytes: 5000, max_risk: risk(1e-8), ..one };
        let both = one.with(other);
        assert_eq!((both.appends_per_second, both.append_bytes, both.max_risk), (40.0, 2000, risk(1e-8)));
        assert_eq!(both.in_flight, 3.0);
    }
}

//! Which numbers of a growing sequence have come, and since when the others are overdue.

use std::collections::VecDeque;

use parhelion_types::Time;

/// A set of numbers, nearly all of them below a floor: wire numbers or ids of symbols.
///
/// Above the floor it is a list of runs. Each run knows since when the gap before it is known: when the
/// first number behind the gap came. These times ascend with the numbers.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    floor: u64,
    /// When the number before the floor came; if it was given up, when that before it did.
    before: Time,
    runs: VecDeque<Run>,
}

/// Numbers `start..end` have come, the last of them at `ended`; none for `start == end`, which only tells that the gap before it exists.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: u64,
    end: u64,
    gap_since: Time,
    ended: Time,
}

/// Numbers `start..end` have not come, while later ones had by `since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) since: Time,
}

impl Runs {
    pub(crate) fn new(floor: u64) -> Self {
        Self { floor, before: Time::ZERO, runs: VecDeque::new() }
    }

    /// Numbers below have come or were given up.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// When the last number below the floor that has come did.
    pub(crate) fn before(&self) -> Time {
        self.before
    }

    /// Numbers from here on have not been heard of.
    pub(crate) fn end(&self) -> u64 {
        self.runs.back().map_or(self.floor, |run| run.end)
    }

    /// Runs above the floor.
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        if number < self.floor {
            return true;
        }
        let behind = self.runs.partition_point(|run| run.start <= number);
        behind > 0 && number < self.runs[behind - 1].end
    }

    /// `number` has come; whether it is new. The floor stays: [`absorb`](Self::absorb) moves it.
    pub(crate) fn insert(&mut self, number: u64, now: Time) -> bool {
        if number < self.floor {
            return false;
        }
        match self.runs.back_mut() {
            Some(last) if number == last.end => {
                last.end += 1;
                last.ended = now;
                return true;
            }
            Some(last) if number < last.end => {}
            _ => {
                self.runs.push_back(Run { start: number, end: number + 1, gap_since: now, ended: now });
                return true;
            }
        }
        // Below the end of the last run: in a run, at the edge of one or two, or inside a gap.
        let behind = self.runs.partition_point(|run| run.start <= number);
        let before = behind.checked_sub(1);
        if before.is_some_and(|at| number < self.runs[at].end) {
            return false;
        }
        let joins_before = before.filter(|&at| self.runs[at].end == number);
        let joins_behind = self.runs.get(behind).is_some_and(|run| run.start == number + 1);
        match (joins_before, joins_behind) {
            (Some(at), true) => {
                self.runs[at].end = self.runs[behind].end;
                self.runs[at].ended = self.runs[behind].ended;
                self.runs.remove(behind);
            }
            (Some(at), false) => {
                self.runs[at].end = number + 1;
                self.runs[at].ended = now;
            }
            (None, true) => self.runs[behind].start = number,
            (None, false) => {
                let gap_since = self.runs[behind].gap_since;
                self.runs.insert(behind, Run { start: number, end: number + 1, gap_since, ended: now });
            }
        }
        true
    }

    /// All numbers below `end` exist.
    pub(crate) fn extend(&mut self, end: u64, now: Time) {
        if end > self.end() {
            self.runs.push_back(Run { start: end, end, gap_since: now, ended: now });
        }
    }

    /// Moves the floor past the run that begins there, if any; how many numbers it had.
    pub(crate) fn absorb(&mut self) -> u64 {
        let floor = self.floor;
        self.runs.pop_front_if(|run| run.start <= floor).map_or(0, |run| {
            self.floor = run.end;
            if run.end > run.start {
                self.before = run.ended;
            }
            run.end - floor
        })
    }

    /// The gap at the floor.
    pub(crate) fn first_gap(&self) -> Option<Gap> {
        self.gaps().next()
    }

    /// Gives up the gap at the floor: moves the floor to its end.
    pub(crate) fn skip_first_gap(&mut self) {
        if let Some(gap) = self.first_gap() {
            self.floor = gap.end;
        }
    }

    /// All gaps, ascending; neighbours of different age are two gaps.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = Gap> {
        let mut start = self.floor;
        self.runs.iter().filter_map(move |run| {
            let gap = Gap { start, end: run.start, since: run.gap_since };
            start = run.end;
            (gap.start < gap.end).then_some(gap)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What is true by definition: all numbers, and when the first number behind each had come.
    #[derive(Default)]
    struct Naive {
        come: BTreeMap<u64, ()>,
        heard: Vec<(u64, Time)>,
    }

    impl Naive {
        fn since(&self, number: u64) -> Option<Time> {
            self.heard.iter().find(|(end, _)| *end > number).map(|(_, time)| *time)
        }
    }

    proptest! {
        #[test]
        fn runs_are_a_set_that_knows_the_age_of_its_gaps(
            steps in prop::collection::vec((0u64..60, any::<bool>()), 0..80)
        ) {
            let mut runs = Runs::new(0);
            let mut naive = Naive::default();
            for (tick, (number, is_extend)) in (1..).zip(steps) {
                let now = Time::from_nanos(tick);
                if is_extend {
                    runs.extend(number, now);
                    naive.heard.push((number, now));
                } else {
                    let is_new = naive.come.insert(number, ()).is_none();
                    prop_assert_eq!(runs.insert(number, now), is_new);
                    naive.heard.push((number + 1, now));
                }
                while runs.absorb() > 0 {}
                for number in 0..61 {
                    prop_assert_eq!(runs.contains(number), naive.come.contains_key(&number));
                }
                let gaps: Vec<_> = runs.gaps().flat_map(|gap| (gap.start..gap.end).map(move |n| (n, gap.since))).collect();
                let expected: Vec<_> = (0..61)
                    .filter(|number| !naive.come.contains_key(number))
                    .filter_map(|number| Some((number, naive.since(number)?)))
                    .collect();
                prop_assert_eq!(gaps, expected);
            }
        }
    }
}

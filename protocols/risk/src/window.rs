//! Counters over a sliding stretch of time, in constant memory.

use std::time::Duration;

use parhelion_types::Time;

/// What can be counted in a [`Window`].
pub(crate) trait Sum: Copy + Default {
    /// Adds what another stretch of time showed.
    fn add(&mut self, other: &Self);
}

/// Sums counts over the last `span` and up to a tenth of it more.
#[derive(Clone, Debug)]
pub(crate) struct Window<C> {
    slice_nanos: u64,
    /// Number of the newest slice, from the clock's start; it is at `newest % SLICES`.
    newest: u64,
    slices: [C; SLICES],
}

/// Ten whole slices and the one that is being filled.
const SLICES: usize = 11;

impl<C: Sum> Window<C> {
    pub(crate) fn new(span: Duration) -> Self {
        let slice_nanos = u64::try_from(span.as_nanos() / (SLICES as u128 - 1)).unwrap_or(u64::MAX).max(1);
        Self { slice_nanos, newest: 0, slices: [C::default(); SLICES] }
    }

    /// Counts that were reported at `now`. A clock that goes back adds to the newest slice.
    pub(crate) fn add(&mut self, now: Time, counts: &C) {
        let slice = now.as_nanos() / self.slice_nanos;
        // Each slice that began since holds nothing yet; more than all of them are cleared once.
        let begun = slice.saturating_sub(self.newest).min(SLICES as u64);
        self.newest = self.newest.max(slice);
        for back in 0..begun {
            self.slices[((self.newest - back) % SLICES as u64) as usize] = C::default();
        }
        self.slices[(self.newest % SLICES as u64) as usize].add(counts);
    }

    /// What was reported within the span before `now`.
    pub(crate) fn sum(&self, now: Time) -> C {
        let slice = (now.as_nanos() / self.slice_nanos).max(self.newest);
        let aged = slice - self.newest;
        let mut sum = C::default();
        for back in 0..(SLICES as u64).saturating_sub(aged).min(self.newest + 1) {
            sum.add(&self.slices[((self.newest - back) % SLICES as u64) as usize]);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::ChannelCounts;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_window_agrees_with_a_list(
            steps in prop::collection::vec((0_u64..400, 1_u64..100), 1..200),
            idle in 0_u64..3000,
        ) {
            let mut window = Window::new(Duration::from_nanos(1000));
            let mut list = Vec::new();
            let mut now = 0;
            for (step, settled) in steps {
                now += step;
                window.add(Time::from_nanos(now), &ChannelCounts { settled, ..ChannelCounts::default() });
                list.push((now, settled));
                for at in [now, now + idle] {
                    let oldest = (at / 100).saturating_sub(10);
                    let naive: u64 = list.iter().filter(|(t, _)| t / 100 >= oldest).map(|(_, n)| n).sum();
                    prop_assert_eq!(window.sum(Time::from_nanos(at)).settled, naive);
                }
            }
        }
    }
}

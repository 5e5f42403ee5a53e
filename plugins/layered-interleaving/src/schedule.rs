//! Where the groups of a layer end.

/// When the groups of one layer are complete: a function of the ids alone.
///
/// A layer has as many lanes as its interleave `i`; symbol `id` is in lane `id % i`. The pattern repeats every
/// `r * i` ids, and in that period each lane ends one group, at the position `ends[lane]`. The positions
/// are `r` apart, so the layer sends one repair per `r` symbols and never two together.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    r: u64,
    interleave: u64,
    ends: Vec<u32>,
}

impl Schedule {
    /// The schedules of all layers, out of phase with each other so that their repairs are apart too.
    pub fn layers(r: u32, interleaves: &[u32]) -> Vec<Self> {
        let layers = interleaves.len() as u32;
        // The first layer's phase makes its groups end with the r-th symbol.
        (0..layers).zip(interleaves).map(|(n, &i)| Self::new(r, i, (r - 1 + n * r / layers) % r)).collect()
    }

    fn new(r: u32, interleave: u32, phase: u32) -> Self {
        let (r, i) = (u64::from(r), u64::from(interleave));
        let mut ends = vec![0; interleave as usize];
        // Steps of r visit every lane once if r and i are relatively prime. Otherwise they come back to the
        // first lane after i / gcd steps; one symbol later they visit the lanes next to those.
        let round = i / gcd(r, i);
        for step in 0..i {
            let at = (r * step + step / round + u64::from(phase)) % (r * i);
            ends[(at % i) as usize] = at as u32;
        }
        Self { r, interleave: i, ends }
    }

    pub fn interleave(&self) -> u64 {
        self.interleave
    }

    pub fn lanes(&self) -> usize {
        self.ends.len()
    }

    pub fn lane(&self, id: u64) -> usize {
        (id % self.interleave) as usize
    }

    /// After so many ids the pattern repeats.
    pub fn period(&self) -> u64 {
        self.r * self.interleave
    }

    /// The place in the period at which the group of a lane ends.
    pub fn end(&self, lane: usize) -> u32 {
        self.ends[lane]
    }

    /// Symbols of its group that follow `id`, if no flush splits the group.
    pub fn remaining(&self, id: u64) -> u64 {
        let period = self.period();
        let end = u64::from(self.end(self.lane(id)));
        (end + period - id % period) % period / self.interleave
    }

    /// Whether an encoder can make a group that starts at `first` and has `count` symbols. The interleave is
    /// checked by the caller.
    pub fn allows(&self, first: u64, count: u16) -> bool {
        let Some(following) = u64::from(count).checked_sub(1) else { return false };
        following <= self.remaining(first) && first.checked_add(following * self.interleave).is_some()
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_ends_one_group_per_period_and_ends_are_apart() {
        for r in 1..=20 {
            for interleave in 1..=60 {
                for phase in 0..r {
                    let schedule = Schedule::new(r, interleave, phase);
                    let mut ends = schedule.ends.clone();
                    for (lane, &end) in ends.iter().enumerate() {
                        assert_eq!(end as usize % interleave as usize, lane, "r={r} i={interleave}");
                    }
                    ends.sort_unstable();
                    let shift = gcd(r.into(), interleave.into()) as u32 - 1;
                    let (least, most) = (r - shift, r + u32::from(shift > 0));
                    for pair in ends.windows(2) {
                        let gap = pair[1] - pair[0];
                        assert!((least..=most).contains(&gap), "r={r} i={interleave}: gap {gap}");
                    }
                }
            }
        }
    }

    #[test]
    fn groups_have_r_symbols() {
        let schedule = Schedule::new(8, 11, 3);
        for id in 0..500 {
            let remaining = schedule.remaining(id);
            assert!(remaining < 8);
            let expected = if remaining == 0 { 7 } else { remaining - 1 };
            assert_eq!(schedule.remaining(id + 11), expected);
            assert!(schedule.allows(id, remaining as u16 + 1));
            assert!(!schedule.allows(id, remaining as u16 + 2));
        }
        assert!(!schedule.allows(0, 0));
        assert!(!schedule.allows(u64::MAX - 10, 2));
    }

    #[test]
    fn the_first_layer_starts_with_a_whole_group() {
        let layers = Schedule::layers(8, &[1, 23, 101]);
        assert_eq!(layers[0].remaining(0), 7);
        let ends = |layer: usize| (0..8 * 23 * 101).find(|&id| layers[layer].remaining(id) == 0).unwrap();
        assert_eq!([ends(0) % 8, ends(1) % 8, ends(2) % 8], [7, 1, 4], "layers are out of phase");
    }
}

//! What the channel takes.

use std::ops::Range;

/// Slots of a wire in which the packet is lost. The buffer is used again and again.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    words: Vec<u64>,
    slots: usize,
}

impl Losses {
    /// No loss in any of `slots`.
    pub fn clear(&mut self, slots: usize) {
        self.words.clear();
        self.words.resize(slots.div_ceil(64), 0);
        self.slots = slots;
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Loses one slot; nothing where there is none.
    pub fn insert(&mut self, slot: usize) {
        if slot < self.slots {
            self.words[slot / 64] |= 1 << (slot % 64);
        }
    }

    /// Loses a run of slots, as far as there are any.
    pub fn insert_run(&mut self, run: Range<usize>) {
        for slot in run.start..run.end.min(self.slots) {
            self.insert(slot);
        }
    }

    /// Whether a slot is lost.
    #[must_use]
    pub fn contains(&self, slot: usize) -> bool {
        self.words.get(slot / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// The lost slots, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(at, &word)| {
            let ones = std::iter::successors(Some(word), |&word| Some(word & word.wrapping_sub(1)));
            ones.take_while(|&word| word != 0).map(move |word| at * 64 + word.trailing_zeros() as usize)
        })
    }

    /// How many slots are lost.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_lost_one_by_one_and_in_runs() {
        let mut losses = Losses::default();
        losses.clear(130);
        losses.insert(0);
        losses.insert_run(63..66);
        losses.insert_run(128..1000);
        losses.insert(130);
        assert_eq!(losses.iter().collect::<Vec<_>>(), [0, 63, 64, 65, 128, 129]);
        assert!((0..200).filter(|&slot| losses.contains(slot)).eq(losses.iter()));
        assert_eq!(losses.count(), 6);
        losses.clear(64);
        assert_eq!((losses.count(), losses.slots()), (0, 64));
    }
}

//! The active map: which appends of a log are freed (SMFS section 4.2, `free`).

use std::collections::BTreeMap;

/// Freed appends of one log, by record number. A sparse bitmap: one word of 64 records where any is freed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActiveMap {
    words: BTreeMap<u64, u64>,
    freed: u64,
}

impl ActiveMap {
    /// Frees one append; false where it was free already.
    pub fn free(&mut self, number: u64) -> bool {
        let word = self.words.entry(number / 64).or_default();
        let bit = 1 << (number % 64);
        let new = *word & bit == 0;
        *word |= bit;
        self.freed += u64::from(new);
        new
    }

    /// Whether the append is freed.
    #[must_use]
    pub fn is_freed(&self, number: u64) -> bool {
        self.words.get(&(number / 64)).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// How many appends are freed.
    #[must_use]
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// The bytes: 16 per word, its index and its bits.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.words
            .iter()
            .flat_map(|(index, bits)| [index.to_le_bytes(), bits.to_le_bytes()])
            .flatten()
            .collect()
    }

    /// Reads a map; none where the bytes are no map.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (fields, rest) = bytes.as_chunks::<8>();
        let (words, odd) = fields.as_chunks::<2>();
        if !rest.is_empty() || !odd.is_empty() {
            return None;
        }
        let words: BTreeMap<u64, u64> = words
            .iter()
            .map(|[index, bits]| (u64::from_le_bytes(*index), u64::from_le_bytes(*bits)))
            .collect();
        let freed = words.values().map(|bits| u64::from(bits.count_ones())).sum();
        Some(Self { words, freed })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(numbers in prop::collection::vec(0u64..1000, 0..200)) {
            let mut map = ActiveMap::default();
            let mut set = BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(map.free(number), set.insert(number));
            }
            prop_assert_eq!(map.freed(), set.len() as u64);
            for number in 0..1000 {
                prop_assert_eq!(map.is_freed(number), set.contains(&number));
            }
            prop_assert_eq!(ActiveMap::parse(&map.to_bytes()), Some(map));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = ActiveMap::parse(&bytes);
        }
    }
}

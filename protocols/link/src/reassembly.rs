//! Records from symbols.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use parhelion_wire::{SymbolPrefix, WireError};

/// Puts records together, in any order, within a limit of bytes.
///
/// Every record is cut at multiples of `data_bytes`, its symbols have consecutive ids, and ids are given
/// here once each: so a record is complete when as many symbols have come as it has.
#[derive(Debug)]
pub(crate) struct Reassembly {
    data_bytes: usize,
    record_bytes_max: usize,
    pending_bytes_max: usize,
    partials: BTreeMap<u64, Partial>,
    ready: VecDeque<Bytes>,
    /// Bytes of partial records as allocated, and of complete ones that are not taken.
    pending_bytes: usize,
}

#[derive(Debug)]
struct Partial {
    /// Id of the record's first symbol.
    first: u64,
    bytes: Vec<u8>,
    symbols: u64,
    /// One more than the highest position that came.
    end: u64,
    /// Symbols of the whole record, once the last has come.
    total: Option<u64>,
}

/// What became of a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It is in its record.
    Yes,
    /// There is no room for it now.
    NoRoom,
}

impl Reassembly {
    pub(crate) fn new(data_bytes: usize, record_bytes_max: usize, pending_bytes_max: usize) -> Self {
        Self {
            data_bytes,
            record_bytes_max,
            pending_bytes_max,
            partials: BTreeMap::new(),
            ready: VecDeque::new(),
            pending_bytes: 0,
        }
    }

    /// Puts the data of symbol `id` in its place. The limit on pending bytes does not hold for a symbol
    /// that `must_fit`.
    ///
    /// # Errors
    /// The record is longer than the limit, or the symbol contradicts itself or an earlier one.
    pub(crate) fn place(
        &mut self,
        id: u64,
        prefix: SymbolPrefix,
        data: &[u8],
        must_fit: bool,
    ) -> Result<Placed, WireError> {
        let SymbolPrefix { record, offset, last, .. } = prefix;
        let offset = offset as usize;
        let end = offset.saturating_add(data.len());
        if end > self.record_bytes_max {
            return Err(WireError::Long { what: "record", bytes: end, max: self.record_bytes_max });
        }
        let position = (offset / self.data_bytes) as u64;
        let is_whole = data.len() == self.data_bytes || (last && data.len() < self.data_bytes);
        let (true, true, Some(first)) =
            (is_whole, offset.is_multiple_of(self.data_bytes), id.checked_sub(position))
        else {
            return Err(WireError::Invalid { what: "symbol's place in its record" });
        };

        if last && position == 0 && !self.partials.contains_key(&record) {
            if !must_fit && self.pending_bytes + data.len() > self.pending_bytes_max {
                return Ok(Placed::NoRoom);
            }
            self.pending_bytes += data.len();
            self.ready.push_back(Bytes::copy_from_slice(data));
            return Ok(Placed::Yes);
        }

        let known = self.partials.get(&record);
        if known.is_some_and(|partial| !partial.admits(first, position, last)) {
            return Err(WireError::Invalid { what: "symbol's place in its record" });
        }
        // Room for the record so far, at least doubled, so that growing copies each byte twice at most.
        let capacity = known.map_or(0, |partial| partial.bytes.capacity());
        let needed =
            if end <= capacity { capacity } else { end.max(2 * capacity).min(self.record_bytes_max) };
        let growth = needed - capacity + if known.is_none() { PARTIAL_COST } else { 0 };
        if growth > 0 && !must_fit && self.pending_bytes + growth > self.pending_bytes_max {
            return Ok(Placed::NoRoom);
        }
        let partial = self.partials.entry(record).or_insert_with(|| Partial {
            first,
            bytes: Vec::new(),
            symbols: 0,
            end: 0,
            total: None,
        });
        let before = partial.bytes.capacity();
        partial.bytes.reserve_exact(needed - partial.bytes.len());
        self.pending_bytes += partial.bytes.capacity() - before + if before == 0 { PARTIAL_COST } else { 0 };
        if partial.bytes.len() < end {
            partial.bytes.resize(end, 0);
        }
        partial.bytes[offset..end].copy_from_slice(data);
        partial.symbols += 1;
        partial.end = partial.end.max(position + 1);
        if last {
            partial.total = Some(position + 1);
        }
        if partial.total == Some(partial.symbols)
            && let Some(mut partial) = self.partials.remove(&record)
        {
            self.pending_bytes -= partial.bytes.capacity() + PARTIAL_COST;
            // Whoever takes the record holds no more memory than its bytes.
            partial.bytes.shrink_to_fit();
            self.pending_bytes += partial.bytes.len();
            self.ready.push_back(Bytes::from(partial.bytes));
        }
        Ok(Placed::Yes)
    }

    /// The next complete record.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let record = self.ready.pop_front()?;
        self.pending_bytes -= record.len();
        Some(record)
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }
}

impl Partial {
    /// Whether a symbol agrees with those that came.
    fn admits(&self, first: u64, position: u64, last: bool) -> bool {
        let fits_end = match self.total {
            Some(total) => !last && position < total,
            None => !last || position >= self.end,
        };
        self.first == first && fits_end
    }
}

/// What a partial record takes beside its bytes, about.
const PARTIAL_COST: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(record: u64, offset: u32, length: usize, last: bool) -> SymbolPrefix {
        SymbolPrefix { record, offset, length: length as u16, last }
    }

    proptest! {
        #[test]
        fn records_come_out_whole_in_any_order(
            lengths in prop::collection::vec(0usize..100, 1..20),
            order in any::<prop::sample::Index>(),
            seed: u64,
        ) {
            let mut reassembly = Reassembly::new(7, 100, usize::MAX);
            let records: Vec<Vec<u8>> =
                (0u8..).zip(&lengths).map(|(n, &length)| (0..length).map(|k| n ^ k as u8).collect()).collect();
            let mut symbols = Vec::new();
            for (number, record) in (0..).zip(&records) {
                let count = record.len().div_ceil(7).max(1);
                for k in 0..count {
                    let data = &record[7 * k..record.len().min(7 * k + 7)];
                    symbols.push((prefix(number, 7 * k as u32, data.len(), k + 1 == count), data));
                }
            }
            let mut ids: Vec<usize> = (0..symbols.len()).collect();
            // A permutation: rotate, then swap by a linear congruence.
            ids.rotate_left(order.index(symbols.len()));
            let mut state = seed;
            for k in (1..ids.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ids.swap(k, (state >> 33) as usize % (k + 1));
            }
            let mut out = Vec::new();
            for id in ids {
                prop_assert_eq!(reassembly.place(id as u64, symbols[id].0, symbols[id].1, false).unwrap(), Placed::Yes);
                out.extend(std::iter::from_fn(|| reassembly.pop()).map(|record| record.to_vec()));
            }
            prop_assert_eq!(reassembly.pending_bytes(), 0);
            let mut expected = records;
            expected.sort();
            out.sort();
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn any_symbol_is_placed_or_refused_within_the_limit(
            symbols in prop::collection::vec((any::<u64>(), 0u64..4, 0u32..2000, 0usize..9, any::<bool>()), 0..200)
        ) {
            let mut reassembly = Reassembly::new(8, 1000, 3000);
            for (id, record, offset, length, last) in symbols {
                let _ = reassembly.place(id, prefix(record, offset, length, last), &[0; 8][..length.min(8)], false);
                prop_assert!(reassembly.pending_bytes() <= 3000);
            }
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let mut reassembly = Reassembly::new(4, 100, 1000);
        assert_eq!(reassembly.place(10, prefix(0, 4, 4, false), b"efgh", false).unwrap(), Placed::Yes);
        for (id, offset, data, last) in [
            (12, 0, &b"abcd"[..], false), // other ids
            (11, 9, b"ijk", true),        // not at a multiple of the symbol
            (11, 8, b"ij", false),        // short, but not the last
            (9, 0, b"abcd", true),        // ends before what came
            (35, 100, b"abcd", false),    // beyond the limit
            (0, 8, b"ijkl", false),       // begins before the session
        ] {
            assert!(reassembly.place(id, prefix(0, offset, data.len(), last), data, false).is_err());
        }
        assert_eq!(reassembly.place(9, prefix(0, 0, 4, false), b"abcd", false).unwrap(), Placed::Yes);
        assert_eq!(reassembly.place(11, prefix(0, 8, 1, true), b"i", false).unwrap(), Placed::Yes);
        assert_eq!(reassembly.pop().unwrap(), "abcdefghi");
    }

    #[test]
    fn the_limit_yields_to_what_must_fit() {
        let mut reassembly = Reassembly::new(4, 100, 150);
        assert_eq!(reassembly.place(1, prefix(0, 4, 4, false), b"efgh", false).unwrap(), Placed::Yes);
        assert_eq!(reassembly.place(5, prefix(1, 4, 4, false), b"efgh", false).unwrap(), Placed::NoRoom);
        assert_eq!(reassembly.place(5, prefix(1, 4, 4, false), b"efgh", true).unwrap(), Placed::Yes);
    }
}

//! What a decoder remembers: the newest source symbols, by id.

use std::ops::Range;

use crate::code::{Cover, RepairHead, SymbolError};

/// The source symbols of the newest ids, each with its bytes while it is held. Decoders share it.
///
/// Invariants:
/// - The ids `floor..floor + size` have a place, at `id % size`; older ones are forgotten. The window moves forward
///   only.
/// - A rebuilt symbol is kept without the zeros at its end: its own length is not known, and it must not appear longer
///   than the repairs that include it.
#[derive(Debug)]
pub struct Window {
    symbol_bytes: usize,
    size: u64,
    floor: u64,
    started: bool,
    /// Below it nothing is reported.
    wanted: u64,
    /// `symbol_bytes` for each place.
    payloads: Vec<u8>,
    lengths: Vec<usize>,
}

/// What a move of the window forgot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// All that it remembered.
    All,
    /// These ids; none if it did not move.
    Ids(Range<u64>),
}

/// In `lengths`: the symbol is not held.
const ABSENT: usize = usize::MAX;

impl Window {
    /// A window of `size` ids, rounded up to a power of two, for symbols of at most `symbol_bytes` bytes.
    #[must_use]
    pub fn new(size: usize, symbol_bytes: usize) -> Self {
        let size = size.next_power_of_two();
        Self {
            symbol_bytes,
            size: size as u64,
            floor: 0,
            started: false,
            wanted: 0,
            payloads: vec![0; size * symbol_bytes],
            lengths: vec![ABSENT; size],
        }
    }

    /// The place of `id`, below the window's size: for what a decoder keeps beside each symbol.
    #[inline]
    #[must_use]
    pub fn place(&self, id: u64) -> usize {
        (id & (self.size - 1)) as usize
    }

    /// Whether the symbol is held. The id is one of the window.
    #[inline]
    #[must_use]
    pub fn holds(&self, id: u64) -> bool {
        self.lengths[self.place(id)] != ABSENT
    }

    /// The bytes of a symbol; none of one that is not held.
    #[inline]
    #[must_use]
    pub fn symbol(&self, id: u64) -> &[u8] {
        let place = self.place(id);
        match self.lengths[place] {
            ABSENT => &[],
            length => &self.payloads[place * self.symbol_bytes..][..length],
        }
    }

    /// Moves the window so that it holds `id`, and tells what fell out of it.
    pub fn reach(&mut self, id: u64) -> Forgotten {
        if !self.started {
            // Half a window is left for symbols that the first one overtook.
            self.started = true;
            self.floor = id.saturating_sub(self.size / 2);
        }
        if id < self.floor || id - self.floor < self.size {
            return Forgotten::Ids(self.floor..self.floor);
        }
        let gone = self.floor..id - (self.size - 1);
        self.floor = gone.end;
        if gone.end - gone.start >= self.size {
            self.lengths.fill(ABSENT);
            return Forgotten::All;
        }
        for id in gone.clone() {
            let place = self.place(id);
            self.lengths[place] = ABSENT;
        }
        Forgotten::Ids(gone)
    }

    /// Keeps a symbol that arrived, unless it is behind the window, too long, or held already; whether it is news.
    /// [`reach`](Self::reach) comes first.
    pub fn keep(&mut self, id: u64, payload: &[u8]) -> bool {
        if id < self.floor || payload.len() > self.symbol_bytes || self.holds(id) {
            return false;
        }
        let place = self.place(id);
        self.payloads[place * self.symbol_bytes..][..payload.len()].copy_from_slice(payload);
        self.lengths[place] = payload.len();
        true
    }

    /// Keeps a symbol that `write` rebuilds in `bytes` bytes of space; the answer is all of them, if they are wanted.
    pub fn rebuild(&mut self, id: u64, bytes: usize, write: impl FnOnce(&mut [u8])) -> Option<&[u8]> {
        let place = self.place(id);
        let payload = &mut self.payloads[place * self.symbol_bytes..][..bytes];
        write(payload);
        self.lengths[place] = payload.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        (id >= self.wanted).then_some(payload)
    }

    /// Nothing below `id` is wanted any more. What is held of it still serves.
    pub fn expire(&mut self, id: u64) {
        self.wanted = self.wanted.max(id);
    }

    /// Whether nothing that a repair of this cover rebuilds is of any use.
    #[must_use]
    pub fn is_past(&self, cover: Cover) -> bool {
        cover.last() < self.floor.max(self.wanted)
    }

    /// Whether a repair's payload can be one.
    ///
    /// # Errors
    /// It is empty or longer than a symbol.
    pub fn check_length(&self, payload: &[u8]) -> Result<(), SymbolError> {
        if payload.is_empty() || payload.len() > self.symbol_bytes {
            return Err(SymbolError::Length { bytes: payload.len(), max: self.symbol_bytes });
        }
        Ok(())
    }

    /// Whether a repair fits what is held of its group. [`reach`](Self::reach) comes first, with the last of its ids.
    ///
    /// # Errors
    /// Its group reaches behind the window, or has a symbol longer than the repair.
    pub fn check_group(&self, head: RepairHead, payload: &[u8]) -> Result<(), SymbolError> {
        if head.cover.first < self.floor {
            return Err(SymbolError::Window(head));
        }
        let longest = head.cover.ids().map(|id| self.symbol(id).len()).max().unwrap_or(0);
        if longest > payload.len() {
            return Err(SymbolError::Inconsistent { bytes: payload.len(), group: longest });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ids_are_remembered() {
        let mut window = Window::new(4, 8);
        assert_eq!(window.reach(10), Forgotten::Ids(8..8));
        assert!(window.keep(10, b"ten") && !window.keep(10, b"again") && !window.keep(7, b"past"));
        assert!(!window.keep(9, b"too long!"));
        assert_eq!((window.symbol(10), window.symbol(9)), (&b"ten"[..], &b""[..]));
        assert_eq!(window.reach(13), Forgotten::Ids(8..10));
        assert!(window.holds(10));
        assert_eq!(window.reach(14), Forgotten::Ids(10..11));
        assert!(!window.holds(14));
        assert_eq!(window.reach(15), Forgotten::Ids(11..12));
        assert_eq!(window.reach(19), Forgotten::All);
        assert_eq!(window.reach(3), Forgotten::Ids(16..16));
    }

    #[test]
    fn a_rebuilt_symbol_loses_the_zeros_at_its_end() {
        let mut window = Window::new(4, 8);
        window.reach(0);
        let rebuilt = window.rebuild(0, 4, |space| space.copy_from_slice(b"ab\0\0")).map(<[u8]>::to_vec);
        assert_eq!(rebuilt.as_deref(), Some(&b"ab\0\0"[..]));
        assert_eq!(window.symbol(0), b"ab");
        window.expire(2);
        assert_eq!(window.rebuild(1, 2, |space| space.fill(0)), None);
        assert!(window.holds(1) && window.symbol(1).is_empty());
    }

    #[test]
    fn repairs_that_cannot_be_are_refused() {
        let mut window = Window::new(4, 8);
        window.reach(8);
        window.keep(8, b"long");
        let head = |first, count| RepairHead { cover: Cover { first, stride: 1, count }, index: 0 };
        assert!(window.check_length(b"").is_err() && window.check_length(&[0; 9]).is_err());
        assert!(window.check_group(head(8, 2), b"long").is_ok());
        assert!(matches!(
            window.check_group(head(8, 2), b"l"),
            Err(SymbolError::Inconsistent { group: 4, .. })
        ));
        assert!(matches!(window.check_group(head(5, 2), b"long"), Err(SymbolError::Window(_))));
        assert!(window.is_past(head(4, 2).cover) && !window.is_past(head(4, 3).cover));
    }
}

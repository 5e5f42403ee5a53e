//! Source symbols that are multiplied together.

use std::ops::Deref;

use parhelion_galois::Term;

/// Most symbols of a group.
///
/// Larger groups encode no faster. When the last symbol of a block comes, at most this many byte products are left for each
/// byte of the repairs, which the vector kernels compute faster than a link of 50 Gbit/s takes the repairs.
pub(crate) const GROUP_SYMBOLS_MAX: usize = 16;

/// Up to [`GROUP_SYMBOLS_MAX`] terms of a combination, without an allocation.
pub(crate) struct Terms<'a> {
    terms: [Term<'a>; GROUP_SYMBOLS_MAX],
    count: usize,
}

impl<'a> Terms<'a> {
    #[inline]
    pub fn new() -> Self {
        Self { terms: [Term { source: &[], factors: &[] }; GROUP_SYMBOLS_MAX], count: 0 }
    }

    /// Adds a term.
    ///
    /// # Panics
    /// There are [`GROUP_SYMBOLS_MAX`] already.
    #[inline]
    pub fn push(&mut self, term: Term<'a>) {
        self.terms[self.count] = term;
        self.count += 1;
    }
}

impl<'a> Deref for Terms<'a> {
    type Target = [Term<'a>];

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.terms[..self.count]
    }
}

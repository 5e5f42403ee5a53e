//! Sums of many symbols.

use parhelion_galois::{Kernel, Rows, Term};

/// Terms of one pass: so many lines of the cache at a time, one of each symbol, are still read ahead well. All
/// symbols of a window at once took an eighth longer.
const TERMS_PER_PASS: usize = 16;

/// Writes the sum of `terms`, of which each has one factor and at most as many bytes as `sum`.
pub(crate) fn write_sum<'a>(kernel: Kernel, sum: &mut [u8], mut terms: impl Iterator<Item = Term<'a>>) {
    let mut pass = [Term::default(); TERMS_PER_PASS];
    let mut is_first = true;
    loop {
        let mut count = 0;
        for (place, term) in pass.iter_mut().zip(&mut terms) {
            *place = term;
            count += 1;
        }
        if is_first {
            kernel.combine(Rows::one(sum), &pass[..count]);
        } else {
            kernel.combine_add(Rows::one(sum), &pass[..count]);
        }
        if count < TERMS_PER_PASS {
            return;
        }
        is_first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parhelion_galois::mul;

    #[test]
    fn sums_have_all_terms() {
        for count in [0, 1, 15, 16, 17, 32, 40] {
            let symbols: Vec<[u8; 3]> = (0..count).map(|n| [n, n ^ 77, 255 - n]).collect();
            let factors: Vec<u8> = (0..count).map(|n| n.wrapping_mul(7)).collect();
            let terms = symbols
                .iter()
                .zip(&factors)
                .map(|(source, factor)| Term { source, factors: std::slice::from_ref(factor) });
            let mut sum = [9; 4];
            write_sum(Kernel::best(), &mut sum, terms);
            let expected = |k: usize| {
                symbols.iter().zip(&factors).fold(0, |sum, (symbol, &factor)| sum ^ mul(factor, symbol[k]))
            };
            assert_eq!(sum, [expected(0), expected(1), expected(2), 0]);
        }
    }
}

//! Exclusive or of symbols of unequal length.

/// XORs `symbol` into the first `length` bytes of `sum`, as if the shorter of the two were padded with zeros;
/// the new length. `sum` must hold the longer one. Bytes of `sum` behind `length` need not be zero.
pub(crate) fn add(sum: &mut [u8], length: usize, symbol: &[u8]) -> usize {
    let common = length.min(symbol.len());
    let (head, tail) = symbol.split_at(common);
    // A plain loop over equal slices: the compiler turns it into vector instructions.
    for (a, b) in sum[..common].iter_mut().zip(head) {
        *a ^= b;
    }
    sum[common..symbol.len()].copy_from_slice(tail);
    length.max(symbol.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_may_differ() {
        let mut sum = [9; 6];
        assert_eq!(add(&mut sum, 0, &[1, 2]), 2);
        assert_eq!(add(&mut sum, 2, &[1, 1, 5, 6]), 4);
        assert_eq!(add(&mut sum, 4, &[7]), 4);
        assert_eq!(add(&mut sum, 4, &[]), 4);
        assert_eq!(sum, [7, 3, 5, 6, 9, 9]);
    }
}

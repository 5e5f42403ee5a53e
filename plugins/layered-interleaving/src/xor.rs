//! Exclusive or of symbols: two of unequal length, and one into several sums at once.

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

/// Bytes that a symbol is added to; as many as it has.
pub(crate) struct Sum<'a> {
    bytes: &'a mut [u8],
    /// What stays of them: all bits or none.
    keep: u8,
}

impl<'a> Sum<'a> {
    /// What is there is part of the sum.
    pub fn of(bytes: &'a mut [u8]) -> Self {
        Self { bytes, keep: u8::MAX }
    }

    /// The sum begins with the symbol, whatever is there.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, keep: 0 }
    }
}

/// The widest vectors that this machine has. Invariant: it has their instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors(Width);

#[derive(Clone, Copy, Debug)]
enum Width {
    Any,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Vectors {
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                return Self(Width::Avx2);
            }
        }
        Self(Width::Any)
    }

    /// XORs `symbol` into each of `sums`, reading it once.
    #[inline]
    pub fn add<const N: usize>(self, sums: [Sum<'_>; N], symbol: &[u8]) {
        match self.0 {
            // SAFETY: the machine has these instructions.
            #[cfg(target_arch = "x86_64")]
            Width::Avx2 => unsafe { fused_avx2(sums, symbol) },
            Width::Any => fused(sums, symbol),
        }
    }
}

/// [`fused`], compiled for vectors of 32 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn fused_avx2<const N: usize>(sums: [Sum<'_>; N], symbol: &[u8]) {
    fused(sums, symbol);
}

/// Bytes that stay in registers while they are added to one sum after the other. At the end of a symbol fewer and fewer.
const PIECE: usize = 64;

#[inline(always)]
fn fused<const N: usize>(sums: [Sum<'_>; N], symbol: &[u8]) {
    let keep = sums.each_ref().map(|sum| sum.keep);
    let (sums, symbol) = pieces::<N, PIECE>(sums.map(|sum| sum.bytes), keep, symbol);
    let (sums, symbol) = pieces::<N, 32>(sums, keep, symbol);
    let (sums, symbol) = pieces::<N, 16>(sums, keep, symbol);
    pieces::<N, 1>(sums, keep, symbol);
}

/// Adds as many pieces of `P` bytes as there are; what is left of the sums and the symbol.
#[inline(always)]
fn pieces<'a, 'b, const N: usize, const P: usize>(
    sums: [&'a mut [u8]; N],
    keep: [u8; N],
    symbol: &'b [u8],
) -> ([&'a mut [u8]; N], &'b [u8]) {
    // As long as the symbol, which saves the check of every piece.
    let mut sums = sums.map(|sum| sum[..symbol.len()].as_chunks_mut::<P>());
    let (pieces, rest) = symbol.as_chunks::<P>();
    for (n, piece) in pieces.iter().enumerate() {
        // A copy, so that the compiler knows that no sum overlaps it.
        let piece = *piece;
        for ((sum, _), keep) in sums.iter_mut().zip(keep) {
            let sum = &mut sum[n];
            for k in 0..P {
                sum[k] = sum[k] & keep ^ piece[k];
            }
        }
    }
    (sums.map(|(_, rest)| rest), rest)
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

    #[test]
    fn every_sum_gets_every_byte_once() {
        for bytes in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 77] {
            let symbol: Vec<u8> = (0..bytes).map(|k| (k * 7 + 1) as u8).collect();
            for width in widths() {
                let [mut a, mut b, mut c] = [vec![1; bytes], vec![2; bytes], vec![3; bytes]];
                Vectors(width).add([Sum::of(&mut a), Sum::new(&mut b), Sum::of(&mut c)], &symbol);
                Vectors(width).add([Sum::of(&mut a)], &symbol);
                assert!(a.iter().all(|&byte| byte == 1), "{bytes} bytes, {width:?}");
                assert_eq!(b, symbol, "{width:?}");
                assert!(c.iter().zip(&symbol).all(|(c, s)| *c == s ^ 3), "{bytes} bytes, {width:?}");
            }
        }
    }

    fn widths() -> Vec<Width> {
        let mut widths = vec![Width::Any];
        #[cfg(target_arch = "x86_64")]
        {
            widths.extend(is_x86_feature_detected!("avx2").then_some(Width::Avx2));
        }
        widths
    }
}

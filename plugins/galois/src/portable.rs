//! The tier of any machine: plain integer arithmetic on eight bytes at a time, which compilers turn into whatever simple
//! vector instructions there are.

use crate::lanes::{self, Job, Lanes};

/// `sum += source`.
///
/// # Safety
/// The sum is at least as long as the source.
pub(crate) unsafe fn xor(sum: &mut [u8], source: &[u8]) {
    // SAFETY: what the caller vouches for; these vectors need no special instructions.
    unsafe { lanes::xor::<Words>(sum, source) }
}

/// `sum += factor * source`.
///
/// # Safety
/// The sum is at least as long as the source.
pub(crate) unsafe fn mul_add(sum: &mut [u8], factor: u8, source: &[u8]) {
    // SAFETY: what the caller vouches for; these vectors need no special instructions.
    unsafe { lanes::mul_add::<Words>(sum, factor, source) }
}

/// Computes a combination.
///
/// # Safety
/// The job is as its fields say, and nothing else refers to its rows.
pub(crate) unsafe fn combine(job: Job<'_>) {
    // SAFETY: what the caller vouches for; these vectors need no special instructions.
    unsafe { lanes::combine::<Words>(job) }
}

const WORDS: usize = 4;

/// 32 bytes, multiplied bit by bit of the factor.
#[derive(Clone, Copy)]
struct Words([u64; WORDS]);

// SAFETY of every block below: the caller of a `Lanes` function vouches for the bytes behind a pointer.
impl Lanes for Words {
    const BYTES: usize = 8 * WORDS;
    const WIDE: bool = false;
    const PAIRS: bool = false;
    /// The vector times 2 to the power of 0 to 7: the product with any factor is the sum of some.
    type Source = [Words; 8];
    /// All ones for each bit of the factor that is set.
    type Factor = [u64; 8];

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; WORDS])
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: see above; an array of bytes has no alignment.
        let bytes = unsafe { *from.cast::<[[u8; 8]; WORDS]>() };
        Self(bytes.map(u64::from_le_bytes))
    }

    #[inline(always)]
    unsafe fn load_part(from: *const u8, bytes: usize) -> Self {
        let mut copy = [0; Self::BYTES];
        // SAFETY: see above.
        unsafe {
            from.copy_to_nonoverlapping(copy.as_mut_ptr(), bytes);
            Self::load(copy.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: see above; an array of bytes has no alignment.
        unsafe { *to.cast::<[[u8; 8]; WORDS]>() = self.0.map(u64::to_le_bytes) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut u8, bytes: usize) {
        let copy = self.0.map(u64::to_le_bytes);
        // SAFETY: see above.
        unsafe { to.copy_from_nonoverlapping(copy.as_ptr().cast(), bytes) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        let mut sum = self;
        for (sum, other) in sum.0.iter_mut().zip(other.0) {
            *sum ^= other;
        }
        sum
    }

    #[inline(always)]
    unsafe fn source(self) -> Self::Source {
        let mut powers = [self; 8];
        for n in 1..8 {
            for word in 0..WORDS {
                powers[n].0[word] = double(powers[n - 1].0[word]);
            }
        }
        powers
    }

    #[inline(always)]
    unsafe fn factor(factor: u8) -> Self::Factor {
        let mut masks = [0; 8];
        for (bit, mask) in masks.iter_mut().enumerate() {
            *mask = u64::from(factor >> bit & 1).wrapping_neg();
        }
        masks
    }

    #[inline(always)]
    unsafe fn mul(source: Self::Source, factor: Self::Factor) -> Self {
        let mut product = [0; WORDS];
        for (power, mask) in source.iter().zip(factor) {
            for (product, word) in product.iter_mut().zip(power.0) {
                *product ^= word & mask;
            }
        }
        Self(product)
    }
}

/// Eight bytes, each times 2.
#[inline(always)]
fn double(bytes: u64) -> u64 {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const REDUCTION: u64 = 0x1d1d_1d1d_1d1d_1d1d;
    let high = bytes & HIGH;
    // All ones in the bytes whose high bit falls out.
    let carried = high | high.wrapping_sub(high >> 7);
    (bytes ^ high) << 1 ^ carried & REDUCTION
}

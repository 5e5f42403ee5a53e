//! The tiers of x86-64.

use std::arch::x86_64::*;

use crate::field::{AFFINE, NIBBLES};
use crate::lanes::{self, Job, Lanes};

/// The functions of a tier: here the shared loops meet the instructions, and are compiled for them.
macro_rules! tier {
    ($tier:ident, $lanes:ty, $features:literal) => {
        pub(crate) mod $tier {
            use super::*;

            /// # Safety
            /// The tier is available; the sum is at least as long as the source.
            #[target_feature(enable = $features)]
            pub unsafe fn xor(sum: &mut [u8], source: &[u8]) {
                // SAFETY: what the caller vouches for.
                unsafe { lanes::xor::<$lanes>(sum, source) }
            }

            /// # Safety
            /// The tier is available; the sum is at least as long as the source.
            #[target_feature(enable = $features)]
            pub unsafe fn mul_add(sum: &mut [u8], factor: u8, source: &[u8]) {
                // SAFETY: what the caller vouches for.
                unsafe { lanes::mul_add::<$lanes>(sum, factor, source) }
            }

            /// # Safety
            /// The tier is available; the job is as its fields say, and nothing else refers to its rows.
            #[target_feature(enable = $features)]
            pub unsafe fn combine(job: Job<'_>) {
                // SAFETY: what the caller vouches for.
                unsafe { lanes::combine::<$lanes>(job) }
            }
        }
    };
}

tier!(avx2, Shuffled, "avx2");
tier!(avx2_gfni, Affine256, "avx2,gfni");
tier!(avx512_gfni, Affine512, "avx512f,avx512bw,gfni");

/// 32 bytes, multiplied by looking up the products of both nibbles.
#[derive(Clone, Copy)]
struct Shuffled(__m256i);

// SAFETY of every block below: the caller of a `Lanes` function vouches for the instructions and for the bytes behind a
// pointer.
impl Lanes for Shuffled {
    const BYTES: usize = 32;
    const WIDE: bool = false;
    const PAIRS: bool = false;
    /// The low and the high nibbles.
    type Source = [__m256i; 2];
    /// The products of each.
    type Factor = [__m256i; 2];

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn load_part(from: *const u8, bytes: usize) -> Self {
        // SAFETY: see above.
        Self(unsafe { load_part_256(from, bytes) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut u8, bytes: usize) {
        // SAFETY: see above.
        unsafe { store_part_256(self.0, to, bytes) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_xor_si256(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn source(self) -> Self::Source {
        // SAFETY: see above.
        unsafe {
            let low = _mm256_set1_epi8(0x0f);
            [_mm256_and_si256(self.0, low), _mm256_and_si256(_mm256_srli_epi64::<4>(self.0), low)]
        }
    }

    #[inline(always)]
    unsafe fn factor(factor: u8) -> Self::Factor {
        let table = NIBBLES[usize::from(factor)].as_ptr();
        // SAFETY: see above; the table has 32 bytes.
        unsafe {
            [
                _mm256_broadcastsi128_si256(_mm_loadu_si128(table.cast())),
                _mm256_broadcastsi128_si256(_mm_loadu_si128(table.add(16).cast())),
            ]
        }
    }

    #[inline(always)]
    unsafe fn mul(source: Self::Source, factor: Self::Factor) -> Self {
        // SAFETY: see above.
        unsafe {
            let [low, high] =
                [_mm256_shuffle_epi8(factor[0], source[0]), _mm256_shuffle_epi8(factor[1], source[1])];
            Self(_mm256_xor_si256(low, high))
        }
    }
}

/// 32 bytes, multiplied by one instruction.
#[derive(Clone, Copy)]
struct Affine256(__m256i);

// SAFETY of every block below: as above.
impl Lanes for Affine256 {
    const BYTES: usize = 32;
    const WIDE: bool = false;
    const PAIRS: bool = true;
    type Source = __m256i;
    /// The matrix of the factor, four times.
    type Factor = __m256i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn load_part(from: *const u8, bytes: usize) -> Self {
        // SAFETY: see above.
        Self(unsafe { load_part_256(from, bytes) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut u8, bytes: usize) {
        // SAFETY: see above.
        unsafe { store_part_256(self.0, to, bytes) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_xor_si256(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn source(self) -> Self::Source {
        self.0
    }

    #[inline(always)]
    unsafe fn factor(factor: u8) -> Self::Factor {
        // SAFETY: see above.
        unsafe { _mm256_set1_epi64x(AFFINE[usize::from(factor)] as i64) }
    }

    #[inline(always)]
    unsafe fn mul(source: Self::Source, factor: Self::Factor) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_gf2p8affine_epi64_epi8::<0>(source, factor) })
    }
}

/// 64 bytes, multiplied by one instruction.
#[derive(Clone, Copy)]
struct Affine512(__m512i);

// SAFETY of every block below: as above.
impl Lanes for Affine512 {
    const BYTES: usize = 64;
    const WIDE: bool = true;
    const PAIRS: bool = true;
    type Source = __m512i;
    /// The matrix of the factor, eight times.
    type Factor = __m512i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_loadu_si512(from.cast()) })
    }

    #[inline(always)]
    unsafe fn load_part(from: *const u8, bytes: usize) -> Self {
        // SAFETY: see above; what the mask leaves out is not touched.
        Self(unsafe { _mm512_maskz_loadu_epi8(mask(bytes), from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut u8, bytes: usize) {
        // SAFETY: see above; what the mask leaves out is not touched.
        unsafe { _mm512_mask_storeu_epi8(to.cast(), mask(bytes), self.0) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_xor_si512(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn source(self) -> Self::Source {
        self.0
    }

    #[inline(always)]
    unsafe fn factor(factor: u8) -> Self::Factor {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi64(AFFINE[usize::from(factor)] as i64) }
    }

    #[inline(always)]
    unsafe fn mul(source: Self::Source, factor: Self::Factor) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_gf2p8affine_epi64_epi8::<0>(source, factor) })
    }
}

/// The mask of the first `bytes` of 64 bytes, which are fewer.
#[inline(always)]
fn mask(bytes: usize) -> __mmask64 {
    (1_u64.wrapping_shl(bytes as u32)).wrapping_sub(1)
}

/// For `n` up to 8, the 32 bytes from `32 - 4 n` on select the first `n` words of 4 bytes.
static WORDS: [[i32; 8]; 2] = [[-1; 8], [0; 8]];

/// # Safety
/// The machine has AVX2; `bytes` bytes follow the pointer, fewer than 32.
#[inline(always)]
unsafe fn load_part_256(from: *const u8, bytes: usize) -> __m256i {
    let words = bytes / 4;
    // SAFETY: the masked load touches the whole words among the bytes only. Those that are left are read one by one.
    unsafe {
        let selected = word_mask(words);
        let whole = _mm256_maskload_epi32(from.cast(), selected);
        if bytes.is_multiple_of(4) {
            return whole;
        }
        let mut word = [0; 4];
        for (n, byte) in word.iter_mut().enumerate().take(bytes % 4) {
            *byte = *from.add(4 * words + n);
        }
        // The word behind the selected ones: selected by the next mask, and not by this one.
        let last = _mm256_andnot_si256(selected, word_mask(words + 1));
        let word = _mm256_set1_epi32(i32::from_le_bytes(word));
        _mm256_or_si256(whole, _mm256_and_si256(last, word))
    }
}

/// # Safety
/// The machine has AVX2; `bytes` bytes follow the pointer, fewer than 32.
#[inline(always)]
unsafe fn store_part_256(vector: __m256i, to: *mut u8, bytes: usize) {
    let mut copy = [0; 32];
    let words = bytes / 4;
    // SAFETY: the masked store touches the whole words among the bytes only. Those that are left are written one by one.
    unsafe {
        _mm256_maskstore_epi32(to.cast(), word_mask(words), vector);
        if !bytes.is_multiple_of(4) {
            _mm256_storeu_si256(copy.as_mut_ptr().cast(), vector);
            for (n, byte) in copy.iter().enumerate().take(bytes).skip(4 * words) {
                *to.add(n) = *byte;
            }
        }
    }
}

/// The mask of the first `words` of 8 words.
///
/// # Safety
/// The machine has AVX2; there are no more than 8 words.
#[inline(always)]
unsafe fn word_mask(words: usize) -> __m256i {
    // SAFETY: the 32 bytes begin at most 32 bytes before the middle of the 64.
    unsafe { _mm256_loadu_si256(WORDS.as_ptr().cast::<i32>().add(8 - words).cast()) }
}

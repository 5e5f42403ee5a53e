//! The choice of a tier, and the checks that stand before its instructions.

use std::fmt;
use std::sync::OnceLock;

use crate::lanes::Job;
use crate::portable;
use crate::rows::Rows;
#[cfg(target_arch = "x86_64")]
use crate::x86::{avx2, avx2_gfni, avx512_gfni};

/// A set of instructions that the kernels are written for, the slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Integer arithmetic, on any machine.
    Portable,
    /// 32 bytes at a time: two byte shuffles look the products up by nibbles.
    Avx2,
    /// 32 bytes at a time, multiplied by one instruction.
    Avx2Gfni,
    /// 64 bytes at a time, multiplied by one instruction; masks make short ends cheap.
    Avx512Gfni,
}

impl Tier {
    /// All tiers, the slowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx2Gfni, Self::Avx512Gfni];

    /// Whether this machine has the instructions.
    #[must_use]
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Portable => true,
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            Self::Avx2Gfni => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("gfni"),
            Self::Avx512Gfni => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("gfni")
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        matches!(self, Self::Portable)
    }

    /// The tiers of this machine, the slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|tier| tier.is_available())
    }

    /// The fastest tier of this machine.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Tier> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().unwrap_or(Self::Portable))
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::Avx2Gfni => "AVX2+GFNI",
            Self::Avx512Gfni => "AVX-512+GFNI",
        })
    }
}

/// One source of a combination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Term<'a> {
    /// Its bytes. Where they are fewer than those of the rows, zeros follow.
    pub source: &'a [u8],
    /// What it is multiplied by: one factor for each row.
    pub factors: &'a [u8],
}

/// The byte kernels of a tier that this machine has. They allocate nothing.
///
/// Invariant: the tier is available, which makes its instructions safe to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Tier);

impl Kernel {
    /// The kernels of the fastest tier.
    #[must_use]
    pub fn best() -> Self {
        Self(Tier::best())
    }

    /// The kernels of this tier, if the machine has its instructions.
    #[must_use]
    pub fn of(tier: Tier) -> Option<Self> {
        tier.is_available().then_some(Self(tier))
    }

    /// Whose kernels these are.
    #[must_use]
    pub fn tier(self) -> Tier {
        self.0
    }

    /// `sum += source`, which in this field is exclusive or. The source may be the shorter one.
    ///
    /// # Panics
    /// The source is longer than the sum.
    pub fn xor(self, sum: &mut [u8], source: &[u8]) {
        assert!(source.len() <= sum.len(), "a source of {} bytes for a sum of {}", source.len(), sum.len());
        // SAFETY: the tier is available, and the sum is at least as long as the source.
        unsafe {
            match self.0 {
                #[cfg(target_arch = "x86_64")]
                Tier::Avx512Gfni => avx512_gfni::xor(sum, source),
                #[cfg(target_arch = "x86_64")]
                Tier::Avx2Gfni => avx2_gfni::xor(sum, source),
                #[cfg(target_arch = "x86_64")]
                Tier::Avx2 => avx2::xor(sum, source),
                _ => portable::xor(sum, source),
            }
        }
    }

    /// `sum += factor * source`. The source may be the shorter one.
    ///
    /// # Panics
    /// The source is longer than the sum.
    pub fn mul_add(self, sum: &mut [u8], factor: u8, source: &[u8]) {
        assert!(source.len() <= sum.len(), "a source of {} bytes for a sum of {}", source.len(), sum.len());
        // SAFETY: the tier is available, and the sum is at least as long as the source.
        unsafe {
            match self.0 {
                #[cfg(target_arch = "x86_64")]
                Tier::Avx512Gfni => avx512_gfni::mul_add(sum, factor, source),
                #[cfg(target_arch = "x86_64")]
                Tier::Avx2Gfni => avx2_gfni::mul_add(sum, factor, source),
                #[cfg(target_arch = "x86_64")]
                Tier::Avx2 => avx2::mul_add(sum, factor, source),
                _ => portable::mul_add(sum, factor, source),
            }
        }
    }

    /// `row[i] = sum of term.factors[i] * term.source over the terms`, for all rows in one pass over the sources.
    ///
    /// This is the fast way to encode: sums stay in registers while sources stream by, so neither is read twice from
    /// memory. Many sources for few rows are best; with no terms the rows become zero.
    ///
    /// # Panics
    /// A term has a source longer than the rows, or another number of factors than there are rows.
    pub fn combine(self, rows: Rows<'_>, terms: &[Term<'_>]) {
        self.run(rows, terms, false);
    }

    /// `row[i] += sum of term.factors[i] * term.source over the terms`; see [`combine`](Self::combine).
    ///
    /// # Panics
    /// A term has a source longer than the rows, or another number of factors than there are rows.
    pub fn combine_add(self, rows: Rows<'_>, terms: &[Term<'_>]) {
        self.run(rows, terms, true);
    }

    fn run(self, rows: Rows<'_>, terms: &[Term<'_>], add: bool) {
        let Rows { buffer, stride, count, bytes } = rows;
        let mut shortest = bytes;
        for term in terms {
            assert!(term.source.len() <= bytes, "a source of {} bytes, rows of {bytes}", term.source.len());
            assert!(term.factors.len() == count, "{} factors for {count} rows", term.factors.len());
            shortest = shortest.min(term.source.len());
        }
        let job = Job { rows: buffer.as_mut_ptr(), stride, count, bytes, terms, shortest, add };
        // SAFETY: the tier is available. `Rows` has checked that the rows lie in the buffer, one after the other, and the
        // buffer is borrowed for this call alone. The loop above has checked the terms.
        unsafe {
            match self.0 {
                #[cfg(target_arch = "x86_64")]
                Tier::Avx512Gfni => avx512_gfni::combine(job),
                #[cfg(target_arch = "x86_64")]
                Tier::Avx2Gfni => avx2_gfni::combine(job),
                #[cfg(target_arch = "x86_64")]
                Tier::Avx2 => avx2::combine(job),
                _ => portable::combine(job),
            }
        }
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::best()
    }
}

//! The kernels for vectors of any width: what a tier must offer, and the loops that all tiers share.

use crate::kernel::Term;

/// A vector of bytes.
///
/// All functions are inlined into one that has the tier's instructions enabled, and only then is there a vector at all.
///
/// # Safety
/// Every function needs the instructions of the tier; loads and stores need as many bytes behind the pointer as they touch,
/// which is [`BYTES`](Self::BYTES), or `bytes` if those are fewer.
pub(crate) trait Lanes: Copy {
    /// Bytes of a vector.
    const BYTES: usize;
    /// Whether there are 32 registers, not 16: it decides how many sums stay in them.
    const WIDE: bool;
    /// Whether sources are taken in pairs: faster, unless they take up too many registers.
    const PAIRS: bool;
    /// A vector made ready to be multiplied by many factors.
    type Source: Copy;
    /// A factor made ready to multiply many vectors.
    type Factor: Copy;

    unsafe fn zero() -> Self;
    unsafe fn load(from: *const u8) -> Self;
    /// Zeros follow the first `bytes` bytes, which are fewer than a vector.
    unsafe fn load_part(from: *const u8, bytes: usize) -> Self;
    unsafe fn store(self, to: *mut u8);
    /// Writes the first `bytes` bytes only, which are fewer than a vector.
    unsafe fn store_part(self, to: *mut u8, bytes: usize);
    unsafe fn xor(self, other: Self) -> Self;
    unsafe fn source(self) -> Self::Source;
    unsafe fn factor(factor: u8) -> Self::Factor;
    unsafe fn mul(source: Self::Source, factor: Self::Factor) -> Self;
}

/// `sum += source`.
///
/// # Safety
/// As [`Lanes`]; the sum is at least as long as the source.
#[inline(always)]
pub(crate) unsafe fn xor<L: Lanes>(sum: &mut [u8], source: &[u8]) {
    // SAFETY: the caller vouches for the instructions and the lengths.
    unsafe { update::<L, false>(sum, 1, source) }
}

/// `sum += factor * source`.
///
/// # Safety
/// As [`Lanes`]; the sum is at least as long as the source.
#[inline(always)]
pub(crate) unsafe fn mul_add<L: Lanes>(sum: &mut [u8], factor: u8, source: &[u8]) {
    // SAFETY: the caller vouches for the instructions and the lengths.
    unsafe { update::<L, true>(sum, factor, source) }
}

/// Adds the source, multiplied by the factor if `MULTIPLY` is set, vector by vector.
///
/// # Safety
/// As [`Lanes`]; the sum is at least as long as the source.
#[inline(always)]
unsafe fn update<L: Lanes, const MULTIPLY: bool>(sum: &mut [u8], factor: u8, source: &[u8]) {
    const UNROLL: usize = 4;
    let (mut to, mut from, mut rest) = (sum.as_mut_ptr(), source.as_ptr(), source.len());
    // SAFETY: `rest` bytes follow `from`, and no fewer follow `to`.
    unsafe {
        let factor = L::factor(factor);
        while rest >= UNROLL * L::BYTES {
            for n in 0..UNROLL {
                let to = to.add(n * L::BYTES);
                product::<L, MULTIPLY>(L::load(from.add(n * L::BYTES)), factor).xor(L::load(to)).store(to);
            }
            (to, from) = (to.add(UNROLL * L::BYTES), from.add(UNROLL * L::BYTES));
            rest -= UNROLL * L::BYTES;
        }
        while rest >= L::BYTES {
            product::<L, MULTIPLY>(L::load(from), factor).xor(L::load(to)).store(to);
            (to, from) = (to.add(L::BYTES), from.add(L::BYTES));
            rest -= L::BYTES;
        }
        if rest > 0 {
            let sum = product::<L, MULTIPLY>(L::load_part(from, rest), factor).xor(L::load_part(to, rest));
            sum.store_part(to, rest);
        }
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn product<L: Lanes, const MULTIPLY: bool>(source: L, factor: L::Factor) -> L {
    // SAFETY: the caller vouches for the instructions.
    if MULTIPLY { unsafe { L::mul(source.source(), factor) } } else { source }
}

/// The arguments of [`combine`].
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    /// `count` rows of `bytes` bytes, each `stride` bytes after the last.
    pub rows: *mut u8,
    pub stride: usize,
    pub count: usize,
    pub bytes: usize,
    /// Sources of at most `bytes` bytes, with `count` factors each.
    pub terms: &'a [Term<'a>],
    /// Bytes that every source has at least.
    pub shortest: usize,
    /// Whether the terms are added to what is in the rows.
    pub add: bool,
}

/// Computes a combination, strip by strip: the bytes that all sources have in a strip stay in the nearest cache while one
/// panel of rows after the other multiplies them.
///
/// # Safety
/// As [`Lanes`]; the job is as its fields say, and nothing else refers to its rows.
#[inline(always)]
pub(crate) unsafe fn combine<L: Lanes>(job: Job<'_>) {
    if job.count == 0 {
        return;
    }
    // Panels of equal height: with eight rows and then two, the two would pay for loads and masks alone.
    let panels = job.count.div_ceil(if L::WIDE { 8 } else { 4 });
    let height = job.count.div_ceil(panels);
    let mut at = 0;
    while at < job.bytes {
        let rest = job.bytes - at;
        // SAFETY: the caller vouches for the job, and `at` lies within its rows.
        unsafe {
            if L::WIDE && height <= 4 && rest > 3 * L::BYTES {
                strip::<L, 4>(job, height, at);
                at += 4 * L::BYTES;
            } else if L::WIDE && height <= 4 && rest > 2 * L::BYTES {
                strip::<L, 3>(job, height, at);
                at += 3 * L::BYTES;
            } else if rest > L::BYTES {
                strip::<L, 2>(job, height, at);
                at += 2 * L::BYTES;
            } else {
                strip::<L, 1>(job, height, at);
                at += L::BYTES;
            }
        }
    }
}

/// Computes the bytes from `at` on that fill `COLUMNS` vectors, or end the rows, in panels of `height` rows.
///
/// # Safety
/// As [`combine`]; `at` lies within the rows.
#[inline(always)]
unsafe fn strip<L: Lanes, const COLUMNS: usize>(job: Job<'_>, height: usize, at: usize) {
    let whole = at + COLUMNS * L::BYTES <= job.shortest;
    let mut row = 0;
    while row < job.count {
        let rows = height.min(job.count - row);
        // SAFETY: the panel lies within the job, and `whole` is what `panel` asks for.
        unsafe {
            match rows {
                1 => panel::<L, 1, COLUMNS>(job, row, at, whole),
                2 => panel::<L, 2, COLUMNS>(job, row, at, whole),
                3 => panel::<L, 3, COLUMNS>(job, row, at, whole),
                4 => panel::<L, 4, COLUMNS>(job, row, at, whole),
                // Higher panels have few columns and all registers.
                5 if L::WIDE && COLUMNS <= 2 => panel::<L, 5, COLUMNS>(job, row, at, whole),
                6 if L::WIDE && COLUMNS <= 2 => panel::<L, 6, COLUMNS>(job, row, at, whole),
                7 if L::WIDE && COLUMNS <= 2 => panel::<L, 7, COLUMNS>(job, row, at, whole),
                8 if L::WIDE && COLUMNS <= 2 => panel::<L, 8, COLUMNS>(job, row, at, whole),
                _ => unreachable!("a panel of {rows} rows and {COLUMNS} columns"),
            }
        }
        row += rows;
    }
}

/// Computes `ROWS` rows from `row` on, in the strip at `at`, with all sums in registers.
///
/// # Safety
/// As [`combine`]; the rows exist, `at` lies within them, and `whole` tells that every source fills the strip.
#[inline(always)]
unsafe fn panel<L: Lanes, const ROWS: usize, const COLUMNS: usize>(
    job: Job<'_>,
    row: usize,
    at: usize,
    whole: bool,
) {
    // SAFETY: `row + ROWS` is at most `count`, so every pointer is to a row of the job, and each term has a factor for each
    // of these rows. If `whole` is set, sources and rows have all bytes of the strip; if not, `load` and the stores touch
    // as many as there are.
    unsafe {
        let corner = job.rows.add(row.wrapping_mul(job.stride)).add(at);
        let mut sums = [[L::zero(); COLUMNS]; ROWS];
        if job.add {
            for (n, sums) in sums.iter_mut().enumerate() {
                let from = corner.add(n.wrapping_mul(job.stride));
                for (column, sum) in sums.iter_mut().enumerate() {
                    *sum = load::<L>(from, job.bytes - at, column);
                }
            }
        }
        if whole {
            // Two products at once: an instruction with three operands adds both, if there is one.
            let (pairs, odd) = job.terms.split_at(if L::PAIRS { job.terms.len() & !1 } else { 0 });
            for pair in pairs.as_chunks::<2>().0 {
                let factors = pair.map(|term| term.factors.as_ptr().add(row));
                let mut sources = [[L::zero().source(); COLUMNS]; 2];
                for (sources, term) in sources.iter_mut().zip(pair) {
                    for (column, source) in sources.iter_mut().enumerate() {
                        *source = L::load(term.source.as_ptr().add(at + column * L::BYTES)).source();
                    }
                }
                for (n, sums) in sums.iter_mut().enumerate() {
                    let (one, two) = (L::factor(*factors[0].add(n)), L::factor(*factors[1].add(n)));
                    for (column, sum) in sums.iter_mut().enumerate() {
                        let products = L::mul(sources[0][column], one).xor(L::mul(sources[1][column], two));
                        *sum = sum.xor(products);
                    }
                }
            }
            for term in odd {
                let mut source = [L::zero().source(); COLUMNS];
                for (column, source) in source.iter_mut().enumerate() {
                    *source = L::load(term.source.as_ptr().add(at + column * L::BYTES)).source();
                }
                accumulate(&mut sums, source, term.factors.as_ptr().add(row));
            }
        } else {
            for term in job.terms {
                let Some(rest @ 1..) = term.source.len().checked_sub(at) else { continue };
                let mut source = [L::zero().source(); COLUMNS];
                for (column, source) in source.iter_mut().enumerate() {
                    *source = load::<L>(term.source.as_ptr().add(at), rest, column).source();
                }
                accumulate(&mut sums, source, term.factors.as_ptr().add(row));
            }
        }
        for (n, sums) in sums.into_iter().enumerate() {
            let to = corner.add(n.wrapping_mul(job.stride));
            for (column, sum) in sums.into_iter().enumerate() {
                let start = column * L::BYTES;
                if whole || start + L::BYTES <= job.bytes - at {
                    sum.store(to.add(start));
                } else if start < job.bytes - at {
                    sum.store_part(to.add(start), job.bytes - at - start);
                }
            }
        }
    }
}

/// Adds a source, multiplied by `ROWS` factors, to as many rows.
///
/// # Safety
/// As [`Lanes`]; `ROWS` factors follow the pointer.
#[inline(always)]
unsafe fn accumulate<L: Lanes, const ROWS: usize, const COLUMNS: usize>(
    sums: &mut [[L; COLUMNS]; ROWS],
    source: [L::Source; COLUMNS],
    factors: *const u8,
) {
    for (n, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller vouches for the instructions and the factors.
        unsafe {
            let factor = L::factor(*factors.add(n));
            for (sum, source) in sums.iter_mut().zip(source) {
                *sum = sum.xor(L::mul(source, factor));
            }
        }
    }
}

/// The vector at a column of `rest` bytes that follow the pointer, with zeros behind them.
///
/// # Safety
/// As [`Lanes`]; `rest` bytes follow the pointer.
#[inline(always)]
unsafe fn load<L: Lanes>(from: *const u8, rest: usize, column: usize) -> L {
    let start = column * L::BYTES;
    // SAFETY: only bytes before `rest` are touched.
    unsafe {
        if start + L::BYTES <= rest {
            L::load(from.add(start))
        } else if start < rest {
            L::load_part(from.add(start), rest - start)
        } else {
            L::zero()
        }
    }
}

//! The coefficients of the code, and the inverse of any square part of them.

use parhelion_galois::{exp, inv, log};

/// A Cauchy matrix of `c` repairs over `r` source symbols: `1 / (x + y)`, where `y` is the number of the source symbol and
/// `x` is `r` plus that of the repair. Every square part of it is again one, and has an inverse in closed form.
pub(crate) struct Cauchy {
    r: usize,
    c: usize,
    /// Column after column: what a source symbol is multiplied by for each repair.
    columns: Vec<u8>,
}

impl Cauchy {
    /// The matrix for `r + c` of at most 256 symbols: each needs an element of the field of its own.
    pub fn new(r: u32, c: u32) -> Self {
        // In this field the sum of two elements is their exclusive or.
        let columns = (0..r).flat_map(|y| (r..r + c).map(move |x| inv((x ^ y) as u8))).collect();
        Self { r: r as usize, c: c as usize, columns }
    }

    pub fn r(&self) -> usize {
        self.r
    }

    pub fn c(&self) -> usize {
        self.c
    }

    /// What a source symbol is multiplied by for each repair.
    pub fn column(&self, symbol: usize) -> &[u8] {
        &self.columns[symbol * self.c..][..self.c]
    }

    /// Inverts the part with these repairs and these source symbols, as many and all different.
    ///
    /// With `e` of each, `inverse[n * e + k]` is what the nth repair's share is multiplied by for the kth symbol:
    ///
    /// ```text
    ///   prod_m (x_n + y_m)       prod_m (x_m + y_k)              1
    ///  -------------------- * ----------------------- * -----------
    ///  prod_m!=n (x_n + x_m)   prod_m!=k (y_k + y_m)     x_n + y_k
    /// ```
    pub fn invert(&self, repairs: &[u8], symbols: &[u8], inverse: &mut [u8]) {
        let e = symbols.len();
        let (mut of_repairs, mut of_symbols) = ([0; REPAIRS_MAX], [0; REPAIRS_MAX]);
        let mut points = [0; REPAIRS_MAX];
        for (x, repair) in points.iter_mut().zip(repairs) {
            *x = self.r as u8 + repair;
        }
        let points = &points[..e];
        for n in 0..e {
            of_repairs[n] = quotient(points[n], symbols, points);
            of_symbols[n] = quotient(symbols[n], points, symbols);
        }
        for ((row, x), of_repair) in inverse.chunks_exact_mut(e).zip(points).zip(of_repairs) {
            for ((inverse, y), of_symbol) in row.iter_mut().zip(symbols).zip(of_symbols) {
                *inverse = exp(of_repair + of_symbol + LOG_MODULUS - u32::from(log(x ^ y)));
            }
        }
    }
}

/// Most repairs of a block.
pub(crate) const REPAIRS_MAX: usize = 64;

/// The order of 2: logarithms count modulo it.
const LOG_MODULUS: u32 = 255;

/// The logarithm of the product of `point` plus each of `above`, divided by that for each of `below` but itself.
fn quotient(point: u8, above: &[u8], below: &[u8]) -> u32 {
    // The point itself counts for nothing: the logarithm of zero is the modulus.
    let sum = |others: &[u8]| others.iter().map(|other| u32::from(log(point ^ other))).sum::<u32>();
    (sum(above) + REPAIRS_MAX as u32 * LOG_MODULUS - sum(below)) % LOG_MODULUS
}

#[cfg(test)]
mod tests {
    use parhelion_galois::mul;
    use parhelion_plugin::conformance::SplitMix64;

    use super::*;

    /// `count` of the numbers below `n`, in any order.
    fn choose(n: usize, count: usize, random: &mut SplitMix64) -> Vec<u8> {
        let mut all: Vec<u8> = (0..n as u8).collect();
        random.shuffle(&mut all);
        all.truncate(count);
        all
    }

    /// Whether the closed form times the part is the identity.
    fn check(matrix: &Cauchy, repairs: &[u8], symbols: &[u8]) {
        let e = symbols.len();
        let mut inverse = vec![0; e * e];
        matrix.invert(repairs, symbols, &mut inverse);
        for k in 0..e {
            for (column, &symbol) in symbols.iter().enumerate() {
                let product = (0..e).fold(0, |sum, n| {
                    let coefficient = matrix.column(usize::from(symbol))[usize::from(repairs[n])];
                    sum ^ mul(inverse[n * e + k], coefficient)
                });
                assert_eq!(product, u8::from(k == column), "repairs {repairs:?}, symbols {symbols:?}");
            }
        }
    }

    /// Every square part of a small matrix.
    #[test]
    fn every_small_part_is_inverted() {
        let matrix = Cauchy::new(7, 5);
        let subset = |bits: u32, n: u8| (0..n).filter(|bit| bits >> bit & 1 != 0).collect::<Vec<_>>();
        for repairs in (1..1 << 5).map(|bits| subset(bits, 5)) {
            for symbols in (1..1 << 7).map(|bits| subset(bits, 7)).filter(|s| s.len() == repairs.len()) {
                check(&matrix, &repairs, &symbols);
            }
        }
    }

    #[test]
    fn random_parts_of_the_largest_are_inverted() {
        let mut random = SplitMix64::new(41);
        for (r, c) in [(192, 64), (254, 2), (1, 64), (200, 40), (64, 64)] {
            let matrix = Cauchy::new(r, c);
            for e in (1..=r.min(c)).step_by(7).chain([r.min(c)]) {
                let repairs = choose(c as usize, e as usize, &mut random);
                check(&matrix, &repairs, &choose(r as usize, e as usize, &mut random));
            }
        }
    }
}

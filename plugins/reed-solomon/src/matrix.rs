//! The parity rows of the code, and how bytes and small systems run through them.

use reed_solomon_erasure::galois_8;

/// The coefficients of `c` parity rows over `r` source symbols. Every square part of it is invertible.
///
/// These are the rows of `reed-solomon-erasure`, which multiplies a Vandermonde matrix by the inverse of its upper
/// part. Source symbols are then the values of a polynomial of degree below `r` at the points 0 to r - 1, and
/// repairs its values at the points from r on; so a coefficient is a Lagrange basis polynomial at such a point. The
/// products below need no inverse: a code of 191 and 64 symbols is ready in microseconds, not in tens of milliseconds.
pub(crate) struct ParityMatrix {
    r: usize,
    c: usize,
    /// Row after row.
    coefficients: Vec<u8>,
}

impl ParityMatrix {
    /// The rows for `r + c` of at most 255 symbols.
    pub fn new(r: u32, c: u32) -> Self {
        let product = |factors: &mut dyn Iterator<Item = u8>| factors.fold(1, galois_8::mul);
        // In this field the difference of two elements is their exclusive or.
        let points = 0..r as u8;
        let own: Vec<u8> =
            points.clone().map(|j| product(&mut points.clone().filter(|&m| m != j).map(|m| j ^ m))).collect();
        let mut coefficients = Vec::with_capacity((r * c) as usize);
        for x in (r as u8..).take(c as usize) {
            let all = product(&mut points.clone().map(|m| x ^ m));
            coefficients.extend(
                points.clone().zip(&own).map(|(j, &own)| galois_8::div(all, galois_8::mul(x ^ j, own))),
            );
        }
        Self { r: r as usize, c: c as usize, coefficients }
    }

    pub fn r(&self) -> usize {
        self.r
    }

    pub fn c(&self) -> usize {
        self.c
    }

    pub fn at(&self, row: usize, symbol: usize) -> u8 {
        self.coefficients[row * self.r + symbol]
    }
}

/// Adds `factor * symbol` to the start of `sum`, which is at least as long.
pub(crate) fn add_product(sum: &mut [u8], factor: u8, symbol: &[u8]) {
    if factor != 0 && !symbol.is_empty() {
        galois_8::mul_slice_xor(factor, symbol, &mut sum[..symbol.len()]);
    }
}

/// Solves `a * x = b` in place for a square `a` of `e` rows and rows `b` of `bytes` bytes at `at(row) * stride`.
///
/// Gauss-Jordan elimination on the bytes themselves, which costs as many byte products as applying the inverse
/// would. On return row `n` of `b` is `x[n]`, times `a[n][n]` which [`divide`] takes away. False if `a` is singular,
/// which no part of a [`ParityMatrix`] is.
pub(crate) fn eliminate(a: &mut [u8], e: usize, b: &mut Rows<'_>) -> bool {
    for pivot in 0..e {
        let Some(row) = (pivot..e).find(|&row| a[row * e + pivot] != 0) else { return false };
        if row != pivot {
            for column in 0..e {
                a.swap(row * e + column, pivot * e + column);
            }
            b.at.swap(row, pivot);
        }
        for row in (0..e).filter(|&row| row != pivot) {
            if a[row * e + pivot] == 0 {
                continue;
            }
            let factor = galois_8::div(a[row * e + pivot], a[pivot * e + pivot]);
            for column in 0..e {
                a[row * e + column] ^= galois_8::mul(factor, a[pivot * e + column]);
            }
            b.add_product(row, factor, pivot);
        }
    }
    true
}

/// `out = row / pivot`, byte by byte; `pivot` is not zero.
pub(crate) fn divide(row: &[u8], pivot: u8, out: &mut [u8]) {
    if !row.is_empty() {
        galois_8::mul_slice(galois_8::div(1, pivot), row, out);
    }
}

/// Rows of equal length that lie anywhere in one buffer.
pub(crate) struct Rows<'a> {
    /// The buffer.
    pub buffer: &'a mut [u8],
    /// Where each row starts, `stride` bytes each.
    pub at: &'a mut [usize],
    /// Room for one row.
    pub stride: usize,
    /// Bytes of a row in use.
    pub bytes: usize,
}

impl Rows<'_> {
    pub fn get(&self, row: usize) -> &[u8] {
        let start = self.at[row] * self.stride;
        &self.buffer[start..start + self.bytes]
    }

    /// Adds `factor` times row `from` to row `to`, another one.
    fn add_product(&mut self, to: usize, factor: u8, from: usize) {
        let (to, from) = (self.at[to] * self.stride, self.at[from] * self.stride);
        let (low, high) = self.buffer.split_at_mut(to.max(from));
        let (to, from) = if to < from {
            (&mut low[to..to + self.bytes], &high[..self.bytes])
        } else {
            (&mut high[..self.bytes], &low[from..from + self.bytes])
        };
        add_product(to, factor, from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The crate's own encoder is the oracle.
    #[test]
    fn the_rows_are_those_of_the_crate() {
        for (r, c) in [(1, 1), (3, 2), (8, 3), (20, 5), (191, 64)] {
            let matrix = ParityMatrix::new(r, c);
            let data: Vec<Vec<u8>> =
                (0..r as usize).map(|n| (0..7).map(|k| (n * 31 + k * 17 + 5) as u8).collect()).collect();
            let mut expected = vec![vec![0; 7]; c as usize];
            galois_8::ReedSolomon::new(r as usize, c as usize)
                .unwrap()
                .encode_sep(&data, &mut expected)
                .unwrap();
            for (row, expected) in expected.iter().enumerate() {
                let mut sum = vec![0; 7];
                for (symbol, bytes) in data.iter().enumerate() {
                    add_product(&mut sum, matrix.at(row, symbol), bytes);
                }
                assert_eq!(&sum, expected, "row {row} of ({r}, {c})");
            }
        }
    }

    #[test]
    fn systems_are_solved() {
        let matrix = ParityMatrix::new(9, 4);
        let lost = [1, 4, 5, 8];
        let x = [[3_u8, 1], [4, 1], [5, 9], [2, 6]];
        let mut a: Vec<u8> = (0..4).flat_map(|row| lost.map(|symbol| matrix.at(row, symbol))).collect();
        let mut buffer = vec![0; 8];
        for row in 0..4 {
            for (n, x) in x.iter().enumerate() {
                add_product(&mut buffer[row * 2..], a[row * 4 + n], x);
            }
        }
        let mut at = [0, 1, 2, 3];
        let mut rows = Rows { buffer: &mut buffer, at: &mut at, stride: 2, bytes: 2 };
        assert!(eliminate(&mut a, 4, &mut rows));
        for (n, x) in x.iter().enumerate() {
            let mut out = [0; 2];
            divide(rows.get(n), a[n * 4 + n], &mut out);
            assert_eq!(out, *x);
        }
        let (mut singular, mut at) = (vec![1, 2, 1, 2], [0, 1]);
        assert!(!eliminate(
            &mut singular,
            2,
            &mut Rows { buffer: &mut buffer, at: &mut at, stride: 2, bytes: 2 }
        ));
    }
}

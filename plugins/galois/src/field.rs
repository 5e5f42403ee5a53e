//! The field GF(2^8) with the polynomial 0x11d, element by element, and the tables of the kernels.

/// The polynomial x^8 + x^4 + x^3 + x^2 + 1, of which 2 is a primitive element.
pub const POLYNOMIAL: u16 = 0x11d;

/// The product of two elements.
#[must_use]
#[inline]
pub const fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 { 0 } else { EXP[LOG[a as usize] as usize + LOG[b as usize] as usize] }
}

/// The inverse of an element; 0 for 0, which has none.
#[must_use]
#[inline]
pub const fn inv(a: u8) -> u8 {
    if a == 0 { 0 } else { EXP[255 - LOG[a as usize] as usize] }
}

/// The quotient of two elements; 0 for a divisor of 0, which there is none for.
#[must_use]
#[inline]
pub const fn div(a: u8, b: u8) -> u8 {
    mul(a, inv(b))
}

/// 2 to the power of `n`. With [`log`] products become sums, which is faster where there are many factors.
#[must_use]
#[inline]
pub const fn exp(n: u32) -> u8 {
    if (n as usize) < EXP.len() { EXP[n as usize] } else { EXP[(n % 255) as usize] }
}

/// The power of 2, below 255, that an element is; 255 for 0, which is none.
#[must_use]
#[inline]
pub const fn log(a: u8) -> u8 {
    LOG[a as usize]
}

const TABLES: ([u8; 765], [u8; 256]) = {
    let (mut exp, mut log) = ([0; 765], [255; 256]);
    let (mut power, mut n): (u16, usize) = (1, 0);
    while n < 255 {
        exp[n] = power as u8;
        log[power as usize] = n as u8;
        power <<= 1;
        if power & 0x100 != 0 {
            power ^= POLYNOMIAL;
        }
        n += 1;
    }
    // Three times, so that the sum of three logarithms needs no modulus.
    while n < 765 {
        exp[n] = exp[n - 255];
        n += 1;
    }
    (exp, log)
};

static EXP: [u8; 765] = TABLES.0;
static LOG: [u8; 256] = TABLES.1;

/// For each factor its products with the low nibbles 0 to 15, then with the high nibbles 0x00 to 0xf0: what a byte shuffle
/// looks up.
#[cfg(target_arch = "x86_64")]
pub(crate) static NIBBLES: [[u8; 32]; 256] = {
    let mut table = [[0; 32]; 256];
    let mut factor = 0;
    while factor < 256 {
        let mut nibble = 0;
        while nibble < 16 {
            table[factor][nibble] = mul(factor as u8, nibble as u8);
            table[factor][16 + nibble] = mul(factor as u8, (nibble << 4) as u8);
            nibble += 1;
        }
        factor += 1;
    }
    table
};

/// For each factor the 8 by 8 matrix over GF(2) that multiplies by it, as the instruction `gf2p8affineqb` reads it: byte
/// `7 - i` has the bits of the argument of which bit `i` of the product is the sum.
///
/// The instruction `gf2p8mulb` is no help: it multiplies modulo 0x11b only.
#[cfg(target_arch = "x86_64")]
pub(crate) static AFFINE: [u64; 256] = {
    let mut table = [0; 256];
    let mut factor = 0;
    while factor < 256 {
        let mut matrix = [0_u8; 8];
        let mut column = 0;
        while column < 8 {
            let product = mul(factor as u8, 1 << column);
            let mut row = 0;
            while row < 8 {
                matrix[7 - row] |= (product >> row & 1) << column;
                row += 1;
            }
            column += 1;
        }
        table[factor] = u64::from_le_bytes(matrix);
        factor += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplication by its definition: polynomials over GF(2), reduced.
    fn slow_mul(a: u8, b: u8) -> u8 {
        let mut product = 0_u16;
        for bit in 0..8 {
            if b >> bit & 1 != 0 {
                product ^= u16::from(a) << bit;
            }
        }
        for bit in (8..16).rev() {
            if product >> bit & 1 != 0 {
                product ^= POLYNOMIAL << (bit - 8);
            }
        }
        product as u8
    }

    #[test]
    fn products_are_those_of_the_definition() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(mul(a, b), slow_mul(a, b), "{a} * {b}");
            }
        }
    }

    #[test]
    fn inverses_and_logarithms_undo() {
        for a in 1..=255 {
            assert_eq!(mul(a, inv(a)), 1);
            assert_eq!(div(mul(a, 77), 77), a);
            assert_eq!(exp(u32::from(log(a)) + 255 * 3), a);
        }
        assert_eq!((inv(0), div(5, 0), log(0)), (0, 0, 255));
    }
}

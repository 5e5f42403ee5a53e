//! Arithmetic in GF(2^8) on bytes and on whole symbols, for the codes that are linear over it.
//!
//! [`mul`], [`inv`] and their kin work on single elements. A [`Kernel`] works on slices with the fastest instructions
//! that the machine has, chosen at run time: its [`Tier`]. Every tier gives the same bytes.
//!
//! | kernel | what it does | when |
//! |---|---|---|
//! | [`xor`](Kernel::xor) | `sum += source` | all factors are 1 |
//! | [`mul_add`](Kernel::mul_add) | `sum += factor * source` | one source, one sum: elimination |
//! | [`combine`](Kernel::combine), [`combine_add`](Kernel::combine_add) | many sources into a few rows | encoding, and products with an inverse |
//!
//! ```
//! use parhelion_galois::{Kernel, RowBuffer, Term, mul};
//!
//! let sources = [b"longest".as_slice(), b"short"];
//! let terms = [Term { source: sources[0], factors: &[1, 2] }, Term { source: sources[1], factors: &[1, 3] }];
//! let mut sums = RowBuffer::new(2, 7);
//! Kernel::best().combine(sums.rows_mut(0, 2, 7), &terms);
//! assert_eq!(sums.row(1, 7)[4], mul(2, b'e') ^ mul(3, b't'));
//! assert_eq!(sums.row(1, 7)[6], mul(2, b't'));
//! ```

mod field;
mod kernel;
mod lanes;
mod portable;
mod rows;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use field::{POLYNOMIAL, div, exp, inv, log, mul};
pub use kernel::{Kernel, Term, Tier};
pub use rows::{RowBuffer, Rows};

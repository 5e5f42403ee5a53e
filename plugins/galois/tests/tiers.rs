//! Every tier of this machine against the definition of each kernel, element by element.

use parhelion_galois::{Kernel, RowBuffer, Rows, Term, Tier, mul};
use proptest::prelude::*;

/// A tier whose test did not run has not been tested: the output names those that did.
fn kernels() -> Vec<Kernel> {
    Tier::available().map(|tier| Kernel::of(tier).expect("available")).collect()
}

fn bytes(seed: &mut u64, count: usize) -> Vec<u8> {
    (0..count)
        .map(|_| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*seed >> 56) as u8
        })
        .collect()
}

/// What a combination is, by definition.
fn expected(before: &[Vec<u8>], terms: &[(Vec<u8>, Vec<u8>)], add: bool) -> Vec<Vec<u8>> {
    let mut rows = before.to_vec();
    for (row, sums) in rows.iter_mut().enumerate() {
        for (at, sum) in sums.iter_mut().enumerate() {
            let products =
                terms.iter().map(|(source, factors)| mul(factors[row], *source.get(at).unwrap_or(&0)));
            *sum = products.fold(if add { *sum } else { 0 }, |sum, product| sum ^ product);
        }
    }
    rows
}

/// Runs a combination in a buffer with guards around every row, `offset` bytes off any alignment.
fn check_combine(count: usize, length: usize, offset: usize, sources: &[usize], add: bool, mut seed: u64) {
    let terms: Vec<_> =
        sources.iter().map(|&n| (bytes(&mut seed, n.min(length)), bytes(&mut seed, count))).collect();
    let before: Vec<_> = (0..count).map(|_| bytes(&mut seed, length)).collect();
    let expected = expected(&before, &terms, add);
    let stride = length + 1 + offset % 7;
    for kernel in kernels() {
        let mut buffer = vec![0xa5; offset + count * stride];
        for (row, before) in before.iter().enumerate() {
            buffer[offset + row * stride..][..length].copy_from_slice(before);
        }
        // Sources off any alignment too, and with other bytes behind them.
        let copies: Vec<_> =
            terms.iter().map(|(source, _)| [&[7; 3], &source[..], &[9; 70]].concat()).collect();
        let terms: Vec<_> = terms
            .iter()
            .zip(&copies)
            .map(|((source, factors), copy)| Term { source: &copy[3..][..source.len()], factors })
            .collect();
        let rows = Rows::new(&mut buffer[offset..], stride, count, length);
        if add {
            kernel.combine_add(rows, &terms)
        } else {
            kernel.combine(rows, &terms)
        }
        for (row, expected) in expected.iter().enumerate() {
            let (found, guard) = buffer[offset + row * stride..][..stride].split_at(length);
            assert!(found == expected, "{}: row {row} of {count} with {length} bytes", kernel.tier());
            assert!(guard.iter().all(|&byte| byte == 0xa5), "{}: wrote behind row {row}", kernel.tier());
        }
        assert!(buffer[..offset].iter().all(|&byte| byte == 0xa5), "{}: wrote before", kernel.tier());
    }
}

/// All lengths around the widths of vectors and strips, with sources of full length.
#[test]
fn every_length_is_right() {
    for length in (0..=300).chain([511, 512, 513, 1199, 1200, 1201]) {
        for (count, sources) in [(1, 1), (3, 8), (5, 3), (8, 2)] {
            check_combine(count, length, length % 65, &vec![length; sources], length % 2 == 0, length as u64);
        }
    }
}

/// All numbers of rows and of sources: panels of every height, with and without an odd source.
#[test]
fn every_shape_is_right() {
    for count in 0..=64 {
        for sources in [0, 1, 2, 5, 16] {
            check_combine(count, 150, count, &vec![150; sources], sources % 2 == 0, count as u64);
        }
    }
}

/// The affine matrix and the nibble table of every factor, for every byte.
#[test]
fn every_product_is_right() {
    let source: Vec<u8> = (0..=255).collect();
    for kernel in kernels() {
        for factor in 0..=255 {
            let mut sum = vec![0x5a; 256];
            kernel.mul_add(&mut sum, factor, &source);
            let mut one = vec![0x5a; 256];
            kernel.combine_add(Rows::one(&mut one), &[Term { source: &source, factors: &[factor] }]);
            for byte in 0..=255 {
                let expected = 0x5a ^ mul(factor, byte);
                assert_eq!(sum[usize::from(byte)], expected, "{}: {factor} * {byte}", kernel.tier());
                assert_eq!(one[usize::from(byte)], expected, "{}: {factor} * {byte}", kernel.tier());
            }
        }
    }
}

#[test]
fn no_terms_make_zeros() {
    for kernel in kernels() {
        let mut rows = RowBuffer::new(2, 100);
        rows.row_mut(0, 100).fill(7);
        rows.row_mut(1, 100).fill(8);
        kernel.combine_add(rows.rows_mut(0, 2, 100), &[]);
        assert_eq!(rows.row(1, 100), [8; 100]);
        kernel.combine(rows.rows_mut(0, 2, 90), &[]);
        assert_eq!((rows.row(1, 90), &rows.row(0, 100)[90..]), (&[0; 90][..], &[7; 10][..]));
    }
}

#[test]
fn tiers_are_those_of_the_machine() {
    assert_eq!(Tier::available().next(), Some(Tier::Portable));
    assert_eq!(Kernel::best().tier(), Tier::available().last().expect("one at least"));
    assert!(Tier::ALL.into_iter().all(|tier| Kernel::of(tier).is_some() == tier.is_available()));
    println!("tested: {:?}", kernels());
}

#[test]
#[should_panic(expected = "a source of 5 bytes, rows of 4")]
fn a_source_longer_than_the_rows_is_refused() {
    Kernel::best().combine(Rows::one(&mut [0; 4]), &[Term { source: &[0; 5], factors: &[1] }]);
}

#[test]
#[should_panic(expected = "2 factors for 1 rows")]
fn factors_are_as_many_as_rows() {
    Kernel::best().combine(Rows::one(&mut [0; 4]), &[Term { source: &[0; 4], factors: &[1, 2] }]);
}

#[test]
#[should_panic(expected = "a source of 5 bytes for a sum of 4")]
fn a_source_longer_than_the_sum_is_refused() {
    Kernel::best().mul_add(&mut [0; 4], 1, &[0; 5]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn combinations_are_right(
        count in 0usize..45, length in 0usize..700, offset in 0usize..64,
        sources in prop::collection::vec(prop_oneof![Just(usize::MAX), 0usize..700], 0..40),
        add: bool, seed: u64,
    ) {
        check_combine(count, length, offset, &sources, add, seed);
    }

    #[test]
    fn single_sources_are_right(
        length in 0usize..700, shorter in 0usize..700, offset in 0usize..64, factor: u8, mut seed: u64,
    ) {
        let source = bytes(&mut seed, length.saturating_sub(shorter));
        let before = bytes(&mut seed, offset + length);
        let product = |factor| {
            let mut sum = before.clone();
            for (sum, byte) in sum[offset..].iter_mut().zip(&source) {
                *sum ^= mul(factor, *byte);
            }
            sum
        };
        for kernel in kernels() {
            let mut sum = before.clone();
            kernel.mul_add(&mut sum[offset..], factor, &source);
            prop_assert_eq!(&sum, &product(factor), "{}", kernel.tier());
            let mut sum = before.clone();
            kernel.xor(&mut sum[offset..], &source);
            prop_assert_eq!(&sum, &product(1), "{}", kernel.tier());
        }
    }
}

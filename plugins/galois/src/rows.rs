//! Symbols in memory: rows of one buffer.

use std::ops::Range;

/// What a combination writes: rows of equal length, one after the other in one buffer.
///
/// Invariant: the rows lie in the buffer and do not overlap.
#[derive(Debug)]
pub struct Rows<'a> {
    pub(crate) buffer: &'a mut [u8],
    pub(crate) stride: usize,
    pub(crate) count: usize,
    pub(crate) bytes: usize,
}

impl<'a> Rows<'a> {
    /// `count` rows of `bytes` bytes, of which each begins `stride` bytes after the last.
    ///
    /// # Panics
    /// They overlap, or do not fit the buffer.
    #[inline]
    #[must_use]
    pub fn new(buffer: &'a mut [u8], stride: usize, count: usize, bytes: usize) -> Self {
        if count > 0 {
            let needed = (count - 1).checked_mul(stride).and_then(|start| start.checked_add(bytes));
            assert!(
                needed.is_some_and(|needed| needed <= buffer.len()) && (count == 1 || bytes <= stride),
                "{count} rows of {bytes} bytes, {stride} apart, do not fit {} bytes",
                buffer.len()
            );
        }
        Self { buffer, stride, count, bytes }
    }

    /// A single row.
    #[must_use]
    pub fn one(row: &'a mut [u8]) -> Self {
        let bytes = row.len();
        Self { buffer: row, stride: bytes, count: 1, bytes }
    }
}

/// Room for symbols, each in a row that begins with a cache line: a vector that straddles two lines costs two accesses.
#[derive(Debug)]
pub struct RowBuffer {
    bytes: Vec<u8>,
    /// Where the first cache line begins.
    start: usize,
    stride: usize,
}

/// Bytes of a cache line, and of the widest vector.
const LINE_BYTES: usize = 64;

impl RowBuffer {
    /// `count` rows of at least `row_bytes` bytes, all zero.
    #[must_use]
    pub fn new(count: usize, row_bytes: usize) -> Self {
        // An odd number of lines apart: rows a power of two apart would compete for the same few lines of the cache.
        let stride = (row_bytes.div_ceil(LINE_BYTES) | 1) * LINE_BYTES;
        let bytes = vec![0; count * stride + LINE_BYTES - 1];
        // Any offset is right; only speed depends on it.
        let start = bytes.as_ptr().align_offset(LINE_BYTES).min(LINE_BYTES - 1);
        Self { bytes, start, stride }
    }

    /// The first `bytes` bytes of a row.
    ///
    /// # Panics
    /// There is no such row, or it has fewer bytes.
    #[must_use]
    #[inline]
    pub fn row(&self, row: usize, bytes: usize) -> &[u8] {
        &self.bytes[self.range(row, bytes)]
    }

    /// The first `bytes` bytes of a row, to write.
    ///
    /// # Panics
    /// There is no such row, or it has fewer bytes.
    #[must_use]
    #[inline]
    pub fn row_mut(&mut self, row: usize, bytes: usize) -> &mut [u8] {
        let range = self.range(row, bytes);
        &mut self.bytes[range]
    }

    /// The first `bytes` bytes of `count` rows from `first` on, to write all at once.
    ///
    /// # Panics
    /// There are no such rows, or they have fewer bytes.
    #[must_use]
    #[inline]
    pub fn rows_mut(&mut self, first: usize, count: usize, bytes: usize) -> Rows<'_> {
        let start = self.start + first * self.stride;
        Rows::new(&mut self.bytes[start..], self.stride, count, bytes)
    }

    #[inline]
    fn range(&self, row: usize, bytes: usize) -> Range<usize> {
        assert!(bytes <= self.stride, "{bytes} bytes of a row of {}", self.stride);
        let start = self.start + row * self.stride;
        start..start + bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_begin_with_a_line_and_stay_apart() {
        let mut buffer = RowBuffer::new(3, 1200);
        for row in 0..3 {
            buffer.row_mut(row, 1200).fill(row as u8 + 1);
        }
        for row in 0..3 {
            assert_eq!(buffer.row(row, 1200), [row as u8 + 1; 1200]);
            assert_eq!(buffer.row(row, 1).as_ptr().align_offset(LINE_BYTES), 0);
        }
        let rows = buffer.rows_mut(1, 2, 1200);
        assert_eq!((rows.buffer[0], rows.buffer[rows.stride], rows.stride), (2, 3, 19 * 64));
        assert_eq!(RowBuffer::new(1, 1024).stride, 17 * 64);
    }

    #[test]
    #[should_panic(expected = "3 rows of 10 bytes, 10 apart, do not fit 29 bytes")]
    fn rows_lie_in_the_buffer() {
        let _ = Rows::new(&mut [0; 29], 10, 3, 10);
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn rows_do_not_overlap() {
        let _ = Rows::new(&mut [0; 29], 9, 2, 10);
    }
}

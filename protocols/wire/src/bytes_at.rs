//! Little-endian fields at fixed offsets, and the checksum all formats share.

use crc_fast::{CrcAlgorithm, Digest, checksum};

/// CRC-32C (Castagnoli) of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    low_half(checksum(CrcAlgorithm::Crc32Iscsi, bytes))
}

/// CRC-32C of several slices as if they were one.
#[must_use]
pub fn crc32c_of(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    low_half(digest.finalize())
}

/// The crate hands every width out as 64 bits.
fn low_half(sum: u64) -> u32 {
    (sum & u64::from(u32::MAX)) as u32
}

macro_rules! field {
    ($read:ident, $write:ident, $ty:ty, $n:literal) => {
        /// Reads the field at `at`. The caller has checked the length.
        pub(crate) fn $read(bytes: &[u8], at: usize) -> $ty {
            let mut field = [0; $n];
            field.copy_from_slice(&bytes[at..at + $n]);
            <$ty>::from_le_bytes(field)
        }

        /// Writes the field at `at`.
        pub(crate) fn $write(bytes: &mut [u8], at: usize, value: $ty) {
            bytes[at..at + $n].copy_from_slice(&value.to_le_bytes());
        }
    };
}

field!(u16_at, put_u16, u16, 2);
field!(u32_at, put_u32, u32, 4);
field!(u64_at, put_u64, u64, 8);
field!(u128_at, put_u128, u128, 16);

/// Reads 48 bits at `at`. The caller has checked the length.
pub(crate) fn u48_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field[..6].copy_from_slice(&bytes[at..at + 6]);
    u64::from_le_bytes(field)
}

/// Writes 48 bits at `at`.
pub(crate) fn put_u48(bytes: &mut [u8], at: usize, value: u64) {
    debug_assert!(value < 1 << 48, "{value} has more than 48 bits");
    bytes[at..at + 6].copy_from_slice(&value.to_le_bytes()[..6]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c_of(&[b"1234", b"", b"56789"]), 0xe306_9283);
    }
}

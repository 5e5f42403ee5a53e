//! The prefix of a source symbol: what a rebuilt symbol must know of itself.
//!
//! ```text
//!  0            6            10             12            16
//! ┌────────────┬────────────┬──────────────┬─────────────┬──────────────────┐
//! │ record u48 │ offset u32 │ length   u16 │ CRC-32C u32 │ length bytes ... │
//! └────────────┴────────────┴──────────────┴─────────────┴──────────────────┘
//! length: 15 bits; the highest bit is set if these are the record's last bytes
//! ```
//!
//! Codes protect prefix and bytes alike. The checksum covers the first 12 bytes and the data, so that a
//! symbol which a faulty decoder made up is never taken for an append's bytes.

use crate::bytes_at::{crc32c_of, put_u16, put_u32, put_u48, u16_at, u32_at, u48_at};
use crate::envelope::WireError;

/// Bytes of the prefix.
pub const SYMBOL_PREFIX_BYTES: usize = CRC_AT + 4;

/// Most data bytes that a symbol carries.
pub const SYMBOL_DATA_BYTES_MAX: usize = LENGTH_MASK as usize;

const OFFSET_AT: usize = 6;
const LENGTH_AT: usize = OFFSET_AT + 4;
const CRC_AT: usize = LENGTH_AT + 2;
const _: () = assert!(SYMBOL_PREFIX_BYTES == 16);

const LAST: u16 = 1 << 15;
const LENGTH_MASK: u16 = LAST - 1;

/// Which part of which record a source symbol carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolPrefix {
    /// Number of the record in this session, from 0, one more for each; below 2^48.
    pub record: u64,
    /// Where the bytes belong in the record.
    pub offset: u32,
    /// How many bytes follow, at most [`SYMBOL_DATA_BYTES_MAX`]; the rest of a rebuilt symbol is padding.
    pub length: u16,
    /// Whether these are the record's last bytes.
    pub last: bool,
}

impl SymbolPrefix {
    /// Writes prefix and data to `out`, which grows by [`SYMBOL_PREFIX_BYTES`] and the data.
    pub fn write(&self, data: &[u8], out: &mut Vec<u8>) {
        let mut prefix = [0; SYMBOL_PREFIX_BYTES];
        debug_assert!(self.length <= LENGTH_MASK, "{} bytes in one symbol", self.length);
        put_u48(&mut prefix, 0, self.record);
        put_u32(&mut prefix, OFFSET_AT, self.offset);
        put_u16(&mut prefix, LENGTH_AT, self.length | if self.last { LAST } else { 0 });
        let crc = crc32c_of(&[&prefix[..CRC_AT], data]);
        put_u32(&mut prefix, CRC_AT, crc);
        out.extend_from_slice(&prefix);
        out.extend_from_slice(data);
    }

    /// Reads a symbol: the prefix and its data, without padding.
    ///
    /// # Errors
    /// The symbol is short, or its checksum does not match.
    pub fn parse(symbol: &[u8]) -> Result<(Self, &[u8]), WireError> {
        if symbol.len() < SYMBOL_PREFIX_BYTES {
            return Err(WireError::Short { what: "symbol", bytes: symbol.len(), min: SYMBOL_PREFIX_BYTES });
        }
        let length_and_last = u16_at(symbol, LENGTH_AT);
        let length = length_and_last & LENGTH_MASK;
        let end = SYMBOL_PREFIX_BYTES + usize::from(length);
        if symbol.len() < end {
            return Err(WireError::Short { what: "symbol", bytes: symbol.len(), min: end });
        }
        let data = &symbol[SYMBOL_PREFIX_BYTES..end];
        if crc32c_of(&[&symbol[..CRC_AT], data]) != u32_at(symbol, CRC_AT) {
            return Err(WireError::Checksum { what: "symbol" });
        }
        let prefix = Self {
            record: u48_at(symbol, 0),
            offset: u32_at(symbol, OFFSET_AT),
            length,
            last: length_and_last & LAST != 0,
        };
        Ok((prefix, data))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_frozen() {
        let prefix = SymbolPrefix { record: 0x0605_0403_0201, offset: 0x0a09_0807, length: 3, last: true };
        let mut bytes = Vec::new();
        prefix.write(b"abc", &mut bytes);
        assert_eq!(bytes[..12], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 3, 0x80]);
        assert_eq!(bytes[12..16], crc32c_of(&[&bytes[..12], b"abc"]).to_le_bytes());
        assert_eq!(&bytes[16..], b"abc");
    }

    proptest! {
        #[test]
        fn padding_is_ignored(
            record in 0u64..1 << 48,
            offset: u32,
            last: bool,
            data in prop::collection::vec(any::<u8>(), 0..100),
            padding in 0usize..50,
        ) {
            let prefix = SymbolPrefix { record, offset, length: u16::try_from(data.len()).unwrap(), last };
            let mut bytes = Vec::new();
            prefix.write(&data, &mut bytes);
            bytes.resize(bytes.len() + padding, 0);
            prop_assert_eq!(SymbolPrefix::parse(&bytes).unwrap(), (prefix, &data[..]));
        }

        #[test]
        fn a_flipped_bit_is_noticed(data in prop::collection::vec(any::<u8>(), 1..100), bit in 0usize..8 * 16) {
            let prefix = SymbolPrefix { record: 1, offset: 2, length: u16::try_from(data.len()).unwrap(), last: false };
            let mut bytes = Vec::new();
            prefix.write(&data, &mut bytes);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(SymbolPrefix::parse(&bytes).is_err());
        }
    }
}

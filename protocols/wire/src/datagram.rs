//! The header of a bulk datagram.
//!
//! ```text
//!  0        1       2       3          4                8                16            24            32
//! ┌────────┬───────┬───────┬──────────┬────────────────┬────────────────┬─────────────┬─────────────┐
//! │version │ kind  │ path  │ reserved │ code epoch u32 │ wire number u64│ symbol  u64 │ detail  u64 │
//! └────────┴───────┴───────┴──────────┴────────────────┴────────────────┴─────────────┴─────────────┘
//! source, resent:  symbol = id;  detail = time of sending, microseconds on the sender's monotonic clock
//! repair:          symbol = first id covered;  detail = stride u16 | count u16 | index u8 | 0 u24
//! ```
//!
//! Every datagram, source or repair, takes one wire number, so raw loss can be counted before repair.

use crate::bytes_at::{put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};
use crate::envelope::WireError;

/// Bytes of the header.
pub const DATAGRAM_HEADER_BYTES: usize = DETAIL_AT + 8;

const VERSION: u8 = 1;
const KIND_AT: usize = 1;
const PATH_AT: usize = 2;
const CODE_EPOCH_AT: usize = 4;
const WIRE_NUMBER_AT: usize = CODE_EPOCH_AT + 4;
const SYMBOL_AT: usize = WIRE_NUMBER_AT + 8;
const DETAIL_AT: usize = SYMBOL_AT + 8;
const _: () = assert!(DATAGRAM_HEADER_BYTES == 32);

/// One bulk datagram's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Path of the link; symbols of one group may be spread over paths.
    pub path: u8,
    /// Which code, with which parameters, made or covers this symbol.
    pub code_epoch: u32,
    /// Position on the wire, counted over all datagrams of the session.
    pub wire_number: u64,
    /// What the datagram carries.
    pub kind: DatagramKind,
}

/// What a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramKind {
    /// A source symbol, sent for the first time.
    Source {
        /// The symbol's id.
        id: u64,
        /// When it was sent, microseconds on the sender's monotonic clock.
        sent_micros: u64,
    },
    /// A source symbol, sent again because the receiver asked.
    Resent {
        /// The symbol's id.
        id: u64,
        /// When it was sent, microseconds on the sender's monotonic clock.
        sent_micros: u64,
    },
    /// A repair symbol.
    Repair {
        /// First source symbol it includes.
        first: u64,
        /// Distance between the source symbols it includes; at least 1.
        stride: u16,
        /// How many it includes; at least 1.
        count: u16,
        /// Layer, parity row or copy.
        index: u8,
    },
}

impl Datagram {
    /// Writes the header to the start of `bytes`, which holds at least [`DATAGRAM_HEADER_BYTES`].
    pub fn write(&self, bytes: &mut [u8]) {
        let (kind, symbol, detail) = match self.kind {
            DatagramKind::Source { id, sent_micros } => (1, id, sent_micros),
            DatagramKind::Resent { id, sent_micros } => (2, id, sent_micros),
            DatagramKind::Repair { first, stride, count, index } => {
                let mut detail = [0; 8];
                put_u16(&mut detail, 0, stride);
                put_u16(&mut detail, 2, count);
                detail[4] = index;
                (3, first, u64::from_le_bytes(detail))
            }
        };
        bytes[0] = VERSION;
        bytes[KIND_AT] = kind;
        bytes[PATH_AT] = self.path;
        bytes[PATH_AT + 1] = 0;
        put_u32(bytes, CODE_EPOCH_AT, self.code_epoch);
        put_u64(bytes, WIRE_NUMBER_AT, self.wire_number);
        put_u64(bytes, SYMBOL_AT, symbol);
        put_u64(bytes, DETAIL_AT, detail);
    }

    /// Reads a header and the payload behind it.
    ///
    /// # Errors
    /// The datagram is too short, of another version, of an unknown kind, or covers nothing.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        if bytes.len() < DATAGRAM_HEADER_BYTES {
            return Err(WireError::Short {
                what: "datagram",
                bytes: bytes.len(),
                min: DATAGRAM_HEADER_BYTES,
            });
        }
        if bytes[0] != VERSION {
            return Err(WireError::Version { kind: 0, version: u16::from(bytes[0]) });
        }
        let symbol = u64_at(bytes, SYMBOL_AT);
        let detail = u64_at(bytes, DETAIL_AT);
        let kind = match bytes[KIND_AT] {
            1 => DatagramKind::Source { id: symbol, sent_micros: detail },
            2 => DatagramKind::Resent { id: symbol, sent_micros: detail },
            3 => {
                let detail = detail.to_le_bytes();
                let (stride, count) = (u16_at(&detail, 0), u16_at(&detail, 2));
                if stride == 0 || count == 0 || detail[5..] != [0; 3] {
                    return Err(WireError::Invalid { what: "repair cover" });
                }
                DatagramKind::Repair { first: symbol, stride, count, index: detail[4] }
            }
            _ => return Err(WireError::Invalid { what: "datagram kind" }),
        };
        let header = Self {
            path: bytes[PATH_AT],
            code_epoch: u32_at(bytes, CODE_EPOCH_AT),
            wire_number: u64_at(bytes, WIRE_NUMBER_AT),
            kind,
        };
        Ok((header, &bytes[DATAGRAM_HEADER_BYTES..]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_frozen() {
        let header = Datagram {
            path: 2,
            code_epoch: 0x0403_0201,
            wire_number: 0x0c0b_0a09_0807_0605,
            kind: DatagramKind::Repair { first: 7, stride: 0x1211, count: 0x1413, index: 0x15 },
        };
        let mut bytes = [0xff; DATAGRAM_HEADER_BYTES];
        header.write(&mut bytes);
        assert_eq!(
            bytes,
            [
                1, 3, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 7, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x12, 0x13,
                0x14, 0x15, 0, 0, 0
            ]
        );
    }

    fn kinds() -> impl Strategy<Value = DatagramKind> {
        prop_oneof![
            (any::<u64>(), any::<u64>())
                .prop_map(|(id, sent_micros)| DatagramKind::Source { id, sent_micros }),
            (any::<u64>(), any::<u64>())
                .prop_map(|(id, sent_micros)| DatagramKind::Resent { id, sent_micros }),
            (any::<u64>(), 1u16.., 1u16.., any::<u8>()).prop_map(|(first, stride, count, index)| {
                DatagramKind::Repair { first, stride, count, index }
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(path: u8, code_epoch: u32, wire_number: u64, kind in kinds(), tail: Vec<u8>) {
            let header = Datagram { path, code_epoch, wire_number, kind };
            let mut bytes = vec![0; DATAGRAM_HEADER_BYTES];
            header.write(&mut bytes);
            bytes.extend(&tail);
            prop_assert_eq!(Datagram::parse(&bytes).unwrap(), (header, &tail[..]));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            if let Ok((header, _)) = Datagram::parse(&bytes) {
                let mut again = bytes.clone();
                header.write(&mut again);
                // Byte 3 is reserved: written as zero, ignored when read.
                again[3] = bytes[3];
                prop_assert_eq!(again, bytes);
            }
        }
    }
}

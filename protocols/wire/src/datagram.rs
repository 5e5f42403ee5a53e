//! The header of a bulk datagram.
//!
//! ```text
//!  0      1      2                6                 12           18           20          22        23
//! ┌──────┬──────┬────────────────┬─────────────────┬────────────┐
//! │ kind │ path │ code epoch u32 │ wire number u48 │ symbol u48 │            source, resent: 18 bytes
//! ├──────┼──────┼────────────────┼─────────────────┼────────────┼────────────┬───────────┬─────────┐
//! │ kind │ path │ code epoch u32 │ wire number u48 │ first  u48 │ stride u16 │ count u16 │index u8 │ repair
//! └──────┴──────┴────────────────┴─────────────────┴────────────┴────────────┴───────────┴─────────┘
//! ```
//!
//! Every datagram, source or repair, takes one wire number, so raw loss can be counted before repair. Numbers have 48
//! bits, because each byte here is taken from the data of a packet: a session at 10 Gbit/s has them for ten years. The
//! version is part of the lane's ALPN name.

use crate::bytes_at::{put_u16, put_u32, put_u48, u16_at, u32_at, u48_at};
use crate::envelope::WireError;

/// Bits of wire numbers, ids of symbols and numbers of records, which all begin at 0 with a session.
pub const NUMBER_BITS: u32 = 48;

/// Bytes of the header of a source symbol, sent for the first time or again.
pub const SOURCE_HEADER_BYTES: usize = SYMBOL_AT + 6;

/// Bytes of the header of a repair symbol: the longer one, so what is left of a datagram is what a symbol has.
pub const REPAIR_HEADER_BYTES: usize = INDEX_AT + 1;

const PATH_AT: usize = 1;
const CODE_EPOCH_AT: usize = 2;
const WIRE_NUMBER_AT: usize = CODE_EPOCH_AT + 4;
const SYMBOL_AT: usize = WIRE_NUMBER_AT + 6;
const STRIDE_AT: usize = SOURCE_HEADER_BYTES;
const COUNT_AT: usize = STRIDE_AT + 2;
const INDEX_AT: usize = COUNT_AT + 2;
const _: () = assert!(SOURCE_HEADER_BYTES == 18 && REPAIR_HEADER_BYTES == 23);

const SOURCE: u8 = 1;
const RESENT: u8 = 2;
const REPAIR: u8 = 3;

/// One bulk datagram's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Path of the link; symbols of one group may be spread over paths.
    pub path: u8,
    /// Which code, with which parameters, made or covers this symbol.
    pub code_epoch: u32,
    /// Position on the wire, counted over all datagrams of the session; below 2^48.
    pub wire_number: u64,
    /// What the datagram carries.
    pub kind: DatagramKind,
}

/// What a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramKind {
    /// A source symbol, sent for the first time.
    Source {
        /// The symbol's id; below 2^48.
        id: u64,
    },
    /// A source symbol, sent again because the receiver asked.
    Resent {
        /// The symbol's id; below 2^48.
        id: u64,
    },
    /// A repair symbol.
    Repair {
        /// First source symbol it includes; below 2^48.
        first: u64,
        /// Distance between the source symbols it includes; at least 1.
        stride: u16,
        /// How many it includes; at least 1.
        count: u16,
        /// Layer, parity row or copy.
        index: u8,
    },
}

impl DatagramKind {
    /// Bytes of the header of such a datagram.
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        match self {
            Self::Source { .. } | Self::Resent { .. } => SOURCE_HEADER_BYTES,
            Self::Repair { .. } => REPAIR_HEADER_BYTES,
        }
    }
}

impl Datagram {
    /// Writes the header to the start of `bytes`, which holds at least [`DatagramKind::header_bytes`].
    pub fn write(&self, bytes: &mut [u8]) {
        let (kind, symbol) = match self.kind {
            DatagramKind::Source { id } => (SOURCE, id),
            DatagramKind::Resent { id } => (RESENT, id),
            DatagramKind::Repair { first, stride, count, index } => {
                put_u16(bytes, STRIDE_AT, stride);
                put_u16(bytes, COUNT_AT, count);
                bytes[INDEX_AT] = index;
                (REPAIR, first)
            }
        };
        bytes[0] = kind;
        bytes[PATH_AT] = self.path;
        put_u32(bytes, CODE_EPOCH_AT, self.code_epoch);
        put_u48(bytes, WIRE_NUMBER_AT, self.wire_number);
        put_u48(bytes, SYMBOL_AT, symbol);
    }

    /// Reads a header and the payload behind it.
    ///
    /// # Errors
    /// The datagram is too short, of an unknown kind, or covers nothing.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let Some(&kind) = bytes.first() else { return Err(short(bytes, SOURCE_HEADER_BYTES)) };
        let header_bytes = match kind {
            SOURCE | RESENT => SOURCE_HEADER_BYTES,
            REPAIR => REPAIR_HEADER_BYTES,
            _ => return Err(WireError::Invalid { what: "datagram kind" }),
        };
        if bytes.len() < header_bytes {
            return Err(short(bytes, header_bytes));
        }
        let symbol = u48_at(bytes, SYMBOL_AT);
        let kind = match kind {
            SOURCE => DatagramKind::Source { id: symbol },
            RESENT => DatagramKind::Resent { id: symbol },
            _ => {
                let (stride, count) = (u16_at(bytes, STRIDE_AT), u16_at(bytes, COUNT_AT));
                if stride == 0 || count == 0 {
                    return Err(WireError::Invalid { what: "repair cover" });
                }
                DatagramKind::Repair { first: symbol, stride, count, index: bytes[INDEX_AT] }
            }
        };
        let header = Self {
            path: bytes[PATH_AT],
            code_epoch: u32_at(bytes, CODE_EPOCH_AT),
            wire_number: u48_at(bytes, WIRE_NUMBER_AT),
            kind,
        };
        Ok((header, &bytes[header_bytes..]))
    }
}

fn short(bytes: &[u8], min: usize) -> WireError {
    WireError::Short { what: "datagram", bytes: bytes.len(), min }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_frozen() {
        let kind = DatagramKind::Repair { first: 7, stride: 0x1211, count: 0x1413, index: 0x15 };
        let header = Datagram { path: 2, code_epoch: 0x0403_0201, wire_number: 0x0a09_0807_0605, kind };
        let mut bytes = [0xff; REPAIR_HEADER_BYTES];
        header.write(&mut bytes);
        let common = [2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 7, 0, 0, 0, 0, 0];
        assert_eq!(bytes[0], 3);
        assert_eq!(bytes[1..18], common);
        assert_eq!(bytes[18..], [0x11, 0x12, 0x13, 0x14, 0x15]);

        for (kind, byte) in [(DatagramKind::Source { id: 7 }, 1), (DatagramKind::Resent { id: 7 }, 2)] {
            let mut bytes = [0xff; SOURCE_HEADER_BYTES];
            Datagram { kind, ..header }.write(&mut bytes);
            assert_eq!(bytes[0], byte);
            assert_eq!(bytes[1..], common);
        }
    }

    fn number() -> impl Strategy<Value = u64> {
        0u64..1 << NUMBER_BITS
    }

    fn kinds() -> impl Strategy<Value = DatagramKind> {
        prop_oneof![
            number().prop_map(|id| DatagramKind::Source { id }),
            number().prop_map(|id| DatagramKind::Resent { id }),
            (number(), 1u16.., 1u16.., any::<u8>()).prop_map(|(first, stride, count, index)| {
                DatagramKind::Repair { first, stride, count, index }
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(path: u8, code_epoch: u32, wire_number in number(), kind in kinds(), tail: Vec<u8>) {
            let header = Datagram { path, code_epoch, wire_number, kind };
            let mut bytes = vec![0; kind.header_bytes()];
            header.write(&mut bytes);
            bytes.extend(&tail);
            prop_assert_eq!(Datagram::parse(&bytes).unwrap(), (header, &tail[..]));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            if let Ok((header, _)) = Datagram::parse(&bytes) {
                let mut again = bytes.clone();
                header.write(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}

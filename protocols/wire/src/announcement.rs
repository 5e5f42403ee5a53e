//! The announcement: forty bytes that run ahead of a record, so that the mirror always knows what it
//! does not have.
//!
//! ```text
//!  0         4             8            12           16          20            24              40
//! ┌─────────┬─────────────┬────────────┬────────────┬───────────┬─────────────┬───────────────┐
//! │ log u32 │ segment u32 │ offset u32 │ length u32 │ epoch u32 │ CRC-32C u32 │ request  u128 │
//! └─────────┴─────────────┴────────────┴────────────┴───────────┴─────────────┴───────────────┘
//! ```
//! The checksum is the record's payload checksum, not the announcement's own: the frame around it has one.

use parhelion_types::{Epoch, LogAddress, LogId, RequestId};

use crate::bytes_at::{put_u32, put_u128, u32_at, u128_at};

/// Bytes of one announcement.
pub const ANNOUNCEMENT_BYTES: usize = 40;

/// What the mirror is about to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The log.
    pub log: LogId,
    /// Where the record starts, at both sites.
    pub address: LogAddress,
    /// Bytes of the append, without the record header.
    pub length: u32,
    /// The primary's epoch.
    pub epoch: Epoch,
    /// CRC-32C of the append's bytes.
    pub digest: u32,
    /// The client's name for the append.
    pub request: RequestId,
}

impl Announcement {
    /// The forty bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ANNOUNCEMENT_BYTES] {
        let mut bytes = [0; ANNOUNCEMENT_BYTES];
        put_u32(&mut bytes, 0, self.log.0);
        put_u32(&mut bytes, 4, self.address.segment.0);
        put_u32(&mut bytes, 8, self.address.offset);
        put_u32(&mut bytes, 12, self.length);
        put_u32(&mut bytes, 16, self.epoch.0);
        put_u32(&mut bytes, 20, self.digest);
        put_u128(&mut bytes, 24, self.request.0);
        bytes
    }

    /// Reads forty bytes. Any forty bytes are an announcement; the frame's checksum vouches for them.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; ANNOUNCEMENT_BYTES]) -> Self {
        Self {
            log: LogId(u32_at(bytes, 0)),
            address: LogAddress::new(u32_at(bytes, 4), u32_at(bytes, 8)),
            length: u32_at(bytes, 12),
            epoch: Epoch(u32_at(bytes, 16)),
            digest: u32_at(bytes, 20),
            request: RequestId(u128_at(bytes, 24)),
        }
    }

    /// Reads a batch: as many announcements as fit, none where the length is no multiple of forty.
    #[must_use]
    pub fn parse_batch(bytes: &[u8]) -> Option<impl Iterator<Item = Self>> {
        let (records, rest) = bytes.as_chunks::<ANNOUNCEMENT_BYTES>();
        rest.is_empty().then(|| records.iter().map(Self::from_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_frozen() {
        let bytes: [u8; ANNOUNCEMENT_BYTES] = std::array::from_fn(|n| u8::try_from(n).unwrap());
        let announcement = Announcement::from_bytes(&bytes);
        assert_eq!(announcement.log, LogId(0x0302_0100));
        assert_eq!(announcement.address, LogAddress::new(0x0706_0504, 0x0b0a_0908));
        assert_eq!(announcement.length, 0x0f0e_0d0c);
        assert_eq!(announcement.epoch, Epoch(0x1312_1110));
        assert_eq!(announcement.digest, 0x1716_1514);
        assert_eq!(announcement.request.0, 0x2726_2524_2322_2120_1f1e_1d1c_1b1a_1918);
        assert_eq!(announcement.to_bytes(), bytes);
        assert_eq!(Announcement::parse_batch(&bytes[..39]).map(Iterator::count), None);
        assert_eq!(Announcement::parse_batch(&[bytes, bytes].concat()).map(Iterator::count), Some(2));
    }
}

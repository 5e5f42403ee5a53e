//! Who and where: sites, nodes, logs, segments, addresses, epochs.

use std::fmt;
use std::str::FromStr;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number! {
    /// A data centre. Sites fail as a whole.
    SiteId(u16)
}
number! {
    /// One process of a site.
    NodeId(u16)
}
number! {
    /// An ordered sequence of appends, owned by one storage server per site. Never reused.
    LogId(u32)
}
number! {
    /// A finite part of one log, numbered from 0 in that log. Never reused.
    SegmentId(u32)
}
number! {
    /// Fencing number of a log's primary: the higher one wins. 0 before any promotion; then the upper 16 bits count
    /// promotions and the lower 16 bits are the site that was promoted, so that no two sites ever have the same one.
    Epoch(u32)
}

impl Epoch {
    /// The epoch in which `site` fences this one, and every other site in its next.
    #[must_use]
    pub fn next(self, site: SiteId) -> Self {
        let promotions = (self.0 >> 16).saturating_add(1).min(u32::from(u16::MAX));
        Self(promotions << 16 | u32::from(site.0))
    }
}

impl SegmentId {
    /// The segment that follows this one in the log.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Where a record starts: segment and byte offset in its file (SMFS section 5.1).
///
/// The primary assigns addresses; a mirror reproduces them. Ordering is log order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogAddress {
    /// The segment.
    pub segment: SegmentId,
    /// Bytes from the start of the segment file.
    pub offset: u32,
}

impl LogAddress {
    /// The address at `offset` of segment number `segment`.
    #[must_use]
    pub fn new(segment: u32, offset: u32) -> Self {
        Self { segment: SegmentId(segment), offset }
    }
}

impl fmt::Display for LogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

/// One record of one log, by its number: 0 for the record that creates the log, one more for each.
///
/// Numbers are dense, so a site that knows how many records it has knows what it lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// The log.
    pub log: LogId,
    /// The record's number in the log.
    pub number: u64,
}

/// Text that is not a log address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a log address; write SEGMENT:OFFSET, for example 0:4096")]
pub struct ParseAddressError(String);

impl FromStr for LogAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (segment, offset) = text.split_once(':')?;
            Some(Self { segment: segment.parse().ok()?, offset: offset.parse().ok()? })
        };
        parse().ok_or_else(|| ParseAddressError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_sort_in_log_order_and_survive_text() {
        let early = LogAddress::new(1, 900);
        let late = LogAddress::new(2, 4);
        assert!(early < late);
        assert_eq!("2:4".parse(), Ok(late));
        assert_eq!(early.to_string(), "1:900");
        for bad in ["", "2", "2:", ":4", "a:b", "1:4294967296", "-1:0"] {
            assert!(bad.parse::<LogAddress>().is_err(), "{bad:?} parsed");
        }
    }
}

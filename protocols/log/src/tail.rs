//! The end of a log: where the next record goes, and which record may come next.

use parhelion_types::{Epoch, LogAddress, LogId, SegmentId};

use crate::record::{Record, RecordFields, RecordHeader, stored_bytes};
use crate::segment::SEGMENT_HEADER_BYTES;

/// The end of one log. A primary places records with it, a mirror accepts them: the same sequence of
/// records leads to the same tail at both sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    log: LogId,
    next: LogAddress,
    number: u64,
    chain: u32,
    epoch: Epoch,
}

/// A record that is not the next one of its log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// Another log's record.
    #[error("a record of log {found} in log {expected}")]
    Log {
        /// Its log.
        found: LogId,
        /// This log.
        expected: LogId,
    },
    /// Not the next number.
    #[error("record {found} where record {expected} should be")]
    Number {
        /// Its number.
        found: u64,
        /// The next number.
        expected: u64,
    },
    /// Its header continues another history.
    #[error(
        "record {number} continues a different log: its chain is {found:#010x} and should be {expected:#010x}"
    )]
    Chain {
        /// Its number.
        number: u64,
        /// What it continues.
        found: u32,
        /// What there is to continue.
        expected: u32,
    },
    /// At an address where it cannot be.
    #[error("record {number} at {found}; the log ends at {expected}")]
    Address {
        /// Its number.
        number: u64,
        /// Its address.
        found: LogAddress,
        /// The log's end.
        expected: LogAddress,
    },
    /// Placed by a primary that was replaced.
    #[error("record {number} of epoch {found} after epoch {current}")]
    Epoch {
        /// Its number.
        number: u64,
        /// Its epoch.
        found: Epoch,
        /// The log's epoch.
        current: Epoch,
    },
}

impl Tail {
    /// The end of a log that has no record yet.
    #[must_use]
    pub fn new(log: LogId) -> Self {
        Self { log, next: Self::first_address(), number: 0, chain: 0, epoch: Epoch(0) }
    }

    /// Where every log's first record is.
    #[must_use]
    pub fn first_address() -> LogAddress {
        LogAddress { segment: SegmentId(0), offset: SEGMENT_HEADER_BYTES }
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> LogId {
        self.log
    }

    /// Address behind the last record.
    #[must_use]
    pub fn next_address(&self) -> LogAddress {
        self.next
    }

    /// Number of the next record, which is the count of records.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.number
    }

    /// Epoch of the records to come.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Checksum of the last record's header.
    #[must_use]
    pub fn chain(&self) -> u32 {
        self.chain
    }

    /// The tail of a log whose segment `segment` starts with record `number` behind `chain`.
    #[must_use]
    pub fn at_segment(log: LogId, segment: SegmentId, number: u64, chain: u32, epoch: Epoch) -> Self {
        Self { log, next: LogAddress { segment, offset: SEGMENT_HEADER_BYTES }, number, chain, epoch }
    }

    /// The tail of a log that ends there, as another site or a checkpoint says.
    #[must_use]
    pub fn at(log: LogId, next: LogAddress, number: u64, chain: u32, epoch: Epoch) -> Self {
        Self { log, next, number, chain, epoch }
    }

    /// This tail at the start of a later segment, where the next record was placed because it did not fit.
    #[must_use]
    pub fn opened(&self, segment: SegmentId) -> Self {
        Self { next: LogAddress { segment, offset: SEGMENT_HEADER_BYTES }, ..*self }
    }

    /// Raises the epoch: records placed from now on fence those of older primaries.
    pub fn promote(&mut self, epoch: Epoch) {
        self.epoch = self.epoch.max(epoch);
    }

    /// Lays out the next record and moves behind it. True where it is the first of a segment.
    ///
    /// A record never spans segments: one that does not fit opens the next segment.
    pub fn place(&mut self, fields: RecordFields, payload: &[u8], segment_bytes: u32) -> (Record, bool) {
        let length = u32::try_from(payload.len()).expect("payloads are limited far below 4 GiB");
        if self.next.offset.saturating_add(stored_bytes(length)) > segment_bytes {
            self.next = LogAddress { segment: self.next.segment.next(), offset: SEGMENT_HEADER_BYTES };
        }
        let header = RecordHeader {
            kind: fields.kind,
            durability: fields.durability,
            log: self.log,
            address: self.next,
            length,
            number: self.number,
            time: fields.time,
            epoch: self.epoch,
            request: fields.request,
            trace: fields.trace,
            digest: 0,
            previous: self.chain,
            checksum: 0,
        };
        let record = Record::build(header, payload);
        (record.clone(), self.advance(&record.header))
    }

    /// Checks that a record is exactly the next one, and moves behind it. True where it is the first of a
    /// segment.
    ///
    /// # Errors
    /// What does not fit; the tail stays as it was.
    pub fn accept(&mut self, header: &RecordHeader) -> Result<bool, Misplaced> {
        let RecordHeader { number, .. } = *header;
        if header.log != self.log {
            return Err(Misplaced::Log { found: header.log, expected: self.log });
        }
        if number != self.number {
            return Err(Misplaced::Number { found: number, expected: self.number });
        }
        if header.previous != self.chain {
            return Err(Misplaced::Chain { number, found: header.previous, expected: self.chain });
        }
        if header.epoch < self.epoch {
            return Err(Misplaced::Epoch { number, found: header.epoch, current: self.epoch });
        }
        let opens = LogAddress { segment: self.next.segment.next(), offset: SEGMENT_HEADER_BYTES };
        if header.address != self.next && header.address != opens {
            return Err(Misplaced::Address { number, found: header.address, expected: self.next });
        }
        Ok(self.advance(header))
    }

    fn advance(&mut self, header: &RecordHeader) -> bool {
        self.next = header.next_address();
        self.number = header.number + 1;
        self.chain = header.checksum;
        self.epoch = header.epoch;
        header.address.offset == SEGMENT_HEADER_BYTES
    }
}

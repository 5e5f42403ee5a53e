//! Reading a segment back: every record up to the first place where none continues the log.

use bytes::Bytes;
use parhelion_types::LogAddress;

use crate::record::{RECORD_HEADER_BYTES, Record, RecordHeader};
use crate::tail::Tail;

/// Why a scan ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanEnd {
    /// Nothing follows: zeros, or what an older use of the file left behind. The log ends here.
    Clean,
    /// A record was being written when the node died. It was not acknowledged; the log ends before it.
    Torn {
        /// Where it starts.
        at: LogAddress,
    },
    /// A record is damaged although records that continue it follow: acknowledged data is lost here.
    Corrupt {
        /// Where it starts.
        at: LogAddress,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads the records of one segment's bytes.
#[derive(Debug)]
pub struct Scan {
    segment: Bytes,
    tail: Tail,
    end: Option<ScanEnd>,
}

impl Scan {
    /// Starts at `tail`, whose address lies in the segment that `segment` holds from its first byte.
    #[must_use]
    pub fn new(segment: Bytes, tail: Tail) -> Self {
        Self { segment, tail, end: None }
    }

    /// The end of the log, as far as it has been read.
    #[must_use]
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// Why the scan ended; none while it has not.
    #[must_use]
    pub fn end(&self) -> Option<&ScanEnd> {
        self.end.as_ref()
    }

    fn finish(&mut self) {
        let at = self.tail.next_address();
        let start = at.offset as usize;
        let header = self.segment.get(start..).map(RecordHeader::parse);
        self.end = Some(match header {
            None => ScanEnd::Clean,
            Some(Ok(header)) if header.previous != self.tail.chain() => ScanEnd::Clean,
            Some(Ok(header)) => match self.record(&header) {
                Err(reason) if self.later_record(header.next_address().offset) => {
                    ScanEnd::Corrupt { at, reason }
                }
                _ => ScanEnd::Torn { at },
            },
            // Without a header there is no length, so what may follow is looked for.
            Some(Err(error)) => match self.later_record(at.offset.saturating_add(8)) {
                true => ScanEnd::Corrupt { at, reason: error.to_string() },
                false if self.segment[start..].iter().take(RECORD_HEADER_BYTES).all(|&byte| byte == 0) => {
                    ScanEnd::Clean
                }
                false => ScanEnd::Torn { at },
            },
        });
    }

    /// The whole record of a header at the scan's place.
    fn record(&self, header: &RecordHeader) -> Result<Record, String> {
        let start = self.tail.next_address().offset as usize;
        let end = start + header.record_bytes();
        if end > self.segment.len() {
            return Err("the record reaches behind the end of its segment".to_owned());
        }
        Record::parse(self.segment.slice(start..end)).map_err(|error| error.to_string())
    }

    /// Whether any place of the segment from `from` on holds a record of this log's future: its header is intact,
    /// it says that it lies where it lies, and its number is above the scan's.
    fn later_record(&self, from: u32) -> bool {
        let at = self.tail.next_address();
        let ends = (self.segment.len() + 1).saturating_sub(RECORD_HEADER_BYTES);
        (from as usize..ends).step_by(8).any(|place| {
            RecordHeader::parse(&self.segment[place..]).is_ok_and(|header| {
                header.log == self.tail.log()
                    && header.address.segment == at.segment
                    && header.address.offset as usize == place
                    && header.number > self.tail.next_number()
                    && header.epoch >= self.tail.epoch()
            })
        })
    }
}

impl Iterator for Scan {
    type Item = (Record, bool);

    /// The next record, and whether it is the first of its segment.
    fn next(&mut self) -> Option<Self::Item> {
        if self.end.is_some() {
            return None;
        }
        let start = self.tail.next_address().offset as usize;
        let header = self.segment.get(start..).and_then(|bytes| RecordHeader::parse(bytes).ok());
        if let Some(header) = header
            && header.address == self.tail.next_address()
            && let Ok(record) = self.record(&header)
        {
            let mut tail = self.tail;
            if let Ok(opens_segment) = tail.accept(&header) {
                self.tail = tail;
                return Some((record, opens_segment));
            }
        }
        self.finish();
        None
    }
}

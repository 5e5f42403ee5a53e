//! The catalogue: small facts about logs and the site, in RocksDB.
//!
//! | key | value | synced |
//! | --- | --- | --- |
//! | `site` | duty and epoch; nothing else knows them | always |
//! | `checkpoint/<log>` | the log's state where its last segment begins; can be derived again | once per segment |
//! | `durable/<log>` | how many records were durable when last written; may lag, never leads | at the log's creation |
//!
//! The durable count tells damage from a torn write: a record below it was whole once.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use parhelion_log::{ActiveMap, FreePayload, KnownRequest, Record, RecordKind, SegmentHeader, Tail};
use parhelion_types::{Epoch, LogAddress, LogId, RequestId, SegmentId};
use rocksdb::{DB, Direction, IteratorMode, Options, WriteBatch, WriteOptions};

use crate::store::RecoveredLog;

/// Version of the values' layout.
const VERSION: u8 = 1;
/// Version of a checkpoint's layout. Of another release's, nothing is needed: it is derived again.
const CHECKPOINT_VERSION: u8 = 2;
const SITE_KEY: &[u8] = b"site";
const CHECKPOINT_PREFIX: &[u8] = b"checkpoint/";
const DURABLE_PREFIX: &[u8] = b"durable/";
const COMMON_PREFIX: &[u8] = b"common/";

/// A catalogue that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// RocksDB refuses.
    #[error(
        "catalogue {}: {reason}; it can be deleted while the node is stopped: checkpoints are derived again, but \
         a promotion would be forgotten",
        path.display()
    )]
    RocksDb {
        /// Its directory.
        path: PathBuf,
        /// Why.
        reason: rocksdb::Error,
    },
    /// A value that no release wrote.
    #[error("catalogue {}: the entry of {entry} is malformed", path.display())]
    Malformed {
        /// Its directory.
        path: PathBuf,
        /// Which entry.
        entry: String,
    },
}

/// What outlives every restart of a site, besides its logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteState {
    /// Highest epoch this site has been promoted to.
    pub epoch: Epoch,
    /// Highest epoch of the other site that was heard of. Above `epoch`, this site is no primary any more.
    pub seen: Epoch,
    /// Whether this site was a mirror and was promoted.
    pub promoted: bool,
}

/// The catalogue of one node.
#[derive(Debug)]
pub struct Catalogue {
    db: DB,
    path: PathBuf,
}

/// State of a log where a segment begins.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    pub segment: SegmentId,
    pub number: u64,
    pub chain: u32,
    pub epoch: Epoch,
    pub active: ActiveMap,
    pub requests: VecDeque<KnownRequest>,
}

impl Catalogue {
    /// Opens or creates the catalogue.
    ///
    /// # Errors
    /// RocksDB cannot open it.
    pub fn open(path: &Path) -> Result<Self, CatalogueError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_max_open_files(64);
        options.set_write_buffer_size(8 << 20);
        options.set_keep_log_file_num(2);
        let db = DB::open(&options, path)
            .map_err(|reason| CatalogueError::RocksDb { path: path.to_owned(), reason })?;
        Ok(Self { db, path: path.to_owned() })
    }

    /// The site's durable facts.
    ///
    /// # Errors
    /// RocksDB cannot read them, or they are malformed.
    pub fn site(&self) -> Result<SiteState, CatalogueError> {
        match self.get(SITE_KEY)?.as_deref() {
            None => Ok(SiteState::default()),
            Some(&[VERSION, promoted, a, b, c, d, e, f, g, h]) => Ok(SiteState {
                epoch: Epoch(u32::from_le_bytes([a, b, c, d])),
                seen: Epoch(u32::from_le_bytes([e, f, g, h])),
                promoted: promoted == 1,
            }),
            Some(_) => Err(self.malformed("the site")),
        }
    }

    /// Makes the site's facts durable.
    ///
    /// # Errors
    /// RocksDB cannot write or sync them.
    pub fn put_site(&self, state: SiteState) -> Result<(), CatalogueError> {
        let (epoch, seen) = (state.epoch.0.to_le_bytes(), state.seen.0.to_le_bytes());
        let value = [&[VERSION, u8::from(state.promoted)][..], &epoch, &seen].concat();
        self.db.put_opt(SITE_KEY, value, &synced()).map_err(|reason| self.error(reason))
    }

    /// Where logs that end at `tails` ended when this site was last sure of having all that its mirror has: what is
    /// remembered, or else `tails`, which are remembered from now on.
    ///
    /// # Errors
    /// RocksDB cannot read, write or sync them, or they are malformed.
    pub fn commons(&self, tails: &[Tail]) -> Result<Vec<Tail>, CatalogueError> {
        let mut commons = Vec::with_capacity(tails.len());
        for tail in tails {
            let remembered = match self.get(&key(COMMON_PREFIX, tail.log()))? {
                None => None,
                Some(value) => Some(
                    parse_tail(tail.log(), &value)
                        .ok_or_else(|| self.malformed(&format!("log {}", tail.log())))?,
                ),
            };
            commons.push(
                remembered.filter(|common| common.next_number() <= tail.next_number()).unwrap_or(*tail),
            );
        }
        self.put_commons(&commons)?;
        Ok(commons)
    }

    /// Remembers where logs end now, whatever was remembered: this site becomes their primary.
    ///
    /// # Errors
    /// RocksDB cannot write or sync it.
    pub fn put_commons(&self, tails: &[Tail]) -> Result<(), CatalogueError> {
        let mut batch = WriteBatch::default();
        for tail in tails {
            batch.put(key(COMMON_PREFIX, tail.log()), tail_value(tail));
        }
        self.db.write_opt(batch, &synced()).map_err(|reason| self.error(reason))
    }

    /// Forgets it: the mirror of these logs has been compared with this site.
    ///
    /// # Errors
    /// RocksDB cannot write or sync it.
    pub fn forget_commons(&self, logs: &[LogId]) -> Result<(), CatalogueError> {
        let mut batch = WriteBatch::default();
        for &log in logs {
            batch.delete(key(COMMON_PREFIX, log));
        }
        self.db.write_opt(batch, &synced()).map_err(|reason| self.error(reason))
    }

    pub(crate) fn checkpoint(&self, log: LogId) -> Result<Option<Checkpoint>, CatalogueError> {
        let stored = self.get(&key(CHECKPOINT_PREFIX, log))?;
        let Some(value) = stored.filter(|value| value.first() == Some(&CHECKPOINT_VERSION)) else {
            return Ok(None);
        };
        Checkpoint::parse(&value).map(Some).ok_or_else(|| self.malformed(&format!("log {log}")))
    }

    /// Stores the bytes of a checkpoint whose segment has a durable record.
    pub(crate) fn put_checkpoint(&self, log: LogId, checkpoint: &[u8]) -> Result<(), CatalogueError> {
        let key = key(CHECKPOINT_PREFIX, log);
        self.db.put_opt(key, checkpoint, &synced()).map_err(|reason| self.error(reason))
    }

    /// How many records of the log were durable at least; none where the catalogue never knew the log.
    pub(crate) fn durable(&self, log: LogId) -> Result<Option<u64>, CatalogueError> {
        match self.get(&key(DURABLE_PREFIX, log))?.as_deref() {
            None => Ok(None),
            Some([VERSION, count @ ..]) if count.len() == 8 => {
                Ok(count.first_chunk().map(|count| u64::from_le_bytes(*count)))
            }
            Some(_) => Err(self.malformed(&format!("log {log}"))),
        }
    }

    /// Every log with a durable record, and how many at least.
    pub(crate) fn durable_logs(&self) -> Result<Vec<(LogId, u64)>, CatalogueError> {
        let mut logs = Vec::new();
        for entry in self.db.iterator(IteratorMode::From(DURABLE_PREFIX, Direction::Forward)) {
            let (key, _) = entry.map_err(|reason| self.error(reason))?;
            let Some(log) = key.strip_prefix(DURABLE_PREFIX) else { break };
            let log = log.try_into().map_err(|_| self.malformed("a log"))?;
            let log = LogId(u32::from_le_bytes(log));
            logs.extend(self.durable(log)?.filter(|&count| count > 0).map(|count| (log, count)));
        }
        Ok(logs)
    }

    /// Notes durable counts, without a sync: they outlive the process, and lag after a loss of power.
    pub(crate) fn put_durable(
        &self,
        counts: impl Iterator<Item = (LogId, u64)>,
    ) -> Result<(), CatalogueError> {
        let mut batch = WriteBatch::default();
        for (log, count) in counts {
            batch.put(key(DURABLE_PREFIX, log), durable_value(count));
        }
        self.db.write(batch).map_err(|reason| self.error(reason))
    }

    /// Makes the catalogue know a log that is about to get its first record.
    pub(crate) fn begin_log(&self, log: LogId) -> Result<(), CatalogueError> {
        let key = key(DURABLE_PREFIX, log);
        self.db.put_opt(key, durable_value(0), &synced()).map_err(|reason| self.error(reason))
    }

    /// Makes it durable that a log ends before record `number`: a checkpoint behind that is dropped.
    pub(crate) fn cut(&self, log: LogId, number: u64) -> Result<(), CatalogueError> {
        let mut batch = WriteBatch::default();
        if self.checkpoint(log)?.is_some_and(|checkpoint| checkpoint.number >= number) {
            batch.delete(key(CHECKPOINT_PREFIX, log));
        }
        batch.put(key(DURABLE_PREFIX, log), durable_value(number));
        self.db.write_opt(batch, &synced()).map_err(|reason| self.error(reason))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, CatalogueError> {
        self.db.get(key).map_err(|reason| self.error(reason))
    }

    fn error(&self, reason: rocksdb::Error) -> CatalogueError {
        CatalogueError::RocksDb { path: self.path.clone(), reason }
    }

    fn malformed(&self, entry: &str) -> CatalogueError {
        CatalogueError::Malformed { path: self.path.clone(), entry: entry.to_owned() }
    }
}

impl Checkpoint {
    /// A log without records.
    pub fn start() -> Self {
        Self {
            segment: SegmentId(0),
            number: 0,
            chain: 0,
            epoch: Epoch(0),
            active: ActiveMap::default(),
            requests: VecDeque::new(),
        }
    }

    /// The state of a log that was recovered.
    pub fn of(log: &RecoveredLog) -> Self {
        Self {
            segment: log.tail.next_address().segment,
            number: log.tail.next_number(),
            chain: log.tail.chain(),
            epoch: log.tail.epoch(),
            active: log.active.clone(),
            requests: log.requests.iter().copied().collect(),
        }
    }

    /// The tail with which to scan the segment.
    pub fn tail(&self, log: LogId) -> Tail {
        Tail::at_segment(log, self.segment, self.number, self.chain, self.epoch)
    }

    /// Takes note of a record that was written.
    pub fn note(&mut self, record: &Record, requests_max: usize) {
        let header = &record.header;
        self.epoch = header.epoch;
        match header.kind {
            RecordKind::Free => {
                if let Ok(free) = FreePayload::parse(&record.payload()) {
                    for (number, _) in free.appends {
                        self.active.free(number);
                    }
                }
            }
            RecordKind::Append => {
                self.requests.extend(KnownRequest::of(header));
                while self.requests.len() > requests_max {
                    self.requests.pop_front();
                }
            }
            RecordKind::Create => {}
        }
    }

    /// Moves to the start of a new segment.
    pub fn begin_segment(&mut self, header: &SegmentHeader) {
        self.segment = header.segment;
        self.number = header.first_number;
        self.chain = header.chain;
    }

    /// `version u8 | segment u32 | number u64 | chain u32 | epoch u32 | requests u32 | active u32`, then the
    /// requests (request u128, number u64, segment u32, offset u32, length u32, digest u32) and the active map.
    pub fn to_bytes(&self) -> Vec<u8> {
        let active = self.active.to_bytes();
        let mut bytes = vec![CHECKPOINT_VERSION];
        bytes.extend_from_slice(&self.segment.0.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.chain.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.0.to_le_bytes());
        for count in [self.requests.len(), active.len()] {
            bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        for known in &self.requests {
            bytes.extend_from_slice(&known.request.0.to_le_bytes());
            bytes.extend_from_slice(&known.number.to_le_bytes());
            for field in [known.address.segment.0, known.address.offset, known.length, known.digest] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
        }
        bytes.extend_from_slice(&active);
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
            let (field, rest) = bytes.split_first_chunk::<N>()?;
            *bytes = rest;
            Some(field)
        }
        let mut rest = bytes;
        let rest = &mut rest;
        if take::<1>(rest)? != &[CHECKPOINT_VERSION] {
            return None;
        }
        let u32_of = |rest: &mut &[u8]| take::<4>(rest).map(|b| u32::from_le_bytes(*b));
        let segment = SegmentId(u32_of(rest)?);
        let number = u64::from_le_bytes(*take::<8>(rest)?);
        let (chain, epoch) = (u32_of(rest)?, Epoch(u32_of(rest)?));
        let (requests, active) = (u32_of(rest)?, u32_of(rest)? as usize);
        let mut list = VecDeque::new();
        for _ in 0..requests {
            let request = RequestId(u128::from_le_bytes(*take::<16>(rest)?));
            let number = u64::from_le_bytes(*take::<8>(rest)?);
            let address = LogAddress::new(u32_of(rest)?, u32_of(rest)?);
            let (length, digest) = (u32_of(rest)?, u32_of(rest)?);
            list.push_back(KnownRequest { request, number, address, length, digest });
        }
        let active = if rest.len() == active { ActiveMap::parse(rest)? } else { return None };
        Some(Self { segment, number, chain, epoch, active, requests: list })
    }
}

/// `version u8 | number u64 | segment u32 | offset u32 | chain u32 | epoch u32`
fn tail_value(tail: &Tail) -> Vec<u8> {
    let LogAddress { segment, offset } = tail.next_address();
    let mut value = vec![VERSION];
    value.extend_from_slice(&tail.next_number().to_le_bytes());
    for field in [segment.0, offset, tail.chain(), tail.epoch().0] {
        value.extend_from_slice(&field.to_le_bytes());
    }
    value
}

fn parse_tail(log: LogId, value: &[u8]) -> Option<Tail> {
    let (&VERSION, rest) = value.split_first()? else { return None };
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (fields, rest) = rest.as_chunks::<4>();
    let &[segment, offset, chain, epoch] = fields else { return None };
    let u32_of = u32::from_le_bytes;
    let next = LogAddress::new(u32_of(segment), u32_of(offset));
    let number = u64::from_le_bytes(*number);
    rest.is_empty().then(|| Tail::at(log, next, number, u32_of(chain), Epoch(u32_of(epoch))))
}

fn key(prefix: &[u8], log: LogId) -> Vec<u8> {
    [prefix, &log.0.to_le_bytes()].concat()
}

fn durable_value(count: u64) -> Vec<u8> {
    [&[VERSION][..], &count.to_le_bytes()].concat()
}

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_survive() {
        let mut checkpoint = Checkpoint::start();
        checkpoint.segment = SegmentId(3);
        checkpoint.number = 77;
        checkpoint.chain = 5;
        checkpoint.epoch = Epoch(2);
        checkpoint.active.free(9);
        let address = LogAddress::new(2, 64);
        checkpoint.requests.push_back(KnownRequest {
            request: RequestId(4),
            number: 76,
            address,
            length: 10,
            digest: 11,
        });
        let bytes = checkpoint.to_bytes();
        let again = Checkpoint::parse(&bytes).unwrap();
        assert_eq!(again.to_bytes(), bytes);
        assert_eq!(again.requests, checkpoint.requests);
        for length in 0..bytes.len() {
            assert!(Checkpoint::parse(&bytes[..length]).is_none());
        }
    }

    #[test]
    fn the_layout_is_frozen() {
        let mut checkpoint = Checkpoint::start();
        checkpoint.segment = SegmentId(0x0403_0201);
        checkpoint.number = 0x0c0b_0a09_0807_0605;
        checkpoint.chain = 0x100f_0e0d;
        checkpoint.epoch = Epoch(0x1413_1211);
        checkpoint.active.free(65);
        checkpoint.requests.push_back(KnownRequest {
            request: RequestId(0x15),
            number: 0x16,
            address: LogAddress::new(0x17, 0x18),
            length: 0x19,
            digest: 0x1a,
        });
        let mut golden: Vec<u8> = vec![2];
        golden.extend(1..=0x14);
        golden.extend([1, 0, 0, 0, 16, 0, 0, 0]);
        golden.extend([0x15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        golden
            .extend([0x16, 0, 0, 0, 0, 0, 0, 0, 0x17, 0, 0, 0, 0x18, 0, 0, 0, 0x19, 0, 0, 0, 0x1a, 0, 0, 0]);
        golden.extend([1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(checkpoint.to_bytes(), golden);
        assert_eq!(key(CHECKPOINT_PREFIX, LogId(0x0201)), b"checkpoint/\x01\x02\0\0");
        assert_eq!(durable_value(0x0201), [1, 1, 2, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn durable_counts_are_remembered() {
        let directory = tempfile::tempdir().unwrap();
        {
            let catalogue = Catalogue::open(directory.path()).unwrap();
            assert_eq!(catalogue.durable(LogId(1)).unwrap(), None);
            catalogue.begin_log(LogId(1)).unwrap();
            assert_eq!(catalogue.durable(LogId(1)).unwrap(), Some(0));
            catalogue.put_durable([(LogId(1), 7), (LogId(2), 1 << 40)].into_iter()).unwrap();
        }
        let catalogue = Catalogue::open(directory.path()).unwrap();
        assert_eq!(catalogue.durable(LogId(1)).unwrap(), Some(7));
        assert_eq!(catalogue.durable(LogId(2)).unwrap(), Some(1 << 40));
        catalogue.begin_log(LogId(3)).unwrap();
        catalogue.put_site(SiteState::default()).unwrap();
        assert_eq!(catalogue.durable_logs().unwrap(), [(LogId(1), 7), (LogId(2), 1 << 40)]);
    }

    #[test]
    fn the_common_end_is_that_of_the_first_start_since_the_comparison() {
        let directory = tempfile::tempdir().unwrap();
        let end = |number: u64| {
            let next = LogAddress::new(1, 64 + 100 * number as u32);
            Tail::at(LogId(3), next, number, number as u32, Epoch(2))
        };
        let start = |tail: Tail| {
            let catalogue = Catalogue::open(directory.path()).unwrap();
            catalogue.commons(&[tail]).unwrap()[0]
        };
        assert_eq!(start(end(10)), end(10));
        // Three records more, and no session with the mirror.
        assert_eq!(start(end(13)), end(10));
        assert_eq!(start(end(9)), end(9), "cut back here");
        Catalogue::open(directory.path()).unwrap().forget_commons(&[LogId(3)]).unwrap();
        assert_eq!(start(end(20)), end(20));
        Catalogue::open(directory.path()).unwrap().put_commons(&[end(25)]).unwrap();
        assert_eq!(start(end(30)), end(25));
        let golden = [1, 25, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 10, 0, 0, 25, 0, 0, 0, 2, 0, 0, 0];
        assert_eq!(tail_value(&end(25)), golden);
        for length in 0..golden.len() {
            assert_eq!(parse_tail(LogId(3), &golden[..length]), None);
        }
    }

    #[test]
    fn a_promotion_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let state = SiteState { epoch: Epoch(7), seen: Epoch(6), promoted: true };
        {
            let catalogue = Catalogue::open(directory.path()).unwrap();
            assert_eq!(catalogue.site().unwrap(), SiteState::default());
            catalogue.put_site(state).unwrap();
        }
        assert_eq!(Catalogue::open(directory.path()).unwrap().site().unwrap(), state);
    }
}

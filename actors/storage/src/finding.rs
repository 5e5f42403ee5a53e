//! What a promotion found, kept on the disk: an operator may ask for it again for as long as the site exists.
//!
//! The file `promotion` in the first data directory is a sequence of lines of 44 bytes:
//!
//! ```text
//!  0                                             40            44
//! ┌─────────────────────────────────────────────┬─────────────┐
//! │ line 0: head; line n: missing append n - 1  │ CRC-32C u32 │
//! └─────────────────────────────────────────────┴─────────────┘
//! head    magic `PRHLFIND` | version u32 | epoch u32 | logs u32 | listed u32 | unlisted u64 | behind gap u64
//! append  the announcement as it came over the link
//! ```
//!
//! The checksum covers the number of the line, as a `u64`, and then its forty bytes, so that a line that is not where it
//! belongs is damage too. Appends are in the order of their logs and addresses: a page is found without reading what lies
//! before it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parhelion_mirror::Promotion;
use parhelion_types::{Epoch, Error, ErrorKind, LogAddress, LogId};
use parhelion_wire::{ANNOUNCEMENT_BYTES, Announcement, crc32c};

use crate::store::sync_directory;

/// What the last promotion of a site found.
#[derive(Debug)]
pub struct Finding {
    head: FindingHead,
    file: File,
    path: PathBuf,
}

/// What it found, without the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FindingHead {
    /// The epoch that the site was promoted to.
    pub epoch: Epoch,
    /// Logs that were promoted.
    pub logs: u32,
    /// Missing appends that are listed.
    pub listed: u32,
    /// Missing appends that are only counted: a mirror keeps a bounded number of announcements.
    pub unlisted: u64,
    /// Of all, those that were there but lay behind a gap.
    pub behind_gap: u64,
}

/// A finding that cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum FindingError {
    /// The system refuses.
    #[error("what the promotion found, in {}: {reason}; see to it that the node can use the file", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// Bytes that are not what was written.
    #[error(
        "what the promotion found, in {}, is damaged: {reason}; restore the file from a backup",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There are more missing appends than a file holds.
    #[error("what the promotion found: {0} missing appends are more than a file holds; report it")]
    TooMany(usize),
}

const FILE_NAME: &str = "promotion";
/// The file while it is written.
const NEW_NAME: &str = "promotion.new";
const MAGIC: &[u8; 8] = b"PRHLFIND";
const VERSION: u32 = 1;
/// Bytes of a line without its checksum.
const BODY_BYTES: usize = ANNOUNCEMENT_BYTES;
const LINE_BYTES: usize = BODY_BYTES + 4;

type Body = [u8; BODY_BYTES];

impl Finding {
    /// Makes a finding durable in a data directory, in the place of an earlier one. Nothing is changed if it fails.
    ///
    /// # Errors
    /// It cannot be written or synced.
    pub fn store(directory: &Path, promotion: &Promotion) -> Result<(), FindingError> {
        let Promotion { epoch, logs, missing, unlisted, behind_gap } = promotion;
        let head = FindingHead {
            epoch: *epoch,
            logs: u32::try_from(*logs).unwrap_or(u32::MAX),
            listed: u32::try_from(missing.len()).map_err(|_| FindingError::TooMany(missing.len()))?,
            unlisted: *unlisted,
            behind_gap: behind_gap.len() as u64,
        };
        // A page is found by the order.
        let mut missing: Vec<&Announcement> = missing.iter().collect();
        missing.sort_by_key(|announcement| place(announcement));
        let new = directory.join(NEW_NAME);
        let write = || {
            let mut out = BufWriter::with_capacity(1 << 20, File::create(&new)?);
            out.write_all(&line(0, &head.to_bytes()))?;
            for (number, announcement) in (1..).zip(missing) {
                out.write_all(&line(number, &announcement.to_bytes()))?;
            }
            out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            std::fs::rename(&new, directory.join(FILE_NAME))?;
            sync_directory(directory)
        };
        write().map_err(|reason| {
            // On a full disk half a file would only be in the way.
            let _ = std::fs::remove_file(&new);
            FindingError::File { path: directory.join(FILE_NAME), reason }
        })
    }

    /// Opens the finding in a data directory; nothing if there is none.
    ///
    /// # Errors
    /// It cannot be read, or it is damaged.
    pub fn open(directory: &Path) -> Result<Option<Self>, FindingError> {
        let path = directory.join(FILE_NAME);
        let unreadable = |reason| FindingError::File { path: path.clone(), reason };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let bytes = file.metadata().map_err(unreadable)?.len();
        let damaged = |reason| FindingError::Damaged { path: path.clone(), reason };
        if bytes < LINE_BYTES as u64 {
            return Err(damaged(format!("it has {bytes} bytes, which is no whole head")));
        }
        let mut head = [0; LINE_BYTES];
        file.read_exact_at(&mut head, 0).map_err(unreadable)?;
        let head = body_of(0, &head).and_then(|body| FindingHead::parse(&body)).map_err(damaged)?;
        let wanted = (u64::from(head.listed) + 1) * LINE_BYTES as u64;
        if bytes != wanted {
            return Err(damaged(format!("it has {bytes} bytes, and {} appends take {wanted}", head.listed)));
        }
        Ok(Some(Self { head, file, path }))
    }

    /// What it says besides the list.
    #[must_use]
    pub fn head(&self) -> &FindingHead {
        &self.head
    }

    /// At most `count` missing appends, from that place on, in the order of their logs and addresses.
    ///
    /// # Errors
    /// They cannot be read, or are damaged.
    pub fn page(
        &self,
        log: LogId,
        from: LogAddress,
        count: usize,
    ) -> Result<Vec<Announcement>, FindingError> {
        let (mut low, mut high) = (0, self.head.listed);
        while low < high {
            let middle = low + (high - low) / 2;
            let is_before = self.read(middle, 1)?.first().is_some_and(|found| place(found) < (log, from));
            if is_before { low = middle + 1 } else { high = middle }
        }
        let left = (self.head.listed - low) as usize;
        let page = self.read(low, count.min(left))?;
        match page.is_sorted_by(|one, next| place(one) < place(next)) {
            true => Ok(page),
            false => Err(self.damaged("its appends are not in order".to_owned())),
        }
    }

    /// Reads `count` missing appends, which are there.
    fn read(&self, first: u32, count: usize) -> Result<Vec<Announcement>, FindingError> {
        let mut bytes = vec![0; count * LINE_BYTES];
        let number = u64::from(first) + 1;
        self.file
            .read_exact_at(&mut bytes, number * LINE_BYTES as u64)
            .map_err(|reason| FindingError::File { path: self.path.clone(), reason })?;
        let (lines, _) = bytes.as_chunks::<LINE_BYTES>();
        let bodies = (number..).zip(lines).map(|(number, line)| body_of(number, line));
        bodies
            .map(|body| body.map(|body| Announcement::from_bytes(&body)))
            .collect::<Result<_, _>>()
            .map_err(|reason| self.damaged(reason))
    }

    fn damaged(&self, reason: String) -> FindingError {
        FindingError::Damaged { path: self.path.clone(), reason }
    }
}

impl FindingHead {
    /// Missing appends in all.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.unlisted.saturating_add(u64::from(self.listed))
    }

    fn to_bytes(self) -> Body {
        let mut bytes = [0; BODY_BYTES];
        let fields = [
            &MAGIC[..],
            &VERSION.to_le_bytes(),
            &self.epoch.0.to_le_bytes(),
            &self.logs.to_le_bytes(),
            &self.listed.to_le_bytes(),
            &self.unlisted.to_le_bytes(),
            &self.behind_gap.to_le_bytes(),
        ];
        bytes.copy_from_slice(&fields.concat());
        bytes
    }

    fn parse(bytes: &Body) -> Result<Self, String> {
        let (magic, rest) = bytes.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err("it does not begin as a finding does".to_owned());
        }
        let (words, _) = rest.as_chunks::<4>();
        let words: [u32; 8] =
            std::array::from_fn(|n| words.get(n).map_or(0, |word| u32::from_le_bytes(*word)));
        let [version, epoch, logs, listed, unlisted_low, unlisted_high, gap_low, gap_high] = words;
        if version != VERSION {
            return Err(format!("it has version {version}, and this release reads {VERSION}"));
        }
        let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        Ok(Self {
            epoch: Epoch(epoch),
            logs,
            listed,
            unlisted: wide(unlisted_low, unlisted_high),
            behind_gap: wide(gap_low, gap_high),
        })
    }
}

impl From<FindingError> for Error {
    fn from(error: FindingError) -> Self {
        let kind = match &error {
            FindingError::File { .. } => ErrorKind::Unavailable,
            FindingError::Damaged { .. } => ErrorKind::Corrupt,
            FindingError::TooMany(_) => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

fn place(announcement: &Announcement) -> (LogId, LogAddress) {
    (announcement.log, announcement.address)
}

fn line(number: u64, body: &Body) -> [u8; LINE_BYTES] {
    let mut line = [0; LINE_BYTES];
    let (start, end) = line.split_at_mut(BODY_BYTES);
    start.copy_from_slice(body);
    end.copy_from_slice(&checksum(number, body).to_le_bytes());
    line
}

fn body_of(number: u64, line: &[u8; LINE_BYTES]) -> Result<Body, String> {
    let parts = line.split_first_chunk::<BODY_BYTES>().zip(line.last_chunk::<4>());
    match parts {
        Some(((body, _), stored)) if u32::from_le_bytes(*stored) == checksum(number, body) => Ok(*body),
        _ => Err(format!("line {number} has another checksum than its bytes")),
    }
}

fn checksum(number: u64, body: &Body) -> u32 {
    crc32c(&[&number.to_le_bytes()[..], body].concat())
}

#[cfg(test)]
mod tests {
    use parhelion_mirror::Gap;
    use parhelion_types::RequestId;
    use proptest::prelude::*;

    use super::*;

    fn announcement(log: u32, offset: u32) -> Announcement {
        Announcement {
            log: LogId(log),
            address: LogAddress::new(offset / 1000, offset % 1000),
            length: offset + 1,
            epoch: Epoch(3),
            digest: offset * 7,
            request: RequestId(u128::from(offset) << 90 | u128::from(log)),
        }
    }

    fn promotion(missing: Vec<Announcement>) -> Promotion {
        let behind_gap = vec![Gap { log: LogId(1), address: LogAddress::new(2, 3) }; 5];
        Promotion { epoch: Epoch(4), logs: 9, missing, unlisted: 1 << 40, behind_gap }
    }

    fn read_all(finding: &Finding, page: usize) -> Result<Vec<Announcement>, FindingError> {
        let mut all: Vec<Announcement> = Vec::new();
        loop {
            let (log, from) = all.last().map_or_else(Default::default, |last| {
                (last.log, LogAddress { offset: last.address.offset + 1, ..last.address })
            });
            let next = finding.page(log, from, page)?;
            if next.is_empty() {
                return Ok(all);
            }
            all.extend(next);
        }
    }

    #[test]
    fn what_was_found_is_read_again_page_by_page() {
        let home = tempfile::tempdir().unwrap();
        assert!(Finding::open(home.path()).unwrap().is_none());
        let all: Vec<_> =
            [3, 4, 9].into_iter().flat_map(|log| (0..700).map(move |n| announcement(log, 3 * n))).collect();
        let mut stirred = all.clone();
        stirred.reverse();
        for missing in [Vec::new(), stirred] {
            Finding::store(home.path(), &promotion(missing.clone())).unwrap();
            let finding = Finding::open(home.path()).unwrap().unwrap();
            let listed = missing.len() as u32;
            let head = FindingHead { epoch: Epoch(4), logs: 9, listed, unlisted: 1 << 40, behind_gap: 5 };
            assert_eq!(finding.head(), &head);
            assert_eq!(head.missing(), (1 << 40) + missing.len() as u64);
            for page in [1, 100, 699, 700, 5000] {
                assert_eq!(read_all(&finding, page).unwrap().len(), missing.len());
            }
        }
        let finding = Finding::open(home.path()).unwrap().unwrap();
        assert_eq!(read_all(&finding, 333).unwrap(), all);
        assert_eq!(finding.page(LogId(4), LogAddress::new(0, 4), 2).unwrap(), all[702..704]);
        assert_eq!(finding.page(LogId(5), LogAddress::default(), 1).unwrap(), all[1400..1401]);
        assert_eq!(finding.page(LogId(10), LogAddress::default(), 1).unwrap(), []);
        assert!(!home.path().join(NEW_NAME).exists());
    }

    #[test]
    fn the_layout_is_frozen() {
        let home = tempfile::tempdir().unwrap();
        let missing = Announcement::from_bytes(&std::array::from_fn(|n| n as u8));
        let found = Promotion { missing: vec![missing], ..promotion(Vec::new()) };
        Finding::store(home.path(), &found).unwrap();
        let bytes = std::fs::read(home.path().join(FILE_NAME)).unwrap();
        let mut golden = b"PRHLFIND".to_vec();
        golden.extend([1, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0]);
        golden.extend([0, 0, 0, 0, 0, 1, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[..BODY_BYTES], golden);
        assert_eq!(bytes[LINE_BYTES..LINE_BYTES + BODY_BYTES], missing.to_bytes());
        let numbered: Vec<u8> = [1, 0, 0, 0, 0, 0, 0, 0].into_iter().chain(missing.to_bytes()).collect();
        assert_eq!(bytes[LINE_BYTES + BODY_BYTES..], crc32c(&numbered).to_le_bytes());
    }

    #[test]
    fn every_changed_byte_is_found() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE_NAME);
        Finding::store(home.path(), &promotion((0..3).map(|n| announcement(1, n)).collect())).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Finding::open(home.path()).and_then(|found| read_all(&found.expect("it is there"), 10))
        };
        assert_eq!(read(&whole).unwrap().len(), 3);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert!(matches!(read(&bytes), Err(FindingError::Damaged { .. })), "byte {at}");
            assert!(matches!(read(&whole[..at]), Err(FindingError::Damaged { .. })), "{at} bytes");
        }
        // Whole lines that are not where they belong.
        let mut swapped = whole.clone();
        swapped[LINE_BYTES..3 * LINE_BYTES].rotate_left(LINE_BYTES);
        assert!(matches!(read(&swapped), Err(FindingError::Damaged { .. })));
    }

    #[test]
    fn a_finding_that_cannot_be_stored_leaves_the_earlier_one() {
        let home = tempfile::tempdir().unwrap();
        Finding::store(home.path(), &promotion(vec![announcement(1, 5)])).unwrap();
        std::fs::create_dir(home.path().join(NEW_NAME)).unwrap();
        let error = Finding::store(home.path(), &promotion(Vec::new())).unwrap_err();
        assert!(error.to_string().contains("promotion"), "{error}");
        assert_eq!(Error::from(error).kind(), ErrorKind::Unavailable);
        assert_eq!(Finding::open(home.path()).unwrap().unwrap().head().listed, 1);
    }

    proptest! {
        /// Any bytes are read or refused, also where every checksum is right.
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes: Vec<u8>,
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), BODY_BYTES), 0..6),
            version in 0..3_u32,
            listed in 0..6_u32,
        ) {
            let home = tempfile::tempdir().unwrap();
            let read = |bytes: &[u8]| {
                std::fs::write(home.path().join(FILE_NAME), bytes).unwrap();
                let found = Finding::open(home.path()).map(|found| found.expect("it is there"));
                found.and_then(|found| found.page(LogId(0), LogAddress::default(), 10))
            };
            let _ = read(&bytes);
            let mut head = FindingHead { epoch: Epoch(1), logs: 1, listed, unlisted: 0, behind_gap: 0 }.to_bytes();
            head[8..12].copy_from_slice(&version.to_le_bytes());
            let mut file = line(0, &head).to_vec();
            for (number, body) in (1..).zip(&bodies) {
                file.extend(line(number, body.as_slice().try_into().unwrap()));
            }
            let found = read(&file);
            prop_assert!(found.is_err() || (version == VERSION && listed as usize == bodies.len()));
        }
    }
}

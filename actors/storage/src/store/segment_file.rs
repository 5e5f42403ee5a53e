//! An open segment, as its writer writes it.
//!
//! A segment that was made from a spare file has all its blocks, so records can go to the disk without the page
//! cache (`O_DIRECT`): the kernel copies nothing, keeps no dirty pages, and a sync only has to empty the disk's
//! own cache. Such a write takes whole blocks. The one where the last batch ended is kept, and written again with
//! what follows; the zeros behind the batch are the spare's.
//!
//! Whatever cannot be written so goes through the page cache: segments that grow, the last part of a block at a
//! segment's end, file systems without direct writes.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Blocks of direct writes, in place and in memory: the largest logical block of common disks.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Bytes of one direct write. The disk works on them at once; more gain nothing.
const STAGED_BYTES_MAX: usize = 2 << 20;

/// Slices of one write; the kernel takes no more than 1024.
const SLICES_MAX: usize = 1024;

/// Records start at multiples of 8.
const PADDING: [u8; 8] = [0; 8];

/// An open segment file.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    file: File,
    direct: Option<Direct>,
}

/// The file once more, without the page cache.
#[derive(Debug)]
struct Direct {
    file: File,
    /// End of the file's last whole block.
    end: u64,
    /// The block in which the last direct write ended, as it is on disk, and where that was.
    block: Box<[u8; BLOCK_BYTES]>,
    block_at: Option<u64>,
}

/// Memory from which direct writes are made, for all files of a writer: their blocks must be aligned.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    bytes: Vec<u8>,
}

impl SegmentFile {
    /// Opens a segment that exists.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { direct: Direct::open(path, length), file })
    }

    /// Creates an empty one, which grows as it is written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        Ok(Self { file, direct: None })
    }

    /// Writes what comes before the first record, and makes it durable with all that is known of the file.
    pub fn begin(&self, header: &[u8]) -> io::Result<()> {
        self.file.write_all_at(header, 0)?;
        self.file.sync_all()
    }

    /// Writes records, each padded to a multiple of 8, from `offset` on. They are not durable before
    /// [`SegmentFile::sync`].
    pub fn write(&mut self, records: &[Bytes], offset: u32, staging: &mut Staging) -> io::Result<()> {
        if let Some(direct) = &mut self.direct {
            match direct.write(records, u64::from(offset), staging, &self.file) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // The file system opens files so and then refuses to write them so. Nothing was written.
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => self.direct = None,
                Err(error) => return Err(error),
            }
        }
        let mut offset = u64::from(offset);
        for piece in records.chunks(SLICES_MAX / 2) {
            let mut slices: Vec<_> =
                piece.iter().flat_map(|bytes| [IoSlice::new(bytes), IoSlice::new(padding(bytes))]).collect();
            offset += write_all_vectored_at(&self.file, &mut slices, offset)?;
        }
        Ok(())
    }

    /// Makes everything that was written durable.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl Direct {
    fn open(path: &Path, length: u64) -> Option<Self> {
        let end = length / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let file = (end > 0).then(|| open_direct(path, OFlags::WRONLY)).flatten()?;
        Some(Self { file, end, block: Box::new([0; BLOCK_BYTES]), block_at: None })
    }

    /// Writes records in whole blocks; false where the file has no such blocks there.
    fn write(
        &mut self,
        records: &[Bytes],
        offset: u64,
        staging: &mut Staging,
        cached: &File,
    ) -> io::Result<bool> {
        let bytes: usize = records.iter().map(|bytes| bytes.len().next_multiple_of(8)).sum();
        if (offset + bytes as u64).next_multiple_of(BLOCK_BYTES as u64) > self.end {
            self.block_at = None;
            return Ok(false);
        }
        let begun = (offset % BLOCK_BYTES as u64) as usize;
        let mut at = offset - begun as u64;
        if begun > 0 && self.block_at != Some(at) {
            cached.read_exact_at(&mut self.block[..], at)?;
        }
        // What fails leaves the block on disk unknown.
        self.block_at = None;
        let staged = staging.aligned();
        staged[..begun].copy_from_slice(&self.block[..begun]);
        let mut used = begun;
        for part in records.iter().flat_map(|bytes| [bytes, padding(bytes)]) {
            let mut part: &[u8] = part;
            while !part.is_empty() {
                let (now, later) = part.split_at(part.len().min(staged.len() - used));
                staged[used..used + now.len()].copy_from_slice(now);
                (used, part) = (used + now.len(), later);
                if used == staged.len() {
                    self.file.write_all_at(staged, at)?;
                    (at, used) = (at + used as u64, 0);
                }
            }
        }
        let whole = used.next_multiple_of(BLOCK_BYTES);
        staged[used..whole].fill(0);
        if whole > 0 {
            self.file.write_all_at(&staged[..whole], at)?;
        }
        if used < whole {
            self.block.copy_from_slice(&staged[whole - BLOCK_BYTES..whole]);
            self.block_at = Some(at + (whole - BLOCK_BYTES) as u64);
        }
        Ok(true)
    }
}

impl Staging {
    /// Room for one direct write.
    pub fn aligned(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = vec![0; STAGED_BYTES_MAX + BLOCK_BYTES];
        }
        let skip = self.bytes.as_ptr().align_offset(BLOCK_BYTES);
        &mut self.bytes[skip..skip + STAGED_BYTES_MAX]
    }
}

/// Opens a file without the page cache, where the file system has that.
pub(crate) fn open_direct(path: &Path, access: OFlags) -> Option<File> {
    let flags = access | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok().map(File::from)
}

/// Zeros between a record and the next.
fn padding(bytes: &[u8]) -> &'static [u8] {
    &PADDING[..bytes.len().next_multiple_of(8) - bytes.len()]
}

/// Writes all slices from `offset` on, however often the kernel takes only a part; how many bytes that was.
fn write_all_vectored_at(file: &File, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<u64> {
    let mut slices = slices;
    let mut at = offset;
    while !slices.is_empty() {
        match rustix::io::pwritev(file.as_fd(), slices, at) {
            Ok(0) => {
                if slices.iter().all(|slice| slice.is_empty()) {
                    break;
                }
                return Err(io::ErrorKind::WriteZero.into());
            }
            Ok(count) => {
                at += count as u64;
                IoSlice::advance_slices(&mut slices, count);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(at - offset)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FILE_BYTES: usize = 10 * BLOCK_BYTES + 100;

    /// Batches of records, as many as fit; what the file must hold then.
    fn write_batches(file: &mut SegmentFile, sizes: &[&[usize]], from: u32) -> Vec<u8> {
        let mut expected = vec![0; from as usize];
        let mut staging = Staging::default();
        for (number, sizes) in (1..).zip(sizes) {
            let records: Vec<Bytes> = sizes.iter().map(|&size| Bytes::from(vec![number; size])).collect();
            file.write(&records, u32::try_from(expected.len()).unwrap(), &mut staging).unwrap();
            file.sync().unwrap();
            for record in &records {
                expected.extend_from_slice(record);
                expected.resize(expected.len().next_multiple_of(8), 0);
            }
        }
        expected
    }

    #[test]
    fn batches_follow_each_other_whatever_their_sizes() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("segment");
        fs::write(&path, vec![0; FILE_BYTES]).unwrap();
        let mut file = SegmentFile::open(&path).unwrap();
        file.begin(&[7; 64]).unwrap();
        let sizes: [&[usize]; 8] =
            [&[100], &[4096 - 168, 8], &[4096], &[1, 2, 3], &[9000, 5000], &[4096 * 3 - 8], &[77], &[990]];
        let mut expected = write_batches(&mut file, &sizes, 64);
        expected[..64].fill(7);
        assert!(expected.len() > 8 * BLOCK_BYTES);
        expected.resize(FILE_BYTES, 0);
        assert!(fs::read(&path).unwrap() == expected);

        // Opened again, it goes on in the middle of a block, and to the very end of the file.
        let mut file = SegmentFile::open(&path).unwrap();
        let from = expected.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        let from = u32::try_from(from.next_multiple_of(8)).unwrap();
        let left = FILE_BYTES - from as usize;
        let later = write_batches(&mut file, &[&[24], &[left - 24 - 60], &[60]], from);
        expected.splice(from as usize.., later[from as usize..].iter().copied());
        assert!(fs::read(&path).unwrap()[..FILE_BYTES] == expected[..FILE_BYTES]);
    }

    #[test]
    fn a_batch_may_be_larger_than_what_is_staged() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("segment");
        fs::write(&path, vec![0; 3 * STAGED_BYTES_MAX]).unwrap();
        let mut file = SegmentFile::open(&path).unwrap();
        let mut expected =
            write_batches(&mut file, &[&[40], &[STAGED_BYTES_MAX + 5000, 16], &[STAGED_BYTES_MAX / 2]], 0);
        expected.resize(3 * STAGED_BYTES_MAX, 0);
        assert!(fs::read(&path).unwrap() == expected);
    }

    #[test]
    fn a_file_that_grows_ends_behind_its_last_record() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("segment");
        let mut file = SegmentFile::create(&path).unwrap();
        let many = vec![16; SLICES_MAX];
        let expected = write_batches(&mut file, &[&[100], &[5000, 1], &many], 0);
        assert!(fs::read(&path).unwrap() == expected);
    }
}

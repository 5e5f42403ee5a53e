//! Real bytes for the writers: files, laid end to end and cut into pieces.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngCore, SeedableRng};

use crate::error::DrillError;

/// Pieces of real files, held in memory so that reading them never slows a writer.
#[derive(Clone, Debug)]
pub struct Input {
    bytes: Bytes,
    piece_bytes: usize,
    pieces: u64,
    start: u64,
}

impl Input {
    /// Reads files below `directory`, in an order that `seed` decides, until [`INPUT_BYTES_MAX`]. Without a
    /// directory, files of this system are taken. Links are not followed; what cannot be read is skipped.
    ///
    /// # Errors
    /// There is not one readable byte.
    pub fn load(directory: Option<&Path>, piece_bytes: usize, seed: u64) -> Result<Self, DrillError> {
        let mut dice = SmallRng::seed_from_u64(seed);
        let roots: Vec<PathBuf> = match directory {
            Some(directory) => vec![directory.to_owned()],
            None => DEFAULT_ROOTS.iter().map(PathBuf::from).collect(),
        };
        for root in &roots {
            let mut bytes = read_tree(root, &mut dice, piece_bytes);
            if bytes.is_empty() {
                continue;
            }
            // Whole pieces only, and at least one: a small input is repeated.
            while bytes.len() < piece_bytes {
                bytes.extend_from_within(..bytes.len().min(piece_bytes - bytes.len()));
            }
            let pieces = (bytes.len() / piece_bytes) as u64;
            return Ok(Self { bytes: bytes.into(), piece_bytes, pieces, start: dice.next_u64() });
        }
        let path = roots.into_iter().next().unwrap_or_default();
        let reason = match fs::read_dir(&path) {
            Ok(_) => "holds no readable bytes".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(DrillError::Input { path, reason })
    }

    /// The bytes of append number `sequence` of `writer`. Pieces come round again in a long drill; what
    /// tells appends apart are their names and addresses.
    #[must_use]
    pub fn piece(&self, writer: u32, sequence: u64) -> Bytes {
        let stride = u64::from(writer).wrapping_mul(WRITER_STRIDE);
        let index = self.start.wrapping_add(stride).wrapping_add(sequence) % self.pieces;
        // Below `bytes.len()`, which is a `usize`.
        let at = index as usize * self.piece_bytes;
        self.bytes.slice(at..at + self.piece_bytes)
    }

    /// Bytes held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is held; never so after [`Input::load`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Most bytes that are read: enough variety, and little beside the buffers of the nodes.
pub const INPUT_BYTES_MAX: usize = 64 << 20;

/// Trees that are certain to exist somewhere; the last one is this very program.
const DEFAULT_ROOTS: [&str; 5] = ["/usr/share", "/usr/lib", "/usr/include", "/etc", "/proc/self/exe"];

/// Most files that are looked at.
const FILES_MAX: usize = 20_000;

/// Keeps writers apart; odd, so that it shares no factor with most piece counts.
const WRITER_STRIDE: u64 = 7919;

fn read_tree(root: &Path, dice: &mut SmallRng, piece_bytes: usize) -> Vec<u8> {
    let limit = INPUT_BYTES_MAX.max(piece_bytes) as u64;
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(path) = directories.pop() {
        if files.len() >= FILES_MAX {
            break;
        }
        let Ok(entries) = fs::read_dir(&path) else {
            // The root may be a file itself, or a link to one.
            if path == root && path.is_file() {
                files.push(path);
            }
            continue;
        };
        let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.shuffle(dice);
    let mut bytes = Vec::new();
    for file in files {
        let room = limit - bytes.len() as u64;
        if room == 0 {
            break;
        }
        if let Ok(file) = File::open(file) {
            // A file that fails half-way has still given real bytes.
            let _ = file.take(room).read_to_end(&mut bytes);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_file_bytes_and_a_seed_repeats_them() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        for (name, byte) in [("a", b'a'), ("sub/b", b'b'), ("c", b'c')] {
            fs::write(directory.path().join(name), vec![byte; 1000]).unwrap();
        }
        let input = Input::load(Some(directory.path()), 300, 9).unwrap();
        assert_eq!(input.len(), 3000);
        let again = Input::load(Some(directory.path()), 300, 9).unwrap();
        let mut seen = [false; 256];
        for (writer, sequence) in [(0, 0), (0, 1), (3, 0), (u32::MAX, u64::MAX)] {
            let piece = input.piece(writer, sequence);
            assert_eq!(piece.len(), 300);
            assert_eq!(piece, again.piece(writer, sequence));
        }
        (0..10).flat_map(|sequence| input.piece(0, sequence)).for_each(|byte| seen[usize::from(byte)] = true);
        assert!(seen[usize::from(b'a')] && seen[usize::from(b'b')] && seen[usize::from(b'c')]);
    }

    #[test]
    fn a_small_input_is_repeated_and_an_empty_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = Input::load(Some(directory.path()), 10, 1).unwrap_err();
        let here = directory.path().display();
        assert_eq!(
            error.to_string(),
            format!("--input {here}: holds no readable bytes; name a directory with files that can be read")
        );
        let error = Input::load(Some(&directory.path().join("absent")), 10, 1).unwrap_err();
        assert!(error.to_string().contains("absent: No such file"), "{error}");
        fs::write(directory.path().join("a"), b"abc").unwrap();
        let input = Input::load(Some(directory.path()), 8, 1).unwrap();
        assert_eq!(&input.piece(0, 0)[..], b"abcabcab");
    }

    #[test]
    fn without_a_directory_this_system_has_files() {
        assert!(Input::load(None, 4096, 1).unwrap().len() >= 4096);
    }
}

//! Every limit that holds across crates, with its unit in its name.

/// Largest append. Larger ones are refused before anything is written.
pub const APPEND_BYTES_MAX: usize = 16 << 20;

/// Default size of a segment file (SMFS Table 2).
pub const SEGMENT_BYTES_DEFAULT: u32 = 100_000_000;

/// Smallest segment file: it must hold the largest append and the headers around it.
pub const SEGMENT_BYTES_MIN: u32 = (APPEND_BYTES_MAX + (64 << 10)) as u32;

/// Largest segment file: offsets are 32 bits wide.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 31;

/// The unit of the file system and of the active map (SMFS Table 2).
pub const BLOCK_BYTES: usize = 4096;

/// Longest name of a log.
pub const LOG_NAME_BYTES_MAX: usize = 255;

/// Most logs that one site holds; the tables that list them stay small enough to send whole.
pub const LOGS_MAX: usize = 65_536;

/// Largest message body (an rkyv archive); bulk bytes travel beside it, not in it.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Largest number of source symbols that a decoder keeps for one code epoch.
pub const DECODER_WINDOW_SYMBOLS_MAX: usize = 1 << 16;

const _: () = assert!(SEGMENT_BYTES_MIN as usize > APPEND_BYTES_MAX);
const _: () = assert!(SEGMENT_BYTES_DEFAULT >= SEGMENT_BYTES_MIN);
const _: () = assert!(SEGMENT_BYTES_DEFAULT <= SEGMENT_BYTES_MAX);

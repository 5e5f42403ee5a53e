//! Every limit that holds across crates, with its unit in its name.

/// Largest append. Larger ones are refused before anything is written.
pub const APPEND_BYTES_MAX: usize = 16 << 20;

/// What an append takes until it is answered, beside its bytes, and still takes when those are on the disk and freed:
/// the tasks of the front end that wait for its answer, its entries with the storage server (what was asked, the
/// deadline, the place for the answer), and some steps of its safety path: measured at 2.5 KiB without such steps. The
/// request id that a log remembers is bounded apart, by `mirror.requests`.
pub const WAITING_APPEND_BYTES: usize = 4 << 10;

/// Least bytes of questions that a node must take in, so that the largest append at the level `local` fits beside all that
/// may wait for the other site: of this node a quarter, and of other nodes a quarter or one of the largest appends.
pub const IN_FLIGHT_BYTES_MIN: usize = 3 * (APPEND_BYTES_MAX + (64 << 10));

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

const _: () = assert!(IN_FLIGHT_BYTES_MIN * 3 / 4 > 2 * (APPEND_BYTES_MAX + WAITING_APPEND_BYTES));
const _: () = assert!(SEGMENT_BYTES_MIN as usize > APPEND_BYTES_MAX);
const _: () = assert!(SEGMENT_BYTES_DEFAULT >= SEGMENT_BYTES_MIN);
const _: () = assert!(SEGMENT_BYTES_DEFAULT <= SEGMENT_BYTES_MAX);

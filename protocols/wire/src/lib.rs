//! What goes over wires, byte by byte.
//!
//! - [`datagram`]: the 32-byte header of every bulk datagram, fixed offsets, no archive.
//! - [`symbol`]: the 20-byte prefix that codes protect together with an append's bytes.
//! - [`announcement`]: the 40-byte record that runs ahead of an append's data.
//! - [`envelope`]: the 32-byte frame around messages: [`Checked`] bodies in rkyv, bulk bytes beside them.
//! - [`client`], [`link`] and [`site`]: the messages themselves.
//!
//! All integers are little endian. `docs/formats.md` draws each layout; golden tests freeze them.

pub mod announcement;
mod bytes_at;
pub mod client;
pub mod datagram;
pub mod envelope;
pub mod link;
pub mod site;
pub mod symbol;

pub use announcement::{ANNOUNCEMENT_BYTES, Announcement};
pub use bytes_at::{crc32c, crc32c_of};
pub use datagram::{Datagram, DatagramKind, NUMBER_BITS, REPAIR_HEADER_BYTES, SOURCE_HEADER_BYTES};
pub use envelope::{
    Checked, ENVELOPE_BYTES, Envelope, Message, PAYLOAD_BYTES_MAX, WireError, encode_body, frame,
};
pub use symbol::{SYMBOL_DATA_BYTES_MAX, SYMBOL_PREFIX_BYTES, SymbolPrefix};

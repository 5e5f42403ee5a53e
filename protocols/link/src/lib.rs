//! The core of a link: records in at one site, the same records out at the other, and for each of them
//! what protects it on the way.
//!
//! ```text
//!            records                                                                      records
//!   storage ─────────► Sender ──── source and repair symbols, one per datagram ───► Receiver ─────────► mirror
//!              ▲         │ ▲                                                           │
//!     coverage └─────────┘ └─────────────── reports: settled, missing, channel ────────┘
//! ```
//!
//! [`Sender`] cuts records into source symbols, paces them, feeds them to an erasure code and sends the
//! repair symbols as they fire. It tells, for every record, which repairs of *all* its symbols have left
//! the site: its coverage, the figure that a network-synchronous acknowledgement rests on (SMFS section
//! 3.2). [`Receiver`] rebuilds what was lost, puts records together, counts the raw losses of the channel,
//! and lists what it could not rebuild; the sender then sends that again (SMFS section 3.2, end-to-end
//! reliability). A hole in one record never delays another.
//!
//! Neither has a socket, a clock or a thread. The methods of both come in four kinds: *verbs* ask for
//! something, `handle_*` tell what happened, `poll_*` take what is to be done, the rest are getters.
//! After any call, a driver takes everything that `poll_*` offers and calls again at `poll_timeout`.
//!
//! # Invariants
//! - Source symbols have consecutive ids over the session; each carries bytes of one record; each record is
//!   protected by one code. So does a change of the code, which waits for the end of a record.
//! - Every datagram takes one wire number, whatever it carries.
//! - Monotone: wire numbers, symbol ids, settled symbols, every channel counter; and a record's coverage, until one of
//!   its symbols is found missing.
//! - Symbols in flight, from the first that is not known to have arrived, number at most
//!   [`SYMBOLS_IN_FLIGHT_MAX`] at both ends.

mod channel;
mod config;
mod departures;
mod pacer;
mod reassembly;
mod receiver;
mod records;
mod repairs;
mod retransmission;
mod round_trip;
mod runs;
mod sender;
mod symbols;

pub use config::{ReceiverConfig, SenderConfig};
pub use receiver::{MISSING_RUNS_MAX, Receiver, Report};
pub use sender::{CodeEpoch, Full, LAZY_FACTOR, Sender, SenderEvent, SenderStats, Transmit, TransmitKind};

/// Most source symbols between the first one that is not known to have arrived and the newest one.
///
/// It bounds the state of both ends. A million symbols of 1200 bytes are a second at 10 Gb/s, several
/// round trips of the longest path on earth.
pub const SYMBOLS_IN_FLIGHT_MAX: u64 = 1 << 20;

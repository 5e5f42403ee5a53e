//! Mirroring: what a primary does between an append and its acknowledgement, and what a mirror does with
//! what it is told and sent.
//!
//! Two cores, both pure: [`Primary`] and [`Replica`]. Each takes one [`step`](Primary::step) at a time with
//! the time and an input, and answers with effects that a shell carries out. Neither waits for the other:
//! the primary keeps accepting while the mirror is away, and feeds it from the log when it is back.
//!
//! # Watermarks of a log
//!
//! Counts of records from the start of the log; each only rises, and at all times
//!
//! ```text
//! primary:   mirrored <= durable <= appended            announced <= appended, sent <= appended
//! mirror:    applied (= durable, in order) <= received
//! both:      mirrored (primary's belief) <= applied (mirror's fact)
//! ```
//!
//! Only `mirrored` may fall, when a mirror comes back with less than it had confirmed: it lost its disk.

mod announced;
mod demand;
mod directory;
mod feed;
mod input;
mod log_state;
mod path;
mod pending;
mod primary;
mod refusals;
mod replica;
mod requests;

pub use demand::Demand;
pub use directory::{Directory, DirectoryError};
pub use input::{
    Append, Backlog, Covered, Effect, Event, Input, LogStatus, PrimaryConfig, PrimaryLog, Reply, Token,
};
pub use path::{Stage, StageKind};
pub use pending::Acked;
pub use primary::Primary;
pub use replica::{Gap, Promotion, Replica, ReplicaEffect, ReplicaEvent, ReplicaInput, ReplicaLog};

//! The words of Parhelion: identifiers, addresses, levels, risks, times, limits and error kinds.
//!
//! Every other crate speaks in these types, so each word has one meaning (ARCHITECTURE.md, "Words").
//! Nothing here does anything but hold, check, order and print values.

mod append;
mod durability;
mod error;
mod id;
pub mod limits;
mod request;
mod risk;
mod role;
mod time;

pub use append::AppendRequest;
pub use durability::{Degrade, Durability, UnknownLevel};
pub use error::{Error, ErrorKind};
pub use id::{Epoch, LogAddress, LogId, NodeId, ParseAddressError, RecordKey, SegmentId, SiteId};
pub use request::{RequestId, TraceContext};
pub use risk::{Risk, RiskOutOfRange};
pub use role::{Role, UnknownRole};
pub use time::{SourceTime, Time};

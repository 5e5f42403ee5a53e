//! The gate of a node: certificates, TLS, and the QUIC front end for clients.
//!
//! - [`pki`] makes a private certificate authority, and certificates that carry roles; [`tls`] loads them
//!   and decides what a role may do.
//! - [`Backend`] is what a node does for its clients, in plain values. [`Question`] and [`Answer`] are the
//!   same as messages; both directions of their wire form are here, and the client library uses them too.
//! - [`Api`] serves clients over QUIC: one stream, any number of questions under way, answers in any order.
//!   Everything it holds is bounded in bytes by a [`Budget`].
//!
//! The HTTP front end checks the same requests and calls the same [`Backend`]; [`json`] is the form of its answers, which
//! the command line prints too.

pub mod answer;
mod api;
pub mod backend;
pub mod json;
pub mod pki;
pub mod question;
pub mod quic;
pub mod stream;
pub mod tls;

pub use answer::Answer;
pub use api::{Api, ApiConfig, ApiError};
pub use backend::{
    Appended, Backend, CodeRequest, CreateRequest, Entry, EntryKind, LogDigest, LogState, Missing, Promotion,
    ReadRecord, Stage, Stretch,
};
pub use parhelion_credit::{Budget, Credit};
pub use parhelion_types::AppendRequest;
pub use question::Question;
pub use tls::{Identity, TlsError};

//! The plugin protocol: what an erasure code and a durability model are.
//!
//! Two traits make the whole contract. [`ErasureCode`] makes an [`Encoder`] for the sending gateway and a
//! [`Decoder`] for the receiving one; [`DurabilityModel`] turns what is on the wire into a bound on the
//! risk of loss. The link and the estimator know codes and models by these traits alone, so a code that
//! is compiled in, loaded from a shared library or run in a sandbox looks the same to them.
//!
//! ```text
//!            source symbols            repair symbols                recovered symbols
//!   link ───────────────────► Encoder ───────────────► wire ► Decoder ─────────────────► link
//!                                │ Cover of each repair
//!                                ▼
//!                             coverage ──► DurabilityModel ──► Risk
//! ```
//!
//! Buffers belong to the caller, and nothing allocates per symbol once a stream is in steady state.

mod channel;
mod chosen;
mod code;
pub mod conformance;
mod model;
mod parameters;
pub mod trial;
mod window;

pub use channel::Channel;
pub use chosen::Code;
pub use code::{
    Cover, Decoder, Encoder, ErasureCode, RecoveredSink, RepairHead, RepairSink, Structure, SymbolError,
};
pub use model::{DurabilityModel, Exposure};
pub use parameters::{Parameter, ParameterError, Parameters, ParseParametersError};
pub use window::{Forgotten, Window};

//! The planner: which code, with which parameters, protects a link at the least overhead?
//!
//! ```text
//!  channels, rates, ─► Situation ─┐
//!  max_risk, deadline             ▼
//!  catalogue of codes ─► candidates ─► course of an append ─► DurabilityModel ─► Evaluation
//!                                      (repairs against time)                        │
//!  Controller (hysteresis) ◄── Search (least overhead that meets the risk) ◄─────────┘
//!       └──► Decision, in words
//! ```
//!
//! A [`Situation`] is what the estimator and the traffic say now. From it follow the parameters that could make
//! sense: interleaves that fire in time, depths and pauses beyond the likely burst. Each [`Candidate`] is followed through
//! the life of an append, in a stream and alone, and every set of repairs on the way is priced by the durability model;
//! the [`Evaluation`] says when the risk that was asked for is reached, and what it costs. [`choose`] takes the cheapest
//! one that is in time. [`Controller`] does so again and again, raises the protection at once and lowers it slowly.
//!
//! Being wrong here costs time or bandwidth, never the promise: the risk behind each acknowledgement is computed from
//! what is on the wire, whatever was planned.

mod candidate;
mod codes;
mod controller;
mod course;
mod evaluation;
mod explanation;
mod interleaves;
mod policy;
mod search;
mod situation;

pub use candidate::Candidate;
pub use controller::{Change, Controller, Decision, Direction};
pub use evaluation::{Course, Evaluation, Point, evaluate};
pub use interleaves::interleaves;
pub use policy::Policy;
pub use search::{Plan, Search, choose, rank};
pub use situation::{AckWhen, Situation};

//! The proof that risk figures hold: simulated disasters through the real link, the real codes and the real estimator.
//!
//! ```text
//!   traffic ──► Sender ══ line that loses packets ══► Receiver ──► records that the mirror has
//!                 │ coverage                             │ reports            │
//!                 ▼                                      ▼                    ▼
//!              Ledger ◄── Pricer (model) ◄── ChannelEstimator           lost or not?
//!                 │ prefix risk                                               ▲
//!                 ▼                                                           │
//!              decide ──► acknowledgement ══ the site dies in that instant ═══┘
//! ```
//!
//! Everything but the line and the writers is what a node runs. An append is chosen before anything is known about it; in the
//! instant in which it is acknowledged at the level `network`, the site dies: what had left it arrives or is lost, and
//! what had not never leaves. The append is lost if the mirror cannot put it, or one before it in its log, together. Later
//! deaths are kinder, since more is on the wire. What was promised is the prefix risk of the acknowledgement.
//!
//! A [`Campaign`](campaign::Campaign) goes through a grid of channels and codes, each at several confidences; its
//! [`Report`](report::Report) says how often losses exceed the promise, and by how much promises exceed the losses.
//!
//! # Two numbers
//! 1. *How often losses exceed the promise.* A confidence is a statement about links: of links with telemetry of their own,
//!    the bounds of at most one in ten fail at 0.9. A link is refuted if its losses have a probability below 1 % under what it
//!    promised (exact Poisson-binomial tail, over all promises and over small ones apart); of the links of stationary channels,
//!    one minus the confidence may be, and one in a hundred of the others. Each cell is tested, besides, as if there
//!    were no such allowance, at 1 % shared among all cells.
//! 2. *By how much promises exceed the losses*: the median over the cells with enough losses to tell.

pub mod campaign;
pub mod catalogue;
pub mod cell;
pub mod error;
pub mod judge;
pub mod life;
pub mod line;
pub mod link;
pub mod loss;
pub mod plot;
pub mod policy;
pub mod reliability;
pub mod report;
pub mod statistics;
mod table;
pub mod traffic;
pub mod worsening;

//! The price of an acknowledgement: what an append risks if the primary site dies now.
//!
//! ```text
//!  mirror's counters ──► ChannelEstimator ──► Channel ─┐
//!                                                      ▼
//!  coverage of appends ─────────► Ledger ─ Exposure ─► Pricer (DurabilityModel)
//!  records at the mirror ───────►   │  ◄──── own risk ───┘
//!                                   ▼
//!  TrackRecord ── factor ──► own and prefix risk ──► ack::decide ──► acknowledgement
//! ```
//!
//! [`ChannelEstimator`] turns counters into confidence bounds on the channel, never into best guesses (SMFS
//! section 3.2 asks for "worst-case assumptions about network loss"). [`Pricer`] asks the durability model.
//! [`Ledger`] keeps the appends in flight and adds up: an append is worth nothing at the mirror without those
//! before it in its log, so what counts is the *prefix* risk. [`TrackRecord`] holds what the model promised against what
//! became of the appends, and raises all figures where the record refutes it. [`decide`] compares them with
//! what the client asked for.
//!
//! All of it is a function of its inputs: no clock, no threads, no I/O.

mod ack;
mod binomial;
mod channel;
mod fate;
mod ledger;
mod poisson;
mod pricer;
mod track_record;
mod transitions;
mod window;

pub use ack::{Progress, Reached, Reason, Waiting, decide, missing, reached};
pub use channel::{Assumption, AssumptionError, ChannelCounts, ChannelEstimator, HorizonState, PRIOR_BURSTS};
pub use ledger::{Ledger, Risks, WireState};
pub use pricer::{CodeGeneration, Pricer};
pub use track_record::{EPISODE, Tally, TrackRecord, Verdict};

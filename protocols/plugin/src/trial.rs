//! Trials: one crash of the sender, played with the real encoder and the real decoder.
//!
//! A durability model that knows no formula for a code asks the code itself. [`Crashes`] draws what was on the wire
//! when the sender died, such that the link would have reported a given [`Exposure`](crate::Exposure) of the append;
//! the caller says which slots the channel loses ([`Losses`]); [`Player`] gives the decoder what is left and tells
//! whether a symbol of the append is missing for good.
//!
//! ```text
//!   Crashes ──► Wire: history, append, stream or flush, ╪ crash     (encoded once)
//!                 │                                                   │
//!   channel ──► Losses: by slot ──────────────────────────► Player ──► lost or not   (again and again)
//! ```
//!
//! A wire is a row of slots, one per packet time; in the pauses of a flush slots are empty, and the channel moves on
//! in them. Symbols have eight bytes: what can be rebuilt does not depend on their size.
//!
//! # What an exposure leaves open
//! The figure of a model has to hold for every append with the exposure, so each choice is either sampled, or made
//! at its worst:
//!
//! | open | choice |
//! | --- | --- |
//! | where in its groups the append lies | the code's cycle is cut into up to eight parts ([`Crashes::places`]): the caller takes the worst |
//! | where within such a part | sampled |
//! | when the former flush was, if repairs reach across flushes | the worse of right before the append, and two or more spans |
//! | which symbols a flush covered, and how many followed the append before it | sampled among the rhythms that show the exposure |
//! | which repairs of the append are there that are not in its coverage | none |
//! | what was sent before | a stream without a flush for two spans of the code, or, before a shorter run, a flush and such a stream |
//! | groups that an earlier flush had made shorter | counted as full, save blocks that a flush of the append's own symbols ended |
//! | what lies between two packets | what the code puts there, and the pauses of the flush: no symbol sent again, no idle time |
//! | an append that several flushes cut | runs as short as the shortest |

mod crashes;
mod losses;
mod player;
mod wire;

pub use crashes::{Crashes, SYMBOLS_MAX, told_apart};
pub use losses::Losses;
pub use player::Player;
pub use wire::{Related, Wire};

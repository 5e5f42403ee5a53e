//! A sender and a receiver with an unkind network between them: nothing here knows their insides.

mod coverage;
mod delivery;
mod limits;
mod network;

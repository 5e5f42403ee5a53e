//! The kit of plugin authors: what `parhelion plugin` does, as a library.
//!
//! | module | command | what it does |
//! |---|---|---|
//! | [`project`] | `plugin new` | writes a folder with a plugin that builds |
//! | [`examination`] | `plugin check` | holds a plugin against the conformance kit |
//! | [`speed`] | `plugin bench` | encodes and decodes beside the built-in codes, in turns |
//! | [`residual`] | `plugin bench` | plays loss traces: what stays lost, how late the rest comes, what it costs |
//! | [`answers`] | `plugin bench` | the figures of a durability model beside those of the built-in ones |
//! | [`listing`] | `plugin list` | what there is, with parameters and guarantees |
//!
//! Everything is returned as data that serialises; the command line makes tables of it.

pub mod answers;
pub mod examination;
pub mod listing;
pub mod project;
pub mod residual;
pub mod speed;

//! Fuzz targets: one for each kind of bytes that comes from outside.
//!
//! A [`Target`] takes any bytes and drives the real code with them: the receiver with its decoders, the cores of
//! both sites, the HTTP server on a socket. It panics when a promise is broken: nothing from outside makes a node
//! panic or outgrow its limits, what was not damaged comes out as it went in, and what is parsed is written again
//! as the same.
//!
//! Plain bytes would die at the first checksum. A target therefore reads its input as a [`Script`], or mends
//! lengths and checksums before it goes on with the same bytes, so that the code behind them is reached.
//!
//! The targets know no engine. `cargo test` runs every checked-in input through them; `.ci/fuzz` builds them
//! with coverage and hands them to libFuzzer. See this crate's README.

mod frames;
mod script;
/// The binary's own loader of settings: a binary has no library to import.
#[path = "../../../services/parhelion/src/settings/mod.rs"]
#[allow(dead_code, unused_imports, missing_docs, reason = "the binary uses all of it")]
mod settings;
pub mod targets;

use std::path::PathBuf;

pub use script::Script;
pub use targets::{TARGETS, Target};

/// Where the checked-in inputs of a target are: what it starts from, and what once broke it.
///
/// # Panics
/// Cargo does not run it.
#[must_use]
pub fn inputs(target: &Target) -> [PathBuf; 2] {
    // As it is now: a checkout elsewhere, with the same target directory, may have built this.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs it");
    let root = PathBuf::from(root);
    [root.join("seeds").join(target.name), root.join("regressions").join(target.name)]
}

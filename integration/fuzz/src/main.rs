//! Hands one target to libFuzzer: the one that the environment variable `PARHELION_FUZZ_TARGET` names.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use parhelion_fuzz::{TARGETS, Target};

static TARGET: OnceLock<&Target> = OnceLock::new();

fn target() -> &'static Target {
    TARGET.get_or_init(|| {
        let name = std::env::var("PARHELION_FUZZ_TARGET").unwrap_or_default();
        let known = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
        TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
            eprintln!("PARHELION_FUZZ_TARGET is {name:?}; give one of: {}", known());
            std::process::exit(2)
        })
    })
}

fuzz_target!(|bytes: &[u8]| (target().run)(bytes));

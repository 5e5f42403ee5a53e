//! The benchmarks, one file each. Each starts what it needs, takes turns, and returns figures.

pub(crate) mod ack_distance;
pub(crate) mod against_tcp;
pub(crate) mod codes;
pub(crate) mod drills;
pub(crate) mod goodput;
pub(crate) mod group_commit;
pub(crate) mod loopback;
pub(crate) mod memory;

use std::time::Duration;

/// Rate of the emulated line, bits per second: what a two-core machine emulates without being late.
const LINE_RATE: u64 = 300_000_000;

/// Share of source symbols in what the default code (8,3) sends.
const CODE_SHARE: f64 = 8.0 / 11.0;

/// After this the mirror has caught up with any load of these benchmarks, or never will.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

//! What end-to-end tests need: the real binary as nodes and as a tool, two sites, and a collector of
//! traces and metrics.
//!
//! Nothing of the product is built into the tests but its client library. [`Pair`] is a primary and a mirror,
//! each a process of its own with its data in a temporary directory; [`Cluster`] is two sites of several processes;
//! [`Node`] is one process, and can be killed, stopped and started again; [`Tool`] runs a subcommand to its end;
//! [`Collector`] receives OTLP, in a process of its own (`src/bin/otlp-receiver.rs`).
//!
//! The tests are in `tests/e2e`. They run in the order of the test harness, at the same time, on 127.0.0.1:
//!
//! ```sh
//! cargo build --release -p parhelion && cargo test --release -p parhelion-e2e
//! PARHELION_E2E_KILLS=200 cargo test --release -p parhelion-e2e -- --ignored --nocapture kills
//! ```
//!
//! Tests that need a namespace or a disk of their own are skipped where the system does not allow one, and say so on
//! standard error, also when all pass ([`skip`]). With `PARHELION_SKIP_NOTHING=1` they fail instead: set it on a machine that
//! surely has them.
//!
//! Everything here panics when it fails, with what the processes said: it has no caller but tests.

mod binary;
mod cluster;
mod collector;
mod node;
mod pair;
mod payload;
mod ports;
mod skip;
mod surroundings;
mod tool;
mod wait;

pub use binary::binary;
pub use cluster::{Cluster, Shape};
pub use collector::{Collector, Seen, SeenMetric, SeenSpan};
pub use node::{LinkAddresses, Node, NodeSpec, Ready};
pub use pair::{At, Pair, PairOptions, Site, client};
pub use payload::{payload, request_id, seed};
pub use ports::Ports;
pub use skip::skip;
pub use surroundings::{Disk, Surroundings};
pub use tool::{Outcome, Tool};
pub use wait::{eventually, poll};

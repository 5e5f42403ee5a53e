//! End-to-end tests: the real binary, two processes, real sockets and disks. See the crate's documentation
//! for how to run them; each module is one kind of question that an operator would ask.

mod away;
mod certificates;
mod damage;
mod disaster;
mod drill;
mod faults;
mod http;
mod kills;
mod link;
mod metrics;
mod ordinary;
mod planner;
mod plugins;
mod promotion;
mod refusals;
mod signals;
mod site;
mod table;
mod tools;
mod traces;
mod unit;

use std::time::Duration;

use parhelion_client::AppendOptions;
use parhelion_types::{Durability, Risk};

/// For what should happen soon, with both cores busy.
const SOON: Duration = Duration::from_secs(30);

/// An append of that level, with all else as usual.
fn at_level(durability: Durability) -> AppendOptions {
    AppendOptions { durability, ..AppendOptions::default() }
}

/// An append that is acknowledged as soon as all its repairs have left the site. A link that was hardly used
/// yet promises little, and an append that asks for a small risk waits for the mirror then.
fn on_the_wire() -> AppendOptions {
    AppendOptions { max_risk: Risk::CERTAIN, ..at_level(Durability::Network) }
}

//! What actix lacks for a service that must not stop: supervision that survives panics, byte credits, and names.
//!
//! - [`supervise`](supervise()) runs an actor whose panics are caught: the address and the queued messages
//!   survive, the state is rebuilt by the actor itself, restarts back off, and too many of them escalate.
//! - [`Budget`] bounds what is on its way to an actor in bytes. actix's mailbox bound does not: every clone
//!   of an address owns a slot of its own, and `do_send` ignores the bound altogether.
//! - [`named_arbiter`] is a thread for actors that profiles call by its name.

mod arbiter;
mod clock;
mod fault;
mod supervise;

pub use arbiter::named_arbiter;
pub use clock::Clock;
pub use fault::{FaultError, Faults};
pub use parhelion_credit::{Budget, Credit};
pub use supervise::{Escalation, Policy, restarts, supervise};

//! An emulated wide-area link between two sites, for drills and tests.
//!
//! [`Link`] is the model of one direction, and pure: a bottleneck of bounded rate and queue, a long fibre
//! that delays, and loses, duplicates and reorders packets as a seed decides, and a cut. Two shells carry
//! real traffic through a pair of them:
//!
//! * the **packet form** ([`Namespaces`], `run_packet_emulator`): each site is a network namespace whose
//!   only way out is a TUN device, and the emulator moves IP packets between the two devices, so that
//!   unmodified TCP, UDP and QUIC meet real delay and real loss;
//! * the **relay form** ([`RelayFlow`], `run_relay`): ports on the host that forward UDP and TCP to
//!   other ports. It needs no privilege, and cannot lose segments of a TCP connection.
//!
//! The emulator is a process of its own, so that the load of a drill and its timing do not disturb each
//! other more than two processes must. The parent starts its own binary again, with a hidden subcommand
//! that does nothing but call [`run_emulator`], and steers it through an [`Emulator`]: change the loss,
//! cut the fibre, read the counters, and in the packet form how far the bytes of TCP connections came.
//!
//! ```no_run
//! use parhelion_wan::{Emulator, LinkConfig, Loss, Namespaces, Side, WanConfig, monotonic_now};
//! # fn main() -> Result<(), parhelion_wan::WanError> {
//! let sites = Namespaces::create()?;
//! let wan = WanConfig::symmetric(7, LinkConfig { rate: Some(300_000_000), ..LinkConfig::default() });
//! let mut command = std::process::Command::new("/proc/self/exe");
//! command.arg("emulate-wan");
//! let mut emulator = Emulator::spawn_packet(command, &wan, &sites)?;
//! // ... start servers with `sites.enter_command(&mut command, Side::B)`, load them from side A ...
//! emulator.set_loss(None, Loss::independent(0.01))?;
//! let cut = emulator.cut(Side::A, monotonic_now())?;
//! # let _ = cut; Ok(()) }
//! ```
//!
//! Source: SMFS section 2 (rolling disasters), 3 (data stored in the network) and 5.1 (emulated link).

mod clock;
mod config;
mod control;
mod counters;
mod emulator;
mod error;
mod lanes;
mod loss;
mod model;
mod namespaces;
mod packet;
mod relay;
mod streams;
mod tun;

pub use clock::monotonic_now;
pub use config::{Direction, RelayFlow, Side, Transport, WanConfig};
pub use control::ControlSocket;
pub use counters::{AtCut, ClassCounters, DirectionCounters, LinkCounters, Tally, Timeliness, WanCounters};
pub use emulator::{Emulator, run_emulator};
pub use error::WanError;
pub use loss::Loss;
pub use model::{Class, Delivery, DropCause, Link, LinkConfig, Severance, Verdict};
pub use namespaces::{HostDrops, Namespaces, enter_user_namespace, packet_form_available};
pub use packet::run_packet_emulator;
pub use relay::run_relay;
pub use streams::TcpProgress;
pub use tun::MTU_BYTES;

//! The link's shells: one driver loop per end of the link owns the sockets, the QUIC connections and the
//! link core. Packets never leave the driver; actors see records, coverage, marks and telemetry in batches.
//!
//! ```text
//!                 LinkCommand            critical lane: announcements ►            MirrorEvent
//!  storage actor ─────────────► Primary ═══════════════ ◄ reports ════ Mirror ─────────────────► storage actor
//!                ◄───────────── Driver  ═══════════════════════════════ Driver ◄─────────────────
//!                  LinkEvent             bulk lane: symbols, repairs ►             MirrorCommand
//! ```
//!
//! Each lane is a QUIC connection on a socket of its own, with its own DSCP mark. In every turn of a driver
//! the critical lane comes first; the work of a turn is bounded, so it never waits long.
//!
//! What the primary's driver promises: a datagram that it reports as on the wire was put into a packet, the
//! kernel took the packet, and the socket's send queue has let go of it ([`LinkEvent::Coverage`],
//! [`LinkEvent::Announced`]). A session that ends takes nothing with it: what the mirror has not confirmed
//! is sent again in the next one.

mod announcer;
mod bulk;
mod config;
mod error;
mod frames;
mod interface;
mod lane;
mod mirror;
mod mirror_session;
mod on_wire;
mod primary;
mod primary_session;
mod provisioned;
mod reporter;
mod session;
mod stats;
mod tcp;
mod timer;
mod transport;
mod udp;

pub use config::{CodeLookup, Congestion, LaneConfig, MirrorConfig, PeerCheck, PrimaryConfig, Transport};
pub use error::LinkError;
pub use interface::{
    CoverageChange, LinkCommand, LinkEvent, LinkTelemetry, MirrorCommand, MirrorEvent, MirrorSink,
    PrimarySink,
};
pub use mirror::{MirrorAddresses, MirrorDriver};
pub use primary::PrimaryDriver;
pub use stats::{Figure, LOSS_BURST_CLASSES, LinkStats};

//! The link's shells: one driver loop per end of the link owns the sockets, the QUIC connections and the
//! link core. Packets never leave the driver; actors see records, coverage, marks and telemetry in batches.

mod interface;

pub use interface::{
    CoverageChange, LinkCommand, LinkEvent, LinkTelemetry, MirrorCommand, MirrorEvent, MirrorSink, PrimarySink,
};

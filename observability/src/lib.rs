//! What an operator sees of a node: log lines, metrics, and one trace per append across both sites.
//!
//! [`Telemetry`] is installed once per process. It hands out [`Metrics`], where every figure of the
//! product is declared once and can be scraped or pushed, and an [`AppendTracer`], which draws the life
//! of an append (ARCHITECTURE.md, section 4) with explicit times and parents, because an append outlives
//! every function that works on it. None of it needs a collector, and none of it slows a node that has none.

mod instrument;
mod metrics;
mod telemetry;
mod trace;

pub use instrument::{Counter, Gauge, Histogram};
pub use metrics::{AppendOutcome, DatagramKind, Instruments, Metrics, Refusing, RiskScope};
pub use telemetry::{Telemetry, TelemetryConfig, TelemetryError};
pub use trace::{AppendTrace, AppendTracer, MirrorTrace, TimeBase};

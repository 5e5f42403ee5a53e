//! Every figure a node publishes, declared once.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::metrics::Meter;
use parhelion_types::{Durability, ErrorKind, Risk};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::instrument::{Counter, Counters, Declarations, Gauge, Gauges, Histogram, Named};

/// A handle on the node's instruments. Cloning is cheap; all clones share the figures.
///
/// Updating a counter or a gauge is one atomic operation, a histogram one uncontended lock.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

/// How an append ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// Acknowledged at the level asked for.
    Acknowledged,
    /// Acknowledged at a lower level, by the degrade policy.
    Degraded,
    /// Answered again under a known request id; nothing was stored.
    Duplicate,
    /// Refused before anything was stored, while this site is well: another request, another site or a later retry does it.
    Refused,
    /// This site could not do it, or promised less in time than was asked: after it was accepted, or because its log is
    /// damaged or cannot be written. What became of an accepted one the client does not know.
    Failed,
    /// Its client did not wait for the answer. It is stored and mirrored all the same.
    GivenUp,
}

impl AppendOutcome {
    /// How an append ended of which nothing was stored.
    #[must_use]
    pub fn of_refusal(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Busy
            | ErrorKind::Closed
            | ErrorKind::Fenced
            | ErrorKind::Forbidden
            | ErrorKind::Invalid
            | ErrorKind::NotFound
            | ErrorKind::Unsupported => Self::Refused,
            ErrorKind::Corrupt | ErrorKind::Unavailable | ErrorKind::Internal => Self::Failed,
        }
    }
}

/// What a datagram of the link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramKind {
    /// Data, for the first time.
    Source,
    /// Redundancy.
    Repair,
    /// Data again, because the mirror asked for it.
    Resent,
    /// A packet of the critical lane: announcements, reports, and QUIC's own.
    Critical,
}

/// Why a log takes no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusing {
    /// The other site was promoted.
    Fenced,
    /// Stored bytes do not match their checksum.
    Damaged,
    /// It cannot be written.
    Unwritable,
}

/// Whose loss a risk figure is about (ARCHITECTURE.md, "Words").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RiskScope {
    /// This append alone.
    Own,
    /// This append or an earlier one of its log that the mirror lacks.
    Prefix,
}

/// The instruments themselves; reached through [`Metrics`].
#[derive(Debug)]
pub struct Instruments {
    appends: [[Counter; 6]; 3],
    append_bytes: [Counter; 3],
    ack_latency: [Histogram; 3],
    risk: [Histogram; 2],
    datagrams: [Counter; 4],
    datagram_bytes: [Counter; 4],
    refusing: [Gauge; 3],
    loss_bursts: [Counter; LOSS_BURST_LENGTHS.len()],
    restarts: Counters,
    buffers: Gauges,

    /// At a primary: from the sync of an append to the mirror's mark that covers it, on the primary's clock. One value per
    /// sync of a log; fewer while the mirror is away.
    pub confirmation_latency: Histogram,
    /// At a mirror: from the primary's acceptance of a record until it is applied, as far as the sites' clocks agree (SMFS
    /// section 5.2, "mirroring latency").
    pub mirroring_latency: Histogram,
    /// At a primary: bytes that the mirror has not confirmed. 0 at a site that mirrors to nobody.
    pub lag_bytes: Gauge,
    /// At a primary: records that the mirror has not confirmed. 0 at a site that mirrors to nobody.
    pub lag_appends: Gauge,
    /// At a primary: age of the oldest append that the mirror has not confirmed, on the primary's clock. 0 at a site that
    /// mirrors to nobody.
    pub lag_seconds: Gauge,
    /// Appends accepted and not yet answered.
    pub in_flight_appends: Gauge,
    /// Bytes that front ends have taken in and not let go: what `api.in_flight` bounds.
    pub in_flight_bytes: Gauge,

    /// 1 while a session with the other site is up, else 0.
    pub link_up: Gauge,
    /// Sessions begun.
    pub link_sessions: Counter,
    /// At a primary: codes that broke, at either end, so that the link went on with a built-in one.
    pub code_faults: Counter,
    /// At a primary: changes of the link's code that the planner made.
    pub code_plans: Counter,
    /// At a primary: 1 while no code meets the risk that is asked for in time, as the planner finds, else 0.
    pub plan_waits: Gauge,
    /// At a primary: upper bound of the link's loss rate, as the estimator believes it.
    pub link_loss: Gauge,
    /// At a primary: upper bound of the mean loss burst in datagrams, as the estimator believes it.
    pub link_burst: Gauge,
    /// At a primary: what risks are multiplied by because more was lost than the model promised; 1 while it is believed.
    pub risk_factor: Gauge,
    /// At a primary: appends that were expected to be lost beyond repair, at most.
    pub losses_promised: Gauge,
    /// At a primary: appends that were.
    pub losses_beyond_repair: Counter,
    /// At a mirror: bulk datagrams received.
    pub datagrams_received: Counter,
    /// At a mirror: bytes of those.
    pub datagram_bytes_received: Counter,
    /// Bulk datagrams lost on the wire, before repair. Counted by the mirror, which tells the primary.
    pub datagrams_lost: Counter,
    /// At a mirror: packets of the bulk lane that this host dropped after they had arrived.
    pub datagrams_dropped_by_host: Counter,
    /// Source symbols that the mirror rebuilt from redundancy.
    pub symbols_rebuilt: Counter,
    /// Source symbols that reached the mirror after it had rebuilt them or given them up.
    pub symbols_late: Counter,

    /// Records written by one group commit.
    pub group_commit_records: Histogram,
    /// Bytes written by one group commit.
    pub group_commit_bytes: Histogram,
    /// Time of one fdatasync.
    pub fsync: Histogram,
    /// Logs of this site.
    pub logs: Gauge,
    /// At a mirror: appends that were announced and are not here yet.
    pub missing_appends: Gauge,
}

impl Metrics {
    /// Instruments that are only scraped.
    #[must_use]
    pub fn new() -> Self {
        Self::with_meter(None)
    }

    /// Instruments that are also pushed through `meter`, if there is one.
    #[must_use]
    pub(crate) fn with_meter(meter: Option<Meter>) -> Self {
        let mut declarations = Declarations::new(meter);
        let instruments = Instruments::declare(&mut declarations);
        Self(Arc::new(Shared { instruments, registry: Mutex::new(declarations.into_registry()) }))
    }

    /// All figures in the OpenMetrics text format, which Prometheus scrapes.
    ///
    /// The content type is [`Metrics::CONTENT_TYPE`].
    #[must_use]
    pub fn prometheus_text(&self) -> String {
        let mut text = String::new();
        let registry = self.0.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string fails only if a label or a metric refuses to be encoded; ours are plain text.
        if encode(&mut text, &registry).is_err() {
            tracing::error!("metrics: an instrument could not be encoded; the scrape is cut short");
        }
        text
    }

    /// Content type of [`Metrics::prometheus_text`].
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Metrics {
    type Target = Instruments;

    fn deref(&self) -> &Instruments {
        &self.0.instruments
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Instruments {
    /// Counts one append that was asked for at `level` and answered after `latency`.
    ///
    /// Bytes and latency count only where something was acknowledged.
    pub fn append(&self, level: Durability, outcome: AppendOutcome, bytes: u64, latency: Duration) {
        let row = level_index(level);
        self.appends[row][outcome as usize].inc();
        if matches!(outcome, AppendOutcome::Acknowledged | AppendOutcome::Degraded) {
            self.append_bytes[row].add(bytes);
            self.ack_latency[row].observe_duration(latency);
        }
    }

    /// Appends asked for at `level` that ended in `outcome`.
    #[must_use]
    pub fn appends(&self, level: Durability, outcome: AppendOutcome) -> &Counter {
        &self.appends[level_index(level)][outcome as usize]
    }

    /// Counts the risk that an acknowledgement promised. A risk of zero falls into the lowest bucket.
    pub fn risk_promised(&self, scope: RiskScope, risk: Risk) {
        self.risk[scope as usize].observe(risk.probability());
    }

    /// Datagrams of `kind` sent.
    #[must_use]
    pub fn datagrams_sent(&self, kind: DatagramKind) -> &Counter {
        &self.datagrams[kind as usize]
    }

    /// Bytes of datagrams of `kind` sent.
    #[must_use]
    pub fn datagram_bytes_sent(&self, kind: DatagramKind) -> &Counter {
        &self.datagram_bytes[kind as usize]
    }

    /// Loss bursts of the bulk lane by class of length: class `k` has those of `2^k` to `2^(k+1) - 1` datagrams. None for a
    /// class beyond 15.
    #[must_use]
    pub fn loss_bursts(&self, class: usize) -> Option<&Counter> {
        self.loss_bursts.get(class)
    }

    /// Logs that take no records, because `why`.
    #[must_use]
    pub fn logs_refusing(&self, why: Refusing) -> &Gauge {
        &self.refusing[why as usize]
    }

    /// Times that a supervisor restarted `actor`.
    #[must_use]
    pub fn restarts(&self, actor: &str) -> Counter {
        self.restarts.of(actor)
    }

    /// Bytes held by a bounded buffer. Keep the gauge: finding it takes a lock.
    #[must_use]
    pub fn buffer_bytes(&self, buffer: &str) -> Gauge {
        self.buffers.of(buffer)
    }

    fn declare(new: &mut Declarations) -> Self {
        let levels = Durability::ALL.map(Durability::name);
        Self {
            appends: new.counter_grid(
                named("appends", "Appends by level asked for and outcome", None),
                "level",
                levels,
                "outcome",
                OUTCOMES,
            ),
            append_bytes: new.counters(
                named("append", "Bytes of acknowledged appends by level asked for", BYTES),
                "level",
                levels,
            ),
            ack_latency: new.histograms(
                named("ack_latency", "Time from acceptance to acknowledgement by level asked for", SECONDS),
                "level",
                levels,
                LATENCY_BUCKETS,
            ),
            risk: new.histograms(
                named("risk_promised", "Risk of loss promised by acknowledgements, as a probability", None),
                "scope",
                ["own", "prefix"],
                RISK_BUCKETS,
            ),
            confirmation_latency: new.histogram(
                named(
                    "confirmation_latency",
                    "Time from an append's sync to the mirror's mark that covers it",
                    SECONDS,
                ),
                LATENCY_BUCKETS,
            ),
            mirroring_latency: new.histogram(
                named(
                    "mirroring_latency",
                    "Time from the primary's acceptance of a record until this mirror applied it",
                    SECONDS,
                ),
                LATENCY_BUCKETS,
            ),
            lag_bytes: new.gauge(named("lag", "Bytes that the mirror has not confirmed", BYTES)),
            lag_appends: new.gauge(named("lag_appends", "Records that the mirror has not confirmed", None)),
            lag_seconds: new.gauge(named(
                "lag",
                "Age of the oldest append that the mirror has not confirmed",
                SECONDS,
            )),
            in_flight_appends: new.gauge(named(
                "in_flight_appends",
                "Appends accepted and not yet answered",
                None,
            )),
            in_flight_bytes: new.gauge(named(
                "in_flight",
                "Bytes that front ends have taken in and not let go",
                BYTES,
            )),
            link_up: new.gauge(named("link_up", "1 while a session with the other site is up", None)),
            link_sessions: new.counter(named("link_sessions", "Link sessions begun", None)),
            code_faults: new.counter(named("link_code_faults", "Codes that broke and were replaced", None)),
            code_plans: new.counter(named("link_code_plans", "Changes of code that the planner made", None)),
            plan_waits: new.gauge(named(
                "link_plan_waits",
                "1 while no code meets the risk that is asked for in time",
                None,
            )),
            link_loss: new.gauge(named(
                "link_loss",
                "Upper bound of the loss rate of the link",
                Some("ratio"),
            )),
            link_burst: new.gauge(named("link_burst_datagrams", "Upper bound of the mean loss burst", None)),
            risk_factor: new.gauge(named("risk_factor", "What the model's risks are multiplied by", None)),
            losses_promised: new.gauge(named(
                "losses_promised",
                "Appends that were expected to be lost beyond repair, at most",
                None,
            )),
            losses_beyond_repair: new.counter(named(
                "losses_beyond_repair",
                "Appends that the mirror could not rebuild from what covered them",
                None,
            )),
            datagrams: new.counters(
                named("link_datagrams_sent", "Datagrams sent by kind", None),
                "kind",
                KINDS,
            ),
            datagram_bytes: new.counters(
                named("link_datagrams_sent", "Bytes of datagrams sent by kind", BYTES),
                "kind",
                KINDS,
            ),
            datagrams_received: new.counter(named(
                "link_datagrams_received",
                "Bulk datagrams received",
                None,
            )),
            datagram_bytes_received: new.counter(named(
                "link_datagrams_received",
                "Bytes of bulk datagrams received",
                BYTES,
            )),
            datagrams_lost: new.counter(named(
                "link_datagrams_lost",
                "Bulk datagrams lost on the wire, before repair",
                None,
            )),
            datagrams_dropped_by_host: new.counter(named(
                "link_datagrams_dropped_by_host",
                "Datagrams that arrived and were dropped by this host",
                None,
            )),
            loss_bursts: new.counters(
                named("link_loss_bursts", "Runs of lost bulk datagrams by length, before repair", None),
                "length",
                LOSS_BURST_LENGTHS,
            ),
            symbols_rebuilt: new.counter(named("link_symbols_rebuilt", "Source symbols rebuilt", None)),
            symbols_late: new.counter(named("link_symbols_late", "Source symbols that came too late", None)),
            group_commit_records: new.histogram(
                named("group_commit_records", "Records written by one group commit", None),
                COUNT_BUCKETS,
            ),
            group_commit_bytes: new
                .histogram(named("group_commit", "Bytes written by one group commit", BYTES), SIZE_BUCKETS),
            fsync: new.histogram(named("fsync", "Time of one fdatasync", SECONDS), LATENCY_BUCKETS),
            logs: new.gauge(named("logs", "Logs of this site", None)),
            refusing: new.gauges(
                named("logs_refusing", "Logs that take no records, by reason", None),
                "reason",
                REFUSING,
            ),
            missing_appends: new.gauge(named(
                "missing_appends",
                "Appends announced to this mirror that are not here",
                None,
            )),
            restarts: new.counters_by(named("actor_restarts", "Restarts by actor", None), "actor"),
            buffers: new.gauges_by(named("buffer", "Bytes held by a bounded buffer", BYTES), "buffer"),
        }
    }
}

struct Shared {
    instruments: Instruments,
    registry: Mutex<Registry>,
}

fn named(name: &'static str, help: &'static str, unit: Option<&'static str>) -> Named {
    Named { name, help, unit }
}

fn level_index(level: Durability) -> usize {
    usize::from(level.code())
}

const SECONDS: Option<&str> = Some("seconds");
const BYTES: Option<&str> = Some("bytes");

/// In the order of [`AppendOutcome`].
const OUTCOMES: [&str; 6] = ["acknowledged", "degraded", "duplicate", "refused", "failed", "given_up"];
/// In the order of [`Refusing`].
const REFUSING: [&str; 3] = ["fenced", "damaged", "unwritable"];
/// Datagrams in a row that were lost, by class.
const LOSS_BURST_LENGTHS: [&str; 16] = [
    "1",
    "2-3",
    "4-7",
    "8-15",
    "16-31",
    "32-63",
    "64-127",
    "128-255",
    "256-511",
    "512-1023",
    "1024-2047",
    "2048-4095",
    "4096-8191",
    "8192-16383",
    "16384-32767",
    "32768-",
];
/// In the order of [`DatagramKind`].
const KINDS: [&str; 4] = ["source", "repair", "resent", "critical"];

/// From the fastest local acknowledgement to a link that stalls.
const LATENCY_BUCKETS: &[f64] = &[
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 75e-3, 100e-3, 150e-3, 250e-3,
    500e-3, 1.0, 2.5, 5.0, 10.0,
];
/// One per decade: risks differ by magnitude.
const RISK_BUCKETS: &[f64] =
    &[1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0];
const COUNT_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
const SIZE_BUCKETS: &[f64] = &[4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_appear_under_their_names_with_units() {
        let metrics = Metrics::new();
        metrics.append(Durability::Network, AppendOutcome::Acknowledged, 512, Duration::from_millis(3));
        metrics.append(Durability::Remote, AppendOutcome::Degraded, 100, Duration::from_millis(30));
        metrics.append(Durability::Local, AppendOutcome::Refused, 9, Duration::ZERO);
        metrics.risk_promised(RiskScope::Prefix, Risk::bound(3e-7));
        metrics.datagrams_sent(DatagramKind::Repair).add(3);
        metrics.datagram_bytes_sent(DatagramKind::Source).follow(4096);
        metrics.datagram_bytes_sent(DatagramKind::Source).follow(4000);
        metrics.clone().restarts("storage").inc();
        metrics.restarts("storage").inc();
        metrics.buffer_bytes("link").set_count(77);
        metrics.lag_seconds.set_duration(Duration::from_millis(1500));

        let text = metrics.prometheus_text();
        for line in [
            r#"parhelion_appends_total{level="network",outcome="acknowledged"} 1"#,
            r#"parhelion_appends_total{level="remote",outcome="degraded"} 1"#,
            r#"parhelion_appends_total{level="local",outcome="refused"} 1"#,
            r#"parhelion_append_bytes_total{level="network"} 512"#,
            r#"parhelion_append_bytes_total{level="local"} 0"#,
            r#"parhelion_ack_latency_seconds_bucket{le="0.0025",level="network"} 0"#,
            r#"parhelion_ack_latency_seconds_bucket{le="0.005",level="network"} 1"#,
            r#"parhelion_ack_latency_seconds_count{level="local"} 0"#,
            r#"parhelion_risk_promised_count{scope="prefix"} 1"#,
            r#"parhelion_link_datagrams_sent_total{kind="repair"} 3"#,
            r#"parhelion_link_datagrams_sent_bytes_total{kind="source"} 4096"#,
            r#"parhelion_actor_restarts_total{actor="storage"} 2"#,
            r#"parhelion_buffer_bytes{buffer="link"} 77.0"#,
            "parhelion_lag_seconds 1.5",
            "# UNIT parhelion_ack_latency_seconds seconds",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line:?} in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_name_is_declared_once() {
        let text = Metrics::new().prometheus_text();
        let mut names: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        let count = names.len();
        assert!(count > 20);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

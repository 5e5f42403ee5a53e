//! One trace per append, across both sites (ARCHITECTURE.md, section 4).
//!
//! ```text
//! append                                        primary
//! ├── append.local                              record written and synced here
//! ├── link.source                               queued for the link until its last symbol is on the wire
//! ├── link.repair                               one event for each step of coverage
//! ├── risk.estimate                             one for each figure that was computed
//! ├── append.ack                                the acknowledgement
//! └── mirror.receive, mirror.apply, mirror.ack  at the other site, by the context carried in the record
//! ```
//!
//! Spans are built with explicit times and parents: an append lives across many actor messages, and its
//! stages end in other messages than they began in. Where an append is not sampled, or nothing is
//! exported, every method returns at once and nothing is allocated.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use parhelion_types::{Durability, LogAddress, LogId, Risk, Time, TraceContext};

/// Begins append traces. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AppendTracer(Option<SdkTracer>);

impl AppendTracer {
    /// A tracer that records nothing.
    #[must_use]
    pub fn disabled() -> Self {
        Self(None)
    }

    pub(crate) fn new(tracer: Option<SdkTracer>) -> Self {
        Self(tracer)
    }

    /// Begins the trace of an append that the primary accepted at `start`.
    ///
    /// `client` is the context the client sent: a client that decided is obeyed, else the sample ratio decides.
    #[must_use]
    pub fn append(&self, client: TraceContext, start: SystemTime) -> AppendTrace {
        let Some(tracer) = &self.0 else { return AppendTrace::unsampled(client) };
        let root = SpanBuilder::from_name("append").with_kind(SpanKind::Server).with_start_time(start);
        let root = tracer.build_with_context(root, &remote_parent(client));
        if !root.is_recording() {
            return AppendTrace::unsampled(client);
        }
        let context = trace_context(root.span_context());
        let scope = Scope { tracer: tracer.clone(), parent: remote_parent(context) };
        let recorded = RecordedAppend { scope, root, source: None, repair: None };
        AppendTrace { context, recorded: Some(Box::new(recorded)) }
    }

    /// Continues, at the mirror, the trace whose context came with a record.
    #[must_use]
    pub fn mirror(&self, carried: TraceContext) -> MirrorTrace {
        let tracer = self.0.as_ref().filter(|_| carried.sampled && carried.trace != 0);
        MirrorTrace(tracer.map(|tracer| Scope { tracer: tracer.clone(), parent: remote_parent(carried) }))
    }
}

/// The trace of one append at its primary. Dropping it ends what is still open.
#[derive(Debug)]
pub struct AppendTrace {
    context: TraceContext,
    recorded: Option<Box<RecordedAppend>>,
}

impl AppendTrace {
    /// The context to carry in the record, so that the mirror's spans hang below this append.
    #[must_use]
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// Whether anything is recorded. Worth asking before attributes are computed.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.recorded.is_some()
    }

    /// Says which append this is.
    pub fn accepted(
        &mut self,
        log: LogId,
        address: LogAddress,
        bytes: u64,
        asked: Durability,
        max_risk: Risk,
    ) {
        let Some(recorded) = &mut self.recorded else { return };
        recorded.root.set_attributes([
            KeyValue::new("parhelion.log", i64::from(log.0)),
            KeyValue::new("parhelion.address", address.to_string()),
            KeyValue::new("parhelion.bytes", integer(bytes)),
            KeyValue::new("parhelion.durability", asked.name()),
            KeyValue::new("parhelion.max_risk", max_risk.probability()),
        ]);
    }

    /// The record was handed to the segment writer at `start` and durable at `end`, with `batch` records
    /// in one commit.
    pub fn local(&mut self, start: SystemTime, end: SystemTime, batch: u64) {
        let Some(recorded) = &self.recorded else { return };
        recorded.scope.span(
            "append.local",
            start,
            end,
            vec![KeyValue::new("parhelion.batch", integer(batch))],
        );
    }

    /// The record was given to the link: `link.source` and `link.repair` begin.
    pub fn queued(&mut self, at: SystemTime) {
        let Some(recorded) = &mut self.recorded else { return };
        recorded.source = Some(recorded.scope.open("link.source", at));
        recorded.repair = Some(recorded.scope.open("link.repair", at));
    }

    /// Every symbol of the record is on the wire: `link.source` ends. Later calls change nothing.
    pub fn sent(&mut self, at: SystemTime) {
        let Some(recorded) = &mut self.recorded else { return };
        if let Some(mut source) = recorded.source.take() {
            source.end_with_timestamp(at);
        }
    }

    /// Coverage rose to `repairs` of `repairs_full` repairs on the wire: one event of `link.repair`, which
    /// ends with `complete`.
    pub fn coverage(&mut self, at: SystemTime, repairs: u32, repairs_full: u32, complete: bool) {
        let Some(recorded) = &mut self.recorded else { return };
        let Some(repair) = &mut recorded.repair else { return };
        let attributes = vec![
            KeyValue::new("parhelion.repairs", i64::from(repairs)),
            KeyValue::new("parhelion.repairs_full", i64::from(repairs_full)),
        ];
        repair.add_event_with_timestamp("coverage", at, attributes);
        if complete && let Some(mut repair) = recorded.repair.take() {
            repair.end_with_timestamp(at);
        }
    }

    /// The estimator computed a figure.
    pub fn risk(&mut self, start: SystemTime, end: SystemTime, own: Risk, prefix: Risk, model: &str) {
        let Some(recorded) = &self.recorded else { return };
        let attributes = vec![
            KeyValue::new("parhelion.own_risk", own.probability()),
            KeyValue::new("parhelion.prefix_risk", prefix.probability()),
            KeyValue::new("parhelion.model", model.to_owned()),
        ];
        recorded.scope.span("risk.estimate", start, end, attributes);
    }

    /// The client got its acknowledgement: `append` ends. What the link still does for the append is
    /// recorded until the trace is dropped.
    pub fn acknowledged(&mut self, at: SystemTime, reached: Durability, degraded: bool, prefix: Risk) {
        let Some(recorded) = &mut self.recorded else { return };
        let attributes = vec![
            KeyValue::new("parhelion.reached", reached.name()),
            KeyValue::new("parhelion.degraded", degraded),
            KeyValue::new("parhelion.prefix_risk", prefix.probability()),
        ];
        recorded.scope.span("append.ack", at, at, attributes);
        recorded.root.end_with_timestamp(at);
    }

    /// The append failed: `append` ends with `reason`.
    pub fn failed(&mut self, at: SystemTime, reason: &str) {
        let Some(recorded) = &mut self.recorded else { return };
        recorded.root.set_status(opentelemetry::trace::Status::error(reason.to_owned()));
        recorded.root.end_with_timestamp(at);
    }

    /// A trace that is not recorded here. The client's own context still travels to the mirror.
    fn unsampled(client: TraceContext) -> Self {
        Self { context: TraceContext { sampled: false, ..client }, recorded: None }
    }
}

/// The same append's trace at the mirror.
#[derive(Debug)]
pub struct MirrorTrace(Option<Scope>);

impl MirrorTrace {
    /// Whether anything is recorded.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.0.is_some()
    }

    /// The record's first symbol came at `start`, its last, or the repair that replaced it, at `end`.
    pub fn receive(&self, start: SystemTime, end: SystemTime, rebuilt_symbols: u64) {
        let Some(scope) = &self.0 else { return };
        let attributes = vec![KeyValue::new("parhelion.rebuilt_symbols", integer(rebuilt_symbols))];
        scope.span("mirror.receive", start, end, attributes);
    }

    /// The record was handed to the segment writer at `start` and durable at `end`.
    pub fn apply(&self, start: SystemTime, end: SystemTime) {
        let Some(scope) = &self.0 else { return };
        scope.span("mirror.apply", start, end, Vec::new());
    }

    /// The confirmation left for the primary.
    pub fn ack(&self, at: SystemTime) {
        let Some(scope) = &self.0 else { return };
        scope.span("mirror.ack", at, at, Vec::new());
    }
}

/// Ties the monotonic clock of the cores to the wall clock of spans.
#[derive(Clone, Copy, Debug)]
pub struct TimeBase {
    monotonic: Time,
    wall: SystemTime,
}

impl TimeBase {
    /// Both clocks, read at one moment.
    #[must_use]
    pub fn new(monotonic: Time, wall: SystemTime) -> Self {
        Self { monotonic, wall }
    }

    /// The wall time of a monotonic one.
    #[must_use]
    pub fn wall(&self, at: Time) -> SystemTime {
        if at >= self.monotonic {
            self.wall + at.since(self.monotonic)
        } else {
            let before: Duration = self.monotonic.since(at);
            self.wall.checked_sub(before).unwrap_or(SystemTime::UNIX_EPOCH)
        }
    }
}

#[derive(Debug)]
struct RecordedAppend {
    scope: Scope,
    root: Span,
    source: Option<Span>,
    repair: Option<Span>,
}

/// Where child spans hang.
#[derive(Clone, Debug)]
struct Scope {
    tracer: SdkTracer,
    parent: Context,
}

impl Scope {
    fn open(&self, name: &'static str, start: SystemTime) -> Span {
        self.tracer.build_with_context(SpanBuilder::from_name(name).with_start_time(start), &self.parent)
    }

    fn span(&self, name: &'static str, start: SystemTime, end: SystemTime, attributes: Vec<KeyValue>) {
        let builder = SpanBuilder::from_name(name).with_start_time(start).with_attributes(attributes);
        self.tracer.build_with_context(builder, &self.parent).end_with_timestamp(end);
    }
}

fn remote_parent(context: TraceContext) -> Context {
    if context.trace == 0 || context.span == 0 {
        return Context::new();
    }
    let flags = if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let parent = SpanContext::new(
        TraceId::from(context.trace),
        SpanId::from(context.span),
        flags,
        true,
        TraceState::default(),
    );
    Context::new().with_remote_span_context(parent)
}

/// Ids as numbers, whose first byte on the wire is the most significant, as W3C writes them.
fn trace_context(context: &SpanContext) -> TraceContext {
    TraceContext {
        trace: u128::from_le_bytes(context.trace_id().to_bytes()).swap_bytes(),
        span: u64::from_le_bytes(context.span_id().to_bytes()).swap_bytes(),
        sampled: context.is_sampled(),
    }
}

/// OpenTelemetry's integers are signed; ours never come near the limit.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};

    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    impl Kept {
        fn tracer(&self, ratio: f64) -> (SdkTracerProvider, AppendTracer) {
            let provider = SdkTracerProvider::builder()
                .with_simple_exporter(self.clone())
                .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
                .build();
            let tracer = AppendTracer::new(Some(provider.tracer("test")));
            (provider, tracer)
        }

        fn span(&self, name: &str) -> SpanData {
            self.0.lock().unwrap().iter().find(|span| span.name == name).cloned().expect(name)
        }
    }

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000 + millis)
    }

    #[test]
    fn one_trace_spans_both_sites() {
        let kept = Kept::default();
        let (_primary_provider, primary) = kept.tracer(0.0);
        let (_mirror_provider, mirror) = kept.tracer(0.0);
        let client = TraceContext { trace: 0x1122_3344, span: 0x55, sampled: true };

        let mut trace = primary.append(client, at(0));
        assert!(trace.is_sampled(), "the client's decision was not obeyed");
        trace.accepted(LogId(7), LogAddress::new(0, 64), 512, Durability::Network, Risk::bound(1e-6));
        trace.local(at(0), at(2), 3);
        trace.queued(at(1));
        trace.sent(at(4));
        trace.coverage(at(5), 1, 3, false);
        trace.coverage(at(6), 3, 3, true);
        trace.risk(at(6), at(7), Risk::bound(1e-9), Risk::bound(1e-8), "gilbert-elliott");
        trace.acknowledged(at(8), Durability::Network, false, Risk::bound(1e-8));
        let carried = trace.context();
        let there = mirror.mirror(carried);
        there.receive(at(50), at(55), 2);
        there.apply(at(55), at(57));
        there.ack(at(58));
        drop(trace);

        let root = kept.span("append");
        assert_eq!(root.span_context.trace_id(), TraceId::from(0x1122_3344_u128));
        assert_eq!(root.parent_span_id, SpanId::from(0x55_u64));
        assert_eq!(SpanId::from(carried.span), root.span_context.span_id());
        assert_eq!((root.start_time, root.end_time), (at(0), at(8)));
        let children = [
            ("append.local", at(0), at(2)),
            ("link.source", at(1), at(4)),
            ("link.repair", at(1), at(6)),
            ("risk.estimate", at(6), at(7)),
            ("append.ack", at(8), at(8)),
            ("mirror.receive", at(50), at(55)),
            ("mirror.apply", at(55), at(57)),
            ("mirror.ack", at(58), at(58)),
        ];
        for (name, start, end) in children {
            let span = kept.span(name);
            assert_eq!(span.span_context.trace_id(), root.span_context.trace_id(), "{name}");
            assert_eq!(span.parent_span_id, root.span_context.span_id(), "{name}");
            assert_eq!((span.start_time, span.end_time), (start, end), "{name}");
        }
        assert_eq!(kept.span("link.repair").events.len(), 2);
        assert_eq!(kept.0.lock().unwrap().len(), children.len() + 1);
    }

    #[test]
    fn what_is_not_sampled_is_not_recorded() {
        let kept = Kept::default();
        let (_provider, tracer) = kept.tracer(1.0);
        let client = TraceContext { trace: 9, span: 8, sampled: false };
        for tracer in [tracer.clone(), AppendTracer::disabled()] {
            let mut trace = tracer.append(client, at(0));
            trace.queued(at(1));
            trace.acknowledged(at(2), Durability::Local, false, Risk::CERTAIN);
            assert_eq!(trace.context(), client);
            assert!(!tracer.mirror(trace.context()).is_sampled());
        }
        assert!(kept.0.lock().unwrap().is_empty());

        assert!(tracer.append(TraceContext::default(), at(0)).is_sampled());
        let (_provider, never) = kept.tracer(0.0);
        let trace = never.append(TraceContext::default(), at(0));
        assert_eq!(trace.context(), TraceContext::default());
    }

    #[test]
    fn monotonic_times_map_to_wall_times() {
        let base = TimeBase::new(Time::from_nanos(5_000_000), at(0));
        assert_eq!(base.wall(Time::from_nanos(7_000_000)), at(2));
        assert_eq!(base.wall(Time::from_nanos(4_000_000)), at(0) - Duration::from_millis(1));
    }
}

//! Traces of appends that are under way.

use std::collections::HashMap;
use std::time::SystemTime;

use parhelion_log::RecordHeader;
use parhelion_mirror::{Acked, StageKind, Token};
use parhelion_observability::{AppendTrace, AppendTracer, MirrorTrace, TimeBase};
use parhelion_types::{Durability, Error, LogId, Risk, TraceContext};

/// What a client asked for, as far as its trace tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub bytes: u64,
    pub durability: Durability,
    pub max_risk: Risk,
}

impl Asked {
    /// Whether the other site has a part in the acknowledgement.
    pub fn waits_for_mirror(&self) -> bool {
        self.durability > Durability::Local
    }
}

/// At the primary: one trace per sampled append, written when it is acknowledged.
pub(crate) struct AppendTraces {
    tracer: AppendTracer,
    base: TimeBase,
    open: HashMap<Token, AppendTrace>,
}

impl AppendTraces {
    pub fn new(tracer: AppendTracer, base: TimeBase) -> Self {
        Self { tracer, base, open: HashMap::new() }
    }

    /// Begins a trace; the context goes into the record.
    pub fn begin(&mut self, token: Token, client: TraceContext) -> TraceContext {
        let trace = self.tracer.append(client, SystemTime::now());
        let context = trace.context();
        if trace.is_sampled() {
            self.open.insert(token, trace);
        }
        context
    }

    /// Writes the spans of an append's path.
    pub fn acknowledged(&mut self, token: Token, acked: &Acked, asked: &Asked) {
        let Some(mut trace) = self.open.remove(&token) else { return };
        trace.accepted(acked.key.log, acked.address, asked.bytes, asked.durability, asked.max_risk);
        let wall = |at| self.base.wall(at);
        let accepted = wall(acked.accepted);
        trace.queued(accepted);
        let full = acked.path.last().map_or(0, |stage| stage.repairs_full);
        for stage in &acked.path {
            let at = wall(stage.at);
            match stage.kind {
                StageKind::Durable => trace.local(accepted, at, 1),
                StageKind::Sent => trace.sent(at),
                StageKind::Covered => {
                    trace.coverage(at, stage.repairs, full, stage.repairs == full);
                    trace.risk(at, at, stage.own, stage.prefix, &acked.model);
                }
                StageKind::Accepted
                | StageKind::Announced
                | StageKind::Mirrored
                | StageKind::Acknowledged => {}
            }
        }
        trace.acknowledged(wall(acked.acknowledged), acked.reached, acked.degraded, acked.prefix);
    }

    /// Ends the trace of an append whose client waits no more.
    pub fn given_up(&mut self, token: Token) {
        if let Some(mut trace) = self.open.remove(&token) {
            trace.failed(
                SystemTime::now(),
                "its client gave up; the append goes on to the disk and to the mirror",
            );
        }
    }

    /// Ends the trace of an append that failed.
    pub fn failed(&mut self, token: Token, error: &Error) {
        if let Some(mut trace) = self.open.remove(&token) {
            trace.failed(SystemTime::now(), error.message());
        }
    }
}

/// At the mirror: sampled records between their arrival and their sync.
pub(crate) struct MirrorTraces {
    tracer: AppendTracer,
    open: Vec<(LogId, u64, MirrorTrace, SystemTime)>,
}

impl MirrorTraces {
    pub fn new(tracer: AppendTracer) -> Self {
        Self { tracer, open: Vec::new() }
    }

    /// A record arrived and goes to the store.
    pub fn received(&mut self, header: &RecordHeader) {
        if !header.trace.sampled {
            return;
        }
        let trace = self.tracer.mirror(header.trace);
        if trace.is_sampled() {
            let now = SystemTime::now();
            trace.receive(now, now, 0);
            self.open.push((header.log, header.number, trace, now));
        }
    }

    /// All records of the log below `records` are durable; the primary is being told.
    pub fn durable(&mut self, log: LogId, records: u64) {
        let now = SystemTime::now();
        self.open.retain(|(id, number, trace, start)| {
            let done = *id == log && *number < records;
            if done {
                trace.apply(*start, now);
                trace.ack(now);
            }
            !done
        });
    }
}

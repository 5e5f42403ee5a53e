//! One trace per append, across both sites.

use std::path::Path;
use std::time::Duration;

use parhelion_client::{AppendOptions, Client};
use parhelion_e2e::{At, Cluster, Collector, Pair, PairOptions, SeenSpan, Shape, payload, poll};
use parhelion_types::{Degrade, Durability, LogId, TraceContext};

use crate::{SOON, at_level, on_the_wire};

/// Longer than it takes until the repairs of an append are known to be on the wire.
const APART: Duration = Duration::from_millis(20);

/// Spans of an append at its primary, and at the mirror.
const HERE: [&str; 6] =
    ["append", "append.local", "link.source", "link.repair", "risk.estimate", "append.ack"];
const THERE: [&str; 3] = ["mirror.receive", "mirror.apply", "mirror.ack"];
/// Of a risk that repairs lower.
const RISK: &str = "risk.estimate";

/// A pair whose nodes export their traces, and a log at its primary.
struct Bed {
    collector: Collector,
    _pair: Pair,
    here: Client,
    log: LogId,
}

impl Bed {
    /// `sample`: share of the appends that are traced when the client does not decide.
    async fn start(sample: u8) -> Self {
        Self::start_over("quic", sample).await
    }

    async fn start_over(transport: &str, sample: u8) -> Self {
        let collector = collector();
        let options = PairOptions::default().apart(APART).both("telemetry.otlp", collector.endpoint());
        let options = options.both("link.transport", transport);
        let pair = Pair::start(options.both("telemetry.sample", sample)).await;
        let here = pair.client(At::Primary).await;
        let log = here.create("orders", Degrade::Block).await.unwrap();
        Self { collector, _pair: pair, here, log }
    }
}

fn collector() -> Collector {
    Collector::start(Path::new(env!("CARGO_BIN_EXE_otlp-receiver")))
}

/// All spans of an append at both sites, but those.
fn spans_but(without: &[&str]) -> Vec<&'static str> {
    HERE.into_iter().chain(THERE).filter(|name| !without.contains(name)).collect()
}

/// The spans of the trace whose `append` is as asked, when all of them have come.
async fn trace_of(collector: &Collector, root: impl Fn(&SeenSpan) -> bool) -> Vec<SeenSpan> {
    trace_with(collector, &spans_but(&[]), root).await
}

/// The same, when all spans of these names have come.
async fn trace_with(
    collector: &Collector,
    names: &[&str],
    root: impl Fn(&SeenSpan) -> bool,
) -> Vec<SeenSpan> {
    let complete = |trace: &[SeenSpan]| names.iter().all(|name| trace.iter().any(|span| span.name == *name));
    let mut best = Vec::new();
    for _ in 0..SOON.as_millis() / 100 {
        let spans = collector.spans();
        if let Some(root) = spans.iter().find(|span| span.name == "append" && root(span)) {
            best = spans.iter().filter(|span| span.trace == root.trace).cloned().collect();
            if complete(&best) {
                return best;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let names: Vec<_> = best.iter().map(|span| &span.name).collect();
    panic!("the trace is not complete: {names:?}, of {} spans in all", collector.spans().len());
}

fn named<'a>(trace: &'a [SeenSpan], name: &str) -> &'a SeenSpan {
    trace.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name}"))
}

fn check(trace: &[SeenSpan]) {
    check_spans(trace, &spans_but(&[]));
    assert!(named(trace, "link.repair").events.iter().any(|event| event == "coverage"), "no coverage event");
}

/// Checks sites, parents and times of the spans of these names.
fn check_spans(trace: &[SeenSpan], names: &[&str]) {
    let root = named(trace, "append");
    for name in names {
        let span = named(trace, name);
        let site = if THERE.contains(name) { 2 } else { 1 };
        assert_eq!(span.site, Some(site), "{name} is of the wrong site");
        assert!(span.times.0 <= span.times.1, "{name} ends before it begins: {:?}", span.times);
        // Both sites are this machine, so their clocks agree.
        assert!(span.times.0 + 1_000_000 >= root.times.0, "{name} begins before its append");
        if *name != "append" {
            assert_eq!(span.parent, root.span, "parent of {name}");
        }
    }
    let (received, applied, confirmed) =
        (named(trace, "mirror.receive"), named(trace, "mirror.apply"), named(trace, "mirror.ack"));
    assert!(received.times.0 <= applied.times.0 && applied.times.1 <= confirmed.times.1);
    assert!(named(trace, "append.ack").times.0 >= named(trace, "append.local").times.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_tells_the_life_of_an_append_at_both_sites() {
    let Bed { collector, here, log, _pair } = Bed::start(1).await;
    let acked = here.append(log, payload(1, 4321), on_the_wire()).await.unwrap();
    assert_eq!(acked.reached, Durability::Network, "{acked:?}");
    let trace = trace_of(&collector, |_| true).await;
    assert!(named(&trace, "append").parent.is_empty(), "nobody began it");
    check(&trace);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_spans_both_sites_over_tcp() {
    let Bed { collector, here, log, _pair } = Bed::start_over("tcp", 1).await;
    here.append(log, payload(1, 4321), at_level(Durability::Remote)).await.unwrap();
    let names = spans_but(&[RISK]);
    let trace = trace_with(&collector, &names, |_| true).await;
    check_spans(&trace, &names);
    // There are no repairs, so that nothing covers an append and no risk falls.
    assert!(named(&trace, "link.repair").events.is_empty(), "{trace:?}");
    assert!(!trace.iter().any(|span| span.name == RISK), "{trace:?}");
}

/// The storage node of the log traces it, whichever node a client talks to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_tells_of_an_append_through_another_node_of_a_site() {
    let collector = collector();
    let cluster = Cluster::down(Shape::Three).apart(APART);
    let cluster = cluster.with("telemetry.otlp", collector.endpoint()).with("telemetry.sample", 1).up().await;
    let log = cluster.client(At::Primary, 1).await.create("orders", Degrade::Block).await.unwrap();
    let status = cluster.client(At::Primary, 1).await.status().await.unwrap();
    let home = status["logs"]["logs"][0]["node"].as_u64().unwrap() as usize;
    // Neither the node with the metadata and the link nor the other storage node has the log.
    let others: Vec<usize> = (1..=Shape::Three.nodes()).filter(|node| *node != home).collect();
    assert_eq!(others.len(), 2, "{status}");
    for (through, bytes) in others.into_iter().zip([1111, 2222]) {
        let client = cluster.client(At::Primary, through).await;
        let acked = client.append(log, payload(1, bytes), on_the_wire()).await.unwrap();
        assert_eq!(acked.reached, Durability::Network, "{acked:?}");
        let is_it = |root: &SeenSpan| root.attributes["parhelion.bytes"] == bytes.to_string();
        let trace = trace_of(&collector, is_it).await;
        check(&trace);
        assert!(named(&trace, "append").parent.is_empty(), "nobody began it");
        let foreign = trace.iter().find(|span| span.site == Some(1) && span.node != i64::try_from(home).ok());
        assert!(foreign.is_none(), "node {home} has the log, and was asked through {through}: {foreign:?}");
        let roots = collector.spans().into_iter().filter(|span| span.name == "append" && is_it(span)).count();
        assert_eq!(roots, 1, "an append through node {through} has more than one trace");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_says_which_append_it_is_of() {
    let Bed { collector, here, log, _pair } = Bed::start(1).await;
    let acked = here.append(log, payload(1, 4321), on_the_wire()).await.unwrap();
    let trace = trace_of(&collector, |_| true).await;
    let attributes = &named(&trace, "append").attributes;
    let address = acked.address.to_string();
    let expected =
        [("log", "0"), ("address", address.as_str()), ("bytes", "4321"), ("durability", "network")];
    for (key, value) in expected {
        let found = attributes.get(&format!("parhelion.{key}")).map(String::as_str);
        assert_eq!(found, Some(value), "{key} in {attributes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_trace_goes_on_where_nobody_else_is_sampled() {
    let Bed { collector, here, log, _pair } = Bed::start(0).await;
    here.append(log, payload(1, 10), at_level(Durability::Network)).await.unwrap();
    let (trace, span) = (0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10_u128, 0x1112_1314_1516_1718_u64);
    let options =
        AppendOptions { trace: TraceContext { trace, span, sampled: true }, ..at_level(Durability::Network) };
    here.append(log, payload(2, 1234), options).await.unwrap();
    // W3C writes the most significant byte first.
    let (trace, span) = (trace.swap_bytes().to_le_bytes(), span.swap_bytes().to_le_bytes());
    let seen = trace_of(&collector, |root| root.trace == trace).await;
    assert_eq!(named(&seen, "append").parent, span);
    check(&seen);
    let roots = collector.spans().iter().filter(|span| span.name == "append").count();
    assert_eq!(roots, 1, "the append that nobody sampled was traced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_gone_disturbs_nothing() {
    // Nobody listens on a port that was bound a moment ago.
    let endpoint = Collector::closed();
    let options = PairOptions::default().both("telemetry.otlp", endpoint).both("telemetry.sample", 1);
    let mut pair = Pair::start(options).await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    for number in 0..200 {
        let append = here.append(log, payload(number, 1000), at_level(Durability::Network));
        tokio::time::timeout(SOON, append).await.expect("in time").unwrap();
    }
    poll("the node says that the export fails", SOON, || {
        let said = pair.primary.node().log_text().contains("export failed");
        std::future::ready(said.then_some(()))
    })
    .await;
    pair.primary.stop();
    pair.mirror.stop();
}

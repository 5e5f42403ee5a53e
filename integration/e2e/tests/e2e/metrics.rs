//! What Prometheus sees: every documented metric is there, moves when it should, and tells the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use parhelion_client::{AppendOptions, Client};
use parhelion_e2e::{
    At, Collector, Node, NodeSpec, Pair, PairOptions, SeenMetric, Surroundings, eventually, payload, poll,
};
use parhelion_types::{Degrade, Durability, ErrorKind, LogId};
use parhelion_wan::{LinkConfig, Loss};

use crate::{SOON, at_level, on_the_wire};

/// The list of all metrics, which another test holds against the code.
const DOCUMENT: &str = include_str!("../../../../docs/metrics.md");

const HTTP: (&str, &str) = ("http.listen", "127.0.0.1:0");
const BYTES: usize = 20_000;

/// Samples by name and labels, as in the text.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    fn of(node: &Node) -> Self {
        let address = node.ready().http.expect("it serves HTTP");
        Self(tokio::task::block_in_place(|| scrape(address)))
    }

    /// A sample that is there.
    fn get(&self, sample: &str) -> f64 {
        *self.0.get(sample).unwrap_or_else(|| panic!("no {sample} in {:?}", self.0))
    }

    /// The samples of a metric, with their labels.
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let of = move |(sample, value): (&'a String, &f64)| {
            let rest = sample.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with('{')).then_some((rest, *value))
        };
        self.0.iter().filter_map(of)
    }

    /// Whether a metric has a sample; of a histogram, its count.
    fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some() || self.all(&format!("{name}_count")).next().is_some()
    }

    /// Lag in bytes, records and seconds.
    fn lag(&self) -> [f64; 3] {
        ["bytes", "appends", "seconds"].map(|unit| self.get(&format!("parhelion_lag_{unit}")))
    }

    fn appends(&self, level: &str, outcome: &str) -> f64 {
        self.get(&format!("parhelion_appends_total{{level=\"{level}\",outcome=\"{outcome}\"}}"))
    }
}

fn scrape(address: SocketAddr) -> BTreeMap<String, f64> {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let samples = answer.lines().filter(|line| line.starts_with("parhelion_"));
    let parse = |line: &str| {
        let (sample, value) = line.rsplit_once(' ')?;
        Some((sample.to_owned(), value.parse().ok()?))
    };
    samples.map(|line| parse(line).unwrap_or_else(|| panic!("no sample: {line:?}"))).collect()
}

fn documented() -> BTreeSet<&'static str> {
    let names = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `parhelion_")?.split_once('`'));
    let names: BTreeSet<_> = names.map(|(name, _)| name).collect();
    assert!(names.len() > 30, "{names:?}");
    names
}

/// Appends at every level, side by side.
async fn write(client: &Client, log: LogId, first: u64) {
    let level = |n: u64| match n % 3 {
        0 => at_level(Durability::Local),
        1 => on_the_wire(),
        _ => at_level(Durability::Remote),
    };
    let appends = (first..first + 12).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.append(log, payload(n, BYTES), level(n)).await })
    });
    for append in appends.collect::<Vec<_>>() {
        append.await.unwrap().unwrap();
    }
}

/// Samples that must be above 0 after a while with losses.
fn moving(at: At) -> Vec<&'static str> {
    let both = [
        "link_up",
        "link_sessions_total",
        "link_datagrams_sent_total{kind=\"critical\"}",
        "link_datagrams_sent_bytes_total{kind=\"critical\"}",
        "link_datagrams_lost_total",
        "link_loss_bursts_total{length=\"1\"}",
        "link_loss_bursts_total{length=\"2-3\"}",
        "link_symbols_rebuilt_total",
        "link_symbols_late_total",
        "group_commit_records_count",
        "group_commit_bytes_count",
        "fsync_seconds_count",
        "logs",
    ];
    let own: &[&str] = match at {
        At::Primary => &[
            "appends_total{level=\"local\",outcome=\"acknowledged\"}",
            "appends_total{level=\"network\",outcome=\"acknowledged\"}",
            "appends_total{level=\"remote\",outcome=\"acknowledged\"}",
            "append_bytes_total{level=\"network\"}",
            "ack_latency_seconds_count{level=\"network\"}",
            "risk_promised_count{scope=\"own\"}",
            "risk_promised_count{scope=\"prefix\"}",
            "confirmation_latency_seconds_count",
            "link_datagrams_sent_total{kind=\"source\"}",
            "link_datagrams_sent_total{kind=\"repair\"}",
            "link_datagrams_sent_total{kind=\"resent\"}",
            "link_datagrams_sent_bytes_total{kind=\"source\"}",
            "link_datagrams_sent_bytes_total{kind=\"repair\"}",
            "link_datagrams_sent_bytes_total{kind=\"resent\"}",
            "link_loss_ratio",
            "link_burst_datagrams",
            "risk_factor",
            "actor_restarts_total{actor=\"encoder\"}",
        ],
        At::Mirror => &[
            "mirroring_latency_seconds_count",
            "link_datagrams_received_total",
            "link_datagrams_received_bytes_total",
        ],
    };
    both.iter().chain(own).copied().collect()
}

/// What `moving` cannot show in a test that runs well: the other tests here show the first ones, and nobody makes a host
/// drop packets on purpose. Nor is much promised in seconds on such a line, or lost beyond repair; codes do not break, and
/// nothing is planned.
const ELSEWHERE: [&str; 14] = [
    "lag_seconds",
    "lag_bytes",
    "lag_appends",
    "in_flight_appends",
    "in_flight_bytes",
    "buffer_bytes",
    "missing_appends",
    "logs_refusing",
    "link_datagrams_dropped_by_host_total",
    "losses_promised",
    "losses_beyond_repair_total",
    "link_code_faults_total",
    "link_code_plans_total",
    "link_plan_waits",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_there_and_moves_on_a_lossy_line() {
    let line = LinkConfig {
        delay: Duration::from_millis(5),
        loss: Loss::bursty(0.08, 2.0),
        reorder: 0.01,
        // Long enough for a symbol to be rebuilt before it comes, and short enough that fewer than 128 packets overtake it:
        // QUIC takes what is older for a copy.
        reorder_by: Duration::from_millis(12),
        ..LinkConfig::default()
    };
    let mut pair = Pair::down(PairOptions::default().line(line).both(HTTP.0, HTTP.1));
    pair.primary.around = Surroundings::with_variable("PARHELION_FAULT", "panic:encoder@4s");
    pair.mirror.start();
    pair.primary.start();
    pair.linked().await;
    let client = pair.client(At::Primary).await;
    let log = client.create("orders", Degrade::Block).await.unwrap();

    let deadline = Instant::now() + SOON;
    let mut written = 0;
    let mut before: [Option<Scrape>; 2] = [None, None];
    let mut sent_at_restart = None;
    loop {
        write(&client, log, written).await;
        written += 12;
        let mut still = Vec::new();
        for (at, before) in [At::Primary, At::Mirror].into_iter().zip(&mut before) {
            let now = Scrape::of(pair.site(at).node());
            for name in moving(at) {
                if now.get(&format!("parhelion_{name}")) <= 0.0 {
                    still.push(format!("{at:?}: {name}"));
                }
            }
            // Also over the driver's rebuilding, whose figures begin anew.
            for (sample, value) in before.iter().flat_map(|before| &before.0) {
                let counts = sample.contains("_total") || sample.contains("_count");
                assert!(!counts || now.get(sample) >= *value, "{sample} went back from {value}");
            }
            if at == At::Primary && now.get("parhelion_actor_restarts_total{actor=\"encoder\"}") > 0.0 {
                let sent = now.get("parhelion_link_datagrams_sent_total{kind=\"source\"}");
                let first = *sent_at_restart.get_or_insert(sent);
                if sent < first + 100.0 {
                    still.push("Primary: what the new driver sends".to_owned());
                }
            }
            *before = Some(now);
        }
        if still.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "after {written} appends these do not move: {still:?}");
    }
    pair.mirrored().await;
    // Figures of the link are read once a second, and the mirror's reports go on.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let [primary, mirror] = [At::Primary, At::Mirror].map(|at| Scrape::of(pair.site(at).node()));

    let documented = documented();
    let moved: BTreeSet<&str> = [At::Primary, At::Mirror].into_iter().flat_map(moving).collect();
    for name in &documented {
        for (at, scrape) in [(At::Primary, &primary), (At::Mirror, &mirror)] {
            let is_there = scrape.has(&format!("parhelion_{name}"));
            // No actor of that kind may be there; then there is no series.
            assert!(is_there || *name == "buffer_bytes" && at == At::Mirror, "{at:?} has no {name}");
        }
        let moves = moved.iter().any(|sample| sample.starts_with(name)) || ELSEWHERE.contains(name);
        assert!(moves, "no test shows that {name} moves");
    }

    assert_eq!(primary.get("parhelion_appends_total{level=\"local\",outcome=\"failed\"}"), 0.0);
    let bytes = |level| primary.get(&format!("parhelion_append_bytes_total{{level=\"{level}\"}}"));
    let acknowledged: f64 = ["local", "network", "remote"].map(bytes).iter().sum();
    assert_eq!(acknowledged, (written as usize * BYTES) as f64);
    assert_eq!(primary.lag(), [0.0; 3]);
    assert_eq!(primary.get("parhelion_in_flight_appends"), 0.0);

    // Both tell of the same losses; the primary hears less by what a dying session did not report.
    let lost = |scrape: &Scrape| scrape.get("parhelion_link_datagrams_lost_total");
    assert!(lost(&mirror) >= lost(&primary) && lost(&primary) > 0.5 * lost(&mirror));
    let sent: f64 = ["source", "repair", "resent"]
        .map(|kind| primary.get(&format!("parhelion_link_datagrams_sent_total{{kind=\"{kind}\"}}")))
        .iter()
        .sum();
    let loss = lost(&mirror) / sent;
    assert!((0.03..0.2).contains(&loss), "{loss} of {sent} are lost, where the line loses 0.08");
    let received = mirror.get("parhelion_link_datagrams_received_total");
    assert!(received > 0.75 * sent && received < sent, "{received} of {sent} arrived");
    // Bursts are as many datagrams as were lost, as well as classes tell.
    let (mut least, mut most) = (0.0, 0.0);
    for (labels, bursts) in mirror.all("parhelion_link_loss_bursts_total") {
        let range = labels.trim_start_matches("{length=\"").trim_end_matches("\"}");
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        least += bursts * low.parse::<f64>().unwrap();
        most += bursts * high.parse::<f64>().unwrap_or(65535.0);
    }
    // A burst that is not over yet is counted as lost, and not as a burst.
    assert!(least <= lost(&mirror) && lost(&mirror) <= most + 10.0, "{least}..{most}: {}", lost(&mirror));
    // Out and back: 10 ms, and a sync.
    let (sum, count) = ["sum", "count"]
        .map(|what| primary.get(&format!("parhelion_confirmation_latency_seconds_{what}")))
        .into();
    assert!(sum / count > 0.005, "{sum} s for {count} syncs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_pushed_under_their_documented_names() {
    let collector = Collector::start(Path::new(env!("CARGO_BIN_EXE_otlp-receiver")));
    let mut pair = Pair::start(PairOptions::default().both("telemetry.otlp", collector.endpoint())).await;
    let client = pair.client(At::Primary).await;
    let log = client.create("orders", Degrade::Block).await.unwrap();
    write(&client, log, 0).await;
    pair.mirrored().await;
    let last = |pushed: &[SeenMetric], site: i64, name: &str| {
        let of = |seen: &&SeenMetric| seen.site == Some(site) && seen.name == name;
        pushed.iter().rev().find(of).map_or(0.0, |seen| seen.total)
    };
    let appends = || last(&collector.metrics(), 1, "parhelion_appends");
    // While nodes run, every ten seconds; what the last seconds brought, when they stop.
    eventually("a running node pushes", SOON, || appends() == 12.0).await;
    write(&client, log, 12).await;
    pair.mirrored().await;
    pair.primary.stop();
    pair.mirror.stop();
    eventually("nodes that stop push", SOON, || {
        appends() == 24.0 && last(&collector.metrics(), 2, "parhelion_mirroring_latency_seconds") >= 24.0
    })
    .await;
    let pushed = collector.metrics();
    let last = |site, name| last(&pushed, site, name);
    assert_eq!(last(1, "parhelion_append_bytes"), (24 * BYTES) as f64);
    assert_eq!(last(1, "parhelion_ack_latency_seconds"), 24.0, "a value of the histogram for each append");
    assert_eq!((last(1, "parhelion_logs"), last(2, "parhelion_logs")), (1.0, 1.0));

    // A histogram without a value is not pushed: those of the other site's duty.
    let expected: BTreeSet<String> = documented().into_iter().map(pushed_name).collect();
    let not_at_primary = ["mirroring_latency_seconds"];
    let not_at_mirror = ["ack_latency_seconds", "confirmation_latency_seconds", "risk_promised"];
    for (site, without) in [(1, &not_at_primary[..]), (2, &not_at_mirror[..])] {
        let found = pushed.iter().filter(|seen| seen.site == Some(site)).map(|seen| seen.name.clone());
        let without: BTreeSet<String> = without.iter().copied().map(pushed_name).collect();
        let expected: BTreeSet<String> = expected.difference(&without).cloned().collect();
        assert_eq!(found.collect::<BTreeSet<_>>(), expected, "of site {site}");
    }
}

/// The name of a documented metric when it is pushed.
fn pushed_name(documented: &str) -> String {
    format!("parhelion_{}", documented.strip_suffix("_total").unwrap_or(documented))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_is_away_shows_in_the_gauges() {
    let mut pair = Pair::start(PairOptions::default().both(HTTP.0, HTTP.1)).await;
    let client = pair.client(At::Primary).await;
    let log = client.create("orders", Degrade::Block).await.unwrap();
    client.append(log, payload(0, BYTES), at_level(Durability::Remote)).await.unwrap();
    pair.mirrored().await;
    pair.mirror.node().freeze();
    let waits = tokio::spawn({
        let client = client.clone();
        async move { client.append(log, payload(1, BYTES), at_level(Durability::Remote)).await }
    });
    let samples = [
        "parhelion_lag_bytes",
        "parhelion_lag_appends",
        "parhelion_lag_seconds",
        "parhelion_in_flight_appends",
        "parhelion_in_flight_bytes",
        "parhelion_buffer_bytes{buffer=\"link\"}",
    ];
    let deadline = Instant::now() + SOON;
    let mut still = samples.to_vec();
    while !still.is_empty() {
        assert!(Instant::now() < deadline, "{still:?} do not move");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = Scrape::of(pair.primary.node());
        still.retain(|sample| now.get(sample) <= 0.0);
    }
    pair.mirror.node().thaw();
    waits.await.unwrap().unwrap();
    pair.mirrored().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let now = Scrape::of(pair.primary.node());
    for sample in samples {
        assert_eq!(now.get(sample), 0.0, "{sample} does not clear");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_mirrors_to_nobody_does_not_lag() {
    // So slow that announcements are there before their data.
    let options = PairOptions::default().both(HTTP.0, HTTP.1).primary("link.rate", "4Mbit");
    let mut pair = Pair::start(options).await;
    let here = pair.client(At::Primary).await;
    let log = here.create("orders", Degrade::Block).await.unwrap();
    for n in 0..40 {
        here.append(log, payload(n, 64 << 10), at_level(Durability::Local)).await.unwrap();
    }
    let deadline = Instant::now() + SOON;
    loop {
        let missing = Scrape::of(pair.mirror.node()).get("parhelion_missing_appends");
        let lag = Scrape::of(pair.primary.node()).lag();
        if missing > 0.0 && lag.iter().all(|lag| *lag > 0.0) {
            break;
        }
        assert!(Instant::now() < deadline, "missing at the mirror: {missing}; the primary's lag: {lag:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(pair.tool(At::Primary, &["mirror", "status"]).run().text().contains("the mirror lacks"));

    let promoted = pair.admin(At::Mirror).await.promote(false).await.unwrap();
    let there = pair.client(At::Mirror).await;
    there.append(log, payload(99, BYTES), at_level(Durability::Local)).await.unwrap();
    poll("the old primary is fenced", SOON, || async {
        let append = here.append(log, payload(100, 10), at_level(Durability::Local)).await;
        (append.err()?.kind() == ErrorKind::Fenced).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (old, new) = (Scrape::of(pair.primary.node()), Scrape::of(pair.mirror.node()));
    assert_eq!((old.lag(), new.lag()), ([0.0; 3], [0.0; 3]));
    assert_eq!(new.get("parhelion_missing_appends"), 0.0);
    assert_eq!(old.get("parhelion_logs_refusing{reason=\"fenced\"}"), 1.0);
    assert_eq!(new.get("parhelion_logs_refusing{reason=\"fenced\"}"), 0.0);
    assert!(old.appends("local", "refused") > 0.0);
    assert_eq!(old.appends("local", "failed"), 0.0);

    let fenced = format!("fenced by epoch {}", promoted.epoch);
    for (at, word) in [(At::Primary, fenced.as_str()), (At::Mirror, "promoted")] {
        let status = |more: &[&str]| pair.tool(at, &[&["mirror", "status"], more].concat()).run();
        let text = status(&[]).done().text();
        assert!(text.contains("mirrors to nobody") && text.contains(word), "{text}");
        assert!(!text.contains("lacks") && !text.contains("has everything"), "{text}");
        assert!(!text.contains("link up") && !text.contains("link down"), "{text}");
        let document = status(&["--json"]).done().json();
        assert!(document["lag"].is_null(), "{document}");
        assert!(document["mirrors_to_nobody"].as_str().unwrap().contains(word), "{document}");
        assert!(document["logs"]["logs"][0]["lag_bytes"].is_null(), "{document}");
        status(&["--max-lag", "1s"]).refused(2, &["mirrors to nobody", word]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_does_wrong_is_no_failure_of_the_site() {
    // A primary whose mirror is down, with a log that would rather fail than wait.
    let mut pair = Pair::down(PairOptions::default().both(HTTP.0, HTTP.1));
    pair.primary.start();
    let client = pair.client(At::Primary).await;
    let log = client.create("orders", Degrade::Fail).await.unwrap();
    client.append(log, payload(1, 100), at_level(Durability::Local)).await.unwrap();
    let unknown = client.append(LogId(99), payload(1, 100), at_level(Durability::Local)).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    let options = AppendOptions { deadline: Some(Duration::from_millis(50)), ..at_level(Durability::Remote) };
    let late = client.append(log, payload(2, 100), options).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Unavailable);
    let now = Scrape::of(pair.primary.node());
    assert_eq!((now.appends("local", "acknowledged"), now.appends("local", "refused")), (1.0, 1.0));
    assert_eq!((now.appends("local", "failed"), now.appends("remote", "failed")), (0.0, 1.0));
    assert_eq!(now.appends("remote", "refused"), 0.0);
    pair.mirror.start();
    pair.linked().await;
    let there = pair.client(At::Mirror).await;
    let error = there.append(log, payload(3, 100), at_level(Durability::Local)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "a mirror takes no appends");
    let now = Scrape::of(pair.mirror.node());
    assert_eq!((now.appends("local", "refused"), now.appends("local", "failed")), (1.0, 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_site_lags_behind_nobody() {
    let pair = Pair::down(PairOptions::default());
    let single = NodeSpec {
        name: "single",
        profile: "single",
        settings: Vec::new(),
        directory: pair.directory().to_owned(),
    };
    let node = single
        .with("tls.directory", pair.pki.display())
        .with("node.data", pair.directory().join("single").display())
        .with("api.listen", "127.0.0.1:0")
        .with(HTTP.0, HTTP.1)
        .with("storage.segment", "17MiB")
        .start();
    let client = parhelion_e2e::client(node.ready().api, &pair.pki, "client").await;
    let log = client.create("orders", Degrade::Block).await.unwrap();
    client.append(log, payload(1, 100), at_level(Durability::Local)).await.unwrap();
    let deadline = Instant::now() + SOON;
    // The gauges have been looked after since.
    while Scrape::of(&node).get("parhelion_logs") < 1.0 {
        assert!(Instant::now() < deadline, "the log does not show");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(Scrape::of(&node).lag(), [0.0; 3]);
    let address = node.ready().api;
    let text = parhelion_e2e::Tool::new(["mirror", "status"]).at(address, &pair.pki).run().done().text();
    assert!(text.contains("mirrors to nobody: its duty is single"), "{text}");
    let document = client.status().await.unwrap();
    assert!(document["logs"]["logs"][0]["lag_bytes"].is_null(), "{document}");
}

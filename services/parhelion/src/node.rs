//! A node: settings turned into actors, drivers and front ends.
//!
//! ```text
//!   main thread     front ends, metadata server, signals
//!   arbiter state   storage actor, estimator
//!   arbiter link    the link's driver
//!   OS threads      one writer per data directory, RocksDB's own
//! ```

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use actix::{Actor, Addr, Arbiter, Context, Supervised, System};
use parhelion_actor_runtime::{Clock, Escalation, Gate, Policy, supervise};
use parhelion_estimator::{Belief, EstimatorActor};
use parhelion_gate::tls::{LINK_PROTOCOL, SERVER_NAME, require_role};
use parhelion_gate::{Api, ApiConfig, Budget, Identity};
use parhelion_http::{HttpConfig, HttpServer};
use parhelion_link_driver::{
    CodeLookup, Congestion, LaneConfig, MirrorAddresses, MirrorConfig, PeerCheck, PrimaryConfig, Transport,
};
use parhelion_metadata::MetadataActor;
use parhelion_mirror::PrimaryLog;
use parhelion_observability::{Metrics, Telemetry, TelemetryConfig};
use parhelion_plugin::{Parameters, Structure};
use parhelion_plugin_host::Catalogue as Plugins;
use parhelion_risk::{Assumption, Pricer};
use parhelion_storage::catalogue::SiteState;
use parhelion_storage::store::{RecoveredLog, Store, StoreConfig};
use parhelion_storage::{
    FromStore, MirroringLatency, PendingBytes, Request, SetChannel, StorageActor, StorageConfig,
};
use parhelion_types::{Epoch, Error, LogId, NodeId, RequestId, Role, SiteId};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::backend::NodeBackend;
use crate::gauges;
use crate::link::{CurrentStats, DecoderActor, EncoderActor};
use crate::output::{Exit, Failure};
use crate::settings::{self, Duty, Settings};

/// Exit code of a node that ended itself because only a restart mends what happened.
const EXIT_RESTART: i32 = 70;

/// Files of zeros that each data directory keeps ready.
const SPARES: usize = 1;

/// Logs of this site: what the metadata server is rebuilt from.
type Known = Arc<Mutex<Vec<(LogId, String, RequestId)>>>;

/// Runs a node until it is told to stop.
pub fn run(settings: Settings) -> Result<ExitCode, Failure> {
    settings.check().map_err(Failure::new)?;
    let telemetry = Telemetry::install(telemetry_config(&settings)).map_err(Failure::new)?;
    let ended = System::new().block_on(async {
        let node = Node::start(&settings, &telemetry)?;
        node.serve(settings.node.drain).await;
        Ok(())
    });
    // Exporting what is left is worth a moment, not more: the data is safe already.
    if let Err(error) = telemetry.shutdown(Duration::from_secs(2)) {
        tracing::warn!(%error, "telemetry was not flushed");
    }
    ended.map(|()| Exit::Done.into())
}

struct Node {
    api: Api,
    http: Option<HttpServer>,
    storage: Addr<StorageActor>,
    store: Arc<Store>,
    arbiters: [Arbiter; 2],
}

impl Node {
    fn start(settings: &Settings, telemetry: &Telemetry) -> Result<Self, Failure> {
        let identity = Identity::load_from(&settings.tls.directory, &format!("node-{}", settings.node.site))
            .map_err(Failure::new)?;
        let plugins = Arc::new(Plugins::built_in());
        let clock = Arc::new(Clock::start());
        let pending = PendingBytes::default();
        let mirroring = MirroringLatency::default();

        let address: Arc<OnceLock<Addr<StorageActor>>> = Arc::default();
        let (store, recovered) = open_store(settings, address.clone())?;
        let site = store.catalogue().site().map_err(Failure::new)?;
        let is_mirror = settings.node.duty == Duty::Mirror && !site.promoted;
        let known: Known =
            Arc::new(Mutex::new(recovered.iter().map(|l| (l.log, l.name.clone(), l.created_by)).collect()));
        report_recovery(&recovered, site, is_mirror);
        let logs = recovered.into_iter().map(|log| primary_log(log, site)).collect();

        let state = Arbiter::new();
        let link = Arbiter::new();
        let listed = known.clone();
        let metadata_state = Box::new(move || listed.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let metadata =
            supervise("metadata", Policy::REBUILD, escalation(), MetadataActor::new(metadata_state));
        let told = metadata.clone();
        let estimator = EstimatorParts::new(settings, clock.clone(), address.clone())?;
        let storage_config = StorageConfig {
            store: store.clone(),
            clock: clock.clone(),
            primary: primary_core_config(settings, site.epoch),
            pricer: pricer(settings, &plugins, &estimator.belief)?,
            metrics: telemetry.metrics().clone(),
            tracer: telemetry.tracer().clone(),
            pending: pending.clone(),
            mirroring: mirroring.clone(),
            learned: Box::new(move |log, name, request| {
                let entry = (log, name.clone(), request);
                known.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
                told.do_send(parhelion_metadata::LearnLog { log, name, request });
            }),
            promote: remember_promotion(store.clone()),
        };
        let storage = start_on(&state, "storage", Policy::CRASH, move || {
            if is_mirror {
                StorageActor::mirror(storage_config, site.epoch, logs)
            } else {
                StorageActor::primary(storage_config, logs)
            }
        })?;
        // The store was opened before there was anybody to tell; it has had nothing to say so far.
        let _ = address.set(storage.clone());

        let stats: CurrentStats = Arc::default();
        let belief = estimator.belief.clone();
        let mut link_addresses = None;
        match settings.node.duty {
            Duty::Primary => {
                let actor = estimator.actor;
                let estimator = start_on(&state, "estimator", Policy::REBUILD, move || actor)?;
                let config = primary_driver_config(settings, &identity, plugins)?;
                let (storage, stats) = (storage.clone(), stats.clone());
                start_on(&link, "encoder", Policy::REBUILD, move || EncoderActor {
                    config,
                    storage,
                    estimator,
                    stats,
                })?;
            }
            Duty::Mirror => {
                let config = mirror_driver_config(settings, &identity, plugins)?;
                let (bound, wait) = mpsc::channel();
                let (storage, stats, pending) = (storage.clone(), stats.clone(), pending);
                start_on(&link, "decoder", Policy::REBUILD, move || DecoderActor {
                    config,
                    storage,
                    stats,
                    bound: Some(bound),
                    pending,
                })?;
                let bound =
                    wait.recv().map_err(|_| Failure::new("the link's driver ended before it began"))?;
                link_addresses = Some(bound.map_err(Failure::new)?);
            }
            Duty::Single => {}
        }

        let backend = Arc::new(NodeBackend {
            site: settings.node.site,
            duty: match settings.node.duty {
                Duty::Primary => "primary",
                Duty::Mirror => "mirror",
                Duty::Single => "single",
            },
            segment_bytes: segment_bytes(settings),
            storage: storage.clone(),
            metadata,
            store: store.clone(),
            gate: Gate::new(settings.api.in_flight.as_u64()),
            clock,
            mirroring,
            belief: (settings.node.duty == Duty::Primary).then_some(belief),
            link: stats,
        });
        let in_flight = Budget::new(settings.api.in_flight.as_u64());
        let api_config = ApiConfig { in_flight: in_flight.clone(), ..ApiConfig::new(settings.api.listen) };
        let api = Api::start(api_config, &identity, backend.clone()).map_err(Failure::new)?;
        actix::spawn(gauges::keep(telemetry.metrics().clone(), storage.clone(), backend.clone()));
        let http = start_http(settings, &identity, in_flight, backend, telemetry.metrics().clone())?;
        let http_address = http.as_ref().map(HttpServer::local_address);
        announce_ready(api.local_address().map_err(Failure::new)?, http_address, link_addresses);
        Ok(Self { api, http, storage, store, arbiters: [state, link] })
    }

    /// Serves until the first signal, then drains; a second signal ends the process at once.
    async fn serve(self, drain: Duration) {
        match wait_for_signal().await {
            Ok(name) => tracing::info!(signal = name, "stopping; a second signal stops at once"),
            Err(error) => tracing::error!(%error, "cannot listen for signals; stopping"),
        }
        actix::spawn(async {
            if wait_for_signal().await.is_ok() {
                std::process::exit(130);
            }
        });
        self.api.stop(drain).await;
        if let Some(http) = self.http {
            http.stop().await;
        }
        let (answer, drained) = oneshot::channel();
        self.storage.do_send(Request::Drain { answer });
        if tokio::time::timeout(drain, drained).await.is_err() {
            tracing::warn!(?drain, "the disk did not keep up; what is not synced was not acknowledged");
        }
        for arbiter in self.arbiters {
            arbiter.stop();
            let _ = arbiter.join();
        }
        // The last owner of the store syncs and joins its writers.
        drop(self.store);
    }
}

/// The estimator before it is started, and what others see of it.
struct EstimatorParts {
    actor: EstimatorActor,
    belief: Arc<Mutex<Belief>>,
}

impl EstimatorParts {
    fn new(
        settings: &Settings,
        clock: Arc<Clock>,
        storage: Arc<OnceLock<Addr<StorageActor>>>,
    ) -> Result<Self, Failure> {
        let risk = &settings.risk;
        let assumption = Assumption::new(risk.assumed_loss, risk.assumed_burst, risk.confidence)
            .map_err(|error| Failure::new(format!("risk settings: {error}")))?;
        let tell = Arc::new(move |channel| {
            if let Some(storage) = storage.get() {
                storage.do_send(SetChannel(channel));
            }
        });
        let (actor, belief) = EstimatorActor::new(assumption, clock, tell);
        Ok(Self { actor, belief })
    }
}

fn open_store(
    settings: &Settings,
    storage: Arc<OnceLock<Addr<StorageActor>>>,
) -> Result<(Arc<Store>, Vec<RecoveredLog>), Failure> {
    let directories = if settings.storage.directories.is_empty() {
        vec![settings.node.data.join("store")]
    } else {
        settings.storage.directories.clone()
    };
    let config = StoreConfig {
        directories,
        segment_bytes: segment_bytes(settings),
        queue_bytes_max: usize::try_from(settings.storage.queue.as_u64()).unwrap_or(usize::MAX),
        requests_max: settings.mirror.requests as usize,
        spares: SPARES,
    };
    let tell = Arc::new(move |event| {
        if let Some(storage) = storage.get() {
            storage.do_send(FromStore(event));
        }
    });
    let (store, recovered) = Store::open(config, tell).map_err(Failure::new)?;
    Ok((Arc::new(store), recovered))
}

fn report_recovery(recovered: &[RecoveredLog], site: SiteState, is_mirror: bool) {
    for log in recovered.iter().filter(|log| log.torn) {
        let end = log.tail.next_address();
        tracing::warn!(log = %log.log, %end, "dropped a record that was being written; nobody was told of it");
    }
    tracing::info!(logs = recovered.len(), epoch = %site.epoch, is_mirror, "recovered");
}

fn primary_log(log: RecoveredLog, site: SiteState) -> PrimaryLog {
    let mut tail = log.tail;
    tail.promote(site.epoch);
    let RecoveredLog { log, name, degrade, active, requests, .. } = log;
    PrimaryLog { log, name, degrade, tail, active, requests }
}

fn remember_promotion(store: Arc<Store>) -> Box<dyn Fn(Epoch) -> Result<(), Error> + Send> {
    Box::new(move |epoch| {
        let state = SiteState { epoch, promoted: true };
        store.catalogue().put_site(state).map_err(|error| Error::unavailable(error.to_string()))
    })
}

/// Starts a supervised actor on an arbiter and waits for its address.
fn start_on<A, F>(arbiter: &Arbiter, name: &'static str, policy: Policy, make: F) -> Result<Addr<A>, Failure>
where
    A: Supervised + Actor<Context = Context<A>> + Unpin,
    F: FnOnce() -> A + Send + 'static,
{
    let (send, wait) = mpsc::channel();
    arbiter.spawn_fn(move || {
        let _ = send.send(supervise(name, policy, escalation(), make()));
    });
    wait.recv().map_err(|_| Failure::new(format!("the {name} actor did not start; see the log")))
}

/// An actor that cannot be rebuilt ends the process: a restart finds everything on disk.
fn escalation() -> Escalation {
    Arc::new(|actor| {
        tracing::error!(actor, "ending the process; restart it");
        std::process::exit(EXIT_RESTART);
    })
}

/// The HTTP front end, unless it is off.
fn start_http(
    settings: &Settings,
    identity: &Identity,
    in_flight: Budget,
    backend: Arc<NodeBackend>,
    metrics: Metrics,
) -> Result<Option<HttpServer>, Failure> {
    let http = &settings.http;
    let Ok(listen) = http.listen.parse::<SocketAddr>() else { return Ok(None) };
    let tls =
        if http.tls { Some(identity.server_config(&[b"http/1.1"]).map_err(Failure::new)?) } else { None };
    let config = HttpConfig {
        tls,
        allow_remote_plaintext: http.allow_remote_plaintext,
        in_flight,
        ..HttpConfig::new(listen)
    };
    let scrape = Arc::new(move || metrics.prometheus_text());
    HttpServer::start(config, backend, scrape).map(Some).map_err(Failure::new)
}

fn announce_ready(api: SocketAddr, http: Option<SocketAddr>, link: Option<MirrorAddresses>) {
    let link = link.map(|at| json!({ "bulk": at.bulk, "critical": at.critical, "tcp": at.tcp }));
    let line = json!({ "ready": true, "api": api, "http": http, "link": link });
    let mut out = std::io::stdout().lock();
    // Whoever started the node may have closed its end.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

async fn wait_for_signal() -> std::io::Result<&'static str> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}

fn telemetry_config(settings: &Settings) -> TelemetryConfig {
    let otlp = &settings.telemetry.otlp;
    TelemetryConfig {
        service: "parhelion".to_owned(),
        site: SiteId(settings.node.site),
        node: NodeId(settings.node.node),
        log_filter: settings.telemetry.log.clone(),
        json: settings.telemetry.json,
        otlp_endpoint: (!otlp.is_empty()).then(|| otlp.clone()),
        sample_ratio: settings.telemetry.sample,
    }
}

fn segment_bytes(settings: &Settings) -> u32 {
    u32::try_from(settings.storage.segment.as_u64()).unwrap_or(u32::MAX)
}

fn primary_core_config(settings: &Settings, epoch: Epoch) -> parhelion_mirror::PrimaryConfig {
    parhelion_mirror::PrimaryConfig {
        segment_bytes: segment_bytes(settings),
        link_buffer_bytes_max: usize::try_from(settings.link.buffer.as_u64()).unwrap_or(usize::MAX),
        deadline: settings.mirror.deadline,
        requests_max: settings.mirror.requests as usize,
        epoch,
    }
}

fn pricer(settings: &Settings, plugins: &Plugins, belief: &Mutex<Belief>) -> Result<Pricer, Failure> {
    let model = plugins.model(&settings.risk.model).map_err(Failure::new)?;
    let channel = belief.lock().unwrap_or_else(PoisonError::into_inner).channel;
    Ok(Pricer::new(model, Structure::None, channel))
}

fn lane_config(settings: &Settings) -> LaneConfig {
    LaneConfig { mtu: settings.link.mtu, idle_timeout: settings.link.idle_timeout, ..LaneConfig::default() }
}

fn peer_check() -> PeerCheck {
    Arc::new(|certificate| require_role(certificate, &[Role::Link]).map(drop))
}

fn code_lookup(plugins: Arc<Plugins>) -> CodeLookup {
    Arc::new(move |name| plugins.code(name).ok())
}

fn primary_driver_config(
    settings: &Settings,
    identity: &Identity,
    plugins: Arc<Plugins>,
) -> Result<PrimaryConfig, Failure> {
    let link = &settings.link;
    let address = |key: &str, text: &str| {
        let wrong =
            |_| Failure::new(format!("setting {key} is {text:?}: give an address such as 192.0.2.7:7411"));
        text.parse::<SocketAddr>().map_err(wrong)
    };
    // Unknown codes and parameters are found before anything starts.
    let code = plugins.code(&link.code).map_err(Failure::new)?;
    let unusable = |error: &dyn std::fmt::Display| Failure::new(format!("link.parameters: {error}"));
    let parameters: Parameters = link.parameters.parse().map_err(|error| unusable(&error))?;
    code.structure(&parameters).map_err(|error| unusable(&error))?;
    let tls = Arc::new(identity.client_config(&[LINK_PROTOCOL]).map_err(Failure::new)?);
    let critical = address("link.peer_critical", &link.peer_critical)?;
    let defaults = PrimaryConfig::new(
        SiteId(settings.node.site),
        critical,
        SERVER_NAME,
        tls,
        peer_check(),
        code_lookup(plugins),
    );
    let tcp_congestion = link.tcp_congestion.clone();
    Ok(PrimaryConfig {
        bulk: address("link.peer_bulk", &link.peer_bulk)?,
        tcp: if link.peer_tcp.is_empty() { defaults.tcp } else { address("link.peer_tcp", &link.peer_tcp)? },
        transport: match link.transport {
            settings::Transport::Quic => Transport::Quic,
            settings::Transport::Tcp => {
                Transport::Tcp { congestion: (!tcp_congestion.is_empty()).then_some(tcp_congestion) }
            }
        },
        congestion: match link.congestion {
            settings::Congestion::Provisioned => Congestion::Provisioned,
            settings::Congestion::Bbr => Congestion::Bbr,
            settings::Congestion::Cubic => Congestion::Cubic,
        },
        code: link.code.clone(),
        parameters: link.parameters.clone(),
        lane: lane_config(settings),
        rate_bytes_per_second: (link.rate.bytes_per_second() as f64 * link.share) as u64,
        buffer_bytes_max: usize::try_from(link.buffer.as_u64()).unwrap_or(usize::MAX),
        burst_datagrams_max: link.burst,
        flush_delay: link.flush_delay,
        site_exit_delay: link.site_exit_delay,
        ..defaults
    })
}

fn mirror_driver_config(
    settings: &Settings,
    identity: &Identity,
    plugins: Arc<Plugins>,
) -> Result<MirrorConfig, Failure> {
    let link = &settings.link;
    let tls = Arc::new(identity.server_config(&[LINK_PROTOCOL]).map_err(Failure::new)?);
    let defaults = MirrorConfig::new(
        SiteId(settings.node.site),
        link.listen_critical,
        tls,
        peer_check(),
        code_lookup(plugins),
    );
    Ok(MirrorConfig {
        listen_bulk: link.listen_bulk,
        listen_tcp: Some(link.listen_tcp),
        lane: lane_config(settings),
        pending_bytes_max: usize::try_from(link.buffer.as_u64()).unwrap_or(usize::MAX),
        report_interval: link.report_interval,
        ..defaults
    })
}

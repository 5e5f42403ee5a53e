//! A node: settings turned into actors, drivers and front ends.
//!
//! ```text
//!   main thread     front ends, metadata server, other nodes of the site, signals
//!   arbiter state   storage actor, estimator
//!   arbiter planner the planner, which works for milliseconds at a time
//!   arbiter link    the link's driver and the site's gateway, or the way to the node that has them
//!   OS threads      one writer per data directory, RocksDB's own
//! ```
//!
//! A site of one node has no gateway and asks no other node: its storage actor and its driver talk to each other.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use actix::{Actor, Addr, Arbiter, Context, Supervised, System};
use parhelion_actor_runtime::{Clock, Escalation, Faults, Policy, named_arbiter, supervise};
use parhelion_estimator::PlannerActor;
use parhelion_gate::{Api, ApiConfig, Backend, Budget, Identity};
use parhelion_gateway::{MirrorGateway, PrimaryGateway};
use parhelion_http::{HttpConfig, HttpServer};
use parhelion_link_driver::MirrorAddresses;
use parhelion_metadata::{Known, KnownLog, LearnLog, MetadataActor};
use parhelion_observability::{Metrics, Telemetry, TelemetryConfig};
use parhelion_plugin_host::Catalogue as Plugins;
use parhelion_storage::Relink;
use parhelion_types::{NodeId, Role, SiteId};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::backend::{About, NodeBackend};
use crate::drivers;
use crate::gauges;
use crate::identity;
use crate::link::{
    Bound, CurrentStats, DecoderActor, EncoderActor, MirrorEnd, MirrorPortActor, PrimaryEnd,
    PrimaryPortActor, SiteDoorActor, mirror_sink, primary_sink,
};
use crate::logs::{OwnLogs, PlannerRole};
use crate::output::{Exit, Failure};
use crate::peers::Peers;
use crate::placement::{Home, Placement};
use crate::planner::{self, PlannedLink};
use crate::plugins;
use crate::settings::{Duty, Settings};
use crate::site::SiteBackend;
use crate::storage::{Learned, StorageRole};

/// Names faults to be injected, for tests: see [`Faults::arm`].
const FAULTS: &str = "PARHELION_FAULT";

/// The actors that a node may have.
const ACTORS: [&str; 8] =
    ["storage", "metadata", "estimator", "planner", "encoder", "decoder", "port", "gateway"];

/// Exit code of a node that ended itself because only a restart mends what happened.
const EXIT_RESTART: i32 = 70;

/// What is wrong with settings, so that no restart helps. Opens nothing.
pub fn problems(settings: &Settings) -> Vec<String> {
    let telemetry = telemetry_config(settings).check().err().map(|error| error.to_string());
    let http = http_config(settings).filter(|_| !settings.http.tls).and_then(|config| config.check().err());
    let found = [
        settings.check().err().map(|error| error.to_string()),
        drivers::check(settings).err().map(|failure| failure.message),
        telemetry,
        http.map(|error| error.to_string()),
    ];
    found.into_iter().flatten().collect()
}

/// Runs a node until it is told to stop.
///
/// Settings and certificates that are wrong end it with [`Exit::Usage`]: they are as wrong after a restart. What may be
/// mended while the settings stay (a directory that is not there yet, an address in use or not up yet) ends it with
/// [`Exit::Failed`], and a supervisor tries again.
pub fn run(settings: Settings) -> Result<ExitCode, Failure> {
    if let Some(problem) = problems(&settings).into_iter().next() {
        return Err(Failure::usage(problem));
    }
    let telemetry = Telemetry::install(telemetry_config(&settings)).map_err(Failure::new)?;
    if let Some(faults) = std::env::var_os(FAULTS) {
        let faulty = |error| Failure::new(format!("{FAULTS} is set: {error}. In service it must not be set"));
        Faults::arm(&faults.to_string_lossy(), &ACTORS).map_err(faulty)?;
    }
    allow_open_files();
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
    storage: Option<StorageRole>,
    arbiters: [Arbiter; 3],
    signals: Signals,
}

impl Node {
    fn start(settings: &Settings, telemetry: &Telemetry) -> Result<Self, Failure> {
        let identity = identity::load(settings).map_err(Failure::usage)?;
        if let Err(error) = identity.check_trusted(SystemTime::now()) {
            tracing::error!(%error, "other nodes and clients will refuse this node's certificate");
        }
        let (plugins, refused) = plugins::load(settings)?;
        refused.iter().for_each(|refused| tracing::error!(%refused, "the node runs on without a plugin"));
        let plugins = Arc::new(plugins);
        let clock = Arc::new(Clock::start());
        let [state, link, planners] = [c"state", c"link", c"planner"].map(named_arbiter);
        let mut metadata = None;
        let storage = match settings.has(Role::Storage) {
            true => {
                let learned = |own: &OwnLogs| {
                    metadata = start_metadata(settings, Some(own));
                    Ok(learn_to(metadata.clone(), settings))
                };
                let role = StorageRole::start(settings, telemetry, &plugins, clock.clone(), &state, learned)?;
                Some(role)
            }
            false => {
                metadata = start_metadata(settings, None);
                None
            }
        };
        let stats = CurrentStats::default();
        let ends = LinkRole {
            settings,
            identity: &identity,
            plugins,
            arbiter: &link,
            planners: &planners,
            stats: stats.clone(),
        };
        let (link_addresses, site_address) = ends.start(storage.as_ref())?;

        let logs = storage.as_ref().map(|role| role.logs.clone());
        let peers = Peers::connect(settings, || identity::load(settings).map_err(Failure::usage))?;
        let homes: Vec<Home> = peers.homes(logs.as_ref().map(|logs| -> Arc<dyn Backend> { logs.clone() }));
        let is_mirror = settings.node.duty == Duty::Mirror;
        let placement = metadata.map(|metadata| Arc::new(Placement::new(metadata, homes, is_mirror)));
        let about = About {
            site: SiteId(settings.node.site),
            node: NodeId(settings.node.node),
            roles: settings.node.roles.clone(),
            duty: settings.node.duty,
            address: settings.own_address(),
        };
        let backend =
            Arc::new(NodeBackend { about, logs, placement, link: stats, line: drivers::line(settings) });
        actix::spawn(gauges::keep(telemetry.metrics().clone(), clock, backend.clone()));

        // One budget for all that the node takes in.
        let in_flight = match &backend.logs {
            Some(logs) => logs.in_flight.clone(),
            None => Budget::new(settings.api.in_flight.as_u64()),
        };
        let api_config = ApiConfig { in_flight: in_flight.clone(), ..ApiConfig::new(settings.api.listen) };
        let (front, api): (Arc<dyn Backend>, _) = if settings.is_alone() {
            (backend.clone(), Api::start(api_config, &identity, backend))
        } else {
            let homes = peers.homes(backend.logs.is_some().then(|| -> Arc<dyn Backend> { backend.clone() }));
            let site = Arc::new(SiteBackend::new(backend.clone(), homes, peers));
            let number = SiteId(settings.node.site);
            (site.clone(), Api::start_in_site(api_config, &identity, site, number, backend))
        };
        let api = api.map_err(Failure::new)?;
        let http = start_http(settings, &identity, in_flight, front, telemetry.metrics().clone())?;
        let http_address = http.as_ref().map(HttpServer::local_address);
        // Whoever was told that the node is ready may stop it; before, a signal ends it at once.
        let signals = Signals::listen().map_err(Failure::new)?;
        announce_ready(
            api.local_address().map_err(Failure::new)?,
            http_address,
            link_addresses,
            site_address,
        );
        Ok(Self { api, http, storage, arbiters: [state, link, planners], signals })
    }

    /// Serves until the first signal, then drains; a second signal ends the process at once.
    async fn serve(mut self, drain: Duration) {
        let signal = self.signals.next().await;
        tracing::info!(signal, "stopping; a second signal stops at once");
        actix::spawn(async move {
            self.signals.next().await;
            std::process::exit(130);
        });
        self.api.stop(drain).await;
        if let Some(http) = self.http {
            http.stop().await;
        }
        if let Some(storage) = &self.storage {
            storage.drain(drain).await;
        }
        for arbiter in self.arbiters {
            arbiter.stop();
            let _ = arbiter.join();
        }
        // The last owner of the store syncs and joins its writers.
        drop(self.storage);
    }
}

/// Lets the process have as many files open as the system allows it: many logs have many segments, and the usual first
/// limit of 1024 is there for old programs' sake.
fn allow_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, "the limit on open files stays as it is; raise it with `ulimit -n`");
    }
}

/// What joins the node to the other site: the driver, the gateway, or the way to the link node.
struct LinkRole<'a> {
    settings: &'a Settings,
    identity: &'a Identity,
    plugins: Arc<Plugins>,
    arbiter: &'a Arbiter,
    /// For work that takes milliseconds at a time.
    planners: &'a Arbiter,
    stats: CurrentStats,
}

impl LinkRole<'_> {
    /// Starts what the node's roles need; where a mirror's driver and the site's gateway listen.
    fn start(
        self,
        storage: Option<&StorageRole>,
    ) -> Result<(Option<MirrorAddresses>, Option<SocketAddr>), Failure> {
        let has_link = self.settings.has(Role::Link);
        match (self.settings.node.duty, storage) {
            (Duty::Single, _) => Ok((None, None)),
            (Duty::Primary, Some(storage)) if self.settings.is_alone() => {
                let planner = self.planner(storage)?;
                self.encoder(PrimaryEnd::Storage {
                    storage: storage.logs.storage.clone(),
                    estimator: storage.estimator.clone().expect("a primary has an estimator"),
                    planner,
                })?;
                Ok((None, None))
            }
            (Duty::Mirror, Some(storage)) if self.settings.is_alone() => {
                let (storage, pending) = (storage.logs.storage.clone(), storage.pending.clone());
                Ok((Some(self.decoder(MirrorEnd::Storage { storage, pending })?), None))
            }
            (Duty::Primary, storage) if has_link => self.primary_gateway(storage).map(|at| (None, Some(at))),
            (Duty::Mirror, storage) if has_link => {
                self.mirror_gateway(storage).map(|(link, at)| (Some(link), Some(at)))
            }
            (_, None) => Ok((None, None)),
            (Duty::Primary, Some(storage)) => {
                let actor = PrimaryPortActor {
                    config: drivers::site_link(self.settings, self.identity)?,
                    codes: drivers::code_lookup(self.plugins.clone()),
                    own: storage.logs.own.clone(),
                    storage: storage.logs.storage.clone(),
                    estimator: storage.estimator.clone().expect("a primary has an estimator"),
                };
                start_on(self.arbiter, "port", Policy::REBUILD, move || actor)?;
                Ok((None, None))
            }
            (Duty::Mirror, Some(storage)) => {
                let actor = MirrorPortActor {
                    config: drivers::site_link(self.settings, self.identity)?,
                    storage: storage.logs.storage.clone(),
                    pending: storage.pending.clone(),
                };
                start_on(self.arbiter, "port", Policy::REBUILD, move || actor)?;
                Ok((None, None))
            }
        }
    }

    /// The planner beside the one storage actor of a primary.
    fn planner(&self, storage: &StorageRole) -> Result<Addr<PlannerActor>, Failure> {
        let logs = &storage.logs;
        let belief = logs.belief.clone().expect("a primary has an estimator");
        let config = planner::config(self.settings, &self.plugins, logs.clock.clone(), belief)?;
        let planned = PlannedLink { storage: logs.storage.clone(), stats: self.stats.clone() };
        let is_on = self.settings.link.code == planner::AUTO;
        let (actor, planning) = PlannerActor::new(config, Arc::new(planned), is_on);
        let actor = start_on(self.planners, "planner", Policy::REBUILD, move || actor)?;
        let _ = logs.planner.set(PlannerRole { actor: actor.clone(), planning });
        Ok(actor)
    }

    /// The gateway of a primary site, with the driver; where it listens for storage nodes.
    fn primary_gateway(&self, storage: Option<&StorageRole>) -> Result<SocketAddr, Failure> {
        let gateway = PrimaryGateway::expecting(self.settings.storage_nodes());
        if let Some(role) = storage {
            let estimator = role.estimator.clone().expect("a primary has an estimator");
            let sink = primary_sink(role.logs.storage.clone(), estimator, None);
            let (node, numbers) = (NodeId(self.settings.node.node), role.logs.own.numbers());
            let here = gateway.clone();
            let commands = call_on(self.arbiter, move || here.attach(node, &numbers, sink))??;
            role.logs.storage.do_send(Relink::Primary(commands));
        }
        let door = self.door(Some(gateway.clone()), None)?;
        self.encoder(PrimaryEnd::Gateway(gateway))?;
        Ok(door)
    }

    /// The gateway of a mirror, with the driver; where they listen for the primary and for storage nodes.
    fn mirror_gateway(
        &self,
        storage: Option<&StorageRole>,
    ) -> Result<(MirrorAddresses, SocketAddr), Failure> {
        let gateway = MirrorGateway::new(self.settings.storage_nodes());
        if let Some(role) = storage {
            let sink = mirror_sink(role.logs.storage.clone(), role.pending.clone());
            let node = NodeId(self.settings.node.node);
            let here = gateway.clone();
            let commands = call_on(self.arbiter, move || here.attach(node, sink))??;
            role.logs.storage.do_send(Relink::Mirror(commands));
        }
        let door = self.door(None, Some(gateway.clone()))?;
        let link = self.decoder(MirrorEnd::Gateway(gateway))?;
        Ok((link, door))
    }

    fn door(
        &self,
        primary: Option<PrimaryGateway>,
        mirror: Option<MirrorGateway>,
    ) -> Result<SocketAddr, Failure> {
        let config = drivers::listener(self.settings, self.identity)?;
        self.bound("gateway", move |bound| SiteDoorActor { config, primary, mirror, bound: Some(bound) })
    }

    fn encoder(&self, end: PrimaryEnd) -> Result<(), Failure> {
        let config = drivers::primary(self.settings, self.identity, self.plugins.clone())?;
        let stats = self.stats.clone();
        start_on(self.arbiter, "encoder", Policy::REBUILD, move || EncoderActor { config, end, stats })?;
        Ok(())
    }

    fn decoder(&self, end: MirrorEnd) -> Result<MirrorAddresses, Failure> {
        let config = drivers::mirror(self.settings, self.identity, self.plugins.clone())?;
        let stats = self.stats.clone();
        self.bound("decoder", move |bound| DecoderActor { config, end, stats, bound: Some(bound) })
    }

    /// Starts an actor that listens, and waits until it does.
    fn bound<A, T>(
        &self,
        name: &'static str,
        make: impl FnOnce(Bound<T>) -> A + Send + 'static,
    ) -> Result<T, Failure>
    where
        A: Supervised + Actor<Context = Context<A>> + Unpin,
        T: Send + 'static,
    {
        let (bound, wait) = mpsc::channel();
        start_on(self.arbiter, name, Policy::REBUILD, move || make(bound))?;
        let bound = wait.recv().map_err(|_| Failure::new(format!("the {name} ended before it began")))?;
        bound.map_err(Failure::new)
    }
}

/// The metadata server, if the node has that role. The only node of a site knows all logs; else the storage nodes are
/// asked for them.
fn start_metadata(settings: &Settings, own: Option<&OwnLogs>) -> Option<Addr<MetadataActor>> {
    if !settings.has(Role::Metadata) {
        return None;
    }
    let node = NodeId(settings.node.node);
    let own = own.filter(|_| settings.is_alone()).cloned();
    let known: Known = Box::new(move || {
        let logs = own.as_ref()?.all();
        Some(logs.into_iter().map(|(log, name, request)| KnownLog { log, name, request, node }).collect())
    });
    let actor = MetadataActor::new(&settings.storage_nodes(), known);
    Some(supervise("metadata", Policy::REBUILD, escalation(), actor))
}

/// Who is told of a log that appears: the metadata server of a site of one node. Others ask when they need to know.
fn learn_to(metadata: Option<Addr<MetadataActor>>, settings: &Settings) -> Learned {
    let node = NodeId(settings.node.node);
    let metadata = metadata.filter(|_| settings.is_alone());
    Box::new(move |log, name, request| {
        if let Some(metadata) = &metadata {
            metadata.do_send(LearnLog(KnownLog { log, name: name.to_owned(), request, node }));
        }
    })
}

/// Runs `make` on an arbiter and waits for what it makes.
fn call_on<T: Send + 'static>(
    arbiter: &Arbiter,
    make: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let (send, wait) = mpsc::channel();
    arbiter.spawn_fn(move || drop(send.send(make())));
    wait.recv().map_err(|_| Failure::new("a thread of the node ended while it started; see the log"))
}

/// Starts a supervised actor on an arbiter and waits for its address.
pub fn start_on<A, F>(
    arbiter: &Arbiter,
    name: &'static str,
    policy: Policy,
    make: F,
) -> Result<Addr<A>, Failure>
where
    A: Supervised + Actor<Context = Context<A>> + Unpin,
    F: FnOnce() -> A + Send + 'static,
{
    call_on(arbiter, move || supervise(name, policy, escalation(), make()))
        .map_err(|_| Failure::new(format!("the {name} actor did not start; see the log")))
}

/// An actor that cannot be rebuilt ends the process: a restart finds everything on disk.
fn escalation() -> Escalation {
    Arc::new(|actor| {
        tracing::error!(actor, "ending the process; restart it");
        std::process::exit(EXIT_RESTART);
    })
}

/// Where HTTP is served and to whom, unless it is off.
fn http_config(settings: &Settings) -> Option<HttpConfig> {
    let listen = settings.http.listen.parse().ok()?;
    let allow_remote_plaintext = settings.http.allow_remote_plaintext;
    Some(HttpConfig { allow_remote_plaintext, ..HttpConfig::new(listen) })
}

/// The HTTP front end, unless it is off.
fn start_http(
    settings: &Settings,
    identity: &Identity,
    in_flight: Budget,
    backend: Arc<dyn Backend>,
    metrics: Metrics,
) -> Result<Option<HttpServer>, Failure> {
    let tls = match settings.http.tls {
        true => Some(identity.server_config(&[b"http/1.1"]).map_err(Failure::usage)?),
        false => None,
    };
    let Some(config) = http_config(settings) else { return Ok(None) };
    let config = HttpConfig { tls, in_flight, ..config };
    let scrape = Arc::new(move || metrics.prometheus_text());
    HttpServer::start(config, backend, scrape).map(Some).map_err(Failure::new)
}

/// Says on standard output where the node serves.
fn announce_ready(
    api: SocketAddr,
    http: Option<SocketAddr>,
    link: Option<MirrorAddresses>,
    site: Option<SocketAddr>,
) {
    let link = link.map(|at| json!({ "bulk": at.bulk, "critical": at.critical, "tcp": at.tcp }));
    let line = json!({ "ready": true, "api": api, "http": http, "link": link, "site": site });
    let mut out = std::io::stdout().lock();
    // Whoever started the node may have closed its end.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The signals that stop a node.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on they end the process no more.
    fn listen() -> std::io::Result<Self> {
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
        Ok(Self { interrupt: interrupt?, terminate: terminate? })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let fewer = Some(maximum.map_or(1 << 16, |files| files - 1));
        setrlimit(Resource::Nofile, Rlimit { current: fewer, maximum }).unwrap();
        allow_open_files();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}

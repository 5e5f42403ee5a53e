//! The storage role: the store, what it recovered, and the actors that serve it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use actix::{Addr, Arbiter};
use parhelion_actor_runtime::{Budget, Clock, Policy};
use parhelion_estimator::{Belief, EstimatorActor};
use parhelion_log::Tail;
use parhelion_mirror::PrimaryLog;
use parhelion_observability::Telemetry;
use parhelion_plugin::{Code, DurabilityModel, Parameters};
use parhelion_plugin_host::Catalogue as Plugins;
use parhelion_risk::Pricer;
use parhelion_storage::catalogue::SiteState;
use parhelion_storage::store::{RecoveredLog, Store, StoreConfig};
use parhelion_storage::{
    AnswerBatches, FromStore, MirroringLatency, PendingBytes, Request, RequestBatches, SetChannels,
    StorageActor, StorageConfig,
};
use parhelion_types::limits::WAITING_APPEND_BYTES;
use parhelion_types::{Epoch, Error, ErrorKind, LogId, RequestId, SiteId};

use crate::drivers;
use crate::logs::{LocalLogs, OwnLogs};
use crate::node::start_on;
use crate::output::Failure;
use crate::plugins;
use crate::settings::{Duty, Settings};

/// Files of zeros that each data directory keeps ready.
const SPARES: usize = 1;

/// Told of every log that appears here.
pub type Learned = Box<dyn Fn(LogId, &str, RequestId) + Send>;

/// The storage role of a node, running.
pub struct StorageRole {
    pub logs: Arc<LocalLogs>,
    pub pending: PendingBytes,
    /// Beside a primary's storage actor: prices what the link does.
    pub estimator: Option<Addr<EstimatorActor>>,
}

impl StorageRole {
    /// Recovers what is on disk and starts the actors. `learned` is told of the logs that appear from then on.
    pub fn start(
        settings: &Settings,
        telemetry: &Telemetry,
        plugins: &Arc<Plugins>,
        clock: Arc<Clock>,
        arbiter: &Arbiter,
        learned: impl FnOnce(&OwnLogs) -> Result<Learned, Failure>,
    ) -> Result<Self, Failure> {
        let pending = PendingBytes::default();
        let mirroring = MirroringLatency::default();
        let address: Arc<OnceLock<Addr<StorageActor>>> = Arc::default();
        let (store, recovered) = open_store(settings, address.clone())?;
        let site = store.catalogue().site().map_err(Failure::new)?;
        let is_mirror = settings.node.duty == Duty::Mirror && !site.promoted;
        let own = OwnLogs::default();
        for log in &recovered {
            own.learn(log.log, log.name.clone(), log.created_by);
        }
        let learned = learned(&own)?;
        report_recovery(&recovered, site, is_mirror);
        if settings.node.duty == Duty::Mirror && site.promoted {
            tracing::warn!(
                "this site was promoted and is a primary, whatever node.duty says; to mirror another site it needs an empty \
                 data directory"
            );
        }
        let commons = common_ends(&store, &recovered, is_mirror)?;
        let logs = recovered.into_iter().zip(commons).map(|(log, common)| primary_log(log, common)).collect();

        let model = plugins.model(&settings.risk.model).map_err(Failure::new)?;
        let estimator = EstimatorParts::new(settings, clock.clone(), address.clone())?;
        let here = own.clone();
        let in_flight = Budget::new(settings.api.in_flight.as_u64());
        let storage_config = StorageConfig {
            store: store.clone(),
            clock: clock.clone(),
            primary: primary_core_config(settings, site),
            pricer: pricer(plugins, model.clone(), &estimator.belief)?,
            waiting_max: waiting_bytes_max(settings) as usize / WAITING_APPEND_BYTES,
            metrics: telemetry.metrics().clone(),
            tracer: telemetry.tracer().clone(),
            pending: pending.clone(),
            mirroring: mirroring.clone(),
            answers: AnswerBatches::start(),
            learned: Box::new(move |log, name, request| {
                learned(log, &name, request);
                here.learn(log, name, request);
            }),
            promote: remember_promotion(store.clone()),
        };
        let number = SiteId(settings.node.site);
        let storage = start_on(arbiter, "storage", Policy::CRASH, move || {
            if is_mirror {
                StorageActor::mirror(storage_config, number, site.epoch.max(site.seen), logs)
            } else {
                StorageActor::primary(storage_config, logs)
            }
        })?;
        // The store was opened before there was anybody to tell; it has had nothing to say so far.
        let _ = address.set(storage.clone());
        plugins::let_work(model, storage.clone());

        let EstimatorParts { actor, belief } = estimator;
        let is_primary = settings.node.duty == Duty::Primary;
        let estimator = match is_primary {
            true => Some(start_on(arbiter, "estimator", Policy::REBUILD, move || actor)?),
            false => None,
        };
        let logs = LocalLogs {
            own,
            segment_bytes: segment_bytes(settings),
            appends: RequestBatches::new(storage.clone()),
            storage,
            store,
            in_flight,
            clock,
            mirroring,
            belief: is_primary.then_some(belief),
            plugins: plugins.clone(),
            planner: OnceLock::new(),
        };
        Ok(Self { logs: Arc::new(logs), pending, estimator })
    }

    /// Makes durable what was accepted, and takes no more.
    pub async fn drain(&self, limit: std::time::Duration) {
        let (answer, drained) = tokio::sync::oneshot::channel();
        self.logs.storage.do_send(Request::Drain { answer });
        if tokio::time::timeout(limit, drained).await.is_err() {
            tracing::warn!(?limit, "the disk did not keep up; what is not synced was not acknowledged");
        }
    }
}

/// What appends may hold of `api.in_flight` while they wait for the other site: a quarter here, and as much where they were
/// passed on to other nodes. The rest takes the largest append at the level `local`; see `IN_FLIGHT_BYTES_MIN`.
pub fn waiting_bytes_max(settings: &Settings) -> u64 {
    settings.api.in_flight.as_u64().min(Budget::BYTES_MAX) / 4
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
        let assumption = drivers::assumption(settings)?;
        let tell = Arc::new(move |channels| {
            if let Some(storage) = storage.get() {
                storage.do_send(SetChannels(channels));
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
    let config = StoreConfig {
        directories: settings.data_directories(),
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
    for damage in recovered.iter().filter_map(|log| log.damage.as_ref()) {
        tracing::error!(%damage, "a log takes no records; the others are served");
    }
    tracing::info!(logs = recovered.len(), epoch = %site.epoch, is_mirror, "recovered");
}

/// Where the logs ended when this site was last sure of having all that its mirror has. A mirror is never sure. What a damaged
/// log has before its damage is no such end: the rest may be back tomorrow.
fn common_ends(store: &Store, recovered: &[RecoveredLog], is_mirror: bool) -> Result<Vec<Tail>, Failure> {
    let tails: Vec<Tail> = recovered.iter().map(|log| log.tail).collect();
    if is_mirror {
        let logs: Vec<LogId> = tails.iter().map(Tail::log).collect();
        return store.catalogue().forget_commons(&logs).map(|()| tails).map_err(Failure::new);
    }
    let whole = recovered.iter().filter(|log| log.damage.is_none()).map(|log| log.tail);
    let mut commons =
        store.catalogue().commons(&whole.collect::<Vec<_>>()).map_err(Failure::new)?.into_iter();
    let common = |log: &RecoveredLog| if log.damage.is_none() { commons.next() } else { None };
    let found: Vec<Option<Tail>> = recovered.iter().map(common).collect();
    Ok(found.into_iter().zip(tails).map(|(common, tail)| common.unwrap_or(tail)).collect())
}

fn primary_log(log: RecoveredLog, common: Tail) -> PrimaryLog {
    let RecoveredLog { tail, log, name, degrade, active, requests, newest, damage, .. } = log;
    let refusal = damage.map(|damage| Error::new(ErrorKind::Corrupt, damage.to_string()));
    PrimaryLog { log, name, degrade, tail, common, active, requests, newest, refusal }
}

fn remember_promotion(store: Arc<Store>) -> Box<dyn Fn(Epoch) -> Result<(), Error> + Send> {
    Box::new(move |epoch| {
        let catalogue = store.catalogue();
        let promoted = |site| catalogue.put_site(SiteState { epoch, promoted: true, ..site });
        catalogue.site().and_then(promoted).map_err(|error| Error::unavailable(error.to_string()))
    })
}

fn segment_bytes(settings: &Settings) -> u32 {
    u32::try_from(settings.storage.segment.as_u64()).unwrap_or(u32::MAX)
}

fn primary_core_config(settings: &Settings, site: SiteState) -> parhelion_mirror::PrimaryConfig {
    parhelion_mirror::PrimaryConfig {
        segment_bytes: segment_bytes(settings),
        link_buffer_bytes_max: usize::try_from(settings.link.buffer.as_u64()).unwrap_or(usize::MAX),
        deadline: settings.mirror.deadline,
        requests_max: settings.mirror.requests as usize,
        epoch: site.epoch,
        seen: site.seen,
        has_mirror: settings.node.duty == Duty::Primary,
    }
}

fn pricer(
    plugins: &Plugins,
    model: Arc<dyn DurabilityModel>,
    belief: &Mutex<Belief>,
) -> Result<Pricer, Failure> {
    let channels = belief.lock().unwrap_or_else(PoisonError::into_inner).channels.clone();
    // Nothing is sent before the link is up, and then it tells which code is in force.
    let none = plugins.code("none").map_err(Failure::new)?;
    let none = Code::new(none, &Parameters::new()).map_err(Failure::new)?;
    Ok(Pricer::new(model, none, channels))
}

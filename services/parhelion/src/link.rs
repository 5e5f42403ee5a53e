//! The link's actors: each runs one end of a link, or one end of the way to the link node of the site, on the link's
//! arbiter, and a new one when that panics.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::fut::WrapFuture;
use actix::{Actor, Addr, AsyncContext, Context, Supervised};
use parhelion_estimator::{EstimatorActor, InForce, PlannerActor, Telemetry};
use parhelion_gateway::{
    MirrorGateway, PrimaryGateway, RemoteMirrorLink, RemotePrimaryLink, SiteLinkConfig, SiteListener,
    SiteListenerConfig,
};
use parhelion_link_driver::{
    CodeLookup, LinkCommand, LinkEvent, LinkStats, LinkTelemetry, MirrorAddresses, MirrorCommand,
    MirrorConfig, MirrorDriver, MirrorEvent, MirrorSink, PrimaryConfig, PrimaryDriver, PrimarySink,
};
use parhelion_risk::ChannelCounts;
use parhelion_storage::{FromLink, FromMirrorLink, PendingBytes, Relink, StorageActor};
use tokio::sync::mpsc;

use crate::logs::OwnLogs;

/// What a storage actor hears when the driver beside it panicked.
const REBUILT: &str = "the link's driver failed and is being rebuilt";

/// Until the next attempt to start a driver.
const START_PAUSE: Duration = Duration::from_millis(200);

/// Figures of the driver that runs now.
pub type CurrentStats = Arc<Mutex<Arc<LinkStats>>>;

/// Who is at this site's end of the primary's driver.
pub enum PrimaryEnd {
    /// The one storage node is this node.
    Storage { storage: Addr<StorageActor>, estimator: Addr<EstimatorActor>, planner: Addr<PlannerActor> },
    /// The storage nodes of the site, through the gateway.
    Gateway(PrimaryGateway),
}

/// The link encoder: runs the primary's driver.
pub struct EncoderActor {
    pub config: PrimaryConfig,
    pub end: PrimaryEnd,
    pub stats: CurrentStats,
}

impl Actor for EncoderActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let (relink, queue, sink) = match &self.end {
            PrimaryEnd::Storage { storage, estimator, planner } => {
                let (commands, queue) = mpsc::unbounded_channel::<LinkCommand>();
                let sink = primary_sink(storage.clone(), estimator.clone(), Some(planner.clone()));
                (Some((storage, commands)), queue, sink)
            }
            PrimaryEnd::Gateway(gateway) => {
                let (queue, sink) = gateway.driver();
                (None, queue, sink)
            }
        };
        match PrimaryDriver::new(self.config.clone(), queue, sink) {
            Ok(driver) => {
                *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = driver.stats();
                if let Some((storage, commands)) = relink {
                    storage.do_send(Relink::Primary(commands));
                }
                ctx.spawn(driver.run().into_actor(self));
            }
            Err(error) => {
                tracing::error!(%error, "the link's driver cannot start");
                start_again(ctx);
            }
        }
    }
}

impl Supervised for EncoderActor {
    fn restarting(&mut self, _: &mut Context<Self>) {
        // What the old driver had in flight is gone; the next session starts from the mirror's marks. A gateway
        // tells its storage nodes by itself.
        if let PrimaryEnd::Storage { storage, .. } = &self.end {
            storage.do_send(FromLink(vec![LinkEvent::Down { reason: REBUILT.to_owned() }]));
        }
    }
}

/// The way from a storage actor of a primary to its site's link node.
pub struct PrimaryPortActor {
    pub config: SiteLinkConfig,
    pub codes: CodeLookup,
    pub own: OwnLogs,
    pub storage: Addr<StorageActor>,
    pub estimator: Addr<EstimatorActor>,
}

impl Actor for PrimaryPortActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let (commands, queue) = mpsc::unbounded_channel();
        let sink = primary_sink(self.storage.clone(), self.estimator.clone(), None);
        let (config, codes) = (self.config.clone(), self.codes.clone());
        match RemotePrimaryLink::new(config, codes, &self.own.numbers(), queue, sink) {
            Ok(link) => {
                self.storage.do_send(Relink::Primary(commands));
                ctx.spawn(link.run().into_actor(self));
            }
            Err(error) => {
                tracing::error!(%error, "the site's link node cannot be reached");
                start_again(ctx);
            }
        }
    }
}

impl Supervised for PrimaryPortActor {
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.storage.do_send(FromLink(vec![LinkEvent::Down { reason: REBUILT.to_owned() }]));
    }
}

/// Where events for a storage actor of a primary go, and telemetry for the estimator beside it; the planner is told of the
/// code.
pub fn primary_sink(
    storage: Addr<StorageActor>,
    estimator: Addr<EstimatorActor>,
    planner: Option<Addr<PlannerActor>>,
) -> Box<dyn PrimarySink> {
    Box::new(Sink { storage, estimator, planner })
}

struct Sink {
    storage: Addr<StorageActor>,
    estimator: Addr<EstimatorActor>,
    planner: Option<Addr<PlannerActor>>,
}

impl PrimarySink for Sink {
    fn events(&mut self, events: Vec<LinkEvent>) {
        if let Some(planner) = &self.planner {
            for event in &events {
                if let LinkEvent::Up { code, .. } | LinkEvent::CodeChanged(code) = event {
                    planner.do_send(InForce(code.clone()));
                }
            }
        }
        self.storage.do_send(FromLink(events));
    }

    fn telemetry(&mut self, telemetry: LinkTelemetry) {
        let LinkTelemetry { counts: c, session } = telemetry;
        let counts = ChannelCounts {
            settled: c.settled,
            lost: c.lost,
            n00: c.n00,
            n01: c.n01,
            n10: c.n10,
            n11: c.n11,
            n101: c.n101,
            n111: c.n111,
        };
        self.estimator.do_send(Telemetry { session, counts });
    }
}

/// Who is at this site's end of the mirror's driver.
pub enum MirrorEnd {
    /// The one storage node is this node.
    Storage { storage: Addr<StorageActor>, pending: PendingBytes },
    /// The storage nodes of the site, through the gateway.
    Gateway(MirrorGateway),
}

/// The link decoder: runs the mirror's driver.
pub struct DecoderActor {
    pub config: MirrorConfig,
    pub end: MirrorEnd,
    pub stats: CurrentStats,
    /// Told once where the driver listens, or why it does not.
    pub bound: Option<Bound<MirrorAddresses>>,
}

impl Actor for DecoderActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let (relink, queue, sink) = match &self.end {
            MirrorEnd::Storage { storage, pending } => {
                let (commands, queue) = mpsc::unbounded_channel::<MirrorCommand>();
                (Some((storage, commands)), queue, mirror_sink(storage.clone(), pending.clone()))
            }
            MirrorEnd::Gateway(gateway) => {
                let (queue, sink) = gateway.driver();
                (None, queue, sink)
            }
        };
        let started = MirrorDriver::new(self.config.clone(), queue, sink)
            .and_then(|driver| driver.addresses().map(|addresses| (driver, addresses)));
        match started {
            Ok((driver, addresses)) => {
                // A driver that is rebuilt must listen where its peer expects it.
                self.config.listen_critical = addresses.critical;
                self.config.listen_bulk = addresses.bulk;
                self.config.listen_tcp = addresses.tcp;
                *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = driver.stats();
                if let Some((storage, commands)) = relink {
                    storage.do_send(Relink::Mirror(commands));
                }
                tell(&mut self.bound, Ok(addresses));
                ctx.spawn(driver.run().into_actor(self));
            }
            Err(error) => {
                tracing::error!(%error, "the link's driver cannot start");
                if !tell(&mut self.bound, Err(error.to_string())) {
                    start_again(ctx);
                }
            }
        }
    }
}

impl Supervised for DecoderActor {
    fn restarting(&mut self, _: &mut Context<Self>) {
        if let MirrorEnd::Storage { storage, .. } = &self.end {
            storage.do_send(FromMirrorLink(vec![MirrorEvent::Down { reason: REBUILT.to_owned() }]));
        }
    }
}

/// The way from a storage actor of a mirror to its site's link node.
pub struct MirrorPortActor {
    pub config: SiteLinkConfig,
    pub storage: Addr<StorageActor>,
    pub pending: PendingBytes,
}

impl Actor for MirrorPortActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let (commands, queue) = mpsc::unbounded_channel();
        let sink = mirror_sink(self.storage.clone(), self.pending.clone());
        match RemoteMirrorLink::new(self.config.clone(), queue, sink) {
            Ok(link) => {
                self.storage.do_send(Relink::Mirror(commands));
                ctx.spawn(link.run().into_actor(self));
            }
            Err(error) => {
                tracing::error!(%error, "the site's link node cannot be reached");
                start_again(ctx);
            }
        }
    }
}

impl Supervised for MirrorPortActor {
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.storage.do_send(FromMirrorLink(vec![MirrorEvent::Down { reason: REBUILT.to_owned() }]));
    }
}

/// The link node's door for the storage nodes of its site.
pub struct SiteDoorActor {
    pub config: SiteListenerConfig,
    pub primary: Option<PrimaryGateway>,
    pub mirror: Option<MirrorGateway>,
    /// Told once where it listens, or why it does not.
    pub bound: Option<Bound<SocketAddr>>,
}

impl Actor for SiteDoorActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        match SiteListener::bind(self.config.clone(), self.primary.clone(), self.mirror.clone()) {
            Ok(listener) => {
                self.config.listen = listener.address();
                tell(&mut self.bound, Ok(listener.address()));
                ctx.spawn(listener.run().into_actor(self));
            }
            Err(error) => {
                tracing::error!(%error, "the storage nodes of the site cannot be served");
                if !tell(&mut self.bound, Err(error.to_string())) {
                    start_again(ctx);
                }
            }
        }
    }
}

impl Supervised for SiteDoorActor {}

/// Told whether something listens.
pub type Bound<T> = std::sync::mpsc::Sender<Result<T, String>>;

/// Tells whoever waits; whether anybody did, as only at the node's start.
fn tell<T>(bound: &mut Option<Bound<T>>, result: Result<T, String>) -> bool {
    let waiting = bound.take();
    // Nobody waits any more if the node has failed to start.
    waiting.map(|bound| drop(bound.send(result))).is_some()
}

/// Tries a start again that has failed. The addresses of a driver that panicked are free a moment after it is
/// gone, when its tasks are.
fn start_again<A: Actor<Context = Context<A>>>(ctx: &mut Context<A>) {
    ctx.run_later(START_PAUSE, |actor, ctx| actor.started(ctx));
}

/// Where events for a storage actor of a mirror go.
pub fn mirror_sink(storage: Addr<StorageActor>, pending: PendingBytes) -> Box<dyn MirrorSink> {
    Box::new(MirrorLinkSink { storage, pending })
}

struct MirrorLinkSink {
    storage: Addr<StorageActor>,
    pending: PendingBytes,
}

impl MirrorSink for MirrorLinkSink {
    fn events(&mut self, events: Vec<MirrorEvent>) {
        let bytes = |event: &MirrorEvent| match event {
            MirrorEvent::Records(records) => records.iter().map(|record| record.len()).sum(),
            _ => 0,
        };
        let delivered: usize = events.iter().map(bytes).sum();
        self.pending.delivered(delivered);
        self.storage.do_send(FromMirrorLink(events));
    }

    fn pending_bytes(&self) -> usize {
        self.pending.get()
    }
}

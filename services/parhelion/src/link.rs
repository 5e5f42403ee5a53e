//! The link's actors: each runs one driver on its own arbiter, and a new one when that panics.

use std::sync::{Arc, Mutex};

use actix::fut::WrapFuture;
use actix::{Actor, Addr, AsyncContext, Context, Supervised};
use parhelion_estimator::{EstimatorActor, Telemetry};
use parhelion_link_driver::{
    LinkCommand, LinkEvent, LinkStats, LinkTelemetry, MirrorAddresses, MirrorCommand, MirrorConfig,
    MirrorDriver, MirrorEvent, MirrorSink, PrimaryConfig, PrimaryDriver, PrimarySink,
};
use parhelion_risk::ChannelCounts;
use parhelion_storage::{FromLink, FromMirrorLink, PendingBytes, Relink, StorageActor};
use tokio::sync::mpsc;

/// Figures of the driver that runs now.
pub type CurrentStats = Arc<Mutex<Arc<LinkStats>>>;

/// The link encoder: runs the primary's driver.
pub struct EncoderActor {
    pub config: PrimaryConfig,
    pub storage: Addr<StorageActor>,
    pub estimator: Addr<EstimatorActor>,
    pub stats: CurrentStats,
}

impl Actor for EncoderActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let (commands, queue) = mpsc::unbounded_channel::<LinkCommand>();
        let sink = Sink { storage: self.storage.clone(), estimator: self.estimator.clone() };
        match PrimaryDriver::new(self.config.clone(), queue, Box::new(sink)) {
            Ok(driver) => {
                *self.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = driver.stats();
                self.storage.do_send(Relink::Primary(commands));
                ctx.spawn(driver.run().into_actor(self));
            }
            Err(error) => tracing::error!(%error, "the link's driver cannot start"),
        }
    }
}

impl Supervised for EncoderActor {
    fn restarting(&mut self, _: &mut Context<Self>) {
        // What the old driver had in flight is gone; the next session starts from the mirror's marks.
        let reason = "the link's driver failed and is being rebuilt".to_owned();
        self.storage.do_send(FromLink(vec![LinkEvent::Down { reason }]));
    }
}

struct Sink {
    storage: Addr<StorageActor>,
    estimator: Addr<EstimatorActor>,
}

impl PrimarySink for Sink {
    fn events(&mut self, events: Vec<LinkEvent>) {
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

/// The link decoder: runs the mirror's driver.
pub struct DecoderActor {
    pub config: MirrorConfig,
    pub storage: Addr<StorageActor>,
    pub stats: CurrentStats,
    /// Told once where the driver listens, or why it does not.
    pub bound: Option<std::sync::mpsc::Sender<Result<MirrorAddresses, String>>>,
    pub pending: PendingBytes,
}

impl Actor for DecoderActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let (commands, queue) = mpsc::unbounded_channel::<MirrorCommand>();
        let sink = MirrorLinkSink { storage: self.storage.clone(), pending: self.pending.clone() };
        let started = MirrorDriver::new(self.config.clone(), queue, Box::new(sink))
            .and_then(|driver| driver.addresses().map(|addresses| (driver, addresses)));
        match started {
            Ok((driver, addresses)) => {
                // A driver that is rebuilt must listen where its peer expects it.
                self.config.listen_critical = addresses.critical;
                self.config.listen_bulk = addresses.bulk;
                self.config.listen_tcp = addresses.tcp;
                *self.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = driver.stats();
                self.storage.do_send(Relink::Mirror(commands));
                if let Some(bound) = self.bound.take() {
                    let _ = bound.send(Ok(addresses));
                }
                ctx.spawn(driver.run().into_actor(self));
            }
            Err(error) => {
                tracing::error!(%error, "the link's driver cannot start");
                if let Some(bound) = self.bound.take() {
                    let _ = bound.send(Err(error.to_string()));
                }
            }
        }
    }
}

impl Supervised for DecoderActor {
    fn restarting(&mut self, _: &mut Context<Self>) {
        let reason = "the link's driver failed and is being rebuilt".to_owned();
        self.storage.do_send(FromMirrorLink(vec![MirrorEvent::Down { reason }]));
    }
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

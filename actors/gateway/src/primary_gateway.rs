//! The gateway of a primary site: one driver, several storage nodes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use parhelion_link_driver::{LinkCommand, LinkEvent, LinkTelemetry, PrimarySink};
use parhelion_types::{Error, ErrorKind, LogId, NodeId};
use tokio::sync::{mpsc, oneshot};

use crate::port::{Place, PortId};
use crate::primary_routing::PrimaryRouting;

/// Joins the storage nodes of a primary site to the site's one link driver. Clones are the same gateway.
///
/// A storage actor of the same process joins with [`PrimaryGateway::attach`]; others come over the network
/// through a [`SiteListener`](crate::SiteListener). Every join while the link is up renews its session.
#[derive(Clone, Default)]
pub struct PrimaryGateway {
    hub: Arc<Mutex<Hub>>,
}

/// What all ports and the driver share. Locked for moments: sinks do not block.
#[derive(Default)]
struct Hub {
    routing: PrimaryRouting,
    slots: BTreeMap<PortId, Slot>,
    driver: Option<mpsc::UnboundedSender<LinkCommand>>,
    /// Counts drivers; only the newest is listened to.
    driver_number: u64,
}

struct Slot {
    sink: Box<dyn PrimarySink>,
    /// Tells the port's task why the gateway has put the port out.
    gone: Option<oneshot::Sender<Error>>,
}

/// A storage node's hold on its port. Dropping it leaves.
pub(crate) struct PrimaryPort {
    hub: Arc<Mutex<Hub>>,
    id: PortId,
    gone: oneshot::Receiver<Error>,
}

/// Where a storage node's commands go.
pub(crate) struct PrimaryCommands {
    hub: Arc<Mutex<Hub>>,
    id: PortId,
}

/// Commands taken from a storage actor in one go.
const COMMANDS_PER_WAKE: usize = 256;

impl PrimaryGateway {
    /// A gateway without driver and storage nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A gateway of a site with these storage nodes. Once all of them have joined, they are told of logs that the
    /// mirror has and the site has lost, so that no other log gets the number of one.
    pub fn expecting(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let hub = Hub { routing: PrimaryRouting::expecting(nodes), ..Hub::default() };
        Self { hub: Arc::new(Mutex::new(hub)) }
    }

    /// What a link driver is built from: its commands, and the sink for its events.
    ///
    /// A driver that is rebuilt after a fault asks again. The ports are told that the link is down, the
    /// earlier driver's queue closes, so that it ends, and what it still says is ignored.
    pub fn driver(&self) -> (mpsc::UnboundedReceiver<LinkCommand>, Box<dyn PrimarySink>) {
        let (commands, queue) = mpsc::unbounded_channel();
        let mut hub = lock(&self.hub);
        if hub.driver.replace(commands).is_some() {
            let reason = "the link's driver failed and is being rebuilt".to_owned();
            hub.deliver(vec![LinkEvent::Down { reason }]);
        }
        hub.driver_number += 1;
        (queue, Box::new(DriverSink { hub: self.hub.clone(), number: hub.driver_number }))
    }

    /// Joins a storage actor of this process, with the logs that it has. Its commands go down the channel that is
    /// returned; [`LinkCommand::Close`] detaches it and leaves the link up. Call it in a tokio runtime, which
    /// carries a small task for the port.
    ///
    /// # Errors
    /// Another node has one of the logs, or this node's number.
    pub fn attach(
        &self,
        node: NodeId,
        logs: &[LogId],
        sink: Box<dyn PrimarySink>,
    ) -> Result<mpsc::UnboundedSender<LinkCommand>, Error> {
        let port = self.join(node, Place::Local, logs, sink)?;
        let (commands, queue) = mpsc::unbounded_channel();
        tokio::spawn(forward(port, queue));
        Ok(commands)
    }

    /// The storage nodes that have joined, in order.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        lock(&self.hub).routing.nodes()
    }

    /// Has the driver send what is queued, close the session and end.
    pub fn close(&self) {
        lock(&self.hub).command(LinkCommand::Close);
    }

    /// Joins a storage node, which hears through `sink`.
    pub(crate) fn join(
        &self,
        node: NodeId,
        place: Place,
        logs: &[LogId],
        sink: Box<dyn PrimarySink>,
    ) -> Result<PrimaryPort, Error> {
        let mut hub = lock(&self.hub);
        let joined = hub.routing.join(node, place, logs)?;
        if let Some(replaced) = joined.replaced {
            hub.put_out(replaced, superseded(node));
        }
        let (tell, gone) = oneshot::channel();
        hub.slots.insert(joined.port, Slot { sink, gone: Some(tell) });
        tracing::info!(%node, %place, logs = logs.len(), "storage node joined the gateway");
        if let Some(reason) = joined.renew {
            hub.command(LinkCommand::Renew { reason });
        }
        Ok(PrimaryPort { hub: self.hub.clone(), id: joined.port, gone })
    }
}

impl Hub {
    fn command(&self, command: LinkCommand) {
        if let Some(driver) = &self.driver {
            // A driver that ended is about to be rebuilt, or the node is stopping: nobody waits for it.
            let _ = driver.send(command);
        }
    }

    fn deliver(&mut self, events: Vec<LinkEvent>) {
        for (port, events) in self.routing.events(events) {
            if let Some(slot) = self.slots.get_mut(&port) {
                slot.sink.events(events);
            }
        }
    }

    /// Puts a port out, and says why: to its storage actor and to its task.
    fn put_out(&mut self, port: PortId, error: Error) {
        self.routing.leave(port);
        if let Some(mut slot) = self.slots.remove(&port) {
            tracing::warn!(%error, "storage node put out");
            slot.sink.events(vec![LinkEvent::Down { reason: error.message().to_owned() }]);
            if let Some(gone) = slot.gone.take() {
                // Its task may have ended on its own.
                let _ = gone.send(error);
            }
        }
    }
}

impl PrimaryPort {
    /// Where the storage node's commands go.
    pub(crate) fn commands(&self) -> PrimaryCommands {
        PrimaryCommands { hub: self.hub.clone(), id: self.id }
    }

    /// Waits until the gateway puts the port out; the reason. Dropping the future loses nothing.
    pub(crate) async fn gone(&mut self) -> Error {
        (&mut self.gone).await.unwrap_or_else(|_| Error::internal("the gateway forgot the port; report this"))
    }

    /// Leaves, and tells the storage actor so, as a driver does.
    fn close(self) {
        let slot = lock(&self.hub).slots.remove(&self.id);
        if let Some(mut slot) = slot {
            slot.sink.events(vec![LinkEvent::Down { reason: "closed, as told".to_owned() }]);
        }
    }
}

impl PrimaryCommands {
    /// Takes a command of the storage node. `session` counts the sessions it was told of, where it says which
    /// one it means.
    pub(crate) fn command(&self, session: Option<u64>, command: LinkCommand) {
        let mut hub = lock(&self.hub);
        match hub.routing.command(self.id, session, command) {
            Ok(Some(command)) => hub.command(command),
            Ok(None) => {}
            Err(error) => hub.put_out(self.id, error),
        }
    }
}

impl Drop for PrimaryPort {
    fn drop(&mut self) {
        let mut hub = lock(&self.hub);
        hub.routing.leave(self.id);
        hub.slots.remove(&self.id);
    }
}

struct DriverSink {
    hub: Arc<Mutex<Hub>>,
    number: u64,
}

impl PrimarySink for DriverSink {
    fn events(&mut self, events: Vec<LinkEvent>) {
        let mut hub = lock(&self.hub);
        if hub.driver_number == self.number {
            hub.deliver(events);
        }
    }

    fn telemetry(&mut self, telemetry: LinkTelemetry) {
        let mut hub = lock(&self.hub);
        if hub.driver_number == self.number {
            let Hub { routing, slots, .. } = &mut *hub;
            for port in routing.in_session() {
                if let Some(slot) = slots.get_mut(&port) {
                    slot.sink.telemetry(telemetry);
                }
            }
        }
    }
}

/// Carries the commands of a storage actor in this process.
async fn forward(mut port: PrimaryPort, mut queue: mpsc::UnboundedReceiver<LinkCommand>) {
    let commands = port.commands();
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            // The queue closes with this task, which the storage actor notices.
            _ = port.gone() => return,
            count = queue.recv_many(&mut batch, COMMANDS_PER_WAKE) => {
                let is_over = count == 0;
                for command in batch.drain(..) {
                    if matches!(command, LinkCommand::Close) {
                        return port.close();
                    }
                    commands.command(None, command);
                }
                if is_over {
                    return port.close();
                }
            }
        }
    }
}

/// Why an older connection of a node ends.
pub(crate) fn superseded(node: NodeId) -> Error {
    Error::new(
        ErrorKind::Closed,
        format!(
            "a newer connection of storage node {node} took its place; if this node is still there, two nodes have \
             the same number"
        ),
    )
}

fn lock<T>(hub: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked held no half-made change: routing changes in single steps.
    hub.lock().unwrap_or_else(PoisonError::into_inner)
}

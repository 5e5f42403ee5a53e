//! The gateway of a mirror site: one driver, several storage nodes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use parhelion_link_driver::{MirrorCommand, MirrorEvent, MirrorSink};
use parhelion_types::{Error, NodeId, SiteId};
use parhelion_wire::link::LogMarkV1;
use tokio::sync::{mpsc, oneshot};

use crate::answers::{Answer, Asked, Said, Sayings};
use crate::mirror_routing::{Left, MirrorRouting};
use crate::port::{Place, PortId};
use crate::primary_gateway::superseded;

/// Joins the storage nodes of a mirror site to the site's one link driver. Clones are the same gateway.
///
/// A session with the primary begins only when all expected storage nodes have joined, and ends when one
/// leaves; the primary tries again by itself.
#[derive(Clone)]
pub struct MirrorGateway {
    hub: Arc<Mutex<Hub>>,
}

/// What all ports and the driver share. Locked for moments: sinks do not block.
struct Hub {
    routing: MirrorRouting,
    slots: BTreeMap<PortId, Slot>,
    driver: Option<mpsc::UnboundedSender<MirrorCommand>>,
    /// Counts drivers; only the newest is listened to.
    driver_number: u64,
    /// The driver that waits for the answer to a hello.
    welcome: Option<oneshot::Sender<Answer>>,
}

struct Slot {
    sink: Box<dyn MirrorSink>,
    asked: mpsc::UnboundedSender<Asked>,
    /// Tells the port's task why the gateway has put the port out.
    gone: Option<oneshot::Sender<Error>>,
}

impl MirrorGateway {
    /// A gateway for these storage nodes: all that have logs of the site.
    #[must_use]
    pub fn new(expected: impl IntoIterator<Item = NodeId>) -> Self {
        let hub = Hub {
            routing: MirrorRouting::new(expected),
            slots: BTreeMap::new(),
            driver: None,
            driver_number: 0,
            welcome: None,
        };
        Self { hub: Arc::new(Mutex::new(hub)) }
    }

    /// What a link driver is built from: its commands, and the sink for its events.
    ///
    /// A driver that is rebuilt after a fault asks again. The ports are told that the link is down, the
    /// earlier driver's queue closes, so that it ends, and what it still says is ignored.
    pub fn driver(&self) -> (mpsc::UnboundedReceiver<MirrorCommand>, Box<dyn MirrorSink>) {
        let (commands, queue) = mpsc::unbounded_channel();
        let mut hub = lock(&self.hub);
        if hub.driver.replace(commands).is_some() {
            let reason = "the link's driver failed and is being rebuilt".to_owned();
            hub.deliver(vec![MirrorEvent::Down { reason }]);
        }
        hub.driver_number += 1;
        (queue, Box::new(DriverSink { hub: self.hub.clone(), number: hub.driver_number }))
    }

    /// Joins a storage actor of this process. Its commands go down the channel that is returned;
    /// [`MirrorCommand::Close`] detaches it. Call it in a tokio runtime, which carries a small task for the port.
    ///
    /// # Errors
    /// The node is not expected, or another one has its number.
    pub fn attach(
        &self,
        node: NodeId,
        sink: Box<dyn MirrorSink>,
    ) -> Result<mpsc::UnboundedSender<MirrorCommand>, Error> {
        self.join(node, Place::Local, sink).map(|(commands, _)| commands)
    }

    /// The storage nodes that have joined, in order.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        lock(&self.hub).routing.nodes()
    }

    /// Expected storage nodes that have not joined, in order: without them no session begins.
    #[must_use]
    pub fn missing(&self) -> Vec<NodeId> {
        lock(&self.hub).routing.missing()
    }

    /// Has the driver end the session and itself.
    pub fn close(&self) {
        lock(&self.hub).command(MirrorCommand::Close);
    }

    /// Joins a storage node, which hears through `sink`: where its commands go, and why it was put out, if it is.
    /// The node leaves when its last sender of commands is dropped.
    pub(crate) fn join(
        &self,
        node: NodeId,
        place: Place,
        sink: Box<dyn MirrorSink>,
    ) -> Result<(mpsc::UnboundedSender<MirrorCommand>, oneshot::Receiver<Error>), Error> {
        let mut hub = lock(&self.hub);
        let joined = hub.routing.join(node, place)?;
        if let Some((replaced, left)) = joined.replaced {
            hub.put_out(replaced, superseded(node));
            hub.follow(left);
        }
        let (commands, sayings, asked) = Sayings::new();
        let (tell, gone) = oneshot::channel();
        let (tell_task, task_gone) = oneshot::channel();
        hub.slots.insert(joined.port, Slot { sink, asked, gone: Some(tell_task) });
        tracing::info!(%node, %place, missing = hub.routing.missing().len(), "storage node joined the gateway");
        tokio::spawn(forward(Port { hub: self.hub.clone(), id: joined.port }, sayings, task_gone, tell));
        Ok((commands, gone))
    }
}

impl Hub {
    fn command(&self, command: MirrorCommand) {
        if let Some(driver) = &self.driver {
            // A driver that ended is about to be rebuilt, or the node is stopping: nobody waits for it.
            let _ = driver.send(command);
        }
    }

    fn deliver(&mut self, events: Vec<MirrorEvent>) {
        let mut split: BTreeMap<PortId, Vec<MirrorEvent>> = BTreeMap::new();
        let mut add = |port, event| split.entry(port).or_default().push(event);
        for event in events {
            match event {
                MirrorEvent::Hello { site, session, marks } => {
                    for (port, event) in self.hello(site, session, marks) {
                        add(port, event);
                    }
                }
                MirrorEvent::Announced(announcements) => {
                    for (port, announcements) in self.routing.announced(announcements) {
                        add(port, MirrorEvent::Announced(announcements));
                    }
                }
                MirrorEvent::Rewind(tails) => {
                    for (port, tails) in self.routing.rewind(tails) {
                        add(port, MirrorEvent::Rewind(tails));
                    }
                }
                MirrorEvent::Records(records) => {
                    let (records, malformed) = self.routing.records(records);
                    if malformed > 0 {
                        tracing::error!(
                            malformed,
                            "the primary sent what are no records; update the older site"
                        );
                    }
                    for (port, records) in records {
                        add(port, MirrorEvent::Records(records));
                    }
                }
                MirrorEvent::Down { reason } => {
                    self.routing.end();
                    self.welcome = None;
                    for port in self.routing.ports() {
                        add(port, MirrorEvent::Down { reason: reason.clone() });
                    }
                }
            }
        }
        for (port, events) in split {
            if let Some(slot) = self.slots.get_mut(&port) {
                slot.sink.events(events);
            }
        }
    }

    /// Asks every port where its logs end, or refuses the session.
    fn hello(
        &mut self,
        site: SiteId,
        session: u64,
        welcome: oneshot::Sender<Answer>,
    ) -> Vec<(PortId, MirrorEvent)> {
        let hello = match self.routing.hello() {
            Ok(hello) => hello,
            Err(error) => {
                // A driver that no longer waits has dropped the session.
                let _ = welcome.send(Err(error));
                return Vec::new();
            }
        };
        self.welcome = Some(welcome);
        let mut events = Vec::with_capacity(hello.ports.len());
        for port in hello.ports {
            let (marks, answer) = oneshot::channel();
            if let Some(slot) = self.slots.get(&port) {
                // Before the storage actor hears of it: its task must know of the question when marks come.
                let _ = slot.asked.send(Asked { number: hello.number, answer });
            }
            events.push((port, MirrorEvent::Hello { site, session, marks }));
        }
        events
    }

    fn answer(&mut self, port: PortId, number: u64, answer: Answer) {
        if let Some(decided) = self.routing.answer(port, number, answer)
            && let Some(welcome) = self.welcome.take()
        {
            let _ = welcome.send(decided);
        }
    }

    fn marks(&mut self, port: PortId, marks: Vec<LogMarkV1>) {
        let marks = self.routing.marks(port, marks);
        if !marks.is_empty() {
            self.command(MirrorCommand::Marks(marks));
        }
    }

    /// Does what follows from a port's leaving.
    fn follow(&mut self, left: Left) {
        match left {
            Left::Nothing => {}
            Left::Refuse(error) => {
                if let Some(welcome) = self.welcome.take() {
                    let _ = welcome.send(Err(error));
                }
            }
            Left::EndSession(reason) => self.command(MirrorCommand::EndSession { reason }),
        }
    }

    /// Puts a port out that the routing has left already, and says why.
    fn put_out(&mut self, port: PortId, error: Error) {
        if let Some(mut slot) = self.slots.remove(&port) {
            tracing::warn!(%error, "storage node put out");
            slot.sink.events(vec![MirrorEvent::Down { reason: error.message().to_owned() }]);
            if let Some(gone) = slot.gone.take() {
                // Its task may have ended on its own.
                let _ = gone.send(error);
            }
        }
    }
}

/// A storage node's hold on its port. Dropping it leaves.
struct Port {
    hub: Arc<Mutex<Hub>>,
    id: PortId,
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut hub = lock(&self.hub);
        let left = hub.routing.leave(self.id);
        hub.follow(left);
        if let Some(mut slot) = hub.slots.remove(&self.id) {
            slot.sink.events(vec![MirrorEvent::Down { reason: "closed, as told".to_owned() }]);
        }
    }
}

struct DriverSink {
    hub: Arc<Mutex<Hub>>,
    number: u64,
}

impl MirrorSink for DriverSink {
    fn events(&mut self, events: Vec<MirrorEvent>) {
        let mut hub = lock(&self.hub);
        if hub.driver_number == self.number {
            hub.deliver(events);
        }
    }

    fn pending_bytes(&self) -> usize {
        let hub = lock(&self.hub);
        hub.slots.values().map(|slot| slot.sink.pending_bytes()).sum()
    }
}

/// Carries what a storage node says: answers and marks, in the order in which it said them.
async fn forward(
    port: Port,
    mut sayings: Sayings,
    put_out: oneshot::Receiver<Error>,
    tell: oneshot::Sender<Error>,
) {
    let mut put_out = std::pin::pin!(put_out);
    loop {
        let said = tokio::select! {
            biased;
            error = &mut put_out => {
                if let Ok(error) = error {
                    // The connection may have ended by itself.
                    let _ = tell.send(error);
                }
                return;
            }
            said = sayings.next() => said,
        };
        match said {
            Said::Answer { number, answer } => lock(&port.hub).answer(port.id, number, answer),
            Said::Command(MirrorCommand::Marks(marks)) => lock(&port.hub).marks(port.id, marks),
            // The link belongs to the site, not to one storage node.
            Said::Command(MirrorCommand::EndSession { .. }) => {}
            Said::Command(MirrorCommand::Close) | Said::Over => return,
        }
    }
}

fn lock<T>(hub: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked held no half-made change: routing changes in single steps.
    hub.lock().unwrap_or_else(PoisonError::into_inner)
}

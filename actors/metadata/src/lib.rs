//! The metadata server: chooses number and storage node of new logs, and knows their names.
//!
//! A shell around [`Directory`]. It stores nothing: which logs exist is what the storage nodes say, so it is told
//! all of them when it starts, and again whenever it may have missed one.

use std::collections::BTreeMap;

use actix::{Actor, Context, Handler, Message, Supervised};
use parhelion_mirror::{Directory, DirectoryError};
use parhelion_types::{LogId, NodeId, RequestId};

/// A log that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownLog {
    /// The log.
    pub log: LogId,
    /// Its name.
    pub name: String,
    /// The request that created it, if it is known here.
    pub request: RequestId,
    /// The storage node that has it.
    pub node: NodeId,
}

/// All logs of the site, if this node knows them without asking others: what a panic takes from the actor.
pub type Known = Box<dyn Fn() -> Option<Vec<KnownLog>>>;

/// The actor.
pub struct MetadataActor {
    directory: Directory,
    /// The node of each log.
    placed: BTreeMap<LogId, NodeId>,
    /// Logs of each storage node of the site.
    load: BTreeMap<NodeId, usize>,
    /// The highest number that a log has or was to have.
    highest: Option<LogId>,
    is_complete: bool,
    known: Known,
}

/// Chooses number and node of a new log.
#[derive(Debug, Message)]
#[rtype(result = "Choice")]
pub struct CreateLog {
    /// The name.
    pub name: String,
    /// Makes a retry safe.
    pub request: RequestId,
}

/// What becomes of a [`CreateLog`].
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// The log is to be created there.
    New {
        /// Its number.
        log: LogId,
        /// The storage node with the fewest logs.
        node: NodeId,
    },
    /// This request has asked for the log before. Whether it is there, its storage node knows.
    Exists {
        /// The log.
        log: LogId,
        /// The storage node that has it, or was to have it.
        node: NodeId,
    },
    /// The name is another request's, or one's that is not known here: the creation record tells.
    Taken {
        /// The log.
        log: LogId,
        /// The storage node that has it.
        node: NodeId,
        /// What the client is to be told if it was another one.
        error: DirectoryError,
    },
    /// No log of that name can be created.
    Refused(DirectoryError),
    /// Not all logs are known here: send [`LearnAll`] first.
    Incomplete,
}

/// A log exists: it was created here, or its creation was applied here.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LearnLog(pub KnownLog);

/// These are all logs of the site.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LearnAll(pub Vec<KnownLog>);

/// A log could not be created, as far as is known here; its number is not used again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ForgetLog {
    /// Its name.
    pub name: String,
}

/// Logs may have appeared that are not known here: they must be learned before the next one is created.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Outdated;

impl MetadataActor {
    /// A metadata server of a site with these storage nodes.
    ///
    /// # Panics
    /// There are no storage nodes: settings are checked before.
    #[must_use]
    pub fn new(nodes: &[NodeId], known: Known) -> Self {
        assert!(!nodes.is_empty(), "a site has at least one storage node");
        let mut actor = Self {
            directory: Directory::default(),
            placed: BTreeMap::new(),
            load: nodes.iter().map(|&node| (node, 0)).collect(),
            highest: None,
            is_complete: false,
            known,
        };
        actor.rebuild();
        actor
    }

    fn rebuild(&mut self) {
        let known = (self.known)();
        self.is_complete = known.is_some();
        self.replace(known.unwrap_or_default());
    }

    /// Forgets all logs but these. Numbers that were given stay given: the creation that one of them was chosen
    /// for may still be on its way.
    fn replace(&mut self, logs: Vec<KnownLog>) {
        self.directory = Directory::default();
        self.placed.clear();
        self.load.values_mut().for_each(|logs| *logs = 0);
        if let Some(highest) = self.highest {
            self.directory.learn(highest, "", RequestId::NONE);
        }
        for log in logs {
            self.learn(log);
        }
    }

    fn learn(&mut self, KnownLog { log, name, request, node }: KnownLog) {
        self.directory.learn(log, &name, request);
        self.highest = self.highest.max(Some(log));
        if self.placed.insert(log, node).is_none() {
            *self.load.entry(node).or_default() += 1;
        }
    }

    fn create(&mut self, create: &CreateLog) -> Choice {
        match self.directory.create(&create.name, create.request) {
            Ok((log, false)) => match self.placed.get(&log) {
                Some(&node) => Choice::Exists { log, node },
                None => Choice::Incomplete,
            },
            Ok((log, true)) => {
                // The lowest number of those that have the fewest.
                let (&node, _) = self.load.iter().min_by_key(|(_, logs)| **logs).expect("there are nodes");
                self.learn(KnownLog { log, name: create.name.clone(), request: create.request, node });
                Choice::New { log, node }
            }
            Err(error) => match error {
                DirectoryError::Exists { log, .. } => match self.placed.get(&log) {
                    Some(&node) => Choice::Taken { log, node, error },
                    None => Choice::Refused(error),
                },
                _ => Choice::Refused(error),
            },
        }
    }
}

impl Actor for MetadataActor {
    type Context = Context<Self>;
}

impl Supervised for MetadataActor {
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.rebuild();
    }
}

impl Handler<CreateLog> for MetadataActor {
    type Result = actix::MessageResult<CreateLog>;

    fn handle(&mut self, create: CreateLog, _: &mut Context<Self>) -> Self::Result {
        let choice = if self.is_complete { self.create(&create) } else { Choice::Incomplete };
        actix::MessageResult(choice)
    }
}

impl Handler<LearnLog> for MetadataActor {
    type Result = ();

    fn handle(&mut self, LearnLog(log): LearnLog, _: &mut Context<Self>) {
        self.learn(log);
    }
}

impl Handler<LearnAll> for MetadataActor {
    type Result = ();

    fn handle(&mut self, LearnAll(logs): LearnAll, _: &mut Context<Self>) {
        self.replace(logs);
        self.is_complete = true;
    }
}

impl Handler<ForgetLog> for MetadataActor {
    type Result = ();

    fn handle(&mut self, forget: ForgetLog, _: &mut Context<Self>) {
        self.directory.forget(&forget.name);
    }
}

impl Handler<Outdated> for MetadataActor {
    type Result = ();

    fn handle(&mut self, _: Outdated, _: &mut Context<Self>) {
        self.is_complete = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(log: u32, name: &str, node: u16) -> KnownLog {
        KnownLog { log: LogId(log), name: name.to_owned(), request: RequestId(9), node: NodeId(node) }
    }

    fn create(actor: &mut MetadataActor, name: &str, request: u128) -> Choice {
        actor.create(&CreateLog { name: name.to_owned(), request: RequestId(request) })
    }

    fn new(log: u32, node: u16) -> Choice {
        Choice::New { log: LogId(log), node: NodeId(node) }
    }

    #[test]
    fn the_node_with_the_fewest_logs_is_chosen() {
        let mut actor = MetadataActor::new(&[NodeId(2), NodeId(3)], Box::new(|| Some(Vec::new())));
        assert_eq!(create(&mut actor, "a", 1), new(0, 2));
        assert_eq!(create(&mut actor, "b", 2), new(1, 3));
        assert_eq!(create(&mut actor, "c", 3), new(2, 2));
        assert_eq!(create(&mut actor, "c", 3), Choice::Exists { log: LogId(2), node: NodeId(2) });
        let taken = create(&mut actor, "b", 4);
        assert!(
            matches!(taken, Choice::Taken { log: LogId(1), node: NodeId(3), .. }),
            "its node knows who created it: {taken:?}"
        );
        assert!(matches!(create(&mut actor, "", 5), Choice::Refused(DirectoryError::Name(_))));

        actor.replace(vec![known(0, "a", 2), known(1, "b", 2), known(2, "c", 2)]);
        assert_eq!(create(&mut actor, "d", 6), new(3, 3));
    }

    #[test]
    fn a_number_that_was_given_is_never_given_again() {
        let mut actor = MetadataActor::new(&[NodeId(2)], Box::new(|| None));
        assert!(!actor.is_complete, "nobody has said which logs there are");
        actor.replace(vec![known(4, "old", 2)]);
        assert_eq!(create(&mut actor, "lost", 1), new(5, 2));
        for _ in 0..2 {
            // Its node did not answer, and does not have it yet.
            actor.replace(vec![known(4, "old", 2)]);
        }
        assert_eq!(create(&mut actor, "lost", 1), new(6, 2));
    }
}

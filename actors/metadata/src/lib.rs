//! The metadata server: chooses the numbers of new logs and knows their names.
//!
//! A shell around [`Directory`]. Its state is rebuilt from the creation records that the storage server
//! recovers, so a restart needs nothing from memory.

use actix::{Actor, Context, Handler, Message, Supervised};
use parhelion_mirror::Directory;
use parhelion_types::{Error, LogId, RequestId};

/// Logs that exist, as a factory of the actor's state after a panic.
pub type Known = Box<dyn Fn() -> Vec<(LogId, String, RequestId)>>;

/// The actor.
pub struct MetadataActor {
    directory: Directory,
    known: Known,
}

/// Chooses the number of a new log.
#[derive(Debug, Message)]
#[rtype(result = "Result<LogId, Error>")]
pub struct CreateLog {
    /// The name.
    pub name: String,
    /// Makes a retry safe.
    pub request: RequestId,
}

/// A log exists: the primary created it, or its creation was applied here.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LearnLog {
    /// The log.
    pub log: LogId,
    /// Its name.
    pub name: String,
    /// The request that created it.
    pub request: RequestId,
}

/// A log could not be created after all.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ForgetLog {
    /// Its name.
    pub name: String,
}

impl MetadataActor {
    /// A metadata server for the logs that `known` lists.
    #[must_use]
    pub fn new(known: Known) -> Self {
        let mut actor = Self { directory: Directory::default(), known };
        actor.rebuild();
        actor
    }

    fn rebuild(&mut self) {
        self.directory = Directory::default();
        for (log, name, request) in (self.known)() {
            self.directory.learn(log, &name, request);
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
    type Result = Result<LogId, Error>;

    fn handle(&mut self, create: CreateLog, _: &mut Context<Self>) -> Self::Result {
        let (log, _) = self.directory.create(&create.name, create.request)?;
        Ok(log)
    }
}

impl Handler<LearnLog> for MetadataActor {
    type Result = ();

    fn handle(&mut self, learn: LearnLog, _: &mut Context<Self>) {
        self.directory.learn(learn.log, &learn.name, learn.request);
    }
}

impl Handler<ForgetLog> for MetadataActor {
    type Result = ();

    fn handle(&mut self, forget: ForgetLog, _: &mut Context<Self>) {
        self.directory.forget(&forget.name);
    }
}

//! What front ends, the store, the link and the estimator say to the storage actor.

use actix::Message;
use parhelion_actor_runtime::Credit;
use parhelion_link_driver::{LinkCommand, LinkEvent, MirrorCommand, MirrorEvent};
use parhelion_mirror::{Acked, Backlog, Demand, LogStatus, Promotion, ReplicaLog};
use parhelion_plugin::Channel;
use parhelion_types::{AppendRequest, Degrade, Error, LogAddress, LogId, RequestId};
use tokio::sync::{mpsc, oneshot};

use crate::store::StoreEvent;

/// A question with the place for its answer.
pub type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// What front ends ask.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum Request {
    /// Creates a log under a number that the metadata server chose.
    Create {
        /// The number.
        log: LogId,
        /// The name.
        name: String,
        /// The policy.
        degrade: Degrade,
        /// Makes a retry safe.
        request: RequestId,
        /// Told when the creation is durable here.
        answer: Answer<LogId>,
    },
    /// Appends.
    Append {
        /// What is asked, checked by the front end.
        append: AppendRequest,
        /// What the append takes of the front ends' budget: its bytes and
        /// [`WAITING_APPEND_BYTES`](parhelion_types::limits::WAITING_APPEND_BYTES). The bytes are given back when the
        /// append is durable here, the rest with the answer, or when nobody waits for that.
        credit: Credit,
        /// Told when the append is as safe as asked. Closed by whoever waits no more: then what the waiting keeps is given
        /// back, and the append goes on.
        answer: Answer<Box<Acked>>,
    },
    /// Frees an append.
    Free {
        /// The log.
        log: LogId,
        /// The append's record number.
        number: u64,
        /// The append's address.
        address: LogAddress,
        /// Told when the freeing is durable here.
        answer: Answer<()>,
    },
    /// Asks whether an append was freed.
    IsFreed {
        /// The log.
        log: LogId,
        /// The append's record number.
        number: u64,
        /// Told at once.
        answer: oneshot::Sender<bool>,
    },
    /// Makes a mirror a primary.
    Promote {
        /// Only reports.
        dry_run: bool,
        /// Told what is missing; without a dry run when all that was applied is durable, what is missing too, and
        /// this site a primary.
        answer: Answer<Promotion>,
    },
    /// Changes the code of the live link.
    ChangeCode {
        /// Name of the code.
        name: String,
        /// Parameters as text.
        parameters: String,
        /// Packet times that a flush pauses from then on; as before if none are given.
        flush_pause: Option<u32>,
        /// Told when symbols flow under the new code, or what was wrong with the request. Dropped without a word if
        /// there is no link to a mirror.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Asks for the state of all logs.
    Status {
        /// Told at once.
        answer: oneshot::Sender<SiteStatus>,
    },
    /// Asks what a primary's clients ask for.
    Demand {
        /// Told at once; nothing by a mirror, or where nothing was asked lately.
        answer: oneshot::Sender<Option<Demand>>,
    },
    /// Ends the service: what was accepted is made durable first.
    Drain {
        /// Told when nothing waits for the disk any more.
        answer: oneshot::Sender<()>,
    },
}

/// What front ends asked at the same time.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Requests(pub Vec<Request>);

/// State of a site's logs.
#[derive(Clone, Debug)]
pub enum SiteStatus {
    /// At a primary, or at a site of its own.
    Primary {
        /// Whether a session with the mirror is up.
        linked: bool,
        /// Bytes sent and not confirmed.
        unconfirmed_bytes: usize,
        /// The code in force, with its version and parameters; the last one while no session is up.
        code: String,
        /// The logs.
        logs: Vec<LogStatus>,
    },
    /// At a mirror.
    Mirror {
        /// The logs.
        logs: Vec<ReplicaLog>,
    },
}

/// What the store reports.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromStore(pub StoreEvent);

/// Events of the link at a primary.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromLink(pub Vec<LinkEvent>);

/// Events of the link at a mirror.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromMirrorLink(pub Vec<MirrorEvent>);

/// A new driver serves the link: where its commands go from now on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum Relink {
    /// To a mirror.
    Primary(mpsc::UnboundedSender<LinkCommand>),
    /// From a primary.
    Mirror(mpsc::UnboundedSender<MirrorCommand>),
}

/// The estimator's beliefs changed.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct SetChannels(pub Vec<Channel>);

/// The durability model may have better answers than before.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct NewFigures;

/// What came of a read to feed the mirror.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct BacklogRead {
    pub log: LogId,
    pub session: u64,
    pub read: Backlog,
}

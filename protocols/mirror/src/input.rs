//! What goes into a primary and what comes out: inputs, effects, answers, events.

use std::time::Duration;

use bytes::Bytes;
use parhelion_log::{ActiveMap, KnownRequest, Record, Tail};
use parhelion_plugin::{Channel, Code, Exposure};
use parhelion_risk::Verdict;
use parhelion_types::{
    AppendRequest, Degrade, Durability, Epoch, Error, LogAddress, LogId, RecordKey, RequestId, SourceTime,
    Time,
};
use parhelion_wire::Announcement;
use parhelion_wire::link::{LogMarkV1, LogTailV1};

use crate::pending::Acked;

/// Names a request of a client until it is answered.
pub type Token = u64;

/// Settings of a primary.
#[derive(Clone, Debug)]
pub struct PrimaryConfig {
    /// Size of a segment file.
    pub segment_bytes: u32,
    /// Bytes that may be sent and not confirmed; above it a log is fed from its segments. Records that somebody waits for,
    /// with what their logs have before them, take at most three quarters of it, and so do all others.
    pub link_buffer_bytes_max: usize,
    /// Deadline of appends that bring none.
    pub deadline: Duration,
    /// Request ids remembered per log.
    pub requests_max: usize,
    /// Epoch of the site: new logs begin in it.
    pub epoch: Epoch,
    /// Whether the site has a mirror. Without one no append can reach more than the level `local`.
    pub has_mirror: bool,
    /// Highest epoch of the other site that was ever heard of. Above its own, this site writes no more.
    pub seen: Epoch,
}

/// An append, checked by the front end: not empty, not over the limit.
#[derive(Clone, Debug)]
pub struct Append {
    /// Whom to answer.
    pub token: Token,
    /// What is asked.
    pub asked: AppendRequest,
    /// The wall clock, for the record.
    pub time: SourceTime,
}

/// What may happen to a primary.
#[derive(Debug)]
pub enum Input {
    /// A client creates a log under a number that the metadata server chose.
    Create {
        /// Whom to answer.
        token: Token,
        /// The number.
        log: LogId,
        /// The name.
        name: String,
        /// The policy.
        degrade: Degrade,
        /// Makes a retry safe.
        request: RequestId,
        /// The wall clock, for the record.
        time: SourceTime,
    },
    /// A client appends.
    Append(Append),
    /// A client frees an append.
    Free {
        /// Whom to answer.
        token: Token,
        /// The log.
        log: LogId,
        /// The append's record number and address, as the store read them.
        freed: (u64, LogAddress),
        /// The wall clock, for the record.
        time: SourceTime,
    },
    /// All records of the log below `records` are durable here.
    Durable {
        /// The log.
        log: LogId,
        /// Count of durable records.
        records: u64,
    },
    /// The log can be written no more until the node restarts.
    WriteFailed {
        /// The log.
        log: LogId,
        /// Why.
        reason: String,
    },
    /// A session with the mirror began.
    LinkUp {
        /// The wall clock, for records of the site's epoch.
        time: SourceTime,
        /// Where each log ends there.
        marks: Vec<LogMarkV1>,
        /// The code in force.
        code: Code,
    },
    /// The session ended.
    LinkDown,
    /// Another code is in force.
    CodeChanged(Code),
    /// Announcements are on the wire.
    Announced(Vec<RecordKey>),
    /// Coverage rose.
    Coverage(Vec<Covered>),
    /// Logs advanced at the mirror.
    Mirrored(Vec<LogMarkV1>),
    /// The estimator believes that the channel is one of these.
    Channels(Vec<Channel>),
    /// The durability model may have better answers than before.
    Figures,
    /// The answer to [`Effect::ReadBacklog`].
    Backlog {
        /// The log.
        log: LogId,
        /// As in the effect: answers to questions of an earlier session are ignored.
        session: u64,
        /// What came of it.
        read: Backlog,
    },
    /// Nobody waits for the answers to these appends any more, and none is given. The appends themselves go on to the disk
    /// and to the mirror.
    GivenUp(Vec<Token>),
    /// [`Primary::poll_timeout`] has come.
    Timeout,
}

/// What came of a read of a log to feed the mirror.
#[derive(Debug)]
pub enum Backlog {
    /// Records in log order, of no more bytes than were asked for.
    Records(Vec<Record>),
    /// The first record alone has more bytes than were asked for: so many. None was read.
    Larger(usize),
    /// The log cannot be read now, and the same read may succeed later: why. It is tried again after a pause.
    Unavailable(String),
    /// What is stored is damaged: why. The log is read again in the next session.
    Damaged(String),
}

/// Coverage of one record.
#[derive(Clone, Copy, Debug)]
pub struct Covered {
    /// The record.
    pub key: RecordKey,
    /// Symbols and coverage.
    pub exposure: Exposure,
    /// Whether every symbol of it is on the wire.
    pub sent: bool,
    /// Whether its coverage is complete.
    pub complete: bool,
}

/// What the shell must do.
#[derive(Debug)]
pub enum Effect {
    /// Store the record. Writes of one log are in order and must stay so.
    Write {
        /// The record.
        record: Record,
        /// Whether it is the first of a new segment.
        opens_segment: bool,
    },
    /// Send the announcement on the critical lane.
    Announce {
        /// The record.
        key: RecordKey,
        /// Its forty bytes.
        announcement: Announcement,
    },
    /// Send the record on the bulk lane.
    Send {
        /// The record.
        key: RecordKey,
        /// Header and payload.
        record: Bytes,
        /// Whether an acknowledgement waits for its coverage.
        is_awaited: bool,
    },
    /// The other site was promoted under this epoch, and this one writes no more: remember it durably, and tell the
    /// operator.
    Fenced(Epoch),
    /// The mirror has been compared with these logs, and has no more than they had when this process began. Make that
    /// durable before anything else is done: from now on it may have what a crash takes from here.
    Reconciled(Vec<LogId>),
    /// Ask the mirror to cut these logs back to where they end here. It ends the session afterwards.
    Rewind(Vec<LogTailV1>),
    /// Read durable records of a log and bring them as [`Input::Backlog`].
    ReadBacklog {
        /// The log.
        log: LogId,
        /// Where to start.
        from: LogAddress,
        /// Most bytes of records, which have room in the link's buffer from now on. A first record that alone has more is
        /// not to be read: [`Backlog::Larger`].
        bytes_max: usize,
        /// To be given back.
        session: u64,
    },
    /// Answer a client. Comes once for each token, unless its client gave up first.
    Reply {
        /// Whom.
        token: Token,
        /// What.
        reply: Result<Reply, Error>,
    },
    /// Tell the operator.
    Event(Event),
}

/// Answers.
#[derive(Debug)]
pub enum Reply {
    /// The log exists.
    Created(LogId),
    /// The append is as safe as was asked, or as the policy allows.
    Acked(Box<Acked>),
    /// The append is freed.
    Freed,
}

/// What an operator should know. One log line each, logged by the shell.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// More appends were lost beyond repair than the model promised, and risks are multiplied by a factor from now on; or
    /// the record speaks for the model again, and the factor is 1.
    Judged(Verdict),
    /// A deadline passed and the policy is to wait on.
    Overdue {
        /// The record.
        key: RecordKey,
        /// The level it waits for.
        asked: Durability,
    },
    /// An append was acknowledged below the level asked.
    Degraded {
        /// The record.
        key: RecordKey,
        /// The level asked.
        asked: Durability,
    },
    /// The link's buffer is full: the log feeds the mirror from its segments from now on.
    Spilled {
        /// The log.
        log: LogId,
    },
    /// The mirror has all of the log again and is fed live.
    CaughtUp {
        /// The log.
        log: LogId,
    },
    /// The mirror has records that this site lost in a crash before anybody was told of them: it is asked
    /// to cut them off.
    Ahead {
        /// The log.
        log: LogId,
        /// Records there.
        mirror: u64,
        /// Records here.
        here: u64,
    },
    /// The mirror holds more of the log than can have been in flight when this site died: this site was
    /// set back, and the mirror must not follow.
    Diverged {
        /// The log.
        log: LogId,
        /// Records there.
        mirror: u64,
        /// Records here.
        here: u64,
    },
    /// The mirror cannot take the log: it is damaged there, or cannot be written. Its status says why. No
    /// other log suffers.
    Refused {
        /// The log.
        log: LogId,
    },
    /// The mirror has a log that this site never had, or lost. Its number is not given to another.
    Unknown {
        /// The log.
        log: LogId,
    },
    /// The log cannot be read to feed the mirror.
    BacklogFailed {
        /// The log.
        log: LogId,
        /// Why.
        reason: String,
        /// After which pause it is tried again; in the next session if none is given.
        pause: Option<Duration>,
    },
}

/// A log as the store recovered or created it.
#[derive(Debug)]
pub struct PrimaryLog {
    /// The log.
    pub log: LogId,
    /// Its name.
    pub name: String,
    /// Its policy.
    pub degrade: Degrade,
    /// Its durable end.
    pub tail: Tail,
    /// Its end when a process first began with it since the mirror was last compared with it: what the mirror has
    /// beyond that came from a process that lost it. A mirror has no use for it.
    pub common: Tail,
    /// Which appends are freed.
    pub active: ActiveMap,
    /// Requests to remember.
    pub requests: Vec<KnownRequest>,
    /// When its newest record was accepted; zero where no record was looked at.
    pub newest: SourceTime,
    /// Why it takes no records: it is damaged behind its tail, or cannot be written. What is whole is served
    /// and mirrored all the same.
    pub refusal: Option<Error>,
}

/// State of a log for people.
#[derive(Clone, Debug)]
pub struct LogStatus {
    /// The log.
    pub log: LogId,
    /// Its name.
    pub name: String,
    /// Its policy.
    pub degrade: Degrade,
    /// Its epoch.
    pub epoch: u32,
    /// Records appended.
    pub records: u64,
    /// Records durable here.
    pub durable: u64,
    /// Records durable at the mirror, as far as known.
    pub mirrored: u64,
    /// End of the log.
    pub end: LogAddress,
    /// Bytes that the mirror lacks, headers and unused segment ends included.
    pub lag_bytes: u64,
    /// When the oldest record that the mirror lacks was accepted, if this process did. Not wall time, which
    /// may be set back.
    pub oldest_unmirrored: Option<Time>,
    /// Appends that wait for their acknowledgement.
    pub waiting: usize,
    /// Appends freed.
    pub freed: u64,
    /// `off`, `live`, `catching up`, `unreadable` while reads fail and are tried again, or `refused` by the mirror.
    pub feed: &'static str,
    /// Why it takes no records, if it does not.
    pub refusal: Option<Error>,
    /// The epoch under which the other site was promoted, if it was: then this site mirrors the log to nobody, and it
    /// lags behind nobody.
    pub fenced_by: Option<u32>,
}

//! The storage actor: a shell around the primary's and the mirror's cores.

mod given_up;
mod promotion;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, SpawnHandle, Supervised, fut,
};
use parhelion_actor_runtime::{Clock, Credit};
use parhelion_link_driver::{LinkCommand, LinkEvent, MirrorCommand, MirrorEvent};
use parhelion_mirror::{
    Acked, Append, Covered, Effect, Input, Primary, PrimaryConfig, PrimaryLog, Promotion, Replica,
    ReplicaEffect, ReplicaInput, Reply, Token,
};
use parhelion_observability::{AppendOutcome, AppendTracer, Metrics, RiskScope, TimeBase};
use parhelion_risk::Pricer;
use parhelion_types::limits::WAITING_APPEND_BYTES;
use parhelion_types::{
    AppendRequest, Durability, Epoch, Error, ErrorKind, LogId, RecordKey, RequestId, SiteId, Time,
};
use parhelion_wire::link::LogMarkV1;
use tokio::sync::{mpsc, oneshot};

use self::promotion::{Held, fencing_marks};
use crate::answers::{AnswerBatches, Answered};
use crate::catalogue::SiteState;
use crate::confirmation::Unconfirmed;
use crate::deferred::DeferredWrites;
use crate::events::{log_event, log_replica_event};
use crate::mirroring::{MirroringLatency, PendingBytes};
use crate::request::{
    Answer, BacklogRead, FromLink, FromMirrorLink, FromStore, NewFigures, Relink, Request, Requests,
    SetChannels, SiteStatus,
};
use crate::store::{Store, StoreEvent, WriteRequest};
use crate::trace::{AppendTraces, Asked, MirrorTraces};
use crate::unwritten::UnwrittenCredits;

/// What a storage actor is built from.
pub struct StorageConfig {
    /// The store of this site.
    pub store: Arc<Store>,
    /// The process's clocks.
    pub clock: Arc<Clock>,
    /// Settings of the primary's core; a mirror uses them once it is promoted.
    pub primary: PrimaryConfig,
    /// Prices appends.
    pub pricer: Pricer,
    /// Appends above the level `local` that may wait for their answer at once; more are refused as busy. Below the
    /// front ends' budget by so much that appends at the level `local` always have room beside them.
    pub waiting_max: usize,
    /// Metrics of the process.
    pub metrics: Metrics,
    /// Traces of the process.
    pub tracer: AppendTracer,
    /// At a mirror: what was delivered and is not durable.
    pub pending: PendingBytes,
    /// At a mirror: how long records were on their way.
    pub mirroring: MirroringLatency,
    /// Takes the answers of appends to the front ends.
    pub answers: AnswerBatches,
    /// Told of every log that appears, for the metadata server.
    pub learned: Box<dyn Fn(LogId, String, RequestId) + Send>,
    /// Makes a new epoch durable, and this site a primary; called before a promotion is answered.
    pub promote: Box<dyn Fn(Epoch) -> Result<(), Error> + Send>,
}

/// Which link the site has.
enum Link {
    None,
    Primary(mpsc::UnboundedSender<LinkCommand>),
    Mirror(mpsc::UnboundedSender<MirrorCommand>),
}

/// The actor. Its panic policy is to end the process: it holds promises that only a restart restores.
pub struct StorageActor {
    core: Core,
    link: Link,
    config: StorageConfig,
    next_token: Token,
    waiting: HashMap<Token, Waiting>,
    /// How many of them are appends above the level `local`.
    waiting_for_mirror: usize,
    unwritten: UnwrittenCredits,
    unconfirmed: Unconfirmed,
    /// The append that the core is looking at: answered at once with an error, nothing of it was stored.
    arriving: Option<Token>,
    traces: AppendTraces,
    mirror_traces: MirrorTraces,
    /// The timer that is set, and for when.
    timer: Option<(SpawnHandle, Time)>,
    draining: Option<oneshot::Sender<()>>,
    /// Logs of a mirror that are being cut back on disk.
    rewinding: HashMap<LogId, u32>,
    /// Records that are on their way to the disk, by log: how many it will have then.
    writes_pending: HashMap<LogId, u64>,
    /// Who waits for both at a mirror.
    held: Held,
    /// The way to the store.
    writes: DeferredWrites,
    /// What the messages that came together have led to: to be handed on together.
    gathered: Gathered,
}

/// Writes and answers that wait for the end of the mailbox. The store's thread and the front ends' are woken once
/// for all of them, and the first write does not get a sync of its own while others are on their way.
#[derive(Default)]
struct Gathered {
    writes: Vec<WriteRequest>,
    answers: Vec<Answered>,
    /// Whether the end of the mailbox will be noticed.
    is_watched: bool,
}

/// Writes or answers that wait for the end of the mailbox at most.
const GATHERED_MAX: usize = 64;

enum Core {
    Primary(Box<Primary>),
    Mirror(Replica),
}

enum Waiting {
    Create {
        answer: Answer<LogId>,
        name: String,
        request: RequestId,
    },
    /// The credit is for the waiting alone: that of the bytes goes with their record.
    Append {
        answer: Answer<Box<Acked>>,
        asked: Asked,
        _credit: Credit,
    },
    Free(Answer<()>),
    Promote(Answer<Promotion>),
    Welcome(oneshot::Sender<Result<Vec<LogMarkV1>, Error>>),
}

impl StorageActor {
    /// A primary, or a site of its own: the difference is whether a driver ever serves its link.
    #[must_use]
    pub fn primary(config: StorageConfig, logs: Vec<PrimaryLog>) -> Self {
        let core = Primary::new(config.primary.clone(), config.pricer.clone(), logs);
        Self::new(Core::Primary(Box::new(core)), config)
    }

    /// A mirror.
    #[must_use]
    pub fn mirror(config: StorageConfig, site: SiteId, epoch: Epoch, logs: Vec<PrimaryLog>) -> Self {
        Self::new(Core::Mirror(Replica::new(site, epoch, logs)), config)
    }

    fn new(core: Core, config: StorageConfig) -> Self {
        let base = TimeBase::new(config.clock.now(), std::time::SystemTime::now());
        Self {
            core,
            link: Link::None,
            next_token: 1,
            waiting: HashMap::new(),
            waiting_for_mirror: 0,
            unwritten: UnwrittenCredits::default(),
            unconfirmed: Unconfirmed::default(),
            arriving: None,
            traces: AppendTraces::new(config.tracer.clone(), base),
            mirror_traces: MirrorTraces::new(config.tracer.clone()),
            timer: None,
            draining: None,
            rewinding: HashMap::new(),
            writes_pending: HashMap::new(),
            held: Held::default(),
            writes: DeferredWrites::new(config.store.clone()),
            gathered: Gathered::default(),
            config,
        }
    }

    fn token(&mut self, waiting: Waiting) -> Token {
        let token = self.next_token;
        self.next_token += 1;
        self.waiting.insert(token, waiting);
        token
    }

    /// Hands an input to the primary's core and carries out what follows. Returns the record that it has written, if
    /// it has: of those that a client asks for, no input writes two.
    fn step(&mut self, input: Input, ctx: &mut Context<Self>) -> Option<RecordKey> {
        let Core::Primary(primary) = &mut self.core else { return None };
        let mut effects = Vec::new();
        primary.step(self.config.clock.now(), input, &mut effects);
        let (record, metrics) = (primary.track_record().all(), &self.config.metrics);
        metrics.risk_factor.set(primary.risk_factor());
        metrics.losses_promised.set(record.promised);
        metrics.losses_beyond_repair.follow(record.failed);
        let mut written = None;
        for effect in effects {
            if let Effect::Write { record, .. } = &effect {
                written = Some(record.header.key());
            }
            self.carry_out(effect, ctx);
        }
        self.gather(ctx);
        self.arm(ctx);
        written
    }

    fn append(
        &mut self,
        append: AppendRequest,
        mut credit: Credit,
        answer: Answer<Box<Acked>>,
        ctx: &mut Context<Self>,
    ) {
        let AppendRequest { log, durability, max_risk, .. } = append;
        let asked = Asked { bytes: append.payload.len() as u64, durability, max_risk };
        if asked.waits_for_mirror() {
            if self.waiting_for_mirror >= self.config.waiting_max {
                self.config.metrics.append(durability, AppendOutcome::Refused, asked.bytes, Duration::ZERO);
                // Whoever asked may have gone.
                let _ = answer.send(Err(self.too_many_wait(log, durability)));
                return;
            }
            self.waiting_for_mirror += 1;
        }
        let bytes_credit = credit.take_beyond(WAITING_APPEND_BYTES);
        let token = self.token(Waiting::Append { answer, asked, _credit: credit });
        let trace = self.traces.begin(token, append.trace);
        let time = self.config.clock.wall();
        let append = Append { token, asked: AppendRequest { trace, ..append }, time };
        self.arriving = Some(token);
        let written = self.step(Input::Append(append), ctx);
        self.arriving = None;
        // What wrote no record was refused or is stored already, and has freed its bytes.
        if let Some(record) = written {
            self.unwritten.hold(record, bytes_credit);
        }
    }

    fn too_many_wait(&self, log: LogId, durability: Durability) -> Error {
        let waiting = self.waiting_for_mirror;
        Error::new(
            ErrorKind::Busy,
            format!(
                "append to log {log}: {waiting} appends wait for the mirror, and no more are taken above the level \
                 local; this attempt stored nothing. Retry at level {durability} when the mirror answers, or append at local"
            ),
        )
    }

    /// Sees to it that what was gathered is handed on, when the mailbox is empty or there is enough.
    fn gather(&mut self, ctx: &mut Context<Self>) {
        let Gathered { writes, answers, is_watched } = &mut self.gathered;
        match writes.len().max(answers.len()) {
            0 => {}
            GATHERED_MAX.. => self.hand_on(),
            // A context looks at its futures when it has emptied its mailbox.
            _ if !*is_watched => {
                *is_watched = true;
                ctx.spawn(fut::ready(()).map(|(), actor: &mut Self, _| {
                    actor.gathered.is_watched = false;
                    actor.hand_on();
                }));
            }
            _ => {}
        }
    }

    fn hand_on(&mut self) {
        self.hand_on_writes();
        if !self.gathered.answers.is_empty() {
            self.config.answers.send(std::mem::take(&mut self.gathered.answers));
        }
    }

    fn hand_on_writes(&mut self) {
        for request in std::mem::take(&mut self.gathered.writes) {
            self.write(request);
        }
    }

    fn step_mirror(&mut self, input: ReplicaInput) {
        let Core::Mirror(replica) = &mut self.core else { return };
        let mut effects = Vec::new();
        replica.step(input, &mut effects);
        for effect in effects {
            self.carry_out_mirror(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Write { record, opens_segment } => {
                self.gathered.writes.push(WriteRequest { record, opens_segment });
            }
            Effect::Announce { key, announcement } => {
                self.to_link(LinkCommand::Announce { key, announcement })
            }
            Effect::Send { key, record, is_awaited } => {
                self.to_link(LinkCommand::Send { key, record, is_awaited });
            }
            Effect::Fenced(epoch) => self.fenced(epoch),
            Effect::Reconciled(logs) => {
                // Were it remembered on, the next process could cut back what the mirror is about to get.
                let forgotten = self.config.store.catalogue().forget_commons(&logs);
                forgotten.expect("a node whose catalogue cannot be written does not go on");
            }
            Effect::Rewind(logs) => self.to_link(LinkCommand::Rewind(logs)),
            Effect::ReadBacklog { log, from, bytes_max, session } => {
                let store = self.config.store.clone();
                let address = ctx.address();
                tokio::task::spawn_blocking(move || {
                    let read = store.read_backlog(log, from, bytes_max);
                    // A lifecycle message: one per read, and reads are one at a time per log.
                    address.do_send(BacklogRead { log, session, read });
                });
            }
            Effect::Reply { token, reply } => self.reply(token, reply),
            Effect::Event(event) => log_event(&event),
        }
    }

    fn carry_out_mirror(&mut self, effect: ReplicaEffect) {
        match effect {
            ReplicaEffect::Write { record, opens_segment } => {
                let latency = self.config.clock.wall().0.saturating_sub(record.header.time.0);
                self.config.mirroring.record(latency);
                self.config.metrics.mirroring_latency.observe(latency as f64 / 1e6);
                self.mirror_traces.received(&record.header);
                self.write(WriteRequest { record, opens_segment });
            }
            ReplicaEffect::Rewind { log, tail } => {
                if let Err(error) = self.writes.rewind(log, tail) {
                    tracing::error!(%log, %error, "log could not be cut back");
                } else {
                    *self.rewinding.entry(log).or_default() += 1;
                    self.writes_pending.remove(&log);
                }
            }
            ReplicaEffect::Learned { log, name, request } => (self.config.learned)(log, name, request),
            ReplicaEffect::Welcome { token, marks } => {
                if let Some(Waiting::Welcome(answer)) = self.waiting.remove(&token) {
                    // A driver that is gone needs no answer.
                    let _ = answer.send(marks);
                }
            }
            ReplicaEffect::Marks(marks) => {
                if let Link::Mirror(commands) = &self.link {
                    let _ = commands.send(MirrorCommand::Marks(marks));
                }
            }
            ReplicaEffect::Promoted { token, promotion, dry_run } => self.promoted(token, promotion, dry_run),
            ReplicaEffect::Event(event) => log_replica_event(&event),
        }
    }

    /// The other site was promoted. It says so again in every session, but there may be none after a restart.
    fn fenced(&mut self, seen: Epoch) {
        tracing::error!(epoch = %seen, "the other site was promoted under a newer epoch; this site takes no more appends");
        let catalogue = self.config.store.catalogue();
        let remembered = catalogue
            .site()
            .and_then(|site| catalogue.put_site(SiteState { seen: seen.max(site.seen), ..site }));
        if let Err(error) = remembered {
            tracing::error!(%error, "this is not remembered: do not start the node again before it is");
        }
    }

    fn write(&mut self, request: WriteRequest) {
        let header = &request.record.header;
        self.writes_pending.insert(header.log, header.number + 1);
        self.writes.write(request);
    }

    /// Takes what comes over the link at a mirror.
    fn take_in(&mut self, event: MirrorEvent) {
        match event {
            MirrorEvent::Hello { site, session, marks } => {
                tracing::info!(%site, session, "primary asks for a session");
                if let Core::Primary(primary) = &self.core {
                    let _ = marks.send(fencing_marks(primary));
                    return;
                }
                let token = self.token(Waiting::Welcome(marks));
                self.held.hello(token);
                self.settle();
            }
            MirrorEvent::Rewind(logs) => self.step_mirror(ReplicaInput::Rewind(logs)),
            MirrorEvent::Announced(batch) => self.step_mirror(ReplicaInput::Announced(batch)),
            MirrorEvent::Records(records) => {
                let bytes = records.iter().map(bytes::Bytes::len).sum();
                self.step_mirror(ReplicaInput::Records(records));
                self.config.pending.taken(bytes, self.retained_bytes());
            }
            MirrorEvent::Down { reason } => tracing::warn!(%reason, "link from the primary is down"),
        }
    }

    fn to_link(&self, command: LinkCommand) {
        if let Link::Primary(commands) = &self.link {
            // A driver that is gone is being rebuilt; its next session starts with a catch-up.
            let _ = commands.send(command);
        }
    }

    /// Who waits under the token, and waits no more.
    fn take_waiting(&mut self, token: Token) -> Option<Waiting> {
        let waiting = self.waiting.remove(&token)?;
        if let Waiting::Append { asked, .. } = &waiting
            && asked.waits_for_mirror()
        {
            self.waiting_for_mirror -= 1;
        }
        Some(waiting)
    }

    fn reply(&mut self, token: Token, reply: Result<Reply, Error>) {
        let Some(waiting) = self.take_waiting(token) else { return };
        match (waiting, reply) {
            (Waiting::Create { answer, name, request }, Ok(Reply::Created(log))) => {
                (self.config.learned)(log, name, request);
                drop(answer.send(Ok(log)));
            }
            (Waiting::Free(answer), Ok(Reply::Freed)) => drop(answer.send(Ok(()))),
            (Waiting::Append { answer, asked, .. }, Ok(Reply::Acked(acked))) => {
                let outcome = match (acked.degraded, acked.duplicate) {
                    (true, _) => AppendOutcome::Degraded,
                    (_, true) => AppendOutcome::Duplicate,
                    _ => AppendOutcome::Acknowledged,
                };
                let latency = acked.acknowledged.since(acked.accepted);
                self.config.metrics.append(asked.durability, outcome, asked.bytes, latency);
                self.config.metrics.risk_promised(RiskScope::Own, acked.own);
                self.config.metrics.risk_promised(RiskScope::Prefix, acked.prefix);
                self.traces.acknowledged(token, &acked, &asked);
                self.gathered.answers.push(Answered { to: answer, answer: Ok(acked) });
            }
            (Waiting::Create { answer, .. }, Err(error)) => drop(answer.send(Err(error))),
            (Waiting::Free(answer), Err(error)) => drop(answer.send(Err(error))),
            (Waiting::Append { answer, asked, .. }, Err(error)) => {
                let outcome = match self.arriving {
                    Some(arriving) if arriving == token => AppendOutcome::of_refusal(error.kind()),
                    _ => AppendOutcome::Failed,
                };
                self.config.metrics.append(asked.durability, outcome, asked.bytes, Duration::ZERO);
                self.traces.failed(token, &error);
                drop(answer.send(Err(error)));
            }
            (_, reply) => tracing::error!(token, ?reply, "answer of the wrong kind"),
        }
    }

    /// Counts how long confirmations took, by the marks that the mirror has sent.
    fn confirmed(&mut self, marks: &[LogMarkV1]) {
        let now = self.config.clock.now();
        for mark in marks {
            let log = LogId(mark.log);
            if mark.epoch > self.config.primary.epoch.0 {
                // Promoted: what it has now says nothing of what was sent to it.
                self.unconfirmed.forget(log);
            } else if !mark.is_refused() {
                let latency = &self.config.metrics.confirmation_latency;
                self.unconfirmed.confirmed(now, log, mark.records, |span| latency.observe_duration(span));
            }
        }
    }

    /// Keeps one timer, set to the core's next deadline.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let Core::Primary(primary) = &self.core else { return };
        let Some(at) = primary.poll_timeout() else { return };
        match self.timer {
            Some((_, set)) if set <= at => return,
            // An append that may wait for less than those before it.
            Some((timer, _)) => drop(ctx.cancel_future(timer)),
            None => {}
        }
        // Deadlines are seconds; checking them every few milliseconds at most keeps timers cheap.
        let wait = at.since(self.config.clock.now()).max(Duration::from_millis(5));
        let timer = ctx.run_later(wait, |actor, ctx| {
            actor.timer = None;
            actor.step(Input::Timeout, ctx);
        });
        self.timer = Some((timer, at));
    }

    fn durable(&mut self, log: LogId, records: u64) {
        self.unwritten.durable(log, records);
        if self.writes_pending.get(&log).is_some_and(|&pending| pending <= records) {
            self.writes_pending.remove(&log);
        }
        if self.writes_pending.is_empty()
            && let Some(answer) = self.draining.take()
        {
            // Whoever drains ends the service next.
            self.hand_on();
            let _ = answer.send(());
        }
    }

    /// Bytes of records that a mirror holds behind gaps or has on their way to the disk.
    fn retained_bytes(&self) -> usize {
        let held = match &self.core {
            Core::Primary(_) => 0,
            Core::Mirror(replica) => replica.held_bytes(),
        };
        held + self.writes.pending_bytes()
    }

    fn status(&self) -> SiteStatus {
        match &self.core {
            Core::Primary(primary) => SiteStatus::Primary {
                linked: primary.is_linked(),
                unconfirmed_bytes: primary.unconfirmed_bytes(),
                code: primary.code().to_owned(),
                logs: primary.logs().collect(),
            },
            Core::Mirror(replica) => SiteStatus::Mirror { logs: replica.logs().collect() },
        }
    }
}

impl Actor for StorageActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // A tripwire only: credits bound what is under way.
        ctx.set_mailbox_capacity(65_536);
        Self::watch_for_given_up(ctx);
    }
}

impl Supervised for StorageActor {
    fn restarting(&mut self, ctx: &mut Context<Self>) {
        // The policy for this actor is to end the process, so nobody should come here.
        tracing::error!("the storage actor cannot be rebuilt in place");
        ctx.terminate();
    }
}

impl Handler<Request> for StorageActor {
    type Result = ();

    fn handle(&mut self, request: Request, ctx: &mut Context<Self>) {
        let writable = matches!(self.core, Core::Primary(_)) && self.draining.is_none();
        let refusal = || match self.core {
            Core::Mirror(_) => Replica::refusal(),
            Core::Primary(_) => Error::new(
                ErrorKind::Closed,
                "this node is shutting down; retry at another node, with the same request id",
            ),
        };
        match request {
            Request::Create { answer, .. } if !writable => drop(answer.send(Err(refusal()))),
            Request::Append { append, answer, .. } if !writable => {
                let (level, bytes) = (append.durability, append.payload.len() as u64);
                self.config.metrics.append(level, AppendOutcome::Refused, bytes, Duration::ZERO);
                drop(answer.send(Err(refusal())));
            }
            Request::Free { answer, .. } if !writable => drop(answer.send(Err(refusal()))),
            Request::Create { log, name, degrade, request, answer } => {
                let token = self.token(Waiting::Create { answer, name: name.clone(), request });
                let time = self.config.clock.wall();
                self.step(Input::Create { token, log, name, degrade, request, time }, ctx);
            }
            Request::Append { append, credit, answer } => self.append(append, credit, answer, ctx),
            Request::Free { log, number, address, answer } => {
                let token = self.token(Waiting::Free(answer));
                let time = self.config.clock.wall();
                self.step(Input::Free { token, log, freed: (number, address), time }, ctx);
            }
            Request::IsFreed { log, number, answer } => {
                let freed = match &self.core {
                    Core::Primary(primary) => primary.is_freed(log, number),
                    Core::Mirror(replica) => replica.is_freed(log, number),
                };
                let _ = answer.send(freed);
            }
            Request::Promote { dry_run, answer } => self.promote(dry_run, answer),
            Request::ChangeCode { name, parameters, flush_pause, done } => {
                self.to_link(LinkCommand::ChangeCode { name, parameters, flush_pause, done });
            }
            Request::Status { answer } => drop(answer.send(self.status())),
            Request::Demand { answer } => {
                let demand = match &mut self.core {
                    Core::Primary(primary) => primary.demand(self.config.clock.now()),
                    Core::Mirror(_) => None,
                };
                let _ = answer.send(demand);
            }
            Request::Drain { answer } => {
                self.hand_on_writes();
                self.draining = Some(answer);
                self.durable(LogId(u32::MAX), 0);
            }
        }
    }
}

impl Handler<Requests> for StorageActor {
    type Result = ();

    fn handle(&mut self, Requests(requests): Requests, ctx: &mut Context<Self>) {
        for request in requests {
            Handler::<Request>::handle(self, request, ctx);
        }
    }
}

impl Handler<FromStore> for StorageActor {
    type Result = ();

    fn handle(&mut self, FromStore(event): FromStore, ctx: &mut Context<Self>) {
        match event {
            StoreEvent::Durable { logs, records, bytes, sync } => {
                self.config.metrics.group_commit_records.observe(records as f64);
                self.config.metrics.group_commit_bytes.observe(bytes as f64);
                self.config.metrics.fsync.observe_duration(sync);
                for durable in logs {
                    let (log, records, end) = (durable.log, durable.number + 1, durable.end);
                    if self.rewinding.contains_key(&log) {
                        // Of the history that is being cut off: nobody must vouch for it.
                        continue;
                    }
                    match self.core {
                        Core::Primary(_) => {
                            if matches!(self.link, Link::Primary(_)) {
                                self.unconfirmed.durable(self.config.clock.now(), log, records);
                            }
                            self.step(Input::Durable { log, records }, ctx);
                        }
                        Core::Mirror(_) => {
                            self.mirror_traces.durable(log, records);
                            self.step_mirror(ReplicaInput::Durable { log, records, end });
                        }
                    }
                    self.durable(log, records);
                }
            }
            StoreEvent::Discarded => {}
            StoreEvent::Rewound { log, active, .. } => {
                if let Some(count) = self.rewinding.get_mut(&log) {
                    *count -= 1;
                }
                self.rewinding.retain(|_, count| *count > 0);
                self.step_mirror(ReplicaInput::Rewound { log, active });
            }
            StoreEvent::Failed { log, reason } => {
                match self.core {
                    Core::Primary(_) => {
                        self.step(Input::WriteFailed { log, reason }, ctx);
                    }
                    Core::Mirror(_) => self.step_mirror(ReplicaInput::WriteFailed { log, reason }),
                }
                // Nothing of it is on its way to the disk any more: neither a drain nor a primary waits for it.
                self.writes.forget(log);
                self.rewinding.remove(&log);
                self.durable(log, u64::MAX);
            }
        }
        self.writes.hand_on();
        self.config.pending.retained(self.retained_bytes());
        self.settle();
    }
}

impl Handler<FromLink> for StorageActor {
    type Result = ();

    fn handle(&mut self, FromLink(events): FromLink, ctx: &mut Context<Self>) {
        for event in events {
            let input = match event {
                LinkEvent::Up { peer, marks, code } => {
                    tracing::info!(%peer, %code, logs = marks.len(), "link is up");
                    self.confirmed(&marks);
                    let time = self.config.clock.wall();
                    Input::LinkUp { time, marks, code }
                }
                LinkEvent::Down { reason } => {
                    tracing::warn!(%reason, "link is down");
                    Input::LinkDown
                }
                LinkEvent::CodeChanged(code) => Input::CodeChanged(code),
                LinkEvent::Announced(keys) => Input::Announced(keys),
                LinkEvent::Coverage(changes) => Input::Coverage(
                    changes
                        .into_iter()
                        .map(|c| Covered {
                            key: c.key,
                            exposure: c.exposure,
                            sent: c.sent,
                            complete: c.complete,
                        })
                        .collect(),
                ),
                LinkEvent::Mirrored(marks) => {
                    self.confirmed(&marks);
                    Input::Mirrored(marks)
                }
            };
            self.step(input, ctx);
        }
    }
}

impl Handler<Relink> for StorageActor {
    type Result = ();

    fn handle(&mut self, relink: Relink, _: &mut Context<Self>) {
        self.link = match relink {
            Relink::Primary(commands) => Link::Primary(commands),
            Relink::Mirror(commands) => Link::Mirror(commands),
        };
    }
}

impl Handler<FromMirrorLink> for StorageActor {
    type Result = ();

    fn handle(&mut self, FromMirrorLink(events): FromMirrorLink, _: &mut Context<Self>) {
        for event in events {
            if let Some(event) = self.held.pass(event) {
                self.take_in(event);
            }
        }
    }
}

impl Handler<SetChannels> for StorageActor {
    type Result = ();

    fn handle(&mut self, SetChannels(channels): SetChannels, ctx: &mut Context<Self>) {
        self.config.pricer.set_channels(channels.clone());
        self.step(Input::Channels(channels), ctx);
    }
}

impl Handler<NewFigures> for StorageActor {
    type Result = ();

    fn handle(&mut self, NewFigures: NewFigures, ctx: &mut Context<Self>) {
        self.step(Input::Figures, ctx);
    }
}

impl Handler<BacklogRead> for StorageActor {
    type Result = ();

    fn handle(&mut self, read: BacklogRead, ctx: &mut Context<Self>) {
        let BacklogRead { log, session, read } = read;
        self.step(Input::Backlog { log, session, read }, ctx);
    }
}

//! The storage actor: a shell around the primary's and the mirror's cores.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, SpawnHandle, Supervised, fut,
};
use parhelion_actor_runtime::{Clock, Credit};
use parhelion_link_driver::{LinkCommand, LinkEvent, MirrorCommand, MirrorEvent};
use parhelion_mirror::{
    Acked, Append, Covered, Effect, Event, Input, Primary, PrimaryConfig, PrimaryLog, Promotion, Replica,
    ReplicaEffect, ReplicaEvent, ReplicaInput, Reply, Token,
};
use parhelion_observability::{AppendOutcome, AppendTracer, Metrics, RiskScope, TimeBase};
use parhelion_risk::Pricer;
use parhelion_types::{Epoch, Error, LogId, RequestId, Time};
use parhelion_wire::link::LogMarkV1;
use tokio::sync::{mpsc, oneshot};

use crate::answers::{AnswerBatches, Answered};
use crate::deferred::DeferredWrites;
use crate::mirroring::{MirroringLatency, PendingBytes};
use crate::request::{
    Answer, BacklogRead, FromLink, FromMirrorLink, FromStore, Relink, Request, Requests, SetChannel,
    SiteStatus,
};
use crate::store::{Store, StoreEvent, WriteRequest};
use crate::trace::{AppendTraces, Asked, MirrorTraces};

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
    traces: AppendTraces,
    mirror_traces: MirrorTraces,
    /// The timer that is set, and for when.
    timer: Option<(SpawnHandle, Time)>,
    draining: Option<oneshot::Sender<()>>,
    /// Logs of a mirror that are being cut back on disk.
    rewinding: HashMap<LogId, u32>,
    /// Primaries that wait for that, and for what is on its way to the disk, before they are welcomed.
    held_hellos: Vec<Token>,
    writes_pending: HashMap<LogId, u64>,
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
    Create { answer: Answer<LogId>, name: String, request: RequestId },
    Append { answer: Answer<Box<Acked>>, asked: Asked, _credit: Credit },
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
    pub fn mirror(config: StorageConfig, epoch: Epoch, logs: Vec<PrimaryLog>) -> Self {
        Self::new(Core::Mirror(Replica::new(epoch, logs)), config)
    }

    fn new(core: Core, config: StorageConfig) -> Self {
        let base = TimeBase::new(config.clock.now(), std::time::SystemTime::now());
        Self {
            core,
            link: Link::None,
            next_token: 1,
            waiting: HashMap::new(),
            traces: AppendTraces::new(config.tracer.clone(), base),
            mirror_traces: MirrorTraces::new(config.tracer.clone()),
            timer: None,
            draining: None,
            rewinding: HashMap::new(),
            held_hellos: Vec::new(),
            writes_pending: HashMap::new(),
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

    fn step(&mut self, input: Input, ctx: &mut Context<Self>) {
        let Core::Primary(primary) = &mut self.core else { return };
        let mut effects = Vec::new();
        primary.step(self.config.clock.now(), input, &mut effects);
        for effect in effects {
            self.carry_out(effect, ctx);
        }
        self.gather(ctx);
        self.arm(ctx);
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
            Effect::Rewind(logs) => self.to_link(LinkCommand::Rewind(logs)),
            Effect::ReadBacklog { log, from, bytes_max, session } => {
                let store = self.config.store.clone();
                let address = ctx.address();
                tokio::task::spawn_blocking(move || {
                    let records = store.read_from(log, from, bytes_max).map_err(|error| error.to_string());
                    // A lifecycle message: one per read, and reads are one at a time per log.
                    address.do_send(BacklogRead { log, session, records });
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

    /// Becomes a primary without a link, under the new epoch.
    fn promoted(&mut self, token: Token, promotion: Promotion, dry_run: bool) {
        let Some(Waiting::Promote(answer)) = self.waiting.remove(&token) else { return };
        if dry_run {
            let _ = answer.send(Ok(promotion));
            return;
        }
        if let Err(error) = (self.config.promote)(promotion.epoch) {
            let _ = answer.send(Err(error));
            return;
        }
        // The driver goes on listening: the old primary must learn of the new epoch when it comes back.
        let epoch = promotion.epoch;
        self.config.primary.epoch = epoch;
        let primary = Primary::new(self.config.primary.clone(), self.config.pricer.clone(), Vec::new());
        let core = std::mem::replace(&mut self.core, Core::Primary(Box::new(primary)));
        if let Core::Mirror(replica) = core {
            let logs = replica.into_logs(epoch);
            for (log, refusal) in logs.iter().filter_map(|log| Some((log.log, log.refusal.as_ref()?))) {
                tracing::error!(%log, %refusal, "promoted with a log that takes no records");
            }
            tracing::warn!(%epoch, logs = logs.len(), missing = promotion.missing.len(), "promoted to primary");
            let primary = Primary::new(self.config.primary.clone(), self.config.pricer.clone(), logs);
            // A primary that lives, and has a session, hears of it now.
            if let (Link::Mirror(commands), Ok(marks)) = (&self.link, fencing_marks(&primary)) {
                let _ = commands.send(MirrorCommand::Marks(marks));
            }
            self.core = Core::Primary(Box::new(primary));
        }
        let _ = answer.send(Ok(promotion));
    }

    fn write(&mut self, request: WriteRequest) {
        let header = &request.record.header;
        self.writes_pending.insert(header.log, header.number + 1);
        self.writes.write(request);
    }

    /// Answers primaries that wait for a session, once this mirror's logs end where its disk says. Of a primary
    /// that died and comes back, records may still be on their way to the disk: it must hear of them, because
    /// it may have lost them.
    fn welcome_held(&mut self) {
        if self.rewinding.is_empty() && self.writes_pending.is_empty() {
            for token in std::mem::take(&mut self.held_hellos) {
                match &self.core {
                    Core::Mirror(_) => self.step_mirror(ReplicaInput::Hello { token }),
                    // Promoted while it waited.
                    Core::Primary(primary) => {
                        if let Some(Waiting::Welcome(marks)) = self.waiting.remove(&token) {
                            let _ = marks.send(fencing_marks(primary));
                        }
                    }
                }
            }
        }
    }

    fn to_link(&self, command: LinkCommand) {
        if let Link::Primary(commands) = &self.link {
            // A driver that is gone is being rebuilt; its next session starts with a catch-up.
            let _ = commands.send(command);
        }
    }

    fn reply(&mut self, token: Token, reply: Result<Reply, Error>) {
        let Some(waiting) = self.waiting.remove(&token) else { return };
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
                self.config.metrics.append(
                    asked.durability,
                    AppendOutcome::Failed,
                    asked.bytes,
                    Duration::ZERO,
                );
                self.traces.failed(token, &error);
                drop(answer.send(Err(error)));
            }
            (_, reply) => tracing::error!(token, ?reply, "answer of the wrong kind"),
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
                parhelion_types::ErrorKind::Closed,
                "this node is shutting down; retry at another node, with the same request id",
            ),
        };
        match request {
            Request::Create { answer, .. } if !writable => drop(answer.send(Err(refusal()))),
            Request::Append { answer, .. } if !writable => drop(answer.send(Err(refusal()))),
            Request::Free { answer, .. } if !writable => drop(answer.send(Err(refusal()))),
            Request::Create { log, name, degrade, request, answer } => {
                let token = self.token(Waiting::Create { answer, name: name.clone(), request });
                let time = self.config.clock.wall();
                self.step(Input::Create { token, log, name, degrade, request, time }, ctx);
            }
            Request::Append {
                log,
                payload,
                durability,
                max_risk,
                deadline,
                request,
                explain,
                trace,
                credit,
                answer,
            } => {
                let asked = Asked { bytes: payload.len() as u64, durability, max_risk };
                let token = self.token(Waiting::Append { answer, asked, _credit: credit });
                let trace = self.traces.begin(token, trace);
                let time = self.config.clock.wall();
                let append = Append {
                    token,
                    log,
                    payload,
                    durability,
                    max_risk,
                    deadline,
                    request,
                    explain,
                    trace,
                    time,
                };
                self.step(Input::Append(append), ctx);
            }
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
            Request::Promote { dry_run, answer } => match self.core {
                Core::Mirror(_) => {
                    let token = self.token(Waiting::Promote(answer));
                    self.step_mirror(ReplicaInput::Promote { token, dry_run });
                }
                Core::Primary(_) => {
                    let error =
                        Error::invalid("this site is a primary already; only a mirror can be promoted");
                    let _ = answer.send(Err(error));
                }
            },
            Request::ChangeCode { name, parameters, done } => {
                self.to_link(LinkCommand::ChangeCode { name, parameters, done });
            }
            Request::Status { answer } => drop(answer.send(self.status())),
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
                        Core::Primary(_) => self.step(Input::Durable { log, records }, ctx),
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
                    Core::Primary(_) => self.step(Input::WriteFailed { log, reason }, ctx),
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
        self.welcome_held();
    }
}

impl Handler<FromLink> for StorageActor {
    type Result = ();

    fn handle(&mut self, FromLink(events): FromLink, ctx: &mut Context<Self>) {
        for event in events {
            let input = match event {
                LinkEvent::Up { peer, marks, structure, code } => {
                    tracing::info!(%peer, %code, logs = marks.len(), "link is up");
                    Input::LinkUp { marks, structure, code }
                }
                LinkEvent::Down { reason } => {
                    tracing::warn!(%reason, "link is down");
                    Input::LinkDown
                }
                LinkEvent::CodeChanged { structure, code } => Input::CodeChanged { structure, code },
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
                LinkEvent::Mirrored(marks) => Input::Mirrored(marks),
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
            match event {
                MirrorEvent::Hello { site, session, marks } => {
                    tracing::info!(%site, session, "primary asks for a session");
                    if let Core::Primary(primary) = &self.core {
                        let _ = marks.send(fencing_marks(primary));
                        continue;
                    }
                    let token = self.token(Waiting::Welcome(marks));
                    self.held_hellos.push(token);
                    self.welcome_held();
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
    }
}

impl Handler<SetChannel> for StorageActor {
    type Result = ();

    fn handle(&mut self, SetChannel(channel): SetChannel, ctx: &mut Context<Self>) {
        self.config.pricer.set_channel(channel);
        self.step(Input::Channel(channel), ctx);
    }
}

impl Handler<BacklogRead> for StorageActor {
    type Result = ();

    fn handle(&mut self, read: BacklogRead, ctx: &mut Context<Self>) {
        let BacklogRead { log, session, records } = read;
        self.step(Input::Backlog { log, session, records }, ctx);
    }
}

/// What a promoted site tells its old primary: the marks of its logs under the epoch that fences it.
fn fencing_marks(primary: &Primary) -> Result<Vec<LogMarkV1>, Error> {
    let marks: Vec<LogMarkV1> = primary
        .logs()
        .map(|log| LogMarkV1 {
            log: log.log.0,
            epoch: log.epoch,
            records: log.durable,
            segment: log.end.segment.0,
            offset: log.end.offset,
        })
        .collect();
    if marks.is_empty() {
        let message = "this site was promoted and has no logs; the old primary must not write any more";
        return Err(Error::new(parhelion_types::ErrorKind::Fenced, message));
    }
    Ok(marks)
}

fn log_event(event: &Event) {
    match event {
        Event::Overdue { key, asked } => {
            let (log, number) = (key.log, key.number);
            tracing::warn!(%log, number, %asked, "append is overdue; its log's policy is to block");
        }
        Event::Degraded { key, asked } => {
            let (log, number) = (key.log, key.number);
            tracing::warn!(%log, number, %asked, "append was acknowledged below the level asked");
        }
        Event::Spilled { log } => {
            tracing::info!(%log, "link buffer is full; the mirror is fed from the log's segments");
        }
        Event::CaughtUp { log } => tracing::info!(%log, "the mirror has caught up"),
        Event::Fenced { log, epoch } => {
            tracing::error!(%log, epoch, "the other site has a newer epoch; this site takes no more appends");
        }
        Event::Ahead { log, mirror, here } => {
            tracing::warn!(%log, mirror, here, "the mirror has records that were lost here unacknowledged; cutting it back");
        }
        Event::Diverged { log, mirror, here } => {
            tracing::error!(%log, mirror, here, "the mirror holds more of the log than this site; not feeding it");
        }
        Event::Refused { log } => {
            tracing::error!(%log, "the mirror cannot take the log, its status says why; the others go on");
        }
        Event::Unknown { log } => {
            tracing::warn!(%log, "the mirror has a log that this site has not; its number is not used again");
        }
        Event::BacklogFailed { log, reason } => {
            tracing::error!(%log, %reason, "the log cannot be read to feed the mirror; trying in the next session");
        }
    }
}

fn log_replica_event(event: &ReplicaEvent) {
    match event {
        ReplicaEvent::Diverged { log, reason } => {
            tracing::error!(%log, %reason, "the primary's log is no continuation of the mirror's; not applying it");
        }
        ReplicaEvent::Rewound { log, from, to } => {
            tracing::warn!(%log, from, to, "the primary lost records in a crash; cutting the log back to what it has");
        }
        ReplicaEvent::Unlisted { log } => {
            tracing::warn!(%log, "more appends are announced and missing than can be listed; a promotion will count them all");
        }
        ReplicaEvent::Malformed { reason } => tracing::error!(%reason, "bytes from the link are no record"),
        ReplicaEvent::WriteFailed { log, reason } => {
            tracing::error!(%log, %reason, "the log cannot be written; restart the node when the disk is well");
        }
    }
}

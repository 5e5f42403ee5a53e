//! The mirror: applies each log in order, knows what it lacks, and can be promoted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use parhelion_log::{ActiveMap, CreatePayload, FreePayload, KnownRequest, Record, RecordKind, Tail};
use parhelion_types::{Degrade, Epoch, Error, ErrorKind, LogAddress, LogId, RequestId, SiteId, SourceTime};
use parhelion_wire::Announcement;
use parhelion_wire::link::{LogMarkV1, LogTailV1};

use crate::announced::{Announced, Kept};
use crate::input::{PrimaryLog, Token};

/// Request ids remembered per log, for the time after a promotion.
const REQUESTS_MAX: usize = 65_536;

/// What may happen to a mirror.
#[derive(Debug)]
pub enum ReplicaInput {
    /// A primary asks for a session.
    Hello {
        /// Whom to answer.
        token: Token,
    },
    /// Announcements arrived.
    Announced(Vec<Announcement>),
    /// Records arrived: whole, in any order.
    Records(Vec<Bytes>),
    /// All records of the log below `records` are durable here.
    Durable {
        /// The log.
        log: LogId,
        /// Count of durable records.
        records: u64,
        /// Address behind the last of them.
        end: LogAddress,
    },
    /// The log can be written no more until the node restarts.
    WriteFailed {
        /// The log.
        log: LogId,
        /// Why.
        reason: String,
    },
    /// The primary lost records in a crash that are here: cut them off.
    Rewind(Vec<LogTailV1>),
    /// The stored log was cut back, and this is what the store found then.
    Rewound {
        /// The log.
        log: LogId,
        /// Which appends are freed: those that a cut-off record freed are not.
        active: ActiveMap,
    },
    /// The operator promotes this site.
    Promote {
        /// Whom to answer.
        token: Token,
        /// Only reports what would happen.
        dry_run: bool,
    },
}

/// What the shell must do.
#[derive(Debug)]
pub enum ReplicaEffect {
    /// Store the record. Writes of one log are in order and must stay so.
    Write {
        /// The record.
        record: Record,
        /// Whether it is the first of a new segment.
        opens_segment: bool,
    },
    /// Cut the stored log back to this tail, and keep what is cut off aside. In order with the writes.
    Rewind {
        /// The log.
        log: LogId,
        /// Its new end.
        tail: Tail,
    },
    /// A log appeared.
    Learned {
        /// The log.
        log: LogId,
        /// Its name.
        name: String,
        /// The request that created it.
        request: RequestId,
    },
    /// Answer a primary: where each log ends here, or why not.
    Welcome {
        /// Whom.
        token: Token,
        /// The ends.
        marks: Result<Vec<LogMarkV1>, Error>,
    },
    /// Tell the primary that logs advanced.
    Marks(Vec<LogMarkV1>),
    /// Answer the operator. Without a dry run: make the epoch durable, answer, and become a primary with
    /// [`Replica::take_logs`].
    Promoted {
        /// Whom.
        token: Token,
        /// The finding.
        promotion: Promotion,
        /// Whether nothing was changed.
        dry_run: bool,
    },
    /// Tell the operator.
    Event(ReplicaEvent),
}

/// What an operator should know.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplicaEvent {
    /// A record that is no continuation of the log here: the sites hold different histories.
    Diverged {
        /// The log.
        log: LogId,
        /// What does not fit.
        reason: String,
    },
    /// The log was cut back at the primary's word.
    Rewound {
        /// The log.
        log: LogId,
        /// Records there were.
        from: u64,
        /// Records there are.
        to: u64,
    },
    /// More of the log's announcements came than are kept: a promotion will count all, and list the newest.
    Unlisted {
        /// The log.
        log: LogId,
    },
    /// Bytes that are no record, though the link vouched for them.
    Malformed {
        /// What is wrong with them.
        reason: String,
    },
    /// A log can be written no more.
    WriteFailed {
        /// The log.
        log: LogId,
        /// Why.
        reason: String,
    },
}

/// Why a log is not applied any more. The primary is told, by [`LogMarkV1::REFUSED`], and feeds the others.
#[derive(Clone, Debug)]
enum Refusal {
    /// The store found it so: behind the tail there may be more.
    Damaged(Error),
    /// The disk took a record no more; what is durable is whole.
    Unwritable(Error),
    /// The primary has another history. What is here is whole.
    Diverged(Error),
}

/// What promotion found.
#[derive(Clone, Debug)]
pub struct Promotion {
    /// The epoch that fences the old primary.
    pub epoch: Epoch,
    /// Logs here.
    pub logs: usize,
    /// Appends that were announced and cannot be shown, in log order.
    pub missing: Vec<Announcement>,
    /// How many more there are, older than those listed of their log: the list is bounded.
    pub unlisted: u64,
    /// Those of them that are here but lie behind a gap.
    pub behind_gap: Vec<Gap>,
}

/// A record that is here but lies behind a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// The log.
    pub log: LogId,
    /// The record's address.
    pub address: LogAddress,
}

/// State of a log at the mirror, for people.
#[derive(Clone, Debug)]
pub struct ReplicaLog {
    /// The log.
    pub log: LogId,
    /// Its name.
    pub name: String,
    /// Its policy.
    pub degrade: Degrade,
    /// Its epoch.
    pub epoch: u32,
    /// Records applied, in order.
    pub applied: u64,
    /// Records durable.
    pub durable: u64,
    /// End of what is applied.
    pub end: LogAddress,
    /// Records that arrived and wait behind a gap.
    pub held: usize,
    /// Appends announced and not applied.
    pub announced: usize,
    /// Acceptance time of the newest applied record.
    pub newest: SourceTime,
    /// Appends freed.
    pub freed: u64,
    /// Why it is not mirrored any more, if it is not.
    pub refusal: Option<Error>,
}

/// The core of a mirror's storage server.
#[derive(Debug)]
pub struct Replica {
    site: SiteId,
    epoch: Epoch,
    logs: BTreeMap<LogId, Log>,
    announced: Announced,
}

#[derive(Debug)]
struct Log {
    name: String,
    degrade: Degrade,
    tail: Tail,
    active: ActiveMap,
    requests: VecDeque<KnownRequest>,
    durable: u64,
    durable_end: LogAddress,
    newest: SourceTime,
    held: BTreeMap<u64, Record>,
    held_bytes: usize,
    refusal: Option<Refusal>,
}

impl Replica {
    /// The mirror of logs that the store recovered, at `site`. `epoch` is the highest that it has had or heard of.
    #[must_use]
    pub fn new(site: SiteId, epoch: Epoch, logs: Vec<PrimaryLog>) -> Self {
        let logs = logs.into_iter().map(|log| {
            let recovered = Log {
                name: log.name,
                degrade: log.degrade,
                durable: log.tail.next_number(),
                durable_end: log.tail.next_address(),
                tail: log.tail,
                active: log.active,
                requests: log.requests.into(),
                newest: log.newest,
                refusal: log.refusal.map(Refusal::Damaged),
                ..Log::empty(log.log)
            };
            (log.log, recovered)
        });
        Self { site, epoch, logs: logs.collect(), announced: Announced::default() }
    }

    /// State of every log, in order of their numbers.
    pub fn logs(&self) -> impl Iterator<Item = ReplicaLog> + '_ {
        self.logs.iter().map(|(&id, log)| ReplicaLog {
            log: id,
            name: log.name.clone(),
            degrade: log.degrade,
            epoch: log.tail.epoch().0,
            applied: log.tail.next_number(),
            durable: log.durable,
            end: log.tail.next_address(),
            held: log.held.len(),
            announced: self.announced.count(id),
            newest: log.newest,
            freed: log.active.freed(),
            refusal: log.refusal.as_ref().map(|refusal| refusal.error().clone()),
        })
    }

    /// Where each log ends. One that is damaged goes on behind that, and may be whole again tomorrow.
    #[must_use]
    pub fn tails(&self) -> Vec<Tail> {
        let is_whole = |log: &&Log| !matches!(log.refusal, Some(Refusal::Damaged(_)));
        self.logs.values().filter(is_whole).map(|log| log.tail).collect()
    }

    /// Bytes of records that wait behind gaps.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.logs.values().map(|log| log.held_bytes).sum()
    }

    /// Whether the append with that record number was freed.
    #[must_use]
    pub fn is_freed(&self, log: LogId, number: u64) -> bool {
        self.logs.get(&log).is_some_and(|log| log.active.is_freed(number))
    }

    /// The logs as a primary takes them over; this has none afterwards. What waits behind a gap is dropped.
    #[must_use]
    pub fn take_logs(&mut self) -> Vec<PrimaryLog> {
        let take_over = |(id, log): (LogId, Log)| PrimaryLog {
            log: id,
            name: log.name,
            degrade: log.degrade,
            common: log.tail,
            tail: log.tail,
            active: log.active,
            requests: log.requests.into(),
            newest: log.newest,
            refusal: match log.refusal {
                Some(Refusal::Damaged(error) | Refusal::Unwritable(error)) => Some(error),
                // What the old primary did afterwards is not part of the log that goes on here.
                Some(Refusal::Diverged(_)) | None => None,
            },
        };
        let logs = std::mem::take(&mut self.logs).into_iter();
        logs.filter(|(_, log)| log.exists()).map(take_over).collect()
    }

    /// Takes one input; appends what must be done, in order.
    pub fn step(&mut self, input: ReplicaInput, effects: &mut Vec<ReplicaEffect>) {
        match input {
            ReplicaInput::Hello { token } => {
                // Whoever asks sends again what is not durable here. What waited behind a gap may be from a
                // primary that died and came back with another history.
                for log in self.logs.values_mut() {
                    log.drop_held();
                }
                effects.push(ReplicaEffect::Welcome { token, marks: Ok(self.marks()) });
            }
            ReplicaInput::Announced(batch) => self.announced(batch, effects),
            ReplicaInput::Records(records) => {
                let mut touched = BTreeSet::new();
                for bytes in records {
                    match Record::parse(bytes) {
                        Ok(record) => {
                            touched.insert(record.header.log);
                            self.receive(record, effects);
                        }
                        Err(error) => effects.push(ReplicaEffect::Event(ReplicaEvent::Malformed {
                            reason: error.to_string(),
                        })),
                    }
                }
                for id in touched {
                    self.apply(id, effects);
                }
            }
            ReplicaInput::Durable { log, records, end } => self.durable(log, records, end, effects),
            ReplicaInput::WriteFailed { log, reason } => {
                if let Some(state) = self.logs.get_mut(&log) {
                    let error = Error::unavailable(format!(
                        "log {log} cannot be written: {reason}; it is not mirrored until this node is restarted \
                         with a disk that is well"
                    ));
                    state.refuse(log, Refusal::Unwritable(error), effects);
                }
                self.trim_announced(log, effects);
                effects.push(ReplicaEffect::Event(ReplicaEvent::WriteFailed { log, reason }));
            }
            ReplicaInput::Rewind(tails) => {
                for tail in tails {
                    self.rewind(&tail, effects);
                }
            }
            ReplicaInput::Rewound { log, active } => {
                if let Some(log) = self.logs.get_mut(&log) {
                    log.active = active;
                }
            }
            ReplicaInput::Promote { token, dry_run } => {
                let promotion = self.promotion();
                effects.push(ReplicaEffect::Promoted { token, promotion, dry_run });
            }
        }
    }

    fn marks(&self) -> Vec<LogMarkV1> {
        self.logs.iter().map(|(&id, log)| log.mark(id)).collect()
    }

    fn announced(&mut self, batch: Vec<Announcement>, effects: &mut Vec<ReplicaEffect>) {
        for announcement in batch {
            let id = announcement.log;
            let log = self.logs.get(&id);
            if log.is_some_and(|log| announcement.address < log.tail.next_address()) {
                continue;
            }
            let is_refused = log.is_some_and(|log| log.refusal.is_some());
            let overflowing = self.announced.insert(announcement, Kept::of(is_refused));
            effects.extend(overflowing.map(|log| ReplicaEffect::Event(ReplicaEvent::Unlisted { log })));
        }
    }

    /// Keeps fewer announcements of a log that is refused now.
    fn trim_announced(&mut self, id: LogId, effects: &mut Vec<ReplicaEffect>) {
        if self.logs.get(&id).is_some_and(|log| log.refusal.is_some()) && self.announced.trim(id) {
            effects.push(ReplicaEffect::Event(ReplicaEvent::Unlisted { log: id }));
        }
    }

    fn receive(&mut self, record: Record, effects: &mut Vec<ReplicaEffect>) {
        let id = record.header.log;
        let log = self.logs.entry(id).or_insert_with(|| Log::empty(id));
        if log.refusal.is_some() {
            // On its way before the primary heard of it. Kept, it would fill the memory of all logs.
            return;
        }
        if record.header.epoch < log.tail.epoch() {
            let (old, new) = (record.header.epoch, log.tail.epoch());
            let reason = format!("a record of epoch {old} came after epoch {new}: its primary is fenced");
            effects.push(ReplicaEffect::Event(ReplicaEvent::Diverged { log: id, reason }));
        } else if record.header.number >= log.tail.next_number() {
            log.held_bytes += record.header.record_bytes();
            if let Some(twin) = log.held.insert(record.header.number, record) {
                log.held_bytes -= twin.header.record_bytes();
            }
        }
    }

    /// Applies what has no gap before it.
    fn apply(&mut self, id: LogId, effects: &mut Vec<ReplicaEffect>) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        while log.refusal.is_none() {
            let next = log.tail.next_number();
            let Some(record) = log.held.remove(&next) else { break };
            log.held_bytes -= record.header.record_bytes();
            match log.tail.accept(&record.header) {
                Ok(opens_segment) => log.note(&record, effects, opens_segment),
                Err(misplaced) => {
                    let reason = misplaced.to_string();
                    let error = Error::new(
                        ErrorKind::Corrupt,
                        format!(
                            "the sites hold different histories of log {id}: {reason}; it is not mirrored. Find \
                             out which site is right; `parhelion mirror verify` compares them"
                        ),
                    );
                    log.refuse(id, Refusal::Diverged(error), effects);
                    effects.push(ReplicaEffect::Event(ReplicaEvent::Diverged { log: id, reason }));
                }
            }
        }
        self.announced.applied(id, log.tail.next_address());
        self.trim_announced(id, effects);
    }

    fn rewind(&mut self, tail: &LogTailV1, effects: &mut Vec<ReplicaEffect>) {
        let id = LogId(tail.log);
        let Some(log) = self.logs.get_mut(&id) else { return };
        let from = log.tail.next_number();
        let is_damaged = matches!(log.refusal, Some(Refusal::Damaged(_)));
        // The largest epoch has no successor: no primary has it.
        if is_damaged || tail.records >= from || tail.epoch < log.tail.epoch().0 || tail.epoch == u32::MAX {
            return;
        }
        let end = LogAddress::new(tail.segment, tail.offset);
        log.tail = Tail::at(id, end, tail.records, tail.chain, Epoch(tail.epoch));
        log.durable = log.durable.min(tail.records);
        log.durable_end = log.durable_end.min(end);
        log.requests.retain(|known| known.number < tail.records);
        log.drop_held();
        log.refusal = None;
        self.announced.rewound(id);
        effects.push(ReplicaEffect::Rewind { log: id, tail: log.tail });
        effects.push(ReplicaEffect::Event(ReplicaEvent::Rewound { log: id, from, to: tail.records }));
    }

    fn durable(&mut self, id: LogId, records: u64, end: LogAddress, effects: &mut Vec<ReplicaEffect>) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        if records > log.durable {
            log.durable = records;
            log.durable_end = end;
            effects.push(ReplicaEffect::Marks(vec![log.mark(id)]));
        }
    }

    fn promotion(&self) -> Promotion {
        let held = |id: LogId, log: &Log| {
            log.held
                .values()
                .map(move |record| Gap { log: id, address: record.header.address })
                .collect::<Vec<_>>()
        };
        let behind_gap = self.logs.iter().flat_map(|(&id, log)| held(id, log)).collect();
        let highest = self.logs.values().map(|log| log.tail.epoch()).max().unwrap_or_default();
        Promotion {
            epoch: highest.max(self.epoch).next(self.site),
            logs: self.logs.values().filter(|log| log.exists()).count(),
            // The record of an epoch has no bytes, and says nothing to whom it does not reach.
            missing: self.announced.iter().filter(|lost| lost.length > 0).copied().collect(),
            unlisted: self.announced.unlisted(),
            behind_gap,
        }
    }

    /// The error for a client that wants to write here.
    #[must_use]
    pub fn refusal() -> Error {
        Error::new(
            ErrorKind::Unsupported,
            "this site is a mirror and takes no appends; go to the primary, or promote this site with \
             `parhelion mirror promote` if the primary is lost",
        )
    }
}

impl Log {
    /// A log whose creation never arrived does not. One that is damaged from its start does, with nothing whole.
    fn exists(&self) -> bool {
        self.tail.next_number() > 0 || matches!(self.refusal, Some(Refusal::Damaged(_)))
    }

    fn empty(id: LogId) -> Self {
        Self {
            name: String::new(),
            degrade: Degrade::default(),
            tail: Tail::new(id),
            active: ActiveMap::default(),
            requests: VecDeque::new(),
            durable: 0,
            durable_end: Tail::first_address(),
            newest: SourceTime::default(),
            held: BTreeMap::new(),
            held_bytes: 0,
            refusal: None,
        }
    }

    /// Applies nothing of the log any more, and tells the primary.
    fn refuse(&mut self, id: LogId, refusal: Refusal, effects: &mut Vec<ReplicaEffect>) {
        self.refusal = Some(refusal);
        self.drop_held();
        effects.push(ReplicaEffect::Marks(vec![self.mark(id)]));
    }

    fn drop_held(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }

    fn mark(&self, id: LogId) -> LogMarkV1 {
        if self.refusal.is_some() {
            return LogMarkV1::refused(id.0, self.tail.epoch().0);
        }
        LogMarkV1 {
            log: id.0,
            epoch: self.tail.epoch().0,
            records: self.durable,
            segment: self.durable_end.segment.0,
            offset: self.durable_end.offset,
        }
    }

    /// Takes note of what an applied record says, and has it stored.
    fn note(&mut self, record: &Record, effects: &mut Vec<ReplicaEffect>, opens_segment: bool) {
        let header = &record.header;
        self.newest = self.newest.max(header.time);
        match header.kind {
            RecordKind::Create => {
                if let Ok(create) = CreatePayload::parse(&record.payload()) {
                    self.name.clone_from(&create.name);
                    self.degrade = create.degrade;
                    let (log, request) = (header.log, header.request);
                    effects.push(ReplicaEffect::Learned { log, name: create.name, request });
                }
            }
            RecordKind::Append => {
                self.requests.extend(KnownRequest::of(header));
                if self.requests.len() > REQUESTS_MAX {
                    self.requests.pop_front();
                }
            }
            RecordKind::Free => {
                if let Ok(free) = FreePayload::parse(&record.payload()) {
                    for (number, _) in free.appends {
                        self.active.free(number);
                    }
                }
            }
        }
        effects.push(ReplicaEffect::Write { record: record.clone(), opens_segment });
    }
}

impl Refusal {
    fn error(&self) -> &Error {
        let (Self::Damaged(error) | Self::Unwritable(error) | Self::Diverged(error)) = self;
        error
    }
}

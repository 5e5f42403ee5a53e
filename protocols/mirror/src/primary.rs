//! The primary: from an append to its acknowledgement.

mod backlog;
mod epoch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parhelion_log::{CreatePayload, FreePayload, KnownRequest, RecordFields, RecordKind, Tail};
use parhelion_plugin::Code;
use parhelion_risk::{Ledger, Pricer, TrackRecord, Waiting, WireState, decide, reached};
use parhelion_types::{
    AppendRequest, Degrade, Durability, Epoch, Error, ErrorKind, LogAddress, LogId, RecordKey, RequestId,
    SourceTime, Time,
};
use parhelion_wire::link::LogMarkV1;

use crate::demand::{Demand, Demands};
use crate::feed::{Class, Feed, LinkBuffer};
use crate::input::{
    Append, Covered, Effect, Event, Input, LogStatus, PrimaryConfig, PrimaryLog, Reply, Token,
};
use crate::log_state::{LogMark, LogState, announce};
use crate::path::{Stage, StageKind};
use crate::pending::{Acked, Pending, Seen};
use crate::primary::epoch::OlderLogs;
use crate::refusals::{no_mirror, number_taken, other_bytes, unknown_log};

/// Spacing of the samples from which the lag in seconds is read.
const LAG_SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// Samples kept; a longer outage is reported as at least this long.
const LAG_SAMPLES_MAX: usize = 65_536;

/// The core of a primary's storage server. See the crate's documentation for its watermarks.
///
/// Call [`Primary::step`] with each input, carry out the effects in order, and call it with
/// [`Input::Timeout`] when [`Primary::poll_timeout`] has come. Time must not run backwards.
#[derive(Debug)]
pub struct Primary {
    config: PrimaryConfig,
    logs: BTreeMap<LogId, LogState>,
    /// Logs that the mirror has and this site does not, as of the newest session.
    unknown: BTreeSet<LogId>,
    ledger: Ledger,
    /// What the operator was told that risks are multiplied by.
    told_factor: f64,
    pricer: Pricer,
    code: Arc<str>,
    /// Name of the model.
    model: Arc<str>,
    demands: Demands,
    /// Counts link sessions; even while down, odd while up.
    session: u64,
    buffer: LinkBuffer,
    /// Reads of logs that feed the mirror, counted.
    feeds: u64,
    /// Of the appends that wait, and are not overdue.
    deadlines: BTreeSet<(Time, LogId, Token)>,
    /// When logs that could not be read to feed the mirror are read again.
    pauses: BTreeSet<(Time, LogId)>,
    older: OlderLogs,
}

impl Primary {
    /// A primary of the logs that the store recovered, with no link yet.
    #[must_use]
    pub fn new(mut config: PrimaryConfig, pricer: Pricer, logs: Vec<PrimaryLog>) -> Self {
        let newest = logs.iter().map(|log| log.tail.epoch()).max().unwrap_or_default();
        config.epoch = config.epoch.max(newest);
        let code = pricer.code().to_string().into();
        let mut primary = Self {
            buffer: LinkBuffer::new(config.link_buffer_bytes_max),
            config,
            logs: BTreeMap::new(),
            unknown: BTreeSet::new(),
            ledger: Ledger::new(),
            told_factor: 1.0,
            model: pricer.model().name().into(),
            demands: Demands::default(),
            pricer,
            code,
            session: 0,
            feeds: 0,
            deadlines: BTreeSet::new(),
            pauses: BTreeSet::new(),
            older: OlderLogs::default(),
        };
        for recovered in logs {
            let epoch = primary.config.epoch;
            if recovered.tail.epoch() < epoch {
                primary.older.due.insert(recovered.log);
            }
            let [mut tail, mut common] = [recovered.tail, recovered.common];
            // Its mirror is cut back under this site's epoch too: it heeds no older one.
            tail.promote(epoch);
            common.promote(epoch);
            let log = LogState::new(recovered.name, recovered.degrade, tail, primary.config.requests_max);
            let log = primary.logs.entry(recovered.log).or_insert(log);
            log.recovered = Some(common);
            log.active = recovered.active;
            log.is_damaged = recovered.refusal.is_some();
            log.refusal = recovered.refusal;
            for known in recovered.requests {
                log.requests.insert(known);
            }
        }
        if let Some(fenced) = primary.fenced() {
            for log in primary.logs.values_mut() {
                log.fence(primary.config.seen, &fenced, &mut primary.buffer, &mut Vec::new());
            }
        }
        primary
    }

    /// State of every log, in order of their numbers.
    pub fn logs(&self) -> impl Iterator<Item = LogStatus> + '_ {
        self.logs.iter().map(|(&id, log)| log.status(id, self.config.segment_bytes))
    }

    /// State of one log.
    #[must_use]
    pub fn log(&self, id: LogId) -> Option<LogStatus> {
        self.logs.get(&id).map(|log| log.status(id, self.config.segment_bytes))
    }

    /// Whether the append with that record number was freed.
    #[must_use]
    pub fn is_freed(&self, log: LogId, number: u64) -> bool {
        self.logs.get(&log).is_some_and(|log| log.active.is_freed(number))
    }

    /// Bytes that were sent and that the mirror has not confirmed.
    #[must_use]
    pub fn unconfirmed_bytes(&self) -> usize {
        self.buffer.held()
    }

    /// What was asked for at the level `network` lately; nothing if nobody did.
    pub fn demand(&mut self, now: Time) -> Option<Demand> {
        self.demands.demand(now)
    }

    /// The code in force, with its version and parameters; the last one while no session is up.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What was promised of appends over the link, and what became of them.
    #[must_use]
    pub fn track_record(&self) -> &TrackRecord {
        self.ledger.record()
    }

    /// What risks are multiplied by because that record refutes the model; else 1.
    #[must_use]
    pub fn risk_factor(&self) -> f64 {
        self.ledger.factor()
    }

    /// Whether a session with the mirror is up.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.session % 2 == 1
    }

    /// When the next deadline passes, or a log is to be read again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let deadline = self.deadlines.first().map(|&(at, ..)| at);
        let pause = self.pauses.first().map(|&(at, _)| at);
        deadline.into_iter().chain(pause).chain(self.ledger.next_look()).min()
    }

    /// Takes one input; appends what must be done, in order.
    pub fn step(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        self.ledger.advance(now);
        match input {
            Input::Create { token, log, name, degrade, request, time } => {
                self.create(now, token, log, name, degrade, (request, time), effects);
            }
            Input::Append(append) => self.append(now, append, effects),
            Input::Free { token, log, freed, time } => self.free(now, token, log, freed, time, effects),
            Input::Durable { log, records } => self.durable(now, log, records, effects),
            Input::WriteFailed { log, reason } => self.write_failed(now, log, &reason, effects),
            Input::LinkUp { time, marks, code } => {
                self.older.time = time;
                self.link_up(now, &marks, code, effects);
            }
            Input::LinkDown => self.link_down(now, effects),
            Input::CodeChanged(code) => {
                self.set_code(code);
                self.reprice(now, effects);
            }
            Input::Announced(keys) => self.announced(now, &keys, effects),
            Input::Coverage(covered) => self.coverage(now, &covered, effects),
            Input::Mirrored(marks) => self.mirrored(now, &marks, effects),
            Input::Channels(channels) => {
                self.pricer.set_channels(channels);
                self.reprice(now, effects);
                self.judge(now, effects);
            }
            Input::Figures => {
                if self.pricer.refresh() {
                    self.reprice(now, effects);
                }
            }
            Input::Backlog { log, session, read } => self.backlog(now, log, session, read, effects),
            Input::GivenUp(tokens) => self.given_up(tokens),
            Input::Timeout => self.timeout(now, effects),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one input, and when it came")]
    fn create(
        &mut self,
        now: Time,
        token: Token,
        id: LogId,
        name: String,
        degrade: Degrade,
        (request, time): (RequestId, SourceTime),
        effects: &mut Vec<Effect>,
    ) {
        if let Some(fenced) = self.fenced() {
            effects.push(Effect::Reply { token, reply: Err(fenced) });
            return;
        }
        if let Some(log) = self.logs.get(&id) {
            let reply = match &log.refusal {
                _ if log.name != name => Err(number_taken(id, &name)),
                Some(refusal) if log.durable == 0 => Err(refusal.clone()),
                // The client tries again, and its first try is on its way to the disk.
                None if log.durable == 0 => {
                    return self.answer_when_durable(id, 0, token, Reply::Created(id));
                }
                _ => Ok(Reply::Created(id)),
            };
            effects.push(Effect::Reply { token, reply });
            return;
        }
        if self.unknown.contains(&id) {
            effects.push(Effect::Reply { token, reply: Err(number_taken(id, &name)) });
            return;
        }
        let payload = CreatePayload { degrade, name: name.clone() }.to_bytes();
        let mut tail = Tail::new(id);
        tail.promote(self.config.epoch);
        let mut log = LogState::new(name, degrade, tail, self.config.requests_max);
        if self.is_linked() {
            log.recovered = None;
            // Its creation is sent when it is durable, and not before: were it sent and then lost here in a
            // crash, the number would be given to another log, and the mirror could not tell the two apart.
            log.catch_up(0, Tail::first_address());
            log.announcing_from = 1;
        }
        self.logs.insert(id, log);
        let fields = RecordFields { kind: RecordKind::Create, request, time, ..RecordFields::default() };
        let number = self.place(now, id, fields, &payload, effects);
        self.answer_when_durable(id, number, token, Reply::Created(id));
    }

    /// Why this site writes no more: the other one was promoted.
    fn fenced(&self) -> Option<Error> {
        let PrimaryConfig { epoch, seen, .. } = self.config;
        let message = || {
            format!(
                "the other site was promoted under epoch {seen} and this site has epoch {epoch}; write there"
            )
        };
        (seen > epoch).then(|| Error::new(ErrorKind::Fenced, message()))
    }

    /// Whether one of the mirror's marks says that it was promoted. Then no log is written here any more, whether the
    /// mirror has a mark of it or not: what it lacks it would drop.
    fn is_fenced_by(&mut self, marks: &[LogMarkV1], effects: &mut Vec<Effect>) -> bool {
        let theirs = Epoch(marks.iter().map(|mark| mark.epoch).max().unwrap_or_default());
        if theirs > self.config.seen.max(self.config.epoch) {
            self.config.seen = theirs;
            effects.push(Effect::Fenced(theirs));
        }
        let Some(fenced) = self.fenced() else { return false };
        for log in self.logs.values_mut() {
            log.fence(self.config.seen, &fenced, &mut self.buffer, effects);
        }
        self.deadlines.clear();
        self.pauses.clear();
        true
    }

    fn free(
        &mut self,
        now: Time,
        token: Token,
        id: LogId,
        (number, address): (u64, LogAddress),
        time: SourceTime,
        effects: &mut Vec<Effect>,
    ) {
        let log = match self.writable(id) {
            Ok(log) => log,
            Err(error) => {
                effects.push(Effect::Reply { token, reply: Err(error) });
                return;
            }
        };
        // Freed already: its client tries again, and waits for the record of the first try, wherever that is.
        let freeing = if log.active.free(number) {
            let payload = FreePayload { appends: vec![(number, address)] }.to_bytes();
            let fields = RecordFields { kind: RecordKind::Free, time, ..RecordFields::default() };
            self.place(now, id, fields, &payload, effects)
        } else if log.durable < log.tail.next_number() {
            log.tail.next_number() - 1
        } else {
            effects.push(Effect::Reply { token, reply: Ok(Reply::Freed) });
            return;
        };
        self.answer_when_durable(id, freeing, token, Reply::Freed);
    }

    fn append(&mut self, now: Time, append: Append, effects: &mut Vec<Effect>) {
        let Append { token, asked: append, time } = append;
        let AppendRequest { log: id, durability, .. } = append;
        let stored = match self.known_request(&append) {
            Ok(stored) => stored,
            Err(error) => {
                effects.push(Effect::Reply { token, reply: Err(error) });
                return;
            }
        };
        let number = match stored {
            Some(stored) => stored.number,
            None => {
                let fields = RecordFields {
                    kind: RecordKind::Append,
                    request: append.request,
                    trace: append.trace,
                    time,
                    durability,
                };
                self.place(now, id, fields, &append.payload, effects)
            }
        };
        let within = append.deadline.unwrap_or(self.config.deadline);
        let deadline = now + within;
        let Some(log) = self.logs.get_mut(&id) else { return };
        if durability == Durability::Network {
            let bytes = append.payload.len();
            self.demands.note(now, bytes, append.max_risk, within, log.in_flight.len());
        }
        let address = stored.map_or_else(|| log.last_address(), |stored| stored.address);
        let traced = append.explain || append.trace.sampled;
        let mut pending = Pending {
            token,
            number,
            address,
            asked: durability,
            max_risk: append.max_risk,
            deadline,
            overdue: false,
            duplicate: stored.is_some(),
            accepted: now,
            trace: append.trace,
            path: traced.then(Vec::new),
            seen: Seen::default(),
        };
        if pending.path.is_some() {
            let note = format!("record {number} of log {id} at {address}, epoch {}", log.tail.epoch());
            pending.tell(Stage::plain(StageKind::Accepted, now, &note));
        }
        log.pending.push_back(pending);
        self.deadlines.insert((deadline, id, token));
        if stored.is_some() {
            // Everything it waits for may have happened already.
            self.settle(now, id, effects);
        }
    }

    /// What an append with the same request id was stored as, if its log takes this one.
    fn known_request(&mut self, append: &AppendRequest) -> Result<Option<KnownRequest>, Error> {
        let has_mirror = self.config.has_mirror;
        let log = self.writable(append.log)?;
        if !has_mirror && append.durability > Durability::Local && log.degrade != Degrade::Degrade {
            return Err(no_mirror(append.durability));
        }
        match log.requests.get(append.request) {
            Some(known) if !known.is_of(&append.payload) => Err(other_bytes(&known)),
            known => Ok(known),
        }
    }

    /// Forgets who waits no more. What they appended is not awaited any more either, and leaves the room in the link's buffer
    /// to what is.
    fn given_up(&mut self, tokens: Vec<Token>) {
        let tokens: BTreeSet<Token> = tokens.into_iter().collect();
        for (&id, log) in &mut self.logs {
            log.pending.retain(|pending| {
                let is_given_up = tokens.contains(&pending.token);
                if is_given_up {
                    self.deadlines.remove(&(pending.deadline, id, pending.token));
                }
                !is_given_up
            });
        }
    }

    /// Assigns the next address, stores the record and starts it on its way; returns its number.
    fn place(
        &mut self,
        now: Time,
        id: LogId,
        fields: RecordFields,
        payload: &[u8],
        effects: &mut Vec<Effect>,
    ) -> u64 {
        // A creation is announced when it is sent: nobody was told of one that is not durable.
        let announced = self.is_linked() && fields.kind != RecordKind::Create;
        let log = self.logs.get_mut(&id).expect("the caller has found the log");
        let (record, opens_segment) = log.tail.place(fields, payload, self.config.segment_bytes);
        self.older.due.remove(&id);
        let number = record.header.number;
        if log.lag_samples.back().is_none_or(|&(_, at)| now >= at + LAG_SAMPLE_INTERVAL)
            && log.lag_samples.len() < LAG_SAMPLES_MAX
        {
            log.lag_samples.push_back((number, now));
            // The sample before it may be of a record that the mirror has had for hours.
            log.trim_lag_samples();
        }
        if let Some(known) = KnownRequest::of(&record.header) {
            log.requests.insert(known);
        }
        effects.push(Effect::Write { record: record.clone(), opens_segment });
        if announced {
            effects.push(announce(&record));
            if log.feed == Feed::Live {
                // Its predecessors are in the buffer already.
                let class = Class::of(record.header.durability > Durability::Local);
                if record.bytes().len() <= self.buffer.room(class) {
                    let ledger = (&mut self.ledger, self.pricer.generation());
                    log.send(&record, class, &mut self.buffer, ledger, effects);
                } else {
                    log.catch_up(number, record.header.address);
                    effects.push(Effect::Event(Event::Spilled { log: id }));
                }
            }
        }
        log.unwritten.push_back((record, number));
        number
    }

    fn answer_when_durable(&mut self, id: LogId, number: u64, token: Token, reply: Reply) {
        if let Some(log) = self.logs.get_mut(&id) {
            log.waiting_durable.push_back((number, token, reply));
        }
    }

    /// The log, if it exists and takes records.
    fn writable(&mut self, id: LogId) -> Result<&mut LogState, Error> {
        let log = self.logs.get_mut(&id).ok_or_else(|| unknown_log(id))?;
        match &log.refusal {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(log),
        }
    }

    fn durable(&mut self, now: Time, id: LogId, records: u64, effects: &mut Vec<Effect>) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        log.durable = log.durable.max(records);
        while log.unwritten.front().is_some_and(|&(_, number)| number < records) {
            log.unwritten.pop_front();
        }
        while log.waiting_durable.front().is_some_and(|&(number, ..)| number < records) {
            if let Some((_, token, reply)) = log.waiting_durable.pop_front() {
                effects.push(Effect::Reply { token, reply: Ok(reply) });
            }
        }
        self.settle(now, id, effects);
        self.pump(id, effects);
        self.epoch_settled(now, id, effects);
    }

    fn write_failed(&mut self, now: Time, id: LogId, reason: &str, effects: &mut Vec<Effect>) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        let error = Error::unavailable(format!(
            "log {id} cannot be written: {reason}; restart the node when the disk is well. What was not \
             acknowledged may or may not be stored: retry it with the same request id"
        ));
        log.refusal = Some(error.clone());
        let waiting = log.waiting_durable.drain(..).map(|(_, token, _)| token);
        let undurable = log.durable;
        let (lost, kept) = log.pending.drain(..).partition(|p| p.number >= undurable);
        let lost: VecDeque<Pending> = lost;
        for pending in &lost {
            self.deadlines.remove(&(pending.deadline, id, pending.token));
        }
        for token in waiting.chain(lost.iter().map(|p| p.token)) {
            effects.push(Effect::Reply { token, reply: Err(error.clone()) });
        }
        log.pending = kept;
        self.epoch_settled(now, id, effects);
    }

    fn set_code(&mut self, code: Code) {
        self.code = code.to_string().into();
        self.pricer.set_code(code);
    }

    fn link_up(&mut self, now: Time, marks: &[LogMarkV1], code: Code, effects: &mut Vec<Effect>) {
        self.link_down(now, effects);
        self.session += 1;
        self.set_code(code);
        let theirs = marks.iter().filter(|mark| mark.records > 0).map(|mark| LogId(mark.log));
        self.unknown = theirs.filter(|log| !self.logs.contains_key(log)).collect();
        if self.is_fenced_by(marks, effects) {
            return;
        }
        effects.extend(self.unknown.iter().map(|&log| Effect::Event(Event::Unknown { log })));
        let marks: BTreeMap<u32, &LogMarkV1> = marks.iter().map(|mark| (mark.log, mark)).collect();
        let (mut reconciled, mut rewinds) = (Vec::new(), Vec::new());
        for (&id, log) in &mut self.logs {
            let bounds = (self.config.segment_bytes, self.config.link_buffer_bytes_max);
            let was_uncertain = log.recovered.is_some();
            rewinds.extend(log.join(id, marks.get(&id.0).copied(), bounds, &mut self.buffer, effects));
            if was_uncertain && log.recovered.is_none() {
                reconciled.push(id);
            }
            self.ledger.confirm(&mut self.pricer, id, log.mirrored.records);
        }
        if !reconciled.is_empty() {
            effects.push(Effect::Reconciled(reconciled));
        }
        if !rewinds.is_empty() {
            effects.push(Effect::Rewind(rewinds));
        }
        let ids: Vec<LogId> = self.logs.keys().copied().collect();
        for id in ids {
            self.settle(now, id, effects);
        }
        self.pump_all(effects);
        self.write_epoch(now, effects);
    }

    fn link_down(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if !self.is_linked() {
            return;
        }
        self.session += 1;
        self.ledger.end_session();
        self.buffer.clear();
        self.pauses.clear();
        let ids: Vec<LogId> = self.logs.keys().copied().collect();
        for id in ids {
            if let Some(log) = self.logs.get_mut(&id) {
                log.feed = Feed::Off;
                log.in_flight.reset();
                log.announcing_from = u64::MAX;
            }
            self.settle(now, id, effects);
        }
    }

    fn announced(&mut self, now: Time, keys: &[RecordKey], effects: &mut Vec<Effect>) {
        for log in runs(keys, |key| key.log) {
            let highest = log.iter().map(|key| key.number + 1).max().unwrap_or(0);
            let id = log[0].log;
            if let Some(log) = self.logs.get_mut(&id) {
                log.announced = log.announced.max(highest);
            }
            self.settle(now, id, effects);
        }
    }

    fn coverage(&mut self, now: Time, covered: &[Covered], effects: &mut Vec<Effect>) {
        for change in covered {
            let Covered { key, exposure, sent, complete } = *change;
            self.ledger.cover(&mut self.pricer, key, WireState { exposure, sent, complete });
        }
        self.judge(now, effects);
        let mut logs: Vec<LogId> = covered.iter().map(|change| change.key.log).collect();
        logs.sort_unstable();
        logs.dedup();
        for id in logs {
            self.settle(now, id, effects);
        }
    }

    fn mirrored(&mut self, now: Time, marks: &[LogMarkV1], effects: &mut Vec<Effect>) {
        if !self.is_linked() {
            return;
        }
        // Promoted while the session lasts.
        if self.is_fenced_by(marks, effects) {
            return;
        }
        let mut changed = Vec::new();
        for mark in marks {
            let id = LogId(mark.log);
            let Some(log) = self.logs.get_mut(&id) else { continue };
            if mark.is_refused() {
                log.refused_by_mirror(id, &mut self.buffer, effects);
                changed.push(id);
                continue;
            }
            if mark.records > log.mirrored.records && mark.records <= log.tail.next_number() {
                log.mirrored =
                    LogMark { records: mark.records, address: LogAddress::new(mark.segment, mark.offset) };
                log.in_flight.confirm(&mut self.buffer, mark.records);
                self.ledger.confirm(&mut self.pricer, id, mark.records);
                log.trim_lag_samples();
                changed.push(id);
            }
        }
        self.judge(now, effects);
        for id in changed {
            self.settle(now, id, effects);
        }
        self.pump_all(effects);
    }

    fn reprice(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.ledger.reprice(&mut self.pricer);
        self.settle_waiting(now, effects);
    }

    /// Holds what was promised against what became of it, before more is promised.
    fn judge(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let Some(verdict) = self.ledger.judge(&mut self.pricer) else { return };
        // Once when it begins, whenever it has become twice as bad as it was, and when it is over.
        let is_news = self.told_factor == 1.0 || verdict.factor == 1.0;
        if is_news || verdict.factor >= 2.0 * self.told_factor {
            self.told_factor = verdict.factor;
            effects.push(Effect::Event(Event::Judged(verdict)));
        }
        self.told_factor = self.told_factor.min(verdict.factor);
        self.settle_waiting(now, effects);
    }

    fn settle_waiting(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let ids: Vec<LogId> =
            self.logs.iter().filter(|(_, log)| !log.pending.is_empty()).map(|(&id, _)| id).collect();
        for id in ids {
            self.settle(now, id, effects);
        }
    }

    fn timeout(&mut self, now: Time, effects: &mut Vec<Effect>) {
        while let Some(&(at, id, token)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            self.deadline_passed(now, id, token, effects);
        }
        self.end_pauses(now, effects);
        self.judge(now, effects);
    }

    fn deadline_passed(&mut self, now: Time, id: LogId, token: Token, effects: &mut Vec<Effect>) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        let Some(at) = log.pending.iter().position(|p| p.token == token) else { return };
        let key = RecordKey { log: id, number: log.pending[at].number };
        let asked = log.pending[at].asked;
        match log.degrade {
            Degrade::Block => {
                log.pending[at].overdue = true;
                effects.push(Effect::Event(Event::Overdue { key, asked }));
            }
            // At once, or when it has reached any level: durable here, and announced while a session is up.
            Degrade::Degrade => {
                log.pending[at].overdue = true;
                self.settle(now, id, effects);
            }
            Degrade::Fail => {
                log.pending.remove(at);
                let error = Error::unavailable(format!(
                    "append {} of log {id} did not reach level {asked} before its deadline; it may still be \
                     stored and mirrored: retry with the same request id to learn more",
                    key.number
                ));
                effects.push(Effect::Reply { token, reply: Err(error) });
            }
        }
    }

    /// Acknowledges what has become safe enough in one log, and notes the stages of what has not.
    fn settle(&mut self, now: Time, id: LogId, effects: &mut Vec<Effect>) {
        let linked = self.is_linked();
        let mut at = 0;
        while let Some(log) = self.logs.get_mut(&id) {
            if at >= log.pending.len() {
                return;
            }
            let (progress, wire) = log.progress(id, at, linked, &mut self.ledger);
            log.note_stages(at, now, &progress, wire, self.pricer.structure());
            let pending = &log.pending[at];
            let waiting = Waiting { asked: pending.asked, max_risk: pending.max_risk };
            let late = pending.overdue && log.degrade == Degrade::Degrade;
            if let Some(reached) = decide(&waiting, &progress) {
                let why = reached.reason.to_string();
                self.acknowledge(now, id, at, reached.level, &why, effects);
            } else if late && let Some(reached) = reached(pending.max_risk, &progress) {
                let key = RecordKey { log: id, number: pending.number };
                effects.push(Effect::Event(Event::Degraded { key, asked: pending.asked }));
                let why =
                    format!("the deadline passed and the log's policy is to degrade: {}", reached.reason);
                self.acknowledge(now, id, at, reached.level, &why, effects);
            } else {
                at += 1;
            }
        }
    }

    fn acknowledge(
        &mut self,
        now: Time,
        id: LogId,
        at: usize,
        reached: Durability,
        note: &str,
        effects: &mut Vec<Effect>,
    ) {
        let linked = self.is_linked();
        let Some(log) = self.logs.get_mut(&id) else { return };
        let (progress, _) = log.progress(id, at, linked, &mut self.ledger);
        let Some(mut pending) = log.pending.remove(at) else { return };
        self.deadlines.remove(&(pending.deadline, id, pending.token));
        pending.tell(Stage {
            own: progress.own,
            prefix: progress.prefix,
            ..Stage::plain(StageKind::Acknowledged, now, note)
        });
        let acked = Acked {
            key: RecordKey { log: id, number: pending.number },
            address: pending.address,
            reached,
            degraded: reached < pending.asked,
            duplicate: pending.duplicate,
            own: progress.own,
            prefix: progress.prefix,
            confidence: self.pricer.confidence(),
            model: self.model.clone(),
            code: self.code.clone(),
            epoch: log.tail.epoch(),
            accepted: pending.accepted,
            acknowledged: now,
            trace: pending.trace,
            path: pending.path.unwrap_or_default(),
        };
        effects.push(Effect::Reply { token: pending.token, reply: Ok(Reply::Acked(Box::new(acked))) });
    }
}

/// Splits a batch into runs of equal keys, so that each log is settled once per run.
fn runs<T, K: PartialEq>(items: &[T], key: impl Fn(&T) -> K) -> impl Iterator<Item = &[T]> {
    items.chunk_by(move |a, b| key(a) == key(b))
}

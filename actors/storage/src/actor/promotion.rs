//! What must not happen before the disk has all that a mirror has applied: promotion, and the welcome of a primary.

use parhelion_link_driver::{MirrorCommand, MirrorEvent};
use parhelion_mirror::{Primary, Promotion, ReplicaInput, ReplicaLog, Token};
use parhelion_types::{Error, ErrorKind};
use parhelion_wire::link::LogMarkV1;

use super::{Core, Link, StorageActor, Waiting};
use crate::finding::Finding;
use crate::request::Answer;

/// Who waits for the disk of a mirror.
#[derive(Default)]
pub(super) struct Held {
    /// Primaries that want a session.
    hellos: Vec<Token>,
    /// Operators that want this site to be a primary.
    promotions: Vec<Token>,
    /// What came over the link while a promotion waits. A primary that lives would send for ever, and the disk would
    /// never have all of it. The bytes count as pending, which stops the link.
    events: Vec<MirrorEvent>,
}

impl Held {
    /// A primary waits.
    pub fn hello(&mut self, token: Token) {
        self.hellos.push(token);
    }

    /// The event, unless it has to wait for a promotion.
    pub fn pass(&mut self, event: MirrorEvent) -> Option<MirrorEvent> {
        match event {
            MirrorEvent::Records(_) | MirrorEvent::Rewind(_) if !self.promotions.is_empty() => {
                self.events.push(event);
                None
            }
            // What is announced meanwhile will be missing, and must be named.
            event => Some(event),
        }
    }
}

impl StorageActor {
    /// Makes this mirror a primary once all that it has applied is durable: only then its answers to repeated requests,
    /// and its list of missing appends, hold whatever happens next.
    pub(super) fn promote(&mut self, dry_run: bool, answer: Answer<Promotion>) {
        if let Core::Primary(_) = self.core {
            let _ = answer.send(Err(primary_already()));
            return;
        }
        let token = self.token(Waiting::Promote(answer));
        if dry_run {
            self.step_mirror(ReplicaInput::Promote { token, dry_run });
        } else {
            self.held.promotions.push(token);
            self.settle();
        }
    }

    /// Serves those that wait, once this mirror's logs end where its disk says. Of a primary that died and comes back,
    /// records may still be on their way to the disk: it must hear of them, because it may have lost them.
    pub(super) fn settle(&mut self) {
        if !self.is_settled() {
            return;
        }
        for token in std::mem::take(&mut self.held.promotions) {
            self.promote_settled(token);
        }
        // To a site that was promoted they say nothing any more.
        for event in std::mem::take(&mut self.held.events) {
            self.take_in(event);
        }
        if !self.is_settled() {
            return;
        }
        for token in std::mem::take(&mut self.held.hellos) {
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

    fn is_settled(&self) -> bool {
        self.rewinding.is_empty() && self.writes_pending.is_empty()
    }

    fn promote_settled(&mut self, token: Token) {
        let refusal = match &self.core {
            Core::Primary(_) => Some(primary_already()),
            // Nothing is on its way to the disk: what a log that failed has not there will not get there.
            Core::Mirror(replica) => replica.logs().find_map(|log| {
                let reason = log.refusal.as_ref().filter(|_| log.durable < log.applied)?;
                Some(not_written(&log, reason))
            }),
        };
        match refusal {
            None => self.step_mirror(ReplicaInput::Promote { token, dry_run: false }),
            Some(error) => {
                if let Some(Waiting::Promote(answer)) = self.waiting.remove(&token) {
                    tracing::error!(%error, "not promoted");
                    let _ = answer.send(Err(error));
                }
            }
        }
    }

    /// Makes durable where the whole logs end now. The old primary may come back as this site's mirror, with records beyond
    /// that: they are cut off there.
    fn keep_common_ends(&self) -> Result<(), Error> {
        let Core::Mirror(replica) = &self.core else { return Ok(()) };
        let kept = self.config.store.catalogue().put_commons(&replica.tails());
        kept.map_err(|error| Error::unavailable(error.to_string()))
    }

    /// Becomes a primary without a link, under the new epoch. What was found is durable first: the announcements go with
    /// the mirror's core, and an answer may not arrive.
    pub(super) fn promoted(&mut self, token: Token, promotion: Promotion, dry_run: bool) {
        let Some(Waiting::Promote(answer)) = self.waiting.remove(&token) else { return };
        if dry_run {
            let _ = answer.send(Ok(promotion));
            return;
        }
        let kept = Finding::store(self.config.store.home(), &promotion).map_err(not_kept);
        let kept = kept.and_then(|()| self.keep_common_ends());
        if let Err(error) = kept.and_then(|()| (self.config.promote)(promotion.epoch)) {
            tracing::error!(%error, "not promoted");
            let _ = answer.send(Err(error));
            return;
        }
        // The driver goes on listening: the old primary must learn of the new epoch when it comes back.
        let epoch = promotion.epoch;
        self.config.primary.epoch = epoch;
        if let Core::Mirror(replica) = &mut self.core {
            let logs = replica.take_logs();
            for (log, refusal) in logs.iter().filter_map(|log| Some((log.log, log.refusal.as_ref()?))) {
                tracing::error!(%log, %refusal, "promoted with a log that takes no records");
            }
            tracing::warn!(
                %epoch, logs = logs.len(), missing = promotion.missing.len(), unlisted = promotion.unlisted,
                "promoted to primary; `parhelion mirror missing` lists what is missing"
            );
            let primary = Primary::new(self.config.primary.clone(), self.config.pricer.clone(), logs);
            // A primary that lives, and has a session, hears of it now.
            if let (Link::Mirror(commands), Ok(marks)) = (&self.link, fencing_marks(&primary)) {
                let _ = commands.send(MirrorCommand::Marks(marks));
            }
            self.core = Core::Primary(Box::new(primary));
        }
        let _ = answer.send(Ok(promotion));
    }
}

/// What a promoted site tells whoever wants to mirror to it: that it takes none of its logs, under an epoch that fences
/// its old primary. One with a higher epoch sees its logs refused, and knows that this is no mirror.
pub(super) fn fencing_marks(primary: &Primary) -> Result<Vec<LogMarkV1>, Error> {
    let marks: Vec<LogMarkV1> = primary.logs().map(|log| LogMarkV1::refused(log.log.0, log.epoch)).collect();
    if marks.is_empty() {
        let message = "this site was promoted and has no logs; the old primary must not write any more";
        return Err(Error::new(ErrorKind::Fenced, message));
    }
    Ok(marks)
}

fn primary_already() -> Error {
    Error::invalid(
        "this site is a primary already; only a mirror can be promoted. If it was one, `parhelion mirror missing` \
         lists what its promotion found",
    )
}

fn not_written(log: &ReplicaLog, reason: &Error) -> Error {
    let records = log.applied - log.durable;
    Error::unavailable(format!(
        "the site was not promoted, nothing was changed: the last {records} records of log {} are not on the disk and \
         will not get there ({}). Keep what `parhelion mirror promote --dry-run --json` lists, which a restart \
         forgets, and promote again after the restart",
        log.log,
        reason.message()
    ))
}

fn not_kept(error: impl std::fmt::Display) -> Error {
    Error::unavailable(format!("the site was not promoted, nothing was changed: {error}, and promote again"))
}

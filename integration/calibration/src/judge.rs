//! The primary's view of one link: what it believes of the line, and what it promises of each append.

use std::sync::Arc;

use parhelion_plugin::{Code, DurabilityModel};
use parhelion_risk::{
    Assumption, ChannelCounts, ChannelEstimator, Ledger, Pricer, Progress, Reason, Waiting, WireState, decide,
};
use parhelion_types::{Durability, LogId, RecordKey, Risk, Time};

/// An estimator, and the ledgers of all models that rest on its bounds.
///
/// Nothing here is simulated: it is what a storage node does with what its link tells it. A node figures its bounds with
/// each report; here they are figured when an acknowledgement depends on them, from the same reports, since that is
/// most of the work and nobody looks in between.
pub struct Primary {
    estimator: ChannelEstimator,
    books: Vec<Book>,
    /// A report came that the books have not seen.
    is_news: bool,
}

/// What one model makes of it.
struct Book {
    pricer: Pricer,
    ledger: Ledger,
}

/// An acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ack {
    /// At the level `network`, with this prefix risk.
    Covered(Risk),
    /// The mirror has it.
    Mirrored,
}

impl Primary {
    /// A node that has seen nothing of its line, with a book for each model.
    #[must_use]
    pub fn new(assumption: Assumption, models: &[Arc<dyn DurabilityModel>], code: &Code) -> Self {
        let book = |model: &Arc<dyn DurabilityModel>| Book {
            pricer: Pricer::new(model.clone(), code.clone(), Vec::new()),
            ledger: Ledger::new(),
        };
        Self {
            estimator: ChannelEstimator::new(assumption),
            books: models.iter().map(book).collect(),
            is_news: false,
        }
    }

    /// It is `now`.
    pub fn advance(&mut self, now: Time) {
        self.books.iter_mut().for_each(|book| book.ledger.advance(now));
    }

    /// An append was handed to the link.
    pub fn insert(&mut self, key: RecordKey) {
        for Book { pricer, ledger } in &mut self.books {
            ledger.insert(key, pricer.generation());
        }
    }

    /// The link tells of an append.
    pub fn cover(&mut self, key: RecordKey, wire: WireState) {
        for Book { pricer, ledger } in &mut self.books {
            ledger.cover(pricer, key, wire);
        }
    }

    /// The mirror tells of the line.
    pub fn count(&mut self, now: Time, counts: ChannelCounts) {
        self.estimator.handle_report(now, SESSION, counts);
        self.is_news = true;
    }

    /// The mirror has all records of a log below a number.
    pub fn confirm(&mut self, log: LogId, number: u64) {
        for Book { pricer, ledger } in &mut self.books {
            ledger.confirm(pricer, log, number);
        }
    }

    /// Another code protects what is handed to the link from now on.
    pub fn set_code(&mut self, code: &Code) {
        for Book { pricer, ledger } in &mut self.books {
            pricer.set_code(code.clone());
            ledger.reprice(pricer);
        }
    }

    /// Whether all that can be on the wire of an append is, and the mirror has not confirmed it: whether its risk matters.
    pub fn is_up_to_its_risk(&mut self, key: RecordKey) -> bool {
        // What is on the wire is the same in every book.
        let risks = self.books.first_mut().and_then(|book| book.ledger.risk(key));
        risks
            .is_some_and(|risks| !risks.mirrored && risks.wire.is_some_and(|wire| wire.sent && wire.complete))
    }

    /// Whether a report came since risks were figured.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.is_news
    }

    /// Figures all risks by what is known now, if there is anything new. Models that simulate get some time for it, as
    /// they would from the node's thread: what they have not figured yet they price as if nothing covered it.
    pub fn refresh(&mut self, now: Time) {
        let channels = std::mem::take(&mut self.is_news).then(|| self.estimator.channels(now));
        for Book { pricer, ledger } in &mut self.books {
            if channels.as_ref().is_some_and(|channels| pricer.set_channels(channels.clone())) {
                ledger.reprice(pricer);
            }
            for _ in 0..WORK_PIECES {
                if !pricer.model().work() {
                    break;
                }
            }
            if pricer.refresh() {
                ledger.reprice(pricer);
            }
        }
    }

    /// Whether the append may be acknowledged now, by the book of each model.
    pub fn decide(&mut self, key: RecordKey, max_risk: Risk) -> impl Iterator<Item = Option<Ack>> {
        self.books.iter_mut().map(move |Book { pricer, ledger }| {
            ledger.judge(pricer);
            let risks = ledger.risk(key)?;
            let waiting = Waiting { asked: Durability::Network, max_risk };
            let progress = Progress {
                durable: true,
                linked: true,
                announced: true,
                complete: risks.wire.is_some_and(|wire| wire.sent && wire.complete),
                own: risks.own,
                prefix: risks.prefix,
                mirrored: risks.mirrored,
            };
            match decide(&waiting, &progress)?.reason {
                Reason::Covered { prefix, .. } => Some(Ack::Covered(prefix)),
                _ => Some(Ack::Mirrored),
            }
        })
    }

    /// What the line is believed to be like.
    #[must_use]
    pub fn channels(&self, now: Time) -> Vec<parhelion_plugin::Channel> {
        self.estimator.channels(now)
    }

    /// Appends in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.books.first().map_or(0, |book| book.ledger.len())
    }

    /// What the record of each model multiplies its figures by.
    pub fn factors(&self) -> impl Iterator<Item = f64> {
        self.books.iter().map(|book| book.ledger.factor())
    }
}

/// Pieces of a model's work behind each look, some ten milliseconds each.
const WORK_PIECES: u32 = 4;

/// A link has one session in its life.
const SESSION: u64 = 1;

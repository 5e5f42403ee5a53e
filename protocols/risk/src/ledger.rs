//! The appends in flight: what of each is on the wire, and what it and its predecessors risk.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parhelion_plugin::Exposure;
use parhelion_types::{LogId, RecordKey, Risk, Time};

use crate::fate::Fate;
use crate::pricer::{CodeGeneration, Pricer};
use crate::track_record::{TrackRecord, Verdict};

/// Appends that the mirror has not confirmed, by log and record number.
///
/// What is known of an append changes for the worse as well: when the mirror reports a symbol of it missing, the
/// repairs that were to bring it have failed. From then on the link tells of the append as not sent, so that its
/// loss is certain, until another copy of the symbol has left the site; then as symbols that nothing covers, until
/// the symbol has arrived. So no acknowledgement promises less than what a report has made known before it. Repairs
/// that are still on their way may do better; they count for nothing here.
///
/// Whether they did is told to the [`TrackRecord`], which outlives sessions of the link. While it refutes the model, every
/// own risk is multiplied by what it says.
///
/// The ledger's time is that of the last [`advance`](Self::advance). Call [`judge`](Self::judge) when coverage has changed,
/// before anything is acknowledged.
///
/// Invariants:
/// - Entries of a log are sorted by number, each once, all at or above the log's `mirrored`.
/// - `mirrored` never falls.
/// - `prefix` of an entry is right for all entries before `stale`.
#[derive(Debug, Default)]
pub struct Ledger {
    logs: HashMap<LogId, Log>,
    in_flight: usize,
    now: Time,
    record: TrackRecord,
    scale: Scale,
    /// When the record was last asked.
    judged: Time,
}

/// What own risks are multiplied by; at least 1.
#[derive(Clone, Copy, Debug)]
struct Scale(f64);

#[derive(Debug, Default)]
struct Log {
    entries: VecDeque<Entry>,
    /// Records of the log that are durable at the mirror.
    mirrored: u64,
    /// Index of the first entry whose prefix risk must be summed anew. Sums are made when somebody asks, so a
    /// batch of changes costs one pass.
    stale: usize,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    since: CodeGeneration,
    wire: Option<WireState>,
    own: Risk,
    prefix: Risk,
    fate: Fate,
}

/// What of a record is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireState {
    /// Symbols and coverage.
    pub exposure: Exposure,
    /// Whether every symbol of it is on the wire, and another copy of each one that was reported missing.
    pub sent: bool,
    /// Whether its coverage is complete.
    pub complete: bool,
}

/// What an append risks now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Risks {
    /// P(this append cannot be rebuilt at the mirror).
    pub own: Risk,
    /// P(this append or an earlier unmirrored one of its log cannot): what a crash costs its writer.
    pub prefix: Risk,
    /// What is on the wire; none before the first symbol left, and none needed once mirrored.
    pub wire: Option<WireState>,
    /// Whether the mirror has it.
    pub mirrored: bool,
}

impl Ledger {
    /// Nothing in flight.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// It is `now`. Time must not run backwards.
    pub fn advance(&mut self, now: Time) {
        self.now = now;
    }

    /// What was promised, and what became of it.
    #[must_use]
    pub fn record(&self) -> &TrackRecord {
        &self.record
    }

    /// When a raise should be looked at again by [`judge`](Self::judge), whatever happens.
    #[must_use]
    pub fn next_look(&self) -> Option<Time> {
        (self.scale.0 > 1.0).then(|| self.judged + JUDGE_INTERVAL)
    }

    /// What own risks are multiplied by, because the record refutes the model; else 1.
    #[must_use]
    pub fn factor(&self) -> f64 {
        self.scale.0
    }

    /// Appends in flight, over all logs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.in_flight
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.in_flight == 0
    }

    /// What the append risks; none for one that was never inserted and is not at the mirror.
    pub fn risk(&mut self, key: RecordKey) -> Option<Risks> {
        let log = self.logs.get_mut(&key.log)?;
        if key.number < log.mirrored {
            return Some(Risks { own: Risk::NONE, prefix: Risk::NONE, wire: None, mirrored: true });
        }
        let at = log.position(key.number).ok()?;
        log.sum_to(at);
        let entry = &log.entries[at];
        Some(Risks { own: entry.own, prefix: entry.prefix, wire: entry.wire, mirrored: false })
    }

    /// Takes an append that was handed to the link while the code of generation `since` was in force. Nothing
    /// of it is on the wire yet. One that is known, or is at the mirror already, is left as it is.
    pub fn insert(&mut self, key: RecordKey, since: CodeGeneration) {
        let log = self.logs.entry(key.log).or_default();
        if key.number < log.mirrored {
            return;
        }
        if let Err(at) = log.position(key.number) {
            let entry = Entry {
                number: key.number,
                since,
                wire: None,
                own: Risk::CERTAIN,
                prefix: Risk::CERTAIN,
                fate: Fate::New,
            };
            log.entries.insert(at, entry);
            log.stale = log.stale.min(at);
            self.in_flight += 1;
        }
    }

    /// Takes what of an append is on the wire now, be it more or less than before. An append that is not in flight is
    /// ignored: reports of the link and of the mirror cross.
    pub fn cover(&mut self, pricer: &mut Pricer, key: RecordKey, wire: WireState) {
        let Some(log) = self.logs.get_mut(&key.log) else { return };
        let Ok(at) = log.position(key.number) else { return };
        let before = log.entries[at].wire.replace(wire);
        let own = log.price(at, pricer, self.scale);
        let Entry { since, ref mut fate, .. } = log.entries[at];
        if let Some(failure) = fate.follow(self.now, before.as_ref(), &wire, own, since, pricer) {
            self.record.fail(self.now, failure, pricer);
        }
    }

    /// The mirror has all records of `log` with a number below `records`.
    pub fn confirm(&mut self, pricer: &mut Pricer, log: LogId, records: u64) {
        let log = self.logs.entry(log).or_default();
        log.mirrored = log.mirrored.max(records);
        let confirmed = log.position(log.mirrored).unwrap_or_else(|at| at);
        if confirmed > 0 {
            let mut kept = 0.0;
            for entry in log.entries.drain(..confirmed) {
                match entry.fate.end(self.now) {
                    Ok(promised) => kept += promised,
                    Err(failure) => self.record.fail(self.now, failure, pricer),
                }
            }
            self.record.keep(self.now, kept);
            self.in_flight -= confirmed;
            // Subtracting what left would lose the digits of what remains: a sum that had a 1 in it cannot
            // tell 1e-9 any more.
            log.stale = 0;
        }
    }

    /// The session of the link ended, and with it all that was in flight. What became of it nobody will tell: the
    /// record learns nothing from it, and keeps what it knows.
    pub fn end_session(&mut self) {
        self.logs.clear();
        self.in_flight = 0;
    }

    /// Figures everything anew, after the channel or the code changed.
    pub fn reprice(&mut self, pricer: &mut Pricer) {
        self.record.reprice(self.now, pricer);
        for log in self.logs.values_mut() {
            for at in 0..log.entries.len() {
                log.price(at, pricer, self.scale);
            }
        }
    }

    /// Asks the record whether the model may be believed. If what own risks are multiplied by changes, figures everything
    /// anew and returns why. It rises at once, and falls when it is looked at.
    pub fn judge(&mut self, pricer: &mut Pricer) -> Option<Verdict> {
        let is_raised = self.scale.0 > 1.0;
        let may_fall = is_raised && self.now.since(self.judged) >= JUDGE_INTERVAL;
        if !self.record.take_news() && !may_fall {
            return None;
        }
        self.judged = self.now;
        let mut verdict = self.record.judge(self.now, pricer.confidence());
        verdict.factor = in_steps(verdict.factor);
        if verdict.factor == self.scale.0 {
            return None;
        }
        self.scale = Scale(verdict.factor);
        self.reprice(pricer);
        Some(verdict)
    }
}

/// The next power of 1.1: what changes less is not worth pricing all that is in flight.
fn in_steps(factor: f64) -> f64 {
    const STEP: f64 = 1.1;
    if factor.is_finite() { STEP.powf((factor.ln() / STEP.ln()).ceil()).max(factor) } else { factor }
}

impl Default for Scale {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Scale {
    fn times(self, own: Risk) -> Risk {
        if self.0 > 1.0 { Risk::bound(own.probability() * self.0) } else { own }
    }
}

impl Log {
    fn position(&self, number: u64) -> Result<usize, usize> {
        // Nearly all are inserted at the end.
        match self.entries.back() {
            Some(last) if last.number < number => Err(self.entries.len()),
            _ => self.entries.binary_search_by_key(&number, |entry| entry.number),
        }
    }

    /// Prices an entry; returns what the model says, unscaled.
    fn price(&mut self, at: usize, pricer: &mut Pricer, scale: Scale) -> Risk {
        let entry = &mut self.entries[at];
        let model = match &entry.wire {
            Some(wire) if wire.sent && wire.complete => pricer.covered(&wire.exposure, entry.since),
            Some(wire) if wire.sent => pricer.own(&wire.exposure, entry.since),
            // A symbol that has not left is lost whatever covers the others.
            _ => Risk::CERTAIN,
        };
        let own = scale.times(model);
        if own != entry.own {
            entry.own = own;
            self.stale = self.stale.min(at);
        }
        model
    }

    /// Makes `prefix` right up to the entry at `last`.
    fn sum_to(&mut self, last: usize) {
        if self.stale > last {
            return;
        }
        let before = self.stale.checked_sub(1).map_or(Risk::NONE, |at| self.entries[at].prefix);
        let mut prefix = before;
        for entry in self.entries.range_mut(self.stale..=last) {
            prefix = prefix.or(entry.own);
            entry.prefix = prefix;
        }
        self.stale = last + 1;
    }
}

/// How often a raise is looked at again. Each look that ends in a change prices all that is in flight.
const JUDGE_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use parhelion_code_reed_solomon::ReedSolomon;
    use parhelion_model_iid_bound::IidBound;
    use parhelion_plugin::{Channel, Code};
    use proptest::prelude::*;

    fn pricer(loss: f64) -> Pricer {
        let code = Code::new(Arc::new(ReedSolomon), &"r=8 c=3".parse().unwrap()).unwrap();
        Pricer::new(Arc::new(IidBound), code, vec![Channel::independent(loss, 0.999)])
    }

    fn key(log: u32, number: u64) -> RecordKey {
        RecordKey { log: LogId(log), number }
    }

    fn wire(symbols: u32, coverage: u64, sent: bool) -> WireState {
        let exposure = Exposure::steady(symbols, coverage, 8);
        WireState { exposure, sent, complete: coverage == 7 }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32, u64),
        Cover(u32, u64, u32, u64, bool),
        Confirm(u32, u64),
        EndSession,
        Channel(f64),
        Ask(u32, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (log, number) = (0_u32..3, 0_u64..40);
        prop_oneof![
            4 => (log.clone(), number.clone()).prop_map(|(l, n)| Step::Insert(l, n)),
            6 => (log.clone(), number.clone(), 1_u32..20, 0_u64..8, prop::bool::weighted(0.8))
                .prop_map(|(l, n, m, c, sent)| Step::Cover(l, n, m, c, sent)),
            1 => (log.clone(), number.clone()).prop_map(|(l, n)| Step::Confirm(l, n)),
            1 => Just(Step::EndSession),
            1 => (0.0..0.2).prop_map(Step::Channel),
            6 => (log, number).prop_map(|(l, n)| Step::Ask(l, n)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        #[test]
        fn agrees_with_a_map_that_sums_for_every_question(steps in prop::collection::vec(step(), 1..120)) {
            let mut ledger = Ledger::new();
            let mut pricer = pricer(0.01);
            let mut naive: BTreeMap<(u32, u64), Option<WireState>> = BTreeMap::new();
            let mut mirrored = [0; 3];
            for step in steps {
                match step {
                    Step::Insert(log, number) => {
                        ledger.insert(key(log, number), pricer.generation());
                        if number >= mirrored[log as usize] {
                            naive.entry((log, number)).or_default();
                        }
                    }
                    Step::Cover(log, number, symbols, coverage, sent) => {
                        let state = wire(symbols, coverage, sent);
                        ledger.cover(&mut pricer, key(log, number), state);
                        naive.entry((log, number)).and_modify(|wire| *wire = Some(state));
                    }
                    Step::Confirm(log, records) => {
                        ledger.confirm(&mut pricer, LogId(log), records);
                        let mark = &mut mirrored[log as usize];
                        *mark = records.max(*mark);
                        naive.retain(|&(l, n), _| l != log || n >= *mark);
                    }
                    Step::EndSession => {
                        ledger.end_session();
                        naive.clear();
                        mirrored = [0; 3];
                    }
                    Step::Channel(loss) => {
                        if pricer.set_channels(vec![Channel::independent(loss, 0.999)]) {
                            ledger.reprice(&mut pricer);
                        }
                    }
                    Step::Ask(log, number) => {
                        let risks = ledger.risk(key(log, number));
                        if number < mirrored[log as usize] {
                            let risks = risks.unwrap();
                            prop_assert!(risks.mirrored);
                            prop_assert!(risks.prefix == Risk::NONE && risks.own == Risk::NONE);
                        } else if let Some(wire) = naive.get(&(log, number)) {
                            let mut own = |wire: &Option<WireState>| match wire {
                                Some(wire) if wire.sent => pricer.own(&wire.exposure, pricer.generation()),
                                _ => Risk::CERTAIN,
                            };
                            let sum: f64 =
                                naive.range((log, 0)..=(log, number)).map(|(_, w)| own(w).probability()).sum();
                            let risks = risks.unwrap();
                            prop_assert_eq!(risks.own, own(wire));
                            prop_assert_eq!(risks.wire, *wire);
                            let expected = sum.min(1.0);
                            prop_assert!((risks.prefix.probability() - expected).abs() <= 1e-12 * expected);
                        } else {
                            prop_assert_eq!(risks, None);
                        }
                    }
                }
                prop_assert_eq!(ledger.len(), naive.len());
            }
        }
    }

    #[test]
    fn a_report_of_loss_raises_what_it_and_its_successors_risk() {
        let mut ledger = Ledger::new();
        let mut pricer = pricer(1e-3);
        for number in 0..2 {
            ledger.insert(key(1, number), pricer.generation());
            ledger.cover(&mut pricer, key(1, number), wire(8, 7, true));
        }
        let covered = ledger.risk(key(1, 1)).unwrap();
        assert!(covered.prefix.probability() < 1e-6);
        // Two of the first append's eight symbols are missing; then other copies of them leave; then one arrives.
        for (symbols, sent, own) in [(2, false, 1.0), (2, true, 2e-3), (1, true, 1e-3)] {
            let state = WireState { complete: sent, ..wire(symbols, 0, sent) };
            ledger.cover(&mut pricer, key(1, 0), state);
            let [first, second] = [0, 1].map(|number| ledger.risk(key(1, number)).unwrap());
            assert!((first.own.probability() / own - 1.0).abs() < 1e-9, "{first:?}");
            assert!(second.own == covered.own && second.prefix >= first.own, "{second:?}");
        }
        // The other one has arrived.
        ledger.cover(&mut pricer, key(1, 0), wire(8, 7, true));
        assert_eq!(ledger.risk(key(1, 1)).unwrap().prefix, covered.prefix);
    }

    #[test]
    fn small_risks_survive_large_neighbours() {
        let mut ledger = Ledger::new();
        let mut pricer = pricer(1e-4);
        for number in 0..2 {
            ledger.insert(key(1, number), pricer.generation());
        }
        ledger.cover(&mut pricer, key(1, 1), wire(1, 7, true));
        assert_eq!(ledger.risk(key(1, 1)).unwrap().prefix, Risk::CERTAIN, "its predecessor is not sent");
        ledger.confirm(&mut pricer, LogId(1), 1);
        let risks = ledger.risk(key(1, 1)).unwrap();
        assert!(risks.prefix == risks.own && risks.own.probability() < 1e-13);
    }

    #[test]
    #[allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a test of cost reads a clock")]
    fn a_batch_costs_one_pass() {
        // 20,000 in flight; a thousand rounds of a batch of 64 changes in the oldest records and of as many
        // questions. Quadratic in the batch this would be 1.3e9 additions more than the 2e7 that it is.
        let mut ledger = Ledger::new();
        let mut pricer = pricer(0.01);
        for number in 0..20_000 {
            ledger.insert(key(1, number), pricer.generation());
        }
        let started = std::time::Instant::now();
        for round in 0..1_000 {
            for number in 0..64 {
                ledger.cover(&mut pricer, key(1, number), wire(1, 1 + round % 7, true));
            }
            for number in 20_000 - 64..20_000 {
                assert_eq!(ledger.risk(key(1, number)).unwrap().prefix, Risk::CERTAIN);
            }
        }
        let elapsed = started.elapsed();
        println!("{:.1} us per batch of 64 changes and 64 questions", elapsed.as_secs_f64() * 1e3);
        assert!(elapsed.as_secs_f64() < 2.0, "{elapsed:?}");
    }
}

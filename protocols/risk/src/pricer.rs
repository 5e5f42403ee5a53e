//! A durability model with the channels and the codes it is asked about, and a memory of its answers.

use std::collections::HashMap;
use std::sync::Arc;

use parhelion_plugin::{Channel, Code, DurabilityModel, Exposure, Structure};
use parhelion_types::Risk;

/// Number of a code on the link, one more for each change. Says since when an append may be in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodeGeneration(u32);

/// Prices exposures. Appends of one size with the same coverage cost one evaluation of the model.
///
/// Of several channels that the link may be, the one that makes the figure largest counts: each is what one horizon of
/// the telemetry leaves possible, and a bound is wanted whichever of them holds now.
#[derive(Clone, Debug)]
pub struct Pricer {
    model: Arc<dyn DurabilityModel>,
    channels: Vec<Channel>,
    /// The newest codes, oldest first; the last is in force.
    codes: Vec<Code>,
    /// Generation of the code in force.
    newest: CodeGeneration,
    memo: HashMap<(CodeGeneration, Exposure), Risk>,
    /// Edition of the model's answers that the memory holds.
    edition: u64,
}

/// Answers that are remembered; beyond, all are forgotten at once. An entry is some 50 bytes.
const MEMO_MAX: usize = 4096;

/// Codes that are remembered. An append that outlives as many changes is not certified any more.
const CODES_MAX: usize = 8;

impl Pricer {
    /// Prices with `model` for a link that uses `code` and is like one of `channels`. Without any, nothing is promised.
    #[must_use]
    pub fn new(model: Arc<dyn DurabilityModel>, code: Code, channels: Vec<Channel>) -> Self {
        let edition = model.edition();
        Self { model, channels, codes: vec![code], newest: CodeGeneration(0), memo: HashMap::new(), edition }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<dyn DurabilityModel> {
        &self.model
    }

    /// The channels that figures are for.
    #[must_use]
    pub fn channels(&self) -> &[Channel] {
        &self.channels
    }

    /// P(all bounds of the channel that counts hold), whichever it is.
    #[must_use]
    pub fn confidence(&self) -> f64 {
        self.channels.iter().map(|channel| channel.confidence).fold(1.0, f64::min)
    }

    /// The code in force.
    #[must_use]
    pub fn code(&self) -> &Code {
        // `new` puts one in and nothing takes the last one out.
        &self.codes[self.codes.len() - 1]
    }

    /// Its structure.
    #[must_use]
    pub fn structure(&self) -> &Structure {
        self.code().structure()
    }

    /// Number of the code in force: what an append that is handed to the link now is inserted with.
    #[must_use]
    pub fn generation(&self) -> CodeGeneration {
        self.newest
    }

    /// Takes another belief about the channel. True if figures may differ: reprice what is in flight.
    pub fn set_channels(&mut self, channels: Vec<Channel>) -> bool {
        let changed = self.channels != channels;
        if changed {
            self.channels = channels;
            self.memo.clear();
        }
        changed
    }

    /// Takes the code that is in force for symbols from now on. Reprice what is in flight.
    pub fn set_code(&mut self, code: Code) {
        self.newest = CodeGeneration(self.newest.0 + 1);
        self.codes.push(code);
        if self.codes.len() > CODES_MAX {
            self.codes.remove(0);
        }
        self.memo.clear();
    }

    /// Asks the model whether its answers changed: work in the background may have improved some. True if so: reprice
    /// what is in flight.
    pub fn refresh(&mut self) -> bool {
        let edition = self.model.edition();
        let changed = self.edition != edition;
        if changed {
            self.edition = edition;
            self.memo.clear();
        }
        changed
    }

    /// P(lost) of an append all of whose symbols are on the wire, sent under the code of generation `since`
    /// or later.
    ///
    /// Its coverage does not tell which of its symbols went under which code, so each code that was in force
    /// prices all of them, and the figures add up (union bound over the parts of the append).
    pub fn own(&mut self, exposure: &Exposure, since: CodeGeneration) -> Risk {
        let Some(codes) = self.codes_since(since) else { return Risk::CERTAIN };
        if let Some(&known) = self.memo.get(&(since, *exposure)) {
            return known;
        }
        let risk = codes.iter().map(|code| self.worst(code, exposure)).fold(Risk::NONE, Risk::or);
        if self.memo.len() >= MEMO_MAX {
            self.memo.clear();
        }
        self.memo.insert((since, *exposure), risk);
        risk
    }

    /// P(lost) of an append whose coverage is complete, or whose repairs have failed: nothing will cover it any more.
    pub fn covered(&mut self, exposure: &Exposure, since: CodeGeneration) -> Risk {
        match exposure.coverage {
            0 => self.bare(exposure.symbols, since),
            _ => self.own(exposure, since),
        }
    }

    /// The figure of the channel that makes it largest.
    fn worst(&self, code: &Code, exposure: &Exposure) -> Risk {
        let each = self.channels.iter().map(|channel| self.model.own_risk(channel, code, exposure));
        each.reduce(|worst, risk| if risk > worst { risk } else { worst }).unwrap_or(Risk::CERTAIN)
    }

    /// Whether a code that was in force since then makes repairs.
    pub(crate) fn makes_repairs(&self, since: CodeGeneration) -> bool {
        let codes = self.codes_since(since).unwrap_or(&self.codes);
        codes.iter().any(|code| code.structure().repairs_per_symbol() > 0)
    }

    /// The codes that were in force since then, oldest first; none if that is more than are remembered.
    fn codes_since(&self, since: CodeGeneration) -> Option<&[Code]> {
        let codes = (self.newest.0.saturating_sub(since.0) as usize).saturating_add(1);
        self.codes.get(self.codes.len().checked_sub(codes)?..)
    }

    /// P(lost) of that many symbols which nothing covers, wherever in the stream they left. In a row they share bursts,
    /// which [`own`](Self::own) may count on; copies of lost ones leave when these are found missing (union bound).
    pub fn bare(&mut self, symbols: u32, since: CodeGeneration) -> Risk {
        let one = self.own(&Exposure::steady(1, 0, 0), since);
        Risk::bound(one.probability() * f64::from(symbols))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parhelion_code_reed_solomon::ReedSolomon;
    use parhelion_code_repetition::Repetition;
    use parhelion_model_gilbert_elliott::GilbertElliott;
    use parhelion_model_iid_bound::IidBound;
    use parhelion_plugin::{ErasureCode, Parameters};

    fn code(family: impl ErasureCode + 'static, parameters: &str) -> Code {
        let parameters: Parameters = parameters.parse().unwrap();
        Code::new(Arc::new(family), &parameters).unwrap()
    }

    fn block() -> Code {
        code(ReedSolomon, "r=8 c=3")
    }

    fn exposure(symbols: u32, coverage: u64) -> Exposure {
        Exposure::steady(symbols, coverage, 8)
    }

    fn independent(loss: f64) -> Vec<Channel> {
        vec![Channel::independent(loss, 0.999)]
    }

    fn pricer(loss: f64) -> Pricer {
        Pricer::new(Arc::new(IidBound), block(), independent(loss))
    }

    #[test]
    fn figures_follow_the_channel() {
        let mut pricer = pricer(0.01);
        let now = pricer.generation();
        let before = pricer.own(&exposure(8, 7), now);
        assert_eq!(pricer.own(&exposure(8, 7), now), before);
        assert!(!pricer.set_channels(independent(0.01)));
        assert!(pricer.set_channels(independent(0.05)));
        assert!(pricer.own(&exposure(8, 7), now) > before);
    }

    #[test]
    fn the_worst_of_several_channels_counts() {
        let channels = [Channel::independent(0.02, 0.999), Channel::bursty(0.001, 40.0, 0.99)];
        let price = |channels: &[Channel], coverage: u64| {
            let mut pricer = Pricer::new(Arc::new(GilbertElliott), block(), channels.to_vec());
            pricer.own(&exposure(8, coverage), pricer.generation())
        };
        // Bare, losses are what matters; with repairs, bursts are.
        assert!(price(&channels[..1], 0) > price(&channels[1..], 0));
        assert!(price(&channels[..1], 7) < price(&channels[1..], 7));
        for coverage in [0, 7] {
            let each = [price(&channels[..1], coverage), price(&channels[1..], coverage)];
            assert_eq!(price(&channels, coverage), if each[0] > each[1] { each[0] } else { each[1] });
        }
        assert_eq!(price(&[], 7), Risk::CERTAIN);
        assert_eq!(Pricer::new(Arc::new(IidBound), block(), channels.to_vec()).confidence(), 0.99);
    }

    #[test]
    fn an_append_that_saw_two_codes_pays_for_both() {
        let mut pricer = pricer(0.01);
        let old = pricer.generation();
        let alone = pricer.own(&exposure(8, 1), old).probability();
        pricer.set_code(code(Repetition, "copies=2 spacing=4"));
        let new = pricer.own(&exposure(8, 1), pricer.generation()).probability();
        let both = pricer.own(&exposure(8, 1), old).probability();
        assert!((both - alone - new).abs() < 1e-15);
        // After more changes than are remembered, nothing is promised.
        for _ in 0..CODES_MAX {
            pricer.set_code(block());
        }
        assert_eq!(pricer.own(&exposure(8, 1), old), Risk::CERTAIN);
        assert_eq!(pricer.own(&exposure(8, 1), pricer.generation()).probability(), alone);
    }

    #[test]
    fn bare_symbols_may_have_left_at_any_distance() {
        let channel = Channel::bursty(0.01, 5.0, 0.999);
        let mut pricer = Pricer::new(Arc::new(GilbertElliott), block(), vec![channel]);
        let now = pricer.generation();
        let one = pricer.bare(1, now).probability();
        assert!((one / 0.01 - 1.0).abs() < 1e-6, "{one}");
        // In a row they share bursts: the model's figure holds there, and not for copies sent one by one.
        let in_a_row = pricer.own(&exposure(4, 0), now).probability();
        assert!(in_a_row < 3.0 * one, "{in_a_row}");
        assert!((pricer.bare(4, now).probability() - 4.0 * one).abs() < 1e-12);
        assert_eq!(pricer.bare(u32::MAX, now), Risk::CERTAIN);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut pricer = pricer(0.01);
        for symbols in 1..=3 * MEMO_MAX as u32 {
            pricer.own(&exposure(symbols, 7), CodeGeneration(0));
            assert!(pricer.memo.len() <= MEMO_MAX);
        }
    }

    /// A model whose answer work improves.
    #[derive(Debug, Default)]
    struct Learner(std::sync::atomic::AtomicU64);

    impl DurabilityModel for Learner {
        fn name(&self) -> &str {
            "learner"
        }

        fn version(&self) -> u32 {
            1
        }

        fn own_risk(&self, _: &Channel, _: &Code, _: &Exposure) -> Risk {
            Risk::bound(0.5_f64.powi(self.edition() as i32))
        }

        fn work(&self) -> bool {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            true
        }

        fn edition(&self) -> u64 {
            self.0.load(std::sync::atomic::Ordering::Relaxed)
        }
    }

    #[test]
    fn better_answers_of_the_model_are_asked_for() {
        let model = Arc::new(Learner::default());
        let mut pricer = Pricer::new(model.clone(), block(), independent(0.01));
        let now = pricer.generation();
        assert_eq!(pricer.own(&exposure(8, 7), now), Risk::CERTAIN);
        assert!(!pricer.refresh());
        model.work();
        assert_eq!(pricer.own(&exposure(8, 7), now), Risk::CERTAIN, "remembered");
        assert!(pricer.refresh() && !pricer.refresh());
        assert_eq!(pricer.own(&exposure(8, 7), now), Risk::bound(0.5));
    }
}

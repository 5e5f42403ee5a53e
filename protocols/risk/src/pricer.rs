//! A durability model with the channel and the codes it is asked about, and a memory of its answers.

use std::collections::HashMap;
use std::sync::Arc;

use parhelion_plugin::{Channel, DurabilityModel, Exposure, Structure};
use parhelion_types::Risk;

/// Number of a code on the link, one more for each change. Says since when an append may be in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodeGeneration(u32);

/// Prices exposures. Appends of one size with the same coverage cost one evaluation of the model.
#[derive(Clone, Debug)]
pub struct Pricer {
    model: Arc<dyn DurabilityModel>,
    channel: Channel,
    /// The newest codes, oldest first; the last is in force.
    structures: Vec<Structure>,
    /// Generation of the code in force.
    newest: CodeGeneration,
    memo: HashMap<(CodeGeneration, Exposure), Risk>,
}

/// Answers that are remembered; beyond, all are forgotten at once. An entry is some 50 bytes.
const MEMO_MAX: usize = 4096;

/// Codes that are remembered. An append that outlives as many changes is not certified any more.
const CODES_MAX: usize = 8;

impl Pricer {
    /// Prices with `model` for a link that uses `structure` and is like `channel`.
    #[must_use]
    pub fn new(model: Arc<dyn DurabilityModel>, structure: Structure, channel: Channel) -> Self {
        Self { model, channel, structures: vec![structure], newest: CodeGeneration(0), memo: HashMap::new() }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<dyn DurabilityModel> {
        &self.model
    }

    /// The channel that figures are for.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The code in force.
    #[must_use]
    pub fn structure(&self) -> &Structure {
        // `new` puts one in and nothing takes the last one out.
        &self.structures[self.structures.len() - 1]
    }

    /// Number of the code in force: what an append that is handed to the link now is inserted with.
    #[must_use]
    pub fn generation(&self) -> CodeGeneration {
        self.newest
    }

    /// Takes another belief about the channel. True if figures may differ: reprice what is in flight.
    pub fn set_channel(&mut self, channel: Channel) -> bool {
        let changed = self.channel != channel;
        if changed {
            self.channel = channel;
            self.memo.clear();
        }
        changed
    }

    /// Takes the code that is in force for symbols from now on. Reprice what is in flight.
    pub fn set_structure(&mut self, structure: Structure) {
        self.newest = CodeGeneration(self.newest.0 + 1);
        self.structures.push(structure);
        if self.structures.len() > CODES_MAX {
            self.structures.remove(0);
        }
        self.memo.clear();
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
        let risk = codes
            .iter()
            .map(|code| self.model.own_risk(&self.channel, code, exposure))
            .fold(Risk::NONE, Risk::or);
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

    /// Whether a code that was in force since then makes repairs.
    pub(crate) fn makes_repairs(&self, since: CodeGeneration) -> bool {
        let codes = self.codes_since(since).unwrap_or(&self.structures);
        codes.iter().any(|code| code.repairs_per_symbol() > 0)
    }

    /// The codes that were in force since then, oldest first; none if that is more than are remembered.
    fn codes_since(&self, since: CodeGeneration) -> Option<&[Structure]> {
        let codes = (self.newest.0.saturating_sub(since.0) as usize).saturating_add(1);
        self.structures.get(self.structures.len().checked_sub(codes)?..)
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
    use parhelion_model_gilbert_elliott::GilbertElliott;
    use parhelion_model_iid_bound::IidBound;

    const BLOCK: Structure = Structure::Block { r: 8, c: 3, depth: 1 };

    fn exposure(symbols: u32, coverage: u64) -> Exposure {
        Exposure::steady(symbols, coverage, 8)
    }

    fn pricer(loss: f64) -> Pricer {
        Pricer::new(Arc::new(IidBound), BLOCK, Channel::independent(loss, 0.999))
    }

    #[test]
    fn figures_follow_the_channel() {
        let mut pricer = pricer(0.01);
        let now = pricer.generation();
        let before = pricer.own(&exposure(8, 7), now);
        assert_eq!(pricer.own(&exposure(8, 7), now), before);
        assert!(!pricer.set_channel(Channel::independent(0.01, 0.999)));
        assert!(pricer.set_channel(Channel::independent(0.05, 0.999)));
        assert!(pricer.own(&exposure(8, 7), now) > before);
    }

    #[test]
    fn an_append_that_saw_two_codes_pays_for_both() {
        let mut pricer = pricer(0.01);
        let old = pricer.generation();
        let alone = pricer.own(&exposure(8, 1), old).probability();
        pricer.set_structure(Structure::Repetition { copies: 2, spacing: 4 });
        let new = pricer.own(&exposure(8, 1), pricer.generation()).probability();
        let both = pricer.own(&exposure(8, 1), old).probability();
        assert!((both - alone - new).abs() < 1e-15);
        // After more changes than are remembered, nothing is promised.
        for _ in 0..CODES_MAX {
            pricer.set_structure(BLOCK);
        }
        assert_eq!(pricer.own(&exposure(8, 1), old), Risk::CERTAIN);
        assert_eq!(pricer.own(&exposure(8, 1), pricer.generation()).probability(), alone);
    }

    #[test]
    fn bare_symbols_may_have_left_at_any_distance() {
        let channel = Channel::bursty(0.01, 5.0, 0.999);
        let mut pricer = Pricer::new(Arc::new(GilbertElliott), BLOCK, channel);
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
}

//! A code under examination, and the list of what it is examined for.

use crate::code::{Decoder, ErasureCode, Structure};
use crate::conformance::examination::{Effort, Memory};
use crate::conformance::random::SplitMix64;
use crate::conformance::stream::{Outcome, Stream, Traffic};
use crate::conformance::{Report, arrivals, damage, endurance, losses, repairs};
use crate::parameters::Parameters;

/// Every check with the name of the promise it tests, cheap ones first.
pub(super) const CHECKS: [(&str, Check); 15] = [
    ("schema", repairs::schema),
    ("determinism", repairs::determinism),
    ("coverage", repairs::coverage),
    ("coverage claims", losses::coverage_claims),
    ("losses", losses::losses),
    ("bursts", losses::bursts),
    ("order and duplicates", arrivals::order),
    ("heavy loss", arrivals::heavy_loss),
    ("first ids", arrivals::first_ids),
    ("symbol sizes", arrivals::sizes),
    ("epoch change", arrivals::epoch_change),
    ("expiry", arrivals::expiry),
    ("damage", damage::damage),
    ("noise", damage::noise),
    ("endurance", endurance::endurance),
];

/// Says what is wrong.
pub(super) type Check = fn(&mut Trial<'_>) -> Result<(), String>;

/// Small symbols keep the kit fast; the odd size leaves a tail for vector loops.
pub(super) const SYMBOL_BYTES: usize = 19;

/// A code under examination.
pub(super) struct Trial<'a> {
    pub code: &'a dyn ErasureCode,
    pub parameters: &'a Parameters,
    pub structure: Structure,
    pub random: SplitMix64,
    pub effort: Effort,
    pub memory: Option<Memory<'a>>,
    pub report: Report,
}

impl<'a> Trial<'a> {
    pub fn new(
        code: &'a dyn ErasureCode,
        parameters: &'a Parameters,
        seed: u64,
        effort: Effort,
        memory: Option<Memory<'a>>,
    ) -> Result<Self, String> {
        let structure = code.structure(parameters).map_err(|e| e.to_string())?;
        let report = Report { exhaustive: true, ..Report::default() };
        Ok(Self { code, parameters, structure, random: SplitMix64::new(seed), effort, memory, report })
    }

    /// Packets that one check may decode: in full a second or so.
    pub fn packets(&self) -> usize {
        self.some(6_000_000, 60_000)
    }

    /// As much as the effort allows.
    pub fn some(&self, full: usize, quick: usize) -> usize {
        match self.effort {
            Effort::Full => full,
            Effort::Quick => quick,
        }
    }

    pub fn encode(&mut self, traffic: Traffic) -> Result<Stream, String> {
        self.encode_sized(Traffic { symbol_bytes: SYMBOL_BYTES, ..traffic })
    }

    /// As [`Trial::encode`], with the size of symbols that the traffic names.
    pub fn encode_sized(&mut self, traffic: Traffic) -> Result<Stream, String> {
        self.report.streams += 1;
        let traffic = Traffic { seed: self.random.next_u64(), ..traffic };
        Stream::encode(self.code, self.parameters, &traffic).map_err(|e| e.to_string())
    }

    pub fn decoder(&self) -> Result<Box<dyn Decoder>, String> {
        self.code.decoder(self.parameters, SYMBOL_BYTES).map_err(|e| e.to_string())
    }

    /// Delivers `order` to a new decoder; what stayed missing.
    pub fn deliver(
        &mut self,
        stream: &Stream,
        order: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<u64>, String> {
        let mut decoder = self.decoder()?;
        self.deliver_to(decoder.as_mut(), stream, order)
    }

    /// Delivers `order`; what stayed missing.
    pub fn deliver_to(
        &mut self,
        decoder: &mut dyn Decoder,
        stream: &Stream,
        order: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<u64>, String> {
        let mut outcome = Outcome::new(stream);
        for at in order {
            outcome.arrive(decoder, at)?;
        }
        self.report.patterns += 1;
        self.report.recovered += outcome.recovered;
        Ok(outcome.missing())
    }

    /// Delivers all but `lost`, which is sorted; everything must be rebuilt.
    pub fn survive(&mut self, stream: &Stream, lost: &[usize]) -> Result<(), String> {
        let mut decoder = self.decoder()?;
        self.survive_with(decoder.as_mut(), stream, lost)
    }

    /// As [`Trial::survive`], with a decoder that is new.
    pub fn survive_with(
        &mut self,
        decoder: &mut dyn Decoder,
        stream: &Stream,
        lost: &[usize],
    ) -> Result<(), String> {
        let order = (0..stream.packets.len()).filter(|at| lost.binary_search(at).is_err());
        let missing = self.deliver_to(decoder, stream, order)?;
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!("lost {:?} and could not rebuild {missing:?}", stream.kinds(lost)))
    }

    pub fn span(&self) -> usize {
        self.structure.span_symbols() as usize
    }

    /// Symbols that fit a decoder's window whatever the order they come in.
    pub fn half_window(&self) -> usize {
        self.structure.window_symbols().unwrap_or(0) / 2
    }
}

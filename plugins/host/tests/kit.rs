//! The conformance kit finds what is wrong with a code: each fault is put into a good one.

use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_plugin::conformance::check;
use parhelion_plugin::{
    Decoder, Encoder, ErasureCode, Parameter, ParameterError, Parameters, RecoveredSink, RepairHead,
    RepairSink, Structure, SymbolError,
};

/// A way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// The encoder loses one repair in fifty.
    RepairForgotten,
    /// The encoder spoils a bit of one repair in fifty.
    RepairSpoiled,
    /// The encoder leaves delayed repairs behind when it flushes.
    FlushForgotten,
    /// The decoder ignores a repair that came before its symbols.
    RepairDropped,
    /// The decoder reports each symbol twice.
    ReportedTwice,
    /// The decoder forgets that symbols expired.
    ExpiryIgnored,
    /// The decoder takes any repair without complaint.
    AnythingTaken,
    /// The structure promises bursts that the code does not survive.
    DelayPromised,
}

#[derive(Debug)]
struct Faulty(Fault);

impl ErasureCode for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn version(&self) -> u32 {
        1
    }

    fn parameters(&self) -> &'static [Parameter] {
        LayeredInterleaving.parameters()
    }

    fn structure(&self, parameters: &Parameters) -> Result<Structure, ParameterError> {
        let structure = LayeredInterleaving.structure(parameters)?;
        Ok(match structure {
            Structure::Layered { r, interleaves, .. } if self.0 == Fault::DelayPromised => {
                Structure::Layered { r, interleaves, delayed: true }
            }
            other => other,
        })
    }

    fn encoder(
        &self,
        parameters: &Parameters,
        symbol_bytes: usize,
    ) -> Result<Box<dyn Encoder>, ParameterError> {
        let inner = LayeredInterleaving.encoder(parameters, symbol_bytes)?;
        Ok(Box::new(FaultyEncoder { inner, fault: self.0, repairs: 0 }))
    }

    fn decoder(
        &self,
        parameters: &Parameters,
        symbol_bytes: usize,
    ) -> Result<Box<dyn Decoder>, ParameterError> {
        let inner = LayeredInterleaving.decoder(parameters, symbol_bytes)?;
        Ok(Box::new(FaultyDecoder { inner, fault: self.0, newest: 0 }))
    }
}

struct FaultyEncoder {
    inner: Box<dyn Encoder>,
    fault: Fault,
    repairs: u32,
}

struct Through<'a> {
    out: &'a mut dyn RepairSink,
    fault: Fault,
    repairs: &'a mut u32,
}

impl RepairSink for Through<'_> {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        *self.repairs += 1;
        let turn = self.repairs.is_multiple_of(50);
        let mut payload = payload.to_vec();
        match self.fault {
            Fault::RepairForgotten if turn => return,
            Fault::RepairSpoiled if turn => payload[0] ^= 1,
            _ => {}
        }
        self.out.repair(head, &payload);
    }
}

impl Encoder for FaultyEncoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RepairSink) {
        let mut out = Through { out, fault: self.fault, repairs: &mut self.repairs };
        self.inner.source(id, payload, &mut out);
    }

    fn flush(&mut self, out: &mut dyn RepairSink) {
        if self.fault != Fault::FlushForgotten {
            self.inner.flush(&mut Through { out, fault: self.fault, repairs: &mut self.repairs });
        }
    }
}

struct FaultyDecoder {
    inner: Box<dyn Decoder>,
    fault: Fault,
    newest: u64,
}

struct Twice<'a>(&'a mut dyn RecoveredSink);

impl RecoveredSink for Twice<'_> {
    fn recovered(&mut self, id: u64, payload: &[u8]) {
        self.0.recovered(id, payload);
        self.0.recovered(id, payload);
    }
}

impl Decoder for FaultyDecoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RecoveredSink) {
        self.newest = self.newest.max(id);
        self.inner.source(id, payload, out);
    }

    fn repair(
        &mut self,
        head: RepairHead,
        payload: &[u8],
        out: &mut dyn RecoveredSink,
    ) -> Result<(), SymbolError> {
        match self.fault {
            Fault::RepairDropped if head.cover.ids().any(|id| id > self.newest) => Ok(()),
            Fault::ReportedTwice => self.inner.repair(head, payload, &mut Twice(out)),
            Fault::AnythingTaken => self.inner.repair(head, payload, out).or(Ok(())),
            _ => self.inner.repair(head, payload, out),
        }
    }

    fn expire(&mut self, id: u64) {
        if self.fault != Fault::ExpiryIgnored {
            self.inner.expire(id);
        }
    }
}

/// The promise that a code with `fault` breaks first.
fn broken(fault: Fault) -> Option<&'static str> {
    let parameters = Parameters::new().with("r", &[4]).with("interleaves", &[1, 5, 23]).with("delayed", &[0]);
    check(&Faulty(fault), &parameters, 51).err().map(|violation| violation.promise)
}

#[test]
fn every_fault_is_found() {
    assert_eq!(broken(Fault::None), None);
    assert_eq!(broken(Fault::RepairForgotten), Some("coverage"));
    assert_eq!(broken(Fault::RepairSpoiled), Some("coverage claims"));
    assert_eq!(broken(Fault::FlushForgotten), Some("coverage"));
    assert_eq!(broken(Fault::RepairDropped), Some("coverage claims"));
    assert_eq!(broken(Fault::ReportedTwice), Some("coverage claims"));
    assert_eq!(broken(Fault::ExpiryIgnored), Some("expiry"));
    assert_eq!(broken(Fault::AnythingTaken), Some("damage"));
    assert_eq!(broken(Fault::DelayPromised), Some("bursts"));
}

#[test]
fn a_violation_says_how_to_reproduce_it() {
    let parameters = Parameters::new().with("r", &[4]);
    let text = check(&Faulty(Fault::FlushForgotten), &parameters, 52).unwrap_err().to_string();
    assert!(text.starts_with("code faulty (r=4) fails conformance, coverage: "), "{text}");
    assert!(text.ends_with("reproduce with seed 52"), "{text}");
}

//! No code: source symbols travel alone, and only retransmission brings back what is lost.
//!
//! It is what the paper's plain local-sync and remote-sync run on (SMFS section 3.1), and the baseline
//! against which the cost of a code is measured.
//!
//! # Guarantee
//! None. The coverage of a symbol is complete, and empty, as soon as the symbol itself is on the wire, so
//! a durability model gives the raw loss rate of the channel as the risk.

use parhelion_plugin::{
    Decoder, Encoder, ErasureCode, Parameter, ParameterError, Parameters, RecoveredSink, RepairHead,
    RepairSink, Structure, SymbolError,
};

/// The code that sends no repair symbols.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCode;

impl ErasureCode for NoCode {
    fn name(&self) -> &str {
        "none"
    }

    fn version(&self) -> u32 {
        1
    }

    fn parameters(&self) -> &[Parameter] {
        &[]
    }

    fn structure(&self, parameters: &Parameters) -> Result<Structure, ParameterError> {
        parameters.check(self.parameters())?;
        Ok(Structure::None)
    }

    fn encoder(
        &self,
        parameters: &Parameters,
        _symbol_bytes: usize,
    ) -> Result<Box<dyn Encoder>, ParameterError> {
        self.structure(parameters)?;
        Ok(Box::new(Silent))
    }

    fn decoder(
        &self,
        parameters: &Parameters,
        _symbol_bytes: usize,
    ) -> Result<Box<dyn Decoder>, ParameterError> {
        self.structure(parameters)?;
        Ok(Box::new(Silent))
    }
}

/// Encoder and decoder at once: neither has anything to say.
struct Silent;

impl Encoder for Silent {
    fn source(&mut self, _id: u64, _payload: &[u8], _out: &mut dyn RepairSink) {}

    fn flush(&mut self, _out: &mut dyn RepairSink) {}
}

impl Decoder for Silent {
    fn source(&mut self, _id: u64, _payload: &[u8], _out: &mut dyn RecoveredSink) {}

    fn repair(
        &mut self,
        head: RepairHead,
        _payload: &[u8],
        _out: &mut dyn RecoveredSink,
    ) -> Result<(), SymbolError> {
        Err(SymbolError::Head(head))
    }

    fn expire(&mut self, _id: u64) {}
}

#[cfg(test)]
mod tests {
    use parhelion_plugin::{Cover, conformance};

    use super::*;

    #[test]
    fn it_conforms() {
        let report = conformance::check(&NoCode, &Parameters::new(), 1).unwrap();
        assert!(report.exhaustive && report.recovered == 0);
    }

    #[test]
    fn every_repair_is_refused() {
        struct Nothing;
        impl RecoveredSink for Nothing {
            fn recovered(&mut self, id: u64, _payload: &[u8]) {
                panic!("recovered {id} from nothing");
            }
        }
        let head = RepairHead { cover: Cover { first: 0, stride: 1, count: 1 }, index: 0 };
        let mut decoder = NoCode.decoder(&Parameters::new(), 10).unwrap();
        assert_eq!(decoder.repair(head, &[1], &mut Nothing), Err(SymbolError::Head(head)));
    }
}

//! A code with its parameters: what is in force on a link.

use std::fmt;
use std::sync::Arc;

use crate::code::{Decoder, Encoder, ErasureCode, Structure};
use crate::parameters::{ParameterError, Parameters};

/// An [`ErasureCode`] and parameters that fit it. Cloning shares the code.
///
/// Two are equal if name, version and parameters are: then they make the same repair symbols.
#[derive(Clone)]
pub struct Code {
    family: Arc<dyn ErasureCode>,
    parameters: Parameters,
    structure: Structure,
}

impl Code {
    /// The code with these parameters, and its defaults for those that are not given.
    ///
    /// # Errors
    /// As [`ErasureCode::structure`].
    pub fn new(family: Arc<dyn ErasureCode>, given: &Parameters) -> Result<Self, ParameterError> {
        let structure = family.structure(given)?;
        let parameters = given.complete(family.parameters());
        Ok(Self { family, parameters, structure })
    }

    /// The code without its parameters.
    #[must_use]
    pub fn family(&self) -> &Arc<dyn ErasureCode> {
        &self.family
    }

    /// The name of the code.
    #[must_use]
    pub fn name(&self) -> &str {
        self.family.name()
    }

    /// The version of the code.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.family.version()
    }

    /// All its parameters.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// What the parameters mean for coverage and for the models.
    #[must_use]
    pub fn structure(&self) -> &Structure {
        &self.structure
    }

    /// An encoder for symbols of at most `symbol_bytes` bytes.
    ///
    /// # Errors
    /// As [`ErasureCode::encoder`].
    pub fn encoder(&self, symbol_bytes: usize) -> Result<Box<dyn Encoder>, ParameterError> {
        self.family.encoder(&self.parameters, symbol_bytes)
    }

    /// The decoder that undoes that encoder.
    ///
    /// # Errors
    /// As [`ErasureCode::decoder`].
    pub fn decoder(&self, symbol_bytes: usize) -> Result<Box<dyn Decoder>, ParameterError> {
        self.family.decoder(&self.parameters, symbol_bytes)
    }
}

impl PartialEq for Code {
    fn eq(&self, other: &Self) -> bool {
        (self.name(), self.version(), &self.parameters) == (other.name(), other.version(), &other.parameters)
    }
}

impl Eq for Code {}

impl fmt::Display for Code {
    /// `layered-interleaving v1 delayed=1 interleaves=1:23:101 r=8`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}", self.name(), self.version())?;
        if self.parameters.iter().next().is_some() {
            write!(f, " {}", self.parameters)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({self})")
    }
}

//! Erasure codes of plugins.

use std::fmt;

use parhelion_plugin::{Decoder, Encoder, ErasureCode, Parameter, ParameterError, Parameters, Structure};
use parhelion_plugin_sdk as sdk;

use crate::coder::{Instance, PluginDecoder, PluginEncoder};
use crate::description::Description;
use crate::flat::checked;
use crate::load::LoadError;

/// What runs a plugin's code.
pub trait CodeEngine: Send + Sync + fmt::Debug {
    /// An encoder or decoder.
    type Instance: Instance + 'static;

    /// What the plugin says these values mean.
    ///
    /// # Errors
    /// The plugin's reason for refusing them, or what happened when it broke.
    fn structure(&self, values: &[u32]) -> Result<sdk::Structure, String>;

    /// An encoder for values of this structure, and symbols of at most `symbol_bytes` bytes.
    ///
    /// # Errors
    /// Why there is none.
    fn encoder(
        &self,
        values: &[u32],
        structure: &Structure,
        symbol_bytes: usize,
    ) -> Result<Self::Instance, String>;

    /// As [`CodeEngine::encoder`].
    ///
    /// # Errors
    /// Why there is none.
    fn decoder(
        &self,
        values: &[u32],
        structure: &Structure,
        symbol_bytes: usize,
    ) -> Result<Self::Instance, String>;
}

/// An erasure code of a plugin.
#[derive(Debug)]
pub struct PluginCode<E> {
    description: Description,
    engine: E,
}

impl<E: CodeEngine> PluginCode<E> {
    /// The code; its default parameters are tried first.
    ///
    /// # Errors
    /// It refuses its own defaults, or breaks.
    pub fn new(description: Description, engine: E) -> Result<Self, LoadError> {
        let code = Self { description, engine };
        code.checked(&Parameters::new()).map_err(|error| LoadError::Broke(error.to_string()))?;
        Ok(code)
    }

    fn checked(&self, parameters: &Parameters) -> Result<(Vec<u32>, Structure), ParameterError> {
        parameters.check(&self.description.parameters)?;
        let values = self.description.values(parameters);
        let structure = self.engine.structure(&values).map_err(|reason| self.conflict(reason))?;
        let structure = checked(&structure)
            .map_err(|what| self.conflict(format!("says that its structure is {what}")))?;
        Ok((values, structure))
    }

    fn conflict(&self, what: impl fmt::Display) -> ParameterError {
        ParameterError::Conflict(format!("{} {what}", self.label()))
    }

    fn label(&self) -> String {
        format!("code {} v{}", self.description.name, self.description.version)
    }
}

impl<E: CodeEngine> ErasureCode for PluginCode<E> {
    fn name(&self) -> &str {
        &self.description.name
    }

    fn version(&self) -> u32 {
        self.description.version
    }

    fn parameters(&self) -> &[Parameter] {
        &self.description.parameters
    }

    fn structure(&self, parameters: &Parameters) -> Result<Structure, ParameterError> {
        Ok(self.checked(parameters)?.1)
    }

    fn encoder(
        &self,
        parameters: &Parameters,
        symbol_bytes: usize,
    ) -> Result<Box<dyn Encoder>, ParameterError> {
        let (values, structure) = self.checked(parameters)?;
        let instance = self.engine.encoder(&values, &structure, symbol_bytes);
        let instance = instance.map_err(|why| self.conflict(format!("makes no encoder: {why}")))?;
        Ok(Box::new(PluginEncoder::new(instance, self.label(), &structure, symbol_bytes)))
    }

    fn decoder(
        &self,
        parameters: &Parameters,
        symbol_bytes: usize,
    ) -> Result<Box<dyn Decoder>, ParameterError> {
        let (values, structure) = self.checked(parameters)?;
        let instance = self.engine.decoder(&values, &structure, symbol_bytes);
        let instance = instance.map_err(|why| self.conflict(format!("makes no decoder: {why}")))?;
        Ok(Box::new(PluginDecoder::new(instance, self.label(), &structure, symbol_bytes)))
    }
}

//! Plugins against the conformance kit.

use std::sync::Arc;

use parhelion_plugin::conformance::{
    Effort, Examination, Memory, ModelReport, ModelViolation, Report, Step, Violation, check_model,
};
use parhelion_plugin::{Code, DurabilityModel, ErasureCode, ParameterError, Parameters};
use parhelion_plugin_host::{Catalogue, Loaded};

/// What an examination found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A code that keeps its promises.
    Code(Report),
    /// A durability model that keeps its promises.
    Model(ModelReport),
}

/// Why a plugin does not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refutation {
    /// The code does not accept the parameters: nothing was examined.
    #[error("the parameters do not fit: {0}")]
    Parameters(#[from] ParameterError),
    /// A durability model was given parameters.
    #[error("a durability model has no parameters; leave {0} out")]
    Unwanted(String),
    /// The code breaks a promise.
    #[error(transparent)]
    Code(#[from] Violation),
    /// The model breaks a promise.
    #[error(transparent)]
    Model(#[from] ModelViolation),
}

impl Refutation {
    /// Whether the plugin is at fault, and not the one who asks.
    #[must_use]
    pub fn is_of_the_plugin(&self) -> bool {
        matches!(self, Self::Code(_) | Self::Model(_))
    }

    /// The promise that is broken.
    #[must_use]
    pub fn promise(&self) -> Option<&'static str> {
        match self {
            Self::Code(violation) => Some(violation.promise),
            Self::Model(violation) => Some(violation.promise),
            Self::Parameters(_) | Self::Unwanted(_) => None,
        }
    }
}

/// Examines a plugin in full, and looks at the resident memory of this process, which also has that of plugins in C and
/// in WebAssembly. `watch` hears of each promise before it is looked at.
///
/// # Errors
/// What the plugin breaks first, or parameters that do not fit.
pub fn examine(
    plugin: &Loaded,
    parameters: &Parameters,
    seed: u64,
    watch: &mut dyn FnMut(Step),
) -> Result<Finding, Refutation> {
    let held = || resident_bytes().unwrap_or(0);
    let memory = Memory { held: &held, slack: RESIDENT_SLACK_BYTES, unit: "bytes" };
    match plugin {
        Loaded::Code(code) => {
            code.structure(parameters)?;
            // All of them, so that a violation names what was examined.
            let parameters = &parameters.complete(code.parameters());
            let examination = Examination::new(seed, Effort::Full).with_memory(memory).watched_by(watch);
            Ok(Finding::Code(examination.run(code.as_ref(), parameters)?))
        }
        Loaded::Model(_) if parameters.iter().next().is_some() => {
            Err(Refutation::Unwanted(parameters.to_string()))
        }
        Loaded::Model(model) => {
            Ok(Finding::Model(check_model(model.as_ref(), &built_in_codes(), seed, Effort::Full)?))
        }
    }
}

/// Examines a plugin in the quick form, for the moment when a node loads it: a code with its defaults, a model with the
/// built-in codes.
///
/// # Errors
/// What the plugin breaks first.
pub fn examine_quickly(plugin: &Loaded, seed: u64) -> Result<Finding, Refutation> {
    match plugin {
        Loaded::Code(code) => examine_code_quickly(code, seed),
        Loaded::Model(model) => examine_model_quickly(model, seed),
    }
}

fn examine_code_quickly(code: &Arc<dyn ErasureCode>, seed: u64) -> Result<Finding, Refutation> {
    Ok(Finding::Code(Examination::new(seed, Effort::Quick).run(code.as_ref(), &Parameters::new())?))
}

fn examine_model_quickly(model: &Arc<dyn DurabilityModel>, seed: u64) -> Result<Finding, Refutation> {
    Ok(Finding::Model(check_model(model.as_ref(), &built_in_codes(), seed, Effort::Quick)?))
}

/// The built-in codes with their defaults.
pub(crate) fn built_in_codes() -> Vec<Code> {
    let catalogue = Catalogue::built_in();
    catalogue.codes().filter_map(|family| Code::new(Arc::clone(family), &Parameters::new()).ok()).collect()
}

/// Growth of the resident memory that means nothing: allocators keep some in hand. A plugin that keeps 16 bytes of
/// each symbol grows by more.
const RESIDENT_SLACK_BYTES: u64 = 2 << 20;

/// Resident memory of this process; none where `/proc` does not tell.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

/// Pages have this size, or a larger one: then growth is understated, and what is found is true all the same.
const PAGE_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_told() {
        // Other tests run beside this one, so only the least and the most are known.
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let bytes = resident_bytes().unwrap();
        assert!((block.len() as u64..1 << 40).contains(&bytes), "{bytes}");
    }
}

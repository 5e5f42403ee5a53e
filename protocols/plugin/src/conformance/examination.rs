//! How a code is examined: how thoroughly, with which seed, and who watches.

use crate::code::ErasureCode;
use crate::conformance::trial::{CHECKS, Trial};
use crate::conformance::{Report, Violation};
use crate::parameters::Parameters;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Every promise, each on a few streams: well below a second. For the moment when a node loads a plugin.
    Quick,
    /// Every pattern of losses where there are few of them, thousands where there are many: seconds.
    Full,
}

/// What must not grow while symbols keep coming. A library cannot see what another one allocates, so the caller says
/// how: bytes held or allocations so far by the allocator of a test, or the resident memory of the process, which also
/// has that of plugins in C and in WebAssembly.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    /// How much there is now.
    pub held: &'a dyn Fn() -> u64,
    /// Growth that means nothing.
    pub slack: u64,
    /// What is counted, such as "bytes".
    pub unit: &'static str,
}

/// An examination of a code; see the [module](crate::conformance).
pub struct Examination<'a> {
    seed: u64,
    effort: Effort,
    memory: Option<Memory<'a>>,
    watch: Option<&'a mut dyn FnMut(Step)>,
}

/// Where an examination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The promise that is looked at next.
    pub promise: &'static str,
    /// Promises that were kept.
    pub kept: usize,
    /// All promises.
    pub promises: usize,
    /// What was done so far.
    pub report: Report,
}

impl<'a> Examination<'a> {
    /// With this seed and effort.
    #[must_use]
    pub fn new(seed: u64, effort: Effort) -> Self {
        Self { seed, effort, memory: None, watch: None }
    }

    /// Also looks at memory.
    #[must_use]
    pub fn with_memory(self, memory: Memory<'a>) -> Self {
        Self { memory: Some(memory), ..self }
    }

    /// Tells of each promise before it is looked at.
    #[must_use]
    pub fn watched_by(self, watch: &'a mut dyn FnMut(Step)) -> Self {
        Self { watch: Some(watch), ..self }
    }

    /// Holds `code` with `parameters` against its structure.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub fn run(self, code: &dyn ErasureCode, parameters: &Parameters) -> Result<Report, Violation> {
        let Self { seed, effort, memory, mut watch } = self;
        let violation = |promise, detail| Violation {
            code: code.name().to_owned(),
            parameters: parameters.to_string(),
            promise,
            detail,
            seed,
        };
        let trial = Trial::new(code, parameters, seed, effort, memory);
        let mut trial = trial.map_err(|detail| violation("parameters", detail))?;
        for (kept, (promise, check)) in CHECKS.into_iter().enumerate() {
            if let Some(watch) = &mut watch {
                watch(Step { promise, kept, promises: CHECKS.len(), report: trial.report });
            }
            check(&mut trial).map_err(|detail| violation(promise, detail))?;
        }
        Ok(trial.report)
    }
}

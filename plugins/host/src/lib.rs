//! The plugins that a node knows: erasure codes and durability models, by name.
//!
//! Everything else in Parhelion knows codes and models as trait objects. Here alone is a list of them, so a new one
//! is a crate and one line below.
//!
//! ```
//! use parhelion_plugin::Parameters;
//! use parhelion_plugin_host::Catalogue;
//!
//! let catalogue = Catalogue::built_in();
//! let code = catalogue.code("layered-interleaving").unwrap();
//! let parameters: Parameters = "r=8 interleaves=1:11:101".parse().unwrap();
//! assert_eq!(code.structure(&parameters).unwrap().repairs_per_symbol(), 3);
//!
//! let error = catalogue.code("reed-salomon").unwrap_err();
//! assert_eq!(error.nearest.as_deref(), Some("reed-solomon"));
//! ```

use std::fmt;
use std::sync::Arc;

use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_none::NoCode;
use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_code_repetition::Repetition;
use parhelion_model_gilbert_elliott::GilbertElliott;
use parhelion_model_iid_bound::IidBound;
use parhelion_plugin::{DurabilityModel, ErasureCode};

/// Codes and models by name. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    codes: Vec<Arc<dyn ErasureCode>>,
    models: Vec<Arc<dyn DurabilityModel>>,
}

impl Catalogue {
    /// The codes and models that are compiled in.
    #[must_use]
    pub fn built_in() -> Self {
        Self {
            codes: vec![
                Arc::new(LayeredInterleaving),
                Arc::new(ReedSolomon),
                Arc::new(Repetition),
                Arc::new(NoCode),
            ],
            models: vec![Arc::new(GilbertElliott), Arc::new(IidBound)],
        }
    }

    /// Adds a code, in place of one with the same name.
    #[must_use]
    pub fn with_code(mut self, code: Arc<dyn ErasureCode>) -> Self {
        self.codes.retain(|known| known.name() != code.name());
        self.codes.push(code);
        self
    }

    /// Adds a model, in place of one with the same name.
    #[must_use]
    pub fn with_model(mut self, model: Arc<dyn DurabilityModel>) -> Self {
        self.models.retain(|known| known.name() != model.name());
        self.models.push(model);
        self
    }

    /// Every code.
    pub fn codes(&self) -> impl Iterator<Item = &Arc<dyn ErasureCode>> + Clone {
        self.codes.iter()
    }

    /// Every model.
    pub fn models(&self) -> impl Iterator<Item = &Arc<dyn DurabilityModel>> + Clone {
        self.models.iter()
    }

    /// The code called `name`.
    ///
    /// # Errors
    /// There is none; the error names the nearest one.
    pub fn code(&self, name: &str) -> Result<Arc<dyn ErasureCode>, UnknownPlugin> {
        let found = self.codes().find(|code| code.name() == name).cloned();
        found.ok_or_else(|| UnknownPlugin::new(Kind::Code, name, self.codes().map(|code| code.name())))
    }

    /// The model called `name`.
    ///
    /// # Errors
    /// There is none; the error names the nearest one.
    pub fn model(&self, name: &str) -> Result<Arc<dyn DurabilityModel>, UnknownPlugin> {
        let found = self.models().find(|model| model.name() == name).cloned();
        found.ok_or_else(|| UnknownPlugin::new(Kind::Model, name, self.models().map(|model| model.name())))
    }
}

/// What a plugin is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An erasure code.
    Code,
    /// A durability model.
    Model,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "code",
            Self::Model => "durability model",
        })
    }
}

/// No plugin has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} {name:?}; {}known: {known}", suggestion(.nearest))]
pub struct UnknownPlugin {
    /// What was looked for.
    pub kind: Kind,
    /// As given.
    pub name: String,
    /// The known name that is most like it, if one is like it at all.
    pub nearest: Option<String>,
    /// Every known name.
    pub known: String,
}

/// The question that an error asks back, with a space behind it.
fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("did you mean {name:?}? ")).unwrap_or_default()
}

/// Below this similarity (Jaro-Winkler, 0 to 1) a suggestion would mislead.
const SIMILAR: f64 = 0.7;

impl UnknownPlugin {
    fn new<'a>(kind: Kind, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Self {
        let lower = name.to_lowercase();
        let nearest = known
            .clone()
            .map(|candidate| (strsim::jaro_winkler(candidate, &lower), candidate))
            .filter(|(similarity, _)| *similarity >= SIMILAR)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, candidate)| candidate.to_owned());
        Self { kind, name: name.to_owned(), nearest, known: known.collect::<Vec<_>>().join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use parhelion_plugin::{Parameters, conformance};

    use super::*;

    #[test]
    fn names_are_unique_and_find_their_plugin() {
        let catalogue = Catalogue::built_in();
        let codes: BTreeSet<_> = catalogue.codes().map(|code| code.name()).collect();
        assert_eq!(codes.len(), catalogue.codes().count());
        for code in catalogue.codes() {
            assert!(Arc::ptr_eq(&catalogue.code(code.name()).unwrap(), code));
        }
        let models: BTreeSet<_> = catalogue.models().map(|model| model.name()).collect();
        assert_eq!(models.len(), catalogue.models().count());
        for model in catalogue.models() {
            assert!(Arc::ptr_eq(&catalogue.model(model.name()).unwrap(), model));
        }
    }

    #[test]
    fn every_code_conforms_with_its_defaults() {
        for code in Catalogue::built_in().codes() {
            conformance::check(code.as_ref(), &Parameters::new(), 41).unwrap();
        }
    }

    #[test]
    fn errors_name_the_nearest() {
        let catalogue = Catalogue::built_in();
        let text = |name: &str| catalogue.code(name).unwrap_err().to_string();
        assert_eq!(
            text("layered-interleave"),
            "unknown code \"layered-interleave\"; did you mean \"layered-interleaving\"? \
             known: layered-interleaving, reed-solomon, repetition, none"
        );
        assert!(text("Reed-Solomon").contains("did you mean \"reed-solomon\"?"));
        assert!(!text("zzz").contains("did you mean"), "{}", text("zzz"));
        assert_eq!(catalogue.model("iid-bond").unwrap_err().nearest.as_deref(), Some("iid-bound"));
    }

    #[test]
    fn a_plugin_takes_the_place_of_its_namesake() {
        let other: Arc<dyn ErasureCode> = Arc::new(ReedSolomon);
        let catalogue = Catalogue::built_in().with_code(Arc::clone(&other)).with_model(Arc::new(IidBound));
        assert_eq!(catalogue.codes().count(), 4);
        assert_eq!(catalogue.models().count(), 2);
        assert!(Arc::ptr_eq(&catalogue.code("reed-solomon").unwrap(), &other));
    }
}

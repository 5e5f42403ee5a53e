//! The plugins that a node knows: erasure codes and durability models, by name.
//!
//! Everything else in Parhelion knows codes and models as trait objects. Here alone is a list of them, from three sources:
//! compiled in, shared libraries, and WebAssembly modules in a sandbox. A new built-in one is a crate and one line below;
//! the others are files in a folder that the operator names.
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
//!
//! # Versions
//! A plugin is found as `name`, which is the highest version there is, or as `name@version`. Versions of one plugin live
//! side by side, so that a link can be swapped from one to the other. One name and version is one plugin: a file that
//! brings what is there already is refused, and a built-in plugin is always there first. Both ends of a link agree on name
//! and version when they greet each other, and two plugins that claim to be the same would not be found out there.

mod files;
mod unknown;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_none::NoCode;
use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_code_reed_solomon_fast::ReedSolomonFast;
use parhelion_code_repetition::Repetition;
use parhelion_code_sliding_window::SlidingWindow;
use parhelion_model_gilbert_elliott::GilbertElliott;
use parhelion_model_iid_bound::IidBound;
use parhelion_model_monte_carlo::MonteCarlo;
use parhelion_model_trace::{TraceModel, library};
use parhelion_plugin::{DurabilityModel, ErasureCode};

pub use files::{Libraries, Refused, open};
pub use parhelion_plugin_abi::{Kind, LoadError, Loaded};
pub use unknown::UnknownPlugin;

/// Codes and models by name and version. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    entries: Vec<Entry>,
}

/// A plugin of the catalogue.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The code or model.
    pub plugin: Loaded,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a plugin comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Compiled in.
    BuiltIn,
    /// A shared library, which runs with the rights of the node.
    Library(PathBuf),
    /// A WebAssembly module, in the sandbox.
    Sandbox(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::Library(path) => write!(f, "shared library {}", path.display()),
            Self::Sandbox(path) => write!(f, "sandboxed {}", path.display()),
        }
    }
}

impl Catalogue {
    /// The codes and models that are compiled in.
    #[must_use]
    pub fn built_in() -> Self {
        let codes: [Arc<dyn ErasureCode>; 6] = [
            Arc::new(LayeredInterleaving),
            Arc::new(ReedSolomonFast::default()),
            Arc::new(SlidingWindow),
            Arc::new(ReedSolomon),
            Arc::new(Repetition),
            Arc::new(NoCode),
        ];
        let recordings = library::traces().into_iter().map(|named| named.trace).collect();
        let models: [Arc<dyn DurabilityModel>; 4] = [
            Arc::new(GilbertElliott),
            Arc::new(MonteCarlo::new()),
            Arc::new(TraceModel::new(recordings)),
            Arc::new(IidBound),
        ];
        let plugins = codes.into_iter().map(Loaded::Code).chain(models.into_iter().map(Loaded::Model));
        Self { entries: plugins.map(|plugin| Entry { plugin, origin: Origin::BuiltIn }).collect() }
    }

    /// Adds a code that is compiled in, in place of one with the same name and version.
    #[must_use]
    pub fn with_code(self, code: Arc<dyn ErasureCode>) -> Self {
        self.with(Loaded::Code(code))
    }

    /// Adds a model that is compiled in, in place of one with the same name and version.
    #[must_use]
    pub fn with_model(self, model: Arc<dyn DurabilityModel>) -> Self {
        self.with(Loaded::Model(model))
    }

    fn with(mut self, plugin: Loaded) -> Self {
        self.entries.retain(|known| identity(&known.plugin) != identity(&plugin));
        self.entries.push(Entry { plugin, origin: Origin::BuiltIn });
        self
    }

    /// Every plugin, built-in ones first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Every code.
    pub fn codes(&self) -> impl Iterator<Item = &Arc<dyn ErasureCode>> + Clone {
        self.entries.iter().filter_map(|entry| match &entry.plugin {
            Loaded::Code(code) => Some(code),
            Loaded::Model(_) => None,
        })
    }

    /// Every model.
    pub fn models(&self) -> impl Iterator<Item = &Arc<dyn DurabilityModel>> + Clone {
        self.entries.iter().filter_map(|entry| match &entry.plugin {
            Loaded::Model(model) => Some(model),
            Loaded::Code(_) => None,
        })
    }

    /// The code `name`, or `name@version`.
    ///
    /// # Errors
    /// There is none; the error names the nearest one.
    pub fn code(&self, id: &str) -> Result<Arc<dyn ErasureCode>, UnknownPlugin> {
        find(id, self.codes(), |code| (code.name(), code.version()))
            .cloned()
            .ok_or_else(|| UnknownPlugin::new(Kind::Code, id, &self.entries))
    }

    /// The model `name`, or `name@version`.
    ///
    /// # Errors
    /// There is none; the error names the nearest one.
    pub fn model(&self, id: &str) -> Result<Arc<dyn DurabilityModel>, UnknownPlugin> {
        find(id, self.models(), |model| (model.name(), model.version()))
            .cloned()
            .ok_or_else(|| UnknownPlugin::new(Kind::Model, id, &self.entries))
    }

    /// The entry of a plugin with this identity.
    fn entry(&self, plugin: &Loaded) -> Option<&Entry> {
        self.entries.iter().find(|known| identity(&known.plugin) == identity(plugin))
    }
}

/// What two plugins must not have in common.
fn identity(plugin: &Loaded) -> (Kind, &str, u32) {
    (plugin.kind(), plugin.name(), plugin.version())
}

/// The plugin `name@version`, or the one called `name` that has the highest version.
fn find<'a, P>(
    id: &str,
    plugins: impl Iterator<Item = &'a P>,
    identity: impl Fn(&'a P) -> (&'a str, u32),
) -> Option<&'a P> {
    let (name, version) = match id.rsplit_once('@') {
        Some((name, version)) => (name, Some(version.parse::<u32>().ok()?)),
        None => (id, None),
    };
    plugins
        .filter(|&plugin| {
            let known = identity(plugin);
            known.0 == name && version.is_none_or(|version| known.1 == version)
        })
        .max_by_key(|&plugin| identity(plugin).1)
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
            assert!(Arc::ptr_eq(
                &catalogue.code(&format!("{}@{}", code.name(), code.version())).unwrap(),
                code
            ));
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
    fn a_plugin_takes_the_place_of_its_namesake() {
        let other: Arc<dyn ErasureCode> = Arc::new(ReedSolomon);
        let known = Catalogue::built_in().entries().len();
        let catalogue = Catalogue::built_in().with_code(Arc::clone(&other)).with_model(Arc::new(IidBound));
        assert_eq!(catalogue.entries().len(), known);
        assert!(Arc::ptr_eq(&catalogue.code("reed-solomon").unwrap(), &other));
    }
}

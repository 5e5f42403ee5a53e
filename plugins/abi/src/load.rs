//! What loading a plugin gives: a code, a model, or the reason why not.

use std::sync::Arc;

use parhelion_plugin::{DurabilityModel, ErasureCode};
use parhelion_plugin_sdk::ABI;

use crate::description::{DescriptionError, Kind};

/// A plugin that was loaded.
#[derive(Clone, Debug)]
pub enum Loaded {
    /// An erasure code.
    Code(Arc<dyn ErasureCode>),
    /// A durability model.
    Model(Arc<dyn DurabilityModel>),
}

impl Loaded {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Code(_) => Kind::Code,
            Self::Model(_) => Kind::Model,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Code(code) => code.name(),
            Self::Model(model) => model.name(),
        }
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> u32 {
        match self {
            Self::Code(code) => code.version(),
            Self::Model(model) => model.version(),
        }
    }
}

/// Why a plugin is refused. Each text reads on after the name of the file.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not there, or may not be used.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Others than its owner may change the file, which would run with the rights of the node.
    #[error(
        "{0} may be written by any user of this machine; take that right away (chmod o-w) and check the file"
    )]
    Writable(String),
    /// It is no plugin of the form that its name says.
    #[error("is not {form}: {detail}; build it as docs/plugins.md says")]
    Form {
        /// A shared library of this machine, or a WebAssembly module.
        form: &'static str,
        /// What the loader says.
        detail: String,
    },
    /// It was built for another ABI.
    #[error(
        "has plugin ABI {}.{}, and this node has {}.{}; build it again with the SDK of this node",
        .0 >> 16, .0 & 0xffff, ABI >> 16, ABI & 0xffff
    )]
    Abi(u32),
    /// A function is missing.
    #[error(
        "has no {what} {name}, which a {whose} needs; is the export macro of the SDK at the end of the source?"
    )]
    Missing {
        /// Symbol, export or member.
        what: &'static str,
        /// The function.
        name: &'static str,
        /// The kind of plugin that needs it.
        whose: &'static str,
    },
    /// A function has other parameters or results than the ABI says.
    #[error(
        "exports {name} with another signature than the ABI's ({detail}); build it again with the SDK of this node"
    )]
    Signature {
        /// The function.
        name: &'static str,
        /// What differs.
        detail: String,
    },
    /// A sandboxed plugin wants something from outside.
    #[error(
        "imports {module}.{name}, and a plugin may import nothing: no files, no clock, no random numbers; \
         build it without that function, for wasm32-unknown-unknown and not for WASI"
    )]
    Import {
        /// As the module names it.
        module: String,
        /// As the module names it.
        name: String,
    },
    /// The description cannot be one.
    #[error("{0}; mend the text that it describes itself with")]
    Description(#[from] DescriptionError),
    /// It broke, or answered nonsense, while it was looked at.
    #[error("broke when it was tried: {0}; mend the plugin, and run `parhelion plugin check`")]
    Broke(String),
}

impl LoadError {
    /// Whether a plugin of ABI `abi` can be used: the same major version. A later minor one has members at the end that
    /// are not asked for.
    ///
    /// # Errors
    /// [`LoadError::Abi`].
    pub fn check_abi(abi: u32) -> Result<(), Self> {
        if abi >> 16 == ABI >> 16 { Ok(()) } else { Err(Self::Abi(abi)) }
    }
}

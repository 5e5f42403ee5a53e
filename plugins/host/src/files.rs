//! Plugins that are files.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use parhelion_plugin_abi::{LoadError, Loaded};
use parhelion_plugin_sandbox::Sandbox;

use crate::{Catalogue, Entry, Origin, identity};

/// Most files that a plugin folder may hold; more are a mistake, and each takes time to compile.
const FILES_MAX: usize = 256;

/// Whether shared libraries may be loaded. They run with all rights of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libraries {
    /// They may: the operator trusts what is in the folder.
    Trusted,
    /// They are refused; WebAssembly modules are loaded all the same.
    Refused,
}

/// A plugin that was not taken into the catalogue. The node runs on with the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The file, or the folder that could not be read.
    pub file: PathBuf,
    /// What it calls itself, if it came that far: `code my-code v1`.
    pub plugin: Option<String>,
    /// Why, and what to do.
    pub reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, plugin, reason } = self;
        match plugin {
            Some(plugin) => write!(f, "plugin {} ({plugin}) {reason}", file.display()),
            None => write!(f, "plugin {} {reason}", file.display()),
        }
    }
}

impl std::error::Error for Refused {}

/// Loads one file: a shared library (`.so`), which must be trusted, or a WebAssembly module (`.wasm`).
///
/// # Errors
/// It is neither, or it cannot be loaded.
pub fn open(file: &Path) -> Result<Entry, Refused> {
    Opener::default().open(file, Libraries::Trusted)
}

impl Catalogue {
    /// Adds the plugins of a folder: every `.so` and `.wasm` in it, in the order of their names. Each must pass `check`,
    /// which is where a code is held against the conformance kit. What cannot be loaded is left out, and returned with the
    /// reason.
    pub fn load(
        &mut self,
        folder: &Path,
        libraries: Libraries,
        check: &dyn Fn(&Loaded) -> Result<(), String>,
    ) -> Vec<Refused> {
        let files = match plugin_files(folder) {
            Ok(files) => files,
            Err(refused) => return vec![refused],
        };
        let mut opener = Opener::default();
        let mut take = |file: &Path| -> Result<(), Refused> {
            let entry = opener.open(file, libraries)?;
            let refuse = |reason| refused(file, Some(&entry.plugin), reason);
            if let Some(known) = self.entry(&entry.plugin) {
                return Err(refuse(format!(
                    "has the name and version of another plugin ({}); give it another one, or remove one of the two",
                    known.origin
                )));
            }
            check(&entry.plugin).map_err(refuse)?;
            self.entries.push(entry);
            Ok(())
        };
        files.iter().filter_map(|file| take(file).err()).collect()
    }
}

/// Loads files; the sandbox is made for the first module.
#[derive(Default)]
struct Opener {
    sandbox: Option<Sandbox>,
}

impl Opener {
    fn open(&mut self, file: &Path, libraries: Libraries) -> Result<Entry, Refused> {
        let (loaded, origin) = match file.extension().and_then(OsStr::to_str) {
            Some("wasm") => (self.module(file), Origin::Sandbox(file.to_owned())),
            Some("so") if libraries == Libraries::Refused => {
                let reason = "is a shared library, and would run with all rights of the node; allow libraries in the \
                              configuration if you trust it, or use its WebAssembly form";
                return Err(refused(file, None, reason.to_owned()));
            }
            Some("so") => (parhelion_plugin_library::load(file), Origin::Library(file.to_owned())),
            _ => {
                return Err(refused(
                    file,
                    None,
                    "is neither a .so nor a .wasm file; give one of these".to_owned(),
                ));
            }
        };
        let plugin = loaded.map_err(|error| refused(file, None, error.to_string()))?;
        Ok(Entry { plugin, origin })
    }

    fn module(&mut self, file: &Path) -> Result<Loaded, LoadError> {
        let sandbox = match &self.sandbox {
            Some(sandbox) => sandbox,
            None => self.sandbox.insert(Sandbox::new()?),
        };
        sandbox.load(file)
    }
}

fn refused(file: &Path, plugin: Option<&Loaded>, reason: String) -> Refused {
    let plugin = plugin.map(|plugin| {
        let (kind, name, version) = identity(plugin);
        format!("{kind} {name} v{version}")
    });
    Refused { file: file.to_owned(), plugin, reason }
}

/// The plugins of a folder by the names of their files.
fn plugin_files(folder: &Path) -> Result<Vec<PathBuf>, Refused> {
    let unreadable = |error: std::io::Error| {
        refused(
            folder,
            None,
            format!("cannot be read: {error}; create the folder, or correct its path in the configuration"),
        )
    };
    let mut files = vec![];
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if matches!(path.extension().and_then(OsStr::to_str), Some("so" | "wasm")) {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            let reason = format!("holds more than {FILES_MAX} plugins; remove those that are not used");
            return Err(refused(folder, None, reason));
        }
    }
    files.sort();
    Ok(files)
}

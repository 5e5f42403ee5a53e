//! Plugins as WebAssembly: sandboxed, so that a plugin which loops, traps, grabs memory or writes nonsense cannot hurt
//! the node.
//!
//! A plugin is a core module of the plugin ABI without imports: it has no clock, no file, no random number and no way
//! out. Each encoder and each decoder has an instance of its own, with
//!
//! - *fuel*, about one unit per instruction. What a call may burn follows from the code's structure and the size of a
//!   symbol, and is saved up: a call that solves a large block may take what the calls before it left over.
//! - a *limit of memory*, which follows from the window that a decoder needs. Growth beyond it fails, as it does on a
//!   machine without memory.
//! - *range checks* of every address that it names, before anything is read.
//!
//! An instance that trapped or ran out of fuel is never called again. What an instance computes is the same on every
//! machine: NaNs have one form, and relaxed vector instructions their deterministic meaning.
//!
//! What stays: a plugin that burns all its fuel with each symbol slows its own link down, until it is swapped; and the time
//! to compile a module grows with its size, which is limited.

mod code;
mod coder;
mod fuel;
mod guest;
mod model;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use parhelion_plugin_abi::{Description, Kind, LoadError, Loaded, PluginCode, PluginModel};
use wasmtime::{Config, Engine, Module};

use crate::code::ModuleCode;
use crate::guest::Guest;
use crate::model::ModuleModel;

/// Largest module, in bytes. Compiling takes seconds per MiB of code, and a plugin in Rust has some 40 KiB; the rest is room
/// for its debug sections, which are skipped.
pub const MODULE_BYTES_MAX: u64 = 4 << 20;

/// Memory of an instance that only describes itself or answers for a model.
const DESK_BYTES_MAX: usize = 64 << 20;

/// Stack of an instance. A plugin needs little, and the threads that run it have two MiB.
const STACK_BYTES: usize = 256 << 10;

/// Compiles modules, and runs them. Cloning shares it.
#[derive(Clone)]
pub struct Sandbox {
    engine: Engine,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sandbox")
    }
}

impl Sandbox {
    /// A sandbox.
    ///
    /// # Errors
    /// This machine cannot run it, and why.
    pub fn new() -> Result<Self, LoadError> {
        let mut config = Config::new();
        config
            .consume_fuel(true)
            .max_wasm_stack(STACK_BYTES)
            // The same bits on every machine, so that both ends of a link agree.
            .cranelift_nan_canonicalization(true)
            .wasm_simd(true)
            .wasm_relaxed_simd(true)
            .relaxed_simd_deterministic(true)
            .wasm_memory64(false)
            .wasm_multi_memory(false)
            // Plugins are small, and a trap says enough without the way to it.
            .wasm_backtrace_max_frames(None);
        let engine = Engine::new(&config).map_err(|error| {
            LoadError::Unreadable(format!("the sandbox does not run here: {}", line(&error)))
        })?;
        Ok(Self { engine })
    }

    /// Loads a module from a file.
    ///
    /// # Errors
    /// The file cannot be read or is too large, or as [`Sandbox::load_module`].
    pub fn load(&self, path: &Path) -> Result<Loaded, LoadError> {
        let unreadable = |error| LoadError::Unreadable(format!("{}: {error}", path.display()));
        let mut module = vec![];
        // One byte more than allowed is enough to know.
        File::open(path)
            .and_then(|file| file.take(MODULE_BYTES_MAX + 1).read_to_end(&mut module))
            .map_err(unreadable)?;
        self.load_module(&module)
    }

    /// Loads a module.
    ///
    /// # Errors
    /// It is too large or no module, imports anything, has another ABI or a wrong description, lacks a function or has one
    /// with another signature; or the plugin breaks when it is tried.
    pub fn load_module(&self, module: &[u8]) -> Result<Loaded, LoadError> {
        let form = |detail| LoadError::Form { form: "a WebAssembly module", detail };
        if module.len() as u64 > MODULE_BYTES_MAX {
            return Err(form(format!(
                "more than {MODULE_BYTES_MAX} bytes, and larger ones are not compiled"
            )));
        }
        let module = Module::from_binary(&self.engine, module).map_err(|error| form(line(&error)))?;
        if let Some(import) = module.imports().next() {
            let (module, name) = (import.module().to_owned(), import.name().to_owned());
            return Err(LoadError::Import { module, name });
        }
        let mut guest = Guest::new(&module, DESK_BYTES_MAX, fuel::ONCE).map_err(LoadError::Broke)?;
        let abi = guest.function::<(), u32>("parhelion_abi", "plugin")?;
        LoadError::check_abi(guest.call(&abi, (), fuel::ONCE).map_err(LoadError::Broke)?)?;
        let describe = guest.function::<(), u32>("parhelion_describe", "plugin")?;
        let text = guest.call(&describe, (), fuel::ONCE).map_err(LoadError::Broke)?;
        let description = Description::parse(guest.text(text).map_err(LoadError::Broke)?)?;
        Ok(match description.kind {
            Kind::Code => {
                let engine = ModuleCode::new(module, &description)?;
                Loaded::Code(Arc::new(PluginCode::new(description, engine)?))
            }
            Kind::Model => {
                Loaded::Model(Arc::new(PluginModel::new(description, ModuleModel::new(&module)?)?))
            }
        })
    }
}

/// An error of the engine with its causes, on one line.
fn line(error: &wasmtime::Error) -> String {
    format!("{error:#}").lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

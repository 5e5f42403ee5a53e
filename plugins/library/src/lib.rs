//! Plugins as native code: shared libraries, and plugins of the SDK that are compiled in.
//!
//! A shared library runs with all rights of the node. What it gives is checked like anything of a plugin, but a wild
//! pointer, an endless loop or an abort takes the node with it, and no host can prevent that. Hence a library is loaded only
//! from a folder that the operator named, and only if nobody but its owner and group may write the file. Whoever does not
//! trust an author uses the WebAssembly form of the plugin, at some cost in speed.
//!
//! A library stays loaded until the process ends: its code may have left threads or thread-local destructors behind.

mod table;

use std::ffi::CStr;
use std::os::raw::c_char;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use libloading::Library;
use parhelion_plugin_abi::{
    DESCRIPTION_BYTES_MAX, Description, Kind, LoadError, Loaded, PluginCode, PluginModel,
};
use parhelion_plugin_sdk::Plugin;

use crate::table::{CodeTable, ModelTable};

/// Loads a shared library.
///
/// # Errors
/// The file cannot be read or may be written by anybody; it is no library of this machine, has no symbol
/// `parhelion_plugin`, another ABI, a wrong description, or lacks a function; or the plugin breaks when it is tried.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    check_rights(path)?;
    // SAFETY: a library runs code when it is opened. The operator named the folder it is in, and trusts what is there.
    let library = unsafe { Library::new(path) };
    let library =
        library.map_err(|error| LoadError::Form { form: "a shared library", detail: reason(&error) })?;
    let missing = LoadError::Missing { what: "symbol", name: "parhelion_plugin", whose: "plugin" };
    let plugin = {
        // SAFETY: the ABI says what the symbol is; whoever exports it under this name vouches for its type.
        let entry = unsafe { library.get::<extern "C" fn() -> *const Plugin>(c"parhelion_plugin") };
        entry.map_err(|_| missing)?()
    };
    std::mem::forget(library);
    // SAFETY: null, or a static table of the library, which stays loaded.
    unsafe { from_table(plugin) }
}

/// A plugin of the SDK that is compiled into this program.
///
/// # Errors
/// As [`load`], but for the file.
pub fn built_in(plugin: &'static Plugin) -> Result<Loaded, LoadError> {
    // SAFETY: the table is a static one; that its functions are what the ABI says is the promise of the SDK's macros.
    unsafe { from_table(plugin) }
}

/// # Safety
/// `plugin` is null or points to a table of ABI functions that stays as it is until the process ends.
unsafe fn from_table(plugin: *const Plugin) -> Result<Loaded, LoadError> {
    if plugin.is_null() {
        return Err(LoadError::Missing { what: "table", name: "parhelion_plugin", whose: "plugin" });
    }
    // SAFETY: whatever the version, the table begins with these two numbers.
    let (abi, struct_size) =
        unsafe { ((&raw const (*plugin).abi).read(), (&raw const (*plugin).struct_size).read()) };
    LoadError::check_abi(abi)?;
    if (struct_size as usize) < size_of::<Plugin>() {
        let detail = format!("its table has {struct_size} bytes, of version 1.0 are {}", size_of::<Plugin>());
        return Err(LoadError::Form { form: "a plugin", detail });
    }
    // SAFETY: the table has this ABI's version and at least the size of this one.
    let plugin = unsafe { *plugin };
    let describe = plugin.describe.ok_or_else(|| table::missing("describe", "plugin"))?;
    // SAFETY: takes nothing, and gives a text that stays.
    let text = unsafe { describe() };
    // SAFETY: as above.
    let description = Description::parse(unsafe { text_at(text) })?;
    Ok(match description.kind {
        Kind::Code => Loaded::Code(Arc::new(PluginCode::new(description, CodeTable::new(&plugin)?)?)),
        Kind::Model => Loaded::Model(Arc::new(PluginModel::new(description, ModelTable::new(&plugin)?)?)),
    })
}

/// # Safety
/// `text` is null or points to a text that stays and ends with a zero.
unsafe fn text_at<'a>(text: *const c_char) -> &'a [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: as the caller promised.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    // One more than allowed is enough to be refused.
    &bytes[..bytes.len().min(DESCRIPTION_BYTES_MAX + 1)]
}

/// The file and its folder may be written only by those whom the operator trusts with the node's rights.
fn check_rights(path: &Path) -> Result<(), LoadError> {
    const WRITABLE_BY_OTHERS: u32 = 0o002;
    for path in [Some(path), path.parent()].into_iter().flatten() {
        // The working directory has an empty path.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let unreadable = |error| LoadError::Unreadable(format!("{}: {error}", path.display()));
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(LoadError::Writable(path.display().to_string()));
        }
    }
    Ok(())
}

/// What the loader says, with its cause.
fn reason(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    }
}

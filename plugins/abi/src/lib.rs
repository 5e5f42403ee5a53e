//! The plugin ABI on the host's side: its flat forms, and the adaptors that make codes and models of them.
//!
//! A plugin speaks in integers, doubles and fixed little-endian structs, declared once in the SDK that authors copy. What a
//! plugin is loaded by (a table of native functions, or an instance in a sandbox) implements [`CodeEngine`] and
//! [`Instance`], or [`ModelEngine`]; [`PluginCode`] and [`PluginModel`] make an
//! [`ErasureCode`](parhelion_plugin::ErasureCode) or a [`DurabilityModel`](parhelion_plugin::DurabilityModel) of it.
//!
//! ```text
//!   link ──► ErasureCode ◄── PluginCode ──► CodeEngine ◄── table of a shared library
//!            Encoder     ◄── PluginEncoder ─► Instance ◄── instance of a WebAssembly module
//! ```
//!
//! All checks of what a plugin says are here, so they are the same whatever it runs in: parameters before it sees them;
//! heads, ids and sizes of what comes out; the range of a risk. What fails a check is a fault: the encoder, decoder or
//! model gives nothing any more, and says why. Nothing allocates per symbol.

mod code;
mod coder;
mod description;
mod flat;
mod load;
mod model;

pub use code::{CodeEngine, PluginCode};
pub use coder::{Answer, Instance, PluginDecoder, PluginEncoder};
pub use description::{DESCRIPTION_BYTES_MAX, Description, DescriptionError, Kind};
pub use flat::{QUESTION_BYTES, STRUCTURE_BYTES, SYMBOL_BYTES, question_bytes, structure_from, symbol_from};
pub use load::{LoadError, Loaded};
pub use model::{ModelEngine, PluginModel};

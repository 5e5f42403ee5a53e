//! Codes in the sandbox.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use parhelion_plugin::Structure;
use parhelion_plugin_abi::{CodeEngine, Description, LoadError, STRUCTURE_BYTES, structure_from};
use parhelion_plugin_sdk::{self as sdk, REASON_BYTES};
use wasmtime::{Module, TypedFunc};

use crate::coder::{Coder, Role};
use crate::guest::Guest;
use crate::{DESK_BYTES_MAX, fuel};

/// A module that is a code.
pub(crate) struct ModuleCode {
    module: Module,
    /// Bytes of the values of all parameters, at most.
    values_bytes_max: usize,
    /// Answers what parameters mean; none after it broke, until it is asked again.
    desk: Mutex<Option<Desk>>,
}

impl fmt::Debug for ModuleCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModuleCode")
    }
}

struct Desk {
    guest: Guest,
    structure: TypedFunc<(u32, u32, u32, u32), i32>,
    /// Where in memory the values are, behind them a structure and a reason.
    at: u32,
}

impl ModuleCode {
    pub fn new(module: Module, description: &Description) -> Result<Self, LoadError> {
        // What a missing function is called is said now, not when a link needs it.
        let mut guest = Guest::new(&module, DESK_BYTES_MAX, fuel::ONCE).map_err(LoadError::Broke)?;
        guest.function::<u32, u32>("parhelion_alloc", "plugin")?;
        guest.function::<(u32, u32, u32, u32), i32>("parhelion_structure", "code")?;
        for role in [Role::Encoder, Role::Decoder] {
            role.functions(&mut guest)?;
        }
        let values = description.parameters.iter().map(|parameter| parameter.values_max + 1).sum::<usize>();
        Ok(Self { module, values_bytes_max: 4 * values, desk: Mutex::new(None) })
    }

    fn desk(&self) -> Result<Desk, String> {
        let mut guest = Guest::new(&self.module, DESK_BYTES_MAX, fuel::ONCE)?;
        let structure =
            guest.function("parhelion_structure", "code").map_err(|error: LoadError| error.to_string())?;
        let at = guest.alloc(self.values_bytes_max + STRUCTURE_BYTES + REASON_BYTES)?;
        Ok(Desk { guest, structure, at })
    }

    fn coder(
        &self,
        role: Role,
        values: &[u32],
        structure: &Structure,
        symbol_bytes: usize,
    ) -> Result<Coder, String> {
        Coder::new(&self.module, role, &value_bytes(values), structure, symbol_bytes)
    }
}

impl CodeEngine for ModuleCode {
    type Instance = Coder;

    fn structure(&self, values: &[u32]) -> Result<sdk::Structure, String> {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out, so that one that breaks does not come back.
        let mut open = match desk.take() {
            Some(open) => open,
            None => self.desk()?,
        };
        let Desk { guest, structure, at } = &mut open;
        let bytes = value_bytes(values);
        let (structure_at, reason_at) =
            (*at + bytes.len() as u32, *at + (bytes.len() + STRUCTURE_BYTES) as u32);
        guest.write(*at, &bytes)?;
        guest.write(structure_at, &[0; STRUCTURE_BYTES + REASON_BYTES])?;
        let result =
            guest.call(structure, (*at, values.len() as u32, structure_at, reason_at), fuel::ONCE)?;
        let outcome = if result >= 0 {
            Ok(structure_from(guest.array(u64::from(structure_at))?))
        } else {
            let reason = guest.array::<REASON_BYTES>(u64::from(reason_at))?;
            let reason = reason.split(|&byte| byte == 0).next().unwrap_or_default();
            Err(match String::from_utf8_lossy(reason) {
                reason if reason.is_empty() => format!("refuses with result {result}"),
                reason => format!("refuses: {reason}"),
            })
        };
        *desk = Some(open);
        outcome
    }

    fn encoder(&self, values: &[u32], structure: &Structure, symbol_bytes: usize) -> Result<Coder, String> {
        self.coder(Role::Encoder, values, structure, symbol_bytes)
    }

    fn decoder(&self, values: &[u32], structure: &Structure, symbol_bytes: usize) -> Result<Coder, String> {
        self.coder(Role::Decoder, values, structure, symbol_bytes)
    }
}

fn value_bytes(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

//! Durability models in the sandbox.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use parhelion_plugin_abi::{LoadError, ModelEngine, QUESTION_BYTES, question_bytes};
use parhelion_plugin_sdk::Question;
use wasmtime::{Module, TypedFunc};

use crate::guest::Guest;
use crate::{DESK_BYTES_MAX, fuel};

/// A module that is a model. One instance answers one question after the other.
pub(crate) struct ModuleModel {
    desk: Mutex<Desk>,
}

impl fmt::Debug for ModuleModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModuleModel")
    }
}

struct Desk {
    guest: Guest,
    own_risk: TypedFunc<u32, f64>,
    /// Where in memory the question is.
    at: u32,
    /// Why it is not asked any more.
    broken: Option<String>,
}

impl ModuleModel {
    pub fn new(module: &Module) -> Result<Self, LoadError> {
        let mut guest = Guest::new(module, DESK_BYTES_MAX, fuel::ONCE).map_err(LoadError::Broke)?;
        let own_risk = guest.function("parhelion_own_risk", "durability model")?;
        guest.function::<u32, u32>("parhelion_alloc", "plugin")?;
        let at = guest.alloc(QUESTION_BYTES).map_err(LoadError::Broke)?;
        Ok(Self { desk: Mutex::new(Desk { guest, own_risk, at, broken: None }) })
    }
}

impl ModelEngine for ModuleModel {
    fn own_risk(&self, question: &Question) -> Result<f64, String> {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let Desk { guest, own_risk, at, broken } = &mut *desk;
        if let Some(broken) = broken {
            return Err(broken.clone());
        }
        let answer = guest
            .write(*at, &question_bytes(question))
            .and_then(|()| guest.call(own_risk, *at, fuel::QUESTION));
        if let Err(what) = &answer {
            *broken = Some(what.clone());
        }
        answer
    }
}

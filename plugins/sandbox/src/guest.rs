//! One instance of a module, and its memory.

use parhelion_plugin_abi::{DESCRIPTION_BYTES_MAX, LoadError};
use wasmtime::{
    Instance, Memory, Module, Store, StoreLimits, StoreLimitsBuilder, Trap, TypedFunc, WasmParams,
    WasmResults,
};

use crate::{fuel, line};

/// An instance. Every address that it names is checked before anything is read or written.
pub(crate) struct Guest {
    store: Store<StoreLimits>,
    instance: Instance,
    memory: Memory,
}

/// Entries of a guest's tables, which hold its function pointers.
const TABLE_ELEMENTS_MAX: usize = 10_000;

impl Guest {
    /// A new instance that may have so much memory; its start function, if it has one, may burn so much fuel.
    pub fn new(module: &Module, memory_bytes_max: usize, fuel: u64) -> Result<Self, String> {
        let limits = StoreLimitsBuilder::new()
            .memory_size(memory_bytes_max)
            .table_elements(TABLE_ELEMENTS_MAX)
            .instances(1)
            .memories(1)
            .tables(4)
            .build();
        let mut store = Store::new(module.engine(), limits);
        store.limiter(|limits| limits);
        store.set_fuel(fuel).map_err(|error| line(&error))?;
        let instance = Instance::new(&mut store, module, &[]).map_err(|error| what_happened(&error))?;
        let memory = instance
            .get_memory(&mut store, "memory")
            .ok_or("has no export memory; link it without --import-memory")?;
        Ok(Self { store, instance, memory })
    }

    /// An exported function.
    pub fn function<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &'static str,
        whose: &'static str,
    ) -> Result<TypedFunc<P, R>, LoadError> {
        if self.instance.get_func(&mut self.store, name).is_none() {
            return Err(LoadError::Missing { what: "exported function", name, whose });
        }
        self.instance
            .get_typed_func(&mut self.store, name)
            .map_err(|error| LoadError::Signature { name, detail: line(&error) })
    }

    /// Calls a function that may burn so much fuel.
    ///
    /// # Errors
    /// What happened. The instance must not be called again.
    pub fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        function: &TypedFunc<P, R>,
        arguments: P,
        fuel: u64,
    ) -> Result<R, String> {
        self.store.set_fuel(fuel).map_err(|error| line(&error))?;
        function.call(&mut self.store, arguments).map_err(|error| what_happened(&error))
    }

    /// The fuel that the last call left.
    pub fn fuel_left(&self) -> u64 {
        self.store.get_fuel().unwrap_or(0)
    }

    /// Space for arguments, for as long as the instance lives.
    pub fn alloc(&mut self, bytes: usize) -> Result<u32, String> {
        let alloc =
            self.function::<u32, u32>("parhelion_alloc", "plugin").map_err(|error| error.to_string())?;
        let too_large = |_| format!("has no room for {bytes} bytes");
        let at = self.call(&alloc, u32::try_from(bytes).map_err(too_large)?, fuel::ONCE)?;
        if at == 0 || self.bytes(u64::from(at), bytes).is_none() {
            return Err(format!("gave no {bytes} bytes for the host's arguments"));
        }
        Ok(at)
    }

    /// Writes arguments.
    pub fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), String> {
        let start = at as usize;
        let space = start
            .checked_add(bytes.len())
            .and_then(|end| self.memory.data_mut(&mut self.store).get_mut(start..end));
        space.ok_or("has lost the memory that it gave")?.copy_from_slice(bytes);
        Ok(())
    }

    /// So many bytes of its memory.
    pub fn bytes(&self, at: u64, bytes: usize) -> Option<&[u8]> {
        let start = usize::try_from(at).ok()?;
        self.memory.data(&self.store).get(start..start.checked_add(bytes)?)
    }

    /// A fixed number of bytes of its memory.
    pub fn array<const N: usize>(&self, at: u64) -> Result<&[u8; N], String> {
        let outside = || format!("points to address {at:#x}, which is outside its memory");
        self.bytes(at, N).and_then(|bytes| bytes.try_into().ok()).ok_or_else(outside)
    }

    /// A text that ends with a zero; one that is longer than a description may be is cut off behind that.
    pub fn text(&self, at: u32) -> Result<&[u8], String> {
        let memory = self.memory.data(&self.store);
        let rest = memory
            .get(at as usize..)
            .filter(|_| at != 0)
            .ok_or("describes itself with a text that is not there")?;
        let rest = &rest[..rest.len().min(DESCRIPTION_BYTES_MAX + 1)];
        Ok(rest.split(|&byte| byte == 0).next().unwrap_or_default())
    }
}

/// A trap in words.
fn what_happened(error: &wasmtime::Error) -> String {
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => {
            "ran out of fuel: it loops, or takes far longer than its symbols are worth".to_owned()
        }
        Some(Trap::UnreachableCodeReached) => {
            "gave up: a panic, an abort, or memory beyond its limit".to_owned()
        }
        Some(trap) => format!("trapped: {trap}"),
        None => format!("cannot run: {}", line(error)),
    }
}

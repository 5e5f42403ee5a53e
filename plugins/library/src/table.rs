//! Calls into a table of native functions.

use std::os::raw::{c_char, c_void};

use parhelion_plugin::{RepairHead, Structure};
use parhelion_plugin_abi::{Answer, CodeEngine, Instance, LoadError, ModelEngine};
use parhelion_plugin_sdk::{self as sdk, Plugin, Question, REASON_BYTES, Symbol};

type New = unsafe extern "C" fn(*const u32, u32, u32) -> *mut c_void;
type Source = unsafe extern "C" fn(*mut c_void, u64, *const u8, u32) -> i32;
type Free = unsafe extern "C" fn(*mut c_void);

/// The functions of a code. Every table of them keeps the ABI, and stays until the process ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodeTable {
    structure: unsafe extern "C" fn(*const u32, u32, *mut sdk::Structure, *mut c_char) -> i32,
    encoder_new: New,
    encoder_source: Source,
    encoder_flush: unsafe extern "C" fn(*mut c_void) -> i32,
    encoder_free: Free,
    decoder_new: New,
    decoder_source: Source,
    decoder_repair: unsafe extern "C" fn(*mut c_void, u64, u32, u32, u32, *const u8, u32) -> i32,
    decoder_expire: unsafe extern "C" fn(*mut c_void, u64) -> i32,
    decoder_free: Free,
}

/// The function of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelTable {
    own_risk: unsafe extern "C" fn(*const Question) -> f64,
}

pub(crate) fn missing(name: &'static str, whose: &'static str) -> LoadError {
    LoadError::Missing { what: "function", name, whose }
}

impl CodeTable {
    pub fn new(plugin: &Plugin) -> Result<Self, LoadError> {
        let missing = |name| move || missing(name, "code");
        Ok(Self {
            structure: plugin.structure.ok_or_else(missing("structure"))?,
            encoder_new: plugin.encoder_new.ok_or_else(missing("encoder_new"))?,
            encoder_source: plugin.encoder_source.ok_or_else(missing("encoder_source"))?,
            encoder_flush: plugin.encoder_flush.ok_or_else(missing("encoder_flush"))?,
            encoder_free: plugin.encoder_free.ok_or_else(missing("encoder_free"))?,
            decoder_new: plugin.decoder_new.ok_or_else(missing("decoder_new"))?,
            decoder_source: plugin.decoder_source.ok_or_else(missing("decoder_source"))?,
            decoder_repair: plugin.decoder_repair.ok_or_else(missing("decoder_repair"))?,
            decoder_expire: plugin.decoder_expire.ok_or_else(missing("decoder_expire"))?,
            decoder_free: plugin.decoder_free.ok_or_else(missing("decoder_free"))?,
        })
    }

    fn coder(
        &self,
        values: &[u32],
        symbol_bytes: usize,
        (new, source, free): (New, Source, Free),
    ) -> Result<Coder, String> {
        let bytes = u32::try_from(symbol_bytes)
            .map_err(|_| format!("symbols of {symbol_bytes} bytes are too large"))?;
        // SAFETY: as many values as their number says, which the structure of this plugin has accepted.
        let handle = unsafe { new(values.as_ptr(), values.len() as u32, bytes) };
        if handle.is_null() {
            return Err("it gave none; is there too little memory?".to_owned());
        }
        Ok(Coder { table: *self, handle, source, free })
    }
}

impl CodeEngine for CodeTable {
    type Instance = Coder;

    fn structure(&self, values: &[u32]) -> Result<sdk::Structure, String> {
        let mut structure = sdk::Structure::default();
        let mut reason = [0_u8; REASON_BYTES];
        // SAFETY: as many values as their number says, a structure, and a buffer of the size that the ABI states.
        let result = unsafe {
            (self.structure)(
                values.as_ptr(),
                values.len() as u32,
                &raw mut structure,
                reason.as_mut_ptr().cast(),
            )
        };
        if result >= 0 {
            return Ok(structure);
        }
        let end = reason.iter().position(|&byte| byte == 0).unwrap_or(REASON_BYTES);
        let reason = String::from_utf8_lossy(&reason[..end]);
        Err(if reason.is_empty() {
            format!("refused with result {result}")
        } else {
            format!("refuses: {reason}")
        })
    }

    fn encoder(&self, values: &[u32], _: &Structure, symbol_bytes: usize) -> Result<Coder, String> {
        self.coder(values, symbol_bytes, (self.encoder_new, self.encoder_source, self.encoder_free))
    }

    fn decoder(&self, values: &[u32], _: &Structure, symbol_bytes: usize) -> Result<Coder, String> {
        self.coder(values, symbol_bytes, (self.decoder_new, self.decoder_source, self.decoder_free))
    }
}

/// An encoder or decoder of a library.
///
/// Invariant: `handle` is one that the table made and not yet freed; it is an encoder's exactly if `source` and `free`
/// are.
pub(crate) struct Coder {
    table: CodeTable,
    handle: *mut c_void,
    source: Source,
    free: Free,
}

// SAFETY: the ABI lets different threads use one handle, one after the other.
unsafe impl Send for Coder {}

impl Drop for Coder {
    fn drop(&mut self) {
        // SAFETY: the handle is used for the last time.
        unsafe { (self.free)(self.handle) }
    }
}

impl Instance for Coder {
    fn source(&mut self, id: u64, payload: &[u8]) -> Answer {
        // SAFETY: the handle is of this function's kind; symbols have at most the bytes that it was made for.
        Ok(unsafe { (self.source)(self.handle, id, payload.as_ptr(), payload.len() as u32) })
    }

    fn flush(&mut self) -> Answer {
        // SAFETY: only encoders are flushed.
        Ok(unsafe { (self.table.encoder_flush)(self.handle) })
    }

    fn repair(&mut self, head: RepairHead, payload: &[u8]) -> Answer {
        let RepairHead { cover, index } = head;
        let (stride, count, index) = (u32::from(cover.stride), u32::from(cover.count), u32::from(index));
        let (at, bytes) = (payload.as_ptr(), payload.len() as u32);
        // SAFETY: only decoders are given repairs, and the head and the size are checked.
        Ok(unsafe { (self.table.decoder_repair)(self.handle, cover.first, stride, count, index, at, bytes) })
    }

    fn expire(&mut self, id: u64) -> Answer {
        // SAFETY: only decoders let symbols expire.
        Ok(unsafe { (self.table.decoder_expire)(self.handle, id) })
    }

    fn symbol(&self, n: usize) -> Result<Symbol, String> {
        // SAFETY: a handle points to a struct that begins with the address of the outbox.
        let outbox = unsafe { self.handle.cast::<*const Symbol>().read() };
        if outbox.is_null() {
            return Err("gave symbols without an outbox".to_owned());
        }
        // SAFETY: the plugin said that its outbox has more than `n` symbols, and it is trusted.
        Ok(unsafe { outbox.add(n).read_unaligned() })
    }

    fn payload(&self, symbol: &Symbol) -> Result<&[u8], String> {
        let address = symbol.payload as usize as *const u8;
        if address.is_null() {
            return Err(format!("gave a symbol without a payload: {symbol:?}"));
        }
        // SAFETY: the plugin said that so many bytes are there until the next call, which needs `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts(address, symbol.bytes as usize) })
    }
}

impl ModelTable {
    pub fn new(plugin: &Plugin) -> Result<Self, LoadError> {
        Ok(Self { own_risk: plugin.own_risk.ok_or_else(|| missing("own_risk", "durability model"))? })
    }
}

impl ModelEngine for ModelTable {
    fn own_risk(&self, question: &Question) -> Result<f64, String> {
        // SAFETY: a question of the ABI's form, which any thread may ask.
        Ok(unsafe { (self.own_risk)(question) })
    }
}

//! Encoders and decoders in the sandbox, each with an instance of its own.

use parhelion_plugin::{RepairHead, Structure};
use parhelion_plugin_abi::{Answer, Instance, LoadError, SYMBOL_BYTES, symbol_from};
use parhelion_plugin_sdk::Symbol;
use wasmtime::{Module, TypedFunc, WasmParams};

use crate::fuel::{self, Tank};
use crate::guest::Guest;

/// What an instance is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Encoder,
    Decoder,
}

/// Values, their number, and bytes of a symbol, to a handle.
type New = TypedFunc<(u32, u32, u32), u32>;
/// Handle, id, payload and its size.
type Source = TypedFunc<(u32, u64, u32, u32), i32>;
/// Handle.
type Flush = TypedFunc<u32, i32>;
/// Handle, first id, stride, count, index, payload and its size.
type Repair = TypedFunc<(u32, u64, u32, u32, u32, u32, u32), i32>;
/// Handle and id.
type Expire = TypedFunc<(u32, u64), i32>;

/// The functions of an encoder or a decoder.
pub(crate) struct Functions {
    new: New,
    source: Source,
    others: Others,
}

enum Others {
    Encoder(Flush),
    Decoder(Repair, Expire),
}

/// An encoder or decoder.
///
/// Invariants:
/// - Nothing is called after an error.
/// - `inbox` had room for a symbol, and `handle` for an address, when the coder was made; memory never shrinks.
pub(crate) struct Coder {
    guest: Guest,
    tank: Tank,
    handle: u32,
    inbox: u32,
    source: Source,
    others: Others,
}

/// Memory of an instance beside what its window needs: code, stack, tables.
const MEMORY_BYTES_BASE: usize = 16 << 20;

/// Memory per byte of the window: the symbols, the repairs that wait, and what a plugin keeps beside them.
const MEMORY_PER_WINDOW_BYTE: usize = 4;

/// What a plugin may keep beside each symbol.
const BESIDE_BYTES: usize = 256;

/// Above this no instance may grow.
const MEMORY_BYTES_MAX: usize = 1 << 30;

/// Fuel per byte of the memory limit that making an encoder or decoder may burn: zeroing is most of it.
const NEW_FUEL_PER_BYTE: u64 = 8;

impl Role {
    /// The functions of this role.
    pub fn functions(self, guest: &mut Guest) -> Result<Functions, LoadError> {
        let whose = "code";
        Ok(match self {
            Self::Encoder => Functions {
                new: guest.function("parhelion_encoder_new", whose)?,
                source: guest.function("parhelion_encoder_source", whose)?,
                others: Others::Encoder(guest.function("parhelion_encoder_flush", whose)?),
            },
            Self::Decoder => Functions {
                new: guest.function("parhelion_decoder_new", whose)?,
                source: guest.function("parhelion_decoder_source", whose)?,
                others: Others::Decoder(
                    guest.function("parhelion_decoder_repair", whose)?,
                    guest.function("parhelion_decoder_expire", whose)?,
                ),
            },
        })
    }
}

impl Coder {
    /// An encoder or decoder for `values`, which are little-endian words.
    pub fn new(
        module: &Module,
        role: Role,
        values: &[u8],
        structure: &Structure,
        symbol_bytes: usize,
    ) -> Result<Self, String> {
        let window = structure.window_symbols().unwrap_or(0);
        let memory_bytes_max = window
            .saturating_mul(symbol_bytes.saturating_add(BESIDE_BYTES))
            .saturating_mul(MEMORY_PER_WINDOW_BYTE)
            .saturating_add(MEMORY_BYTES_BASE)
            .min(MEMORY_BYTES_MAX);
        let mut guest = Guest::new(module, memory_bytes_max, fuel::ONCE)?;
        let Functions { new, source, others } =
            role.functions(&mut guest).map_err(|error| error.to_string())?;
        // An empty list still has an address.
        let values_at = guest.alloc(values.len().max(4))?;
        guest.write(values_at, values)?;
        let inbox = guest.alloc(symbol_bytes.max(1))?;
        let bytes = u32::try_from(symbol_bytes)
            .map_err(|_| format!("symbols of {symbol_bytes} bytes are too large"))?;
        let fuel = fuel::ONCE + NEW_FUEL_PER_BYTE * memory_bytes_max as u64;
        let handle = guest.call(&new, (values_at, (values.len() / 4) as u32, bytes), fuel)?;
        if handle == 0 {
            return Err(format!("it gave none; is it content with {} MiB?", memory_bytes_max >> 20));
        }
        guest.array::<4>(u64::from(handle))?;
        Ok(Self { guest, tank: Tank::new(structure, symbol_bytes), handle, inbox, source, others })
    }
}

/// Calls `function` with the fuel that there is. To clone a function, so that all of a coder could be borrowed instead,
/// would cost more than the call.
fn call<P: WasmParams>(
    guest: &mut Guest,
    tank: &mut Tank,
    function: &TypedFunc<P, i32>,
    arguments: P,
) -> Answer {
    let answer = guest.call(function, arguments, tank.fill())?;
    tank.set(guest.fuel_left());
    Ok(answer)
}

impl Instance for Coder {
    fn source(&mut self, id: u64, payload: &[u8]) -> Answer {
        let Self { guest, tank, handle, inbox, source, .. } = self;
        guest.write(*inbox, payload)?;
        call(guest, tank, source, (*handle, id, *inbox, payload.len() as u32))
    }

    fn flush(&mut self) -> Answer {
        let Self { guest, tank, handle, others, .. } = self;
        match others {
            Others::Encoder(flush) => call(guest, tank, flush, *handle),
            Others::Decoder(..) => Err("is a decoder, and was flushed".to_owned()),
        }
    }

    fn repair(&mut self, head: RepairHead, payload: &[u8]) -> Answer {
        let Self { guest, tank, handle, inbox, others, .. } = self;
        let Others::Decoder(repair, _) = others else {
            return Err("is an encoder, and was given a repair".to_owned());
        };
        guest.write(*inbox, payload)?;
        let RepairHead { cover, index } = head;
        let (stride, count, index) = (u32::from(cover.stride), u32::from(cover.count), u32::from(index));
        call(guest, tank, repair, (*handle, cover.first, stride, count, index, *inbox, payload.len() as u32))
    }

    fn expire(&mut self, id: u64) -> Answer {
        let Self { guest, tank, handle, others, .. } = self;
        match others {
            Others::Decoder(_, expire) => call(guest, tank, expire, (*handle, id)),
            Others::Encoder(_) => Err("is an encoder, and has nothing that expires".to_owned()),
        }
    }

    fn symbol(&self, n: usize) -> Result<Symbol, String> {
        let outbox = u32::from_le_bytes(*self.guest.array(u64::from(self.handle))?);
        let at = u64::from(outbox) + (n as u64).saturating_mul(SYMBOL_BYTES as u64);
        Ok(symbol_from(self.guest.array(at)?))
    }

    fn payload(&self, symbol: &Symbol) -> Result<&[u8], String> {
        let outside = || format!("gave a symbol that is not in its memory: {symbol:?}");
        // A pointer of 32 bits fills the lower half of the field.
        if symbol.payload > u64::from(u32::MAX) {
            return Err(outside());
        }
        self.guest.bytes(symbol.payload, symbol.bytes as usize).ok_or_else(outside)
    }
}

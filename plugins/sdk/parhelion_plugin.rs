//! Parhelion plugin SDK for Rust: one file without dependencies. Copy it beside your `lib.rs`, and `parhelion_window.rs`,
//! which has what most decoders need.
//!
//! ```text
//! mod parhelion_plugin;
//! use parhelion_plugin::{Code, Decoder, Encoder, ...};
//! ... implement Code, Encoder and Decoder, or Model ...
//! parhelion_plugin::export_code!(MyCode);          // or export_model!(MyModel)
//! ```
//!
//! What comes out is one ABI in three forms, chosen by how the crate is built:
//!
//! | form | build | what the host finds |
//! | --- | --- | --- |
//! | built in | as a Rust library, with the feature `built-in` | the static `PLUGIN` |
//! | shared library | `cdylib`, trusted | the symbol `parhelion_plugin` |
//! | WebAssembly | `cdylib` for `wasm32-unknown-unknown`, sandboxed | the exports `parhelion_*` |
//!
//! The C header `parhelion_plugin.h` describes the same ABI function by function. This file needs Rust 1.63 and the
//! edition 2021. A panic in your code never crosses the ABI: the host is told that the plugin broke, and goes on with a
//! built-in code.

// An author uses the half of this file that he needs.
#![allow(dead_code, unused_macros, unused_imports)]
// `div_ceil` is younger than the compilers that this file is for.
#![allow(clippy::manual_div_ceil)]
#![deny(unsafe_op_in_unsafe_fn)]

use std::os::raw::{c_char, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Version of the ABI: major in the upper, minor in the lower 16 bits. Another major is another ABI; a minor only adds
/// functions at the end of [`Plugin`].
pub const ABI: u32 = 1 << 16;

/// Most layers of a layered code.
pub const LAYERS_MAX: usize = 8;

/// Bytes that the host reserves for the text of a refusal, with the zero at its end.
pub const REASON_BYTES: usize = 256;

/// An erasure code, for authors.
pub trait Code {
    /// Makes repair symbols.
    type Encoder: Encoder;
    /// Rebuilds lost symbols.
    type Decoder: Decoder;

    /// JSON text: `kind`, `name`, `version` and `parameters`; see the template.
    const DESCRIPTION: &'static str;

    /// What these parameters mean. Each is in its range already; a combination that does not fit is refused with a text
    /// that says what to change.
    fn structure(values: Values<'_>) -> Result<Structure, String>;

    /// An encoder for symbols of at most `symbol_bytes` bytes; `values` passed [`Code::structure`].
    fn encoder(values: Values<'_>, symbol_bytes: usize) -> Self::Encoder;

    /// The decoder that undoes that encoder.
    fn decoder(values: Values<'_>, symbol_bytes: usize) -> Self::Decoder;
}

/// Turns source symbols into repair symbols. Allocate in [`Code::encoder`], not here.
pub trait Encoder: Send {
    /// The next source symbol; ids rise by one. Repairs that are due go to `out`.
    fn source(&mut self, id: u64, payload: &[u8], out: &mut Outbox);

    /// Completes the coverage of every symbol given so far.
    fn flush(&mut self, out: &mut Outbox);
}

/// Rebuilds lost source symbols. They come in any order, some twice, some late.
pub trait Decoder: Send {
    /// A source symbol arrived. What it makes solvable goes to `out`.
    fn source(&mut self, id: u64, payload: &[u8], out: &mut Outbox);

    /// A repair symbol arrived. The host has checked that its ids do not overflow, that its index is one of the code's, and
    /// that it has 1 to `symbol_bytes` bytes. One that is refused must leave the decoder as it was.
    fn repair(&mut self, head: Head, payload: &[u8], out: &mut Outbox) -> Result<(), Refused>;

    /// No symbol below `id` is to be reported any more. What arrived of them still serves.
    fn expire(&mut self, id: u64);
}

/// A durability model, for authors.
pub trait Model {
    /// JSON text: `kind`, `name`, `version`.
    const DESCRIPTION: &'static str;

    /// Upper bound on P(some source symbol of the append neither arrives nor can be rebuilt), from 0 to 1. Asked for
    /// every append, from several threads: microseconds, and no state.
    fn own_risk(question: &Question) -> f64;
}

/// The parameters in the order of the description. A list is its length followed by its values.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a>(&'a [u32]);

impl<'a> Values<'a> {
    /// The next parameter, which has one value.
    pub fn number(&mut self) -> u32 {
        let (first, rest) = self.0.split_first().expect("a parameter that the description does not have");
        self.0 = rest;
        *first
    }

    /// The next parameter, which is a list (`values_max` above 1).
    pub fn list(&mut self) -> &'a [u32] {
        let length = self.number() as usize;
        let (list, rest) = self.0.split_at(length);
        self.0 = rest;
        list
    }
}

/// What a repair symbol says of itself: it includes `first`, `first + stride`, ..., `count` source symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Id of the first source symbol.
    pub first: u64,
    /// Distance between neighbours; at least 1.
    pub stride: u16,
    /// Number of source symbols; at least 1.
    pub count: u16,
    /// Which repair of those symbols it is: layer, parity row or copy.
    pub index: u8,
}

impl Head {
    /// The ids of the source symbols, ascending.
    pub fn ids(self) -> impl Iterator<Item = u64> + Clone {
        (0..u64::from(self.count)).map(move |k| self.first + k * u64::from(self.stride))
    }
}

/// Why a decoder does not take a repair symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No encoder with these parameters writes such a head.
    Head,
    /// It reaches further back than the decoder remembers.
    Window,
    /// It is shorter than a symbol of its group, which has so many bytes: it was truncated.
    Inconsistent(usize),
}

/// Takes the symbols that a call gives. The payloads lie in one buffer, which is used again with the next call.
#[derive(Debug, Default)]
pub struct Outbox {
    symbols: Vec<Symbol>,
    bytes: Vec<u8>,
}

impl Outbox {
    /// Gives a repair symbol.
    pub fn repair(&mut self, head: Head, payload: &[u8]) {
        let Head { first, stride, count, index } = head;
        self.push(Symbol { id: first, index: u32::from(index), stride, count, ..Symbol::default() }, payload);
    }

    /// Gives a source symbol that was rebuilt.
    pub fn recovered(&mut self, id: u64, payload: &[u8]) {
        self.push(Symbol { id, ..Symbol::default() }, payload);
    }

    /// While the call lasts, `payload` is where the payload starts in `bytes`, which may still move.
    fn push(&mut self, symbol: Symbol, payload: &[u8]) {
        let start = self.bytes.len() as u64;
        self.symbols.push(Symbol { payload: start, bytes: payload.len() as u32, ..symbol });
        self.bytes.extend_from_slice(payload);
    }

    fn clear(&mut self) {
        self.symbols.clear();
        self.bytes.clear();
    }

    /// The call is over, and nothing moves until the next one.
    fn seal(&mut self) -> i32 {
        let base = self.bytes.as_ptr() as usize as u64;
        for symbol in &mut self.symbols {
            symbol.payload += base;
        }
        self.symbols.len() as i32
    }
}

/// The shape of a code: what coverage and the durability models need to know. Fields that a kind does not name are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    /// One of the constants below.
    pub kind: u32,
    /// Source symbols per block, XOR or step.
    pub r: u32,
    /// Repair symbols per block or step.
    pub c: u32,
    /// Blocks that take turns.
    pub depth: u32,
    /// Repetition: repair symbols per source symbol.
    pub copies: u32,
    /// Repetition: source symbols between one copy and the next.
    pub spacing: u32,
    /// Layered: 1 if a repair leaves one interleave later than it could.
    pub delayed: u32,
    /// Layered: how many of `interleaves` there are.
    pub layers: u32,
    /// Layered: distance between the symbols of one XOR, ascending.
    pub interleaves: [u32; LAYERS_MAX],
    /// Window: source symbols that a repair includes, at most.
    pub window: u32,
    /// Window: repair indices, which repairs take in turn.
    pub indices: u32,
    /// Other: repair symbols that include a given source symbol, at most 64.
    pub repairs: u32,
    /// Other: source symbols of which `repairs` are the repairs in steady state.
    pub per: u32,
    /// Other: source symbols from the first of a group until its last repair has left.
    pub span: u32,
    /// Other: losses, whichever they are, that a decoder makes up for in a whole stream.
    pub losses: u32,
    /// Zero.
    pub reserved: [u32; 2],
}

impl Structure {
    /// No repair symbols.
    pub const NONE: u32 = 0;
    /// Every source symbol is sent again: `copies`, `spacing`.
    pub const REPETITION: u32 = 1;
    /// Any `r` of `r + c` symbols rebuild a block: `r`, `c`, `depth`.
    pub const BLOCK: u32 = 2;
    /// An XOR family per layer: `r`, `layers`, `interleaves`, `delayed`.
    pub const LAYERED: u32 = 3;
    /// A sliding window: `r`, `c`, `window`, `indices`.
    pub const WINDOW: u32 = 4;
    /// Anything else: `repairs`, `per`, `span`, `losses`.
    pub const OTHER: u32 = 5;

    /// A block code without interleaving, of which any `r` of `r + c` symbols rebuild a block.
    pub fn block(r: u32, c: u32) -> Self {
        Structure { kind: Self::BLOCK, r, c, depth: 1, ..Self::default() }
    }
}

/// What a durability model is asked: the channel at its worst, what of the append is on the wire, and the code.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Question {
    /// Upper bound on P(good to bad) per packet slot.
    pub good_to_bad: f64,
    /// Lower bound on P(bad to good) per packet slot.
    pub bad_to_good: f64,
    /// Upper bound on P(lost) in the bad state.
    pub loss_in_bad: f64,
    /// Upper bound on the overall loss rate.
    pub loss: f64,
    /// P(all these bounds hold).
    pub confidence: f64,
    /// Packets per second on the link; 0 if unknown.
    pub packets_per_second: f64,
    /// Repair indices that are on the wire for every source symbol of the append: bit i for index i.
    pub coverage: u64,
    /// Repair indices that some symbol got from a flush.
    pub flushed: u64,
    /// Source symbols of the append; at least 1.
    pub symbols: u32,
    /// Most source symbols that any of those repairs includes.
    pub group_max: u32,
    /// Fewest source symbols between two flushes that `flushed` came from.
    pub flush_run: u32,
    /// Packet times that a flush waits between one repair index and the next.
    pub flush_pause: u32,
    /// The code.
    pub code: Structure,
}

/// A repair symbol or a rebuilt source symbol in the outbox of an encoder or decoder.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Symbol {
    /// Repair: the first source symbol that it includes. Rebuilt: its id.
    pub id: u64,
    /// Address of the payload, in the plugin's memory.
    pub payload: u64,
    /// Size of the payload.
    pub bytes: u32,
    /// Repair: its index.
    pub index: u32,
    /// Repair: distance between the symbols that it includes.
    pub stride: u16,
    /// Repair: number of symbols that it includes.
    pub count: u16,
    /// Zero.
    pub reserved: u32,
}

/// The functions of a plugin, as a shared library hands them out. Later minor versions add members at the end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Plugin {
    /// [`ABI`] of the plugin.
    pub abi: u32,
    /// Bytes of this struct in the plugin's version of it.
    pub struct_size: u32,
    /// JSON text that ends with a zero.
    pub describe: Option<unsafe extern "C" fn() -> *const c_char>,
    /// Fills in a structure, or a reason and gives a negative number.
    pub structure: Option<unsafe extern "C" fn(*const u32, u32, *mut Structure, *mut c_char) -> i32>,
    /// An encoder for values, their number, and bytes of a symbol; null if it cannot be had.
    pub encoder_new: Option<unsafe extern "C" fn(*const u32, u32, u32) -> *mut c_void>,
    /// Takes id, payload and its size; gives the number of symbols in the outbox, or a negative number.
    pub encoder_source: Option<unsafe extern "C" fn(*mut c_void, u64, *const u8, u32) -> i32>,
    /// As `encoder_source`.
    pub encoder_flush: Option<unsafe extern "C" fn(*mut c_void) -> i32>,
    /// Ends an encoder.
    pub encoder_free: Option<unsafe extern "C" fn(*mut c_void)>,
    /// As `encoder_new`.
    pub decoder_new: Option<unsafe extern "C" fn(*const u32, u32, u32) -> *mut c_void>,
    /// As `encoder_source`.
    pub decoder_source: Option<unsafe extern "C" fn(*mut c_void, u64, *const u8, u32) -> i32>,
    /// Takes first id, stride, count, index, payload and its size.
    pub decoder_repair: Option<unsafe extern "C" fn(*mut c_void, u64, u32, u32, u32, *const u8, u32) -> i32>,
    /// Takes the least id that is still wanted; gives 0 or a negative number.
    pub decoder_expire: Option<unsafe extern "C" fn(*mut c_void, u64) -> i32>,
    /// Ends a decoder.
    pub decoder_free: Option<unsafe extern "C" fn(*mut c_void)>,
    /// A model's answer.
    pub own_risk: Option<unsafe extern "C" fn(*const Question) -> f64>,
}

impl Plugin {
    /// A plugin that can do nothing yet.
    pub const EMPTY: Plugin = Plugin {
        abi: ABI,
        struct_size: std::mem::size_of::<Plugin>() as u32,
        describe: None,
        structure: None,
        encoder_new: None,
        encoder_source: None,
        encoder_flush: None,
        encoder_free: None,
        decoder_new: None,
        decoder_source: None,
        decoder_repair: None,
        decoder_expire: None,
        decoder_free: None,
        own_risk: None,
    };

    /// The functions of a code.
    pub const fn code<C: Code>(describe: unsafe extern "C" fn() -> *const c_char) -> Plugin {
        Plugin {
            describe: Some(describe),
            structure: Some(structure::<C>),
            encoder_new: Some(encoder_new::<C>),
            encoder_source: Some(encoder_source::<C>),
            encoder_flush: Some(encoder_flush::<C>),
            encoder_free: Some(free::<C::Encoder>),
            decoder_new: Some(decoder_new::<C>),
            decoder_source: Some(decoder_source::<C>),
            decoder_repair: Some(decoder_repair::<C>),
            decoder_expire: Some(decoder_expire::<C>),
            decoder_free: Some(free::<C::Decoder>),
            ..Plugin::EMPTY
        }
    }

    /// The functions of a model.
    pub const fn model<M: Model>(describe: unsafe extern "C" fn() -> *const c_char) -> Plugin {
        Plugin { describe: Some(describe), own_risk: Some(own_risk::<M>), ..Plugin::EMPTY }
    }
}

/// Results of a call that are no number of symbols.
pub mod result {
    /// The repair has an impossible size.
    pub const REFUSED_LENGTH: i32 = -1;
    /// The repair is shorter than its group; `bytes` of the first symbol in the outbox is what the group needs.
    pub const REFUSED_INCONSISTENT: i32 = -2;
    /// The repair's head is none of this code.
    pub const REFUSED_HEAD: i32 = -3;
    /// The repair reaches beyond what the decoder remembers.
    pub const REFUSED_WINDOW: i32 = -4;
    /// The plugin broke, as does any other negative number.
    pub const BROKEN: i32 = -100;
}

/// What a handle points to. The host reads the first member after each call.
#[repr(C)]
struct Coder<T> {
    outbox: *const Symbol,
    symbols: Outbox,
    inner: T,
}

/// A new coder, or null after a panic.
fn new_coder<T>(make: impl FnOnce() -> T) -> *mut c_void {
    let coder = catch_unwind(AssertUnwindSafe(|| {
        Box::new(Coder { outbox: std::ptr::null(), symbols: Outbox::default(), inner: make() })
    }));
    coder.map_or(std::ptr::null_mut(), |coder| Box::into_raw(coder).cast())
}

/// Runs one call of an encoder or decoder.
///
/// # Safety
/// `handle` is one of [`new_coder`] for the same `T`, and nobody else uses it now.
unsafe fn run<T>(handle: *mut c_void, call: impl FnOnce(&mut T, &mut Outbox) -> Result<(), Refused>) -> i32 {
    // SAFETY: as the caller promised.
    let coder = unsafe { &mut *handle.cast::<Coder<T>>() };
    coder.symbols.clear();
    let Coder { symbols, inner, .. } = coder;
    let outcome = catch_unwind(AssertUnwindSafe(|| call(inner, symbols)));
    let result = match outcome {
        Ok(Ok(())) => symbols.seal(),
        Ok(Err(Refused::Head)) => result::REFUSED_HEAD,
        Ok(Err(Refused::Window)) => result::REFUSED_WINDOW,
        Ok(Err(Refused::Inconsistent(group))) => {
            symbols.clear();
            symbols.symbols.push(Symbol { bytes: group as u32, ..Symbol::default() });
            result::REFUSED_INCONSISTENT
        }
        Err(_panic) => result::BROKEN,
    };
    coder.outbox = symbols.symbols.as_ptr();
    result
}

/// # Safety
/// `at` points to `count` values.
unsafe fn values<'a>(at: *const u32, count: u32) -> Values<'a> {
    // SAFETY: as the caller promised; a code without parameters may be given null.
    Values(if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(at, count as usize) } })
}

/// # Safety
/// `at` points to `bytes` bytes.
unsafe fn payload<'a>(at: *const u8, bytes: u32) -> &'a [u8] {
    if bytes == 0 {
        return &[];
    }
    // SAFETY: as the caller promised.
    unsafe { std::slice::from_raw_parts(at, bytes as usize) }
}

/// # Safety
/// The pointers are the host's: values, a structure, and [`REASON_BYTES`] bytes.
pub unsafe extern "C" fn structure<C: Code>(
    at: *const u32,
    count: u32,
    out: *mut Structure,
    reason: *mut c_char,
) -> i32 {
    // SAFETY: as the caller promised.
    let values = unsafe { values(at, count) };
    let text = match catch_unwind(AssertUnwindSafe(|| C::structure(values))) {
        Ok(Ok(structure)) => {
            // SAFETY: as the caller promised.
            unsafe { out.write(structure) };
            return 0;
        }
        Ok(Err(text)) => text,
        Err(_panic) => return result::BROKEN,
    };
    let bytes = text.len().min(REASON_BYTES - 1);
    // SAFETY: the text and the zero behind it fit the host's buffer.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), reason, bytes);
        reason.add(bytes).write(0);
    }
    -1
}

/// # Safety
/// `at` points to `count` values.
pub unsafe extern "C" fn encoder_new<C: Code>(at: *const u32, count: u32, symbol_bytes: u32) -> *mut c_void {
    // SAFETY: as the caller promised.
    let values = unsafe { values(at, count) };
    new_coder(|| C::encoder(values, symbol_bytes as usize))
}

/// # Safety
/// The handle is one of [`encoder_new`], and the pointer has so many bytes.
pub unsafe extern "C" fn encoder_source<C: Code>(
    handle: *mut c_void,
    id: u64,
    at: *const u8,
    bytes: u32,
) -> i32 {
    // SAFETY: as the caller promised.
    unsafe {
        let payload = payload(at, bytes);
        run(handle, |encoder: &mut C::Encoder, out| {
            encoder.source(id, payload, out);
            Ok(())
        })
    }
}

/// # Safety
/// The handle is one of [`encoder_new`].
pub unsafe extern "C" fn encoder_flush<C: Code>(handle: *mut c_void) -> i32 {
    // SAFETY: as the caller promised.
    unsafe {
        run(handle, |encoder: &mut C::Encoder, out| {
            encoder.flush(out);
            Ok(())
        })
    }
}

/// # Safety
/// `at` points to `count` values.
pub unsafe extern "C" fn decoder_new<C: Code>(at: *const u32, count: u32, symbol_bytes: u32) -> *mut c_void {
    // SAFETY: as the caller promised.
    let values = unsafe { values(at, count) };
    new_coder(|| C::decoder(values, symbol_bytes as usize))
}

/// # Safety
/// The handle is one of [`decoder_new`], and the pointer has so many bytes.
pub unsafe extern "C" fn decoder_source<C: Code>(
    handle: *mut c_void,
    id: u64,
    at: *const u8,
    bytes: u32,
) -> i32 {
    // SAFETY: as the caller promised.
    unsafe {
        let payload = payload(at, bytes);
        run(handle, |decoder: &mut C::Decoder, out| {
            decoder.source(id, payload, out);
            Ok(())
        })
    }
}

/// # Safety
/// The handle is one of [`decoder_new`], and the pointer has so many bytes.
pub unsafe extern "C" fn decoder_repair<C: Code>(
    handle: *mut c_void,
    first: u64,
    stride: u32,
    count: u32,
    index: u32,
    at: *const u8,
    bytes: u32,
) -> i32 {
    let head = Head { first, stride: stride as u16, count: count as u16, index: index as u8 };
    // SAFETY: as the caller promised.
    unsafe {
        let payload = payload(at, bytes);
        run(handle, |decoder: &mut C::Decoder, out| decoder.repair(head, payload, out))
    }
}

/// # Safety
/// The handle is one of [`decoder_new`].
pub unsafe extern "C" fn decoder_expire<C: Code>(handle: *mut c_void, id: u64) -> i32 {
    // SAFETY: as the caller promised.
    unsafe {
        run(handle, |decoder: &mut C::Decoder, _| {
            decoder.expire(id);
            Ok(())
        })
    }
}

/// # Safety
/// The handle is one of an encoder or decoder `T`, and is not used again.
pub unsafe extern "C" fn free<T>(handle: *mut c_void) {
    // SAFETY: as the caller promised. A panic in a drop must not unwind into the host.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(handle.cast::<Coder<T>>()) })));
}

/// # Safety
/// The pointer is one to a question.
pub unsafe extern "C" fn own_risk<M: Model>(question: *const Question) -> f64 {
    // SAFETY: as the caller promised.
    let question = unsafe { &*question };
    catch_unwind(AssertUnwindSafe(|| M::own_risk(question))).unwrap_or(f64::NAN)
}

/// The text with a zero at its end.
pub const fn zero_ended<const N: usize>(text: &str) -> [u8; N] {
    let (from, mut to, mut n) = (text.as_bytes(), [0; N], 0);
    while n < from.len() {
        to[n] = from[n];
        n += 1;
    }
    to
}

/// Space for arguments, in WebAssembly; it is never given back, since an instance serves one encoder or decoder.
pub extern "C" fn alloc(bytes: u32) -> *mut u8 {
    // In units of 16 bytes: arguments are aligned to 8.
    Box::leak(vec![0_u128; (bytes as usize + 15) / 16].into_boxed_slice()).as_mut_ptr().cast()
}

/// Makes a [`Code`] a plugin: `parhelion_plugin::export_code!(MyCode);`, once per crate, where `parhelion_plugin` is this
/// module.
macro_rules! export_code {
    ($code:ty) => {
        parhelion_plugin::export_plugin!(
            parhelion_plugin::Plugin::code::<$code>,
            <$code as parhelion_plugin::Code>::DESCRIPTION
        );

        #[cfg(all(target_arch = "wasm32", not(feature = "built-in")))]
        mod parhelion_exports {
            use super::*;
            use std::os::raw::{c_char, c_void};

            #[no_mangle]
            unsafe extern "C" fn parhelion_structure(
                values: *const u32,
                count: u32,
                out: *mut parhelion_plugin::Structure,
                reason: *mut c_char,
            ) -> i32 {
                parhelion_plugin::structure::<$code>(values, count, out, reason)
            }

            #[no_mangle]
            unsafe extern "C" fn parhelion_encoder_new(
                values: *const u32,
                count: u32,
                bytes: u32,
            ) -> *mut c_void {
                parhelion_plugin::encoder_new::<$code>(values, count, bytes)
            }

            #[no_mangle]
            unsafe extern "C" fn parhelion_encoder_source(
                h: *mut c_void,
                id: u64,
                at: *const u8,
                bytes: u32,
            ) -> i32 {
                parhelion_plugin::encoder_source::<$code>(h, id, at, bytes)
            }

            #[no_mangle]
            unsafe extern "C" fn parhelion_encoder_flush(h: *mut c_void) -> i32 {
                parhelion_plugin::encoder_flush::<$code>(h)
            }

            #[no_mangle]
            unsafe extern "C" fn parhelion_decoder_new(
                values: *const u32,
                count: u32,
                bytes: u32,
            ) -> *mut c_void {
                parhelion_plugin::decoder_new::<$code>(values, count, bytes)
            }

            #[no_mangle]
            unsafe extern "C" fn parhelion_decoder_source(
                h: *mut c_void,
                id: u64,
                at: *const u8,
                bytes: u32,
            ) -> i32 {
                parhelion_plugin::decoder_source::<$code>(h, id, at, bytes)
            }

            #[no_mangle]
            unsafe extern "C" fn parhelion_decoder_repair(
                h: *mut c_void,
                first: u64,
                stride: u32,
                count: u32,
                index: u32,
                at: *const u8,
                bytes: u32,
            ) -> i32 {
                parhelion_plugin::decoder_repair::<$code>(h, first, stride, count, index, at, bytes)
            }

            #[no_mangle]
            unsafe extern "C" fn parhelion_decoder_expire(h: *mut c_void, id: u64) -> i32 {
                parhelion_plugin::decoder_expire::<$code>(h, id)
            }
        }
    };
}
pub(crate) use export_code;

/// Makes a [`Model`] a plugin; as [`export_code`].
macro_rules! export_model {
    ($model:ty) => {
        parhelion_plugin::export_plugin!(
            parhelion_plugin::Plugin::model::<$model>,
            <$model as parhelion_plugin::Model>::DESCRIPTION
        );

        #[cfg(all(target_arch = "wasm32", not(feature = "built-in")))]
        #[no_mangle]
        unsafe extern "C" fn parhelion_own_risk(question: *const parhelion_plugin::Question) -> f64 {
            parhelion_plugin::own_risk::<$model>(question)
        }
    };
}
pub(crate) use export_model;

/// What codes and models have in common.
macro_rules! export_plugin {
    ($plugin:expr, $description:expr) => {
        unsafe extern "C" fn parhelion_description() -> *const std::os::raw::c_char {
            static TEXT: [u8; $description.len() + 1] = parhelion_plugin::zero_ended($description);
            TEXT.as_ptr().cast()
        }

        /// The plugin, for a host that it is compiled into.
        pub static PLUGIN: parhelion_plugin::Plugin = $plugin(parhelion_description);

        #[cfg(all(not(target_arch = "wasm32"), not(feature = "built-in")))]
        #[no_mangle]
        extern "C" fn parhelion_plugin() -> *const parhelion_plugin::Plugin {
            &PLUGIN
        }

        #[cfg(all(target_arch = "wasm32", not(feature = "built-in")))]
        mod parhelion_common_exports {
            #[no_mangle]
            extern "C" fn parhelion_abi() -> u32 {
                super::parhelion_plugin::ABI
            }

            #[no_mangle]
            extern "C" fn parhelion_alloc(bytes: u32) -> *mut u8 {
                super::parhelion_plugin::alloc(bytes)
            }

            #[no_mangle]
            unsafe extern "C" fn parhelion_describe() -> *const std::os::raw::c_char {
                super::parhelion_description()
            }
        }
    };
}
pub(crate) use export_plugin;

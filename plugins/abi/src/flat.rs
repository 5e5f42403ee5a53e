//! The fixed structs of the ABI: between Rust's types and the plugin's, and between structs and bytes.
//!
//! In a shared library they are passed by pointer, as they are; in a sandbox they are read from and written to linear
//! memory byte by byte, little-endian. The assertions below hold the two to the same offsets.

use std::mem::{offset_of, size_of};

use parhelion_plugin::{Channel, Exposure, Structure};
use parhelion_plugin_sdk::{self as sdk, LAYERS_MAX};

/// Bytes of a structure.
pub const STRUCTURE_BYTES: usize = 4 * STRUCTURE_WORDS;
/// Bytes of a question.
pub const QUESTION_BYTES: usize = 80 + STRUCTURE_BYTES;
/// Bytes of a symbol in an outbox.
pub const SYMBOL_BYTES: usize = 32;

const STRUCTURE_WORDS: usize = 16 + LAYERS_MAX;

const _: () = assert!(size_of::<sdk::Structure>() == STRUCTURE_BYTES);
const _: () = assert!(offset_of!(sdk::Structure, interleaves) == 32);
const _: () = assert!(offset_of!(sdk::Structure, window) == 64 && offset_of!(sdk::Structure, losses) == 84);
const _: () = assert!(size_of::<sdk::Question>() == QUESTION_BYTES);
const _: () = assert!(offset_of!(sdk::Question, coverage) == 48 && offset_of!(sdk::Question, symbols) == 64);
const _: () = assert!(offset_of!(sdk::Question, code) == 80);
const _: () = assert!(size_of::<sdk::Symbol>() == SYMBOL_BYTES);
const _: () = assert!(offset_of!(sdk::Symbol, bytes) == 16 && offset_of!(sdk::Symbol, stride) == 24);

/// A structure as a plugin wrote it into linear memory.
#[must_use]
pub fn structure_from(bytes: &[u8; STRUCTURE_BYTES]) -> sdk::Structure {
    let (words, _) = bytes.as_chunks::<4>();
    let word = |n: usize| words.get(n).map_or(0, |word| u32::from_le_bytes(*word));
    sdk::Structure {
        kind: word(0),
        r: word(1),
        c: word(2),
        depth: word(3),
        copies: word(4),
        spacing: word(5),
        delayed: word(6),
        layers: word(7),
        interleaves: std::array::from_fn(|n| word(8 + n)),
        window: word(16),
        indices: word(17),
        repairs: word(18),
        per: word(19),
        span: word(20),
        losses: word(21),
        reserved: [word(22), word(23)],
    }
}

/// A question as a plugin finds it in linear memory.
#[must_use]
pub fn question_bytes(question: &sdk::Question) -> [u8; QUESTION_BYTES] {
    let q = question;
    let code = &q.code;
    let [w0, w1] = code.reserved;
    let doubles = [q.good_to_bad, q.bad_to_good, q.loss_in_bad, q.loss, q.confidence, q.packets_per_second]
        .map(f64::to_bits);
    let words = [q.symbols, q.group_max, q.flush_run, q.flush_pause].into_iter().chain(
        [code.kind, code.r, code.c, code.depth, code.copies, code.spacing, code.delayed, code.layers]
            .into_iter()
            .chain(code.interleaves)
            .chain([code.window, code.indices, code.repairs, code.per, code.span, code.losses, w0, w1]),
    );
    let mut bytes = [0; QUESTION_BYTES];
    let (longs, rest) = bytes.split_at_mut(64);
    for (to, long) in longs.chunks_exact_mut(8).zip(doubles.into_iter().chain([q.coverage, q.flushed])) {
        to.copy_from_slice(&long.to_le_bytes());
    }
    for (to, word) in rest.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// A symbol as a plugin wrote it into linear memory.
#[must_use]
pub fn symbol_from(bytes: &[u8; SYMBOL_BYTES]) -> sdk::Symbol {
    let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    sdk::Symbol {
        id: long(0),
        payload: long(8),
        bytes: word(16),
        index: word(20),
        stride: half(24),
        count: half(26),
        reserved: word(28),
    }
}

/// What a plugin says its parameters mean, if that can be.
pub(crate) fn checked(flat: &sdk::Structure) -> Result<Structure, String> {
    let sdk::Structure { r, c, depth, copies, spacing, window, indices, repairs, per, span, losses, .. } =
        *flat;
    let structure = match flat.kind {
        sdk::Structure::NONE => Structure::None,
        sdk::Structure::REPETITION => Structure::Repetition { copies, spacing },
        sdk::Structure::BLOCK => Structure::Block { r, c, depth },
        sdk::Structure::LAYERED => {
            let layers = flat.interleaves.get(..flat.layers as usize).unwrap_or_default();
            if layers.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(format!("interleaves {layers:?}, which do not ascend"));
            }
            let delayed = match flat.delayed {
                0 | 1 => flat.delayed == 1,
                other => return Err(format!("delayed {other}, which is neither 0 nor 1")),
            };
            Structure::Layered { r, interleaves: layers.to_vec(), delayed }
        }
        sdk::Structure::WINDOW => Structure::Window { r, c, window, indices },
        sdk::Structure::OTHER => Structure::Other { repairs, per, span, losses },
        kind => return Err(format!("the kind {kind}, which is none of the ABI")),
    };
    let complete = match &structure {
        Structure::None | Structure::Other { repairs: 0, .. } => true,
        Structure::Repetition { copies, spacing } => *copies > 0 && *spacing > 0,
        Structure::Block { r, c, depth } => *r > 0 && *c > 0 && *depth > 0,
        Structure::Layered { r, interleaves, .. } => {
            *r > 0 && interleaves.first().is_some_and(|&first| first > 0)
        }
        Structure::Window { r, c, window, indices } => *r > 0 && *c > 0 && *window > 0 && *indices > 0,
        Structure::Other { per, span, .. } => *per > 0 && *span > 0,
    };
    if !complete {
        return Err(format!("{structure:?}, where a number is 0 that counts something"));
    }
    if structure.repairs_per_symbol() > u64::BITS {
        return Err(format!("{structure:?}, with more than 64 repairs per symbol"));
    }
    if structure.window_symbols().is_none() {
        return Err(format!("{structure:?}, which spans more symbols than a decoder may remember"));
    }
    Ok(structure)
}

/// A structure in the form that models are given it; none of a code with more layers than the form has room for.
pub(crate) fn flattened(structure: &Structure) -> Option<sdk::Structure> {
    let zero = sdk::Structure::default();
    Some(match *structure {
        Structure::None => zero,
        Structure::Repetition { copies, spacing } => {
            sdk::Structure { kind: sdk::Structure::REPETITION, copies, spacing, ..zero }
        }
        Structure::Block { r, c, depth } => {
            sdk::Structure { kind: sdk::Structure::BLOCK, r, c, depth, ..zero }
        }
        Structure::Layered { r, ref interleaves, delayed } => {
            let mut flat = sdk::Structure { kind: sdk::Structure::LAYERED, r, ..zero };
            flat.delayed = u32::from(delayed);
            flat.layers = u32::try_from(interleaves.len()).ok()?;
            flat.interleaves.get_mut(..interleaves.len())?.copy_from_slice(interleaves);
            flat
        }
        Structure::Window { r, c, window, indices } => {
            sdk::Structure { kind: sdk::Structure::WINDOW, r, c, window, indices, ..zero }
        }
        Structure::Other { repairs, per, span, losses } => {
            sdk::Structure { kind: sdk::Structure::OTHER, repairs, per, span, losses, ..zero }
        }
    })
}

/// A question to a model; none about a code that [`flattened`] has no form for.
pub(crate) fn question(channel: &Channel, code: &Structure, exposure: &Exposure) -> Option<sdk::Question> {
    Some(sdk::Question {
        good_to_bad: channel.good_to_bad,
        bad_to_good: channel.bad_to_good,
        loss_in_bad: channel.loss_in_bad,
        loss: channel.loss,
        confidence: channel.confidence,
        packets_per_second: channel.packets_per_second,
        coverage: exposure.coverage,
        flushed: exposure.flushed,
        symbols: exposure.symbols,
        group_max: exposure.group_max,
        flush_run: exposure.flush_run,
        flush_pause: exposure.flush_pause,
        code: flattened(code)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_go_there_and_back() {
        for structure in [
            Structure::None,
            Structure::Repetition { copies: 2, spacing: 64 },
            Structure::Block { r: 8, c: 3, depth: 10 },
            Structure::Layered { r: 8, interleaves: vec![1, 23, 101], delayed: true },
            Structure::Window { r: 8, c: 2, window: 64, indices: 16 },
            Structure::Other { repairs: 3, per: 8, span: 100, losses: 2 },
        ] {
            assert_eq!(checked(&flattened(&structure).unwrap()), Ok(structure));
        }
        let wide = Structure::Layered { r: 8, interleaves: (1..10).collect(), delayed: false };
        assert_eq!(flattened(&wide), None);
    }

    #[test]
    fn structures_that_cannot_be_are_refused() {
        let block = sdk::Structure::block(8, 3);
        let layered = sdk::Structure {
            kind: sdk::Structure::LAYERED,
            r: 8,
            layers: 2,
            interleaves: [5, 5, 0, 0, 0, 0, 0, 0],
            ..Default::default()
        };
        for (flat, said) in [
            (sdk::Structure { kind: 6, ..block }, "the kind 6"),
            (sdk::Structure { r: 0, ..block }, "a number is 0"),
            (sdk::Structure { depth: 0, ..block }, "a number is 0"),
            (sdk::Structure { c: 65, ..block }, "more than 64 repairs"),
            (sdk::Structure { r: 1 << 20, ..block }, "spans more symbols"),
            (layered, "do not ascend"),
            (sdk::Structure { layers: 9, ..layered }, "a number is 0"),
            (sdk::Structure { layers: 1, delayed: 2, ..layered }, "neither 0 nor 1"),
            (
                sdk::Structure { kind: sdk::Structure::OTHER, repairs: 1, ..Default::default() },
                "a number is 0",
            ),
        ] {
            let refused = checked(&flat).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn bytes_are_where_the_header_says() {
        let flat = flattened(&Structure::Layered { r: 8, interleaves: vec![1, 23], delayed: true }).unwrap();
        let exposure = Exposure { flush_run: 7, flush_pause: 9, ..Exposure::steady(3, 0b11, 8) };
        let structure = Structure::Layered { r: 8, interleaves: vec![1, 23], delayed: true };
        let asked = question(&Channel::bursty(0.01, 3.0, 0.999), &structure, &exposure).unwrap();
        let bytes = question_bytes(&asked);
        assert_eq!(bytes[24..32], 0.01_f64.to_le_bytes());
        assert_eq!(bytes[48], 0b11);
        assert_eq!((bytes[64], bytes[68], bytes[72], bytes[76]), (3, 8, 7, 9));
        assert_eq!(structure_from(bytes[80..].try_into().unwrap()), flat);
        let mut symbol = [0; SYMBOL_BYTES];
        for (n, byte) in symbol.iter_mut().enumerate() {
            *byte = n as u8;
        }
        let symbol = symbol_from(&symbol);
        assert_eq!(symbol.payload, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!((symbol.bytes, symbol.index), (0x1312_1110, 0x1716_1514));
        assert_eq!((symbol.stride, symbol.count, symbol.reserved), (0x1918, 0x1b1a, 0x1f1e_1d1c));
    }
}

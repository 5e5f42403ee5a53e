//! Parameters of codes and models as text: from the settings, and from the other site in its hello.
//!
//! Promises: text that is accepted is written and read again as the same; parameters that are accepted make an
//! encoder and a decoder within the limits of coverage and of the window, and these work together.

use parhelion_plugin::{Decoder, Encoder, Parameters, RecoveredSink, RepairHead, RepairSink};
use parhelion_plugin_host::Catalogue;
use parhelion_types::limits::DECODER_WINDOW_SYMBOLS_MAX;
use parhelion_types::{Durability, LogAddress, RequestId, Risk};

const SYMBOL_BYTES: usize = 32;
const SYMBOLS: u64 = 300;
const REPAIRS_MAX: usize = 1 << 16;

/// Repairs as they fire.
#[derive(Default)]
struct Fired(Vec<(RepairHead, Vec<u8>)>);

impl RepairSink for Fired {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        self.0.push((head, payload.to_vec()));
        assert!(self.0.len() <= REPAIRS_MAX, "{SYMBOLS} symbols made more than {REPAIRS_MAX} repairs");
    }
}

/// Rebuilt symbols, checked as they come.
struct Rebuilt;

impl RecoveredSink for Rebuilt {
    fn recovered(&mut self, id: u64, payload: &[u8]) {
        assert_eq!(payload, symbol(id), "symbol {id} was rebuilt wrong");
    }
}

fn symbol(id: u64) -> [u8; SYMBOL_BYTES] {
    std::array::from_fn(|k| (id as u8).wrapping_mul(31).wrapping_add(k as u8))
}

pub(super) fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    words(&text);
    // A name, a blank, parameters: as an operator writes them behind each other.
    let (name, parameters) = text.split_once(' ').unwrap_or((&text, ""));
    let catalogue = Catalogue::built_in();
    if let Err(unknown) = catalogue.model(name) {
        assert!(unknown.to_string().contains("known:"));
    }
    let code = match catalogue.code(name) {
        Ok(code) => code,
        Err(unknown) => return assert!(unknown.to_string().contains("known:")),
    };
    let Ok(parameters) = parameters.parse::<Parameters>() else { return };
    assert_eq!(parameters.to_string().parse().as_ref(), Ok(&parameters), "parameters survive their text");
    let structure = code.structure(&parameters);
    let ends = (code.encoder(&parameters, SYMBOL_BYTES), code.decoder(&parameters, SYMBOL_BYTES));
    let (structure, encoder, decoder) = match (structure, ends) {
        (Ok(structure), (Ok(encoder), Ok(decoder))) => (structure, encoder, decoder),
        (Err(refusal), (Err(_), Err(_))) => return assert!(!refusal.to_string().is_empty()),
        (structure, (encoder, decoder)) => panic!(
            "{name} {parameters}: structure, encoder and decoder disagree: {structure:?}, {:?}, {:?}",
            encoder.err(),
            decoder.err()
        ),
    };
    assert!(structure.repairs_per_symbol() <= 64);
    assert!(structure.window_symbols().is_some_and(|window| window <= DECODER_WINDOW_SYMBOLS_MAX));
    assert!(structure.overhead().is_finite());
    work(encoder, decoder);
}

/// Words of one number or name, as they stand in paths and queries.
fn words(text: &str) {
    if let Ok(address) = text.parse::<LogAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(id) = text.parse::<RequestId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(level) = text.parse::<Durability>() {
        assert_eq!(level.name(), text);
    }
    if let Ok(risk) = text.parse::<Risk>() {
        assert!(risk.probability() > 0.0 && risk.probability() <= 1.0);
    }
}

/// Every seventh symbol is lost; what is rebuilt must be right.
fn work(mut encoder: Box<dyn Encoder>, mut decoder: Box<dyn Decoder>) {
    let mut fired = Fired::default();
    for id in 0..SYMBOLS {
        let symbol = symbol(id);
        encoder.source(id, &symbol, &mut fired);
        if id % 7 != 3 {
            decoder.source(id, &symbol, &mut Rebuilt);
        }
        if id % 100 == 99 {
            encoder.flush(&mut fired);
        }
        for (head, payload) in fired.0.drain(..) {
            decoder.repair(head, &payload, &mut Rebuilt).expect("a repair as it was made is accepted");
        }
    }
}

pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    [
        ("none", "none"),
        ("layered", "layered-interleaving r=8 interleaves=1:11:101 delayed=1"),
        ("reed-solomon", "reed-solomon r=8 c=3 depth=4"),
        ("repetition", "repetition copies=2 spacing=64"),
        ("unknown-code", "reed-salomon r=8"),
        ("range", "reed-solomon r=4294967296 c=0"),
        ("model", "gilbert-elliott"),
        ("address", "3:4096"),
        ("request", "01234567-89ab-cdef-0123-456789abcdef"),
        ("risk", "1e-6"),
    ]
    .map(|(name, text)| (name, text.as_bytes().to_vec()))
    .into()
}

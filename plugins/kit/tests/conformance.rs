//! The built-in codes and models against the whole of the kit, with an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use parhelion_plugin::conformance::{Effort, Examination, Memory, check_model, check_quickly};
use parhelion_plugin::{
    Channel, Code, Decoder, DurabilityModel, Encoder, ErasureCode, Exposure, Parameter, ParameterError,
    Parameters, RepairSink, Structure,
};
use parhelion_plugin_host::Catalogue;
use parhelion_types::Risk;

/// Counts the allocations of each thread: other tests run beside.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: what the caller vouches for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: what the caller vouches for.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.get()
}

#[test]
fn no_built_in_code_allocates_in_steady_state() {
    for code in Catalogue::built_in().codes() {
        let memory = Memory { held: &allocations, slack: 0, unit: "allocations" };
        let examination = Examination::new(61, Effort::Quick).with_memory(memory);
        let report = examination.run(code.as_ref(), &Parameters::new());
        report.unwrap_or_else(|violation| panic!("{violation}"));
    }
}

#[test]
fn the_quick_form_is_quick() {
    for code in Catalogue::built_in().codes() {
        // Of three, the one that was disturbed the least.
        let seconds = (0..3).map(|seed| {
            let start = Instant::now();
            check_quickly(code.as_ref(), &Parameters::new(), seed)
                .unwrap_or_else(|violation| panic!("{violation}"));
            start.elapsed().as_secs_f64()
        });
        let least = seconds.fold(f64::INFINITY, f64::min);
        println!("{}: {least:.3} s", code.name());
        assert!(least < 1.0, "{} takes {least} s", code.name());
    }
}

/// A code that keeps a few bytes of each symbol.
#[derive(Debug)]
struct Hoarder(Arc<dyn ErasureCode>);

struct HoardingEncoder(Box<dyn Encoder>, Vec<Vec<u64>>);

impl Encoder for HoardingEncoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RepairSink) {
        self.1.push(vec![id]);
        self.0.source(id, payload, out);
    }

    fn flush(&mut self, out: &mut dyn RepairSink) {
        self.0.flush(out);
    }
}

impl ErasureCode for Hoarder {
    fn name(&self) -> &str {
        "hoarder"
    }

    fn version(&self) -> u32 {
        1
    }

    fn parameters(&self) -> &[Parameter] {
        self.0.parameters()
    }

    fn structure(&self, parameters: &Parameters) -> Result<Structure, ParameterError> {
        self.0.structure(parameters)
    }

    fn encoder(&self, parameters: &Parameters, bytes: usize) -> Result<Box<dyn Encoder>, ParameterError> {
        Ok(Box::new(HoardingEncoder(self.0.encoder(parameters, bytes)?, vec![])))
    }

    fn decoder(&self, parameters: &Parameters, bytes: usize) -> Result<Box<dyn Decoder>, ParameterError> {
        self.0.decoder(parameters, bytes)
    }
}

#[test]
fn growth_is_found() {
    let hoarder = Hoarder(Catalogue::built_in().code("repetition").unwrap());
    let memory = Memory { held: &allocations, slack: 0, unit: "allocations" };
    let examination = Examination::new(62, Effort::Quick).with_memory(memory);
    let violation = examination.run(&hoarder, &Parameters::new()).unwrap_err();
    assert_eq!(violation.promise, "endurance", "{violation}");
    assert!(violation.detail.contains("allocations more after 2000 symbols"), "{violation}");
}

fn codes() -> Vec<Code> {
    let catalogue = Catalogue::built_in();
    catalogue.codes().map(|code| Code::new(Arc::clone(code), &Parameters::new()).unwrap()).collect()
}

#[test]
fn built_in_models_conform() {
    for model in Catalogue::built_in().models() {
        check_model(model.as_ref(), &codes(), 63, Effort::Quick)
            .unwrap_or_else(|violation| panic!("{violation}"));
    }
    let model = Catalogue::built_in().model("iid-bound").unwrap();
    let report = check_model(model.as_ref(), &codes(), 64, Effort::Full).unwrap_or_else(|v| panic!("{v}"));
    assert!(report.lost > 1_000 && report.pairs > 20_000, "{report:?}");
}

/// A model that is wrong in a certain way.
#[derive(Debug)]
struct Wrong(fn(&Channel, &Code, &Exposure) -> f64);

impl DurabilityModel for Wrong {
    fn name(&self) -> &str {
        "wrong"
    }

    fn version(&self) -> u32 {
        1
    }

    fn own_risk(&self, channel: &Channel, code: &Code, exposure: &Exposure) -> Risk {
        Risk::bound((self.0)(channel, code, exposure))
    }
}

#[test]
fn wrong_models_are_found() {
    let promise = |model: fn(&Channel, &Code, &Exposure) -> f64| {
        check_model(&Wrong(model), &codes(), 64, Effort::Quick).err().map(|violation| violation.promise)
    };
    assert_eq!(promise(|_, _, _| 1.0), None);
    assert_eq!(promise(|_, _, _| 1e-9), Some("bare losses"));
    assert_eq!(promise(|channel, _, _| channel.loss), Some("bound"));
    assert_eq!(promise(|_, _, exposure| 1.0 / f64::from(exposure.symbols)), Some("monotony"));
    assert_eq!(
        promise(|channel, _, exposure| channel.loss * f64::from(exposure.symbols)
            / f64::from(1 + exposure.repairs()).powi(4)),
        Some("bound")
    );
}

//! Nothing allocates per symbol: neither the host's side of a plugin nor, where it is compiled in, the plugin.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::Workshop;
use parhelion_plugin::{ErasureCode, Parameters, RecoveredSink, RepairHead, RepairSink};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is the system's allocator's; the count is a plain number of this thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

/// Keeps the last repair, in a buffer of its own.
struct Last {
    head: Option<RepairHead>,
    payload: Vec<u8>,
    recovered: u64,
}

impl RepairSink for Last {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        self.head = Some(head);
        self.payload.clear();
        self.payload.extend_from_slice(payload);
    }
}

impl RecoveredSink for Last {
    fn recovered(&mut self, _id: u64, _payload: &[u8]) {
        self.recovered += 1;
    }
}

/// Allocations of a stream of `SYMBOLS` symbols, one of each eight lost, after another such stream.
fn allocations(code: &dyn ErasureCode) -> u64 {
    const SYMBOLS: u64 = 8_000;
    let mut encoder = code.encoder(&Parameters::new(), 1200).unwrap();
    let mut decoder = code.decoder(&Parameters::new(), 1200).unwrap();
    let mut last = Last { head: None, payload: Vec::with_capacity(1200), recovered: 0 };
    let payload = [7; 1200];
    let mut before = 0;
    for id in 0..2 * SYMBOLS {
        if id == SYMBOLS {
            before = ALLOCATIONS.get();
        }
        encoder.source(id, &payload, &mut last);
        if id % 8 != 3 {
            decoder.source(id, &payload, &mut last);
        }
        if let Some(head) = last.head.take() {
            let repair = std::mem::take(&mut last.payload);
            decoder.repair(head, &repair, &mut last).unwrap();
            last.payload = repair;
        }
        if id % 100 == 0 {
            decoder.expire(id.saturating_sub(500));
        }
    }
    let after = ALLOCATIONS.get();
    assert_eq!(last.recovered, 2 * SYMBOLS / 8);
    assert_eq!((encoder.fault(), decoder.fault()), (None, None));
    after - before
}

#[test]
fn streams_in_steady_state_allocate_nothing() {
    assert_eq!(allocations(common::built_in_template().as_ref()), 0);
    let workshop = Workshop::new();
    let library = workshop.c_library(&common::example("xor-parity.c"), "xor", &[]);
    assert_eq!(allocations(common::code(&library).as_ref()), 0);
    let Some(module) = workshop.c_module(&common::example("xor-parity.c"), "xor", &[]) else { return };
    assert_eq!(allocations(common::code(&module).as_ref()), 0);
}

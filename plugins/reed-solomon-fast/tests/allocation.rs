//! Nothing allocates once an encoder and a decoder are made.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use parhelion_code_reed_solomon_fast::ReedSolomonFast;
use parhelion_plugin::conformance::{SplitMix64, Stream, Traffic};
use parhelion_plugin::{Decoder, ErasureCode, Parameters, RecoveredSink, RepairHead, RepairSink};

/// Counts the allocations of each thread: the test harness has threads of its own.
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

/// The receiving site, reached through a link that loses packets.
struct Link {
    decoder: Box<dyn Decoder>,
    random: SplitMix64,
    recovered: u64,
}

struct Recovered<'a>(&'a mut u64);

impl RecoveredSink for Recovered<'_> {
    fn recovered(&mut self, _id: u64, _payload: &[u8]) {
        *self.0 += 1;
    }
}

impl RepairSink for Link {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        if !self.random.chance(0.1) {
            self.decoder.repair(head, payload, &mut Recovered(&mut self.recovered)).unwrap();
        }
    }
}

#[test]
fn a_stream_does_not_allocate() {
    for (r, c, depth) in [(8, 3, 1), (40, 12, 1), (8, 3, 10)] {
        let parameters = Parameters::new().with("r", &[r]).with("c", &[c]).with("depth", &[depth]);
        let traffic = Traffic { symbols: 500, symbol_bytes: 1200, uneven: true, ..Traffic::default() };
        let symbols = Stream::encode(&ReedSolomonFast::default(), &parameters, &traffic).unwrap();
        let mut encoder = ReedSolomonFast::default().encoder(&parameters, 1200).unwrap();
        let decoder = ReedSolomonFast::default().decoder(&parameters, 1200).unwrap();
        let mut link = Link { decoder, random: SplitMix64::new(51), recovered: 0 };
        let before = ALLOCATIONS.get();
        for id in 0..20_000 {
            let payload = symbols.symbol(id % 500).unwrap();
            if !link.random.chance(0.1) {
                link.decoder.source(id, payload, &mut Recovered(&mut link.recovered));
            }
            encoder.source(id, payload, &mut link);
            if link.random.chance(0.01) {
                encoder.flush(&mut link);
            }
        }
        assert_eq!(ALLOCATIONS.get() - before, 0, "({r}, {c}) at depth {depth}");
        assert!(link.recovered > 1_000, "{} symbols rebuilt", link.recovered);
    }
}

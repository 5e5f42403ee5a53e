//! The sending side: the newest source symbols, combined again and again.

use std::ops::Range;

use parhelion_galois::{Kernel, RowBuffer, Term};
use parhelion_plugin::{Cover, Encoder, RepairHead, RepairSink};

use crate::coefficients::Coefficients;
use crate::sum::write_sum;

/// Keeps the symbols of the window; every repair is one pass over them.
///
/// Combining them as they come would cost the same products, and as many more writes as repairs are pending.
pub(crate) struct WindowEncoder {
    coefficients: Coefficients,
    kernel: Kernel,
    symbol_bytes: usize,
    /// The newest symbols, each at its place in the window.
    symbols: RowBuffer,
    lengths: Vec<usize>,
    /// The repair that is about to leave.
    repair: Vec<u8>,
    /// None before the first symbol.
    run: Option<Run>,
}

/// Where the stream is.
#[derive(Clone, Copy)]
struct Run {
    /// The first symbol of the stream.
    start: u64,
    /// Symbols below it have complete coverage by a flush.
    flushed: u64,
    /// The newest symbol.
    last: u64,
}

impl WindowEncoder {
    pub fn new(coefficients: Coefficients, symbol_bytes: usize) -> Self {
        let window = coefficients.window();
        Self {
            coefficients,
            kernel: Kernel::best(),
            symbol_bytes,
            symbols: RowBuffer::new(window, symbol_bytes),
            lengths: vec![0; window],
            // A repair has at least one byte; that of empty symbols is a zero.
            repair: vec![0; symbol_bytes.max(1)],
            run: None,
        }
    }

    /// The oldest symbol that a regular repair behind `run` includes.
    fn oldest(&self, run: Run) -> u64 {
        run.start.max(run.last.saturating_sub(self.coefficients.window() as u64 - 1))
    }

    /// Sends the repairs with these numbers over the symbols `first` to `last`.
    fn fire(&mut self, first: u64, last: u64, numbers: Range<u128>, out: &mut dyn RepairSink) {
        let window = self.coefficients.window();
        let count = (last - first) as usize + 1;
        let cover = Cover { first, stride: 1, count: count as u16 };
        let start = self.coefficients.place(first);
        let places = || (start..window).chain(0..start).take(count);
        let bytes = places().map(|place| self.lengths[place]).fold(1, usize::max);
        for number in numbers {
            let point = self.coefficients.point(number, count as u32);
            let terms = places().map(|place| {
                let source = self.symbols.row(place, self.lengths[place]);
                Term { source, factors: Coefficients::factor(place, point) }
            });
            write_sum(self.kernel, &mut self.repair[..bytes], terms);
            let index = self.coefficients.index(number);
            out.repair(RepairHead { cover, index }, &self.repair[..bytes]);
        }
    }
}

impl Encoder for WindowEncoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RepairSink) {
        assert!(payload.len() <= self.symbol_bytes, "symbol {id} has {} bytes", payload.len());
        let run = match self.run {
            None => Run { start: id, flushed: id, last: id },
            Some(run) => {
                assert_eq!(id.checked_sub(1), Some(run.last), "ids of source symbols rise by one");
                Run { last: id, ..run }
            }
        };
        self.run = Some(run);
        let place = self.coefficients.place(id);
        self.symbols.row_mut(place, payload.len()).copy_from_slice(payload);
        self.lengths[place] = payload.len();
        let regular = self.coefficients.regular(id);
        if !regular.is_empty() {
            self.fire(self.oldest(run), id, regular, out);
        }
    }

    /// All indices, over what lacks some of them and has not been flushed. Symbols of older appends stay out:
    /// with their losses in the sum, the repairs might be spent on these.
    fn flush(&mut self, out: &mut dyn RepairSink) {
        let Some(run) = self.run else { return };
        let first = run.flushed.max(self.coefficients.uncovered(run.last));
        self.run = Some(Run { flushed: run.last.saturating_add(1), ..run });
        if first > run.last {
            return;
        }
        let mut numbers = self.coefficients.flush(run.last);
        if first == self.oldest(run) {
            // These regular repairs have just left, over the same symbols.
            numbers.start = self.coefficients.regular(run.last).end;
        }
        self.fire(first, run.last, numbers, out);
    }
}

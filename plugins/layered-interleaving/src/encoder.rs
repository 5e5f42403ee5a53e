//! The sending side: one running XOR per lane of each layer.

use parhelion_plugin::{Cover, Encoder, RepairHead, RepairSink};

use crate::schedule::Schedule;
use crate::xor;

/// XORs each source symbol into one bin of each layer; bins leave as repair symbols when their group ends.
///
/// Invariants:
/// - A bin with `count > 0` holds the XOR of `first`, `first + interleave`, ..., `count` symbols, all of them
///   behind the last flush.
/// - Only a delayed layer has bins whose group is complete. Such a bin leaves with the next symbol of its
///   lane, before that symbol enters it, so no second buffer is needed.
pub(crate) struct LayeredEncoder {
    layers: Vec<Layer>,
    delayed: bool,
    symbol_bytes: usize,
    /// First id behind the last flush, and the id that comes next; none before the first symbol.
    run: Option<(u64, u64)>,
}

struct Layer {
    index: u8,
    schedule: Schedule,
    bins: Vec<Bin>,
    /// The XORs, `symbol_bytes` for each bin.
    sums: Vec<u8>,
    symbol_bytes: usize,
}

#[derive(Clone, Copy, Default)]
struct Bin {
    first: u64,
    count: u16,
    length: usize,
    complete: bool,
}

impl LayeredEncoder {
    pub fn new(schedules: Vec<Schedule>, delayed: bool, symbol_bytes: usize) -> Self {
        let layers = (0..).zip(schedules).map(|(index, schedule)| Layer::new(index, schedule, symbol_bytes));
        Self { layers: layers.collect(), delayed, symbol_bytes, run: None }
    }
}

impl Encoder for LayeredEncoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RepairSink) {
        assert!(payload.len() <= self.symbol_bytes, "symbol {id} has {} bytes", payload.len());
        let (start, next) = self.run.unwrap_or((id, id));
        assert_eq!(id, next, "ids of source symbols rise by one");
        self.run = Some((start, id.wrapping_add(1)));
        for layer in &mut self.layers {
            let lane = layer.schedule.lane(id);
            if layer.bins[lane].complete {
                layer.emit(lane, out);
            }
            layer.add(lane, id, payload);
            if layer.schedule.remaining(id) == 0 {
                if self.delayed {
                    layer.bins[lane].complete = true;
                } else {
                    layer.emit(lane, out);
                }
            }
        }
    }

    fn flush(&mut self, out: &mut dyn RepairSink) {
        let Some((start, next)) = self.run else { return };
        // Layer by layer, so that the repairs of one symbol are apart.
        for layer in &mut self.layers {
            // Only lanes that had a symbol behind the last flush can be filled; oldest symbols first.
            let recent = next.wrapping_sub(start).min(layer.schedule.interleave());
            for id in (1..=recent).rev().map(|back| next.wrapping_sub(back)) {
                layer.emit(layer.schedule.lane(id), out);
            }
        }
        self.run = Some((next, next));
    }
}

impl Layer {
    fn new(index: u8, schedule: Schedule, symbol_bytes: usize) -> Self {
        let lanes = schedule.lanes();
        let (bins, sums) = (vec![Bin::default(); lanes], vec![0; lanes * symbol_bytes]);
        Self { index, schedule, bins, sums, symbol_bytes }
    }

    fn add(&mut self, lane: usize, id: u64, payload: &[u8]) {
        let bin = &mut self.bins[lane];
        if bin.count == 0 {
            bin.first = id;
        }
        bin.count += 1;
        let sum = &mut self.sums[lane * self.symbol_bytes..(lane + 1) * self.symbol_bytes];
        bin.length = xor::add(sum, bin.length, payload);
    }

    /// Sends what the bin holds, if anything, and empties it.
    fn emit(&mut self, lane: usize, out: &mut dyn RepairSink) {
        let Bin { first, count, length, .. } = std::mem::take(&mut self.bins[lane]);
        if count == 0 {
            return;
        }
        let start = lane * self.symbol_bytes;
        if length == 0 {
            // A repair has at least one byte; that of empty symbols is a zero.
            self.sums[start] = 0;
        }
        let cover = Cover { first, stride: self.schedule.interleave() as u16, count };
        out.repair(RepairHead { cover, index: self.index }, &self.sums[start..start + length.max(1)]);
    }
}

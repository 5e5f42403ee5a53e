//! The sending side: one running XOR per lane of each layer.

use parhelion_plugin::{Cover, Encoder, RepairHead, RepairSink};

use crate::schedule::Schedule;
use crate::xor::{Sum, Vectors};

/// XORs each source symbol into one bin of each layer; bins leave as repair symbols when their group ends.
///
/// Each symbol is read once for all layers, and no division is made for it: together that is most of what an encoder
/// without both would cost.
///
/// Invariants:
/// - A layer's `lane` and `place` are those of the id that comes next.
/// - A bin with `count > 0` holds the XOR of `first`, `first + interleave`, ..., `count` symbols, all of them
///   behind the last flush.
/// - Only a delayed layer has bins whose group is complete. Such a bin leaves with the next symbol of its
///   lane, before that symbol enters it, so no second buffer is needed.
pub(crate) struct LayeredEncoder {
    layers: Vec<Layer>,
    delayed: bool,
    symbol_bytes: usize,
    vectors: Vectors,
    /// First id behind the last flush, and the id that comes next; none before the first symbol.
    run: Option<(u64, u64)>,
}

struct Layer {
    index: u8,
    schedule: Schedule,
    lane: usize,
    place: u32,
    period: u32,
    /// The lane whose group ended with the symbol that is being taken, if it is to leave at once.
    ended: Option<usize>,
    bins: Vec<Bin>,
    /// The XORs: that of bin `n` begins `n` times `stride` bytes behind `origin`.
    sums: Vec<u8>,
    origin: usize,
    stride: usize,
}

/// Sums begin at cache lines: what lies across two of them is written at half the speed.
const CACHE_LINE: usize = 64;

#[derive(Clone, Copy)]
struct Bin {
    first: u64,
    length: u32,
    /// Place in the period at which a group ends.
    end: u32,
    count: u16,
    complete: bool,
}

impl LayeredEncoder {
    pub fn new(schedules: Vec<Schedule>, delayed: bool, symbol_bytes: usize) -> Self {
        let layers = (0..).zip(schedules).map(|(index, schedule)| Layer::new(index, schedule, symbol_bytes));
        Self { layers: layers.collect(), delayed, symbol_bytes, vectors: Vectors::best(), run: None }
    }
}

impl Encoder for LayeredEncoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RepairSink) {
        assert!(payload.len() <= self.symbol_bytes, "symbol {id} has {} bytes", payload.len());
        if self.run.is_none() || id == 0 {
            self.layers.iter_mut().for_each(|layer| layer.seek(id));
        }
        let (start, next) = self.run.unwrap_or((id, id));
        assert_eq!(id, next, "ids of source symbols rise by one");
        self.run = Some((start, id.wrapping_add(1)));
        let (vectors, delayed, bytes) = (self.vectors, self.delayed, payload.len());
        for layers in self.layers.chunks_mut(4) {
            match layers {
                [a, b, c, d] => {
                    let (a, b) = (a.take(id, bytes, delayed, out), b.take(id, bytes, delayed, out));
                    let (c, d) = (c.take(id, bytes, delayed, out), d.take(id, bytes, delayed, out));
                    vectors.add([a, b, c, d], payload);
                }
                [a, b, c] => {
                    let (a, b) = (a.take(id, bytes, delayed, out), b.take(id, bytes, delayed, out));
                    vectors.add([a, b, c.take(id, bytes, delayed, out)], payload);
                }
                [a, b] => {
                    let a = a.take(id, bytes, delayed, out);
                    vectors.add([a, b.take(id, bytes, delayed, out)], payload);
                }
                [a] => vectors.add([a.take(id, bytes, delayed, out)], payload),
                _ => {}
            }
        }
        if !delayed {
            for layer in &mut self.layers {
                if let Some(lane) = layer.ended.take() {
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
        let stride = symbol_bytes.max(1).next_multiple_of(CACHE_LINE);
        let sums = vec![0; lanes * stride + CACHE_LINE];
        let origin = sums.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE);
        let bins = (0..lanes).map(|lane| Bin {
            first: 0,
            length: 0,
            end: schedule.end(lane),
            count: 0,
            complete: false,
        });
        // At most 255 symbols in each of 16 384 lanes.
        let period = schedule.period() as u32;
        Self {
            index,
            bins: bins.collect(),
            schedule,
            lane: 0,
            place: 0,
            period,
            ended: None,
            sums,
            origin,
            stride,
        }
    }

    /// The id that comes next is `id`.
    fn seek(&mut self, id: u64) {
        self.lane = self.schedule.lane(id);
        self.place = (id % self.schedule.period()) as u32;
    }

    /// Counts a symbol of so many bytes in, and moves on to the next id; the sum that it must be added to.
    #[inline(always)]
    fn take(&mut self, id: u64, bytes: usize, delayed: bool, out: &mut dyn RepairSink) -> Sum<'_> {
        let lane = self.lane;
        if self.bins[lane].complete {
            self.emit(lane, out);
        }
        let bin = &mut self.bins[lane];
        let ends = self.place == bin.end;
        self.lane = if lane + 1 == self.schedule.lanes() { 0 } else { lane + 1 };
        self.place = if self.place + 1 == self.period { 0 } else { self.place + 1 };
        bin.complete = ends && delayed;
        self.ended = (ends && !delayed).then_some(lane);
        let start = self.origin + lane * self.stride;
        let sum = &mut self.sums[start..start + bytes];
        // What is there behind the sum is left of an earlier group.
        if bin.count == 0 {
            (bin.first, bin.count, bin.length) = (id, 1, bytes as u32);
            return Sum::new(sum);
        }
        bin.count += 1;
        let length = bin.length as usize;
        if length < bytes {
            sum[length..].fill(0);
            bin.length = bytes as u32;
        }
        Sum::of(sum)
    }

    /// Sends what the bin holds, if anything, and empties it.
    #[inline(never)]
    fn emit(&mut self, lane: usize, out: &mut dyn RepairSink) {
        let bin = &mut self.bins[lane];
        let (first, count, length) = (bin.first, std::mem::take(&mut bin.count), bin.length as usize);
        bin.complete = false;
        if count == 0 {
            return;
        }
        let start = self.origin + lane * self.stride;
        if length == 0 {
            // A repair has at least one byte; that of empty symbols is a zero.
            self.sums[start] = 0;
        }
        let cover = Cover { first, stride: self.schedule.interleave() as u16, count };
        out.repair(RepairHead { cover, index: self.index }, &self.sums[start..start + length.max(1)]);
    }
}

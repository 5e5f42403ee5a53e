//! The sending side: `depth` blocks that take turns.

use parhelion_plugin::{Cover, Encoder, RepairHead, RepairSink};

use crate::matrix::{ParityMatrix, add_product};

/// Multiplies each source symbol into the parity of its block; repairs leave when all blocks are full.
///
/// Invariants:
/// - Since the last flush or the last repairs, `count` symbols came, `first` and its successors. Symbol n of them is in
///   block `n % depth`, as that block's source symbol `n / depth`.
/// - Parity bytes behind a block's longest symbol are zero.
pub(crate) struct BlockEncoder {
    matrix: ParityMatrix,
    depth: usize,
    symbol_bytes: usize,
    first: u64,
    count: usize,
    /// Longest symbol of each block.
    longest: Vec<usize>,
    /// `symbol_bytes` for each row of each block, a block's rows together.
    parity: Vec<u8>,
}

impl BlockEncoder {
    pub fn new(matrix: ParityMatrix, depth: usize, symbol_bytes: usize) -> Self {
        let parity = vec![0; depth * matrix.c() * symbol_bytes];
        Self { matrix, depth, symbol_bytes, first: 0, count: 0, longest: vec![0; depth], parity }
    }

    fn row(&self, block: usize, row: usize) -> usize {
        (block * self.matrix.c() + row) * self.symbol_bytes
    }
}

impl Encoder for BlockEncoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RepairSink) {
        assert!(payload.len() <= self.symbol_bytes, "symbol {id} has {} bytes", payload.len());
        if self.count == 0 {
            self.first = id;
        }
        assert_eq!(id, self.first + self.count as u64, "ids of source symbols rise by one");
        let (block, symbol) = (self.count % self.depth, self.count / self.depth);
        for row in 0..self.matrix.c() {
            let start = self.row(block, row);
            let sum = &mut self.parity[start..start + payload.len()];
            add_product(sum, self.matrix.at(row, symbol), payload);
        }
        self.longest[block] = self.longest[block].max(payload.len());
        self.count += 1;
        if self.count == self.matrix.r() * self.depth {
            self.flush(out);
        }
    }

    /// Row by row, and in each row in the turn of the blocks: the packets of a block stay `depth` apart.
    fn flush(&mut self, out: &mut dyn RepairSink) {
        let blocks = self.count.min(self.depth);
        for row in 0..self.matrix.c() {
            for turn in 0..blocks {
                let block = (self.count + turn) % blocks.max(1);
                // The turn goes on where the source symbols left it, unless they did not go round once.
                let symbols = (self.count - block).div_ceil(self.depth);
                let cover = Cover {
                    first: self.first + block as u64,
                    stride: self.depth as u16,
                    count: symbols as u16,
                };
                let start = self.row(block, row);
                // A repair has at least one byte; that of empty symbols is a zero.
                let payload = &self.parity[start..start + self.longest[block].max(1)];
                out.repair(RepairHead { cover, index: row as u8 }, payload);
            }
        }
        for block in 0..blocks {
            for row in 0..self.matrix.c() {
                let start = self.row(block, row);
                self.parity[start..start + self.longest[block]].fill(0);
            }
            self.longest[block] = 0;
        }
        self.count = 0;
    }
}

//! The sending side: `depth` blocks that take turns.

use parhelion_galois::{Kernel, RowBuffer, Term};
use parhelion_plugin::{Cover, Encoder, RepairHead, RepairSink};

use crate::cauchy::Cauchy;
use crate::group::{GROUP_SYMBOLS_MAX, Terms};

/// Gathers source symbols in groups, and multiplies each group into the parity of its block in one pass.
///
/// Invariants:
/// - Since the last flush or the last repairs, `count` symbols came, `first` and its successors. The next is for the block
///   `turn`.
/// - A block's parity is that of all its symbols but the gathered ones, of which there is less than a group. It is in use up
///   to the longest of these symbols; what lies behind has no meaning.
pub(crate) struct BlockEncoder {
    matrix: Cauchy,
    kernel: Kernel,
    symbol_bytes: usize,
    first: u64,
    count: usize,
    turn: usize,
    blocks: Vec<Block>,
    /// Symbols that are multiplied together.
    group: usize,
    /// A group less one for each block: the symbol that completes a group is multiplied where it is.
    gathered: RowBuffer,
    gathered_bytes: Vec<usize>,
    /// The repairs of each block, one after the other.
    parity: RowBuffer,
}

#[derive(Clone, Copy, Default)]
struct Block {
    /// Symbols that came.
    symbols: usize,
    /// Those of them that are not yet in the parity.
    gathered: usize,
    /// Bytes of the parity that are in use.
    bytes: usize,
}

impl BlockEncoder {
    pub fn new(matrix: Cauchy, kernel: Kernel, depth: usize, symbol_bytes: usize) -> Self {
        let group = GROUP_SYMBOLS_MAX.min(matrix.r());
        Self {
            kernel,
            symbol_bytes,
            first: 0,
            count: 0,
            turn: 0,
            blocks: vec![Block::default(); depth],
            group,
            gathered: RowBuffer::new(depth * (group - 1), symbol_bytes),
            gathered_bytes: vec![0; depth * (group - 1)],
            parity: RowBuffer::new(depth * matrix.c(), symbol_bytes),
            matrix,
        }
    }

    /// Multiplies what the block gathered into its parity, and `last`, its newest symbol, unless that was gathered too.
    fn multiply(&mut self, block: usize, last: Option<&[u8]>) {
        let Block { symbols, gathered, bytes } = self.blocks[block];
        let before = symbols - gathered - usize::from(last.is_some());
        let mut terms = Terms::new();
        let start = block * (self.group - 1);
        for n in 0..gathered {
            let row = start + n;
            let source = self.gathered.row(row, self.gathered_bytes[row]);
            terms.push(Term { source, factors: self.matrix.column(before + n) });
        }
        if let Some(source) = last {
            terms.push(Term { source, factors: self.matrix.column(symbols - 1) });
        }
        // A repair has at least one byte; that of empty symbols is a zero.
        let longest = terms.iter().map(|term| term.source.len()).fold(bytes.max(1), usize::max);
        let c = self.matrix.c();
        if before == 0 {
            self.kernel.combine(self.parity.rows_mut(block * c, c, longest), &terms);
        } else {
            for row in block * c..(block + 1) * c {
                self.parity.row_mut(row, longest)[bytes..].fill(0);
            }
            self.kernel.combine_add(self.parity.rows_mut(block * c, c, longest), &terms);
        }
        self.blocks[block] = Block { symbols, gathered: 0, bytes: longest };
    }
}

impl Encoder for BlockEncoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RepairSink) {
        assert!(payload.len() <= self.symbol_bytes, "symbol {id} has {} bytes", payload.len());
        if self.count == 0 {
            self.first = id;
        }
        assert_eq!(id, self.first + self.count as u64, "ids of source symbols rise by one");
        let turn = self.turn;
        let block = &mut self.blocks[turn];
        block.symbols += 1;
        if block.gathered + 1 == self.group || block.symbols == self.matrix.r() {
            self.multiply(turn, Some(payload));
        } else {
            let row = turn * (self.group - 1) + block.gathered;
            block.gathered += 1;
            self.gathered.row_mut(row, payload.len()).copy_from_slice(payload);
            self.gathered_bytes[row] = payload.len();
        }
        self.count += 1;
        self.turn = if turn + 1 == self.blocks.len() { 0 } else { turn + 1 };
        if self.count == self.matrix.r() * self.blocks.len() {
            self.flush(out);
        }
    }

    /// Row by row, and in each row in the turn of the blocks: the packets of a block stay `depth` apart.
    fn flush(&mut self, out: &mut dyn RepairSink) {
        let depth = self.blocks.len();
        let blocks = self.count.min(depth);
        for block in 0..blocks {
            if self.blocks[block].gathered > 0 {
                self.multiply(block, None);
            }
        }
        // The turn goes on where the source symbols left it, unless they did not go round once.
        let turn = if self.count < depth { 0 } else { self.turn };
        for row in 0..self.matrix.c() {
            for block in (turn..blocks).chain(0..turn) {
                let Block { symbols, bytes, .. } = self.blocks[block];
                let cover =
                    Cover { first: self.first + block as u64, stride: depth as u16, count: symbols as u16 };
                let payload = self.parity.row(block * self.matrix.c() + row, bytes);
                out.repair(RepairHead { cover, index: row as u8 }, payload);
            }
        }
        self.blocks[..blocks].fill(Block::default());
        (self.count, self.turn) = (0, 0);
    }
}

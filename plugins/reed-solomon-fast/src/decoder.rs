//! The receiving side: a window of symbols, and the repairs of blocks that lack some.

use parhelion_galois::{Kernel, RowBuffer, Term};
use parhelion_plugin::{Cover, Decoder, Forgotten, RecoveredSink, RepairHead, SymbolError, Window};

use crate::cauchy::Cauchy;
use crate::group::{GROUP_SYMBOLS_MAX, Terms};

/// Rebuilds a block as soon as it has as many repairs as it lacks source symbols.
///
/// Invariants:
/// - `member` names, at the place of `id` in the window, the stored block of `id`, for each symbol of each stored block. A
///   stored block lies in the window and lacks more symbols than it has repairs.
/// - The held symbols of a stored block are no longer than its repairs.
pub(crate) struct BlockDecoder {
    matrix: Cauchy,
    kernel: Kernel,
    depth: u16,
    window: Window,
    member: Vec<u32>,
    blocks: Vec<Block>,
    free: Vec<u32>,
    /// The repairs of each block in the order of their arrival, and the index of each.
    repairs: RowBuffer,
    indices: Vec<u8>,
    /// What a solve needs: which symbols of the block are lost and which are held, the inverse, factors of some held
    /// symbols, and the lost symbols themselves.
    lost: Vec<u8>,
    held: Vec<u8>,
    inverse: Vec<u8>,
    factors: Vec<u8>,
    rebuilt: RowBuffer,
}

#[derive(Clone, Copy)]
struct Block {
    cover: Cover,
    /// Bit `i`: the repair with index `i` is here.
    present: u64,
    /// Source symbols that are not held.
    missing: u32,
    /// Bytes of each of its repairs.
    bytes: usize,
}

/// In `member`: the symbol's block is not stored.
const NOBODY: u32 = u32::MAX;

/// Blocks that can wait, per symbol of the window: most have `r`, but flushes make smaller ones.
const WAITING_BLOCK_SYMBOLS: usize = 8;

impl BlockDecoder {
    pub fn new(matrix: Cauchy, kernel: Kernel, depth: u16, window: usize, symbol_bytes: usize) -> Self {
        let capacity = window / WAITING_BLOCK_SYMBOLS.min(matrix.r());
        let c = matrix.c();
        let (lost, held) = (Vec::with_capacity(matrix.r()), Vec::with_capacity(matrix.r()));
        let nothing =
            Block { cover: Cover { first: 0, stride: 1, count: 0 }, present: 0, missing: 0, bytes: 0 };
        Self {
            matrix,
            kernel,
            depth,
            window: Window::new(window, symbol_bytes),
            member: vec![NOBODY; window],
            blocks: vec![nothing; capacity],
            free: (0..capacity as u32).rev().collect(),
            repairs: RowBuffer::new(capacity * c, symbol_bytes),
            indices: vec![0; capacity * c],
            lost,
            held,
            inverse: vec![0; c * c],
            factors: vec![0; GROUP_SYMBOLS_MAX * c],
            rebuilt: RowBuffer::new(c, symbol_bytes),
        }
    }

    /// Moves the window so that it holds `id`, and forgets the blocks of what falls out of it.
    fn reach(&mut self, id: u64) {
        match self.window.reach(id) {
            Forgotten::All => {
                self.member.fill(NOBODY);
                self.free.clear();
                self.free.extend((0..self.blocks.len() as u32).rev());
            }
            Forgotten::Ids(gone) => {
                for id in gone {
                    let block = self.member[self.window.place(id)];
                    if block != NOBODY {
                        self.remove(block);
                    }
                }
            }
        }
    }

    /// Forgets the repairs of a block.
    fn remove(&mut self, block: u32) {
        for id in self.blocks[block as usize].cover.ids() {
            let at = self.window.place(id);
            self.member[at] = NOBODY;
        }
        self.free.push(block);
    }

    /// The stored block with this cover.
    fn stored(&self, cover: Cover) -> Option<u32> {
        let block = self.member[self.window.place(cover.first)];
        (block != NOBODY && self.blocks[block as usize].cover == cover).then_some(block)
    }

    /// Stores a block that waits for its symbols. None if one of them is in a stored block already.
    fn store(&mut self, cover: Cover, bytes: usize) -> Option<u32> {
        if cover.ids().any(|id| self.member[self.window.place(id)] != NOBODY) {
            return None;
        }
        if self.free.is_empty() {
            // The block that ends first is the most likely to be beyond help.
            let oldest =
                (0..self.blocks.len() as u32).min_by_key(|&block| self.blocks[block as usize].cover.last());
            self.remove(oldest?);
        }
        let block = self.free.pop()?;
        let missing = cover.ids().filter(|&id| !self.window.holds(id)).count() as u32;
        self.blocks[block as usize] = Block { cover, present: 0, missing, bytes };
        for id in cover.ids() {
            let at = self.window.place(id);
            self.member[at] = block;
        }
        Some(block)
    }

    /// Rebuilds the block if it has repairs enough.
    fn solve(&mut self, block: u32, out: &mut dyn RecoveredSink) {
        let Block { cover, present, missing, bytes } = self.blocks[block as usize];
        if present.count_ones() < missing {
            return;
        }
        let e = missing as usize;
        let first = block as usize * self.matrix.c();
        self.subtract_held(cover, first, e, bytes);
        // What is left of the repairs comes from the lost symbols alone: the inverse makes it these.
        let inverse = &mut self.inverse[..e * e];
        self.matrix.invert(&self.indices[first..first + e], &self.lost, inverse);
        for (n, columns) in inverse.chunks(GROUP_SYMBOLS_MAX * e).enumerate() {
            let mut terms = Terms::new();
            for (row, factors) in (first + n * GROUP_SYMBOLS_MAX..).zip(columns.chunks_exact(e)) {
                terms.push(Term { source: self.repairs.row(row, bytes), factors });
            }
            let sums = self.rebuilt.rows_mut(0, e, bytes);
            if n == 0 { self.kernel.combine(sums, &terms) } else { self.kernel.combine_add(sums, &terms) }
        }
        for (row, &symbol) in self.lost.iter().enumerate() {
            let id = cover.first + u64::from(symbol) * u64::from(cover.stride);
            let write = |payload: &mut [u8]| payload.copy_from_slice(self.rebuilt.row(row, bytes));
            if let Some(payload) = self.window.rebuild(id, bytes, write) {
                out.recovered(id, payload);
            }
        }
        self.remove(block);
    }

    /// Takes away what the held symbols gave to the first `e` repairs, which are in the rows from `first` on, and notes the
    /// numbers of the lost ones.
    fn subtract_held(&mut self, cover: Cover, first: usize, e: usize, bytes: usize) {
        self.lost.clear();
        self.held.clear();
        for (symbol, id) in cover.ids().enumerate() {
            let list = if self.window.holds(id) { &mut self.held } else { &mut self.lost };
            list.push(symbol as u8);
        }
        let indices = &self.indices[first..first + e];
        // Mostly all repairs arrive, in order: then the factors lie together in the matrix.
        let together = indices.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        for held in self.held.chunks(GROUP_SYMBOLS_MAX) {
            if !together {
                for (&symbol, factors) in held.iter().zip(self.factors.chunks_exact_mut(e)) {
                    let column = self.matrix.column(usize::from(symbol));
                    for (factor, &index) in factors.iter_mut().zip(indices) {
                        *factor = column[usize::from(index)];
                    }
                }
            }
            let mut terms = Terms::new();
            for (&symbol, gathered) in held.iter().zip(self.factors.chunks_exact(e)) {
                let source = self.window.symbol(cover.first + u64::from(symbol) * u64::from(cover.stride));
                let column = self.matrix.column(usize::from(symbol));
                let factors = if together { &column[usize::from(indices[0])..][..e] } else { gathered };
                terms.push(Term { source, factors });
            }
            self.kernel.combine_add(self.repairs.rows_mut(first, e, bytes), &terms);
        }
    }

    /// Whether an encoder with these parameters writes this head.
    fn fits(&self, RepairHead { cover, index }: RepairHead) -> bool {
        let count = usize::from(cover.count);
        let reach = u64::from(cover.count.saturating_sub(1)) * u64::from(self.depth);
        usize::from(index) < self.matrix.c()
            && cover.stride == self.depth
            && (1..=self.matrix.r()).contains(&count)
            && cover.first.checked_add(reach).is_some()
    }
}

impl Decoder for BlockDecoder {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut dyn RecoveredSink) {
        self.reach(id);
        if !self.window.keep(id, payload) {
            return;
        }
        let at = self.window.place(id);
        let block = self.member[at];
        if block == NOBODY {
            return;
        }
        let stored = &mut self.blocks[block as usize];
        stored.missing -= 1;
        if payload.len() > stored.bytes {
            // Not repairs of this symbol, whatever their heads say.
            self.remove(block);
        } else if stored.missing == 0 {
            self.remove(block);
        } else {
            self.solve(block, out);
        }
    }

    fn repair(
        &mut self,
        head: RepairHead,
        payload: &[u8],
        out: &mut dyn RecoveredSink,
    ) -> Result<(), SymbolError> {
        self.window.check_length(payload)?;
        if !self.fits(head) {
            return Err(SymbolError::Head(head));
        }
        let cover = head.cover;
        if self.window.is_past(cover) {
            return Ok(());
        }
        // The block may end ahead of the window when everything since was lost.
        self.reach(cover.last());
        let block = match self.stored(cover) {
            Some(block) => block,
            None => {
                self.window.check_group(head, payload)?;
                if cover.ids().all(|id| self.window.holds(id)) {
                    return Ok(());
                }
                self.store(cover, payload.len()).ok_or(SymbolError::Head(head))?
            }
        };
        let stored = &mut self.blocks[block as usize];
        if stored.bytes != payload.len() {
            return Err(SymbolError::Inconsistent { bytes: payload.len(), group: stored.bytes });
        }
        if stored.present & (1 << head.index) != 0 {
            return Ok(());
        }
        let row = block as usize * self.matrix.c() + stored.present.count_ones() as usize;
        stored.present |= 1 << head.index;
        self.indices[row] = head.index;
        self.repairs.row_mut(row, payload.len()).copy_from_slice(payload);
        self.solve(block, out);
        Ok(())
    }

    fn expire(&mut self, id: u64) {
        self.window.expire(id);
    }
}

//! The receiving side: a window of symbols, and the repairs of blocks that lack some.

use parhelion_plugin::{Cover, Decoder, Forgotten, RecoveredSink, RepairHead, SymbolError, Window};

use crate::matrix::{ParityMatrix, Rows, add_product, divide, eliminate};

/// Rebuilds a block as soon as it has as many repairs as it lacks source symbols.
///
/// Invariants:
/// - `member` names, at the place of `id` in the window, the stored block of `id`, for each symbol of each stored block. A stored block lies
///   in the window and lacks more symbols than it has repairs.
pub(crate) struct BlockDecoder {
    matrix: ParityMatrix,
    depth: u16,
    symbol_bytes: usize,
    window: Window,
    member: Vec<u32>,
    blocks: Vec<Block>,
    free: Vec<u32>,
    /// `symbol_bytes` for each row of each block, a block's rows together.
    repairs: Vec<u8>,
    /// The system of a solve, and where its rows are.
    system: Vec<u8>,
    rows: Vec<usize>,
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
    pub fn new(matrix: ParityMatrix, depth: u16, window: usize, symbol_bytes: usize) -> Self {
        let capacity = window / WAITING_BLOCK_SYMBOLS.min(matrix.r());
        let c = matrix.c();
        let nothing =
            Block { cover: Cover { first: 0, stride: 1, count: 0 }, present: 0, missing: 0, bytes: 0 };
        Self {
            matrix,
            depth,
            symbol_bytes,
            window: Window::new(window, symbol_bytes),
            member: vec![NOBODY; window],
            blocks: vec![nothing; capacity],
            free: (0..capacity as u32).rev().collect(),
            repairs: vec![0; capacity * c * symbol_bytes],
            system: vec![0; c * c],
            rows: vec![0; c],
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

    /// The stored block with this cover; a new one if its symbols are in none. None where they are in another.
    fn block(&mut self, cover: Cover, bytes: usize) -> Option<u32> {
        let first = self.member[self.window.place(cover.first)];
        if first != NOBODY {
            return Some(first).filter(|&block| self.blocks[block as usize].cover == cover);
        }
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

    fn repair_at(&self, block: u32, row: usize) -> usize {
        block as usize * self.matrix.c() + row
    }

    /// Rebuilds the block if it has repairs enough.
    fn solve(&mut self, block: u32, out: &mut dyn RecoveredSink) {
        let Block { cover, present, missing, bytes } = self.blocks[block as usize];
        if present.count_ones() < missing {
            return;
        }
        let e = missing as usize;
        let chosen = (0..self.matrix.c()).filter(|row| present & (1 << row) != 0).take(e);
        // A repair less what the held symbols gave to it is what the lost ones gave.
        for (n, row) in chosen.enumerate() {
            self.rows[n] = self.repair_at(block, row);
            let mut column = 0;
            for (symbol, id) in cover.ids().enumerate() {
                let factor = self.matrix.at(row, symbol);
                if !self.window.holds(id) {
                    self.system[n * e + column] = factor;
                    column += 1;
                } else {
                    let sum = &mut self.repairs[self.rows[n] * self.symbol_bytes..][..bytes];
                    add_product(sum, factor, self.window.symbol(id));
                }
            }
        }
        let mut rows =
            Rows { buffer: &mut self.repairs, at: &mut self.rows[..e], stride: self.symbol_bytes, bytes };
        if eliminate(&mut self.system[..e * e], e, &mut rows) {
            let mut column = 0;
            for id in cover.ids() {
                if self.window.holds(id) {
                    continue;
                }
                let pivot = self.system[column * e + column];
                let write = |payload: &mut [u8]| divide(rows.get(column), pivot, payload);
                if let Some(payload) = self.window.rebuild(id, bytes, write) {
                    out.recovered(id, payload);
                }
                column += 1;
            }
        }
        self.remove(block);
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
        self.window.check_group(head, payload)?;
        if cover.ids().all(|id| self.window.holds(id)) {
            return Ok(());
        }
        let Some(block) = self.block(cover, payload.len()) else { return Err(SymbolError::Head(head)) };
        let stored = &mut self.blocks[block as usize];
        if stored.bytes != payload.len() {
            return Err(SymbolError::Inconsistent { bytes: payload.len(), group: stored.bytes });
        }
        if stored.present & (1 << head.index) != 0 {
            return Ok(());
        }
        stored.present |= 1 << head.index;
        let start = self.repair_at(block, usize::from(head.index)) * self.symbol_bytes;
        self.repairs[start..start + payload.len()].copy_from_slice(payload);
        self.solve(block, out);
        Ok(())
    }

    fn expire(&mut self, id: u64) {
        self.window.expire(id);
    }
}

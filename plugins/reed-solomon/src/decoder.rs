//! The receiving side: a window of symbols, and the repairs of blocks that lack some.

use parhelion_plugin::{Cover, Decoder, RecoveredSink, RepairHead, SymbolError};

use crate::matrix::{ParityMatrix, Rows, add_product, divide, eliminate};

/// Rebuilds a block as soon as it has as many repairs as it lacks source symbols.
///
/// Invariants:
/// - The symbols `floor..floor + window` have a place in the ring, at `id % window`; older ones are forgotten.
///   The window moves forward only.
/// - `member[id % window]` names the stored block of `id`, for each symbol of each stored block. A stored block lies
///   in the window and lacks more symbols than it has repairs.
/// - A rebuilt symbol is kept without the zeros at its end: its own length is not known.
pub(crate) struct BlockDecoder {
    matrix: ParityMatrix,
    depth: u16,
    symbol_bytes: usize,
    window: u64,
    floor: u64,
    started: bool,
    /// Below it nothing is reported.
    wanted: u64,
    /// `symbol_bytes` for each place of the ring.
    payloads: Vec<u8>,
    lengths: Vec<usize>,
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

/// In `lengths`: the symbol is not held.
const ABSENT: usize = usize::MAX;
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
            window: window as u64,
            floor: 0,
            started: false,
            wanted: 0,
            payloads: vec![0; window * symbol_bytes],
            lengths: vec![ABSENT; window],
            member: vec![NOBODY; window],
            blocks: vec![nothing; capacity],
            free: (0..capacity as u32).rev().collect(),
            repairs: vec![0; capacity * c * symbol_bytes],
            system: vec![0; c * c],
            rows: vec![0; c],
        }
    }

    fn at(&self, id: u64) -> usize {
        // The window is a power of two.
        (id & (self.window - 1)) as usize
    }

    fn held(&self, id: u64) -> bool {
        self.lengths[self.at(id)] != ABSENT
    }

    fn symbol(&self, id: u64) -> &[u8] {
        let at = self.at(id);
        &self.payloads[at * self.symbol_bytes..][..self.lengths[at]]
    }

    /// Moves the window so that it holds `id`, and forgets what falls out of it.
    fn reach(&mut self, id: u64) {
        if !self.started {
            // Half a window is left for symbols that the first one overtook.
            self.started = true;
            self.floor = id.saturating_sub(self.window / 2);
        }
        if id < self.floor || id - self.floor < self.window {
            return;
        }
        let floor = id - (self.window - 1);
        if floor - self.floor >= self.window {
            self.lengths.fill(ABSENT);
            self.member.fill(NOBODY);
            self.free.clear();
            self.free.extend((0..self.blocks.len() as u32).rev());
        } else {
            for gone in self.floor..floor {
                let at = self.at(gone);
                if self.member[at] != NOBODY {
                    self.remove(self.member[at]);
                }
                self.lengths[at] = ABSENT;
            }
        }
        self.floor = floor;
    }

    /// Forgets the repairs of a block.
    fn remove(&mut self, block: u32) {
        for id in self.blocks[block as usize].cover.ids() {
            let at = self.at(id);
            self.member[at] = NOBODY;
        }
        self.free.push(block);
    }

    /// The stored block with this cover; a new one if its symbols are in none. None where they are in another.
    fn block(&mut self, cover: Cover, bytes: usize) -> Option<u32> {
        let first = self.member[self.at(cover.first)];
        if first != NOBODY {
            return Some(first).filter(|&block| self.blocks[block as usize].cover == cover);
        }
        if cover.ids().any(|id| self.member[self.at(id)] != NOBODY) {
            return None;
        }
        if self.free.is_empty() {
            // The block that ends first is the most likely to be beyond help.
            let oldest =
                (0..self.blocks.len() as u32).min_by_key(|&block| self.blocks[block as usize].cover.last());
            self.remove(oldest?);
        }
        let block = self.free.pop()?;
        let missing = cover.ids().filter(|&id| !self.held(id)).count() as u32;
        self.blocks[block as usize] = Block { cover, present: 0, missing, bytes };
        for id in cover.ids() {
            let at = self.at(id);
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
                let at = (id & (self.window - 1)) as usize;
                if self.lengths[at] == ABSENT {
                    self.system[n * e + column] = factor;
                    column += 1;
                } else {
                    let sum = &mut self.repairs[self.rows[n] * self.symbol_bytes..][..bytes];
                    add_product(sum, factor, &self.payloads[at * self.symbol_bytes..][..self.lengths[at]]);
                }
            }
        }
        let mut rows =
            Rows { buffer: &mut self.repairs, at: &mut self.rows[..e], stride: self.symbol_bytes, bytes };
        if eliminate(&mut self.system[..e * e], e, &mut rows) {
            let mut column = 0;
            for id in cover.ids() {
                let at = (id & (self.window - 1)) as usize;
                if self.lengths[at] != ABSENT {
                    continue;
                }
                let payload = &mut self.payloads[at * self.symbol_bytes..][..bytes];
                divide(rows.get(column), self.system[column * e + column], payload);
                column += 1;
                if id >= self.wanted {
                    out.recovered(id, payload);
                }
                self.lengths[at] = payload.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
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
        if id < self.floor || payload.len() > self.symbol_bytes || self.held(id) {
            return;
        }
        let at = self.at(id);
        self.payloads[at * self.symbol_bytes..][..payload.len()].copy_from_slice(payload);
        self.lengths[at] = payload.len();
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
        if payload.is_empty() || payload.len() > self.symbol_bytes {
            return Err(SymbolError::Length { bytes: payload.len(), max: self.symbol_bytes });
        }
        if !self.fits(head) {
            return Err(SymbolError::Head(head));
        }
        let cover = head.cover;
        if cover.last() < self.floor.max(self.wanted) {
            return Ok(());
        }
        // The block may end ahead of the window when everything since was lost.
        self.reach(cover.last());
        if cover.first < self.floor {
            return Err(SymbolError::Window(head));
        }
        let longest =
            cover.ids().filter(|&id| self.held(id)).map(|id| self.symbol(id).len()).max().unwrap_or(0);
        if longest > payload.len() {
            return Err(SymbolError::Inconsistent { bytes: payload.len(), group: longest });
        }
        if cover.ids().all(|id| self.held(id)) {
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
        self.wanted = self.wanted.max(id);
    }
}

//! What most decoders need: [`Window`], the source symbols of the newest ids, and [`Blocks`], a whole decoder of block codes
//! but for the mathematics. Optional; copy it beside `parhelion_plugin.rs`.

// An author uses the half of this file that he needs.
#![allow(dead_code)]

use super::parhelion_plugin::{Decoder, Head, Outbox, Refused};

/// The source symbols that a decoder remembers: those of the newest ids. Most decoders need one.
///
/// The ids `floor..floor + size` have a place; the window moves forward only. A rebuilt symbol is kept without the zeros
/// at its end, since its own length is not known.
#[derive(Debug)]
pub struct Window {
    symbol_bytes: usize,
    size: u64,
    floor: u64,
    started: bool,
    wanted: u64,
    payloads: Vec<u8>,
    lengths: Vec<u32>,
}

const ABSENT: u32 = u32::MAX;

impl Window {
    /// A window for a code whose repairs leave at most `span` source symbols behind the first symbol they include. Twice
    /// the span, and at least 1024, is what the host expects of a decoder.
    pub fn new(span: u64, symbol_bytes: usize) -> Self {
        let size = (2 * span).max(1024).next_power_of_two();
        Window {
            symbol_bytes,
            size,
            floor: 0,
            started: false,
            wanted: 0,
            payloads: vec![0; size as usize * symbol_bytes],
            lengths: vec![ABSENT; size as usize],
        }
    }

    /// Places, of which each id has one.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// The place of `id`, for what a decoder keeps beside each symbol.
    pub fn place(&self, id: u64) -> usize {
        (id & (self.size - 1)) as usize
    }

    /// Older ids are forgotten.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Whether the symbol is remembered.
    pub fn holds(&self, id: u64) -> bool {
        id >= self.floor && id - self.floor < self.size && self.lengths[self.place(id)] != ABSENT
    }

    /// The bytes of a symbol; none of one that is not remembered.
    pub fn symbol(&self, id: u64) -> &[u8] {
        if !self.holds(id) {
            return &[];
        }
        let place = self.place(id);
        &self.payloads[place * self.symbol_bytes..][..self.lengths[place] as usize]
    }

    /// Keeps a symbol that arrived; whether it is news.
    pub fn keep(&mut self, id: u64, payload: &[u8]) -> bool {
        self.reach(id);
        if id < self.floor || payload.len() > self.symbol_bytes || self.holds(id) {
            return false;
        }
        let place = self.place(id);
        self.payloads[place * self.symbol_bytes..][..payload.len()].copy_from_slice(payload);
        self.lengths[place] = payload.len() as u32;
        true
    }

    /// Whether a repair is of use: `Ok(false)` where nothing that it could rebuild is wanted any more.
    pub fn admit(&mut self, head: Head, bytes: usize) -> Result<bool, Refused> {
        let last = head.first + u64::from(head.count - 1) * u64::from(head.stride);
        if last < self.floor.max(self.wanted) {
            return Ok(false);
        }
        self.reach(last);
        if head.first < self.floor {
            return Err(Refused::Window);
        }
        let longest = head.ids().map(|id| self.symbol(id).len()).max().unwrap_or(0);
        if longest > bytes {
            return Err(Refused::Inconsistent(longest));
        }
        Ok(true)
    }

    /// Keeps the symbol `id`, rebuilt as `payload`, and reports it unless it has expired.
    pub fn rebuilt(&mut self, id: u64, payload: &[u8], out: &mut Outbox) {
        let length = payload.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        if self.keep(id, &payload[..length]) && id >= self.wanted {
            out.recovered(id, payload);
        }
    }

    /// Symbols below `id` are not reported any more.
    pub fn expire(&mut self, id: u64) {
        self.wanted = self.wanted.max(id);
    }

    fn reach(&mut self, id: u64) {
        if !self.started {
            // Half a window is left for symbols that the first one overtook.
            self.started = true;
            self.floor = id.saturating_sub(self.size / 2);
        }
        if id < self.floor || id - self.floor < self.size {
            return;
        }
        let floor = id - (self.size - 1);
        if floor - self.floor >= self.size {
            self.lengths.fill(ABSENT);
        } else {
            for gone in self.floor..floor {
                let place = self.place(gone);
                self.lengths[place] = ABSENT;
            }
        }
        self.floor = floor;
    }
}

/// The decoder of a block code without interleaving, but for its mathematics: the newest source symbols, and the repairs of
/// blocks that still lack some.
pub struct Blocks {
    r: u16,
    c: usize,
    symbol_bytes: usize,
    window: Window,
    /// At the place of the first symbol of each block.
    blocks: Vec<Block>,
    /// `c` repairs for each place.
    repairs: Vec<u8>,
    solve: fn(&Lost<'_>, &mut [Vec<u8>]),
    rows: Vec<Vec<u8>>,
    lost: Vec<u64>,
    indices: Vec<u8>,
}

/// A block whose repairs of the indices in the set `held` are there, none once it is whole; each has `bytes` bytes.
#[derive(Clone, Copy, Default)]
struct Block {
    first: u64,
    count: u16,
    bytes: usize,
    held: u64,
}

/// A block that can be solved: it has as many repairs as it lacks symbols.
pub struct Lost<'a> {
    /// Id of the first symbol of the block.
    pub first: u64,
    /// Source symbols of the block.
    pub count: u16,
    /// The ids that it lacks, ascending.
    pub ids: &'a [u64],
    /// As many indices of repairs.
    pub indices: &'a [u8],
    window: &'a Window,
}

impl Lost<'_> {
    /// The source symbols of the block in turn; those that it lacks are empty, and others may be shorter than the repairs,
    /// which counts as zeros at their end.
    pub fn symbols(&self) -> impl Iterator<Item = &[u8]> {
        (self.first..self.first + u64::from(self.count)).map(move |id| self.window.symbol(id))
    }
}

impl Blocks {
    /// A decoder for blocks of at most `r` symbols with `c` repairs, at most 64. `solve` is given a block and the payloads
    /// of the repairs `indices`, in place of which it leaves the symbols `ids`.
    pub fn new(r: u32, c: u32, symbol_bytes: usize, solve: fn(&Lost<'_>, &mut [Vec<u8>])) -> Self {
        let (window, c) = (Window::new(u64::from(r), symbol_bytes), c as usize);
        Blocks {
            r: r as u16,
            c,
            symbol_bytes,
            blocks: vec![Block::default(); window.size()],
            repairs: vec![0; window.size() * c * symbol_bytes],
            window,
            solve,
            rows: (0..c).map(|_| Vec::with_capacity(symbol_bytes)).collect(),
            lost: Vec::with_capacity(c),
            indices: Vec::with_capacity(c),
        }
    }

    /// Solves the block at `place`, if that is possible.
    fn advance(&mut self, place: usize, out: &mut Outbox) {
        let Block { first, count, bytes, held } = self.blocks[place];
        self.lost.clear();
        for id in first..first + u64::from(count) {
            if self.window.symbol(id).len() > bytes {
                // Not the repairs of this block, whatever their heads say.
                self.blocks[place].held = 0;
                return;
            }
            if !self.window.holds(id) {
                if self.lost.len() as u32 == held.count_ones() {
                    return;
                }
                self.lost.push(id);
            }
        }
        self.blocks[place].held = 0;
        self.indices.clear();
        self.indices.extend((0..self.c as u8).filter(|index| held >> index & 1 == 1).take(self.lost.len()));
        for (row, &index) in self.rows.iter_mut().zip(&self.indices) {
            row.clear();
            let start = (place * self.c + usize::from(index)) * self.symbol_bytes;
            row.extend_from_slice(&self.repairs[start..][..bytes]);
        }
        let lost = Lost { first, count, ids: &self.lost, indices: &self.indices, window: &self.window };
        let rows = &mut self.rows[..self.lost.len()];
        if !rows.is_empty() {
            (self.solve)(&lost, rows);
        }
        for (row, &id) in rows.iter().zip(&self.lost) {
            self.window.rebuilt(id, row, out);
        }
    }
}

impl Decoder for Blocks {
    fn source(&mut self, id: u64, payload: &[u8], out: &mut Outbox) {
        if !self.window.keep(id, payload) {
            return;
        }
        // The block that includes it starts at most r - 1 symbols earlier.
        for back in 0..u64::from(self.r).min(id - self.window.floor() + 1) {
            let place = self.window.place(id - back);
            let Block { first, count, held, .. } = self.blocks[place];
            if first == id - back && u64::from(count) > back && held != 0 {
                return self.advance(place, out);
            }
        }
    }

    fn repair(&mut self, head: Head, payload: &[u8], out: &mut Outbox) -> Result<(), Refused> {
        if head.count > self.r || (head.count > 1 && head.stride != 1) {
            return Err(Refused::Head);
        }
        if !self.window.admit(head, payload.len())? {
            return Ok(());
        }
        let place = self.window.place(head.first);
        let Block { first, count, bytes, mut held } = self.blocks[place];
        if (first, count) != (head.first, head.count) {
            held = 0;
        } else if held != 0 && bytes != payload.len() {
            // All repairs of a block are as long as its longest symbol.
            return Err(Refused::Inconsistent(bytes));
        }
        held |= 1 << head.index;
        self.blocks[place] = Block { first: head.first, count: head.count, bytes: payload.len(), held };
        let start = (place * self.c + usize::from(head.index)) * self.symbol_bytes;
        self.repairs[start..][..payload.len()].copy_from_slice(payload);
        self.advance(place, out);
        Ok(())
    }

    fn expire(&mut self, id: u64) {
        self.window.expire(id);
    }
}

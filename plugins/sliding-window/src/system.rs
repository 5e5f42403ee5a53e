//! A system of linear equations about lost symbols, kept solved as far as it can be.

use parhelion_galois::{Kernel, RowBuffer, Rows, Term, div, inv};
use parhelion_plugin::{Cover, RecoveredSink, Window};

use crate::coefficients::{Coefficients, Point};
use crate::sum::write_sum;

/// One equation for each repair that says something new: the sum of its lost symbols, each times a factor.
///
/// Gauss-Jordan elimination, on-line: an equation is reduced as it comes, and reduces the others. So a symbol
/// is determined exactly if it is alone in an equation.
///
/// Invariants:
/// - Each active equation has a pivot, a column in which no other one has a factor.
/// - Factors are zero in columns without a symbol, and in equations that are not active.
/// - Between calls no active equation has a single symbol.
/// - Bytes of a sum behind its length count as zeros, whatever they are.
pub(crate) struct System {
    kernel: Kernel,
    columns: Columns,
    factors: RowBuffer,
    sums: RowBuffer,
    /// Of active equations.
    equations: Vec<Equation>,
    active: Vec<u16>,
    free: Vec<u16>,
    /// The active equation of which a column is the pivot.
    pivot_of: Vec<u16>,
    next: Next,
    /// Equations that may have become solutions.
    changed: Vec<u16>,
}

#[derive(Clone, Copy, Default)]
struct Equation {
    pivot: u16,
    /// Length of its sum.
    bytes: usize,
}

/// The equation that is on its way in.
struct Next {
    factors: Vec<u8>,
    sum: Vec<u8>,
    bytes: usize,
}

/// In tables: nothing.
const NONE: u16 = u16::MAX;

/// Equations that can wait for others, at most: half the symbols that a decoder remembers. A repair or a late
/// symbol costs up to as many products of a symbol, but only when nearly everything of such a stretch is lost.
const EQUATIONS_MAX: usize = 512;

/// Symbols of a repair, at most: one for each element of the field.
const SYMBOLS_MAX: usize = 256;

impl System {
    /// No equations yet, about symbols at `places` places.
    pub fn new(places: usize, symbol_bytes: usize) -> Self {
        let equations = EQUATIONS_MAX.min(places);
        Self {
            kernel: Kernel::best(),
            columns: Columns::new(places),
            factors: RowBuffer::new(equations, places),
            sums: RowBuffer::new(equations, symbol_bytes),
            equations: vec![Equation::default(); equations],
            active: Vec::with_capacity(equations),
            free: (0..equations as u16).rev().collect(),
            pivot_of: vec![NONE; places],
            next: Next { factors: vec![0; places], sum: vec![0; symbol_bytes], bytes: 0 },
            changed: Vec::with_capacity(2 * equations + 1),
        }
    }

    /// Equations that wait for others.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.active.len()
    }

    /// Columns that are in use, or nearly.
    #[cfg(test)]
    pub fn columns(&self) -> usize {
        self.columns.width
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        while let Some(&equation) = self.active.last() {
            self.remove(equation);
        }
        self.columns.clear();
    }

    /// Takes a repair over the symbols of `cover`, of which at least one is lost; the repair is at `point`.
    pub fn add(
        &mut self,
        window: &Window,
        coefficients: &Coefficients,
        (cover, point): (Cover, Point),
        payload: &[u8],
    ) {
        while self.free.is_empty() {
            let Some(oldest) = self.columns.oldest() else { return };
            self.forget(window.place(oldest));
        }
        let Self { kernel, columns, factors, sums, equations, pivot_of, next, .. } = self;
        let factor = |id: u64| Coefficients::factor(coefficients.place(id), point);
        next.factors.fill(0);
        for id in cover.ids().filter(|&id| !window.holds(id)) {
            next.factors[columns.enter(window.place(id), id)] = factor(id)[0];
        }
        // What is known of its symbols, and what other equations say of them, is taken out in one pass.
        let mut multiples = [0; SYMBOLS_MAX];
        let mut pivots = [(NONE, 0); SYMBOLS_MAX];
        let mut count = 0;
        next.bytes = payload.len();
        for id in cover.ids().filter(|&id| !window.holds(id)) {
            let Some(column) = columns.of(window.place(id)) else { continue };
            let pivot = pivot_of[column];
            if pivot == NONE {
                continue;
            }
            let row = factors.row(usize::from(pivot), columns.width);
            let multiple = div(next.factors[column], row[column]);
            kernel.mul_add(&mut next.factors[..columns.width], multiple, row);
            let bytes = equations[usize::from(pivot)].bytes;
            next.bytes = next.bytes.max(bytes);
            (multiples[count], pivots[count]) = (multiple, (pivot, bytes));
            count += 1;
        }
        if next.factors[..columns.width].iter().all(|&factor| factor == 0) {
            return;
        }
        let known = cover
            .ids()
            .filter(|&id| window.holds(id))
            .map(|id| Term { source: window.symbol(id), factors: factor(id) });
        let reduced = (0..count).map(|n| {
            let (pivot, bytes) = pivots[n];
            Term { source: sums.row(usize::from(pivot), bytes), factors: &multiples[n..=n] }
        });
        let own = Term { source: payload, factors: &[1] };
        write_sum(*kernel, &mut next.sum[..next.bytes], known.chain(reduced).chain([own]));
        self.insert();
    }

    /// The symbol at `place` is known now: takes it out of the equations that have it.
    pub fn learn(&mut self, place: usize, payload: &[u8]) {
        let Some(column) = self.columns.of(place) else { return };
        for n in (0..self.active.len()).rev() {
            let at = self.active[n];
            let row = usize::from(at);
            let factor = std::mem::take(&mut self.factors.row_mut(row, column + 1)[column]);
            if factor == 0 {
                continue;
            }
            let bytes = self.equations[row].bytes;
            if payload.len() > bytes {
                // Not an equation of this symbol, whatever the repair's head said.
                self.remove(at);
                continue;
            }
            self.kernel.mul_add(self.sums.row_mut(row, bytes), factor, payload);
            self.changed.push(at);
        }
        let pivot = std::mem::replace(&mut self.pivot_of[column], NONE);
        self.columns.leave(place);
        if pivot != NONE {
            // It takes another pivot, if it still has a symbol.
            self.take(pivot);
            self.insert();
        }
    }

    /// Gives up the symbol at `place`, and one equation with it: the others are rid of it.
    pub fn forget(&mut self, place: usize) {
        let Some(column) = self.columns.of(place) else { return };
        let has = |&&at: &&u16| self.factors.row(usize::from(at), column + 1)[column] != 0;
        if let Some(&at) = self.active.iter().find(has) {
            self.take(at);
            self.eliminate(column);
            self.changed.clear();
        }
        self.columns.leave(place);
    }

    /// Moves what equations determine to the window, and tells `out`.
    pub fn solve(&mut self, window: &mut Window, out: &mut dyn RecoveredSink) {
        while let Some(at) = self.changed.pop() {
            let row = usize::from(at);
            let Equation { pivot, bytes } = self.equations[row];
            let factors = self.factors.row(row, self.columns.width);
            if pivot == NONE || factors.iter().filter(|&&factor| factor != 0).count() != 1 {
                continue;
            }
            let column = usize::from(pivot);
            let id = self.columns.ids[column];
            let solution = Term { source: self.sums.row(row, bytes), factors: &[inv(factors[column])] };
            let write = |payload: &mut [u8]| self.kernel.combine(Rows::one(payload), &[solution]);
            if let Some(payload) = window.rebuild(id, bytes, write) {
                out.recovered(id, payload);
            }
            self.remove(at);
            self.columns.leave(window.place(id));
        }
    }

    /// Makes `next`, which has no factor in any pivot's column, an active equation if it has any factor at all.
    fn insert(&mut self) {
        let width = self.columns.width;
        let Some(pivot) = self.next.factors[..width].iter().position(|&factor| factor != 0) else { return };
        self.eliminate(pivot);
        let Some(at) = self.free.pop() else { return };
        let row = usize::from(at);
        self.factors.row_mut(row, width).copy_from_slice(&self.next.factors[..width]);
        self.sums.row_mut(row, self.next.bytes).copy_from_slice(&self.next.sum[..self.next.bytes]);
        self.equations[row] = Equation { pivot: pivot as u16, bytes: self.next.bytes };
        self.pivot_of[pivot] = at;
        self.active.push(at);
        self.changed.push(at);
    }

    /// Rids the active equations of the symbol in `column`, with the help of `next`.
    fn eliminate(&mut self, column: usize) {
        let Self { kernel, columns, factors, sums, equations, next, .. } = self;
        let (width, bytes) = (columns.width, next.bytes);
        for &at in &self.active {
            let row = usize::from(at);
            let reduced = factors.row_mut(row, width);
            if reduced[column] == 0 {
                continue;
            }
            let multiple = div(reduced[column], next.factors[column]);
            kernel.mul_add(reduced, multiple, &next.factors[..width]);
            let old = equations[row].bytes;
            equations[row].bytes = old.max(bytes);
            let sum = sums.row_mut(row, old.max(bytes));
            sum[old..].fill(0);
            kernel.mul_add(sum, multiple, &next.sum[..bytes]);
            self.changed.push(at);
        }
    }

    /// Makes an active equation the `next` one.
    fn take(&mut self, at: u16) {
        let row = usize::from(at);
        let bytes = self.equations[row].bytes;
        let places = self.next.factors.len();
        self.next.factors.copy_from_slice(self.factors.row(row, places));
        self.next.sum[..bytes].copy_from_slice(self.sums.row(row, bytes));
        self.next.bytes = bytes;
        self.remove(at);
    }

    fn remove(&mut self, at: u16) {
        let row = usize::from(at);
        let pivot = std::mem::replace(&mut self.equations[row].pivot, NONE);
        if pivot != NONE && self.pivot_of[usize::from(pivot)] == at {
            self.pivot_of[usize::from(pivot)] = NONE;
        }
        let width = self.next.factors.len();
        self.factors.row_mut(row, width).fill(0);
        if let Some(n) = self.active.iter().position(|&other| other == at) {
            self.active.swap_remove(n);
        }
        self.free.push(at);
    }
}

/// The lost symbols that equations are about, each in a column; columns in use are the first ones, or nearly.
struct Columns {
    /// By place in the decoder's window.
    of_place: Vec<u16>,
    /// The symbol of each column in use.
    ids: Vec<u64>,
    /// Columns in use, a bit for each.
    used: Vec<u64>,
    /// All columns in use are below it.
    width: usize,
}

impl Columns {
    fn new(places: usize) -> Self {
        Self {
            of_place: vec![NONE; places],
            ids: vec![0; places],
            used: vec![0; places.div_ceil(64)],
            width: 0,
        }
    }

    fn clear(&mut self) {
        self.of_place.fill(NONE);
        self.used.fill(0);
        self.width = 0;
    }

    /// The column of the symbol at `place`, if equations are about it.
    fn of(&self, place: usize) -> Option<usize> {
        Some(usize::from(self.of_place[place])).filter(|&column| column != usize::from(NONE))
    }

    /// The column of the symbol `id` at `place`, from now on if it has none. There are as many columns as
    /// places.
    fn enter(&mut self, place: usize, id: u64) -> usize {
        if let Some(column) = self.of(place) {
            return column;
        }
        let word = self.used.iter().position(|&word| word != u64::MAX).unwrap_or(0);
        let column = word * 64 + self.used[word].trailing_ones() as usize;
        self.used[word] |= 1 << (column % 64);
        self.of_place[place] = column as u16;
        self.ids[column] = id;
        self.width = self.width.max(column + 1);
        column
    }

    /// The symbol at `place` gives its column back.
    fn leave(&mut self, place: usize) {
        let Some(column) = self.of(place) else { return };
        self.of_place[place] = NONE;
        self.used[column / 64] &= !(1 << (column % 64));
        while self.width > 0 && self.used[(self.width - 1) / 64] & 1 << ((self.width - 1) % 64) == 0 {
            self.width -= 1;
        }
    }

    /// The oldest symbol that has a column.
    fn oldest(&self) -> Option<u64> {
        let in_use = |&column: &usize| self.used[column / 64] & 1 << (column % 64) != 0;
        (0..self.width).filter(in_use).map(|column| self.ids[column]).min()
    }
}

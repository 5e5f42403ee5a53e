//! Sliding windows: a queue of unknowns, served by repairs.
//!
//! A lost source symbol is an unknown and a repair that arrived an equation. The state is how many equations are lacking: one
//! more with each loss, one less with each equation, never below zero. A lost symbol is known once nothing is lacking behind
//! it. That the count is enough, and what is taken for the few equations that depend on others, is explained in the module
//! of the same name in `gilbert-elliott`; this is its case of a channel without memory, for one symbol.

/// Of the equations that include different unknowns, one in so many is taken to be dependent on the others.
const DEPENDENT: f64 = 128.0;

/// Symbols before the given one whose repairs are counted, at least.
const BEFORE: u32 = 192;

/// Counts that are told apart before it; from there on nothing helps any more.
const COUNTS: usize = 40;

/// Larger codes, which no field of 256 elements has, are priced as if bare.
const WINDOW_MAX: u32 = 1024;
const REPAIRS_MAX: u32 = 64;

/// A code of this structure: `c` repairs for `r` source symbols, spread evenly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) r: u32,
    pub(crate) c: u32,
    pub(crate) window: u32,
    pub(crate) indices: u32,
}

impl Shape {
    /// Whether it is one that can be computed with.
    pub(crate) fn is_sane(self) -> bool {
        [self.r, self.c, self.window].iter().all(|size| (1..=WINDOW_MAX).contains(size))
            && (1..=REPAIRS_MAX).contains(&self.indices)
    }

    /// Repairs that leave behind the symbol at `place` of each `r`.
    fn behind(self, place: u32) -> u32 {
        (place + 1) * self.c / self.r - place * self.c / self.r
    }

    /// Newest symbols that lack regular repairs: at least, and at most; a flush includes those.
    pub(crate) fn lacking(self) -> (u32, u32) {
        let lacking = |last: u32| {
            let mut repairs = 0;
            let is_lacking = |&back: &u32| {
                repairs += self.behind((last + self.r - back % self.r) % self.r);
                repairs < self.indices
            };
            (0..self.window).take_while(is_lacking).count() as u32
        };
        let each = || (0..self.r).map(lacking);
        (each().min().unwrap_or(0), each().max().unwrap_or(0))
    }

    /// P(a given symbol of a stream is lost, and still unknown when `repairs` repairs have left behind it), at the worst place
    /// among the repairs, each packet being lost with probability `p`.
    pub(crate) fn symbol_risk(self, p: f64, repairs: u32) -> f64 {
        // Behind a window without any repair, and symbols with repairs: what the count is then bounds what it is after an
        // endless stream.
        let mut lacking = Lacking::new(p, COUNTS.max(repairs as usize + 1));
        (0..self.window).for_each(|_| lacking.source());
        let after = |lacking: &mut Lacking, place: u32| {
            lacking.source();
            (0..self.behind(place % self.r)).for_each(|_| lacking.repair());
        };
        (0..BEFORE.div_ceil(self.r) * self.r).for_each(|place| after(&mut lacking, place));
        let mut worst = 0.0_f64;
        for place in 0..self.r {
            worst = worst.max(p * self.unknown(lacking.clone(), place, repairs));
            after(&mut lacking, place);
        }
        worst
    }

    /// P(the symbol at `place` stays unknown | lost).
    fn unknown(self, mut lacking: Lacking, mut place: u32, repairs: u32) -> f64 {
        lacking.lose();
        let mut left = repairs;
        loop {
            for _ in 0..self.behind(place % self.r).min(left) {
                lacking.repair();
                lacking.forget_known();
                left -= 1;
            }
            if left == 0 {
                return lacking.counts.iter().sum();
            }
            place += 1;
            lacking.source();
        }
    }
}

/// The distribution over the equations that are lacking; the last count stands for all from there on.
#[derive(Clone)]
struct Lacking {
    p: f64,
    counts: Vec<f64>,
}

impl Lacking {
    fn new(p: f64, most: usize) -> Self {
        let mut counts = vec![0.0; most + 1];
        counts[0] = 1.0;
        Self { p, counts }
    }

    /// A source symbol, which may be lost.
    fn source(&mut self) {
        for count in (0..self.counts.len() - 1).rev() {
            let lost = self.counts[count] * self.p;
            self.counts[count] *= 1.0 - self.p;
            self.counts[count + 1] += lost;
        }
    }

    /// A source symbol that is lost.
    fn lose(&mut self) {
        let last = self.counts.len() - 1;
        self.counts[last] += self.counts[last - 1];
        self.counts.copy_within(0..last - 1, 1);
        self.counts[0] = 0.0;
    }

    /// A repair, which may be lost or of no use.
    fn repair(&mut self) {
        let useful = (1.0 - self.p) * (1.0 - 1.0 / DEPENDENT);
        for count in 1..self.counts.len() - 1 {
            let solved = self.counts[count] * useful;
            self.counts[count] -= solved;
            self.counts[count - 1] += solved;
        }
    }

    /// Where nothing is lacking, the given symbol is known, for good.
    fn forget_known(&mut self) {
        self.counts[0] = 0.0;
    }
}

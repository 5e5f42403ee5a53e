//! Which repairs leave when, and what each multiplies its symbols by.

use std::ops::Range;

use parhelion_galois::inv;
use parhelion_plugin::RepairHead;

/// The parameters of the code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Source symbols that have `c` repairs.
    pub r: u32,
    /// Regular repairs for `r` source symbols.
    pub c: u32,
    /// Source symbols that a repair includes, at most.
    pub window: u32,
    /// Repair indices.
    pub indices: u32,
}

/// A Cauchy matrix over all that one source symbol ever meets.
///
/// The factor of the symbol at point y in the repair at point x is `1 / (x + y)`. The points of a window's
/// symbols, and of all repairs that include a given symbol, are distinct elements of the field. So every square
/// part of the matrix that belongs to repairs which all include the same lost symbols is invertible.
///
/// ```text
/// points    0 .. window       window .. + indices      the rest of the field
/// whose     symbol `id`:      repair `n` of a flush:   regular repair `n`:
///           id mod window     n mod indices            n mod their number
/// ```
///
/// Points come round again when no symbol can meet them twice: a symbol leaves the window before regular
/// repairs have used all of theirs, and flushes include different symbols.
///
/// Regular repairs are numbered from symbol 0 on, whether or not the stream begins there: `floor(id * c / r)`
/// of them precede symbol `id`. So a repair's number, and with it its point, follows from its head. A flush is
/// told from a regular repair by its few symbols. At the start of a stream regular repairs have as few, and
/// points of a flush: these suffice for so many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coefficients {
    shape: Shape,
    /// Points of regular repairs.
    regular: u32,
}

/// The point of a repair: an element of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point(u8);

/// Elements of the field.
const ELEMENTS: u32 = 256;

static INVERSES: [u8; ELEMENTS as usize] = {
    let mut inverses = [0; ELEMENTS as usize];
    let mut element = 0;
    while element < inverses.len() {
        inverses[element] = inv(element as u8);
        element += 1;
    }
    inverses
};

impl Shape {
    /// Regular repairs that leave at once, at most.
    pub fn together(self) -> u32 {
        self.c.div_ceil(self.r)
    }

    /// Source symbols that come until a symbol has `indices` regular repairs, at most. A flush includes fewer.
    pub fn coverage_symbols(self) -> u32 {
        (self.indices * self.r).div_ceil(self.c)
    }

    /// Elements of the field that it takes for every two points that meet to be distinct.
    pub fn points(self) -> u32 {
        self.window + self.indices + (self.window * self.c).div_ceil(self.r)
    }

    /// Whether the field has as many.
    pub fn fits_the_field(self) -> bool {
        self.points() <= ELEMENTS
    }
}

impl Coefficients {
    /// Those of a shape that fits the field.
    pub fn new(shape: Shape) -> Self {
        Self { shape, regular: ELEMENTS - shape.window - shape.indices }
    }

    /// Source symbols that a repair includes, at most.
    pub fn window(&self) -> usize {
        self.shape.window as usize
    }

    /// The place of a symbol among those of any window; below 256.
    pub fn place(&self, id: u64) -> usize {
        (id % u64::from(self.shape.window)) as usize
    }

    /// The factor of the symbol at `place` in the repair at `point`, as a slice of one.
    pub fn factor(place: usize, point: Point) -> &'static [u8] {
        let sum = usize::from(point.0) ^ place;
        &INVERSES[sum..=sum]
    }

    /// Numbers of the regular repairs that leave behind `last`.
    pub fn regular(&self, last: u64) -> Range<u128> {
        let before = |id: u128| id * u128::from(self.shape.c) / u128::from(self.shape.r);
        before(u128::from(last))..before(u128::from(last) + 1)
    }

    /// Numbers of the repairs of a flush behind `last`: they begin with those of the regular repairs there and
    /// go on, so that indices keep taking turns.
    pub fn flush(&self, last: u64) -> Range<u128> {
        let start = self.regular(last).start;
        start..start + u128::from(self.shape.indices)
    }

    /// The oldest symbol that has fewer than `indices` regular repairs when those behind `last` have left.
    pub fn uncovered(&self, last: u64) -> u64 {
        let Shape { r, c, indices, .. } = self.shape;
        let sent = (self.regular(last).end + 1).saturating_sub(u128::from(indices));
        // At most `last + 1`, which may be one too many.
        u64::try_from((sent * u128::from(r)).div_ceil(u128::from(c))).unwrap_or(u64::MAX)
    }

    /// The index of the repair with this number.
    pub fn index(&self, number: u128) -> u8 {
        (number % u128::from(self.shape.indices)) as u8
    }

    /// The point of the repair with this number over so many symbols.
    pub fn point(&self, number: u128, symbols: u32) -> Point {
        let Shape { window, indices, .. } = self.shape;
        let point = if symbols < self.shape.coverage_symbols() {
            window + (number % u128::from(indices)) as u32
        } else {
            window + indices + (number % u128::from(self.regular)) as u32
        };
        Point(point as u8)
    }

    /// The point of the repair with this head; none if no encoder writes it.
    pub fn point_of(&self, RepairHead { cover, index }: RepairHead) -> Option<Point> {
        let Shape { window, indices, .. } = self.shape;
        let (count, index) = (u32::from(cover.count), u32::from(index));
        if cover.stride != 1 || !(1..=window).contains(&count) || index >= indices {
            return None;
        }
        let last = cover.first.checked_add(u64::from(count) - 1)?;
        let regular = self.regular(last);
        let turn = (index + indices - u32::from(self.index(regular.start))) % indices;
        let number = regular.start + u128::from(turn);
        let is_possible = regular.contains(&number) || cover.first >= self.uncovered(last);
        is_possible.then(|| self.point(number, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parhelion_plugin::Cover;

    const SHAPES: [Shape; 4] = [
        Shape { r: 8, c: 3, window: 128, indices: 6 },
        Shape { r: 3, c: 2, window: 100, indices: 5 },
        Shape { r: 2, c: 5, window: 60, indices: 7 },
        Shape { r: 1, c: 1, window: 1, indices: 1 },
    ];

    const IDS: [u64; 6] = [0, 7, 1_000, 12_345, u32::MAX as u64, u64::MAX - 300];

    fn head(first: u64, last: u64, index: u8) -> RepairHead {
        RepairHead { cover: Cover { first, stride: 1, count: (last + 1 - first) as u16 }, index }
    }

    /// All regular repairs that a symbol can meet have points of their own, and so have those of a flush.
    #[test]
    fn no_symbol_meets_a_point_twice() {
        for shape in SHAPES {
            assert!(shape.fits_the_field());
            let coefficients = Coefficients::new(shape);
            for id in IDS {
                let mut met = vec![false; ELEMENTS as usize];
                met[..shape.window as usize].fill(true);
                let mut meet = |number, symbols| {
                    let point = usize::from(coefficients.point(number, symbols).0);
                    assert!(!std::mem::replace(&mut met[point], true), "{shape:?}: {id}, {number}");
                };
                coefficients.flush(id).for_each(|number| meet(number, 0));
                for last in id..id + u64::from(shape.window) {
                    coefficients.regular(last).for_each(|number| meet(number, shape.window));
                }
            }
        }
    }

    /// In the first symbols of a stream, regular repairs share the points of a flush, and do not run out of
    /// them.
    #[test]
    fn streams_start_with_points_enough() {
        for shape in SHAPES {
            let coefficients = Coefficients::new(shape);
            for id in IDS {
                let early = id..id + u64::from(shape.coverage_symbols()) - 1;
                let repairs: u128 = early.map(|last| coefficients.regular(last).count() as u128).sum();
                assert!(repairs <= u128::from(shape.indices), "{shape:?}: {id}");
            }
        }
    }

    #[test]
    fn factors_are_inverse_differences() {
        for (place, point) in [(0, 128), (127, 128), (3, 255), (100, 200)] {
            let factor = Coefficients::factor(place, Point(point))[0];
            assert_eq!(parhelion_galois::mul(factor, place as u8 ^ point), 1);
        }
    }

    /// Of each `r` symbols `c` repairs follow, as evenly as they can; their indices take turns.
    #[test]
    fn repairs_leave_evenly() {
        let coefficients = Coefficients::new(SHAPES[0]);
        let counts: Vec<_> = (0..16).map(|last| coefficients.regular(last).count()).collect();
        assert_eq!(counts, [0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 1]);
        let indices: Vec<_> =
            (0..24).flat_map(|last| coefficients.regular(last)).map(|n| coefficients.index(n)).collect();
        assert_eq!(indices, [0, 1, 2, 3, 4, 5, 0, 1, 2]);
        let coefficients = Coefficients::new(SHAPES[2]);
        assert_eq!((0..4).map(|last| coefficients.regular(last).count()).collect::<Vec<_>>(), [2, 3, 2, 3]);
    }

    #[test]
    fn heads_lead_back_to_points() {
        for shape in SHAPES {
            let coefficients = Coefficients::new(shape);
            for last in IDS.iter().flat_map(|&id| id + 130..id + 290) {
                let oldest = coefficients.uncovered(last);
                let symbols = (last + 1 - oldest) as u32;
                assert!(symbols < shape.coverage_symbols(), "{oldest} to {last}");
                let regular = coefficients.regular(last);
                for number in coefficients.flush(last) {
                    let index = coefficients.index(number);
                    if symbols > 0 {
                        let point = coefficients.point_of(head(oldest, last, index));
                        assert_eq!(point, Some(coefficients.point(number, symbols)));
                    }
                    let point = coefficients.point_of(head(last + 1 - u64::from(shape.window), last, index));
                    let is_regular = regular.contains(&number);
                    assert_eq!(point, is_regular.then(|| coefficients.point(number, shape.window)));
                }
            }
        }
        let coefficients = Coefficients::new(SHAPES[0]);
        assert_eq!(coefficients.point_of(head(0, 128, 0)), None, "more than the window");
        assert_eq!(coefficients.point_of(head(3, 7, 6)), None, "no such index");
        let mut beyond = head(8, 9, 0);
        beyond.cover.first = u64::MAX;
        assert_eq!(coefficients.point_of(beyond), None);
    }
}

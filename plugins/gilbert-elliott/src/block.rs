//! Block codes: exact recurrences over the losses of one block, and the append that lies across blocks.
//!
//! A block is `group` source symbols and `repairs` repair symbols; any `group` of them rebuild it. It fails
//! the append when more than `repairs` are lost and one of the lost is a symbol of the append (R4 of
//! the loss model, section 3.2). An append lies in a row of blocks, at an offset that the exposure does not
//! tell: the figure is that of the worst offset.
//!
//! ```text
//!   first block            whole blocks                    last block
//!   . . . . S S S S R R R  S S S S S S S S R R R  ...      S S S . . . . . R R R
//!           └ left ┘                                       └ rest
//! ```
//!
//! One pass forward gives the state in which the channel reaches each symbol, one pass backward what becomes
//! of the rest of the block; every offset is a product of the two.

use crate::chain::{Chain, IDENTITY, Matrix, Pair, Repeat, any_of, columns, dot, product, rows};

/// How a block lies on the wire, and how much of it is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Source symbols per block.
    pub(crate) group: u32,
    /// Repair symbols on the wire.
    pub(crate) repairs: u32,
    /// Repair symbols that the code makes; those beyond `repairs` only lie between whole blocks.
    pub(crate) repairs_made: u32,
    /// Blocks that take turns: slots between neighbouring source symbols of a block.
    pub(crate) depth: u32,
    /// Slots between neighbouring repair symbols of a block, and from its last source symbol to the first.
    pub(crate) repair_gap: u32,
}

/// Bound on P(some of `symbols` consecutive source symbols is lost for good), at the worst offset.
pub(crate) fn append_risk(chain: &Chain, layout: &Layout, symbols: u32) -> f64 {
    let block = Block::new(chain, layout);
    if layout.depth <= 1 {
        return worst_offset(&block, symbols, |left, whole, rest| block.in_a_row(left, whole, rest));
    }
    // Symbols of one append fall into `lanes` blocks at a time. The joint law of interleaved blocks has no
    // small recurrence (R5); their survivals are positively associated, so probabilities of survival
    // multiply.
    let lanes = symbols.min(layout.depth);
    let per_lane = symbols.div_ceil(layout.depth);
    let lane = worst_offset(&block, per_lane, |left, whole, rest| block.apart(left, whole, rest));
    any_of(lane, f64::from(lanes))
}

/// The largest figure over all offsets of an append of `symbols` in its first block.
fn worst_offset(block: &Block, symbols: u32, mut across: impl FnMut(usize, u64, usize) -> f64) -> f64 {
    let group = block.group;
    let symbols = symbols as usize;
    let mut worst = 0.0_f64;
    for left in 1..=group {
        let figure = if symbols < left {
            block.inside(group - left, symbols)
        } else {
            let beyond = symbols - left;
            across(left, (beyond / group) as u64, beyond % group)
        };
        worst = worst.max(figure);
    }
    worst
}

/// Everything about one block that the offsets need.
struct Block {
    group: usize,
    shares: Pair,
    /// By number of symbols at the end of the block that belong to the append: P(they fail), and the
    /// distribution over states behind the block where they survive. Index 0 is unused.
    last: Vec<(f64, Pair)>,
    /// By number of symbols at the start of the block that belong to the append: P(they fail | state).
    first: Vec<Pair>,
    /// Prefix sums of `-ln(1 - P(symbol fails))`.
    hazards: Vec<f64>,
    /// A block all of whose symbols belong to the append.
    whole: Repeat,
    /// The last answer of [`Block::run`]: nearly all offsets ask for the same number of blocks.
    run: std::cell::Cell<Option<(u64, Repeat)>>,
}

impl Block {
    fn new(chain: &Chain, layout: &Layout) -> Self {
        let group = layout.group as usize;
        let repairs = layout.repairs as usize;
        // Counts of losses 0 to `repairs`, and one for "more".
        let counts = repairs + 2;
        let more = repairs + 1;

        let between = Slot::new(chain, layout.depth.max(1));
        let next = Slot::new(chain, layout.repair_gap.max(1));
        let after = Slot::new(chain, 1 + layout.repairs_made.saturating_sub(layout.repairs));
        let slot = |t: usize| match t {
            _ if t + 1 == group + repairs => &after,
            _ if t + 1 < group => &between,
            _ => &next,
        };

        // Forward: `reach[t][m]`, from state at the block's start to state at slot `t` with `m` losses so
        // far.
        let mut reach = vec![[[0.0; 2]; 2]; (group + 1) * counts];
        reach[0] = IDENTITY;
        for t in 0..group {
            let (done, rest) = reach.split_at_mut((t + 1) * counts);
            let (now, then) = (&done[t * counts..], &mut rest[..counts]);
            for m in 0..counts {
                add(&mut then[m], &product(&now[m], &slot(t).received));
                add(&mut then[(m + 1).min(more)], &lose(&now[m], slot(t).lost));
            }
        }

        // Backward: what becomes of slots `t..` given `m` losses before, once with a symbol of the append
        // among them (`hit`), once without; every source symbol from `t` on belongs to the append.
        // `hit[more]` has failed already and does not survive.
        let mut hit = vec![Repeat::new(IDENTITY, [0.0; 2]); counts];
        hit[more] = Repeat::new([[0.0; 2]; 2], [1.0; 2]);
        let mut spared = vec![Repeat::new(IDENTITY, [0.0; 2]); counts];

        let mut last = vec![(0.0, chain.shares); group + 1];
        let mut first = vec![[0.0; 2]; group + 1];
        let mut alone = vec![0.0; group];
        let mut prefix = |t: usize, hit: &[Repeat]| {
            if t <= group {
                let reached = &reach[t * counts..(t + 1) * counts];
                for (way, end) in reached.iter().zip(hit).skip(1) {
                    let failed = columns(way, end.failed);
                    first[t] = [first[t][0] + failed[0], first[t][1] + failed[1]];
                }
            }
        };
        prefix(group + repairs, &hit);
        for t in (0..group + repairs).rev() {
            let source = t < group;
            if source {
                let reached = &reach[t * counts..(t + 1) * counts];
                for (m, way) in reached.iter().enumerate() {
                    let here = rows(chain.shares, way);
                    let end = hit[(m + 1).min(more)].failed;
                    alone[t] += here[1] * dot(slot(t).lost, end);
                }
            }
            for m in 0..counts {
                let up = (m + 1).min(more);
                let lost_to = if source { hit[up] } else { spared[up] };
                spared[m] = slot(t).step(&spared[m], &lost_to);
                if m < more {
                    hit[m] = slot(t).step(&hit[m], &hit[up]);
                }
            }
            prefix(t, &hit);
            if source {
                let reached = &reach[t * counts..(t + 1) * counts];
                let (mut failed, mut behind) = (0.0, [0.0; 2]);
                for (way, end) in reached.iter().zip(&spared) {
                    let here = rows(chain.shares, way);
                    failed += dot(here, end.failed);
                    let survived = rows(here, &end.survived);
                    behind = [behind[0] + survived[0], behind[1] + survived[1]];
                }
                last[group - t] = (failed, behind);
            }
        }

        let hazards = std::iter::once(0.0)
            .chain(alone.iter().scan(0.0, |sum, &p| {
                *sum -= (-f64::min(p, 1.0)).ln_1p();
                Some(*sum)
            }))
            .collect();
        Self {
            group,
            shares: chain.shares,
            last,
            first,
            hazards,
            whole: spared[0],
            run: std::cell::Cell::new(None),
        }
    }

    /// Bound for `symbols` of one block from `start` on, with others of the block on both sides.
    fn inside(&self, start: usize, symbols: usize) -> f64 {
        // The append with all that precedes it, or all that follows it, in the block; or its symbols one by
        // one.
        let with_former = dot(self.shares, self.first[start + symbols]);
        let with_latter = self.last[self.group - start].0;
        let one_by_one = -(self.hazards[start] - self.hazards[start + symbols]).exp_m1();
        with_former.min(with_latter).min(one_by_one)
    }

    /// The end of one block, whole blocks, and the start of another, one behind the other: exact (R3, R4).
    fn in_a_row(&self, left: usize, whole: u64, rest: usize) -> f64 {
        let (failed, behind) = self.last[left];
        let run = self.run(whole);
        failed + dot(behind, run.failed) + dot(rows(behind, &run.survived), self.first[rest])
    }

    /// The same blocks, far apart: survivals are positively associated, so at worst independent.
    fn apart(&self, left: usize, whole: u64, rest: usize) -> f64 {
        let survival = |p: f64| (-p.min(1.0)).ln_1p();
        let each = dot(self.shares, self.whole.failed);
        let log_survived = survival(self.last[left].0)
            + if whole > 0 { whole as f64 * survival(each) } else { 0.0 }
            + survival(dot(self.shares, self.first[rest]));
        -log_survived.exp_m1()
    }

    fn run(&self, blocks: u64) -> Repeat {
        if let Some((known, run)) = self.run.get()
            && known == blocks
        {
            return run;
        }
        let run = self.whole.times(blocks);
        self.run.set(Some((blocks, run)));
        run
    }
}

/// What one packet does, with the way to the next slot that matters.
struct Slot {
    received: Matrix,
    lost: Pair,
}

impl Slot {
    fn new(chain: &Chain, gap: u32) -> Self {
        let over = chain.over(gap);
        Self { received: chain.received(&over), lost: chain.lost(&over) }
    }

    /// What becomes of this slot and all behind it, from what becomes of those behind it where this
    /// packet is received and where it is lost.
    fn step(&self, received: &Repeat, lost: &Repeat) -> Repeat {
        let mut failed = columns(&self.received, received.failed);
        failed[1] += dot(self.lost, lost.failed);
        let mut survived = product(&self.received, &received.survived);
        let bad = rows(self.lost, &lost.survived);
        survived[1] = [survived[1][0] + bad[0], survived[1][1] + bad[1]];
        Repeat::new(survived, failed)
    }
}

/// `way`, then a packet that is lost.
fn lose(way: &Matrix, lost: Pair) -> Matrix {
    way.map(|row| [row[1] * lost[0], row[1] * lost[1]])
}

fn add(sum: &mut Matrix, term: &Matrix) {
    for (sum, term) in sum.iter_mut().flatten().zip(term.iter().flatten()) {
        *sum += term;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parhelion_plugin::Channel;

    fn chain(alpha: f64, beta: f64, loss_in_bad: f64) -> Chain {
        let channel = Channel::independent(0.0, 0.999);
        Chain::new(&Channel { good_to_bad: alpha, bad_to_good: beta, loss_in_bad, ..channel })
    }

    fn layout(group: u32, repairs: u32) -> Layout {
        Layout { group, repairs, repairs_made: repairs, depth: 1, repair_gap: 1 }
    }

    fn close(value: f64, expected: f64) {
        assert!((value / expected - 1.0).abs() < 1e-4, "{value:e} is not {expected:e}");
    }

    /// P(more than `repairs` lost), a whole block: R1.
    fn block_failure(chain: &Chain, layout: &Layout) -> f64 {
        dot(chain.shares, Block::new(chain, layout).whole.failed)
    }

    #[test]
    fn r1_agrees_with_the_published_figures() {
        // Loss model, section 3.2, verified there against 6e8 packets.
        close(block_failure(&chain(0.01, 0.2, 1.0), &layout(8, 3)), 5.95046e-2);
        close(block_failure(&chain(0.01, 0.2, 1.0), &layout(20, 5)), 7.95216e-2);
        close(block_failure(&chain(0.002, 0.02, 0.8), &layout(200, 40)), 1.68495e-1);
        close(block_failure(&chain(0.05, 0.95, 1.0), &layout(8, 3)), 1.55225e-3);
        close(block_failure(&chain(0.05, 0.95, 1.0), &layout(20, 5)), 1.21296e-3);
    }

    #[test]
    fn whole_blocks_in_a_row_agree_with_r3() {
        // m = 50 over (8,3): six whole blocks and one of two symbols; ours at the offset that R3 has, but
        // with a last block that is full (the flush is not known), so a little above.
        let chain = chain(0.01, 0.2, 1.0);
        let block = Block::new(&chain, &layout(8, 3));
        let figure = block.in_a_row(8, 5, 2);
        assert!((0.2862945..0.2862945 * 1.02).contains(&figure), "{figure}");
        close(block.in_a_row(8, 0, 0), 5.95046e-2);
    }

    #[test]
    fn every_offset_agrees_with_all_loss_patterns_counted() {
        // Two blocks of 3 + 1: 256 patterns, enumerated.
        let chain = chain(0.07, 0.3, 0.8);
        let block = Block::new(&chain, &layout(3, 1));
        let exact = |mine: &dyn Fn(usize) -> bool| -> f64 {
            (0_u32..256)
                .filter(|lost| {
                    (0..2).any(|b| {
                        let bits = lost >> (4 * b) & 0xf;
                        bits.count_ones() > 1 && (0..3).any(|k| bits >> k & 1 == 1 && mine(3 * b + k))
                    })
                })
                .map(|lost| {
                    let mut state = chain.shares;
                    for t in 0..8 {
                        let emitted = if lost >> t & 1 == 1 {
                            [0.0, state[1] * chain.loss_in_bad]
                        } else {
                            [state[0], state[1] * (1.0 - chain.loss_in_bad)]
                        };
                        state = rows(emitted, &chain.over(1));
                    }
                    state[0] + state[1]
                })
                .sum()
        };
        for left in 1..=3 {
            close(block.in_a_row(left, 0, 0), exact(&|s| s < 3 && s + left >= 3));
            for rest in 1..3 {
                close(block.in_a_row(left, 0, rest), exact(&|s| s + left >= 3 && s < 3 + rest));
            }
            assert!(block.inside(3 - left, 1) >= exact(&|s| s == 3 - left) * (1.0 - 1e-9));
            close(block.inside(3 - left, 1), exact(&|s| s == 3 - left));
        }
        close(block.in_a_row(3, 1, 0), exact(&|_| true));
    }

    #[test]
    fn interleaving_spreads_the_sources_of_a_block() {
        let chain = chain(0.01, 0.2, 1.0);
        let flat = append_risk(&chain, &layout(8, 3), 1);
        let deep = |repair_gap| append_risk(&chain, &Layout { depth: 10, repair_gap, ..layout(8, 3) }, 1);
        // The share of a symbol in R1 with all gaps equal, which is 4.34190e-3 for the block, against 5.95046e-2.
        assert!(deep(10) < flat / 10.0, "{:e} against {flat:e}", deep(10));
        // A flush of one symbol for each of two lanes sends the repairs of a block one behind the other.
        assert!(deep(2) < flat && deep(2) > 4.0 * deep(10), "{:e} against {:e}", deep(2), deep(10));
    }
}

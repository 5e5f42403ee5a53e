//! Layered interleaving: a bound that takes up to three layers together.
//!
//! A symbol that is lost for good is lost *and* its XOR of every layer misses another packet; the cascade only
//! helps. Inside a burst these events are not independent, and no closed form of the cascade is safe (loss
//! model, section 3.3): density evolution is below the truth by up to a factor of 14. Multiplying what the
//! layers fail with would not be a bound either. This is one, for every place of the symbol in its groups and
//! for every wire on which packets are at least as far apart as the code puts them.
//!
//! # Derivation
//! Let the symbol be lost, hence in the bad state, and let its *burst* be the stay in the bad state around
//! it. To each side the burst goes on for at least `d` slots with probability `s^d`, `s = 1 - P(bad to
//! good)`, independently of the other side. Past it the chain starts in the good state.
//!
//! 1. *Layers that the burst hits.* The burst hits a layer if one of its packets there is lost. Packets that are
//!    nearer than they can be, or more of them, only add hits. So the distribution over the sets of layers
//!    that are hit follows from the least distances, one pass per side (`hits`).
//! 2. *Layers that other bursts hit.* With `p` the loss rate, `e = P(lost | bad)`, `b = P(bad)` and `g` packets
//!    besides the symbol in each XOR, whatever the symbol's burst is,
//!
//!    ```text
//!    Q(A)       <= 1 - (1-p)^g                               losses are positively associated
//!    Q(A, B)    <= sum over pairs of p e (b + s^d)           both in one burst, or not
//!    Q(A, B, C) <= sum over triples of p e^2 (b + s^d) (b + s^d')
//!    ```
//!
//!    where `d` and `d'` lie between neighbours in wire order: a chain that leaves the bad state is in it later
//!    with probability at most `b`. No layer more is hit with a larger probability than without it.
//! 3. Together: `p * sum over sets H of P(the burst hits H) * Q(the other layers)`.
//!
//! Every term rises with `b`, `e` and `s` and falls with each distance, so the figure does.
//!
//! # Distances
//! In numbers of source symbols, which are never more than the slots on the wire, the symbols of a group are
//! multiples of the interleave `i` away from the given one, and a repair that was not flushed leaves where
//! the next symbol of its lane would be, or just behind its last symbol if repairs are not delayed. All
//! places for these packets count at once, since the place of the symbol in its group is not known; save that
//! repairs that are not delayed follow a symbol in one layer only, the worst, because layers are out of phase
//! (where `r` and the interleaves are relatively prime, and `r` is at least the number of layers). A flush sends
//! its repairs layer by layer, narrowest first, one per lane, oldest symbol first, with pauses between
//! layers; see `Flush`.

use crate::chain::{Chain, any_of};
use crate::flush::{Flush, gcd};

/// What covers a symbol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layers<'a> {
    /// Symbols per XOR, in the code.
    pub(crate) r: u32,
    /// Most symbols of an XOR, as it was sent.
    pub(crate) group: u32,
    pub(crate) interleaves: &'a [u32],
    pub(crate) delayed: bool,
    /// Layers that cover the symbol.
    pub(crate) coverage: u64,
    /// Layers whose repair may have come from a flush.
    pub(crate) flushed: u64,
    /// Fewest source symbols between two flushes; there may be others with more.
    pub(crate) flush_run: u32,
    /// Slots that a flush pauses between two layers.
    pub(crate) flush_pause: u32,
}

/// Bound on P(a given source symbol is lost for good), the least over sets of layers in which no two XORs
/// share another symbol.
pub(crate) fn symbol_risk(chain: &Chain, layers: &Layers) -> f64 {
    let count = layers.interleaves.len().min(LAYERS_MAX);
    let covering = layers.coverage & ((1 << count) - 1);
    let apart = |set: u64, layer: usize| {
        (0..count).all(|other| {
            set >> other & 1 == 0
                || other == layer
                || !share(layers.interleaves[layer], layers.interleaves[other], layers.group)
        })
    };
    let mut least = 1.0_f64;
    for set in (1_u64..1 << count).filter(|set| set & !covering == 0 && set.count_ones() <= TOGETHER as u32) {
        if !(0..count).all(|layer| set >> layer & 1 == 0 || apart(set, layer)) {
            continue;
        }
        // A layer more never raises the figure, so only the sets that none can join matter.
        let grows = set.count_ones() < TOGETHER as u32
            && (0..count).any(|layer| (covering & !set) >> layer & 1 == 1 && apart(set, layer));
        if !grows {
            least = least.min(together(chain, layers, set));
        }
    }
    chain.loss() * least
}

/// P(lost for good | lost), with the layers of `set` alone.
fn together(chain: &Chain, layers: &Layers, set: u64) -> f64 {
    let is_alone = |&interleave: &u32| gcd(interleave.max(1).into(), layers.r.max(1).into()) == 1;
    let in_phase = layers.interleaves.len() > layers.r as usize || !layers.interleaves.iter().all(is_alone);
    if layers.delayed || in_phase {
        return Joint::new(chain, layers, set, set).risk();
    }
    let each = (0..LAYERS_MAX).map(|layer| set & 1 << layer).filter(|&last| last != 0);
    each.map(|last| Joint::new(chain, layers, set, last).risk()).fold(0.0, f64::max)
}

/// Layers beyond these are not counted; no code has as many.
pub(crate) const LAYERS_MAX: usize = 8;

/// Layers that are taken together; the fourth would be worth little for twice the work.
const TOGETHER: usize = 3;

/// Subsets of the layers taken together, as masks.
const SETS: usize = 1 << TOGETHER;

/// Whether two progressions through one symbol, with these strides and `group` members, can meet again: their
/// common multiple lies within both.
fn share(a: u32, b: u32, group: u32) -> bool {
    let (a, b) = (u64::from(a.max(1)), u64::from(b.max(1)));
    a / gcd(a, b) * b <= u64::from(group - 1) * a.min(b)
}

/// A packet of an XOR besides the given symbol, by its distance from it and its place among the layers that
/// are taken together.
type Packet = (i64, usize);

/// Up to [`TOGETHER`] layers, of which no two XORs share another symbol.
struct Joint<'a> {
    chain: &'a Chain,
    layers: &'a Layers<'a>,
    flush: Flush,
    /// Indices of the layers, ascending.
    of: [usize; TOGETHER],
    count: usize,
    /// Source symbols and repairs that no flush sent, in all places where they can be, in wire order.
    packets: Vec<Packet>,
}

impl<'a> Joint<'a> {
    /// The layers of `set`; the symbol may be the last one of its group in those of `last`, which matters if
    /// repairs are not delayed.
    fn new(chain: &'a Chain, layers: &'a Layers<'a>, set: u64, last: u64) -> Self {
        let mut of = [0; TOGETHER];
        let mut count = 0;
        for layer in (0..LAYERS_MAX).filter(|layer| set >> layer & 1 == 1) {
            of[count] = layer;
            count += 1;
        }
        let others = i64::from(layers.group) - 1;
        let mut packets = Vec::with_capacity(count * 2 * layers.group as usize);
        for (slot, &layer) in of[..count].iter().enumerate() {
            let interleave = i64::from(layers.interleaves[layer].max(1));
            let is_last = !layers.delayed && last >> layer & 1 == 1;
            let farthest = others + i64::from(layers.delayed);
            let places = (-others..=farthest).filter(|&place| place != 0 || is_last);
            // A repair that is not delayed is behind a symbol that counts as well.
            let each = |place: i64| if place > 0 && !layers.delayed { 2 } else { 1 };
            packets.extend(
                places.flat_map(|place| std::iter::repeat_n((place * interleave, slot), each(place))),
            );
        }
        packets.sort_unstable();
        Self { chain, layers, flush: Flush::new(layers), of, count, packets }
    }

    fn risk(&self) -> f64 {
        let hit = self.hit_by_the_burst();
        let other = self.hit_by_others();
        let all = (1 << self.count) - 1;
        (0..=all).map(|set| hit[set] * other[all & !set]).sum()
    }

    /// By set of layers: P(it is what the symbol's own burst hits).
    fn hit_by_the_burst(&self) -> [f64; SETS] {
        let nearest = self.packets.partition_point(|&(at, _)| at < 0);
        let behind = self.packets[..nearest].iter().rev().map(|&(at, slot)| (-at, slot));
        let past = self.hits(behind);
        let ahead = self.packets[nearest..].iter().map(|&(at, slot)| (at.max(1), slot));
        let flushed: Vec<Packet> =
            self.flushed().map(|slot| (self.flush.short[self.of[slot]].to_repair, slot)).collect();
        let future = if flushed.is_empty() {
            self.hits(ahead)
        } else {
            let mut ahead: Vec<_> = ahead.chain(flushed).collect();
            ahead.sort_unstable();
            self.hits(ahead.into_iter())
        };
        let mut hit = [0.0; SETS];
        for (a, &before) in past.iter().enumerate() {
            for (b, &after) in future.iter().enumerate() {
                hit[a | b] += before * after;
            }
        }
        hit
    }

    /// The same for one side, over packets in the order of their distance from the symbol.
    fn hits(&self, packets: impl Iterator<Item = Packet>) -> [f64; SETS] {
        let lost = self.chain.loss_in_bad;
        let (mut going, mut over) = ([0.0; SETS], [0.0; SETS]);
        going[0] = 1.0;
        let mut here = 0;
        for (at, slot) in packets {
            let on = self.chain.stays_bad(at - here);
            here = at;
            let bit = 1 << slot;
            for set in 0..1 << self.count {
                over[set] += going[set] * (1.0 - on);
                going[set] *= on;
            }
            for set in (0..1 << self.count).filter(|set| set & bit == 0) {
                going[set | bit] += going[set] * lost;
                going[set] *= 1.0 - lost;
            }
            if going[..(1 << self.count) - 1].iter().all(|&p| p == 0.0) {
                break;
            }
        }
        std::array::from_fn(|set| going[set] + over[set])
    }

    /// By set of layers: bound on P(all of them are hit outside the symbol's burst).
    fn hit_by_others(&self) -> [f64; SETS] {
        let (loss, bad, lost) = (self.chain.loss(), self.chain.shares[1], self.chain.loss_in_bad);
        // Source symbols but the given one, and the repair.
        let members = f64::from(self.layers.group);
        let mut other = [any_of(loss, members); SETS];
        other[0] = 1.0;
        if self.count < 2 {
            return other;
        }
        let near = Nearness::new(self);
        let sum = |m: usize, n: usize| near.pair(m, n);
        let pair = |m: usize, n: usize| loss * lost * (members * members * bad + sum(m, n));
        for (m, n) in [(0, 1), (0, 2), (1, 2)].into_iter().filter(|&(_, n)| n < self.count) {
            other[1 << m | 1 << n] = other[1 << m].min(pair(m, n));
        }
        if self.count == TOGETHER {
            let two = sum(0, 1) + sum(0, 2) + sum(1, 2);
            let apart = members * bad * (members * members * bad + two);
            let all = loss * lost * lost * (apart + near.triples());
            other[7] = other[3].min(other[5]).min(other[6]).min(all);
        }
        other
    }

    /// Layers whose repair a flush may have sent.
    fn flushed(&self) -> impl Iterator<Item = usize> {
        (0..self.count).filter(|&slot| self.layers.flushed >> self.of[slot] & 1 == 1)
    }
}

/// Sums of `s^d` over packets of different layers.
struct Nearness {
    /// For packets that no flush sent: the sum over the packets of the first and of the second layer.
    pairs: [[f64; TOGETHER]; TOGETHER],
    /// The largest part of `pairs[m][n]` that one packet of `m` has.
    most: [[f64; TOGETHER]; TOGETHER],
    /// By `m`: the sum over its packets of the products of what they are near to in the other two.
    products: [f64; TOGETHER],
    /// From a flushed repair of the first layer to packets of the second that no flush sent.
    flushed: [[f64; TOGETHER]; TOGETHER],
    /// From a flushed repair to another.
    both: [[f64; TOGETHER]; TOGETHER],
}

impl Nearness {
    fn new(joint: &Joint) -> Self {
        let packets = &joint.packets;
        let mut near = vec![[0.0; TOGETHER]; packets.len()];
        let mut before = near.clone();
        // Everything before each packet, then everything behind it.
        let mut sum = [0.0; TOGETHER];
        let mut steps = vec![0.0; packets.len()];
        for n in 0..packets.len() {
            steps[n] = if n > 0 { joint.chain.stays_bad(packets[n].0 - packets[n - 1].0) } else { 0.0 };
            sum = sum.map(|s| s * steps[n]);
            near[n] = sum;
            sum[packets[n].1] += 1.0;
            before[n] = sum;
        }
        sum = [0.0; TOGETHER];
        for n in (0..packets.len()).rev() {
            for (near, sum) in near[n].iter_mut().zip(sum) {
                *near += sum;
            }
            sum[packets[n].1] += 1.0;
            sum = sum.map(|s| s * steps[n]);
        }
        let mut pairs = [[0.0; TOGETHER]; TOGETHER];
        let mut most = [[0.0_f64; TOGETHER]; TOGETHER];
        let mut products = [0.0; TOGETHER];
        for (&(_, m), near) in packets.iter().zip(&near) {
            for n in 0..joint.count {
                pairs[m][n] += near[n];
                most[m][n] = most[m][n].max(near[n]);
            }
            products[m] += near[(m + 1) % TOGETHER] * near[(m + 2) % TOGETHER];
        }
        let [flushed, both] = Self::of_flush(joint, &before);
        Self { pairs, most, products, flushed, both }
    }

    /// `flushed` and `both`; `before` is what is near before each packet, itself included.
    fn of_flush(joint: &Joint, before: &[[f64; TOGETHER]]) -> [[[f64; TOGETHER]; TOGETHER]; 2] {
        let (mut flushed, mut both) = ([[0.0_f64; TOGETHER]; TOGETHER], [[0.0; TOGETHER]; TOGETHER]);
        for m in joint.flushed() {
            let layer = joint.of[m];
            let mut near = |newest: usize, distance: i64| {
                let on = joint.chain.stays_bad(distance);
                for (n, near) in before[newest].into_iter().enumerate() {
                    flushed[m][n] = flushed[m][n].max(near * on);
                }
            };
            let newest = |last: i64| joint.packets.partition_point(|&(at, _)| at <= last).checked_sub(1);
            for (last, lanes) in joint.flush.places(joint.layers, layer) {
                // The newest one that left before the flush may be any; more of them are nearer together, unless
                // the flush is right behind them.
                for n in newest(last).into_iter().flat_map(|newest| (0..=newest).rev()) {
                    let at = joint.packets[n].0;
                    near(n, lanes.distance(at));
                    if lanes.is_far(at) {
                        break;
                    }
                }
            }
            // A run that is longer than the shortest, and yet not one that fills all lanes.
            let short = joint.flush.short[layer];
            let between = short.count..short.interleave;
            let first = joint.packets.partition_point(|&(at, _)| at < between.start);
            for (n, _) in joint.packets.iter().enumerate().skip(first).take_while(|(_, p)| p.0 < between.end)
            {
                near(n, 1 + short.before);
            }
            for n in joint.flushed().filter(|&n| n > m) {
                let between = joint.flush.between(joint.layers, joint.of[m], joint.of[n]);
                both[m][n] = joint.chain.stays_bad(between);
                both[n][m] = both[m][n];
            }
        }
        [flushed, both]
    }

    /// Sum over pairs of `s^d`.
    fn pair(&self, m: usize, n: usize) -> f64 {
        self.pairs[m][n] + self.flushed[m][n] + self.flushed[n][m] + self.both[m][n]
    }

    /// Sum over triples of `s^(d + d')`, by the layer of the one in the middle.
    fn triples(&self) -> f64 {
        (0..TOGETHER)
            .map(|m| {
                let (k, n) = ((m + 1) % TOGETHER, (m + 2) % TOGETHER);
                // None, the one or the other of the outer two flushed, or both; then the middle one.
                let (to, both) = (&self.flushed, &self.both);
                self.products[m]
                    + to[k][m] * (self.most[m][n] + to[n][m])
                    + to[n][m] * self.most[m][k]
                    + (to[m][k] + both[m][k]) * (to[m][n] + both[m][n])
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parhelion_plugin::Channel;

    const DEFAULT: Layers = Layers {
        r: 8,
        group: 8,
        interleaves: &[1, 11, 101],
        delayed: true,
        coverage: 0b111,
        flushed: 0,
        flush_run: 0,
        flush_pause: 0,
    };

    fn within(value: f64, low: f64, high: f64) {
        assert!((low..=high).contains(&value), "{value:e} is not within {low:e} and {high:e}");
    }

    #[test]
    fn one_layer_is_the_one_shot_formula() {
        // Long bursts are what the term for the symbol's own burst adds; a far layer does not see them.
        let chain = Chain::new(&Channel::independent(0.05, 0.999));
        let expected = 0.05 * (1.0 - 0.95_f64.powi(8));
        for delayed in [false, true] {
            let figure = symbol_risk(&chain, &Layers { delayed, coverage: 0b010, ..DEFAULT });
            within(figure / expected, 1.0 - 1e-9, if delayed { 1.0 + 1e-9 } else { 1.11 });
        }
    }

    #[test]
    fn layers_multiply_where_losses_are_rare_and_single() {
        let p = 1e-5;
        let chain = Chain::new(&Channel::independent(p, 0.999));
        let product = p * (8.0 * p).powi(3);
        within(symbol_risk(&chain, &DEFAULT) / product, 1.0 - 1e-3, 1.3);
    }

    #[test]
    fn a_lone_symbol_is_lost_with_its_repairs() {
        // Source and repairs in a row: exact but for other bursts.
        let chain = Chain::new(&Channel::bursty(1e-4, 2.0, 0.999));
        let lone = Layers { group: 1, flushed: 0b111, flush_run: 1, ..DEFAULT };
        let stays = chain.stays_bad(3);
        within(symbol_risk(&chain, &lone) / (chain.loss() * stays), 1.0, 1.01);
        // Three symbols, a, b, c: a b c 1 a b c a b c has seven slots from each to its last repair.
        let three = Layers { group: 3, flushed: 0b111, flush_run: 3, ..DEFAULT };
        let stays = chain.stays_bad(7);
        within(symbol_risk(&chain, &three) / (chain.loss() * stays), 1.0, 1.2);
    }

    #[test]
    fn layers_that_meet_again_are_not_taken_together() {
        let chain = Chain::new(&Channel::bursty(1e-4, 2.0, 0.999));
        let half = Layers { interleaves: &[1, 20, 40], ..DEFAULT };
        let without = |layer: u64| symbol_risk(&chain, &Layers { coverage: 0b111 & !(1 << layer), ..half });
        assert_eq!(symbol_risk(&chain, &half), without(1).min(without(2)));
        assert!(symbol_risk(&chain, &half) > 10.0 * symbol_risk(&chain, &DEFAULT));
    }

    #[test]
    fn each_layer_is_worth_its_share_under_bursts() {
        let chain = Chain::new(&Channel::bursty(1e-4, 2.0, 0.999));
        let figure = |coverage| symbol_risk(&chain, &Layers { coverage, ..DEFAULT });
        assert!(figure(0b100) < figure(0b001) / 100.0);
        assert!(figure(0b110) < figure(0b100) / 100.0);
        assert!(figure(0b111) < figure(0b110) / 1.05);
    }
}

//! The order in which a flush of layered interleaving sends its repairs, and the pauses between its layers.

use crate::layered::{LAYERS_MAX, Layers};

/// Where the repairs of a flush lie: lower bounds on distances, for all runs that are no shorter.
///
/// A flush behind `run` source symbols finds something in `min(i, run)` lanes of a layer of interleave `i`. With
/// delayed repairs every one of these lanes sends, since a group that is complete still waits for its lane's
/// next symbol. Without, the lanes whose last symbol ended a group do not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flush {
    /// Behind the shortest run.
    pub(crate) short: [Lanes; LAYERS_MAX],
    /// Behind a run that has symbols in all lanes.
    long: [Lanes; LAYERS_MAX],
}

/// What a flush sends of one layer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lanes {
    pub(crate) interleave: i64,
    /// Lanes that can send.
    pub(crate) count: i64,
    /// Slots before its first repair: repairs of narrower layers, and the pauses behind each of these.
    pub(crate) before: i64,
    /// From a symbol that is the last of its lane to its repair.
    pub(crate) to_repair: i64,
}

impl Flush {
    pub(crate) fn new(layers: &Layers) -> Self {
        let run = i64::from(layers.flush_run.max(1));
        Self { short: Lanes::behind(layers, run), long: Lanes::behind(layers, i64::MAX) }
    }

    /// Where a symbol's repair of `layer` can be: the farthest symbol behind it when the flush comes, and what tells
    /// the distance from a packet up to there.
    pub(crate) fn places(&self, layers: &Layers, layer: usize) -> impl Iterator<Item = (i64, Lanes)> {
        let (short, long) = (self.short[layer], self.long[layer]);
        let longer = (1..i64::from(layers.group)).map(move |later| {
            // A later member of the group tells of a symbol in every lane.
            let to_repair = long.to_repair + later * long.interleave;
            ((later + 1) * long.interleave - 1, Lanes { to_repair, ..long })
        });
        std::iter::once((short.count - 1, short)).chain(longer)
    }

    /// From the repair of a symbol in layer `narrow` to that in layer `wide` if one flush sends both.
    pub(crate) fn between(&self, layers: &Layers, narrow: usize, wide: usize) -> i64 {
        let pauses = (wide - narrow) as i64 * i64::from(layers.flush_pause);
        if !layers.delayed {
            return 1 + pauses;
        }
        let inner = pauses + self.short[narrow + 1..wide].iter().map(|lanes| lanes.count).sum::<i64>();
        let wide = self.short[wide];
        // With the symbol the last of its lane in both layers, as many lanes are behind it in the one as
        // before it in the other. Later members in the narrow layer put its repair off, until there is one in
        // the wide layer as well; they also tell of a run that is longer by so much.
        let apart = |later: i64| {
            let put_off = later * self.short[narrow].interleave;
            wide.count.max(wide.interleave.min(put_off + 1)) - put_off % wide.interleave
        };
        inner + (0..i64::from(layers.group)).map(apart).min().unwrap_or(1)
    }
}

impl Lanes {
    fn behind(layers: &Layers, run: i64) -> [Self; LAYERS_MAX] {
        let r = i64::from(layers.r.max(1));
        let mut all = [Self::default(); LAYERS_MAX];
        let mut before = 0;
        for (lanes, &interleave) in all.iter_mut().zip(layers.interleaves) {
            let interleave = i64::from(interleave.max(1));
            // Groups of a layer end `r` symbols apart, or a little less if r and i have a common factor.
            let ends_apart = r + 1 - gcd(r as u64, interleave as u64) as i64;
            let empty = |lanes: i64| if layers.delayed { 0 } else { (lanes + ends_apart - 1) / ends_apart };
            let count = interleave.min(run);
            // The source symbols behind this one, the narrower layers, the lanes with an older last symbol:
            // the first and the third make up all lanes but its own.
            *lanes = Self { interleave, count, before, to_repair: before + count - empty(count - 1) };
            before += count - empty(count) + i64::from(layers.flush_pause);
        }
        all
    }

    /// From a packet at `at`, which left before the flush, to the repair.
    pub(crate) fn distance(&self, at: i64) -> i64 {
        (self.to_repair - at).max(1 + self.before)
    }

    /// Whether that follows from its distance to the symbol, as for all packets before it.
    pub(crate) fn is_far(&self, at: i64) -> bool {
        self.to_repair - at > self.before
    }
}

pub(crate) fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flush(group: u32, flush_run: u32, flush_pause: u32) -> (Layers<'static>, Flush) {
        let interleaves = &[1, 11, 101];
        let layers = Layers {
            r: 8,
            group,
            interleaves,
            delayed: true,
            coverage: 7,
            flushed: 7,
            flush_run,
            flush_pause,
        };
        (layers, Flush::new(&layers))
    }

    #[test]
    fn three_symbols_leave_with_their_repairs_behind_them() {
        // a b c 1 a b c a b c: wherever a symbol is, four slots to the second layer's repair, seven to the
        // third's.
        let (layers, flush) = flush(1, 3, 0);
        assert_eq!(flush.short.map(|lanes| lanes.to_repair)[..3], [1, 4, 7]);
        assert_eq!(flush.between(&layers, 1, 2), 3);
        assert_eq!(flush.between(&layers, 0, 2), 6);
    }

    #[test]
    fn a_pause_is_behind_each_layer() {
        // a b c 1 - - a b c - - a b c.
        let (layers, flush) = flush(1, 3, 2);
        assert_eq!(flush.short.map(|lanes| lanes.to_repair)[..3], [1, 6, 11]);
        assert_eq!(flush.between(&layers, 1, 2), 5);
        assert_eq!(flush.between(&layers, 0, 2), 10);
    }

    #[test]
    fn behind_a_stream_all_lanes_send() {
        let (layers, flush) = flush(8, 200, 0);
        assert_eq!(flush.short.map(|lanes| lanes.to_repair)[..3], [1, 12, 113]);
        // Seven later members of the second layer put its repair off by 77.
        assert_eq!(flush.between(&layers, 1, 2), 101 - 77);
        assert!(flush.places(&layers, 1).all(|(last, lanes)| lanes.distance(last) >= 2));
    }
}

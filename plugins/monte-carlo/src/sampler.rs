//! Loss patterns that matter, with their weights.
//!
//! An append is lost for good only if a symbol of it is lost on the wire. So a trial picks one at random, takes it for
//! lost, and draws the channel to both sides of it (a chain of two states is reversible). It fails if that symbol stays
//! missing. With loss rate `p`, and `q` the sum of the chances with which the symbols that are missing are picked, such a
//! trial counts `p / q`: the mean of that is exactly the risk (at least one rare event: Owen, Maximov and Chertkov 2019),
//! and no trial is wasted on patterns in which the append arrives.
//!
//! For far smaller risks the channel is tilted besides. The states are drawn first in the slots that bear on the
//! picked symbol, those of [`Wire::related`], with the chance of the bad state raised there by one of some fixed
//! [`TILTS`]; then what lies between is drawn as it is between two given ends. The likelihood ratio has factors
//! for the related slots only. It is that of the mixture of all tilts (the balance heuristic of Veach), of which
//! one is no tilt: no weight exceeds `p` over the smallest chance of a symbol and the share of that one.
//!
//! Symbols differ. One whose repairs happen to be near each other, which few symbols of a wide code are, can be a thousand
//! times as much at risk as the others, and be most of the risk of all. A symbol's *core*, the chance that it and all its
//! repairs are in the bad state, tells them: they are picked more often, and wires that have them get more trials.

use parhelion_plugin::conformance::SplitMix64;
use parhelion_plugin::trial::{Losses, Related, Wire};

use crate::chain::{Chain, Gaps};

/// How far the channel is made worse in related slots: lower bounds on probabilities.
#[derive(Clone, Copy, Debug)]
struct Tilt {
    /// P(bad) where a repair is, after good.
    repair: f64,
    /// P(bad) where another source symbol is, after good.
    other: f64,
    /// P(bad) after bad.
    stay: f64,
    /// P(lost | bad).
    loss: f64,
}

/// Number of tilts.
pub(crate) const TILTS: usize = 14;

/// Share of a tilt in the mixture.
pub(crate) type Mixture = [f64; TILTS];

/// No tilt; bursts that take repairs; losses everywhere, which is what block codes fail by; long bursts; and both.
const TILT: [Tilt; TILTS] = {
    const fn tilt(repair: f64, other: f64, stay: f64) -> Tilt {
        Tilt { repair, other, stay, loss: 0.7 }
    }
    [
        Tilt { repair: 0.0, other: 0.0, stay: 0.0, loss: 0.0 },
        tilt(0.5, 0.0, 0.0),
        tilt(0.3, 0.05, 0.0),
        tilt(0.05, 0.05, 0.0),
        tilt(0.1, 0.1, 0.0),
        tilt(0.17, 0.17, 0.0),
        tilt(0.25, 0.25, 0.0),
        tilt(0.35, 0.35, 0.0),
        tilt(0.5, 0.5, 0.0),
        tilt(0.0, 0.0, 0.7),
        tilt(0.0, 0.0, 0.9),
        tilt(0.0, 0.0, 0.97),
        tilt(0.05, 0.05, 0.8),
        tilt(0.3, 0.05, 0.9),
    ]
};

/// Share of the channel as it is, at least: what was never seen to fail costs the less the larger it is, and the tilts that
/// make failures get the rest.
pub(crate) const NATURAL_MIN: f64 = 0.4;

/// Share of every other tilt, at least: so that what the first trials missed can still be found.
pub(crate) const TILT_MIN: f64 = 0.01;

/// The mixture to begin with.
pub(crate) const EVEN: Mixture = {
    let mut even = [0.8 / (TILTS - 1) as f64; TILTS];
    even[0] = 0.2;
    even
};

/// Lower bounds on P(bad), by former state, by whether a repair is there, by tilt.
const FLOORS: [[[f64; TILTS]; 2]; 2] = {
    let mut floors = [[[0.0; TILTS]; 2]; 2];
    let mut at = 0;
    while at < TILTS {
        let Tilt { repair, other, stay, .. } = TILT[at];
        floors[0][0][at] = other;
        floors[0][1][at] = repair;
        floors[1][0][at] = if stay > other { stay } else { other };
        floors[1][1][at] = if stay > repair { stay } else { repair };
        at += 1;
    }
    floors
};

/// Slots to each side of a symbol in which the channel is tilted, at most: the nearest.
const RELATED_MAX: usize = 160;

/// Draws loss patterns for one channel.
#[derive(Debug)]
pub(crate) struct Sampler {
    chain: Chain,
    gaps: Gaps,
    losses: Losses,
    related: Vec<Related>,
    steps: u64,
}

/// A wire, with what is to know of each symbol of its append.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) wire: Wire,
    sides: Vec<[Vec<Step>; 2]>,
    /// Chances with which symbols are picked.
    chances: Vec<f64>,
    /// Sum of the cores of its symbols.
    pub(crate) core: f64,
}

/// The way to the next related slot.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// From the lost symbol.
    distance: usize,
    gap: usize,
    /// P(bad there), from the good and from the bad state.
    to_bad: [f64; 2],
    is_repair: bool,
}

/// What a trial counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drawn {
    /// The symbol that is lost.
    pub(crate) symbol: usize,
    /// Likelihood of the pattern over that with which it was drawn, given that the symbol is lost.
    pub(crate) likelihood: f64,
    /// Shares of the tilts in that pattern, for adapting the mixture.
    pub(crate) shares: Mixture,
}

impl Prepared {
    /// Chance with which a symbol is picked.
    pub(crate) fn chance(&self, symbol: usize) -> f64 {
        self.chances[symbol]
    }
}

/// Of the chances with which symbols are picked, so much is even.
const EVEN_CHANCE: f64 = 0.75;

impl Sampler {
    pub(crate) fn new(chain: Chain) -> Self {
        Self { chain, gaps: Gaps::new(chain), losses: Losses::default(), related: Vec::new(), steps: 0 }
    }

    /// The pattern that was drawn last.
    pub(crate) fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Slots that were drawn one by one so far: a measure of the work.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// P(a packet is lost).
    pub(crate) fn loss(&self) -> f64 {
        self.chain.loss()
    }

    /// Largest weight that a draw for an append of `symbols` can have.
    pub(crate) fn weight_max(&self, symbols: usize, mixture: &Mixture) -> f64 {
        symbols as f64 * self.chain.loss() / (EVEN_CHANCE * mixture[0])
    }

    /// Looks at what bears on each symbol of the append.
    pub(crate) fn prepare(&mut self, wire: Wire) -> Prepared {
        let sides: Vec<_> = (0..wire.symbols()).map(|symbol| self.sides(&wire, symbol)).collect();
        let mut chances: Vec<f64> = sides.iter().map(|sides| self.core(sides)).collect();
        let core: f64 = chances.iter().sum();
        let even = 1.0 / wire.symbols() as f64;
        for chance in &mut chances {
            let share = if core > 0.0 { *chance / core } else { even };
            *chance = EVEN_CHANCE * even + (1.0 - EVEN_CHANCE) * share;
        }
        Prepared { wire, sides, chances, core }
    }

    /// P(all its repairs are in the bad state | the symbol is).
    fn core(&mut self, sides: &[Vec<Step>; 2]) -> f64 {
        let mut core = 1.0;
        for side in sides {
            let mut here = 0;
            for repair in side.iter().filter(|step| step.is_repair) {
                core *= self.gaps.chance_of_bad(repair.distance - here)[1];
                here = repair.distance;
            }
        }
        core
    }

    /// Draws the losses on a wire.
    pub(crate) fn draw(&mut self, on: &Prepared, mixture: &Mixture, random: &mut SplitMix64) -> Drawn {
        let symbol = choose(&on.chances, random);
        let tilt = choose(mixture, random);
        let own = on.wire.symbol_slot(symbol);
        self.losses.clear(on.wire.slots());
        self.losses.insert(own);
        // Likelihood of the pattern under each tilt, over that under the channel itself.
        let mut ratios = [1.0; TILTS];
        let ends = [own, on.wire.slots() - 1 - own];
        for (side, end) in ends.into_iter().enumerate() {
            self.side(&on.sides[symbol][side], end, tilt, random, &mut ratios, |distance| {
                if side == 0 { own - distance } else { own + distance }
            });
        }
        let mut shares = ratios;
        shares.iter_mut().zip(mixture).for_each(|(ratio, share)| *ratio *= share);
        let mixed: f64 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= mixed);
        Drawn { symbol, likelihood: mixed.recip(), shares }
    }

    fn side(
        &mut self,
        steps: &[Step],
        end: usize,
        tilt: usize,
        random: &mut SplitMix64,
        ratios: &mut Mixture,
        slot: impl Fn(usize) -> usize,
    ) {
        let Self { chain, gaps, losses, .. } = self;
        let (mut here, mut is_bad) = (0, true);
        for step in steps {
            let natural = step.to_bad[usize::from(is_bad)];
            let floors = &FLOORS[usize::from(is_bad)][usize::from(step.is_repair)];
            let turns_bad = random.chance(natural.max(floors[tilt]));
            if turns_bad {
                let scale = natural.recip();
                ratios
                    .iter_mut()
                    .zip(floors)
                    .for_each(|(ratio, &floor)| *ratio *= natural.max(floor) * scale);
            } else {
                let scale = (1.0 - natural).recip();
                ratios
                    .iter_mut()
                    .zip(floors)
                    .for_each(|(ratio, &floor)| *ratio *= (1.0 - natural.max(floor)) * scale);
            }
            gaps.bridge(is_bad, turns_bad, step.gap, random, |distance| losses.insert(slot(here + distance)));
            (here, is_bad) = (step.distance, turns_bad);
            if is_bad && lose(chain.loss_in_bad, tilt, random, ratios) {
                losses.insert(slot(here));
            }
        }
        chain.walk(is_bad, end - here, random, |distance| losses.insert(slot(here + distance)));
        self.steps += steps.len() as u64;
    }

    /// The related slots to both sides of a symbol.
    fn sides(&mut self, wire: &Wire, symbol: usize) -> [Vec<Step>; 2] {
        self.related.clear();
        wire.related(symbol, &mut self.related);
        let own = wire.symbol_slot(symbol);
        let split = self.related.partition_point(|related| related.slot < own);
        let Self { gaps, related, .. } = self;
        let mut steps = |related: &mut dyn Iterator<Item = &Related>| {
            let mut here = 0;
            let step = |related: &Related| {
                let distance = related.slot.abs_diff(own);
                let gap = distance - here;
                here = distance;
                Step { distance, gap, to_bad: gaps.chance_of_bad(gap), is_repair: related.is_repair }
            };
            related.take(RELATED_MAX).map(step).collect()
        };
        [steps(&mut related[..split].iter().rev()), steps(&mut related[split..].iter())]
    }
}

/// Whether a packet in the bad state is lost, under a tilt.
fn lose(natural: f64, tilt: usize, random: &mut SplitMix64, ratios: &mut Mixture) -> bool {
    if natural >= TILT[1].loss {
        return random.chance(natural);
    }
    let is_lost = random.chance(natural.max(TILT[tilt].loss));
    let (was, scale) = if is_lost { (0.0, natural.recip()) } else { (1.0, (1.0 - natural).recip()) };
    for (ratio, tilt) in ratios.iter_mut().zip(&TILT) {
        // P(lost), or 1 less that.
        *ratio *= f64::abs(was - natural.max(tilt.loss)) * scale;
    }
    is_lost
}

/// One of some choices whose chances add up to 1.
fn choose(chances: &[f64], random: &mut SplitMix64) -> usize {
    let mut left = crate::chain::unit(random);
    for (choice, chance) in chances.iter().enumerate() {
        left -= chance;
        if left < 0.0 {
            return choice;
        }
    }
    // What rounding left over.
    0
}

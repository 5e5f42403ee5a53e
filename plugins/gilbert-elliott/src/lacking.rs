//! How many equations are lacking for the unknowns of a sliding window, and whether an append is among these: the queue
//! of the module `window`, step by step.

use crate::chain::{Chain, Matrix, Pair, dot, rows};

/// The distribution over what is lacking, and over the state of the channel in the next slot.
#[derive(Clone)]
pub(crate) struct Lacking {
    /// By count, where no symbol of the append is pending; the last stands for all from there on.
    clear: Vec<Pair>,
    /// Where one is.
    pending: Vec<Pair>,
    /// The largest count so far.
    used: usize,
    /// Whether either is of interest.
    is_clear: bool,
    is_pending: bool,
}

impl Lacking {
    /// Nothing, on a channel of which nothing is known; counts up to `counts` are told apart.
    pub(crate) fn new(chain: &Chain, counts: usize) -> Self {
        let mut clear = vec![[0.0; 2]; counts + 1];
        let pending = clear.clone();
        clear[0] = chain.shares;
        Self { clear, pending, used: 0, is_clear: true, is_pending: false }
    }

    /// A source symbol, of the append or not.
    pub(crate) fn source(&mut self, chain: &Chain, step: &Matrix, of_append: bool) {
        let last = self.clear.len() - 1;
        self.used = (self.used + 1).min(last);
        if self.is_pending {
            lose(&mut self.pending[..=self.used], chain.loss_in_bad);
        }
        if self.is_clear && of_append {
            self.is_pending = true;
            for (count, pair) in self.clear[..=self.used].iter_mut().enumerate() {
                self.pending[(count + 1).min(last)][1] += pair[1] * chain.loss_in_bad;
                pair[1] *= 1.0 - chain.loss_in_bad;
            }
        } else if self.is_clear {
            lose(&mut self.clear[..=self.used], chain.loss_in_bad);
        }
        self.pass(step);
    }

    /// A repair that includes all unknowns, and is of no use with probability `useless`.
    pub(crate) fn repair(&mut self, chain: &Chain, step: &Matrix, useless: f64) {
        let useful = [1.0 - useless, (1.0 - useless) * (1.0 - chain.loss_in_bad)];
        // The last count stays: it may stand for more.
        let most = self.used.min(self.clear.len() - 2);
        if self.is_clear {
            solve(&mut self.clear[..=most], useful);
        }
        if self.is_pending {
            solve(&mut self.pending[..=most], useful);
            // Nothing is lacking: the append is known.
            let known = std::mem::take(&mut self.pending[0]);
            self.clear[0] = [self.clear[0][0] + known[0], self.clear[0][1] + known[1]];
        }
        self.pass(step);
    }

    /// A slot in which nothing is sent that counts.
    pub(crate) fn pass(&mut self, step: &Matrix) {
        let both = [(self.is_clear, &mut self.clear), (self.is_pending, &mut self.pending)];
        for (_, counts) in both.into_iter().filter(|(is_of_interest, _)| *is_of_interest) {
            counts[..=self.used].iter_mut().for_each(|pair| *pair = rows(*pair, step));
        }
    }

    /// From here on only what is pending matters.
    pub(crate) fn forget_clear(&mut self) {
        self.is_clear = false;
    }

    /// P(a symbol of the append is pending).
    pub(crate) fn pending(&self) -> f64 {
        self.pending.iter().flatten().sum()
    }

    /// P(a symbol of the append is pending, and what comes does not solve it), given `unsolved` by count and state.
    pub(crate) fn expect(&self, unsolved: &[Pair]) -> f64 {
        self.pending.iter().zip(unsolved).map(|(&pair, &unsolved)| dot(pair, unsolved)).sum()
    }
}

/// One more with probability `lost` in the bad state. The last count stays: it is either empty or stands for more.
fn lose(counts: &mut [Pair], lost: f64) {
    let last = counts.len() - 1;
    let stays = counts[last][1] * lost;
    for count in (1..=last).rev() {
        counts[count][1] = counts[count][1] * (1.0 - lost) + counts[count - 1][1] * lost;
    }
    counts[0][1] *= 1.0 - lost;
    counts[last][1] += stays;
}

/// One less, unless there is none, with these probabilities by state.
fn solve(counts: &mut [Pair], useful: Pair) {
    let last = counts.len() - 1;
    for state in 0..2 {
        let (less, same) = (useful[state], 1.0 - useful[state]);
        if last > 0 {
            counts[0][state] += counts[1][state] * less;
        }
        for count in 1..last {
            counts[count][state] = counts[count][state] * same + counts[count + 1][state] * less;
        }
        if last > 0 {
            counts[last][state] *= same;
        }
    }
}

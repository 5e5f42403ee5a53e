//! How long a call may take, in units of fuel: about one per instruction.

use parhelion_plugin::Structure;

/// For what is done once: to start an instance, to describe, to say what parameters mean. Some 50 ms.
pub(crate) const ONCE: u64 = 100_000_000;

/// For a model's answer: some milliseconds, which is a thousand times the budget that a model should keep.
pub(crate) const QUESTION: u64 = 5_000_000;

/// Per byte of a symbol, for each repair that includes it and for itself. Plain byte-by-byte arithmetic takes about ten.
const PER_BYTE: u64 = 64;

/// Per call, whatever the symbols are like.
const PER_CALL: u64 = 10_000;

/// Per symbol of the window: a stream that jumps ahead makes a decoder forget all of them.
const PER_WINDOW_SYMBOL: u64 = 4;

/// Bounds of what can be saved up: about 10 ms and 200 ms of work.
const SAVED: (u64, u64) = (20_000_000, 400_000_000);

/// The fuel of an encoder or decoder.
///
/// Invariant: `left` is at most `full`.
#[derive(Debug)]
pub(crate) struct Tank {
    left: u64,
    per_call: u64,
    full: u64,
}

impl Tank {
    pub fn new(structure: &Structure, symbol_bytes: usize) -> Self {
        let repairs = u64::from(structure.repairs_per_symbol()) + 1;
        let window = structure.window_symbols().unwrap_or(0) as u64;
        let per_call = PER_CALL + PER_BYTE * symbol_bytes as u64 * repairs + PER_WINDOW_SYMBOL * window;
        let full = per_call.saturating_mul(structure.span_symbols()).clamp(SAVED.0, SAVED.1);
        Self { left: full, per_call, full }
    }

    /// What the next call may burn.
    pub fn fill(&mut self) -> u64 {
        self.left = self.left.saturating_add(self.per_call).min(self.full);
        self.left
    }

    /// What a call has left.
    pub fn set(&mut self, left: u64) {
        self.left = left.min(self.full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_up_runs_out() {
        let mut tank = Tank::new(&Structure::Block { r: 8, c: 3, depth: 1 }, 1200);
        let full = tank.fill();
        assert_eq!(full, SAVED.0);
        // A plugin that burns twice what a call brings is stopped after a while, not at once.
        let burnt = 2 * tank.per_call;
        let calls = std::iter::from_fn(|| tank.fill().checked_sub(burnt).map(|left| tank.set(left)))
            .take(1000)
            .count();
        assert!((40..100).contains(&calls), "{calls} calls");
        tank.set(u64::MAX);
        assert_eq!(tank.fill(), full);
    }

    #[test]
    fn large_windows_do_not_make_it_endless() {
        let tank =
            Tank::new(&Structure::Layered { r: 64, interleaves: vec![1, 500], delayed: false }, 65_536);
        assert_eq!(tank.full, SAVED.1);
    }
}

//! What a structure promises of losses and bursts.

use crate::code::Structure;

/// How many packets of a stream may be lost, whichever they are, and still every source symbol is rebuilt.
///
/// For layered interleaving this is the number of layers when no two source symbols share two XORs, which
/// relatively prime interleaves ensure; otherwise one.
#[must_use]
pub fn losses_recovered(structure: &Structure) -> u32 {
    match structure {
        Structure::Layered { r, interleaves, .. } => {
            let reach = u64::from(r.saturating_sub(1));
            let shares_two = |a: u32, b: u32| lcm(a, b) <= reach * u64::from(a.min(b));
            let mut pairs = interleaves
                .iter()
                .enumerate()
                .flat_map(|(n, &a)| interleaves[..n].iter().map(move |&b| (a, b)));
            if pairs.any(|(a, b)| shares_two(a, b)) { 1 } else { structure.repairs_per_symbol() }
        }
        &Structure::Window { r, c, window, indices } => {
            // Lost symbols are known once as many repairs behind them have arrived. So `n` losses hang together only while too
            // few do, for fewer than 1 + 2 + ... + n - 1 repairs, and are undone by the `n` repairs behind the last of them,
            // provided that these still include the first.
            let (r, c) = (u64::from(r.max(1)), u64::from(c.max(1)));
            let reach = |n: u64| (n * n.saturating_sub(1) / 2 * r).div_ceil(c) + (n * r).div_ceil(c);
            (1..=indices).rev().find(|&n| reach(u64::from(n)) <= u64::from(window)).unwrap_or(0)
        }
        Structure::Other { losses, .. } => *losses,
        _ => structure.repairs_per_symbol(),
    }
}

/// A run of packets that are lost together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Burst {
    /// So many consecutive source symbols, with every repair sent before, between and after them until
    /// the next source symbol.
    Sources(u64),
    /// So many consecutive packets of any kind.
    Packets(u64),
}

/// The longest burst that is always rebuilt while symbols keep coming.
#[must_use]
pub fn burst_recovered(structure: &Structure) -> Burst {
    match structure {
        Structure::None => Burst::Packets(0),
        Structure::Repetition { copies, spacing } => Burst::Sources(u64::from(*copies) * u64::from(*spacing)),
        Structure::Block { c, depth, .. } => Burst::Packets(u64::from(*c) * u64::from(*depth)),
        Structure::Layered { interleaves, delayed: true, .. } => {
            Burst::Sources(u64::from(interleaves.last().copied().unwrap_or(0)))
        }
        &Structure::Window { r, c, window, .. } => {
            // The repairs behind the burst that still include its first symbol.
            let repairs = |burst: u64| (u64::from(window) - burst) * u64::from(c) / u64::from(r.max(1));
            let longest = (0..=u64::from(window)).rev().find(|&burst| repairs(burst) >= burst);
            Burst::Sources(longest.unwrap_or(0))
        }
        Structure::Layered { .. } | Structure::Other { .. } => {
            Burst::Packets(u64::from(losses_recovered(structure)))
        }
    }
}

fn lcm(a: u32, b: u32) -> u64 {
    let (mut x, mut y) = (u64::from(a), u64::from(b));
    while y != 0 {
        (x, y) = (y, x % y);
    }
    u64::from(a) / x.max(1) * u64::from(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layered(r: u32, interleaves: &[u32]) -> Structure {
        Structure::Layered { r, interleaves: interleaves.to_vec(), delayed: false }
    }

    #[test]
    fn layers_that_share_symbols_promise_less() {
        assert_eq!(losses_recovered(&layered(8, &[1, 11, 101])), 3);
        assert_eq!(losses_recovered(&layered(8, &[1, 10, 100])), 3);
        assert_eq!(losses_recovered(&layered(8, &[1, 20, 40])), 1);
        assert_eq!(losses_recovered(&layered(8, &[1, 7])), 1);
        assert_eq!(losses_recovered(&layered(7, &[1, 7])), 2);
    }

    #[test]
    fn windows_that_hold_too_little_promise_less() {
        let window = |window, indices| Structure::Window { r: 8, c: 3, window, indices };
        assert_eq!(losses_recovered(&window(128, 6)), 6);
        assert_eq!(losses_recovered(&window(56, 6)), 6);
        assert_eq!(losses_recovered(&window(55, 6)), 5);
        assert_eq!(losses_recovered(&window(128, 3)), 3);
        assert_eq!(burst_recovered(&window(128, 6)), Burst::Sources(34));
    }

    #[test]
    fn bursts_follow_the_structure() {
        assert_eq!(burst_recovered(&Structure::Block { r: 8, c: 3, depth: 10 }), Burst::Packets(30));
        assert_eq!(burst_recovered(&layered(8, &[1, 11])), Burst::Packets(2));
        assert_eq!(burst_recovered(&Structure::Repetition { copies: 2, spacing: 5 }), Burst::Sources(10));
    }
}

//! What a decoder rebuilds within the guarantee: each bit of coverage, patterns of losses, and bursts.

use crate::conformance::claims::{Burst, burst_recovered, losses_recovered};
use crate::conformance::stream::{PacketKind, Traffic};
use crate::conformance::trial::Trial;

/// Each bit of a symbol's coverage is worth what it says: that repair alone rebuilds the symbol.
pub(super) fn coverage_claims(trial: &mut Trial<'_>) -> Result<(), String> {
    for flush_chance in [0.0, 0.1] {
        let symbols = (2 * trial.span() + 3).min(trial.half_window());
        let stream = trial.encode(Traffic { symbols, uneven: true, flush_chance, ..Traffic::default() })?;
        // Each try decodes the stream once per repair that covers the symbol.
        let decodes = trial.structure.repairs_per_symbol().max(1) as usize;
        let tries =
            symbols.min(trial.packets() / 16 / (stream.packets.len() * decodes)).max(trial.some(8, 2));
        for _ in 0..tries {
            let id = trial.random.below(symbols) as u64;
            let covers = |at: &usize, id: u64| match stream.packets[*at].kind {
                PacketKind::Source(source) => source == id,
                PacketKind::Repair(head) => head.cover.ids().any(|covered| covered == id),
            };
            let lost: Vec<_> = (0..stream.packets.len()).filter(|at| covers(at, id)).collect();
            for &kept in lost.iter().filter(|&&at| !stream.is_source(at)) {
                let lost: Vec<_> = lost.iter().copied().filter(|&at| at != kept).collect();
                trial.survive(&stream, &lost)?;
            }
        }
    }
    Ok(())
}

/// Every pattern of up to the promised number of losses on short streams; random ones where there are too many.
pub(super) fn losses(trial: &mut Trial<'_>) -> Result<(), String> {
    let most = losses_recovered(&trial.structure) as usize;
    let span = trial.span();
    for (symbols, flush_chance) in [(1, 0.0), (span / 2 + 1, 0.0), (span + 1, 0.2), (2 * span + 1, 0.0)] {
        let stream = trial.encode(Traffic { symbols, uneven: true, flush_chance, ..Traffic::default() })?;
        let packets = stream.packets.len();
        let tries = trial.packets() / packets;
        // The most losses first: they are where a code fails, if it does.
        let counts = (1..=most.min(packets)).rev();
        let all = counts.clone().try_fold(0_usize, |sum, losses| sum.checked_add(patterns(packets, losses)?));
        if all.is_some_and(|all| all <= tries) {
            for losses in counts {
                let mut lost: Vec<usize> = (0..losses).collect();
                loop {
                    trial.survive(&stream, &lost)?;
                    if !advance(&mut lost, packets) {
                        break;
                    }
                }
            }
            continue;
        }
        trial.report.exhaustive = false;
        for n in 0..tries.min(trial.some(4_000, 60)) {
            let losses = if n % 4 == 3 { 1 + trial.random.below(most) } else { most };
            // Losses near each other meet in groups; losses anywhere would mostly be alone.
            let near = (losses + 1) << trial.random.below(12);
            let start = trial.random.below(packets.saturating_sub(near) + 1);
            let mut lost: Vec<_> = (start..packets.min(start + near)).collect();
            trial.random.shuffle(&mut lost);
            lost.truncate(losses);
            lost.sort_unstable();
            trial.survive(&stream, &lost)?;
        }
    }
    Ok(())
}

/// Bursts of each length up to the promised one; the longest at every place that the budget allows.
pub(super) fn bursts(trial: &mut Trial<'_>) -> Result<(), String> {
    let span = trial.span();
    let stream = trial.encode(Traffic { symbols: 4 * span + 8, uneven: true, ..Traffic::default() })?;
    let packets = stream.packets.len();
    let longest = match burst_recovered(&trial.structure) {
        Burst::Packets(count) | Burst::Sources(count) => count as usize,
    };
    let in_sources = matches!(burst_recovered(&trial.structure), Burst::Sources(_));
    // After the burst, symbols keep coming until everything that covers its last symbol has left.
    let places = 2 * span + 8;
    let burst = |start: usize, length: usize| -> Vec<usize> {
        if !in_sources || length == 0 {
            return (start..start + length).collect();
        }
        let before = start.checked_sub(1).map_or(0, |before| stream.sources[before] + 1);
        (before..stream.sources[start + length]).collect()
    };
    let step = (places * packets / trial.packets()).max(1);
    for start in (0..places).step_by(step) {
        trial.survive(&stream, &burst(start, longest))?;
    }
    let tries = (trial.packets() / packets / longest.max(1)).clamp(1, 8);
    for length in (1..longest).step_by((longest * packets / trial.packets()).max(1)) {
        for _ in 0..tries {
            let start = trial.random.below(places);
            trial.survive(&stream, &burst(start, length))?;
        }
    }
    Ok(())
}

/// Subsets of `k` of `n`, unless there are too many to count.
fn patterns(n: usize, k: usize) -> Option<usize> {
    (0..k.min(n)).try_fold(1_usize, |count, taken| Some(count.checked_mul(n - taken)? / (taken + 1)))
}

/// The next subset in lexicographic order; false after the last.
fn advance(subset: &mut [usize], n: usize) -> bool {
    let k = subset.len();
    let Some(at) = (0..k).rev().find(|&at| subset[at] < n - k + at) else {
        return false;
    };
    let next = subset[at] + 1;
    for (offset, value) in subset[at..].iter_mut().enumerate() {
        *value = next + offset;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_complete() {
        let mut subset = vec![0, 1];
        let mut seen = vec![subset.clone()];
        while advance(&mut subset, 4) {
            seen.push(subset.clone());
        }
        assert_eq!(seen, [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]);
        assert_eq!(patterns(4, 2), Some(6));
        assert_eq!(patterns(30, 3), Some(4060));
        assert_eq!(patterns(3, 5), Some(1));
    }
}

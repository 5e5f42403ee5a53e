//! Interleaves of layered interleaving that do not get into each other's way.

/// Interleaves of `layers` layers for XORs of `r` symbols, the narrowest about `base` and the widest at most `top`,
/// ascending in about equal ratios; none if there is no such set.
///
/// Any two are relatively prime, and each is to `r`: two source symbols then share at most one XOR, and the repairs of a
/// layer leave one by one (loss model, section 0, point 7). For the first it takes, too, that all but the narrowest are
/// at least `r`. With a `top` of `r^(layers-1)` or more and `base` 1, neighbours are `r` apart in ratio.
#[must_use]
pub fn interleaves(r: u32, layers: usize, base: u32, top: u32) -> Option<Vec<u32>> {
    let (r, base) = (r.max(1), base.max(1));
    let mut chosen: Vec<u32> = Vec::with_capacity(layers);
    for layer in 0..layers {
        let wider = (layers - 1 - layer) as u32;
        let least = chosen.last().map_or(1, |&narrower| r.max(narrower + 1));
        let most = top.saturating_sub(wider);
        let share = if layers > 1 { layer as f64 / (layers - 1) as f64 } else { 0.0 };
        let ratio = f64::from(top.max(base)) / f64::from(base);
        let target = (f64::from(base) * ratio.powf(share)).round() as u32;
        let target = target.min(most).max(least);
        let fits = |&candidate: &u32| {
            let is_alone = |&other: &u32| gcd(candidate, other) == 1;
            (least..=most).contains(&candidate) && is_alone(&r) && chosen.iter().all(is_alone)
        };
        // Of a few hundred neighbours, the primes in `r` and in the narrower layers leave some.
        let near = (0..=SEARCHED).flat_map(|d| [target.checked_sub(d), target.checked_add(d)]);
        let nearest = near.flatten().find(fits)?;
        chosen.push(nearest);
    }
    (layers > 0).then_some(chosen)
}

/// How far from its target an interleave may lie.
const SEARCHED: u32 = 512;

pub(crate) fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The least of 1, 2, 3, 4, 6, 8, 12, 16, ... that is not below `value`: parameters that follow from measurements are
/// taken from these steps, so that they do not change with every report.
pub(crate) fn step_up(value: u32) -> u32 {
    let power = value.max(1).checked_next_power_of_two().unwrap_or(1 << 31);
    let between = power / 4 * 3;
    if value <= between { between } else { power }
}

/// The greatest of these steps that is not above `value`, which is at least 1.
pub(crate) fn step_down(value: u32) -> u32 {
    let value = value.max(1);
    let power = 1 << value.ilog2();
    let between = power / 2 * 3;
    if power > 1 && value >= between { between } else { power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaves_are_relatively_prime_and_within_the_top() {
        for r in 1..=70 {
            for layers in 1..=4_usize {
                for top in [1, 2, r, r + 1, 2 * r + 3, 41, 101, 1000, 16_384] {
                    for base in [1, top / 2, top / 8] {
                        let Some(set) = interleaves(r, layers, base, top) else {
                            // Only a top next to `r` is too narrow.
                            assert!(
                                top < r + 8 * layers as u32 || (layers == 1 && base > top),
                                "{r} {layers} {top} {base}"
                            );
                            continue;
                        };
                        assert_eq!(set.len(), layers);
                        assert!(set.iter().all(|&i| i <= top && gcd(i, r) == 1), "{r} {set:?}");
                        for (n, &a) in set.iter().enumerate() {
                            assert!(
                                set[n + 1..].iter().all(|&b| a < b && gcd(a, b) == 1 && b >= r),
                                "{r} {set:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_high_top_keeps_neighbours_r_apart() {
        assert_eq!(interleaves(8, 3, 1, 101), Some(vec![1, 9, 101]));
        let set = interleaves(8, 3, 1, 1000).unwrap();
        assert!(set.windows(2).all(|pair| pair[1] >= 8 * pair[0]), "{set:?}");
        assert_eq!(interleaves(8, 3, 1, 7), None);
    }

    #[test]
    fn steps_are_the_nearest() {
        let steps = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
        for value in 1..=64 {
            assert_eq!(Some(&step_up(value)), steps.iter().find(|&&step| step >= value), "{value}");
            assert_eq!(Some(&step_down(value)), steps.iter().rfind(|&&step| step <= value), "{value}");
        }
        assert_eq!((step_up(u32::MAX), step_down(u32::MAX)), (1 << 31, 3 << 30));
    }
}

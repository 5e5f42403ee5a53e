//! The figures against simulated channels: seeded, a few seconds, and each can fail both ways where the model
//! claims to be exact.

use std::collections::BTreeSet;

use parhelion_model_gilbert_elliott::own_risk;
use parhelion_plugin::{Channel, Exposure, Structure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// One packet on the wire: a source symbol, or a repair of some of them.
#[derive(Clone)]
enum Packet {
    Source,
    Repair(Vec<usize>),
}

/// Packets in wire order; the k-th `Source` is symbol k.
struct Wire(Vec<Packet>);

struct Draw {
    symbols: Vec<bool>,
    repairs: Vec<bool>,
}

impl Wire {
    /// The losses of one passage: a stationary channel, fresh for every trial.
    fn draw(&self, channel: &Channel, rng: &mut SmallRng, draw: &mut Draw) {
        draw.symbols.clear();
        draw.repairs.clear();
        let mut bad = rng.random_bool(channel.bad_share());
        for packet in &self.0 {
            let lost = bad && rng.random_bool(channel.loss_in_bad);
            match packet {
                Packet::Source => draw.symbols.push(lost),
                Packet::Repair(_) => draw.repairs.push(lost),
            }
            bad = if bad {
                !rng.random_bool(channel.bad_to_good)
            } else {
                rng.random_bool(channel.good_to_bad)
            };
        }
    }

    fn groups(&self) -> Vec<&[usize]> {
        let repair = |packet: &'_ Packet| matches!(packet, Packet::Repair(_));
        self.0
            .iter()
            .filter(|packet| repair(packet))
            .map(|packet| match packet {
                Packet::Repair(members) => members.as_slice(),
                Packet::Source => &[],
            })
            .collect()
    }

    /// Share of trials in which a symbol of `append` is lost for good, for each append.
    fn lost(
        &self,
        channel: &Channel,
        appends: &[std::ops::Range<usize>],
        mds: bool,
        trials: u32,
    ) -> Vec<f64> {
        let mut rng = SmallRng::seed_from_u64(2009);
        let groups = self.groups();
        let mut draw = Draw { symbols: Vec::new(), repairs: Vec::new() };
        let mut counts = vec![0_u32; appends.len()];
        for _ in 0..trials {
            self.draw(channel, &mut rng, &mut draw);
            if !draw.symbols.contains(&true) {
                continue;
            }
            if mds {
                solve_blocks(&groups, &mut draw)
            } else {
                peel(&groups, &mut draw)
            }
            for (count, append) in counts.iter_mut().zip(appends) {
                *count += u32::from(draw.symbols[append.clone()].contains(&true));
            }
        }
        counts.iter().map(|&count| f64::from(count) / f64::from(trials)).collect()
    }
}

/// Groups with the same members are rows of one block: it is rebuilt if enough of them arrived.
fn solve_blocks(groups: &[&[usize]], draw: &mut Draw) {
    let firsts: BTreeSet<usize> = groups.iter().filter_map(|members| members.first().copied()).collect();
    for first in firsts {
        let rows = || groups.iter().zip(&draw.repairs).filter(|(members, _)| members.first() == Some(&first));
        let arrived = rows().filter(|(_, lost)| !**lost).count();
        let Some((members, _)) = rows().next() else { continue };
        if members.iter().filter(|&&symbol| draw.symbols[symbol]).count() <= arrived {
            members.iter().for_each(|&symbol| draw.symbols[symbol] = false);
        }
    }
}

/// XORs, each solved when one symbol is missing, until none is left to solve.
fn peel(groups: &[&[usize]], draw: &mut Draw) {
    let mut solved = true;
    while solved {
        solved = false;
        for (members, _) in groups.iter().zip(&draw.repairs).filter(|(_, lost)| !**lost) {
            let mut missing = members.iter().filter(|&&symbol| draw.symbols[symbol]);
            if let (Some(&symbol), None) = (missing.next(), missing.next()) {
                draw.symbols[symbol] = false;
                solved = true;
            }
        }
    }
}

/// `rounds` of blocks that take turns, then their repairs, row by row; `sent` of these leave.
fn block_wire(r: usize, sent: usize, depth: usize, rounds: usize) -> Wire {
    let mut packets = Vec::new();
    for round in 0..rounds {
        let start = round * r * depth;
        for place in 0..r * depth {
            packets.push(Packet::Source);
            if place + 1 == r * depth {
                let members = |lane: usize| (0..r).map(|k| start + lane + k * depth).collect();
                packets.extend((0..sent * depth).map(|n| Packet::Repair(members(n % depth))));
            }
        }
    }
    Wire(packets)
}

/// Members so far, members that make it complete, and a complete group whose repair is delayed.
type Bin = (Vec<usize>, usize, Option<Vec<usize>>);

/// A steady stream through layered interleaving, lanes staggered so that repairs leave evenly.
fn layered_wire(r: usize, interleaves: &[usize], delayed: bool, symbols: usize) -> Wire {
    let mut packets = Vec::new();
    let mut bins: Vec<Vec<Bin>> = interleaves
        .iter()
        .enumerate()
        .map(|(layer, &i)| (0..i).map(|lane| (vec![], 1 + (lane + 3 * layer) % r, None)).collect())
        .collect();
    for symbol in 0..symbols {
        packets.push(Packet::Source);
        for (layer, &i) in interleaves.iter().enumerate() {
            let (members, target, pending) = &mut bins[layer][symbol % i];
            packets.extend(pending.take().map(Packet::Repair));
            members.push(symbol);
            if members.len() == *target {
                *target = r;
                let members = std::mem::take(members);
                if delayed { *pending = Some(members) } else { packets.push(Packet::Repair(members)) }
            }
        }
    }
    Wire(packets)
}

/// One append alone: all that the code owes leaves behind it, narrowest layer first.
fn lone_layered_wire(r: usize, interleaves: &[usize], symbols: usize) -> Wire {
    let mut packets = vec![Packet::Source; symbols];
    for &i in interleaves {
        for lane in 0..i.min(symbols) {
            let ids: Vec<_> = (lane..symbols).step_by(i).collect();
            packets.extend(ids.chunks(r).map(|members| Packet::Repair(members.to_vec())));
        }
    }
    Wire(packets)
}

fn figure(channel: &Channel, code: &Structure, symbols: usize, coverage: u64, group_max: u32) -> f64 {
    let exposure = Exposure::steady(u32::try_from(symbols).unwrap(), coverage, group_max);
    own_risk(channel, code, &exposure).probability()
}

fn channels() -> Vec<Channel> {
    let elliott = Channel {
        good_to_bad: 0.005,
        bad_to_good: 0.1,
        loss_in_bad: 0.6,
        ..Channel::independent(0.03, 0.999)
    };
    vec![
        Channel::independent(0.05, 0.999),
        Channel::bursty(0.05, 2.0, 0.999),
        Channel::bursty(0.02, 5.0, 0.999),
        Channel::bursty(0.02, 20.0, 0.999),
        elliott,
    ]
}

#[test]
fn blocks_are_exact_at_the_worst_offset() {
    let trials = 60_000;
    for channel in channels() {
        for (r, c, sent) in [(8, 3, 3), (8, 3, 1), (4, 2, 2), (20, 5, 5)] {
            let code = Structure::Block { r, c, depth: 1 };
            let r = r as usize;
            let mut wire = block_wire(r, sent, 1, 3);
            // Repairs that are not counted on lie on the wire all the same, and help nobody.
            if sent < c as usize {
                let mut padded = Vec::new();
                for (n, packet) in wire.0.iter().enumerate() {
                    padded.push(packet.clone());
                    if (n + 1) % (r + sent) == 0 {
                        padded.extend((sent..c as usize).map(|_| Packet::Repair(vec![])));
                    }
                }
                wire = Wire(padded);
            }
            for symbols in [1, r / 2, r, r + r / 2] {
                let appends: Vec<_> = (0..r).map(|offset| offset..offset + symbols).collect();
                let worst = wire.lost(&channel, &appends, true, trials).into_iter().fold(0.0, f64::max);
                let bound = figure(&channel, &code, symbols, (1 << sent) - 1, r as u32);
                let sigma = (bound / f64::from(trials)).sqrt();
                // The worst of `r` noisy figures lies above its own mean: five sigmas.
                assert!(
                    worst <= bound + 5.0 * sigma,
                    "{channel:?} {code:?} {symbols}: {worst:e} above {bound:e}"
                );
                if worst > 400.0 / f64::from(trials) {
                    assert!(
                        bound <= 1.5 * worst,
                        "{channel:?} {code:?} {symbols}: {bound:e} is loose, seen {worst:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn deep_blocks_are_bounded() {
    let trials = 30_000;
    for channel in channels() {
        let code = Structure::Block { r: 8, c: 3, depth: 5 };
        let wire = block_wire(8, 3, 5, 3);
        for symbols in [1, 8, 40, 60] {
            let appends: Vec<_> = (0..40).map(|offset| offset..offset + symbols).collect();
            let worst = wire.lost(&channel, &appends, true, trials).into_iter().fold(0.0, f64::max);
            let bound = figure(&channel, &code, symbols, 0b111, 8);
            let sigma = (bound / f64::from(trials)).sqrt();
            assert!(worst <= bound + 5.0 * sigma, "{channel:?} {symbols}: {worst:e} above {bound:e}");
            if worst > 1e-2 {
                assert!(bound <= 4.0 * worst, "{channel:?} {symbols}: {bound:e} is useless, seen {worst:e}");
            }
        }
    }
}

#[test]
fn layered_streams_are_bounded() {
    let trials = 3_000;
    let interleaves = [1, 11, 101];
    for channel in channels() {
        for delayed in [false, true] {
            let code =
                Structure::Layered { r: 8, interleaves: interleaves.map(|i| i as u32).to_vec(), delayed };
            let wire = layered_wire(8, &interleaves, delayed, 2_600);
            // In the middle of the stream every group is full; many appends for the average over places.
            let appends: Vec<_> = (0..100).map(|n| 850 + 8 * n..858 + 8 * n).collect();
            let seen = wire.lost(&channel, &appends, false, trials);
            let mean = seen.iter().sum::<f64>() / seen.len() as f64;
            let bound = figure(&channel, &code, 8, 0b111, 8);
            assert!(mean <= bound * 1.02 + 1e-4, "{channel:?} {delayed}: {mean:e} above {bound:e}");
        }
    }
}

#[test]
fn lone_appends_of_layered_interleaving_are_bounded() {
    let trials = 100_000;
    let interleaves = [1, 11, 101];
    let code = Structure::Layered { r: 8, interleaves: vec![1, 11, 101], delayed: true };
    for channel in channels() {
        for symbols in [1, 3, 8, 9, 55] {
            let wire = lone_layered_wire(8, &interleaves, symbols);
            let whole = 0..symbols;
            let seen = wire.lost(&channel, std::slice::from_ref(&whole), false, trials)[0];
            let run = symbols as u32;
            let steady = Exposure::steady(run, 0b111, run.min(8));
            let exposure = Exposure { flushed: 0b111, flush_run: run.min(101), ..steady };
            let bound = own_risk(&channel, &code, &exposure).probability();
            let sigma = (bound / f64::from(trials)).sqrt();
            assert!(seen <= bound + 4.0 * sigma, "{channel:?} {symbols}: {seen:e} above {bound:e}");
        }
    }
}

#[test]
fn repetition_is_exact_for_a_lone_symbol() {
    let trials = 400_000;
    let channel = Channel::bursty(0.05, 4.0, 0.999);
    let code = Structure::Repetition { copies: 2, spacing: 16 };
    let wire = Wire(vec![Packet::Source, Packet::Repair(vec![0]), Packet::Repair(vec![0])]);
    let whole = 0..1;
    let seen = wire.lost(&channel, std::slice::from_ref(&whole), false, trials)[0];
    let exposure = Exposure { flushed: 0b11, flush_run: 1, ..Exposure::steady(1, 0b11, 1) };
    let bound = own_risk(&channel, &code, &exposure).probability();
    assert!(figure(&channel, &code, 1, 0b11, 1) < bound / 10.0, "copies that are apart are worth more");
    let sigma = (bound / f64::from(trials)).sqrt();
    assert!((seen - bound).abs() < 4.0 * sigma, "seen {seen:e}, figure {bound:e}");
}

//! The code against the conformance kit, its guarantee, the definition of its matrix, and itself on other instructions.

use parhelion_code_reed_solomon_fast::ReedSolomonFast;
use parhelion_galois::{Kernel, Tier, inv, mul};
use parhelion_plugin::conformance::{self, PacketKind, SplitMix64, Stream, Traffic};
use parhelion_plugin::{ErasureCode, Parameters};
use proptest::prelude::*;

fn parameters(r: u32, c: u32, depth: u32) -> Parameters {
    Parameters::new().with("r", &[r]).with("c", &[c]).with("depth", &[depth])
}

fn encode(parameters: &Parameters, traffic: &Traffic) -> Stream {
    Stream::encode(&ReedSolomonFast::default(), parameters, traffic).unwrap()
}

/// What stays lost of `stream` when packets for which `lost` holds do not arrive.
fn missing(parameters: &Parameters, stream: &Stream, mut lost: impl FnMut(usize) -> bool) -> Vec<u64> {
    let mut decoder =
        ReedSolomonFast::default().decoder(parameters, Traffic::default().symbol_bytes).unwrap();
    stream.deliver(decoder.as_mut(), (0..stream.packets.len()).filter(|&at| !lost(at))).unwrap()
}

#[test]
fn it_conforms() {
    for (r, c, depth) in [
        (1, 1, 1),
        (1, 3, 4),
        (3, 2, 1),
        (4, 2, 3),
        (8, 3, 1),
        (8, 3, 10),
        (20, 5, 2),
        (64, 16, 1),
        (192, 64, 1),
    ] {
        let parameters = parameters(r, c, depth);
        let report = conformance::check(&ReedSolomonFast::default(), &parameters, 31).unwrap();
        assert!(report.recovered > 1_000, "{parameters}: {report:?}");
    }
}

/// Every pattern of losses within the guarantee, not a sample.
#[test]
fn small_codes_survive_every_pattern() {
    for (r, c, depth) in [(1, 2, 2), (3, 2, 1), (3, 2, 2), (4, 3, 1), (8, 3, 1), (5, 2, 3)] {
        let parameters = parameters(r, c, depth);
        let report = conformance::check(&ReedSolomonFast::default(), &parameters, 32).unwrap();
        assert!(report.exhaustive, "{parameters}: {report:?}");
    }
}

#[test]
fn impossible_parameters_are_explained() {
    let text = ReedSolomonFast::default().structure(&parameters(200, 57, 1)).unwrap_err().to_string();
    assert_eq!(text, "r=200 and c=57 make a block of 257; a block has at most 256 symbols, so lower one");
    let text = ReedSolomonFast::default().structure(&parameters(200, 40, 1000)).unwrap_err().to_string();
    assert!(text.contains("more than a decoder remembers"), "{text}");
    assert!(ReedSolomonFast::default().structure(&parameters(192, 64, 1)).is_ok());
}

/// Byte k of repair i is the sum of byte k of symbol j, over r + i + j in the field; short symbols count as zeros behind
/// their end. With groups of every size: they depend on the bytes of a symbol.
#[test]
fn repairs_are_those_of_the_matrix() {
    for (r, c, depth, symbol_bytes) in [(6, 3, 2, 16), (70, 5, 1, 19), (100, 64, 1, 3000), (254, 2, 1, 8)] {
        let parameters = parameters(r, c, depth);
        for symbols in [(r * depth) as usize, (r * depth) as usize * 2 / 3 + 1, 1] {
            let stream = encode(
                &parameters,
                &Traffic { first: 40, symbols, symbol_bytes, uneven: true, seed: 33, ..Traffic::default() },
            );
            let mut compared = 0;
            for packet in &stream.packets {
                let PacketKind::Repair(head) = packet.kind else { continue };
                let mut expected = vec![0; stream.payload(packet).len()];
                for (y, id) in head.cover.ids().enumerate() {
                    let factor = inv((r + u32::from(head.index)) as u8 ^ y as u8);
                    for (sum, &byte) in expected.iter_mut().zip(stream.symbol(id).unwrap()) {
                        *sum ^= mul(factor, byte);
                    }
                }
                assert_eq!(stream.payload(packet), expected, "{head:?}");
                compared += 1;
            }
            assert_eq!(compared, (c as usize) * symbols.min(depth as usize));
        }
    }
}

/// Every kernel of this machine writes the packets that all others write, and conforms.
#[test]
fn every_tier_is_the_same_code() {
    for (r, c, depth) in [(8, 3, 1), (3, 2, 4), (20, 5, 2), (90, 12, 1)] {
        let parameters = parameters(r, c, depth);
        let traffic = Traffic {
            symbols: 2 * (r * depth) as usize + 5,
            symbol_bytes: 1200,
            uneven: true,
            flush_chance: 0.02,
            seed: 41,
            ..Traffic::default()
        };
        let stream = encode(&parameters, &traffic);
        for kernel in Tier::available().map(|tier| Kernel::of(tier).unwrap()) {
            let code = ReedSolomonFast::with_kernel(kernel);
            if r == 3 {
                conformance::check(&code, &parameters, 42).unwrap();
            }
            assert!(stream == Stream::encode(&code, &parameters, &traffic).unwrap(), "{}", kernel.tier());
        }
    }
}

/// Symbols of real size: the longest vectors and every group. All repairs in order, reversed, and with gaps.
#[test]
fn large_symbols_are_rebuilt() {
    for (r, c) in [(8, 3), (64, 16), (192, 64)] {
        let parameters = parameters(r, c, 1);
        let symbols = 3 * r as usize;
        let traffic = Traffic { symbols, symbol_bytes: 1200, uneven: true, seed: 43, ..Traffic::default() };
        let stream = encode(&parameters, &traffic);
        let mut random = SplitMix64::new(44);
        for round in 0..6 {
            let block = (r + c) as usize;
            let mut order = vec![];
            for start in (0..stream.packets.len()).step_by(block) {
                let mut packets: Vec<_> = (start..start + block).collect();
                random.shuffle(&mut packets[..if round == 0 { r as usize } else { block }]);
                packets.drain(..c as usize);
                match round {
                    0 => packets.sort_unstable(),
                    1 => packets.sort_unstable_by(|a, b| b.cmp(a)),
                    _ => random.shuffle(&mut packets),
                }
                order.extend(packets);
            }
            for kernel in Tier::available().map(|tier| Kernel::of(tier).unwrap()) {
                let code = ReedSolomonFast::with_kernel(kernel);
                let mut decoder = code.decoder(&parameters, 1200).unwrap();
                let missing = stream.deliver(decoder.as_mut(), order.iter().copied()).unwrap();
                assert_eq!(missing, [], "({r}, {c}), round {round}, {}", kernel.tier());
            }
        }
    }
}

/// One more loss than the guarantee is one too many for the block, and costs nothing but those symbols.
#[test]
fn beyond_the_guarantee_only_what_was_lost_is_lost() {
    let parameters = parameters(8, 3, 1);
    let stream = encode(&parameters, &Traffic { symbols: 80, seed: 34, ..Traffic::default() });
    let lost: Vec<_> = stream.sources[16..20].to_vec();
    assert_eq!(missing(&parameters, &stream, |at| lost.contains(&at)), [16, 17, 18, 19]);
}

/// Every burst of c * depth packets at every place, repairs included; one more is fatal somewhere.
#[test]
fn bursts_are_rebuilt_to_the_last_packet() {
    for (r, c, depth) in [(8, 3, 1), (8, 3, 10), (4, 2, 5)] {
        let parameters = parameters(r, c, depth);
        let symbols = (6 * r * depth) as usize;
        let stream = encode(&parameters, &Traffic { symbols, uneven: true, seed: 35, ..Traffic::default() });
        let longest = (c * depth) as usize;
        let fatal = |length: usize| {
            (0..stream.packets.len() - length)
                .filter(|&start| {
                    !missing(&parameters, &stream, |at| (start..start + length).contains(&at)).is_empty()
                })
                .count()
        };
        assert_eq!((1..=longest).map(fatal).sum::<usize>(), 0, "({r}, {c}) at depth {depth}");
        assert!(fatal(longest + 1) > 0);
    }
}

/// When a flush cuts blocks short at n symbols in all, a burst of c * min(n, depth) packets.
#[test]
fn flushed_blocks_stay_interleaved() {
    let parameters = parameters(4, 2, 5);
    for symbols in 1..=20 {
        let stream = encode(&parameters, &Traffic { symbols, uneven: true, seed: 36, ..Traffic::default() });
        let length = 2 * symbols.min(5);
        for start in 0..=stream.packets.len() - length {
            let missing = missing(&parameters, &stream, |at| (start..start + length).contains(&at));
            assert_eq!(missing, [], "burst of {length} at {start} of {symbols} symbols");
        }
    }
}

/// Residual loss per symbol at 5 % independent loss, where theory says p * P(Bin(10, p) >= 3) = 5.75e-4.
#[test]
fn independent_losses_match_the_theory() {
    let parameters = parameters(8, 3, 1);
    let stream = encode(&parameters, &Traffic { symbols: 800_000, seed: 37, ..Traffic::default() });
    let mut random = SplitMix64::new(38);
    let residual = missing(&parameters, &stream, |_| random.chance(0.05)).len() as f64 / 800_000.0;
    assert!((4.9e-4..6.6e-4).contains(&residual), "residual {residual:e}");
}

/// Gilbert-Elliott (0.01, 0.2): residual 3.6e-2 in plain blocks, 1.7e-3 at depth 10 (loss model, 3.3).
#[test]
fn interleaving_beats_bursts_as_the_theory_says() {
    for (depth, expected) in [(1, 3.6e-2), (10, 1.7e-3)] {
        let parameters = parameters(8, 3, depth);
        let stream = encode(&parameters, &Traffic { symbols: 800_000, seed: 39, ..Traffic::default() });
        let mut random = SplitMix64::new(40);
        let mut bad = false;
        let missing = missing(&parameters, &stream, |_| {
            bad = random.chance(if bad { 0.8 } else { 0.01 });
            bad
        });
        let residual = missing.len() as f64 / 800_000.0;
        assert!((0.8 * expected..1.2 * expected).contains(&residual), "depth {depth}: residual {residual:e}");
    }
}

/// Every 20th packet lost.
#[test]
fn a_constant_drop_is_rebuilt() {
    let parameters = parameters(8, 3, 1);
    let stream = encode(&parameters, &Traffic { symbols: 2_000, uneven: true, ..Traffic::default() });
    for offset in 0..20 {
        assert_eq!(missing(&parameters, &stream, |at| at % 20 == offset), [], "every 20th from {offset}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any c packets of each block at once, in any arrival order, with flushes anywhere.
    #[test]
    fn every_block_may_lose_c_packets(
        r in 1u32..30, c in 1u32..10, depth in 1u32..6, first in 0..u64::MAX / 2,
        flush_chance in prop_oneof![Just(0.0), Just(0.03)], seed: u64,
    ) {
        let parameters = parameters(r, c, depth);
        let traffic = Traffic { first, symbols: 400, uneven: true, flush_chance, seed, ..Traffic::default() };
        let stream = encode(&parameters, &traffic);
        let mut blocks = std::collections::BTreeMap::<u64, Vec<usize>>::new();
        for (at, packet) in stream.packets.iter().enumerate() {
            if let PacketKind::Repair(head) = packet.kind {
                let block = blocks.entry(head.cover.first).or_insert_with(|| {
                    head.cover.ids().map(|id| stream.sources[(id - first) as usize]).collect()
                });
                block.push(at);
            }
        }
        let mut random = SplitMix64::new(seed);
        let mut lost = vec![false; stream.packets.len()];
        for block in blocks.values_mut() {
            random.shuffle(block);
            block.iter().take(c as usize).for_each(|&at| lost[at] = true);
        }
        let mut order: Vec<_> = (0..stream.packets.len()).filter(|&at| !lost[at]).collect();
        order.chunks_mut(100).for_each(|chunk| random.shuffle(chunk));
        let mut decoder = ReedSolomonFast::default().decoder(&parameters, Traffic::default().symbol_bytes).unwrap();
        prop_assert_eq!(stream.deliver(decoder.as_mut(), order).unwrap(), Vec::<u64>::new());
    }
}

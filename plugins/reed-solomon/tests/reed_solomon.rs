//! Reed-Solomon against the conformance kit, its guarantee, and the crate underneath.

use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_plugin::conformance::{self, PacketKind, SplitMix64, Stream, Traffic};
use parhelion_plugin::{ErasureCode, Parameters};
use proptest::prelude::*;
use reed_solomon_erasure::galois_8;

fn parameters(r: u32, c: u32, depth: u32) -> Parameters {
    Parameters::new().with("r", &[r]).with("c", &[c]).with("depth", &[depth])
}

fn encode(parameters: &Parameters, traffic: &Traffic) -> Stream {
    Stream::encode(&ReedSolomon, parameters, traffic).unwrap()
}

/// What stays lost of `stream` when packets for which `lost` holds do not arrive.
fn missing(parameters: &Parameters, stream: &Stream, mut lost: impl FnMut(usize) -> bool) -> Vec<u64> {
    let mut decoder = ReedSolomon.decoder(parameters, Traffic::default().symbol_bytes).unwrap();
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
        (191, 64, 1),
    ] {
        let parameters = parameters(r, c, depth);
        let report = conformance::check(&ReedSolomon, &parameters, 31).unwrap();
        assert!(report.recovered > 1_000, "{parameters}: {report:?}");
    }
}

/// Every pattern of losses within the guarantee, not a sample.
#[test]
fn small_codes_survive_every_pattern() {
    for (r, c, depth) in [(1, 2, 2), (3, 2, 1), (3, 2, 2), (4, 3, 1), (8, 3, 1), (5, 2, 3)] {
        let parameters = parameters(r, c, depth);
        let report = conformance::check(&ReedSolomon, &parameters, 32).unwrap();
        assert!(report.exhaustive, "{parameters}: {report:?}");
    }
}

#[test]
fn impossible_parameters_are_explained() {
    let text = ReedSolomon.structure(&parameters(200, 56, 1)).unwrap_err().to_string();
    assert_eq!(text, "r=200 and c=56 make a block of 256; a block has at most 255 symbols, so lower one");
    let text = ReedSolomon.structure(&parameters(200, 40, 1000)).unwrap_err().to_string();
    assert!(text.contains("more than a decoder remembers"), "{text}");
    assert!(ReedSolomon.structure(&parameters(191, 64, 1)).is_ok());
}

/// The crate's block encoder, over zero-padded shards, gives the same repairs; also for a shortened block.
#[test]
fn repairs_are_those_of_the_crate() {
    let (r, c, depth) = (6, 3, 2);
    let parameters = parameters(r, c, depth);
    let codec = galois_8::ReedSolomon::new(r as usize, c as usize).unwrap();
    for symbols in [12, 7, 1] {
        let stream = encode(
            &parameters,
            &Traffic { first: 40, symbols, uneven: true, seed: 33, ..Traffic::default() },
        );
        let mut compared = 0;
        for packet in &stream.packets {
            let PacketKind::Repair(head) = packet.kind else { continue };
            let payload = stream.payload(packet);
            let mut shards = vec![vec![0; payload.len()]; (r + c) as usize];
            for (shard, id) in shards.iter_mut().zip(head.cover.ids()) {
                let symbol = stream.symbol(id).unwrap();
                shard[..symbol.len()].copy_from_slice(symbol);
            }
            codec.encode(&mut shards).unwrap();
            assert_eq!(payload, shards[(r + u32::from(head.index)) as usize], "{head:?}");
            compared += 1;
        }
        assert_eq!(compared, (c as usize) * symbols.min(depth as usize));
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
        let mut decoder = ReedSolomon.decoder(&parameters, Traffic::default().symbol_bytes).unwrap();
        prop_assert_eq!(stream.deliver(decoder.as_mut(), order).unwrap(), Vec::<u64>::new());
    }
}

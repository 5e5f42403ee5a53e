//! Layered interleaving against the conformance kit, its guarantee, and known vectors.

use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_plugin::conformance::{self, PacketKind, SplitMix64, Stream, Traffic};
use parhelion_plugin::{
    Cover, ErasureCode, ParameterError, Parameters, RecoveredSink, RepairHead, RepairSink,
};
use proptest::prelude::*;

fn parameters(r: u32, interleaves: &[u32], delayed: u32) -> Parameters {
    Parameters::new().with("r", &[r]).with("interleaves", interleaves).with("delayed", &[delayed])
}

fn encode(parameters: &Parameters, traffic: &Traffic) -> Stream {
    Stream::encode(&LayeredInterleaving, parameters, traffic).unwrap()
}

/// What stays lost of `stream` when packets for which `lost` holds do not arrive.
fn missing(parameters: &Parameters, stream: &Stream, mut lost: impl FnMut(usize) -> bool) -> Vec<u64> {
    let mut decoder = LayeredInterleaving.decoder(parameters, Traffic::default().symbol_bytes).unwrap();
    stream.deliver(decoder.as_mut(), (0..stream.packets.len()).filter(|&at| !lost(at))).unwrap()
}

#[test]
fn it_conforms() {
    for delayed in [0, 1] {
        for (r, interleaves) in [
            (1, &[1][..]),
            (3, &[1]),
            (2, &[1, 3]),
            (4, &[1, 5]),
            (3, &[1, 4, 13]),
            (5, &[2, 9, 11, 13]),
            (8, &[1, 10, 100]),
            (8, &[1, 20, 40]),
            (8, &[1, 4, 8]),
            (20, &[1, 23]),
        ] {
            let parameters = parameters(r, interleaves, delayed);
            let report = conformance::check(&LayeredInterleaving, &parameters, 21).unwrap();
            assert!(report.recovered > 1_000, "{parameters}: {report:?}");
        }
    }
    conformance::check(&LayeredInterleaving, &Parameters::new(), 22).unwrap();
}

/// What the other tests call (8, 3) is what a node has that names no parameters.
#[test]
fn the_defaults_are_8_and_1_23_101() {
    let default = LayeredInterleaving.structure(&Parameters::new()).unwrap();
    assert_eq!(default, LayeredInterleaving.structure(&parameters(8, &[1, 23, 101], 1)).unwrap());
}

/// Every pattern of losses within the guarantee, not a sample.
#[test]
fn small_codes_survive_every_pattern() {
    let two_layers = [(2, &[1, 3][..]), (3, &[1, 4]), (4, &[1, 5]), (8, &[1])];
    let codes = two_layers.iter().flat_map(|&(r, i)| [(r, i, 0), (r, i, 1)]);
    for (r, interleaves, delayed) in codes.chain([(2, &[1, 3, 5][..], 0)]) {
        let parameters = parameters(r, interleaves, delayed);
        let report = conformance::check(&LayeredInterleaving, &parameters, 23).unwrap();
        assert!(report.exhaustive, "{parameters}: {report:?}");
    }
}

#[test]
fn impossible_parameters_are_explained() {
    let error = |parameters: Parameters| LayeredInterleaving.structure(&parameters).unwrap_err();
    for interleaves in [&[11, 1][..], &[1, 1], &[1, 11, 11]] {
        let text = error(parameters(8, interleaves, 0)).to_string();
        assert!(text.contains("do not ascend"), "{text}");
    }
    let text = error(parameters(255, &[1, 16_384], 0)).to_string();
    assert!(text.contains("lower r or the widest interleave"), "{text}");
    let nine: Vec<u32> = (1..10).collect();
    assert!(matches!(error(parameters(8, &nine, 0)), ParameterError::Count { given: 9, max: 8, .. }));
}

/// Bursts of every length up to the widest interleave, at every place of the pattern (delayed mode).
#[test]
fn bursts_up_to_the_widest_interleave_are_rebuilt() {
    let parameters = parameters(8, &[1, 23, 101], 1);
    let stream =
        encode(&parameters, &Traffic { symbols: 4_000, uneven: true, seed: 3, ..Traffic::default() });
    for length in 1..=101 {
        for start in (0..1_000).step_by(if length == 101 { 1 } else { 37 }) {
            let burst = stream.sources[1_000 + start - 1] + 1..stream.sources[1_000 + start + length];
            let missing = missing(&parameters, &stream, |at| burst.contains(&at));
            assert!(missing.is_empty(), "burst of {length} at {start}: {} lost", missing.len());
        }
    }
}

/// Staggered, out of phase and relatively prime: even without delays, no burst of up to 14 packets at any
/// place is fatal (loss model, 3.3); the layout without these loses 4.
#[test]
fn immediate_repairs_survive_short_bursts() {
    let parameters = parameters(8, &[1, 23, 101], 0);
    let stream = encode(&parameters, &Traffic { symbols: 5_000, seed: 4, ..Traffic::default() });
    let start = stream.sources[1_000];
    let fatal = |length: usize| {
        (start..start + 1_112)
            .filter(|&at| !missing(&parameters, &stream, |n| (at..at + length).contains(&n)).is_empty())
            .count()
    };
    for length in [4, 10, 14] {
        assert_eq!(fatal(length), 0, "bursts of {length} packets");
    }
}

/// One repair leaves per r symbols and layer: never a crowd, as a wide layer without stagger sends.
#[test]
fn repairs_leave_evenly() {
    // The layers fill their groups out of phase; the delay by 23 symbols puts the second in step with the first.
    for (interleaves, together, delayed) in
        [(&[1, 11, 101], 1, 1), (&[1, 23, 101], 1, 0), (&[1, 23, 101], 2, 1)]
    {
        let parameters = parameters(8, interleaves, delayed);
        let stream = encode(&parameters, &Traffic { symbols: 10_000, ..Traffic::default() });
        for start in (1_000..9_000).step_by(8) {
            let between = stream.sources[start + 8] - stream.sources[start] - 8;
            assert_eq!(between, 3, "{parameters}: repairs beside eight symbols from {start}");
        }
        let most = (1_000..9_000).map(|n| stream.sources[n + 1] - stream.sources[n] - 1).max();
        assert_eq!(most, Some(together), "{parameters}");
    }
}

/// Vectors of a public implementation: r = 8, interleaves 1, 4, 8, every 20th packet lost; and r = 10,
/// interleaves 1, 10, a burst of 11.
#[test]
fn known_vectors_are_rebuilt() {
    for delayed in [0, 1] {
        let parameters = parameters(8, &[1, 4, 8], delayed);
        let stream = encode(&parameters, &Traffic { symbols: 2_000, uneven: true, ..Traffic::default() });
        for offset in 0..20 {
            assert_eq!(missing(&parameters, &stream, |at| at % 20 == offset), [], "every 20th from {offset}");
        }
    }
    let parameters = parameters(10, &[1, 10], 1);
    let stream = encode(&parameters, &Traffic { symbols: 1_000, ..Traffic::default() });
    for start in 300..500 {
        assert_eq!(
            missing(&parameters, &stream, |at| (start..start + 11).contains(&at)),
            [],
            "burst at {start}"
        );
    }
}

/// 1 % of all packets lost at random: less than 1e-5 of the symbols stay lost.
#[test]
fn independent_losses_leave_next_to_nothing() {
    let parameters = parameters(8, &[1, 23, 101], 1);
    let stream = encode(&parameters, &Traffic { symbols: 600_000, seed: 5, ..Traffic::default() });
    let mut random = SplitMix64::new(6);
    let missing = missing(&parameters, &stream, |_| random.chance(0.01));
    assert!(missing.len() < 6, "{} of 600000 stay lost", missing.len());
}

/// Without the cascade between layers the residual at 10 % would be 0.1 * (1 - 0.9^8)^3 = 1.8e-2; with it, 1.2e-4.
#[test]
fn layers_help_each_other() {
    let parameters = parameters(8, &[1, 23, 101], 0);
    let stream = encode(&parameters, &Traffic { symbols: 400_000, seed: 7, ..Traffic::default() });
    let mut random = SplitMix64::new(8);
    let residual = missing(&parameters, &stream, |_| random.chance(0.1)).len() as f64 / 400_000.0;
    assert!((0.6e-4..2.5e-4).contains(&residual), "residual {residual:e}");
}

/// Gilbert-Elliott (0.01, 0.2): bursts of 5 on average, 4.8 % of the packets. With neither stagger nor delay
/// 1.7e-3 stay lost (loss model, 3.3).
#[test]
fn bursty_losses_are_mostly_rebuilt() {
    let mut residuals = vec![];
    for delayed in [0, 1] {
        let parameters = parameters(8, &[1, 23, 101], delayed);
        let stream = encode(&parameters, &Traffic { symbols: 400_000, seed: 9, ..Traffic::default() });
        let mut random = SplitMix64::new(10);
        let mut bad = false;
        let missing = missing(&parameters, &stream, |_| {
            bad = random.chance(if bad { 0.8 } else { 0.01 });
            bad
        });
        residuals.push(missing.len() as f64 / 400_000.0);
    }
    assert!(residuals[0] < 6.8e-4, "immediate {:e}", residuals[0]);
    assert!(residuals[1] < 3.4e-4, "delayed {:e}", residuals[1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the layers, sizes and flushes: whole coverage and one lost symbol anywhere.
    #[test]
    fn any_layers_rebuild_any_single_loss(
        r in 1u32..12, narrowest in 1u32..6, steps in prop::collection::vec(1u32..15, 0..4), delayed in 0u32..2,
        first in 0..u64::MAX / 2, flush_chance in prop_oneof![Just(0.0), Just(0.05), Just(1.0)], seed: u64,
    ) {
        let mut interleaves = vec![narrowest];
        interleaves.extend(steps.iter().scan(narrowest, |interleave, step| {
            *interleave += step;
            Some(*interleave)
        }));
        let parameters = parameters(r, &interleaves, delayed);
        let traffic = Traffic { first, symbols: 150, uneven: true, flush_chance, seed, ..Traffic::default() };
        let stream = encode(&parameters, &traffic);
        for &lost in &stream.sources {
            prop_assert_eq!(missing(&parameters, &stream, |at| at == lost), Vec::<u64>::new());
        }
        let repairs = stream.packets.iter().filter(|p| matches!(p.kind, PacketKind::Repair(_))).count();
        prop_assert!(repairs * r as usize >= 150 * interleaves.len());
    }
}

/// What an encoder gives, or a decoder.
#[derive(Default)]
struct Given(Vec<(u64, Vec<u8>)>);

impl RepairSink for Given {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        self.0.push((head.cover.first, payload.to_vec()));
    }
}

impl RecoveredSink for Given {
    fn recovered(&mut self, id: u64, payload: &[u8]) {
        self.0.push((id, payload.to_vec()));
    }
}

/// A group whose first symbols have fallen behind the window while two others were still lacking: their places belong to
/// newer ids by then. The decoder once rebuilt one of the fallen ones, with the bytes of another.
#[test]
fn symbols_behind_the_window_are_not_taken_for_lost_ones() {
    let parameters = parameters(8, &[1], 0);
    let symbol = |id: u64| id.to_le_bytes();
    let mut encoder = LayeredInterleaving.encoder(&parameters, 8).unwrap();
    let mut decoder = LayeredInterleaving.decoder(&parameters, 8).unwrap();
    let (mut repairs, mut rebuilt) = (Given::default(), Given::default());
    let first = 10_000;
    (first..first + 8).for_each(|id| encoder.source(id, &symbol(id), &mut repairs));
    let (lost, late) = (first + 2, first + 7);
    for id in (first..late).filter(|&id| id != lost) {
        decoder.source(id, &symbol(id), &mut rebuilt);
    }
    let [(_, repair)] = &repairs.0[..] else { panic!("{:?}", repairs.0) };
    let head = RepairHead { cover: Cover { first, stride: 1, count: 8 }, index: 0 };
    decoder.repair(head, repair, &mut rebuilt).unwrap();
    // The window holds 1024: it begins at the lost symbol now, and the places of the two before it are empty.
    let newest = lost + 1023;
    decoder.source(newest, &symbol(newest), &mut rebuilt);
    assert_eq!(rebuilt.0, []);
    decoder.source(late, &symbol(late), &mut rebuilt);
    assert_eq!(rebuilt.0, [(lost, symbol(lost).to_vec())]);
}

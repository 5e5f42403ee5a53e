//! Repetition against the conformance kit and its own promises.

use parhelion_code_repetition::Repetition;
use parhelion_plugin::conformance::{self, PacketKind, Stream, Traffic};
use parhelion_plugin::{ErasureCode, Parameters};
use proptest::prelude::*;

fn parameters(copies: u32, spacing: u32) -> Parameters {
    Parameters::new().with("copies", &[copies]).with("spacing", &[spacing])
}

#[test]
fn it_conforms() {
    for (copies, spacing) in [(1, 1), (1, 7), (2, 1), (2, 5), (3, 4), (4, 64), (16, 2)] {
        let report = conformance::check(&Repetition, &parameters(copies, spacing), 11).unwrap();
        assert!(report.recovered > 1_000, "{report:?}");
    }
    let report = conformance::check(&Repetition, &parameters(2, 3), 12).unwrap();
    assert!(report.exhaustive, "{report:?}");
    conformance::check(&Repetition, &Parameters::new(), 13).unwrap();
}

/// The wire order in the crate's documentation.
#[test]
fn copies_leave_in_their_turn() {
    let traffic = Traffic { symbols: 6, ..Traffic::default() };
    let stream = Stream::encode(&Repetition, &parameters(2, 2), &traffic).unwrap();
    let wire: Vec<String> = stream
        .packets
        .iter()
        .map(|packet| match packet.kind {
            PacketKind::Source(id) => id.to_string(),
            PacketKind::Repair(head) => {
                format!("{}{}", head.cover.first, ["'", "\""][usize::from(head.index)])
            }
        })
        .collect();
    let steady = "0 1 2 0' 3 1' 4 2' 0\" 5 3' 1\"";
    assert_eq!(wire.join(" "), format!("{steady} 4' 5' 2\" 3\" 4\" 5\""));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Bursts as long as the guarantee, anywhere, with the symbols in any sizes.
    #[test]
    fn bursts_are_rebuilt(
        copies in 1u32..4, spacing in 1u32..20, start in 0usize..100, seed: u64, first in 0..u64::MAX / 2,
    ) {
        let parameters = parameters(copies, spacing);
        let span = (copies * spacing) as usize;
        let traffic = Traffic { first, symbols: start + 2 * span + 1, uneven: true, seed, ..Traffic::default() };
        let stream = Stream::encode(&Repetition, &parameters, &traffic).unwrap();
        let lost = stream.sources[start]..stream.sources[start + span];
        let mut decoder = Repetition.decoder(&parameters, traffic.symbol_bytes).unwrap();
        let order = (0..stream.packets.len()).filter(|at| !lost.contains(at));
        prop_assert_eq!(stream.deliver(decoder.as_mut(), order).unwrap(), Vec::<u64>::new());
    }
}

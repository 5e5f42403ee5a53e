//! Trials with the real codes: wires show what they are asked to, and a player that gives only what matters decides as one
//! that gives everything.

use std::sync::Arc;

use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_code_repetition::Repetition;
use parhelion_code_sliding_window::SlidingWindow;
use parhelion_model_monte_carlo::Chain;
use parhelion_plugin::conformance::SplitMix64;
use parhelion_plugin::trial::{Crashes, Losses, Player, told_apart};
use parhelion_plugin::{Channel, Code, ErasureCode, Exposure, Structure};

fn codes() -> Vec<Code> {
    let code = |family: Arc<dyn ErasureCode>, parameters: &str| {
        Code::new(family, &parameters.parse().unwrap()).unwrap()
    };
    vec![
        code(Arc::new(LayeredInterleaving), "r=8 interleaves=1:23:101 delayed=1"),
        code(Arc::new(LayeredInterleaving), "r=4 interleaves=1:9 delayed=0"),
        code(Arc::new(ReedSolomon), "r=8 c=3 depth=1"),
        code(Arc::new(ReedSolomon), "r=20 c=6 depth=4"),
        code(Arc::new(Repetition), "copies=2 spacing=10"),
        code(Arc::new(SlidingWindow), "r=8 c=3 window=64 indices=6"),
    ]
}

/// Exposures that a link reports with this code.
fn exposures(code: &Code) -> Vec<Exposure> {
    let full = code.structure().full_coverage();
    let longest = code.structure().flush_run_max();
    let mut all = Vec::new();
    for symbols in [1, 3, 9, 30] {
        all.push(Exposure::steady(symbols, full, 8));
        for flush_pause in [0, 16] {
            let group_max = match *code.structure() {
                Structure::Block { r, depth, .. } => symbols.div_ceil(depth).min(r),
                _ => symbols,
            };
            let alone = Exposure {
                flushed: full,
                flush_run: symbols.min(longest),
                flush_pause,
                ..Exposure::steady(symbols, full, group_max)
            };
            all.push(alone);
            // Behind a stream; blocks that are larger, for others in them.
            let group_max = if symbols <= 7 { 7 } else { 8 };
            all.push(Exposure { flush_run: longest, group_max, ..alone });
        }
    }
    all
}

#[test]
fn wires_show_the_exposure_that_was_asked_for() {
    let mut random = SplitMix64::new(1);
    for code in codes() {
        for exposure in exposures(&code) {
            let crashes = Crashes::new(&code, &exposure);
            let wanted = told_apart(code.structure(), &exposure);
            let (mut drawn, mut exact) = (0, 0);
            for place in 0..crashes.places() {
                for number in 0..4 {
                    let Some(wire) = crashes.wire(place, number, &mut random) else { continue };
                    drawn += 1;
                    assert_eq!(wire.symbols(), exposure.symbols as usize);
                    let shown = told_apart(code.structure(), wire.exposure());
                    exact += u32::from(shown == wanted);
                    assert!(
                        shown.coverage & wanted.coverage == wanted.coverage
                            && shown.flushed & wanted.flushed == wanted.flushed
                            && (wanted.flushed == 0 || shown.flush_run <= wanted.flush_run)
                            && shown.group_max >= wanted.group_max,
                        "{code}: {shown:?} for {wanted:?}"
                    );
                    // Whatever is lost of nothing else, the append survives the loss of any one packet.
                    let mut player = Player::new(&code).unwrap();
                    let mut losses = Losses::default();
                    for slot in [wire.symbol_slot(0), wire.slots() - 1] {
                        losses.clear(wire.slots());
                        losses.insert(slot);
                        assert!(!player.is_lost(&wire, &losses), "{code}, {exposure:?}, slot {slot}");
                    }
                }
            }
            assert!(drawn > 0, "{code}: no wire for {exposure:?}");
            assert!(2 * exact >= drawn, "{code}: {exact} of {drawn} for {exposure:?}");
        }
    }
}

#[test]
fn partial_coverage_crashes_earlier() {
    let mut random = SplitMix64::new(2);
    for code in codes() {
        let full = code.structure().full_coverage();
        let mut slots = 0;
        for repairs in 1..=full.count_ones() {
            let coverage = (1 << repairs) - 1;
            let crashes = Crashes::new(&code, &Exposure::steady(8, coverage, 8));
            let wires = (0..20).filter_map(|number| crashes.wire(0, number, &mut random));
            let longest = wires.map(|wire| wire.slots()).max().unwrap();
            assert!(longest > slots, "{code}: {repairs} repairs within {longest} slots");
            slots = longest;
        }
    }
}

#[test]
fn what_is_left_out_decides_nothing() {
    let mut random = SplitMix64::new(3);
    let mut lost = 0;
    for code in codes() {
        for (n, exposure) in exposures(&code).into_iter().enumerate() {
            let crashes = Crashes::new(&code, &exposure);
            let Some(wire) = crashes.wire(n as u32 % crashes.places(), 0, &mut random) else { continue };
            let mut player = Player::new(&code).unwrap();
            let mut thorough = Player::thorough(&code).unwrap();
            let mut losses = Losses::default();
            for channel in [Channel::independent(0.2, 0.9), Channel::bursty(0.1, 10.0, 0.9)] {
                let chain = Chain::new(&channel);
                for _ in 0..100 {
                    losses.clear(wire.slots());
                    chain.pass(&mut losses, &mut random);
                    let seen = player.is_lost(&wire, &losses);
                    assert_eq!(seen, thorough.is_lost(&wire, &losses), "{code}, {exposure:?}");
                    lost += u32::from(seen);
                }
            }
        }
    }
    assert!(lost > 500, "{lost}");
}

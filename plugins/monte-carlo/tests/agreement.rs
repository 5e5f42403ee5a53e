//! Figures against what is known exactly.

use std::sync::Arc;

use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_code_repetition::Repetition;
use parhelion_model_gilbert_elliott::GilbertElliott;
use parhelion_model_monte_carlo::{Cell, Chain, CrashSimulation, Findings, MonteCarlo, Progress, Simulation};
use parhelion_plugin::conformance::SplitMix64;
use parhelion_plugin::trial::{Crashes, Losses, Player, Wire};
use parhelion_plugin::{Channel, Code, DurabilityModel, ErasureCode, Exposure};

fn code(family: impl ErasureCode + 'static, parameters: &str) -> Code {
    Code::new(Arc::new(family), &parameters.parse().unwrap()).unwrap()
}

/// A channel on the model's grid: powers of the fourth root of two.
fn grid(good_to_bad: i32, bad_to_good: i32, confidence: f64) -> Channel {
    let power = |steps: i32| (f64::from(steps) / 4.0).exp2();
    let channel = Channel::independent(0.0, confidence);
    Channel { good_to_bad: power(good_to_bad), bad_to_good: power(bad_to_good), loss_in_bad: 1.0, ..channel }
}

/// Simulates until nothing more is gained, or for so many crashes.
fn simulate(cell: &Cell, crashes: u64) -> Findings {
    let mut progress = Progress::default();
    loop {
        let findings = CrashSimulation.simulate(cell, &mut progress);
        if findings.is_done || findings.crashes > crashes {
            return findings;
        }
    }
}

fn cell(code: &Code, exposure: &Exposure, channel: Channel, seed: u64) -> Cell {
    Cell { code: code.clone(), exposure: *exposure, channel, delta: 0.5 * (1.0 - channel.confidence), seed }
}

#[test]
fn block_codes_agree_with_the_exact_formulas() {
    for (parameters, symbols) in [("r=8 c=3 depth=1", 4), ("r=8 c=3 depth=1", 1), ("r=20 c=6 depth=1", 8)] {
        let code = code(ReedSolomon, parameters);
        let exposure = Exposure::steady(
            symbols,
            code.structure().full_coverage(),
            code.structure().span_symbols() as u32,
        );
        // From some percent, over bursts, to risks that no plain simulation reaches.
        for (good_to_bad, bad_to_good) in [(-26, -9), (-40, -4), (-20, 0), (-36, 0), (-60, -4)] {
            let channel = grid(good_to_bad, bad_to_good, 0.99);
            let exact = GilbertElliott.own_risk(&channel, &code, &exposure).probability();
            let findings = simulate(&cell(&code, &exposure, channel, 1), 120_000);
            let bound = findings.bound.unwrap();
            println!(
                "{code}, {symbols} symbols, {good_to_bad}, {bad_to_good}: exact {exact:.3e}, bound {:.3} of it, {} crashes",
                bound / exact,
                findings.crashes
            );
            assert!(bound >= exact * (1.0 - 1e-9), "{code}: {bound:e} below {exact:e}");
            assert!(bound <= 2.0 * exact, "{code}: {bound:e} for {exact:e}");
        }
    }
}

/// P(the append is lost) on one wire, over all patterns of losses.
fn exactly(wire: &Wire, code: &Code, channel: &Channel) -> f64 {
    let carries: Vec<usize> = (0..wire.slots()).filter(|&slot| wire.is_packet(slot)).collect();
    let mut player = Player::new(code).unwrap();
    let mut losses = Losses::default();
    let stationary = [1.0 - channel.bad_share(), channel.bad_share()];
    let (alpha, beta) = (channel.good_to_bad, channel.bad_to_good);
    let step = |[good, bad]: [f64; 2]| [good * (1.0 - alpha) + bad * beta, good * alpha + bad * (1.0 - beta)];
    (0_u32..1 << carries.len())
        .map(|pattern| {
            losses.clear(wire.slots());
            let mut state = stationary;
            let mut carried = 0;
            for slot in 0..wire.slots() {
                if wire.is_packet(slot) {
                    let is_lost = pattern >> carried & 1 == 1;
                    carried += 1;
                    let kept = 1.0 - channel.loss_in_bad;
                    state = if is_lost {
                        [0.0, state[1] * channel.loss_in_bad]
                    } else {
                        [state[0], state[1] * kept]
                    };
                    if is_lost {
                        losses.insert(slot);
                    }
                }
                state = step(state);
            }
            if player.is_lost(wire, &losses) { state[0] + state[1] } else { 0.0 }
        })
        .sum()
}

#[test]
fn layered_interleaving_agrees_with_all_patterns_counted() {
    let code = code(LayeredInterleaving, "r=8 interleaves=1:23:101 delayed=1");
    for (symbols, flush_pause, loss_in_bad) in
        [(1, 0, 1.0), (2, 4, 1.0), (3, 0, 1.0), (3, 16, 0.5), (3, 4, 1.0)]
    {
        let exposure = Exposure {
            flushed: 0b111,
            flush_run: symbols,
            flush_pause,
            ..Exposure::steady(symbols, 0b111, symbols)
        };
        for (good_to_bad, bad_to_good) in [(-20, -8), (-44, -4)] {
            let channel = Channel { loss_in_bad, ..grid(good_to_bad, bad_to_good, 0.99) };
            let crashes = Crashes::new(&code, &exposure);
            let mut random = SplitMix64::new(9);
            // Each place has few different wires.
            let exact = (0..crashes.places())
                .flat_map(|place| (0..3).map(move |number| (place, number)))
                .filter_map(|(place, number)| crashes.wire(place, number, &mut random))
                .map(|wire| exactly(&wire, &code, &channel))
                .fold(0.0, f64::max);
            let bound = simulate(&cell(&code, &exposure, channel, 2), 120_000).bound.unwrap();
            println!(
                "{symbols} symbols, pause {flush_pause}, {good_to_bad}, {bad_to_good}: exact {exact:.3e}, bound {:.3} of it",
                bound / exact
            );
            assert!(bound >= exact * (1.0 - 1e-9), "{bound:e} below {exact:e}");
            assert!(bound <= 3.0 * exact, "{bound:e} for {exact:e}");
        }
    }
}

/// A stream has too many patterns; but those that arrive are decoded alike whether the channel was tilted or not.
#[test]
fn layered_streams_agree_with_a_channel_as_it_is() {
    let code = code(LayeredInterleaving, "r=8 interleaves=1:11:41 delayed=0");
    let exposure = Exposure::steady(4, 0b111, 8);
    let crashes = Crashes::new(&code, &exposure);
    for (good_to_bad, bad_to_good) in [(-24, -9), (-20, -4)] {
        let channel = grid(good_to_bad, bad_to_good, 0.99);
        let chain = Chain::new(&channel);
        let mut random = SplitMix64::new(5);
        let mut player = Player::new(&code).unwrap();
        let mut losses = Losses::default();
        let mut worst = 0.0_f64;
        for place in 0..crashes.places() {
            let wires: Vec<_> =
                (0..400).filter_map(|number| crashes.wire(place, number, &mut random)).collect();
            let mut lost = 0;
            for _ in 0..400 {
                for wire in &wires {
                    losses.clear(wire.slots());
                    chain.pass(&mut losses, &mut random);
                    lost += u32::from(player.is_lost(wire, &losses));
                }
            }
            worst = worst.max(f64::from(lost) / (400 * wires.len()) as f64);
        }
        let findings = simulate(&cell(&code, &exposure, channel, 4), 100_000);
        let bound = findings.bound.unwrap();
        println!("{good_to_bad}, {bad_to_good}: seen {worst:.3e}, bound {bound:.3e}, {findings:?}");
        assert!(bound > worst * 0.95 && bound < 3.0 * worst, "{bound:e} for {worst:e}");
    }
}

#[test]
fn the_error_bar_covers_the_truth() {
    // At half the doubt of a confidence of 0.8, up to a tenth of the bounds may be below the truth.
    let repetition = code(Repetition, "copies=2 spacing=10");
    let block = code(ReedSolomon, "r=4 c=2 depth=1");
    let alone = Exposure { flushed: 0b11, flush_run: 1, ..Exposure::steady(1, 0b11, 1) };
    for (code, exposure) in [(&repetition, alone), (&block, Exposure::steady(2, 0b11, 4))] {
        for (good_to_bad, bad_to_good) in [(-22, -8), (-48, -4)] {
            let channel = grid(good_to_bad, bad_to_good, 0.8);
            let truth = GilbertElliott.own_risk(&channel, code, &exposure).probability();
            let (mut below, mut ratio) = (0, 0.0);
            for seed in 0..200 {
                let mut progress = Progress::default();
                let cell = cell(code, &exposure, channel, seed);
                // The first look of all places is the one with the least behind it.
                let bound = loop {
                    if let Some(bound) = CrashSimulation.simulate(&cell, &mut progress).bound {
                        break bound;
                    }
                };
                below += u32::from(bound < truth);
                ratio += bound / truth / 200.0;
            }
            println!("{code}, truth {truth:.2e}: {below} of 200 below, on average {ratio:.2} times");
            assert!(below <= 20, "{code}: {below} of 200 below {truth:e}");
            assert!(ratio < 5.0, "{code}: {ratio}");
        }
    }
}

#[test]
fn more_trials_never_make_a_figure_worse() {
    let model = MonteCarlo::new();
    let code = code(ReedSolomon, "r=8 c=3 depth=1");
    let exposure = Exposure::steady(4, 0b111, 8);
    let channel = Channel::bursty(1e-3, 2.0, 0.999);
    let bare = model.own_risk(&channel, &code, &Exposure::steady(4, 0, 0)).probability();
    let mut before = model.own_risk(&channel, &code, &exposure).probability();
    assert_eq!(before, bare, "nothing is simulated yet");
    assert!(model.explain(&channel, &code, &exposure).unwrap().contains("not simulated yet"));
    let mut edition = model.edition();
    while model.work() {
        let now = model.own_risk(&channel, &code, &exposure).probability();
        assert!(now <= before);
        assert!(now >= 0.95 * before || model.edition() > edition, "a better answer raises the edition");
        (before, edition) = (now, model.edition());
    }
    let exact = GilbertElliott.own_risk(&channel, &code, &exposure).probability();
    // Four losses in the grid's steps of 19 %.
    assert!(before >= exact && before < 3.0 * exact, "{before:e} for {exact:e}");
    let told = model.explain(&channel, &code, &exposure).unwrap();
    assert!(told.starts_with("simulated ") && told.contains(" lost; at most "), "{told}");
    println!("{told}");
}

//! Figures from traces, against links that are like them.

use std::sync::Arc;

use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_model_monte_carlo::MonteCarlo;
use parhelion_model_trace::library::{self, spells};
use parhelion_model_trace::{Trace, TraceModel};
use parhelion_plugin::conformance::SplitMix64;
use parhelion_plugin::trial::{Crashes, Losses, Player};
use parhelion_plugin::{Channel, Code, DurabilityModel, ErasureCode, Exposure};

fn code(family: impl ErasureCode + 'static, parameters: &str) -> Code {
    Code::new(Arc::new(family), &parameters.parse().unwrap()).unwrap()
}

/// Works until the question has its final answer, or for so many pieces.
fn figure(model: &dyn DurabilityModel, channel: &Channel, code: &Code, exposure: &Exposure) -> f64 {
    model.own_risk(channel, code, exposure);
    for _ in 0..150 {
        if !model.work() {
            break;
        }
    }
    model.own_risk(channel, code, exposure).probability()
}

/// Share of crashes that lose the append when the line does what this trace did, over all places.
fn seen(trace: &Trace, code: &Code, exposure: &Exposure, trials: u32) -> f64 {
    let bits: Vec<bool> = trace.losses().collect();
    let crashes = Crashes::new(code, exposure);
    let mut random = SplitMix64::new(11);
    let mut player = Player::new(code).unwrap();
    let mut losses = Losses::default();
    let (mut lost, mut played) = (0_u32, 0_u32);
    for place in 0..crashes.places() {
        let wires: Vec<_> = (0..20).filter_map(|number| crashes.wire(place, number, &mut random)).collect();
        for _ in 0..trials / 20 {
            for wire in &wires {
                let offset = random.below(bits.len());
                losses.clear(wire.slots());
                (0..wire.slots())
                    .filter(|slot| bits[(offset + slot) % bits.len()])
                    .for_each(|slot| losses.insert(slot));
                played += 1;
                lost += u32::from(player.is_lost(wire, &losses));
            }
        }
    }
    f64::from(lost) / f64::from(played)
}

#[test]
fn every_made_link_keeps_its_figure() {
    let layered = code(LayeredInterleaving, "r=8 interleaves=1:23:101 delayed=1");
    let block = code(ReedSolomon, "r=8 c=3 depth=1");
    // The channel as it is believed on a quiet day.
    let channel = Channel::bursty(1e-5, 2.0, 0.999);
    for named in library::traces() {
        for code in [&layered, &block] {
            let exposure = Exposure::steady(4, 0b111, 8);
            let model = TraceModel::new(vec![named.trace.clone()]);
            let figure = figure(&model, &channel, code, &exposure);
            let seen = seen(&named.trace, code, &exposure, 20_000);
            println!(
                "{}, {code}: figure {figure:.2e}, seen {seen:.2e}; {}",
                named.name,
                model.explain(&channel, code, &exposure).unwrap()
            );
            let sigma = (seen / 80_000.0).sqrt();
            assert!(figure >= seen - 3.0 * sigma, "{}, {code}: {figure:e} for {seen:e}", named.name);
            if seen > 1e-3 {
                assert!(figure < 2.0 * seen, "{}, {code}: {figure:e} for {seen:e}", named.name);
            }
        }
    }
}

#[test]
fn spells_break_the_promise_of_the_channel_and_not_of_the_trace() {
    // What decision 11 found: counters of neighbours see independent losses.
    let trace = spells(50_000, 40, 2);
    let code = code(LayeredInterleaving, "r=8 interleaves=1:23:101 delayed=1");
    let exposure = Exposure { flushed: 0b111, flush_run: 4, ..Exposure::steady(4, 0b111, 4) };
    let channel = Channel::independent(trace.lost() as f64 / trace.packets() as f64, 0.999);
    let seen = seen(&trace, &code, &exposure, 200_000);
    let believed = figure(&MonteCarlo::new(), &channel, &code, &exposure);
    let replayed = figure(&TraceModel::new(vec![trace]), &channel, &code, &exposure);
    println!("seen {seen:.2e}, fitted channel {believed:.2e}, trace {replayed:.2e}");
    assert!(believed < seen / 10.0, "the fitted channel is right about the wrong thing: {believed:e}");
    assert!(replayed > seen * 0.7 && replayed < 5.0 * seen, "{replayed:e} for {seen:e}");
}

#[test]
fn a_figure_is_never_below_that_of_the_channel() {
    let code = code(ReedSolomon, "r=8 c=3 depth=1");
    let exposure = Exposure::steady(4, 0b111, 8);
    let clean = Trace::from_losses([false; 1000]);
    for channel in [Channel::bursty(1e-3, 4.0, 0.999), Channel::independent(0.02, 0.99)] {
        let alone = figure(&MonteCarlo::new(), &channel, &code, &exposure);
        for traces in [vec![], vec![clean.clone()], vec![clean.clone(), library::periodic(1000)]] {
            let dirty = traces.len() > 1;
            let with = figure(&TraceModel::new(traces), &channel, &code, &exposure);
            // The doubt is shared by two terms.
            assert!(with >= 0.9 * alone && (dirty || with < 1.1 * alone), "{with:e} and {alone:e}");
        }
    }
}

#[test]
fn what_is_not_replayed_yet_is_priced_as_if_nothing_covered_it() {
    let code = code(ReedSolomon, "r=8 c=3 depth=1");
    let model = TraceModel::new(vec![library::switch(0.05, 20.0)]);
    let channel = Channel::bursty(1e-4, 2.0, 0.999);
    let covered = model.own_risk(&channel, &code, &Exposure::steady(4, 0b111, 8)).probability();
    let bare = model.own_risk(&channel, &code, &Exposure::steady(4, 0, 0)).probability();
    assert_eq!(covered, bare);
    assert!(bare > 4.0 * 0.05 / 20.0 && bare < 0.011, "{bare}");
    let told = model.explain(&channel, &code, &Exposure::steady(4, 0b111, 8)).unwrap();
    assert!(told.contains("not simulated yet"), "{told}");
}

//! How small a risk is certified within how much work: `cargo run --release -p parhelion-model-monte-carlo --example certify`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_code_sliding_window::SlidingWindow;
use parhelion_model_gilbert_elliott::GilbertElliott;
use parhelion_model_monte_carlo::MonteCarlo;
use parhelion_plugin::{Channel, Code, DurabilityModel, ErasureCode, Exposure, Structure};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let codes: [(Arc<dyn ErasureCode>, &str); 4] = [
        (Arc::new(LayeredInterleaving), "r=8 interleaves=1:23:101 delayed=1"),
        (Arc::new(ReedSolomon), "r=8 c=3 depth=1"),
        (Arc::new(ReedSolomon), "r=64 c=16 depth=1"),
        (Arc::new(SlidingWindow), "r=8 c=3 window=128 indices=6"),
    ];
    let channels = [
        (
            "clean, bursts of 2",
            Channel { good_to_bad: 4e-5, bad_to_good: 0.5, ..Channel::independent(8e-5, 0.999) },
        ),
        ("0.1 %, bursts of 5", Channel::bursty(1e-3, 5.0, 0.999)),
        ("1 %, independent", Channel::independent(0.01, 0.999)),
        ("2 %, bursts of 5", Channel::bursty(0.02, 5.0, 0.999)),
        ("5 %, bursts of 2", Channel::bursty(0.05, 2.0, 0.999)),
    ];
    println!("own risk of an append of 4 symbols in a stream, and flushed alone with pauses of 16");
    for (family, parameters) in codes {
        let code = Code::new(family, &parameters.parse()?)?;
        let structure = code.structure();
        let full = structure.full_coverage();
        let group = match *structure {
            Structure::Block { r, .. } | Structure::Layered { r, .. } => r,
            Structure::Window { window, .. } => window,
            _ => 1,
        };
        let steady = Exposure::steady(4, full, group);
        let alone = Exposure {
            flushed: full,
            flush_run: structure.flush_run_max().min(4),
            flush_pause: if structure.gains_by_pauses() { 16 } else { 0 },
            ..Exposure::steady(4, full, if matches!(structure, Structure::Window { .. }) { group } else { 4 })
        };
        println!("{code}");
        for (name, channel) in &channels {
            for (what, exposure) in [("stream", &steady), ("alone", &alone)] {
                let model = MonteCarlo::new();
                let bare = model.own_risk(channel, &code, exposure).probability();
                let known = GilbertElliott.own_risk(channel, &code, exposure).probability();
                let mut shown = String::new();
                let mut spent = Duration::ZERO;
                let mut first = None;
                let mut crashes = 0;
                let mut longest = Duration::ZERO;
                for seconds in [0.1, 1.0, 10.0] {
                    while spent.as_secs_f64() < seconds {
                        let start = Instant::now();
                        let more = model.work();
                        longest = longest.max(start.elapsed());
                        spent += start.elapsed();
                        model.own_risk(channel, &code, exposure);
                        let findings = model.findings(channel, &code, exposure).unwrap_or_default();
                        crashes = findings.crashes;
                        if findings.bound.is_some() && first.is_none() {
                            first = Some(spent);
                        }
                        if !more {
                            break;
                        }
                    }
                    let figure = model.own_risk(channel, &code, exposure).probability();
                    shown += &format!(" {figure:.1e}");
                }
                println!(
                    "  {name:<20} {what:<7} bare {bare:.1e}, gilbert-elliott {known:.1e}; after 0.1, 1, 10 s:{shown}; done after \
                     {:.2} s, first answer {:.3} s, {:.0} crashes/ms, longest piece {:.0} ms",
                    spent.as_secs_f64(),
                    first.unwrap_or(spent).as_secs_f64(),
                    crashes as f64 / spent.as_secs_f64() / 1e3,
                    longest.as_secs_f64() * 1e3
                );
            }
        }
    }
    Ok(())
}

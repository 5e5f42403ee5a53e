//! What a figure costs: nanoseconds per question for each structure, nothing remembered between questions.

use std::time::Instant;

use parhelion_model_gilbert_elliott::own_risk;
use parhelion_plugin::{Channel, Exposure, Structure};

fn main() {
    let layered =
        |interleaves: &[u32]| Structure::Layered { r: 8, interleaves: interleaves.to_vec(), delayed: true };
    let codes = [
        ("none", Structure::None),
        ("repetition 2, 64 apart", Structure::Repetition { copies: 2, spacing: 64 }),
        ("block (8,3)", Structure::Block { r: 8, c: 3, depth: 1 }),
        ("block (8,3), depth 10", Structure::Block { r: 8, c: 3, depth: 10 }),
        ("block (64,16)", Structure::Block { r: 64, c: 16, depth: 1 }),
        ("block (200,40)", Structure::Block { r: 200, c: 40, depth: 1 }),
        ("layered 1:23:101", layered(&[1, 23, 101])),
        ("window (8,3) of 128", Structure::Window { r: 8, c: 3, window: 128, indices: 6 }),
        ("window (4,1) of 64", Structure::Window { r: 4, c: 1, window: 64, indices: 4 }),
    ];
    let channels = [Channel::bursty(1e-4, 3.0, 0.999), Channel::bursty(0.01, 10.0, 0.999)];
    println!("{:>24}  {:>8} {:>12} {:>12}", "nanoseconds per figure", "symbols", "in a stream", "flushed");
    for (name, code) in &codes {
        for symbols in [1, 4, 40, 1000] {
            let group = match code {
                Structure::None => 0,
                Structure::Repetition { .. } => 1,
                Structure::Block { r, .. } | Structure::Layered { r, .. } => *r,
                Structure::Window { window, .. } => *window,
                Structure::Other { span, .. } => *span,
            };
            let cost = |flushed: u64| {
                let steady = Exposure::steady(symbols, code.full_coverage(), group);
                let exposure = Exposure {
                    flushed,
                    flush_run: symbols.min(code.flush_run_max()),
                    flush_pause: 16,
                    ..steady
                };
                let exposure = if flushed == 0 { steady } else { exposure };
                best(|| channels.iter().map(|channel| own_risk(channel, code, &exposure).probability()).sum())
                    / 2.0
            };
            println!("{name:>24}  {symbols:>8} {:>12.0} {:>12.0}", cost(0), cost(u64::MAX));
        }
    }
}

/// The least time of some runs, in nanoseconds.
fn best(question: impl Fn() -> f64) -> f64 {
    let time = |rounds: u32| {
        let started = Instant::now();
        for _ in 0..rounds {
            std::hint::black_box(question());
        }
        started.elapsed().as_secs_f64() * 1e9 / f64::from(rounds)
    };
    // As many rounds as take some milliseconds.
    let rounds = (3e6 / time(3)).clamp(3.0, 1e5) as u32;
    (0..5).map(|_| time(rounds)).fold(f64::INFINITY, f64::min)
}

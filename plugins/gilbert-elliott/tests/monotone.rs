//! The contract's monotony, and the price of a figure.

use std::time::Instant;

use parhelion_model_gilbert_elliott::own_risk;
use parhelion_plugin::{Channel, Exposure, Structure};
use proptest::prelude::*;

fn structures() -> impl Strategy<Value = Structure> {
    prop_oneof![
        Just(Structure::None),
        (1_u32..5, 1_u32..20).prop_map(|(copies, spacing)| Structure::Repetition { copies, spacing }),
        (1_u32..20, 1_u32..6, 1_u32..12).prop_map(|(r, c, depth)| Structure::Block { r, c, depth }),
        (1_u32..20, any::<bool>()).prop_map(|(r, delayed)| Structure::Layered {
            r,
            interleaves: vec![1, 11, 101],
            delayed
        }),
        (1_u32..10, 1_u32..5, 20_u32..150, 1_u32..10).prop_map(|(r, c, window, indices)| Structure::Window {
            r,
            c,
            window,
            indices
        }),
    ]
}

/// Rates over many orders of magnitude, and the whole of the unit interval.
fn rate() -> impl Strategy<Value = f64> {
    prop_oneof![(-8.0..0.0).prop_map(|power| 10_f64.powf(power)), 0.0..1.0]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12_000) })]

    #[test]
    fn worse_never_costs_less(
        code in structures(),
        (alpha, beta, loss_in_bad) in (rate(), rate(), rate()),
        (worse_alpha, worse_beta, worse_loss) in (rate(), rate(), rate()),
        (symbols, more) in (1_u32..300, 0_u32..50),
        (coverage, kept) in (any::<u64>(), any::<u64>()),
        group_max in 1_u32..24,
        (flushed, more_flushed) in (any::<u64>(), any::<u64>()),
        (flush_run, shorter) in (0_u32..150, 0_u32..150),
        (flush_pause, less) in (0_u32..50, 0_u32..50),
    ) {
        let channel = Channel {
            good_to_bad: alpha,
            bad_to_good: beta,
            loss_in_bad,
            ..Channel::independent(0.0, 0.999)
        };
        let steady = Exposure::steady(symbols, coverage, group_max);
        let exposure = Exposure { flushed, flush_run, flush_pause, ..steady };
        let risk = |channel: &Channel, exposure: &Exposure| {
            own_risk(channel, &code, exposure).probability()
        };
        let figure = risk(&channel, &exposure);
        prop_assert!((0.0..=1.0).contains(&figure));
        let least = figure * (1.0 - 1e-9);
        let worse = |channel: Channel, exposure: Exposure, what: &str| {
            let other = risk(&channel, &exposure);
            prop_assert!(other >= least, "{what}: {other:e} is below {figure:e}");
            Ok(())
        };
        worse(Channel { good_to_bad: alpha.max(worse_alpha), ..channel }, exposure, "more bursts")?;
        worse(Channel { bad_to_good: beta.min(worse_beta), ..channel }, exposure, "longer bursts")?;
        worse(Channel { loss_in_bad: loss_in_bad.max(worse_loss), ..channel }, exposure, "denser bursts")?;
        worse(channel, Exposure { symbols: symbols + more, ..exposure }, "more symbols")?;
        worse(channel, Exposure { coverage: coverage & kept, ..exposure }, "less coverage")?;
        // A flush of a window is a code of its own, better than the stream's in some ways and worse in others.
        if !matches!(code, Structure::Window { .. }) {
            worse(channel, Exposure { flushed: flushed | more_flushed, ..exposure }, "more flushed")?;
            worse(channel, Exposure { flush_run: flush_run.min(shorter), ..exposure }, "shorter runs")?;
        }
        worse(channel, Exposure { flush_pause: flush_pause.min(less), ..exposure }, "shorter pauses")?;
    }
}

#[test]
fn nonsense_promises_nothing() {
    let nan = Channel {
        good_to_bad: f64::NAN,
        bad_to_good: f64::NAN,
        loss_in_bad: f64::NAN,
        ..Channel::independent(f64::NAN, f64::NAN)
    };
    let code = Structure::Block { r: 8, c: 3, depth: 1 };
    let exposure = Exposure::steady(8, 7, 8);
    assert_eq!(own_risk(&nan, &code, &exposure).probability(), 1.0);
    // Sizes that no code has neither panic nor take long.
    let started = Instant::now();
    for code in [
        Structure::Block { r: u32::MAX, c: u32::MAX, depth: u32::MAX },
        Structure::Layered { r: u32::MAX, interleaves: vec![u32::MAX; 64], delayed: true },
        Structure::Repetition { copies: u32::MAX, spacing: u32::MAX },
        Structure::Window { r: u32::MAX, c: 0, window: u32::MAX, indices: u32::MAX },
        Structure::Window { r: 1024, c: 1023, window: 1024, indices: 64 },
    ] {
        let steady = Exposure::steady(u32::MAX, u64::MAX, u32::MAX);
        let exposure = Exposure { flushed: u64::MAX, flush_pause: u32::MAX, ..steady };
        let figure = own_risk(&Channel::bursty(0.01, 3.0, 0.99), &code, &exposure).probability();
        assert!((0.0..=1.0).contains(&figure), "{code:?}: {figure}");
    }
    assert!(started.elapsed().as_secs() < 1);
}

#[test]
fn a_figure_is_cheap() {
    let channel = Channel::bursty(0.001, 5.0, 0.999);
    let block = Structure::Block { r: 8, c: 3, depth: 1 };
    let layered = Structure::Layered { r: 8, interleaves: vec![1, 11, 101], delayed: true };
    let window = Structure::Window { r: 8, c: 3, window: 128, indices: 6 };
    let cases = [
        ("block", &block, 8, 0),
        ("block", &block, 1000, 0),
        ("layered", &layered, 8, 0),
        ("layered, flushed", &layered, 8, 7),
        ("window", &window, 8, 0),
        ("window, flushed", &window, 8, 63),
    ];
    for (name, code, symbols, flushed) in cases {
        // What remembers its answers may take longer for one.
        let (rounds, most) =
            if matches!(code, Structure::Window { .. }) { (200, 1e-3) } else { (20_000, 50e-6) };
        let best = (0..5)
            .map(|_| {
                let started = Instant::now();
                for round in 0..rounds {
                    let steady = Exposure::steady(symbols + round % 2, code.full_coverage(), 8);
                    let exposure = Exposure { flushed, flush_run: 50, ..steady };
                    std::hint::black_box(own_risk(&channel, code, &exposure));
                }
                started.elapsed().as_secs_f64() / f64::from(rounds)
            })
            .fold(f64::INFINITY, f64::min);
        println!("(8,3) {name}, {symbols} symbols: {:.2} us per figure", best * 1e6);
        // The aim is 5 us; ten times that still fails when the cost becomes quadratic, and never for a busy
        // machine.
        assert!(best < most, "{name}: {best}");
    }
}

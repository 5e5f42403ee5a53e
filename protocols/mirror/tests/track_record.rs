//! The ledger's record of promises, driven by the real link over a line that loses packets in bursts.

#[path = "../../link/tests/link/network.rs"]
#[allow(dead_code, reason = "the tests of the link use the rest")]
mod network;

use std::sync::Arc;
use std::time::Duration;

use network::{CLEAN, Network, Path, code, receiver_config, sender_config};
use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_link::{ReceiverConfig, SenderConfig};
use parhelion_model_gilbert_elliott::GilbertElliott;
use parhelion_plugin::{Channel, Code};
use parhelion_risk::{Ledger, Pricer, WireState};
use parhelion_types::{RecordKey, Time};

const LINE: Path = Path { latency: Duration::from_millis(100), loss: 0.01, burst: 3.0, ..CLEAN };

/// What became of the appends of a run.
struct Outcome {
    /// Reported missing with their coverage complete.
    reported: u64,
    /// Of those, not delivered before a copy of what was missing could have come.
    failed: u64,
    ledger: Ledger,
}

/// Appends of 4000 bytes over a line of 300 Mbit/s with stock settings, `count` every `interval`.
fn run(count: u64, interval: Duration, rounds: u64, seed: u64) -> Outcome {
    let sender = SenderConfig {
        rate_bytes_per_second: 37_500_000,
        flush_pause: 16,
        site_exit_delay: Duration::from_micros(500),
        ..sender_config()
    };
    let pause = sender.packet_time() * 17 * 4;
    let receiver = ReceiverConfig {
        repair_delay: Duration::from_millis(10) + pause,
        packet_time: sender.packet_time(),
        ..receiver_config()
    };
    let code = code(LayeredInterleaving, "");
    let mut network = Network::new(LINE, sender, receiver, &code, seed);
    for round in 0..rounds {
        (0..count).for_each(|n| network.send(Network::key(1, round * count + n), 4000));
        let next = network.now + interval;
        while network.now < next {
            network.run_until(next);
            network.now = network.now.max(next);
        }
    }
    assert!(network.run_for(Duration::from_secs(10)), "all of it is delivered");
    follow(&network, &code)
}

/// What happens to a record at the primary.
#[derive(Clone, Copy)]
enum Step {
    Insert,
    Cover(WireState),
    Confirm,
}

fn follow(network: &Network, code: &Code) -> Outcome {
    let mut steps: Vec<(Time, RecordKey, Step)> = Vec::new();
    let mut confirmed = Time::ZERO;
    let (mut reported, mut failed) = (0, 0);
    for &(key, _, sent_at) in &network.sent {
        steps.push((sent_at, key, Step::Insert));
        let coverage = &network.coverage[&key];
        for step in coverage {
            let wire = WireState { exposure: step.exposure, sent: step.sent, complete: step.complete };
            steps.push((step.at, key, Step::Cover(wire)));
        }
        // Confirmed with those before it, by the next report.
        let delivered = network.delivered[&key].1;
        confirmed = confirmed.max(delivered + LINE.latency + LINE.report_interval);
        steps.push((confirmed, key, Step::Confirm));
        let complete = coverage.iter().position(|step| step.complete).unwrap();
        let is_promised = coverage[complete].exposure.coverage != 0;
        if let Some(missing) = coverage[complete..].iter().find(|step| step.exposure.coverage == 0)
            && is_promised
        {
            reported += 1;
            failed += u64::from(delivered >= missing.at + LINE.latency);
        }
    }
    steps.sort_by_key(|&(at, ..)| at);
    let channel = Channel::bursty(LINE.loss, LINE.burst, 0.999);
    let mut pricer = Pricer::new(Arc::new(GilbertElliott), code.clone(), vec![channel]);
    let mut ledger = Ledger::new();
    for (at, key, step) in steps {
        ledger.advance(at);
        match step {
            Step::Insert => ledger.insert(key, pricer.generation()),
            Step::Cover(wire) => ledger.cover(&mut pricer, key, wire),
            Step::Confirm => ledger.confirm(&mut pricer, key.log, key.number + 1),
        }
    }
    ledger.judge(&mut pricer);
    Outcome { reported, failed, ledger }
}

#[test]
fn late_repairs_of_a_busy_stream_are_no_failures() {
    // 24 symbols and their repairs are more than the line carries in a millisecond: groups end by themselves, the widest 50 ms
    // after they began, while the mirror reports after twelve.
    let (mut reported, mut failed) = (0, 0);
    for seed in 0..8 {
        let outcome = run(6, Duration::from_millis(1), 1500, seed);
        assert_eq!(outcome.ledger.record().all().failed, outcome.failed, "seed {seed}");
        assert_eq!(outcome.ledger.factor(), 1.0, "seed {seed}");
        (reported, failed) = (reported + outcome.reported, failed + outcome.failed);
    }
    assert!(reported >= 10 && failed * 5 < reported, "{reported} reported, {failed} failed");
}

#[test]
fn failures_of_lone_appends_are_seen() {
    let Outcome { reported, failed, ledger } = run(1, Duration::from_millis(20), 20_000, 7);
    let tally = ledger.record().all();
    assert_eq!(
        (tally.failed, reported),
        (failed, failed),
        "the repairs were there when the report was written"
    );
}

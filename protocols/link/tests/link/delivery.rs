//! Every record arrives once, whole, whatever the network does.

use std::time::Duration;

use crate::network::{
    CLEAN, Network, Path, UNKIND, code, codes, layered, no_code, receiver_config, sender_config,
};
use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_code_repetition::Repetition;
use parhelion_link::TransmitKind;
use parhelion_wire::{REPAIR_HEADER_BYTES, SYMBOL_PREFIX_BYTES};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Sends `records` of mixed sizes to three logs, in bursts and pauses.
fn send_mixed(network: &mut Network, records: u64, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut numbers = [0_u64; 3];
    for _ in 0..records {
        let log = rng.random_range(0..3_usize);
        let bytes = match rng.random_range(0..10) {
            0 => rng.random_range(20_000..120_000),
            1..=3 => 12,
            _ => rng.random_range(12..6000),
        };
        network.send(Network::key(log as u32, numbers[log]), bytes);
        numbers[log] += 1;
        if rng.random_bool(0.5) {
            network.run_for(Duration::from_micros(rng.random_range(0..4000)));
        }
    }
}

#[test]
fn every_code_delivers_over_an_unkind_path() {
    for (index, code) in codes().iter().enumerate() {
        for seed in 0..4 {
            let mut network = Network::new(UNKIND, sender_config(), receiver_config(), code, seed);
            send_mixed(&mut network, 300, seed);
            assert!(network.run_for(Duration::from_secs(30)), "code {index} seed {seed} did not finish");
            network.assert_delivered();
            assert!(network.lost() > 20, "the path was too kind to prove anything");
        }
    }
}

#[test]
fn codes_spare_round_trips_and_cost_what_they_say() {
    let path = Path { loss: 0.01, ..CLEAN };
    let mut resent = Vec::new();
    for code in codes() {
        let mut network = Network::new(path, sender_config(), receiver_config(), &code, 7);
        for number in 0..40 {
            network.send(Network::key(0, number), 200_000);
        }
        assert!(network.run_for(Duration::from_secs(30)));
        network.assert_delivered();
        let stats = network.sender.stats();
        let overhead = stats.repairs as f64 / stats.symbols as f64;
        let expected = code.structure().overhead();
        assert!((overhead - expected).abs() < 0.03, "{code}: overhead {overhead}, expected {expected}");
        resent.push(stats.resent);
    }
    // 6840 symbols, of which 68 are lost: with no code each comes again, with a good one none does.
    assert!(resent[0] > 40 && resent[0] < 110, "{resent:?}");
    assert!(resent[2..].iter().all(|&resent| resent <= 2), "{resent:?}");
}

#[test]
fn a_lost_symbol_is_sent_again_once_though_reports_repeat() {
    let mut network = Network::new(CLEAN, sender_config(), receiver_config(), &no_code(), 1);
    network.lose.extend([3, 4, 10]);
    for number in 0..30 {
        network.send(Network::key(0, number), 1000);
    }
    assert!(network.run_for(Duration::from_secs(5)));
    network.assert_delivered();
    assert!(network.reports > 10);
    assert_eq!(network.count(TransmitKind::Resent), 3);
}

#[test]
fn a_lost_tail_is_sent_again_though_nothing_tells_the_receiver() {
    for code in codes() {
        let mut network = Network::new(CLEAN, sender_config(), receiver_config(), &code, 1);
        // Something to measure the round trip by.
        network.send(Network::key(0, 0), 50_000);
        assert!(network.run_for(Duration::from_secs(5)));
        let sent = network.datagrams.len() as u64;
        network.lose.extend(sent..sent + 200);
        network.outages.push((network.now, network.now + Duration::from_millis(15)));
        let start = network.now;
        network.send(Network::key(0, 1), 10_000);
        network.run_for(Duration::from_millis(15));
        network.lose.clear();
        assert!(network.run_for(Duration::from_secs(2)), "{code}: the tail never came");
        network.assert_delivered();
        assert!(network.sender.stats().probes >= 1);
        let took = network.delivered[&Network::key(0, 1)].1.since(start);
        assert!(took < Duration::from_millis(350), "{code}: took {took:?}");
    }
}

#[test]
fn a_repair_tells_of_symbols_that_nothing_follows() {
    let code = code(ReedSolomon, "r=8 c=3 depth=1");
    let mut network = Network::new(CLEAN, sender_config(), receiver_config(), &code, 1);
    // Four of eight symbols are lost, the last ones: too many for three repairs, which do arrive.
    network.lose.extend(4..8);
    let start = network.now;
    network.send(Network::key(0, 0), 8 * (1168 - SYMBOL_PREFIX_BYTES));
    assert!(network.run_for(Duration::from_secs(2)));
    network.assert_delivered();
    let stats = network.sender.stats();
    assert_eq!((stats.repairs, stats.probes), (3, 0));
    // Three times the latency, the repair delay, and the wait for a report.
    let took = network.delivered[&Network::key(0, 0)].1.since(start);
    assert!(took < Duration::from_millis(90), "{took:?}");
}

#[test]
fn an_outage_ends_with_everything_delivered_and_little_sent_twice() {
    for code in [no_code(), layered()] {
        let mut network = Network::new(CLEAN, sender_config(), receiver_config(), &code, 3);
        let start = network.now;
        network.outages.push((start + Duration::from_millis(100), start + Duration::from_millis(500)));
        for number in 0..60 {
            network.send(Network::key(0, number), 150_000);
        }
        assert!(network.run_for(Duration::from_secs(30)));
        network.assert_delivered();
        let lost = network.datagrams.iter().filter(|(t, lost, _)| *lost && t.kind == TransmitKind::Source);
        let (lost, resent) = (lost.count() as u64, network.sender.stats().resent);
        assert!(lost > 2000, "{lost} lost");
        assert!(resent < lost + lost / 10 + 20, "{resent} resent for {lost} lost");
    }
}

#[test]
fn more_holes_than_a_report_lists_are_filled_at_the_rate_of_the_link() {
    let path = Path { loss: 0.1, ..CLEAN };
    let mut network = Network::new(path, sender_config(), receiver_config(), &no_code(), 9);
    let start = network.now;
    for number in 0..200 {
        network.send(Network::key(0, number), 100_000);
    }
    assert!(network.run_for(Duration::from_secs(30)));
    network.assert_delivered();
    // 20 MB and a ninth of it again at 12.5 MB/s, headers included: 1.95 s. Then a few round trips.
    let took = network.now.since(start);
    assert!(took < Duration::from_millis(2300), "{took:?}");
    // A thousand holes per second, each open for 65 ms: twice what a report lists.
    let lost = network.lost();
    assert!(lost > 1700 && network.sender.stats().resent < lost + lost / 20);
}

#[test]
fn the_code_changes_in_flight_without_losing_anything() {
    let changes =
        [layered(), code(ReedSolomon, "r=8 c=3 depth=4"), no_code(), code(Repetition, "copies=1 spacing=3")];
    for seed in 0..4 {
        let path = Path { latency: Duration::from_millis(300), ..UNKIND };
        let mut network = Network::new(path, sender_config(), receiver_config(), &layered(), seed);
        let mut first_symbols = vec![];
        let mut rng = SmallRng::seed_from_u64(seed);
        for number in 0..200 {
            network.send(Network::key(0, number), rng.random_range(12..40_000));
            if number % 20 == 10 {
                let change = &changes[rng.random_range(0..changes.len())];
                first_symbols.push(network.change_code(change));
                if number % 40 == 10 {
                    first_symbols.push(network.change_code(&changes[0]));
                }
            }
            network.run_for(Duration::from_micros(rng.random_range(0..3000)));
        }
        assert!(first_symbols.is_sorted());
        assert!(network.run_for(Duration::from_secs(30)), "seed {seed} did not finish");
        network.assert_delivered();
        // Coverage of every record, under whichever code, came to its end.
        for (key, _, _) in &network.sent {
            let last = network.coverage[key].last().unwrap();
            assert!(last.complete, "record {key:?} of seed {seed} stays at {last:?}");
        }
    }
}

#[test]
fn the_pace_is_kept_and_no_instant_sees_more_than_a_burst() {
    let mut network = Network::new(CLEAN, sender_config(), receiver_config(), &layered(), 1);
    // Every datagram is full: 23 + 1168 + 60 bytes; a source symbol has 5 fewer, which nobody counts on.
    for number in 0..100 {
        network.send(Network::key(0, number), 87 * (1168 - SYMBOL_PREFIX_BYTES));
    }
    let start = network.now;
    network.run_until(start + Duration::from_millis(500));
    let in_time = network.datagrams.iter().filter(|(.., at)| at.since(start) <= Duration::from_millis(500));
    let bytes = in_time.count() * (REPAIR_HEADER_BYTES + 1168 + 60);
    assert!((6_200_000..6_280_000).contains(&bytes), "{bytes} bytes in 500 ms at 12.5 MB/s");
    for burst in network.datagrams.chunk_by(|a, b| a.2 == b.2) {
        assert!(burst.len() <= 8);
    }
}

#[test]
fn the_receiver_counts_what_the_network_did() {
    let path = Path { duplicates: 0.0, ..UNKIND };
    let mut network = Network::new(path, sender_config(), receiver_config(), &layered(), 11);
    send_mixed(&mut network, 400, 11);
    assert!(network.run_for(Duration::from_secs(30)));
    network.run_for(Duration::from_secs(1));
    let counts = network.receiver.report(network.now).counts;
    let fates: Vec<bool> =
        network.datagrams.iter().take(counts.settled as usize).map(|(_, lost, _)| *lost).collect();
    assert!(network.datagrams.len() as u64 - counts.settled < 20);
    let pairs = |a, b| fates.windows(2).filter(|w| **w == [a, b]).count() as u64;
    let lost = fates.iter().filter(|lost| **lost).count() as u64;
    assert_eq!(counts.lost, lost);
    assert_eq!(
        (counts.n00, counts.n01, counts.n10, counts.n11),
        (pairs(false, false), pairs(false, true), pairs(true, false), pairs(true, true))
    );
    let lost_sources =
        network.datagrams.iter().filter(|(t, lost, _)| *lost && t.kind == TransmitKind::Source);
    let lost_sources = lost_sources.count() as u64;
    // What came after its repair was rebuilt, and then late.
    assert!(
        counts.rebuilt > 0 && counts.rebuilt <= lost_sources + counts.late,
        "{counts:?}, {lost_sources} lost"
    );
    assert!(counts.late < lost_sources);
    assert_eq!(counts.host_drops, 0);
}

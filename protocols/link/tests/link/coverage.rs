//! What the sender says of a record's coverage is true at the receiver.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::network::{
    CLEAN, Network, Path, UNKIND, code, codes, layered, no_code, receiver_config, sender_config,
};
use bytes::Bytes;
use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_link::{LAZY_FACTOR, Receiver, Sender, SenderConfig, SenderEvent, TransmitKind};
use parhelion_plugin::{
    Code, Decoder, Encoder, ErasureCode, Exposure, Parameter, ParameterError, Parameters, Structure,
};
use parhelion_types::{RecordKey, Time};
use parhelion_wire::{SOURCE_HEADER_BYTES, SYMBOL_PREFIX_BYTES};
use proptest::prelude::*;

const SYMBOL_BYTES: usize = 60;

fn small_sender() -> SenderConfig {
    SenderConfig {
        symbol_bytes: SYMBOL_BYTES,
        rate_bytes_per_second: 0,
        site_exit_delay: Duration::ZERO,
        ..sender_config()
    }
}

/// What was on the wire when a record's coverage rose.
struct Claim {
    key: RecordKey,
    wire_numbers: usize,
    sent: bool,
    repairs: u32,
}

/// Sends records back to back, some pauses between; the datagrams, and every claim.
fn transmit(code: &Code, records: &[(usize, bool)]) -> (Vec<Vec<u8>>, Vec<Claim>) {
    let mut now = Time::from_nanos(1);
    let mut sender = Sender::new(small_sender(), code, now).unwrap();
    let (mut datagrams, mut claims) = (Vec::new(), Vec::new());
    let mut turns = |sender: &mut Sender, until: Time, now: &mut Time| {
        loop {
            let mut datagram = Vec::new();
            while let Some(transmit) = sender.poll_transmit(*now, &mut datagram) {
                datagrams.push(std::mem::take(&mut datagram));
                sender.handle_on_wire(*now, transmit.wire_number + 1);
                while let Some(SenderEvent::Coverage { key, exposure, sent, .. }) = sender.poll_event() {
                    let repairs = exposure.repairs();
                    claims.push(Claim { key, wire_numbers: datagrams.len(), sent, repairs });
                }
            }
            match sender.poll_timeout() {
                Some(next) if next <= until => *now = next.max(*now + Duration::from_nanos(1)),
                _ => break,
            }
        }
        *now = until;
    };
    for (number, &(bytes, is_pause)) in (0..).zip(records) {
        let record = Bytes::from(vec![number as u8; bytes]);
        sender.send(now, Network::key(0, number), record).unwrap();
        let wait = if is_pause { Duration::from_millis(5) } else { Duration::from_micros(3) };
        let until = now + wait;
        turns(&mut sender, until, &mut now);
    }
    let until = now + Duration::from_millis(20);
    turns(&mut sender, until, &mut now);
    (datagrams, claims)
}

/// Records that a receiver makes of these datagrams, by number, without any resent symbol.
fn deliver<'a>(code: &Code, datagrams: impl Iterator<Item = &'a Vec<u8>>) -> BTreeMap<u8, usize> {
    let config = parhelion_link::ReceiverConfig { symbol_bytes: SYMBOL_BYTES, ..receiver_config() };
    let mut receiver = Receiver::new(config, 0, 0, code, Time::ZERO).unwrap();
    for datagram in datagrams {
        receiver.handle_datagram(Time::ZERO, datagram).unwrap();
    }
    std::iter::from_fn(|| receiver.poll_record()).map(|record| (record[0], record.len())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The promise behind a network-synchronous acknowledgement: when the site dies right after a claim, and
    /// nothing follows, any one loss among what had left leaves a covered record whole at the mirror.
    #[test]
    fn a_covered_record_survives_the_site_and_any_one_loss(
        records in prop::collection::vec((1usize..400, prop::bool::weighted(0.2)), 1..30),
        code_index in 1usize..6,
        pick in any::<prop::sample::Index>(),
    ) {
        let code = &codes()[code_index];
        let (datagrams, claims) = transmit(code, &records);
        let covered: Vec<&Claim> = claims.iter().filter(|claim| claim.sent && claim.repairs > 0).collect();
        prop_assert!(!covered.is_empty());
        let claim = covered[pick.index(covered.len())];
        let left = &datagrams[..claim.wire_numbers];
        let number = claim.key.number as u8;
        let expected = records[claim.key.number as usize].0;
        for lost in 0..left.len() {
            let others = left.iter().enumerate().filter(|(at, _)| *at != lost).map(|(_, datagram)| datagram);
            let delivered = deliver(code, others);
            prop_assert_eq!(delivered.get(&number), Some(&expected), "lost {}", lost);
        }
    }
}

#[test]
fn coverage_only_rises_and_comes_to_its_end() {
    for (index, code) in codes().iter().enumerate() {
        // Far enough away that the mirror does not confirm a record before its coverage is complete. Nothing is lost,
        // and so nothing is taken back.
        let path = Path { latency: Duration::from_millis(300), loss: 0.0, ..UNKIND };
        let mut network = Network::new(path, sender_config(), receiver_config(), code, 5);
        for number in 0..120 {
            network.send(Network::key(0, number), 100 + 300 * (number as usize % 40));
            network.run_for(Duration::from_micros(700));
        }
        network.run_for(Duration::from_secs(10));
        network.assert_delivered();
        let structure = code.structure();
        for (key, record, _) in &network.sent {
            let steps = &network.coverage[key];
            for pair in steps.windows(2) {
                assert_eq!(
                    pair[0].exposure.coverage & !pair[1].exposure.coverage,
                    0,
                    "code {index}: {pair:?}"
                );
                assert!(pair[0].sent <= pair[1].sent && pair[0].complete <= pair[1].complete);
                let [former, latter] = [pair[0].exposure, pair[1].exposure];
                assert!(former.group_max <= latter.group_max);
                assert_eq!(former.flushed & !latter.flushed, 0, "code {index}: {pair:?}");
                assert!(former.flushed == 0 || (1..=former.flush_run).contains(&latter.flush_run));
            }
            let last = steps.last().unwrap();
            assert!(last.complete && last.sent, "code {index}: record {key:?} stays at {last:?}");
            assert_eq!(last.exposure.coverage, structure.full_coverage());
            assert_eq!(last.exposure.symbols as usize, record.len().div_ceil(1168 - SYMBOL_PREFIX_BYTES));
            assert!(
                steps.iter().all(|step| step.complete
                    == (step.sent && step.exposure.coverage == structure.full_coverage()))
            );
        }
    }
}

/// Sends what is due, burst after burst, and lets it leave the site at once; how many datagrams.
fn leave(sender: &mut Sender, now: &mut Time) -> usize {
    let (mut count, mut before, mut out) = (0, usize::MAX, Vec::new());
    while count != before {
        before = count;
        while let Some(transmit) = sender.poll_transmit(*now, &mut out) {
            sender.handle_on_wire(*now, transmit.wire_number + 1);
            count += 1;
        }
        *now = *now + Duration::from_nanos(1);
    }
    count
}

/// What is told now: coverage, symbols, whether all has been sent, and whether all is complete.
fn told(sender: &mut Sender) -> Option<(u64, u32, bool, bool)> {
    let SenderEvent::Coverage { exposure, sent, complete, .. } = sender.poll_event()?;
    assert_eq!(sender.poll_event(), None, "several changes are one event");
    Some((exposure.coverage, exposure.symbols, sent, complete))
}

#[test]
fn a_missing_symbol_takes_coverage_back_until_it_has_arrived() {
    let code = layered();
    let mut now = Time::from_nanos(1);
    let mut sender = Sender::new(small_sender(), &code, now).unwrap();
    sender.send(now, Network::key(0, 0), Bytes::from(vec![7; 3 * SYMBOL_BYTES])).unwrap();
    let symbols = leave(&mut sender, &mut now) as u32;
    now = now + Duration::from_millis(1);
    leave(&mut sender, &mut now);
    let covered = Some((0b111, symbols, true, true));
    assert!(symbols >= 3, "{symbols}");
    assert_eq!(told(&mut sender), covered);

    // Two symbols are lost, and all their repairs; the last one is not known to have arrived.
    let settled = u64::from(symbols) - 1;
    now = now + Duration::from_millis(50);
    sender.handle_report(now, settled, &[(0, 2)]);
    assert_eq!(told(&mut sender), Some((0, 3, false, false)), "nothing of the two is on the wire");
    let mut out = Vec::new();
    let first = sender.poll_transmit(now, &mut out).unwrap().wire_number;
    let second = sender.poll_transmit(now, &mut out).unwrap().wire_number;
    assert_eq!(told(&mut sender), None, "their copies are still in the host");
    sender.handle_on_wire(now, first + 1);
    leave(&mut sender, &mut now);
    assert_eq!(told(&mut sender), Some((0, 3, false, false)), "one of them is");
    sender.handle_on_wire(now, second + 1);
    leave(&mut sender, &mut now);
    assert_eq!(told(&mut sender), Some((0, 3, true, true)), "bare, and complete, as no repairs will follow");

    // The next report was written before the copies came; a much later one says that they did not.
    now = now + Duration::from_millis(5);
    sender.handle_report(now, settled, &[(0, 2)]);
    assert_eq!((told(&mut sender), leave(&mut sender, &mut now)), (None, 0));
    now = now + Duration::from_secs(2);
    sender.handle_report(now, settled, &[(0, 2)]);
    assert_eq!(told(&mut sender), Some((0, 3, false, false)), "the copies are lost as well");
    leave(&mut sender, &mut now);
    assert_eq!(told(&mut sender), Some((0, 3, true, true)));

    // One has arrived, then the other.
    sender.handle_report(now, settled, &[(1, 1)]);
    assert_eq!(told(&mut sender), Some((0, 2, true, true)));
    sender.handle_report(now, settled, &[]);
    assert_eq!(told(&mut sender), covered);
}

/// A probe may have sent the copy before anybody knew that the symbol was lost.
#[test]
fn a_copy_that_left_before_the_report_counts() {
    let code = no_code();
    let mut now = Time::from_nanos(1);
    let mut sender = Sender::new(small_sender(), &code, now).unwrap();
    sender.send(now, Network::key(0, 0), Bytes::from_static(b"one symbol")).unwrap();
    assert_eq!(leave(&mut sender, &mut now), 1);
    assert_eq!(told(&mut sender), Some((0, 1, true, true)));
    now = sender.poll_timeout().unwrap();
    let mut out = Vec::new();
    let probe = sender.poll_transmit(now, &mut out).unwrap();
    assert_eq!((probe.kind, sender.stats().probes), (TransmitKind::Resent, 1));
    sender.handle_report(now, 1, &[(0, 1)]);
    assert_eq!(told(&mut sender), Some((0, 1, false, false)), "the probe is still in the host");
    sender.handle_on_wire(now, probe.wire_number + 1);
    leave(&mut sender, &mut now);
    assert_eq!(told(&mut sender), Some((0, 1, true, true)));
}

#[test]
fn nothing_counts_before_it_has_left_the_site() {
    let code = layered();
    let now = Time::from_nanos(1000);
    let config = SenderConfig { flush_delay: Duration::ZERO, rate_bytes_per_second: 0, ..sender_config() };
    let mut sender = Sender::new(config, &code, now).unwrap();
    sender.send(now, Network::key(0, 0), Bytes::from_static(b"one symbol")).unwrap();
    let mut out = Vec::new();
    // The source symbol, then a repair of each layer, which the empty queue flushes.
    for wire_number in 0..4 {
        assert_eq!(sender.poll_transmit(now, &mut out).unwrap().wire_number, wire_number);
    }
    assert_eq!(sender.poll_transmit(now, &mut out), None);
    assert_eq!(sender.poll_event(), None, "everything is still in the host");

    let left_host = now + Duration::from_micros(10);
    sender.handle_on_wire(left_host, 3);
    assert_eq!(sender.poll_event(), None, "everything is still within the site");
    let left_site = left_host + config.site_exit_delay;
    assert_eq!(sender.poll_timeout(), Some(left_site));
    sender.poll_transmit(left_site - Duration::from_nanos(1), &mut out);
    assert_eq!(sender.poll_event(), None);
    sender.poll_transmit(left_site, &mut out);
    let Some(SenderEvent::Coverage { exposure, sent, complete, .. }) = sender.poll_event() else { panic!() };
    assert_eq!((exposure.coverage, exposure.symbols, exposure.group_max), (0b011, 1, 1));
    assert!(sent && !complete, "one repair is still in the host");

    sender.handle_on_wire(left_site, 4);
    sender.poll_transmit(left_site + config.site_exit_delay, &mut out);
    let Some(SenderEvent::Coverage { exposure, complete, .. }) = sender.poll_event() else { panic!() };
    assert!(complete && exposure.coverage == 0b111);
    // One flush sent all three, behind a run of one symbol.
    assert_eq!((exposure.flushed, exposure.flush_run), (0b111, 1));
    assert_eq!(sender.poll_event(), None);
}

#[test]
fn without_a_code_sent_is_complete() {
    let mut network = Network::new(CLEAN, sender_config(), receiver_config(), &no_code(), 1);
    network.send(Network::key(0, 0), 5000);
    network.run_for(Duration::from_secs(1));
    let steps = &network.coverage[&Network::key(0, 0)];
    assert_eq!(steps.len(), 1);
    assert!(steps[0].complete && steps[0].exposure.coverage == 0 && steps[0].exposure.group_max == 0);
    assert_eq!(network.sender.stats().flushes, 0);
}

#[test]
fn a_lone_record_is_covered_a_flush_delay_later() {
    for code in &codes()[1..] {
        let mut network = Network::new(CLEAN, sender_config(), receiver_config(), code, 1);
        network.send(Network::key(0, 0), 300);
        let start = network.now;
        network.run_for(Duration::from_millis(30));
        let last = *network.coverage[&Network::key(0, 0)].last().unwrap();
        assert!(last.complete);
        // Pacing of a few repairs comes on top.
        let took = last.at.since(start);
        assert!((Duration::from_millis(1)..Duration::from_micros(1600)).contains(&took), "{took:?}");
    }
}

#[test]
fn light_traffic_that_never_pauses_does_not_put_coverage_off() {
    let mut network = Network::new(CLEAN, sender_config(), receiver_config(), &layered(), 1);
    // A record every 600 us: the queue is never empty for the flush delay of 1 ms, and the layer of interleave
    // 101 would need half a second to fill.
    for number in 0..400 {
        network.send(Network::key(0, number), 500);
        network.run_for(Duration::from_micros(600));
    }
    network.run_for(Duration::from_secs(1));
    let mut worst = Duration::ZERO;
    for (key, _, sent_at) in &network.sent {
        let complete = network.coverage[key].iter().find(|step| step.complete).unwrap();
        worst = worst.max(complete.at.since(*sent_at));
    }
    // Four flush delays, and the pacing of the flushed repairs.
    assert!(worst < Duration::from_millis(7), "{worst:?}");
    let stats = network.sender.stats();
    assert!(stats.repairs < 3 * stats.symbols, "a flush for each symbol would cost three repairs: {stats:?}");
}

#[test]
fn a_busy_link_is_not_flushed() {
    let mut network = Network::new(CLEAN, sender_config(), receiver_config(), &layered(), 1);
    for number in 0..50 {
        network.send(Network::key(0, number), 200_000);
    }
    network.run_for(Duration::from_secs(30));
    network.assert_delivered();
    assert_eq!(network.sender.stats().flushes, 1, "the one at the end");
    // Groups that end by themselves are not said to be flushed; those of the end are, behind a run that has
    // symbols in every lane.
    let last = |number| network.coverage[&Network::key(0, number)].last().unwrap().exposure;
    assert_eq!((last(0).flushed, last(0).flush_run), (0, 0));
    assert_eq!((last(49).flushed & 0b100, last(49).flush_run), (0b100, 101));
}

/// Covers each symbol by more repairs than coverage can tell apart.
#[derive(Debug)]
struct Crowded;

impl ErasureCode for Crowded {
    fn name(&self) -> &str {
        "crowded"
    }

    fn version(&self) -> u32 {
        1
    }

    fn parameters(&self) -> &[Parameter] {
        &[]
    }

    fn structure(&self, _: &Parameters) -> Result<Structure, ParameterError> {
        Ok(Structure::Repetition { copies: 65, spacing: 1 })
    }

    fn encoder(&self, _: &Parameters, _: usize) -> Result<Box<dyn Encoder>, ParameterError> {
        unreachable!("it is refused before")
    }

    fn decoder(&self, _: &Parameters, _: usize) -> Result<Box<dyn Decoder>, ParameterError> {
        unreachable!("it is refused before")
    }
}

#[test]
fn an_impossible_code_is_refused() {
    let (eight, four) = (code(LayeredInterleaving, "r=8"), code(LayeredInterleaving, "r=4"));
    let now = Time::ZERO;
    let mut sender = Sender::new(sender_config(), &eight, now).unwrap();
    assert!(sender.change_code(now, &code(Crowded, "")).is_err());
    assert_eq!(sender.structure(), eight.structure());
    let change = sender.change_code(now, &four).unwrap();
    assert_eq!((change.epoch, change.first_symbol), (1, 0));
    for (symbol_bytes, burst) in [(16, 8), (70_000, 8), (1200, 0)] {
        let config = SenderConfig { symbol_bytes, burst_datagrams_max: burst, ..sender_config() };
        let error = Sender::new(config, &eight, now).err().unwrap();
        assert!(error.to_string().contains("; give"), "{error}");
    }
}

#[test]
fn what_nobody_waits_for_is_flushed_late_and_an_awaited_record_flushes_all() {
    let code = layered();
    let now = Time::from_nanos(1000);
    let config =
        SenderConfig { flush_delay: Duration::from_millis(1), rate_bytes_per_second: 0, ..sender_config() };
    let mut sender = Sender::new(config, &code, now).unwrap();
    let one = Bytes::from_static(b"one symbol");
    sender.send_lazily(now, Network::key(0, 0), one.clone()).unwrap();
    let mut out = Vec::new();
    assert!(sender.poll_transmit(now, &mut out).is_some());
    let soon = now + config.flush_delay * 10;
    assert_eq!(sender.poll_transmit(soon, &mut out), None, "nobody waits");
    let late = now + config.flush_delay * LAZY_FACTOR;
    for _ in 0..3 {
        assert_eq!(sender.poll_transmit(late, &mut out).map(|t| t.kind), Some(TransmitKind::Repair));
    }
    assert_eq!(sender.poll_transmit(late, &mut out), None);

    sender.send_lazily(late, Network::key(0, 1), one.clone()).unwrap();
    sender.send(late, Network::key(0, 2), one).unwrap();
    assert!(sender.poll_transmit(late, &mut out).is_some());
    assert!(sender.poll_transmit(late, &mut out).is_some());
    let due = late + config.flush_delay;
    assert_eq!(sender.poll_transmit(due, &mut out).map(|t| t.kind), Some(TransmitKind::Repair));
}

/// Datagrams with the times at which they left, and the exposures that were told, from `now` to `until`.
fn departures(
    sender: &mut Sender,
    now: &mut Time,
    until: Time,
) -> (Vec<(Time, TransmitKind)>, Vec<Exposure>) {
    let (mut left, mut exposures, mut out) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        while let Some(transmit) = sender.poll_transmit(*now, &mut out) {
            left.push((*now, transmit.kind));
            sender.handle_on_wire(*now, transmit.wire_number + 1);
        }
        while let Some(SenderEvent::Coverage { exposure, .. }) = sender.poll_event() {
            exposures.push(exposure);
        }
        match sender.poll_timeout() {
            Some(next) if next <= until => *now = next.max(*now + Duration::from_nanos(1)),
            _ => break,
        }
    }
    *now = until;
    (left, exposures)
}

#[test]
fn a_flush_pauses_between_layers_and_lets_others_pass() {
    let code = layered();
    let mut now = Time::from_nanos(1000);
    let config = SenderConfig { flush_pause: 16, site_exit_delay: Duration::ZERO, ..sender_config() };
    let packet = config.packet_time();
    let mut sender = Sender::new(config, &code, now).unwrap();
    sender.send(now, Network::key(0, 0), Bytes::from(vec![1; 2 * config.symbol_bytes])).unwrap();
    let flushed = now + config.flush_delay + packet * 3;
    let (left, _) = departures(&mut sender, &mut now, flushed + packet * 10);
    assert!(left.iter().any(|(_, kind)| *kind == TransmitKind::Repair), "the first layer has left");
    // Another record comes while the flush pauses: it does not wait for that.
    sender.send_lazily(now, Network::key(0, 1), Bytes::from_static(b"passes")).unwrap();
    let (soon, _) = departures(&mut sender, &mut now, flushed + packet * 12);
    assert_eq!(soon.iter().map(|(_, kind)| *kind).collect::<Vec<_>>(), [TransmitKind::Source]);

    let end = flushed + packet * 80;
    let (later, exposures) = departures(&mut sender, &mut now, end);
    let repairs: Vec<Time> = left
        .iter()
        .chain(&later)
        .filter(|(_, kind)| *kind == TransmitKind::Repair)
        .map(|(at, _)| *at)
        .collect();
    let long = repairs.windows(2).filter(|pair| pair[1].since(pair[0]) >= packet * 17).count();
    assert_eq!(long, 2, "two pauses between three layers: {repairs:?}");
    let last = exposures.last().unwrap();
    assert_eq!((last.coverage, last.flushed, last.flush_pause), (0b111, 0b111, 16));

    // Where nobody knows what a packet time is, there is neither a pause nor a claim of one.
    let mut now = Time::from_nanos(1000);
    let unpaced = SenderConfig { rate_bytes_per_second: 0, ..config };
    let mut sender = Sender::new(unpaced, &code, now).unwrap();
    sender.send(now, Network::key(0, 0), Bytes::from_static(b"alone")).unwrap();
    let end = now + config.flush_delay;
    let (left, exposures) = departures(&mut sender, &mut now, end);
    assert_eq!(left.len(), 4);
    assert_eq!(exposures.last().unwrap().flush_pause, 0);
}

/// The first byte of each record, in the order in which their symbols leave.
fn order(sender: &mut Sender, now: Time) -> Vec<u8> {
    let (mut order, mut out) = (Vec::new(), Vec::new());
    while let Some(transmit) = sender.poll_transmit(now, &mut out) {
        if transmit.kind == TransmitKind::Source {
            order.push(out[SOURCE_HEADER_BYTES + SYMBOL_PREFIX_BYTES]);
        }
        out.clear();
    }
    order
}

#[test]
fn an_awaited_record_passes_others_with_what_its_log_has_before_it() {
    let code = no_code();
    let now = Time::from_nanos(1000);
    let config = SenderConfig { burst_datagrams_max: 100, ..small_sender() };
    let mut sender = Sender::new(config, &code, now).unwrap();
    let record = |byte: u8| Bytes::from(vec![byte; 8]);
    for number in 0..9 {
        sender.send_lazily(now, Network::key(0, number), record(number as u8)).unwrap();
    }
    sender.send_lazily(now, Network::key(1, 0), record(10)).unwrap();
    sender.send_lazily(now, Network::key(1, 1), record(11)).unwrap();
    sender.send(now, Network::key(1, 2), record(12)).unwrap();
    sender.send_lazily(now, Network::key(1, 3), record(13)).unwrap();
    assert_eq!(order(&mut sender, now), [10, 11, 12, 0, 1, 2, 3, 4, 5, 6, 7, 8, 13]);
    // The others are not starved.
    let now = now + Duration::from_secs(1);
    for number in 0..16 {
        sender.send_lazily(now, Network::key(2, number), record(20)).unwrap();
        sender.send(now, Network::key(3, number), record(30)).unwrap();
    }
    let order = order(&mut sender, now);
    assert_eq!(order[..9], [30, 30, 30, 30, 30, 30, 30, 20, 30]);
    assert_eq!(order.len(), 32);
}

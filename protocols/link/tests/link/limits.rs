//! Whatever a peer sends, both ends stay whole and bounded.

use std::time::Duration;

use crate::network::{CLEAN, Network, Path, codes, layered, no_code, receiver_config, sender_config};
use bytes::Bytes;
use parhelion_link::{Receiver, ReceiverConfig, Sender, SenderConfig};
use parhelion_plugin::Code;
use parhelion_types::Time;
use parhelion_wire::{Datagram, DatagramKind, NUMBER_BITS, SYMBOL_PREFIX_BYTES, SymbolPrefix};
use proptest::prelude::*;

fn source(wire_number: u64, id: u64, prefix: SymbolPrefix, data: &[u8]) -> Vec<u8> {
    let kind = DatagramKind::Source { id };
    let mut bytes = vec![0; kind.header_bytes()];
    Datagram { path: 0, code_epoch: 0, wire_number, kind }.write(&mut bytes);
    prefix.write(data, &mut bytes);
    bytes
}

#[test]
fn a_receiver_short_of_memory_drops_and_still_gets_everything() {
    let config = ReceiverConfig { pending_bytes_max: 100_000, record_bytes_max: 60_000, ..receiver_config() };
    // While a hole waits a round trip for its symbol, more than the limit arrives.
    for code in [no_code(), layered()] {
        let path = Path { loss: 0.05, burst: 4.0, ..CLEAN };
        let mut network = Network::new(path, sender_config(), config, &code, 2);
        for number in 0..100 {
            network.send(Network::key(number as u32 % 5, number / 5), 50_000);
        }
        let mut most = 0;
        let mut done = false;
        for _ in 0..60_000 {
            done = network.run_for(Duration::from_millis(1));
            most = most.max(network.receiver.pending_bytes());
            if done {
                break;
            }
        }
        assert!(done, "stalled");
        network.assert_delivered();
        assert!(most > 80_000, "the limit was never felt: {most}");
        assert!(most <= 100_000 + 60_000 + 128, "{most} bytes pending");
    }
}

#[test]
fn a_record_beyond_the_limit_is_refused() {
    let config = ReceiverConfig { symbol_bytes: 30, record_bytes_max: 25, ..receiver_config() };
    let code = no_code();
    let mut receiver = Receiver::new(config, 0, 0, &code, Time::ZERO).unwrap();
    let prefix = SymbolPrefix { record: 0, offset: 20, length: 10, last: false };
    let error = receiver.handle_datagram(Time::ZERO, &source(0, 2, prefix, &[0; 10])).unwrap_err();
    assert_eq!(error.to_string(), "record of 30 bytes is over the limit of 25");
}

#[test]
fn symbols_outside_the_window_or_of_the_wrong_code_are_refused() {
    let code = layered();
    let mut receiver = Receiver::new(receiver_config(), 3, 100, &code, Time::ZERO).unwrap();
    let prefix = SymbolPrefix { record: 0, offset: 0, length: 1, last: true };
    for id in [99, 100 + parhelion_link::SYMBOLS_IN_FLIGHT_MAX, u64::MAX] {
        let mut datagram = source(0, id, prefix, b"x");
        datagram[4] = 3;
        assert!(receiver.handle_datagram(Time::ZERO, &datagram).is_err(), "{id}");
    }
    assert!(receiver.handle_datagram(Time::ZERO, &source(u64::MAX, 100, prefix, b"x")).is_err());
    assert!(receiver.poll_record().is_none());
    assert_eq!(receiver.report(Time::ZERO).settled_symbols, 100);
}

#[test]
fn a_full_buffer_refuses_and_says_what_to_do() {
    let code = no_code();
    let config = SenderConfig { buffer_bytes_max: 1000, ..sender_config() };
    let mut sender = Sender::new(config, &code, Time::ZERO).unwrap();
    sender.send(Time::ZERO, Network::key(0, 0), Bytes::from(vec![0; 600])).unwrap();
    let full = sender.send(Time::ZERO, Network::key(0, 1), Bytes::from(vec![0; 500])).unwrap_err();
    assert!(
        full.to_string().starts_with("no room for a record of 500 bytes: 600 of 1000 bytes wait"),
        "{full}"
    );
    // The same record again changes nothing; a confirmation of a record that waits frees it.
    sender.send(Time::ZERO, Network::key(0, 0), Bytes::from(vec![0; 600])).unwrap();
    assert_eq!((sender.buffered_bytes(), sender.queued_bytes()), (600, 600));
    sender.handle_confirmed(Network::key(0, 1));
    assert_eq!((sender.buffered_bytes(), sender.queued_bytes()), (0, 0));
    assert_eq!(sender.poll_transmit(Time::from_nanos(1), &mut Vec::new()), None);
    sender.send(Time::ZERO, Network::key(0, 1), Bytes::from(vec![0; 500])).unwrap();
    // What is larger than the buffer waits until that is empty, and no longer.
    let large = Bytes::from(vec![0; 2000]);
    sender.send(Time::ZERO, Network::key(0, 2), large.clone()).unwrap_err();
    sender.handle_confirmed(Network::key(0, 2));
    sender.send(Time::ZERO, Network::key(0, 2), large).unwrap();
    sender.send(Time::ZERO, Network::key(0, 3), Bytes::from_static(b"1")).unwrap_err();
}

#[test]
fn a_confirmed_record_stays_until_its_symbols_have_arrived() {
    let code = no_code();
    let mut sender = Sender::new(sender_config(), &code, Time::ZERO).unwrap();
    let mut now = Time::from_nanos(1);
    sender.send(now, Network::key(0, 0), Bytes::from(vec![0; 3000])).unwrap();
    let mut out = Vec::new();
    for _ in 0..3 {
        assert!(sender.poll_transmit(now, &mut out).is_some());
    }
    // The mirror has the record from an earlier session, but the receiver waits for symbol 1.
    sender.handle_confirmed(Network::key(0, 1));
    assert_eq!(sender.buffered_bytes(), 3000);
    now = now + Duration::from_millis(10);
    sender.handle_report(now, 3, &[(1, 1)]);
    let resent = sender.poll_transmit(now, &mut out).unwrap();
    assert_eq!(resent.kind, parhelion_link::TransmitKind::Resent);
    sender.handle_report(now, 3, &[]);
    assert_eq!(sender.buffered_bytes(), 0);
}

#[test]
fn symbols_in_flight_are_bounded_and_covered_while_the_window_is_closed() {
    let code = layered();
    // One byte of a record in each symbol.
    let config =
        SenderConfig { symbol_bytes: SYMBOL_PREFIX_BYTES + 1, rate_bytes_per_second: 0, ..sender_config() };
    let mut now = Time::from_nanos(1);
    let mut sender = Sender::new(config, &code, now).unwrap();
    let window = parhelion_link::SYMBOLS_IN_FLIGHT_MAX;
    let bytes = window as usize - 10;
    sender.send(now, Network::key(0, 0), Bytes::from(vec![0; bytes])).unwrap();
    sender.send(now, Network::key(0, 1), Bytes::from(vec![0; 20])).unwrap();
    let mut out = Vec::new();
    let mut run = |sender: &mut Sender, now: &mut Time, until: Time| {
        while let Some(next) = sender.poll_timeout().filter(|next| *next <= until) {
            *now = next.max(*now + Duration::from_nanos(1));
            out.clear();
            while let Some(transmit) = sender.poll_transmit(*now, &mut out) {
                sender.handle_on_wire(*now, transmit.wire_number + 1);
            }
        }
        *now = until;
    };
    let until = now + Duration::from_millis(500);
    run(&mut sender, &mut now, until);
    assert_eq!(sender.stats().symbols, window);
    assert_eq!(sender.stats().flushes, 1, "groups that the window cuts short are flushed");
    sender.handle_report(now, 15, &[]);
    let until = now + Duration::from_millis(2);
    run(&mut sender, &mut now, until);
    assert_eq!(sender.stats().symbols, window + 10);
}

fn receiver_of(code: &Code) -> Receiver {
    let config = ReceiverConfig {
        symbol_bytes: 64,
        record_bytes_max: 1000,
        pending_bytes_max: 5000,
        ..receiver_config()
    };
    Receiver::new(config, 0, 0, code, Time::ZERO).unwrap()
}

/// Headers that are valid, of symbols that may be anything.
fn datagrams() -> impl Strategy<Value = Vec<u8>> {
    let near = || prop_oneof![0u64..300, 0u64..1 << NUMBER_BITS];
    let kind = prop_oneof![
        near().prop_map(|id| DatagramKind::Source { id }),
        near().prop_map(|id| DatagramKind::Resent { id }),
        (near(), prop_oneof![Just(1u16), Just(11), 1u16..], prop_oneof![1u16..9, 1u16..], 0u8..5)
            .prop_map(|(first, stride, count, index)| DatagramKind::Repair { first, stride, count, index }),
    ];
    let prefix = (0u64..6, 0u32..30, 0usize..45, any::<bool>());
    (kind, near(), 0u32..3, prefix, any::<bool>(), prop::collection::vec(any::<u8>(), 0..70)).prop_map(
        |(kind, wire_number, code_epoch, (record, position, length, last), is_symbol, noise)| {
            let mut bytes = vec![0; kind.header_bytes()];
            Datagram { path: 0, code_epoch, wire_number, kind }.write(&mut bytes);
            if is_symbol {
                let prefix = SymbolPrefix { record, offset: 48 * position, length: length as u16, last };
                prefix.write(&vec![7; length], &mut bytes);
            } else {
                bytes.extend(noise);
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_datagrams_leave_the_receiver_whole(
        datagrams in prop::collection::vec(prop_oneof![9 => datagrams(), 1 => prop::collection::vec(any::<u8>(), 0..120)], 0..60),
        code_index in 0usize..6,
    ) {
        let codes = codes();
        let mut receiver = receiver_of(&codes[code_index]);
        for (tick, datagram) in (0..).zip(&datagrams) {
            let now = Time::from_nanos(tick * 1_000_000);
            let _ = receiver.handle_datagram(now, datagram);
            prop_assert!(receiver.pending_bytes() <= 5000 + 1000 + 128);
            if tick == 20 {
                let _ = receiver.add_code(1, 150, &codes[2]);
            }
            if tick % 7 == 0 {
                let report = receiver.report(now);
                let ascending = report.missing.windows(2).all(|w| w[0].0 + u64::from(w[0].1) < w[1].0);
                prop_assert!(ascending, "{:?}", report.missing);
                while receiver.poll_record().is_some() {}
            }
        }
    }

    #[test]
    fn any_reports_leave_the_sender_whole(
        steps in prop::collection::vec(
            (prop_oneof![0u64..80, any::<u64>()], prop::collection::vec((prop_oneof![0u64..80, any::<u64>()], any::<u32>()), 0..4), any::<u64>()),
            0..40,
        )
    ) {
        let code = layered();
        let config = SenderConfig { symbol_bytes: 64, rate_bytes_per_second: 0, ..sender_config() };
        let mut sender = Sender::new(config, &code, Time::ZERO).unwrap();
        let mut out = Vec::new();
        for (tick, (settled, mut missing, wire)) in (1..).zip(steps) {
            let now = Time::from_nanos(tick * 3_000_000);
            let _ = sender.send(now, Network::key(0, tick), Bytes::from(vec![1; 100]));
            for _ in 0..20 {
                out.clear();
                sender.poll_transmit(now, &mut out);
            }
            if tick % 2 == 0 {
                missing.sort();
            }
            sender.handle_report(now, settled, &missing);
            sender.handle_on_wire(now, wire);
            sender.handle_confirmed(Network::key(0, wire % 50));
            while sender.poll_event().is_some() {}
            let _ = sender.poll_timeout();
        }
    }
}

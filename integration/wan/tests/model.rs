//! The model of one direction against its promises: rate, queue, priority, loss, cut, determinism.

use std::time::Duration;

use parhelion_types::Time;
use parhelion_wan::{
    AtCut, Class, ClassCounters, DropCause, Link, LinkConfig, Loss, Severance, Tally, Verdict,
};
use proptest::prelude::*;

const PACKET: u32 = 1500;

/// 1500 bytes take 12 us on this line.
fn gigabit() -> LinkConfig {
    LinkConfig { delay: Duration::from_millis(10), queue_bytes: 15_000, ..LinkConfig::default() }
}

fn at(micros: u64) -> Time {
    Time::from_nanos(micros * 1000)
}

fn deliveries(link: &mut Link<u64>, now: Time) -> Vec<(Time, u64)> {
    std::iter::from_fn(|| link.poll_delivery(now)).map(|delivery| (delivery.due, delivery.payload)).collect()
}

const LATER: Time = Time::ZERO;

fn all(link: &mut Link<u64>) -> Vec<(Time, u64)> {
    deliveries(link, LATER + Duration::from_secs(3600))
}

/// Every packet is in one place.
fn assert_conserved(counters: &ClassCounters) {
    let inn = counters.offered + counters.duplicated;
    let out = counters.delivered
        + counters.lost
        + counters.queue_dropped
        + counters.cut_dropped
        + counters.queued
        + counters.propagating;
    assert_eq!(inn, out, "{counters:?}");
}

#[test]
fn packets_leave_at_the_rate_and_arrive_after_the_delay() {
    let mut link = Link::new(gigabit(), 1).unwrap();
    for packet in 0..10 {
        assert_eq!(link.offer(at(100), PACKET, Class::Bulk, packet), Verdict::Accepted);
    }
    assert_eq!(link.poll_timeout(), Some(at(100 + 12 + 10_000)));
    assert!(deliveries(&mut link, at(100 + 11 + 10_000)).is_empty());
    let expected: Vec<_> = (0..10).map(|packet| (at(100 + 12 * (packet + 1) + 10_000), packet)).collect();
    assert_eq!(all(&mut link), expected);
    assert_eq!(link.poll_timeout(), None);
}

#[test]
fn an_idle_line_starts_when_the_packet_comes() {
    let mut link = Link::new(gigabit(), 1).unwrap();
    link.offer(at(0), PACKET, Class::Bulk, 0);
    link.offer(at(5000), PACKET, Class::Bulk, 1);
    assert_eq!(all(&mut link), [(at(10_012), 0), (at(15_012), 1)]);
}

#[test]
fn the_queue_drops_its_tail() {
    let mut link = Link::new(gigabit(), 1).unwrap();
    // One packet is on the line and ten wait.
    let verdicts: Vec<_> = (0..20).map(|packet| link.offer(at(0), PACKET, Class::Bulk, packet)).collect();
    assert!(verdicts[..11].iter().all(|verdict| *verdict == Verdict::Accepted), "{verdicts:?}");
    assert!(verdicts[11..].iter().all(|verdict| *verdict == Verdict::Dropped(DropCause::QueueFull)));
    // The other class has a queue of its own, which the full one does not take from.
    assert_eq!(link.offer(at(0), PACKET, Class::Expedited, 99), Verdict::Accepted);
    // A packet leaves: there is room for one more.
    assert_eq!(link.offer(at(12), PACKET, Class::Bulk, 20), Verdict::Dropped(DropCause::QueueFull));
    assert_eq!(link.offer(at(24), PACKET, Class::Bulk, 21), Verdict::Accepted);
    let counters = link.counters(at(24));
    assert_eq!(counters.bulk.queue_dropped, Tally { packets: 10, bytes: 15_000 });
    assert_eq!(counters.queued_bytes_peak, 16_500);
    assert_conserved(&counters.bulk);
}

#[test]
fn a_packet_larger_than_the_queue_passes_an_idle_line() {
    let config = LinkConfig { queue_bytes: 100, ..gigabit() };
    let mut link = Link::new(config, 1).unwrap();
    assert_eq!(link.offer(at(0), PACKET, Class::Bulk, 0), Verdict::Accepted);
    assert_eq!(link.offer(at(0), PACKET, Class::Bulk, 1), Verdict::Dropped(DropCause::QueueFull));
}

#[test]
fn expedited_packets_wait_for_one_bulk_packet_at_most() {
    let mut link = Link::new(gigabit(), 1).unwrap();
    for packet in 0..5 {
        link.offer(at(0), PACKET, Class::Bulk, packet);
    }
    link.offer(at(6), 125, Class::Expedited, 100);
    link.offer(at(6), 125, Class::Expedited, 101);
    let order: Vec<_> = all(&mut link).into_iter().map(|(_, packet)| packet).collect();
    assert_eq!(order, [0, 100, 101, 1, 2, 3, 4]);
}

#[test]
fn goodput_is_the_rate() {
    let config = LinkConfig { rate: Some(300_000_000), queue_bytes: 1 << 20, ..gigabit() };
    let mut link = Link::new(config, 1).unwrap();
    // Offered at 400 Mbit/s for one second.
    for packet in 0..33_333u64 {
        link.offer(Time::from_nanos(packet * 30_000), PACKET, Class::Bulk, packet);
    }
    let arrived = deliveries(&mut link, at(1_010_000)).len() as u64 * 1500 * 8;
    assert!(arrived.abs_diff(300_000_000) < 24_000, "{arrived} bit in one second");
}

#[test]
fn loss_is_counted_and_changes_while_running() {
    let mut link = Link::new(LinkConfig { rate: None, ..gigabit() }, 7).unwrap();
    for packet in 0..100_000 {
        link.offer(at(packet), PACKET, Class::Bulk, packet);
    }
    assert_eq!(link.counters(at(100_000)).bulk.lost.packets, 0);
    link.set_loss(at(100_000), Loss::independent(0.01)).unwrap();
    for packet in 100_000..200_000 {
        link.offer(at(packet), PACKET, Class::Bulk, packet);
    }
    let lost = link.counters(at(200_000)).bulk.lost.packets;
    // Five standard deviations of a binomial with mean 1000.
    assert!(lost.abs_diff(1000) < 158, "{lost} of 100000 lost at 1 %");
    assert!(link.set_loss(at(200_000), Loss::independent(1.5)).is_err());
}

#[test]
fn packets_serialised_before_a_change_meet_the_old_loss() {
    let mut link = Link::new(gigabit(), 1).unwrap();
    for packet in 0..4 {
        link.offer(at(0), PACKET, Class::Bulk, packet);
    }
    link.set_loss(at(24), Loss::independent(1.0)).unwrap();
    assert_eq!(all(&mut link).len(), 2, "two of four had left the line after 24 us");
}

/// Four packets at time 0, cut after 30 us: two are on the fibre, one is half serialised, one waits.
fn cut_link(severance: Severance) -> Link<u64> {
    let mut link = Link::new(gigabit(), 1).unwrap();
    for packet in 0..4 {
        link.offer(at(0), PACKET, Class::Bulk, packet);
    }
    assert_eq!(link.cut(at(30), at(30), severance), at(30));
    let expected = AtCut {
        at_nanos: 30_000,
        queued: Tally { packets: 2, bytes: 3000 },
        propagating: Tally { packets: 2, bytes: 3000 },
    };
    assert_eq!(link.counters(at(30)).at_cut, Some(expected));
    link
}

#[test]
fn a_cut_at_the_entry_spares_what_propagates() {
    let mut link = cut_link(Severance::Entry);
    assert_eq!(link.offer(at(30), PACKET, Class::Expedited, 9), Verdict::Dropped(DropCause::Cut));
    assert_eq!(all(&mut link), [(at(10_012), 0), (at(10_024), 1)]);
    let counters = link.counters(at(20_000));
    assert_eq!(counters.bulk.cut_dropped.packets, 2);
    assert_eq!(counters.expedited.cut_dropped.packets, 1);
    assert_conserved(&counters.bulk);
    assert_conserved(&counters.expedited);
}

#[test]
fn a_cut_fibre_delivers_nothing() {
    let mut link = cut_link(Severance::Fibre);
    assert_eq!(link.poll_timeout(), None);
    assert!(all(&mut link).is_empty());
    assert_eq!(link.counters(at(20_000)).bulk.cut_dropped.packets, 4);
}

#[test]
fn a_partition_can_follow_a_cut() {
    let mut link = cut_link(Severance::Entry);
    assert_eq!(link.cut(at(10_020), at(0), Severance::Fibre), at(10_020), "never in the past");
    // The first packet had arrived, though nobody had polled for it.
    assert_eq!(all(&mut link), [(at(10_012), 0)]);
    assert_eq!(link.counters(at(20_000)).at_cut.unwrap().at_nanos, 30_000, "the first cut counts");
}

#[test]
fn a_cut_to_come_divides_packets_at_its_moment() {
    let mut link = Link::new(gigabit(), 1).unwrap();
    assert_eq!(link.cut(at(0), at(100), Severance::Entry), at(100));
    assert!(!link.is_severed(at(50)));
    assert_eq!(link.offer(at(88), PACKET, Class::Bulk, 0), Verdict::Accepted);
    // Serialised exactly at the cut: it passes. The next one does not, though it was accepted.
    assert_eq!(link.offer(at(99), PACKET, Class::Bulk, 1), Verdict::Accepted);
    assert_eq!(link.offer(at(100), PACKET, Class::Bulk, 2), Verdict::Dropped(DropCause::Cut));
    assert_eq!(all(&mut link), [(at(10_100), 0)]);
    link.heal(at(4_000_000_000));
    assert_eq!(link.offer(at(4_000_000_000), PACKET, Class::Bulk, 3), Verdict::Accepted);
    assert_eq!(link.counters(at(4_000_000_000)).at_cut, None);
}

#[test]
fn duplicates_arrive_twice_and_held_back_packets_later() {
    let mut link = Link::new(LinkConfig { duplicate: 1.0, ..gigabit() }, 1).unwrap();
    link.offer(at(0), PACKET, Class::Bulk, 0);
    assert_eq!(all(&mut link).len(), 2);
    assert_conserved(&link.counters(at(20_000)).bulk);

    let config =
        LinkConfig { reorder: 0.2, reorder_by: Duration::from_millis(5), queue_bytes: 1 << 20, ..gigabit() };
    let mut link = Link::new(config, 3).unwrap();
    for packet in 0..500 {
        link.offer(at(0), PACKET, Class::Bulk, packet);
    }
    let order: Vec<_> = all(&mut link).into_iter().map(|(_, packet)| packet).collect();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..500).collect::<Vec<_>>(), "nothing is lost");
    assert_ne!(order, sorted, "some are overtaken");
}

#[test]
fn reliable_pieces_escape_the_fibre_and_not_the_cut() {
    let config = LinkConfig { loss: Loss::independent(1.0), duplicate: 1.0, ..gigabit() };
    let mut link = Link::new(config, 1).unwrap();
    assert_eq!(link.offer_reliable(at(0), PACKET, Class::Bulk, 0), Verdict::Accepted);
    link.offer(at(0), PACKET, Class::Bulk, 1);
    assert_eq!(deliveries(&mut link, at(20_000)), [(at(10_012), 0)]);
    link.cut(at(20_000), at(20_000), Severance::Entry);
    assert_eq!(link.offer_reliable(at(20_000), 1, Class::Bulk, 2), Verdict::Dropped(DropCause::Cut));
}

#[test]
fn dscp_decides_the_class() {
    let packet = |first: u8, service: u8| {
        let mut bytes = vec![0; 20];
        bytes[0] = first;
        bytes[1] = service;
        bytes
    };
    assert_eq!(Class::of_ipv4(&packet(0x45, 0xb8)), Some(Class::Expedited));
    assert_eq!(Class::of_ipv4(&packet(0x45, 0xbb)), Some(Class::Expedited), "ECN bits do not matter");
    assert_eq!(Class::of_ipv4(&packet(0x45, 0x28)), Some(Class::Bulk), "AF11");
    assert_eq!(Class::of_ipv4(&packet(0x65, 0xb8)), None, "IPv6");
    assert_eq!(Class::of_ipv4(&packet(0x45, 0xb8)[..19]), None, "cut short");
    assert_eq!(Class::of_ipv4(&[]), None);
}

#[test]
fn figures_out_of_range_are_refused() {
    for config in [
        LinkConfig { rate: Some(0), ..gigabit() },
        LinkConfig { delay: Duration::from_secs(11), ..gigabit() },
        LinkConfig { duplicate: 1.1, ..gigabit() },
        LinkConfig { reorder: f64::NAN, ..gigabit() },
        LinkConfig { loss: Loss::bursty(0.1, 0.0), ..gigabit() },
    ] {
        assert!(Link::<u64>::new(config.clone(), 0).is_err(), "{config:?}");
    }
}

/// One event against a link.
#[derive(Clone, Debug)]
enum Event {
    Offer { bytes: u32, expedited: bool },
    Poll,
    SetLoss(f64),
    Cut { fibre: bool, ahead: u64 },
    Heal,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => (20u32..1500, any::<bool>()).prop_map(|(bytes, expedited)| Event::Offer { bytes, expedited }),
        6 => Just(Event::Poll),
        1 => (0.0..1.0f64).prop_map(Event::SetLoss),
        1 => (any::<bool>(), 0u64..100).prop_map(|(fibre, ahead)| Event::Cut { fibre, ahead }),
        1 => Just(Event::Heal),
    ]
}

fn run(config: &LinkConfig, seed: u64, events: &[(u64, Event)]) -> (Vec<(Time, u64)>, String) {
    let mut link = Link::new(config.clone(), seed).unwrap();
    let (mut now, mut arrived) = (Time::ZERO, Vec::new());
    for (index, (gap, event)) in events.iter().enumerate() {
        now = now + Duration::from_micros(*gap);
        match event {
            Event::Offer { bytes, expedited } => {
                let class = if *expedited { Class::Expedited } else { Class::Bulk };
                link.offer(now, *bytes, class, index as u64);
            }
            Event::Poll => arrived.extend(deliveries(&mut link, now)),
            Event::SetLoss(rate) => drop(link.set_loss(now, Loss::independent(*rate)).unwrap()),
            Event::Cut { fibre, ahead } => {
                let severance = if *fibre { Severance::Fibre } else { Severance::Entry };
                link.cut(now, now + Duration::from_micros(*ahead), severance);
            }
            Event::Heal => drop(link.heal(now)),
        }
        let counters = link.counters(now);
        assert_conserved(&counters.expedited);
        assert_conserved(&counters.bulk);
    }
    arrived.extend(all(&mut link));
    let counters = link.counters(now);
    assert_eq!(counters.total().queued.packets + counters.total().propagating.packets, 0);
    assert_eq!(counters.total().delivered.packets, arrived.len() as u64);
    (arrived, format!("{counters:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens, every packet has one fate, arrivals are in order of time, and the seed decides all.
    #[test]
    fn fates_add_up_and_follow_from_the_seed(
        seed: u64,
        jitter in 0u64..50,
        events in prop::collection::vec((0u64..40, event()), 1..300),
    ) {
        let config = LinkConfig {
            delay: Duration::from_micros(200),
            rate: Some(500_000_000),
            queue_bytes: 4000,
            loss: Loss::bursty(0.05, 3.0),
            duplicate: 0.05,
            reorder: 0.05,
            reorder_by: Duration::from_micros(60),
            jitter: Duration::from_micros(jitter),
        };
        let first = run(&config, seed, &events);
        prop_assert!(first.0.is_sorted_by_key(|(due, _)| *due));
        prop_assert_eq!(first, run(&config, seed, &events));
    }
}

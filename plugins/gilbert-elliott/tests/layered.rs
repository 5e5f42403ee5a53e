//! Layered interleaving against the real encoder and decoder: exactly, for the one-shot decoder on the
//! encoder's own wire, down to risks that no simulation reaches; and by simulation with the decoder.

use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_model_gilbert_elliott::own_risk;
use parhelion_plugin::{
    Channel, Encoder, ErasureCode, Exposure, Parameters, RecoveredSink, RepairHead, RepairSink, Structure,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const CODES: [&str; 6] = [
    "r=8 interleaves=1:11:101 delayed=1",
    "r=8 interleaves=1:11:41 delayed=1",
    "r=8 interleaves=1:11:101 delayed=0",
    "r=8 interleaves=1:19:41 delayed=1",
    "r=4 interleaves=2:9:25 delayed=0",
    "r=6 interleaves=1:20:40 delayed=1",
];

/// Packets in wire order, of which repairs know whether a flush sent them, and behind how many symbols.
struct Wire {
    packets: Vec<Packet>,
    encoder: Box<dyn Encoder>,
    structure: Structure,
    next: u64,
    run: u32,
    /// Slots that a flush pauses between two layers.
    pause: u32,
}

enum Packet {
    Source(u64),
    /// A slot in which nothing is sent.
    Pause,
    Repair {
        head: RepairHead,
        payload: Vec<u8>,
        flush_run: Option<u32>,
    },
}

struct Sink<'a>(&'a mut Vec<Packet>, Option<u32>);

impl RepairSink for Sink<'_> {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        self.0.push(Packet::Repair { head, payload: payload.to_vec(), flush_run: self.1 });
    }
}

impl Wire {
    fn new(code: &str, first: u64) -> Self {
        let parameters: Parameters = code.parse().unwrap();
        Self {
            packets: Vec::new(),
            encoder: LayeredInterleaving.encoder(&parameters, 8).unwrap(),
            structure: LayeredInterleaving.structure(&parameters).unwrap(),
            next: first,
            run: 0,
            pause: 0,
        }
    }

    fn pausing(mut self, pause: u32) -> Self {
        self.pause = pause;
        self
    }

    fn send(mut self, symbols: u64) -> Self {
        for _ in 0..symbols {
            let id = self.next;
            self.packets.push(Packet::Source(id));
            self.encoder.source(id, &id.to_le_bytes(), &mut Sink(&mut self.packets, None));
            self.next += 1;
            self.run += 1;
        }
        self
    }

    fn flush(mut self) -> Self {
        let run = self.run.min(self.structure.flush_run_max());
        let mut flushed = Vec::new();
        self.encoder.flush(&mut Sink(&mut flushed, Some(run)));
        let mut former = None;
        for packet in flushed {
            if let Packet::Repair { head, .. } = packet
                && former.replace(head.index).is_some_and(|former| former != head.index)
            {
                self.packets.extend((0..self.pause).map(|_| Packet::Pause));
            }
            self.packets.push(packet);
        }
        self.run = 0;
        self
    }

    /// What the link reports of symbols `first..first + symbols`.
    fn exposure(&self, first: u64, symbols: u32) -> Exposure {
        let mut masks = vec![0_u64; symbols as usize];
        let mut exposure = Exposure::steady(symbols, u64::MAX, 0);
        for packet in &self.packets {
            let Packet::Repair { head, flush_run, .. } = packet else { continue };
            for id in head.cover.ids().filter(|id| (first..first + u64::from(symbols)).contains(id)) {
                masks[(id - first) as usize] |= 1 << head.index;
                exposure.group_max = exposure.group_max.max(u32::from(head.cover.count));
                if let Some(run) = *flush_run {
                    let least = if exposure.flushed == 0 { run } else { exposure.flush_run.min(run) };
                    (exposure.flushed, exposure.flush_run) = (exposure.flushed | 1 << head.index, least);
                    exposure.flush_pause = self.pause;
                }
            }
        }
        exposure.coverage = masks.into_iter().fold(u64::MAX, |all, mask| all & mask);
        exposure
    }

    /// P(symbol `id` is lost, and each of its XORs lacks another packet), exactly.
    fn one_shot(&self, channel: &Channel, id: u64) -> f64 {
        let mut slots = std::collections::BTreeMap::<usize, usize>::new();
        let groups: Vec<_> = self
            .packets
            .iter()
            .enumerate()
            .filter_map(|(slot, packet)| match packet {
                Packet::Repair { head, .. } if head.cover.ids().any(|other| other == id) => {
                    Some((slot, head.cover))
                }
                _ => None,
            })
            .collect();
        for (n, (repair, cover)) in groups.iter().enumerate() {
            *slots.entry(*repair).or_default() |= 1 << n;
            for (slot, packet) in self.packets.iter().enumerate() {
                if matches!(packet, Packet::Source(other) if cover.ids().any(|member| member == *other)) {
                    *slots.entry(slot).or_default() |= 1 << n;
                }
            }
        }
        let own =
            self.packets.iter().position(|packet| matches!(packet, Packet::Source(at) if *at == id)).unwrap();
        let (alpha, beta, lost) = (channel.good_to_bad, channel.bad_to_good, channel.loss_in_bad);
        let mut ways = vec![[0.0; 2]; 1 << groups.len()];
        ways[0] = [1.0 - channel.bad_share(), channel.bad_share()];
        let mut at = None;
        for (&slot, &hits) in &slots {
            for _ in at.unwrap_or(slot)..slot {
                for [good, bad] in &mut ways {
                    (*good, *bad) =
                        (*good * (1.0 - alpha) + *bad * beta, *good * alpha + *bad * (1.0 - beta));
                }
            }
            at = Some(slot);
            let before = ways.clone();
            for way in &mut ways {
                *way = if slot == own { [0.0, way[1] * lost] } else { [way[0], way[1] * (1.0 - lost)] };
            }
            for (set, [_, bad]) in before.into_iter().enumerate().filter(|_| slot != own) {
                ways[set | hits][1] += bad * lost;
            }
        }
        ways[(1 << groups.len()) - 1].iter().sum()
    }
}

fn risk(channel: &Channel, wire: &Wire, exposure: &Exposure) -> f64 {
    own_risk(channel, &wire.structure, exposure).probability()
}

fn gilbert(good_to_bad: f64, bad_to_good: f64, loss_in_bad: f64) -> Channel {
    Channel { good_to_bad, bad_to_good, loss_in_bad, ..Channel::independent(0.0, 0.999) }
}

fn channels() -> Vec<(&'static str, Channel)> {
    vec![
        ("clean, burst 2, 4e-5", gilbert(4e-5, 0.5, 1.0)),
        ("clean, burst 2, 1e-5", gilbert(1e-5, 0.5, 1.0)),
        ("burst 5, 1e-3", Channel::bursty(1e-3, 5.0, 0.999)),
        ("burst 20, 1e-3", Channel::bursty(1e-3, 20.0, 0.999)),
        ("burst 10, 60 % lost", gilbert(1e-3, 0.1, 0.6)),
        ("burst 2, 5e-2", Channel::bursty(0.05, 2.0, 0.999)),
        ("independent, 1e-3", Channel::independent(1e-3, 0.999)),
        ("independent, 5e-2", Channel::independent(0.05, 0.999)),
    ]
}

/// Every symbol of a stream, and of the runs around flushes, is at most as much at risk as its figure says.
#[test]
fn no_symbol_of_a_real_wire_exceeds_its_figure() {
    for code in CODES {
        let steady = ("steady", Wire::new(code, 4000).send(2000), 4800..4890);
        let mut wires = vec![steady];
        for (what, former, run) in
            [("run 1", 40, 1), ("run 3", 7, 3), ("run 8", 100, 8), ("run 30", 60, 30), ("run 250", 120, 250)]
        {
            let first = 5000 + 3 * run;
            let wire = |pause| Wire::new(code, first).pausing(pause).send(former).flush().send(run).flush();
            let of_last = first + former + run.saturating_sub(120)..first + former + run;
            wires.push((what, wire(0), of_last.clone()));
            wires.push((what, wire(16), of_last));
        }
        for (name, channel) in channels() {
            for (what, wire, ids) in &wires {
                let (mut sum, mut figures, mut worst) = (0.0, 0.0, 0.0_f64);
                for id in ids.clone() {
                    let exact = wire.one_shot(&channel, id);
                    let figure = risk(&channel, wire, &wire.exposure(id, 1));
                    assert!(
                        exact <= figure * (1.0 + 1e-9),
                        "{code}, {name}, {what}, symbol {id}: {exact:e} is above {figure:e}"
                    );
                    (sum, figures, worst) = (sum + exact, figures + figure, worst.max(exact / figure));
                }
                let n = (ids.end - ids.start) as f64;
                println!(
                    "{code}, {name}, {what}: figure {:.2e}, exact {:.2e}, {:.1} times, at best {:.2}",
                    figures / n,
                    sum / n,
                    figures / sum,
                    1.0 / worst
                );
                // Not so high that it is useless, where the layers are as they should be. The largest factor is
                // that of a run so long that the repairs of two layers could be neighbours for another place.
                // With pauses the terms that count what two bursts do are all that is left, and they are rough.
                let most = if *what == "run 30" || wire.pause > 0 { 600.0 } else { 40.0 };
                if code == CODES[0] {
                    assert!(figures < most * sum, "{name}, {what}: {figures:e} for {sum:e}");
                }
            }
        }
    }
}

/// Any parameters, any rhythm of flushes.
#[test]
fn no_symbol_of_a_random_wire_exceeds_its_figure() {
    let mut rng = SmallRng::seed_from_u64(2011);
    for _ in 0..400 {
        let r = rng.random_range(1..10);
        let mut interleaves: Vec<u32> = (0..3).map(|_| rng.random_range(1..40)).collect();
        interleaves.sort_unstable();
        interleaves.dedup();
        let list: Vec<_> = interleaves.iter().map(u32::to_string).collect();
        let code = format!("r={r} interleaves={} delayed={}", list.join(":"), rng.random_range(0..2));
        let first = rng.random_range(0..5000);
        let mut wire = Wire::new(&code, first).pausing(rng.random_range(0..3) * rng.random_range(0..20));
        for _ in 0..rng.random_range(1..5) {
            let longest = [3, 12, 60, 200][rng.random_range(0..4_usize)];
            wire = wire.send(rng.random_range(1..=longest)).flush();
        }
        let loss_in_bad = if rng.random() { 1.0 } else { rng.random_range(0.1..1.0) };
        let alpha = 10_f64.powf(rng.random_range(-6.0..-0.7));
        let channel = gilbert(alpha, rng.random_range(0.02..1.0 - alpha), loss_in_bad);
        for _ in 0..20 {
            let id = rng.random_range(first..wire.next);
            let exact = wire.one_shot(&channel, id);
            // As a lone symbol, and as one of a larger append, of which the link can only tell the worst.
            let behind = rng.random_range(0..(wire.next - id).min(6)) as u32;
            let lone = wire.exposure(id, 1);
            let among = Exposure { symbols: 1, ..wire.exposure(id, 1 + behind) };
            for exposure in [lone, among] {
                let figure = risk(&channel, &wire, &exposure);
                assert!(
                    exact <= figure * (1.0 + 1e-9),
                    "{code}, {channel:?}, symbol {id}, {exposure:?}: {exact:e} is above {figure:e}"
                );
            }
        }
    }
}

struct Have(Vec<bool>, u64);

impl RecoveredSink for Have {
    fn recovered(&mut self, id: u64, payload: &[u8]) {
        assert_eq!(payload, id.to_le_bytes());
        self.0[(id - self.1) as usize] = true;
    }
}

/// What the real decoder makes of a wire, in many passages of the channel.
fn lost(
    code: &str,
    wire: &Wire,
    channel: &Channel,
    rng: &mut SmallRng,
    append: std::ops::Range<u64>,
) -> bool {
    let Some(Packet::Source(first)) = wire.packets.first() else { unreachable!() };
    let mut decoder = LayeredInterleaving.decoder(&code.parse().unwrap(), 8).unwrap();
    let mut have = Have(vec![false; (wire.next - first) as usize], *first);
    let mut bad = rng.random_bool(channel.bad_share());
    for packet in &wire.packets {
        let lost = bad && rng.random_bool(channel.loss_in_bad);
        bad ^= rng.random_bool(if bad { channel.bad_to_good } else { channel.good_to_bad });
        match packet {
            Packet::Pause => {}
            _ if lost => {}
            Packet::Source(id) => {
                have.0[(id - first) as usize] = true;
                decoder.source(*id, &id.to_le_bytes(), &mut have);
            }
            Packet::Repair { head, payload, .. } => decoder.repair(*head, payload, &mut have).unwrap(),
        }
    }
    have.0[(append.start - first) as usize..(append.end - first) as usize].contains(&false)
}

/// A stream that goes on behind an append, and one that is flushed there: the real decoder loses no more
/// appends than the figures allow.
#[test]
fn the_real_decoder_keeps_the_figures() {
    let code = CODES[0];
    let mut rng = SmallRng::seed_from_u64(2010);
    for (name, channel) in [
        ("independent", Channel::independent(0.05, 0.999)),
        ("burst 2", Channel::bursty(0.05, 2.0, 0.999)),
        ("burst 5", Channel::bursty(0.02, 5.0, 0.999)),
        ("burst 20", Channel::bursty(0.02, 20.0, 0.999)),
    ] {
        for (what, before, symbols, behind, pause) in [
            ("steady", 800, 8, 920, 0),
            ("flushed alone", 0, 3, 0, 0),
            ("flushed alone with pauses", 0, 3, 0, 16),
            ("flushed behind a stream", 200, 8, 0, 0),
        ] {
            let trials = match behind {
                0 if before == 0 => 40_000,
                0 => 3_000,
                _ => 400,
            };
            let (mut promised, mut seen) = (0.0, 0.0);
            // Offsets differ from wire to wire; a few are enough.
            for first in (0..40).map(|n| 10_000 + 13 * n) {
                let wire = Wire::new(code, first).pausing(pause).send(before + symbols + behind);
                let wire = if behind == 0 { wire.flush() } else { wire };
                let append = first + before..first + before + symbols;
                let figure = risk(&channel, &wire, &wire.exposure(append.start, symbols as u32));
                for _ in 0..trials / 40 {
                    promised += figure;
                    seen += f64::from(u8::from(lost(code, &wire, &channel, &mut rng, append.clone())));
                }
            }
            println!(
                "{name}, {what}: figure {:.2e}, seen {:.2e} in {trials}",
                promised / f64::from(trials),
                seen / f64::from(trials)
            );
            let allowed = promised + 5.0 * promised.sqrt().max(0.2);
            assert!(seen <= allowed, "{name}, {what}: {seen} lost, {promised} promised");
        }
    }
}

/// What a rented line is good for: 300 Mbit/s over 100 ms has 1700 source symbols in flight, and of all of
/// them together none is to be lost with more than 1e-6.
#[test]
fn a_clean_link_reaches_the_network_level() {
    let in_flight = 1700.0 / 3.0;
    let steady = Exposure::steady(3, 0b111, 8);
    for (interleaves, alpha, granted) in
        [([1, 11, 101], 4e-5, true), ([1, 11, 41], 4e-5, false), ([1, 11, 41], 1e-5, true)]
    {
        let code = Structure::Layered { r: 8, interleaves: interleaves.to_vec(), delayed: true };
        let figure = |exposure: &Exposure| own_risk(&gilbert(alpha, 0.5, 1.0), &code, exposure).probability();
        for (what, exposure) in [
            ("steady", steady),
            ("flushed behind a stream", Exposure { flushed: 0b111, flush_run: interleaves[2], ..steady }),
        ] {
            let figure = figure(&exposure);
            println!("{interleaves:?}, {alpha:e}, {what}: {figure:.2e}");
            assert_eq!(figure * in_flight < 1e-6, granted, "{interleaves:?}, {alpha:e}, {what}: {figure:e}");
        }
        // Alone, all that protects it leaves within seven slots: a burst that long is not that rare. A pause
        // between the layers makes it as rare as behind a stream.
        let alone = Exposure { flushed: 0b111, flush_run: 3, group_max: 3, ..steady };
        let paused = figure(&Exposure { flush_pause: 16, ..alone });
        println!(
            "{interleaves:?}, {alpha:e}, flushed alone: {:.2e}, with pauses {paused:.2e}",
            figure(&alone)
        );
        assert!(figure(&alone) > 100.0 * figure(&steady));
        assert!(paused < 10.0 * figure(&steady));
    }
}

//! Traces that are made, for tests and benchmarks: links that fit no formula.

use parhelion_model_monte_carlo::Chain;
use parhelion_plugin::Channel;
use parhelion_plugin::conformance::SplitMix64;
use parhelion_plugin::trial::Losses;

use crate::recording::Trace;

/// A trace with its story.
#[derive(Clone, Debug)]
pub struct NamedTrace {
    /// One word, for files and tables.
    pub name: &'static str,
    /// What link it is like.
    pub story: &'static str,
    /// The losses.
    pub trace: Trace,
}

/// Packets of each made trace.
pub const PACKETS: u64 = 2_000_000;

/// Packets per second that these links are thought to carry: 240 Mbit/s in packets of 1200 bytes.
pub const PACKETS_PER_SECOND: f64 = 25_000.0;

/// All made traces, the same every time.
#[must_use]
pub fn traces() -> Vec<NamedTrace> {
    let named = |name, story, trace| NamedTrace { name, story, trace };
    vec![
        named("periodic", "a policer that drops every 1000th packet", periodic(1000)),
        named(
            "bursts",
            "a full queue now and then: 0.1 % lost, 8 in a row on average",
            bursts(0.001, 8.0, 1),
        ),
        named(
            "spells",
            "interference: every 50 000 packets a spell of 40 single losses, one or two packets apart",
            spells(50_000, 40, 2),
        ),
        named("drift", "a line that loses between 0.001 % and 1 %, in bursts of 2, with the hours", drift(3)),
        named(
            "switch",
            "an optical protection switch: 50 ms of silence every 20 seconds",
            switch(0.05, 20.0),
        ),
    ]
}

/// Loses one packet in `period`.
#[must_use]
pub fn periodic(period: u32) -> Trace {
    let period = period.max(2);
    let mut trace = Trace::default();
    while trace.packets() < PACKETS && trace.push(false, period - 1) && trace.push(true, 1) {}
    trace
}

/// A Gilbert-Elliott channel that loses at rate `loss` in bursts of `burst` packets on average.
#[must_use]
pub fn bursts(loss: f64, burst: f64, seed: u64) -> Trace {
    let chain = Chain::new(&Channel::bursty(loss, burst, 0.999));
    let mut losses = Losses::default();
    losses.clear(PACKETS as usize);
    chain.pass(&mut losses, &mut SplitMix64::new(seed));
    Trace::from_losses((0..PACKETS as usize).map(|slot| losses.contains(slot)))
}

/// A spell every `every` packets on average: `losses` of single packets with one or two between them. Every counter of
/// neighbours takes them for independent.
#[must_use]
pub fn spells(every: u32, losses: u32, seed: u64) -> Trace {
    let mut random = SplitMix64::new(seed);
    let mut trace = Trace::default();
    while trace.packets() < PACKETS {
        let quiet = exponential(f64::from(every), &mut random);
        let mut has_room = trace.push(false, quiet);
        for _ in 0..losses {
            has_room = has_room && trace.push(true, 1) && trace.push(false, 1 + random.below(2) as u32);
        }
        if !has_room {
            break;
        }
    }
    trace
}

/// Bursts of two on average whose rate goes up and down between 1e-5 and 1e-2, as a day does, in the length of the trace.
#[must_use]
pub fn drift(seed: u64) -> Trace {
    let mut random = SplitMix64::new(seed);
    let mut trace = Trace::default();
    while trace.packets() < PACKETS {
        let hour = trace.packets() as f64 / PACKETS as f64;
        let rate = 1e-5 * 1000_f64.powf(0.5 - 0.5 * (std::f64::consts::TAU * hour).cos());
        // Short enough a step that the rate holds for it.
        let quiet = exponential(2.0 / rate, &mut random).min(20_000);
        let has_burst = quiet < 20_000;
        // Each packet of a burst is the last with one half.
        let lost = if has_burst { exponential(1.0 / std::f64::consts::LN_2, &mut random) } else { 0 };
        if !(trace.push(false, quiet) && trace.push(true, lost)) {
            break;
        }
    }
    trace
}

/// Silence of `outage` seconds, every `every` seconds.
#[must_use]
pub fn switch(outage: f64, every: f64) -> Trace {
    let packets = |seconds: f64| (seconds * PACKETS_PER_SECOND) as u32;
    let mut trace = Trace::default();
    while trace.packets() < PACKETS
        && trace.push(false, packets(every - outage).max(1))
        && trace.push(true, packets(outage).max(1))
    {}
    trace
}

/// At least 1.
fn exponential(mean: f64, random: &mut SplitMix64) -> u32 {
    let unit = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    1 + (-mean * (1.0 - unit).ln()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_traces_are_what_their_stories_say() {
        let all = traces();
        let rate = |name: &str| {
            let trace = &all.iter().find(|named| named.name == name).unwrap().trace;
            assert!(trace.packets() >= PACKETS, "{name}: {}", trace.packets());
            trace.lost() as f64 / trace.packets() as f64
        };
        assert_eq!(rate("periodic"), 0.001);
        assert!((0.0008..0.0012).contains(&rate("bursts")), "{}", rate("bursts"));
        assert!((0.0006..0.001).contains(&rate("spells")), "{}", rate("spells"));
        assert!((0.001..0.004).contains(&rate("drift")), "{}", rate("drift"));
        assert!((0.002..0.003).contains(&rate("switch")), "{}", rate("switch"));
        for named in &all {
            assert_eq!(named.trace.to_string().parse().as_ref(), Ok(&named.trace), "{}", named.name);
        }
    }
}

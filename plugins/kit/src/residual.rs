//! What stays lost of a stream, how late the rest comes, and what that costs: a code against a library of loss traces.
//!
//! The real encoder and decoder run; only the line is a trace. Every packet takes a slot, repairs too, so a code with more
//! overhead lives through more of the trace for the same data. The stream does not pause and is not flushed: what an
//! append at its end gains by a flush is the durability model's affair.

use parhelion_model_trace::Trace;
use parhelion_model_trace::library::{self, PACKETS_PER_SECOND};
use parhelion_plugin::conformance::SplitMix64;
use parhelion_plugin::{Code, Decoder, ParameterError, RecoveredSink, RepairHead, RepairSink};
use serde::Serialize;

/// A line that loses packets.
#[derive(Clone, Debug)]
pub struct Line {
    /// One word, for tables.
    pub name: &'static str,
    /// What it is like.
    pub story: &'static str,
    /// Which packets it loses.
    pub trace: Trace,
}

/// What a code makes of a line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Residual {
    /// Name, version and parameters.
    pub code: String,
    /// The line.
    pub line: &'static str,
    /// Repairs per source symbol, as sent.
    pub overhead: f64,
    /// Share of the source symbols that the line lost.
    pub lost: f64,
    /// Share of the source symbols that stayed lost.
    pub residual: f64,
    /// Milliseconds from the sending of a lost symbol until it was rebuilt, half of them; none if none was.
    pub delay_p50_ms: Option<f64>,
    /// The same for all but one in a hundred.
    pub delay_p99_ms: Option<f64>,
}

/// Slots of each line that are played.
const SLOTS: u64 = 500_000;

/// Small symbols: what can be rebuilt does not depend on their size.
const SYMBOL_BYTES: usize = 16;

/// The library: without memory, bursts, a policer, spells of single losses, outages; the same every time. At 25 000 packets
/// per second, as 240 Mbit/s in packets of 1200 bytes have.
#[must_use]
pub fn lines() -> Vec<Line> {
    let line = |name, story, trace| Line { name, story, trace };
    vec![
        line("independent", "1 % of the packets, without memory", library::bursts(0.01, 1.0, 1)),
        line("bursts-3", "1 % in bursts of 3 on average", library::bursts(0.01, 3.0, 2)),
        line("bursts-10", "1 % in bursts of 10 on average", library::bursts(0.01, 10.0, 3)),
        line("bursts-50", "1 % in bursts of 50 on average", library::bursts(0.01, 50.0, 4)),
        line("periodic", "a policer that drops every 101st packet", library::periodic(101)),
        line(
            "spells",
            "every 10 000 packets 40 single losses, one or two packets apart",
            library::spells(10_000, 40, 5),
        ),
        line("outages", "50 ms of silence every 4 seconds", library::switch(0.05, 4.0)),
    ]
}

/// Sends a stream with `code` over `line`.
///
/// # Errors
/// The code makes no encoder or decoder, or broke: why.
pub fn play(code: &Code, line: &Line) -> Result<Residual, ParameterError> {
    let mut encoder = code.encoder(SYMBOL_BYTES)?;
    let mut site = Site {
        decoder: code.decoder(SYMBOL_BYTES)?,
        losses: Box::new(line.trace.losses().collect::<Vec<_>>().into_iter().cycle()),
        slot: 0,
        repairs: 0,
        refused: 0,
        pending: Pending::default(),
    };
    let memory = code.structure().window_symbols().unwrap_or(1024) as u64;
    let mut id = 0_u64;
    while site.slot < SLOTS {
        let payload = contents(id);
        if site.arrives() {
            site.pending.slot = site.slot;
            site.decoder.source(id, &payload, &mut site.pending);
        } else {
            site.pending.sent.push_back((id, site.slot));
        }
        encoder.source(id, &payload, &mut site);
        id += 1;
        if id.is_multiple_of(256) {
            let floor = id.saturating_sub(memory);
            site.pending.give_up(floor);
            site.decoder.expire(floor);
        }
    }
    let sent = id;
    site.pending.give_up(sent.saturating_sub(code.structure().span_symbols()));
    // What was lost so late that its repairs never left is neither rebuilt nor given up.
    let judged = sent.saturating_sub(site.pending.sent.len() as u64).max(1) as f64;
    if let Some(fault) = encoder.fault().or(site.decoder.fault()) {
        return Err(ParameterError::Conflict(format!("{code} broke on {}: {fault}", line.name)));
    }
    let Pending { gone, wrong, mut delays, .. } = site.pending;
    if wrong > 0 || site.refused > 0 {
        return Err(ParameterError::Conflict(format!(
            "{code} rebuilt {wrong} wrong symbols and refused {} true repairs on {}; hold it against the conformance kit: \
             `parhelion plugin check`",
            site.refused, line.name
        )));
    }
    delays.sort_unstable();
    let percentile = |share: f64| {
        let at = ((delays.len() as f64 * share).ceil() as usize).saturating_sub(1);
        delays.get(at).map(|&slots| slots as f64 / PACKETS_PER_SECOND * 1e3)
    };
    Ok(Residual {
        code: code.to_string(),
        line: line.name,
        overhead: site.repairs as f64 / sent as f64,
        lost: (gone + delays.len() as u64) as f64 / judged,
        residual: gone as f64 / judged,
        delay_p50_ms: percentile(0.5),
        delay_p99_ms: percentile(0.99),
    })
}

/// The receiving site, and the line to it.
struct Site {
    decoder: Box<dyn Decoder>,
    losses: Box<dyn Iterator<Item = bool>>,
    slot: u64,
    repairs: u64,
    refused: u64,
    pending: Pending,
}

/// Symbols that were lost on the way.
#[derive(Default)]
struct Pending {
    /// Id and slot of those that may still be rebuilt, ascending.
    sent: std::collections::VecDeque<(u64, u64)>,
    slot: u64,
    /// Slots until each of the others was rebuilt.
    delays: Vec<u64>,
    /// How many were never rebuilt.
    gone: u64,
    /// Symbols that were rebuilt and are none of the lost ones, or have other bytes.
    wrong: u64,
}

impl Site {
    /// Passes one packet; whether it arrives.
    fn arrives(&mut self) -> bool {
        self.slot += 1;
        !self.losses.next().unwrap_or(false)
    }
}

impl RepairSink for Site {
    fn repair(&mut self, head: RepairHead, payload: &[u8]) {
        self.repairs += 1;
        if self.arrives() {
            self.pending.slot = self.slot;
            let taken = self.decoder.repair(head, payload, &mut self.pending);
            self.refused += u64::from(taken.is_err());
        }
    }
}

impl Pending {
    /// Nothing below `floor` is rebuilt any more.
    fn give_up(&mut self, floor: u64) {
        while self.sent.front().is_some_and(|&(id, _)| id < floor) {
            self.sent.pop_front();
            self.gone += 1;
        }
    }
}

impl RecoveredSink for Pending {
    fn recovered(&mut self, id: u64, payload: &[u8]) {
        let found =
            self.sent.binary_search_by_key(&id, |&(id, _)| id).ok().and_then(|at| self.sent.remove(at));
        match found {
            Some((_, sent)) if payload == contents(id) => self.delays.push(self.slot - sent),
            _ => self.wrong += 1,
        }
    }
}

/// What a symbol carries.
fn contents(id: u64) -> [u8; SYMBOL_BYTES] {
    let mut random = SplitMix64::new(id);
    let mut bytes = [0; SYMBOL_BYTES];
    bytes[..8].copy_from_slice(&random.next_u64().to_le_bytes());
    bytes[8..].copy_from_slice(&random.next_u64().to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parhelion_plugin::Parameters;
    use parhelion_plugin_host::Catalogue;

    use super::*;

    fn code(name: &str, parameters: &str) -> Code {
        let family = Catalogue::built_in().code(name).unwrap();
        Code::new(Arc::clone(&family), &parameters.parse::<Parameters>().unwrap()).unwrap()
    }

    #[test]
    fn residual_losses_are_those_that_the_codes_leave() {
        let lines = lines();
        let play = |name, parameters, line: &str| {
            let line = lines.iter().find(|it| it.name == line).unwrap();
            play(&code(name, parameters), line).unwrap()
        };
        let none = play("none", "", "independent");
        assert!((0.009..0.011).contains(&none.residual) && none.overhead == 0.0, "{none:?}");
        assert_eq!((none.lost, none.delay_p50_ms), (none.residual, None));
        // P(5 or more of 11 are lost) is 4e-8 for a block, and the policer never takes two of one.
        for line in ["independent", "periodic"] {
            let found = play("reed-solomon", "r=8 c=3", line);
            assert!(found.residual < 2e-5 && found.lost > 0.009, "{found:?}");
            assert!((0.37..0.38).contains(&found.overhead), "{found:?}");
            assert!(found.delay_p99_ms.unwrap() <= 11.0 / 25.0 + 1e-9, "{found:?}");
        }
        // A copy of each symbol halves nothing on a line that is silent for longer than the spacing.
        let copies = play("repetition", "copies=1 spacing=10", "outages");
        assert!((0.9..=1.0).contains(&(copies.residual / copies.lost)), "{copies:?}");
        let layered = play("layered-interleaving", "", "bursts-10");
        assert!(layered.residual < layered.lost / 20.0, "{layered:?}");
    }
}

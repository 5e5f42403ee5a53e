//! What a decoder makes of repair symbols that no encoder sent.
//!
//! The link seals its datagrams, so what reaches a decoder is what the other site sent; but a decoder that trusts this is
//! one mistake away from a wrong symbol, and plugins make mistakes. What a code cannot know is whether the bytes of a repair
//! were changed: symbols carry checksums for that.

use crate::code::{Cover, RecoveredSink, RepairHead, Structure};
use crate::conformance::random::SplitMix64;
use crate::conformance::stream::{Outcome, PacketKind, Stream, Traffic};
use crate::conformance::trial::{SYMBOL_BYTES, Trial};

/// Repairs that no encoder sent are refused and change nothing.
pub(super) fn damage(trial: &mut Trial<'_>) -> Result<(), String> {
    let symbols = (2 * trial.span() + 9).min(trial.half_window());
    let stream = trial.encode(Traffic { first: 1 << 33, symbols, ..Traffic::default() })?;
    let indices = trial.structure.repairs_per_symbol();
    let mut decoder = trial.decoder()?;
    let mut outcome = Outcome::new(&stream);
    let lost = trial.random.below(symbols);
    let mut seed = trial.random.clone();
    for at in 0..stream.packets.len() {
        if let PacketKind::Repair(head) = stream.packets[at].kind {
            let payload = stream.payload(&stream.packets[at]);
            for (head, payload) in damaged(head, payload, indices, &mut seed) {
                if decoder.repair(head, &payload, &mut outcome).is_ok() {
                    return Err(format!("accepted {head:?} with {} bytes", payload.len()));
                }
                trial.report.refused += 1;
            }
        }
        if at != stream.sources[lost] {
            outcome.arrive(decoder.as_mut(), at)?;
        }
    }
    let missing = outcome.missing();
    if indices > 0 && !missing.is_empty() {
        return Err(format!("damaged repairs cost symbols {missing:?}"));
    }
    cut_before_its_group(trial)?;
    spoiled(trial)
}

/// A repair that was cut off and comes before its group: when the longer symbols come, it is known to be none, and nothing
/// is rebuilt of it. Only one, since a code that solves equations mixes it with others before that can be seen.
fn cut_before_its_group(trial: &mut Trial<'_>) -> Result<(), String> {
    let symbols = (2 * trial.span() + 9).min(trial.half_window());
    let stream = trial.encode(Traffic { first: 77, symbols, ..Traffic::default() })?;
    for _ in 0..trial.some(24, 4) {
        let lost = stream.sources[trial.random.below(symbols)];
        let repairs = covering(&stream, lost);
        let Some(&(at, head)) = repairs.get(trial.random.below(repairs.len())) else { return Ok(()) };
        if head.cover.count < 2 {
            continue;
        }
        let mut decoder = trial.decoder()?;
        let mut outcome = Outcome::new(&stream);
        let payload = stream.payload(&stream.packets[at]);
        let bytes = 1 + trial.random.below(payload.len() - 1);
        let taken = decoder.repair(head, &payload[..bytes], &mut outcome).is_ok();
        trial.report.refused += u64::from(!taken);
        for at in stream.sources.iter().copied().filter(|&at| at != lost) {
            outcome.arrive(decoder.as_mut(), at)?;
        }
        trial.report.patterns += 1;
    }
    Ok(())
}

/// A repair with a changed byte says nothing of symbols that are there, and speaks of no other than the lost one.
fn spoiled(trial: &mut Trial<'_>) -> Result<(), String> {
    struct Only(u64, Result<(), String>);
    impl RecoveredSink for Only {
        fn recovered(&mut self, id: u64, payload: &[u8]) {
            if id != self.0 || payload.is_empty() || payload.len() > SYMBOL_BYTES {
                self.1 = Err(format!("a changed repair gave symbol {id} of {} bytes", payload.len()));
            }
        }
    }
    let symbols = (2 * trial.span() + 9).min(trial.half_window());
    let stream = trial.encode(Traffic { first: 99, symbols, ..Traffic::default() })?;
    for round in 0..trial.some(24, 4) {
        let at = trial.random.below(symbols);
        let (lost, id) = (stream.sources[at], stream.first + at as u64);
        let repairs = covering(&stream, lost);
        let Some(&(repair, head)) = repairs.get(trial.random.below(repairs.len())) else { return Ok(()) };
        let all_here = round % 2 == 0;
        let mut decoder = trial.decoder()?;
        let mut sink = Only(id, Ok(()));
        for at in (0..symbols).map(|at| stream.sources[at]).filter(|&at| all_here || at != lost) {
            let PacketKind::Source(id) = stream.packets[at].kind else { continue };
            decoder.source(id, stream.payload(&stream.packets[at]), &mut sink);
        }
        let mut payload = stream.payload(&stream.packets[repair]).to_vec();
        let byte = trial.random.below(payload.len());
        payload[byte] ^= 1 << trial.random.below(8);
        if all_here {
            sink.0 = u64::MAX;
        }
        // It cannot be told from a true one; but one with nothing left to repair may as well be refused.
        let _ = decoder.repair(head, &payload, &mut sink);
        sink.1?;
        if let Some(fault) = decoder.fault() {
            return Err(format!("a changed byte broke the decoder: {fault}"));
        }
        trial.report.patterns += 1;
    }
    Ok(())
}

/// The repairs that include the source symbol at `source`.
fn covering(stream: &Stream, source: usize) -> Vec<(usize, RepairHead)> {
    let PacketKind::Source(id) = stream.packets[source].kind else { return vec![] };
    let repair = |at: usize| match stream.packets[at].kind {
        PacketKind::Repair(head) if head.cover.ids().any(|covered| covered == id) => Some((at, head)),
        _ => None,
    };
    (0..stream.packets.len()).filter_map(repair).collect()
}

/// Ways to spoil a repair so that its head or its size gives it away.
fn damaged(
    head: RepairHead,
    payload: &[u8],
    indices: u32,
    random: &mut SplitMix64,
) -> Vec<(RepairHead, Vec<u8>)> {
    let with = |change: &dyn Fn(&mut RepairHead)| {
        let mut head = head;
        change(&mut head);
        (head, payload.to_vec())
    };
    let other_stride =
        head.cover.stride.wrapping_add(1 + random.below(usize::from(u16::MAX) - 1) as u16).max(1);
    let mut damaged = vec![
        (head, vec![]),
        (head, vec![1; SYMBOL_BYTES + 1]),
        with(&|head| head.cover.count = 0),
        with(&|head| head.cover.count = u16::MAX),
        with(&|head| head.cover.stride = 0),
        with(&|head| head.index = u8::MAX),
        with(&|head| head.index = indices as u8),
        with(&|head| {
            head.cover.first = u64::MAX;
            head.cover.count = head.cover.count.max(2);
        }),
    ];
    if head.cover.count > 1 {
        // All but one symbol of the stream are held, so the group shows that this is too short.
        damaged.push((head, payload[..payload.len() - 1].to_vec()));
        damaged.push((head, payload[..1 + random.below(payload.len() - 1)].to_vec()));
    }
    if head.cover.count > 1 && other_stride != head.cover.stride {
        // A single symbol has no neighbour, and a code may ignore the stride.
        damaged.push(with(&|head| head.cover.stride = other_stride));
    }
    damaged
}

/// Random heads and payloads: refused or accepted, but no panic, and no report of an expired symbol.
pub(super) fn noise(trial: &mut Trial<'_>) -> Result<(), String> {
    struct Floor(u64, Result<(), String>);
    impl RecoveredSink for Floor {
        fn recovered(&mut self, id: u64, payload: &[u8]) {
            if id < self.0 || payload.is_empty() || payload.len() > SYMBOL_BYTES {
                self.1 = Err(format!("noise made symbol {id} of {} bytes; floor {}", payload.len(), self.0));
            }
        }
    }
    let strides: Vec<u16> = match &trial.structure {
        Structure::Layered { interleaves, .. } => interleaves.iter().map(|&i| i as u16).collect(),
        Structure::Block { depth, .. } => vec![*depth as u16],
        _ => vec![1],
    };
    for _ in 0..trial.some(4, 1) {
        let mut decoder = trial.decoder()?;
        let mut sink = Floor(0, Ok(()));
        let random = &mut trial.random;
        for n in 0..5_000_u64 {
            let near = random.below(600) as u64;
            // Ids far away come last: they move the window for good.
            let first = match random.below(8) {
                0 if n > 4_500 => random.next_u64(),
                1 if n > 4_500 => u64::MAX - near,
                _ => n / 8 + near,
            };
            let bytes = vec![random.next_u64() as u8; random.below(SYMBOL_BYTES + 2)];
            match random.below(20) {
                0 => {
                    sink.0 = sink.0.max(n / 8);
                    decoder.expire(sink.0);
                }
                1..8 => decoder.source(first, &bytes, &mut sink),
                _ => {
                    let stride = strides[random.below(strides.len())];
                    let cover = Cover { first, stride, count: random.below(10) as u16 };
                    let head = RepairHead { cover, index: random.below(4) as u8 };
                    // Whether it fits is the code's to say; here it must only survive it.
                    let _ = decoder.repair(head, &bytes, &mut sink);
                }
            }
        }
        if let Some(fault) = decoder.fault() {
            return Err(format!("noise broke the decoder: {fault}"));
        }
        sink.1?;
    }
    Ok(())
}

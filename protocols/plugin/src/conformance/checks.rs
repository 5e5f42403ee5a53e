//! The single promises, each a function of a [`Trial`].

use crate::code::{Cover, Decoder, ErasureCode, RecoveredSink, RepairHead, Structure};
use crate::conformance::random::SplitMix64;
use crate::conformance::stream::{Outcome, PacketKind, Stream, Traffic};
use crate::conformance::{Burst, Report, burst_recovered, losses_recovered};
use crate::parameters::Parameters;

/// Every check with the name of the promise it tests, cheap ones first.
pub(super) const ALL: [(&str, Check); 11] = [
    ("schema", schema),
    ("determinism", determinism),
    ("coverage", coverage),
    ("coverage claims", coverage_claims),
    ("losses", losses),
    ("bursts", bursts),
    ("order and duplicates", order),
    ("heavy loss", heavy_loss),
    ("first ids", first_ids),
    ("expiry", expiry),
    ("damage", damage),
];

/// Says what is wrong.
type Check = fn(&mut Trial<'_>) -> Result<(), String>;

/// Packets that one check may decode: a second or so.
const PACKETS_PER_CHECK: usize = 6_000_000;

/// Small symbols keep the kit fast; the odd size leaves a tail for vector loops.
const SYMBOL_BYTES: usize = 19;

/// A code under test.
pub(super) struct Trial<'a> {
    code: &'a dyn ErasureCode,
    parameters: &'a Parameters,
    structure: Structure,
    random: SplitMix64,
    pub report: Report,
}

impl<'a> Trial<'a> {
    pub fn new(code: &'a dyn ErasureCode, parameters: &'a Parameters, seed: u64) -> Result<Self, String> {
        let structure = code.structure(parameters).map_err(|e| e.to_string())?;
        let report = Report { exhaustive: true, ..Report::default() };
        Ok(Self { code, parameters, structure, random: SplitMix64::new(seed), report })
    }

    fn encode(&mut self, traffic: Traffic) -> Result<Stream, String> {
        self.report.streams += 1;
        let traffic = Traffic { symbol_bytes: SYMBOL_BYTES, seed: self.random.next_u64(), ..traffic };
        Stream::encode(self.code, self.parameters, &traffic).map_err(|e| e.to_string())
    }

    fn decoder(&self) -> Result<Box<dyn Decoder>, String> {
        self.code.decoder(self.parameters, SYMBOL_BYTES).map_err(|e| e.to_string())
    }

    /// Delivers `order` to a new decoder; what stayed missing.
    fn deliver(
        &mut self,
        stream: &Stream,
        order: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<u64>, String> {
        let mut decoder = self.decoder()?;
        let mut outcome = Outcome::new(stream);
        for at in order {
            outcome.arrive(decoder.as_mut(), at)?;
        }
        self.report.patterns += 1;
        self.report.recovered += outcome.recovered;
        Ok(outcome.missing())
    }

    /// Delivers all but `lost`, which is sorted; everything must be rebuilt.
    fn survive(&mut self, stream: &Stream, lost: &[usize]) -> Result<(), String> {
        let order = (0..stream.packets.len()).filter(|at| lost.binary_search(at).is_err());
        let missing = self.deliver(stream, order)?;
        if missing.is_empty() {
            return Ok(());
        }
        let lost: Vec<_> = lost.iter().take(20).map(|&at| stream.packets[at].kind).collect();
        Err(format!("lost {lost:?} and could not rebuild {missing:?}"))
    }

    fn span(&self) -> usize {
        self.structure.span_symbols() as usize
    }

    /// Symbols that fit a decoder's window whatever the order they come in.
    fn half_window(&self) -> usize {
        self.structure.window_symbols().unwrap_or(0) / 2
    }
}

fn schema(trial: &mut Trial<'_>) -> Result<(), String> {
    let (code, symbol_bytes) = (trial.code, SYMBOL_BYTES);
    if trial.structure.window_symbols().is_none() {
        return Err("the window exceeds what a decoder may keep".to_owned());
    }
    let refused = |parameters: &Parameters| {
        code.structure(parameters).is_err()
            && code.encoder(parameters, symbol_bytes).is_err()
            && code.decoder(parameters, symbol_bytes).is_err()
    };
    if !refused(&trial.parameters.clone().with("no-such-parameter", &[1])) {
        return Err("accepts an unknown parameter".to_owned());
    }
    for parameter in code.parameters() {
        let inside = parameter.min..=parameter.max;
        if parameter.default.is_empty() || !parameter.default.iter().all(|v| inside.contains(v)) {
            return Err(format!("the default of {} is outside its range", parameter.name));
        }
        let above = parameter.max.checked_add(1);
        for value in parameter.min.checked_sub(1).into_iter().chain(above) {
            if !refused(&trial.parameters.clone().with(parameter.name, &[value])) {
                return Err(format!("accepts {}={value}", parameter.name));
            }
        }
    }
    Ok(())
}

fn determinism(trial: &mut Trial<'_>) -> Result<(), String> {
    let traffic =
        Traffic { symbols: 2 * trial.span() + 3, uneven: true, flush_chance: 0.02, ..Traffic::default() };
    let seed = trial.random.clone();
    let one = trial.encode(traffic)?;
    trial.random = seed;
    let other = trial.encode(traffic)?;
    if one == other { Ok(()) } else { Err("the same input gave other repairs".to_owned()) }
}

/// Heads and sizes of repairs; every symbol under each index exactly once, in time, and after each flush.
fn coverage(trial: &mut Trial<'_>) -> Result<(), String> {
    let span = trial.span();
    for (flush_chance, symbols) in
        [(0.0, 3 * span + 5), (0.01, 3 * span + 5), (0.3, span + 40), (1.0, span + 9)]
    {
        let stream = trial.encode(Traffic { symbols, uneven: true, flush_chance, ..Traffic::default() })?;
        covered(&trial.structure, &stream)?;
    }
    // A flush after any number of symbols: the stream ends with one.
    for symbols in 1..=(span + 1).min(300) {
        let stream = trial.encode(Traffic { symbols, uneven: true, ..Traffic::default() })?;
        covered(&trial.structure, &stream)?;
    }
    overhead(trial)
}

/// Without flushes the repairs are as many as the structure says, give or take the two ends.
fn overhead(trial: &mut Trial<'_>) -> Result<(), String> {
    let symbols = 20 * trial.span().max(8);
    let stream = trial.encode(Traffic { symbols, ..Traffic::default() })?;
    let repairs = (stream.packets.len() - symbols) as f64;
    let expected = trial.structure.overhead() * symbols as f64;
    let ends = f64::from(trial.structure.repairs_per_symbol()) * trial.span() as f64 * 2.0;
    if repairs + 0.5 < expected || repairs > expected + ends {
        return Err(format!("{repairs} repairs for {symbols} symbols, expected about {expected:.0}"));
    }
    Ok(())
}

fn covered(structure: &Structure, stream: &Stream) -> Result<(), String> {
    let mut coverage = vec![0_u64; stream.symbols()];
    let mut sent = 0;
    for packet in &stream.packets {
        let head = match packet.kind {
            PacketKind::Source(_) => {
                sent += 1;
                continue;
            }
            PacketKind::Repair(head) => head,
        };
        let RepairHead { cover, index } = head;
        let fault = |what: &str| Err(format!("{head:?} after {sent} symbols {what}"));
        if cover.stride == 0 || cover.count == 0 || u32::from(index) >= structure.repairs_per_symbol() {
            return fault("is not a head");
        }
        if cover.first < stream.first || cover.last() >= stream.first + sent {
            return fault("covers what was not sent");
        }
        if stream.first + sent - 1 - cover.first > structure.span_symbols() {
            return fault("is later than the span");
        }
        let longest = cover.ids().filter_map(|id| stream.symbol(id)).map(<[u8]>::len).max().unwrap_or(0);
        if stream.payload(packet).len() != longest.max(1) {
            return fault("is not as long as the longest symbol of its group");
        }
        for id in cover.ids() {
            let bits = &mut coverage[(id - stream.first) as usize];
            if *bits & (1 << index) != 0 {
                return fault("covers a symbol twice");
            }
            *bits |= 1 << index;
        }
    }
    match coverage.iter().position(|&bits| bits != structure.full_coverage()) {
        Some(n) => Err(format!("symbol {n} of {sent} has coverage {:#b} after a flush", coverage[n])),
        None => Ok(()),
    }
}

/// Each bit of a symbol's coverage is worth what it says: that repair alone rebuilds the symbol.
fn coverage_claims(trial: &mut Trial<'_>) -> Result<(), String> {
    for flush_chance in [0.0, 0.1] {
        let symbols = (2 * trial.span() + 3).min(trial.half_window());
        let stream = trial.encode(Traffic { symbols, uneven: true, flush_chance, ..Traffic::default() })?;
        // Each try decodes the stream once per repair that covers the symbol.
        let decodes = trial.structure.repairs_per_symbol().max(1) as usize;
        let tries = symbols.min(PACKETS_PER_CHECK / 16 / (stream.packets.len() * decodes)).max(8);
        for _ in 0..tries {
            let id = trial.random.below(symbols) as u64;
            let covers = |at: &usize, id: u64| match stream.packets[*at].kind {
                PacketKind::Source(source) => source == id,
                PacketKind::Repair(head) => head.cover.ids().any(|covered| covered == id),
            };
            let lost: Vec<_> = (0..stream.packets.len()).filter(|at| covers(at, id)).collect();
            for &kept in lost.iter().filter(|&&at| !stream.is_source(at)) {
                let lost: Vec<_> = lost.iter().copied().filter(|&at| at != kept).collect();
                trial.survive(&stream, &lost)?;
            }
        }
    }
    Ok(())
}

/// Every pattern of the promised number of losses on short streams; random ones where there are too many.
fn losses(trial: &mut Trial<'_>) -> Result<(), String> {
    let losses = losses_recovered(&trial.structure) as usize;
    let span = trial.span();
    for (symbols, flush_chance) in [(1, 0.0), (span / 2 + 1, 0.0), (span + 1, 0.2), (2 * span + 1, 0.0)] {
        let stream = trial.encode(Traffic { symbols, uneven: true, flush_chance, ..Traffic::default() })?;
        let packets = stream.packets.len();
        let tries = PACKETS_PER_CHECK / packets;
        if patterns(packets, losses).is_some_and(|patterns| patterns <= tries) {
            // Fewer losses are easier (what arrives only adds equations), so the largest patterns are enough.
            let mut lost: Vec<usize> = (0..losses.min(packets)).collect();
            loop {
                trial.survive(&stream, &lost)?;
                if !advance(&mut lost, packets) {
                    break;
                }
            }
            continue;
        }
        trial.report.exhaustive = false;
        for _ in 0..tries.min(4_000) {
            // Losses near each other meet in groups; losses anywhere would mostly be alone.
            let near = (losses + 1) << trial.random.below(12);
            let start = trial.random.below(packets.saturating_sub(near) + 1);
            let mut lost: Vec<_> = (start..packets.min(start + near)).collect();
            trial.random.shuffle(&mut lost);
            lost.truncate(losses);
            lost.sort_unstable();
            trial.survive(&stream, &lost)?;
        }
    }
    Ok(())
}

/// Subsets of `k` of `n`, unless there are too many to count.
fn patterns(n: usize, k: usize) -> Option<usize> {
    (0..k.min(n)).try_fold(1_usize, |count, taken| Some(count.checked_mul(n - taken)? / (taken + 1)))
}

/// The next subset in lexicographic order; false after the last.
fn advance(subset: &mut [usize], n: usize) -> bool {
    let k = subset.len();
    let Some(at) = (0..k).rev().find(|&at| subset[at] < n - k + at) else {
        return false;
    };
    let next = subset[at] + 1;
    for (offset, value) in subset[at..].iter_mut().enumerate() {
        *value = next + offset;
    }
    true
}

/// Every burst of the promised length, at every place that the budget allows.
fn bursts(trial: &mut Trial<'_>) -> Result<(), String> {
    let span = trial.span();
    let stream = trial.encode(Traffic { symbols: 4 * span + 8, uneven: true, ..Traffic::default() })?;
    let packets = stream.packets.len();
    // After the burst, symbols keep coming until everything that covers its last symbol has left.
    let places = 2 * span + 8;
    let step = (places * packets / PACKETS_PER_CHECK).max(1);
    for start in (0..places).step_by(step) {
        let lost: Vec<usize> = match burst_recovered(&trial.structure) {
            Burst::Packets(count) => (start..start + count as usize).collect(),
            // Shorter bursts lose less, so the longest is enough.
            Burst::Sources(count) if count > 0 => {
                let before = start.checked_sub(1).map_or(0, |before| stream.sources[before] + 1);
                (before..stream.sources[start + count as usize]).collect()
            }
            Burst::Sources(_) => vec![],
        };
        trial.survive(&stream, &lost)?;
    }
    Ok(())
}

/// What is rebuilt depends on what arrives, not on when, nor on how often.
fn order(trial: &mut Trial<'_>) -> Result<(), String> {
    for round in 0..12 {
        let flush_chance = [0.0, 0.05][round % 2];
        let symbols = trial.half_window().min(4096);
        let stream = trial.encode(Traffic { symbols, uneven: true, flush_chance, ..Traffic::default() })?;
        let loss = [0.02, 0.1, 0.2][round % 3];
        let mut arrived: Vec<_> = (0..stream.packets.len()).filter(|_| !trial.random.chance(loss)).collect();
        let missing = trial.deliver(&stream, arrived.iter().copied())?;
        let twice: Vec<_> = arrived.iter().copied().filter(|_| trial.random.chance(0.3)).collect();
        arrived.extend(twice);
        trial.random.shuffle(&mut arrived);
        let again = trial.deliver(&stream, arrived)?;
        if missing != again {
            return Err(format!("in order {} symbols stayed lost, shuffled {}", missing.len(), again.len()));
        }
    }
    Ok(())
}

/// Far more losses than promised, long bursts, and late packets: nothing wrong is ever reported.
fn heavy_loss(trial: &mut Trial<'_>) -> Result<(), String> {
    for round in 0..8_u64 {
        let symbols = 4 * trial.half_window().min(4096);
        let flush_chance = [0.0, 0.1][(round % 2) as usize];
        let stream = trial.encode(Traffic {
            first: round << 40,
            symbols,
            uneven: true,
            flush_chance,
            ..Traffic::default()
        })?;
        let mut lost = false;
        let mut arrived: Vec<_> = (0..stream.packets.len())
            .filter(|_| {
                lost = if lost { !trial.random.chance(0.05) } else { trial.random.chance(0.05) };
                !lost
            })
            .collect();
        for at in 0..arrived.len() {
            if trial.random.chance(0.01) {
                let late = trial.random.below(arrived.len());
                arrived.swap(at, late);
            }
        }
        trial.deliver(&stream, arrived)?;
    }
    Ok(())
}

/// Ids may start anywhere, up to the last ids there are.
fn first_ids(trial: &mut Trial<'_>) -> Result<(), String> {
    let symbols = 2 * trial.span() + 9;
    let highest = u64::MAX - symbols as u64;
    let anywhere = trial.random.next_u64() >> 1;
    for first in [1, anywhere, u64::MAX / 2 - 3, u64::from(u32::MAX) - 2, highest] {
        let stream = trial.encode(Traffic {
            first,
            symbols,
            uneven: true,
            flush_chance: 0.02,
            ..Traffic::default()
        })?;
        covered(&trial.structure, &stream)?;
        let losses = losses_recovered(&trial.structure) as usize;
        for _ in 0..8 {
            let start = trial.random.below(stream.packets.len().saturating_sub(losses) + 1);
            let lost: Vec<_> = (start..stream.packets.len().min(start + losses)).collect();
            trial.survive(&stream, &lost)?;
        }
    }
    Ok(())
}

/// An expired symbol is not reported; its neighbours still are, with its help.
fn expiry(trial: &mut Trial<'_>) -> Result<(), String> {
    let recovers = trial.structure.repairs_per_symbol() > 0;
    let symbols = 2 * trial.span() + 9;
    let stream = trial.encode(Traffic { first: 7, symbols, uneven: true, ..Traffic::default() })?;
    for n in 0..40 {
        let at = trial.random.below(symbols);
        let id = stream.first + at as u64;
        let gone = n % 2 == 0;
        let mut decoder = trial.decoder()?;
        let mut outcome = Outcome::new(&stream);
        for packet in 0..stream.packets.len() {
            if packet == stream.sources[at] {
                // The watermark of delivery stands at the lost symbol, or has been moved past it.
                let floor = if gone { id + 1 } else { id };
                decoder.expire(floor);
                outcome.floor = floor;
            } else {
                outcome.arrive(decoder.as_mut(), packet)?;
            }
        }
        let missing = outcome.missing();
        if missing.is_empty() != (recovers && !gone) {
            return Err(format!(
                "symbol {id} of {symbols}, expired: {gone}; missing in the end: {missing:?}"
            ));
        }
        trial.report.recovered += outcome.recovered;
    }
    Ok(())
}

/// Repairs that no encoder sent are refused and change nothing.
fn damage(trial: &mut Trial<'_>) -> Result<(), String> {
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
    noise(trial)
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
    }
    if head.cover.count > 1 && other_stride != head.cover.stride {
        // A single symbol has no neighbour, and a code may ignore the stride.
        damaged.push(with(&|head| head.cover.stride = other_stride));
    }
    damaged
}

/// Random heads and payloads: refused or accepted, but no panic, and no report of an expired symbol.
fn noise(trial: &mut Trial<'_>) -> Result<(), String> {
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
    for _ in 0..4 {
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
        sink.1?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_complete() {
        let mut subset = vec![0, 1];
        let mut seen = vec![subset.clone()];
        while advance(&mut subset, 4) {
            seen.push(subset.clone());
        }
        assert_eq!(seen, [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]);
        assert_eq!(patterns(4, 2), Some(6));
        assert_eq!(patterns(30, 3), Some(4060));
        assert_eq!(patterns(3, 5), Some(1));
    }
}

//! What writers append: lone appends, streams, and batches that fill the line, to several logs.

use std::time::Duration;

use parhelion_types::{LogId, RecordKey, Time};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::line::Line;
use crate::link::KEY_BYTES;
use crate::loss::exponential;

/// An endless sequence of appends, of 1 to 50 symbols each.
///
/// Spells of three kinds follow one another: appends so far apart that each is alone; a stream at 5 to 30 % of the line,
/// with pauses of any length; and a batch of 200 to 1500 symbols handed over at one instant, which keeps the line full
/// until it is done. Codes of three times the volume still leave room for all of it.
#[derive(Debug)]
pub struct Traffic {
    rng: SmallRng,
    packet_time: Duration,
    spell: Spell,
    spell_end: Time,
    next: Time,
    numbers: [u64; LOGS as usize],
}

/// An append that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its record.
    pub key: RecordKey,
    /// Its length.
    pub bytes: usize,
    /// Its source symbols.
    pub symbols: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Spell {
    Lone,
    /// Share of the line that source symbols take.
    Stream(f64),
    /// Symbols that are left of the batch.
    Batch(u32),
}

/// Logs that are written to; every third append goes to the first of them, and has more before it that must arrive too.
pub const LOGS: u32 = 16;

impl Traffic {
    /// Traffic from `now` on.
    #[must_use]
    pub fn new(line: &Line, now: Time, rng: SmallRng) -> Self {
        let packet_time = line.packet_time;
        let numbers = [0; LOGS as usize];
        let mut traffic = Self { rng, packet_time, spell: Spell::Lone, spell_end: now, next: now, numbers };
        traffic.begin_spell(now);
        traffic
    }

    /// When the next append is due.
    #[must_use]
    pub fn next(&self) -> Time {
        self.next
    }

    /// The append that is due now.
    pub fn take(&mut self) -> Due {
        let now = self.next;
        let symbols = self.symbols();
        match &mut self.spell {
            Spell::Lone => self.next = now + exponential(&mut self.rng, self.packet_time * LONE_GAP),
            Spell::Stream(share) => {
                let mean = self.packet_time.mul_f64(f64::from(symbols) / *share);
                self.next = now + exponential(&mut self.rng, mean);
            }
            Spell::Batch(left) => *left = left.saturating_sub(symbols),
        }
        if self.next > self.spell_end || self.spell == Spell::Batch(0) {
            self.begin_spell(self.next.max(self.spell_end));
        }
        // The last symbol is seldom full.
        let last = self.rng.random_range(KEY_BYTES..=Line::DATA_BYTES);
        let bytes = (symbols as usize - 1) * Line::DATA_BYTES + last;
        let log = if self.rng.random_range(0..3) == 0 { 0 } else { self.rng.random_range(1..LOGS) };
        let number = self.numbers[log as usize];
        self.numbers[log as usize] += 1;
        Due { key: RecordKey { log: LogId(log), number }, bytes, symbols }
    }

    fn begin_spell(&mut self, now: Time) {
        self.next = now;
        let length = match self.rng.random_range(0..20) {
            0..=9 => {
                self.spell = Spell::Lone;
                exponential(&mut self.rng, self.packet_time * (6 * LONE_GAP))
            }
            10..=18 => {
                self.spell = Spell::Stream(self.rng.random_range(0.05..0.3));
                exponential(&mut self.rng, self.packet_time * 500)
            }
            _ => {
                let symbols = self.rng.random_range(200..1500);
                self.spell = Spell::Batch(symbols);
                // Time to carry it with its repairs.
                self.packet_time * (symbols * 2)
            }
        };
        self.spell_end = now + length;
    }

    /// Few sizes, as real writers have.
    fn symbols(&mut self) -> u32 {
        const SIZES: [u32; 16] = [1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 8, 8, 16, 25, 50];
        SIZES[self.rng.random_range(0..SIZES.len())]
    }
}

/// Packet times between lone appends, on average: longer than a flush with its pauses.
const LONE_GAP: u32 = 150;

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn appends_are_dense_in_their_logs_and_leave_room_on_the_line() {
        let line = Line::of_latency(Duration::from_millis(10));
        let start = Time::from_nanos(5);
        let mut traffic = Traffic::new(&line, start, SmallRng::seed_from_u64(1));
        let mut numbers = [0; LOGS as usize];
        let (mut symbols, mut alone, mut at_once) = (0, 0, 0);
        let mut last = start;
        for _ in 0..100_000 {
            let at = traffic.next();
            let due = traffic.take();
            assert!(at >= last && (1..=50).contains(&due.symbols));
            assert_eq!(due.bytes.div_ceil(Line::DATA_BYTES), due.symbols as usize);
            assert_eq!(due.key.number, numbers[due.key.log.0 as usize]);
            numbers[due.key.log.0 as usize] += 1;
            symbols += u64::from(due.symbols);
            alone += u32::from(at.since(last) > line.packet_time * 60);
            at_once += u32::from(at == last);
            last = at;
        }
        let load = symbols as f64 * line.packet_time.as_secs_f64() / last.since(start).as_secs_f64();
        assert!((0.1..0.3).contains(&load), "{load} of the line");
        assert!(alone > 20_000 && at_once > 20_000, "{alone} alone, {at_once} at once");
    }
}

//! The bound of the link's buffer, with a store beside the primary that reads what it is asked for.

use std::collections::BTreeMap;

use parhelion_log::Record;
use parhelion_mirror::{Backlog, Effect, Input, PrimaryConfig};
use parhelion_types::limits::APPEND_BYTES_MAX;
use parhelion_types::{Degrade, Durability, LogAddress, LogId, RecordKey};
use parhelion_wire::link::LogMarkV1;
use proptest::prelude::*;

use crate::backlog::{Asked, reads};
use crate::bed::{Bed, LOG, config, create, mark, up_with};

/// A primary with its store and its mirror.
struct World {
    bed: Bed,
    /// The end of the one record of [`LOG`] that both sites have from the start.
    start: LogAddress,
    buffer_bytes: usize,
    requests: u128,
    /// All records that were written, by log; those of [`LOG`] begin with number 1.
    written: BTreeMap<RecordKey, Record>,
    durable: BTreeMap<LogId, u64>,
    sent: BTreeMap<LogId, u64>,
    confirmed: BTreeMap<LogId, u64>,
    asked: Vec<Asked>,
    /// Most bytes that were sent and not confirmed, or being read for that, at a time.
    peak: usize,
}

impl World {
    /// Some logs more than [`LOG`], without a link.
    fn new(buffer_bytes: usize, more: u32) -> Self {
        let config = PrimaryConfig { link_buffer_bytes_max: buffer_bytes, ..config() };
        let bed = Bed::start(config, Degrade::Block, (1, 1), None);
        let mut world = Self {
            start: bed.primary.log(LOG).unwrap().end,
            bed,
            buffer_bytes,
            requests: 0,
            written: BTreeMap::new(),
            durable: BTreeMap::from([(LOG, 1)]),
            sent: BTreeMap::from([(LOG, 1)]),
            confirmed: BTreeMap::from([(LOG, 1)]),
            asked: Vec::new(),
            peak: 0,
        };
        for log in (1..=more).map(LogId) {
            let (token, name) = (1_000_000 + u64::from(log.0), format!("log {log}"));
            world.step(|bed| bed.step(create(token, log, &name)));
            world.make_durable(log);
        }
        world
    }

    fn link_up(&mut self) {
        let end = self.start;
        self.step(|bed| up_with(bed, vec![mark(1, end, 0)]));
    }

    fn logs(&self) -> Vec<LogId> {
        self.durable.keys().copied().collect()
    }

    fn step(&mut self, step: impl FnOnce(&mut Bed) -> Vec<Effect>) {
        for effect in step(&mut self.bed) {
            match &effect {
                Effect::Write { record, .. } => {
                    self.written.insert(record.header.key(), record.clone());
                    self.durable.entry(record.header.log).or_default();
                }
                Effect::Send { key, record, .. } => {
                    let next = self.sent.entry(key.log).or_default();
                    assert_eq!(key.number, *next, "in order");
                    assert_eq!(*record, self.written[key].bytes());
                    *next += 1;
                }
                Effect::ReadBacklog { .. } => self.asked.extend(reads(&[effect])),
                _ => {}
            }
        }
        let unconfirmed = self.written.iter().filter(|(key, _)| {
            let confirmed = self.confirmed.get(&key.log).copied().unwrap_or_default();
            (confirmed..self.sent.get(&key.log).copied().unwrap_or_default()).contains(&key.number)
        });
        let held: usize = unconfirmed.map(|(_, record)| record.bytes().len()).sum();
        assert_eq!(self.bed.primary.unconfirmed_bytes(), held);
        let reading: usize = self.asked.iter().map(|asked| asked.bytes_max).sum();
        self.peak = self.peak.max(held + reading);
    }

    fn append(&mut self, log: LogId, durability: Durability, bytes: usize) {
        self.requests += 1;
        let request = self.requests;
        self.step(|bed| bed.append_to(log, durability, bytes, request));
    }

    fn make_durable(&mut self, log: LogId) {
        let records = self.bed.primary.log(log).unwrap().records;
        self.durable.insert(log, records);
        self.step(|bed| bed.step(Input::Durable { log, records }));
    }

    /// Answers the oldest read, as the store does.
    fn answer(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let Asked { log, from, bytes_max, session } = self.asked.remove(0);
        let durable = self.durable[&log];
        let of_log = self.written.values().filter(|record| record.header.log == log);
        let mut records =
            of_log.filter(|r| r.header.address >= from && r.header.number < durable).cloned().peekable();
        let first = records.peek().expect("what is read for the mirror is there").bytes().len();
        let read = if first > bytes_max {
            Backlog::Larger(first)
        } else {
            let fits = |left: &mut usize, record: Record| {
                *left = left.checked_sub(record.bytes().len())?;
                Some(record)
            };
            Backlog::Records(records.scan(bytes_max, fits).collect())
        };
        self.step(|bed| bed.step(Input::Backlog { log, session, read }));
    }

    /// The mirror confirms all that was sent to it of a log.
    fn confirm(&mut self, log: LogId) {
        let records = self.sent.get(&log).copied().unwrap_or_default();
        self.confirmed.insert(log, records);
        let Some(last) = self.written.get(&RecordKey { log, number: records.wrapping_sub(1) }) else {
            return;
        };
        let end = last.header.next_address();
        let mark = LogMarkV1 { log: log.0, ..mark(records, end, 0) };
        self.step(|bed| bed.step(Input::Mirrored(vec![mark])));
    }

    /// Everything is written, read, sent and confirmed that can be; true if that was all.
    fn drain(&mut self) -> bool {
        for _ in 0..4 * self.written.len() + 8 {
            for log in self.logs() {
                self.make_durable(log);
                self.confirm(log);
            }
            self.answer();
        }
        self.logs().iter().all(|&log| {
            let log = self.bed.primary.log(log).unwrap();
            log.mirrored == log.records && log.feed == "live"
        })
    }

    /// What the bound allows: a record larger than a quarter of the buffer may have so much more.
    fn allowed(&self) -> usize {
        let largest = self.written.values().map(|record| record.bytes().len()).max().unwrap_or(0);
        self.buffer_bytes + largest.saturating_sub(self.buffer_bytes / 4)
    }
}

/// Each log's read is asked for 4 MiB at first, and would bring 16 MiB.
#[test]
fn logs_that_are_behind_with_the_largest_appends_stay_within_the_buffer() {
    const LOGS: u32 = 6;
    let buffer = 64 << 20;
    let mut world = World::new(buffer, LOGS);
    for log in (1..=LOGS).map(LogId) {
        world.append(log, Durability::Local, APPEND_BYTES_MAX - 104);
        world.make_durable(log);
    }
    world.link_up();
    assert!(world.asked.len() > 1, "several logs are read at the same time: {:?}", world.asked);
    // Nothing is confirmed until no more is sent.
    for _ in 0..100 {
        world.answer();
    }
    let held = world.bed.primary.unconfirmed_bytes();
    assert!((32 << 20..48 << 20).contains(&held), "most of three quarters are used: {held}");
    assert!(world.drain());
    assert!(world.peak <= buffer, "{} bytes", world.peak);
}

#[test]
fn records_larger_than_the_buffer_go_one_at_a_time() {
    let mut world = World::new(64 << 10, 3);
    for log in (1..=3).map(LogId) {
        world.append(log, Durability::Remote, 100_000);
        world.make_durable(log);
    }
    world.link_up();
    for _ in 0..100 {
        world.answer();
    }
    let held = world.bed.primary.unconfirmed_bytes();
    assert!((100_000..110_000).contains(&held), "one goes, with the creations: {held}");
    assert!(world.drain());
    assert!(world.peak <= world.allowed(), "{} bytes, {} allowed", world.peak, world.allowed());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Append(u32, Durability, usize),
    Durable(u32),
    Answer,
    Confirm(u32),
    LinkUp,
}

fn step() -> impl Strategy<Value = Step> {
    let log = || 0_u32..4;
    let level = prop_oneof![Just(Durability::Local), Just(Durability::Network), Just(Durability::Remote)];
    let bytes = prop_oneof![4 => 1_usize..4000, 2 => 10_000_usize..16_000, 1 => 16_000_usize..90_000];
    prop_oneof![
        6 => (log(), level, bytes).prop_map(|(log, level, bytes)| Step::Append(log, level, bytes)),
        4 => log().prop_map(Step::Durable),
        3 => Just(Step::Answer),
        2 => log().prop_map(Step::Confirm),
        1 => Just(Step::LinkUp),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Whatever is appended and in whatever order it becomes durable, is read and is confirmed: the bound holds, and
    /// everything gets to the mirror.
    #[test]
    fn the_bound_holds_and_nothing_is_held_up_for_ever(steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new(64 << 10, 3);
        let mut is_up = false;
        for step in steps {
            match step {
                Step::Append(log, level, bytes) => world.append(LogId(log), level, bytes),
                Step::Durable(log) => world.make_durable(LogId(log)),
                Step::Answer => world.answer(),
                Step::Confirm(log) if is_up => world.confirm(LogId(log)),
                Step::LinkUp if !is_up => {
                    is_up = true;
                    world.link_up();
                }
                Step::Confirm(_) | Step::LinkUp => {}
            }
            prop_assert!(world.peak <= world.allowed(), "{} bytes, {} allowed", world.peak, world.allowed());
        }
        if !is_up {
            world.link_up();
        }
        prop_assert!(world.drain());
        prop_assert!(world.peak <= world.allowed());
    }
}

//! How one log is being fed to the mirror, and who may put how much into the link's buffer.

use std::collections::VecDeque;
use std::ops::{AddAssign, SubAssign};

use parhelion_types::LogAddress;

/// Where the records that go to the mirror come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feed {
    /// No session: nothing is sent.
    Off,
    /// The mirror cannot take the log in this session. Appends are announced all the same, so that none is
    /// lost unnamed.
    Refused,
    /// Every record is sent as it is appended.
    Live,
    /// The mirror is behind, or the link's buffer was full: records come from the log.
    CatchUp {
        /// Number of the next record to send.
        number: u64,
        /// Its address.
        address: LogAddress,
        /// Whether the log is being read.
        reading: Reading,
    },
}

/// Whether a log that feeds the mirror is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// No: there was no room so far, or it is not durable yet.
    Idle,
    /// The store was asked.
    UnderWay(Class),
    /// It could not be read, and is read again when a pause is over.
    Paused,
}

/// Whether somebody waits until a record has left this site or is at the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// An append at the level `network` or `remote` that is not acknowledged, or what its log has before it.
    Awaited,
    /// All else.
    Other,
}

impl Class {
    pub fn of(is_awaited: bool) -> Self {
        if is_awaited { Self::Awaited } else { Self::Other }
    }
}

/// Bytes of both classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    awaited: usize,
    other: usize,
}

/// The link's buffer. Neither class takes more than three quarters of it, so each finds a quarter that the other one
/// leaves: records that nobody waits for cannot hold up those of any log that somebody waits for, and are not starved
/// by them.
#[derive(Debug)]
pub(crate) struct LinkBuffer {
    bytes_max: usize,
    /// Sent and not confirmed.
    held: Bytes,
    /// Asked of the log, to be sent when it has been read.
    reading: Bytes,
}

/// Records of one log that were sent and not confirmed, in order, and what was asked of the log.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    records: VecDeque<(u64, Class, usize)>,
    reading: Bytes,
}

impl Bytes {
    pub fn of(class: Class, bytes: usize) -> Self {
        match class {
            Class::Awaited => Self { awaited: bytes, other: 0 },
            Class::Other => Self { awaited: 0, other: bytes },
        }
    }

    fn class(self, class: Class) -> usize {
        match class {
            Class::Awaited => self.awaited,
            Class::Other => self.other,
        }
    }

    fn total(self) -> usize {
        self.awaited + self.other
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, more: Self) {
        self.awaited += more.awaited;
        self.other += more.other;
    }
}

impl SubAssign for Bytes {
    fn sub_assign(&mut self, less: Self) {
        self.awaited -= less.awaited;
        self.other -= less.other;
    }
}

impl LinkBuffer {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, held: Bytes::default(), reading: Bytes::default() }
    }

    /// Bytes sent and not confirmed.
    pub fn held(&self) -> usize {
        self.held.total()
    }

    /// What is always left to a class by the other one, but for what one record has too much. A record that is larger than
    /// this goes when there is so much room, because there may never be more. Then there is none until the mirror has
    /// confirmed it, so that only one record at a time is beyond the bound.
    pub fn share_min(&self) -> usize {
        self.bytes_max / 4
    }

    /// Bytes that records of a class may take now.
    pub fn room(&self, class: Class) -> usize {
        let of_all = self.held.total() + self.reading.total();
        let of_class = self.held.class(class) + self.reading.class(class);
        let share_max = self.bytes_max - self.share_min();
        self.bytes_max.saturating_sub(of_all).min(share_max.saturating_sub(of_class))
    }

    /// Forgets everything: the session is over.
    pub fn clear(&mut self) {
        (self.held, self.reading) = (Bytes::default(), Bytes::default());
    }
}

impl InFlight {
    /// Records that were sent and are not confirmed.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// A record is sent.
    pub fn push(&mut self, buffer: &mut LinkBuffer, number: u64, class: Class, bytes: usize) {
        buffer.held += Bytes::of(class, bytes);
        self.records.push_back((number, class, bytes));
    }

    /// The log is asked for so many bytes. They have room from now on, however many others ask as well.
    pub fn ask(&mut self, buffer: &mut LinkBuffer, class: Class, bytes: usize) {
        self.reading += Bytes::of(class, bytes);
        buffer.reading += Bytes::of(class, bytes);
    }

    /// The log has answered.
    pub fn answered(&mut self, buffer: &mut LinkBuffer) {
        buffer.reading -= std::mem::take(&mut self.reading);
    }

    /// Forgets the records below `number`.
    pub fn confirm(&mut self, buffer: &mut LinkBuffer, number: u64) {
        while let Some((_, class, bytes)) = self.records.pop_front_if(|&mut (first, ..)| first < number) {
            buffer.held -= Bytes::of(class, bytes);
        }
    }

    /// Forgets everything: the log is fed no more.
    pub fn clear(&mut self, buffer: &mut LinkBuffer) {
        self.confirm(buffer, u64::MAX);
        self.answered(buffer);
    }

    /// Forgets everything, with a session that is over for all logs.
    pub fn reset(&mut self) {
        self.records.clear();
        self.reading = Bytes::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Send(usize, Class, usize),
        Ask(usize, Class),
        Answer(usize),
        Confirm(usize, u64),
        Clear(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let log = 0_usize..3;
        let class = || prop_oneof![Just(Class::Awaited), Just(Class::Other)];
        prop_oneof![
            8 => (log.clone(), class(), 1_usize..400).prop_map(|(l, c, b)| Step::Send(l, c, b)),
            3 => (log.clone(), class()).prop_map(|(l, c)| Step::Ask(l, c)),
            3 => log.clone().prop_map(Step::Answer),
            2 => (log.clone(), 0_u64..40).prop_map(|(l, n)| Step::Confirm(l, n)),
            1 => log.prop_map(Step::Clear),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        /// Whatever the logs do, neither class goes beyond its share, each finds at least a quarter as long as it takes
        /// none, and what is given back is what was taken.
        #[test]
        fn neither_class_takes_what_is_left_to_the_other(steps in prop::collection::vec(step(), 1..200)) {
            let mut buffer = LinkBuffer::new(1000);
            let mut logs: [InFlight; 3] = Default::default();
            let mut next = [0_u64; 3];
            for step in steps {
                match step {
                    Step::Send(log, class, bytes) => {
                        if bytes <= buffer.room(class) {
                            logs[log].push(&mut buffer, next[log], class, bytes);
                            next[log] += 1;
                        }
                    }
                    Step::Ask(log, class) => {
                        let room = buffer.room(class);
                        if logs[log].reading == Bytes::default() && room >= buffer.share_min() {
                            logs[log].ask(&mut buffer, class, room);
                        }
                    }
                    Step::Answer(log) => logs[log].answered(&mut buffer),
                    Step::Confirm(log, number) => logs[log].confirm(&mut buffer, number),
                    Step::Clear(log) => logs[log].clear(&mut buffer),
                }
                for (class, other) in [(Class::Awaited, Class::Other), (Class::Other, Class::Awaited)] {
                    let taken = |class| buffer.held.class(class) + buffer.reading.class(class);
                    prop_assert!(taken(class) <= 750 && taken(class) + taken(other) <= 1000);
                    prop_assert!(taken(class) > 0 || buffer.room(class) >= 250);
                }
                let sent = logs.iter().flat_map(|log| &log.records).map(|(_, _, bytes)| bytes);
                prop_assert_eq!(buffer.held(), sent.sum::<usize>());
            }
        }
    }
}

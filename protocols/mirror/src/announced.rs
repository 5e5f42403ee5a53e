//! Announcements of appends that are not here: what a promotion lists as missing.

use std::collections::BTreeMap;

use parhelion_types::{LogAddress, LogId};
use parhelion_wire::Announcement;

/// Most announcements kept of all logs. A promise of an exact list of losses holds for up to this many.
const ALL_MAX: usize = 4 << 20;

/// Most announcements kept of a log that is not applied any more. Its primary goes on, so they would only grow.
const REFUSED_MAX: usize = 1 << 16;

/// Announcements by log. Where there are too many, the oldest of a refused log or of the log with the most go first,
/// and are counted.
#[derive(Debug)]
pub(crate) struct Announced {
    logs: BTreeMap<LogId, OfLog>,
    all: usize,
    all_max: usize,
    refused_max: usize,
}

/// How many announcements of a log are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// All that there is room for: the log is applied, and they go away by themselves.
    All,
    /// A few: the log is refused.
    Few,
}

#[derive(Debug, Default)]
struct OfLog {
    kept: BTreeMap<LogAddress, Announcement>,
    /// How many were dropped.
    dropped: u64,
    /// All that lies below was dropped or applied. Each announcement comes several times; what is dropped must not come
    /// back, and is counted once.
    floor: LogAddress,
}

impl Kept {
    pub fn of(is_refused: bool) -> Self {
        if is_refused { Self::Few } else { Self::All }
    }
}

impl Default for Announced {
    fn default() -> Self {
        Self::limited(ALL_MAX, REFUSED_MAX)
    }
}

impl Announced {
    fn limited(all_max: usize, refused_max: usize) -> Self {
        Self { logs: BTreeMap::new(), all: 0, all_max, refused_max }
    }

    /// Takes one. Returns a log of which it was the first to be dropped, if so.
    pub fn insert(&mut self, announcement: Announcement, kept: Kept) -> Option<LogId> {
        let (id, address) = (announcement.log, announcement.address);
        let log = self.logs.entry(id).or_default();
        if address < log.floor || log.kept.insert(address, announcement).is_some() {
            return None;
        }
        self.all += 1;
        let (overflowing, count) = match kept {
            Kept::Few if log.kept.len() > self.refused_max => (id, 1),
            _ if self.all > self.all_max => self.largest()?,
            _ => return None,
        };
        self.drop_oldest(overflowing, count).then_some(overflowing)
    }

    /// Keeps of a log what is kept of a refused one. Returns whether it is the first time that one of it is dropped.
    pub fn trim(&mut self, id: LogId) -> bool {
        let surplus = self.count_kept(id).saturating_sub(self.refused_max);
        surplus > 0 && self.drop_oldest(id, surplus)
    }

    /// Everything of the log below `end` is here.
    pub fn applied(&mut self, id: LogId, end: LogAddress) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        while let Some(first) = log.kept.first_entry().filter(|first| *first.key() < end) {
            first.remove();
            self.all -= 1;
        }
        if end >= log.floor {
            log.dropped = 0;
        }
        if log.kept.is_empty() && log.dropped == 0 {
            self.logs.remove(&id);
        }
    }

    /// The log was cut back: what comes after the cut is announced again, at addresses that were used before.
    pub fn rewound(&mut self, id: LogId) {
        if let Some(log) = self.logs.get_mut(&id) {
            (log.dropped, log.floor) = (0, LogAddress::default());
        }
    }

    /// How many appends of a log are announced and not here.
    pub fn count(&self, id: LogId) -> usize {
        let dropped = self.logs.get(&id).map_or(0, |log| log.dropped);
        self.count_kept(id).saturating_add(usize::try_from(dropped).unwrap_or(usize::MAX))
    }

    /// Those that are kept, in the order of their logs and addresses.
    pub fn iter(&self) -> impl Iterator<Item = &Announcement> {
        self.logs.values().flat_map(|log| log.kept.values())
    }

    /// How many were dropped.
    pub fn unlisted(&self) -> u64 {
        self.logs.values().map(|log| log.dropped).sum()
    }

    fn count_kept(&self, id: LogId) -> usize {
        self.logs.get(&id).map_or(0, |log| log.kept.len())
    }

    /// The log with the most, and how many of it to drop: several, because looking at all logs takes time.
    fn largest(&self) -> Option<(LogId, usize)> {
        let (&id, log) = self.logs.iter().max_by_key(|(_, log)| log.kept.len())?;
        Some((id, (log.kept.len() / 64).max(1)))
    }

    fn drop_oldest(&mut self, id: LogId, count: usize) -> bool {
        let Some(log) = self.logs.get_mut(&id) else { return false };
        let is_first = log.dropped == 0;
        for _ in 0..count {
            let Some((address, _)) = log.kept.pop_first() else { break };
            log.floor = LogAddress { offset: address.offset.saturating_add(1), ..address };
            log.dropped += 1;
            self.all -= 1;
        }
        is_first && log.dropped > 0
    }
}

#[cfg(test)]
mod tests {
    use parhelion_types::{Epoch, RequestId};

    use super::*;

    fn announcement(log: u32, offset: u32) -> Announcement {
        Announcement {
            log: LogId(log),
            address: LogAddress::new(0, offset),
            length: 8,
            epoch: Epoch(0),
            digest: 0,
            request: RequestId(0),
        }
    }

    fn offsets(announced: &Announced, log: u32) -> Vec<u32> {
        announced.iter().filter(|a| a.log == LogId(log)).map(|a| a.address.offset).collect()
    }

    #[test]
    fn a_refused_log_keeps_its_newest_and_counts_each_of_the_others_once() {
        let mut announced = Announced::limited(100, 3);
        for offset in [8, 16, 24] {
            assert_eq!(announced.insert(announcement(0, offset), Kept::Few), None);
        }
        assert_eq!(announced.insert(announcement(0, 32), Kept::Few), Some(LogId(0)));
        assert_eq!(announced.insert(announcement(0, 40), Kept::Few), None, "told once");
        // Their copies.
        for offset in [8, 16, 24, 32, 40] {
            announced.insert(announcement(0, offset), Kept::Few);
        }
        assert_eq!(offsets(&announced, 0), [24, 32, 40]);
        assert_eq!((announced.unlisted(), announced.count(LogId(0))), (2, 5));
        // It was mended, and goes on.
        announced.applied(LogId(0), LogAddress::new(0, 32));
        assert_eq!((announced.unlisted(), announced.count(LogId(0)), announced.all), (0, 2, 2));
    }

    #[test]
    fn a_log_that_becomes_refused_gives_room_back() {
        let mut announced = Announced::limited(100, 3);
        for n in 1..=10 {
            announced.insert(announcement(0, 8 * n), Kept::All);
        }
        assert_eq!(announced.unlisted(), 0);
        assert!(announced.trim(LogId(0)));
        assert!(!announced.trim(LogId(0)));
        assert_eq!(offsets(&announced, 0), [64, 72, 80]);
        assert_eq!((announced.unlisted(), announced.all), (7, 3));
        // A log that is cut back uses addresses again.
        announced.insert(announcement(0, 16), Kept::All);
        assert_eq!(announced.all, 3, "dropped, and a copy");
        announced.rewound(LogId(0));
        announced.insert(announcement(0, 16), Kept::All);
        assert_eq!((offsets(&announced, 0), announced.unlisted()), (vec![16, 64, 72, 80], 0));
    }

    #[test]
    fn the_log_with_the_most_gives_way_whatever_its_number() {
        let mut announced = Announced::limited(10, 3);
        for n in 1..=3 {
            announced.insert(announcement(0, 8 * n), Kept::All);
            announced.insert(announcement(9, 8 * n), Kept::All);
        }
        for n in 1..=20 {
            announced.insert(announcement(5, 8 * n), Kept::All);
        }
        assert_eq!((offsets(&announced, 0), offsets(&announced, 9)), (vec![8, 16, 24], vec![8, 16, 24]));
        assert_eq!(offsets(&announced, 5), [136, 144, 152, 160]);
        assert_eq!((announced.unlisted(), announced.all), (16, 10));
    }

    #[test]
    fn what_is_applied_is_forgotten() {
        let mut announced = Announced::default();
        for n in 1..=3 {
            announced.insert(announcement(0, 8 * n), Kept::All);
        }
        announced.applied(LogId(0), LogAddress::new(1, 0));
        assert_eq!((announced.all, announced.count(LogId(0)), announced.logs.len()), (0, 0, 0));
    }
}

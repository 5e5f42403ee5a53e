//! Sends every announcement several times, so that a lost packet leaves no append unannounced.
//!
//! The first copy leaves in the turn in which it was asked for; further copies follow a few milliseconds
//! apart, each in another packet, so that one loss burst does not take all of them. Copies ride along
//! with newer announcements where there is room.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use parhelion_types::{RecordKey, Time};
use parhelion_wire::link::AnnounceV1;
use parhelion_wire::{ANNOUNCEMENT_BYTES, Announcement, WireError, frame};

/// The announcements of one session.
#[derive(Debug)]
pub(crate) struct Announcer {
    session: u64,
    /// Copies of each announcement beyond the first.
    repeats: u32,
    spacing: Duration,
    batch_max: usize,
    number: u64,
    fresh: VecDeque<(RecordKey, [u8; ANNOUNCEMENT_BYTES])>,
    /// Announcements that owe copies, by the time of the next one.
    owed: VecDeque<Owed>,
    /// Keys whose first copy is in a datagram: position of the datagram, and the keys in it.
    sent: VecDeque<(u64, Vec<RecordKey>)>,
    /// Keys on the wire that have not left the site yet.
    leaving: VecDeque<(Time, Vec<RecordKey>)>,
    site_exit_delay: Duration,
}

#[derive(Debug)]
struct Owed {
    due: Time,
    copies: u32,
    bytes: [u8; ANNOUNCEMENT_BYTES],
}

/// Bytes of an announcing datagram before its announcements: the envelope and two numbers.
const HEAD_BYTES: usize = parhelion_wire::ENVELOPE_BYTES + 16;

/// Copies due within this time leave together: one packet for many, at the price of uneven spacing.
const COALESCE: Duration = Duration::from_micros(500);

impl Announcer {
    /// For datagrams of at most `datagram_bytes`. `copies` counts the first one in.
    pub(crate) fn new(
        session: u64,
        datagram_bytes: usize,
        copies: u32,
        spacing: Duration,
        site_exit_delay: Duration,
    ) -> Self {
        Self {
            session,
            repeats: copies.saturating_sub(1),
            spacing,
            batch_max: (datagram_bytes.saturating_sub(HEAD_BYTES) / ANNOUNCEMENT_BYTES).max(1),
            number: 0,
            fresh: VecDeque::new(),
            owed: VecDeque::new(),
            sent: VecDeque::new(),
            leaving: VecDeque::new(),
            site_exit_delay,
        }
    }

    /// Announces a record.
    pub(crate) fn announce(&mut self, key: RecordKey, announcement: &Announcement) {
        self.fresh.push_back((key, announcement.to_bytes()));
    }

    /// The next datagram that is due. Its position among all datagrams of this announcer counts from 0.
    pub(crate) fn poll_datagram(&mut self, now: Time) -> Result<Option<Bytes>, WireError> {
        let due = now + COALESCE;
        if self.fresh.is_empty() && self.owed.front().is_none_or(|owed| owed.due > now) {
            return Ok(None);
        }
        let mut payload = Vec::with_capacity(self.batch_max * ANNOUNCEMENT_BYTES);
        let count = self.fresh.len().min(self.batch_max);
        let mut keys = Vec::with_capacity(count);
        let mut owing = Vec::with_capacity(self.batch_max);
        for (key, bytes) in self.fresh.drain(..count) {
            payload.extend_from_slice(&bytes);
            keys.push(key);
            owing.push((self.repeats, bytes));
        }
        for _ in count..self.batch_max {
            let Some(owed) = self.owed.pop_front_if(|owed| owed.due <= due) else { break };
            payload.extend_from_slice(&owed.bytes);
            owing.push((owed.copies - 1, owed.bytes));
        }
        // All get the same next time, so the queue stays sorted.
        let due = now + self.spacing;
        self.owed.extend(owing.into_iter().filter(|(copies, _)| *copies > 0).map(|(copies, bytes)| Owed {
            due,
            copies,
            bytes,
        }));
        let head = frame(&AnnounceV1 { session: self.session, number: self.number }, &payload, 0)?;
        if !keys.is_empty() {
            self.sent.push_back((self.number, keys));
        }
        self.number += 1;
        let mut datagram = Vec::with_capacity(head.len() + payload.len());
        datagram.extend_from_slice(&head);
        datagram.extend_from_slice(&payload);
        Ok(Some(datagram.into()))
    }

    /// All datagrams below `position` have left the host.
    pub(crate) fn handle_left(&mut self, now: Time, position: u64) {
        while let Some((_, keys)) = self.sent.pop_front_if(|(number, _)| *number < position) {
            self.leaving.push_back((now + self.site_exit_delay, keys));
        }
    }

    /// Records whose announcement has left the site, appended to `out`.
    pub(crate) fn poll_announced(&mut self, now: Time, out: &mut Vec<RecordKey>) {
        while let Some((_, mut keys)) = self.leaving.pop_front_if(|(at, _)| *at <= now) {
            out.append(&mut keys);
        }
    }

    /// When the next copy is due, or the next announcement leaves the site.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let copy = self.owed.front().map(|owed| owed.due);
        let exit = self.leaving.front().map(|(at, _)| *at);
        [copy, exit].into_iter().flatten().min()
    }

    /// Whether some announcement has not been sent once.
    pub(crate) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use parhelion_types::{Epoch, LogAddress, LogId, RequestId};
    use parhelion_wire::{ENVELOPE_BYTES, Envelope};

    use super::*;

    const SPACING: Duration = Duration::from_millis(4);

    fn key(number: u64) -> RecordKey {
        RecordKey { log: LogId(1), number }
    }

    fn announcement(number: u32) -> Announcement {
        Announcement {
            log: LogId(1),
            address: LogAddress::new(0, number),
            length: 1,
            epoch: Epoch(1),
            digest: number,
            request: RequestId(7),
        }
    }

    fn parse(datagram: &Bytes) -> Vec<u32> {
        let envelope = Envelope::parse(datagram).unwrap();
        let (_, payload) = envelope.split(datagram.slice(ENVELOPE_BYTES..)).unwrap();
        Announcement::parse_batch(&payload).unwrap().map(|a| a.digest).collect()
    }

    #[test]
    fn every_announcement_is_sent_three_times_in_packets_apart_in_time() {
        let mut announcer = Announcer::new(1, 1400, 3, SPACING, Duration::ZERO);
        let mut seen: BTreeMap<u32, Vec<Time>> = BTreeMap::new();
        let mut now = Time::from_nanos(1);
        for step in 0..200u32 {
            if step < 100 {
                announcer.announce(key(u64::from(step)), &announcement(step));
            }
            while let Some(datagram) = announcer.poll_datagram(now).unwrap() {
                assert!(datagram.len() <= 1400);
                for number in parse(&datagram) {
                    seen.entry(number).or_default().push(now);
                }
            }
            now = now + Duration::from_micros(300);
        }
        assert_eq!(seen.len(), 100);
        for (number, times) in seen {
            assert_eq!(times.len(), 3, "announcement {number}");
            // First copy in the very turn it was asked for.
            assert_eq!(times[0], Time::from_nanos(1) + Duration::from_micros(300) * number);
            assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) >= SPACING - COALESCE));
        }
        assert_eq!(announcer.poll_timeout(), None);
    }

    #[test]
    fn a_crowd_is_cut_into_datagrams_that_fit() {
        let mut announcer = Announcer::new(1, 1400, 1, SPACING, Duration::ZERO);
        for number in 0..1000 {
            announcer.announce(key(u64::from(number)), &announcement(number));
        }
        let mut got = Vec::new();
        while let Some(datagram) = announcer.poll_datagram(Time::ZERO).unwrap() {
            assert!(datagram.len() <= 1400, "{}", datagram.len());
            got.extend(parse(&datagram));
        }
        assert_eq!(got, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn announced_means_left_the_site() {
        let exit = Duration::from_millis(2);
        let mut announcer = Announcer::new(1, 1400, 3, SPACING, exit);
        announcer.announce(key(5), &announcement(5));
        let mut out = Vec::new();
        let now = Time::from_nanos(1);
        announcer.poll_datagram(now).unwrap().unwrap();
        announcer.poll_announced(now, &mut out);
        assert!(out.is_empty(), "not on the wire");
        announcer.handle_left(now, 1);
        announcer.poll_announced(now, &mut out);
        assert!(out.is_empty(), "on the wire, not out of the site");
        assert_eq!(announcer.poll_timeout(), Some(now + exit));
        announcer.poll_announced(now + exit, &mut out);
        assert_eq!(out, [key(5)]);
    }
}

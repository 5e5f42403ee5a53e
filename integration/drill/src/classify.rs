//! Why acknowledged appends were lost: the three causes of SMFS section 5.3.
//!
//! Over TCP in the packet form the causes are known: the emulator sees which bytes of the stream left the host and
//! which arrived, and each lost append has its place in the stream (`stream.rs`).
//!
//! Elsewhere, records travel encrypted in datagrams or through the relay. Some of it is known then and some is
//! inferred, and [`Losses::inferred`] says how much:
//!
//! - *Behind a gap*: the mirror counts the appends that it has and must not show. Over TCP the mirror's kernel
//!   holds them, and nobody outside that kernel sees them: there, what had left the host after the first one lost.
//! - *On the wire*: the record had left the host, did not arrive and could not be rebuilt. That it had left is
//!   known when the acknowledgement itself says so (level network or higher), and when the mirror has an append
//!   that was sent later, because the link sends records in order. For the rest it is inferred from the bytes
//!   that the emulator was offered, see [`Departure`].
//! - *In the host*: the rest, in the node's buffers or in the kernel's.

use parhelion_types::Durability;
use parhelion_wan::TcpProgress;
use serde::{Deserialize, Serialize};

use crate::ack::Ack;
use crate::stream::Causes;

/// What the checker found at the mirror after the disaster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// Appends whose acknowledgement was there at the cut.
    pub acked: u64,
    /// Of those, the ones that the mirror has, with the bytes that were sent.
    pub found: u64,
    /// Of those, the ones whose bytes were read back and hashed.
    pub read_back: u64,
    /// Of those, the ones that the mirror does not show, in the order they were sent.
    pub lost: Vec<Lost>,
    /// Of those, the ones that the mirror shows with other bytes or under another name. Always a fault.
    pub altered: Vec<String>,
    /// Appends whose acknowledgement came after the cut; none of the figures above counts them.
    pub acked_late: u64,
    /// Of those, the ones that the mirror does not show.
    pub lost_late: u64,
    /// Appends that the mirror lacks and that do not count, because no acknowledgement was there at the cut.
    #[serde(default)]
    pub uncounted: Vec<Uncounted>,
    /// All appends that the mirror shows, also those of warming up.
    #[serde(default)]
    pub mirrored_appends: u64,
    /// Their bytes.
    #[serde(default)]
    pub mirrored_bytes: u64,
    /// When the latest append was sent that the mirror has, nanoseconds on `CLOCK_MONOTONIC`.
    pub newest_found_sent_nanos: u64,
    /// Appends that were announced and that the mirror lacks, acknowledged or not.
    pub missing_count: u64,
    /// How many of those the mirror listed by name; the list is bounded.
    pub missing_listed: u64,
    /// How many of those the mirror has, but behind a gap.
    pub behind_gap_count: u64,
    /// The epoch after promotion.
    pub epoch: u32,
    /// The mirror's status before promotion.
    pub status: serde_json::Value,
}

/// One acknowledged append that the mirror does not show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lost {
    /// Its name, in hexadecimal digits.
    pub request: String,
    /// Its log.
    pub log: u32,
    /// Its address.
    pub address: String,
    /// Its bytes.
    pub length: u32,
    /// When it was sent, nanoseconds on `CLOCK_MONOTONIC`.
    pub sent_nanos: u64,
    /// The level that its acknowledgement claimed.
    pub reached: Durability,
    /// The risk that was promised for it.
    pub own_risk: f64,
    /// Whether the mirror listed it among the announced ones that it lacks.
    pub named: bool,
}

/// An append that the mirror lacks and that does not count. It took its place on the link all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uncounted {
    /// When it was sent, or, where no writer noted that, a moment shortly before; nanoseconds on `CLOCK_MONOTONIC`.
    pub sent_nanos: u64,
    /// Its bytes.
    pub length: u32,
}

/// Acknowledged appends that were lost, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// All of them.
    pub total: u64,
    /// Never left the sending host.
    pub in_host: u64,
    /// Left the host, did not arrive and could not be rebuilt.
    pub on_wire: u64,
    /// Arrived, but an earlier append of the log did not.
    pub behind_gap: u64,
    /// Of `total`, those whose cause is inferred and not known.
    pub inferred: u64,
    /// Of `total`, those that no announcement named, at least: a mirror that does not know what it lacks.
    pub unnamed: u64,
    /// Of `total`, those of which that is not known: the mirror's list was cut short and may have named them.
    pub unlisted: u64,
}

impl Losses {
    /// Sorts the lost appends of `findings` by cause: by the bytes of the stream that carried them, where the emulator saw
    /// those, else by what `departure` says.
    #[must_use]
    pub fn of(findings: &Findings, departure: Departure, stream: Option<&TcpProgress>) -> Self {
        let not_on_list = findings.lost.iter().filter(|lost| !lost.named).count() as u64;
        // What the list leaves out may be these, or others that were never acknowledged.
        let unlisted = not_on_list.min(findings.missing_count.saturating_sub(findings.missing_listed));
        let unnamed = not_on_list - unlisted;
        if let Some(causes) = stream.and_then(|stream| Causes::of(findings, stream)) {
            let Causes { in_host, on_wire, behind_gap } = causes;
            let total = findings.lost.len() as u64;
            return Self { total, in_host, on_wire, behind_gap, inferred: 0, unnamed, unlisted };
        }
        Self { unnamed, unlisted, ..Self::inferred(findings, departure) }
    }

    fn inferred(findings: &Findings, departure: Departure) -> Self {
        let total = findings.lost.len() as u64;
        let mut logs: Vec<u32> = findings.lost.iter().map(|lost| lost.log).collect();
        logs.sort_unstable();
        logs.dedup();
        // The first one lost of each log is a gap itself, whatever arrived behind it.
        let gaps = logs.len() as u64;
        let mut behind_gap = findings.behind_gap_count.min(total - gaps);

        let had_left = |lost: &Lost| {
            lost.reached >= Durability::Network || lost.sent_nanos < findings.newest_found_sent_nanos
        };
        let left = findings.lost.iter().filter(|lost| had_left(lost)).count() as u64;
        let mut on_wire = left.saturating_sub(behind_gap);
        if behind_gap > 0 {
            on_wire = on_wire.max(gaps);
        }
        // Of the rest nothing is known. It is the newest, because records leave in order.
        let inferred = total - behind_gap - on_wire;
        let newest = findings.lost.iter().rev().take(usize::try_from(inferred).unwrap_or(usize::MAX));
        let departed = newest.filter(|lost| lost.sent_nanos <= departure.until_sent_nanos).count() as u64;
        let in_host = inferred - departed;
        if departure.in_order {
            // A stream stops at the first loss; what follows arrives and waits.
            let lost_first = departed.min(gaps.saturating_sub(on_wire));
            on_wire += lost_first;
            behind_gap += departed - lost_first;
        } else {
            on_wire += departed;
        }
        Self { total, in_host, on_wire, behind_gap, inferred, ..Self::default() }
    }

    /// Adds the losses of another disaster.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            total: self.total + other.total,
            in_host: self.in_host + other.in_host,
            on_wire: self.on_wire + other.on_wire,
            behind_gap: self.behind_gap + other.behind_gap,
            inferred: self.inferred + other.inferred,
            unnamed: self.unnamed + other.unnamed,
            unlisted: self.unlisted + other.unlisted,
        }
    }
}

/// How far the primary's host had come with sending when the link was cut, as seen by the emulator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Departure {
    /// Appends sent by their writers up to then had left the host.
    pub until_sent_nanos: u64,
    /// Whether records travel in one stream, in which nothing passes a loss.
    pub in_order: bool,
}

/// Bytes offered to the link so far, at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    /// Nanoseconds on `CLOCK_MONOTONIC`.
    pub at_nanos: u64,
    /// Bytes of the bulk class.
    pub bytes: u64,
}

impl Departure {
    /// Infers the departure from what was offered at the first append that counts (`begin`), just before the link began
    /// to lose packets, and at the cut.
    ///
    /// Until the losses began, wire bytes per acknowledged byte are the overhead of headers and code. That ratio
    /// turns the bytes offered since into appends. Repeated sending counts as progress, so the host had come at
    /// most so far; and the link must not have been saturated before.
    pub(crate) fn infer(acks: &[Ack], begin: Offered, before: Offered, cut: Offered, in_order: bool) -> Self {
        let length = |ack: &Ack| u64::from(ack.length);
        let acked_before: u64 =
            acks.iter().filter(|ack| ack.acked_nanos <= before.at_nanos).map(length).sum();
        let offered_before = before.bytes.saturating_sub(begin.bytes);
        if acked_before == 0 || offered_before == 0 {
            return Self { until_sent_nanos: 0, in_order };
        }
        let since = cut.bytes.saturating_sub(before.bytes);
        let departed = u128::from(since) * u128::from(acked_before) / u128::from(offered_before);
        let mut departed = u64::try_from(departed).unwrap_or(u64::MAX);
        let mut later: Vec<&Ack> = acks
            .iter()
            .filter(|ack| ack.acked_nanos > before.at_nanos && ack.acked_nanos <= cut.at_nanos)
            .collect();
        later.sort_by_key(|ack| ack.sent_nanos);
        let mut until_sent_nanos = before.at_nanos;
        for ack in later {
            let Some(rest) = departed.checked_sub(length(ack)) else { break };
            departed = rest;
            until_sent_nanos = until_sent_nanos.max(ack.sent_nanos);
        }
        Self { until_sent_nanos, in_order }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lost(sent_nanos: u64, reached: Durability) -> Lost {
        Lost {
            request: format!("{sent_nanos:x}"),
            log: 1,
            address: format!("0:{sent_nanos}"),
            length: 1000,
            sent_nanos,
            reached,
            own_risk: 1.0,
            named: true,
        }
    }

    fn local(times: std::ops::Range<u64>) -> Vec<Lost> {
        times.map(|sent| lost(sent, Durability::Local)).collect()
    }

    fn until(until_sent_nanos: u64) -> Departure {
        Departure { until_sent_nanos, in_order: false }
    }

    #[test]
    fn an_intact_mirror_lost_nothing() {
        assert_eq!(Losses::of(&Findings::default(), until(10_000), None), Losses::default());
    }

    #[test]
    fn what_never_left_is_in_the_host() {
        let findings = Findings { lost: local(100..110), newest_found_sent_nanos: 99, ..Findings::default() };
        let losses = Losses::of(&findings, until(99), None);
        assert_eq!(losses, Losses { total: 10, in_host: 10, inferred: 10, ..Losses::default() });
        // Three of them had reached the bottleneck queue.
        let losses = Losses::of(&findings, until(102), None);
        assert_eq!((losses.in_host, losses.on_wire, losses.inferred), (7, 3, 10));
    }

    #[test]
    fn a_stream_waits_behind_its_first_loss() {
        let findings = Findings { lost: local(100..110), newest_found_sent_nanos: 99, ..Findings::default() };
        let losses = Losses::of(&findings, Departure { until_sent_nanos: 105, in_order: true }, None);
        assert_eq!(
            losses,
            Losses { total: 10, in_host: 4, on_wire: 1, behind_gap: 5, inferred: 10, ..Losses::default() }
        );
    }

    #[test]
    fn what_was_overtaken_had_left() {
        let findings =
            Findings { lost: local(100..102), newest_found_sent_nanos: 200, ..Findings::default() };
        let losses = Losses::of(&findings, until(0), None);
        assert_eq!(losses, Losses { total: 2, on_wire: 2, ..Losses::default() });
    }

    #[test]
    fn a_network_acknowledgement_says_that_it_had_left() {
        let lost = (100..103).map(|sent| lost(sent, Durability::Network)).collect();
        let findings = Findings { lost, newest_found_sent_nanos: 50, ..Findings::default() };
        assert_eq!(
            Losses::of(&findings, until(0), None),
            Losses { total: 3, on_wire: 3, ..Losses::default() }
        );
    }

    #[test]
    fn behind_a_gap_there_is_a_gap() {
        // One hole, four behind it, two on their way and three that were still in the host.
        let findings = Findings {
            lost: local(100..110),
            newest_found_sent_nanos: 99,
            behind_gap_count: 4,
            ..Findings::default()
        };
        let losses = Losses::of(&findings, until(106), None);
        assert_eq!(
            losses,
            Losses { total: 10, in_host: 3, on_wire: 3, behind_gap: 4, inferred: 5, ..Losses::default() }
        );
    }

    #[test]
    fn departure_follows_from_bytes_offered() {
        // Appends of 4096 bytes every 2 ms, acknowledged 1 ms later; 100 of them before the losses.
        const MS: u64 = 1_000_000;
        let acks: Vec<Ack> = (0..200).map(|n| crate::ack::tests::ack(n, n * 2 * MS)).collect();
        let begin = Offered { at_nanos: 0, bytes: 5_000_000 };
        let before = Offered { at_nanos: 199 * MS, bytes: begin.bytes + 100 * 4096 * 3 / 2 };
        let cut = |bytes| Offered { at_nanos: 400 * MS, bytes: before.bytes + bytes };
        // One and a half wire bytes for each byte: 60 more appends had left, and a part of the next.
        let departure = Departure::infer(&acks, begin, before, cut(60 * 4096 * 3 / 2 + 2000), true);
        assert_eq!(departure, Departure { until_sent_nanos: 159 * 2 * MS, in_order: true });
        assert_eq!(Departure::infer(&[], begin, before, cut(1 << 30), false), Departure::default());
    }

    #[test]
    fn losses_beyond_a_list_that_was_cut_are_neither_named_nor_unnamed() {
        let mut findings =
            Findings { lost: local(0..5), missing_count: 3, missing_listed: 3, ..Findings::default() };
        findings.lost[3].named = false;
        findings.lost[4].named = false;
        let mut verdict = |missing_count| {
            findings.missing_count = missing_count;
            let losses = Losses::of(&findings, until(0), None);
            (losses.unnamed, losses.unlisted)
        };
        assert_eq!([3, 4, 50].map(&mut verdict), [(2, 0), (1, 1), (0, 2)]);
    }

    proptest! {
        #[test]
        fn every_loss_has_one_cause(
            count in 0u64..50, newest in 0u64..60, behind in 0u64..60, departed in 0u64..60, in_order: bool,
            networks in 0u64..50,
        ) {
            let lost = (0..count)
                .map(|sent| lost(sent, if sent < networks { Durability::Network } else { Durability::Local }))
                .collect();
            let findings = Findings {
                lost,
                newest_found_sent_nanos: newest,
                behind_gap_count: behind,
                ..Findings::default()
            };
            let losses = Losses::of(&findings, Departure { until_sent_nanos: departed, in_order }, None);
            prop_assert_eq!(losses.total, count);
            prop_assert_eq!(losses.in_host + losses.on_wire + losses.behind_gap, count);
            prop_assert!(losses.inferred <= count);
        }
    }
}

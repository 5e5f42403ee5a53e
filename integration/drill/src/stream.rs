//! Where lost appends were when records travelled in one TCP stream: what the emulator saw of its bytes tells.
//!
//! Records follow each other in the stream, and each costs its payload and the same few bytes of framing. The mirror
//! has every record up to the first byte that did not arrive, so the lost ones follow there, in the order in which they
//! were sent. That gives each a place in the stream, to within one append. A record of which a byte had not left the
//! host is *in the host*; of the others, one of which a byte did not arrive is *lost on the wire*; the rest arrived and
//! waited in the mirror's kernel *behind a gap*.

use parhelion_wan::TcpProgress;

use crate::classify::Findings;

/// Lost appends by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Causes {
    pub in_host: u64,
    pub on_wire: u64,
    pub behind_gap: u64,
}

impl Causes {
    /// Finds the place of each lost append in the stream. `None` if that cannot be known: the mirror's list of what it
    /// lacks was cut short, so that there are appends between the known ones, or the stream does not fit what the
    /// mirror has.
    pub(crate) fn of(findings: &Findings, stream: &TcpProgress) -> Option<Self> {
        if findings.missing_listed < findings.missing_count || findings.mirrored_appends == 0 {
            return None;
        }
        let whole = stream.arrived.first().filter(|range| range.0 == 0).map_or(0, |range| range.1);
        // Headers of records, frames and encryption; the handshake is shared out among thousands of records.
        let framing = whole.checked_sub(findings.mirrored_bytes)? / findings.mirrored_appends;
        if framing > FRAMING_BYTES_MAX {
            return None;
        }
        let lost = findings.lost.iter().map(|lost| (lost.sent_nanos, lost.length, true));
        let uncounted = findings.uncounted.iter().map(|one| (one.sent_nanos, one.length, false));
        let mut queue: Vec<(u64, u32, bool)> = lost.chain(uncounted).collect();
        queue.sort_by_key(|one| one.0);
        let mut causes = Self::default();
        let mut start = whole;
        for (_, length, counts) in queue {
            let end = start + u64::from(length) + framing;
            let cause = if end > stream.left {
                &mut causes.in_host
            } else if stream.arrived.iter().any(|range| range.0 <= start && end <= range.1) {
                &mut causes.behind_gap
            } else {
                &mut causes.on_wire
            };
            *cause += u64::from(counts);
            start = end;
        }
        Some(causes)
    }
}

/// More than this between two payloads is no framing: the stream carried something else too.
const FRAMING_BYTES_MAX: u64 = 1024;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use parhelion_types::Durability;

    use super::*;
    use crate::classify::{Lost, Uncounted};

    fn stream(left: u64, arrived: &[(u64, u64)]) -> TcpProgress {
        let any = SocketAddr::from(([10, 77, 0, 1], 1));
        TcpProgress { source: any, target: any, left, arrived: arrived.to_vec() }
    }

    /// The mirror has 100 appends of 1000 bytes, each with 100 bytes of framing; `sent` are those that it lacks.
    fn findings(sent: &[u64]) -> Findings {
        let lost = |&sent_nanos: &u64| Lost {
            request: String::new(),
            log: 1,
            address: String::new(),
            length: 1000,
            sent_nanos,
            reached: Durability::Local,
            own_risk: 1.0,
            named: true,
        };
        Findings {
            lost: sent.iter().map(lost).collect(),
            mirrored_appends: 100,
            mirrored_bytes: 100_000,
            missing_count: sent.len() as u64,
            missing_listed: sent.len() as u64,
            ..Findings::default()
        }
    }

    #[test]
    fn each_place_in_the_stream_has_its_cause() {
        let ten: Vec<u64> = (200..210).collect();
        // The second and the fifth lost append have a hole; half of the ninth had left.
        let seen = stream(110_000 + 8 * 1100 + 550, &[(0, 110_000), (112_000, 114_400), (115_000, 119_350)]);
        // Append 0 is the gap itself: its first bytes did not arrive.
        let causes = Causes::of(&findings(&ten), &seen).unwrap();
        assert_eq!(causes, Causes { in_host: 2, on_wire: 3, behind_gap: 5 });
        // Everything that left arrived.
        let seen = stream(110_000, &[(0, 110_000)]);
        assert_eq!(Causes::of(&findings(&ten), &seen), Some(Causes { in_host: 10, ..Causes::default() }));
        // Nothing after the gap did.
        let seen = stream(200_000, &[(0, 110_000)]);
        assert_eq!(Causes::of(&findings(&ten), &seen), Some(Causes { on_wire: 10, ..Causes::default() }));
    }

    #[test]
    fn appends_that_do_not_count_take_their_place() {
        let mut found = findings(&[200, 202]);
        found.uncounted = vec![Uncounted { sent_nanos: 201, length: 3000 }];
        let seen = stream(115_300, &[(0, 110_000), (111_100, 115_300)]);
        assert_eq!(Causes::of(&found, &seen), Some(Causes { in_host: 0, on_wire: 1, behind_gap: 1 }));
    }

    #[test]
    fn what_does_not_fit_is_not_guessed() {
        let good = findings(&[200]);
        assert!(Causes::of(&good, &stream(110_000, &[(0, 110_000)])).is_some());
        // Fewer bytes than the mirror has, or far more; a beginning that did not arrive.
        for seen in [(0, 99_999), (0, 300_000), (5, 110_000)] {
            assert_eq!(Causes::of(&good, &stream(300_000, &[seen])), None, "{seen:?}");
        }
        let cut_short = Findings { missing_count: 2, ..good };
        assert_eq!(Causes::of(&cut_short, &stream(110_000, &[(0, 110_000)])), None);
    }
}

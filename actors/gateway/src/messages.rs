//! What the messages of both duties have in common.

use parhelion_types::limits::MESSAGE_BYTES_MAX;
use parhelion_wire::link::{ArchivedLogMarkV1, ArchivedLogTailV1, LogMarkV1, LogTailV1};
use parhelion_wire::site::ArchivedCoverageV1;

/// Entries of a list in one message; longer lists go out in several.
pub(crate) const ITEMS_MAX: usize = 8_192;
const _: () = assert!(
    ITEMS_MAX * size_of::<ArchivedCoverageV1>() < MESSAGE_BYTES_MAX / 2
        && ITEMS_MAX * size_of::<ArchivedLogMarkV1>() < MESSAGE_BYTES_MAX / 2,
    "a full list of the largest entries must fit into a message"
);

/// A list in parts that fit into messages, at least one, each with whether another follows.
pub(crate) fn parts(marks: Vec<LogMarkV1>) -> Vec<(Vec<LogMarkV1>, bool)> {
    if marks.len() <= ITEMS_MAX {
        return vec![(marks, false)];
    }
    let count = marks.len().div_ceil(ITEMS_MAX);
    marks.chunks(ITEMS_MAX).enumerate().map(|(n, part)| (part.to_vec(), n + 1 < count)).collect()
}

/// A mark as it came.
pub(crate) fn mark(archived: &ArchivedLogMarkV1) -> LogMarkV1 {
    LogMarkV1 {
        log: archived.log.to_native(),
        epoch: archived.epoch.to_native(),
        records: archived.records.to_native(),
        segment: archived.segment.to_native(),
        offset: archived.offset.to_native(),
    }
}

/// A log's end as it came.
pub(crate) fn tail(archived: &ArchivedLogTailV1) -> LogTailV1 {
    LogTailV1 {
        log: archived.log.to_native(),
        epoch: archived.epoch.to_native(),
        records: archived.records.to_native(),
        segment: archived.segment.to_native(),
        offset: archived.offset.to_native(),
        chain: archived.chain.to_native(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use parhelion_code_layered_interleaving::LayeredInterleaving;
    use parhelion_link_driver::{CoverageChange, LinkEvent, LinkTelemetry, MirrorEvent};
    use parhelion_plugin::{Code, ErasureCode, Exposure};
    use parhelion_types::{Epoch, Error, LogAddress, LogId, RecordKey, RequestId, SiteId};
    use parhelion_wire::link::ChannelCountsV1;
    use parhelion_wire::{Announcement, Envelope, WireError, crc32c};
    use proptest::prelude::*;

    use super::*;
    use crate::frames::tests::sent;
    use crate::frames::{Frame, FrameBatch, FrameParser};
    use crate::mirror_messages::{
        FromMirror, FromMirrorParser, ToMirror, push_answer, push_event, push_progress,
    };
    use crate::primary_messages::{FromStorage, ToStorage, ToStorageParser, push_announcements, push_told};

    fn codes() -> parhelion_link_driver::CodeLookup {
        let layered: Arc<dyn ErasureCode> = Arc::new(LayeredInterleaving);
        Arc::new(move |id| (id == "layered-interleaving@1").then(|| layered.clone()))
    }

    fn marks(count: usize) -> Vec<LogMarkV1> {
        (0..count)
            .map(|log| LogMarkV1 { log: log as u32, epoch: 1, records: 2, segment: 3, offset: 4 })
            .collect()
    }

    fn announcement(log: u32) -> Announcement {
        Announcement {
            log: LogId(log),
            address: LogAddress::new(1, 2),
            length: 3,
            epoch: Epoch(4),
            digest: 5,
            request: RequestId(6),
        }
    }

    #[test]
    fn parts_say_whether_more_follows() {
        for (count, expected) in [(0, 1), (1, 1), (ITEMS_MAX, 1), (ITEMS_MAX + 1, 2), (3 * ITEMS_MAX, 3)] {
            let marks = marks(count);
            let parts = parts(marks.clone());
            assert_eq!(parts.len(), expected);
            assert!(parts.iter().rev().enumerate().all(|(n, (_, more))| *more == (n > 0)));
            assert_eq!(parts.into_iter().flat_map(|(part, _)| part).collect::<Vec<_>>(), marks);
        }
    }

    #[test]
    fn what_a_primary_is_told_survives_the_wire() {
        let key = RecordKey { log: LogId(7), number: 9 };
        let exposure =
            Exposure { symbols: 1, coverage: 2, group_max: 3, flushed: 4, flush_run: 5, flush_pause: 6 };
        let change = CoverageChange { key, exposure, sent: true, complete: false };
        let code = Code::new(Arc::new(LayeredInterleaving), &"interleaves=1:11".parse().unwrap()).unwrap();
        let up = LinkEvent::Up { peer: SiteId(2), marks: marks(ITEMS_MAX + 5), code: code.clone() };
        let counts =
            ChannelCountsV1 { settled: 1, n111: 2, runs: [3; 16], host_drops: 4, ..Default::default() };
        let told = || {
            [
                ToStorage::Event(LinkEvent::Down { reason: "gone".to_owned() }),
                ToStorage::Event(LinkEvent::CodeChanged(code.clone())),
                ToStorage::Event(LinkEvent::Announced(vec![key; 3])),
                ToStorage::Event(LinkEvent::Coverage(vec![change; 2])),
                ToStorage::Event(LinkEvent::Mirrored(marks(2))),
                ToStorage::Telemetry(LinkTelemetry { counts, session: 11 }),
                ToStorage::CodeChanged { correlation: 12, error: Some("no".to_owned()) },
            ]
        };
        let (mut batch, mut session) = (FrameBatch::default(), 0);
        let describe = |told: &ToStorage| match told {
            ToStorage::Event(event) => format!("{event:?}"),
            ToStorage::Telemetry(telemetry) => format!("{telemetry:?}"),
            ToStorage::CodeChanged { correlation, error } => format!("{correlation} {error:?}"),
        };
        let expected: Vec<String> =
            std::iter::once(format!("{up:?}")).chain(told().iter().map(describe)).collect();
        push_told(&mut batch, ToStorage::Event(up), &mut session).unwrap();
        told().into_iter().for_each(|told| push_told(&mut batch, told, &mut session).unwrap());
        let mut parser = ToStorageParser::new(codes());
        let mut heard = Vec::new();
        let mut sessions = Vec::new();
        for frame in sent(&mut batch) {
            if let Some((told, session)) = parser.parse(&frame).unwrap() {
                heard.push(describe(&told));
                sessions.extend(session);
            }
        }
        assert_eq!(heard, expected);
        assert_eq!(sessions, [1]);
    }

    #[test]
    fn announcements_keep_their_numbers() {
        let mut batch = FrameBatch::default();
        let count = ITEMS_MAX + 1;
        let mut announcements: Vec<_> = (0..count).map(|n| (n as u64, announcement(n as u32))).collect();
        push_announcements(&mut batch, 3, &mut announcements).unwrap();
        assert!(announcements.is_empty());
        let heard: Vec<_> = sent(&mut batch)
            .into_iter()
            .flat_map(|frame| match FromStorage::parse(frame).unwrap() {
                FromStorage::Announce { session: 3, announcements } => announcements,
                _ => panic!("no announcements"),
            })
            .collect();
        assert_eq!(heard.len(), count);
        assert!(heard.iter().enumerate().all(|(n, (key, a))| {
            (key.log.0 as usize, key.number as usize) == (n, n) && *a == announcement(n as u32)
        }));
    }

    #[test]
    fn what_passes_at_a_mirror_survives_the_wire() {
        let mut batch = FrameBatch::default();
        let records = vec![Bytes::from(vec![1; 10]), Bytes::from(vec![2; 10_000]), Bytes::new()];
        let tail = LogTailV1 { log: 1, epoch: 2, records: 3, segment: 4, offset: 5, chain: 6 };
        let events = [
            MirrorEvent::Hello { site: SiteId(1), session: 5, marks: tokio::sync::oneshot::channel().0 },
            MirrorEvent::Announced(vec![announcement(1), announcement(2)]),
            MirrorEvent::Records(records.clone()),
            MirrorEvent::Rewind(vec![tail]),
            MirrorEvent::Down { reason: "gone".to_owned() },
        ];
        events.into_iter().for_each(|event| push_event(&mut batch, event, 8).unwrap());
        let mut heard = sent(&mut batch).into_iter().map(|frame| ToMirror::parse(frame).unwrap());
        let hello = heard.next().unwrap();
        assert!(matches!(hello, ToMirror::Hello { site: SiteId(1), session: 5, number: 8 }));
        let announced = heard.next().unwrap();
        assert!(matches!(announced, ToMirror::Announced(a) if a == [announcement(1), announcement(2)]));
        for record in records {
            assert!(matches!(heard.next(), Some(ToMirror::Record(heard)) if heard == record));
        }
        assert!(matches!(heard.next(), Some(ToMirror::Rewind(tails)) if tails == [tail]));
        assert!(matches!(heard.next(), Some(ToMirror::Down { reason }) if reason == "gone"));

        push_progress(&mut batch, marks(2), 7).unwrap();
        push_answer(&mut batch, 8, Ok(marks(2 * ITEMS_MAX))).unwrap();
        push_answer(&mut batch, 9, Err(Error::unavailable("later"))).unwrap();
        let mut parser = FromMirrorParser::default();
        let heard: Vec<_> =
            sent(&mut batch).iter().filter_map(|frame| parser.parse(frame).unwrap()).collect();
        assert!(matches!(&heard[0], FromMirror::Progress { marks: m, settled: 7 } if *m == marks(2)));
        let all = marks(2 * ITEMS_MAX);
        assert!(matches!(&heard[1], FromMirror::Answer { number: 8, answer: Ok(m) } if *m == all));
        assert!(
            matches!(&heard[2], FromMirror::Answer { number: 9, answer: Err(e) } if e.message() == "later")
        );
        assert_eq!(heard.len(), 3);
    }

    #[test]
    fn marks_without_end_are_refused() {
        let mut batch = FrameBatch::default();
        let mut parser = FromMirrorParser::default();
        push_answer(&mut batch, 1, Ok(marks(parhelion_types::limits::LOGS_MAX + 1))).unwrap();
        let refused = sent(&mut batch).iter().find_map(|frame| parser.parse(frame).err());
        assert!(matches!(refused, Some(WireError::Long { what: "marks of a welcome", .. })));
    }

    /// Feeds a frame to everything that reads frames.
    fn read(frame: impl Fn() -> Frame) {
        let _ = FromStorage::parse(frame());
        let _ = ToMirror::parse(frame());
        let _ = ToStorageParser::new(codes()).parse(&frame());
        let _ = FromMirrorParser::default().parse(&frame());
        let _ = frame().read::<parhelion_wire::site::SiteJoinV1>();
        let _ = frame().read::<parhelion_wire::site::SiteJoinedV1>();
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_into_frames_or_refused(chunks: Vec<Vec<u8>>) {
            let mut parser = FrameParser::default();
            for chunk in chunks {
                parser.push(&chunk);
                if parser.next().is_err() {
                    break;
                }
            }
        }

        #[test]
        fn any_body_under_any_kind_is_read_or_refused(
            kind in 199u16..240,
            version in 1u16..3,
            body in prop::collection::vec(prop_oneof![Just(0u8), Just(255u8), any::<u8>()], 0..120),
            payload in prop::collection::vec(any::<u8>(), 0..90),
        ) {
            let envelope = Envelope {
                kind,
                version,
                body_bytes: body.len() as u32,
                payload_bytes: payload.len() as u32,
                body_crc: crc32c(&body),
                payload_crc: crc32c(&payload),
                correlation: 1,
            };
            let mut parser = FrameParser::default();
            parser.push(&[&envelope.to_bytes()[..], &body, &payload].concat());
            let frame = parser.next().unwrap().unwrap();
            read(|| Frame {
                envelope: frame.envelope,
                body: frame.body.clone(),
                payload: frame.payload.clone(),
            });
        }

        #[test]
        fn messages_arrive_whole_however_they_are_cut(cuts in prop::collection::vec(1usize..400, 1..40)) {
            let mut batch = FrameBatch::default();
            push_progress(&mut batch, marks(9), 3).unwrap();
            push_event(&mut batch, MirrorEvent::Records(vec![Bytes::from(vec![9; 2_000])]), 0).unwrap();
            let frames = sent(&mut batch);
            let bytes: Vec<u8> = frames
                .iter()
                .flat_map(|f| [&f.envelope.to_bytes()[..], &f.body, &f.payload].concat())
                .collect();
            let mut parser = FrameParser::default();
            let (mut rest, mut count) = (&bytes[..], 0);
            for cut in cuts.iter().cycle() {
                let (chunk, later) = rest.split_at((*cut).min(rest.len()));
                parser.push(chunk);
                rest = later;
                while let Some(frame) = parser.next().unwrap() {
                    prop_assert_eq!(&frame.payload, &frames[count].payload);
                    count += 1;
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(count, 2);
        }
    }
}

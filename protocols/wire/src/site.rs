//! Messages between the nodes of one site: a storage node, and the link node that joins the site to the
//! other one (SMFS section 4). Frozen, as those of [`crate::client`].
//!
//! A storage node opens one stream, says [`SiteJoinV1`] and is told [`SiteJoinedV1`]; a refusal is the
//! reason with which the connection is closed. From then on the stream carries what a link driver and a
//! storage actor of one process say to each other, in the same order. Lists that would not fit into one
//! message go out in several; announcements and records are the payload.

use rkyv::{Archive, Deserialize, Serialize};

use crate::client::messages;
use crate::envelope::Message;
use crate::link::{ChannelCountsV1, LogMarkV1, LogTailV1};

messages! {
    /// Joins a storage node to its site's link node. The first message, from the storage node.
    200 SiteJoinV1 {
        /// The site.
        site: u16,
        /// The storage node.
        node: u16,
        /// What the node's logs are at this site: 0 primary, 1 mirror.
        duty: u8,
        /// At a primary: the node's logs.
        logs: Vec<u32>,
    }

    /// The storage node is one of the site's now.
    201 SiteJoinedV1 {
        /// The site.
        site: u16,
        /// The link node.
        node: u16,
    }

    /// The storage node leaves. What it has sent goes on to the other site.
    202 SiteLeaveV1 {}

    /// The link's session with the other site ended, or none began. To the storage node, at both sites.
    203 SiteDownV1 {
        /// Why, and what is done about it.
        reason: String,
    }

    /// A session with the mirror began. Nothing of an earlier one is in flight.
    210 SiteUpV1 {
        /// Number of the session on this connection, from 1; commands name the session they belong to.
        session: u64,
        /// The mirror's site.
        peer: u16,
        /// The code in force.
        code: CodeNameV1,
        /// Where this node's logs end at the mirror.
        marks: Vec<LogMarkV1>,
        /// Whether another message of this kind follows with more marks.
        more: bool,
    }

    /// Another code is in force.
    211 SiteCodeV1 {
        /// Which.
        code: CodeNameV1,
    }

    /// Announcements that are on the wire.
    212 SiteAnnouncedV1 {
        /// The records.
        keys: Vec<RecordKeyV1>,
    }

    /// Records whose coverage rose.
    213 SiteCoverageV1 {
        /// The records.
        changes: Vec<CoverageV1>,
    }

    /// Logs that advanced at the mirror.
    214 SiteMirroredV1 {
        /// The logs.
        marks: Vec<LogMarkV1>,
    }

    /// The channel's counters, for the storage node's estimator.
    215 SiteTelemetryV1 {
        /// The link's session.
        session: u64,
        /// Counters since it began.
        counts: ChannelCountsV1,
    }

    /// Announcements to be sent; the payload has forty bytes for each number.
    220 SiteAnnounceV1 {
        /// As in [`SiteUpV1`].
        session: u64,
        /// Numbers of the records in their logs, which the announcements name.
        numbers: Vec<u64>,
    }

    /// A record to be sent; the record is the payload.
    221 SiteSendV1 {
        /// As in [`SiteUpV1`].
        session: u64,
        /// The log.
        log: u32,
        /// The record's number in it.
        number: u64,
        /// Whether somebody waits for its coverage.
        is_awaited: bool,
    }

    /// Logs that the mirror is asked to cut back.
    222 SiteRewindV1 {
        /// As in [`SiteUpV1`].
        session: u64,
        /// Where they end here.
        logs: Vec<LogTailV1>,
    }

    /// Changes the code on the live link. Answer: [`SiteCodeChangedV1`] under the same correlation.
    223 SiteChangeCodeV1 {
        /// Packet times that a flush pauses from then on; as before if none are given.
        flush_pause: Option<u32>,
        /// Name of the code.
        name: String,
        /// Parameters as text.
        parameters: String,
    }

    /// What became of a change of code.
    224 SiteCodeChangedV1 {
        /// What was wrong with the request, if anything.
        error: Option<String>,
    }

    /// A primary asks for a session. Answer: [`SiteWelcomeV1`] or [`SiteRefusalV1`] under the same
    /// correlation.
    230 SiteHelloV1 {
        /// The primary's site.
        site: u16,
        /// The session.
        session: u64,
    }

    /// Where this node's logs end.
    231 SiteWelcomeV1 {
        /// The ends.
        marks: Vec<LogMarkV1>,
        /// Whether another message of this kind follows with more marks.
        more: bool,
    }

    /// This node takes no session.
    232 SiteRefusalV1 {
        /// [`parhelion_types::ErrorKind`] by number.
        kind: u8,
        /// The thing, the reason and the remedy.
        message: String,
    }

    /// Announcements that arrived; the payload is a multiple of 40 bytes.
    233 SiteArrivedV1 {
        /// Announcements in the payload.
        count: u32,
    }

    /// A record that arrived; the record is the payload.
    234 SiteRecordV1 {}

    /// Logs to be cut back at the primary's word.
    235 SiteCutV1 {
        /// Where they end at the primary.
        logs: Vec<LogTailV1>,
    }

    /// How far a mirror's storage node has come.
    236 SiteProgressV1 {
        /// Logs that advanced: durable here.
        marks: Vec<LogMarkV1>,
        /// Bytes of records that were delivered on this connection and are no longer pending here. The link
        /// node takes no more from the other site than it may have under way to its storage nodes.
        settled: u64,
    }
}

/// A code that every node of a site knows.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CodeNameV1 {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// All its parameters as text.
    pub parameters: String,
}

/// One record of one log.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordKeyV1 {
    /// The log.
    pub log: u32,
    /// The record's number in it.
    pub number: u64,
}

/// What of one record is on the wire.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoverageV1 {
    /// The record.
    pub key: RecordKeyV1,
    /// Its source symbols.
    pub symbols: u32,
    /// Repair indices that every symbol has.
    pub coverage: u64,
    /// Most source symbols in one of those repairs.
    pub group_max: u32,
    /// Repair indices that came from a flush.
    pub flushed: u64,
    /// Source symbols between two flushes.
    pub flush_run: u32,
    /// Packet times that a flush waits between repair indices.
    pub flush_pause: u32,
    /// Whether every symbol is on the wire.
    pub sent: bool,
    /// Whether coverage is complete.
    pub complete: bool,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Checked, ENVELOPE_BYTES, Envelope, encode_body, frame};

    #[test]
    fn layouts_are_frozen() {
        assert_eq!(size_of::<ArchivedSiteSendV1>(), 8 + 4 + 8 + 1);
        assert_eq!(size_of::<ArchivedCoverageV1>(), 12 + 4 + 8 + 4 + 8 + 4 + 4 + 1 + 1);
        assert_eq!(size_of::<ArchivedRecordKeyV1>(), 12);
        assert_eq!(size_of::<ArchivedSiteJoinV1>(), 2 + 2 + 1 + 8);
        assert_eq!(size_of::<ArchivedSiteUpV1>(), 8 + 2 + size_of::<ArchivedCodeNameV1>() + 8 + 1);
        assert_eq!(size_of::<ArchivedCodeNameV1>(), 8 + 4 + 8);

        let send = SiteSendV1 { session: 3, log: 7, number: 0x0102, is_awaited: true };
        let golden = [3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(&encode_body(&send).unwrap()[..], golden);

        // The list comes first; the root behind it points back to it.
        let join = SiteJoinV1 { site: 1, node: 2, duty: 1, logs: vec![9, 10] };
        let golden = [9, 0, 0, 0, 10, 0, 0, 0, 1, 0, 2, 0, 1, 243, 255, 255, 255, 2, 0, 0, 0];
        assert_eq!(&encode_body(&join).unwrap()[..], golden);

        let progress = SiteProgressV1 {
            marks: vec![LogMarkV1 { log: 1, epoch: 2, records: 3, segment: 4, offset: 5 }],
            settled: 6,
        };
        let mut golden = vec![1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0];
        golden.extend_from_slice(&[232, 255, 255, 255, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&encode_body(&progress).unwrap()[..], golden);
    }

    #[test]
    fn messages_without_fields_have_no_body() {
        let bytes = frame(&SiteRecordV1 {}, b"record", 0).unwrap();
        assert_eq!(bytes.len(), ENVELOPE_BYTES);
        let envelope = Envelope::parse(&bytes).unwrap();
        let (body, payload) = envelope.split(Bytes::from_static(b"record")).unwrap();
        assert!(Checked::<SiteRecordV1>::parse(&envelope, body).is_ok());
        assert_eq!(&payload[..], b"record");
    }

    #[test]
    fn kinds_are_those_of_a_site() {
        assert!(KINDS.iter().all(|kind| (200..300).contains(kind)));
    }
}

//! Messages between the gateways of two sites. Frozen, as those of [`crate::client`].
//!
//! The primary's gateway opens both lanes and a control stream on the critical lane, says
//! [`HelloV1`] and is told [`WelcomeV1`]. From then on announcements, reports and acknowledgements travel
//! as datagrams of the critical lane: each stands for itself and a later one replaces it, so none is ever
//! sent again and none waits behind a lost one.

use rkyv::{Archive, Deserialize, Serialize};

use crate::client::messages;
use crate::envelope::Message;

messages! {
    /// Opens a session. The first message on the control stream, from the primary.
    100 HelloV1 {
        /// The primary's site.
        site: u16,
        /// Chosen anew for each session.
        session: u64,
        /// The code in force from symbol 0 of the session.
        code: CodeV1,
        /// Whether records will come over TCP instead of the bulk lane.
        tcp: bool,
        /// What a full datagram takes at the primary's rate, in nanoseconds; 0 without a rate.
        packet_nanos: u32,
        /// Of these, how many a flush pauses between one repair index and the next.
        flush_pause: u32,
    }

    /// Accepts a session and says where each log ends at the mirror.
    101 WelcomeV1 {
        /// The mirror's site.
        site: u16,
        /// As in [`HelloV1`].
        session: u64,
        /// One per log, in order of log numbers.
        logs: Vec<LogMarkV1>,
    }

    /// Refuses a session; the stream ends.
    102 RefusalV1 {
        /// [`parhelion_types::ErrorKind`] by number.
        kind: u8,
        /// The thing, the reason and the remedy.
        message: String,
    }

    /// Changes the code on a live link: symbols from `first_symbol` on belong to it. The mirror was asked before
    /// whether it takes the code, by [`OfferCodeV1`].
    103 ChangeCodeV1 {
        /// The new code.
        code: CodeV1,
        /// As in [`HelloV1`], from now on.
        flush_pause: u32,
    }

    /// Asks the mirror to cut logs back: it has records that the primary lost in a crash before anybody was
    /// told of them. The mirror keeps what it cuts off aside, ends the session, and welcomes the next.
    104 RewindV1 {
        /// As in [`HelloV1`].
        session: u64,
        /// Where the logs end at the primary.
        logs: Vec<LogTailV1>,
    }

    /// Asks the mirror whether it knows a code and takes its parameters. Epoch and first symbol say nothing yet.
    105 OfferCodeV1 {
        /// The code.
        code: CodeV1,
        /// Number of the offer, for the answer.
        number: u64,
    }

    /// The mirror's answer.
    106 CodeAnswerV1 {
        /// Number of the offer.
        number: u64,
        /// Why the code cannot be used, if it cannot.
        error: Option<String>,
    }

    /// The mirror's decoder of a code broke, or made up a symbol: the primary is to go on with another code.
    107 CodeFaultV1 {
        /// Number of the code in this session.
        epoch: u32,
        /// What happened.
        reason: String,
    }

    /// A batch of announcements; the payload is a multiple of 40 bytes.
    110 AnnounceV1 {
        /// As in [`HelloV1`].
        session: u64,
        /// Position of this datagram among the announcing ones.
        number: u64,
    }

    /// What the mirror has, what it misses, and how the channel behaves. Replaces all earlier reports.
    111 ReportV1 {
        /// As in [`HelloV1`].
        session: u64,
        /// Position of this report; an older one is ignored.
        number: u64,
        /// Counters of the channel since the session began.
        channel: ChannelCountsV1,
        /// Every source symbol below this one arrived, was rebuilt, or is listed as missing.
        settled_symbols: u64,
        /// Runs of source symbols that neither arrived nor could be rebuilt: first id and length.
        missing: Vec<(u64, u32)>,
        /// Logs that advanced since the last few reports.
        logs: Vec<LogMarkV1>,
    }

    /// One log record over the TCP transport; the record is the payload.
    120 RecordV1 {
        /// As in [`HelloV1`].
        session: u64,
    }
}

/// A code with its parameters, from one symbol of the session on.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CodeV1 {
    /// Number of the code in this session, from 0, one more for each change.
    pub epoch: u32,
    /// First source symbol it protects.
    pub first_symbol: u64,
    /// Name of the code.
    pub name: String,
    /// Version of the code.
    pub version: u32,
    /// Parameters as text, `name=value` separated by blanks.
    pub parameters: String,
    /// Largest symbol, prefix included.
    pub symbol_bytes: u32,
}

/// How far one log has come at the mirror.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMarkV1 {
    /// The log.
    pub log: u32,
    /// Highest epoch the mirror has seen in it.
    pub epoch: u32,
    /// Records of the log that are durable at the mirror, all of them without a gap; or
    /// [`LogMarkV1::REFUSED`].
    pub records: u64,
    /// Address behind the last of those: segment.
    pub segment: u32,
    /// Address behind the last of those: offset.
    pub offset: u32,
}

impl LogMarkV1 {
    /// In place of the count of records: the mirror cannot take the log now, because it is damaged there or
    /// cannot be written. It must neither be fed nor cut back. A primary that does not know this value finds
    /// the mirror further ahead than anything plausible, and does neither.
    pub const REFUSED: u64 = u64::MAX;

    /// The mark of a log that the mirror cannot take.
    #[must_use]
    pub fn refused(log: u32, epoch: u32) -> Self {
        Self { log, epoch, records: Self::REFUSED, segment: u32::MAX, offset: u32::MAX }
    }

    /// Whether the mirror cannot take the log.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.records == Self::REFUSED
    }
}

/// The exact end of one log at its primary.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogTailV1 {
    /// The log.
    pub log: u32,
    /// The primary's epoch.
    pub epoch: u32,
    /// Records of the log.
    pub records: u64,
    /// Address behind the last of them: segment.
    pub segment: u32,
    /// Address behind the last of them: offset.
    pub offset: u32,
    /// Checksum of the last record's header.
    pub chain: u32,
}

/// What the receiving gateway counted since the session began, before any repair.
///
/// `nXY` counts neighbouring datagrams on the wire of which the first was X and the second Y, where 0 is
/// received and 1 is lost (`loss-model.md`, 3.5).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelCountsV1 {
    /// Datagrams whose fate is known.
    pub settled: u64,
    /// Of those, lost.
    pub lost: u64,
    /// Received, then received.
    pub n00: u64,
    /// Received, then lost.
    pub n01: u64,
    /// Lost, then received.
    pub n10: u64,
    /// Lost, then lost.
    pub n11: u64,
    /// Triples lost, received, lost.
    pub n101: u64,
    /// Triples lost, lost, lost.
    pub n111: u64,
    /// Loss runs by length: index `k` counts runs of `2^k` to `2^(k+1) - 1` datagrams.
    pub runs: [u32; 16],
    /// Source symbols that were rebuilt.
    pub rebuilt: u64,
    /// Source symbols that came after they had been given up or rebuilt.
    pub late: u64,
    /// Datagrams that this host dropped after they had arrived.
    pub host_drops: u64,
}

impl From<&ArchivedChannelCountsV1> for ChannelCountsV1 {
    fn from(archived: &ArchivedChannelCountsV1) -> Self {
        Self {
            settled: archived.settled.to_native(),
            lost: archived.lost.to_native(),
            n00: archived.n00.to_native(),
            n01: archived.n01.to_native(),
            n10: archived.n10.to_native(),
            n11: archived.n11.to_native(),
            n101: archived.n101.to_native(),
            n111: archived.n111.to_native(),
            runs: std::array::from_fn(|index| archived.runs[index].to_native()),
            rebuilt: archived.rebuilt.to_native(),
            late: archived.late.to_native(),
            host_drops: archived.host_drops.to_native(),
        }
    }
}

//! What passes between a link driver and the storage actor of its site.
//!
//! Commands go down through an unbounded channel whose content is bounded by the sender's byte credits;
//! events come up as batches through a sink that never blocks.

use bytes::Bytes;
use parhelion_plugin::{Code, Exposure};
use parhelion_types::{RecordKey, SiteId};
use parhelion_wire::Announcement;
use parhelion_wire::link::{ChannelCountsV1, LogMarkV1, LogTailV1};
use tokio::sync::oneshot;

/// Down to the driver at the primary.
#[derive(Debug)]
pub enum LinkCommand {
    /// Sends an announcement on the critical lane, ahead of everything else.
    Announce {
        /// The record.
        key: RecordKey,
        /// Its forty bytes.
        announcement: Announcement,
    },
    /// Sends a record. Its bytes count against the link's buffer until the mirror has confirmed it.
    Send {
        /// The record.
        key: RecordKey,
        /// Header and payload, exactly as stored.
        record: Bytes,
        /// Whether somebody waits for its coverage: then partial groups of the code are completed for it.
        is_awaited: bool,
    },
    /// Changes the code on the live link, if the mirror takes it too. The answer says what was wrong with the request, if
    /// anything.
    ChangeCode {
        /// Name of the code.
        name: String,
        /// Parameters as text.
        parameters: String,
        /// Packet times that a flush pauses from then on; as before if none are given.
        flush_pause: Option<u32>,
        /// Told when symbols flow under the new code.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Asks the mirror to cut logs back to where they end here. It ends the session; the next one begins with
    /// the marks that result.
    Rewind(Vec<LogTailV1>),
    /// Ends the session, if one is up, and begins the next at once. A site's gateway asks for it when a
    /// storage node joins, which must find nothing of an earlier session in flight.
    Renew {
        /// Why, for both sites' logs.
        reason: String,
    },
    /// Sends what is queued, closes the session and ends the driver.
    Close,
}

/// Up from the driver at the primary.
#[derive(Debug)]
pub enum LinkEvent {
    /// A session began. Nothing of an earlier session is in flight any more.
    Up {
        /// The mirror's site.
        peer: SiteId,
        /// Where each log ends at the mirror.
        marks: Vec<LogMarkV1>,
        /// The code in force.
        code: Code,
    },
    /// The session ended. Records that were not confirmed must be sent again in the next one.
    Down {
        /// Why, and what is done about it.
        reason: String,
    },
    /// Another code is in force for symbols from now on.
    CodeChanged(Code),
    /// Announcements that are on the wire.
    Announced(Vec<RecordKey>),
    /// Records whose coverage rose.
    Coverage(Vec<CoverageChange>),
    /// Logs that advanced at the mirror.
    Mirrored(Vec<LogMarkV1>),
}

/// What of a record is on the wire now.
#[derive(Clone, Copy, Debug)]
pub struct CoverageChange {
    /// The record.
    pub key: RecordKey,
    /// Symbols and coverage.
    pub exposure: Exposure,
    /// Whether every symbol of it is on the wire.
    pub sent: bool,
    /// Whether its coverage is complete.
    pub complete: bool,
}

/// Up from the driver at the primary to the estimator, with every report of the mirror.
#[derive(Clone, Copy, Debug)]
pub struct LinkTelemetry {
    /// Counters since the session began.
    pub counts: ChannelCountsV1,
    /// Which session.
    pub session: u64,
}

/// Where the driver at the primary delivers its events. Called on the driver's thread: must not block.
pub trait PrimarySink: Send {
    /// Events in the order they happened.
    fn events(&mut self, events: Vec<LinkEvent>);
    /// The channel's counters.
    fn telemetry(&mut self, telemetry: LinkTelemetry);
}

/// Down to the driver at the mirror.
#[derive(Debug)]
pub enum MirrorCommand {
    /// Logs that advanced: durable at the mirror. Goes into the next reports.
    Marks(Vec<LogMarkV1>),
    /// Ends the session, if there is one; the driver goes on to listen. A site's gateway asks for it when a
    /// storage node is lost, whose records have nowhere to go.
    EndSession {
        /// Why, for both sites' logs.
        reason: String,
    },
    /// Ends the session and the driver; the primary will see the link go down.
    Close,
}

/// Up from the driver at the mirror.
#[derive(Debug)]
pub enum MirrorEvent {
    /// A primary asks for a session; the answer lists where each log ends, or refuses it in words.
    Hello {
        /// The primary's site.
        site: SiteId,
        /// The session.
        session: u64,
        /// All logs of this site, durable ends.
        marks: oneshot::Sender<Result<Vec<LogMarkV1>, parhelion_types::Error>>,
    },
    /// Announcements, in any order, some twice.
    Announced(Vec<Announcement>),
    /// The primary lost records in a crash that are here: cut these logs back. The session ends with it; no
    /// other may be welcomed before it is done.
    Rewind(Vec<LogTailV1>),
    /// Whole records, header and payload, in any order, none twice in one session.
    Records(Vec<Bytes>),
    /// The session ended: what has not arrived will not.
    Down {
        /// Why.
        reason: String,
    },
}

/// Where the driver at the mirror delivers its events. Called on the driver's thread: must not block.
pub trait MirrorSink: Send {
    /// Events in the order they happened.
    fn events(&mut self, events: Vec<MirrorEvent>);
    /// Bytes of records that were delivered and not yet durable; above the driver's limit it stops reading.
    fn pending_bytes(&self) -> usize;
}

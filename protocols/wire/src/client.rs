//! Messages between clients and nodes. Frozen: a change makes a new type with the next version.
//!
//! A client opens one stream and sends questions down it, each with a correlation number; answers come
//! back in any order. The bytes of an append are the frame's payload, never part of the body.

use rkyv::{Archive, Deserialize, Serialize};

use crate::envelope::Message;

macro_rules! messages {
    ($($(#[$doc:meta])* $kind:literal $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $ty,)*
            }

            impl Message for $name {
                const KIND: u16 = $kind;
            }
        )*

        #[cfg(test)]
        pub(crate) const KINDS: &[u16] = &[$($kind),*];
    };
}
pub(crate) use messages;

messages! {
    /// The answer to any question that failed.
    1 FailureV1 {
        /// [`parhelion_types::ErrorKind`] by number.
        kind: u8,
        /// The thing, the reason and the remedy.
        message: String,
    }

    /// Creates a log. Answer: [`CreatedV1`].
    10 CreateV1 {
        /// The log's name, unique at the primary.
        name: String,
        /// [`parhelion_types::Degrade`] by number.
        degrade: u8,
        /// Makes a retry safe.
        request: u128,
    }

    /// A log was created, or existed already under the same request id.
    11 CreatedV1 {
        /// The log.
        log: u32,
    }

    /// Creates a log under the number that the metadata node has chosen. Only nodes of the site ask this.
    /// Answer: [`CreatedV1`].
    12 PlaceV1 {
        /// The number.
        log: u32,
        /// As in [`CreateV1`].
        name: String,
        /// As in [`CreateV1`].
        degrade: u8,
        /// As in [`CreateV1`].
        request: u128,
    }

    /// Appends the payload to a log. Answer: [`AppendedV1`].
    20 AppendV1 {
        /// The log.
        log: u32,
        /// [`parhelion_types::Durability`] by number.
        durability: u8,
        /// Largest acceptable prefix risk for `network`; 1 leaves it to coverage alone.
        max_risk: f64,
        /// Microseconds until the log's degrade policy applies; 0 for none.
        deadline_micros: u64,
        /// Makes a retry safe; 0 for none.
        request: u128,
        /// Asks for the safety path in the answer.
        explain: bool,
        /// W3C trace id; 0 for none.
        trace: u128,
        /// Parent span.
        span: u64,
        /// Whether the trace is sampled.
        sampled: bool,
    }

    /// The acknowledgement of an append.
    21 AppendedV1 {
        /// The log.
        log: u32,
        /// Segment of the address.
        segment: u32,
        /// Offset of the address.
        offset: u32,
        /// The level reached, by number.
        reached: u8,
        /// Whether the level reached is below the level asked, by the degrade policy.
        degraded: bool,
        /// Whether an earlier append with this request id is being acknowledged again.
        duplicate: bool,
        /// Bound on P(this append cannot be rebuilt at the mirror).
        own_risk: f64,
        /// Bound on P(this append or an earlier one of the log that the mirror lacks cannot).
        prefix_risk: f64,
        /// P(the bounds hold).
        confidence: f64,
        /// The durability model.
        model: String,
        /// The code in force, with its parameters.
        code: String,
        /// The primary's epoch.
        epoch: u32,
        /// The safety path, in order of time; empty unless asked for.
        path: Vec<StageV1>,
    }

    /// Nobody waits any more for the answer to the append of this frame's correlation: what it holds is given back. It
    /// may have been stored, or may yet be. Goes on any stream of the connection. No answer.
    22 GiveUpV1 {}

    /// Reads one append. Answer: [`ReadBytesV1`] with the bytes as payload.
    30 ReadV1 {
        /// The log.
        log: u32,
        /// Segment of the address.
        segment: u32,
        /// Offset of the address.
        offset: u32,
    }

    /// The payload is the append.
    31 ReadBytesV1 {
        /// CRC-32C of the bytes, as stored.
        digest: u32,
        /// When the primary accepted the append, microseconds since the Unix epoch.
        time_micros: u64,
    }

    /// Marks an append for cleaning. Answer: [`FreedV1`].
    40 FreeV1 {
        /// The log.
        log: u32,
        /// Segment of the address.
        segment: u32,
        /// Offset of the address.
        offset: u32,
    }

    /// The append is freed, here and soon at the mirror.
    41 FreedV1 {
        /// The log.
        log: u32,
    }

    /// Lists all logs. Answer: [`LogsV1`].
    50 ListV1 {
        /// First log to name.
        from: u32,
    }

    /// Logs in order of their numbers. Fewer than asked for means there are no more.
    51 LogsV1 {
        /// The logs.
        logs: Vec<LogStateV1>,
    }

    /// Asks after one log. Answer: [`LogsV1`] with one entry.
    52 StatV1 {
        /// The log.
        log: u32,
    }

    /// Walks a log's records. Answer: [`EntriesV1`].
    54 ScanV1 {
        /// The log.
        log: u32,
        /// Segment to start at.
        segment: u32,
        /// Offset to start at.
        offset: u32,
        /// Most entries in the answer.
        count: u32,
    }

    /// A stretch of a log in log order; empty at the end of the log.
    55 EntriesV1 {
        /// The records.
        entries: Vec<EntryV1>,
        /// Where the next stretch starts: segment.
        next_segment: u32,
        /// Where the next stretch starts: offset.
        next_offset: u32,
    }

    /// Asks after the node: its site, its link, its mirroring. Answer: [`NodeStateV1`].
    60 StatusV1 {}

    /// State of a node as a JSON document whose fields are in `docs/operations.md`.
    ///
    /// Status is for people and dashboards and grows with every release, so it is text, not a frozen layout.
    61 NodeStateV1 {
        /// The document.
        json: String,
    }

    /// Makes this mirror writable under a new epoch. Answer: [`PromotedV1`].
    70 PromoteV1 {
        /// Only reports what would happen.
        dry_run: bool,
    }

    /// What promotion found.
    71 PromotedV1 {
        /// The new epoch.
        epoch: u32,
        /// Logs of this site.
        logs: u32,
        /// Appends that were announced and cannot be shown here, in the order of their logs and addresses; as many as a
        /// message holds.
        missing: Vec<MissingV1>,
        /// How many there are in all.
        missing_count: u64,
        /// Of those, the ones that are here but lie behind a gap: order forbids to show them.
        behind_gap_count: u64,
    }

    /// Asks again what the promotion of this site found. Answer: [`PromotedV1`] with the missing appends from a place on.
    72 ListMissingV1 {
        /// The log to begin with ...
        log: u32,
        /// ... and the first segment ...
        segment: u32,
        /// ... and offset of it.
        offset: u32,
    }

    /// Digests a log up to an address, to compare sites. Answer: [`DigestV1`].
    80 DigestLogV1 {
        /// The log.
        log: u32,
        /// Records that start before this segment ...
        segment: u32,
        /// ... and offset are digested.
        offset: u32,
    }

    /// BLAKE3 over the records, headers and all, in log order.
    81 DigestV1 {
        /// The digest.
        digest: [u8; 32],
        /// Records digested.
        records: u64,
        /// Bytes digested.
        bytes: u64,
    }

    /// Changes the erasure code of the live link. Only admins ask this. Answer: [`CodeChangedV1`].
    90 ChangeCodeV1 {
        /// Name of the code.
        name: String,
        /// Its parameters, `name=value` separated by blanks; empty for its defaults.
        parameters: String,
    }

    /// Symbols flow under the new code.
    91 CodeChangedV1 {
        /// The code in force: name, version and parameters.
        code: String,
    }
}

/// One step of an append's safety path.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct StageV1 {
    /// What happened: `accepted`, `announced`, `sent`, `covered`, `durable`, `mirrored` or `acknowledged`.
    pub stage: String,
    /// Microseconds after the append was accepted.
    pub micros: u64,
    /// Repairs on the wire for every symbol of the append, of `repairs_full`.
    pub repairs: u32,
    /// Repairs at complete coverage.
    pub repairs_full: u32,
    /// Own risk at that moment.
    pub own_risk: f64,
    /// Prefix risk at that moment.
    pub prefix_risk: f64,
    /// Why this stage mattered, in words.
    pub note: String,
}

/// State of one log at one site.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct LogStateV1 {
    /// The log.
    pub log: u32,
    /// Its name.
    pub name: String,
    /// Its epoch.
    pub epoch: u32,
    /// Degrade policy by number.
    pub degrade: u8,
    /// Records in the log, creation and frees included.
    pub records: u64,
    /// Bytes of the log's records.
    pub bytes: u64,
    /// End of the log at this site: segment.
    pub end_segment: u32,
    /// End of the log at this site: offset.
    pub end_offset: u32,
    /// Records that the mirror has confirmed, as this site knows it.
    pub mirrored_records: u64,
    /// Appends that were freed.
    pub freed: u64,
    /// Why the log takes no records: [`parhelion_types::ErrorKind`] by number; 0 where it takes them.
    pub refusal: u8,
}

/// One record of a log.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct EntryV1 {
    /// Segment of the address.
    pub segment: u32,
    /// Offset of the address.
    pub offset: u32,
    /// Kind of record: 1 create, 2 append, 3 free.
    pub kind: u8,
    /// Bytes of the append.
    pub length: u32,
    /// CRC-32C of the append's bytes.
    pub digest: u32,
    /// The client's name for it.
    pub request: u128,
    /// When the primary accepted it, microseconds since the Unix epoch.
    pub time_micros: u64,
    /// Whether it was freed.
    pub freed: bool,
}

/// One append that was announced to the mirror and is not there.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct MissingV1 {
    /// The log.
    pub log: u32,
    /// Segment of the address.
    pub segment: u32,
    /// Offset of the address.
    pub offset: u32,
    /// Bytes of the append.
    pub length: u32,
    /// CRC-32C of the append's bytes.
    pub digest: u32,
    /// The client's name for it.
    pub request: u128,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_unique() {
        let mut kinds = [KINDS, crate::link::KINDS, crate::site::KINDS].concat();
        let count = kinds.len();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), count);
    }

    #[test]
    fn layouts_are_frozen() {
        // The size of the archived root is part of the format; a change here is a new version.
        assert_eq!(size_of::<ArchivedAppendV1>(), 4 + 1 + 8 + 8 + 16 + 1 + 16 + 8 + 1);
        assert_eq!(size_of::<ArchivedReadV1>(), 12);
        let append = AppendV1 {
            log: 1,
            durability: 2,
            max_risk: 1e-6,
            deadline_micros: 3,
            request: 4,
            explain: true,
            trace: 5,
            span: 6,
            sampled: false,
        };
        let bytes = crate::encode_body(&append).unwrap();
        let mut golden = vec![1, 0, 0, 0, 2];
        golden.extend_from_slice(&1e-6f64.to_le_bytes());
        golden.extend_from_slice(&3u64.to_le_bytes());
        golden.extend_from_slice(&4u128.to_le_bytes());
        golden.push(1);
        golden.extend_from_slice(&5u128.to_le_bytes());
        golden.extend_from_slice(&6u64.to_le_bytes());
        golden.push(0);
        assert_eq!(&bytes[..], golden);

        let place = PlaceV1 { log: 7, name: "seven".to_owned(), degrade: 2, request: 8 };
        let bytes = crate::encode_body(&place).unwrap();
        // A name of up to eight bytes lies inside the archived string.
        let mut golden = vec![7, 0, 0, 0];
        golden.extend_from_slice(b"seven\xff\xff\xff");
        golden.push(2);
        golden.extend_from_slice(&8u128.to_le_bytes());
        assert_eq!(&bytes[..], golden);
    }
}

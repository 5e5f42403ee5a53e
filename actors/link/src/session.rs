//! How a session begins: who says what on which lane.
//!
//! ```text
//! primary                                   mirror
//!    │ critical: QUIC handshake, certificates  │
//!    │ bulk:     QUIC handshake, certificates  │    (not with records over TCP)
//!    │ bulk:     binding, on a one-way stream  │
//!    │ critical: HelloV1 ────────────────────► │    asks the storage actor
//!    │ critical: ◄──────── WelcomeV1 ... or RefusalV1
//!    │ TCP:      connect, certificates         │    (only with records over TCP)
//! ```
//!
//! The binding names the session, so a bulk connection that outlived its session binds to nothing. The mirror
//! demands the same certificate on both lanes.

use bytes::Bytes;
use parhelion_plugin::{Code, Parameters};
use parhelion_types::ErrorKind;
use parhelion_wire::link::{ArchivedCodeV1, ArchivedLogMarkV1, CodeV1, LogMarkV1, RefusalV1, WelcomeV1};
use parhelion_wire::{Message, WireError, frame};

use crate::config::CodeLookup;

/// Bytes of a binding: a magic number and the session, both little endian.
pub(crate) const BINDING_BYTES: usize = 16;

/// "PHELbind", read as a little-endian number.
const BINDING_MAGIC: u64 = u64::from_le_bytes(*b"PHELbind");

/// Marks in one welcome. A welcome that is full is followed by another, so that a site may have more logs
/// than fit into one message.
pub(crate) const WELCOME_MARKS_MAX: usize = 16_384;
const _: () = assert!(
    WELCOME_MARKS_MAX * size_of::<ArchivedLogMarkV1>() < parhelion_types::limits::MESSAGE_BYTES_MAX / 2,
    "a full welcome must fit into a message"
);

/// What the primary says first on the bulk lane.
pub(crate) fn binding(session: u64) -> [u8; BINDING_BYTES] {
    let mut bytes = [0; BINDING_BYTES];
    bytes[..8].copy_from_slice(&BINDING_MAGIC.to_le_bytes());
    bytes[8..].copy_from_slice(&session.to_le_bytes());
    bytes
}

/// The session that a binding names.
pub(crate) fn parse_binding(bytes: &[u8]) -> Option<u64> {
    let (words, rest) = bytes.as_chunks::<8>();
    match words {
        [magic, session] if rest.is_empty() && u64::from_le_bytes(*magic) == BINDING_MAGIC => {
            Some(u64::from_le_bytes(*session))
        }
        _ => None,
    }
}

/// The welcome, in as many messages as it takes.
pub(crate) fn welcome(site: u16, session: u64, marks: &[LogMarkV1]) -> Result<Vec<Bytes>, WireError> {
    let mut messages = Vec::with_capacity(marks.len() / WELCOME_MARKS_MAX + 1);
    let mut rest = marks;
    loop {
        let (logs, later) = rest.split_at(rest.len().min(WELCOME_MARKS_MAX));
        messages.push(frame(&WelcomeV1 { site, session, logs: logs.to_vec() }, b"", 0)?);
        if logs.len() < WELCOME_MARKS_MAX {
            return Ok(messages);
        }
        rest = later;
    }
}

/// The refusal.
pub(crate) fn refusal(kind: ErrorKind, message: &str) -> Result<Bytes, WireError> {
    frame(&RefusalV1 { kind: kind.code(), message: message.to_owned() }, b"", 0)
}

/// Finds a code and checks its parameters.
pub(crate) fn find_code(codes: &CodeLookup, name: &str, parameters: &str) -> Result<Code, String> {
    let family = codes(name)
        .ok_or_else(|| format!("code {name:?} is not known here; load its plugin at both sites"))?;
    let parameters: Parameters = parameters.parse().map_err(|error| format!("code {name:?}: {error}"))?;
    Code::new(family, &parameters).map_err(|error| format!("code {name:?}: {error}"))
}

/// Finds the code that the other site names.
pub(crate) fn agree_on_code(codes: &CodeLookup, asked: &ArchivedCodeV1) -> Result<Code, String> {
    let (name, version) = (asked.name.as_str(), asked.version.to_native());
    let with_version = format!("{name}@{version}");
    if codes(&with_version).is_some() {
        return find_code(codes, &with_version, &asked.parameters);
    }
    let here = match codes(name) {
        Some(code) => format!("here it has version {}", code.version()),
        None => "it is not known here".to_owned(),
    };
    Err(format!(
        "the primary uses code {name:?} in version {version}, and {here}; load the same plugin at both sites, or set \
         link.code at the primary to a code that both know"
    ))
}

/// A code for the other site.
pub(crate) fn code_message(code: &Code, epoch: u32, first_symbol: u64, symbol_bytes: usize) -> CodeV1 {
    CodeV1 {
        epoch,
        first_symbol,
        name: code.name().to_owned(),
        version: code.version(),
        parameters: code.parameters().to_string(),
        symbol_bytes: u32::try_from(symbol_bytes).unwrap_or(u32::MAX),
    }
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

/// Whether an envelope carries an `M`, of whatever version.
pub(crate) fn is<M: Message>(envelope: &parhelion_wire::Envelope) -> bool {
    envelope.kind == M::KIND
}

#[cfg(test)]
mod tests {
    use parhelion_wire::{Checked, ENVELOPE_BYTES, Envelope};

    use super::*;

    #[test]
    fn bindings_are_exact() {
        let bytes = binding(77);
        assert_eq!(parse_binding(&bytes), Some(77));
        assert_eq!(parse_binding(&bytes[..15]), None);
        assert_eq!(parse_binding(&[0; BINDING_BYTES]), None);
    }

    #[test]
    fn a_welcome_of_any_size_ends_with_one_that_is_not_full() {
        for logs in [0, 1, WELCOME_MARKS_MAX - 1, WELCOME_MARKS_MAX, WELCOME_MARKS_MAX + 1] {
            let marks: Vec<LogMarkV1> = (0..logs)
                .map(|log| LogMarkV1 { log: log as u32, epoch: 1, records: 2, segment: 3, offset: 4 })
                .collect();
            let mut got = Vec::new();
            let messages = welcome(9, 8, &marks).unwrap();
            for (n, message) in messages.iter().enumerate() {
                let envelope = Envelope::parse(message).unwrap();
                let (body, _) = envelope.split(message.slice(ENVELOPE_BYTES..)).unwrap();
                let welcome = Checked::<WelcomeV1>::parse(&envelope, body).unwrap();
                let logs = &welcome.get().logs;
                assert_eq!(logs.len() == WELCOME_MARKS_MAX, n + 1 < messages.len());
                got.extend(logs.iter().map(mark));
            }
            assert_eq!(got, marks);
        }
    }
}

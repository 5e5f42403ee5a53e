//! Why a primary does not do what it is asked, in words: the thing, the reason, the remedy.

use parhelion_log::KnownRequest;
use parhelion_types::{Durability, Error, ErrorKind, LogId};

pub(crate) fn number_taken(id: LogId, name: &str) -> Error {
    Error::unavailable(format!(
        "log {name:?} was given number {id}, which another log has; it was not created: retry, and it gets another"
    ))
}

pub(crate) fn unknown_log(id: LogId) -> Error {
    Error::not_found(format!(
        "log {id} does not exist at this site; `parhelion log list` shows those that do"
    ))
}

pub(crate) fn no_mirror(asked: Durability) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "this site mirrors to nobody, so that no append reaches the level {asked}; ask for the level local, or give \
             the site a mirror (profile primary, link.peer_bulk)"
        ),
    )
}

pub(crate) fn other_bytes(known: &KnownRequest) -> Error {
    let KnownRequest { request, address, length, .. } = known;
    Error::invalid(format!(
        "request {request} has stored other bytes before, {length} of them at {address}; \
         nothing was changed: give each append a request id of its own"
    ))
}

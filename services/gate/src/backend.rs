//! What a node does for its clients, in plain values.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parhelion_credit::Credit;
use parhelion_types::limits::LOG_NAME_BYTES_MAX;
use parhelion_types::{
    AppendRequest, Degrade, Durability, Epoch, Error, ErrorKind, LogAddress, LogId, RequestId, Risk,
    SourceTime,
};

/// Longest name and parameters of a code together: far more than any code takes.
const CODE_BYTES_MAX: usize = 1024;

/// The answer to a request, some time later.
pub type Later<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// What a node does for its clients. All front ends call this.
///
/// A future may be dropped at any await point, when its client is gone: what was begun may complete
/// or not, and a retry with the same request id must be safe.
pub trait Backend: Send + Sync + 'static {
    /// Creates a log.
    fn create(&self, request: CreateRequest) -> Later<'_, LogId>;
    /// Creates a log here, under a number that the site's metadata node has chosen. Asking again is no error.
    fn place(&self, log: LogId, request: CreateRequest) -> Later<'_, LogId> {
        let CreateRequest { name, .. } = request;
        let error = Error::new(
            ErrorKind::Unsupported,
            format!(
                "log {log} ({name:?}) cannot be placed here: this node stores no logs for others; check site.storage"
            ),
        );
        Box::pin(std::future::ready(Err(error)))
    }
    /// Appends, and answers when the append is as safe as asked. `credit` stands for the bytes of the request and for
    /// [`WAITING_APPEND_BYTES`](parhelion_types::limits::WAITING_APPEND_BYTES): whoever has the bytes has it, and gives
    /// back what they free.
    fn append(&self, request: AppendRequest, credit: Credit) -> Later<'_, Appended>;
    /// Reads one append.
    fn read(&self, log: LogId, address: LogAddress) -> Later<'_, ReadRecord>;
    /// Marks an append for cleaning. Freeing what is freed already is no error: the client may be retrying.
    fn free(&self, log: LogId, address: LogAddress) -> Later<'_, ()>;
    /// At most `count` logs from number `from` on, in order of their numbers.
    fn list(&self, from: LogId, count: usize) -> Later<'_, Vec<LogState>>;
    /// The state of one log.
    fn stat(&self, log: LogId) -> Later<'_, LogState>;
    /// At most `count` records of a log, from `from` on.
    fn scan(&self, log: LogId, from: LogAddress, count: usize) -> Later<'_, Stretch>;
    /// The state of the node as a document.
    fn status(&self) -> Later<'_, serde_json::Value>;
    /// Makes this mirror writable, or only says what would be missing. Of a mirror that was made so already, says again
    /// what was found.
    fn promote(&self, dry_run: bool) -> Later<'_, Promotion>;
    /// What the promotion of this site found, with the missing appends from a place on; none when no more follow.
    fn list_missing(&self, _log: LogId, _from: LogAddress) -> Later<'_, Promotion> {
        let message = "list missing: this node was never promoted; ask a node of the promoted site";
        Box::pin(std::future::ready(Err(Error::new(ErrorKind::NotFound, message))))
    }
    /// Digests the records of a log that start before `until`.
    fn digest(&self, log: LogId, until: LogAddress) -> Later<'_, LogDigest>;
    /// Changes the code of the live link and answers when symbols flow under the new one: its name, version and
    /// parameters.
    fn change_code(&self, _request: CodeRequest) -> Later<'_, String> {
        let message = "change code: this node has no link to another site; ask a node of the primary site";
        Box::pin(std::future::ready(Err(Error::new(ErrorKind::Unsupported, message))))
    }
}

/// Asks for a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateRequest {
    /// Its name, unique at the primary.
    pub name: String,
    /// What happens to an append whose level is not reached by its deadline.
    pub degrade: Degrade,
    /// Makes a retry safe.
    pub request: RequestId,
}

/// Asks for another code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeRequest {
    /// Name of the code.
    pub name: String,
    /// Its parameters, `name=value` separated by blanks; empty for its defaults.
    pub parameters: String,
}

/// The acknowledgement of an append.
#[derive(Clone, Debug, PartialEq)]
pub struct Appended {
    /// The log.
    pub log: LogId,
    /// Where the append is, at both sites.
    pub address: LogAddress,
    /// The level reached.
    pub reached: Durability,
    /// Whether that is below the level asked for, by the degrade policy.
    pub degraded: bool,
    /// Whether an earlier append with the same request id is acknowledged again.
    pub duplicate: bool,
    /// Bound on P(this append cannot be rebuilt at the mirror).
    pub own_risk: Risk,
    /// Bound on P(this append or an earlier one of the log that the mirror lacks cannot).
    pub prefix_risk: Risk,
    /// P(the bounds hold).
    pub confidence: f64,
    /// The durability model.
    pub model: String,
    /// The code in force, with its parameters.
    pub code: String,
    /// The primary's epoch.
    pub epoch: Epoch,
    /// The safety path in order of time; empty unless asked for.
    pub path: Vec<Stage>,
}

/// One step of an append's safety path.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What happened: `accepted`, `announced`, `sent`, `covered`, `durable`, `mirrored` or `acknowledged`.
    pub stage: String,
    /// Time since the append was accepted.
    pub after: Duration,
    /// Repairs on the wire for every symbol of the append.
    pub repairs: u32,
    /// Repairs at complete coverage.
    pub repairs_full: u32,
    /// Own risk at that moment.
    pub own_risk: Risk,
    /// Prefix risk at that moment.
    pub prefix_risk: Risk,
    /// Why this stage mattered, in words.
    pub note: String,
}

/// An append that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRecord {
    /// The bytes.
    pub payload: Bytes,
    /// CRC-32C of the bytes, as stored.
    pub digest: u32,
    /// When the primary accepted it.
    pub time: SourceTime,
}

/// State of one log at one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogState {
    /// The log.
    pub log: LogId,
    /// Its name.
    pub name: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its degrade policy.
    pub degrade: Degrade,
    /// Records, creation and frees included.
    pub records: u64,
    /// Bytes of the records.
    pub bytes: u64,
    /// End of the log at this site.
    pub end: LogAddress,
    /// Records that the mirror has confirmed, as this site knows it.
    pub mirrored_records: u64,
    /// Appends that were freed.
    pub freed: u64,
    /// Why the log takes no records, where it takes none: it is damaged, fenced, or cannot be written. The
    /// node's status has the words.
    pub refusal: Option<ErrorKind>,
}

/// Records of a log in log order; none at the end of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    /// The records.
    pub entries: Vec<Entry>,
    /// Where the next stretch starts.
    pub next: LogAddress,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// The log was created.
    Create,
    /// Bytes were appended.
    Append,
    /// An append was freed.
    Free,
}

/// One record of a log, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub address: LogAddress,
    /// What it says.
    pub kind: EntryKind,
    /// Bytes of the append.
    pub length: u32,
    /// CRC-32C of the append's bytes.
    pub digest: u32,
    /// The client's name for it.
    pub request: RequestId,
    /// When the primary accepted it.
    pub time: SourceTime,
    /// Whether it was freed.
    pub freed: bool,
}

/// What promotion found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promotion {
    /// The epoch that fences the old primary.
    pub epoch: Epoch,
    /// Logs of this site.
    pub logs: u32,
    /// Appends that were announced and cannot be shown here, in the order of their logs and addresses; not all, if there
    /// are many.
    pub missing: Vec<Missing>,
    /// How many there are in all.
    pub missing_count: u64,
    /// Of those, the ones that are here but lie behind a gap: order forbids to show them.
    pub behind_gap_count: u64,
}

/// One append that was announced to the mirror and cannot be shown there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The log.
    pub log: LogId,
    /// Where it was.
    pub address: LogAddress,
    /// Bytes of it.
    pub length: u32,
    /// CRC-32C of the bytes.
    pub digest: u32,
    /// The client's name for it.
    pub request: RequestId,
}

/// BLAKE3 over the records of a log, headers and all, in log order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogDigest {
    /// The digest.
    pub digest: [u8; 32],
    /// Records digested.
    pub records: u64,
    /// Bytes digested.
    pub bytes: u64,
}

impl CreateRequest {
    /// Checks what needs no knowledge of the node.
    ///
    /// # Errors
    /// `Invalid`: the name is empty, too long, or not printable.
    pub fn check(&self) -> Result<(), Error> {
        let bytes = self.name.len();
        if bytes == 0 {
            return Err(Error::invalid("the log's name is empty; give it one"));
        }
        if bytes > LOG_NAME_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the log's name has {bytes} bytes; give one of at most {LOG_NAME_BYTES_MAX}"
            )));
        }
        if self.name.chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "the log's name {:?} has control characters; give a printable one",
                self.name
            )));
        }
        Ok(())
    }
}

impl CodeRequest {
    /// Checks what needs no knowledge of the codes.
    ///
    /// # Errors
    /// `Invalid`: there is no name, or there are more words than any code takes.
    pub fn check(&self) -> Result<(), Error> {
        let Self { name, parameters } = self;
        if name.is_empty() {
            return Err(Error::invalid("change code: no code is named; give one such as reed-solomon"));
        }
        let bytes = name.len() + parameters.len();
        if bytes > CODE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "change code: name and parameters have {bytes} bytes; give at most {CODE_BYTES_MAX}"
            )));
        }
        Ok(())
    }
}

impl EntryKind {
    /// The kind's number on the wire and on disk.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Create => 1,
            Self::Append => 2,
            Self::Free => 3,
        }
    }

    /// The kind with that number, if there is one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Create, Self::Append, Self::Free].into_iter().find(|kind| kind.code() == code)
    }
}

/// An id for a request whose caller gave none, so that its retry is safe.
#[must_use]
pub fn random_request() -> RequestId {
    // Zero means "none given".
    RequestId(rand::random::<u128>().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_are_refused_with_a_remedy() {
        let create = |name: &str| {
            CreateRequest { name: name.to_owned(), degrade: Degrade::Block, request: RequestId::NONE }.check()
        };
        assert_eq!(create("orders"), Ok(()));
        assert_eq!(create(&"x".repeat(LOG_NAME_BYTES_MAX)), Ok(()));
        for bad in ["", "a\nb", &"x".repeat(LOG_NAME_BYTES_MAX + 1)] {
            let error = create(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains("give"), "no remedy in {error}");
        }
    }
}

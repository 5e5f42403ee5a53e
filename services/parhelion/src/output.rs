//! What commands print, and the exit codes scripts can rely on.

use std::process::ExitCode;

use parhelion_types::{Error, ErrorKind};
use serde_json::{Value, json};
use tabled::builder::Builder;
use tabled::settings::Style;

/// Exit codes. Documented in `docs/operations.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Something failed, and a retry will not help.
    Failed = 1,
    /// The command line is wrong. Also clap's own.
    Usage = 2,
    /// The service cannot do it now: retry.
    Retry = 3,
    /// The command worked and found a difference or a loss.
    Found = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that did not work: the message and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The thing, the reason and the remedy.
    pub message: String,
    /// The exit code.
    pub exit: Exit,
}

impl Failure {
    /// A failure that a retry does not mend.
    pub fn new(message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string(), exit: Exit::Failed }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.kind() {
            kind if kind.is_retryable() => Exit::Retry,
            ErrorKind::Invalid => Exit::Usage,
            _ => Exit::Failed,
        };
        Self { message: error.to_string(), exit }
    }
}

/// Prints a value as JSON on one line.
pub fn print_json(value: &Value) {
    println!("{value}");
}

/// Prints rows under a header; columns line up.
pub fn print_table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let mut table = Builder::default();
    table.push_record(header);
    for row in rows {
        table.push_record(row);
    }
    println!("{}", table.build().with(Style::blank()));
}

/// Prints an error: for people on standard error, for scripts as JSON on standard output.
pub fn print_failure(failure: &Failure, as_json: bool) {
    if as_json {
        print_json(&json!({"error": failure.message}));
    } else {
        eprintln!("error: {}", failure.message);
    }
}

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

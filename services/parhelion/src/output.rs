//! What commands print, and the exit codes scripts can rely on.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use parhelion_types::{Error, ErrorKind, RequestId};
use serde_json::{Value, json};
use tabled::builder::Builder;
use tabled::settings::Style;

/// Exit codes. Documented in `docs/operations.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Something failed, and a retry will not help; of a node, only a restart after what failed was mended.
    Failed = 1,
    /// The command line, a setting or the certificate of a node is wrong, names what is not there, or asks for what the
    /// certificate does not allow. Also clap's own.
    Usage = 2,
    /// The service cannot do it now: retry.
    Retry = 3,
    /// The command worked and found a difference, a loss, or a lag over the limit.
    Found = 4,
    /// A signal ended a drill before its end.
    Stopped = 130,
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
    /// What the caller must do, if the failure came from a node or a client library.
    kind: Option<ErrorKind>,
    /// The id with which the append can be repeated.
    request: Option<RequestId>,
}

impl Failure {
    /// A failure that a retry does not mend.
    pub fn new(message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string(), exit: Exit::Failed, kind: None, request: None }
    }

    /// Settings or a command line that are wrong: the same will fail again.
    pub fn usage(message: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Usage, ..Self::new(message) }
    }

    /// A command that a signal ended before its end.
    pub fn stopped(message: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Stopped, ..Self::new(message) }
    }

    /// The failure of an append: one that may succeed later is repeated under the same id.
    pub fn of_request(self, request: RequestId) -> Self {
        if self.exit == Exit::Retry { Self { request: Some(request), ..self } } else { self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.kind() {
            kind if kind.is_retryable() => Exit::Retry,
            ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Forbidden => Exit::Usage,
            _ => Exit::Failed,
        };
        Self { message: error.to_string(), exit, kind: Some(error.kind()), request: None }
    }
}

/// Prints a line, as `println` does, but ends the command in silence where the reader has seen enough, as `head` has.
macro_rules! say {
    () => { $crate::output::write_out(b"\n") };
    ($($arguments:tt)*) => { $crate::output::write_out(format!("{}\n", format_args!($($arguments)*)).as_bytes()) };
}
pub(crate) use say;

/// Exit code of a command whose reader is gone: what a shell shows for the signal SIGPIPE.
const EXIT_PIPE: i32 = 141;

/// Writes to standard output.
pub fn write_out(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(EXIT_PIPE);
        }
        eprintln!("error: standard output cannot be written: {error}; give it another place");
        std::process::exit(Exit::Failed as i32);
    }
}

/// Prints a value as JSON on one line.
pub fn print_json(value: &Value) {
    say!("{value}");
}

/// Prints rows under a header; columns line up.
pub fn print_table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let mut table = Builder::default();
    table.push_record(header);
    for row in rows {
        table.push_record(row);
    }
    // Columns are padded; the last one's padding would only wrap.
    for line in table.build().with(Style::blank()).to_string().lines() {
        say!("{}", line.trim_end());
    }
}

/// Prints an error: for people on standard error, for scripts as JSON on standard output.
pub fn print_failure(failure: &Failure, as_json: bool) {
    let Failure { message, kind, request, .. } = failure;
    let request = request.map(|request| request.to_string());
    if as_json {
        print_json(&json!({"error": message, "kind": kind.map(ErrorKind::name), "request_id": request}));
        return;
    }
    eprintln!("error: {message}");
    if let Some(request) = request {
        eprintln!("to try again and store it once, repeat the command with --request-id {request}");
    }
}

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

/// A count for people: thousands apart.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// So many of something: `1 log`, `2 logs`.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A span of time for people, with three digits that mean something: `340 us`, `12.3 ms`, `4.56 s`, `2h 3m 4s`.
pub fn span(span: Duration) -> String {
    let micros = span.as_secs_f64() * 1e6;
    let three = |value: f64, unit: &str| {
        let digits = if value >= 99.95 {
            0
        } else if value >= 9.995 {
            1
        } else {
            2
        };
        format!("{value:.digits$} {unit}")
    };
    match micros {
        _ if span.is_zero() => "0 s".to_owned(),
        ..1e3 => format!("{micros:.0} us"),
        ..1e6 => three(micros / 1e3, "ms"),
        ..100e6 => three(micros / 1e6, "s"),
        _ => humantime::format_duration(Duration::from_secs(span.as_secs())).to_string(),
    }
}

/// A share for people.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".to_owned(),
        percent @ 0.01.. => format!("{} %", (percent * 100.0).round() / 100.0),
        percent => format!("{percent:.1e} %"),
    }
}

/// A field of a JSON document for people: nothing is a dash.
pub fn field(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!([0, 1, 2000].map(|n| counted(n, "log")), ["0 logs", "1 log", "2 000 logs"]);
        let spans = [0, 7, 340, 1500, 12_345, 99_999, 123_456, 4_567_000, 100_000_000, 7_384_000_000];
        let words = [
            "0 s", "7 us", "340 us", "1.50 ms", "12.3 ms", "100 ms", "123 ms", "4.57 s", "1m 40s", "2h 3m 4s",
        ];
        assert_eq!(spans.map(|micros| span(Duration::from_micros(micros))), words);
        assert_eq!(
            [0.0, 0.25, 0.0123, 0.000_123, 1.2e-6].map(percent),
            ["0 %", "25 %", "1.23 %", "0.01 %", "1.2e-4 %"]
        );
    }

    #[test]
    fn only_what_may_succeed_later_is_repeated() {
        let retry = Failure::from(Error::unavailable("later")).of_request(RequestId(7));
        assert_eq!(retry.request, Some(RequestId(7)));
        let wrong = Failure::from(Error::invalid("never")).of_request(RequestId(7));
        assert_eq!((wrong.request, wrong.exit), (None, Exit::Usage));
    }
}

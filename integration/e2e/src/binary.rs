//! The executable under test.

use std::path::PathBuf;
use std::process::Command;

/// The release binary that `cargo build --release -p parhelion` leaves beside the test's directory.
///
/// # Panics
/// It is not there.
#[must_use]
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    // target/release/deps/e2e-0123456789abcdef
    let release = test.parent().and_then(|deps| deps.parent()).expect("tests run from target/release/deps");
    let binary = release.join("parhelion");
    assert!(
        binary.is_file(),
        "{} is not there: build it with `cargo build --release -p parhelion`, or run `make test`",
        binary.display()
    );
    binary
}

/// A run of it, in an environment without settings of its own.
pub(crate) fn command() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PARHELION") {
            command.env_remove(name);
        }
    }
    // An operator may have it set; then a panic would show even more.
    command.env("RUST_BACKTRACE", "1");
    command
}

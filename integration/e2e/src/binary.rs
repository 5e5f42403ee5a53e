//! The executable under test.

use std::path::PathBuf;

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

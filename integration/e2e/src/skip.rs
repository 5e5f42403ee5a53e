//! Tests that cannot run here.

use std::io::Write;

/// Says that the test of this thread is skipped, and why.
///
/// It says so where the harness cannot swallow it: what a test that passes prints is not shown, and nobody should take
/// a test for passed that did not run. The one reason there is: a system without unprivileged user namespaces, as
/// Ubuntu has been since 23.10, has no file system and no network of a test's own.
///
/// # Panics
/// `PARHELION_SKIP_NOTHING` is `1`: whoever sets it wants to know.
pub fn skip(reason: &str) {
    let is_failure = std::env::var_os("PARHELION_SKIP_NOTHING").is_some_and(|value| value == "1");
    assert!(!is_failure, "not to be skipped, as PARHELION_SKIP_NOTHING is 1: {reason}");
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Only `println` and `eprintln` are captured. Where standard error is closed nobody reads it.
    let _ = writeln!(std::io::stderr(), "SKIPPED, in whole or in part: {test}: {reason}");
}

//! Tests that cannot run here.

/// Says that a test is skipped, and why.
///
/// # Panics
/// `PARHELION_SKIP_NOTHING` is `1`: whoever sets it wants to know.
pub fn skip(reason: &str) {
    let is_failure = std::env::var_os("PARHELION_SKIP_NOTHING").is_some_and(|value| value == "1");
    assert!(!is_failure, "not to be skipped, as PARHELION_SKIP_NOTHING is 1: {reason}");
    println!("SKIPPED: {reason}");
}

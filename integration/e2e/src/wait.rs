//! Waiting for what happens soon, without guessing when.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(20);

/// Asks `probe` until it has a value.
///
/// # Panics
/// It has none within `limit`; `what` says what was waited for.
pub async fn poll<T, F: Future<Output = Option<T>>>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until `holds`, asked again and again.
///
/// # Panics
/// It does not within `limit`.
pub async fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    poll(what, limit, || std::future::ready(holds().then_some(()))).await;
}

//! Bodies of answers that may be large: sent in pieces, and not kept for those who do not read them.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use parhelion_gate::Credit;
use parhelion_types::Error;
use tokio::time::{Instant, sleep_until};

use crate::body::Pace;

/// A piece: what a slow reader holds in its connection's buffer.
const PIECE_BYTES: usize = 64 << 10;

/// The bytes in pieces that share them, and with them what they are charged to. A reader that is too slow loses
/// both: nothing asks the stream on when the connection does not drain, so a timer looks after it.
pub(crate) fn pieces(bytes: Bytes, credit: Credit, pace: Pace) -> impl Stream<Item = Result<Bytes, Error>> {
    let start = Instant::now();
    let total = bytes.len();
    let rest = Arc::new(Mutex::new(Some((bytes, credit))));
    let watched = Arc::downgrade(&rest);
    if total > PIECE_BYTES {
        actix_web::rt::spawn(async move {
            let mut sent = 0;
            loop {
                sleep_until(pace.too_slow_at(start, sent)).await;
                // Gone with its connection, or sent to its end.
                let Some(rest) = watched.upgrade() else { return };
                let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
                let Some((bytes, _)) = &*rest else { return };
                let now_sent = total - bytes.len();
                if Instant::now() >= pace.too_slow_at(start, now_sent) {
                    tracing::debug!(
                        sent = now_sent,
                        total,
                        "an HTTP client reads too slowly; its answer is dropped"
                    );
                    *rest = None;
                    return;
                }
                sent = now_sent;
            }
        });
    }
    stream::unfold(rest, |rest| async move {
        let piece = {
            let mut kept = rest.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *kept {
                Some((bytes, _)) if bytes.is_empty() => return None,
                Some((bytes, _)) => Ok(bytes.split_to(bytes.len().min(PIECE_BYTES))),
                // Ends the connection, so that a part is not taken for the whole.
                None => Err(Error::unavailable("the answer was read too slowly; ask again")),
            }
        };
        Some((piece, rest))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;
    use parhelion_gate::Budget;

    use super::*;

    #[actix_web::test]
    async fn pieces_are_the_whole() {
        let budget = Budget::new(1 << 20);
        let bytes = Bytes::from((0..3 * PIECE_BYTES + 5).map(|n| (n % 253) as u8).collect::<Vec<_>>());
        let credit = budget.enter(bytes.len()).await;
        let all: Vec<_> = pieces(bytes.clone(), credit, Pace::default()).map(Result::unwrap).collect().await;
        assert_eq!(all.len(), 4);
        assert!(all.concat() == bytes);
        assert_eq!(budget.held_bytes(), 0);
        let none = pieces(Bytes::new(), budget.enter(0).await, Pace::default());
        assert_eq!(none.count().await, 0);
    }

    #[actix_web::test]
    async fn what_nobody_reads_is_dropped() {
        let budget = Budget::new(1 << 20);
        let bytes = Bytes::from(vec![7; 1 << 20]);
        let credit = budget.enter(bytes.len()).await;
        let pace = Pace { patience: Duration::from_millis(20), rate_min: 1 << 20 };
        let mut body = Box::pin(pieces(bytes, credit, pace));
        assert_eq!(body.next().await.unwrap().unwrap().len(), PIECE_BYTES);
        assert!(budget.held_bytes() > 0, "it had no time at all");
        // The first piece bought it some milliseconds more.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(budget.held_bytes(), 0);
        assert!(body.next().await.unwrap().is_err());
    }
}

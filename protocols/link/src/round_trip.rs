//! How long the answer to a symbol takes.

use std::time::Duration;

/// Smoothed time from sending a symbol to the report that settles it, and its mean deviation (RFC 6298,
/// section 2). It includes the wait for the receiver's next report.
#[derive(Debug, Default)]
pub(crate) struct RoundTrip {
    smoothed: Option<Duration>,
    deviation: Duration,
}

impl RoundTrip {
    /// A symbol that was sent once was settled after `sample`.
    pub(crate) fn sample(&mut self, sample: Duration) {
        let Some(smoothed) = self.smoothed else {
            self.smoothed = Some(sample);
            self.deviation = sample / 2;
            return;
        };
        self.deviation = (self.deviation * 3 + smoothed.abs_diff(sample)) / 4;
        self.smoothed = Some((smoothed * 7 + sample) / 8);
    }

    /// After this long without an answer a symbol or its answer is lost.
    pub(crate) fn timeout(&self) -> Duration {
        self.smoothed.map_or(TIMEOUT_INITIAL, |smoothed| smoothed + (self.deviation * 4).max(MARGIN_MIN))
    }

    /// The smoothed time, once there is one.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }
}

/// RFC 6298, section 2.1.
const TIMEOUT_INITIAL: Duration = Duration::from_secs(1);

/// Reports come every few milliseconds under load, less often when the link falls idle.
const MARGIN_MIN: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_the_samples() {
        let mut round_trip = RoundTrip::default();
        assert_eq!(round_trip.timeout(), TIMEOUT_INITIAL);
        round_trip.sample(Duration::from_millis(100));
        assert_eq!(round_trip.timeout(), Duration::from_millis(300));
        for _ in 0..100 {
            round_trip.sample(Duration::from_millis(80));
        }
        let timeout = round_trip.timeout();
        assert!((Duration::from_millis(100)..Duration::from_millis(101)).contains(&timeout), "{timeout:?}");
        round_trip.sample(Duration::from_millis(400));
        assert!(round_trip.timeout() > Duration::from_millis(400));
    }
}

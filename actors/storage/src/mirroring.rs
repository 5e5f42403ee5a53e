//! What the mirror's link driver and status want to know of the storage actor, without asking it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hdrhistogram::Histogram;

/// Longest mirroring latency that is told from longer ones.
const LATENCY_MICROS_MAX: u64 = 3_600_000_000;

/// Bytes of records that were delivered and are not durable yet: what backpressure on the link goes by.
#[derive(Clone, Debug, Default)]
pub struct PendingBytes(Arc<Parts>);

#[derive(Debug, Default)]
struct Parts {
    mailbox: AtomicUsize,
    retained: AtomicUsize,
}

impl PendingBytes {
    /// Bytes on their way to the actor.
    pub fn delivered(&self, bytes: usize) {
        self.0.mailbox.fetch_add(bytes, Ordering::AcqRel);
    }

    /// The actor has taken `bytes`, and now retains `retained`: held behind gaps, or queued for the disk.
    pub(crate) fn taken(&self, bytes: usize, retained: usize) {
        self.0.mailbox.fetch_sub(bytes, Ordering::AcqRel);
        self.retained(retained);
    }

    /// The actor now retains `retained`.
    pub(crate) fn retained(&self, retained: usize) {
        self.0.retained.store(retained, Ordering::Release);
    }

    /// All of them.
    #[must_use]
    pub fn get(&self) -> usize {
        self.0.mailbox.load(Ordering::Acquire) + self.0.retained.load(Ordering::Acquire)
    }
}

/// Time from the primary's acceptance of a record until it was applied here, as far as the sites' clocks
/// agree (SMFS section 5.2, "mirroring latency").
#[derive(Clone, Debug)]
pub struct MirroringLatency(Arc<Mutex<Histogram<u64>>>);

/// The distribution, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatencyFigures {
    /// Records.
    pub count: u64,
    /// Smallest.
    pub min: u64,
    /// Half of them are at most this.
    pub p50: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// Largest.
    pub max: u64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation: the spread.
    pub stddev: f64,
}

impl Default for MirroringLatency {
    fn default() -> Self {
        let histogram = Histogram::new_with_max(LATENCY_MICROS_MAX, 3).expect("three digits are supported");
        Self(Arc::new(Mutex::new(histogram)))
    }
}

impl MirroringLatency {
    pub(crate) fn record(&self, micros: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
    }

    /// Points of the distribution since the node started: a share of the records, and the latency in microseconds that
    /// this share does not exceed. Empty without records.
    #[must_use]
    pub fn quantiles(&self, shares: &[f64]) -> Vec<(f64, u64)> {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if histogram.is_empty() {
            return Vec::new();
        }
        shares.iter().map(|&share| (share, histogram.value_at_quantile(share))).collect()
    }

    /// The distribution since the node started.
    #[must_use]
    pub fn figures(&self) -> LatencyFigures {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        LatencyFigures {
            count: histogram.len(),
            min: histogram.min(),
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            max: histogram.max(),
            mean: histogram.mean(),
            stddev: histogram.stdev(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let latency = MirroringLatency::default();
        assert_eq!(latency.quantiles(&[0.5]), []);
        (1..=1000).for_each(|micros| latency.record(micros));
        assert_eq!(latency.quantiles(&[0.0, 0.25, 1.0]), [(0.0, 1), (0.25, 250), (1.0, 1000)]);
    }
}

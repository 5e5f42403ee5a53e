//! The credit of appends that are not durable yet.
//!
//! Until its record is on the disk an append's bytes are in memory. Then they are freed, however long the append still
//! waits for the mirror, and their credit must go back: else appends that wait stop those that need not.

use std::collections::{HashMap, VecDeque};

use parhelion_actor_runtime::Credit;
use parhelion_types::{LogId, RecordKey};

/// Credits by record. In each log, records become durable in the order in which they were placed.
#[derive(Debug, Default)]
pub(crate) struct UnwrittenCredits {
    logs: HashMap<LogId, VecDeque<(u64, Credit)>>,
}

impl UnwrittenCredits {
    /// Keeps the credit until the record is durable.
    pub fn hold(&mut self, record: RecordKey, credit: Credit) {
        self.logs.entry(record.log).or_default().push_back((record.number, credit));
    }

    /// Gives back the credit of a log's records below number `records`.
    pub fn durable(&mut self, log: LogId, records: u64) {
        let Some(credits) = self.logs.get_mut(&log) else { return };
        while credits.front().is_some_and(|(number, _)| *number < records) {
            credits.pop_front();
        }
        if credits.is_empty() {
            self.logs.remove(&log);
        }
    }
}

#[cfg(test)]
mod tests {
    use parhelion_actor_runtime::Budget;

    use super::*;

    #[tokio::test]
    async fn credit_goes_back_with_the_record_it_is_for() {
        let budget = Budget::new(1000);
        let mut unwritten = UnwrittenCredits::default();
        for (log, number) in [(1, 4), (2, 9), (1, 5), (1, 7)] {
            let credit = budget.enter(100).await;
            unwritten.hold(RecordKey { log: LogId(log), number }, credit);
        }
        for (log, records, held) in
            [(1, 4, 400), (1, 6, 200), (3, 100, 200), (1, 8, 100), (2, 9, 100), (2, u64::MAX, 0)]
        {
            unwritten.durable(LogId(log), records);
            assert_eq!(budget.held_bytes(), held, "log {log} below {records}");
        }
        assert!(unwritten.logs.is_empty());
    }
}

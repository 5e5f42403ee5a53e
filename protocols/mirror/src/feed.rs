//! How one log is being fed to the mirror.

use std::collections::VecDeque;

use parhelion_types::LogAddress;

/// Where the records that go to the mirror come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feed {
    /// No session: nothing is sent.
    Off,
    /// The mirror cannot take the log in this session. Appends are announced all the same, so that none is
    /// lost unnamed.
    Refused,
    /// Every record is sent as it is appended.
    Live,
    /// The mirror is behind, or the link's buffer was full: records come from the log.
    CatchUp {
        /// Number of the next record to send.
        number: u64,
        /// Its address.
        address: LogAddress,
        /// Whether a read of the log is under way.
        reading: bool,
    },
}

/// Records of one log that were sent and not confirmed: number and bytes, in order.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    records: VecDeque<(u64, usize)>,
}

impl InFlight {
    pub fn push(&mut self, number: u64, bytes: usize) {
        self.records.push_back((number, bytes));
    }

    /// Forgets the records below `number`; returns their bytes.
    pub fn confirm(&mut self, number: u64) -> usize {
        let mut bytes = 0;
        while let Some(&(first, size)) = self.records.front() {
            if first >= number {
                break;
            }
            bytes += size;
            self.records.pop_front();
        }
        bytes
    }

    /// Forgets everything; returns its bytes.
    pub fn clear(&mut self) -> usize {
        self.records.drain(..).map(|(_, bytes)| bytes).sum()
    }
}

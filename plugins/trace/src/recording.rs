//! A recorded loss trace: which packets of a link arrived, in the order in which they were sent.

use std::fmt;
use std::str::FromStr;

/// Losses of a link, packet slot by packet slot, as runs.
///
/// # Text form
/// A line `loss-trace 1`, then the lengths of runs of packets, separated by white space: received, lost, received, lost,
/// and so on. The first may be 0, no other. `#` begins a comment that ends with its line.
///
/// ```text
/// loss-trace 1
/// # a leased line, one packet per 40 us
/// 152000 3 48211 1 2 1
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Received, lost, received, ...; none is 0 save the first.
    runs: Vec<u32>,
    packets: u64,
    lost: u64,
}

/// Largest text, in bytes.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// Most runs.
pub const RUNS_MAX: usize = 1 << 20;

/// The first words of the text form.
const HEADING: [&str; 2] = ["loss-trace", "1"];

/// Text that is no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// Too much of it.
    #[error("the trace has {bytes} bytes; at most {TEXT_BYTES_MAX} are read, so cut it into several")]
    Large {
        /// Its size.
        bytes: usize,
    },
    /// Something else, or another version.
    #[error(
        "the trace does not begin with \"loss-trace 1\"; convert it, or read it with the version that wrote it"
    )]
    Heading,
    /// A run that is none.
    #[error(
        "line {line} of the trace has {text:?} where a run of packets belongs; give a number from 1 to 4294967295"
    )]
    Run {
        /// Where, from 1.
        line: usize,
        /// What is there, or how it begins.
        text: String,
    },
    /// Too many runs.
    #[error("the trace has more than {RUNS_MAX} runs; cut it into several")]
    Runs,
    /// Nothing was recorded.
    #[error("the trace has no packets; record some")]
    Empty,
}

impl Trace {
    /// A trace of single packets: true for those that were lost. Beyond [`RUNS_MAX`] runs the rest is left out.
    pub fn from_losses(losses: impl IntoIterator<Item = bool>) -> Self {
        let mut trace = Self::default();
        for is_lost in losses {
            if !trace.push(is_lost, 1) {
                break;
            }
        }
        trace
    }

    /// Records that the next `packets` all arrived, or all were lost; whether there was room for it.
    pub fn push(&mut self, is_lost: bool, packets: u32) -> bool {
        if packets == 0 {
            return true;
        }
        // Of the run that is open: an odd number of runs ends with received ones.
        let open_is_lost = self.runs.len().is_multiple_of(2);
        let is_full = self.runs.len() >= RUNS_MAX;
        match self.runs.last_mut() {
            Some(open) if open_is_lost == is_lost => match open.checked_add(packets) {
                Some(sum) => *open = sum,
                None => return false,
            },
            _ if is_full => return false,
            None if is_lost => self.runs.extend([0, packets]),
            _ => self.runs.push(packets),
        }
        self.packets += u64::from(packets);
        self.lost += u64::from(is_lost) * u64::from(packets);
        true
    }

    /// Packets.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Packets that were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Runs in turn, received first.
    #[must_use]
    pub fn runs(&self) -> &[u32] {
        &self.runs
    }

    /// Every packet: true if it was lost.
    pub fn losses(&self) -> impl Iterator<Item = bool> + '_ {
        self.runs.iter().enumerate().flat_map(|(n, &run)| std::iter::repeat_n(n % 2 == 1, run as usize))
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", HEADING[0], HEADING[1])?;
        for line in self.runs.chunks(16) {
            for (n, run) in line.iter().enumerate() {
                write!(f, "{}{run}", if n == 0 { "" } else { " " })?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl FromStr for Trace {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TraceError::Large { bytes: text.len() });
        }
        let words = text.lines().enumerate().flat_map(|(n, line)| {
            let line = line.split('#').next().unwrap_or_default();
            line.split_whitespace().map(move |word| (n + 1, word))
        });
        let mut words = words;
        for heading in HEADING {
            if words.next().map(|(_, word)| word) != Some(heading) {
                return Err(TraceError::Heading);
            }
        }
        let mut trace = Self::default();
        for (n, (line, word)) in words.enumerate() {
            let run = word.parse().ok().filter(|&run: &u32| run > 0 || n == 0);
            let Some(run) = run else {
                return Err(TraceError::Run { line, text: word.chars().take(20).collect() });
            };
            if n >= RUNS_MAX {
                return Err(TraceError::Runs);
            }
            trace.push(n % 2 == 1, run);
        }
        if trace.packets == 0 { Err(TraceError::Empty) } else { Ok(trace) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_read_as_they_were_written() {
        let bits = "0011101100000001";
        let trace = Trace::from_losses(bits.chars().map(|bit| bit == '1'));
        assert_eq!(trace.runs(), [2, 3, 1, 2, 7, 1]);
        assert_eq!((trace.packets(), trace.lost()), (16, 6));
        assert_eq!(trace.to_string(), "loss-trace 1\n2 3 1 2 7 1\n");
        assert_eq!(trace.to_string().parse(), Ok(trace.clone()));
        assert!(trace.losses().eq(bits.chars().map(|bit| bit == '1')));
        let first_lost = Trace::from_losses([true, true, false]);
        assert_eq!(first_lost.runs(), [0, 2, 1]);
        assert_eq!(first_lost.to_string().parse(), Ok(first_lost));
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        let parse = |text: &str| text.parse::<Trace>().unwrap_err();
        assert_eq!(parse(""), TraceError::Heading);
        assert_eq!(parse("loss-trace 2\n1 2"), TraceError::Heading);
        assert_eq!(parse("loss-trace 1\n# 5\n"), TraceError::Empty);
        assert_eq!(parse("loss-trace 1\n0"), TraceError::Empty);
        for bad in ["0", "-1", "4294967296", "1e3", "x"] {
            let text = format!("loss-trace 1 # made\n7 1\n{bad}");
            assert_eq!(parse(&text), TraceError::Run { line: 3, text: bad.to_owned() }, "{bad}");
        }
        let long = format!("loss-trace 1\n{}", "1 ".repeat(RUNS_MAX + 1));
        assert_eq!(parse(&long), TraceError::Runs);
        assert_eq!(parse(&" ".repeat(TEXT_BYTES_MAX + 1)), TraceError::Large { bytes: TEXT_BYTES_MAX + 1 });
    }

    #[test]
    fn a_run_that_is_too_long_is_not_counted() {
        let mut trace = Trace::default();
        assert!(trace.push(false, u32::MAX) && !trace.push(false, 1) && trace.push(true, 1));
        assert_eq!(trace.packets(), u64::from(u32::MAX) + 1);
    }
}

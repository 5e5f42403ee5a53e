//! What a process used: processor time of its threads, and its largest memory.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::error::BenchError;

/// Processor time of the threads of a process. A thread is known by its name and number: the kernel keeps 15 bytes
/// of a name, and some share those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    threads: BTreeMap<(u32, String), Times>,
}

/// Processor time, in ticks of the kernel's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    user: u64,
    system: u64,
}

/// Ticks of `/proc` in a second: `USER_HZ`, 100 on every architecture that has Rust's standard library.
const TICKS_PER_SECOND: f64 = 100.0;

impl Usage {
    /// What the process has used so far. Threads that have ended are not in it.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) fn of(process: u32) -> Result<Self, BenchError> {
        let folder = format!("/proc/{process}/task");
        let entries = fs::read_dir(&folder).map_err(BenchError::file("reading", &folder))?;
        let mut usage = Self::default();
        for entry in entries.flatten() {
            // A thread may end while its folder is read.
            let Ok(text) = fs::read_to_string(entry.path().join("stat")) else { continue };
            usage.threads.extend(parse_stat(&text));
        }
        Ok(usage)
    }

    /// Processors kept busy over `span`, since `before`, and the busiest threads:
    /// `1.32 (user 0.90, system 0.42): arbiter-2 0.71+0.30, ...`.
    pub(crate) fn describe_since(&self, before: &Self, span: Duration) -> String {
        let seconds = span.as_secs_f64().max(1e-9);
        let cores = |ticks: u64| ticks as f64 / TICKS_PER_SECOND / seconds;
        let used = |thread: &(u32, String), now: &Times| {
            let then = before.threads.get(thread).copied().unwrap_or_default();
            Times { user: now.user.saturating_sub(then.user), system: now.system.saturating_sub(then.system) }
        };
        let mut threads: Vec<_> =
            self.threads.iter().map(|(thread, now)| (thread.1.as_str(), used(thread, now))).collect();
        threads.sort_by_key(|(_, times)| std::cmp::Reverse(times.user + times.system));
        let user: u64 = threads.iter().map(|(_, times)| times.user).sum();
        let system: u64 = threads.iter().map(|(_, times)| times.system).sum();
        let named: Vec<_> = threads
            .iter()
            .filter(|(_, times)| cores(times.user + times.system) >= NOTEWORTHY)
            .map(|(name, times)| format!("{name} {:.2}+{:.2}", cores(times.user), cores(times.system)))
            .collect();
        format!(
            "{:.2} cores (user {:.2}, system {:.2}): {}",
            cores(user + system),
            cores(user),
            cores(system),
            named.join(", ")
        )
    }
}

/// The largest resident memory of a process so far, in bytes (`VmHWM`).
///
/// # Errors
/// There is no such process, or the kernel does not say.
pub(crate) fn peak_memory(process: u32) -> Result<u64, BenchError> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).map_err(BenchError::file("reading", &path))?;
    parse_peak(&text).ok_or_else(|| BenchError::Figure {
        what: "peak memory",
        reason: format!("{path} has no VmHWM; the process has ended, or the kernel is not Linux"),
    })
}

/// Share of one processor below which a thread is not named.
const NOTEWORTHY: f64 = 0.01;

fn parse_peak(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Number, name and times of a thread: `number (name) state ...`, of which utime and stime are fields 14 and 15
/// (proc_pid_stat(5)). A name may hold blanks and parentheses.
fn parse_stat(text: &str) -> Option<((u32, String), Times)> {
    let (head, rest) = text.rsplit_once(')')?;
    let (number, name) = head.split_once('(')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user = fields.next()?.parse().ok()?;
    let system = fields.next()?.parse().ok()?;
    Some(((number.trim().parse().ok()?, name.to_owned()), Times { user, system }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_are_read_whatever_the_name() {
        let line = "71 (a ) b) S 1 71 71 0 -1 4194304 100 0 0 0 250 30 0 0 20 0 5 0 1 2 3";
        assert_eq!(parse_stat(line), Some(((71, "a ) b".to_owned()), Times { user: 250, system: 30 })));
        assert_eq!(parse_stat("71 (cut off"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(!usage.threads.is_empty());
        assert!(peak_memory(std::process::id()).unwrap() > 100_000);
        assert!(Usage::of(u32::MAX).is_err());
        assert_eq!(parse_peak("VmPeak:\t 9 kB\nVmHWM:\t    1200 kB\n"), Some(1_228_800));
    }

    #[test]
    fn usage_is_a_difference_in_cores() {
        let at = |user, system| Usage {
            threads: BTreeMap::from([((7, "disk".to_owned()), Times { user, system })]),
        };
        let text = at(150, 50).describe_since(&at(100, 50), Duration::from_secs(1));
        assert_eq!(text, "0.50 cores (user 0.50, system 0.00): disk 0.50+0.00");
    }
}

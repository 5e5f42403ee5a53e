//! The machine, and how busy others keep it.

use std::time::Duration;

use serde::Serialize;

/// What figures depend on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Processors that this program may use.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// The kernel's name of the processor.
    pub processor: String,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
            processor: name.map_or("unknown", |(_, name)| name).to_owned(),
        }
    }
}

/// Share of the processors that was busy during the next half second. Asked while this program does nothing,
/// it is what others take away.
pub(crate) fn busy_share() -> f64 {
    let before = Jiffies::now();
    std::thread::sleep(OBSERVED);
    Jiffies::now().busy_since(before)
}

const OBSERVED: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, Default)]
struct Jiffies {
    idle: u64,
    all: u64,
}

impl Jiffies {
    fn now() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, of which the guests'
    /// times that follow are part (proc_stat(5)).
    fn parse(text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default();
        let figures: Vec<u64> =
            line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
        let waiting = figures.iter().skip(3).take(2).sum();
        Self { idle: waiting, all: figures.iter().sum() }
    }

    fn busy_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1) as f64;
        1.0 - self.idle.saturating_sub(before.idle) as f64 / all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_disk_is_not_busy() {
        let before = Jiffies::parse("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n");
        let after = Jiffies::parse("cpu  140 0 120 720 110 0 5 5 0 0\n");
        assert!((after.busy_since(before) - 0.7).abs() < 1e-9);
        assert!((Jiffies::default().busy_since(Jiffies::default()) - 1.0).abs() < 1e-9);
    }
}

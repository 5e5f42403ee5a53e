//! What becomes of a promise when the line changes: priced over the channels that the horizons leave possible.

#![allow(clippy::disallowed_macros, reason = "a test shows the figures that it judges")]

use std::time::Duration;

use parhelion_model_gilbert_elliott::own_risk;
use parhelion_plugin::{Exposure, Structure};
use parhelion_risk::{Assumption, ChannelCounts, ChannelEstimator};
use parhelion_types::Time;

/// Packets in a second: half of a line of 300 Mbit/s.
const RATE: u64 = 12_000;

/// A line of which the mirror reports ten times a second, in counters.
struct Line {
    estimator: ChannelEstimator,
    counts: ChannelCounts,
    now: Time,
    lost_last: bool,
}

impl Line {
    fn new() -> Self {
        let (counts, now) = (ChannelCounts::default(), Time::ZERO);
        Self { estimator: ChannelEstimator::new(Assumption::default()), counts, now, lost_last: false }
    }

    /// A tenth of a second in which `bursts` bursts of `length` packets are lost.
    fn tenth(&mut self, bursts: u64, length: u64) {
        let (counts, packets) = (&mut self.counts, RATE / 10);
        let lost = bursts * length;
        counts.settled += packets;
        counts.lost += lost;
        if lost == packets {
            // All of it; the burst goes on from one report to the next.
            counts.n01 += u64::from(!self.lost_last);
            counts.n11 += packets - u64::from(!self.lost_last);
            counts.n111 += packets - 2;
            self.lost_last = true;
        } else {
            counts.n10 += bursts + u64::from(self.lost_last);
            counts.n01 += bursts;
            counts.n11 += bursts * length.saturating_sub(1);
            counts.n111 += bursts * length.saturating_sub(2);
            counts.n00 += packets - lost - bursts;
            self.lost_last = false;
        }
        self.now = self.now + Duration::from_millis(100);
        self.estimator.handle_report(self.now, 1, self.counts);
    }

    fn pass(&mut self, tenths: u64, bursts: u64, length: u64) {
        (0..tenths).for_each(|_| self.tenth(bursts, length));
    }

    /// P(lost) of a lone append of 4 KiB behind its flush: the worst that the horizons leave possible.
    fn lone(&self) -> f64 {
        let code = Structure::Layered { r: 8, interleaves: vec![1, 23, 101], delayed: true };
        let lone =
            Exposure { flushed: 0b111, flush_run: 4, flush_pause: 16, ..Exposure::steady(4, 0b111, 4) };
        let channels = self.estimator.channels(self.now);
        channels.iter().map(|channel| own_risk(channel, &code, &lone).probability()).fold(0.0, f64::max)
    }
}

/// Figures around an outage of a second, ten minutes after the start, on a line that loses `bursts` bursts of three each
/// tenth of a second besides: before, with its first report, and 1 s, 15 s, 10 min, 50 min and 10 h after it.
fn outage(bursts: u64) -> [f64; 7] {
    let mut line = Line::new();
    line.pass(6000, bursts, 3);
    let before = line.lone();
    line.tenth(1, RATE / 10);
    let at_once = line.lone();
    line.pass(9, 1, RATE / 10);
    let mut figures = [before, at_once, 0.0, 0.0, 0.0, 0.0, 0.0];
    let mut passed = 0;
    for (figure, seconds) in figures[2..].iter_mut().zip([1, 15, 600, 3000, 36_000]) {
        line.pass((seconds - passed) * 10, bursts, 3);
        passed = seconds;
        *figure = line.lone();
    }
    figures
}

/// The table of decision 11.
#[test]
fn an_outage_is_priced_at_once_and_outlived() {
    let figures = outage(4);
    println!("1 % in bursts of 3:  {}", figures.map(|figure| format!("{figure:.1e}")).join("  "));
    let [before, at_once, second, .., last] = figures;
    assert!(at_once > 100.0 * before && second > 0.1);
    assert!(last < 1.5 * before, "{last:e} after {before:e}");

    let figures = outage(0);
    println!("nothing else lost:   {}", figures.map(|figure| format!("{figure:.1e}")).join("  "));
    let [before, at_once, second, quarter, minutes, hour, hours] = figures;
    assert!(before < 2e-6 && at_once > 1e-3 && second > 0.1);
    assert!(second > quarter && quarter > minutes && minutes > hour && hour > hours);
    // The share of time that the outage was is what can be believed of the next one: neither less nor far more.
    let share = |seconds: f64| 1.0 / (600.0 + seconds);
    for (figure, share) in [(minutes, share(600.0)), (hour, share(3000.0)), (hours, share(36_000.0))] {
        assert!((0.5..4.0).contains(&(figure / share)), "{figure:e} for a share of {share:e}");
    }
}

/// The report that shows a change is the report that acts.
#[test]
fn changes_for_the_worse_act_with_their_report() {
    for (what, bursts, length, factor) in
        [("more bursts", 20, 3, 5.0), ("a longer one", 1, 60, 20.0), ("many short ones", 100, 1, 5.0)]
    {
        let mut line = Line::new();
        line.pass(36_000, 0, 0);
        let before = line.lone();
        line.tenth(bursts, length);
        let after = line.lone();
        println!("{what}: {before:.1e}, then {after:.1e}");
        assert!(after > factor * before, "{what}: {after:e} after {before:e}");
        // And what was an hour's habit by then is not forgotten when it stops for a second.
        line.pass(10, 0, 0);
        assert!(line.lone() > 0.01 * after, "{what}: {:e} a second later", line.lone());
    }
}

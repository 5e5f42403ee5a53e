//! Plans and changes of them, in words and figures.

use std::fmt::Write as _;
use std::time::Duration;

use parhelion_types::Risk;

use crate::candidate::Candidate;
use crate::evaluation::Evaluation;
use crate::situation::{Situation, Terms, burst_p99};

/// What a change can be due to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts([Fact; FACTS]);

#[derive(Clone, Copy, Debug)]
struct Fact {
    what: &'static str,
    value: f64,
    show: fn(f64) -> String,
}

const FACTS: usize = 9;

impl Facts {
    pub(crate) fn of(situation: &Situation) -> Self {
        let fact = |what, value: f64, show| Fact { what, value, show };
        let loss = situation.channels.iter().map(|channel| channel.loss).fold(0.0, f64::max);
        Self([
            fact("burst p99", f64::from(burst_p99(&situation.channels)), |v| format!("{v:.0} symbols")),
            fact("loss", loss, percent),
            fact("largest risk asked for", situation.max_risk.probability(), |v| Risk::bound(v).to_string()),
            fact("traffic", situation.symbols_per_second, |v| format!("{v:.0} symbols/s")),
            fact("round trip", situation.round_trip.as_secs_f64(), millis),
            fact("deadline", situation.deadline.as_secs_f64(), millis),
            fact("typical append", f64::from(situation.append_bytes), |v| format!("{v:.0} bytes")),
            fact("appends in flight per log", situation.appends_in_flight, |v| format!("{v:.0}")),
            fact("share of lone appends", situation.lone_share, percent),
        ])
    }

    /// What is different from `before`, the most telling one or two; none if nothing is by much.
    fn since(&self, before: &Self) -> Option<String> {
        let ratio =
            |now: f64, then: f64| if now == then { 0.0 } else { (now.max(TINY) / then.max(TINY)).ln() };
        let mut moved: Vec<(f64, &Fact, &Fact)> = self
            .0
            .iter()
            .zip(&before.0)
            .map(|(now, then)| (ratio(now.value, then.value), now, then))
            .collect();
        moved.retain(|(by, ..)| by.abs() >= TELLING);
        moved.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
        let words = moved.iter().take(2).map(|(by, now, then)| {
            let (was, is) = ((then.show)(then.value), (now.show)(now.value));
            let verb = if *by > 0.0 { "rose" } else { "fell" };
            // The unit once is enough.
            let was = match (was.split_once(' '), is.split_once(' ')) {
                (Some((number, a)), Some((_, b))) if a == b => number.to_owned(),
                _ => was,
            };
            format!("{} {verb} from {was} to {is}", now.what)
        });
        let words: Vec<String> = words.collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    fn now(&self) -> String {
        let [burst, loss, _, traffic, ..] = &self.0;
        let show = |fact: &Fact| format!("{} {}", fact.what, (fact.show)(fact.value));
        format!("{}, {}, {}", show(loss), show(burst), show(traffic))
    }
}

/// Logarithm of a ratio that is worth a word.
const TELLING: f64 = 0.14;

/// What stands for zero in a ratio.
const TINY: f64 = 1e-12;

/// "burst p99 rose from 3 to 11 symbols: layered-interleaving (8,3; 1,19,41) -> (8,3; 1,19,101), overhead unchanged, ..."
pub(crate) fn change(before: Option<&Facts>, now: &Facts, from: &Evaluation, to: &Evaluation) -> String {
    let cause = before.and_then(|before| now.since(before)).unwrap_or_else(|| now.now());
    let mut text = format!("{cause}: {}", transition(&from.candidate, &to.candidate));
    let (was, is) = (percent(from.overhead), percent(to.overhead));
    let _ = match was == is {
        true => write!(text, ", overhead unchanged"),
        false => write!(text, ", overhead {was} -> {is}"),
    };
    let later = to.covered.as_secs_f64() - from.covered.as_secs_f64();
    let _ = match later {
        later if later.abs() < 5e-5 => write!(text, ", expected ack unchanged"),
        later => {
            write!(text, ", expected ack {}{}", if later > 0.0 { "+" } else { "-" }, millis(later.abs()))
        }
    };
    let _ = write!(text, ", risk {} -> {}", from.prefix_risk(), to.prefix_risk());
    if !to.is_met() {
        let _ = write!(text, "; {} of the appends wait for the mirror", percent(1.0 - to.met_share));
    }
    if to.fits && !from.fits {
        text.push_str("; with the former, the traffic has no room on the line");
    }
    text
}

fn transition(from: &Candidate, to: &Candidate) -> String {
    let mut text = match from.code.name() == to.code.name() && !to.figures().is_empty() {
        true => format!("{} -> {}", from.label(), to.figures()),
        false => format!("{} -> {}", from.label(), to.label()),
    };
    let gains = |candidate: &Candidate| candidate.code.structure().gains_by_pauses();
    let _ = match (gains(from), gains(to)) {
        (false, true) => write!(text, ", pauses of {} packet times", to.flush_pause),
        (true, true) if from.flush_pause != to.flush_pause => {
            write!(text, ", pauses {} -> {} packet times", from.flush_pause, to.flush_pause)
        }
        _ => Ok(()),
    };
    text
}

/// Why appends wait for the mirror; `best` is what comes nearest.
pub(crate) fn wait(best: Option<&Evaluation>, terms: &Terms) -> String {
    let asked = Risk::bound(terms.max_risk);
    let Some(best) = best else {
        return format!("no code is there to meet the risk {asked}; appends wait for the mirror");
    };
    let mirror = best.courses().map(|course| course.mirror).max().unwrap_or_default();
    let mirror = millis(mirror.as_secs_f64());
    let risk = best.prefix_risk();
    let label = best.candidate.label();
    if !best.fits {
        return format!(
            "no code meets the risk {asked}: the line has no room for the traffic; appends wait for the mirror"
        );
    }
    if best.met_share > 0.0 {
        let few = percent(best.met_share);
        return format!(
            "no code meets the risk {asked} for most appends: {label} does for {few}; all wait for the mirror, {mirror}"
        );
    }
    if risk > asked {
        return format!(
            "no code meets the risk {asked}: the best, {label}, comes to {risk}; appends wait for the mirror, {mirror}"
        );
    }
    let last = best.courses().filter_map(|course| course.points.last()).map(|point| point.latest);
    let last = millis(last.max().unwrap_or(Duration::ZERO).as_secs_f64());
    let limit = if terms.deadline < terms.mirror {
        format!("the deadline is {}", millis(terms.deadline))
    } else {
        format!("the mirror has it after {mirror}")
    };
    format!(
        "no code meets the risk {asked} in time: the quickest, {label}, takes up to {last}, and {limit}; appends wait for the mirror"
    )
}

/// Why the appends of one kind wait for the mirror, though those of the other do not have to.
pub(crate) fn wait_in_part(current: &Evaluation, terms: &Terms) -> String {
    let kind = match &current.lone {
        Some(lone) if lone.ack.is_none() => "appends behind which nothing follows",
        _ => "appends in a stream",
    };
    format!(
        "no code meets the risk {} in time for all: with {}, {kind} ({}) wait for the mirror",
        Risk::bound(terms.max_risk),
        current.candidate.label(),
        percent(1.0 - current.met_share)
    )
}

/// A share with two digits.
fn percent(share: f64) -> String {
    let value = share * 100.0;
    match value {
        0.0 => "0 %".to_owned(),
        10.0.. => format!("{value:.0} %"),
        1.0.. => format!("{value:.1} %"),
        0.01.. => format!("{value:.2} %"),
        1e-4.. => format!("{value:.4} %"),
        _ => format!("{value:.1e} %"),
    }
}

fn millis(seconds: f64) -> String {
    let value = seconds * 1e3;
    match value {
        10.0.. => format!("{value:.0} ms"),
        _ => format!("{value:.1} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parhelion_plugin::Channel;

    #[test]
    fn the_most_telling_causes_are_named() {
        let burst =
            |burst| Situation { channels: vec![Channel::bursty(0.01, burst, 0.999)], ..Situation::default() };
        let (short, long) = (Facts::of(&burst(1.2)), Facts::of(&burst(3.0)));
        assert_eq!(long.since(&short).as_deref(), Some("burst p99 rose from 3 to 12 symbols"));
        assert_eq!(long.since(&long), None);
        let lax = Facts::of(&Situation { max_risk: Risk::bound(1e-3), ..burst(3.0) });
        assert_eq!(
            lax.since(&short).as_deref(),
            Some("largest risk asked for rose from 1.0e-6 to 1.0e-3, burst p99 rose from 3 to 12 symbols")
        );
        assert_eq!(long.now(), "loss 1.0 %, burst p99 12 symbols, traffic 10000 symbols/s");
    }

    #[test]
    fn figures_read_well() {
        assert_eq!(
            [0.0, 1e-7, 1e-5, 0.005, 0.034, 0.375, 2.0].map(percent),
            ["0 %", "1.0e-5 %", "0.0010 %", "0.50 %", "3.4 %", "38 %", "200 %"]
        );
        assert_eq!([0.0004, 0.0412].map(millis), ["0.4 ms", "41 ms"]);
    }
}

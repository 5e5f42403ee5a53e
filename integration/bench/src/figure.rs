//! Figures, the baselines beside them, and goals; as a table for people and as JSON for the next run.

use std::path::Path;

use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::Style;

use crate::error::BenchError;
use crate::machine::{Machine, busy_share};

/// One measured figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// What was measured.
    pub name: String,
    /// The median over the rounds.
    pub value: f64,
    /// The unit of value, rounds and baseline.
    pub unit: &'static str,
    /// Each round's value.
    pub rounds: Vec<f64>,
    /// What it is compared with, measured in the same run.
    pub baseline: Option<Baseline>,
    /// Value by baseline; for rounds in which both were measured side by side, the median of their ratios.
    pub ratio: Option<f64>,
    /// What the project wants.
    pub goal: Option<Goal>,
    /// Whether that is reached.
    pub met: Option<bool>,
}

/// What a figure is compared with.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Baseline {
    /// What it is.
    pub name: String,
    /// The median over the rounds.
    pub value: f64,
}

/// What the project wants of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// The value is at least this.
    AtLeast(f64),
    /// The value is at most this.
    AtMost(f64),
    /// The ratio to the baseline is at least this.
    RatioAtLeast(f64),
    /// The ratio to the baseline is at most this.
    RatioAtMost(f64),
}

/// The figures of one benchmark.
#[derive(Clone, Debug, Serialize)]
struct Section {
    benchmark: &'static str,
    /// Share of the processors that others kept busy just before it.
    busy_before: f64,
    figures: Vec<Figure>,
    /// What explains the figures.
    notes: Vec<String>,
}

/// What a benchmark found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// In the order in which they are shown.
    pub figures: Vec<Figure>,
    /// What explains them.
    pub notes: Vec<String>,
}

/// All figures of a run. Sections are printed as they come, because a run takes minutes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    version: &'static str,
    machine: Machine,
    rounds: u32,
    seconds: f64,
    settings: Vec<String>,
    sections: Vec<Section>,
    #[serde(skip)]
    begun: Option<(&'static str, f64)>,
}

impl Figure {
    /// A figure of `rounds`, of which there must be at least one.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, rounds: Vec<f64>) -> Self {
        let value = median(&rounds);
        Self { name: name.into(), value, unit, rounds, baseline: None, ratio: None, goal: None, met: None }
    }

    /// Compares it with the baseline of the same rounds.
    pub(crate) fn against(mut self, name: impl Into<String>, rounds: &[f64]) -> Self {
        let ratios: Vec<f64> = self.rounds.iter().zip(rounds).map(|(value, base)| value / base).collect();
        self.ratio = Some(median(&ratios)).filter(|ratio| ratio.is_finite());
        self.baseline = Some(Baseline { name: name.into(), value: median(rounds) });
        self.judged()
    }

    /// Sets the goal.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self.judged()
    }

    fn judged(mut self) -> Self {
        self.met = self.goal.and_then(|goal| match goal {
            Goal::AtLeast(bound) => Some(self.value >= bound),
            Goal::AtMost(bound) => Some(self.value <= bound),
            Goal::RatioAtLeast(bound) => self.ratio.map(|ratio| ratio >= bound),
            Goal::RatioAtMost(bound) => self.ratio.map(|ratio| ratio <= bound),
        });
        self
    }

    fn row(&self) -> [String; 7] {
        let low = self.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        [
            self.name.clone(),
            format!("{} {}", short(self.value), self.unit),
            if self.rounds.len() > 1 { format!("{}..{}", short(low), short(high)) } else { String::new() },
            self.baseline
                .as_ref()
                .map_or_else(String::new, |base| format!("{} ({})", short(base.value), base.name)),
            self.ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}")),
            match self.goal {
                None => String::new(),
                Some(Goal::AtLeast(bound)) => format!(">= {} {}", short(bound), self.unit),
                Some(Goal::AtMost(bound)) => format!("<= {} {}", short(bound), self.unit),
                Some(Goal::RatioAtLeast(bound)) => format!("ratio >= {bound}"),
                Some(Goal::RatioAtMost(bound)) => format!("ratio <= {bound}"),
            },
            match (self.goal, self.met) {
                (None, _) => "",
                (_, Some(true)) => "met",
                (_, Some(false)) => "MISSED",
                (_, None) => "unknown",
            }
            .to_owned(),
        ]
    }
}

impl Report {
    pub(crate) fn new(rounds: u32, seconds: f64, settings: Vec<String>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            machine: Machine::here(),
            rounds,
            seconds,
            settings,
            sections: Vec::new(),
            begun: None,
        }
    }

    /// Takes down how busy the machine is before the benchmark starts.
    pub(crate) fn begin(&mut self, benchmark: &'static str) {
        let busy = busy_share();
        eprintln!(
            "{benchmark}: the machine is {:.0} % busy with other things ({} cores)",
            busy * 100.0,
            self.machine.cores
        );
        self.begun = Some((benchmark, busy));
    }

    /// Prints what the benchmark found and keeps it.
    pub(crate) fn end(&mut self, found: Found) {
        let (benchmark, busy_before) = self.begun.take().unwrap_or_default();
        let mut table = Builder::default();
        table.push_record([benchmark, "median", "range", "baseline", "ratio", "goal", ""]);
        for figure in &found.figures {
            table.push_record(figure.row());
        }
        println!("\n{}", table.build().with(Style::psql()));
        for note in &found.notes {
            println!("  {note}");
        }
        let Found { figures, notes } = found;
        self.sections.push(Section { benchmark, busy_before, figures, notes });
    }

    /// Writes all of it as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<(), BenchError> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| BenchError::file("writing", path)(error.into()))?;
        std::fs::write(path, text).map_err(BenchError::file("writing", path))
    }
}

/// The middle value; the mean of the two middle ones of an even number. NaN of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle)) {
        (_, None) => f64::NAN,
        (1, Some(value)) => *value,
        (_, Some(value)) => sorted.get(middle - 1).map_or(f64::NAN, |below| (below + value) / 2.0),
    }
}

/// Three or four digits that matter.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), 3.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        // The machine slowed down between rounds: the medians' ratio would be 2/3, every round's is 1.
        let figure = Figure::new("x", "MB/s", vec![2.0, 4.0, 1.0]).against("y", &[2.0, 4.0, 1.0]);
        assert_eq!((figure.value, figure.ratio), (2.0, Some(1.0)));
    }

    #[test]
    fn goals_are_judged_in_any_order() {
        let figure = Figure::new("x", "ms", vec![12.0]);
        assert_eq!(figure.clone().goal(Goal::AtMost(11.9)).met, Some(false));
        assert_eq!(figure.clone().goal(Goal::AtLeast(12.0)).met, Some(true));
        assert_eq!(figure.clone().goal(Goal::RatioAtMost(1.1)).met, None);
        assert_eq!(figure.clone().goal(Goal::RatioAtMost(1.1)).against("y", &[11.0]).met, Some(true));
        assert_eq!(figure.against("y", &[10.0]).goal(Goal::RatioAtMost(1.1)).met, Some(false));
    }
}

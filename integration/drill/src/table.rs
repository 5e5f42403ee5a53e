//! The report for a terminal: a row per mode, in three tables that fit 110 columns, and what a reader must know.

use std::fmt::Write;

use tabled::builder::Builder;
use tabled::settings::formatting::AlignmentStrategy;
use tabled::settings::object::Columns;
use tabled::settings::style::HorizontalLine;
use tabled::settings::{Alignment, Padding, Style};

use crate::classify::Losses;
use crate::report::{DrillReport, ModeSummary};
use crate::stats::Spread;

impl DrillReport {
    /// The tables of the terminal: a row per mode; above them what was offered, below them what a reader must know.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = self.load_line();
        for (title, columns) in TABLES {
            // Writing to a string does not fail.
            let _ = write!(text, "\n\n{title}\n\n{}", table(&self.modes, columns));
        }
        text.push_str("\n\n* mirroring latency: from acceptance to the mirror's disk, warming up included");
        if self.modes.iter().any(|row| row.lost.inferred > 0) {
            text.push_str(
                "\n* cause inferred: taken from the number of bytes that left the host, not from what became of each packet",
            );
        }
        let mut notes: Vec<String> = self
            .runs
            .iter()
            .flat_map(|run| run.notes.iter().map(|note| format!("{}: {note}", run.mode)))
            .collect();
        notes.sort();
        notes.dedup();
        for note in &notes {
            text.push_str("\n* ");
            text.push_str(note);
        }
        text
    }

    /// What the writers offered: the figures below are those of this load and no other.
    fn load_line(&self) -> String {
        let options = &self.parameters;
        let (load, rate) = (options.load() as f64, options.link.rate_bits_per_second as f64);
        let mut text = format!(
            "offered: {} Mbit/s by {} writers of {} bytes, {:.0} % of the line's {} Mbit/s (--load)",
            number(load / 1e6),
            options.writers,
            options.append_bytes,
            100.0 * load / rate,
            number(rate / 1e6),
        );
        if !options.warm_up.is_zero() {
            let _ = write!(
                text,
                ";\nbefore that, in every mode, {:?} of the same load at the level local, not counted (--warm-up)",
                options.warm_up
            );
        }
        text
    }
}

type Figure = fn(&ModeSummary) -> String;
type Column = (&'static str, Figure);

const TABLES: [(&str, &[Column]); 3] = [
    ("Acknowledgements, and latencies in milliseconds", ACKNOWLEDGEMENTS),
    (
        "Losses: acknowledged appends that the mirror does not have, mean per disaster, and causes in all disasters",
        LOSSES,
    ),
    ("Promises", PROMISES),
];

const ACKNOWLEDGEMENTS: &[Column] = &[
    ("appends\nacked", |row| count(row.acked_appends)),
    ("ahead of\nthe\nmirror", |row| count(row.acked_ahead)),
    ("MB\nacked", |row| scaled(row.acked_bytes, 1e6)),
    ("ack\np50", |row| scaled(row.ack_p50_micros, 1e3)),
    ("ack\np99", |row| scaled(row.ack_p99_micros, 1e3)),
    ("ack\nmax", |row| number(row.ack_max_micros / 1e3)),
    ("mirror-\ning p50", |row| optional(row.mirroring_p50_micros)),
    ("mirror-\ning p99", |row| optional(row.mirroring_p99_micros)),
    ("mirror-\ning\nspread", |row| optional(row.mirroring_spread_micros)),
    ("goodput\nMbit/s", |row| scaled(row.goodput_bits_per_second, 1e6)),
    ("wire /\nacked\nbytes", |row| scaled(row.wire_overhead, 1.0)),
];

const LOSSES: &[Column] = &[
    ("met the\npacket\nloss", |row| if row.meets_loss { "yes" } else { "NO: relay" }.to_owned()),
    ("lost\nper\ndisaster", |row| count(row.lost_appends)),
    ("still in\nsending\nhost", |row| row.lost.in_host.to_string()),
    ("lost\non the\nwire", |row| row.lost.on_wire.to_string()),
    ("blocked\nbehind\na gap", |row| row.lost.behind_gap.to_string()),
    ("of these,\ncause\ninferred", |row| row.lost.inferred.to_string()),
    ("lost\nand not\nannounced", |row| match row.lost {
        Losses { unnamed, unlisted: 0, .. } => unnamed.to_string(),
        Losses { unnamed, unlisted, .. } => format!("{unnamed} to {}", unnamed + unlisted),
    }),
    ("read\nback and\ncompared", |row| row.read_back.to_string()),
    ("altered", |row| row.altered.to_string()),
];

const PROMISES: &[Column] = &[
    ("highest\nrisk\npromised", |row| number(row.risk_highest)),
    ("mean\nrisk\npromised", |row| number(row.risk_mean)),
    ("disasters", |row| row.runs.to_string()),
    ("with\na loss", |row| row.promise.losses.to_string()),
    ("promised\nat most", |row| number(row.promise.expected)),
    ("appends\nlost\nin all", |row| row.promise.lost_appends.to_string()),
    ("promised\nat most", |row| number(row.promise.expected_appends)),
    ("promises,\n99 %\none-sided", |row| {
        if row.promise.refuted { "REFUTED" } else { "not refuted" }.to_owned()
    }),
];

fn table(rows: &[ModeSummary], columns: &[Column]) -> String {
    let mut builder = Builder::default();
    builder
        .push_record(std::iter::once("").chain(columns.iter().map(|(title, _)| *title)).map(str::to_owned));
    for row in rows {
        let figures = columns.iter().map(|(_, figure)| figure(row));
        builder.push_record(std::iter::once(row.mode.to_string()).chain(figures));
    }
    let mut table = builder.build();
    table
        .with(Style::blank().horizontals([(1, HorizontalLine::new('─').intersection('─'))]))
        .with(Padding::new(0, 1, 0, 0))
        .with(AlignmentStrategy::PerLine)
        .modify(Columns::new(1..), Alignment::right());
    // The padding of the last column would only wrap.
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn count(spread: Spread) -> String {
    if spread.stddev == 0.0 {
        format!("{}", spread.mean)
    } else {
        format!("{:.1}\n± {:.1}", spread.mean, spread.stddev)
    }
}

fn scaled(spread: Spread, unit: f64) -> String {
    let mean = number(spread.mean / unit);
    if spread.stddev == 0.0 { mean } else { format!("{mean}\n± {}", number(spread.stddev / unit)) }
}

fn optional(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| scaled(spread, 1e3))
}

/// Three significant digits, without an exponent where that is readable.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 1e-3 => format!("{value:.1e}"),
        size if size < 1.0 => format!("{value:.3}"),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::Mode;
    use crate::options::{DrillOptions, Form};
    use crate::report::tests::{sample_report, sample_run};

    #[test]
    fn each_table_has_a_row_per_mode_and_fits_110_columns() {
        let report = sample_report();
        let text = report.table();
        for mode in Mode::ALL {
            let rows = text.lines().filter(|line| line.split(' ').next() == Some(mode.name())).count();
            assert_eq!(rows, TABLES.len(), "{mode}:\n{text}");
        }
        for figure in ["54321", "not refuted", "8.0e-7", "± 0.100", "blocked", "offered: 150 Mbit/s", "50 %"]
        {
            assert!(text.contains(figure), "{figure}:\n{text}");
        }
        assert!(!text.contains("REFUTED"), "{text}");
        let notes = text.lines().filter(|line| line.starts_with("* ")).count();
        // One for each mode, the meaning of inferred causes, and that of mirroring latency.
        assert_eq!(notes, Mode::ALL.len() + 2, "{text}");
        let width = text.lines().map(|line| line.chars().count()).max();
        assert!(width <= Some(110), "{width:?}:\n{text}");
    }

    #[test]
    fn what_is_not_known_and_what_met_no_loss_is_marked() {
        let mut run = sample_run(Mode::LocalSync, 0);
        run.lost.unlisted = 7;
        run.lost.inferred = 0;
        run.mirroring_latency_micros = None;
        run.meets_loss = false;
        let options = DrillOptions { warm_up: std::time::Duration::ZERO, ..DrillOptions::default() };
        let text = DrillReport::new(options, Form::Relay, vec![run]).table();
        assert!(text.contains("0 to 7") && text.contains("NO: relay") && text.contains(" - "), "{text}");
        assert!(!text.contains("--warm-up") && !text.contains("cause inferred: "), "{text}");
    }
}

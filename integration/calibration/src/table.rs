//! The report for a terminal.

use std::fmt::Write;

use tabled::builder::Builder;
use tabled::settings::formatting::AlignmentStrategy;
use tabled::settings::object::Columns;
use tabled::settings::style::HorizontalLine;
use tabled::settings::{Alignment, Padding, Style};

use crate::cell::Cell;
use crate::report::{Promises, Report, Sharpness, ratio_note};
use crate::worsening::{Phase, Worsening};

impl Report {
    /// The two numbers, what was refuted, and what a line that worsens does.
    #[must_use]
    pub fn summary(&self) -> String {
        let (channels, codes) = self.grid;
        let mut text = format!(
            "{} disasters on {channels} channels by {codes} codes; in {} of them something was promised (seed {})",
            self.disasters, self.judged, self.seed
        );
        let mut section = |title: &str, body: String| {
            // Writing to a string does not fail.
            let _ = write!(text, "\n\n{title}\n\n{body}");
        };
        section("1. How often losses exceed the promise", table(PROMISES, &self.promises));
        section(
            "2. By how much promises exceed the losses, on stationary channels",
            format!("{}\n\n* {}", table(SHARPNESS, &self.sharpness), ratio_note()),
        );
        let refuted = self.refuted();
        let shown: Vec<Cell> = refuted.iter().take(REFUTED_SHOWN).map(|cell| (*cell).clone()).collect();
        if refuted.is_empty() {
            section("No cell is refuted", format!("* a cell is if p < {}", number(self.refuted_below)));
        } else {
            let title = format!(
                "Refuted: {} of {} cells (p < {})",
                refuted.len(),
                self.cells.len(),
                number(self.refuted_below)
            );
            section(&title, table(CELLS, &shown));
        }
        let stalled: Vec<Cell> = self.cells.iter().filter(|cell| cell.links_stalled > 0).cloned().collect();
        if !stalled.is_empty() {
            section("Links that stood still", table(CELLS, &stalled));
        }
        if !self.worsening.is_empty() {
            section(
                "A line that gets worse just before the disaster",
                self.worsening.iter().map(worsening).collect(),
            );
        }
        text
    }

    /// Every cell.
    #[must_use]
    pub fn cell_table(&self) -> String {
        table(CELLS, &self.cells)
    }
}

type Column<T> = (&'static str, fn(&T) -> String);

const PROMISES: &[Column<Promises>] = &[
    ("model", |row| row.model.clone()),
    ("channels", |row| row.class.title().to_owned()),
    ("supposed", |row| if row.is_supposed { "yes" } else { "no" }.to_owned()),
    ("con-\nfidence", |row| row.confidence.to_string()),
    ("disasters", |row| row.judged.to_string()),
    ("losses\npromised", |row| number(row.promised)),
    ("losses", |row| row.lost.to_string()),
    ("links", |row| row.links.to_string()),
    ("above\npromise", |row| row.links_above.to_string()),
    ("refuted\n(allowed)", |row| format!("{} ({})", row.links_refuted, number(row.links_allowed))),
    ("cells\nrefuted", |row| format!("{} of {}", row.cells_refuted, row.cells)),
    ("promise", |row| if row.is_broken() { "BROKEN" } else { "kept" }.to_owned()),
];

const SHARPNESS: &[Column<Sharpness>] = &[
    ("model", |row| row.model.clone()),
    ("code", |row| row.code.clone().unwrap_or_else(|| "all codes".to_owned())),
    ("con-\nfidence", |row| row.confidence.to_string()),
    ("cells", |row| row.cells.to_string()),
    ("median\nratio", |row| row.median.map_or_else(|| "-".to_owned(), number)),
    ("largest", |row| row.largest.map_or_else(|| "-".to_owned(), number)),
    ("all promises\n/ all losses", |row| row.overall.map_or_else(|| "-".to_owned(), number)),
];

const CELLS: &[Column<Cell>] = &[
    ("channel", |cell| cell.channel.clone()),
    ("code", |cell| cell.code.clone()),
    ("model", |cell| cell.model.clone()),
    ("con-\nfidence", |cell| cell.confidence.to_string()),
    ("disasters", |cell| cell.disasters.to_string()),
    ("judged", |cell| cell.judged.to_string()),
    ("losses\npromised", |cell| number(cell.promised)),
    ("losses", |cell| cell.lost.to_string()),
    ("share lost,\n99 % interval", |cell| match cell.judged {
        0 => "-".to_owned(),
        _ => format!("{} to {}", number(cell.interval.0), number(cell.interval.1)),
    }),
    ("p", |cell| number(cell.p_value)),
    ("links\nrefuted", |cell| format!("{} of {}", cell.links_refuted, cell.links)),
    ("links\nstalled", |cell| cell.links_stalled.to_string()),
    ("wire /\nsource\nbytes", |cell| number(cell.overhead)),
    ("ack\np50 ms", |cell| number(cell.ack_p50_ms)),
    ("ack\np99 ms", |cell| number(cell.ack_p99_ms)),
    ("record's\nfactor", |cell| number(cell.factor)),
];

const PHASES: &[Column<Phase>] = &[
    ("ms since\nthe change", |phase| format!("{} to {}", phase.from_ms, phase.to_ms)),
    ("appends", |phase| phase.disasters.to_string()),
    ("acked on\na promise", |phase| phase.judged.to_string()),
    ("promised\non average", |phase| share(phase.promised, phase.judged)),
    ("lost", |phase| share(phase.lost as f64, phase.judged)),
    ("99 % interval", |phase| match phase.judged {
        0 => "-".to_owned(),
        _ => format!("{} to {}", number(phase.interval.0), number(phase.interval.1)),
    }),
    ("promise", |phase| {
        match phase.judged {
            0 => "none made",
            _ if phase.is_broken() => "BROKEN",
            _ => "kept",
        }
        .to_owned()
    }),
];

/// One line that worsens, for an operator.
fn worsening(worsening: &Worsening) -> String {
    let Worsening { name, code, confidence, latency_ms, report_interval_ms, phases } = worsening;
    let blind = latency_ms + report_interval_ms;
    let since: Vec<&Phase> = phases.iter().filter(|phase| phase.from_ms >= 0.0).collect();
    let words = match since.iter().rposition(|phase| phase.is_broken()) {
        Some(last) => {
            let broken = &since[..=last];
            let (promised, lost) = broken.iter().fold((0.0, 0.0), |(promised, lost), phase| {
                (promised + phase.promised, lost + phase.lost as f64)
            });
            format!(
                "The mirror's first word on the change needs up to {blind} ms ({latency_ms} on the way, {report_interval_ms} until \
                 the next report), and one burst does not tell that more will follow. What was acknowledged in the first {} ms \
                 rests on what the line was before: {} times as much was lost as promised. Later promises hold.",
                since[last].to_ms,
                number(lost / promised)
            )
        }
        None => format!(
            "No promise was broken beyond chance, though the mirror's first word on the change needs up to {blind} ms: what was \
             acknowledged meanwhile had room enough in its promise."
        ),
    };
    format!("{name}; {code}, confidence {confidence}\n{words}\n\n{}\n\n", table(PHASES, phases))
}

fn table<T>(columns: &[Column<T>], rows: &[T]) -> String {
    let mut builder = Builder::default();
    builder.push_record(columns.iter().map(|(title, _)| (*title).to_owned()));
    for row in rows {
        builder.push_record(columns.iter().map(|(_, figure)| figure(row)));
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

fn share(part: f64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { number(part / whole as f64) }
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

/// Refuted cells in the summary; all of them are in the table of cells.
const REFUTED_SHOWN: usize = 30;

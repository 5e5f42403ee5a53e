//! The figures of the report, drawn after those of SMFS: data loss by mode (Figure 6), latency distributions
//! (Figure 8), and one that the paper lacks, promised risk against losses seen.

use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::coord::combinators::LogCoord;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::DrillError;
use crate::mode::Mode;
use crate::report::{DrillReport, ModeSummary};
use crate::stats::{Latency, wilson};

/// One figure, ready to be shown.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// Name of its file, without an ending.
    pub name: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// How to read it.
    pub caption: &'static str,
    /// The drawing.
    pub svg: String,
}

/// Draws all figures of `report`.
pub(crate) fn figures(report: &DrillReport) -> Result<Vec<Figure>, DrillError> {
    Ok(vec![
        Figure {
            name: "loss",
            title: "Data loss by mode",
            caption: "Appends acknowledged before the cut, and how many of them the mirror does not have, \
                      mean per disaster, on a logarithmic axis (after SMFS Figure 6).",
            svg: draw(HEIGHT, |area| loss(report, area))?,
        },
        Figure {
            name: "latency",
            title: "Latency distributions",
            caption: "Share of appends acknowledged within a time of being sent (above), and on the mirror's disk within a time \
                      of their acceptance, warming up included (below); the lines join measured quantiles, \
                      of several disasters the mean of each (after SMFS Figure 8).",
            svg: draw(LATENCY_HEIGHT, |area| latency(report, area))?,
        },
        Figure {
            name: "risk",
            title: "Risk promised and loss seen",
            caption: "Share of disasters with at least one acknowledged append lost (dot: seen; bar: its 99 % interval), \
                      and the mean risk that the acknowledgements promised (tick). A promise is broken where the whole \
                      bar lies to the right of its tick; the left edge stands for zero.",
            svg: draw(HEIGHT, |area| risk(report, area))?,
        },
    ])
}

/// Renders a figure as PNG at twice its size.
///
/// # Errors
/// It is no drawing.
pub fn png(svg: &str) -> Result<Vec<u8>, DrillError> {
    let mut options = resvg::usvg::Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    let family = fonts.faces().next().and_then(|face| face.families.first()).map(|family| family.0.clone());
    let family = family.ok_or_else(|| DrillError::Report("the built-in font cannot be read".to_owned()))?;
    fonts.set_sans_serif_family(family);
    let tree =
        resvg::usvg::Tree::from_str(svg, &options).map_err(|error| DrillError::Report(error.to_string()))?;
    let size = tree.size().to_int_size();
    let mut image = resvg::tiny_skia::Pixmap::new(size.width() * PNG_SCALE, size.height() * PNG_SCALE)
        .ok_or_else(|| DrillError::Report("the picture has no size".to_owned()))?;
    let scale = resvg::tiny_skia::Transform::from_scale(PNG_SCALE as f32, PNG_SCALE as f32);
    resvg::render(&tree, scale, &mut image.as_mut());
    image.encode_png().map_err(|error| DrillError::Report(error.to_string()))
}

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(crate) type Drawn = Result<(), String>;

const WIDTH: u32 = 860;
const HEIGHT: u32 = 420;
/// Two panels, one above the other.
const LATENCY_HEIGHT: u32 = 720;
const LATENCY_SPLIT: u32 = 366;
const PNG_SCALE: u32 = 2;

pub(crate) const INK: RGBColor = RGBColor(40, 44, 52);
pub(crate) const GRID: RGBColor = RGBColor(225, 228, 232);
const SENT: RGBColor = RGBColor(176, 196, 222);
pub(crate) const LOST: RGBColor = RGBColor(190, 45, 45);
pub(crate) const ACK: RGBColor = RGBColor(31, 98, 168);
pub(crate) const SEEN: RGBColor = RGBColor(150, 158, 170);

/// Where zero is drawn on a logarithmic axis of counts.
const COUNT_FLOOR: f64 = 0.5;
/// Where zero is drawn on a logarithmic axis of probabilities.
const RISK_FLOOR: f64 = 1e-12;

pub(crate) fn draw(height: u32, figure: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String, DrillError> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).map_err(text).and_then(|()| figure(&area)).map_err(DrillError::Report)?;
        area.present().map_err(text).map_err(DrillError::Report)?;
    }
    Ok(svg)
}

fn loss(report: &DrillReport, area: &Area<'_>) -> Drawn {
    let rows = &report.modes;
    let most = rows.iter().map(|row| row.acked_appends.mean).fold(10.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_top(34)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..columns(rows), (COUNT_FLOOR..most * 4.0).log_scale())
        .map_err(text)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .bold_line_style(GRID)
        .axis_style(INK)
        .x_labels(0)
        .y_desc("appends")
        .y_label_formatter(&|count| power_of_ten(*count))
        .label_style(font(14))
        .draw()
        .map_err(text)?;
    for (index, row) in rows.iter().enumerate() {
        let left = index as f64;
        for (from, to, value, colour) in
            [(0.16, 0.48, row.acked_appends.mean, SENT), (0.52, 0.84, row.lost_appends.mean, LOST)]
        {
            let top = value.max(COUNT_FLOOR);
            let bar = Rectangle::new([(left + from, COUNT_FLOOR), (left + to, top)], colour.filled());
            let anchor = font(14).pos(Pos::new(HPos::Center, VPos::Bottom));
            let label = Text::new(count(value), (left + (from + to) / 2.0, top * 1.1), anchor);
            chart.draw_series([bar.into_dyn(), label.into_dyn()]).map_err(text)?;
        }
    }
    for (index, row) in rows.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(index as f64 + 0.5, COUNT_FLOOR));
        let style = font(15).pos(Pos::new(HPos::Center, VPos::Top));
        area.draw(&Text::new(row.mode.name(), (x, y + 8), style)).map_err(text)?;
        if !row.meets_loss {
            let style = font(13).color(&LOST).pos(Pos::new(HPos::Center, VPos::Top));
            area.draw(&Text::new("met no packet loss", (x, y + 28), style)).map_err(text)?;
        }
    }
    legend(area, &[("acknowledged", SENT), ("of those, lost", LOST)])
}

/// A distribution of one mode: points of rising latency, in milliseconds, and the share that is at most so late.
type Curve = (Mode, Vec<(f64, f64)>);

/// Cumulative distributions: acknowledgement above, mirroring below, on one time axis.
fn latency(report: &DrillReport, area: &Area<'_>) -> Drawn {
    let of_mode = |mode: Mode| report.runs.iter().filter(move |run| run.mode == mode);
    let ack = |row: &ModeSummary| {
        Some((row.mode, distribution(of_mode(row.mode).map(|run| &run.ack_latency_micros))?))
    };
    let mirroring = |row: &ModeSummary| {
        let known = of_mode(row.mode).filter_map(|run| run.mirroring_latency_micros.as_ref());
        Some((row.mode, distribution(known)?))
    };
    let panels: [(&str, Vec<Curve>); 2] = [
        ("share of acknowledgements", report.modes.iter().filter_map(ack).collect()),
        ("share mirrored", report.modes.iter().filter_map(mirroring).collect()),
    ];
    let times =
        || panels.iter().flat_map(|(_, curves)| curves).flat_map(|(_, points)| points).map(|point| point.0);
    let shortest = times().fold(f64::INFINITY, f64::min).clamp(1e-3, 1.0);
    let longest = times().fold(10.0, f64::max);
    let (upper, lower) = area.split_vertically(LATENCY_SPLIT);
    for (panel, (what, curves)) in [upper, lower].iter().zip(&panels) {
        let mut chart = frame(panel, (shortest / 1.5, longest * 1.5), 0.0..1.0, 76)?;
        let mut mesh = chart.configure_mesh();
        mesh.y_labels(11).y_desc(*what).y_label_formatter(&|share| format!("{share:.1}"));
        mesh_style(&mut mesh, "milliseconds", &|millis| power_of_ten(*millis));
        mesh.draw().map_err(text)?;
        for (mode, points) in curves {
            let line = PathElement::new(points.clone(), colour_of(*mode).stroke_width(2));
            chart.draw_series([line]).map_err(text)?;
        }
    }
    let names: Vec<_> = report.modes.iter().map(|row| (row.mode.name(), colour_of(row.mode))).collect();
    legend(area, &names)
}

/// Points of the distribution of several runs: for each share the mean of its latencies.
fn distribution<'a>(runs: impl Iterator<Item = &'a Latency>) -> Option<Vec<(f64, f64)>> {
    let runs: Vec<Vec<(f64, f64)>> = runs.filter(|run| run.max > 0.0).map(Latency::points).collect();
    let first = runs.first()?;
    let alike = runs.iter().filter(|run| run.len() == first.len());
    let count = alike.clone().count() as f64;
    let mean = |index: usize| {
        alike.clone().filter_map(|run| run.get(index)).map(|point| point.1).sum::<f64>() / count
    };
    // Zero has no place on a logarithmic axis; a microsecond stands for it.
    Some(first.iter().enumerate().map(|(index, point)| (mean(index).max(1.0) / 1e3, point.0)).collect())
}

fn risk(report: &DrillReport, area: &Area<'_>) -> Drawn {
    let rows = &report.modes;
    let height = columns(rows);
    let mut chart = frame(area, (RISK_FLOOR / 2.0, 2.0), 0.0..height, 200)?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_y_mesh().y_labels(0);
    mesh_style(&mut mesh, "probability of losing any acknowledged append", &|risk| {
        if *risk < RISK_FLOOR * 2.0 { "0".to_owned() } else { power_of_ten(*risk) }
    });
    mesh.draw().map_err(text)?;
    for (index, row) in rows.iter().enumerate() {
        let y = height - index as f64 - 0.5;
        let at = |probability: f64| (probability.clamp(RISK_FLOOR, 1.0), y);
        let trials = row.promise.trials.max(1) as f64;
        let (low, high) = wilson(row.promise.losses, row.promise.trials);
        let interval = PathElement::new([at(low), at(high)], SEEN.stroke_width(7));
        let seen = Circle::new(at(row.promise.losses as f64 / trials), 6, SEEN.filled());
        let promised = at(row.promise.expected / trials);
        let colour = if row.promise.refuted { LOST } else { ACK };
        let tick = PathElement::new([(promised.0, y - 0.32), (promised.0, y + 0.32)], colour.stroke_width(4));
        chart.draw_series([interval.into_dyn(), seen.into_dyn(), tick.into_dyn()]).map_err(text)?;
        let (_, pixel) = chart.backend_coord(&(1.0, y));
        let style = font(14).color(if row.promise.refuted { &LOST } else { &INK });
        let label = if row.promise.refuted { format!("{}, REFUTED", row.mode) } else { row.mode.to_string() };
        let style = style.pos(Pos::new(HPos::Right, VPos::Center));
        area.draw(&Text::new(label, (204, pixel), style)).map_err(text)?;
    }
    legend(area, &[("promised", ACK), ("seen, with its 99 % interval", SEEN)])
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, RangedCoordf64>>;

/// The frame of a figure whose horizontal axis is logarithmic; `left` pixels are for what names the rows.
fn frame<'a, 'b>(
    area: &'a Area<'b>,
    across: (f64, f64),
    up: std::ops::Range<f64>,
    left: u32,
) -> Result<Chart<'a, 'b>, String> {
    ChartBuilder::on(area)
        .margin(12)
        .margin_top(34)
        .x_label_area_size(46)
        .y_label_area_size(left)
        .build_cartesian_2d((across.0..across.1).log_scale(), up)
        .map_err(text)
}

fn mesh_style<'a>(
    mesh: &mut MeshStyle<'a, '_, LogCoord<f64>, RangedCoordf64, SVGBackend<'_>>,
    across: &str,
    label: &'a dyn Fn(&f64) -> String,
) {
    mesh.light_line_style(WHITE)
        .bold_line_style(GRID)
        .axis_style(INK)
        .x_desc(across)
        .x_label_formatter(label)
        .label_style(font(14));
}

pub(crate) fn legend(area: &Area<'_>, entries: &[(&str, RGBColor)]) -> Drawn {
    let mut x = 84;
    for (name, colour) in entries {
        area.draw(&Rectangle::new([(x, 12), (x + 14, 26)], colour.filled())).map_err(text)?;
        area.draw(&Text::new(
            (*name).to_owned(),
            (x + 20, 19),
            font(14).pos(Pos::new(HPos::Left, VPos::Center)),
        ))
        .map_err(text)?;
        // Letters of this size are about 8 pixels wide.
        x += 36 + 8 * name.len() as i32;
    }
    Ok(())
}

fn colour_of(mode: Mode) -> RGBColor {
    match mode {
        Mode::LocalSync => RGBColor(150, 158, 170),
        Mode::LocalSyncFec => RGBColor(122, 81, 160),
        Mode::NetworkSync => RGBColor(31, 98, 168),
        Mode::RemoteSync => RGBColor(214, 128, 20),
        Mode::RemoteSyncFec => RGBColor(46, 125, 80),
    }
}

fn columns(rows: &[ModeSummary]) -> f64 {
    (rows.len() as f64).max(1.0)
}

pub(crate) fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

fn count(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.1}") }
}

/// Labels a power of ten of a logarithmic axis, which comes with rounding errors.
pub(crate) fn power_of_ten(value: f64) -> String {
    let exponent = value.log10().round();
    if (0.0..5.0).contains(&exponent) {
        format!("{value:.0}")
    } else if (-2.0..0.0).contains(&exponent) {
        // One or two decimals.
        format!("{value:.*}", exponent.abs() as usize)
    } else {
        format!("{value:.0e}")
    }
}

/// Errors of the drawing backend carry its type, which is of no interest.
pub(crate) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{DrillOptions, Form};
    use crate::report::tests::{sample_report, sample_run};

    #[test]
    fn figures_name_every_mode_and_turn_into_pictures() {
        let figures = figures(&sample_report()).unwrap();
        assert_eq!(figures.len(), 3);
        for figure in figures {
            for mode in Mode::ALL {
                assert!(figure.svg.contains(mode.name()), "{} lacks {mode}", figure.name);
            }
            let curves = figure.svg.matches("<polyline").count();
            // Each mode has a curve above and one below; of what the sample knows, six points and four.
            assert!(figure.name != "latency" || curves >= 2 * Mode::ALL.len(), "{curves} curves");
            let picture = png(&figure.svg).unwrap();
            assert!(picture.starts_with(b"\x89PNG"));
            // Without a font the text would be missing, and the picture a fraction of this.
            assert!(picture.len() > 15_000, "{}: {} bytes", figure.name, picture.len());
        }
    }

    #[test]
    fn powers_of_ten_are_short() {
        let labels = [99_999.999, 0.999_999, 0.009_999_999, 9.999e-4, 100_000.0, 1e-12].map(power_of_ten);
        assert_eq!(labels, ["1e5", "1", "0.01", "1e-3", "1e5", "1e-12"]);
    }

    #[test]
    fn a_drill_without_acknowledgements_is_drawn_too() {
        let mut run = sample_run(Mode::RemoteSync, 0);
        run.acked_appends = 0;
        run.ack_latency_micros = Latency::default();
        run.mirroring_latency_micros = None;
        run.meets_loss = false;
        let report = DrillReport::new(DrillOptions::default(), Form::Relay, vec![run]);
        assert_eq!(figures(&report).unwrap().len(), 3);
        assert!(figures(&report).unwrap()[0].svg.contains("met no packet loss"));
        let none = DrillReport::new(DrillOptions::default(), Form::Relay, Vec::new());
        assert_eq!(figures(&none).unwrap().len(), 3);
    }
}

//! The reliability diagram: what was promised, against what was lost.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::CalibrationError;
use crate::reliability::{Bin, Curve, Reliability};

/// Draws the diagram as SVG: one panel for channels as the model supposes, one for the other stationary ones; a mark for
/// each bin of promises with the interval of what was lost, and the line on which both are equal. What lies below it is
/// kept.
///
/// # Errors
/// The drawing library failed.
pub fn reliability(reliability: &Reliability, model: &str) -> Result<String, CalibrationError> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let own = |curve: &&Curve| curve.model == model && curve.class.is_stationary();
        let (left, right) = area.split_horizontally(WIDTH / 2);
        for (panel, title, is_supposed) in
            [(&left, "lines as the model supposes", true), (&right, "other stationary lines", false)]
        {
            let curves =
                reliability.curves.iter().filter(own).filter(|curve| curve.is_supposed == is_supposed);
            draw_panel(panel, &format!("{model}: {title}"), &merged(curves))?;
        }
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

/// Renders the diagram as PNG at twice its size.
///
/// # Errors
/// The drawing library failed.
pub fn png(svg: &str) -> Result<Vec<u8>, CalibrationError> {
    let mut options = resvg::usvg::Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    let family = fonts.faces().next().and_then(|face| face.families.first()).map(|family| family.0.clone());
    let family =
        family.ok_or_else(|| CalibrationError::Drawing("the built-in font cannot be read".to_owned()))?;
    fonts.set_sans_serif_family(family);
    let tree = resvg::usvg::Tree::from_str(svg, &options).map_err(failed)?;
    let size = tree.size().to_int_size();
    let mut image = resvg::tiny_skia::Pixmap::new(size.width() * PNG_SCALE, size.height() * PNG_SCALE)
        .ok_or_else(|| CalibrationError::Drawing("the picture has no size".to_owned()))?;
    let scale = resvg::tiny_skia::Transform::from_scale(PNG_SCALE as f32, PNG_SCALE as f32);
    resvg::render(&tree, scale, &mut image.as_mut());
    image.encode_png().map_err(failed)
}

/// Curves of one confidence become one, over all kinds of channels.
fn merged<'a>(curves: impl Iterator<Item = &'a Curve>) -> Vec<(f64, Vec<Bin>)> {
    let mut all: Vec<(f64, Vec<Bin>)> = Vec::new();
    for curve in curves {
        let at =
            all.iter().position(|(confidence, _)| *confidence == curve.confidence).unwrap_or_else(|| {
                all.push((curve.confidence, vec![Bin::default(); curve.bins.len()]));
                all.len() - 1
            });
        for (sum, bin) in all[at].1.iter_mut().zip(&curve.bins) {
            sum.disasters += bin.disasters;
            sum.promised += bin.promised;
            sum.lost += bin.lost;
        }
    }
    all
}

fn draw_panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    curves: &[(f64, Vec<Bin>)],
) -> Result<(), CalibrationError> {
    let axis = || (FLOOR..1.0).log_scale();
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_top(58)
        .x_label_area_size(48)
        .y_label_area_size(70)
        .build_cartesian_2d(axis(), axis())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(GRID)
        .axis_style(INK)
        .x_desc("prefix risk promised")
        .y_desc("share lost")
        .x_label_formatter(&power_of_ten)
        .y_label_formatter(&|share| if *share < 2.0 * FLOOR { "0".to_owned() } else { power_of_ten(share) })
        .label_style(font(14))
        .draw()
        .map_err(failed)?;
    chart
        .draw_series([PathElement::new([(FLOOR, FLOOR), (1.0, 1.0)], INK.stroke_width(1))])
        .map_err(failed)?;
    for (index, (confidence, bins)) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        // A little apart, so that their intervals can be told from each other.
        let shift = 1.06_f64.powf(index as f64 - (curves.len() as f64 - 1.0) / 2.0);
        for bin in bins.iter().filter(|bin| bin.disasters > 0) {
            let (x, (low, high)) = ((bin.mean() * shift).clamp(FLOOR, 1.0), bin.interval());
            let ends = [(x, low.max(FLOOR)), (x, high.max(FLOOR))];
            chart.draw_series([PathElement::new(ends, colour.stroke_width(2))]).map_err(failed)?;
            let mark = Circle::new((x, bin.seen().max(FLOOR)), 4, colour.filled());
            chart.draw_series([mark]).map_err(failed)?;
        }
        let left = 84 + 110 * index as i32;
        area.draw(&Circle::new((left, 44), 4, colour.filled())).map_err(failed)?;
        let style = font(14).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(format!("at {confidence}"), (left + 10, 44), style)).map_err(failed)?;
    }
    let style = font(16).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(title.to_owned(), (78, 20), style)).map_err(failed)
}

const WIDTH: u32 = 1120;
const HEIGHT: u32 = 560;
const PNG_SCALE: u32 = 2;

/// Where zero is drawn.
const FLOOR: f64 = 1e-7;

const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(225, 228, 232);
const COLOURS: [RGBColor; 4] =
    [RGBColor(214, 128, 20), RGBColor(46, 125, 80), RGBColor(31, 98, 168), RGBColor(122, 81, 160)];

fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

fn power_of_ten(value: &f64) -> String {
    let exponent = value.log10().round();
    if exponent >= -2.0 { format!("{:.*}", exponent.abs() as usize, value) } else { format!("1e{exponent}") }
}

/// Errors of the drawing libraries carry their types, which are of no interest.
fn failed(error: impl std::fmt::Display) -> CalibrationError {
    CalibrationError::Drawing(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Class;

    fn curve(confidence: f64, is_supposed: bool) -> Curve {
        let bins = (0..16).map(|n| Bin {
            disasters: 100,
            promised: 10_f64.powf(f64::from(n) / 2.0 - 5.5),
            lost: n as u64,
        });
        Curve { model: "m".to_owned(), class: Class::Supposed, is_supposed, confidence, bins: bins.collect() }
    }

    #[test]
    fn the_diagram_has_a_mark_for_each_bin_and_turns_into_a_picture() {
        let curves = vec![curve(0.9, true), curve(0.999, true), curve(0.9, false)];
        let svg = reliability(&Reliability { curves }, "m").unwrap();
        // 48 bins and three legends.
        assert_eq!(svg.matches("<circle").count(), 51);
        assert!(svg.contains("lines as the model supposes") && svg.contains("at 0.999"));
        let picture = png(&svg).unwrap();
        assert!(picture.starts_with(b"\x89PNG") && picture.len() > 20_000, "{} bytes", picture.len());
    }
}

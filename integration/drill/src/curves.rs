//! Curves of risk against time, for whoever plans a link.

use plotters::prelude::*;

use crate::error::DrillError;
use crate::plot::{ACK, Drawn, GRID, INK, LOST, SEEN, draw, font, legend, power_of_ten, text};

/// Curves on two logarithmic axes.
#[derive(Clone, Debug)]
pub struct Curves {
    /// What the horizontal axis shows.
    pub across: String,
    /// What the vertical axis shows.
    pub up: String,
    /// Name and points of each, in the order of the horizontal axis; drawn as steps, as a value holds until the next.
    pub curves: Vec<(String, Vec<(f64, f64)>)>,
    /// A value that is aimed at, with its name.
    pub aim: (String, f64),
}

const COLOURS: [RGBColor; 5] =
    [ACK, RGBColor(214, 128, 20), RGBColor(46, 125, 80), RGBColor(122, 81, 160), SEEN];
const HEIGHT: u32 = 460;

impl Curves {
    /// The drawing.
    ///
    /// # Errors
    /// It cannot be drawn.
    pub fn svg(&self) -> Result<String, DrillError> {
        draw(HEIGHT, |area| {
            let points =
                || self.curves.iter().flat_map(|(_, points)| points).filter(|p| p.0 > 0.0 && p.1 > 0.0);
            let bounds = |of: fn(&(f64, f64)) -> f64, also: f64| {
                let least = points().map(of).fold(also, f64::min);
                let most = points().map(of).fold(also, f64::max);
                (least / 2.0)..(most * 2.0)
            };
            let first = points().map(|point| point.0).next().unwrap_or(1.0);
            let mut chart = ChartBuilder::on(area)
                .margin(12)
                .margin_top(34)
                .x_label_area_size(46)
                .y_label_area_size(76)
                .build_cartesian_2d(
                    bounds(|point| point.0, first).log_scale(),
                    bounds(|point| point.1, self.aim.1).log_scale(),
                )
                .map_err(text)?;
            chart
                .configure_mesh()
                .light_line_style(WHITE)
                .bold_line_style(GRID)
                .axis_style(INK)
                .x_desc(&self.across)
                .y_desc(&self.up)
                .x_label_formatter(&|value| power_of_ten(*value))
                .y_label_formatter(&|value| power_of_ten(*value))
                .label_style(font(14))
                .draw()
                .map_err(text)?;
            let across = chart.plotting_area().get_x_range();
            let aim = PathElement::new(
                [(across.start, self.aim.1), (across.end, self.aim.1)],
                LOST.stroke_width(1),
            );
            chart.draw_series([aim]).map_err(text)?;
            for ((_, points), colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
                let line = PathElement::new(steps(points, across.end), colour.stroke_width(2));
                chart.draw_series([line]).map_err(text)?;
            }
            self.names(area)
        })
    }

    fn names(&self, area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn {
        let named = self.curves.iter().map(|(name, _)| name.as_str()).zip(COLOURS.iter().copied().cycle());
        let entries: Vec<_> = named.chain([(self.aim.0.as_str(), LOST)]).collect();
        legend(area, &entries)
    }
}

/// The value of each point until the next one, and of the last until the end.
fn steps(points: &[(f64, f64)], end: f64) -> Vec<(f64, f64)> {
    let mut path = Vec::with_capacity(2 * points.len());
    for (n, &(at, value)) in points.iter().enumerate() {
        if value <= 0.0 {
            continue;
        }
        path.push((at, value));
        path.push((points.get(n + 1).map_or(end, |next| next.0), value));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_drawn_as_steps_and_named() {
        assert_eq!(
            steps(&[(1.0, 0.1), (3.0, 0.01)], 9.0),
            [(1.0, 0.1), (3.0, 0.1), (3.0, 0.01), (9.0, 0.01)]
        );
        let curves = Curves {
            across: "milliseconds".to_owned(),
            up: "risk".to_owned(),
            curves: vec![
                ("one".to_owned(), vec![(0.1, 1e-2), (0.5, 1e-5), (2.0, 1e-9)]),
                ("other".to_owned(), vec![(0.1, 1e-3)]),
            ],
            aim: ("asked".to_owned(), 1e-6),
        };
        let svg = curves.svg().unwrap();
        for words in ["one", "other", "asked", "milliseconds", "1e-6"] {
            assert!(svg.contains(words), "{words}");
        }
        assert!(crate::plot::png(&svg).unwrap().starts_with(b"\x89PNG"));
        // Nothing to draw is no error.
        Curves { curves: Vec::new(), ..curves }.svg().unwrap();
    }
}

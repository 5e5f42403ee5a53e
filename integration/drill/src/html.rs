//! The report: one HTML file that needs nothing else, its figures as PNG beside it, and the JSON document.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::error::DrillError;
use crate::plot::{Figure, figures, png};
use crate::report::DrillReport;

/// Writes `drill.html`, `drill.json` and a PNG of each figure into `directory`, which is made if need be.
///
/// # Errors
/// A file cannot be written, or a figure cannot be drawn.
pub fn write_report(report: &DrillReport, directory: &Path) -> Result<(), DrillError> {
    fs::create_dir_all(directory).map_err(DrillError::file("creating", directory))?;
    let figures = figures(report)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, bytes).map_err(DrillError::file("writing", path))
    };
    write("drill.html", html(report, &figures).as_bytes())?;
    write("drill.json", report.to_json().as_bytes())?;
    for figure in &figures {
        write(&format!("{}.png", figure.name), &png(&figure.svg)?)?;
    }
    Ok(())
}

const STYLE: &str = "body{font:16px/1.45 system-ui,sans-serif;color:#282c34;max-width:62rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}pre{background:#f6f8fa;padding:1rem;overflow-x:auto;font-size:13px;line-height:1.25}\
figure{margin:1.5rem 0}figure svg{width:100%;height:auto}figcaption{color:#57606a;font-size:.9rem}\
.bad{color:#be2d2d;font-weight:600}.good{color:#1a7f37;font-weight:600}";

fn html(report: &DrillReport, figures: &[Figure]) -> String {
    let options = &report.parameters;
    let link = &options.link;
    let verdict = if report.is_faulty() {
        "<p class=\"bad\">A fault was found: see altered appends, losses without an announcement, and promises in the table.</p>"
    } else {
        "<p class=\"good\">No fault was found: nothing altered, every loss announced, no promise refuted.</p>"
    };
    let mut body = String::new();
    for figure in figures {
        // Writing to a string does not fail.
        let _ = write!(
            body,
            "<h2>{}</h2>\n<figure>{}<figcaption>{}</figcaption></figure>\n",
            figure.title, figure.svg, figure.caption
        );
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Parhelion disaster drill</title>\n\
         <style>{STYLE}</style></head><body>\n<h1>Disaster drill</h1>\n\
         <p>{one_way:?} one way, {rate} Mbit/s, then {loss} % loss in bursts of {burst} for {loss_for:?}, then the link is cut and \
         every process of the primary killed. {writers} writers with one append of {append} bytes outstanding each, \
         {load} Mbit/s offered for {duration:?}; code {code} {parameters}; risk at most {max_risk:e}; \
         {repeat} disaster(s) per mode from seed {seed}; {form} form.</p>\n{verdict}\n<pre>{table}</pre>\n{body}\
         <h2>Parameters</h2>\n<pre>{json}</pre>\n</body></html>\n",
        one_way = link.one_way,
        rate = link.rate_bits_per_second as f64 / 1e6,
        loss = link.loss * 100.0,
        burst = link.burst,
        loss_for = link.loss_for,
        writers = options.writers,
        append = options.append_bytes,
        load = options.load() as f64 / 1e6,
        duration = options.duration,
        code = escape(&options.code),
        parameters = match options.parameters.as_str() {
            "" => "with its default parameters".to_owned(),
            given => escape(given),
        },
        max_risk = options.max_risk,
        repeat = options.repeat,
        seed = options.seed,
        form = format!("{:?}", report.form).to_lowercase(),
        table = escape(&report.table()),
        json = escape(&serde_json::to_string_pretty(options).unwrap_or_default()),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample_report;

    #[test]
    fn the_report_needs_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("new/report");
        let mut report = sample_report();
        report.parameters.code = "<script>".to_owned();
        write_report(&report, &target).unwrap();
        let html = fs::read_to_string(target.join("drill.html")).unwrap();
        assert_eq!(html.matches("<svg").count(), 3);
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"));
        for outside in ["<link", "<img", "src=", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(html.contains("No fault was found"));
        for name in ["loss.png", "latency.png", "risk.png", "drill.json"] {
            assert!(target.join(name).metadata().unwrap().len() > 1000, "{name}");
        }
    }
}

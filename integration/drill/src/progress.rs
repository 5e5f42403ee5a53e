//! What a waiting operator sees: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Progress of one disaster, on standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    title: String,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Progress under `title`.
    pub(crate) fn new(title: String) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{prefix:28} [{bar:40}] {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(title.clone());
            bar
        });
        Self { title, bar }
    }

    /// A new stage began.
    pub(crate) fn step(&self, what: &'static str) {
        match &self.bar {
            Some(bar) => bar.set_message(what),
            None => self.line(what),
        }
    }

    /// That much of the time of writing is over.
    pub(crate) fn elapsed(&self, elapsed: Duration, total: Duration) {
        if let Some(bar) = &self.bar {
            let share = elapsed.as_secs_f64() / total.as_secs_f64().max(1e-9);
            // At most 1000 by the clamp.
            bar.set_position((share.clamp(0.0, 1.0) * 1000.0) as u64);
        }
    }

    /// The disaster is over and counted.
    pub(crate) fn finish(&self, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(1000);
                bar.finish_with_message(what.to_owned());
            }
            None => self.line(what),
        }
    }

    fn line(&self, what: &str) {
        // Nobody may be listening to standard error.
        let _ = writeln!(std::io::stderr(), "{}: {what}", self.title);
    }
}

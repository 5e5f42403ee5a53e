//! What somebody at a terminal sees while a command takes long. Scripts see nothing of it.

use std::io::IsTerminal;
use std::pin::pin;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What takes less time than this is not worth a bar.
const MOMENT: Duration = Duration::from_millis(300);
/// How often a bar moves.
const TICK: Duration = Duration::from_millis(100);

/// Does `work`, and shows on standard error how many bytes are done, and of how many: `position` tells both.
pub async fn watch<T>(title: String, position: impl Fn() -> (u64, u64), work: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let mut work = pin!(work);
    if let Ok(done) = tokio::time::timeout(MOMENT, &mut work).await {
        return done;
    }
    let bar = ProgressBar::with_draw_target(Some(position().1), ProgressDrawTarget::stderr());
    let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {elapsed}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(title);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            biased;
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            _ = tick.tick() => {
                let (done, total) = position();
                bar.set_length(total);
                // What is counted may include what the connection itself needs.
                bar.set_position(done.min(total));
            }
        }
    }
}

//! Ctrl-C and SIGTERM: a drill ends its processes, removes what they wrote, and ends.
//!
//! Every wait of the drill asks [`check`], so that the error unwinds it: whatever it started is killed when it is dropped.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::error::DrillError;

/// Signals are the process's, so is what they ask for.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// A wait notices a signal after this time at most.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Exit code of a drill that a second signal ended at once; a shell has the same for Ctrl-C.
const EXIT_AT_ONCE: i32 = 130;

/// Listens for signals from now on, for as long as the process lives. The first one stops the drill in order, the second
/// one at once.
///
/// # Errors
/// The system has no room for a thread or a pipe.
pub(crate) fn listen() -> Result<(), DrillError> {
    static LISTENS: OnceLock<()> = OnceLock::new();
    if LISTENS.get().is_some() {
        return Ok(());
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(DrillError::Signals)?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DrillError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(DrillError::Signals)?;
    drop(entered);
    let wait = async move {
        for is_second in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            STOPPED.store(true, Ordering::Relaxed);
            if is_second {
                std::process::exit(EXIT_AT_ONCE);
            }
        }
    };
    let thread = std::thread::Builder::new().name("drill-signals".to_owned());
    thread.spawn(move || runtime.block_on(wait)).map_err(DrillError::Signals)?;
    // Only the main thread of a drill calls this: nobody else has set it meanwhile, and a second listener would do no harm.
    let _ = LISTENS.set(());
    Ok(())
}

/// Whether the drill was told to stop.
pub(crate) fn is_stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// # Errors
/// The drill was told to stop.
pub(crate) fn check() -> Result<(), DrillError> {
    if is_stopped() { Err(DrillError::Stopped) } else { Ok(()) }
}

/// Sleeps.
///
/// # Errors
/// The drill was told to stop meanwhile.
pub(crate) fn sleep(span: Duration) -> Result<(), DrillError> {
    let until = Instant::now() + span;
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(TICK));
    }
}

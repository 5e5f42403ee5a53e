//! Appends whose clients wait no more.
//!
//! Under the policy `block` an append may wait for the mirror for hours. Its client may give up, or its connection may end,
//! long before: then what it keeps here is for others that want to wait. The append itself goes on to the disk and to the
//! mirror, and a client that comes again with the same request id finds it.

use std::time::Duration;

use actix::{AsyncContext, Context};
use parhelion_mirror::{Input, Token};
use parhelion_observability::AppendOutcome;

use super::{StorageActor, Waiting};

/// How often they are looked for. Shorter than anybody goes on trying who was told that too many wait, and rarely enough
/// for the thousands that there may be.
const INTERVAL: Duration = Duration::from_secs(1);

impl StorageActor {
    /// Looks for them from now on.
    pub(super) fn watch_for_given_up(ctx: &mut Context<Self>) {
        ctx.run_interval(INTERVAL, Self::forget_given_up);
    }

    fn forget_given_up(&mut self, ctx: &mut Context<Self>) {
        // All else waits for this site's disk alone.
        let is_given_up =
            |waiting: &Waiting| matches!(waiting, Waiting::Append { answer, .. } if answer.is_closed());
        let given_up = self.waiting.iter().filter(|(_, waiting)| is_given_up(waiting));
        let given_up: Vec<Token> = given_up.map(|(&token, _)| token).collect();
        if given_up.is_empty() {
            return;
        }
        for &token in &given_up {
            if let Some(Waiting::Append { asked, .. }) = self.take_waiting(token) {
                let outcome = AppendOutcome::GivenUp;
                self.config.metrics.append(asked.durability, outcome, asked.bytes, Duration::ZERO);
                self.traces.given_up(token);
            }
        }
        self.step(Input::GivenUp(given_up), ctx);
    }
}

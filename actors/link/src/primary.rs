//! The driver at the primary: one session after the other, for ever.

use std::sync::Arc;
use std::time::Duration;

use parhelion_plugin::Code;
use parhelion_types::Time;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;

use crate::config::{PrimaryConfig, Transport};
use crate::error::LinkError;
use crate::interface::{LinkCommand, LinkEvent, PrimarySink};
use crate::primary_session::{End, PrimarySession};
use crate::session::find_code;
use crate::stats::LinkStats;
use crate::timer::{Alarm, Clock};

/// The primary's end of a link: connects to the mirror, and connects again whenever that fails.
///
/// It owns the sockets, both QUIC connections and the sending half of the link core, all in one task, so
/// packets meet no queue between the code and the kernel. Give it a thread of its own.
///
/// Records and announcements that come while no session is up are discarded and counted: the storage actor
/// sends what the mirror lacks when it is told of the next session.
pub struct PrimaryDriver {
    config: PrimaryConfig,
    commands: mpsc::UnboundedReceiver<LinkCommand>,
    sink: Box<dyn PrimarySink>,
    code: Code,
    stats: Arc<LinkStats>,
    clock: Clock,
    alarm: Alarm,
}

/// A deadline this close is waited for by yielding: arming a timer takes about as long.
const YIELD_BELOW: Duration = Duration::from_micros(15);

/// Commands that are looked at in one turn, so that a flood of them does not hold up the lanes.
const COMMANDS_PER_TURN: usize = 256;

impl PrimaryDriver {
    /// Checks the settings and prepares the driver. Call it inside the runtime that will run it.
    ///
    /// # Errors
    /// Settings that cannot work, such as a code that is not known here.
    pub fn new(
        config: PrimaryConfig,
        commands: mpsc::UnboundedReceiver<LinkCommand>,
        sink: Box<dyn PrimarySink>,
    ) -> Result<Self, LinkError> {
        config.check().map_err(LinkError::Settings)?;
        // Over TCP there are no symbols, whatever code is configured.
        let (name, parameters) = match config.transport {
            Transport::Quic => (&*config.code, &*config.parameters),
            Transport::Tcp { .. } => ("none", ""),
        };
        let code = find_code(&config.codes, name, parameters).map_err(LinkError::Settings)?;
        let alarm = Alarm::new()?;
        Ok(Self { config, commands, sink, code, stats: Arc::default(), clock: Clock::new(), alarm })
    }

    /// Prepares the driver and runs it as a task of the current runtime; its figures.
    ///
    /// # Errors
    /// As [`PrimaryDriver::new`].
    pub fn start(
        config: PrimaryConfig,
        commands: mpsc::UnboundedReceiver<LinkCommand>,
        sink: Box<dyn PrimarySink>,
    ) -> Result<Arc<LinkStats>, LinkError> {
        let driver = Self::new(config, commands, sink)?;
        let stats = driver.stats();
        tokio::spawn(driver.run());
        Ok(stats)
    }

    /// What the driver does, in figures.
    #[must_use]
    pub fn stats(&self) -> Arc<LinkStats> {
        self.stats.clone()
    }

    /// Runs until [`LinkCommand::Close`], or until all senders of commands are gone.
    pub async fn run(mut self) {
        let mut pause = self.config.reconnect_min;
        loop {
            let end =
                match PrimarySession::open(&self.config, self.code.clone(), self.clock, self.stats.clone()) {
                    Ok(mut session) => {
                        let end = self.drive(&mut session).await;
                        // A change of code outlives the session.
                        self.code = session.code().clone();
                        self.config.flush_pause = session.flush_pause();
                        end
                    }
                    Err(error) => End::Failed { reason: error.to_string(), was_up: false },
                };
            self.stats.up.set(0);
            let (reason, was_up) = match end {
                End::Closed => {
                    self.sink.events(vec![LinkEvent::Down { reason: "closed, as told".to_owned() }]);
                    return;
                }
                End::Renewed { reason } => {
                    tracing::info!(%reason, "session renewed");
                    let reason = format!("{reason}; connecting again at once");
                    self.sink.events(vec![LinkEvent::Down { reason }]);
                    pause = self.config.reconnect_min;
                    continue;
                }
                End::Fault { reason } => match self.fall_back() {
                    Some(fallback) => {
                        tracing::error!(%reason, %fallback, "the link goes on with another code");
                        let reason = format!("{reason}; connecting again at once, with {fallback}");
                        self.sink.events(vec![LinkEvent::Down { reason }]);
                        continue;
                    }
                    // What broke was the last resort.
                    None => (reason, true),
                },
                End::Failed { reason, was_up } => (reason, was_up),
            };
            if was_up {
                pause = self.config.reconnect_min;
            }
            // Half of it at random, so that many primaries do not come back at one instant.
            let wait = pause.mul_f64(StdRng::from_os_rng().random_range(0.5..1.0));
            tracing::warn!(%reason, ?wait, "link down");
            let reason = format!("{reason}; connecting again in {} ms", wait.as_millis());
            self.sink.events(vec![LinkEvent::Down { reason }]);
            if !self.idle(wait).await {
                self.sink.events(vec![LinkEvent::Down { reason: "closed, as told".to_owned() }]);
                return;
            }
            pause = (pause * 2).min(self.config.reconnect_max);
        }
    }

    /// The code to go on with after a fault of the one in force, unless that is the same.
    fn fall_back(&mut self) -> Option<Code> {
        self.stats.code_faults.add(1);
        let fallback = find_code(&self.config.codes, &self.config.fallback, "").ok()?;
        let is_other = fallback.name() != self.code.name();
        is_other.then(|| {
            self.code = fallback.clone();
            fallback
        })
    }

    /// Runs one session to its end.
    async fn drive(&mut self, session: &mut PrimarySession) -> End {
        loop {
            for _ in 0..COMMANDS_PER_TURN {
                match self.commands.try_recv() {
                    Ok(command) => session.handle_command(self.clock.now().1, command),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => {
                        session.handle_command(self.clock.now().1, LinkCommand::Close);
                        break;
                    }
                }
            }
            let more = match session.turn(self.sink.as_mut()) {
                Ok(more) => more || (!self.commands.is_empty() && !session.is_closing()),
                Err(end) => return end,
            };
            let (_, now) = self.clock.now();
            let deadline = session.poll_timeout(now);
            if more || deadline.is_some_and(|deadline| deadline <= now + YIELD_BELOW) {
                tokio::task::yield_now().await;
                continue;
            }
            if let Err(error) = deadline.map_or(Ok(()), |deadline| self.alarm.set(now, deadline)) {
                return End::Failed {
                    reason: format!("cannot set a timer: {error}"),
                    was_up: session.is_up(),
                };
            }
            let is_closing = session.is_closing();
            tokio::select! {
                biased;
                command = self.commands.recv(), if !is_closing => {
                    let now = self.clock.now().1;
                    session.handle_command(now, command.unwrap_or(LinkCommand::Close));
                }
                () = session.ready() => {}
                () = self.alarm.rung() => {}
            }
        }
    }

    /// Waits until it is time to connect again; false when told to close meanwhile.
    async fn idle(&mut self, wait: Duration) -> bool {
        let until = tokio::time::Instant::now() + wait;
        loop {
            let command = tokio::select! {
                () = tokio::time::sleep_until(until) => return true,
                command = self.commands.recv() => command,
            };
            match command {
                None | Some(LinkCommand::Close) => return false,
                Some(LinkCommand::ChangeCode { name, parameters, flush_pause, done }) => {
                    let code = find_code(&self.config.codes, &name, &parameters);
                    self.config.flush_pause = flush_pause.unwrap_or(self.config.flush_pause);
                    // Whoever asked may have gone.
                    let _ = done.send(code.map(|code| self.code = code));
                }
                // The next session is on its way already.
                Some(LinkCommand::Renew { .. }) => {}
                // No session: the storage actor sends them when it is told of the next one.
                Some(LinkCommand::Announce { .. } | LinkCommand::Send { .. } | LinkCommand::Rewind(_)) => {
                    self.stats.commands_discarded.add(1);
                }
            }
        }
    }
}

/// The earlier of two times, either of which may be none.
pub(crate) fn earliest(times: impl IntoIterator<Item = Option<Time>>) -> Option<Time> {
    times.into_iter().flatten().min()
}

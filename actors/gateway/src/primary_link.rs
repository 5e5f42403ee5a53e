//! A primary's link as a storage node sees it whose link is on another node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parhelion_link_driver::{CodeLookup, LinkCommand, LinkEvent, PrimarySink};
use parhelion_types::LogId;
use parhelion_wire::WireError;
use parhelion_wire::site::{SiteChangeCodeV1, SiteLeaveV1, SiteRewindV1, SiteSendV1};
use tokio::sync::{mpsc, oneshot};

use crate::config::SiteLinkConfig;
use crate::error::{GatewayError, SiteError};
use crate::frames::{FrameReader, FrameWriter};
use crate::primary_messages::{ToStorage, ToStorageParser, push_announcements};
use crate::site_link::{End, Joined, LEAVE_MAX, PRIMARY_DUTY, SiteLink};

/// Stands for the link driver at a storage node of a primary site whose link is on another node.
///
/// It keeps the contract of [`parhelion_link_driver::PrimaryDriver`]: the same commands, the same events. It
/// connects to the link node, and again whenever that fails; what comes meanwhile is discarded, because the
/// storage actor sends what the mirror lacks when it is told of the next session.
pub struct RemotePrimaryLink {
    link: SiteLink,
    codes: CodeLookup,
    /// The logs that this node is known to have.
    logs: BTreeSet<LogId>,
    commands: mpsc::UnboundedReceiver<LinkCommand>,
    sink: Box<dyn PrimarySink>,
}

/// Requests to change the code that are under way, by correlation.
type Changes = Mutex<BTreeMap<u64, oneshot::Sender<Result<(), String>>>>;

/// Commands put into one write.
const COMMANDS_PER_WRITE: usize = 256;
/// No session: the link node counts them from 1.
const NO_SESSION: u64 = 0;

impl RemotePrimaryLink {
    /// Checks the settings and prepares the link of a node that knows these codes and has these logs. Call it inside the runtime that
    /// will run it.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn new(
        config: SiteLinkConfig,
        codes: CodeLookup,
        logs: &[LogId],
        commands: mpsc::UnboundedReceiver<LinkCommand>,
        sink: Box<dyn PrimarySink>,
    ) -> Result<Self, GatewayError> {
        let (link, logs) = (SiteLink::new(config)?, logs.iter().copied().collect());
        Ok(Self { link, codes, logs, commands, sink })
    }

    /// Runs until [`LinkCommand::Close`], or until all senders of commands are gone.
    pub async fn run(mut self) {
        loop {
            let (error, lived) = match self.connection().await {
                End::Closed => break,
                End::Failed { error, lived } => (error, lived),
            };
            let (wait, reason) = self.link.retry(&error, lived);
            self.sink.events(vec![LinkEvent::Down { reason }]);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = discard(&mut self.commands) => break,
            }
        }
        self.sink.events(vec![LinkEvent::Down { reason: "closed, as told".to_owned() }]);
        self.link.settle().await;
    }

    /// One connection, from its beginning to its end.
    async fn connection(&mut self) -> End {
        let Self { link, codes, logs, commands, sink } = self;
        let known = logs.iter().map(|log| log.0).collect();
        let joined = tokio::select! {
            joined = link.join(PRIMARY_DUTY, known) => joined,
            () = discard(commands) => return End::Closed,
        };
        let Joined { connection, mut reader, mut writer } = match joined {
            Ok(joined) => joined,
            Err(error) => return End::Failed { error, lived: Duration::ZERO },
        };
        let start = Instant::now();
        let session = AtomicU64::new(NO_SESSION);
        let changes = Changes::default();
        let mut hear = std::pin::pin!(hear(&mut reader, codes.clone(), sink.as_mut(), &session, &changes));
        let ended = tokio::select! {
            error = &mut hear => Err(error),
            left = say(&mut writer, commands, logs, &session, &changes) => left,
        };
        match ended {
            Ok(()) => {
                // The link node closes the connection when it has taken what was sent. How, does not matter.
                let _ = tokio::time::timeout(LEAVE_MAX, hear).await;
                End::Closed
            }
            Err(error) => {
                SiteLink::abandon(&connection, &error);
                End::Failed { error, lived: start.elapsed() }
            }
        }
    }
}

/// Takes what the link node says, until the connection ends.
async fn hear(
    reader: &mut FrameReader,
    codes: CodeLookup,
    sink: &mut dyn PrimarySink,
    session: &AtomicU64,
    changes: &Changes,
) -> SiteError {
    let mut parser = ToStorageParser::new(codes);
    loop {
        let mut events = Vec::new();
        let heard = async {
            let mut frame = reader.next().await?;
            loop {
                match parser.parse(&frame)? {
                    Some((ToStorage::Event(event), number)) => {
                        match (&event, number) {
                            (_, Some(number)) => session.store(number, Ordering::Release),
                            (LinkEvent::Down { .. }, _) => session.store(NO_SESSION, Ordering::Release),
                            _ => {}
                        }
                        events.push(event);
                    }
                    Some((ToStorage::Telemetry(telemetry), _)) => sink.telemetry(telemetry),
                    Some((ToStorage::CodeChanged { correlation, error }, _)) => {
                        let done =
                            changes.lock().unwrap_or_else(PoisonError::into_inner).remove(&correlation);
                        if let Some(done) = done {
                            // Whoever asked may have gone.
                            let _ = done.send(error.map_or(Ok(()), Err));
                        }
                    }
                    None => {}
                }
                match reader.try_next()? {
                    Some(next) => frame = next,
                    None => return Ok::<_, SiteError>(()),
                }
            }
        };
        let heard = heard.await;
        if !events.is_empty() {
            sink.events(events);
        }
        if let Err(error) = heard {
            return error;
        }
    }
}

/// Passes commands on, until told to close.
async fn say(
    writer: &mut FrameWriter,
    commands: &mut mpsc::UnboundedReceiver<LinkCommand>,
    logs: &mut BTreeSet<LogId>,
    session: &AtomicU64,
    changes: &Changes,
) -> Result<(), SiteError> {
    let mut batch = Vec::new();
    let mut announcements = Vec::new();
    let mut correlation = 0;
    loop {
        let mut is_over = commands.recv_many(&mut batch, COMMANDS_PER_WRITE).await == 0;
        let session = session.load(Ordering::Acquire);
        // Announcements run ahead of everything: those of the whole batch go first.
        for command in &batch {
            if let LinkCommand::Announce { key, announcement } = command {
                logs.insert(key.log);
                announcements.push((key.number, *announcement));
            }
        }
        if session == NO_SESSION {
            announcements.clear();
        }
        push_announcements(&mut writer.batch, session, &mut announcements)?;
        for command in batch.drain(..) {
            match command {
                LinkCommand::Announce { .. } | LinkCommand::Renew { .. } => {}
                LinkCommand::Send { key, record, is_awaited } => {
                    logs.insert(key.log);
                    if session != NO_SESSION {
                        let send = SiteSendV1 { session, log: key.log.0, number: key.number, is_awaited };
                        writer.batch.push(&send, record, 0)?;
                    }
                }
                LinkCommand::Rewind(tails) => {
                    logs.extend(tails.iter().map(|tail| LogId(tail.log)));
                    if session != NO_SESSION {
                        let rewind = SiteRewindV1 { session, logs: tails };
                        match writer.batch.push(&rewind, Bytes::new(), 0) {
                            Err(error @ WireError::Long { .. }) => {
                                tracing::error!(%error, "too many logs to cut back in one message");
                            }
                            result => result?,
                        }
                    }
                }
                LinkCommand::ChangeCode { name, parameters, flush_pause, done } => {
                    correlation += 1;
                    changes.lock().unwrap_or_else(PoisonError::into_inner).insert(correlation, done);
                    let change = SiteChangeCodeV1 { flush_pause, name, parameters };
                    writer.batch.push(&change, Bytes::new(), correlation)?;
                }
                LinkCommand::Close => is_over = true,
            }
        }
        if is_over {
            writer.batch.push(&SiteLeaveV1 {}, Bytes::new(), 0)?;
        }
        writer.flush().await?;
        if is_over {
            writer.finish();
            return Ok(());
        }
    }
}

/// Takes commands while there is nobody to pass them on to; returns when told to close.
async fn discard(commands: &mut mpsc::UnboundedReceiver<LinkCommand>) {
    while let Some(command) = commands.recv().await {
        match command {
            LinkCommand::Close => return,
            LinkCommand::ChangeCode { done, .. } => {
                // Whoever asked may have gone.
                let reason = "this node is not joined to its site's link node; try again when it is";
                let _ = done.send(Err(reason.to_owned()));
            }
            LinkCommand::Announce { .. }
            | LinkCommand::Send { .. }
            | LinkCommand::Rewind(_)
            | LinkCommand::Renew { .. } => {}
        }
    }
}

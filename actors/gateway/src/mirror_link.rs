//! A mirror's link as a storage node sees it whose link is on another node.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parhelion_link_driver::{MirrorCommand, MirrorEvent, MirrorSink};
use parhelion_wire::site::SiteLeaveV1;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::answers::{Asked, Said, Sayings};
use crate::config::SiteLinkConfig;
use crate::error::{GatewayError, SiteError};
use crate::frames::{FrameReader, FrameWriter};
use crate::messages::ITEMS_MAX;
use crate::mirror_messages::{ToMirror, push_answer, push_progress};
use crate::site_link::{End, Joined, LEAVE_MAX, MIRROR_DUTY, SiteLink};

/// Stands for the link driver at a storage node of a mirror site whose link is on another node.
///
/// It keeps the contract of [`parhelion_link_driver::MirrorDriver`]: the same commands, the same events. It tells
/// the link node how many of the bytes that it delivered are settled, which is what bounds the bytes under way.
pub struct RemoteMirrorLink {
    link: SiteLink,
    sayings: Sayings,
    ask: mpsc::UnboundedSender<Asked>,
    /// Locked for moments, by one half of the connection at a time.
    sink: Mutex<Box<dyn MirrorSink>>,
}

/// Bytes of records that were delivered on a connection.
#[derive(Default)]
struct Delivered {
    bytes: AtomicU64,
    more: Notify,
}

/// How soon the link node learns that bytes are settled when no log advances.
const SETTLE_INTERVAL: Duration = Duration::from_millis(2);

impl RemoteMirrorLink {
    /// Checks the settings and prepares the link. Call it inside the runtime that will run it.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn new(
        config: SiteLinkConfig,
        commands: mpsc::UnboundedReceiver<MirrorCommand>,
        sink: Box<dyn MirrorSink>,
    ) -> Result<Self, GatewayError> {
        let (sayings, ask) = Sayings::of(commands);
        Ok(Self { link: SiteLink::new(config)?, sayings, ask, sink: Mutex::new(sink) })
    }

    /// Runs until [`MirrorCommand::Close`], or until all senders of commands are gone.
    pub async fn run(mut self) {
        loop {
            let (error, lived) = match self.connection().await {
                End::Closed => break,
                End::Failed { error, lived } => (error, lived),
            };
            let (wait, reason) = self.link.retry(&error, lived);
            lock(&self.sink).events(vec![MirrorEvent::Down { reason }]);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = discard(&mut self.sayings) => break,
            }
        }
        lock(&self.sink).events(vec![MirrorEvent::Down { reason: "closed, as told".to_owned() }]);
        self.link.settle().await;
    }

    /// One connection, from its beginning to its end.
    async fn connection(&mut self) -> End {
        let Self { link, sayings, ask, sink } = self;
        let joined = tokio::select! {
            joined = link.join(MIRROR_DUTY, Vec::new()) => joined,
            () = discard(sayings) => return End::Closed,
        };
        let Joined { connection, mut reader, mut writer } = match joined {
            Ok(joined) => joined,
            Err(error) => return End::Failed { error, lived: Duration::ZERO },
        };
        let start = Instant::now();
        // Whoever asked on an earlier connection is not there any more.
        sayings.forget_question();
        let delivered = Delivered::default();
        let mut hear = std::pin::pin!(hear(&mut reader, sink, ask, &delivered));
        let ended = tokio::select! {
            error = &mut hear => Err(error),
            left = say(&mut writer, sayings, sink, &delivered) => left,
        };
        match ended {
            Ok(()) => {
                // The link node closes the connection when it has taken what was said. How, does not matter.
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
    sink: &Mutex<Box<dyn MirrorSink>>,
    ask: &mpsc::UnboundedSender<Asked>,
    delivered: &Delivered,
) -> SiteError {
    loop {
        let mut events = Vec::new();
        let mut bytes = 0;
        let heard = async {
            let mut frame = reader.next().await?;
            loop {
                match ToMirror::parse(frame)? {
                    ToMirror::Record(record) => {
                        bytes += record.len() as u64;
                        match events.last_mut() {
                            Some(MirrorEvent::Records(records)) => records.push(record),
                            _ => events.push(MirrorEvent::Records(vec![record])),
                        }
                    }
                    ToMirror::Announced(announcements) => events.push(MirrorEvent::Announced(announcements)),
                    ToMirror::Hello { site, session, number } => {
                        let (marks, answer) = oneshot::channel();
                        // Before the storage actor hears of it. The other end is in the same struct.
                        let _ = ask.send(Asked { number, answer });
                        events.push(MirrorEvent::Hello { site, session, marks });
                    }
                    ToMirror::Rewind(tails) => events.push(MirrorEvent::Rewind(tails)),
                    ToMirror::Down { reason } => events.push(MirrorEvent::Down { reason }),
                }
                match reader.try_next()? {
                    Some(next) => frame = next,
                    None => return Ok::<_, SiteError>(()),
                }
            }
        };
        let heard = heard.await;
        if !events.is_empty() {
            let mut sink = lock(sink);
            delivered.bytes.fetch_add(bytes, Ordering::AcqRel);
            sink.events(events);
            if bytes > 0 {
                delivered.more.notify_one();
            }
        }
        if let Err(error) = heard {
            return error;
        }
    }
}

/// Passes answers and marks on, and says what is settled, until told to close.
async fn say(
    writer: &mut FrameWriter,
    sayings: &mut Sayings,
    sink: &Mutex<Box<dyn MirrorSink>>,
    delivered: &Delivered,
) -> Result<(), SiteError> {
    let mut settled = 0;
    loop {
        let some_time = async {
            if settled == delivered.bytes.load(Ordering::Acquire) {
                delivered.more.notified().await;
            }
            tokio::time::sleep(SETTLE_INTERVAL).await;
        };
        let mut next = tokio::select! {
            biased;
            said = sayings.next() => Some(said),
            () = some_time => None,
        };
        let mut is_over = false;
        let mut marks = Vec::new();
        while let Some(said) = next {
            match said {
                Said::Answer { number, answer } => {
                    // What was reported before the answer stays before it.
                    push_progress(&mut writer.batch, std::mem::take(&mut marks), settled)?;
                    push_answer(&mut writer.batch, number, answer)?;
                }
                Said::Command(MirrorCommand::Marks(more)) => marks.extend(more),
                // The link is not this node's to end.
                Said::Command(MirrorCommand::EndSession { .. }) => {}
                Said::Command(MirrorCommand::Close) | Said::Over => is_over = true,
            }
            next = if is_over || marks.len() >= ITEMS_MAX { None } else { sayings.try_next() };
        }
        let now_settled = settled_bytes(sink, delivered).max(settled);
        if now_settled != settled || !marks.is_empty() {
            settled = now_settled;
            push_progress(&mut writer.batch, marks, settled)?;
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

/// Delivered bytes that are not pending. What was pending before this connection counts as of it, so the figure
/// is never too high.
fn settled_bytes(sink: &Mutex<Box<dyn MirrorSink>>, delivered: &Delivered) -> u64 {
    let sink = lock(sink);
    delivered.bytes.load(Ordering::Acquire).saturating_sub(sink.pending_bytes() as u64)
}

/// Takes commands while there is nobody to pass them on to; returns when told to close. The next welcome names
/// what they say.
async fn discard(sayings: &mut Sayings) {
    while !matches!(sayings.next().await, Said::Command(MirrorCommand::Close) | Said::Over) {}
}

fn lock<T>(sink: &Mutex<T>) -> MutexGuard<'_, T> {
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

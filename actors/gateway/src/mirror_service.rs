//! The link node's end of a connection with a storage node of a mirror site.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use parhelion_link_driver::{MirrorCommand, MirrorEvent, MirrorSink};
use parhelion_types::Error;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::answers::Answer;
use crate::error::SiteError;
use crate::frames::{FrameReader, FrameWriter};
use crate::listener::KEEPS_NOT_UP;
use crate::mirror_messages::{FromMirror, FromMirrorParser, push_event};
use crate::outbox::Outbox;

/// What the gateway tells the storage node goes into its outbox.
pub(crate) struct MirrorOutbox {
    pub(crate) outbox: Outbox<MirrorEvent>,
    pub(crate) pending: Arc<Pending>,
}

/// Bytes of records that went to the storage node, and how many of them it says are settled there.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    forwarded: AtomicU64,
    settled: AtomicU64,
}

/// A hold on the port: commands of the storage node, and why the gateway puts it out.
pub(crate) struct MirrorHold {
    pub(crate) commands: mpsc::UnboundedSender<MirrorCommand>,
    pub(crate) gone: oneshot::Receiver<Error>,
    pub(crate) pending: Arc<Pending>,
}

/// Messages put into one write.
const MESSAGES_PER_WRITE: usize = 64;

impl MirrorSink for MirrorOutbox {
    fn events(&mut self, events: Vec<MirrorEvent>) {
        for event in events {
            if let MirrorEvent::Records(records) = &event {
                let bytes = records.iter().map(|record| record.len() as u64).sum();
                self.pending.forwarded.fetch_add(bytes, Ordering::AcqRel);
            }
            self.outbox.send(event);
        }
    }

    fn pending_bytes(&self) -> usize {
        self.pending.bytes()
    }
}

impl Pending {
    fn bytes(&self) -> usize {
        // In this order: what is settled was forwarded before.
        let settled = self.settled.load(Ordering::Acquire);
        let forwarded = self.forwarded.load(Ordering::Acquire);
        usize::try_from(forwarded.saturating_sub(settled)).unwrap_or(usize::MAX)
    }
}

/// Serves a storage node that has joined, until it leaves (`Ok`) or must go.
pub(crate) async fn serve(
    hold: MirrorHold,
    mut outbox: mpsc::Receiver<MirrorEvent>,
    overflow: Arc<Notify>,
    mut reader: FrameReader,
    mut writer: FrameWriter,
) -> Result<(), SiteError> {
    let MirrorHold { commands, gone, pending } = hold;
    // The newest question: its number on this connection, and who wants the answer.
    let asked: Mutex<(u64, Option<oneshot::Sender<Answer>>)> = Mutex::new((0, None));
    let hear = async {
        let mut parser = FromMirrorParser::default();
        loop {
            match parser.parse(&reader.next().await?)? {
                Some(FromMirror::Progress { marks, settled }) => {
                    pending.settled.fetch_max(settled, Ordering::AcqRel);
                    if !marks.is_empty() {
                        // A port that was put out is told so elsewhere.
                        let _ = commands.send(MirrorCommand::Marks(marks));
                    }
                }
                Some(FromMirror::Answer { number, answer }) => {
                    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
                    if asked.0 == number
                        && let Some(tell) = asked.1.take()
                    {
                        // Whoever asked may have gone on to another session.
                        let _ = tell.send(answer);
                    }
                }
                Some(FromMirror::Leave) => return Ok(()),
                None => {}
            }
        }
    };
    let tell = async {
        let mut batch = Vec::new();
        loop {
            if outbox.recv_many(&mut batch, MESSAGES_PER_WRITE).await == 0 {
                // The gateway has put the port out, and says why.
                return std::future::pending().await;
            }
            for mut event in batch.drain(..) {
                let mut number = 0;
                if let MirrorEvent::Hello { marks, .. } = &mut event {
                    let (unused, _) = oneshot::channel();
                    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
                    number = asked.0 + 1;
                    *asked = (number, Some(std::mem::replace(marks, unused)));
                }
                push_event(&mut writer.batch, event, number)?;
            }
            writer.flush().await?;
        }
    };
    tokio::select! {
        biased;
        Ok(error) = gone => Err(SiteError::Refused(error.message().to_owned())),
        () = overflow.notified() => Err(SiteError::Late(KEEPS_NOT_UP)),
        result = hear => result,
        result = tell => result,
    }
}

//! The link node's end of a connection with a storage node of a primary site.

use std::sync::Arc;

use parhelion_link_driver::{LinkCommand, LinkEvent, LinkTelemetry, PrimarySink};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::error::SiteError;
use crate::frames::{FrameReader, FrameWriter};
use crate::listener::KEEPS_NOT_UP;
use crate::outbox::Outbox;
use crate::primary_gateway::PrimaryPort;
use crate::primary_messages::{FromStorage, ToStorage, push_told};

/// What the gateway tells the storage node goes into its outbox.
pub(crate) struct PrimaryOutbox(pub(crate) Outbox<ToStorage>);

/// Messages put into one write.
const MESSAGES_PER_WRITE: usize = 256;

impl PrimarySink for PrimaryOutbox {
    fn events(&mut self, events: Vec<LinkEvent>) {
        for event in events {
            self.0.send(ToStorage::Event(event));
        }
    }

    fn telemetry(&mut self, telemetry: LinkTelemetry) {
        self.0.send(ToStorage::Telemetry(telemetry));
    }
}

/// Serves a storage node that has joined, until it leaves (`Ok`) or must go.
pub(crate) async fn serve(
    mut port: PrimaryPort,
    mut outbox: mpsc::Receiver<ToStorage>,
    overflow: Arc<Notify>,
    mut reader: FrameReader,
    mut writer: FrameWriter,
) -> Result<(), SiteError> {
    let (answer, mut answers) = mpsc::channel(1);
    let commands = port.commands();
    let hear = async {
        loop {
            match FromStorage::parse(reader.next().await?)? {
                FromStorage::Send { session, key, record, is_awaited } => {
                    commands.command(Some(session), LinkCommand::Send { key, record, is_awaited });
                }
                FromStorage::Announce { session, announcements } => {
                    for (key, announcement) in announcements {
                        commands.command(Some(session), LinkCommand::Announce { key, announcement });
                    }
                }
                FromStorage::Rewind { session, tails } => {
                    commands.command(Some(session), LinkCommand::Rewind(tails));
                }
                FromStorage::ChangeCode { name, parameters, flush_pause, correlation } => {
                    let (done, changed) = oneshot::channel();
                    commands.command(None, LinkCommand::ChangeCode { name, parameters, flush_pause, done });
                    // The driver answers at once; what the node sends behind its request may wait that long.
                    let changed = changed.await.unwrap_or_else(|_| {
                        Err("the link's driver is being rebuilt; try again in a moment".to_owned())
                    });
                    // The other half of this connection has ended, and ends this one.
                    let _ = answer.send(ToStorage::CodeChanged { correlation, error: changed.err() }).await;
                }
                FromStorage::Leave => return Ok(()),
            }
        }
    };
    let tell = async {
        let mut session = 0;
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                Some(answer) = answers.recv() => batch.push(answer),
                count = outbox.recv_many(&mut batch, MESSAGES_PER_WRITE) => if count == 0 {
                    // The gateway has put the port out, and says why.
                    return std::future::pending().await;
                },
            }
            for told in batch.drain(..) {
                push_told(&mut writer.batch, told, &mut session)?;
            }
            writer.flush().await?;
        }
    };
    tokio::select! {
        biased;
        error = port.gone() => Err(SiteError::Refused(error.message().to_owned())),
        () = overflow.notified() => Err(SiteError::Late(KEEPS_NOT_UP)),
        result = hear => result,
        result = tell => result,
    }
}

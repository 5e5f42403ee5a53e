//! Records over TCP: the paper's modes without error correction (SMFS section 5.2).
//!
//! A record counts as sent when the kernel has taken it, which is the paper's local-sync; nothing is known
//! about the wire, so coverage is never complete. The primary connects after it was welcomed, and each
//! frame names the session, so bytes of a stale connection can do no harm.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parhelion_actor_runtime::{Budget, Credit};
use parhelion_types::RecordKey;
use parhelion_wire::link::RecordV1;
use parhelion_wire::{Checked, ENVELOPE_BYTES, Envelope, frame};
use rustix::net::sockopt;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::{MirrorConfig, PeerCheck, PrimaryConfig, Transport};
use crate::error::LinkError;

/// The sending end: a task that writes records in the order in which they are queued.
pub(crate) struct RecordWriter {
    queue: mpsc::UnboundedSender<(RecordKey, Bytes)>,
    events: mpsc::UnboundedReceiver<WriterEvent>,
    /// An event that was waited for and not taken yet.
    next: Option<WriterEvent>,
    task: JoinHandle<()>,
}

/// What the writing task tells.
#[derive(Debug)]
pub(crate) enum WriterEvent {
    /// The stream is up.
    Connected,
    /// The kernel took the record.
    Written(RecordKey),
    /// The stream is down.
    Failed(String),
}

/// The receiving end: a listener, and a task for each connection.
pub(crate) struct RecordListener {
    address: SocketAddr,
    records: mpsc::Receiver<ReceivedRecord>,
    /// A record that was waited for and not taken yet.
    next: Option<ReceivedRecord>,
    session: watch::Sender<u64>,
    task: JoinHandle<()>,
}

/// A record, and the credit that it holds until it is delivered.
pub(crate) struct ReceivedRecord {
    pub(crate) session: u64,
    pub(crate) record: Bytes,
    _credit: Credit,
}

/// Tells record connections from others in the handshake.
const PROTOCOL: &[u8] = b"parhelion-records/1";
/// Connecting and handshake together.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Connections served at once; a primary has one, and one more while it replaces a broken one.
const CONNECTIONS_MAX: usize = 16;
/// Probes of a silent peer that go unanswered until its connection counts as lost.
const PROBES: u32 = 3;
/// Records between a connection's task and the driver; their bytes are bounded by credits.
const RECORDS_MAX: usize = 256;
/// Bytes of an archived [`RecordV1`], with room for nothing else.
const BODY_BYTES_MAX: u32 = 64;
/// "No session": no primary chooses it.
pub(crate) const NO_SESSION: u64 = 0;

impl RecordWriter {
    /// Starts to connect.
    pub(crate) fn connect(config: &PrimaryConfig, session: u64) -> Self {
        let (queue, records) = mpsc::unbounded_channel();
        let (tell, events) = mpsc::unbounded_channel();
        let config = config.clone();
        let task = tokio::spawn(async move {
            let Err(reason) = write_records(&config, session, records, &tell).await else { return };
            // The driver may be gone already; then nobody needs to know.
            let _ = tell.send(WriterEvent::Failed(format!("record stream to {}: {reason}", config.tcp)));
        });
        Self { queue, events, next: None, task }
    }

    /// Queues a record.
    pub(crate) fn send(&mut self, key: RecordKey, record: Bytes) {
        // A task that ended has said why; the session ends with it and the record is sent in the next.
        let _ = self.queue.send((key, record));
    }

    /// What happened, if anything did.
    pub(crate) fn poll_event(&mut self) -> Option<WriterEvent> {
        self.next.take().or_else(|| self.events.try_recv().ok())
    }

    /// Waits for something to happen. Dropping the future loses nothing.
    pub(crate) async fn ready(&mut self) {
        if self.next.is_none() {
            let event = self.events.recv().await;
            self.next = Some(event.unwrap_or_else(|| WriterEvent::Failed("record stream ended".to_owned())));
        }
    }
}

impl Drop for RecordWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RecordListener {
    /// Listens on the configured address.
    pub(crate) fn bind(config: &MirrorConfig, address: SocketAddr) -> Result<Self, LinkError> {
        let failed = |source| LinkError::Socket { what: "record", address, source };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let mut tls = (*config.tls).clone();
        tls.alpn_protocols = vec![PROTOCOL.to_vec()];
        let (deliver, records) = mpsc::channel(RECORDS_MAX);
        let (session, current) = watch::channel(NO_SESSION);
        let reader = Reader {
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            verify_peer: config.verify_peer.clone(),
            session: current,
            silence_max: config.lane.idle_timeout,
            credits: Budget::new(config.pending_bytes_max as u64),
            record_bytes_max: config.record_bytes_max,
            deliver,
        };
        let task = tokio::spawn(serve(listener, Arc::new(reader)));
        Ok(Self { address, records, next: None, session, task })
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Names the session whose records are taken, before its primary is welcomed. Ends all connections that there
    /// are: they belong to sessions before it, and one whose primary died would hold its place and its credit.
    pub(crate) fn set_session(&mut self, session: u64) {
        self.session.send_replace(session);
    }

    /// The next record, if one is there. Not asking is how the driver stops the primary.
    pub(crate) fn poll_record(&mut self) -> Option<ReceivedRecord> {
        self.next.take().or_else(|| self.records.try_recv().ok())
    }

    /// Waits for a record. Dropping the future loses nothing.
    pub(crate) async fn ready(&mut self) {
        if self.next.is_none() {
            match self.records.recv().await {
                Some(record) => self.next = Some(record),
                // The listening task never ends; should it, there is nothing to wait for.
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for RecordListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn write_records(
    config: &PrimaryConfig,
    session: u64,
    mut records: mpsc::UnboundedReceiver<(RecordKey, Bytes)>,
    tell: &mpsc::UnboundedSender<WriterEvent>,
) -> Result<(), String> {
    let connect = async {
        let stream = TcpStream::connect(config.tcp).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        if let Transport::Tcp { congestion: Some(name) } = &config.transport {
            // Mirroring with another one is better than none.
            if let Err(error) = set_congestion(&stream, name) {
                tracing::warn!(
                    name,
                    %error,
                    "the kernel does not allow this congestion control, and takes its default: load the module, or list \
                     it in net.ipv4.tcp_allowed_congestion_control"
                );
            }
        }
        let mut tls = (*config.tls).clone();
        tls.alpn_protocols = vec![PROTOCOL.to_vec()];
        let name = ServerName::try_from(config.peer_name.clone()).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        let (_, connection) = stream.get_ref();
        admit(connection.protocol_version(), connection.peer_certificates(), &config.verify_peer)?;
        Ok::<_, String>(stream)
    };
    let mut stream =
        tokio::time::timeout(HANDSHAKE_MAX, connect).await.map_err(|_| "no answer".to_owned())??;
    let _ = tell.send(WriterEvent::Connected);
    while let Some((key, record)) = records.recv().await {
        let head = frame(&RecordV1 { session }, &record, 0).map_err(|error| error.to_string())?;
        let write = async {
            stream.write_all(&head).await?;
            stream.write_all(&record).await?;
            stream.flush().await
        };
        write.await.map_err(|error: io::Error| error.to_string())?;
        if tell.send(WriterEvent::Written(key)).is_err() {
            break;
        }
    }
    // The driver is done with this session: say so, so that the mirror does not take it for a failure.
    stream.shutdown().await.map_err(|error| error.to_string())
}

/// What a connection's task needs.
struct Reader {
    acceptor: TlsAcceptor,
    verify_peer: PeerCheck,
    session: watch::Receiver<u64>,
    /// A peer that is silent for so long is asked whether it is there.
    silence_max: Duration,
    credits: Budget,
    record_bytes_max: usize,
    deliver: mpsc::Sender<ReceivedRecord>,
}

async fn serve(listener: TcpListener, reader: Arc<Reader>) {
    let mut session = reader.session.clone();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // First, because who is accepted after a change belongs to the session after it.
            biased;
            changed = session.changed() => match changed {
                Ok(()) => connections.abort_all(),
                Err(_) => return,
            },
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, peer)) => {
                    let reader = reader.clone();
                    connections.spawn(async move {
                        if let Err(reason) = reader.read_records(stream).await {
                            tracing::info!(%peer, %reason, "record stream ended");
                        }
                    });
                }
                // Out of file descriptors, or a client that gave up: neither gets better by spinning.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a record stream; trying again");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
}

impl Reader {
    async fn read_records(&self, stream: TcpStream) -> Result<(), String> {
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        watch_silence(&stream, self.silence_max).map_err(|error| error.to_string())?;
        let accept = tokio::time::timeout(HANDSHAKE_MAX, self.acceptor.accept(stream)).await;
        let mut stream = accept.map_err(|_| "no handshake".to_owned())?.map_err(|error| error.to_string())?;
        let (_, connection) = stream.get_ref();
        admit(connection.protocol_version(), connection.peer_certificates(), &self.verify_peer)?;
        let mut own_session = NO_SESSION;
        loop {
            let mut head = [0; ENVELOPE_BYTES];
            match stream.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
            let envelope = Envelope::parse(&head).map_err(|error| error.to_string())?;
            if envelope.body_bytes > BODY_BYTES_MAX || envelope.payload_bytes as usize > self.record_bytes_max
            {
                return Err(format!(
                    "a record of {} bytes is over the limit of {}",
                    envelope.payload_bytes, self.record_bytes_max
                ));
            }
            let bytes = envelope.rest_bytes();
            // Taken before the bytes are read: without credit this end does not read, and TCP stops the other.
            let credit = self.credits.enter(bytes).await;
            let mut rest = BytesMut::zeroed(bytes);
            stream.read_exact(&mut rest).await.map_err(|error| error.to_string())?;
            let (body, record) = envelope.split(rest.freeze()).map_err(|error| error.to_string())?;
            let message = Checked::<RecordV1>::parse(&envelope, body).map_err(|error| error.to_string())?;
            let session = message.get().session.to_native();
            if own_session == NO_SESSION {
                own_session = session;
            }
            if session != own_session || session != *self.session.borrow() {
                return Err("its session is over".to_owned());
            }
            if self.deliver.send(ReceivedRecord { session, record, _credit: credit }).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Whether this peer may exchange records with us.
fn admit(
    version: Option<rustls::ProtocolVersion>,
    certificates: Option<&[CertificateDer<'_>]>,
    verify_peer: &PeerCheck,
) -> Result<(), String> {
    if version != Some(rustls::ProtocolVersion::TLSv1_3) {
        return Err("the peer does not speak TLS 1.3; update it".to_owned());
    }
    let certificate = certificates.and_then(<[_]>::first).ok_or("the peer showed no certificate")?;
    verify_peer(certificate)
}

/// Has the kernel ask a silent peer whether it is there, and end the connection if it is not: an idle primary sends
/// nothing for hours, and neither does one whose host is gone.
fn watch_silence(stream: impl AsFd, silence_max: Duration) -> rustix::io::Result<()> {
    // The kernel counts seconds.
    let between = (silence_max / PROBES).max(Duration::from_secs(1));
    sockopt::set_tcp_keepidle(&stream, silence_max.max(Duration::from_secs(1)))?;
    sockopt::set_tcp_keepintvl(&stream, between)?;
    sockopt::set_tcp_keepcnt(&stream, PROBES)?;
    sockopt::set_socket_keepalive(&stream, true)
}

fn set_congestion(stream: &TcpStream, name: &str) -> io::Result<()> {
    // SAFETY: the option value is `name.len()` bytes that outlive the call; the kernel copies them.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_asked_whether_it_is_there() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for (silence_max, idle, between) in [(6000, 6, 2), (100, 1, 1)] {
            watch_silence(&stream, Duration::from_millis(silence_max)).unwrap();
            assert!(sockopt::socket_keepalive(&stream).unwrap());
            assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), Duration::from_secs(idle));
            assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), Duration::from_secs(between));
            assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), PROBES);
        }
    }
}

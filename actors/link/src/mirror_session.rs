//! One session at the mirror: what was agreed, what has arrived, what is reported.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use parhelion_link::{Receiver, ReceiverConfig};
use parhelion_plugin::Code;
use parhelion_types::{Error, ErrorKind, SiteId, Time};
use parhelion_wire::link::{
    ArchivedChangeCodeV1, ArchivedCodeV1, ChannelCountsV1, CodeFaultV1, HelloV1, LogMarkV1,
};
use parhelion_wire::{Checked, Datagram, DatagramKind, WireError, frame};
use quinn_proto::ConnectionHandle;
use rustls::pki_types::CertificateDer;
use tokio::sync::oneshot;

use crate::config::MirrorConfig;
use crate::frames::ControlStream;
use crate::reporter::{Intervals, Reporter};
use crate::session::agree_on_code;
use crate::stats::{ChannelTally, LinkStats};

/// Longest text that is passed on about a code that broke.
const FAULT_CHARS_MAX: usize = 1000;

/// A lost symbol is asked for again at the latest then, whatever the primary says of its pauses.
const REPAIR_DELAY_MAX: Duration = Duration::from_secs(1);

/// One session at the mirror.
pub(crate) struct MirrorSession {
    pub(crate) id: u64,
    pub(crate) site: SiteId,
    pub(crate) critical: ConnectionHandle,
    pub(crate) bulk: Option<ConnectionHandle>,
    pub(crate) control: ControlStream,
    /// What the primary showed on the critical lane, and must show on the bulk lane.
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) is_tcp: bool,
    pub(crate) phase: MirrorPhase,
    pub(crate) reporter: Reporter,
    tally: ChannelTally,
    receiver: Option<Receiver>,
    receiver_config: ReceiverConfig,
    code_epoch: u32,
    early: Early,
    pending_bytes_max: usize,
    host_drops: u64,
    kernel_drops_before: u64,
    is_fault_told: bool,
}

/// How far a session has come.
pub(crate) enum MirrorPhase {
    /// The storage actor is asked where its logs end.
    Asking { answer: Answer, until: Time },
    /// It has answered; the bulk lane is not bound yet.
    Binding { marks: Vec<LogMarkV1>, until: Time },
    /// The primary is welcome.
    Up,
}

/// The storage actor's answer, once it is there.
pub(crate) enum Answer {
    Awaited(oneshot::Receiver<Result<Vec<LogMarkV1>, Error>>),
    Here(Result<Vec<LogMarkV1>, Error>),
}

/// What arrived on the bulk lane before the change of code that it belongs to, which travels on the other
/// lane. Bounded; the rest counts as dropped by this host, and is sent again.
#[derive(Default)]
struct Early {
    datagrams: VecDeque<Bytes>,
    bytes: usize,
}

/// Bytes of early datagrams kept: a tenth of a second at 1 Gbit/s.
const EARLY_BYTES_MAX: usize = 12 << 20;
/// What was sent again or repairs is taken up to this many times the limit for new data.
const HARD_LIMIT_FACTOR: usize = 4;

impl MirrorSession {
    /// A session as the primary asked for it.
    pub(crate) fn new(
        config: &MirrorConfig,
        now: Time,
        hello: &Checked<HelloV1>,
        peer: (ConnectionHandle, ControlStream, CertificateDer<'static>),
        phase: MirrorPhase,
        datagram_bytes_max: usize,
        kernel_drops: u64,
    ) -> Result<Self, Error> {
        let hello = hello.get();
        let symbol_bytes = hello.code.symbol_bytes.to_native() as usize;
        let packet_time = Duration::from_nanos(hello.packet_nanos.to_native().into());
        let mut receiver_config = ReceiverConfig {
            symbol_bytes,
            record_bytes_max: config.record_bytes_max,
            pending_bytes_max: config.partial_bytes_max,
            reorder_delay: config.reorder_delay,
            repair_delay: config.repair_delay,
            packet_time,
        };
        let is_tcp = hello.tcp;
        let mut receiver = None;
        if !is_tcp {
            let code = agree_on_code(&config.codes, &hello.code).map_err(unsupported)?;
            let epoch = hello.code.epoch.to_native();
            let first = hello.code.first_symbol.to_native();
            let pause = hello.flush_pause.to_native();
            receiver_config.repair_delay = repair_delay(config, packet_time, &code, pause);
            receiver = Some(
                Receiver::new(receiver_config, epoch, first, &code, now)
                    .map_err(|error| unsupported(error.to_string()))?,
            );
        }
        let id = hello.session.to_native();
        let intervals = Intervals {
            busy: config.report_interval,
            idle: config.report_interval_idle,
            min: config.report_interval_min,
        };
        let (critical, control, certificate) = peer;
        Ok(Self {
            id,
            site: SiteId(hello.site.to_native()),
            critical,
            bulk: None,
            control,
            certificate,
            is_tcp,
            phase,
            reporter: Reporter::new(id, now, intervals, datagram_bytes_max),
            tally: ChannelTally::default(),
            receiver,
            receiver_config,
            code_epoch: hello.code.epoch.to_native(),
            early: Early::default(),
            pending_bytes_max: config.pending_bytes_max,
            host_drops: 0,
            kernel_drops_before: kernel_drops,
            is_fault_told: false,
        })
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.phase, MirrorPhase::Up)
    }

    /// Takes one bulk datagram. `pending` is what the storage actor has yet to make durable, in bytes.
    pub(crate) fn handle_datagram(&mut self, now: Time, datagram: Bytes, pending: usize, stats: &LinkStats) {
        stats.datagrams_received.add(1);
        stats.datagram_bytes_received.add(datagram.len() as u64);
        self.reporter.note_traffic();
        if self.take(now, datagram, pending).is_err() {
            stats.rejected.add(1);
        }
    }

    /// A change of code, announced on the control stream.
    pub(crate) fn change_code(
        &mut self,
        config: &MirrorConfig,
        now: Time,
        change: &ArchivedChangeCodeV1,
        stats: &LinkStats,
    ) -> Result<(), String> {
        let asked = &change.code;
        let Some(receiver) = &mut self.receiver else {
            return Err("a change of code in a session whose records go over TCP".to_owned());
        };
        if asked.symbol_bytes.to_native() as usize != self.receiver_config.symbol_bytes {
            return Err("a change of the symbol size in a running session".to_owned());
        }
        let code = agree_on_code(&config.codes, asked)?;
        let epoch = asked.epoch.to_native();
        tracing::info!(%code, epoch, "the primary changed the code");
        receiver.add_code(epoch, asked.first_symbol.to_native(), &code).map_err(|error| error.to_string())?;
        let pause = change.flush_pause.to_native();
        let packet_time = self.receiver_config.packet_time;
        receiver.set_repair_delay(repair_delay(config, packet_time, &code, pause));
        self.code_epoch = epoch;
        self.early.bytes = 0;
        for datagram in std::mem::take(&mut self.early.datagrams) {
            if self.take(now, datagram, 0).is_err() {
                stats.rejected.add(1);
            }
        }
        Ok(())
    }

    /// Whether a code that the primary offers could be used: why not, if not.
    pub(crate) fn check_code(&self, config: &MirrorConfig, offered: &ArchivedCodeV1) -> Option<String> {
        if self.is_tcp {
            return Some("records go over TCP in this session".to_owned());
        }
        let code = agree_on_code(&config.codes, offered);
        let decoder = code.and_then(|code| {
            code.decoder(self.receiver_config.symbol_bytes).map_err(|error| format!("code {code}: {error}"))
        });
        decoder.err()
    }

    /// Tells the primary, once, that a code broke.
    pub(crate) fn report_code_fault(&mut self) {
        let Some((epoch, reason)) = self.receiver.as_ref().and_then(Receiver::code_fault) else { return };
        if std::mem::replace(&mut self.is_fault_told, true) {
            return;
        }
        tracing::error!(epoch, reason, "the code broke; the primary is asked for another");
        let fault = CodeFaultV1 { epoch, reason: reason.chars().take(FAULT_CHARS_MAX).collect() };
        if let Ok(message) = frame(&fault, b"", 0) {
            self.control.send(message);
        }
    }

    /// Serves the receiver's timers, and takes whole records from it.
    pub(crate) fn poll_records(&mut self, now: Time, out: &mut Vec<Bytes>) {
        let Some(receiver) = &mut self.receiver else { return };
        if receiver.poll_timeout().is_some_and(|due| due <= now) {
            receiver.handle_timeout(now);
        }
        while let Some(record) = receiver.poll_record() {
            out.push(record);
        }
    }

    /// The report, if one is due.
    pub(crate) fn poll_report(
        &mut self,
        now: Time,
        kernel_drops: u64,
        stats: &LinkStats,
    ) -> Result<Option<Bytes>, WireError> {
        if !self.is_up() || self.reporter.due() > now {
            return Ok(None);
        }
        let Some(receiver) = &mut self.receiver else {
            return self.reporter.report(now, ChannelCountsV1::default(), 0, &[]).map(Some);
        };
        let report = receiver.report(now);
        let host_drops = self.host_drops + kernel_drops.saturating_sub(self.kernel_drops_before);
        let counts = ChannelCountsV1 { host_drops, ..report.counts };
        self.tally.count(stats, &counts);
        self.reporter.report(now, counts, report.settled_symbols, &report.missing).map(Some)
    }

    /// When to look after this session at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        match &self.phase {
            MirrorPhase::Asking { until, .. } | MirrorPhase::Binding { until, .. } => Some(*until),
            MirrorPhase::Up => {
                let receiver = self.receiver.as_ref().and_then(Receiver::poll_timeout);
                receiver.into_iter().chain([self.reporter.due()]).min()
            }
        }
    }

    /// Datagrams that this driver dropped since the session began.
    pub(crate) fn host_drops(&self) -> u64 {
        self.host_drops
    }

    fn take(&mut self, now: Time, datagram: Bytes, pending: usize) -> Result<(), WireError> {
        let Some(receiver) = &mut self.receiver else {
            return Err(WireError::Invalid { what: "bulk datagram of a session over TCP" });
        };
        let (header, _) = Datagram::parse(&datagram)?;
        let limit = match header.kind {
            DatagramKind::Source { .. } => self.pending_bytes_max,
            DatagramKind::Resent { .. } | DatagramKind::Repair { .. } => {
                self.pending_bytes_max.saturating_mul(HARD_LIMIT_FACTOR)
            }
        };
        if pending > limit {
            self.host_drops += 1;
            return Ok(());
        }
        if header.code_epoch > self.code_epoch {
            if self.early.bytes + datagram.len() > EARLY_BYTES_MAX {
                self.host_drops += 1;
                return Ok(());
            }
            self.early.bytes += datagram.len();
            self.early.datagrams.push_back(datagram);
            return Ok(());
        }
        receiver.handle_datagram(now, &datagram)
    }
}

/// How long a lost symbol may wait for its repairs: the primary holds the last ones of a flush back by its pauses.
fn repair_delay(config: &MirrorConfig, packet_time: Duration, code: &Code, flush_pause: u32) -> Duration {
    let structure = code.structure();
    let pauses = if structure.gains_by_pauses() { structure.repairs_per_symbol() + 1 } else { 0 };
    let pause = packet_time.saturating_mul(flush_pause.saturating_add(1));
    (config.repair_delay + pause.saturating_mul(pauses)).min(REPAIR_DELAY_MAX)
}

impl Answer {
    /// Waits until the answer is here. Dropping the future loses nothing.
    pub(crate) async fn ready(&mut self) {
        if let Self::Awaited(receiver) = self {
            let answer = receiver.await;
            *self = Self::Here(flatten(answer));
        }
    }

    /// The answer, if it is here.
    pub(crate) fn take(&mut self) -> Option<Result<Vec<LogMarkV1>, Error>> {
        let answer = match self {
            Self::Here(answer) => std::mem::replace(answer, Ok(Vec::new())),
            Self::Awaited(receiver) => match receiver.try_recv() {
                Ok(answer) => answer,
                Err(oneshot::error::TryRecvError::Empty) => return None,
                Err(oneshot::error::TryRecvError::Closed) => Err(unanswered()),
            },
        };
        Some(answer)
    }
}

fn flatten(
    answer: Result<Result<Vec<LogMarkV1>, Error>, oneshot::error::RecvError>,
) -> Result<Vec<LogMarkV1>, Error> {
    answer.unwrap_or_else(|_| Err(unanswered()))
}

fn unanswered() -> Error {
    Error::unavailable("the mirror's storage is restarting; the primary tries again by itself")
}

fn unsupported(reason: String) -> Error {
    Error::new(ErrorKind::Unsupported, reason)
}

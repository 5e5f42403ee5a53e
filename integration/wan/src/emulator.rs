//! The emulator as a process: the parent's handle, and the entry point of the child.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parhelion_types::Time;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::control::{ControlSocket, Reply, Request, Start};
use crate::lanes::Lanes;
use crate::{
    Direction, Loss, Namespaces, RelayFlow, Side, TcpProgress, WanConfig, WanCounters, WanError,
    run_packet_emulator, run_relay,
};

/// The parent's handle of a running emulator. Dropping it ends the emulator, and so cuts the link.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    control: ControlSocket,
    addresses: Vec<SocketAddr>,
}

impl Emulator {
    /// Starts the packet form between the two sites of `namespaces`.
    ///
    /// `command` must start a program that does nothing but call [`run_emulator`]. It gets the control
    /// channel as its standard input, and a process group of its own, so that an interrupt from the
    /// terminal reaches the parent alone.
    ///
    /// # Errors
    ///
    /// [`WanError::Invalid`] for figures out of range, [`WanError::System`] if the process cannot be
    /// started, [`WanError::Control`] or [`WanError::Refused`] if it does not come up.
    pub fn spawn_packet(
        command: Command,
        wan: &WanConfig,
        namespaces: &Namespaces,
    ) -> Result<Self, WanError> {
        wan.validate()?;
        let devices = Side::BOTH.map(|side| namespaces.device(side));
        Self::spawn(command, &Start::Packet { wan: wan.clone() }, &devices.map(|device| device.as_fd()))
    }

    /// Starts the relay form. [`Emulator::addresses`] then tells where it listens.
    ///
    /// # Errors
    ///
    /// As [`Emulator::spawn_packet`].
    pub fn spawn_relay(command: Command, wan: &WanConfig, flows: &[RelayFlow]) -> Result<Self, WanError> {
        wan.validate()?;
        Self::spawn(command, &Start::Relay { wan: wan.clone(), flows: flows.to_vec() }, &[])
    }

    fn spawn(mut command: Command, start: &Start, attached: &[BorrowedFd<'_>]) -> Result<Self, WanError> {
        let (ours, theirs) = UnixStream::pair().map_err(WanError::system("creating the control channel"))?;
        let child =
            command.stdin(Stdio::from(OwnedFd::from(theirs))).process_group(0).spawn().map_err(
                WanError::system(format!("starting the link emulator {:?}", command.get_program())),
            )?;
        // `Command` keeps the child's end open until it is dropped; then the end of the child is the end
        // of the channel.
        drop(command);
        let mut emulator = Self { child, control: ControlSocket::new(ours), addresses: Vec::new() };
        emulator.control.set_timeout(Some(ANSWER_TIMEOUT))?;
        emulator.control.send(start, attached)?;
        match emulator.reply()? {
            Reply::Ready { addresses } => emulator.addresses = addresses,
            other => return Err(unexpected(&other)),
        }
        Ok(emulator)
    }

    /// Where the relay form listens, in the order of its flows. Empty in the packet form.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The emulator's process id.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Changes the loss of one direction, or of both. Returns the moment it took effect.
    ///
    /// # Errors
    ///
    /// [`WanError::Refused`] for figures out of range; [`WanError::Control`] if the emulator is gone.
    pub fn set_loss(&mut self, direction: Option<Direction>, loss: Loss) -> Result<Time, WanError> {
        self.request_done(&Request::SetLoss { direction, loss })
    }

    /// Cuts the fibre at the end of `side`, at `at` on `CLOCK_MONOTONIC` or as soon as possible after it.
    ///
    /// What `side` still had in its bottleneck queue is lost; what had left it arrives at the other side
    /// (SMFS section 3: it is stored in the network). Nothing arrives at `side` any more. Returns the
    /// moment from which nothing offered passes, in either direction; a packet that a program has handed
    /// to its kernel and the emulator has not yet read at that moment does not pass.
    ///
    /// # Errors
    ///
    /// [`WanError::Control`] if the emulator is gone.
    pub fn cut(&mut self, side: Side, at: Time) -> Result<Time, WanError> {
        self.request_done(&Request::Cut { side, at_nanos: at.as_nanos() })
    }

    /// Like [`Emulator::cut`], and what is on the fibre is lost in both directions too.
    ///
    /// # Errors
    ///
    /// [`WanError::Control`] if the emulator is gone.
    pub fn partition(&mut self, at: Time) -> Result<Time, WanError> {
        self.request_done(&Request::Partition { at_nanos: at.as_nanos() })
    }

    /// Joins the fibre again. Returns the moment from which packets pass.
    ///
    /// # Errors
    ///
    /// [`WanError::Control`] if the emulator is gone.
    pub fn heal(&mut self) -> Result<Time, WanError> {
        self.request_done(&Request::Heal)
    }

    /// A snapshot of the counters.
    ///
    /// # Errors
    ///
    /// [`WanError::Control`] if the emulator is gone.
    pub fn counters(&mut self) -> Result<WanCounters, WanError> {
        self.control.send(&Request::Counters, &[])?;
        match self.reply()? {
            Reply::Counters(counters) => Ok(*counters),
            other => Err(unexpected(&other)),
        }
    }

    /// How far the bytes of the TCP connections of one direction came, those with the most bytes first. Empty in the
    /// relay form, which sees no segments. Connections beyond the first 32, and those with more than a thousand gaps,
    /// are left out.
    ///
    /// # Errors
    ///
    /// [`WanError::Control`] if the emulator is gone.
    pub fn tcp_progress(&mut self, direction: Direction) -> Result<Vec<TcpProgress>, WanError> {
        self.control.send(&Request::TcpProgress { direction }, &[])?;
        match self.reply()? {
            Reply::TcpProgress { streams } => Ok(streams),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the emulator and returns its last counters and how its process ended.
    ///
    /// # Errors
    ///
    /// [`WanError::Control`] if the emulator was gone already.
    pub fn stop(mut self) -> Result<(WanCounters, ExitStatus), WanError> {
        let counters = self.counters()?;
        self.request_done(&Request::Stop)?;
        let status = self.child.wait().map_err(WanError::system("waiting for the link emulator"))?;
        Ok((counters, status))
    }

    fn request_done(&mut self, request: &Request) -> Result<Time, WanError> {
        self.control.send(request, &[])?;
        match self.reply()? {
            Reply::Done { at_nanos } => Ok(Time::from_nanos(at_nanos)),
            other => Err(unexpected(&other)),
        }
    }

    fn reply(&mut self) -> Result<Reply, WanError> {
        match self.control.receive()? {
            Some(Reply::Failed { reason }) => Err(WanError::Refused { reason }),
            Some(reply) => Ok(reply),
            None => Err(WanError::Control {
                reason: "the emulator closed it: see what its process wrote to standard error".into(),
            }),
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // The emulator stops when told, or when the channel closes. It is killed only if it does neither.
        let _ = self.control.send(&Request::Stop, &[]);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The whole life of the emulator process: takes its orders from standard input until it is told to stop
/// or its parent is gone. The hidden subcommand calls this and nothing else, before it starts any thread
/// of its own.
///
/// # Errors
///
/// Whatever ended it early; the parent has been told too if it was listening.
pub fn run_emulator() -> Result<(), WanError> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(WanError::Control {
            reason: "standard input is a terminal: this program is started by a drill, not by hand".into(),
        });
    }
    let socket =
        stdin.as_fd().try_clone_to_owned().map_err(WanError::system("opening the control channel"))?;
    let mut control = ControlSocket::new(UnixStream::from(socket));
    // The link stands for hardware, which does not wait for a processor that the sites keep busy. Only root may ask
    // for that; threads inherit it.
    if let Err(error) = rustix::process::nice(PRIORITY) {
        tracing::debug!(%error, "the link emulator keeps its usual priority");
    }
    let Some(start) = control.receive::<Start>()? else { return Ok(()) };
    let result = match start {
        Start::Packet { wan } => {
            let descriptors = control.take_descriptors();
            match <[OwnedFd; 2]>::try_from(descriptors) {
                Ok(devices) => run_packet_emulator(&mut control, &wan, devices),
                Err(other) => Err(WanError::Control {
                    reason: format!("{} TUN devices came with the start instead of 2", other.len()),
                }),
            }
        }
        Start::Relay { wan, flows } => run_relay(&mut control, &wan, &flows),
    };
    if let Err(error) = &result {
        // If the parent is gone too there is nobody to tell; the caller still gets the error.
        let _ = control.send(&Reply::Failed { reason: error.to_string() }, &[]);
    }
    result
}

/// Tells the emulator's threads to end, and wakes them from `poll`. Never unset.
pub(crate) struct StopSignal {
    set: AtomicBool,
    wake: OwnedFd,
}

impl StopSignal {
    pub(crate) fn new() -> Result<Self, WanError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(WanError::system("creating the stop signal"))?;
        Ok(Self { set: AtomicBool::new(false), wake })
    }

    /// Whether it is set: for threads that are too busy to wait.
    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self) {
        self.set.store(true, Ordering::Relaxed);
        // Adding to the counter fails only if it would overflow, and then its readers are awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_le_bytes());
    }

    /// Sets the signal when the result is dropped.
    pub(crate) fn on_drop(&self) -> impl Drop + '_ {
        struct SetOnDrop<'a>(&'a StopSignal);
        impl Drop for SetOnDrop<'_> {
            fn drop(&mut self) {
                self.0.set();
            }
        }
        SetOnDrop(self)
    }
}

impl AsFd for StopSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// Answers the parent's requests until it asks to stop, closes the channel, or `stop` is set by a thread
/// that failed.
pub(crate) fn serve_requests<P: Clone>(
    control: &mut ControlSocket,
    lanes: &Lanes<P>,
    stop: &StopSignal,
) -> Result<(), WanError> {
    loop {
        if !control.has_line() {
            let mut ready = [PollFd::new(&*control, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(WanError::system("waiting for requests")(error)),
            }
            if !ready[1].revents().is_empty() {
                return Ok(());
            }
            if ready[0].revents().is_empty() {
                continue;
            }
        }
        let Some(request) = control.receive::<Request>()? else { return Ok(()) };
        let last = request == Request::Stop;
        control.send(&lanes.answer(request), &[])?;
        if last {
            return Ok(());
        }
    }
}

fn unexpected(reply: &Reply) -> WanError {
    WanError::Control {
        reason: format!("unexpected answer {reply:?}: parent and emulator must be the same binary"),
    }
}

/// Added to the nice value of the emulator: near the highest there is.
const PRIORITY: i32 = -15;

/// How long the parent waits for an answer, on a machine under full load.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a dropped emulator has to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

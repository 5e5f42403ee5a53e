//! The packet form: one thread per direction moves IP packets from one TUN device to the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parhelion_types::Time;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};

use crate::clock::{finish_turn, sharpen_timers, sleep_span};
use crate::control::Reply;
use crate::emulator::{StopSignal, serve_requests};
use crate::lanes::Lanes;
use crate::{Class, ControlSocket, Direction, DropCause, Side, Verdict, WanConfig, WanError, monotonic_now};

/// Carries packets between two TUN devices, site A's first, and serves `control` meanwhile. Returns when
/// the parent asks for it or is gone.
///
/// Packets that are not IPv4 are dropped and counted as foreign: the kernel's own IPv6 housekeeping must
/// not consume randomness that a seed has promised to the drill.
///
/// # Errors
///
/// [`WanError::Invalid`] for figures out of range, [`WanError::System`] if a device fails.
pub fn run_packet_emulator(
    control: &mut ControlSocket,
    wan: &WanConfig,
    devices: [OwnedFd; 2],
) -> Result<(), WanError> {
    let lanes = Lanes::new(wan)?;
    let stop = StopSignal::new()?;
    prefer_this_process();
    let [a, b] = &devices;
    // What the kernel sent while nobody listened belongs to no run.
    for device in [a, b] {
        while read(device, &mut [0; PACKET_BYTES_MAX]).is_ok() {}
    }
    std::thread::scope(|scope| {
        let (lanes, stop) = (&lanes, &stop);
        let carriers = Side::BOTH.map(|side| {
            let (from, to) = if side == Side::A { (a, b) } else { (b, a) };
            std::thread::Builder::new().name(format!("wan-{side:?}").to_lowercase()).spawn_scoped(
                scope,
                move || {
                    // However this thread ends, a panic included, the process must not live on with half a link.
                    let _guard = stop.on_drop();
                    Carrier::new(lanes, side.outbound(), from.as_fd(), to.as_fd()).run(stop)
                },
            )
        });
        let served = control
            .send(&Reply::Ready { addresses: Vec::new() }, &[])
            .and_then(|()| serve_requests(control, lanes, stop));
        stop.set();
        for carrier in carriers {
            let carrier = carrier.map_err(WanError::system("starting a carrier thread"))?;
            carrier.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        served
    })
}

/// One direction.
struct Carrier<'a> {
    lanes: &'a Lanes<Vec<u8>>,
    direction: Direction,
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    /// Arrived packets, on their way out of the lock.
    due: Vec<Vec<u8>>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    /// Packets the far device refused, not yet in the counters.
    refused: u64,
}

/// What a turn of the loop did and left.
struct Turn {
    /// Packets came in or went out.
    worked: bool,
    /// A batch was full: there is more to do at once.
    more: bool,
    /// When the next packet is due that the link holds already.
    next: Option<Time>,
}

impl<'a> Carrier<'a> {
    fn new(
        lanes: &'a Lanes<Vec<u8>>,
        direction: Direction,
        from: BorrowedFd<'a>,
        to: BorrowedFd<'a>,
    ) -> Self {
        let due = Vec::with_capacity(BATCH_PACKETS);
        Self { lanes, direction, from, to, due, spare: Vec::new(), refused: 0 }
    }

    fn run(mut self, stop: &StopSignal) -> Result<(), WanError> {
        sharpen_timers();
        let mut scratch = [0; PACKET_BYTES_MAX];
        while !stop.is_set() {
            let begin = monotonic_now();
            let turn = self.turn(&mut scratch)?;
            if turn.more {
                continue;
            }
            if turn.worked {
                finish_turn(begin);
                continue;
            }
            let timeout = turn.next.map(|next| sleep_span(monotonic_now(), next));
            let mut ready =
                [PollFd::from_borrowed_fd(self.from, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            match poll(&mut ready, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(WanError::system("waiting for packets")(error)),
            }
        }
        Ok(())
    }

    /// Takes in what has come, up to a batch, and hands on what is due, up to a batch.
    fn turn(&mut self, scratch: &mut [u8; PACKET_BYTES_MAX]) -> Result<Turn, WanError> {
        let mut taken = 0;
        let next;
        {
            let mut lane = self.lanes.lock(self.direction);
            lane.timeliness.refused += std::mem::take(&mut self.refused);
            for _ in 0..BATCH_PACKETS {
                let packet = match read(self.from, &mut scratch[..]) {
                    Ok(bytes) => scratch.get(..bytes).unwrap_or_default(),
                    Err(Errno::AGAIN) => break,
                    Err(Errno::INTR) => continue,
                    Err(error) => return Err(WanError::system("reading from a TUN device")(error)),
                };
                taken += 1;
                let Some(class) = Class::of_ipv4(packet) else {
                    lane.timeliness.foreign += 1;
                    continue;
                };
                let mut buffer = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(crate::MTU_BYTES));
                buffer.clear();
                buffer.extend_from_slice(packet);
                // A packet is at most PACKET_BYTES_MAX long.
                let verdict = lane.link.offer(monotonic_now(), packet.len() as u32, class, buffer);
                // What comes after the cut is no longer taken note of: then there is no link to leave the host by.
                if verdict != Verdict::Dropped(DropCause::Cut) {
                    lane.streams.note_left(packet);
                }
            }
            let now = monotonic_now();
            while self.due.len() < BATCH_PACKETS
                && let Some(delivery) = lane.link.poll_delivery(now)
            {
                lane.timeliness.record(now.since(delivery.due));
                lane.streams.note_arrived(&delivery.payload);
                self.due.push(delivery.payload);
            }
            next = lane.link.poll_timeout();
        }
        let handed_on = self.due.len();
        for packet in self.due.drain(..) {
            // The device refuses a packet if the site has no memory for it or is being torn down.
            if write(self.to, &packet).is_err() {
                self.refused += 1;
            }
            if self.spare.len() < SPARE_PACKETS_MAX {
                self.spare.push(packet);
            }
        }
        Ok(Turn {
            worked: taken + handed_on > 0,
            more: taken == BATCH_PACKETS || handed_on == BATCH_PACKETS,
            next,
        })
    }
}

/// Asks for a better share of the processor, so that a loaded machine delays the load and not the link.
/// Without the right to ask, the share stays as it is; [`crate::Timeliness`] tells what came of it.
fn prefer_this_process() {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "the link emulator runs at normal priority");
    }
}

/// Packets taken in or handed on in one turn: few enough that a turn lasts less than 100 us at the 1 to 2 us
/// that a packet's system call takes, and deliveries do not wait longer than that for a batch of reads.
const BATCH_PACKETS: usize = 32;

/// Buffers kept for reuse: 12 MiB of the usual packets. More are on the fibre only if it is long and fast, and
/// then the allocator keeps them.
const SPARE_PACKETS_MAX: usize = 8192;

/// The largest IPv4 packet. The device's MTU keeps them smaller.
const PACKET_BYTES_MAX: usize = 65_536;

const NICENESS: i32 = -10;

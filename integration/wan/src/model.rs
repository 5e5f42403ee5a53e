//! One direction of the link, as a state machine without a clock, a socket or randomness of its own.
//!
//! ```text
//!   offer ──► bottleneck queue ──► line, one packet at a time ──► fibre ──► poll_delivery
//!             expedited before       rate                          delay, jitter, reordering,
//!             bulk; drop-tail                                      loss, duplication
//! ```
//!
//! Invariants:
//!
//! * A class is first in, first out up to the fibre; an expedited packet waits for at most one bulk packet,
//!   the one already on the line.
//! * Randomness is drawn when a packet enters the fibre, so the same packets in the same order on the line
//!   meet the same fate, whatever the timing. Loss has dice of its own: turning on jitter or duplication
//!   leaves the pattern of losses as it was.
//! * Time never runs backwards: an event given an earlier `now` than one before it happens at the later of
//!   the two.
//! * Every packet offered is in exactly one place or counted under one fate ([`ClassCounters`]).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use parhelion_types::Time;
use serde::{Deserialize, Serialize};

use crate::WanError;
use crate::counters::{AtCut, LinkCounters, Tally};
use crate::loss::{Dice, Loss, LossProcess};

/// Which queue a packet waits in at the bottleneck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Expedited forwarding (DSCP EF, RFC 3246): always served before bulk.
    Expedited,
    /// Everything else.
    Bulk,
}

impl Class {
    /// The class of an IPv4 packet, from its DSCP; `None` if the bytes are not an IPv4 packet.
    #[must_use]
    pub fn of_ipv4(packet: &[u8]) -> Option<Self> {
        let [version_and_length, type_of_service, ..] = packet else { return None };
        if version_and_length >> 4 != 4 || packet.len() < IPV4_HEADER_BYTES {
            return None;
        }
        Some(if type_of_service >> 2 == DSCP_EF { Self::Expedited } else { Self::Bulk })
    }

    fn index(self) -> usize {
        match self {
            Self::Expedited => 0,
            Self::Bulk => 1,
        }
    }
}

/// The figures of one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkConfig {
    /// One-way propagation delay.
    pub delay: Duration,
    /// Bits per second of the bottleneck, counted on whole IP packets; `None` for a line without limit.
    pub rate: Option<u64>,
    /// Bytes each class may have waiting at the bottleneck. A packet that would exceed them is dropped.
    pub queue_bytes: u64,
    /// Loss on the fibre.
    pub loss: Loss,
    /// Share of packets that arrive twice.
    pub duplicate: f64,
    /// Share of packets that are held back by `reorder_by`, so that later ones overtake them.
    pub reorder: f64,
    /// How long those are held back.
    pub reorder_by: Duration,
    /// Upper end of a uniform addition to the delay. It varies the spacing of packets and never their
    /// order: a packet waits for the one before it.
    pub jitter: Duration,
}

impl Default for LinkConfig {
    /// The link of SMFS section 5.1 at its shortest: 1 Gbit/s, 25 ms one way, no loss; with a queue of one
    /// round trip's worth of bytes.
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(25),
            rate: Some(1_000_000_000),
            queue_bytes: 6_250_000,
            loss: Loss::NONE,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: Duration::ZERO,
            jitter: Duration::ZERO,
        }
    }
}

impl LinkConfig {
    /// Checks the figures.
    ///
    /// # Errors
    ///
    /// [`WanError::Invalid`] names the first one that is out of range.
    pub fn validate(&self) -> Result<(), WanError> {
        let invalid = |name, value: String, reason| Err(WanError::Invalid { name, value, reason });
        if self.rate == Some(0) {
            return invalid("rate", "0".into(), "a line of rate zero passes nothing: cut the link instead");
        }
        for (name, span) in [("delay", self.delay), ("reorder_by", self.reorder_by), ("jitter", self.jitter)]
        {
            if span > DELAY_MAX {
                return invalid(name, format!("{span:?}"), "at most ten seconds can be emulated");
            }
        }
        for (name, share) in [("duplicate", self.duplicate), ("reorder", self.reorder)] {
            if !(0.0..=1.0).contains(&share) {
                return invalid(name, share.to_string(), "it is a share of packets: give 0 to 1");
            }
        }
        self.loss.validate()
    }
}

/// What a cut takes away from one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severance {
    /// The fibre is cut where packets enter it: the bottleneck queue is lost, what is on the fibre arrives.
    /// That data is "stored in the network" (SMFS section 3).
    Entry,
    /// Nothing on the fibre arrives either: the cut is at the far end, or the network is partitioned
    /// (SMFS Table 1, "local failure and network partition").
    Fibre,
}

/// What became of an offered packet, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It waits at the bottleneck or is on the line. It can still be lost on the fibre.
    Accepted,
    /// It is gone.
    Dropped(DropCause),
}

/// Why a packet was gone the moment it was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropCause {
    /// The bottleneck queue of its class was full.
    QueueFull,
    /// The link is cut.
    Cut,
}

/// A packet at the far end.
#[derive(Debug)]
pub struct Delivery<P> {
    /// When it was due.
    pub due: Time,
    /// Its class.
    pub class: Class,
    /// What was offered.
    pub payload: P,
}

/// One direction of the link: [`Link::offer`] packets, [`Link::poll_delivery`] what has arrived, and sleep
/// until [`Link::poll_timeout`].
///
/// `P` is what stands for a packet; the model never looks into it, and clones it to duplicate it.
#[derive(Debug)]
pub struct Link<P> {
    config: LinkConfig,
    loss: LossProcess,
    dice: Dice,
    /// The latest `now` seen.
    now: Time,
    /// Waiting at the bottleneck, by class.
    waiting: [VecDeque<Parcel<P>>; 2],
    waiting_bytes: [u64; 2],
    /// On the line, and when its last bit has left.
    serving: Option<(Parcel<P>, Time)>,
    /// When the line last fell idle.
    idle_since: Time,
    fibre: BinaryHeap<Reverse<Propagating<P>>>,
    fibre_bytes: u64,
    /// The latest due time of a packet that keeps its order.
    in_order_due: Time,
    entered: u64,
    pending_cut: Option<(Time, Severance)>,
    severed: bool,
    counters: LinkCounters,
}

impl<P: Clone> Link<P> {
    /// An idle link whose randomness follows from `seed`.
    ///
    /// # Errors
    ///
    /// [`WanError::Invalid`] names the first figure that is out of range.
    pub fn new(config: LinkConfig, seed: u64) -> Result<Self, WanError> {
        config.validate()?;
        Ok(Self {
            loss: LossProcess::new(config.loss, Dice::new(seed, 0)),
            dice: Dice::new(seed, 1),
            config,
            now: Time::ZERO,
            waiting: [VecDeque::new(), VecDeque::new()],
            waiting_bytes: [0; 2],
            serving: None,
            idle_since: Time::ZERO,
            fibre: BinaryHeap::new(),
            fibre_bytes: 0,
            in_order_due: Time::ZERO,
            entered: 0,
            pending_cut: None,
            severed: false,
            counters: LinkCounters::default(),
        })
    }

    /// Whether the link is cut at `now`.
    pub fn is_severed(&mut self, now: Time) -> bool {
        self.advance(now);
        self.severed
    }

    /// Bytes that the queue of `class` still has room for.
    pub fn room(&mut self, now: Time, class: Class) -> u64 {
        self.advance(now);
        self.config.queue_bytes.saturating_sub(self.waiting_bytes[class.index()])
    }

    /// When the packet on the line leaves it, and so the next time the queue gets shorter.
    #[must_use]
    pub fn next_departure(&self) -> Option<Time> {
        self.serving.as_ref().map(|(_, done)| *done)
    }

    /// The counters as of `now`.
    pub fn counters(&mut self, now: Time) -> LinkCounters {
        self.advance(now);
        self.counters
    }

    /// A packet of `bytes` comes to the bottleneck.
    pub fn offer(&mut self, now: Time, bytes: u32, class: Class, payload: P) -> Verdict {
        self.admit(now, Parcel { bytes, class, arrived: now, reliable: false, payload })
    }

    /// Like [`Link::offer`], for what must not be lost, doubled or reordered on the fibre: pieces of a
    /// relayed byte stream. The queue can still refuse it and a cut still takes it.
    pub fn offer_reliable(&mut self, now: Time, bytes: u32, class: Class, payload: P) -> Verdict {
        self.admit(now, Parcel { bytes, class, arrived: now, reliable: true, payload })
    }

    /// Changes the loss for packets that enter the fibre from `now` on. Returns the moment it took effect.
    ///
    /// # Errors
    ///
    /// [`WanError::Invalid`] if the figures are out of range; the old ones stay.
    pub fn set_loss(&mut self, now: Time, loss: Loss) -> Result<Time, WanError> {
        loss.validate()?;
        self.advance(now);
        self.config.loss = loss;
        self.loss.set(loss);
        Ok(self.now)
    }

    /// Cuts the link at `at`, or at `now` if that is later. Returns the moment from which nothing offered
    /// passes. A cut that is still to come is replaced; a cut link can be severed further.
    pub fn cut(&mut self, now: Time, at: Time, severance: Severance) -> Time {
        self.advance(now);
        let at = at.max(self.now);
        self.pending_cut = Some((at, severance));
        self.advance(now);
        at
    }

    /// Joins the fibre again, and forgets a cut that is still to come.
    pub fn heal(&mut self, now: Time) -> Time {
        self.advance(now);
        self.severed = false;
        self.pending_cut = None;
        self.counters.at_cut = None;
        self.now
    }

    /// The next packet that has arrived by `now`, in order of arrival. Call until `None`.
    pub fn poll_delivery(&mut self, now: Time) -> Option<Delivery<P>> {
        self.advance(now);
        if self.fibre.peek()?.0.due > self.now {
            return None;
        }
        let Reverse(Propagating { due, parcel, .. }) = self.fibre.pop()?;
        self.leave_fibre(&parcel);
        self.counters.class_mut(parcel.class).delivered.add(parcel.bytes);
        Some(Delivery { due, class: parcel.class, payload: parcel.payload })
    }

    /// No packet arrives before this time unless another is offered; `None` if the link is empty.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let arrives = self.fibre.peek().map(|Reverse(next)| next.due);
        let follows = self.next_departure().map(|done| done + self.config.delay);
        arrives.into_iter().chain(follows).min()
    }

    fn admit(&mut self, now: Time, mut parcel: Parcel<P>) -> Verdict {
        self.advance(now);
        parcel.arrived = self.now;
        let (class, bytes) = (parcel.class, parcel.bytes);
        let counters = self.counters.class_mut(class);
        counters.offered.add(bytes);
        if self.severed {
            counters.cut_dropped.add(bytes);
            return Verdict::Dropped(DropCause::Cut);
        }
        let waiting = self.waiting_bytes[class.index()] + u64::from(bytes);
        // An idle line takes any packet: it does not wait.
        let full = self.serving.is_some() && waiting > self.config.queue_bytes;
        if full || self.fibre_bytes > FIBRE_BYTES_MAX {
            counters.queue_dropped.add(bytes);
            return Verdict::Dropped(DropCause::QueueFull);
        }
        counters.queued.add(bytes);
        self.waiting_bytes[class.index()] = waiting;
        self.waiting[class.index()].push_back(parcel);
        self.serve(self.now);
        let peak = self.waiting_bytes.iter().sum();
        self.counters.queued_bytes_peak = self.counters.queued_bytes_peak.max(peak);
        Verdict::Accepted
    }

    /// Lets everything happen that happens up to `now`.
    fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
        if let Some((at, severance)) = self.pending_cut
            && at <= self.now
        {
            self.serve(at);
            self.pending_cut = None;
            self.sever(at, severance);
        }
        self.serve(self.now);
    }

    /// Runs the line up to `until`.
    fn serve(&mut self, until: Time) {
        loop {
            if let Some((parcel, done)) = self.serving.take() {
                if done > until {
                    self.serving = Some((parcel, done));
                    return;
                }
                self.idle_since = done;
                self.enter_fibre(parcel, done);
            }
            let [expedited, bulk] = &mut self.waiting;
            let Some(parcel) = expedited.pop_front().or_else(|| bulk.pop_front()) else { return };
            self.waiting_bytes[parcel.class.index()] -= u64::from(parcel.bytes);
            let done = parcel.arrived.max(self.idle_since) + self.serialisation(parcel.bytes);
            self.serving = Some((parcel, done));
        }
    }

    /// How long `bytes` keep the line busy; a fraction of a nanosecond counts as one.
    fn serialisation(&self, bytes: u32) -> Duration {
        let Some(rate) = self.config.rate else { return Duration::ZERO };
        let nanos = (u128::from(bytes) * 8 * 1_000_000_000).div_ceil(u128::from(rate));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The last bit of `parcel` left the line at `done`.
    fn enter_fibre(&mut self, parcel: Parcel<P>, done: Time) {
        let counters = self.counters.class_mut(parcel.class);
        counters.queued.remove(parcel.bytes);
        if parcel.reliable {
            return self.propagate(parcel, done + self.config.delay, true);
        }
        if self.loss.lose() {
            counters.lost.add(parcel.bytes);
            return;
        }
        let mut due = done + self.config.delay;
        if !self.config.jitter.is_zero() {
            due = due + self.config.jitter.mul_f64(self.dice.share());
        }
        let held_back = self.dice.chance(self.config.reorder);
        if held_back {
            due = due + self.config.reorder_by;
        }
        if self.dice.chance(self.config.duplicate) {
            self.counters.class_mut(parcel.class).duplicated.add(parcel.bytes);
            self.propagate(parcel.clone(), due, !held_back);
        }
        self.propagate(parcel, due, !held_back);
    }

    fn propagate(&mut self, parcel: Parcel<P>, mut due: Time, in_order: bool) {
        if in_order {
            due = due.max(self.in_order_due);
            self.in_order_due = due;
        }
        self.counters.class_mut(parcel.class).propagating.add(parcel.bytes);
        self.fibre_bytes += u64::from(parcel.bytes);
        self.entered += 1;
        self.fibre.push(Reverse(Propagating { due, order: self.entered, parcel }));
    }

    fn leave_fibre(&mut self, parcel: &Parcel<P>) {
        self.counters.class_mut(parcel.class).propagating.remove(parcel.bytes);
        self.fibre_bytes -= u64::from(parcel.bytes);
    }

    /// Carries out a cut at `at`; the line has run up to that moment.
    fn sever(&mut self, at: Time, severance: Severance) {
        self.severed = true;
        let mut queued = Tally::default();
        let on_line = self.serving.take().map(|(parcel, _)| parcel);
        let waiting = self.waiting.iter_mut().flat_map(|queue| queue.drain(..));
        for parcel in on_line.into_iter().chain(waiting) {
            let counters = self.counters.class_mut(parcel.class);
            counters.queued.remove(parcel.bytes);
            counters.cut_dropped.add(parcel.bytes);
            queued.add(parcel.bytes);
        }
        self.waiting_bytes = [0; 2];
        self.idle_since = at;
        let mut propagating = Tally::default();
        // What was due before the cut has arrived, even if nobody has polled for it yet.
        for Reverse(next) in self.fibre.iter().filter(|Reverse(next)| next.due > at) {
            propagating.add(next.parcel.bytes);
        }
        if severance == Severance::Fibre {
            for Reverse(next) in std::mem::take(&mut self.fibre) {
                if next.due <= at {
                    self.fibre.push(Reverse(next));
                    continue;
                }
                self.leave_fibre(&next.parcel);
                self.counters.class_mut(next.parcel.class).cut_dropped.add(next.parcel.bytes);
            }
        }
        self.counters.at_cut.get_or_insert(AtCut { at_nanos: at.as_nanos(), queued, propagating });
    }
}

#[derive(Clone, Debug)]
struct Parcel<P> {
    bytes: u32,
    class: Class,
    arrived: Time,
    /// Exempt from loss, duplication, reordering and jitter.
    reliable: bool,
    payload: P,
}

/// A packet on the fibre, ordered by arrival.
#[derive(Debug)]
struct Propagating<P> {
    due: Time,
    /// Packets due at the same moment arrive in the order they entered.
    order: u64,
    parcel: Parcel<P>,
}

impl<P> PartialEq for Propagating<P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<P> Eq for Propagating<P> {}

impl<P> PartialOrd for Propagating<P> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<P> Ord for Propagating<P> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

/// Expedited forwarding (RFC 3246).
const DSCP_EF: u8 = 46;

const IPV4_HEADER_BYTES: usize = 20;

/// Longest span a packet can be delayed by: beyond it the figure is a slip, not a link.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// Most bytes on the fibre, so that a line without rate limit cannot eat the host's memory: 400 ms at
/// 10 Gbit/s.
const FIBRE_BYTES_MAX: u64 = 512 << 20;

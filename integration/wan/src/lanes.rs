//! Both directions as the emulator's threads share them: carried by one thread each, steered by another.

use std::sync::{Mutex, MutexGuard, PoisonError};

use parhelion_types::Time;
use rustix::time::{ClockId, clock_gettime};

use crate::control::{Reply, Request};
use crate::loss::Dice;
use crate::streams::TcpWatch;
use crate::{
    Direction, DirectionCounters, Link, Loss, Severance, Timeliness, WanConfig, WanCounters, WanError,
    monotonic_now,
};

/// One direction: its model, and how timely it is carried.
pub(crate) struct Lane<P> {
    pub(crate) link: Link<P>,
    pub(crate) timeliness: Timeliness,
    /// Empty in the relay form, which sees no segments.
    pub(crate) streams: TcpWatch,
}

/// Two lanes. Whoever offers, polls or steers takes `now` while holding the lane's lock, so that a cut at
/// `now` lies after every packet that passed and before every packet that did not.
pub(crate) struct Lanes<P> {
    lanes: [Mutex<Lane<P>>; 2],
}

impl<P: Clone> Lanes<P> {
    pub(crate) fn new(wan: &WanConfig) -> Result<Self, WanError> {
        let lane = |direction: Direction| {
            let seed = Dice::new(wan.seed, direction.index() as u64).roll();
            let link = Link::new(wan.link(direction).clone(), seed)?;
            Ok(Mutex::new(Lane { link, timeliness: Timeliness::default(), streams: TcpWatch::default() }))
        };
        Ok(Self { lanes: [lane(Direction::AToB)?, lane(Direction::BToA)?] })
    }

    /// Locks one direction. A thread that died while holding the lock has ended the emulator already; its
    /// counters can still be read.
    pub(crate) fn lock(&self, direction: Direction) -> MutexGuard<'_, Lane<P>> {
        self.lanes[direction.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a request of the parent.
    pub(crate) fn answer(&self, request: Request) -> Reply {
        match request {
            Request::SetLoss { direction, loss } => match self.set_loss(direction, loss) {
                Ok(at) => Reply::Done { at_nanos: at.as_nanos() },
                Err(error) => Reply::Failed { reason: error.to_string() },
            },
            Request::Cut { side, at_nanos } => {
                let at = Time::from_nanos(at_nanos);
                // Packets on their way to the cut end meet the cut; those that had left it are beyond it.
                let at = self.cut(at, |direction| {
                    if direction == side.outbound() { Severance::Entry } else { Severance::Fibre }
                });
                Reply::Done { at_nanos: at.as_nanos() }
            }
            Request::Partition { at_nanos } => {
                let at = self.cut(Time::from_nanos(at_nanos), |_| Severance::Fibre);
                Reply::Done { at_nanos: at.as_nanos() }
            }
            Request::Heal => Reply::Done { at_nanos: self.heal().as_nanos() },
            Request::Counters => Reply::Counters(Box::new(self.counters())),
            Request::TcpProgress { direction } => {
                Reply::TcpProgress { streams: self.lock(direction).streams.progress() }
            }
            Request::Stop => Reply::Done { at_nanos: monotonic_now().as_nanos() },
        }
    }

    fn set_loss(&self, direction: Option<Direction>, loss: Loss) -> Result<Time, WanError> {
        loss.validate()?;
        let mut at = monotonic_now();
        for each in Direction::BOTH.into_iter().filter(|each| direction.is_none_or(|only| only == *each)) {
            at = self.lock(each).link.set_loss(monotonic_now(), loss)?;
        }
        Ok(at)
    }

    /// Cuts both directions at the same moment: both locks are held when it is chosen.
    fn cut(&self, at: Time, severance: impl Fn(Direction) -> Severance) -> Time {
        let [mut a_to_b, mut b_to_a] = Direction::BOTH.map(|direction| self.lock(direction));
        let now = monotonic_now();
        let at = a_to_b.link.cut(now, at, severance(Direction::AToB));
        // Both models have seen `now` at most, so the second agrees with the first.
        b_to_a.link.cut(now, at, severance(Direction::BToA)).max(at)
    }

    fn heal(&self) -> Time {
        let mut lanes = Direction::BOTH.map(|direction| self.lock(direction));
        let now = monotonic_now();
        for lane in &mut lanes {
            lane.link.heal(now);
        }
        now
    }

    fn counters(&self) -> WanCounters {
        let [a_to_b, b_to_a] = Direction::BOTH.map(|direction| {
            let mut lane = self.lock(direction);
            let link = lane.link.counters(monotonic_now());
            DirectionCounters { link, timeliness: lane.timeliness }
        });
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_nanos =
            u64::try_from(cpu.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(cpu.tv_nsec).unwrap_or(0);
        WanCounters { at_nanos: monotonic_now().as_nanos(), cpu_nanos, a_to_b, b_to_a }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Class, DropCause, LinkConfig, Side, Verdict};

    fn lanes() -> Lanes<u32> {
        let link = LinkConfig { delay: Duration::from_secs(5), ..LinkConfig::default() };
        Lanes::new(&WanConfig::symmetric(1, link)).unwrap()
    }

    fn done(reply: Reply) -> Time {
        match reply {
            Reply::Done { at_nanos } => Time::from_nanos(at_nanos),
            other => panic!("unexpected reply {other:?}"),
        }
    }

    #[test]
    fn a_cut_at_one_side_spares_what_had_left_it() {
        for (side, expected) in [(Side::A, [1, 0]), (Side::B, [0, 1])] {
            let lanes = lanes();
            for direction in Direction::BOTH {
                let verdict = lanes.lock(direction).link.offer(monotonic_now(), 100, Class::Bulk, 0);
                assert_eq!(verdict, Verdict::Accepted);
            }
            // 100 bytes at 1 Gbit/s leave the line within a microsecond.
            std::thread::sleep(Duration::from_millis(1));
            let before = monotonic_now();
            let at = done(lanes.answer(Request::Cut { side, at_nanos: 0 }));
            assert!(at >= before && at <= monotonic_now());
            let arrived = Direction::BOTH
                .map(|direction| lanes.counters().direction(direction).link.total().propagating.packets);
            assert_eq!(arrived, expected, "cut at {side:?}");
            for direction in Direction::BOTH {
                let mut lane = lanes.lock(direction);
                let verdict = lane.link.offer(monotonic_now(), 100, Class::Bulk, 0);
                assert_eq!(verdict, Verdict::Dropped(DropCause::Cut));
                let at_cut = lane.link.counters(monotonic_now()).at_cut.unwrap();
                assert_eq!(at_cut.at_nanos, at.as_nanos());
                assert_eq!(at_cut.propagating.packets, 1);
            }
            // A partition takes the rest; healing lets packets pass again.
            done(lanes.answer(Request::Partition { at_nanos: 0 }));
            let left = lanes.counters();
            assert_eq!(left.a_to_b.link.total().propagating.packets, 0);
            assert_eq!(left.b_to_a.link.total().propagating.packets, 0);
            done(lanes.answer(Request::Heal));
            let verdict = lanes.lock(Direction::AToB).link.offer(monotonic_now(), 100, Class::Bulk, 0);
            assert_eq!(verdict, Verdict::Accepted);
        }
    }

    #[test]
    fn a_bad_request_is_refused_in_words() {
        let reply = lanes().answer(Request::SetLoss { direction: None, loss: Loss::independent(2.0) });
        assert!(matches!(reply, Reply::Failed { reason } if reason.contains("loss rate = 2")));
    }
}

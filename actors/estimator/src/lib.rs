//! The redundancy estimator: turns the link's telemetry into bounds on the channel.
//!
//! A shell around [`ChannelEstimator`]. Whoever prices appends is told when the bounds change.

mod planner;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, Supervised};
use parhelion_actor_runtime::Clock;
use parhelion_plugin::Channel;
use parhelion_risk::{Assumption, ChannelCounts, ChannelEstimator, HorizonState};

pub use planner::{Demand, InForce, LetPlan, Planned, PlannerActor, PlannerConfig, Planning, Traffic};

/// How often bounds are figured anew without a report: what leaves a window must be forgotten.
const REFRESH: Duration = Duration::from_secs(1);

/// Told of what the link may be like now.
pub type OnChannels = Arc<dyn Fn(Vec<Channel>) + Send + Sync>;

/// What the estimator believes, for status.
#[derive(Clone, Debug)]
pub struct Belief {
    /// What the link may be like: each is what one horizon leaves possible.
    pub channels: Vec<Channel>,
    /// What they come from, shortest horizon first.
    pub horizons: Vec<HorizonState>,
}

impl Belief {
    /// The worst of each bound, for people: no single channel need be as bad as that.
    #[must_use]
    pub fn bounds(&self) -> Channel {
        let each = self.channels.iter().copied();
        each.reduce(Channel::worst).unwrap_or(Channel::independent(1.0, 1.0))
    }
}

/// Counters of the link since its session began.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Telemetry {
    /// Which session.
    pub session: u64,
    /// The counters.
    pub counts: ChannelCounts,
}

/// The actor. Rebuilt after a panic from its assumptions; the next reports teach it again.
pub struct EstimatorActor {
    assumption: Assumption,
    estimator: ChannelEstimator,
    clock: Arc<Clock>,
    on_channels: OnChannels,
    belief: Arc<Mutex<Belief>>,
}

impl EstimatorActor {
    /// An estimator that has seen nothing, and the place where its belief can be read.
    #[must_use]
    pub fn new(
        assumption: Assumption,
        clock: Arc<Clock>,
        on_channels: OnChannels,
    ) -> (Self, Arc<Mutex<Belief>>) {
        let estimator = ChannelEstimator::new(assumption);
        let now = clock.now();
        let belief = Belief { channels: estimator.channels(now), horizons: estimator.explain(now) };
        let belief = Arc::new(Mutex::new(belief));
        (Self { assumption, estimator, clock, on_channels, belief: belief.clone() }, belief)
    }

    fn tell(&mut self) {
        let now = self.clock.now();
        let channels = self.estimator.channels(now);
        let horizons = self.estimator.explain(now);
        let mut belief = self.belief.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = differ(&belief.channels, &channels);
        belief.horizons = horizons;
        if changed {
            belief.channels.clone_from(&channels);
            drop(belief);
            (self.on_channels)(channels);
        }
    }
}

/// Whether beliefs moved enough to price anything anew. Every report improves them a little; a hundredth is below what
/// any promise depends on. One that is worse than all before always counts.
fn differ(old: &[Channel], new: &[Channel]) -> bool {
    let is_worse = new.iter().any(|new| !old.iter().any(|old| old.is_no_better_than(new, 0.0)));
    let is_over = |old: &Channel| !new.iter().any(|new| new.is_no_better_than(old, 0.01));
    is_worse || old.iter().any(is_over)
}

impl Actor for EstimatorActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(REFRESH, |actor, _| actor.tell());
    }
}

impl Supervised for EstimatorActor {
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.estimator = ChannelEstimator::new(self.assumption);
        self.tell();
    }
}

impl Handler<Telemetry> for EstimatorActor {
    type Result = ();

    fn handle(&mut self, telemetry: Telemetry, _: &mut Context<Self>) {
        self.estimator.handle_report(self.clock.now(), telemetry.session, telemetry.counts);
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worse_belief_always_counts_and_a_slightly_better_one_does_not() {
        let channel = Channel::bursty(0.01, 3.0, 0.999);
        let better = Channel { loss: channel.loss * 0.999, ..channel };
        let worse = Channel { loss: channel.loss * 1.001, ..channel };
        let differs = |old: Channel, new: Channel| differ(&[old], &[new]);
        assert!(!differs(channel, channel));
        assert!(!differs(channel, better));
        assert!(differs(channel, worse));
        assert!(differs(channel, Channel { loss: channel.loss * 0.9, ..channel }));
        // Another one besides is worse unless it is covered; one that is over counts if no other stands for it.
        let longer = Channel::bursty(0.001, 30.0, 0.999);
        assert!(differ(&[channel], &[channel, longer]) && differ(&[channel, longer], &[channel]));
        assert!(!differ(&[channel], &[channel, better]) && !differ(&[channel, better], &[channel]));
    }
}

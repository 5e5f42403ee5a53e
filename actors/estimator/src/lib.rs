//! The redundancy estimator: turns the link's telemetry into bounds on the channel.
//!
//! A shell around [`ChannelEstimator`]. Whoever prices appends is told when the bounds change.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, Supervised};
use parhelion_actor_runtime::Clock;
use parhelion_plugin::Channel;
use parhelion_risk::{Assumption, ChannelCounts, ChannelEstimator, HorizonState};

/// How often bounds are figured anew without a report: what leaves a window must be forgotten.
const REFRESH: Duration = Duration::from_secs(1);

/// Told of new bounds.
pub type OnChannel = Arc<dyn Fn(Channel) + Send + Sync>;

/// What the estimator believes, for status.
#[derive(Clone, Debug)]
pub struct Belief {
    /// The bounds in force.
    pub channel: Channel,
    /// What they come from, shortest horizon first.
    pub horizons: Vec<HorizonState>,
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
    on_channel: OnChannel,
    belief: Arc<Mutex<Belief>>,
}

impl EstimatorActor {
    /// An estimator that has seen nothing, and the place where its belief can be read.
    #[must_use]
    pub fn new(
        assumption: Assumption,
        clock: Arc<Clock>,
        on_channel: OnChannel,
    ) -> (Self, Arc<Mutex<Belief>>) {
        let estimator = ChannelEstimator::new(assumption);
        let channel = estimator.estimate(clock.now());
        let belief = Arc::new(Mutex::new(Belief { channel, horizons: estimator.explain(clock.now()) }));
        (Self { assumption, estimator, clock, on_channel, belief: belief.clone() }, belief)
    }

    fn tell(&mut self) {
        let now = self.clock.now();
        let channel = self.estimator.estimate(now);
        let horizons = self.estimator.explain(now);
        let mut belief = self.belief.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = differs(&belief.channel, &channel);
        belief.horizons = horizons;
        if changed {
            belief.channel = channel;
            drop(belief);
            (self.on_channel)(channel);
        }
    }
}

/// Whether the bounds moved enough to price anything anew. Every report improves them a little; a
/// hundredth is below what any promise depends on. A worse bound always counts.
fn differs(old: &Channel, new: &Channel) -> bool {
    let moved = |old: f64, new: f64, worse: bool| worse || (old - new).abs() > 0.01 * old.abs();
    moved(old.good_to_bad, new.good_to_bad, new.good_to_bad > old.good_to_bad)
        || moved(old.bad_to_good, new.bad_to_good, new.bad_to_good < old.bad_to_good)
        || moved(old.loss_in_bad, new.loss_in_bad, new.loss_in_bad > old.loss_in_bad)
        || moved(old.loss, new.loss, new.loss > old.loss)
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
    fn a_worse_bound_always_counts_and_a_slightly_better_one_does_not() {
        let channel = Channel::bursty(0.01, 3.0, 0.999);
        let better = Channel { loss: channel.loss * 0.999, ..channel };
        let worse = Channel { loss: channel.loss * 1.001, ..channel };
        assert!(!differs(&channel, &channel));
        assert!(!differs(&channel, &better));
        assert!(differs(&channel, &worse));
        assert!(differs(&channel, &Channel { loss: channel.loss * 0.9, ..channel }));
    }
}

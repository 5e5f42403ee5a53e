//! Who chooses the code of a link.

use std::fmt;
use std::time::Duration;

use parhelion_plugin::{Channel, Code};
use parhelion_types::{Risk, Time};

/// A code, and how long its flushes pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The code with its parameters.
    pub code: Code,
    /// Packet times between what a flush sends of one repair index and of the next; see `link.flush_pause`.
    pub flush_pause: u32,
}

/// What is known of a link when its code may be changed.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// What the line may be like, at the highest confidence that the link is judged at.
    pub channels: Vec<Channel>,
    /// Source symbols per second of the traffic itself, since the last look.
    pub symbols_per_second: f64,
    /// Appends per second, likewise.
    pub appends_per_second: f64,
    /// Appends of a log that the mirror has not confirmed, on average.
    pub appends_in_flight: f64,
    /// The prefix risk that appends ask for.
    pub max_risk: Risk,
    /// There and back.
    pub round_trip: Duration,
}

/// Chooses the code of a link. A [`Choice`] is the policy that never changes it.
pub trait Policy: fmt::Debug + Send + Sync {
    /// What the table calls it.
    fn name(&self) -> String;

    /// What a link begins with, and who may change it later.
    fn begin(&self) -> (Choice, Option<Box<dyn Chooser>>);
}

/// A policy at work on one link.
pub trait Chooser: Send {
    /// Asked once per second of the link's time: what to use from now on, if something else.
    fn review(&mut self, now: Time, conditions: &Conditions) -> Option<Choice>;
}

impl Policy for Choice {
    fn name(&self) -> String {
        self.code.to_string()
    }

    fn begin(&self) -> (Choice, Option<Box<dyn Chooser>>) {
        (self.clone(), None)
    }
}

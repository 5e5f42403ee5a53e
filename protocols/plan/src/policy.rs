//! How eager the controller is.

use std::time::Duration;

/// Settings of a [`Controller`](crate::Controller).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Questions to the durability model in one step, beside some ten about what is in force. A question costs a model up
    /// to 100 microseconds, so 400 are 40 ms at worst.
    pub questions_per_step: u32,
    /// Time between searches for something better while what is in force will do, or while nothing will.
    pub search_interval: Duration,
    /// How long a cheaper candidate must have been good enough, at every step, before it is taken.
    pub hold: Duration,
    /// A change to the cheaper that had to be taken back doubles the hold, up to this. It is `hold` again after as long
    /// without one.
    pub hold_max: Duration,
    /// Share of the overhead, or with the same overhead of the expected latency, by which a candidate must be better.
    pub margin: f64,
    /// What is newly chosen shall reach this share of the risk that was asked for, so that the next report does not
    /// overturn it.
    pub comfort: f64,
    /// Most changes to stronger protection in a minute. Beyond, appends wait for the mirror, which is safe: what swings
    /// as fast as that is no channel to tune for.
    pub raises_per_minute: usize,
    /// Most changes to cheaper protection in an hour.
    pub lowers_per_hour: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            questions_per_step: 400,
            search_interval: Duration::from_secs(5),
            hold: Duration::from_secs(300),
            hold_max: Duration::from_secs(3600),
            margin: 0.1,
            comfort: 0.5,
            raises_per_minute: 4,
            lowers_per_hour: 6,
        }
    }
}

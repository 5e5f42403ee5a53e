//! The grid: channels and codes.

use std::sync::Arc;
use std::time::Duration;

use parhelion_code_layered_interleaving::LayeredInterleaving;
use parhelion_code_none::NoCode;
use parhelion_code_reed_solomon::ReedSolomon;
use parhelion_code_reed_solomon_fast::ReedSolomonFast;
use parhelion_code_repetition::Repetition;
use parhelion_code_sliding_window::SlidingWindow;
use parhelion_plugin::{Code, ErasureCode, ParameterError};
use serde::{Deserialize, Serialize};

use crate::loss::{Clock, LossLaw};
use crate::policy::Choice;

/// A channel of the grid.
#[derive(Clone, Debug)]
pub struct Channel {
    /// What it is called, once in the grid.
    pub name: String,
    /// What may be expected of a model on it.
    pub class: Class,
    /// How it loses packets.
    pub law: LossLaw,
}

/// What may be expected of a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Stationary, and what the Gilbert-Elliott model supposes: promises must hold.
    Supposed,
    /// Stationary, and a chain moved by each packet, not by time: pauses are worth nothing there. Promises must hold, and
    /// the model does not say that they do.
    ByPackets,
    /// Stationary, and nothing that two states describe.
    Foreign,
    /// Stationary, and judged within the first seconds, when most of what is believed of its bursts is the operator's word:
    /// that they last two packets.
    Young,
    /// Not stationary: what is promised rests on a past that is not the present.
    Changing,
}

impl Class {
    /// Whether the line is the same at all times.
    #[must_use]
    pub fn is_stationary(self) -> bool {
        self != Self::Changing
    }

    /// For tables.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Supposed => "two states",
            Self::ByPackets => "two states, by packets",
            Self::Foreign => "of another kind",
            Self::Young => "first seconds",
            Self::Changing => "not stationary",
        }
    }
}

impl Channel {
    fn new(name: String, class: Class, law: LossLaw) -> Self {
        Self { name, class, law }
    }

    /// Packets that a node watches before its promises are judged: forty bursts on average, so that the operator's word on
    /// their length, which counts for the first twenty, does not count any more.
    #[must_use]
    pub fn warm_up(&self, slot: Duration) -> u64 {
        if self.class == Class::Young {
            return 500;
        }
        let rate = self.law.rate().max(1e-6);
        let (per_burst, apart) = match self.law {
            LossLaw::Bursts { burst, .. } | LossLaw::Drift { burst, .. } => (burst, 0.0),
            LossLaw::Outages { apart, .. } => (1.0, apart.as_secs_f64() / slot.as_secs_f64()),
            _ => (1.0, 0.0),
        };
        // An outage comes seldom, and a line that has one is watched for four.
        (40.0 * per_burst / rate).max(4.0 * apart).clamp(2_000.0, 1e6).ceil() as u64
    }

    /// Links over which so many disasters are spread, unless `usual` is more: a link is young for a few of them only.
    #[must_use]
    pub fn links(&self, disasters: u32, usual: u32) -> u32 {
        let least = if self.class == Class::Young { disasters.div_ceil(YOUNG_DISASTERS) } else { 1 };
        usual.max(least)
    }

    /// Whether the two states of the Gilbert-Elliott model, moved by time, are what the line is, and the operator's word on it
    /// is right for as long as it counts.
    #[must_use]
    pub fn is_supposed(&self) -> bool {
        let is_word_right = !matches!(self.law, LossLaw::Bursts { burst, .. } if burst > 2.0);
        self.class == Class::Supposed || (self.class == Class::Young && is_word_right)
    }
}

/// Disasters of one link while it is young.
const YOUNG_DISASTERS: u32 = 5;

/// All channels.
#[must_use]
pub fn channels() -> Vec<Channel> {
    let mut all = Vec::new();
    for rate in [1e-4, 1e-3, 0.003, 0.01, 0.03, 0.05, 0.1] {
        let name = format!("independent {}", percent(rate));
        all.push(Channel::new(name, Class::Supposed, LossLaw::Independent(rate)));
    }
    let mut bursts = |class, clock, loss_in_bad: f64, rate: f64, burst: f64| {
        let by = if clock == Clock::Time { "" } else { " by packets" };
        let partly = if loss_in_bad < 1.0 { format!(" of {}", percent(loss_in_bad)) } else { String::new() };
        let name = format!("bursts {burst}{partly}, {}{by}", percent(rate));
        all.push(Channel::new(name, class, LossLaw::Bursts { rate, burst, loss_in_bad, clock }));
    };
    for burst in BURSTS {
        // Long bursts that are rare as well would take hours to be seen forty times.
        for rate in if burst < 50.0 { [0.01, 0.05] } else { [0.05, 0.15] } {
            bursts(Class::Supposed, Clock::Time, 1.0, rate, burst);
        }
    }
    for (rate, burst) in [(0.002, 2.0), (0.002, 5.0), (0.002, 20.0), (0.15, 3.0), (0.15, 20.0)] {
        bursts(Class::Supposed, Clock::Time, 1.0, rate, burst);
    }
    for burst in BURSTS {
        bursts(Class::Supposed, Clock::Time, 0.6, if burst < 50.0 { 0.03 } else { 0.1 }, burst);
    }
    for burst in BURSTS {
        bursts(Class::ByPackets, Clock::Packets, 1.0, if burst < 50.0 { 0.02 } else { 0.1 }, burst);
    }
    for burst in [3.0, 10.0, 50.0, 200.0] {
        bursts(Class::ByPackets, Clock::Packets, 0.6, if burst < 50.0 { 0.03 } else { 0.1 }, burst);
    }
    for packets in [7, 11, 20, 50, 100] {
        all.push(Channel::new(format!("every {packets}th"), Class::Foreign, LossLaw::Every(packets)));
    }
    for (apart, losses) in [(300.0, 5), (1000.0, 10), (2000.0, 40), (20_000.0, 40)] {
        let law = LossLaw::Spells { apart, losses };
        all.push(Channel::new(format!("spells of {losses}, {apart} apart"), Class::Foreign, law));
    }
    for (name, base, apart, length) in [
        ("outages of 50 ms on a clean line", LossLaw::Independent(1e-4), 4000, 50),
        ("outages of 50 ms among bursts of 3", LossLaw::bursts(0.01, 3.0), 4000, 50),
        ("outages of 5 ms among single losses", LossLaw::Independent(0.01), 1000, 5),
    ] {
        let (apart, length) = (Duration::from_millis(apart), Duration::from_millis(length));
        all.push(Channel::new(
            name.to_owned(),
            Class::Foreign,
            LossLaw::Outages { base: Box::new(base), apart, length },
        ));
    }
    for (name, law) in [
        ("independent 3 %", LossLaw::Independent(0.03)),
        ("bursts 2, 5 %", LossLaw::bursts(0.05, 2.0)),
        ("bursts 3, 1 %", LossLaw::bursts(0.01, 3.0)),
        ("bursts 20, 5 %", LossLaw::bursts(0.05, 20.0)),
        ("bursts 100, 15 %", LossLaw::bursts(0.15, 100.0)),
    ] {
        all.push(Channel::new(format!("first seconds: {name}"), Class::Young, law));
    }
    for (name, rates, burst) in [
        ("days of 0.2 to 2 %, bursts 3", [0.002, 0.02], 3.0),
        ("days of 0.5 to 15 %, bursts 10", [0.005, 0.15], 10.0),
    ] {
        // A day of twenty seconds: the estimate sees many, and none of them is the same at all times.
        let law = LossLaw::Drift { rates, burst, period: Duration::from_secs(20) };
        all.push(Channel::new(name.to_owned(), Class::Changing, law));
    }
    all
}

/// The codes of the grid, each with the flush pause that a node has by default.
///
/// # Errors
/// A code does not take the parameters that are given here.
pub fn codes() -> Result<Vec<Choice>, ParameterError> {
    let code = |family: Arc<dyn ErasureCode>, parameters: &str| {
        let parameters = parameters.parse().map_err(|error| ParameterError::Conflict(format!("{error}")))?;
        Ok(Choice { code: Code::new(family, &parameters)?, flush_pause: 16 })
    };
    [
        code(Arc::new(NoCode), ""),
        code(Arc::new(Repetition), "copies=2 spacing=10"),
        code(Arc::new(LayeredInterleaving), ""),
        code(Arc::new(LayeredInterleaving), "r=6 interleaves=1:7:29 delayed=0"),
        code(Arc::new(ReedSolomon), "r=8 c=3 depth=1"),
        code(Arc::new(ReedSolomon), "r=8 c=3 depth=8"),
        code(Arc::new(ReedSolomonFast::default()), "r=20 c=6 depth=2"),
        code(Arc::new(SlidingWindow), ""),
    ]
    .into_iter()
    .collect()
}

/// Mean slots of bursts; 1 is [`LossLaw::Independent`].
const BURSTS: [f64; 8] = [2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0];

fn percent(share: f64) -> String {
    // Three digits are more than any rate here has.
    let text = format!("{:.3}", 100.0 * share);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_grid_is_as_large_as_promised_and_names_are_unique() {
        let channels = channels();
        assert!(channels.len() >= 60, "{}", channels.len());
        let names: BTreeSet<_> = channels.iter().map(|channel| channel.name.as_str()).collect();
        assert_eq!(names.len(), channels.len());
        assert!(names.contains("bursts 5 of 60 %, 3 %") && names.contains("independent 0.01 %"), "{names:?}");
        let slot = Duration::from_micros(100);
        for channel in channels.iter().filter(|channel| channel.class != Class::Young) {
            let seen = channel.warm_up(slot) as f64 * channel.law.rate();
            assert!(seen > 39.9, "{}: {seen} losses before it is judged", channel.name);
        }
    }

    #[test]
    fn the_codes_take_their_parameters() {
        let codes = codes().unwrap();
        let names: BTreeSet<String> = codes.iter().map(|choice| choice.code.to_string()).collect();
        assert_eq!(names.len(), 8);
    }
}

//! What a drill is asked to do.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use parhelion_types::Risk;
use parhelion_types::limits::APPEND_BYTES_MAX;
use serde::{Deserialize, Serialize};

use crate::error::DrillError;
use crate::mode::Mode;

/// Everything that shapes a drill. [`DrillOptions::default`] is a drill of a minute on a continental link, and what the
/// command line does without options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillOptions {
    /// Directory whose files the writers append, cut into pieces; without one, files of this system.
    pub input: Option<PathBuf>,
    /// The modes to put through the disaster, each in fresh processes.
    pub modes: Vec<Mode>,
    /// The emulated link.
    pub link: LinkOptions,
    /// Name of the code for the modes that have one.
    pub code: String,
    /// The code's parameters; empty for its defaults.
    pub parameters: String,
    /// Writers, each with one append outstanding.
    pub writers: u32,
    /// Logs that the writers share; with fewer writers, as many as writers. SMFS section 5.1 has eight storage servers.
    pub logs: u32,
    /// Bytes of each append.
    pub append_bytes: u32,
    /// Payload that all writers together offer, in bits per second; `None` offers half of the link's rate.
    ///
    /// The same load in all modes makes them comparable, and headroom for repairs keeps the queue of the
    /// link from being the only thing that is measured.
    pub load_bits_per_second: Option<u64>,
    /// Before that, in every mode alike: the same load at the local level, which is not counted. It gives the link the
    /// history from which the estimator derives its bounds; a link that has just been seen for the first time is promised
    /// nothing, and every append waits for the mirror.
    #[serde(rename = "warm_up_seconds", with = "seconds")]
    pub warm_up: Duration,
    /// From the first append to the disaster.
    #[serde(rename = "seconds", with = "seconds")]
    pub duration: Duration,
    /// The risk that network-sync may promise at most.
    pub max_risk: f64,
    /// Disasters per mode.
    pub repeat: u32,
    /// Seed of the first disaster; each repetition adds one.
    pub seed: u64,
    /// How packets are carried between the sites.
    pub form: Form,
    /// Where the report is written; `None` writes none.
    pub report: Option<PathBuf>,
    /// Where data directories, logs of the processes and records of the writers are kept; `None` keeps none.
    pub keep: Option<PathBuf>,
    /// Further settings for both nodes, as `--set` takes them.
    pub settings: Vec<String>,
}

/// The wide-area link and what happens to it before the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkOptions {
    /// Propagation delay of one direction.
    #[serde(rename = "one_way_seconds", with = "seconds")]
    pub one_way: Duration,
    /// Rate of each direction.
    pub rate_bits_per_second: u64,
    /// Loss rate just before the disaster; none before that (SMFS section 5.3).
    pub loss: f64,
    /// Mean length of a loss burst in packets; 1 makes losses independent.
    pub burst: f64,
    /// How long the link loses packets before it is cut.
    #[serde(rename = "loss_for_seconds", with = "seconds")]
    pub loss_for: Duration,
}

/// How packets are carried between the sites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The packet form where the system allows it, else the relay.
    #[default]
    Auto,
    /// Two network namespaces: unmodified TCP and UDP meet real loss.
    Packet,
    /// A relay of ports on this host. It cannot lose segments of a TCP connection.
    Relay,
}

/// A word that names no form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown form {0:?}; give auto, packet or relay")]
pub struct UnknownForm(String);

impl FromStr for Form {
    type Err = UnknownForm;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "auto" => Ok(Self::Auto),
            "packet" => Ok(Self::Packet),
            "relay" => Ok(Self::Relay),
            other => Err(UnknownForm(other.to_owned())),
        }
    }
}

impl Default for DrillOptions {
    fn default() -> Self {
        Self {
            input: None,
            modes: Mode::ALL.to_vec(),
            link: LinkOptions::default(),
            code: "layered-interleaving".to_owned(),
            parameters: String::new(),
            writers: 64,
            logs: 8,
            append_bytes: 4096,
            load_bits_per_second: None,
            warm_up: Duration::from_secs(15),
            duration: Duration::from_secs(10),
            max_risk: 1e-6,
            repeat: 1,
            seed: 1,
            form: Form::Auto,
            report: None,
            keep: None,
            settings: Vec::new(),
        }
    }
}

impl Default for LinkOptions {
    /// SMFS section 5.3: 50 ms one way, 1 % loss during the last half second; here in bursts of three packets on average.
    fn default() -> Self {
        Self {
            one_way: Duration::from_millis(50),
            rate_bits_per_second: 300_000_000,
            loss: 0.01,
            burst: 3.0,
            loss_for: Duration::from_millis(500),
        }
    }
}

impl DrillOptions {
    /// Payload that all writers together offer, in bits per second.
    #[must_use]
    pub fn load(&self) -> u64 {
        self.load_bits_per_second.unwrap_or(self.link.rate_bits_per_second / 2)
    }

    /// Checks every figure.
    ///
    /// # Errors
    /// A figure is out of its range; the message names it and the range.
    pub fn validate(&self) -> Result<(), DrillError> {
        let appends = 1..=APPEND_BYTES_MAX as u64;
        check(!self.modes.is_empty(), "modes", "empty", "name at least one, or all")?;
        within("writers", u64::from(self.writers), 1..=WRITERS_MAX)?;
        within("logs", u64::from(self.logs), 1..=WRITERS_MAX)?;
        within("append bytes", u64::from(self.append_bytes), appends)?;
        within("repeat", u64::from(self.repeat), 1..=REPEAT_MAX)?;
        within("rate in bit/s", self.link.rate_bits_per_second, RATE_MIN..=RATE_MAX)?;
        within("load in bit/s", self.load(), 1..=RATE_MAX)?;
        let link = &self.link;
        check((0.0..1.0).contains(&link.loss), "loss", link.loss, "give a share from 0 up to, but not, 1")?;
        check(
            (1.0..=1e6).contains(&link.burst),
            "burst",
            link.burst,
            "give a mean length from 1 to 1000000",
        )?;
        check(
            Risk::asked(self.max_risk).is_ok(),
            "max risk",
            self.max_risk,
            "give a number above 0 and at most 1",
        )?;
        let longest = "give at most an hour";
        check(self.duration <= HOUR, "duration", format_args!("{:?}", self.duration), longest)?;
        check(self.warm_up <= HOUR, "warm-up", format_args!("{:?}", self.warm_up), longest)?;
        let one_way = format_args!("{:?}", link.one_way).to_string();
        check(link.one_way <= ONE_WAY_MAX, "one-way delay", one_way, "give at most 2 seconds")?;
        check(
            link.loss_for + SETTLE_MIN <= self.duration,
            "duration",
            format_args!("{:?}", self.duration),
            "give at least half a second more than the time of loss, so that there is something to lose",
        )
    }
}

const WRITERS_MAX: u64 = 1024;
const REPEAT_MAX: u64 = 10_000;
const RATE_MIN: u64 = 100_000;
const RATE_MAX: u64 = 100_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);
const ONE_WAY_MAX: Duration = Duration::from_secs(2);
const SETTLE_MIN: Duration = Duration::from_millis(500);

fn within(what: &'static str, value: u64, range: std::ops::RangeInclusive<u64>) -> Result<(), DrillError> {
    let remedy = format!("give a number from {} to {}", range.start(), range.end());
    check(range.contains(&value), what, value, &remedy)
}

fn check(good: bool, what: &'static str, value: impl ToString, remedy: &str) -> Result<(), DrillError> {
    if good {
        return Ok(());
    }
    Err(DrillError::Option { what, value: value.to_string(), remedy: remedy.to_owned() })
}

/// Durations as JSON numbers.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_f64(span.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(input)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_survive_json() {
        let options = DrillOptions::default();
        options.validate().unwrap();
        assert_eq!(options.load(), 150_000_000);
        let json = serde_json::to_string(&options).unwrap();
        assert!(json.contains(r#""one_way_seconds":0.05"#), "{json}");
        assert_eq!(serde_json::from_str::<DrillOptions>(&json).unwrap(), options);
    }

    #[test]
    fn forms_are_read_as_they_are_written() {
        for form in [Form::Auto, Form::Packet, Form::Relay] {
            let json = serde_json::to_string(&form).unwrap();
            assert_eq!(json.trim_matches('"').parse(), Ok(form));
        }
        let error = "tunnel".parse::<Form>().unwrap_err().to_string();
        assert_eq!(error, "unknown form \"tunnel\"; give auto, packet or relay");
    }

    #[test]
    fn wrong_figures_are_named() {
        let base = DrillOptions::default;
        let link = LinkOptions::default;
        let wrong = [
            ("writers", DrillOptions { writers: 0, ..base() }),
            ("logs", DrillOptions { logs: 0, ..base() }),
            ("append bytes", DrillOptions { append_bytes: u32::MAX, ..base() }),
            ("modes", DrillOptions { modes: Vec::new(), ..base() }),
            ("max risk", DrillOptions { max_risk: 0.0, ..base() }),
            ("loss", DrillOptions { link: LinkOptions { loss: f64::NAN, ..link() }, ..base() }),
            ("burst", DrillOptions { link: LinkOptions { burst: 0.5, ..link() }, ..base() }),
            ("duration", DrillOptions { duration: Duration::from_millis(600), ..base() }),
            ("repeat", DrillOptions { repeat: 0, ..base() }),
            ("load", DrillOptions { load_bits_per_second: Some(0), ..base() }),
            ("warm-up", DrillOptions { warm_up: Duration::from_secs(3601), ..base() }),
        ];
        for (what, options) in wrong {
            let error = options.validate().expect_err(what);
            assert!(error.to_string().contains(what), "{error} does not name {what}");
        }
    }
}
